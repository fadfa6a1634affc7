"""Mistakes of a single line that would falsify a number, or lose something, and that no other test notices: each of
these was made on purpose, and passed. study/mutants.py makes some of them again."""

# ruff: noqa: F811  (a fixture is called `policy`)

import dataclasses
import json
import math
import shutil
import signal
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
import toy
from conftest import ROOT, command
from test_adapt import inputs, make_policy
from test_counting import BLOCK, EPISODES, FIRST, TASKS, Known, policy  # noqa: F401  (a fixture)
from test_envs import Once
from test_forks import act, batch, make

import adapt
import evaluate
import router
import skills
import train
from adaptation import memory, stages
from encoder import PixelsEncoder, SpatialSoftmax, groups
from envs import elsewhere, experts, recording, rollout, tasks, worker
from envs.metaworld import MetaWorldEnv
from envs.tasks import spaces
from envs.worker import Episode, Worker
from plumbing import cli, figures, folders, interrupt, machine, reports, resume, runs, tensors
from plumbing.cli import BadInput
from plumbing.log import HeldOut
from study import intervals
from unet import Conv, Linear

SHIPPED = ROOT / "study/core/mt6"
FEW = ["--steps", 1, "--eval-episodes", 0, "--device", "cpu"]
TOY = ["--tasks", "toy:Point-v0", "--batch-size", 8, "--demos-per-task", 2, "--device", "cpu", "--eval-episodes", 0]


class One(torch.nn.Module):
    """A policy of one weight."""

    config, device = None, torch.device("cpu")

    def __init__(self, w: float):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor([w]))


# ------------------------------------------------------------------------------------------------ learning


def test_weights_begin_as_wide_as_pytorchs_own_layers():
    for layer, inputs_of_one in ((Conv(2, 6, 50, 3), 18), (Linear(2, 18, 50), 18)):
        for x in layer.parameters():
            assert 0.9 * inputs_of_one**-0.5 < x.abs().max() <= inputs_of_one**-0.5


def test_the_average_reaches_as_far_back_as_it_says():
    assert train.average_decay(0) == 0 and train.average_decay(2999) == pytest.approx(1 - 3000**-0.75)
    assert train.average_decay(10**6) == 0.9999


def test_weights_decay_where_there_is_no_gradient():
    one = One(2.0)
    train.Learner(one, weight_decay=0.5).step(lambda x: (0 * one.w * x, {}), (torch.ones(3),), lr=0.1, decay=0.0)
    assert one.w.item() == pytest.approx(2 * (1 - 0.1 * 0.5))


def test_flags_reach_the_optimiser(tmp_path, data_dir, monkeypatch):
    got, real = [], train.Learner.__init__

    def watch(self, *arguments, **more):
        real(self, *arguments, **more)
        got.append((self.lr, self.grad_clip, self.optimizer.defaults["weight_decay"]))
        raise KeyboardInterrupt

    monkeypatch.setattr(train.Learner, "__init__", watch)
    flags = ["--lr", 0.5, "--grad-clip", 0.25, "--weight-decay", 0.125, "--data-dir", data_dir]
    with pytest.raises(KeyboardInterrupt):
        command(train, *TOY, *flags, "--out", tmp_path / "run")
    assert got == [(0.5, 0.25, 0.125)]


def test_the_defaults_are_those_of_the_study():
    """A run that comes with the code was made with them, and every table says so."""
    stored, usual = runs.read_config(SHIPPED)["train"], dataclasses.asdict(train.TrainConfig())
    for name in ("components", "router", "target", "horizon", "executed", "demos_per_task", "batch_size", "lr",
                 "weight_decay", "grad_clip", "size"):  # fmt: skip
        assert usual[name] == stored[name], name
    assert train.default_steps(6) == stored["steps"]


def test_a_window_belongs_to_its_own_task():
    def episode(n: int) -> dict:
        return {"observations": {"x": np.zeros((n + 1, 1), np.float32)}, "actions": np.zeros((n, 1), np.float32)}

    config = SimpleNamespace(horizon=2, observation={"x": (1,)})
    knows = SimpleNamespace(config=config, task_index=lambda names: torch.tensor([5, 7]))
    windows = train.Windows(knows, ["a", "b"], {"a": [episode(3)], "b": [episode(1)]}, torch.device("cpu"))
    assert windows.of_task.tolist() == [0, 0, 0, 1] and windows.task_ids.tolist() == [5, 5, 5, 7]


