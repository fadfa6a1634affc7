"""Windows at both ends, the Minari round trip, and datasets that are refused."""

import warnings
from contextlib import contextmanager

import gymnasium
import minari
import numpy as np
import pytest
from minari.data_collector import EpisodeBuffer

from envs import recording
from envs.demos import DATASET_ID, demonstrations, load, make_windows
from envs.metaworld import PARTS, MetaWorldEnv
from envs.rollout import FIRST_EVALUATION_SEED
from plumbing.cli import BadInput


@contextmanager
def minari_folder(folder):
    """Minari finds its datasets through an environment variable."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(folder))
        yield


def test_windows_at_both_ends():
    episodes = [
        {
            "observations": {"x": np.arange(5, dtype=np.float32)[:, None], "y": np.arange(5) - 50},
            "actions": 10 + np.arange(4, dtype=np.float32)[:, None],
        },
        {
            "observations": {"x": 100 + np.arange(3, dtype=np.float32)[:, None], "y": np.arange(3) + 50},
            "actions": 20 + np.arange(2, dtype=np.float32)[:, None],
        },
    ]
    observations, actions = make_windows(episodes, horizon=3)
    # Every action starts one window; the observation is the one it answered; the last action repeats, and no window
    # reaches into the next episode.
    assert observations["x"][:, 0].tolist() == [0, 1, 2, 3, 100, 101]
    assert observations["y"].tolist() == [-50, -49, -48, -47, 50, 51]  # every part, row by row the same moment
    assert actions[:, :, 0].tolist() == [
        [10, 11, 12],
        [11, 12, 13],
        [12, 13, 13],
        [13, 13, 13],
        [20, 21, 21],
        [21, 21, 21],
    ]


def test_a_horizon_longer_than_the_episode():
    _, actions = make_windows(
        [{"observations": {"x": np.zeros((2, 1), np.float32)}, "actions": np.ones((1, 1), np.float32)}], 8
    )
    assert actions.tolist() == [[[1.0]] * 8]


@pytest.fixture(scope="module")
def made(data_dir):
    return demonstrations(["reach", "push", "door-open"], 3, data_dir)


@pytest.mark.parametrize("task", ["push", "door-open"])
def test_demonstrations_replay_in_the_simulator(made, data_dir, task):
    """The recorded observations are what the environment gives when the *executed* actions are played again."""
    with minari_folder(data_dir):
        dataset = minari.load_dataset(DATASET_ID.format(task=task))
        episode = next(dataset.iterate_episodes())
        assert dataset.env_spec.id == f"fdp/{task}-v3" and dataset.recover_environment().unwrapped.task == task
    assert dataset.storage.metadata["expert_success_rate"] >= 0.6
    env, seed = MetaWorldEnv(task), int(dataset.storage.get_episode_metadata([0]).__iter__().__next__()["seed"])
    assert seed < FIRST_EVALUATION_SEED
    first = env.reset(seed=seed)[0]
    assert set(first) == set(episode.observations)
    assert all(np.array_equal(first[part], rows[0]) for part, rows in episode.observations.items())
    successes = []
    for t, executed in enumerate(episode.infos["executed_action"][1:]):
        observation, _, _, _, info = env.step(executed)
        successes.append(info["success"])
        for part, rows in episode.observations.items():
            assert np.allclose(observation[part], rows[t + 1], atol=1e-9), part
    assert any(successes) and not successes[0]
    # The label is the expert's clean action, not the disturbed one that was executed.
    gap = np.abs(episode.actions - episode.infos["executed_action"][1:])
    assert 0.02 < gap[:, :3].mean() < 0.2 and gap[:, 3].max() == 0
    noise = np.random.default_rng(seed).standard_normal((len(episode.actions), 3))  # of this episode, and no other
    executed = (episode.actions[:, :3] + 0.1 * noise).clip(-1, 1)
    assert np.allclose(episode.infos["executed_action"][1:, :3], executed, atol=1e-6)


def test_minari_round_trip_and_nested_subsets(made, data_dir, monkeypatch):
    monkeypatch.setattr(recording, "collect", lambda *_: pytest.fail("collected again although the dataset is there"))
    again = demonstrations(["push"], 2, data_dir)["push"]
    for new, old in zip(again, made["push"], strict=False):
        assert np.array_equal(new["actions"], old["actions"])
        assert {part: rows.shape[1:] for part, rows in new["observations"].items()} == PARTS
        for part, rows in new["observations"].items():
            assert np.array_equal(rows, old["observations"][part])
            assert rows.dtype == np.float32 and len(rows) == len(new["actions"]) + 1
    assert len(again) == 2
    with minari_folder(data_dir):
        theirs = list(minari.load_dataset(DATASET_ID.format(task="push")).iterate_episodes())
    assert len(theirs) >= len(made["push"])  # other tests ask for more, which leaves the first ones
    for mine, other in zip(made["push"], theirs, strict=False):
        assert np.array_equal(mine["actions"], other.actions)
        for part, rows in mine["observations"].items():
            assert np.array_equal(rows, other.observations[part].astype(np.float32))


def test_asking_for_more_keeps_the_first_ones(made, data_dir):
    more = demonstrations(["reach"], 4, data_dir)["reach"]
    assert len(more) == 4
    assert all(np.array_equal(new["actions"], old["actions"]) for new, old in zip(more, made["reach"], strict=False))


def test_demonstrations_by_another_recipe_are_made_again(made, data_dir, monkeypatch):
    asked = []
    monkeypatch.setattr(recording, "collect", lambda tasks, *_: asked.extend(tasks))
    demonstrations(["push"], 3, data_dir)
    assert asked == []
    monkeypatch.setattr(recording, "RECIPE", recording.RECIPE + ", and a sauce")
    demonstrations(["push"], 3, data_dir)
    assert asked == ["push"]


def test_an_episode_that_dies_with_its_worker_is_played_again():
    """Skipping its seed would make the data depend on which worker died."""

    class Roller:
        calls = []

        def play_expert(self, episodes, on_done):
            self.calls.append([e.seed for e in episodes])
            for episode in episodes:
                episode.lost = "its worker died" if len(self.calls) == 1 and episode.seed in (4, 6) else ""
            return episodes

    played = recording._play(Roller(), "push", range(3, 8), on_done=None)
    assert [e.seed for e in played] == [3, 4, 5, 6, 7] and not any(e.lost for e in played)
    assert Roller.calls == [[3, 4, 5, 6, 7], [4, 6]]


def make_foreign(data_dir, name, count=2, o_dim=39, a_dim=4, steps=5, nan=False, extra=1, parts=None):
    """A dataset as another user would make it with Minari's own tools, without this project: MetaWorld's plain vector,
    or named parts of these shapes."""
    Box, Dict, buffers = gymnasium.spaces.Box, gymnasium.spaces.Dict, []
    shapes = parts or {"": (o_dim,)}
    for i in range(count):
        random = np.random.default_rng(i)
        observations = {part: random.standard_normal((steps + extra, *shape)) for part, shape in shapes.items()}
        if nan:
            observations[""][2, 3] = np.nan
        buffers.append(
            EpisodeBuffer(id=i, observations=observations if parts else observations[""],
                          actions=np.zeros((steps, a_dim), np.float32), rewards=[0.0] * steps,
                          terminations=[False] * steps, truncations=[False] * (steps - 1) + [True])
        )  # fmt: skip
    spaces = {part: Box(-np.inf, np.inf, shape, np.float64) for part, shape in shapes.items()}
    with warnings.catch_warnings(), minari_folder(data_dir):
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(
            name, buffers, action_space=Box(-1, 1, (a_dim,)), author="somebody",
            observation_space=Dict(spaces) if parts else spaces[""],
        )  # fmt: skip


def test_somebody_elses_dataset_loads(tmp_path):
    """Recorded as one vector, as MetaWorld gives it: hand 0:3, gripper 3, objects 4:18, the same a step ago, goal."""
    make_foreign(tmp_path, "lab/push/human-v1")
    episodes = demonstrations(["push"], 2, tmp_path, "lab/{task}/human-v1")["push"]
    assert len(episodes) == 2
    for i, episode in enumerate(episodes):
        state = np.random.default_rng(i).standard_normal((6, 39)).astype(np.float32)
        seen = episode["observations"]
        assert np.array_equal(seen["proprioception"], np.stack([state[:, 0:4], state[:, 18:22]], 1))
        assert np.array_equal(seen["objects"], np.stack([state[:, 4:18], state[:, 22:36]], 1))
        assert np.array_equal(seen["goal"], state[:, 36:39]) and len(seen) == 3


def test_somebody_elses_named_parts_load(tmp_path):
    make_foreign(tmp_path, "lab/push/human-v1", parts=PARTS)
    episode = demonstrations(["push"], 1, tmp_path, "lab/{task}/human-v1")["push"][0]
    assert {part: rows.shape for part, rows in episode["observations"].items()} == {
        part: (6, *shape) for part, shape in PARTS.items()
    }


@pytest.mark.parametrize("changes,words", [
    ({"o_dim": 38}, r"observations have parts \['state'\], not \['proprioception', 'objects', 'goal'\]"),
    ({"parts": PARTS | {"goal": (4,)}}, r"observations 'goal' have shape \(6, 4\), expected \(steps, 3\)"),
    ({"parts": PARTS | {"camera": (4,)}}, r"observations have parts \[.*'camera'.*\], not"),
    ({"parts": {"goal": (3,)}}, r"observations have parts \['goal'\], not"),
    ({"a_dim": 3}, r"actions have shape \(5, 3\), expected \(steps, 4\)"),
    ({"extra": 3}, "8 observations and 5 actions"),
    ({"nan": True}, "observations 'proprioception' contain NaN"),
    ({"count": 0}, "holds 0 episodes, 2 are needed"),
    ({"count": 1}, "holds 1 episodes, 2 are needed"),
])  # fmt: skip
def test_unusable_datasets_are_refused(tmp_path, changes, words):
    make_foreign(tmp_path, "lab/push/human-v1", **changes)
    with pytest.raises(BadInput, match=words):
        load("push", "lab/push/human-v1", 2, tmp_path)


def test_a_dataset_id_without_the_task_would_train_all_tasks_on_one_dataset(tmp_path):
    with pytest.raises(BadInput, match="--dataset-id must contain {task}"):
        demonstrations(["reach", "push"], 2, tmp_path, "lab/push/human-v1")


def test_a_missing_dataset_is_refused_with_what_is_there(tmp_path):
    make_foreign(tmp_path, "lab/push/human-v1")
    with pytest.raises(BadInput, match="no Minari dataset 'lab/push/human-v2'.*there: lab/push/human-v1"):
        load("push", "lab/push/human-v2", 1, tmp_path)


def test_a_damaged_dataset_is_refused(tmp_path):
    make_foreign(tmp_path, "lab/push/human-v1")
    (tmp_path / "lab/push/human-v1/data/main_data.hdf5").write_bytes(b"not an HDF5 file")
    with pytest.raises(BadInput, match="cannot be read"):
        load("push", "lab/push/human-v1", 2, tmp_path)


def test_a_foreign_dataset_under_our_name_is_never_replaced(tmp_path):
    make_foreign(tmp_path, "fdp/push/expert-v0", count=1)
    before = (tmp_path / "fdp/push/expert-v0/data/main_data.hdf5").read_bytes()
    with pytest.raises(BadInput, match="not made by this project"):
        demonstrations(["push"], 2, tmp_path)
    assert (tmp_path / "fdp/push/expert-v0/data/main_data.hdf5").read_bytes() == before
