"""Fifty tasks on one machine: seconds and memory of collecting, training and evaluating them. Fifteen minutes.

    python study/mt50/memory.py && python study/report.py

Each twice, a fifth of it and all: what is flat needs no more memory for the second. All processes together count, and
pages that they share once (timing.py). Collecting begins with an empty folder; evaluating is the policy that comes with
the code, 2,500 episodes and as many of the expert. Afterwards nothing may be left: no half-written file, no shared
memory, no process.
"""

import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from envs.pixels import as_policy_sees  # noqa: E402
from envs.tasks import resolve_tasks  # noqa: E402
from plumbing.cli import ROOT, BadInput, check_output, parse, provenance, run, say, write_json  # noqa: E402
from plumbing.files import TEMPORARY  # noqa: E402
from plumbing.runs import load_policy  # noqa: E402
from study.speed.timing import process  # noqa: E402


@dataclass
class MemoryConfig:
    """Collect, train and evaluate fifty tasks, and watch the memory."""

    tasks: str = "mt50"
    demos: int = 50  # per task
    steps: int = 2000
    episodes: int = 50  # per task
    run: str = "study/mt50/run"  # what is evaluated
    out: str = ""  # the JSON; default study/mt50/memory.json


def main(config: MemoryConfig) -> dict:
    """-> what the command's last line says."""
    path = Path(config.out or ROOT / "study/mt50/memory.json")
    check_output(path, "left")
    policy = load_policy(ROOT / config.run)  # refuses what is no run, before minutes of measuring
    tasks = as_policy_sees(policy.config.tasks, resolve_tasks(config.tasks))
    if strange := [task for task in tasks if task not in policy.config.tasks]:
        raise BadInput(f"--tasks: {config.run} does not know '{strange[0]}'")
    for name in ("demos", "steps", "episodes"):
        if not 1 <= (n := getattr(config, name)) <= 10_000:
            raise BadInput(f"--{name} must be between 1 and 10000, got {n}")
    rows, shared = {}, set(os.listdir("/dev/shm"))
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder) / "data", Path(folder) / "run"
        learn = ["train.py", "--tasks", config.tasks, "--data-dir", data, "--eval-episodes", 0]
        play = ["evaluate.py", "--run", config.run, "--tasks", config.tasks, "--out", Path(folder) / "e.json"]

        def learning(name: str, demos: int, steps: int) -> list:
            return [*learn, "--demos-per-task", demos, "--steps", steps, "--out", out / f"{name}-{demos}-{steps}"]

        def fifth(n: int) -> int:
            return max(1, n // 5)

        for name, words in (
            ("collecting", [learning("collecting", n, 1) for n in (fifth(config.demos), config.demos)]),
            ("training", [learning("training", config.demos, n) for n in (fifth(config.steps), config.steps)]),
            ("evaluating", [[*play, "--episodes", n] for n in (fifth(config.episodes), config.episodes)]),
        ):
            rows[name] = {"seconds": [], "megabytes": []}
            for command in words:
                begin = time.perf_counter()
                rows[name]["megabytes"].append(round(process(command, watch_memory=True, every=2)))
                rows[name]["seconds"].append(round(time.perf_counter() - begin, 1))
            say(f"{name}: {rows[name]}")
        left = [str(x.relative_to(folder)) for x in Path(folder).rglob(f"*{TEMPORARY}*")]
    left += sorted(set(os.listdir("/dev/shm")) - shared)
    left += [f"process {x}" for x in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    asked = {"demos": config.demos, "steps": config.steps, "episodes": config.episodes, "run": config.run}
    write_json(path, {"rows": rows, "left": left, **asked} | provenance(0, "cpu"))
    return {"rows": rows, "left": left, "wrote": [str(path)]}


if __name__ == "__main__":
    run(lambda: main(parse(MemoryConfig)))
