"""Ten thousand evaluation episodes over fifty tasks in one command: does memory grow, is anything left behind?

    python study/reliability/load.py [--episodes 200]

All fifty MetaWorld tasks, so many episodes of each, with the shipped network's shape and random weights. Episodes are
cut to 25 steps (short.py), or ten thousand would take hours on two cores: their number, their messages and their
bookkeeping are what is tried. Memory of this process and of its simulators is read every second.

Then evaluate.py itself is stopped at random moments, by Ctrl-C, SIGTERM and SIGKILL: no process, no file in the folder
where it was called or in the one for temporary files, no shared memory, and no evaluation may be left.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import torch  # noqa: E402

import evaluate  # noqa: E402
from envs import metaworld, tasks  # noqa: E402
from plumbing.cli import ROOT, say  # noqa: E402
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


def shared_memory() -> set[str]:
    return set(os.listdir("/dev/shm"))


def many(episodes: int) -> dict[str, dict]:
    """One evaluation of all tasks, watched."""
    torch.manual_seed(0)
    names, before = [f"study.reliability.short:{task}-short-v0" for task in metaworld.TASKS], children()
    tasks.trust(names)
    s = tasks.common_spaces(names)
    policy = build_policy("fdp", {
        "observation": s.observation, "action_low": s.action_low, "action_high": s.action_high, "tasks": names,
        "components": 4, "channels": (32, 64),
    }).eval()  # fmt: skip
    seen, over, started = [], threading.Event(), time.perf_counter()

    def watch() -> None:
        while not over.wait(1.0):
            seen.append((time.perf_counter() - started, megabytes(os.getpid()), sum(map(megabytes, children()))))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        result, _ = evaluate.evaluate(policy, names, episodes)
    finally:
        over.set()
        watcher.join()
    moments = [seen[len(seen) * i // 10] for i in range(1, 10)] + [seen[-3]]  # the last ones may see them leave
    grown = [max(x[i] for x in moments[5:]) - max(x[i] for x in moments[:5]) for i in (1, 2)]
    count = sum(r["n"] for r in result["tasks"].values())
    say(f"seconds, megabytes here, in simulators: {[tuple(map(round, moment)) for moment in moments]}")
    return {
        "episodes in one command": row(episodes * len(names), count, "played to their end (25 steps)",
                                       seconds=round(result["seconds"])),
        "memory of the main process": row(1, int(grown[0] < 50), "the second half needs no 50 MB more than the first",
                                          megabytes=[round(x[1]) for x in moments]),
        "memory of the simulators": row(1, int(grown[1] < 50), "the second half needs no 50 MB more than the first",
                                        megabytes=[round(x[2]) for x in moments]),
        "processes after it": row(1, int(children() == before), "none is left"),
    }  # fmt: skip


def in_session(session: int) -> list[int]:
    """Processes of a session that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(words[3]) == session and words[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def stopped(number: signal.Signals, seconds: float) -> str:
    """Stop evaluate.py by a signal after so many seconds. -> what was wrong afterwards, or nothing."""
    shm = shared_memory()
    with tempfile.TemporaryDirectory() as name:
        here, temporary, out = Path(name, "here"), Path(name, "temporary"), Path(name, "out")
        for folder in (here, temporary, out):
            folder.mkdir()
        words = [sys.executable, ROOT / "evaluate.py", "--run", ROOT / "study/core/mt6", "--episodes", "200", "--out",
                 out / "evaluation.json"]  # fmt: skip
        around = {**os.environ, "TMPDIR": str(temporary)}
        with open(Path(name, "said"), "w") as said:
            process = subprocess.Popen([str(word) for word in words], cwd=here, stdout=said, stderr=said, env=around,
                                       start_new_session=True)  # fmt: skip
        time.sleep(seconds)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does
        else:
            process.send_signal(number)
        code = process.wait(60)
        end = time.monotonic() + 10
        while in_session(process.pid) and time.monotonic() < end:
            time.sleep(0.1)
        wrong = {
            "processes": in_session(process.pid),
            "files": [str(path) for folder in (here, temporary, out) for path in folder.rglob("*")],
            "shared memory": sorted(shared_memory() - shm),
            "exit code": [] if code == (-9 if number == signal.SIGKILL else 128 + number) else [code],
            "traceback": ["Traceback"] if "Traceback" in Path(name, "said").read_text() else [],
        }
    return "; ".join(f"{what}: {found}" for what, found in wrong.items() if found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=200, help="of each task (default: %(default)s)")
    parser.add_argument("--stops", type=int, default=6, help="of each kind (default: %(default)s)")
    flags = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and so would ours
    rows = many(flags.episodes)
    source = random.Random(0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        failures = []
        for _ in range(flags.stops):
            seconds = source.uniform(0.5, 12.0)
            if wrong := stopped(number, seconds):
                failures.append(f"after {seconds:.2f} s: {wrong}")
                say(f"{number.name} {failures[-1]}")
        rows[f"evaluate.py, {number.name}"] = row(flags.stops, flags.stops - len(failures), "nothing is left",
                                                  failures=failures)  # fmt: skip
    write("load", rows, seed=0)


if __name__ == "__main__":
    main()
