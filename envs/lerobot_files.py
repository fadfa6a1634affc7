"""A LeRobotDataset's folder (v2 or v3) -> the rows of its episodes; for envs/from_lerobot.py.

The files are somebody else's. Some thousand bytes of Parquet can stand for gigabytes, and links can lead anywhere:
what such a dataset does not have is refused before it is unpacked.
"""

import io
import re
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from plumbing import files
from plumbing.cli import BadInput

IMAGE, STATE, ACTION = "observation.image", "observation.environment_state", "action"  # columns of theirs
COLUMNS = ["episode_index", "frame_index", "task_index", IMAGE, STATE, ACTION]
LOOSE = re.compile(r"list(_view)?<[^<]*(null|bool)|dictionary|run_end|union|map<")  # types of a few bits a number
MOST_ROWS = 10**6  # of a file; theirs have some thousands
MOST_BYTES = 2 * 10**9  # of all files together, unpacked
MOST_PIXELS = 1024  # height and width of a picture


@contextmanager
def readable(folder: Path):
    """What a damaged file makes pyarrow, Pillow or NumPy raise, whatever it is, becomes BadInput."""
    try:
        yield
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"{folder} cannot be read: {str(error)[:200] or type(error).__name__}") from error


def read(folder: Path, label: str) -> dict[int, list[dict]]:
    """Episode number -> its rows, column -> value, of one task label, which may be "" where there is one. BadInput for
    what is no such dataset, pictures that are kept as video, and a label that it does not have."""
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
    with readable(folder):
        labels = read_labels(folder, parquet)
        if (label and label not in labels) or (not label and len(labels) != 1):
            raise BadInput(f"--label must be one of {', '.join(map(repr, sorted(labels)))}, got '{label}'")
        wanted, found = labels[label or next(iter(labels))], {}
        left = [MOST_BYTES]
        for path in sorted(folder.glob("data/chunk-*/*.parquet")):
            if not path.resolve().is_relative_to(folder.resolve()):
                raise BadInput(f"{path} is a link that leads out of {folder}")
            for row in rows_of(parquet, path, COLUMNS, left):
                if row["task_index"] == wanted:
                    found.setdefault(row["episode_index"], []).append(row)
    if not found:
        raise BadInput(f"{folder} has no episode of that label")
    return found


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


def small(content: bytes, size: int, where: str) -> np.ndarray:
    """A PNG -> (3, size, size)."""
    with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
        if max(picture.size) > MOST_PIXELS or picture.size[0] != picture.size[1]:  # before it is unpacked
            raise BadInput(f"{where} has a picture of {picture.size}; squares of at most {MOST_PIXELS} are read")
        return np.asarray(picture.convert("RGB").resize((size, size), Image.Resampling.BOX)).transpose(2, 0, 1)
