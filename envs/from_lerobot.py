"""Demonstrations from a LeRobotDataset of MetaWorld (v2 or v3, pictures as columns) -> Minari datasets of ours.

    pip install -r requirements-lerobot.txt
    python -m envs.from_lerobot FOLDER --tasks push --label "Push the puck to a goal"      # of many labels this one
    python train.py --tasks push --observation pixels --cameras corner --dataset-id "lerobot/{task}/v0"

Their camera is our `corner`, drawn with MuJoCo's usual settings and made small here: a policy that learned from theirs
sees ours a little differently (no shadows). Nothing of LeRobot is imported; what does not fit is refused in one line.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from gymnasium.spaces import Box, Dict
from minari.data_collector import EpisodeBuffer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from envs import demos, pixels, recording  # noqa: E402
from envs.lerobot_files import ACTION, IMAGE, STATE, read, readable, small  # noqa: E402
from envs.metaworld import PARTS, split_state  # noqa: E402
from envs.tasks import resolve_tasks  # noqa: E402
from plumbing.cli import BadInput, parse, run, say  # noqa: E402


@dataclass
class ConvertConfig:
    """Read a LeRobotDataset folder, write a Minari dataset."""

    folder: tyro.conf.Positional[str]  # with meta/info.json and data/
    tasks: str  # which task of ours it is; one at a time
    label: str = ""  # which of their task labels; may be left out where there is one
    size: int = 64  # of our pictures: 64, 96 or 128
    data_dir: str = "data"


def convert(folder: Path, label: str, size: int) -> list[dict[str, np.ndarray]]:
    """Episodes of one label: {"corner": (L, 3, size, size), "actions": (L, 4)}, and the parts of MetaWorld's state."""
    found = read(folder, label)
    with readable(folder):
        return [episode(rows, size, f"{folder}: episode {i}") for i, rows in sorted(found.items())]


def episode(rows: list[dict], size: int, where: str) -> dict[str, np.ndarray]:
    """Their rows of one episode -> ours, checked."""
    rows = sorted(rows, key=lambda row: row["frame_index"])
    state, actions = (np.array([row[name] for row in rows], np.float64) for name in (STATE, ACTION))
    if state.shape[1:] != (39,) or actions.shape[1:] != (4,) or len(rows) < 2:
        raise BadInput(f"{where} has states {state.shape} and actions {actions.shape}, not (steps, 39) and (steps, 4)")
    if not (np.isfinite(state).all() and np.isfinite(actions).all()):
        raise BadInput(f"{where} has numbers that are not finite")
    if [row["frame_index"] for row in rows] != list(range(len(rows))):
        raise BadInput(f"{where} has frames missing")
    if np.abs(actions).max() > 1.001:
        raise BadInput(f"{where} has actions up to {np.abs(actions).max():.2f}, and MetaWorld takes -1 to 1")
    pictures = [small(row[IMAGE]["bytes"], size, where) for row in rows]
    return split_state(state) | {"corner": np.stack(pictures), "actions": actions}


def main(config: ConvertConfig) -> dict:
    """Returns what the command's last line says: the dataset written, and how many episodes it has."""
    if config.size not in pixels.SIZES:
        raise BadInput(f"--size must be one of {pixels.SIZES}, got {config.size}")
    task, *more = pixels.through_cameras("pixels", resolve_tasks(config.tasks), config.size)
    if more:
        raise BadInput(f"--tasks must name one task, got {1 + len(more)}: a label is of one")
    data_dir, name = Path(config.data_dir).resolve(), demos.dataset_name(task, "lerobot/{task}/v0")

    def free() -> bool:  # before minutes of work, and again where nobody else can write
        if os.path.lexists(data_dir / name):
            raise BadInput(f"{data_dir / name} exists: remove it, or choose another --data-dir")
        return True

    free()
    episodes = convert(Path(config.folder), config.label, config.size)
    if len({tuple(e["goal"][0].round(4)) for e in episodes}) == 1 < len(episodes):
        raise BadInput(f"{config.folder}: the goal is the same in all episodes; a policy would learn it by heart")
    parts = {"corner": Box(0, 255, (3, config.size, config.size), np.uint8),
             "proprioception": Box(-np.inf, np.inf, PARTS["proprioception"], np.float64)}  # fmt: skip
    buffers = []
    for i, e in enumerate(episodes):  # the last picture has no action of its own, and ends the episode
        n = len(e["actions"]) - 1
        buffers.append(EpisodeBuffer(
            id=i, observations={part: e[part] for part in parts}, actions=e["actions"][:n].astype(np.float32),
            rewards=[0.0] * n, terminations=[False] * n, truncations=[False] * (n - 1) + [True], infos={},
        ))  # fmt: skip
    try:
        about = {"description": f"{config.folder}, label '{config.label}'"}
        recording.store(data_dir, name, (Dict(parts), Box(-1.0, 1.0, (4,))), buffers, about, wanted=free)
    except OSError as error:
        raise BadInput(f"cannot write to --data-dir {config.data_dir}: {error}") from error
    say(f"{len(episodes)} episodes of {task}: {name}")
    return {"dataset": name, "episodes": len(episodes)}


if __name__ == "__main__":
    run(lambda: main(parse(ConvertConfig)))
