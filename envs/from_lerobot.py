"""Demonstrations from a LeRobotDataset of MetaWorld (v2 or v3, pictures as columns) -> Minari datasets of ours.

    pip install -r requirements-lerobot.txt
    python -m envs.from_lerobot FOLDER --tasks push --label "Push the puck to a goal"      # of many labels this one
    python train.py --tasks push --observation pixels --cameras corner --dataset-id "lerobot/{task}/v0"

Their camera is our `corner`, drawn with MuJoCo's usual settings and made small here: a policy that learned from theirs
sees ours a little differently (no shadows). Nothing of LeRobot is imported; what does not fit is refused in one line.
"""

import io
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import numpy as np
import tyro
from minari.data_collector import EpisodeBuffer
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from envs import demos, pixels, recording  # noqa: E402
from envs.metaworld import split_state  # noqa: E402
from envs.tasks import resolve_tasks  # noqa: E402
from plumbing import files  # noqa: E402
from plumbing.cli import BadInput, parse, run, say  # noqa: E402

IMAGE, STATE, ACTION = "observation.image", "observation.environment_state", "action"  # columns of theirs
MOST_PIXELS = 1024  # height and width
LOOSE = re.compile(r"list(_view)?<[^<]*(null|bool)|dictionary|run_end|union|map<")  # types of a few bits a number
MOST_ROWS = 10**6  # of a file; theirs have some thousands
MOST_BYTES = 2 * 10**9  # of a file, unpacked


@dataclass
class ConvertConfig:
    """Read a LeRobotDataset folder, write a Minari dataset."""

    folder: tyro.conf.Positional[str]  # with meta/info.json and data/
    tasks: str  # which task of ours it is; one at a time
    label: str = ""  # which of their task labels; may be left out where there is one
    size: int = 64  # of our pictures: 64, 96 or 128
    data_dir: str = "data"


def convert(folder: Path, label: str, size: int) -> list[dict]:
    """Episodes of one label: {"corner": (L, 3, size, size), "actions": (L, 4)}, and the parts of MetaWorld's state."""
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise BadInput("reading LeRobot's data needs pyarrow: pip install -r requirements-lerobot.txt") from error
    info = files.read_json(folder / "meta" / "info.json")
    try:
        kinds = {name: feature.get("dtype") for name, feature in info["features"].items()}
    except (TypeError, KeyError, AttributeError) as error:
        raise BadInput(f"{folder}/meta/info.json does not list its features") from error
    if kinds.get(IMAGE) != "image":
        raise BadInput(f"{folder}: '{IMAGE}' must be pictures in columns, not {kinds.get(IMAGE) or 'missing'}")
    if missing := [name for name in (STATE, ACTION) if name not in kinds]:
        raise BadInput(f"{folder} has no column '{missing[0]}': without it nothing can be checked")
    try:
        labels = read_labels(folder, parquet)
        if (label and label not in labels) or (not label and len(labels) != 1):
            raise BadInput(f"--label must be one of {', '.join(map(repr, sorted(labels)))}, got '{label}'")
        wanted, found = labels[label or next(iter(labels))], {}
        left = [MOST_BYTES]  # of all files together
        for path in sorted(folder.glob("data/chunk-*/*.parquet")):
            if not path.resolve().is_relative_to(folder.resolve()):
                raise BadInput(f"{path} is a link that leads out of {folder}")
            columns = ["episode_index", "frame_index", "task_index", IMAGE, STATE, ACTION]
            table = rows_of(parquet, path, columns, left)
            for row in table:
                if row["task_index"] == wanted:
                    found.setdefault(row["episode_index"], []).append(row)
        return [episode(rows, size, f"{folder}: episode {i}") for i, rows in sorted(found.items())]
    except BadInput:
        raise
    except Exception as error:  # whatever a damaged file makes pyarrow raise
        raise BadInput(f"{folder} cannot be read: {str(error)[:200] or type(error).__name__}") from error


def read_labels(folder: Path, parquet) -> dict[str, int]:
    """Their task label -> task_index: meta/tasks.jsonl in v2, meta/tasks.parquet in v3."""
    if (folder / "meta" / "tasks.jsonl").exists():
        lines = files.read_text(folder / "meta" / "tasks.jsonl").splitlines()
        rows = [files.json.loads(line) for line in lines]
    else:
        rows = rows_of(parquet, folder / "meta" / "tasks.parquet")
    return {row.get("task") or row["__index_level_0__"]: row["task_index"] for row in rows}


