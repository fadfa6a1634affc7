"""One-line mistakes, made on purpose in one file after another, that no other test noticed: here each is noticed."""

# ruff: noqa: F811 (fixtures of other files)
import math
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import command
from test_adapt import make_policy
from test_counting import BLOCK, EPISODES, FIRST, TASKS, Known, policy  # noqa: F401
from test_envs import Once
from test_fdp import A, B, batch  # noqa: F401
from test_forks import act, make
from test_forks import batch as fork_batch

import adapt
import evaluate
import train
from encoder import PixelsEncoder, SpatialSoftmax
from envs import experts, tasks, worker
from envs.tasks import spaces
from envs.worker import Episode, Worker
from plumbing import interrupt, runs, stages
from plumbing.cli import BadInput


@pytest.mark.parametrize("staged", [False, True])
def test_all_that_is_drawn_while_acting_comes_from_the_given_generator(staged):
    one = make_policy()
    one = adapt.grow(one, ["drawer-open"], 1, [0], 2).eval() if staged else one
    seen = {part: np.zeros((2, *shape), np.float32) for part, shape in one.config.observation.items()}
    noise = torch.zeros(2, 8, 4)
    for how in ({}, {"noise": noise}):  # where it begins, and what ddpm adds

        def said(seed, how=how):
            torch.randn(7)
            return one.act(seen, ["reach", "push"], "ddpm", generator=torch.Generator().manual_seed(seed), **how)[0]

        assert np.array_equal(said(0), said(0)) and not np.array_equal(said(0), said(1)), how


class One(torch.nn.Module):
    config, device = None, torch.device("cpu")

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(1))


def test_a_gradient_that_is_not_finite_is_skipped_where_the_loss_is_finite():
    one = One()
    learner = train.Learner(one)
    losses, norm = learner.step(lambda x: (one.w.square().sqrt() * x, {}), (torch.ones(3),), 1e-3, 0.5)  # 0 / 0 at 0
    assert norm.isnan() and losses == {"loss": 0, "skipped": 1} and one.w == learner.average[0] == 0


def test_five_steps_in_a_row_are_the_end_and_four_are_not():
    learner = train.Learner(One())
    learner.skipped_in_a_row = torch.tensor(4.0)
    learner.check(9)
    learner.skipped_in_a_row = torch.tensor(5.0)
    with pytest.raises(BadInput, match="no finite loss in 5 steps up to step 9"):
        learner.check(9)


class Varied(Known):
    """Each episode sees something else; reach's fourth succeeds when it is played again."""

    def play(self, act, episodes, on_done=lambda _: None):
        again = len(episodes) < 2 * EPISODES
        for e in episodes:
            seen = {name: np.full((1, *shape), e.seed % 10 / 10) for name, shape in spaces(e.task).observation.items()}
            act(seen, [e], [0])
            e.success, e.steps = again or e.seed % 10 != 3, 9
            on_done(e)
        return episodes


def varied(policy, monkeypatch, **more):
    monkeypatch.setattr(evaluate, "Roller", Varied)
    monkeypatch.setattr(experts, "_played", {})
    return evaluate.evaluate(policy, TASKS, EPISODES, BLOCK, **more)


def test_the_routers_mean_weights_are_over_all_episodes(policy, monkeypatch):
    result, traces = varied(policy, monkeypatch, every=True)
    for task, row in result["tasks"].items():
        w = np.concatenate([w for e, w in traces if e.task == task])
        assert len(w) == EPISODES and np.ptp(w) > 1e-3
        assert row["router_weights"]["mean"] == pytest.approx(w.mean(0), abs=1e-4)
        assert row["router_weights"]["std"] == pytest.approx(w.std(0), abs=1e-4)


def test_a_film_of_a_failure_is_of_one_and_looks_as_the_evaluation_did(policy, monkeypatch):
    _, traces = varied(policy, monkeypatch, video=True)
    assert [e.seed - FIRST for e, _ in traces] == [0, 0]  # first episodes; the second play of the fourth succeeded
    monkeypatch.setattr(evaluate, "Roller", Known)
    monkeypatch.setattr(experts, "_played", {})
    _, traces = evaluate.evaluate(policy, TASKS, EPISODES, BLOCK, video=True, shift="table")
    assert [e.shift for e, _ in traces] == ["table"] * 3