def test_a_policy_of_one_task_is_paid_for_routing_within_it():
    weights, task = torch.eye(4), torch.zeros(4, dtype=torch.long)
    assert router.batch_information(SimpleNamespace(tasks=["reach"]), weights, task) > 1
    assert router.batch_information(SimpleNamespace(tasks=["reach", "push"]), weights, task) == 0


def test_a_sparse_mixture_trains_as_sparsely_as_it_acts():
    mixture = make("moe", top=1)
    observation, task, *rest = batch(mixture)
    condition = mixture.encode(observation, task)
    sparse, dense = (mixture.errors(condition, w, *rest)
                     for w in (mixture.weigh(condition), mixture.router(condition)))  # fmt: skip
    found = mixture.loss(observation, task, *rest)[0]
    assert torch.allclose(found, sparse) and not torch.allclose(sparse, dense, atol=1e-3)


def test_pictures_are_scaled_to_minus_one_and_one():
    made, got = PixelsEncoder({"corner": (3, 32, 32)}, 8), []
    made.eyes[0].register_forward_pre_hook(lambda _, x: got.append(x[0]))
    made({"corner": torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None].expand(2, 3, 32, 32)})
    assert got[0][0].unique().tolist() == [-1] and got[0][1].unique().tolist() == [1]


# ------------------------------------------------------------------------------------------------ adapting


def test_old_pictures_are_not_moved_and_new_ones_are_again_afterwards():
    grown = make_policy().train()
    kept = memory.Memory.__new__(memory.Memory)
    kept.old = {name: torch.as_tensor(x).float() for name, x in inputs(4)[0].items()}
    kept.index, kept.weights = torch.zeros(4, dtype=torch.long), torch.full((4, 3), 1 / 3)
    kept.clean, seen, encode = torch.zeros(4, 8, 4), [], grown.encode
    grown.encode = lambda *given: seen.append(grown.training) or encode(*given)
    kept.drift(grown)
    assert seen == [False] and grown.training


def test_what_was_played_before_learning_decides_nothing(data_dir, tmp_path, monkeypatch):
    drawn = []

    def stop(self, loss, batch, *_):
        drawn.append(batch[-1])
        raise KeyboardInterrupt

    monkeypatch.setattr(train.Learner, "step", stop)
    flags = ["--run", SHIPPED, "--sequence", "drawer-close", "--demos-per-task", 2, "--copies", 0, "--data-dir"]
    flags += [data_dir, "--eval-episodes", 1, "--steps", 2, "--device", "cpu"]
    for n in (0, 7):
        monkeypatch.setattr(stages, "before_learning", lambda *_, n=n: {"x": len(torch.rand(n))})
        with pytest.raises(KeyboardInterrupt):
            command(adapt, *flags, "--out", tmp_path / str(n))
    assert torch.equal(*drawn)


# ------------------------------------------------------------------------------------------------ playing


