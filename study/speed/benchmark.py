"""How fast, next to what: every number is a ratio between things measured in turn, in one run, on one device.

    python study/speed/benchmark.py --peer peer/bin/python      # how to make that environment: lerobot_peer.py
    python study/speed/benchmark.py --run study/core/mt6        # evaluation speed of this run

Compared with: (a) a Python loop over K of LeRobot's diffusion-policy U-Net with diffusers' DDIM, as its users use it,
once beside our default and once beside ours made as deep as theirs; (b) our own components one by one; and two limits,
the fastest matrix product of this device and the bare simulator. candidates.py makes them, timing.py takes the time.
Candidates take turns, so that a machine that slows down slows all of them; each row is the median over the turns.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import evaluate  # noqa: E402
from envs.rollout import FIRST_EVALUATION_SEED, Roller  # noqa: E402
from envs.worker import Episode  # noqa: E402
from plumbing import figures  # noqa: E402
from plumbing.cli import ROOT, BadInput, check_output, parse, provenance, run, say, write_json  # noqa: E402
from plumbing.machine import choose_device, one_thread  # noqa: E402
from plumbing.runs import load_policy  # noqa: E402
from study.speed.candidates import action_chunk, make_policy, seeing, three_policies, training_step  # noqa: E402
from study.speed.timing import Peer, first_step, flops, matrix_peak, process, take_turns, timer  # noqa: E402
from train import SIZES  # noqa: E402


@dataclass
class BenchmarkConfig:
    """Measure training, acting, evaluation and start-up, as ratios to peers in the same run."""

    run: str = "study/core/mt6"  # the trained run whose evaluation is timed
    peer: str = ""  # python of an environment with LeRobot; without it those rows are left out
    device: str = "auto"  # auto | cpu | cuda
    turns: int = 7  # how often each candidate is measured
    episodes: int = 50  # per task, in the timed evaluation
    out: str = ""  # the JSON file, with a figure beside it; default study/speed/DEVICE.json


def training_rows(peer: Peer | None, device: torch.device, turns: int, sizes=("small", "base")) -> list[dict]:
    """K = 4 at the default batch: ours, ours one by one, LeRobot's."""
    rows = []
    for size in sizes:
        policy, deep, separate = three_policies(4, size, device)
        batch, calls = 64, 1 if size == "base" and device.type == "cpu" else 10
        ours = training_step(policy, batch)
        candidates = {
            "ours": timer(ours, calls, device),
            "ours, as deep as LeRobot's": timer(training_step(deep, batch), calls, device),
            "one by one": timer(training_step(separate, batch), calls, device),
        }
        if device.type == "cuda":  # is rounding worth its casts? launching them takes time, too
            plain = training_step(make_policy(4, size, device), batch, precision="float32")
            candidates["float32"] = timer(plain, calls, device)
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


def seeing_rows(device: torch.device, turns: int, sizes=("small", "base")) -> list[dict]:
    """What two cameras add to a training step, K = 4, at the default batch."""
    rows = []
    for size in sizes:
        pixels, batch, calls = {"small": 64, "base": 128}[size], 64, 1 if device.type == "cpu" else 10
        policy = make_policy(4, size, device, pixels)
        candidates = {"ours": training_step(policy, batch), "the encoder alone": seeing(policy, batch),
                      "from the state": training_step(make_policy(4, size, device), batch)}  # fmt: skip
        seconds = take_turns({name: timer(step, calls, device) for name, step in candidates.items()}, turns)
        rows.append({
            "what": f"training, {size}, cameras of {pixels} pixels, K = 4, batch {batch}",
            "milliseconds": {name: 1000 * s for name, s in seconds.items()},
            "ratio": {name: s / seconds["ours"] for name, s in seconds.items()},
        })  # fmt: skip
    return rows