def test_success_is_the_mean_of_tasks_not_of_episodes():
    rows = {
        "a": {"n": 1, "successes": 1, "success": 1.0},
        "b": {"n": 9, "successes": 0, "success": 0.0},
        "c": {"n": 0, "successes": 0, "success": None},
    }
    assert evaluate.mean_success({"tasks": rows}) == 0.5


def test_seconds_of_the_policy_are_its_own(policy, monkeypatch):
    clock, real = [0.0], policy.act

    class Slow(Known):
        def play(self, *given, **more):
            clock[0] += 1000
            return super().play(*given, **more)

    def thinks(*given):
        clock[0] += 1
        return real(*given)

    monkeypatch.setattr(evaluate, "Roller", Slow)
    monkeypatch.setattr(experts, "_played", {})
    monkeypatch.setattr(evaluate, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(policy, "act", thinks)
    assert evaluate.evaluate(policy, TASKS, EPISODES, BLOCK)[0]["policy_seconds"] == len(TASKS) * EPISODES


def test_an_evaluation_says_what_was_other_than_usual(tiny_run, tmp_path, monkeypatch):
    import json

    monkeypatch.setattr(evaluate, "evaluate", lambda *_, **__: ({"mean_success": 1.0, "tasks": {}, "seconds": 1.0}, []))
    monkeypatch.setattr(
        evaluate.reports,
        "write_evaluation",
        lambda path, _, result, *__, **___: path.write_text(json.dumps(result)) and [],
    )
    command(evaluate, "--run", tiny_run, "--even", "--seed", 7, "--out", tmp_path / "e.json")
    told = json.loads((tmp_path / "e.json").read_text())
    assert (told["even"], told["shift"], told["seed"]) == (True, "", 7)


def test_a_warning_counts_for_the_step_that_made_it(monkeypatch):
    class Warns(Once):
        def reset(self, *, seed=None, options=None):
            return super().reset(seed=seed)

        def step(self, action):
            if self.t == 1:
                worker._warnings.append("huge value")
            return super().step(action)

    env = Warns()
    first, second = Episode("x", 0), Episode("x", 1)
    worker.reset(first, env)
    worker.step(first, env, np.zeros(1))
    assert not first.unstable
    worker.step(first, env, np.zeros(1))
    assert first.unstable
    worker.reset(second, env)
    worker.step(second, env, np.zeros(1))
    assert not second.unstable


def test_a_warning_is_over_with_its_step():
    env, other = Once(), Episode("x", 1)
    env.reset()
    worker._warnings.append("of a step before")
    worker.step(other, env, np.zeros(1))
    assert not other.unstable


class Losing:
    def __init__(self, lost):
        self.asked, self.lost = [], lost

    def play_expert(self, episodes, on_done):
        self.asked.append([e.seed for e in episodes])
        for e in episodes:
            e.lost = "died" if self.lost(len(self.asked), e.seed) else ""
            e.success = not e.lost
            on_done(e)
        return episodes


BAR = SimpleNamespace(update=lambda *_: None)


def test_an_experts_lost_episode_is_played_again_the_next_time(monkeypatch):
    monkeypatch.setattr(experts, "_played", {})
    roller, todo = Losing(lambda time, seed: time == 1 and seed == 3), [Episode("reach", s) for s in range(5)]
    assert [bool(e.lost) for e in experts.play_experts(roller, todo, BAR)] == [False, False, False, True, False]
    assert not any(e.lost for e in experts.play_experts(roller, todo, BAR)) and roller.asked == [[0, 1, 2, 3, 4], [3]]


def test_an_expert_whose_episodes_are_lost_has_not_failed(monkeypatch):
    monkeypatch.setattr(experts, "_played", {})
    played = experts.play_experts(Losing(lambda *_: True), [Episode("reach", s) for s in range(25)], BAR)
    assert all(e.lost for e in played)


def test_rewards_are_the_environments():
    e = Worker().expert(Episode("toy:Point-v0", 0, expert=True))
    apart = [np.linalg.norm(seen["goal"] - seen["point"]) for seen in e.observations[1:]]
    assert e.rewards == pytest.approx([-x for x in apart])


def test_an_action_of_whole_numbers_is_the_nearest():
    from gymnasium.spaces import Box

    assert worker.inside(Box(-5, 5, (4,), np.int64), np.array([0.6, -1.6, 0.4, 9.0])).tolist() == [1, -2, 0, 5]


def test_a_film_shows_how_it_ended():
    class Drawn(Once):
        def render(self):
            return self.t

    env, e = Drawn(), Episode("x", 0, render_every=5)
    env.reset()
    for _ in range(7):
        worker.step(e, env, np.zeros(1))
    assert e.frames == [1, 3, 6]  # every fifth, and the success


def test_shifts_are_as_large_as_they_say():
    from envs.pixels import CAMERAS, PixelsEnv

    usual = PixelsEnv("hammer").sim.model
    light, camera = (PixelsEnv("hammer").shifted(name).sim.model for name in ("light", "camera"))
    for of in (lambda m: m.light_diffuse, lambda m: m.vis.headlight.diffuse, lambda m: m.vis.headlight.ambient):
        assert np.allclose(of(light), 0.5 * of(usual))
    k = usual.camera(CAMERAS["corner"]).id
    assert np.allclose(camera.cam_pos[k] - usual.cam_pos[k], (0, 0.02, 0))
    turned = 2 * np.arccos(min(1, abs(camera.cam_quat[k] @ usual.cam_quat[k])))
    assert np.rad2deg(turned) == pytest.approx(2, abs=1e-3)


def test_tasks_that_differ_in_the_upper_end_alone_are_not_learned_together(monkeypatch):
    known = {"a": tasks.Spaces({"state": (6,)}, (-1.0,), (1.0,)), "b": tasks.Spaces({"state": (6,)}, (-1.0,), (2.0,))}
    monkeypatch.setattr(tasks, "spaces", known.__getitem__)
    with pytest.raises(BadInput, match="cannot be learned together: action_high"):
        tasks.common_spaces(["a", "b"])


def test_no_more_episodes_than_asked_for_are_taken(tmp_path):
    import test_from_lerobot as t

    from envs import from_lerobot

    folder = t.write(tmp_path / "theirs", "v2.1", t.three())
    assert [len(from_lerobot.convert(folder, "Push the puck to a goal", 64, most)) for most in (1, 2)] == [1, 2]


def test_what_a_shell_ignores_stays_ignored():
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {n: signal.getsignal(n) for n in numbers}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
        interrupt.install()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is interrupt._handle
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)


