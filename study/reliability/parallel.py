"""Processes of a training on several are killed, stopped and exchanged for fewer or more: does it learn the same?

    python study/reliability/parallel.py --data-dir data

Real torchrun commands on this machine, with gloo. "The same" is what one undisturbed process logs and saves, up to how
sums are rounded: every logged loss within 1e-4 of itself, every weight within 1e-3.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
from safetensors.torch import load_file  # noqa: E402

from plumbing.cli import ROOT, say  # noqa: E402
from study.reliability.table import row, write  # noqa: E402

FLAGS = ["train.py", "--tasks", "reach,push", "--steps", "120", "--batch-size", "17", "--demos-per-task", "3",
         "--log-every", "5", "--save-every", "20", "--device", "cpu", "--eval-episodes", "0"]  # fmt: skip
PATIENCE = 120  # seconds after which a command counts as one that hangs


class Launched:
    """A training on so many processes (1: without torchrun), in a process group of its own."""

    def __init__(self, processes: int, out: Path, *more: str, restarts: int = 0):
        self.out, self.said = out, out.with_suffix(".txt")
        torchrun = [str(Path(sys.executable).with_name("torchrun")), "--nproc-per-node", str(processes)]
        begin = [sys.executable] if processes == 1 else [*torchrun, "--max-restarts", str(restarts)]
        with self.said.open("w") as file:
            self.process = subprocess.Popen([*begin, *FLAGS, "--out", str(out), *more], cwd=ROOT, stderr=file,
                                            stdout=subprocess.DEVNULL, start_new_session=True)  # fmt: skip

    def workers(self) -> list[int]:
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in listed.read_text().split()] if listed.exists() else []

    def steps(self) -> int:
        """How far the log says it is."""
        path = self.out / "log.jsonl"
        return 5 * len(path.read_text().splitlines()) if path.exists() else 0

    def wait_for(self, ready) -> bool:
        end = time.monotonic() + PATIENCE
        while not ready() and self.process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        return ready()

    def end(self) -> int | None:
        """Its exit code; None if it had to be killed."""
        workers = self.workers()
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            for pid in [*workers, self.process.pid]:
                _kill(pid)
            return None


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists() and ") Z " not in Path(f"/proc/{pid}/stat").read_text()


def difference(one: Path, other: Path) -> str:
    """What two runs logged and saved differently, beyond rounding; "" if nothing."""
    try:
        logs = [[json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in (one, other)]
        a, b = (load_file(run / "model.safetensors") for run in (one, other))
    except (OSError, ValueError) as error:
        return str(error)
    if [line["step"] for line in logs[0]] != [line["step"] for line in logs[1]]:
        return f"{len(logs[0])} and {len(logs[1])} lines"
    losses = max(abs(x["loss"] / y["loss"] - 1) for x, y in zip(*logs, strict=True))
    weights = max((a[name] - b[name]).abs().max().item() for name in a)
    return f"losses by {losses:.1e}, weights by {weights:.1e}" if losses > 1e-4 or weights > 1e-3 else ""


def killed(tries: int, folder: Path, alone: Path, chance: random.Random) -> dict:
    """Kill one process at some moment between its first import and its last step; torchrun starts all again."""
    survived, failures = 0, []
    for i in range(tries):
        out = folder / f"killed-{i}"
        launched, who = Launched(2, out, restarts=2), chance.randrange(2)
        launched.wait_for(lambda launched=launched: len(launched.workers()) == 2)
        step, delay = chance.randrange(-30, 115), chance.uniform(0, 4)
        if step < 0:  # while it imports, or collects
            time.sleep(delay)
        else:
            launched.wait_for(lambda launched=launched, step=step: launched.steps() >= step)
        victim = launched.workers()[who : who + 1]
        for pid in victim:
            _kill(pid)
        code, other = launched.end(), difference(out, alone)
        if good := bool(victim) and code == 0 and not other:
            survived += 1
        else:
            failures.append({"process": who, "step": step, "exit": code, "found": bool(victim), "difference": other})
        say(f"killed {who} at step {step}: {'the same' if good else failures[-1]}")
    return row(tries, survived, "torchrun starts again from the last checkpoint, to the same losses and weights",
               failures=failures)  # fmt: skip


def stopped(pairs: list[tuple[int, int]], folder: Path, alone: Path, chance: random.Random) -> dict[str, dict]:
    """SIGTERM or Ctrl-C to torchrun during training, then going on with another number of processes."""
    ended = learned = 0
    failures = []
    for i, (before, after) in enumerate(pairs):
        out, number = folder / f"stopped-{i}", (signal.SIGTERM, signal.SIGINT)[i % 2]
        launched, step = Launched(before, out), chance.randrange(5, 105)
        launched.wait_for(lambda launched=launched, step=step: launched.steps() >= step)
        workers = launched.workers() if before > 1 else []
        launched.process.send_signal(number)
        code, said = launched.end(), launched.said.read_text()
        once = said.count("go on with:") == 1 and said.count("Traceback") <= 1  # torchrun's own, of its signal
        good = code not in (0, None) and once and not any(alive(pid) for pid in workers)
        ended += good
        code_2, other = Launched(after, out, "--resume").end(), difference(out, alone)
        learned += code_2 == 0 and not other
        found = {"ended": good, "exits": [code, code_2], "difference": other}
        if not good or code_2 or other:
            failures.append({"from": before, "to": after, "step": step, **found})
        say(f"{number.name} at step {step}, {before} -> {after}: {found}")
    tries = len(pairs)
    return {
        "a signal to torchrun, at a random step": row(
            tries, ended, "all finish the step, the first saves and says once how to go on, none is left",
            failures=failures),
        "going on with another number of processes": row(
            tries, learned, "the same losses and weights as one process that nobody stopped", pairs=pairs),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--tries", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and so would ours
    FLAGS.extend(["--data-dir", str(Path(given.data_dir).resolve())])
    os.environ["OMP_NUM_THREADS"] = "1"  # as torchrun sets it, where nobody else has
    chance, folder = random.Random(given.seed), Path(tempfile.mkdtemp(prefix="parallel-"))
    try:
        alone = folder / "alone"
        assert Launched(1, alone).end() == 0, alone.with_suffix(".txt").read_text()
        rows = {"a process is killed, at a random moment": killed(given.tries, folder, alone, chance)}
        numbers = [(1, 2), (2, 1), (2, 3), (3, 2), (3, 1), (1, 3)]
        rows |= stopped((numbers * given.tries)[: given.tries], folder, alone, chance)
    finally:
        shutil.rmtree(folder)
    write("parallel", rows, given.seed)


if __name__ == "__main__":
    main()
