"""How demonstrations are made: MetaWorld's scripted experts play, Minari stores.

The expert is disturbed while it acts (Gaussian noise on the hand), but what is recorded is the action it *wanted*: so
the data shows how to come back from where a learned policy will inevitably drift (DART, Laskey et al. 2017, arXiv
1703.09327). Noise-free demonstrations cover one thin line through the state space, and cloning them fails off that
line.

Each task is one Minari dataset, `fdp/<task>/expert-v0` in the data folder. Seeds 0, 1, 2 ... are played, and the
successes kept in order, so the first 25 episodes of 50 are exactly the 25 that asking for 25 would have made. Other
draws, for results that do not hang on one set of demonstrations, have seeds and datasets of their own
(`--demo-draw 1`).
"""

import fcntl
import io
import os
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

import gymnasium
import h5py
import minari
import numpy as np
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage

import envs  # noqa: F401  (registers the ids that datasets refer to)
from envs import datasets, pixels
from envs.metaworld import TASKS
from envs.rollout import FIRST_EVALUATION_SEED, Roller
from envs.tasks import make, slug, spaces
from envs.worker import Episode, finite
from plumbing import files
from plumbing.cli import BadInput, progress, say

DATASET_ID = "fdp/{task}/expert-v0"
DRAW_SEEDS = 50_000  # environment seeds that each draw of demonstrations has to itself
DRAWS = FIRST_EVALUATION_SEED // DRAW_SEEDS
ACTION_NOISE = 0.1  # of half the action range; larger makes experts fail, smaller leaves drift uncovered
STEPS_AFTER_SUCCESS = 10  # so that staying at the goal is in the data too
TRIES = 3  # with a seed whose environment raises an exception, or whose process dies
COLLECTING = ".collecting-"  # how the names of temporary folders begin
AUTHOR = "fdp envs/demos.py"  # marks datasets that we made (in that file, once), and may therefore remake
# Stored with each dataset; one made by another recipe is made again. Change it when anything here changes the data.
RECIPE = f"3: named parts, action noise {ACTION_NOISE}, {STEPS_AFTER_SUCCESS} steps after success"


def drawn(draw: int) -> str:
    """The Minari id, with {task}, of a draw of our demonstrations."""
    return DATASET_ID.replace("-v0", f"-draw{draw}-v0") if draw else DATASET_ID


def dataset_name(task: str, dataset_id: str) -> str:
    """The Minari id of a task's demonstrations."""
    return dataset_id.replace("{task}", slug(task))


def must_collect(task: str, count: int, data_dir: Path, draw: int) -> bool:
    """Whether a task's demonstrations have to be made, or made again: none, too few, or by another recipe. BadInput
    where what lies there is of another task, or somebody else's and too few."""
    name = dataset_name(task, drawn(draw))
    if not os.path.lexists(files.inside(data_dir, name, "a dataset id")):
        return True
    dataset = datasets.find(name, data_dir)
    episodes, ours = dataset.metadata["total_episodes"], is_ours(dataset)
    if ours and dataset.metadata.get("recipe") != RECIPE:
        return True
    if ours and not _is_of(dataset, task):
        other = dataset.metadata.get("task", "another task")
        raise BadInput(f"dataset {name} in {data_dir} is of {other!r:.80}, and '{task}' would have the same name: "
                       "choose another --data-dir, or register the environment under another id")  # fmt: skip
    if episodes >= count:
        return False
    if not ours:
        raise BadInput(
            f"dataset {name} in {data_dir} holds {episodes} episodes, {count} are needed, and it was not "
            f"made by this project, so it is not replaced; lower --demos-per-task or choose another --data-dir"
        )
    return True


def is_ours(dataset: datasets.Dataset) -> bool:
    """Whether `collect` has made it."""
    authors = dataset.metadata.get("author")
    return isinstance(authors, list) and AUTHOR in authors


def _is_of(dataset: datasets.Dataset, task: str) -> bool:
    """Whether a dataset of ours was recorded for this task; names that differ by a "/" may give the same id."""
    about = dataset.metadata
    if "task" in about:
        return about["task"] == task
    return f"scripted expert for {task}. " in str(about.get("description"))  # older ones


