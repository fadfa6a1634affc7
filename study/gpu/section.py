"""One section of what only a GPU can show, in at most eight minutes:   python study/gpu/section.py speed

README.md beside this file says which question each section answers. Every section can run alone, needs no internet,
and leaves one JSON file at its end; where that is there already, nothing is done.

--tiny is the same code at a size for tests, on any device. Its numbers mean nothing.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as xml
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import safetensors
import torch
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import adapt  # noqa: E402
import evaluate  # noqa: E402
from adaptation import stages  # noqa: E402
from plumbing import reports  # noqa: E402
from plumbing.cli import ROOT, BadInput, check_output, parse, provenance, run, say, write_json  # noqa: E402
from plumbing.machine import choose_device  # noqa: E402
from plumbing.runs import load_policy, read_config  # noqa: E402
from study.ml45.table import NEW  # noqa: E402
from study.speed.benchmark import acting_rows, scaling_rows, seeing_rows, training_rows  # noqa: E402
from study.speed.candidates import make_policy, training_step  # noqa: E402
from study.speed.timing import Peer, matrix_peak, take_turns, timer, wait  # noqa: E402

GOALS = {"mt6": (0.95,), "mt50": (0.95, 0.98)}  # mean success; on mt6 hoped for in 300 s, demonstrations included
TRAINING_ENDS, COMPILING_ENDS, EVALUATING_ENDS = 0.69, 0.62, 0.94  # of --seconds, since a section began


@dataclass
class SectionConfig:
    """Measure one thing on a GPU."""

    name: tyro.conf.Positional[
        Literal[
            "tests",
            "speed",
            "mt6-base",
            "mt6-small",
            "mt6-pixels",
            "mt50-small",
            "mt50-base",
            "one-demonstration",
            "components",
        ]
    ]
    device: str = "auto"  # auto | cuda; cpu goes with --tiny only
    peer: str = ""  # python of an environment with LeRobot, for speed; study/speed/lerobot_peer.py says how to make it
    seconds: int = 480  # that it may take; run.sh ends it after 540, because a shared GPU's command may have 600
    steps: int | None = None  # of training, for mt6-*, mt50-* and the base of one-demonstration
    tiny: bool = False  # the same code at a size for tests
    out: str = ""  # folder of the JSON files; default study/gpu, with --tiny runs/gpu/tiny
    runs: str = "runs/gpu"  # folder of checkpoints and demonstrations, for mt6-* and mt50-*


# ---------------------------------------------------------------------------------------------- tests


def tests(config: SectionConfig, device: torch.device) -> dict:
    """tests/test_gpu.py on this device, test by test."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "report.xml"
        command = [sys.executable, "-m", "pytest", "tests/test_gpu.py", "-p", "no:cacheprovider", f"--junitxml={path}"]
        environment = {**os.environ, "FDP_TEST_DEVICE": str(device)}
        subprocess.run(command, cwd=ROOT, env=environment, stdout=sys.stderr, timeout=EVALUATING_ENDS * config.seconds)
        found = {}
        for case in xml.parse(path).iter("testcase"):
            other = [node for node in case if node.tag in ("failure", "error", "skipped")]
            found[case.get("name")] = f"{other[0].tag}: {other[0].get('message')}" if other else "passed"
    if not found:
        raise RuntimeError("no test was found; what pytest says is above")
    return {"passed": sum(said == "passed" for said in found.values()), "tests": found}


# ---------------------------------------------------------------------------------------------- speed


def attempt(what: str, rows: Callable[[], list[dict]]) -> list[dict]:
    """Rows; or one that says why there are none, so that the others are still measured."""
    try:
        made = rows()
    except Exception as error:
        made = [{"what": what, "failed": f"{type(error).__name__}: {error}"[:500]}]
    for row in made:
        say(json.dumps(row))
    return made


