"""Environments of one's own, through the real commands: recorded, learned, played, adapted to, and refused."""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gymnasium
import minari
import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import ROOT, command
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.utils.env_checker import check_env
from minari.data_collector import EpisodeBuffer
from toy import Point

import adapt
import evaluate
import train
from adaptation import memory, refusals
from envs import demos, recording, tasks
from envs.demos import demonstrations, make_windows
from envs.tasks import spaces
from plumbing import cli, figures, reports, runs
from plumbing.cli import BadInput, run

TINY = ["--steps", 5, "--batch-size", 8, "--demos-per-task", 5, "--components", 2, "--device", "cpu"]


def minari_seeds(folder: Path) -> list[int]:
    """The environment seeds of a stored dataset's episodes, from its own file."""
    import h5py

    with h5py.File(folder / "data" / "main_data.hdf5") as file:
        return [int(file[f"episode_{i}"].attrs["seed"]) for i in range(len(file))]


# ------------------------------------------------------------------------------------------------ one that works


@pytest.fixture(scope="module")
def trained(data_dir, tmp_path_factory):
    """The toy, learned as anybody would: recorded, trained for seconds, evaluated. -> the run folder, the summary."""
    folder = tmp_path_factory.mktemp("toys") / "point"
    flags = ["--steps", 300, "--demos-per-task", 20, "--components", 2, "--device", "cpu", "--eval-episodes", 40]
    return folder, command(train, "--tasks", "toy:Point-v0", *flags, "--data-dir", data_dir, "--out", folder)


@pytest.mark.parametrize("name", ["Point-v0", "FlatPoint-v0", "Alone-v0"])
def test_gymnasium_accepts_the_toys(name):
    check_env(gymnasium.make(name).unwrapped, skip_render_check=True)


def test_an_environment_of_ones_own_is_learned(trained):
    folder, summary = trained
    policy = runs.load_policy(folder)
    assert {name: tuple(shape) for name, shape in policy.config.observation.items()} == {"goal": (2,), "point": (2,)}
    untrained = runs.build_policy("fdp", vars(policy.config)).eval()
    untrained.encoder.load_state_dict(policy.encoder.state_dict())  # it sees as well, and only does not know what to do
    before, _ = evaluate.evaluate(untrained, ["toy:Point-v0"], 40)
    assert before["mean_success"] <= 0.4 and summary["mean_success"] >= 0.8
    result = json.loads((folder / "evaluation.json").read_text())["tasks"]["toy:Point-v0"]
    assert result["n"] == result["expert"]["n"] == result["expert"]["successes"] == 40
    # Actions in the environment's own units: towards the goal, about as fast as the expert, and never beyond the range.
    actions, _ = policy.act({"point": np.zeros((1, 2)), "goal": np.array([[0.8, -0.8]])}, ["toy:Point-v0"])
    assert np.abs(actions).max() <= 0.05 + 1e-6
    assert np.allclose(actions.mean((0, 1)), [0.05, -0.05], atol=0.015)


def test_its_demonstrations_are_what_happened(trained, data_dir):
    """Replayed in a fresh environment: noise of a tenth of half its range, added to what the expert wanted."""
    folder = data_dir / "fdp" / "toy-Point-v0" / "expert-v0"
    seeds = minari_seeds(folder)
    os.environ["MINARI_DATASETS_PATH"] = str(data_dir)
    try:
        episodes = list(minari.load_dataset("fdp/toy-Point-v0/expert-v0").iterate_episodes())
    finally:
        del os.environ["MINARI_DATASETS_PATH"]
    noise = []
    for seed, episode in list(zip(seeds, episodes, strict=True))[:5]:
        env = Point()
        observation, _ = env.reset(seed=seed)
        for t, (wanted, executed) in enumerate(zip(episode.actions, episode.infos["executed_action"][1:], strict=True)):
            for part in ("point", "goal"):
                assert np.array_equal(episode.observations[part][t], observation[part])
            assert np.array_equal(wanted, env.expert_action())
            free = (np.abs(executed) < 0.05) & (np.abs(wanted) < 0.04)  # where the range cuts nothing off
            noise += (executed - wanted)[free].tolist()
            observation = env.step(executed)[0]
    assert len(noise) > 50 and np.std(noise) == pytest.approx(0.1 * 0.05, rel=0.25)


def test_what_gives_the_same_arrays_at_every_step_is_recorded_as_it_was(data_dir):
    """A reference to them would be the end of the episode, again and again."""
    (same,), (usual,) = (demonstrations([f"toy:{name}-v0"], 1, data_dir)[f"toy:{name}-v0"]
                         for name in ("SameArrays", "Point"))  # fmt: skip
    for part, x in usual["observations"].items():
        assert np.array_equal(same["observations"][part], x), part
    assert np.array_equal(same["actions"], usual["actions"]) and len(np.unique(usual["actions"], axis=0)) > 5