def test_latency_is_the_median_after_warm_up(monkeypatch):
    took, clock = iter([9.0, 9.0, 0.001, 0.003, *[0.002] * 7, 5.0]), [0.0]

    def act(*_):
        clock[0] += next(took)

    monkeypatch.setattr(evaluate, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    robot = SimpleNamespace(config=SimpleNamespace(observation={"x": (2,)}), act=act)
    assert evaluate.latency(robot, "reach", "dpm", 5) == 2


def test_of_an_episode_that_is_played_again_the_first_play_leaves_no_weights(policy, monkeypatch):
    class Twice(Known):
        def play(self, act, episodes, on_done=lambda _: None):
            for e in episodes:
                seen = {name: np.zeros((1, *shape)) for name, shape in spaces(e.task).observation.items()}
                for chunk in (0, 1, 0):  # lost in its second chunk, and played again
                    act(seen, [e], [chunk])
                e.success, e.steps = True, 3
                on_done(e)
            return episodes

    monkeypatch.setattr(evaluate, "Roller", Twice)
    monkeypatch.setattr(experts, "_played", {})
    _, traces = evaluate.evaluate(policy, TASKS, 1, BLOCK)
    assert [len(w) for _, w in traces] == [1, 1]


class Ends(Once):
    """It is over after three steps, without success."""

    def step(self, action):
        seen, reward, *_ = super().step(action)
        told = {"success": False, "near_object": 1.0, "grasp_success": 0.5}
        return seen, reward, self.t == 3, False, told


gymnasium.register("ends/Ends-v0", Ends, max_episode_steps=20)


def test_an_episode_that_the_environment_ends_is_over():
    e = Worker().expert(Episode("ends/Ends-v0", 0, expert=True))
    assert (e.success, e.steps) == (False, 3)
    worker = Worker()
    worker.chunk([(0, Episode("ends/Ends-v0", 0), None)])
    ((_, _, done),) = worker.chunk([(0, None, np.zeros((8, 1)))])
    assert done is not None and done.steps == 3


def test_flags_of_the_environment_keep_their_names():
    assert Worker().expert(Episode("ends/Ends-v0", 0, expert=True)).phases[0] == [1.0, 0.5, 0.0]


def test_an_episode_that_is_played_again_is_the_one_that_was_asked_for():
    asked = ("x", 1, True, 0.1, 10, 4, False, "table")
    assert dataclasses.replace(Episode(*asked), success=True, steps=9, lost="died").fresh() == Episode(*asked)


def test_a_broken_simulator_is_not_copied():
    worker = Worker()
    env = worker.take(Episode("reach", 0))
    worker.lose(Episode("reach", 0), RuntimeError("broken"))
    env.clone = lambda: pytest.fail("copied from a broken one")
    assert worker.take(Episode("reach", 1)) is not env


def test_a_batch_is_in_the_order_of_its_episodes():
    """Not in that of who answered first, or rounding would differ from run to run."""
    roller = rollout.Roller.__new__(rollout.Roller)
    group = rollout.Group({i: ("worker", {"x": np.full(1, i)}, 0) for i in (3, 1, 2)})
    asked = []
    roller._next_chunks(lambda o, e, c: asked.extend(o["x"][:, 0]) or np.zeros((3, 1, 1)), group, [None] * 4)
    assert asked == [1, 2, 3]


def test_an_experts_rate_counts_its_failures(monkeypatch, tmp_path):
    told, seen = [], {"point": np.zeros(2), "goal": np.zeros(2)}
    monkeypatch.setattr(recording, "store", lambda *given: told.append(given[4]))
    kept = {"actions": [[0, 0]], "executed": [[0, 0]], "rewards": [0.0], "phases": [[0, 0, 0]]}
    recording._store("toy:Point-v0", [Episode("toy:Point-v0", 0, observations=[seen, seen], **kept)], 4, tmp_path, 0)
    assert told[0]["expert_success_rate"] == 0.25 and told[0]["expert_attempts"] == 4


def test_nothing_that_was_drawn_counts_as_the_mean():
    x = np.full((2, 2, 5), np.nan)
    x[0, 0] = x[1, 1] = 1.0
    assert intervals.crossed({"a": x}).min() == 1


# ------------------------------------------------------------------------------------------------ what is kept


def test_seconds_of_training_go_on_counting(tmp_path, data_dir, monkeypatch):
    rate = train.learning_rate

    def die(config, step):
        if step == 3:
            raise KeyboardInterrupt
        return rate(config, step)

    line = [*TOY, "--steps", 4, "--save-every", 2, "--data-dir", data_dir, "--out", tmp_path / "run"]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train, "learning_rate", die)
        command(train, *line)
    saved, about = tensors.load(tmp_path / "run" / resume.FILE)
    tensors.save(tmp_path / "run" / resume.FILE, saved, about | {"seconds": "1000.0"})
    command(train, *line, "--resume")
    assert runs.training_record(tmp_path / "run")["seconds"] > 1000


def test_resuming_refuses_every_flag_that_decides_on_the_weights():
    stored = dataclasses.asdict(train.TrainConfig(**runs.read_config(SHIPPED)["train"]))
    for name, value in stored.items():
        other = value + 1 if isinstance(value, int | float) else f"{value}x"
        harmless = name in ("out", "resume", "overwrite", "eval_episodes", "data_dir", "log_every", "save_every")
        assert harmless or runs.difference(SHIPPED, stored | {name: other}, resume.FREE), name