def check_experts(tasks: list[str]) -> None:
    """BadInput for a task that nobody can demonstrate."""
    if without := [task for task in tasks if not spaces(task).expert]:
        raise BadInput(f"environment '{without[0]}' has no expert_action(): name a dataset with --dataset-id")


def collect(tasks: list[str], count: int, data_dir: Path, draw: int = 0) -> None:
    """Make a dataset of `count` successful expert episodes for each task; replaces one of ours.

    Raises BadInput when an expert fails so often that it is no teacher.
    """
    check_experts(tasks)
    say(f"collecting {count} demonstrations for {', '.join(tasks)} in {data_dir}")
    with Roller() as roller, progress(total=count * len(tasks), unit="demo", desc="demonstrations") as bar:
        for task in tasks:  # stored one by one: what comes after may be interrupted
            kept: list[Episode] = []
            attempts = size = 0

            def on_done(episode: Episode, task: str = task) -> None:
                nonlocal size
                seen = (x for o in episode.observations for x in (o.values() if isinstance(o, dict) else [o]))
                size += episode.success * sum(np.asarray(x).nbytes for x in seen)
                if size > datasets.MOST_BYTES:  # now, rather than when it is read
                    raise BadInput(f"{count} demonstrations of '{task}' are more than {datasets.MOST_BYTES:,} bytes: "
                                   "ask for fewer, or smaller pictures")  # fmt: skip
                bar.update(episode.success)

            while missing := count - len(kept):
                if attempts + missing > 4 * count + 20:
                    raise BadInput(f"the scripted expert for '{task}' succeeded only {len(kept)} times in {attempts}")
                seeds = range(DRAW_SEEDS * draw + attempts, DRAW_SEEDS * draw + attempts + missing)
                assert seeds.stop <= min(DRAW_SEEDS * (draw + 1), FIRST_EVALUATION_SEED)
                attempts += missing
                played = _play(roller, task, seeds, on_done)
                # A NaN ends an episode, and after a success that would be the recording's last observation.
                kept += [e for e in played if e.success and finite(e.observations[-1])]
            _store(task, kept, attempts, data_dir, draw)


def _play(roller: Roller, task: str, seeds, on_done) -> list[Episode]:
    """The expert's episodes of these seeds. One that is lost with its worker is played again: no seed may be skipped,
    or the data would depend on it. BadInput for one that is lost again and again.
    """
    played: dict[int, Episode] = {}
    for _ in range(TRIES):
        todo = [seed for seed in seeds if seed not in played]
        episodes = [Episode(task, seed, True, ACTION_NOISE, STEPS_AFTER_SUCCESS) for seed in todo]
        done = roller.play_expert(episodes, on_done=on_done) if todo else []
        played |= {e.seed: e for e in done if not e.lost}
    if lost := [e for e in done if e.lost]:
        raise BadInput(f"the scripted expert for '{task}' could not be played with seed {lost[0].seed}: {lost[0].lost}")
    return [played[seed] for seed in seeds]


def _store(task: str, episodes: list[Episode], attempts: int, data_dir: Path, draw: int) -> None:
    """Store a task's episodes as a dataset of ours."""
    name, env = dataset_name(task, drawn(draw)), make(task)
    both_spaces = env.observation_space, env.action_space
    env.close()
    buffers = [
        EpisodeBuffer(
            id=i,
            seed=episode.seed,
            observations=_stack(episode.observations),
            # The expert's clean action is the label; what was really executed, and led to the next observation, is in
            # infos.
            actions=np.asarray(episode.actions),
            rewards=episode.rewards,
            terminations=[False] * len(episode.actions),
            truncations=[False] * (len(episode.actions) - 1) + [True],
            infos={"executed_action": _with_first(episode.executed), "phases": _with_first(episode.phases)},
        )
        for i, episode in enumerate(episodes)
    ]
    # Other environments may be ones that no text describes (registered with a class, say).
    spec = gymnasium.spec(f"fdp/{task}-v3" if task in TASKS else task) if task in (*TASKS, *pixels.IDS) else None
    store(data_dir, name, both_spaces, buffers, {
        "algorithm_name": "scripted expert",
        "author": {AUTHOR},
        "description": f"Successful episodes of the scripted expert for {task}. Gaussian noise {ACTION_NOISE} "
        "on the executed actions (not the gripper), the expert's clean action as label, goal and objects drawn "
        "anew from the episode's seed.",
        "requirements": ["metaworld==3.1.1"] if spec else [],
        "expert_attempts": attempts,
        "expert_success_rate": len(episodes) / attempts,
        "recipe": RECIPE,
        "task": task,
    }, spec, lambda: must_collect(task, len(episodes), data_dir, draw))  # fmt: skip


