"""Reading a Minari dataset, which may be somebody else's: its numbers, and nothing else.

If a dataset's metadata lack the spaces, Minari's own `load_dataset` builds the environment that they describe, and so
calls whatever function somebody has written into a text file. Here nothing is built from metadata, no link is followed,
and sizes are checked before memory is allocated. What is read:

    <data folder>/<id>/data/metadata.json    how many episodes, and the spaces of observations and actions
                            main_data.hdf5   episode_0/actions, episode_0/observations: an array, or a group of parts
                            SHA256SUMS       checksums of both, as `sha256sum` writes them. Ours have it; yours may

Pickles cannot hide in these arrays: only plain numbers are read, and pictures as Minari keeps them, JPEG.
"""

import hashlib
import io
import json
import math
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from plumbing import files
from plumbing.files import BadInput

FILES = ("metadata.json", "main_data.hdf5")
CHECKSUMS = "SHA256SUMS"
MOST_EPISODES = 10_000
MOST_STEPS = 100_000  # in an episode; MetaWorld's have at most 500
MOST_PARTS = 100
MOST_BYTES = 2 * 2**30  # of all arrays that are asked for; 50 episodes of MetaWorld have 2 MB
# Compression that comes with h5py: gzip, shuffle, Fletcher's checksum, lzf. For any other number in a file HDF5 would
# look for a program library to load.
GZIP = 1
FILTERS = {GZIP, 2, 3, 32000}


@dataclass(frozen=True)
class Dataset:
    """A dataset that was found, and whose metadata make sense."""

    where: str  # for messages: "dataset 'fdp/push/expert-v0' in data"
    folder: Path  # <data folder>/<id>/data
    metadata: dict
    observation: dict[str, tuple[int, ...]]  # part -> shape; one that is no Dict is the part ""
    action: tuple[int, ...]
    sealed: bool  # whether it has checksums. Where it has, they were compared.


def find(name: str, data_dir: Path) -> Dataset:
    """The dataset of this id. BadInput if there is none, if it leads out of the data folder, or if it is damaged."""
    # (A name that lacks its last word is that of a folder with datasets in it.)
    if not os.path.lexists(files.inside(data_dir, name, "a dataset id") / "data"):
        found = sorted(str(p.parent.parent.relative_to(data_dir)) for p in data_dir.glob("**/data/metadata.json"))
        more = f", and {len(found) - 20} more" if len(found) > 20 else ""
        raise BadInput(f"no Minari dataset '{name}' in {data_dir}; there: {', '.join(found[:20]) or 'none'}{more}")
    where, folder = f"dataset '{name}' in {data_dir}", data_dir / name / "data"
    again = f"Restore it; what this project has recorded is recorded again if {folder.parent} is deleted"
    for file in FILES:
        path = files.inside(data_dir, f"{name}/data/{file}", "a dataset's file")
        if not os.path.lexists(path):
            raise BadInput(f"{where} is damaged: it has no {file}. {again}")
        files.regular_file(path)
    sealed = os.path.lexists(folder / CHECKSUMS)
    if sealed and not set(checksums(folder)) <= set(files.read_text(folder / CHECKSUMS).splitlines()):
        raise BadInput(f"{where} is damaged: its files do not match {CHECKSUMS}. {again}")
    metadata = files.read_json(folder / FILES[0])
    if not isinstance(metadata, dict):
        raise BadInput(f"{where}: metadata.json must hold an object")
    episodes, kind = metadata.get("total_episodes"), metadata.get("data_format", "hdf5")
    if type(episodes) is not int or episodes < 0:
        raise BadInput(f"{where}: total_episodes must be a number of episodes, got {episodes!r:.80}")
    if kind != "hdf5":
        raise BadInput(f"{where}: data_format must be 'hdf5', got {kind!r:.80}")
    actions = _shapes(metadata, "action_space", where)
    if set(actions) != {""}:
        raise BadInput(f"{where}: action_space must be a Box, not a Dict")
    return Dataset(where, folder, metadata, _shapes(metadata, "observation_space", where), actions[""], sealed)