def test_a_checksum_sees_names_shapes_and_kinds():
    one = torch.zeros(2, 3)
    told = [{"a": one}, {"b": one}, {"a": one.T.contiguous()}, {"a": one.int()}, {"a": [one]}, [one],
            {"a": one, "b": one}]  # fmt: skip
    assert len({tensors.checksum(x) for x in told}) == len(told)


def test_an_evaluation_of_another_kind_goes_beside(tmp_path):
    def result(**more) -> dict:
        played = {"tasks": {"reach": {"n": 5, "seeds": [0, 4]}}, "training": {"steps": 3}}
        return played | {"sampler": "dpm", "sampling_steps": 5, "executed": 4} | more

    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(result()))
    for change in ({"sampler": "ddim"}, {"sampling_steps": 1}, {"executed": 1}):
        assert folders.evaluation_beside(path, result(**change)) != path, change


def test_a_folder_that_was_filled_meanwhile_is_not_claimed(tmp_path):
    (folder := tmp_path / "run").mkdir()
    (folder / "thesis.txt").write_text("years of work")  # since it was asked whether the folder is free
    with pytest.raises(BadInput, match="exists: choose another --out"):
        folders.claim(folder)
    with pytest.raises(BadInput, match="is none"):
        folders.claim(folder, overwrite=True)


def test_the_revision_is_that_of_the_code_that_runs(monkeypatch):
    """Asked as a command begins. When it writes its results, others may have been at work here."""
    found = []

    def git(words, **_):
        found.append(words[3])
        return Answer("abc" * (words[3] == "rev-parse"))

    cli.revision.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(cli.subprocess, "run", git)
        patch.setattr(cli, "_print", lambda *_: None)
        cli.run(lambda: found.append("main") or {})
    monkeypatch.setattr(cli.subprocess, "run", lambda *_, **__: pytest.fail("asked later"))
    assert sorted(found[:2]) == ["rev-parse", "status"] and found[2:] == ["main"] and cli.revision() == "abc"
    cli.revision.cache_clear()


class Answer:
    returncode = 0

    def __init__(self, stdout: str):
        self.stdout = stdout


# ------------------------------------------------------------------------------------------------ of all kinds


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


def test_a_gradient_that_is_not_finite_is_skipped_where_the_loss_is_finite():
    one = One(0.0)
    learner = train.Learner(one)
    losses, norm = learner.step(lambda x: (one.w.square().sqrt() * x, {}), (torch.ones(3),), 1e-3, 0.5)  # 0 / 0 at 0
    assert norm.isnan() and losses == {"loss": 0, "skipped": 1} and one.w == learner.average[0] == 0


def test_five_steps_in_a_row_are_the_end_and_four_are_not():
    learner = train.Learner(One(0.0))
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
    rows = {"a": {"n": 1, "successes": 1, "success": 1.0}, "b": {"n": 9, "successes": 0, "success": 0.0},
            "c": {"n": 0, "successes": 0, "success": None}}  # fmt: skip
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
    monkeypatch.setattr(evaluate, "evaluate", lambda *_, **__: ({"mean_success": 1.0, "tasks": {}, "seconds": 1.0}, []))
    keep = lambda path, _, result, *__, **___: path.write_text(json.dumps(result)) and []  # noqa: E731
    monkeypatch.setattr(reports, "write_evaluation", keep)
    command(evaluate, "--run", tiny_run, "--even", "--seed", 7, "--out", tmp_path / "e.json")
    told = json.loads((tmp_path / "e.json").read_text())
    assert (told["even"], told["shift"], told["seed"]) == (True, "", 7)


def test_an_evaluation_of_a_run_that_was_trained_anew_is_not_filed_as_its_own(tiny_run, tmp_path, monkeypatch):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    before = (run / "evaluation.json").read_bytes()

    def play(*_, **__):
        about = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps(about | {"seed": about["seed"] + 1}))
        return {"mean_success": 1.0, "tasks": {}, "seconds": 1.0}, []

    monkeypatch.setattr(evaluate, "evaluate", play)
    with pytest.raises(BadInput, match="has been trained anew meanwhile; that was of weights that are gone"):
        command(evaluate, "--run", run, "--episodes", 2)
    assert (run / "evaluation.json").read_bytes() == before
    monkeypatch.setattr(reports, "write_evaluation", lambda path, *_, **__: path.write_text("{}") and [])
    command(evaluate, "--run", run, "--episodes", 2, "--out", tmp_path / "e.json")  # it says of which it is


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