def store(data_dir: Path, name: str, both_spaces: tuple, buffers: list, about: dict, spec=None, wanted=lambda: True):
    """Write one Minari dataset in a temporary folder, then rename: a crash leaves the old one, or none, never half.

    both_spaces: of observations and actions; about: what else stands in its metadata; wanted: asked when nobody else
    can write: another process may have been faster, and have as many episodes or more. BadInput for episodes that
    nobody could learn from, and where the name is that of a folder with something else, such as other datasets.
    """
    data_dir = data_dir.resolve()  # Minari loses its way with relative folders
    target = files.inside(data_dir, name, "a dataset id")
    if not buffers:
        raise BadInput(f"{name}: no episode to store")
    seen, acted = both_spaces
    shapes = {part: space.shape for part, space in getattr(seen, "spaces", {"state": seen}).items()}
    for i, episode in enumerate(buffers):
        rows = episode.observations if isinstance(episode.observations, dict) else {"state": episode.observations}
        check_episode(f"{name}, episode {i}", rows, episode.actions, shapes, acted.shape)
    others = [path.parent.parent for path in target.glob("**/data/metadata.json") if path.parent.parent != target]
    others += [path for path in target.parents if path != data_dir and (path / "data" / "metadata.json").exists()]
    if others:
        raise BadInput(f"{target} and another dataset, {others[0]}, would lie in each other: choose another name, such "
                       f"as {name}/v0")  # fmt: skip
    if target.exists() and not (target / "data" / "metadata.json").exists():
        raise BadInput(f"{target} holds something else than a dataset: choose another name, such as {name}/v0")
    data_dir.mkdir(parents=True, exist_ok=True)
    with lock(data_dir, fcntl.LOCK_EX), tempfile.TemporaryDirectory(dir=data_dir, prefix=COLLECTING) as temporary:
        if not wanted():
            return
        folder = Path(temporary) / "new" / "data"
        folder.parent.mkdir()
        storage = MinariStorage.new(folder, *both_spaces, spec)
        # In memory first: where HDF5 finds the disk full, it takes the whole process down with it.
        storage._file_path = content = io.BytesIO()
        storage.update_episodes(buffers)
        storage._file_path = content = _packed(content)
        size = round(content.getbuffer().nbytes / 1e6, 1)
        ids = {"dataset_id": name, "minari_version": minari.__version__, "dataset_size": size}
        storage.update_metadata(ids | about)
        files.write(folder / "main_data.hdf5", content.getbuffer())
        files.write(folder / "metadata.json", (folder / "metadata.json").read_bytes())  # on the disk, not in a cache
        datasets.seal(folder)
        files.write(Path(temporary) / "namespace", b"{}")
        target.parent.mkdir(parents=True, exist_ok=True)
        old = Path(temporary) / "replaced"
        try:
            if target.exists():
                os.rename(target, old)
            os.rename(folder.parent, target)
        finally:  # a signal between the two would cost both
            if old.exists() and not target.exists():
                os.rename(old, target)
        # Minari's own record that the folder fdp/ is a namespace; somebody else's says more.
        if not (record := data_dir / name.split("/")[0] / "namespace_metadata.json").exists():
            os.replace(Path(temporary) / "namespace", record)