def test_demonstrations_of_ones_own_environment_say_from_when_they_are(data_dir, capsys):
    demonstrations(["toy:OtherPoint-v0", "toy:ThirdPoint-v0"], 1, data_dir)
    capsys.readouterr()
    demonstrations(["toy:OtherPoint-v0"], 1, data_dir)
    said = capsys.readouterr().err
    assert re.search(r"demonstrations of toy:OtherPoint-v0: those of 20\d\d-\d\d-\d\d \d\d:\d\d; if the env", said)
    assert str(data_dir / "fdp" / "toy-OtherPoint-v0" / "expert-v0") in said and "ThirdPoint" not in said


def test_an_environment_that_is_not_what_it_says_is_not_recorded(data_dir):
    with pytest.raises(BadInput, match=r"'toy:Misshapen-v0': its observation_space has .*\(4,\).*, and reset.* \(2,\)"):
        spaces("toy:Misshapen-v0")  # before anything is recorded, or learned
    with pytest.raises(BadInput, match=r"'toy:MisshapenLater-v0' could not .* seed 1: .*returned .*'point': \(3,\)"):
        demonstrations(["toy:MisshapenLater-v0"], 2, data_dir)
    assert not (data_dir / "fdp" / "toy-MisshapenLater-v0").exists()


def test_an_episode_that_comes_to_a_nan_fails_and_no_other_does(trained, data_dir):
    """It is what a simulation that explodes gives, perhaps by the policy's own doing: so it counts. One that begins
    with it says nothing of a policy: it is lost, and counts as nothing."""
    policy = runs.load_policy(trained[0])
    policy.config.tasks = ["toy:Broken-v0"]
    result, _ = evaluate.evaluate(policy, ["toy:Broken-v0"], 6)
    played = result["tasks"]["toy:Broken-v0"]
    assert (played["n"], played["unstable"]) == (5, 2) and {1_000_001, 1_000_002} <= set(played["failed_seeds"])
    assert list(played["lost"]) == ["1000003"] and "begins with numbers that are not finite" in str(played["lost"])
    demonstrations(["toy:Broken-v0"], 3, data_dir)
    assert minari_seeds(data_dir / "fdp" / "toy-Broken-v0" / "expert-v0") == [0, 2, 3]  # as any other that fails


def test_a_nan_after_a_success_costs_one_demonstration_and_not_all(data_dir):
    demonstrations(["toy:Overflowing-v0"], 3, data_dir)
    assert minari_seeds(data_dir / "fdp" / "toy-Overflowing-v0" / "expert-v0") == [0, 2, 5]


def test_what_is_missing_for_one_step_costs_an_episode_and_not_the_evaluation(trained, data_dir):
    policy = runs.load_policy(trained[0])
    policy.config.tasks = ["toy:Blinking-v0"]
    played = evaluate.evaluate(policy, ["toy:Blinking-v0"], 6)[0]["tasks"]["toy:Blinking-v0"]
    assert played["n"] == 5 and list(played["lost"]) == ["1000002"]
    assert re.search(r"it returned \{'point': \(2,\)\}, and its observation_space has", played["lost"]["1000002"])
    with pytest.raises(BadInput, match=r"'toy:Blinking-v0' could not be played with seed 2: .* it returned"):
        demonstrations(["toy:Blinking-v0"], 3, data_dir)


def test_what_plays_a_run_names_tasks_whose_module_must_be_trusted():
    line = reports.evaluation_command(Path("runs/my run"), ["toy:Point-v0", "toy:OtherPoint-v0"])
    script, *words = shlex.split(line.removeprefix("python "))
    config = cli.parse(evaluate.EvaluateConfig, words)
    assert (script, config.run, config.tasks) == ("evaluate.py", "runs/my run", "toy:Point-v0,toy:OtherPoint-v0")
    assert reports.evaluation_command(Path("runs/x"), ["reach"]) == "python evaluate.py --run runs/x"