def test_a_success_that_nobody_could_have_seen_is_none():
    """It comes with a NaN, which ends the episode: docs/environments.md calls that a failure."""
    env, episode, over = toy.Overflowing(), Episode("toy:Overflowing-v0", 4), False
    worker.reset(episode, env)
    while not over:
        _, over = worker.step(episode, env, env.expert_action())
    assert env.after == 1 and not episode.success and episode.unstable


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
    assert worker.inside(gymnasium.spaces.Box(-5, 5, (4,), np.int64), np.array([0.6, -1.6, 0.4, 9.0])).tolist() == [
        1,
        -2,
        0,
        5,
    ]


def test_a_film_shows_how_it_ended():
    class Drawn(Once):
        def render(self):
            return self.t

    env, e = Drawn(), Episode("x", 0, render_every=5)
    env.reset()
    for _ in range(7):
        worker.step(e, env, np.zeros(1))
    assert e.frames == [1, 3, 6]  # every fifth, and the success


def test_tasks_that_differ_in_the_upper_end_alone_are_not_learned_together(monkeypatch):
    known = {"a": tasks.Spaces({"state": (6,)}, (-1.0,), (1.0,)), "b": tasks.Spaces({"state": (6,)}, (-1.0,), (2.0,))}
    monkeypatch.setattr(tasks, "spaces", known.__getitem__)
    with pytest.raises(BadInput, match="cannot be learned together: action_high"):
        tasks.common_spaces(["a", "b"])


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


def test_a_failure_is_filmed_beside_the_first_and_what_is_replaced_is_named(tmp_path, monkeypatch, capsys):
    told = []
    monkeypatch.setattr(reports, "table", lambda _: "")
    monkeypatch.setattr(reports.folders, "evaluation_beside", lambda path, _: path)
    for name in ("success_bars", "router_weights"):
        monkeypatch.setattr(reports.figures, name, lambda *a: a[-1])
    monkeypatch.setattr(reports.figures, "video", lambda *a: told.append(a[-1].name) or a[-1])
    films = [(Episode("reach", s, frames=[np.zeros((4, 4, 3), np.uint8)]), np.ones((1, 2))) for s in (0, 3)]
    reports.write_evaluation(tmp_path / "e.json", make_policy(), {}, films, video=True)
    assert told == ["e-reach.gif", "e-reach-failed.gif"] and "replaces" not in capsys.readouterr().err
    reports.write_evaluation(tmp_path / "e.json", make_policy(), {}, films, replace=True)
    assert f"replaces {tmp_path / 'e.json'}" in capsys.readouterr().err


def test_steps_skipped_before_an_interruption_count_among_those_in_a_row(tmp_path, data_dir, monkeypatch):
    real, calls = runs.load_variant("fdp").Policy.loss, []

    def loss(*given):  # the first call is a trial; steps 3 and 4 are skipped and saved, and in the fifth it is killed
        calls.append(0)
        if len(calls) == 6:
            raise KeyboardInterrupt
        errors, terms = real(*given)
        return errors * (math.inf if len(calls) > 3 else 1.0), terms

    line = [*TOY, "--steps", 8, "--save-every", 4, "--log-every", 1000, "--data-dir", data_dir]
    line += ["--out", tmp_path / "run"]
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
        with machine.one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def drawn(monkeypatch):
    kept = []
    monkeypatch.setattr(figures, "save", lambda figure, path: kept.append(figure) or path)
    return kept


def test_weights_are_drawn_over_the_steps_that_they_were_used_for(drawn, tmp_path):
    e = Episode("reach", 0, steps=7, phases=[[0, 0, 0]] * 7)
    figures.router_weights([(e, np.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]]))], 3, tmp_path / "x.png")
    stairs = drawn[0].axes[0].patches
    assert [p.get_data().edges.tolist() for p in stairs] == [[0, 3, 6, 7]] * 2
    assert stairs[0].get_data().values.tolist() == [0.9, 0.5, 0.2]


