"""How every command meets its user: one-line errors, one machine-readable last line, and where a result came from.

Imports nothing heavy: the simulator's worker processes need it too.
"""

import contextlib
import functools
import importlib.metadata
import io
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from plumbing import files, interrupt
from plumbing.files import BadInput

ROOT = Path(__file__).resolve().parent.parent
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and new line


def run(main: Callable[[], dict]) -> None:
    """Run a command: its result as one JSON line on stdout; bad input as one line on stderr and exit code 2.

    Exit code 3: all is done and written, but episodes were lost, and the success is that of the others. A full disk is
    told in one line too, and a signal with how to go on. Any other exception is a bug of ours and keeps its traceback.
    """
    interrupt.begin()
    try:
        revision()
        result = main()
    except BadInput as error:
        _fail(2, f"error: {error}")
    except KeyboardInterrupt as stopped:
        _fail(getattr(stopped, "code", 130), f"interrupted{': ' if str(stopped) else ''}{stopped}")
    except OSError as error:
        if not files.disk_full(error):
            raise
        _fail(2, f"error: the disk is full ({error.filename or error.strerror}); what was saved before is still there")
    _print("stdout", json.dumps(result))
    if result.get("lost"):
        _fail(
            3, f"incomplete: {result['lost']} episodes were lost, twice; they are not counted, see the warnings above"
        )


def _fail(code: int, text: str) -> None:
    say(" ".join(text.split()))
    raise SystemExit(code) from None


def parse(config_class, arguments: list[str] | None = None):
    """The command line as an instance of a config dataclass. BadInput, in one line, for what does not fit it."""
    import tyro

    read = functools.partial(tyro.cli, config_class, args=arguments, config=(tyro.conf.FlagCreatePairsOff,))
    if {"-h", "--help"} & set(sys.argv if arguments is None else arguments):
        try:
            return read()  # prints, with colours if this is a terminal, and leaves
        except BrokenPipeError:  # `--help | head`
            sys.stdout = open(os.devnull, "w")  # or Python would complain again at its end
            raise SystemExit(0) from None
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box), contextlib.redirect_stdout(box):
            return read()
    except SystemExit:
        # tyro frames its message and repeats the usage; one line of words is enough.
        raise BadInput(re.sub(r"[─╭╮╰╯│]|-{4,}", " ", box.getvalue())) from None


def no_arguments() -> None:
    """How a script without flags begins: what is typed after its name is refused, and nothing is made."""
    revision()
    if sys.argv[1:]:
        _fail(2, f"error: {script()} takes no arguments, got {' '.join(sys.argv[1:])}")


class _Lines:
    """A stream for progress bars that go to a file: a line each time, where a terminal would see one line change."""

    def write(self, text: str) -> None:
        if text := text.strip("\r\n "):
            say(text)

    def flush(self) -> None:
        pass


def progress(iterable=None, **settings):
    """tqdm on a terminal; a line every half minute where stderr is a file, which would fill with carriage returns."""
    from tqdm import tqdm

    if sys.stderr.isatty():
        return tqdm(iterable, mininterval=0.5, **settings)
    return tqdm(iterable, mininterval=30, maxinterval=30, file=_Lines(), ascii=True, ncols=100, **settings)


def numbers(text: str, K: int, flag: str) -> list[int]:
    """A flag's '0,2' -> [0, 2], each one of a run's K components."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) < 9 and int(part) < K for part in parts):
        raise BadInput(f"{flag} must name components of this run, 0 to {K - 1}, got '{text}'")
    return sorted({int(part) for part in parts})


def say(*words: object, sep: str = " ") -> None:
    """Text for people goes to stderr; stdout belongs to the JSON line."""
    _print("stderr", sep.join(map(str, words)))


def _print(stream: str, text: str) -> None:
    """Where nobody listens any more (`2>&1 | head`) what is said is lost, and not what is being made. Some of the text
    may be a stranger's, in which a control character could move a terminal's cursor, or write to its clipboard."""
    try:
        print(_CONTROL.sub("?", text), file=getattr(sys, stream), flush=True)
    except OSError:  # a pipe that is gone, or a log on a disk that is full
        setattr(sys, stream, open(os.devnull, "w"))  # or Python would complain again at its end, with another exit code


@functools.cache
def say_once(text: str) -> None:
    """A warning, the first time, and of several processes of one training by the first."""
    if interrupt.is_first():
        say(text)


def write_json(path: Path, content: object) -> None:
    """Write a JSON file as a whole or not at all: a reader, or a crash, never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, (json.dumps(content, indent=2) + "\n").encode())


def check_output(path: Path, key: str) -> None:
    """Refuse an --out that cannot be written, now and not after minutes of work.

    It replaces only a file of its own kind: a JSON with `key` in it. Nothing is made yet, not even its folder.
    """
    there = files.exists(path)
    if len(os.fsencode(path.name)) > 200:  # pictures beside it have longer names, up to a file system's 255
        raise BadInput(f"--out has a name of {len(os.fsencode(path.name))} bytes; at most 200: {path.name[:60]}...")
    if path.suffix != ".json" or (there and path.is_dir()):
        raise BadInput(f"--out must name a file that ends in .json, got {path}")
    try:
        same = not there or key in files.read_json(path)
    except (BadInput, TypeError):  # no JSON, or one that is a bare number
        same = False
    if not same:
        raise BadInput(f"--out {path} exists and is not such a result: choose another name")
    files.check_writable(path.parent)


def provenance(seed: int, device: str) -> dict:
    """Where a number came from: the command, the revision, seed, hardware."""
    command = shlex.join(["python", script(), *sys.argv[1:]])
    return {
        "command": command if len(command) < 9000 else f"{command[:9000]} ...",  # what is longer no run may hold
        "revision": revision(),
        "seed": seed,
        "hardware": f"{device_name(device)}, {os.cpu_count()} cores",
        "software": f"Python {platform.python_version()}, {platform.system()}",
        "versions": versions(),
    }


@functools.cache
def revision() -> str:
    """Of the code, '-dirty' if it has changed since. Asked once, as a command begins: when it writes its results, hours
    later, other code may lie here than the one that ran."""

    def git(*words: str) -> str:
        try:
            done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
        except OSError:  # no git on this machine: the numbers stand, the revision is unknown
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    changed = git("status", "--porcelain", "--untracked-files=all", "--", "*.py")  # a new fork is code too
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + "-dirty" * bool(changed)


def script() -> str:
    """The program that runs, as it is typed in the repository's root: "study/adapt/one_task.py"."""
    path = Path(sys.argv[0]).resolve()
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else os.path.basename(sys.argv[0])


def versions() -> dict[str, str]:
    """Of the libraries that numbers depend on; where a policy only acts, some are not installed."""
    found = {}
    for name in ("torch", "mujoco", "metaworld", "numpy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def other_versions(recorded: dict[str, str]) -> str:
    """In words, where they differ from those that are installed: "torch 2.8.0 (here 2.9.1)"; empty where none does."""
    here = versions()
    differ = [
        f"{name} {recorded[name]} (here {here[name]})" for name in here if recorded.get(name, here[name]) != here[name]
    ]
    return ", ".join(differ)


def device_name(device: str) -> str:
    """The GPU's or the CPU's model name."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text().splitlines() if cpu_info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
