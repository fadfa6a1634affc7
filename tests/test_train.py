"""The scripts end to end, in seconds, through the code of the real run; and what they refuse."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, command, script
from safetensors.torch import load_file

import evaluate
import train
from envs.demos import demonstrations
from envs.metaworld import DIFFERENCES, split_state
from envs.rollout import FIRST_EVALUATION_SEED
from envs.worker import Episode
from evaluate import wilson_interval
from plumbing import figures, folders, machine, opengl, reports, resume, runs, tensors
from plumbing.cli import BadInput
from plumbing.log import HeldOut, read_log
from plumbing.runs import load_policy, training_record


def test_train_evaluate_reload(tiny_run):
    result = json.loads((tiny_run / "evaluation.json").read_text())
    assert set(result["tasks"]) == {"reach", "push"}
    for row in result["tasks"].values():
        assert row["n"] == 2 and 0 <= row["successes"] <= 2 and row["expert"]["n"] == 2 and not row["lost"]
        assert row["seeds"] == [FIRST_EVALUATION_SEED, FIRST_EVALUATION_SEED + 1]
        assert row["interval"] == list(wilson_interval(row["successes"], 2))
        assert np.allclose(sum(row["router_weights"]["mean"]), 1, atol=1e-3) and len(row["router_weights"]["mean"]) == 4
    assert {"command", "revision", "seed", "hardware", "sampler", "sampling_steps", "latency_ms_batch_1"} <= set(result)
    assert result["training"]["steps"] == 30 and result["training"]["seconds"] > 0
    config = json.loads((tiny_run / "config.json").read_text())
    assert config["policy_config"]["tasks"] == ["reach", "push"] and config["train"]["steps"] == 30
    log = read_log(tiny_run / "log.jsonl")
    assert [line["step"] for line in log] == [10, 20, 30] and log[-1]["loss"] < log[0]["loss"]
    for name in ("training", "loss-by-step", "evaluation-success", "evaluation-router"):
        assert (tiny_run / "figures" / f"{name}.png").stat().st_size > 5000


def test_evaluating_again_gives_the_same_numbers(tiny_run, tmp_path):
    """What training prints at its end and what evaluate.py finds later are one and the same measurement."""
    again = command(evaluate, "--run", tiny_run, "--episodes", 2, "--out", tmp_path / "again.json")
    first, second = (json.loads(p.read_text()) for p in (tiny_run / "evaluation.json", tmp_path / "again.json"))
    for task in first["tasks"]:
        for key in ("n", "successes", "failed_seeds", "mean_steps_to_success", "router_weights"):
            assert first["tasks"][task][key] == second["tasks"][task][key]
    assert str(tmp_path / "again.json") in again["wrote"]


def test_evaluating_with_even_weights(trained_run, tmp_path):
    """The same episodes, with every component counting the same; the run's own evaluation stays."""
    before = {path.name for path in trained_run.iterdir()}
    command(evaluate, "--run", trained_run, "--episodes", 1, "--tasks", "reach", "--even")
    (made,) = {path.name for path in trained_run.iterdir() if path.is_file()} - before
    result = json.loads((trained_run / made).read_text())
    (trained_run / made).unlink()
    assert made == "evaluation-even.json" and "--even" not in runs.read_config(trained_run)["train"]
    weights = result["tasks"]["reach"]["router_weights"]
    assert weights["mean"] == [0.25] * 4 and weights["std"] == [0] * 4
    with pytest.raises(BadInput, match="--even is for policies with one router"):
        staged = load_policy(trained_run)
        staged.variant = "staged"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(evaluate, "load_policy", lambda *_: staged)
            command(evaluate, "--run", trained_run, "--episodes", 1, "--even", "--out", tmp_path / "e.json")
    raw = evaluate.even(lambda condition, step: torch.tensor([[3.0, -1.0], [0.0, 1.0]]))
    assert raw(None).tolist() == [[1.0, 1.0], [0.5, 0.5]]


def test_flags_of_evaluate_reach_the_evaluation(tiny_run, tmp_path, monkeypatch):
    got = []

    def stop(*words, **more):
        got.extend(words[1:6])
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "evaluate", stop)
    with pytest.raises(KeyboardInterrupt):
        command(evaluate, "--run", tiny_run, "--tasks", "push", "--episodes", 3, "--seed", 7, "--sampler", "ddim",
                "--sampling-steps", 4, "--out", tmp_path / "e.json")  # fmt: skip
    assert got == [["push"], 3, 7, "ddim", 4]


def test_flags_become_the_policy():
    asked = {"router": "affine", "task_conditioning": "none", "target": "clean", "horizon": 16, "executed": 2,
             "components": 3}  # fmt: skip
    made = train.policy_settings(train.TrainConfig(**asked, size="base"), ["reach"])
    assert {name: made[name] for name in asked} == asked and made["differences"] == DIFFERENCES
    assert (made["channels"], made["kernel"], made["eye"]) == ((128, 256, 512), 5, "resnet18")


