"""How fast, next to what: every number is a ratio between things measured in turn, in one run, on one device.

    python benchmark.py --peer peer/bin/python      # how to make that environment: study/speed/lerobot_peer.py
    python benchmark.py --run study/core/mt6        # evaluation speed of this run

Compared with: (a) a Python loop over K of LeRobot's diffusion-policy U-Net with diffusers' DDIM, as its users use it,
once beside our default and once beside ours made as deep as theirs; (b) our own components one by one; and two limits,
the fastest matrix product of this device and the bare simulator.
Candidates take turns, so that a machine that slows down slows all of them; each row is the median over the turns.
"""

import functools
import json
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

import evaluate
import figures
from checkpoint import choose_device, load_policy
from cli import ROOT, BadInput, check_output, parse, provenance, run, say, write_json
from envs.metaworld import ACTION_DIM, OBSERVATION_DIM, POSITION_PAIRS
from envs.rollout import FIRST_EVALUATION_SEED, Episode, Roller
from fdp import Policy, PolicyConfig
from sampler import resolve_steps
from train import SIZES
from unet import Linear, ResidualBlock


@dataclass
class BenchmarkConfig:
    """Measure training, acting, evaluation and start-up, as ratios to peers in the same run."""

    run: str = "study/core/mt6"  # the trained run whose evaluation is timed
    peer: str = ""  # python of an environment with LeRobot; without it those rows are left out
    device: str = "auto"  # auto | cpu | cuda
    turns: int = 7  # how often each candidate is measured
    episodes: int = 50  # per task, in the timed evaluation
    out: str = ""  # the JSON file, with a figure beside it; default study/speed/DEVICE.json


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


class Pair(torch.nn.Module):
    """Two residual blocks where ours has one, as in LeRobot's U-Net; to what is around it, one block with more FiLM."""

    def __init__(self, first: ResidualBlock):
        super().__init__()
        components, kernel, _, width = first.conv2.weight.shape
        self.first, self.second = first, ResidualBlock(components, width, width, kernel)
        self.channels = 2 * width

    def forward(self, x, film):
        first, second = film.chunk(2, dim=-1)
        return self.second(self.first(x, first), second)