def check_episode(where: str, observations: dict, actions, shapes: dict, action_shape: tuple, needed=None) -> None:
    """BadInput for an episode that no policy can learn from.

    It must have the parts of `shapes` (of `needed`, if given, at least those), all of it finite and in these shapes,
    with one observation more than actions. Pictures are bytes: in 0..1 they would be learned, and 0..255 be seen.
    """
    if not set(shapes if needed is None else needed) <= set(observations) <= set(shapes):
        raise BadInput(f"{where}: observations have parts {list(observations)}, not {list(needed or shapes)}")
    given = {f"observations '{part}'": (x, shapes[part]) for part, x in observations.items()}
    lengths = []
    for what, (x, shape) in {**given, "actions": (actions, action_shape)}.items():
        try:
            rows, numbers = np.asarray(x), finite(x)
        except (ValueError, TypeError) as error:
            raise BadInput(f"{where}: {what} are something else than numbers ({error!s:.200})") from error
        if rows.ndim != 1 + len(shape) or rows.shape[1:] != tuple(shape):
            raise BadInput(f"{where}: {what} have shape {rows.shape}, expected (steps, {', '.join(map(str, shape))})")
        if len(shape) == 3 and shape[0] == 3 and rows.dtype != np.uint8:
            raise BadInput(f"{where}: {what} are pictures, and must be uint8, 0 to 255, not {rows.dtype}")
        if not numbers:
            raise BadInput(f"{where}: {what} contain NaN or infinite values")
        lengths.append(len(rows))
    *seen, steps = lengths
    if steps < 1 or set(seen) != {steps + 1}:
        raise BadInput(f"{where}: {'/'.join(map(str, sorted(set(seen))))} observations and {steps} actions; there must "
                       "be at least one action, and one observation more than actions")  # fmt: skip


@contextmanager
def lock(data_dir: Path, kind: int):
    """Many may read (LOCK_SH), or one may store and tidy up (LOCK_EX). A process that dies gives its lock back.

    Yields whether it was given: some network drives know no locks.
    """
    handle, given = None, False
    try:
        with suppress(OSError):
            handle = os.open(data_dir, os.O_RDONLY)
            fcntl.flock(handle, kind)
            given = True
        yield given
    finally:
        if handle is not None:
            os.close(handle)


def sweep(data_dir: Path) -> None:
    """Remove what killed processes have left behind; what a living one is at work on is gone once the lock is given."""
    if any(data_dir.glob(COLLECTING + "*")):
        with lock(data_dir, fcntl.LOCK_EX) as given:
            for rest in data_dir.glob(COLLECTING + "*") if given else ():
                shutil.rmtree(rest, ignore_errors=True)


def _stack(observations: list):
    """Observations, one by one -> arrays with one row each; part by part, where they have parts."""
    if isinstance(observations[0], dict):
        return {name: np.stack([o[name] for o in observations]) for name in observations[0]}
    return np.stack(observations)


def _packed(content: io.BytesIO) -> io.BytesIO:
    """The same HDF5 file with its pictures, if it has any, compressed without loss: a third of the size."""
    packed = io.BytesIO()

    def take(name: str, item) -> None:
        if isinstance(item, h5py.Group):
            new = file.require_group(name)
        else:
            pictures = item.dtype == np.uint8 and item.ndim == 4
            how = {"chunks": (min(len(item), 16), *item.shape[1:]), "compression": "gzip", "compression_opts": 1}
            new = file.create_dataset(name, data=item[()], **how if pictures else {})
        new.attrs.update(item.attrs)

    with h5py.File(content, "r") as plain:
        found = []
        plain.visititems(lambda _, item: found.append(item.dtype == np.uint8) if hasattr(item, "dtype") else None)
        if not any(found):
            return content
        with h5py.File(packed, "w") as file:
            file.attrs.update(plain.attrs)
            plain.visititems(take)
    return packed


def _with_first(rows: list) -> np.ndarray:
    """Minari's infos have one row per observation, including the reset's; that one gets zeros."""
    rows = np.asarray(rows, dtype=np.float32)
    return np.concatenate([np.zeros_like(rows[:1]), rows])