def test_error_bars_are_the_interval_and_cells_have_their_own_numbers(drawn, tmp_path):
    row = {"success": 0.9, "interval": [0.5, 0.95], "n": 10, "expert": {"success": 1.0, "n": 10}}
    figures.success_bars({"tasks": {"a": row}, "mean_success": 0.9}, tmp_path / "x.png")
    (bars,) = [c for c in drawn[0].axes[0].containers if hasattr(c, "has_yerr")]
    assert bars.lines[2][0].get_segments()[0][:, 1] == pytest.approx([0.5, 0.95])
    result = {"success": [{"a": 0.1}, {"a": 0.2, "b": 0.3}], "stages": [{"tasks": ["b"]}], "average_success": 0.75,
              "forgetting": 0.5, "expert": {"a": 0.8, "b": 0.9}}  # fmt: skip
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
    class Asked(Exception):
        pass

    def stop(demos, copies, seed):
        raise Asked(copies, seed)

    monkeypatch.setattr(elsewhere, "multiply", stop)
    with pytest.raises(Asked) as asked:
        command(adapt, "--run", tiny_run, "--tasks", "drawer-open", *FEW, "--demos-per-task", 1, "--data-dir", data_dir,
                "--seed", 3, "--out", tmp_path / "run")  # fmt: skip
    assert asked.value.args == (100, 3)


def test_what_a_base_had_learned_before_its_skills_stays_in_its_record(tiny_run, data_dir, tmp_path):
    usual = [*FEW, "--demos-per-task", 2, "--copies", 0, "--data-dir", data_dir]
    command(adapt, "--run", tiny_run, "--tasks", "drawer-open", "--retain", "paper", *usual, "--out", tmp_path / "base")
    command(adapt, "--run", tmp_path / "base", "--tasks", "drawer-close", *usual, "--out", tmp_path / "one")
    command(skills, "--run", tmp_path / "base", "--put", tmp_path / "one/skill.safetensors", "--out", tmp_path / "put")
    for name in ("put", "one"):
        assert [s["tasks"] for s in runs.read_config(tmp_path / name)["adapted"]] == [["drawer-open"], ["drawer-close"]]
    command(skills, "--run", tmp_path / "put", "--take-off", "drawer-close", "--out", tmp_path / "bare")
    assert [s["tasks"] for s in runs.read_config(tmp_path / "bare")["adapted"]] == [["drawer-open"]]
    skill = skills.read(tmp_path / "one/skill.safetensors")
    skill.about["stage"]["tasks"] = ["reach"]
    skills.write(tmp_path / "x.safetensors", skill)
    assert skills.read(tmp_path / "x.safetensors").about["stage"]["tasks"] == ["drawer-close"]


def test_an_evaluation_of_even_weights_or_shifted_pictures_is_not_taken(tiny_run, tmp_path, monkeypatch):
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
    policy = make("moe", selection="multinomial").train()
    held = HeldOut(SimpleNamespace(actions=torch.zeros(6, 8, 4), select=lambda i: batch(policy, len(i))[:3]), 6)
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
    assert [groups(n).num_groups for n in (64, 512)] == [4, 32]


def test_where_a_picture_was_moved_from_its_edge_is_repeated():
    torch.manual_seed(0)
    ramp = torch.arange(64, dtype=torch.uint8)
    pictures = torch.stack([ramp[:, None].expand(64, 64), ramp.expand(64, 64), ramp.expand(64, 64)])
    pictures = pictures.expand(40, 3, 64, 64)
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
    line = [*TOY, "--steps", 40, "--log-every", 10, "--data-dir", data_dir, "--out", tmp_path / "run"]
    with pytest.raises(BadInput, match="no finite loss in 5 steps up to step 10: lower --lr"):
        command(train, *line)
    assert len(calls) == 11


def test_bytes_are_those_of_weights_and_memory(tmp_path):
    for name, n in (("model.safetensors", 5), ("replay.safetensors", 7), ("resume.safetensors", 900)):
        (tmp_path / name).write_bytes(b"x" * n)
    assert stages.size(tmp_path) == 12


def test_a_clone_draws_places_of_its_own():
    env = MetaWorldEnv("reach")
    env.reset(seed=3)
    twin = env.clone()
    first = [env.reset()[0]["goal"], env.reset()[0]["goal"]]
    env.reset(seed=3)
    twin = env.clone()
    one = env.reset()[0]["goal"]
    twin.reset()
    assert np.array_equal(one, first[0]) and np.array_equal(env.reset()[0]["goal"], first[1])