def acting_rows(peer: Peer | None, device: torch.device, turns: int) -> list[dict]:
    """One action chunk for B robots: ours with its default sampler and with DDIM in 10 steps, LeRobot's with DDIM."""
    rows, (policy, deep, separate) = [], three_policies(4, "small", device)
    every = torch.get_num_threads()
    for batch, threads in ((1, every), (1, 1), (64, every)):
        if (device.type == "cuda" or every == 1) and (batch, threads) == (1, 1) and rows:
            continue
        torch.set_num_threads(threads)  # for one robot, several threads wait for each other longer than they work
        calls = 20 if batch == 1 else 5
        candidates = {
            name: timer(action_chunk(p, batch, sampler, steps), calls, device)
            for name, p, sampler, steps in (
                ("ours", policy, "dpm", 5),
                ("ours, DPM 3", policy, "dpm", 3),
                ("ours, DDIM 10", policy, "ddim", 10),
                ("ours, as deep as LeRobot's, DDIM 10", deep, "ddim", 10),
                ("one by one", separate, "dpm", 5),
            )
        }
        if peer:
            request = {"what": "act", "components": 4, "horizon": 8, "batch": batch, "device": str(device),
                       "threads": threads, "sampling_steps": 10, "calls": max(1, calls // 5),
                       **SIZES["small"]}  # fmt: skip
            candidates["LeRobot, DDIM 10"] = lambda request=request: peer.seconds(**request)
        seconds = take_turns(candidates, turns)
        rows.append({
            "what": f"one action chunk, K = 4, B = {batch}" + (", one thread" if threads < every else ""),
            "gflops": flops(action_chunk(policy, batch)) / seconds["ours"] / 1e9,
            "milliseconds": {name: 1000 * s for name, s in seconds.items()},
            "ratio": {name: s / seconds["ours"] for name, s in seconds.items()},
        })  # fmt: skip
    torch.set_num_threads(every)
    return rows


def scaling_rows(device: torch.device, turns: int, counts=(1, 8), sizes=("small",)) -> list[dict]:
    """What K components cost beside one."""
    rows = []
    for size in sizes:
        policies = {k: make_policy(k, size, device) for k in counts}
        acting = {k: timer(action_chunk(p, 1), 20, device) for k, p in policies.items()}
        training = {k: timer(training_step(p, 64), 10, device) for k, p in policies.items()}
        for what, candidates in (("one action chunk, B = 1", acting), ("training, batch 64", training)):
            seconds = take_turns(candidates, turns)
            rows.append({
                "what": f"K = {counts[-1]} beside K = 1: {what}" + (f", {size}" if size != "small" else ""),
                "ratio": {f"K = {k} / K = 1": seconds[k] / seconds[1] for k in counts[1:]},
                "milliseconds": {f"K = {k}": 1000 * s for k, s in seconds.items()},
            })  # fmt: skip
    return rows


def recording(policy, recorded: dict) -> tuple[Callable, Callable]:
    """What plays a policy and keeps its chunks in `recorded`, and what plays them again, both as `Roller.play` asks."""
    chosen = policy.choose_sampler()

    def act(observations, playing, chunks):
        noise = evaluate.starting_noise(policy, playing, chunks)
        actions, _ = policy.act(observations, [e.task for e in playing], *chosen, noise)
        for episode, chunk, row in zip(playing, chunks, actions[:, : policy.config.executed], strict=True):
            recorded[episode.task, episode.seed, chunk] = row
        return actions[:, : policy.config.executed]

    def again(_, playing, chunks):
        return np.stack([recorded[e.task, e.seed, c] for e, c in zip(playing, chunks, strict=True)])

    return act, again


def evaluation_rows(folder: Path, episodes: int, device: torch.device) -> list[dict]:
    """evaluate.py beside the physics of the very same episodes: its stepping alone, and the whole process.

    The bare simulator plays the recorded actions again, on as many processes, with no policy.
    """
    policy = load_policy(folder, device)
    act, replay = recording(policy, {})

    def todo(**kind) -> list[Episode]:
        seeds = range(FIRST_EVALUATION_SEED, FIRST_EVALUATION_SEED + episodes)
        return [Episode(task, seed, **kind) for seed in seeds for task in policy.config.tasks]

    with one_thread(), Roller() as roller:
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


def table(result: dict) -> str:
    """One line per row: what, and how many times as long as ours each other thing takes."""
    lines = [f"fastest matrix product: {result['peak_gflops']:.0f} GFLOP/s"]
    for row in result["rows"]:
        ratios = ", ".join(f"{name} {value:.2f}" for name, value in row["ratio"].items() if value != 1)
        ratios = f"{row['megabytes']:.0f} MB; {ratios}" if "megabytes" in row else ratios
        share = f"; {row['share_of_peak']:.0%} of the matrix product's speed" if "share_of_peak" in row else ""
        lines.append(f"{row['what']:<44} {ratios}{share}")
    return "\n".join(lines)


def picture(rows: list[dict], path: Path) -> Path:
    """The benchmark's rows in which something else than ours was timed: how many times as long it takes."""
    bars = [
        (row["what"], name, value) for row in rows for name, value in row["ratio"].items() if "ours" in row["ratio"]
    ]
    names = list(dict.fromkeys(name for _, name, _ in bars))
    figure, axis = figures.pyplot().subplots(figsize=(7.5, 0.24 * len(bars) + 1))
    labels, before = [], None
    for i, (what, name, value) in enumerate(bars):
        axis.barh(i, value, color=figures.COLORS[names.index(name) % 10], alpha=0.8)
        axis.text(value, i, f" {value:.2f} x", va="center", fontsize=7)
        labels.append(f"{what}:  {name}" if what != before else name)
        before = what
    axis.set_yticks(range(len(bars)), labels, fontsize=7)
    axis.invert_yaxis()
    axis.axvline(1, color="black", linewidth=0.8)
    axis.set_xscale("log")
    axis.set_xticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
    axis.set_xlabel("time, in times of ours (logarithmic)")
    axis.margins(x=0.12)
    return figures.save(figure, path)


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
    figure = picture(result["rows"], path.with_suffix(".png"))
    return {"ratios": {row["what"]: row["ratio"] for row in result["rows"]}, "wrote": [str(path), str(figure)]}


if __name__ == "__main__":
    run(lambda: main(parse(BenchmarkConfig)))
