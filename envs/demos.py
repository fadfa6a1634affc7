"""Demonstrations: MetaWorld's scripted experts play, Minari stores, training gets windows.

The expert is disturbed while it acts (Gaussian noise on the hand), but what is recorded is the action it *wanted*: so
the data shows how to come back from where a learned policy will inevitably drift (DART, Laskey et al. 2017, arXiv
1703.09327). Noise-free demonstrations cover one thin line through the state space, and cloning them fails off that
line.

Each task is one Minari dataset, `fdp/<task>/expert-v0` in the data folder; envs/datasets.py reads it. Seeds 0, 1, 2 ...
are played, and the successes kept in order, so the first 25 episodes of 50 are exactly the 25 that asking for 25 would
have made. Other draws, for results that do not hang on one set of demonstrations, have seeds and datasets of their own
(`--demo-draw 1`).
"""

import fcntl
import io
import os
import shutil
import tempfile
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import gymnasium
import h5py
import minari
import numpy as np
import torch
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage
from torch import Tensor

import envs  # noqa: F401  (registers the ids that datasets refer to)
from encoder import join
from envs import datasets, pixels
from envs.metaworld import TASKS
from envs.rollout import FIRST_EVALUATION_SEED, Roller
from envs.tasks import make, name_parts, slug, spaces
from envs.worker import Episode, finite
from plumbing import files
from plumbing.cli import BadInput, progress, say
from plumbing.folders import CHECKPOINTS

DATASET_ID = "fdp/{task}/expert-v0"
DRAW_SEEDS = 50_000  # environment seeds that each draw of demonstrations has to itself
DRAWS = FIRST_EVALUATION_SEED // DRAW_SEEDS
ACTION_NOISE = 0.1  # of half the action range; larger makes experts fail, smaller leaves drift uncovered
STEPS_AFTER_SUCCESS = 10  # so that staying at the goal is in the data too
TRIES = 3  # with a seed whose environment raises an exception, or whose process dies
LITTLE_USED = 0.2  # of the action range: a policy that acts within less is worth a line
COLLECTING = ".collecting-"  # how the names of temporary folders begin
AUTHOR = "fdp envs/demos.py"  # marks datasets that we made, and may therefore remake
# Stored with each dataset; one made by another recipe is made again. Change it when anything here changes the data.
RECIPE = f"3: named parts, action noise {ACTION_NOISE}, {STEPS_AFTER_SUCCESS} steps after success"


def drawn(draw: int) -> str:
    """The Minari id, with {task}, of a draw of our demonstrations."""
    return DATASET_ID.replace("-v0", f"-draw{draw}-v0") if draw else DATASET_ID


def dataset_name(task: str, dataset_id: str) -> str:
    """The Minari id of a task's demonstrations."""
    return dataset_id.replace("{task}", slug(task))


