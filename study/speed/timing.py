"""How time and memory are taken: candidates in turn, warmed up, in this process, in one of their own, or in the peer's.

Nothing here knows what is measured; benchmark.py does.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from plumbing.cli import ROOT, BadInput


def take_turns(candidates: dict[str, Callable[[], float]], turns: int) -> dict[str, float]:
    """Each candidate returns seconds per call. -> its median over `turns` rounds, in which all take part."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(turns):
        for name, measure in candidates.items():
            times[name].append(measure())
    return {name: float(np.median(t)) for name, t in times.items()}


def timer(function: Callable[[], object], calls: int, device: torch.device) -> Callable[[], float]:
    """Seconds per call of a function that has been warmed up."""
    for _ in range(3):
        function()

    def measure() -> float:
        wait(device)
        begin = time.perf_counter()
        for _ in range(calls):
            function()
        wait(device)
        return (time.perf_counter() - begin) / calls

    return measure


def wait(device: torch.device) -> None:
    """Until a GPU has done what it was told: a call only puts work into its queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_peak(device: torch.device) -> float:
    """The most floating-point operations per second that this device does in a matrix product, whatever its size."""
    best, dtype = 0.0, torch.bfloat16 if device.type == "cuda" else torch.float32
    for n in (512, 1024, 2048) if device.type == "cpu" else (4096, 8192):
        a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
        best = max(best, *(2 * n**3 / timer(lambda a=a, b=b: a @ b, 3, device)() for _ in range(5)))
    return best


def flops(function: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products and convolutions in one call, counted, not estimated."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


# ---------------------------------------------------------------------------------------------- the peer's process


class Peer:
    """LeRobot's U-Net in its own process (lerobot_peer.py): answers how many seconds a call takes."""

    def __init__(self, python: str):
        command = [python, str(ROOT / "study" / "speed" / "lerobot_peer.py")]
        try:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        except OSError as error:
            raise BadInput(f"--peer {python} cannot be started: {error.strerror}") from error

    def seconds(self, **request) -> float:
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise BadInput("--peer: its process has ended; what it printed is above")
        return json.loads(answer)["seconds"]


# ---------------------------------------------------------------------------------------------- whole commands


def process(words: list, watch_memory: bool = False, every: float = 0.2) -> float:
    """Run Python with these words. -> seconds, or the most megabytes that it and its children held at once. every:
    seconds between two looks, of which one takes some hundredths of a processor's second for a gigabyte."""
    begin, peak = time.perf_counter(), 0.0
    with tempfile.TemporaryFile("w+") as output:
        child = subprocess.Popen([sys.executable, *map(str, words)], cwd=ROOT, stdout=output, stderr=output)
        while watch_memory and child.poll() is None:
            peak = max(peak, memory(child.pid))
            time.sleep(every)
        child.wait()
        seconds = time.perf_counter() - begin
        if child.returncode:
            output.seek(0)
            raise RuntimeError(f"{' '.join(map(str, words))}: {output.read()[-500:]}")
    return peak if watch_memory else seconds


def memory(root: int) -> float:
    """Megabytes of a process and its descendants (Linux); pages that several of them share count once."""
    parents, own = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            lines = (folder / "smaps_rollup").read_text().splitlines()
            own[int(folder.name)] = sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
        except OSError:  # it has just ended, or is somebody else's
            continue

    def below(pid: int) -> bool:
        return pid == root or (pid in parents and below(parents[pid]))

    return sum(megabytes for pid, megabytes in own.items() if below(pid))


def first_step() -> float:
    """Seconds from starting train.py to the first line of its log, demonstrations being there already."""
    with tempfile.TemporaryDirectory() as temporary:
        log, begin = Path(temporary) / "run" / "log.jsonl", time.perf_counter()
        command = [sys.executable, "train.py", "--log-every", "1", "--out", str(log.parent)]
        child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while not (log.exists() and log.stat().st_size):
                if child.poll() is not None:
                    raise RuntimeError(f"train.py has ended with exit code {child.returncode} before its first step")
                time.sleep(0.01)
            return time.perf_counter() - begin
        finally:
            child.kill()
            child.wait()