def speed(config: SectionConfig, device: torch.device) -> dict:
    """Training and acting beside LeRobot's U-Net, and what torch.compile and CUDA graphs change. bf16 on a GPU."""
    begin, sizes, turns = time.perf_counter(), ["small"] if config.tiny else ["small", "base"], 1 if config.tiny else 5
    peer = Peer(config.peer) if config.peer else None
    rows = attempt("training", lambda: training_rows(peer, device, turns, sizes))
    rows += attempt("acting", lambda: acting_rows(peer, device, turns))
    for row in rows:
        row |= {} if peer else {"LeRobot": "no peer"}
    rows += attempt("seeing", lambda: seeing_rows(device, turns, sizes))
    for size in sizes:  # last, because the compiler may take minutes
        rows += attempt(f"compiling {size}", lambda size=size: compiled_rows(device, size, turns, config, begin))
    peak = None if config.tiny else matrix_peak(device) / 1e9
    return {"peer": config.peer or "no peer", "peak_gflops": peak, "rows": rows}


def compiled_rows(device: torch.device, size: str, turns: int, config: SectionConfig, begin: float) -> list[dict]:
    """A training step, as it is, compiled, and replayed as a CUDA graph; and how long each takes to get ready."""
    compiler = {"backend": "aot_eager"} if config.tiny else {}  # which generates no code, so it is quick
    ways = {"eager": None, "compile": compiler, "compile, CUDA graphs": compiler or {"mode": "reduce-overhead"}}
    candidates, ready, failed = {}, {}, {}
    for name, how in ways.items():
        start, policy = time.perf_counter(), make_policy(4, size, device)
        if start - begin > COMPILING_ENDS * config.seconds:
            failed[name] = "left out: too little time"
            continue
        try:
            loss = policy.loss if how is None else begin_step(torch.compile(policy.loss, **how))
            candidates[name] = timer(training_step(policy, 64, loss), 1 if config.tiny else 50, device)
            wait(device)
            ready[name] = time.perf_counter() - start
        except Exception as error:  # no compiler on this machine, say: the other ways still count
            failed[name] = f"{type(error).__name__}: {error}"[:500]
    seconds = take_turns(candidates, turns)
    return [{
        "what": f"training, {size}, K = 4, batch 64, compiled", "failed": failed, "seconds_until_ready": ready,
        "samples_per_second": {name: 64 / s for name, s in seconds.items()},
        "ratio": {name: s / seconds["eager"] for name, s in seconds.items()},
    }]  # fmt: skip


def begin_step(loss: Callable) -> Callable:
    """CUDA graphs write results to the same memory each time, and have to be told when the last ones are done with."""
    return lambda *batch: (torch.compiler.cudagraph_mark_step_begin(), loss(*batch))[1]


def components(config: SectionConfig, device: torch.device) -> dict:
    """What K components cost beside one, training and acting."""
    counts, sizes, turns = ((1, 2), ["small"], 1) if config.tiny else ((1, 2, 4, 8, 16), ["small", "base"], 5)
    rows = [attempt(size, lambda size=size: scaling_rows(device, turns, counts, [size])) for size in sizes]
    return {"rows": sum(rows, [])}


# ---------------------------------------------------------------------------------------------- mt6, mt50