def test_a_module_that_python_has_another_of_is_told_to_be_renamed(tmp_path, monkeypatch):
    """It would be looked for in ours, and Gymnasium would say that there is no such environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("envs", "wave", "time"):
        Path(f"{name}.py").write_text("import toy\n")
        tasks.trust([f"{name}:Point-v0"])
        with pytest.raises(BadInput, match=f"'{name}' is the name of another module, .*, and {tmp_path}/.*rename"):
            tasks.make(f"{name}:Point-v0")
    Path("one_of_my_own.py").write_text("import toy\n")
    tasks.trust(["one_of_my_own:Point-v0"])
    tasks.make("one_of_my_own:Point-v0").close()


def test_pictures_that_cannot_be_filmed_cost_the_video_alone(trained, tmp_path, monkeypatch, capsys):
    policy = runs.load_policy(trained[0])
    policy.config.tasks = ["toy:Floats-v0"]
    monkeypatch.setattr(evaluate, "load_policy", lambda *_: policy)
    monkeypatch.setattr(evaluate.figures, "find_opengl", lambda: True)
    command(evaluate, "--run", trained[0], "--episodes", 1, "--video", "--out", tmp_path / "e.json")
    said = capsys.readouterr().err
    assert "no video of toy:Floats-v0: render() must return (height, width, 3) in uint8" in said
    assert (tmp_path / "e.json").exists() and not (tmp_path / "videos").exists()


def test_an_environment_that_takes_whole_numbers_gets_them_from_its_expert_too(data_dir):
    (episode,) = demonstrations(["toy:Whole-v0"], 1, data_dir)["toy:Whole-v0"]
    assert np.abs(episode["actions"]).max() <= 5 and len(episode["actions"]) > 3


def test_two_tasks_do_not_share_a_dataset_because_their_names_look_alike(tmp_path):
    with pytest.raises(BadInput, match="'toy:ns/Point-v0' and .* would both have the dataset fdp/toy-ns-Point-v0/e"):
        demonstrations(["toy:ns/Point-v0", "toy:ns-Point-v0"], 1, tmp_path)
    demonstrations(["toy:ns/Point-v0"], 1, tmp_path)
    with pytest.raises(BadInput, match="is of 'toy:ns/Point-v0', and 'toy:ns-Point-v0' would have the same name"):
        demonstrations(["toy:ns-Point-v0"], 1, tmp_path)


def test_differences_that_only_one_of_two_tasks_names_are_told(monkeypatch, capsys):
    known = {"a": tasks.Spaces({"state": (6,)}, (-1.0,), (1.0,), (("state", 0, "state", 3),))}
    known["b"] = tasks.Spaces({"state": (6,)}, (-1.0,), (1.0 + 1e-9,))
    monkeypatch.setattr(tasks, "spaces", known.__getitem__)
    assert tasks.common_spaces(["a", "b"]).differences and not tasks.common_spaces(["b", "a"]).differences
    assert not capsys.readouterr().err  # a policy that is there has its own
    tasks.tell_differences(["a", "b"])
    assert "'a' and 'b' have different `differences`" in capsys.readouterr().err


def test_an_environment_whose_seed_decides_nothing_is_warned_of(capsys):
    spaces("toy:Unseeded-v0")
    assert "begins with another 'point' when it is reset with the same seed again" in capsys.readouterr().err


@pytest.mark.parametrize(("times", "said"), [
    (10, "40 of 40 actions lie beyond what 'toy:Alone-v0' takes, up to 10 times as far as its ends, and are clipped"),
    (0.1, "actions use 10 % of the range that 'toy:Alone-v0' takes"), (0.5, ""), (1.0001, ""),
])  # fmt: skip
def test_actions_in_other_units_are_noticed(times, said, tmp_path, capsys):
    ends = 0.05 * times * np.ones((40, 2), np.float32) * np.array([1, -1], np.float32)
    seen, no, zeros = {part: np.zeros((41, 2)) for part in ("point", "goal")}, [False] * 40, [0.0] * 40
    buffer = EpisodeBuffer(observations=seen, actions=ends, rewards=zeros, terminations=no, truncations=no, infos={})
    both = Point().observation_space, Box(-9, 9, (2,), np.float32)
    recording.store(tmp_path / "data", "mine/a/v0", both, [buffer], {"description": "a line"})
    (episode,) = demos.load("toy:Alone-v0", "mine/a/v0", 1, tmp_path / "data")
    assert np.array_equal(episode["actions"], ends.clip(-0.05, 0.05))
    assert capsys.readouterr().err.partition("data: ")[2].startswith(said) if said else not capsys.readouterr().err


def interrupted_at(call: int, function):
    """The function, which at this call raises what Ctrl-C raises."""
    calls = []

    def once(*arguments):
        calls.append(0)
        if len(calls) == call:
            raise KeyboardInterrupt
        return function(*arguments)

    return once


def test_what_nobody_could_learn_from_replaces_no_dataset(tmp_path, monkeypatch):
    """Nor does a name that lacks its last word, and is a folder of other datasets."""
    seen, no, zeros = {part: np.zeros((41, 2)) for part in ("point", "goal")}, [False] * 40, [0.0] * 40
    more = {"rewards": zeros, "terminations": no, "truncations": no, "infos": {}}
    buffer = EpisodeBuffer(observations=seen, actions=np.zeros((40, 2), np.float32), **more)
    both = Point().observation_space, Box(-9, 9, (2,), np.float32)
    recording.store(tmp_path / "data", "mine/a/v0", both, [buffer], {"description": "a line"})
    held = (tmp_path / "data/mine/a/v0/data/main_data.hdf5").read_bytes()
    (tmp_path / "data/mine/else").mkdir()

    def with_seen(**parts):
        return replace(buffer, observations={name: x for name, x in (seen | parts).items() if x is not None})

    short = replace(buffer, actions=buffer.actions[:-1])
    odd = replace(buffer, actions=buffer.actions * np.nan)
    for name, episodes, words in (
        ("mine/a", [buffer], "/mine/a and another dataset, .*/mine/a/v0, would lie in each other: choose another name"),
        ("mine", [buffer], "would lie in each other"),
        ("mine/a/v0/more", [buffer], "would lie in each other"),
        (
            "mine/else",
            [buffer],
            "/mine/else holds something else than a dataset: choose another name, such as mine/else/v0",
        ),
        ("../out/v0", [buffer], "a dataset id must be plain words"),
        ("mine/a/v0", [], "no episode to store"),
        ("mine/a/v0", [buffer, short], "episode 1: 41 observations and 39 actions"),
        ("mine/a/v0", [odd], "episode 0: actions contain NaN or infinite values"),
        ("mine/a/v0", [with_seen(point=seen["point"] + 1e39)], "observations 'point' contain NaN or infinite values"),
        (
            "mine/a/v0",
            [replace(buffer, actions=np.zeros((40, 7)))],
            r"actions have shape \(40, 7\), expected \(steps, 2\)",
        ),
        ("mine/a/v0", [with_seen(point=np.zeros((41, 3)))], r"'point' have shape \(41, 3\), expected \(steps, 2\)"),
        ("mine/a/v0", [with_seen(point=None)], r"have parts \['goal'\], not \['\w+', '\w+'\]"),
        ("mine/a/v0", [with_seen(hand=np.zeros((41, 3)))], r"have parts \[.*'hand'\], not \['\w+', '\w+'\]"),
        (
            "mine/a/v0",
            [replace(buffer, observations=np.zeros((41, 4)))],
            r"have parts \['state'\], not \['\w+', '\w+'\]",
        ),
        (
            "mine/a/v0",
            [with_seen(point=[["far"] * 2] * 41)],
            "episode 0: observations 'point' are something else than numbers",
        ),
        (
            "mine/a/v0",
            [replace(buffer, actions=np.zeros((0, 2)), observations={n: x[:1] for n, x in seen.items()})],
            "episode 0: 1 observations and 0 actions; there must be at least one action",
        ),
    ):
        with pytest.raises(BadInput, match=words):
            recording.store(tmp_path / "data", name, both, episodes, {"description": "another"})
    assert (tmp_path / "data/mine/a/v0/data/main_data.hdf5").read_bytes() == held
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # between two renames
        patch.setattr(os, "rename", interrupted_at(2, os.rename))
        recording.store(tmp_path / "data", "mine/a/v0", both, [buffer], {"description": "another"})
    assert (tmp_path / "data/mine/a/v0/data/main_data.hdf5").read_bytes() == held
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_one_vector_or_named_parts_is_the_same_policy(data_dir, tmp_path):
    """Point and FlatPoint differ only in how they hand over four numbers: then the weights differ in no bit."""
    for task in ("Point", "FlatPoint"):
        command(train, "--tasks", f"toy:{task}-v0", *TINY, "--data-dir", data_dir, "--out", tmp_path / task,
                "--eval-episodes", int(task == "FlatPoint"))  # fmt: skip
    named, flat = (
        safetensors.torch.load_file(tmp_path / task / "model.safetensors") for task in ("Point", "FlatPoint")
    )
    assert runs.load_policy(tmp_path / "FlatPoint").config.observation == {"state": [4]}
    assert set(named) == set(flat) and all(torch.equal(named[name], flat[name]) for name in named)


def test_pictures_are_only_asked_of_those_that_draw(trained):
    policy = runs.load_policy(trained[0])
    result, traces = evaluate.evaluate(policy, ["toy:Point-v0"], 2, video=True)
    assert result["tasks"]["toy:Point-v0"]["n"] == 2 and not traces[0][0].frames


# ------------------------------------------------------------------------------------------------ without an expert


@pytest.fixture(scope="module")
def human_data(tmp_path_factory) -> Path:
    """Demonstrations by somebody else, stored as anybody would store them."""
    folder = tmp_path_factory.mktemp("human")
    env, episodes = gymnasium.make("Alone-v0"), []
    for seed in range(5):
        observations, actions, over = [env.reset(seed=seed)[0]], [], False
        while not over:
            actions.append(Point.expert_action(env.unwrapped))
            observation, _, _, truncated, info = env.step(actions[-1])
            observations.append(observation)
            over = truncated or info["success"]
        named = {part: np.stack([observation[part] for observation in observations]) for part in observation}
        n = len(actions)
        ends = {"rewards": [0.0] * n, "terminations": [False] * n, "truncations": [False] * (n - 1) + [True]}
        episodes.append(EpisodeBuffer(id=seed, observations=named, actions=np.stack(actions), **ends))
    os.environ["MINARI_DATASETS_PATH"] = str(folder)
    try:
        minari.create_dataset_from_buffers("mylab/toy-Alone-v0/human-v0", episodes, env="Alone-v0",
                                           algorithm_name="a patient human", author="mylab")  # fmt: skip
    finally:
        del os.environ["MINARI_DATASETS_PATH"]
    return folder


@pytest.mark.filterwarnings("ignore:`.*` is set to None:UserWarning")  # what Minari would like to know of its authors
def test_without_an_expert_a_dataset_is_enough(human_data, tmp_path, monkeypatch, capsys):
    flags = [
        *TINY,
        "--tasks",
        "toy:Alone-v0",
        "--eval-episodes",
        2,
        "--data-dir",
        human_data,
        "--out",
        tmp_path / "run",
    ]
    with pytest.raises(BadInput, match="'toy:Alone-v0' has no expert_action.*--dataset-id"):
        command(train, *flags)
    drawn, save = {}, figures.save
    monkeypatch.setattr(figures, "save", lambda figure, path: drawn.update({path.name: figure}) or save(figure, path))
    summary = command(train, *flags, "--dataset-id", "mylab/{task}/human-v0")
    result = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    mine = result["tasks"]["toy:Alone-v0"]
    assert mine["n"] == 2 and mine["expert"]["n"] == 0 and mine["expert"]["success"] is None
    assert not mine["expert"]["lost"] and "died" not in capsys.readouterr().err  # it was not tried, either
    assert summary["mean_success"] is not None and re.search(r"toy:Alone-v0 .* - +2 ", reports.table(result))
    assert drawn["evaluation-success.png"].axes[0].get_legend() is None  # which would explain the expert's mark


# ------------------------------------------------------------------------------------------------ other draws


def test_another_draw_has_seeds_and_a_dataset_of_its_own(data_dir, tmp_path):
    task = "toy:Point-v0"
    demonstrations([task], 5, data_dir)
    first, again = (demonstrations([task], 5, folder, draw=1)[task] for folder in (data_dir, tmp_path))
    usual, drawn = (data_dir / "fdp" / "toy-Point-v0" / f"expert{draw}-v0" for draw in ("", "-draw1"))
    mine, theirs = minari_seeds(drawn), minari_seeds(usual)
    assert len(mine) == 5 and not set(mine) & set(range(50_000)) and set(theirs) <= set(range(50_000))
    assert max(mine) < 100_000  # and below those of draw 2, and of evaluation
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one["actions"], other["actions"])
        assert all(np.array_equal(one["observations"][part], other["observations"][part]) for part in ("point", "goal"))
    before = demonstrations([task], 5, data_dir)[task]
    assert not any(np.array_equal(a["observations"]["goal"][0], b["observations"]["goal"][0])
                   for a in first for b in before)  # fmt: skip


def test_replay_finds_the_draw_that_its_run_was_trained_on(tmp_path):
    """In a folder where no other draw was ever recorded, and none may be."""
    data, origin = tmp_path / "data", tmp_path / "origin"
    command(train, "--tasks", "toy:Point-v0", *TINY, "--demo-draw", 1, "--data-dir", data, "--out", origin,
            "--eval-episodes", 0)  # fmt: skip
    command(adapt, "--run", origin, "--tasks", "toy:OtherPoint-v0", "--retain", "replay", "--steps", 5,
            "--batch-size", 8, "--demos-per-task", 2, "--data-dir", data, "--out", tmp_path / "run",
            "--eval-episodes", 2, "--device", "cpu")  # fmt: skip
    assert not (data / "fdp" / "toy-Point-v0" / "expert-v0").exists()
    episodes = demonstrations(["toy:Point-v0"], 5, data, draw=1)["toy:Point-v0"]
    seen, _ = make_windows(episodes, 1)
    kept = safetensors.torch.load_file(tmp_path / "run" / "replay.safetensors")
    assert set(kept) == {f"toy:{name}-v0/{part}" for name in ("Point", "OtherPoint") for part in ("point", "goal")}
    for part, rows in seen.items():
        mine = kept[f"toy:Point-v0/{part}"]
        assert mine.shape == (64, 2) and torch.equal(mine[[0, -1]], rows[[0, -1]])
    success = json.loads((tmp_path / "run" / "adaptation.json").read_text())["success"]
    assert list(success[-1]) == ["toy:Point-v0", "toy:OtherPoint-v0"]


# ------------------------------------------------------------------------------------------------ what is refused


class Silent(Point):
    """It does not say whether the task is done."""

    def step(self, action):
        return *super().step(action)[:-1], {}


def broken(**space):
    class Broken(Point):
        def __init__(self):
            super().__init__()
            self.__dict__ |= space

    return Broken


BROKEN = {
    "Silent": (Silent, r"info\['success'\]"),
    "Unbounded": (broken(action_space=Box(-np.inf, np.inf, (2,), np.float32)), "bounded Box of numbers as actions"),
    "Wide": (broken(action_space=Box(-3e38, 3e38, (2,), np.float32)), "bounded Box of numbers as actions"),
    "Picture": (broken(action_space=Box(-1, 1, (2, 2), np.float32)), "bounded Box of numbers as actions"),
    "Buttons": (broken(action_space=Discrete(3)), "bounded Box of numbers as actions"),
    "Cards": (broken(observation_space=Discrete(52)), "must have a Box, or a Dict of Boxes, as observations"),
    "Mixed": (broken(observation_space=Dict({"a": Box(0, 1, (2,)), "b": Discrete(2)})), "must have a Box, or a Dict"),
}
for _name, (_kind, _) in BROKEN.items():
    gymnasium.register(f"broken/{_name}-v0", _kind, max_episode_steps=60)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Gymnasium does not like them either
@pytest.mark.parametrize(
    "task,message",
    [(f"broken/{name}-v0", message) for name, (_, message) in BROKEN.items()]
    + [
        ("toy:Pont-v0", "no environment 'toy:Pont-v0'.*Pont"),
        (".:Point-v0", "'.' is not the name of a module"),
        ("..toy:Point-v0", "'..toy' is not the name of a module"),
        ("broken/Nothing-v0", "no environment 'broken/Nothing-v0'"),
        ("no_such_module:Point-v0", "no environment.*No module named 'no_such_module'"),
        ("toy:Point-v0,toy:FlatPoint-v0", "cannot be learned together: observation"),
        ("reach,toy:Point-v0", "cannot be learned together: observation"),
    ],
)
def test_what_no_policy_can_work_with_is_refused_in_one_line(task, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        run(lambda: command(train, "--tasks", task, *TINY, "--data-dir", tmp_path / "data", "--out", tmp_path / "run"))
    said = capsys.readouterr().err
    assert left.value.code == 2 and re.fullmatch(rf"error: .*{message}.*\n", said), said
    assert not list(tmp_path.iterdir()), "nothing may have been made"


def test_a_task_that_a_run_knows_is_named_to_trust_its_module_and_not_learned_again(trained, tmp_path, capsys):
    def asked(**tasks: str) -> list[str]:
        return refusals.check(adapt.AdaptConfig(run=str(trained[0]), **tasks))

    for how in ("tasks", "sequence"):
        assert asked(**{how: "toy:OtherPoint-v0,toy:Point-v0"}) == ["toy:OtherPoint-v0"]
        assert "known already, and named so that a module is imported: toy:Point-v0" in capsys.readouterr().err
    with pytest.raises(BadInput, match="knows 'toy:Point-v0' already"):
        command(adapt, "--run", trained[0], "--tasks", "toy:Point-v0", "--out", tmp_path / "run")
    both = "toy:OtherPoint-v0,toy:Point-v0"  # full goes on with known tasks: those that are not named are forgotten
    assert asked(tasks=both, mode="full") == both.split(",")


def test_an_observation_of_other_parts_than_its_space_is_refused_in_one_line():
    class Extra(Point):
        def observe(self):
            return super().observe() | {"more": np.zeros(2)}

    gymnasium.register("broken/Extra-v0", Extra, max_episode_steps=60)
    with pytest.raises(BadInput, match="environment 'broken/Extra-v0', at reset.*"):
        spaces("broken/Extra-v0")


def test_two_modules_may_not_bring_the_same_id(tmp_path, monkeypatch):
    """Gymnasium keeps the last one, and episodes of the other would be played in it."""
    for name in ("one", "two"):
        (tmp_path / f"brings_{name}.py").write_text(
            "import gymnasium, toy\nclass Own(toy.Point): pass\n"
            "gymnasium.register('Same-v0', Own, max_episode_steps=9)\n"
        )
    monkeypatch.syspath_prepend(tmp_path)
    tasks.trust(["brings_one:Same-v0", "brings_two:Same-v0"])
    assert spaces("brings_one:Same-v0").expert
    with pytest.raises(BadInput, match="^'brings_one' and 'brings_two' both register 'Same-v0', and episodes of one"):
        spaces("brings_two:Same-v0")


def untrained(task: str):
    """A policy for its spaces."""
    s = spaces(task)
    settings = {"observation": s.observation, "action_low": s.action_low, "action_high": s.action_high, "tasks": [task]}
    return runs.build_policy("fdp", settings | {"channels": (8, 16)}).eval()


def test_actions_are_the_environments_own_to_the_last_digit():
    task = "toy:Strict-v0"
    row = evaluate.evaluate(untrained(task), [task], 6, workers=1)[0]["tasks"][task]
    assert row["n"] == 6 and not row["lost"]


def test_an_environment_finds_its_files_where_the_command_was_called(tmp_path, monkeypatch):
    """And may say `success` and reward in arrays of one."""
    (tmp_path / "table.txt").touch()
    monkeypatch.chdir(tmp_path)
    task = "toy:Relative-v0"
    row = evaluate.evaluate(untrained(task), [task], 4, workers=1)[0]["tasks"][task]
    assert row["n"] == row["expert"]["successes"] == 4 and not row["lost"]


@pytest.mark.parametrize("change, said", [
    ({"action_space": Box(np.array([-1.0, 0.5]), np.array([1.0, 0.5]))}, "whose lowest value is below the highest"),
    ({"observation_space": Dict({"arm/point": Box(-1, 1, (2,))})}, "not 'arm/point'"),
    ({"observation_space": Box(-1, 1, (0,))}, "not 'state' of shape"),
])  # fmt: skip
def test_spaces_that_no_dataset_can_hold_are_refused_at_once(change, said):
    class Odd(Point):
        def __init__(self):
            super().__init__()
            vars(self).update(change)

    name = f"broken/Odd{abs(hash(said))}-v0"
    gymnasium.register(name, Odd, max_episode_steps=9)
    with pytest.raises(BadInput, match=said):
        spaces(name)


def test_a_larger_evaluation_of_a_stage_stays_and_what_is_not_done_again_is_said(trained, data_dir, tmp_path, capsys):
    out = tmp_path / "run"
    words = ["--run", trained[0], "--tasks", "toy:OtherPoint-v0", "--steps", 4, "--demos-per-task", 5, "--copies", 0,
             "--data-dir", data_dir, "--eval-episodes", 2, "--device", "cpu", "--out", out]  # fmt: skip
    command(adapt, *words)
    command(evaluate, "--run", out, "--tasks", "toy:Point-v0,toy:OtherPoint-v0", "--episodes", 4)
    large = (out / "evaluation.json").read_bytes()
    for again in (False, True):
        capsys.readouterr()
        command(adapt, *words)
        said = capsys.readouterr().err
        assert f"{out} is trained already, by revision" in said
        assert (f"not played again: {out}/evaluation-2.json" in said) == again
    assert (out / "evaluation.json").read_bytes() == large
    assert json.loads((out / "evaluation-2.json").read_text())["tasks"]["toy:Point-v0"]["n"] == 2


def test_a_run_is_not_resumed_for_other_spaces(data_dir, tmp_path):
    flags = ["--tasks", "toy:Point-v0", *TINY, "--data-dir", data_dir, "--eval-episodes", 0, "--out", tmp_path / "run"]
    command(train, *flags)
    command(train, *flags, "--resume")
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    config["policy_config"]["action_high"] = [0.2, 0.2]  # as if the environment had had another range then
    path.write_text(json.dumps(config))
    with pytest.raises(BadInput, match=r"has action_high = \[0.2, 0.2\], and now it is \[0.05.*: the environment, or"):
        command(train, *flags, "--resume")


def test_replay_asks_for_no_more_demonstrations_than_a_run_has_learned_from(human_data, tmp_path):
    mine = ["--data-dir", human_data, "--dataset-id", "mylab/{task}/human-v0", "--device", "cpu", "--eval-episodes", 0]
    usual = ["--steps", 5, "--batch-size", 8, "--demos-per-task", 2, "--components", 2]
    command(train, "--tasks", "toy:Alone-v0", *usual, *mine, "--out", tmp_path / "run")
    asked = []
    usual_demonstrations = memory.demonstrations
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "demonstrations", lambda tasks, few, *more, **parts: asked.append(few)
                      or usual_demonstrations(tasks, few, *more, **parts))  # fmt: skip
        memory.Memory(tmp_path / "run", runs.load_policy(tmp_path / "run"), human_data)
    assert asked == [2]


def test_an_environment_without_an_end_is_warned_of(capsys):
    gymnasium.register("broken/Endless-v0", "toy:Point")
    assert spaces("broken/Endless-v0").expert
    said = capsys.readouterr().err
    assert "'broken/Endless-v0' is registered without max_episode_steps: unless it says `truncated`" in said
    spaces("toy:Point-v0")
    assert not capsys.readouterr().err


def test_adapting_to_another_shape_is_refused(trained, data_dir, tmp_path):
    with pytest.raises(BadInput, match="'toy:Point-v0' and 'toy:Wide-v0' cannot be learned together: action_low"):
        command(adapt, "--run", trained[0], "--tasks", "toy:Wide-v0", "--data-dir", data_dir, "--out", tmp_path / "run")
    with pytest.raises(BadInput, match="sees .*point.* 'toy:FlatPoint-v0' gives .*state"):
        command(adapt, "--run", trained[0], "--tasks", "toy:FlatPoint-v0", "--data-dir", data_dir, "--out",
                tmp_path / "run")  # fmt: skip


# ------------------------------------------------------------------------------------------------ from one's own folder


def test_the_documented_training_without_a_simulator_learns():
    """Half of the way to the origin, at positions that it has not seen."""
    page = (ROOT / "docs" / "environments.md").read_text()
    *_, example = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    done = {}
    exec(example, done)
    assert done["chunk"].shape == (5, 8, 2) and done["weights"].shape == (5, 4)
    new = torch.rand(50, 2) * 2 - 1
    noise = torch.randn(50, 8, 2)
    chunk, _ = done["policy"].act({"x": new}, ["home"] * 50, noise=noise)
    assert np.abs(chunk + 0.5 * new.numpy()[:, None]).mean() < 0.05


def test_the_documented_example_runs_from_the_folder_that_it_lies_in(tmp_path):
    """Its module is neither beside train.py nor on Python's path: the commands and their simulators must find it."""
    page = (ROOT / "docs" / "environments.md").read_text()
    example, *_ = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    (tmp_path / "my_envs.py").write_text(example)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    flags = ["--eval-episodes", 2, "--data-dir", "data", "--out", "run"]
    words = [sys.executable, ROOT / "train.py", "--tasks", "my_envs:Point-v0", *TINY, *flags]
    done = subprocess.run([str(word) for word in words], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"] == "run" and (tmp_path / "run" / "evaluation.json").exists()
    assert (tmp_path / "data" / "fdp" / "my_envs-Point-v0" / "expert-v0").exists()


def test_the_documented_robot_learns_from_arrays_and_acts(tmp_path):
    """Its three pieces of code and its command, one after the other, in an empty folder."""
    page = (ROOT / "docs" / "environments.md").read_text()
    _, robot, put, loop, _ = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    (command,) = re.findall(r"^python (train.py --tasks my_robot.*)", page, re.MULTILINE)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for name, text in {"my_robot.py": robot, "put.py": put, "loop.py": loop}.items():
        (tmp_path / name).write_text(text)
    train_it = [str(ROOT / "train.py"), *shlex.split(command)[1:], "--steps", "5", "--device", "cpu"]
    # The robot's computer has but four of the packages: importing another raises, as where it is not installed.
    names = re.findall(r"^[a-z]+", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    needed = re.search(r"computer needs (.*?) of requirements", page)[1].replace(" and", ",").split(", ")
    missing = dict.fromkeys({*names} - {*needed})
    on_the_robot = (
        f"import importlib.metadata, runpy, sys; sys.modules.update({missing})\n"
        "known = importlib.metadata.distribution\n"
        "def installed(name):\n"
        "    if name in sys.modules and not sys.modules[name]: raise importlib.metadata.PackageNotFoundError(name)\n"
        "    return known(name)\n"
        "importlib.metadata.distribution = installed\n"
        "import skills\n"
        "runpy.run_path('loop.py')"
    )
    for words in (["put.py"], train_it, ["-c", on_the_robot]):
        done = subprocess.run([sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert done.stdout.count("[") == 12  # three chunks, of which four actions are executed