def demonstrations(
    tasks: list[str], count: int, data_dir: Path, dataset_id: str = DATASET_ID, draw: int = 0, parts=None
) -> dict[str, list[dict]]:
    """The first `count` episodes for each task, collected first where the data folder lacks them.

    parts: names of those that a policy reads; somebody else's dataset may lack others, such as a camera.

    Returns task -> episodes, each {"observations": {part: (L+1, *shape)}, "actions": (L, A)} in float32,
    pictures in uint8.
    Raises BadInput for a dataset that cannot be used. Only the default dataset ids are ever (re)made.
    """
    if count < 1:
        raise BadInput(f"demonstrations per task must be at least 1, got {count}")
    if not isinstance(dataset_id, str) or "{task}" not in dataset_id:
        got = f"{dataset_id!r:.80}"
        raise BadInput(f"--dataset-id must contain {{task}}, which stands for the task's name, got {got}")
    if draw and dataset_id != DATASET_ID:
        raise BadInput("--demo-draw chooses among the demonstrations that are made here: leave out --dataset-id")
    draws = {drawn(d): d for d in range(DRAWS)}  # a draw may also be asked for by its id
    ours, draw = dataset_id in draws, draws.get(dataset_id) or draw
    dataset_id = drawn(draw) if ours else dataset_id
    names: dict[str, str] = {}
    for task in tasks:
        if (other := names.setdefault(slug(task), task)) != task:
            raise BadInput(f"'{other}' and '{task}' would both have the dataset {dataset_name(task, dataset_id)}: "
                           "register one of the environments under another Gymnasium id")  # fmt: skip
    try:
        data_dir = data_dir.resolve()  # Minari loses its way with relative folders
        if ours and not data_dir.exists():
            _check_experts(tasks)
        if ours:
            data_dir.mkdir(parents=True, exist_ok=True)
        elif not data_dir.is_dir():
            raise BadInput(f"--data-dir {data_dir} does not exist, and --dataset-id names what should be in it")
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise BadInput(f"cannot use --data-dir {data_dir}: {getattr(error, 'strerror', None) or error}") from error
    if any((data_dir / name).exists() for name in ("config.json", *CHECKPOINTS)):
        # Both lock their folder, so a run that looks for demonstrations in its own would wait for itself.
        raise BadInput(f"--data-dir {data_dir} is the folder of a run: demonstrations go elsewhere")
    try:
        _sweep(data_dir)
        with _lock(data_dir, fcntl.LOCK_SH):
            wanting = [t for t in tasks if ours and _must_collect(t, count, data_dir, draw)]
        if wanting:
            tempfile.TemporaryFile(dir=data_dir).close()  # whether it can be written, before minutes of work
            collect(wanting, count, data_dir, draw)
    except OSError as error:
        raise BadInput(f"cannot write demonstrations to {data_dir}: {error.strerror or error}") from error
    for task in sorted(set(tasks) - {*wanting, *TASKS}) if ours else []:
        if task.startswith("fdp/"):  # of this project, whose recipe is known
            continue
        folder = data_dir / dataset_name(task, dataset_id)
        when = datetime.fromtimestamp(folder.stat().st_mtime)
        say(f"demonstrations of {task}: those of {when:%Y-%m-%d %H:%M}; if the environment or its expert has changed "
            f"since, delete {folder}")  # fmt: skip
    return {task: load(task, dataset_name(task, dataset_id), count, data_dir, parts) for task in tasks}


def recorded(task: str, dataset_id: str, data_dir: Path) -> int:
    """How many demonstrations of a task a dataset holds; 0 if it is not there."""
    name, data_dir = dataset_name(task, dataset_id), data_dir.resolve()
    there = os.path.lexists(files.inside(data_dir, name, "a dataset id"))
    return datasets.find(name, data_dir).metadata["total_episodes"] if there else 0


def _must_collect(task: str, count: int, data_dir: Path, draw: int) -> bool:
    name = dataset_name(task, drawn(draw))
    if not os.path.lexists(files.inside(data_dir, name, "a dataset id")):
        return True
    dataset = datasets.find(name, data_dir)
    episodes, ours = dataset.metadata["total_episodes"], _is_ours(dataset)
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


def _is_ours(dataset: datasets.Dataset) -> bool:
    authors = dataset.metadata.get("author")
    return isinstance(authors, list) and AUTHOR in authors


def _is_of(dataset: datasets.Dataset, task: str) -> bool:
    """Whether a dataset of ours was recorded for this task; names that differ by a "/" may give the same id."""
    about = dataset.metadata
    if "task" in about:
        return about["task"] == task
    return f"scripted expert for {task}. " in str(about.get("description"))  # older ones


def _check_experts(tasks: list[str]) -> None:
    if without := [task for task in tasks if not spaces(task).expert]:
        raise BadInput(f"environment '{without[0]}' has no expert_action(): name a dataset with --dataset-id")


def collect(tasks: list[str], count: int, data_dir: Path, draw: int = 0) -> None:
    """Make a dataset of `count` successful expert episodes for each task; replaces one of ours.

    Raises BadInput when an expert fails so often that it is no teacher.
    """
    _check_experts(tasks)
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
    """Store a task's episodes as a dataset of ours. BadInput for one that would be refused whenever it is read."""
    for e in episodes:
        seen, actions = name_parts(task, _stack(e.observations)), np.asarray(e.actions)
        _check(task, f"environment '{task}', its expert's episode of seed {e.seed}", None, seen, actions)
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
    }, spec, lambda: _must_collect(task, len(episodes), data_dir, draw))  # fmt: skip