def from_nothing(config: SectionConfig, device: torch.device) -> dict:
    """From nothing to the evaluation table, and after how many seconds a checkpoint first had reached each goal.

    Checkpoints are copied while train.py goes on, and played when it has ended. Which one is the first is found on
    block 400, the one for choices; what is reported of the last one is from block 6.
    """
    group, size = config.name.split("-")
    cameras = {"--observation": "pixels", "--image-size": 128, "--demos-per-task": 25} if size == "pixels" else {}
    home, begin = fresh(config), time.perf_counter()  # "from nothing" includes the demonstrations
    flags = {"--tasks": group, "--size": "base" if cameras else size, "--components": 4, "--save-every": 1000}
    flags |= cameras
    if config.tiny:
        flags |= {"--tasks": "reach,push", "--components": 1, "--steps": 2, "--demos-per-task": 2}
        flags |= {"--horizon": 16, "--executed": 16}  # the network is asked seldom
    flags |= {"--steps": config.steps} if config.steps else {}
    flags |= {"--eval-episodes": 0, "--device": device, "--data-dir": home / "data", "--out": home / "run"}
    command = ["train.py", *(str(word) for flag in flags.items() for word in flag)]
    checkpoints, summary = watch(command, home, begin, config.seconds)
    trained = time.perf_counter() - begin
    say(f"{len(checkpoints)} checkpoints after {trained:.0f} s; training {'done' if summary else 'was cut short'}")

    def play(checkpoint: dict, episodes: int, block: int) -> dict:
        policy = load_policy(home / f"step-{checkpoint['step']}", device, checkpoint=True)
        return evaluate.evaluate(policy, policy.config.tasks, episodes, block)[0]

    final = play(checkpoints[-1], 1 if config.tiny else 50, 6)
    evaluated, reached = time.perf_counter() - begin, dict.fromkeys(map(str, GOALS[group]))
    say(reports.table(final))
    for checkpoint in checkpoints:
        if time.perf_counter() - begin > EVALUATING_ENDS * config.seconds:
            say("no time for the checkpoints that are left")
            break
        episodes = 1 if config.tiny else 20 if group == "mt6" else 4
        checkpoint["success"] = play(checkpoint, episodes, 400)["mean_success"]
        say(json.dumps(checkpoint))
        for goal, seconds in reached.items():
            if seconds is None and (checkpoint["success"] or 0) >= float(goal):
                reached[goal] = checkpoint["seconds"]
        if None not in reached.values():
            break
    return {
        "seconds_to_goal": reached, "checkpoints": checkpoints, "final": final, "train": typed(command),
        "seconds": {"until trained": trained, "until evaluated": evaluated, **(summary or {}).get("seconds", {})},
        "training_finished": summary is not None,
    }  # fmt: skip


def one_demonstration(config: SectionConfig, device: torch.device) -> dict:
    """A base of 45 tasks, and each of the five others from one demonstration, with a new component: study/ml45 at this
    size. A task that there is no time for is left out, and named."""
    home, begin = fresh(config), time.perf_counter()
    flags = {"--tasks": "ml45-train", "--size": "base", "--demos-per-task": 25, "--steps": config.steps or 24_000}
    tasks, steps, episodes = NEW.split(","), 2000, 50
    if config.tiny:
        flags |= {"--tasks": "reach,push", "--size": "small", "--components": 1, "--steps": 2, "--demos-per-task": 2}
        tasks, steps, episodes = tasks[1:2], 2, 1
    flags |= {"--eval-episodes": 0, "--device": device, "--data-dir": home / "data", "--out": home / "run"}
    command = ["train.py", *(str(word) for flag in flags.items() for word in flag)]
    checkpoints, summary = watch(command, home, begin, config.seconds)
    trained, found, left_out = time.perf_counter() - begin, {}, []
    origin = home / f"step-{checkpoints[-1]['step']}"
    for task in tasks:
        if time.perf_counter() - begin > EVALUATING_ENDS * config.seconds:
            left_out.append(task)
            continue
        folder = home / task
        asked = {"demos_per_task": 1, "demo_draw": 1, "steps": steps, "eval_episodes": 0, "device": str(device)}
        asked |= {"run": str(origin), "tasks": task, "data_dir": str(home / "data"), "out": str(folder)}
        stages.main(adapt.AdaptConfig(**asked), adapt.learn)
        result, _ = evaluate.evaluate(load_policy(folder, device), [task], episodes, 9)
        about = {"seconds_of_training": read_config(folder)["adapted"][-1]["seconds"]}
        found[task] = result["tasks"][task] | about
        say(json.dumps({"task": task, "success": found[task]["success"]} | about))
    return {
        "base": checkpoints[-1], "tasks": found, "left_out": left_out, "train": typed(command),
        "seconds": {"until trained": trained}, "training_finished": summary is not None,
    }  # fmt: skip


