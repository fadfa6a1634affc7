"""How fast, next to what: every number is a ratio between things measured in turn, in one run, on one device.

    python benchmark.py --peer peer/bin/python      # how to make that environment: study/speed/lerobot_peer.py
    python benchmark.py --run study/core/mt6        # evaluation speed of this run

Compared with: (a) a Python loop over K of LeRobot's diffusion-policy U-Net with diffusers' DDIM, as its users use it;
(b) our own components one by one; and two limits, the fastest matrix product of this device and the bare simulator.
Candidates take turns, so that a machine that slows down slows all of them; each row is the median over the turns.
"""

import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from checkpoint import choose_device, load_policy
from cli import ROOT, BadInput, check_output, parse, provenance, run, say, write_json
from envs.metaworld import ACTION_DIM, OBSERVATION_DIM, POSITION_PAIRS
from fdp import Policy, PolicyConfig
from train import SIZES


@dataclass
class BenchmarkConfig:
    """Measure training, acting, evaluation and start-up, as ratios to peers in the same run."""

    run: str = "study/core/mt6"  # the trained run whose evaluation is timed
    peer: str = ""  # python of an environment with LeRobot; without it those rows are left out
    device: str = "auto"  # auto | cpu | cuda
    turns: int = 7  # how often each candidate is measured
    episodes: int = 50  # per task, in the timed evaluation
    out: str = "study/speed/cpu.json"  # the JSON file


class Peer:
    """LeRobot's U-Net in its own process: answers how many seconds a call takes."""

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


def make_policy(components: int, size: str, device: torch.device) -> Policy:
    torch.manual_seed(0)
    config = PolicyConfig(OBSERVATION_DIM, ACTION_DIM, ["reach"], components, differences=POSITION_PAIRS, **SIZES[size])
    return Policy(config).to(device)


def training_step(policy: Policy, batch: int, device: torch.device) -> Callable[[], None]:
    """One step as train.py does it, the average of the weights included."""
    parameters = list(policy.parameters())
    average = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    observation = torch.randn(batch, OBSERVATION_DIM, device=device)
    actions = torch.rand(batch, policy.config.horizon, ACTION_DIM, device=device) * 2 - 1
    task = torch.zeros(batch, dtype=torch.long, device=device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = policy.loss(observation, task, actions).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, parameters, 1e-3)

    return step


class OneByOne(torch.nn.Module):
    """Our own components without the K axis: one U-Net after the other, as a list of modules would be evaluated."""

    def __init__(self, policy: Policy):
        super().__init__()
        c = policy.config
        self.nets = torch.nn.ModuleList(
            type(policy.components)(1, c.action_dim, c.condition_dim, c.horizon, tuple(c.channels), c.kernel)
            for _ in range(c.components)
        )

    def forward(self, actions, step, condition):
        return torch.cat([net(actions, step, condition) for net in self.nets])


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
        if device.type == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(calls):
            function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - begin) / calls

    return measure


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


def training_rows(peer: Peer | None, device: torch.device, turns: int) -> list[dict]:
    """K = 4 at the default batch: ours, ours one by one, LeRobot's."""
    rows = []
    for size in ("small", "base"):
        policy, separate = make_policy(4, size, device), make_policy(4, size, device)
        separate.components = OneByOne(separate).to(device)
        batch = 64 if size == "small" or device.type == "cuda" else 16
        calls = 10 if size == "small" else 1
        ours = training_step(policy, batch, device)
        candidates = {
            "ours": timer(ours, calls, device),
            "one by one": timer(training_step(separate, batch, device), calls, device),
        }
        if peer:
            request = {"what": "train", "components": 4, "horizon": 8, "batch": batch, "device": str(device),
                       "step_dim": 64, "calls": calls, **SIZES[size]}  # fmt: skip
            candidates["LeRobot"] = lambda request=request: peer.seconds(**request)
        seconds = take_turns(candidates, turns)
        rows.append({
            "what": f"training, {size}, K = 4, batch {batch}", "gflops": flops(ours) / seconds["ours"] / 1e9,
            "samples_per_second": {name: batch / s for name, s in seconds.items()},
            "ratio": {name: s / seconds["ours"] for name, s in seconds.items()},
        })  # fmt: skip
    return rows