def test_a_failure_is_filmed_beside_the_first_episode(tmp_path, monkeypatch):
    from plumbing import reports

    told = []
    monkeypatch.setattr(reports, "table", lambda _: "")
    monkeypatch.setattr(reports.folders, "evaluation_beside", lambda path, _: path)
    for name in ("success_bars", "router_weights"):
        monkeypatch.setattr(reports.figures, name, lambda *a: a[-1])
    monkeypatch.setattr(reports.figures, "video", lambda *a: told.append(a[-1].name) or a[-1])
    films = [(Episode("reach", s, frames=[np.zeros((4, 4, 3), np.uint8)]), np.ones((1, 2))) for s in (0, 3)]
    reports.write_evaluation(tmp_path / "e.json", make_policy(), {}, films, video=True)
    assert told == ["e-reach.gif", "e-reach-failed.gif"]


def test_steps_skipped_before_an_interruption_count_among_those_in_a_row(tmp_path, data_dir, monkeypatch):
    real, calls = runs.load_variant("fdp").Policy.loss, []

    def loss(*given):  # the first call is a trial; steps 3 and 4 are skipped and saved, and in the fifth it is killed
        calls.append(0)
        if len(calls) == 6:
            raise KeyboardInterrupt
        errors, terms = real(*given)
        return errors * (math.inf if len(calls) > 3 else 1.0), terms

    line = [
        "--tasks",
        "toy:Point-v0",
        "--batch-size",
        8,
        "--demos-per-task",
        2,
        "--device",
        "cpu",
        "--eval-episodes",
        0,
        "--steps",
        8,
        "--save-every",
        4,
        "--log-every",
        1000,
        "--data-dir",
        data_dir,
        "--out",
        tmp_path / "run",
    ]
    monkeypatch.setattr(runs.load_variant("fdp").Policy, "loss", loss)
    with pytest.raises(KeyboardInterrupt):
        command(train, *line)
    calls.extend([0] * 10)  # from here on all are bad: but for the trial, four more
    with pytest.raises(BadInput, match="no finite loss in 5 steps up to step 8"):
        command(train, *line, "--resume")