def _shapes(metadata: dict, key: str, where: str) -> dict[str, tuple[int, ...]]:
    """A space, as Minari writes it down -> the shape of each of its parts."""
    text = metadata.get(key)
    if text is None:
        raise BadInput(f"{where}: metadata.json does not say its {key}, and no environment is made to find out")
    try:
        space = json.loads(text) if isinstance(text, str) else text
        parts = space["subspaces"] if space["type"] == "Dict" else {"": space}
        shapes = {part: tuple(box["shape"]) for part, box in parts.items() if box["type"] == "Box"}
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):  # whatever a text can have in place
        parts, shapes = {"": None}, {}
    sizes = all(0 < len(shape) < 8 and all(type(n) is int and n > 0 for n in shape) for shape in shapes.values())
    names = 0 < len(shapes) <= MOST_PARTS and not any("/" in part or part == "." for part in shapes)  # those are paths
    names = names and ("" not in shapes or len(shapes) == 1)
    if len(shapes) < len(parts) or not sizes or not names:
        raise BadInput(
            f"{where}: {key} must be a Box with at least one dimension, or a Dict of 1 to {MOST_PARTS} of them, "
            f"got {text!r:.120}"
        )
    return shapes


def read(dataset: Dataset, count: int) -> list[dict]:
    """The first `count` episodes: [{"observations": {part: (L+1, *shape)} or (L+1, *shape), "actions": (L, A)}].

    float32, or uint8 for pictures (3, h, w). BadInput for too few, for arrays that are not what the metadata say, or
    that would take too much memory.
    """
    where, episodes = dataset.where, dataset.metadata["total_episodes"]
    if count > min(episodes, MOST_EPISODES):
        most = f", and at most {MOST_EPISODES} are read" if count > MOST_EPISODES else ""
        raise BadInput(f"{where} holds {episodes} episodes, {count} are needed{most}")
    try:
        with h5py.File(dataset.folder / FILES[1], "r") as file:
            found = [_arrays(dataset, _member(file, f"episode_{i}", h5py.Group)) for i in range(count)]
            size = sum(_bytes(array, shape) for episode in found for array, shape in episode.values())
            if size > MOST_BYTES:
                raise BadInput(f"{count} episodes have {size:,} bytes, more than the {MOST_BYTES:,} that are read")
            return [_numbers(episode, lone="" in dataset.observation) for episode in found]
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from error
    except Exception as error:  # whatever a damaged file makes h5py raise
        raise BadInput(f"{where} cannot be read: {error!s:.200}") from error


def _arrays(dataset: Dataset, episode: h5py.Group) -> dict[str | None, tuple[h5py.Dataset, tuple[int, ...]]]:
    """Where the numbers of an episode lie in the file, with the shape that each step should have. None: the actions."""
    if "" in dataset.observation:
        found = {"": _member(episode, "observations", h5py.Dataset)}
    else:
        group = _member(episode, "observations", h5py.Group)
        found = {part: _member(group, part, h5py.Dataset) for part in dataset.observation}
    shapes = {**dataset.observation, None: dataset.action}
    found[None] = _member(episode, "actions", h5py.Dataset)
    for array in found.values():
        _check(array)
    return {part: (array, shapes[part]) for part, array in found.items()}


def _member(group: h5py.Group, name: str, kind: type):
    """What lies there under this name: in this file, and in this group. Links lead to other places or other files."""
    link = group.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        raise BadInput(f"{group.name} has no '{name}'" if link is None else f"'{name}' in {group.name} is a link")
    found = group[name]
    if not isinstance(found, kind):
        raise BadInput(f"{found.name} must be {'a group' if kind is h5py.Group else 'an array'}")
    return found


