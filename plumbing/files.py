"""Reading what may be somebody else's file, and writing so that neither a crash nor a full disk loses anything.

A run folder or a dataset is data: it is read with limits, names in it are not trusted as paths, and nothing in it is
ever executed. Imports nothing heavy.
"""

import contextlib
import errno
import json
import os
import re
import stat
import tempfile
from pathlib import Path


class BadInput(ValueError):
    """Input that the user can mend. The message names the input and the valid choices, in one line."""


TEXT_LIMIT = 64 * 2**20  # bytes of a JSON or a log; ours have kilobytes, and a log of a million steps 60 MB
FILE_LIMIT = 64 * 2**30  # bytes of weights or demonstrations

TEMPORARY = ".writing-"  # how names begin of files that are not complete yet

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")


def exists(path: Path) -> bool:
    """Whether there is anything of this name. BadInput for a name that cannot be: too long, or a circle of links."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return os.path.lexists(path)
    except NotADirectoryError:
        return False
    except (OSError, ValueError) as error:  # ValueError: a null character
        raise BadInput(f"cannot use {str(path)[:120]!r}: {getattr(error, 'strerror', None) or error}") from error
    return True


def regular_file(path: Path, most: int = FILE_LIMIT) -> Path:
    """The path, if there is a file of at most `most` bytes. BadInput for anything else: a pipe would be waited for
    forever, a device never ends, links may go in circles."""
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise BadInput(f"cannot read {path!s:.120}: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(found.st_mode):
        raise BadInput(f"{path} is no file")
    if found.st_size > most:
        raise BadInput(f"{path} has {found.st_size:,} bytes, more than the {most:,} that are read")
    return path


def read_text(path: Path) -> str:
    """A text file. BadInput if it cannot be read, is too large, or is no text."""
    try:
        return regular_file(path, TEXT_LIMIT).read_bytes().decode()
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is damaged: no text at byte {error.start}") from error
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror or error}") from error


def read_json(path: Path):
    """A JSON file's content. BadInput if it is none, also where it is nested deeper than Python can follow."""
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is damaged: {error}") from error


def inside(folder: Path, name: str, what: str) -> Path:
    """folder/name for a name that came from a file. BadInput, naming `what` it is, unless every part of it is a plain
    word and it stays in the folder once links are followed."""
    parts = name.split("/") if isinstance(name, str) else []
    if not parts or len(name) > 200 or not all(_PLAIN.fullmatch(part) for part in parts):
        raise BadInput(f"{what} must be plain words, separated by '/', got {name!r:.120}")
    try:
        path, root = (folder / name).resolve(), folder.resolve()
    except (OSError, RuntimeError) as error:  # a circle of links; Python 3.13 on resolves it without complaint
        raise BadInput(f"{what} {name}: {error}") from error
    if not path.is_relative_to(root):
        raise BadInput(f"{what} {name} leads out of {folder}")
    return folder / name


def write(path: Path, content: bytes | memoryview) -> None:
    """Write a file as a whole or not at all; once it has returned, the content is on the disk and not in a cache.

    The temporary name is a new one each time: a fixed one could be a link that somebody put there. An OSError (a full
    disk) leaves the old file and nothing else.
    """
    # Links are followed first: mkstemp would take a/link/../b for a/b.
    handle, name = tempfile.mkstemp(dir=os.path.realpath(path.parent), prefix=TEMPORARY)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.umask(mask := os.umask(0))  # there is no other way to ask for it
        os.chmod(name, 0o666 & ~mask)  # mkstemp lets nobody else read
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def check_writable(folder: Path) -> None:
    """BadInput if nothing can be written into --out's folder, now and not after minutes of work. It is not made yet."""
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        why = "no folder" if there.is_file() else "read-only" if error.errno == errno.EROFS else error.strerror
        raise BadInput(f"cannot write to --out {folder}: {there} is {why}") from error


def disk_full(error: OSError) -> bool:
    """Whether writing failed because there is no room: no space, a quota, or a limit on the size of files."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _sync_folder(folder: Path) -> None:
    """The renaming itself is an entry in the folder, and reaches the disk with it."""
    with contextlib.suppress(OSError):  # not every file system lets one
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