def acting_rows(peer: Peer | None, device: torch.device, turns: int) -> list[dict]:
    """One action chunk for B robots: ours with its default sampler and with DDIM in 10 steps, LeRobot's with DDIM."""
    rows, policy, separate = [], make_policy(4, "small", device), make_policy(4, "small", device)
    separate.components = OneByOne(separate).to(device)
    for batch in (1, 64):
        observation, tasks, calls = np.zeros((batch, OBSERVATION_DIM)), ["reach"] * batch, 20 if batch == 1 else 5

        def act(p: Policy, sampler: str, steps: int, observation=observation, tasks=tasks, calls=calls):
            return timer(lambda: p.act(observation, tasks, sampler, steps), calls, device)

        candidates = {
            "ours": act(policy, "dpm", 5),
            "ours, DDIM 10": act(policy, "ddim", 10),
            "one by one": act(separate, "dpm", 5),
        }
        if peer:
            request = {"what": "act", "components": 4, "horizon": 8, "batch": batch, "device": str(device),
                       "step_dim": 64, "sampling_steps": 10, "calls": max(1, calls // 5), **SIZES["small"]}  # fmt: skip
            candidates["LeRobot, DDIM 10"] = lambda request=request: peer.seconds(**request)
        seconds = take_turns(candidates, turns)
        rows.append({
            "what": f"one action chunk, K = 4, B = {batch}",
            "gflops": flops(functools.partial(policy.act, observation, tasks)) / seconds["ours"] / 1e9,
            "milliseconds": {name: 1000 * s for name, s in seconds.items()},
            "ratio": {name: s / seconds["ours"] for name, s in seconds.items()},
        })  # fmt: skip
    return rows


def scaling_rows(device: torch.device, turns: int) -> list[dict]:
    """What eight components cost beside one."""
    observation, policies = np.zeros((1, OBSERVATION_DIM)), {k: make_policy(k, "small", device) for k in (1, 8)}
    acting = {k: timer(lambda p=p: p.act(observation, ["reach"]), 20, device) for k, p in policies.items()}
    training = {k: timer(training_step(p, 64, device), 10, device) for k, p in policies.items()}
    rows = []
    for what, candidates in (("one action chunk, B = 1", acting), ("training, batch 64", training)):
        seconds = take_turns(candidates, turns)
        rows.append({
            "what": f"K = 8 beside K = 1: {what}", "ratio": {"K = 8 / K = 1": seconds[8] / seconds[1]},
            "milliseconds": {f"K = {k}": 1000 * s for k, s in seconds.items()},
        })  # fmt: skip
    return rows


def evaluation_row(folder: Path, episodes: int, device: str) -> dict:
    """evaluate.py as a process, from start to end, beside the physics of its episodes on as many processes."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "e.json"
        command = ["evaluate.py", "--run", folder, "--episodes", episodes, "--out", path, "--device", device]
        seconds, memory = process([str(word) for word in command])
        result = json.loads(path.read_text())
    physics = sum(r["simulation_seconds"] for r in result["tasks"].values())
    expert = sum(r["expert"]["simulation_seconds"] for r in result["tasks"].values())
    workers = min(os.cpu_count() or 1, 8)
    return {
        "what": f"evaluate.py --run {folder.name} --episodes {episodes}", "seconds": {
            "whole process": seconds, "physics, policy's episodes": physics / workers,
            "physics, expert's episodes": expert / workers, "policy": result["policy_seconds"],
        },
        "ratio": {"whole / physics": seconds * workers / (physics + expert)},
        "peak_memory_mb": memory,
    }  # fmt: skip


def start_up_row(turns: int) -> dict:
    """train.py --help beside importing torch alone."""
    candidates = {
        "train.py --help": lambda: process(["train.py", "--help"])[0],
        "import torch": lambda: process(["-c", "import torch"])[0],
    }
    seconds = take_turns(candidates, turns)
    ratio = seconds["train.py --help"] / seconds["import torch"]
    return {"what": "start-up", "seconds": seconds, "ratio": {"help / import torch": ratio}}


def process(words: list[str]) -> tuple[float, float]:
    """Run Python with these words. -> seconds; peak memory, in megabytes, of its largest process."""
    begin = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        child = subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=output, stderr=output)
        _, status, usage = os.wait4(child.pid, 0)  # this child's own usage, not the largest of all so far
        seconds = time.perf_counter() - begin
        if status:
            output.seek(0)
            raise RuntimeError(f"{' '.join(words)}: {output.read()[-500:]}")
    return seconds, usage.ru_maxrss / 1024


def table(result: dict) -> str:
    """One line per row: what, and how many times as long as ours each other thing takes."""
    lines = [f"fastest matrix product: {result['peak_gflops']:.0f} GFLOP/s"]
    for row in result["rows"]:
        ratios = ", ".join(f"{name} {value:.2f}" for name, value in row["ratio"].items() if name != "ours")
        share = f"; {row['share_of_peak']:.0%} of the matrix product's speed" if "share_of_peak" in row else ""
        lines.append(f"{row['what']:<44} {ratios}{share}")
    return "\n".join(lines)


def main(config: BenchmarkConfig) -> dict:
    """Measure everything. Returns what the command's last line says: the path written and the ratios."""
    device, path, folder = choose_device(config.device), Path(config.out), Path(config.run)
    if config.turns < 1 or config.episodes < 1:
        raise BadInput("--turns and --episodes must be at least 1")
    load_policy(folder, device)  # refuses what is no run, before minutes of measuring
    check_output(path, "peak_gflops")
    peer = Peer(config.peer) if config.peer else None
    result = {"peak_gflops": matrix_peak(device) / 1e9, "threads": torch.get_num_threads(), "rows": []}
    measurements: list[Callable[[], list[dict]]] = [
        lambda: training_rows(peer, device, config.turns),
        lambda: acting_rows(peer, device, config.turns),
        lambda: scaling_rows(device, config.turns),
        lambda: [evaluation_row(folder, config.episodes, str(device))],
        lambda: [start_up_row(config.turns)],
    ]
    for measure in measurements:
        for row in measure():
            if "gflops" in row:
                row["share_of_peak"] = row["gflops"] / result["peak_gflops"]
            result["rows"].append(row)
            say(table({**result, "rows": [row]}).splitlines()[1])
    result.update(provenance(0, str(device)))
    write_json(path, result)
    say(table(result))
    return {"ratios": {row["what"]: row["ratio"] for row in result["rows"]}, "wrote": [str(path)]}


if __name__ == "__main__":
    run(lambda: main(parse(BenchmarkConfig)))
