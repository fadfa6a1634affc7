"""Demonstrations: what training gets. envs/recording.py makes them, envs/datasets.py reads the files.

A policy learns from windows: an observation, and the next H actions.
"""

import fcntl
import os
import tempfile
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from encoder import join
from envs import datasets, recording
from envs.metaworld import TASKS
from envs.recording import DATASET_ID, dataset_name, drawn, lock
from envs.tasks import name_parts, slug, spaces
from plumbing import files
from plumbing.cli import BadInput, say
from plumbing.folders import CHECKPOINTS

LITTLE_USED = 0.2  # of the action range: a policy that acts within less is worth a line


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
    draws = {drawn(d): d for d in range(recording.DRAWS)}  # a draw may also be asked for by its id
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
            recording.check_experts(tasks)
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
        recording.sweep(data_dir)
        with lock(data_dir, fcntl.LOCK_SH):
            wanting = [t for t in tasks if ours and recording.must_collect(t, count, data_dir, draw)]
        if wanting:
            tempfile.TemporaryFile(dir=data_dir).close()  # whether it can be written, before minutes of work
            recording.collect(wanting, count, data_dir, draw)
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


def load(task: str, name: str, count: int, data_dir: Path, parts=None) -> list[dict]:
    """The first `count` episodes of a Minari dataset, checked. BadInput for wrong shapes, too few episodes, or NaNs.

    Actions beyond what the environment takes are brought into its range, which is said.
    """
    with lock(data_dir, fcntl.LOCK_SH):
        dataset = datasets.find(name, data_dir)
        found = datasets.read(dataset, count)
    if not dataset.sealed and not recording.is_ours(dataset):
        say(f"{dataset.where} has no checksums ({datasets.CHECKSUMS}): damage to its numbers would not be noticed")
    episodes = [{"observations": name_parts(task, e["observations"]), "actions": e["actions"]} for e in found]
    takes = spaces(task)
    for i, episode in enumerate(episodes):
        recording.check_episode(f"dataset '{name}' episode {i}", episode["observations"], episode["actions"],
                                takes.observation, (len(takes.action_low),), parts)  # fmt: skip
        if parts is not None:  # what nobody asked for may be a camera, and large
            episode["observations"] = {part: episode["observations"][part] for part in parts}
    low, high = (np.float32(end) for end in (takes.action_low, takes.action_high))
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
