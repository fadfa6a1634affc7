"""Which folder a run may have. One command at a time writes to it, and no run is lost to another.

    claim(folder)            for good, at the moment when something is written: nothing is made for a refused command
    check_free(folder)       the same question early, before minutes of work
    evaluation_beside(...)   where an evaluation goes that must not replace a better one

The claim is a lock on the folder itself. It ends with the process, so a killed one leaves nothing locked.
"""

import contextlib
import fcntl
import json
import math
import os
import shutil
import tempfile
import time
from pathlib import Path

from plumbing import files
from plumbing.cli import BadInput, say

CHECKPOINTS = ("model.safetensors", "resume.safetensors")  # of which a run that is worth keeping has at least one
REPLACED = "replaced"  # where --overwrite keeps the old run until the new one has something to show
OURS = (".json", ".jsonl", ".pt", ".safetensors")  # how files of a run end
INNER = (REPLACED, "before", "figures", "videos")  # folders of a run, into which results are written
_held: dict[tuple[int, int], int] = {}  # (device, inode) of a folder -> its lock, for as long as this process lives


def taken(folder: Path) -> bool:
    """Whether anything is there that a new run must leave alone. An empty folder is free, and so are what a killed
    process was writing, and a run that never reached a checkpoint: the same command begins it again."""
    if not files.exists(folder):
        return False
    if not folder.is_dir():
        return True
    files_there = (path for path in folder.rglob("*") if path.is_file() and not _half_written(path, folder))
    return any(files_there) and not _only_begun(folder)


def _half_written(path: Path, folder: Path) -> bool:
    """What a killed process was writing, or, as a folder, deleting."""
    return any(name.startswith(files.TEMPORARY) for name in path.relative_to(folder).parts)


def _only_begun(folder: Path) -> bool:
    """Whether it holds a run of ours that never reached a checkpoint, and nothing else. One whose weights somebody has
    removed has figures, or a log that goes on past the first checkpoint."""
    names = {path.name for path in folder.iterdir() if not _half_written(path, folder)}
    if not names <= {"config.json", "log.jsonl", "figures"} or not _is_run(folder):
        return False
    first = files.read_json(folder / "config.json")["train"].get("save_every", 1000)
    early = isinstance(first, int) and _logged(folder / "log.jsonl") <= first
    return early and not any((folder / "figures").rglob("*.*"))


def _is_run(folder: Path) -> bool:
    """Whether its config.json is one of ours: it is a common name."""
    try:
        config = files.read_json(folder / "config.json")
    except BadInput:
        return False
    return isinstance(config, dict) and all(isinstance(config.get(k), dict) for k in ("policy_config", "train"))


def _logged(path: Path) -> float:
    """The last step in a log; 0 without one, and infinity where that cannot be read."""
    try:
        lines = files.read_text(path).splitlines() if path.exists() else []
        return max([json.loads(line)["step"] for line in lines[:-1]], default=0)  # the last one may be half a line
    except (BadInput, ValueError, TypeError, KeyError):
        return math.inf


def free(wanted: Path) -> Path:
    """runs/x, or runs/x-2, runs/x-3, ... : the first that is not taken, and in which no other command is at work."""
    candidate, number = wanted, 2
    while taken(candidate) or busy(candidate):
        candidate, number = wanted.with_name(f"{wanted.name}-{number}"), number + 1
    return candidate


def check_free(folder: Path, overwrite: bool = False) -> None:
    """BadInput if a run cannot go there: it is taken (unless by a run, and asked to overwrite), another command is at
    work in it, or it cannot be written."""
    if taken(folder) and not overwrite:
        raise BadInput(f"{folder} exists: choose another --out, or add --resume to go on with it, or --overwrite")
    if taken(folder) and not (_is_run(folder) or _is_run(folder / REPLACED)):  # no licence to empty other folders
        raise BadInput(f"--overwrite replaces runs, and {folder} is none: no config.json of one is there")
    if busy(folder):
        raise BadInput(f"another command is at work in {folder}: wait for it, or choose another --out")
    files.check_writable(folder)


def claim_free(wanted: Path) -> Path:
    """Take `free(wanted)`, or the next one if another command is faster."""
    while True:
        folder = free(wanted)
        try:
            claim(folder)
            return folder
        except BadInput:
            if not (taken(folder) or busy(folder)):  # no other command is to blame
                raise


