"""Mistakes of a single line that would falsify a number, or lose something, and that no other test notices: each of
these was made on purpose, and passed. study/mutants.py makes some of them again."""

import dataclasses
import json
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
import toy  # noqa: F401  (registers an environment)
from conftest import ROOT, command
from test_adapt import inputs, make_policy
from test_counting import BLOCK, TASKS, Known, policy  # noqa: F401  (a fixture)
from test_envs import Once
from test_forks import batch, make

import adapt
import evaluate
import router
import train
from encoder import PixelsEncoder
from envs import demos, experts, rollout
from envs.tasks import spaces
from envs.worker import Episode, Worker
from plumbing import cli, folders, memory, resume, runs, stages, tensors
from plumbing.cli import BadInput
from study import intervals
from unet import Conv, Linear

SHIPPED = ROOT / "study/core/mt6"
TOY = ["--tasks", "toy:Point-v0", "--batch-size", 8, "--demos-per-task", 2, "--device", "cpu", "--eval-episodes", 0]


# ------------------------------------------------------------------------------------------------ learning


def test_weights_begin_as_wide_as_pytorchs_own_layers():
    for layer, inputs_of_one in ((Conv(2, 6, 50, 3), 18), (Linear(2, 18, 50), 18)):
        for x in layer.parameters():
            assert 0.9 * inputs_of_one**-0.5 < x.abs().max() <= inputs_of_one**-0.5


def test_the_average_reaches_as_far_back_as_it_says():
    assert train.average_decay(0) == 0 and train.average_decay(2999) == pytest.approx(1 - 3000**-0.75)
    assert train.average_decay(10**6) == 0.9999


def test_weights_decay_where_there_is_no_gradient():
    class One(torch.nn.Module):
        config, device = None, torch.device("cpu")

        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.tensor([2.0]))

    one = One()
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


def test_of_an_episode_that_is_played_again_the_first_play_leaves_no_weights(policy, monkeypatch):  # noqa: F811
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
    monkeypatch.setattr(demos, "store", lambda *given: told.append(given[4]))
    kept = {"actions": [[0, 0]], "executed": [[0, 0]], "rewards": [0.0], "phases": [[0, 0, 0]]}
    demos._store("toy:Point-v0", [Episode("toy:Point-v0", 0, observations=[seen, seen], **kept)], 4, tmp_path, 0)
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