def as_deep_as_lerobot(policy: Policy) -> Policy:
    """Its U-Net with LeRobot's widths, kernel and number of blocks: eight for two levels instead of four."""
    unet = policy.components
    for level in [*unet.down, *unet.up]:
        place = 0 if isinstance(level[0], ResidualBlock) else 1
        level[place] = Pair(level[place])
    unet.middle = torch.nn.ModuleList(Pair(block) for block in unet.middle)
    unet.film_sizes = [2 * block.channels for block in unet.blocks()]
    components, inputs, _ = unet.film_out.weight.shape
    unet.film_out = Linear(components, inputs, sum(unet.film_sizes))
    return policy.to(policy.alpha_bar_32.device)


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
        policy, deep, separate = (make_policy(4, size, device) for _ in range(3))
        as_deep_as_lerobot(deep)
        separate.components = OneByOne(separate).to(device)
        batch, calls = 64, 10 if size == "small" else 1
        ours = training_step(policy, batch, device)
        candidates = {
            "ours": timer(ours, calls, device),
            "ours, as deep as LeRobot's": timer(training_step(deep, batch, device), calls, device),
            "one by one": timer(training_step(separate, batch, device), calls, device),
        }
        if peer:
            request = {"what": "train", "components": 4, "horizon": 8, "batch": batch, "device": str(device),
                       "threads": torch.get_num_threads(), "calls": calls, **SIZES[size]}  # fmt: skip
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
    rows, (policy, deep, separate) = [], (make_policy(4, "small", device) for _ in range(3))
    as_deep_as_lerobot(deep)
    separate.components = OneByOne(separate).to(device)
    every = torch.get_num_threads()
    for batch, threads in ((1, every), (1, 1), (64, every)):
        if device.type == "cuda" and (batch, threads) == (1, 1):
            continue
        torch.set_num_threads(threads)  # for one robot, several threads wait for each other longer than they work
        observation, tasks, calls = np.zeros((batch, OBSERVATION_DIM)), ["reach"] * batch, 20 if batch == 1 else 5

        def act(p: Policy, sampler: str, steps: int, observation=observation, tasks=tasks, calls=calls):
            return timer(lambda: p.act(observation, tasks, sampler, steps), calls, device)

        candidates = {
            "ours": act(policy, "dpm", 5),
            "ours, DPM 3": act(policy, "dpm", 3),
            "ours, DDIM 10": act(policy, "ddim", 10),
            "ours, as deep as LeRobot's, DDIM 10": act(deep, "ddim", 10),
            "one by one": act(separate, "dpm", 5),
        }
        if peer:
            request = {"what": "act", "components": 4, "horizon": 8, "batch": batch, "device": str(device),
                       "threads": threads, "sampling_steps": 10, "calls": max(1, calls // 5),
                       **SIZES["small"]}  # fmt: skip
            candidates["LeRobot, DDIM 10"] = lambda request=request: peer.seconds(**request)
        seconds = take_turns(candidates, turns)
        rows.append({
            "what": f"one action chunk, K = 4, B = {batch}" + (", one thread" if threads < every else ""),
            "gflops": flops(functools.partial(policy.act, observation, tasks)) / seconds["ours"] / 1e9,
            "milliseconds": {name: 1000 * s for name, s in seconds.items()},
            "ratio": {name: s / seconds["ours"] for name, s in seconds.items()},
        })  # fmt: skip
    torch.set_num_threads(every)
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


def evaluation_rows(folder: Path, episodes: int, device: torch.device) -> list[dict]:
    """evaluate.py beside the physics of the very same episodes: its stepping alone, and the whole process.

    The bare simulator plays the recorded actions again, on as many processes, with no policy.
    """
    policy, recorded = load_policy(folder, device), {}
    steps = resolve_steps("dpm", None, policy.config.diffusion_steps)

    def act(observations, playing, chunks):
        noise = evaluate.starting_noise(policy, playing, chunks)
        actions, _ = policy.act(observations, [e.task for e in playing], "dpm", steps, noise)
        for episode, chunk, row in zip(playing, chunks, actions[:, : policy.config.executed], strict=True):
            recorded[episode.task, episode.seed, chunk] = row
        return actions[:, : policy.config.executed]

    def replay(_, playing, chunks):
        return np.stack([recorded[e.task, e.seed, c] for e, c in zip(playing, chunks, strict=True)])

    def todo(**kind) -> list[Episode]:
        seeds = range(FIRST_EVALUATION_SEED, FIRST_EVALUATION_SEED + episodes)
        return [Episode(task, seed, **kind) for seed in seeds for task in policy.config.tasks]

    with evaluate.one_thread(), Roller() as roller:
        workers = len(roller.workers)
        roller.play(act, todo())  # builds the simulators, and records
        begin = time.perf_counter()
        played = roller.play(act, todo())
        with_policy = time.perf_counter() - begin
        physics = sum(e.seconds for e in roller.play(replay, todo())) / workers
        expert = sum(e.seconds for e in roller.play_expert(todo(expert=True))) / workers
    count = sum(e.steps for e in played)
    with tempfile.TemporaryDirectory() as temporary:
        words = ["evaluate.py", "--run", folder, "--episodes", episodes, "--device", device]
        whole = process([*words, "--out", Path(temporary) / "e.json"])
        return [
            {
                "what": f"environment steps of {folder.name}, policy included",
                "steps_per_second": {"with policy": count / with_policy, "physics alone": count / physics},
                "ratio": {"with policy / physics alone": physics / with_policy},
            },
            {
                "what": f"evaluate.py --run {folder.name} --episodes {episodes}",
                "seconds": {"whole process": whole, "physics, policy": physics, "physics, expert": expert},
                "ratio": {"whole / physics": whole / (physics + expert)},
            },
        ]


def memory_rows(folder: Path, device: torch.device) -> list[dict]:
    """Peak of the default job's training, and of evaluating 100 and 400 episodes; all processes together."""
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        train = ["train.py", "--steps", 200, "--eval-episodes", 0, "--device", device]
        process([*train, "--out", Path(temporary) / "before"])  # makes demonstrations where there are none yet
        training = process([*train, "--out", Path(temporary) / "run"], watch_memory=True)
        rows.append({"what": "memory, training the default job", "megabytes": training, "ratio": {}})
        tasks = ",".join(load_policy(folder, device).config.tasks[:2])
        evaluation = ["evaluate.py", "--run", folder, "--tasks", tasks, "--device", device]
        peaks = [
            process([*evaluation, "--episodes", n, "--out", Path(temporary) / f"{n}.json"], watch_memory=True)
            for n in (50, 200)
        ]
        rows.append({
            "what": "memory, evaluating 100 episodes", "megabytes": peaks[0],
            "ratio": {"400 episodes / 100 episodes": peaks[1] / peaks[0]},
        })  # fmt: skip
    return rows


def start_up_rows(turns: int) -> list[dict]:
    """train.py --help beside importing torch alone, and how long the default job takes to its first step."""
    candidates = {
        "train.py --help": lambda: process(["train.py", "--help"]),
        "import torch": lambda: process(["-c", "import torch"]),
        "first training step": first_step,
    }
    seconds = take_turns(candidates, turns)
    ratio = {f"{name} / import torch": s / seconds["import torch"] for name, s in seconds.items()}
    return [{"what": "start-up", "seconds": seconds, "ratio": ratio}]


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


def process(words: list, watch_memory: bool = False) -> float:
    """Run Python with these words. -> seconds, or the most megabytes that it and its children held at once."""
    begin, peak = time.perf_counter(), 0.0
    with tempfile.TemporaryFile("w+") as output:
        child = subprocess.Popen([sys.executable, *map(str, words)], cwd=ROOT, stdout=output, stderr=output)
        while watch_memory and child.poll() is None:
            peak = max(peak, memory(child.pid))
            time.sleep(0.2)
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


def table(result: dict) -> str:
    """One line per row: what, and how many times as long as ours each other thing takes."""
    lines = [f"fastest matrix product: {result['peak_gflops']:.0f} GFLOP/s"]
    for row in result["rows"]:
        ratios = ", ".join(f"{name} {value:.2f}" for name, value in row["ratio"].items() if value != 1)
        ratios = f"{row['megabytes']:.0f} MB; {ratios}" if "megabytes" in row else ratios
        share = f"; {row['share_of_peak']:.0%} of the matrix product's speed" if "share_of_peak" in row else ""
        lines.append(f"{row['what']:<44} {ratios}{share}")
    return "\n".join(lines)


def main(config: BenchmarkConfig) -> dict:
    """Measure everything. Returns what the command's last line says: the path written and the ratios."""
    device, folder = choose_device(config.device), Path(config.run)
    path = Path(config.out or ROOT / "study" / "speed" / f"{device.type}.json")
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
        lambda: evaluation_rows(folder, config.episodes, device),
        lambda: memory_rows(folder, device),
        lambda: start_up_rows(config.turns),
    ]
    for measure in measurements:
        rows = measure()
        result["rows"] += rows
        say(*table({**result, "rows": rows}).splitlines()[1:], sep="\n")
        result["peak_gflops"] = max(result["peak_gflops"], matrix_peak(device) / 1e9)  # the machine's speed varies
    for row in result["rows"]:
        if "gflops" in row:
            row["share_of_peak"] = row["gflops"] / result["peak_gflops"]
    result.update(provenance(0, str(device)))
    write_json(path, result)
    say(table(result))
    figure = figures.speed(result["rows"], path.with_suffix(".png"))
    return {"ratios": {row["what"]: row["ratio"] for row in result["rows"]}, "wrote": [str(path), str(figure)]}


if __name__ == "__main__":
    run(lambda: main(parse(BenchmarkConfig)))