def claim(folder: Path, overwrite: bool = False) -> None:
    """Take the folder, for as long as this process lives. BadInput as above, also if another was faster."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot write to --out {folder}: {getattr(error, 'strerror', None) or error}") from error
    if not _lock(handle):
        raise BadInput(f"another command is at work in {folder}: wait for it, or choose another --out")
    check_free(folder, overwrite)
    check_inner(folder)
    for rest in folder.glob(f"{files.TEMPORARY}*"):  # of a process that was killed while it wrote, or deleted
        _remove(rest)


def check_inner(folder: Path, names: tuple[str, ...] = INNER) -> None:
    """BadInput for a link, or a file, where results would be written: a run that somebody else made may have one that
    leads to things of one's own."""
    for path in (folder / name for name in names):
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            raise BadInput(f"{path} is {'a link' if path.is_symlink() else 'no folder'}: remove it first")
    kept = (folder / REPLACED).iterdir() if REPLACED in names and (folder / REPLACED).exists() else ()
    if strange := [path for path in kept if path.name not in INNER and path.suffix not in OURS]:
        raise BadInput(f"{strange[0]} is nothing that a run has left there, and would be deleted: move it first")


def set_aside(folder: Path, names: list[str]) -> None:
    """Move the run that is replaced into a folder of its own. If there is one already, then what is here now is only
    the beginning of a run, which never got as far as to replace that one, and goes.

    config.json is moved last: a process that is killed in between leaves one that the next goes on with.
    """
    aside = folder / REPLACED
    if any((folder / name).exists() for name in CHECKPOINTS) and not _interrupted(folder):
        drop_replaced(folder)  # a process was killed before it could: the run that is here now has a checkpoint
    keep = not (aside / "config.json").exists() and (aside.exists() or (_is_run(folder) and not _only_begun(folder)))
    for name in sorted(names, key="config.json".__eq__):
        path = folder / name
        if keep and path.exists():
            aside.mkdir(exist_ok=True)
            os.replace(path, aside / name)
        else:
            _remove(path)


def drop_replaced(folder: Path) -> None:
    """The new run has a checkpoint: the old one is replaced."""
    if not _is_run(folder / REPLACED):
        return
    with contextlib.suppress(OSError):  # a full disk: it goes with the next checkpoint
        rest = tempfile.mkdtemp(dir=os.path.realpath(folder), prefix=files.TEMPORARY)
        os.replace(folder / REPLACED, rest)  # under another name first: half of it would be taken for the old run
        _remove(Path(rest))


def evaluation_beside(path: Path, result: dict) -> Path:
    """path, or, where that has an evaluation of other tasks, episodes or settings that this one does not replace, the
    next free name: a quick look at a few episodes must not cost the result of many."""
    wanted, number = path, 2
    while path.exists():
        try:
            old = files.read_json(path)
            if old.get("training", {}).get("steps") != result.get("training", {}).get("steps"):
                break  # of other weights, which are no longer there
            same = all(old.get(key) == result[key] for key in ("sampler", "sampling_steps", "executed") if key in old)
            pairs = [(r, result["tasks"][task]) for task, r in old["tasks"].items()]
            if same and all(r["seeds"][0] == new["seeds"][0] and r["n"] <= new["n"] for r, new in pairs):
                break
        except KeyError:  # a task that was not played now
            pass
        except (BadInput, TypeError, AttributeError, IndexError):  # damaged
            break
        path, number = wanted.with_name(f"{wanted.stem}-{number}.json"), number + 1
    if path != wanted:
        say(f"{wanted} stays: it has other episodes, tasks or settings, or more; this is {path.name}")
    return path


def _interrupted(folder: Path) -> bool:
    """Whether its checkpoint is one that a signal asked for (plumbing/resume.py) after few steps: fewer than usual."""
    from plumbing import tensors  # PyTorch, which the simulators' processes do without

    try:
        about = tensors.header(folder / CHECKPOINTS[1])
        return about.get("interrupted") == "true" and int(about["step"]) < 1000
    except (BadInput, KeyError, ValueError):
        return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def busy(folder: Path) -> bool:
    """Whether another process has claimed it."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        return _key(handle) not in _held and not _locked(handle, fcntl.LOCK_SH)  # two may ask at the same time
    finally:
        os.close(handle)  # and with it the lock


def _lock(handle: int) -> bool:
    if _key(handle) in _held:
        os.close(handle)
        return True
    for _ in range(5):  # somebody may only be asking
        if _locked(handle):
            _held[_key(handle)] = handle
            return True
        time.sleep(0.05)
    os.close(handle)
    return False


def _locked(handle: int, how: int = fcntl.LOCK_EX) -> bool:
    """Lock it, and say whether that went well; some network drives know no locks, and then it did."""
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except OSError as error:
        return not isinstance(error, BlockingIOError)
    return True


def _key(handle: int) -> tuple[int, int]:
    found = os.fstat(handle)
    return found.st_dev, found.st_ino