def test_threads_are_given_back():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with runs.one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def drawn(monkeypatch):
    from plumbing import figures

    kept = []
    monkeypatch.setattr(figures, "save", lambda figure, path: kept.append(figure) or path)
    return kept


def test_weights_are_drawn_over_the_steps_that_they_were_used_for(drawn, tmp_path):
    from plumbing import figures

    e = Episode("reach", 0, steps=7, phases=[[0, 0, 0]] * 7)
    figures.router_weights([(e, np.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]]))], 3, tmp_path / "x.png")
    stairs = drawn[0].axes[0].patches
    assert [p.get_data().edges.tolist() for p in stairs] == [[0, 3, 6, 7]] * 2
    assert stairs[0].get_data().values.tolist() == [0.9, 0.5, 0.2]


def test_error_bars_are_the_interval_and_cells_have_their_own_numbers(drawn, tmp_path):
    from plumbing import figures

    row = {"success": 0.9, "interval": [0.5, 0.95], "n": 10, "expert": {"success": 1.0, "n": 10}}
    figures.success_bars({"tasks": {"a": row}, "mean_success": 0.9}, tmp_path / "x.png")
    (bars,) = [c for c in drawn[0].axes[0].containers if hasattr(c, "has_yerr")]
    assert bars.lines[2][0].get_segments()[0][:, 1] == pytest.approx([0.5, 0.95])
    result = {
        "success": [{"a": 0.1}, {"a": 0.2, "b": 0.3}],
        "stages": [{"tasks": ["b"]}],
        "average_success": 0.75,
        "forgetting": 0.5,
        "expert": {"a": 0.8, "b": 0.9},
    }
    figures.success_matrix({"": result}, tmp_path / "m.png")
    cells = {t.get_position(): t.get_text() for t in drawn[1].axes[0].texts}
    assert cells == {(0, 0): "0.10", (0, 1): "0.20", (1, 1): "0.30", (0, 2): "0.80", (1, 2): "0.90"}


def test_a_stepwise_router_sees_how_much_noise_there_is():
    policy, condition = make("stepwise"), torch.randn(3, 16)
    for step in (0, 50, 99):
        noise = (1 - policy.alpha_bar_32[step]).sqrt().expand(3, 1)
        by_hand = policy.router(torch.cat([condition, noise], -1))
        assert torch.equal(policy.weigh(condition, torch.full((3,), step)), by_hand), step
    assert torch.equal(policy.weigh(condition), policy.weigh(condition, torch.full((3,), 50)))
    assert not torch.allclose(policy.weigh(condition, torch.zeros(3).long()), policy.weigh(condition))


def test_regression_by_a_unet_is_told_where_in_the_chunk_each_action_is():
    policy, given = make("bc", body="unet"), []
    policy.components.register_forward_pre_hook(lambda _, x: given.append(x[0]))
    policy(None, None, torch.randn(3, 16))
    assert torch.allclose(given[0], torch.linspace(-1, 1, 8)[None, :, None].expand(3, 8, 4))


@pytest.mark.parametrize("variant", ["bc", "flow"])
def test_what_is_predicted_beyond_the_range_is_clipped(variant):
    policy = make(variant)
    with torch.no_grad():
        for x in policy.components.parameters():
            x *= 9
    actions, _ = act(policy)
    assert np.abs(actions).max() == 1