def fresh(config: SectionConfig) -> Path:
    """An empty folder for a section's checkpoints and demonstrations. What an earlier try left there is removed, and
    nothing else: BadInput for a folder that no section of this kind, tiny or not, has made."""
    home = Path(config.runs).resolve() / config.name
    mark = home / ("tiny-section" if config.tiny else "section")
    if home.exists() and not mark.exists():
        raise BadInput(f"{home} is there, and not of such a section: remove it, or choose another --runs")
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    mark.touch()
    return home


def watch(command: list[str], home: Path, begin: float, seconds_in_all: float) -> tuple[list[dict], dict | None]:
    """Run train.py, and copy each checkpoint as it appears. -> what and when they were, and what train.py's last line
    says; None if it was stopped because its time was up."""
    weights, seen, checkpoints = home / "run" / "model.safetensors", None, []
    with tempfile.TemporaryFile("w+") as output:
        child = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=output)
        try:
            ended = False
            while not ended and time.perf_counter() - begin < TRAINING_ENDS * seconds_in_all:
                ended = child.poll() is not None  # asked first: what it wrote last is still looked at
                if weights.exists() and (now := weights.stat().st_mtime_ns) != seen:
                    seen, seconds = now, time.perf_counter() - begin
                    if (step := keep(home)) is not None:
                        checkpoints.append({"step": step, "seconds": seconds})
                        say(json.dumps(checkpoints[-1]))
                time.sleep(0.1)
        finally:
            child.kill()
            child.wait()
        if not checkpoints:
            raise RuntimeError(f"no checkpoint, exit code {child.returncode}; what train.py says is above")
        output.seek(0)
        return checkpoints, json.loads(output.read()) if ended and child.returncode == 0 else None


def typed(command: list[str]) -> list[str]:
    """The command as it is typed in the project's folder: where that lies on this machine is nobody's concern."""
    return [word.removeprefix(f"{ROOT}/") for word in command]


def keep(home: Path) -> int | None:
    """Copy the run's newest weights to a folder of their own that can be loaded like a run. -> of which step; None if
    they were kept before."""
    copy = home / "step.tmp"
    copy.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(home / "run" / name, copy / name)
    with safetensors.safe_open(copy / "model.safetensors", "pt") as file:
        step = int(file.metadata()["step"])
    if (home / f"step-{step}").exists():  # train.py had written it between our looking and our copying
        shutil.rmtree(copy)
        return None
    copy.rename(home / f"step-{step}")
    return step


# ---------------------------------------------------------------------------------------------- all of it

SECTIONS = {"tests": tests, "speed": speed, "components": components, "one-demonstration": one_demonstration,
            **dict.fromkeys(("mt6-base", "mt6-small", "mt6-pixels", "mt50-small", "mt50-base"), from_nothing),
            }  # fmt: skip


def main(config: SectionConfig) -> dict:
    """Make one section. Returns what the command's last line says: the path written."""
    device = choose_device(config.device)
    if device.type != "cuda" and not config.tiny:
        raise BadInput("these sections are about a GPU, and here is none; --tiny only tries them out")
    path = Path(config.out or ROOT / ("runs/gpu/tiny" if config.tiny else "study/gpu")) / f"{config.name}.json"
    if path.is_file():
        say(f"{config.name}: {path} is there already")
        return {"wrote": []}
    check_output(path, "section")
    begin = time.perf_counter()
    say(f"{config.name}, on {device}")
    result = {"section": config.name, "tiny": config.tiny, "torch": torch.__version__}
    result |= SECTIONS[config.name](config, device)
    result["section_seconds"] = round(time.perf_counter() - begin, 1)
    write_json(path, result | provenance(0, str(device)))
    return {"wrote": [str(path)]}


if __name__ == "__main__":
    run(lambda: main(parse(SectionConfig)))