def rows_of(parquet, path: Path, columns: list[str] | None = None, left: list[int] | None = None) -> list[dict]:
    """A Parquet file's rows. BadInput for more than a file of this kind has: a page of it may stand for gigabytes, and
    lists of nothing, of bits, or of words from a dictionary for more. left: bytes, of which what it has is taken."""
    if (rows := parquet.ParquetFile(files.regular_file(path)).metadata.num_rows) > MOST_ROWS:
        raise BadInput(f"{path} has {rows:,} rows, more than the {MOST_ROWS:,} that are read")
    for column in parquet.ParquetFile(path).schema_arrow:
        if (columns is None or column.name in columns) and LOOSE.search(str(column.type)):
            raise BadInput(f"{path} has a column '{column.name}' of type {column.type!s:.80}, which is not read")
    found, left = [], left or [MOST_BYTES]
    for batch in parquet.ParquetFile(path).iter_batches(batch_size=8, columns=columns):
        left[0] -= batch.nbytes  # a picture that is named a thousand times is kept once
        if left[0] < 0:
            raise BadInput(f"{path} unpacks to more than {MOST_BYTES:,} bytes")
        found += batch.to_pylist()
    return found


def episode(rows: list[dict], size: int, where: str) -> dict:
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


def small(content: bytes, size: int, where: str) -> np.ndarray:
    """A PNG -> (3, size, size)."""
    with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
        if max(picture.size) > MOST_PIXELS or picture.size[0] != picture.size[1]:  # before it is unpacked
            raise BadInput(f"{where} has a picture of {picture.size}; squares of at most {MOST_PIXELS} are read")
        return np.asarray(picture.convert("RGB").resize((size, size), Image.Resampling.BOX)).transpose(2, 0, 1)


def main(config: ConvertConfig) -> dict:
    """Returns what the command's last line says: the dataset written, and how many episodes it has."""
    if config.size not in pixels.SIZES:
        raise BadInput(f"--size must be one of {pixels.SIZES}, got {config.size}")
    tasks = pixels.through_cameras("pixels", resolve_tasks(config.tasks), config.size)
    if len(tasks) > 1:
        raise BadInput(f"--tasks must name one task, got {len(tasks)}: a label is of one")
    (task,), episodes = tasks, convert(Path(config.folder), config.label, config.size)
    if not episodes:
        raise BadInput(f"{config.folder} has no episode of that label")
    goals = {tuple(e["goal"][0].round(4)) for e in episodes}
    if len(goals) == 1 and len(episodes) > 1:
        raise BadInput(
            f"{config.folder}: the goal is the same in all episodes; a policy would learn the place by heart"
        )
    box = gymnasium.spaces.Box
    parts = {"corner": box(0, 255, (3, config.size, config.size), np.uint8),
             "proprioception": box(-np.inf, np.inf, (2, 4), np.float64)}  # fmt: skip
    buffers = []
    for i, e in enumerate(episodes):  # the last picture has no action of its own, and ends the episode
        n = len(e["actions"]) - 1
        buffers.append(EpisodeBuffer(
            id=i, observations={name: e[name] for name in parts}, actions=e["actions"][:n].astype(np.float32),
            rewards=[0.0] * n, terminations=[False] * n, truncations=[False] * (n - 1) + [True], infos={},
        ))  # fmt: skip
    data_dir, name = Path(config.data_dir).resolve(), demos.dataset_name(task, "lerobot/{task}/v0")
    both = gymnasium.spaces.Dict(parts), box(-1.0, 1.0, (4,), np.float32)

    def free() -> bool:  # asked again where nobody else can write
        if (data_dir / name).exists():
            raise BadInput(f"{data_dir / name} exists: remove it, or choose another --data-dir")
        return True

    try:
        free()
        about = {"description": f"{config.folder}, label '{config.label}'"}
        recording.store(data_dir, name, both, buffers, about, wanted=free)
    except OSError as error:
        raise BadInput(f"cannot write to --data-dir {config.data_dir}: {error}") from error
    say(f"{len(episodes)} episodes of {task}: {name}")
    return {"dataset": name, "episodes": len(episodes)}


if __name__ == "__main__":
    run(lambda: main(parse(ConvertConfig)))