def test_only_the_executed_actions_of_a_chunk_are_carried_out(tiny_run):
    """Counted by the questions: the policy is asked again after 4 steps, with 4 of its 8 actions unused."""
    policy = runs.load_policy(tiny_run)
    assert (policy.config.executed, policy.config.horizon) == (4, 8)
    asked, act = [], policy.act
    policy.act = lambda observation, tasks, *rest: asked.extend(tasks) or act(observation, tasks, *rest)
    result, traces = evaluate.evaluate(policy, ["reach", "push"], episodes=1)
    assert len(traces) == 2
    for episode, weights in traces:
        chunks = -(-episode.steps // 4)
        assert episode.steps > 8 and len(weights) == chunks
        # One more for each of the measurements of latency, all at the first task.
        assert asked.count(episode.task) == chunks + 12 * (episode.task == "reach")


def test_same_seed_same_weights_bit_for_bit_and_another_seed_others(tiny, tiny_run, tmp_path):
    command(train, *tiny, "--out", tmp_path / "same", "--eval-episodes", 0)
    command(train, *tiny, "--out", tmp_path / "other", "--eval-episodes", 0, "--seed", 1)
    weights, same, other = (
        load_file(f / "model.safetensors") for f in (tiny_run, tmp_path / "same", tmp_path / "other")
    )
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    assert not torch.equal(weights["components.head.weight"], other["components.head.weight"])


def test_resuming_gives_the_weights_of_the_uninterrupted_run(tiny, tiny_run, tmp_path, monkeypatch):
    """Interrupted after the checkpoint of step 20 of 30, resumed, equal to the last bit; the log has no gap and no
    double.
    """
    rate = train.learning_rate

    def die_at_25(config, step):
        if step == 25:
            raise KeyboardInterrupt
        return rate(config, step)

    # Lines at 8, 16, 24, 30: the one at 24 is made again, and averages over steps from both sides of the interruption.
    logged = ["--log-every", 8, "--eval-episodes", 0]
    monkeypatch.setattr(train, "learning_rate", die_at_25)
    with pytest.raises(KeyboardInterrupt):
        command(train, *tiny, "--out", tmp_path / "run", *logged)
    monkeypatch.undo()
    command(train, *tiny, "--out", tmp_path / "run", *logged, "--resume")
    command(train, *tiny, "--out", tmp_path / "uninterrupted", *logged)
    weights, resumed = load_file(tiny_run / "model.safetensors"), load_file(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)
    logs = [
        [(line["step"], line["loss"]) for line in read_log(tmp_path / run / "log.jsonl")]
        for run in ("run", "uninterrupted")
    ]
    assert logs[0] == logs[1] and [step for step, _ in logs[0]] == [8, 16, 24, 30]


def test_going_on_with_a_finished_run_changes_no_weight_file(tiny, tiny_run, tmp_path):
    """Its hash is what a stage of adapt.py says that it was learned from."""
    run = shutil.copytree(tiny_run, tmp_path / "run")
    before = (run / "model.safetensors").read_bytes()
    command(train, *tiny, "--out", run, "--resume", "--eval-episodes", 0)
    assert (run / "model.safetensors").read_bytes() == before


def test_saved_weights_are_the_average_not_the_last_ones(tiny_run):
    saved = load_file(tiny_run / resume.FILE)
    model = load_file(tiny_run / "model.safetensors")
    policy = runs.load_policy(tiny_run)
    names = train.Learner(policy).names
    assert {name for name, _ in policy.named_parameters()} < set(names)
    averages = {name: saved[f"average.{name}"] for name in names}
    from_config = {"alpha_bar_32", "action_center", "action_scale"}  # so they are not saved
    assert set(averages) == set(model) | from_config
    assert all(torch.equal(model[name], averages[name]) for name in model)
    assert not torch.equal(model["components.head.weight"], saved["policy.components.head.weight"])
    # The encoder's statistics are data and stay what they are while the network learns: exact in both.
    for name in ("encoder.mean", "encoder.scale"):
        assert torch.equal(model[name], saved[f"policy.{name}"]) and model[name].std() > 0


def test_the_average_against_its_own_formula(tiny, tmp_path, monkeypatch):
    """Two steps by hand: decay 0 at step 0, so the average is the first weights; then 1 - 2^-0.75 of them."""
    seen = []
    save = train.resume.save

    def watch(folder, learner, *rest):
        averages = learner.average[: len(learner.parameters)]
        seen.append([(p.detach().clone(), a.clone()) for p, a in zip(learner.parameters, averages, strict=True)])
        save(folder, learner, *rest)

    monkeypatch.setattr(train.resume, "save", watch)
    command(train, *tiny, "--out", tmp_path / "run", "--eval-episodes", 0, "--steps", 2, "--save-every", 1)
    assert len(seen) == 2 and len(seen[0]) > 20
    for (first, average1), (second, average2) in zip(*seen, strict=True):
        assert torch.allclose(average1, first)
        assert torch.allclose(average2, (1 - 2**-0.75) * first + 2**-0.75 * second, atol=1e-7)


def test_how_long_and_how_precisely_by_default(monkeypatch):
    assert [train.default_steps(n) for n in (1, 2, 6, 10, 20, 45, 50)] == [2000, 4000, 12_000, 20_000, *[40_000] * 3]
    cpu, cuda, choose = torch.device("cpu"), torch.device("cuda"), machine.choose_precision
    small, base = (SimpleNamespace(**train.SIZES[size]) for size in ("small", "base"))
    for able in ({}, {"avx512_f": True}, {"avx512_bf16": True}, {"avx512_bf16": False, "amx_bf16": True}):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: able)
        in_hardware = able.get("avx512_bf16") or able.get("amx_bf16")
        assert choose("auto", base, cpu) == ("bf16" if in_hardware else "float32")
        assert choose("auto", small, cpu) == "float32"
    for native in (True, False):  # an older GPU only imitates it
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True, it=native: it or including_emulation
        )
        for size in (small, base):
            assert choose("auto", size, cuda) == ("bf16" if native else "float32")
        assert choose("float32", base, cuda) == "float32" and choose("bf16", small, cpu) == "bf16"