def store(data_dir: Path, name: str, both_spaces: tuple, buffers: list, about: dict, spec=None, wanted=lambda: True):
    """Write one Minari dataset in a temporary folder, then rename: a crash leaves the old one, or none, never half.

    both_spaces: of observations and actions; about: what else stands in its metadata; wanted: asked when nobody else
    can write: another process may have been faster, and have as many episodes or more. BadInput for episodes that
    nobody could learn from, and where the name is that of a folder with something else, such as other datasets.
    """
    data_dir = data_dir.resolve()  # Minari loses its way with relative folders
    target = files.inside(data_dir, name, "a dataset id")
    _check_episodes(name, buffers, *both_spaces)
    others = [path.parent.parent for path in target.glob("**/data/metadata.json") if path.parent.parent != target]
    others += [path for path in target.parents if path != data_dir and (path / "data" / "metadata.json").exists()]
    if others:
        raise BadInput(f"{target} and another dataset, {others[0]}, would lie in each other: choose another name, such "
                       f"as {name}/v0")  # fmt: skip
    if target.exists() and not (target / "data" / "metadata.json").exists():
        raise BadInput(f"{target} holds something else than a dataset: choose another name, such as {name}/v0")
    data_dir.mkdir(parents=True, exist_ok=True)
    with _lock(data_dir, fcntl.LOCK_EX), tempfile.TemporaryDirectory(dir=data_dir, prefix=COLLECTING) as temporary:
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


def _check_episodes(name: str, buffers: list, observation, action) -> None:
    """BadInput unless each has what these two spaces say, one observation more than actions, all of it finite."""
    if not buffers:
        raise BadInput(f"{name}: no episode to store")
    told = {part: space.shape for part, space in getattr(observation, "spaces", {"state": observation}).items()}
    told = {**told, "the actions": action.shape}
    for number, episode in enumerate(buffers):
        where = f"{name}, episode {number}"
        seen = episode.observations if isinstance(episode.observations, dict) else {"state": episode.observations}
        try:
            found = {part: np.asarray(x) for part, x in {**seen, "the actions": episode.actions}.items()}
            odd = [part for part, x in found.items() if not finite(x)]
        except (ValueError, TypeError) as error:
            raise BadInput(f"{where}: something else than numbers ({error!s:.200})") from error
        steps = len(episode.actions)
        if wrong := [part for part in {**told, **found} if part not in told or part not in found
                     or found[part].shape != (steps + (part != "the actions"), *told[part])]:  # fmt: skip
            x = found[wrong[0]].shape if wrong[0] in found else "nothing"
            raise BadInput(f"{where}: '{wrong[0]}' has shape {x}; the spaces say (steps, *{told.get(wrong[0])}), and "
                           f"there must be one observation more than the {steps} actions")  # fmt: skip
        if not steps:
            raise BadInput(f"{where}: no action in it")
        if odd:
            raise BadInput(f"{where}: NaN or infinite values in '{odd[0]}'")


@contextmanager
def _lock(data_dir: Path, kind: int):
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


def _sweep(data_dir: Path) -> None:
    """Remove what killed processes have left behind; what a living one is at work on is gone once the lock is given."""
    if any(data_dir.glob(COLLECTING + "*")):
        with _lock(data_dir, fcntl.LOCK_EX) as given:
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


