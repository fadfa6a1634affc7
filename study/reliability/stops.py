"""Stopped at a random moment: does the work survive, and does going on end with the same weights?

    python study/reliability/stops.py [--times 15] [--data-dir data]

Training, adapting and learning in turn are stopped by kill -9, Ctrl-C and SIGTERM, at a moment drawn between the start
of the process and a little after its usual end; and the disk gets full at a file of random size. Then the command is
given again as its user would. Survived: the exit code and the last line were as promised, whatever was there could be
loaded, nothing was left behind, and the weights at the end are those of the run that nobody stopped, bit for bit.
"""

import argparse
import random
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))
from safetensors.torch import load_file  # noqa: E402

from plumbing import runs  # noqa: E402
from plumbing.cli import say  # noqa: E402
from study.reliability.table import row, write  # noqa: E402

TRAIN = "train.py --tasks reach,push --steps 400 --batch-size 8 --demos-per-task 3 --save-every 50 --eval-episodes 0"
ADAPT = "adapt.py --tasks drawer-open --steps 1100 --batch-size 8 --demos-per-task 3 --eval-episodes 0"
SEQUENCE = "adapt.py --sequence reach,drawer-open --steps 250 --batch-size 8 --demos-per-task 3 --eval-episodes 0"
PROMISE = "loads afterwards; the command given again ends with the same weights"


def start(words: list[str], **more) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, *words], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, **more)  # fmt: skip


def same(one: Path, other: Path) -> bool:
    """Every run in one folder has the weights of that in the other."""
    names = [sorted(path.relative_to(folder) for path in folder.rglob("model.safetensors")) for folder in (one, other)]
    return names[0] == names[1] != [] and all(same_weights(one / name, other / name) for name in names[0])


def same_weights(one: Path, other: Path) -> bool:
    a, b = load_file(one), load_file(other)
    return a.keys() == b.keys() and all((a[name] == b[name]).all() for name in a)


def again(words: list[str], folder: Path, said: str) -> list[str]:
    """What a user types next: what the last line says, or else the same command, with --resume where there is a
    checkpoint of train.py."""
    if "go on with: " in said:
        return shlex.split(said.split("go on with: ")[1])[1:]
    return [*words, "--resume"] if words[0] == "train.py" and (folder / "resume.safetensors").exists() else words


def leftovers(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.name.endswith(".tmp") or path.name.startswith(".writing-")]


def try_stopping(words: list[str], reference: Path, folder: Path, how: int, moment: float) -> str:
    """What went wrong, or nothing."""
    words = [*words, "--out", str(folder)]
    process = start(words)
    time.sleep(moment)
    process.send_signal(how)
    result, said = process.communicate(timeout=120)
    last = said.strip().splitlines()[-1] if said.strip() else ""
    if result.startswith("{") and process.returncode == -how:
        process.returncode = 0  # all was done and said; Python itself no longer listens while it ends
    ended = process.returncode in (0, {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}[how])
    if not ended:
        return f"exit code {process.returncode}: {last}"
    if process.returncode not in (0, -9) and not last.startswith("interrupted"):
        return f"last line: {last}"
    if how != signal.SIGKILL and leftovers(folder):
        return f"left behind: {leftovers(folder)}"
    for weights in folder.rglob("model.safetensors"):
        runs.load_policy(weights.parent)
    if process.returncode:
        going_on = start(again(words, folder, last))
        _, said = going_on.communicate(timeout=120)
        if going_on.returncode:
            return f"going on: exit code {going_on.returncode}: {said.strip().splitlines()[-1]}"
    return "" if same(folder, reference) else "other weights"


def try_full_disk(words: list[str], reference: Path, folder: Path, room: int) -> str:
    """As above; the disk is full as soon as a file has `room` bytes."""
    words = [*words, "--out", str(folder)]
    process = start(words, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)))
    _, said = process.communicate(timeout=120)
    if process.returncode != 2 or not said.strip().splitlines()[-1].startswith("error: the disk is full"):
        return f"exit code {process.returncode}: {said.strip().splitlines()[-1]}"
    if leftovers(folder):
        return f"left behind: {leftovers(folder)}"
    for weights in folder.rglob("model.safetensors"):
        runs.load_policy(weights.parent)
    going_on = start(again(words, folder, ""))
    _, said = going_on.communicate(timeout=120)
    if going_on.returncode:
        return f"going on: exit code {going_on.returncode}: {said.strip().splitlines()[-1]}"
    return "" if same(folder, reference) else "other weights"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=15, help="of each kind (default: %(default)s)")
    parser.add_argument("--data-dir", default="data", help="demonstrations (default: %(default)s)")
    flags = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and so would ours
    draw, rows = random.Random(0), {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run, data = folder / "run", ["--data-dir", str(Path(flags.data_dir).resolve()), "--device", "cpu"]
        commands = {
            "train.py": ([*shlex.split(TRAIN), *data], run),
            "adapt.py": ([*shlex.split(ADAPT), "--run", str(run), *data], folder / "adapted"),
            "adapt.py --sequence": ([*shlex.split(SEQUENCE), *data], folder / "sequence"),
        }
        lasts = {}
        for title, (words, out) in commands.items():
            for _ in range(2):  # the first time demonstrations may have to be made
                shutil.rmtree(out, ignore_errors=True)
                begin = time.perf_counter()
                subprocess.run([sys.executable, *words, "--out", str(out)], cwd=ROOT, check=True, capture_output=True)
                lasts[title] = time.perf_counter() - begin
        for title, (words, reference) in commands.items():
            tries, longest = {}, 1.1 * lasts[title]
            for how in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM):
                tries[f"{title}: {how.name}"] = [(try_stopping, how, draw.uniform(0.1, longest))
                                                    for _ in range(flags.times)]  # fmt: skip
            largest = max(path.stat().st_size for path in reference.rglob("*"))
            tries[f"{title}: disk full"] = [(try_full_disk, draw.randrange(20_000, 9 * largest // 10))
                                               for _ in range(flags.times)]  # fmt: skip
            for what, each in tries.items():
                wrong = []
                for i, (attempt, *how) in enumerate(each):
                    if failure := attempt(words, reference, folder / f"try-{i}", *how):
                        wrong.append(f"{how}: {failure}".replace(name, "TMP"))
                        say(f"{what}: {wrong[-1]}")
                    shutil.rmtree(folder / f"try-{i}", ignore_errors=True)
                rows[what] = row(len(each), len(each) - len(wrong), PROMISE, failures=wrong)
    write("stops", rows, seed=0)


if __name__ == "__main__":
    main()