def _check(array: h5py.Dataset) -> None:
    """BadInput for an array that is more than plain numbers in this file. Nothing of it has been read yet."""
    if array.is_virtual or array.external:  # first of all: to ask for the size of one may open the other files
        raise BadInput(f"{array.name} keeps its numbers in other files")
    settings = array.id.get_create_plist()
    filters = [settings.get_filter(i)[0] for i in range(settings.get_nfilters())]
    if not set(filters) <= FILTERS or len(set(filters)) < len(filters):  # none twice: what is packed in what is packed
        raise BadInput(f"{array.name} is compressed in a way that is not read")
    if array.dtype.kind not in "fiub" and not _is_jpeg(array):
        raise BadInput(f"{array.name} must hold numbers, not {array.dtype}")
    if GZIP in filters and not _packs_what_it_says(array):
        raise BadInput(f"{array.name} unpacks to more than its blocks hold")
    if not array.shape or array.shape[0] > MOST_STEPS:
        raise BadInput(f"{array.name} has shape {array.shape}: there must be 1 to {MOST_STEPS:,} steps")


def _packs_what_it_says(array: h5py.Dataset) -> bool:
    """Whether every block unpacks to its own size at most. HDF5 unpacks all that is there, whatever the size: 500 KB
    may stand for 500 MB. (The other filters have the size they say, or fail.)"""
    each = 16 if array.dtype.kind == "O" else array.dtype.itemsize  # 16: where a picture's bytes are, in the file
    size = math.prod(array.chunks) * each + 4  # 4: Fletcher's checksum
    for i in range(array.id.get_num_chunks()):
        skipped, block = array.id.read_direct_chunk(array.id.get_chunk_info(i).chunk_offset)
        if not skipped and len(zlib.decompressobj().decompress(block, size + 1)) > size:
            return False
    return True


def _bytes(array: h5py.Dataset, shape: tuple[int, ...]) -> int:
    """What reading it takes. A block is unpacked as a whole, also where the array has little of it."""
    each = 1 if array.dtype == np.uint8 and len(shape) == 3 else 4  # pictures stay bytes
    stored = max(math.prod(array.shape), math.prod(array.chunks or ())) * max(array.dtype.itemsize, each)
    return max(stored, each * array.shape[0] * math.prod(shape))


def _is_jpeg(array: h5py.Dataset) -> bool:
    """Whether this is how Minari stores pictures: a row of bytes for each, all of one length or of their own."""
    own_length = h5py.check_vlen_dtype(array.dtype) == np.uint8
    return len(array.shape or ()) == (1 if own_length else 2) and (own_length or array.dtype == np.uint8)


def _numbers(episode: dict, lone: bool) -> dict:
    """The arrays of an episode, read."""
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which is refused later
        values = {part: _as_read(_rows(array, shape), shape) for part, (array, shape) in episode.items()}
    actions = values.pop(None)
    return {"observations": values[""] if lone else values, "actions": actions}


def _as_read(rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return rows if rows.dtype == np.uint8 and len(shape) == 3 else rows.astype(np.float32)


def _rows(array: h5py.Dataset, shape: tuple[int, ...]) -> np.ndarray:
    if array.shape[1:] == shape:
        return array[()]
    if len(shape) not in (2, 3) or not _is_jpeg(array):
        raise BadInput(f"{array.name} has shape {array.shape}, and metadata.json says (steps, {str(shape)[1:]}")
    rows = np.empty((len(array), *shape), np.uint8)
    for i in range(len(array)):
        with Image.open(io.BytesIO(array[i].tobytes()), formats=["JPEG"]) as picture:
            if picture.size != (shape[1], shape[0]):  # before it is unpacked
                raise BadInput(f"{array.name} has a picture of size {picture.size}, and metadata.json says {shape}")
            rows[i] = np.asarray(picture)
    return rows


def checksums(folder: Path) -> list[str]:
    """A line for each file of a dataset. `sha256sum metadata.json main_data.hdf5 > SHA256SUMS` writes the same."""
    lines = []
    for name in FILES:
        digest = hashlib.sha256()
        try:
            with open(folder / name, "rb") as file:
                while block := file.read(2**20):
                    digest.update(block)
        except OSError as error:
            raise BadInput(f"cannot read {folder / name}: {error.strerror or error}") from error
        lines.append(f"{digest.hexdigest()}  {name}")
    return lines


def seal(folder: Path) -> None:
    """Write the checksums of a dataset that is complete."""
    files.write(folder / CHECKSUMS, "".join(line + "\n" for line in checksums(folder)).encode())