def load(task: str, name: str, count: int, data_dir: Path, parts=None) -> list[dict]:
    """The first `count` episodes of a Minari dataset, checked. BadInput for wrong shapes, too few episodes, or NaNs.

    Actions beyond what the environment takes are brought into its range, which is said.
    """
    with _lock(data_dir, fcntl.LOCK_SH):
        dataset = datasets.find(name, data_dir)
        found = datasets.read(dataset, count)
    if not dataset.sealed and not _is_ours(dataset):
        say(f"{dataset.where} has no checksums ({datasets.CHECKSUMS}): damage to its numbers would not be noticed")
    episodes = [{"observations": name_parts(task, e["observations"]), "actions": e["actions"]} for e in found]
    for i, episode in enumerate(episodes):
        _check(task, f"dataset '{name}' episode {i}", parts, **episode)
        if parts is not None:  # what nobody asked for may be a camera, and large
            episode["observations"] = {part: episode["observations"][part] for part in parts}
    low, high = (np.float32(end) for end in (spaces(task).action_low, spaces(task).action_high))
    actions = np.concatenate([e["actions"] for e in episodes])
    far = np.abs(2 * actions - low - high) / (high - low)  # 1: at an end of the range
    beyond, most = (far > 1 + 1e-3).any(1).sum(), far.max(initial=0)
    if most < LITTLE_USED:
        say(f"{dataset.where}: actions use {100 * most:.2g} % of the range that '{task}' takes. A policy learns in "
            "parts of that range, so to few digits: make the action space as narrow as what is done")  # fmt: skip
    if beyond:
        say(f"{dataset.where}: {beyond} of {len(actions)} actions lie beyond what '{task}' takes, up to {most:.3g} "
            "times as far as its ends, and are clipped; are they in its units?")  # fmt: skip
    for episode in episodes:
        episode["actions"] = episode["actions"].clip(low, high)
    return episodes


def _check(task: str, where: str, parts, observations: dict[str, np.ndarray], actions: np.ndarray) -> None:
    """BadInput for an episode that is not what the task's environment gives and takes."""
    expected, lengths = spaces(task), {len(rows) for rows in observations.values()}
    if len(actions) < 1 or lengths != {len(actions) + 1}:
        raise BadInput(
            f"{where}: {'/'.join(map(str, sorted(lengths)))} observations and {len(actions)} actions; there must be at "
            "least one action, and one observation more than actions"
        )
    needed = set(expected.observation if parts is None else parts)
    if not needed <= set(observations) <= set(expected.observation):
        raise BadInput(
            f"{where}: observations have parts {list(observations)}, not {list(parts or expected.observation)}"
        )
    arrays = {f"observations '{name}'": (rows, expected.observation[name]) for name, rows in observations.items()}
    for what, (rows, shape) in {**arrays, "actions": (actions, (len(expected.action_low),))}.items():
        if rows.shape[1:] != tuple(shape):
            raise BadInput(f"{where}: {what} have shape {rows.shape}, expected (steps, {', '.join(map(str, shape))})")
        if len(shape) == 3 and shape[0] == 3 and rows.dtype != np.uint8:  # in 0..1, say, where acting will see 0..255
            raise BadInput(f"{where}: {what} are pictures, and must be uint8, 0 to 255, not {rows.dtype}")
        if not np.isfinite(rows).all():
            raise BadInput(f"{where}: {what} contain NaN or infinite values")


def make_windows(episodes: list[dict], horizon: int) -> tuple[dict[str, Tensor], Tensor]:
    """Every (observation, next H actions) pair of the episodes: observations {part: (N, *shape)}, actions (N, H, A).

    A window starts at *every* recorded action, the last one included: otherwise the end of each episode, where the task
    is completed, would never be the present moment of any training sample. Windows that reach past the end are
    filled by repeating the last action. (In Diffusion Policy, actions are positions: repeated, the hand stays. Ours are
    displacements: it moves on. So recording goes on after success, STEPS_AFTER_SUCCESS.) Zeros would loosen the grip.

        actions  a0 a1 a2 a3        H = 3:  [a0 a1 a2] [a1 a2 a3] [a2 a3 a3] [a3 a3 a3]

    Nothing is padded at the start: the observation holds the previous frame itself, and at reset the environment fills
    it with the current one.
    """
    observations, actions = [], []
    for episode in episodes:
        length = len(episode["actions"])
        index = np.minimum(np.arange(length)[:, None] + np.arange(horizon), length - 1)  # (L, H)
        actions.append(episode["actions"][index])
        # Observation t is what the expert saw when it chose action t; the one after the last action has none.
        observations.append({name: rows[:length] for name, rows in episode["observations"].items()})
    together = join([{name: torch.from_numpy(x) for name, x in o.items()} for o in observations])
    return together, torch.from_numpy(np.concatenate(actions))
