"""How every command meets its user: one-line errors, one machine-readable last line, and where a result came from.

Imports nothing heavy, so that a wrong flag is answered at once.
"""

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent


class BadInput(ValueError):
    """Input that the user can mend. The message names the input and the valid choices, in one line."""


def run(main: Callable[[], dict]) -> None:
    """Run a command: its result as one JSON line on stdout; bad input as one line on stderr and exit code 2.

    Only BadInput is shortened. Any other exception is a bug of ours and keeps its traceback.
    """
    try:
        result = main()
    except BadInput as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    print(json.dumps(result))


def say(*words: object) -> None:
    """Text for people goes to stderr; stdout belongs to the JSON line."""
    print(*words, file=sys.stderr, flush=True)


def write_json(path: Path, content: object) -> None:
    """Write to a temporary name, then rename: a reader, or a crash, never sees half a file."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(temporary, path)


def provenance(seed: int, device: str) -> dict:
    """Where a number came from: the command, the revision (with '-dirty' for uncommitted changes), seed, hardware."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    revision = git("rev-parse", "--short=12", "HEAD") or "unknown"
    if git("status", "--porcelain", "--untracked-files=no"):
        revision += "-dirty"
    return {
        "command": shlex.join(["python", *[os.path.basename(sys.argv[0]), *sys.argv[1:]]]),
        "revision": revision,
        "seed": seed,
        "hardware": f"{device_name(device)}, {os.cpu_count()} cores",
        "software": f"Python {platform.python_version()}, {platform.system()}",
    }


def device_name(device: str) -> str:
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text().splitlines() if cpu_info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