def test_a_view_is_in_the_mode_of_its_policy():
    grown = adapt.grow(make_policy(), ["drawer-open"], 1, [0], 2)
    with torch.no_grad():
        for mode in (True, False, True):
            assert grown.train(mode).at(-1).encoder.training == mode


def test_copies_are_made_from_the_seed(tiny_run, data_dir, tmp_path, monkeypatch):
    from envs import elsewhere

    class Asked(Exception):
        pass

    def stop(demos, copies, seed):
        raise Asked(copies, seed)

    monkeypatch.setattr(elsewhere, "multiply", stop)
    with pytest.raises(Asked) as asked:
        command(
            adapt,
            "--run",
            tiny_run,
            "--tasks",
            "drawer-open",
            "--steps",
            1,
            "--data-dir",
            data_dir,
            "--device",
            "cpu",
            "--eval-episodes",
            0,
            "--out",
            tmp_path / "run",
            "--demos-per-task",
            1,
            "--seed",
            3,
        )
    assert asked.value.args == (100, 3)


def test_what_a_base_had_learned_before_its_skills_stays_in_its_record(tiny_run, data_dir, tmp_path):
    import skills
    from plumbing.runs import read_config

    usual = [
        "--steps",
        2,
        "--demos-per-task",
        2,
        "--copies",
        0,
        "--data-dir",
        data_dir,
        "--eval-episodes",
        0,
        "--device",
        "cpu",
    ]
    command(adapt, "--run", tiny_run, "--tasks", "drawer-open", "--retain", "paper", *usual, "--out", tmp_path / "base")
    command(adapt, "--run", tmp_path / "base", "--tasks", "drawer-close", *usual, "--out", tmp_path / "one")
    command(skills, "--run", tmp_path / "base", "--put", tmp_path / "one/skill.safetensors", "--out", tmp_path / "put")
    for name in ("put", "one"):
        assert [s["tasks"] for s in read_config(tmp_path / name)["adapted"]] == [["drawer-open"], ["drawer-close"]]
    command(skills, "--run", tmp_path / "put", "--take-off", "drawer-close", "--out", tmp_path / "bare")
    assert [s["tasks"] for s in read_config(tmp_path / "bare")["adapted"]] == [["drawer-open"]]
    skill = skills.read(tmp_path / "one/skill.safetensors")
    skill.about["stage"]["tasks"] = ["reach"]
    skills.write(tmp_path / "x.safetensors", skill)
    assert skills.read(tmp_path / "x.safetensors").about["stage"]["tasks"] == ["drawer-close"]


def test_an_evaluation_of_even_weights_or_shifted_pictures_is_not_taken(tiny_run, tmp_path, monkeypatch):
    import json
    import shutil

    class Asked(Exception):
        pass

    def evaluate_(*_, **__):
        raise Asked

    monkeypatch.setattr(stages.evaluate, "evaluate", evaluate_)
    run = shutil.copytree(tiny_run, tmp_path / "run")
    made = json.loads((run / "evaluation.json").read_text())
    for change in ({"even": True}, {"shift": "light"}):
        (run / "evaluation.json").write_text(json.dumps(made | change))
        with pytest.raises(Asked):
            stages.evaluated(run, tmp_path / "new" / "e.json", 2, 0, torch.device("cpu"))


def test_a_task_with_lost_episodes_is_played_again(tiny_run, tmp_path, monkeypatch):
    policy = adapt.grow(runs.load_policy(tiny_run), ["drawer-open"], 0, [], 2).eval()
    policy.header, asked = {"step": "1", "seconds": "1.0"}, []

    def play(_, todo, *__, **___):
        asked.extend(todo)
        raise KeyboardInterrupt

    monkeypatch.setattr(stages.runs, "load_policy", lambda *_: policy)
    monkeypatch.setattr(stages.evaluate, "evaluate", play)
    before = {"tasks": {"reach": {"n": 1}, "push": {"n": 2}, "drawer-open": {"n": 2}}}
    with pytest.raises(KeyboardInterrupt):
        stages.evaluated(tiny_run, tmp_path / "e.json", 2, 5, torch.device("cpu"), (tiny_run, before))
    assert asked == ["reach"]