def test_a_container_has_the_memory_that_it_was_given(tmp_path, monkeypatch):
    """Where a process asks for more, it is killed without a word, whatever the machine has."""
    given, other = tmp_path / "memory.max", tmp_path / "memory.limit_in_bytes"
    monkeypatch.setattr(machine, "CONTAINER", (given, other))
    whole = machine.memory()
    assert whole == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for text, memory in (("max\n", whole), (f"{2 * whole}\n", whole), (f"{whole // 2}\n", whole // 2)):
        given.write_text(text)
        assert machine.memory() == memory
    other.write_text("1000000\n")
    assert machine.memory() == 1_000_000


def test_precision_is_of_products_alone_and_part_of_a_run(tiny, tiny_run, tmp_path):
    run = tmp_path / "run"
    command(train, *tiny, "--out", run, "--eval-episodes", 0, "--precision", "bf16")
    one, other = (load_file(folder / resume.FILE) for folder in (run, tiny_run))
    for name in [name for name in one if name.startswith("policy.")]:
        assert one[name].dtype == other[name].dtype  # weights stay float32
        assert (one[name] - other[name]).abs().max() < 0.05
    assert not torch.equal(one["policy.router.net.0.weight"], other["policy.router.net.0.weight"])
    assert [runs.read_config(folder)["train"]["precision"] for folder in (run, tiny_run)] == ["bf16", "float32"]
    with pytest.raises(BadInput, match="precision = bf16, not float32"):
        command(train, *tiny, "--out", run, "--resume", "--precision", "float32")


def test_learning_rate_at_both_ends():
    config = train.TrainConfig(steps=1000, lr=1e-3)
    rates = [train.learning_rate(config, step) for step in range(1000)]
    assert 0 < rates[0] == pytest.approx(1e-5) and 0 < rates[-1] < 1e-8 and max(rates) == pytest.approx(1e-3, rel=0.03)
    long, short, at = train.TrainConfig(steps=12_000, lr=1.0), train.TrainConfig(steps=50, lr=1.0), train.learning_rate
    assert [at(long, step) for step in (0, 49, 99, 6000)] == pytest.approx([0.01, 0.5, 1, 0.5], rel=1e-3)
    assert [at(short, step) for step in (0, 25)] == pytest.approx([0.2, 0.5])


def test_the_policy_learns_what_it_is_shown(tiny, tmp_path):
    """Not just "it ran": 300 steps on 3 demonstrations must bring the loss far below that of knowing nothing."""
    flags = [*tiny[:2], "--steps", 300, *tiny[4:]]
    command(train, *flags, "--out", tmp_path / "run", "--eval-episodes", 0)
    losses = [line["loss"] for line in read_log(tmp_path / "run" / "log.jsonl")]
    assert losses[-1] < 0.2 * losses[0]


def test_demonstrations_that_are_held_out_are_not_learned_and_tell_memorising(tiny, data_dir, tmp_path, monkeypatch):
    """The third of three is learned by heart; what is said of the others changes nothing in training."""
    flags, seen = [*tiny[:2], "--steps", 300, *tiny[4:], "--held-out", 2, "--eval-episodes", 0], []
    windows = train.Windows
    monkeypatch.setattr(train, "Windows", lambda *of: seen.append(windows(*of)) or seen[-1])
    command(train, *flags, "--out", tmp_path / "50", "--log-every", 50)
    for every in (5, 20):
        command(train, *flags, "--steps", 20, "--out", tmp_path / str(every), "--log-every", every)
    mine, held = seen[:2]
    whole = demonstrations(mine.tasks, 3, data_dir)
    assert [len(w.actions) for w in (mine, held)] == [sum(len(d[i]["actions"]) for d in whole.values() for i in which)
                                                      for which in ((2,), (0, 1))]  # fmt: skip
    one, other = (load_file(tmp_path / run / "model.safetensors") for run in ("5", "20"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    first, *_, last = read_log(tmp_path / "50" / "log.jsonl")
    assert last["loss"] < 0.3 * first["loss"] and last["held_out"] > 2 * last["loss"]
    about = training_record(tmp_path / "50")  # what evaluations repeat
    assert (about["demos_per_task"], about["held_out"]) == (3, 2)
    policy = load_policy(tmp_path / "50")  # the same steps and noise whenever it is asked
    assert HeldOut(held)(policy) == HeldOut(held)(policy) != HeldOut(mine)(policy)
    with pytest.raises(BadInput, match="^--held-out 3 of --demos-per-task 3 leaves none to learn from$"):
        command(train, *flags[:-4], "--held-out", 3, "--out", tmp_path / "none")


@pytest.mark.parametrize("flags", [
    ["--policy", "monolithic"], ["--components", 1], ["--task-conditioning", "none"],
    ["--router", "affine", "--target", "clean"], ["--router", "raw", "--target", "noise"],
])  # fmt: skip
def test_every_variant_trains_and_evaluates_by_the_same_scripts(tiny, tmp_path, flags):
    tasks = ["toy:Point-v0", "toy:OtherPoint-v0"]  # whose failures take 60 steps, not 500
    command(train, "--tasks", ",".join(tasks), *tiny[2:], *flags, "--out", tmp_path / "run", "--eval-episodes", 1)
    result = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert list(result["tasks"]) == tasks
    policy = runs.load_policy(tmp_path / "run", torch.device("cpu"))
    assert type(policy).__module__ == ("variants.monolithic" if "monolithic" in flags else "fdp")


@pytest.mark.parametrize("sampler,steps", [("ddpm", 100), ("ddim", 3), ("dpm", 2)])
def test_the_sampler_is_chosen_at_run_time(trained_run, tmp_path, sampler, steps):
    command(evaluate, "--run", trained_run, "--episodes", 1, "--tasks", "drawer-open", "--sampler", sampler,
            "--out", tmp_path / "e.json", *([] if sampler == "ddpm" else ["--sampling-steps", steps]))  # fmt: skip
    result = json.loads((tmp_path / "e.json").read_text())
    assert (result["sampler"], result["sampling_steps"], list(result["tasks"])) == (sampler, steps, ["drawer-open"])
    assert result["tasks"]["drawer-open"]["successes"] >= 1, "whatever the sampler, a trained policy opens the drawer"


def test_an_evaluation_is_of_the_weights_that_it_names(tiny_run, tmp_path, monkeypatch):
    """A training that goes on writes its next checkpoint while the last one is played."""
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)

    def load(folder, device):
        policy = load_policy(folder, device)
        runs.save_weights(run, policy.state_dict(), 99, 1000.0)
        return policy

    monkeypatch.setattr(evaluate, "load_policy", load)
    command(evaluate, "--run", run, "--episodes", 1, "--tasks", "reach", "--out", tmp_path / "e.json")
    told = json.loads((tmp_path / "e.json").read_text())["training"]
    assert told["steps"] == 30 and told["seconds"] < 1000 and runs.training_record(run)["steps"] == 99


def test_how_often_it_looks_is_chosen_at_run_time(tiny_run, tmp_path, monkeypatch):
    """Each look asks for a chunk, of which so many actions are carried out; the run's own evaluation stays."""
    asked, run = [], tmp_path / "run"
    shutil.copytree(tiny_run, run)
    play = evaluate.Roller.play

    def watched(self, act, todo, **rest):
        def watch(*request):
            asked.append(actions := act(*request))
            return actions

        return play(self, watch, todo, **rest)

    monkeypatch.setattr(evaluate.Roller, "play", watched)
    for executed in (None, 1, 8):
        asked.clear()
        command(evaluate, "--run", run, "--episodes", 1, "--tasks", "reach",
                *(["--executed", executed] if executed else ["--out", tmp_path / "usual.json"]))  # fmt: skip
        assert {actions.shape[1] for actions in asked} == {executed or 4}
        made = run / f"evaluation-executed-{executed}.json" if executed else tmp_path / "usual.json"
        assert json.loads(made.read_text())["executed"] == (executed or 4)
    for executed in (0, 9):
        with pytest.raises(BadInput, match=f"^--executed must be between 1 and 8, got {executed}$"):
            command(evaluate, "--run", run, "--episodes", 1, "--executed", executed)
    assert (run / "evaluation.json").read_bytes() == (tiny_run / "evaluation.json").read_bytes()


def test_video(tiny_run, tmp_path, capsys, monkeypatch):
    """With OpenGL a GIF that moves; without, one line that says what to install, and everything else as usual."""
    command(evaluate, "--run", tiny_run, "--episodes", 1, "--tasks", "reach", "--video", "--out", tmp_path / "e.json")
    if figures.find_opengl():
        from PIL import Image

        gif = Image.open(tmp_path / "videos" / "e-reach.gif")
        assert gif.n_frames > 5
        first = np.asarray(gif.convert("RGB"))[:360].astype(int)
        gif.seek(gif.n_frames - 1)
        assert abs(np.asarray(gif.convert("RGB"))[:360] - first).max() > 50, "the robot moved, the picture did not"
    monkeypatch.setattr(opengl, "_works", lambda name: False)
    monkeypatch.delenv("MUJOCO_GL", raising=False)  # names what was found above, or by the machine's owner
    command(evaluate, "--run", tiny_run, "--episodes", 1, "--tasks", "reach", "--video", "--out", tmp_path / "f.json")
    assert "apt-get install libosmesa6" in capsys.readouterr().err
    assert (tmp_path / "f.json").exists() and not (tmp_path / "videos" / "f-reach.gif").exists()


class Agent:
    """The policy as MetaWorld's own `metaworld.evaluation.evaluation` wants it: one action per environment and step.

    It keeps each environment's action chunk and asks the policy for a new one where it has run out.

    tasks: a name for each environment, in their order.
    """

    def __init__(self, policy, tasks: list[str]):
        self.policy, self.tasks = policy, tasks
        self.queues: list[list[np.ndarray]] = [[] for _ in tasks]

    def reset(self, env_mask: np.ndarray) -> None:
        """Forget the chunks of the environments in the mask (n,)."""
        for i in np.flatnonzero(env_mask):
            self.queues[i].clear()  # a chunk planned in the old episode means nothing in the new one

    def eval_action(self, observations: np.ndarray) -> np.ndarray:
        """MetaWorld's states (n, 39) -> the next action of each environment (n, A)."""
        empty = [i for i, queue in enumerate(self.queues) if not queue]
        if empty:
            seen, names = split_state(observations[empty]), [self.tasks[i] for i in empty]
            for i, chunk in zip(empty, self.policy.act(seen, names)[0], strict=True):
                self.queues[i] = list(chunk[: self.policy.config.executed])
        return np.stack([queue.pop(0) for queue in self.queues])


def test_metaworlds_own_evaluation_agrees(trained_run):
    """MetaWorld's evaluation loop and ours on two tasks. It draws goals its own way, so equality is statistical."""
    import gymnasium
    import metaworld  # noqa: F401
    from metaworld.evaluation import evaluation

    policy, n = runs.load_policy(trained_run, torch.device("cpu")), 10
    tasks = policy.config.tasks
    ours, _ = evaluate.evaluate(policy, tasks, episodes=n)
    vector = gymnasium.make_vec(
        "Meta-World/custom-mt-envs", vector_strategy="sync", envs_list=[f"{t}-v3" for t in tasks], seed=1
    )
    _, _, theirs, _ = evaluation(Agent(policy, tasks), vector, num_episodes=n)
    vector.close()
    for task in tasks:
        low, high = ours["tasks"][task]["interval"]
        their_low, their_high = wilson_interval(round(theirs[f"{task}-v3"] * n), n)
        assert low <= their_high and their_low <= high, (task, ours["tasks"][task]["success"], theirs)
    assert ours["mean_success"] > 0.5, "an untrained policy would agree with anything that fails"


def test_wilson_interval():
    """Against values from the literature (Newcombe 1998, table I: 81/263, 15/148, 0/20, 1/29, method 3)."""
    for (successes, n), (low, high) in {(81, 263): (0.2553, 0.3662), (15, 148): (0.0624, 0.1605), (0, 20): (0, 0.1611),
                                        (1, 29): (0.0061, 0.1718)}.items():  # fmt: skip
        assert wilson_interval(successes, n) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
    assert wilson_interval(20, 20)[1] == 1.0


def test_lost_episodes_are_neither_success_nor_failure(tiny_run, tmp_path, monkeypatch):
    """Also where all episodes of a task are lost, and where the first one is, which the figures would show."""
    policy = runs.load_policy(tiny_run)
    play = evaluate.Roller.play

    def lose(self, *arguments, **more):
        played = play(self, *arguments, **more)
        for episode in played:
            if episode.task == "reach" or episode.seed == FIRST_EVALUATION_SEED:
                episode.lost, episode.success = "its simulator process died", True
            else:
                episode.success = True
        return played

    monkeypatch.setattr(evaluate.Roller, "play", lose)
    result, traces = evaluate.evaluate(policy, ["reach", "push"], episodes=2)
    reach, push = result["tasks"]["reach"], result["tasks"]["push"]
    assert (reach["n"], reach["successes"], reach["success"], len(reach["lost"])) == (0, 0, None, 2)
    assert (push["n"], push["successes"], push["success"]) == (1, 1, 1.0)
    assert list(push["interval"]) == list(wilson_interval(1, 1))
    assert list(push["lost"]) == [str(FIRST_EVALUATION_SEED)] and result["mean_success"] == 1.0
    assert "2 lost" in reports.table(result)
    assert traces == []  # only a first episode is drawn
    reports.write_evaluation(tmp_path / "e.json", policy, result, traces, video=False)
    written = json.loads((tmp_path / "e.json").read_text(), parse_constant=pytest.fail)  # NaN is not JSON
    assert written["tasks"]["reach"]["success"] is None and written["tasks"]["reach"]["router_weights"] is None


def test_starting_noise_belongs_to_the_episode_not_to_the_batch(tiny_run):
    policy = runs.load_policy(tiny_run)
    a, b = Episode("reach", 5), Episode("push", 6)
    both, alone = evaluate.starting_noise(policy, [a, b], [0, 3]), evaluate.starting_noise(policy, [b], [3])
    assert torch.equal(both[1:], alone) and not torch.equal(both[0], both[1])
    assert not torch.equal(alone, evaluate.starting_noise(policy, [b], [2])), "every chunk has noise of its own"


# ------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize("flags,words", [
    (["--tasks", "puhs"], "unknown task 'puhs'; closest: .*push"),
    (["--horizon", 7], "horizon 7 does not divide: 2 levels .* multiple of 2"),
    (["--executed", 9], "executed must be between 1 and the horizon 8, got 9"),
    (["--components", 0], "--components must be at least 1, got 0"),
    (["--steps", -5], "--steps must be at least 1, got -5"),
    (["--demos-per-task", 0], "--demos-per-task must be at least 1"),
    (["--eval-episodes", -1], "--eval-episodes must be at least 0"),
    (["--weight-decay", -1], "--weight-decay must be at least 0"),
    (["--seed", 10**20], "--seed must be at most"),
    (["--eval-episodes", 20_000], "--eval-episodes must be at most 10000"),
    (["--components", 1025], "--components must be at most 1024"),
    (["--components", 16, "--batch-size", 10**6, "--horizon", 1024], "16 components, .* 1024 need more than the mem"),
    (["--steps", 2**63], "--steps must be at most 1000000000"),
    (["--weight-decay", "inf"], "--weight-decay must be at most 1e.38, got inf"),
    (["--grad-clip", "nan"], "--grad-clip must be at least 1e-38, got nan"),
    (["--policy", "moe", "--balance", "nan"], "--balance must be a finite number, got nan"),
    (["--horizon", 0], "--horizon must be at least 1, got 0"),
    (["--lr", 0], "--lr must be at least 1e-38, got 0"),
    (["--policy", "mien"], "no policy 'mien': choose fdp or a file in variants/, without .py .*monolithic"),
    (["--device", "meta"], "device 'meta' is not available .*only cpu and cuda"),
    (["--device", "cuda:99"], "device 'cuda:99' is not available"),
    (["--resume"], "--resume needs --out"),
    (["--overwrite"], "--overwrite needs --out"),
    (["--resume", "--overwrite", "--out", "x"], "exclude each other"),
    (["--demos-per-task", 10**6], "--demos-per-task must be at most 10000"),
    (["--dataset-id", "lab/{task}/human-v0"], "no Minari dataset 'lab/reach/human-v0'"),
])  # fmt: skip
def test_training_refuses(tiny, tmp_path, flags, words):
    words_out = [] if flags in (["--resume"], ["--overwrite"]) else ["--out", tmp_path / "run"]
    with pytest.raises(BadInput, match=words):
        command(train, *tiny, *words_out, *flags)


def test_a_run_is_never_overwritten_unless_asked(tiny, tiny_run):
    before = (tiny_run / "model.safetensors").read_bytes()
    with pytest.raises(BadInput, match="exists: choose another --out, or add --resume .* or --overwrite"):
        command(train, *tiny, "--out", tiny_run)
    with pytest.raises(BadInput, match="has seed = 0, not 1"):
        command(train, *tiny, "--out", tiny_run, "--resume", "--seed", 1)
    with pytest.raises(BadInput, match="no Minari dataset"):
        command(train, *tiny, "--out", tiny_run, "--overwrite", "--dataset-id", "lab/{task}/human-v0")
    assert (tiny_run / "model.safetensors").read_bytes() == before


def test_overwriting_replaces_runs_only_and_leaves_no_old_result(tiny, tiny_run, tmp_path):
    (tmp_path / "thesis" / "figures").mkdir(parents=True)
    (tmp_path / "thesis" / "figures" / "one.png").write_bytes(b"years of work")
    with pytest.raises(BadInput, match="thesis is none"):
        command(train, *tiny, "--out", tmp_path / "thesis", "--overwrite")
    assert (tmp_path / "thesis" / "figures" / "one.png").exists()
    run = shutil.copytree(tiny_run, tmp_path / "run")
    shutil.copy(run / "evaluation.json", run / "ddim.json")
    (run / "notes.json").write_text('{"mine": 1}')
    command(train, *tiny, "--out", run, "--overwrite", "--eval-episodes", 0, "--steps", 1)
    assert sorted(path.name for path in run.glob("*.json")) == ["config.json", "notes.json"]


def test_what_cannot_run_is_refused_before_the_old_run_is_gone(tiny, tiny_run, tmp_path, monkeypatch):
    def no_compiler(*_):
        raise RuntimeError("no C++ compiler found")

    run = shutil.copytree(tiny_run, tmp_path / "run")
    with monkeypatch.context() as patch, pytest.raises(BadInput, match="--compile fails .*no C\\+\\+ compiler"):
        patch.setattr(torch, "compile", lambda _: no_compiler)
        command(train, *tiny, "--out", run, "--overwrite", "--compile")

    def too_large(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch, pytest.raises(BadInput, match="--batch-size 16 does not fit"):
        patch.setattr(runs.load_variant("fdp").Policy, "loss", too_large)
        command(train, *tiny, "--out", run, "--overwrite")
    assert (run / "model.safetensors").read_bytes() == (tiny_run / "model.safetensors").read_bytes()
    assert (run / "evaluation.json").exists()


def test_a_loss_that_is_not_a_number_is_never_saved(tiny, tmp_path, monkeypatch):
    """Also between two lines of the log: weights that are gone would replace the last good runs."""
    real, calls = runs.load_variant("fdp").Policy.loss, []

    def diverge(*arguments):
        calls.append(0)
        errors, terms = real(*arguments)
        return errors * (float("nan") if len(calls) > 15 else 1.0), terms

    monkeypatch.setattr(runs.load_variant("fdp").Policy, "loss", diverge)
    with pytest.raises(BadInput, match="no finite loss in 5 steps up to step 30: lower --lr"):
        command(train, *tiny, "--out", tmp_path / "run", "--eval-episodes", 0, "--log-every", 1000, "--save-every", 15)
    assert all(tensor.isfinite().all() for tensor in load_file(tmp_path / "run" / "model.safetensors").values())
    assert tensors.header(tmp_path / "run" / resume.FILE)["step"] == "15"


def test_resuming_is_recorded_and_refuses_other_demonstrations(tiny, tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    shutil.rmtree(run / "figures")
    command(train, *tiny, "--out", run, "--resume", "--eval-episodes", 0)
    assert [line["step"] for line in runs.training_record(run)["resumed"]] == [30]
    saved, about = tensors.load(run / resume.FILE)
    tensors.save(run / resume.FILE, saved, about | {"data": f'"{"0" * 64}"'})
    with pytest.raises(BadInput, match="^the demonstrations are not those"):
        command(train, *tiny, "--out", run, "--resume", "--eval-episodes", 0)


def test_the_same_demonstrations_in_another_order_are_others():
    windows = SimpleNamespace(observations={"a": torch.rand(5, 3)}, actions=torch.rand(5, 8, 2))
    turned = SimpleNamespace(observations={"a": windows.observations["a"].flip(0)}, actions=windows.actions.flip(2))
    one, other = map(train.resume.fingerprint, (windows, turned))
    assert one == train.resume.fingerprint(windows) != other
    assert train.resume.fingerprint(windows, {"old": torch.ones(2)}) != one  # and what is remembered of old tasks


def test_default_run_folders_are_numbered(tmp_path):
    """Empty folders, which an interrupted command leaves behind, are not counted, nor runs without a checkpoint."""
    for name in ("reach-fdp", "reach-fdp-2", "reach-fdp-3"):
        (tmp_path / name / "figures").mkdir(parents=True)
    (tmp_path / "reach-fdp" / "config.json").write_text('{"policy": "fdp", "policy_config": {}, "train": {}}')
    assert folders.free(tmp_path / "reach-fdp") == tmp_path / "reach-fdp"
    (tmp_path / "reach-fdp" / "model.safetensors").touch()
    assert folders.free(tmp_path / "reach-fdp") == tmp_path / "reach-fdp-2"


@pytest.mark.parametrize("flags,words", [
    (["--sampling-steps", 101], "between 1 and the 100 diffusion steps"),
    (["--sampler", "ddpm", "--sampling-steps", 10], "ddpm visits all 100"),
    (["--sampler", "heun"], "unknown sampler 'heun': choose from ddpm, ddim, dpm"),
    (["--tasks", "hammer"], "does not know task 'hammer'; it knows reach, push"),
    (["--seed", -100], "--seed must be between 0 and 2147483647, got -100"),
    (["--seed", 10**20], "--seed must be between 0 and"),
    (["--episodes", 0], "episodes must be between 1 and 10000"),
    (["--out", "/proc/nowhere/e.json"], "cannot write to --out"),
    (["--out", "/tmp"], "must name a file that ends in .json"),
    (["--out", "pyproject.toml"], "must name a file that ends in .json"),
])  # fmt: skip
def test_evaluation_refuses(tiny_run, flags, words):
    with pytest.raises(BadInput, match=words):
        command(evaluate, "--run", tiny_run, *flags)


@pytest.mark.parametrize("content", ["5", '{"mine": 1}', "not JSON"])
def test_evaluation_replaces_nothing_but_evaluations(tiny_run, tmp_path, content):
    (tmp_path / "e.json").write_text(content)
    with pytest.raises(BadInput, match="e.json exists and is not such a result"):
        command(evaluate, "--run", tiny_run, "--out", tmp_path / "e.json")
    assert (tmp_path / "e.json").read_text() == content


def test_missing_and_damaged_runs_are_refused(tiny, tiny_run, tmp_path):
    with pytest.raises(BadInput, match="no run in .*nowhere"):
        command(evaluate, "--run", tmp_path / "nowhere")
    config = (tiny_run / "config.json").read_bytes()
    assert b"    32,\n" in config
    for name, content, words in (
        ("model.safetensors", (tiny_run / "model.safetensors").read_bytes()[:5000], "model.safetensors is damaged"),
        ("config.json", b'{"policy": "fdp"', "config.json is damaged"),
        ("config.json", b'{"policy": "fdp", "policy_config": {"colour": 3}}', "config.json is damaged"),
        ("config.json", config.replace(b"    32,", b"    -32,"), "config.json is damaged"),
    ):
        copy = tmp_path / "copy"
        shutil.copytree(tiny_run, copy, dirs_exist_ok=True)
        (copy / name).write_bytes(content)
        with pytest.raises(BadInput, match=words):
            command(evaluate, "--run", copy)
        shutil.rmtree(copy)
    shutil.copytree(tiny_run, tmp_path / "run")
    (tmp_path / "run" / resume.FILE).write_bytes(b"PK\x03\x04 half a file")
    with pytest.raises(BadInput, match=f"{resume.FILE} is damaged"):
        command(train, *tiny, "--out", tmp_path / "run", "--resume", "--eval-episodes", 0)


def test_bad_input_is_one_line_exit_code_2_and_no_traceback(monkeypatch, capsys):
    """All of them inside this process, each script as `__main__`; and one of each script in a process of its own."""
    bad = [
        ["train.py", "--tasks", "puhs"], ["train.py", "--steps", "many"], ["train.py", "--size", "huge"],
        ["adapt.py", "--run", "study/core/mt6", "--tasks", "hammer"], ["adapt.py", "--mode", "x", "--run", "x"],
        ["evaluate.py", "--run", "runs/nowhere"], ["evaluate.py", "--colour", "red", "--run", "x"], ["evaluate.py"],
    ]  # fmt: skip
    monkeypatch.chdir(ROOT)
    for words in bad:
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as left:
            runpy.run_path(words[0], run_name="__main__")
        said = capsys.readouterr()
        assert left.value.code == 2 and said.out == "", words
        assert said.err.startswith("error: ") and said.err.count("\n") == 1, (words, said.err)
    with ThreadPoolExecutor(2) as pool:  # most of it is waiting for Python to import torch
        one_each = list({words[0]: words for words in bad}.values())
        for words, done in zip(one_each, pool.map(lambda words: script(*words), one_each), strict=True):
            assert done.returncode == 2 and done.stdout == "", words
            assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, (words, done.stderr)


def test_unwritable_output(tiny, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(BadInput, match="cannot write to --out"):
        command(train, *tiny, "--out", tmp_path / "file" / "run")
    with pytest.raises(BadInput, match="cannot use --data-dir"):
        command(train, *tiny, "--out", tmp_path / "run", "--data-dir", tmp_path / "file" / "data")


def test_numbers_too_small_to_be_normal_are_zeros_in_every_thread():
    """Else a router that is sure makes a training step on a CPU twice as long."""
    multiply = "small = torch.full((1 << 20,), 1e-30); n = (small * 1e-10).count_nonzero().item()"
    for choose, left in (("", 1 << 20), ("machine.choose_device('cpu'); ", 0)):
        program = f"import torch; from plumbing import machine; {choose}{multiply}; print(n, torch.get_num_threads())"
        ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True,
                               env=os.environ | {"OMP_NUM_THREADS": "2"})  # fmt: skip
        assert ended.stdout.split() == [str(left), "2"]
