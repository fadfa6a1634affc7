"""Ten thousand evaluation episodes over fifty tasks in one command: does memory grow, is anything left behind?

    python study/reliability/load.py [--episodes 200]

All fifty MetaWorld tasks, so many episodes of each, with the shipped network's shape and random weights. Episodes are
cut to 50 steps (short.py), or ten thousand would take an hour and more on two cores: their number, their messages and
their bookkeeping are what is tried. Memory of this process and of its simulators is read every second. Survived:
nothing grows after the first fifth, when every simulator has been built, and no process is left.
"""

import argparse
import os
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import torch  # noqa: E402

import evaluate  # noqa: E402
from envs import metaworld, tasks  # noqa: E402
from plumbing.cli import say  # noqa: E402
from plumbing.runs import build_policy  # noqa: E402
from study.reliability.table import row, write  # noqa: E402


def megabytes(pid: int) -> float:
    """Resident memory of a process, as Linux counts it; 0 once it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        return 0.0


def children() -> set[int]:
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=200, help="of each task (default: %(default)s)")
    flags = parser.parse_args()
    torch.manual_seed(0)
    names, before = [f"study.reliability.short:{task}-short-v0" for task in metaworld.TASKS], children()
    tasks.trust(names)
    s = tasks.common_spaces(names)
    policy = build_policy("fdp", {
        "observation": s.observation, "action_low": s.action_low, "action_high": s.action_high, "tasks": names,
        "components": 4, "channels": (32, 64),
    }).eval()  # fmt: skip
    seen, over = [], threading.Event()

    def watch() -> None:
        while not over.wait(1.0):
            seen.append((time.perf_counter(), megabytes(os.getpid()), sum(map(megabytes, children() - before))))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        result, _ = evaluate.evaluate(policy, names, flags.episodes)
    finally:
        over.set()
        watcher.join()
    fifth, last = seen[len(seen) // 5], max(seen[-5:], key=lambda x: x[1])
    count = sum(r["n"] for r in result["tasks"].values())
    flat = last[1] < 1.1 * fifth[1] + 40
    say(f"main process: {fifth[1]:.0f} MB after a fifth, {last[1]:.0f} MB at the end; simulators {fifth[2]:.0f} MB, "
        f"{last[2]:.0f} MB")  # fmt: skip
    rows = {
        "episodes in one command": row(flags.episodes * len(names), count, "played to their end (50 steps)"),
        "memory": row(1, int(flat), "after the first fifth it grows by less than a tenth and 40 MB",
                      main_megabytes=[round(fifth[1]), round(last[1])],
                      simulators_megabytes=[round(fifth[2]), round(last[2])], seconds=round(result["seconds"])),
        "processes": row(1, int(children() == before), "none is left"),
    }  # fmt: skip
    write("load", rows, seed=0)


if __name__ == "__main__":
    main()