def test_looking_at_what_is_held_out_draws_nothing():
    from plumbing.log import HeldOut

    policy = make("moe", selection="multinomial").train()
    held = HeldOut(SimpleNamespace(actions=torch.zeros(6, 8, 4), select=lambda i: fork_batch(policy, len(i))[:3]), 6)
    state = torch.get_rng_state()
    assert held(policy) == held(policy) and torch.equal(torch.get_rng_state(), state)
    assert policy.training and policy.router.training


def test_places_are_exact_where_products_are_rounded():
    features = torch.full((1, 1, 64, 64), -100.0)
    features[0, 0, 1, 62] = 100.0
    with torch.autocast("cpu", torch.bfloat16):
        x = SpatialSoftmax()(features)
    assert torch.allclose(x, torch.tensor([[1 - 2 / 63, -1 + 2 / 63]]), atol=1e-5)


def test_groups_have_sixteen_channels():
    from encoder import groups

    assert [groups(n).num_groups for n in (64, 512)] == [4, 32]


def test_where_a_picture_was_moved_from_its_edge_is_repeated():
    torch.manual_seed(0)
    ramp = torch.arange(64, dtype=torch.uint8)
    pictures = torch.stack([ramp[:, None].expand(64, 64), ramp.expand(64, 64), ramp.expand(64, 64)]).expand(
        40, 3, 64, 64
    )
    moved = PixelsEncoder({"corner": (3, 64, 64)}, 8).shifted(pictures)
    down, along = moved[:, 0, :, 5].int(), moved[:, 1, 5].int()
    for x in (down, along):
        assert x.diff(dim=1).min() >= 0 and x.diff(dim=1).max() == 1 and len(x[:, 0].unique()) == 2


def test_an_encoder_with_eyes_takes_statistics_of_its_numbers():
    made = PixelsEncoder({"corner": (3, 32, 32), "hand": (3,)}, 8)
    hand = torch.randn(50, 3) + 2
    made.fit({"corner": torch.zeros(50, 3, 32, 32), "hand": hand})
    assert torch.allclose(made.numbers.mean, hand.mean(0)) and torch.allclose(made.numbers.scale, hand.std(0))


def test_the_log_ends_a_training_that_has_diverged(tmp_path, data_dir, monkeypatch):
    real, calls = runs.load_variant("fdp").Policy.loss, []

    def loss(*given):
        calls.append(0)
        errors, terms = real(*given)
        return errors * (math.nan if len(calls) > 1 else 1), terms

    monkeypatch.setattr(runs.load_variant("fdp").Policy, "loss", loss)
    line = [
        "--tasks",
        "toy:Point-v0",
        "--batch-size",
        8,
        "--demos-per-task",
        2,
        "--device",
        "cpu",
        "--eval-episodes",
        0,
        "--steps",
        40,
        "--log-every",
        10,
        "--data-dir",
        data_dir,
        "--out",
        tmp_path / "run",
    ]
    with pytest.raises(BadInput, match="no finite loss in 5 steps up to step 10: lower --lr"):
        command(train, *line)
    assert len(calls) == 11


def test_bytes_are_those_of_weights_and_memory(tmp_path):
    for name, n in (("model.safetensors", 5), ("replay.safetensors", 7), ("resume.safetensors", 900)):
        (tmp_path / name).write_bytes(b"x" * n)
    assert stages.size(tmp_path) == 12


def test_a_clone_draws_places_of_its_own():
    from envs.metaworld import MetaWorldEnv

    env = MetaWorldEnv("reach")
    env.reset(seed=3)
    twin = env.clone()
    first = [env.reset()[0]["goal"], env.reset()[0]["goal"]]
    env.reset(seed=3)
    twin = env.clone()
    one = env.reset()[0]["goal"]
    twin.reset()
    assert np.array_equal(one, first[0]) and np.array_equal(env.reset()[0]["goal"], first[1])
