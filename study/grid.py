"""A table of commands, several at a time, that goes on where it stopped.

    python study/grid.py study/core/table.py --at-once 2     # on this machine; the same again goes on
    python study/grid.py study/core/table.py --ray           # on a Ray cluster

A table is a Python file with TABLE, a list of steps; a step is a list of rows, in any order, and the next one begins
when all of them are done. A row is (result, command, command, ...): the commands run one after another in this
project's folder, without a shell, until one fails. Where the file `result` is there, the row is done.

    TABLE = [[(f"runs/{p}-{s}/evaluation.json", f"python train.py --policy {p} --seed {s} --out runs/{p}-{s}")
              for p in ("fdp", "flow") for s in range(3)]]

A row that fails does not stop the others of its step; what it said is in runs/grid/. Ctrl-C and SIGTERM reach the
commands as SIGTERM, and grid.py waits until they have saved; a second one does not wait. Where a row of train.py was
stopped, it goes on with what was saved.
"""

import fcntl
import itertools
import os
import runpy
import shlex
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from plumbing import interrupt  # noqa: E402
from plumbing.cli import ROOT, BadInput, parse, run, say  # noqa: E402
from plumbing.files import exists  # noqa: E402
from study.jobs import Job, RayJob, Row  # noqa: E402

SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
STOPPED = {128 + number for number in SIGNALS} | {-number for number in SIGNALS}  # exit codes; -n: without a handler


@dataclass
class GridConfig:
    """Run a table of commands, several at a time; what is done already is left out."""

    table: tyro.conf.Positional[str]  # a Python file with TABLE, such as study/core/table.py
    at_once: int = 2  # rows at a time; each trains on one thread, unless OMP_NUM_THREADS says otherwise
    ray: bool = False  # on the Ray cluster of RAY_ADDRESS, or one made here; its machines must share this folder
    gpus: float = 0.0  # with --ray: of each row; 0.5 lets two rows share one


def read_table(path: Path) -> list[list[Row]]:
    """The steps of a table. BadInput if it is none, or two rows have the same result."""
    known = ", ".join(sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("study/*/table.py")))
    if not (exists(path) and path.is_file()):
        raise BadInput(f"no table {path}; there are {known}")
    try:
        found = runpy.run_path(str(path))["TABLE"]
        if any(not isinstance(row, (tuple, list)) for step in found for row in step):
            raise TypeError("a row is (result, command, ...); of a single word it is the comma that makes it one")
        steps = [[(str(result), [shlex.split(text) for text in commands]) for result, *commands in step]
                 for step in found]  # fmt: skip
    except (Exception, SystemExit) as error:  # whatever Python can raise
        raise BadInput(f"{path} is no table: {type(error).__name__}: {error}") from error
    results = [result for step in steps for result, _ in step]
    for result, commands in (row for step in steps for row in step):
        if not commands or not all(commands) or results.count(result) > 1:
            raise BadInput(f"{path}: {result} must be the result of one row, with a command")
    logs, found = ROOT / "runs" / "grid", {}
    for result in results:
        name = os.path.normpath(result).strip("/").replace("/", "-")[-200:]
        if (other := found.setdefault(name, result)) != result:
            raise BadInput(f"{path}: {other} and {result} would have the same log: give one another name")
    named = {result: logs / f"{name}.log" for name, result in found.items()}
    return [[Row(*row, named[row[0]]) for row in step] for step in steps]


def work(rows: list[Row], start: Callable, at_once: int, ended: Callable[[Row, int], None]) -> None:
    """Run rows, at_once at a time. start(row) makes its job; ended(row, exit code) is told."""
    todo, running = list(rows), {}

    def ask() -> None:
        for result, (row, job) in list(running.items()):
            if (code := job.poll()) is not None:
                del running[result]
                ended(row, code)
        time.sleep(0.1)

    def stop(_) -> str:
        for _, job in running.values():
            job.stop()
        while running:
            ask()
        return f"go on with: {shlex.join(['python', *sys.argv])}"

    try:
        for _ in interrupt.steps(itertools.count(), stop):  # no signal comes between beginning a row and noting it
            while todo and len(running) < at_once:
                try:
                    running[todo[0].result] = todo[0], start(todo[0])
                except OSError as error:  # its log cannot be written: no reason to end the others
                    say(f"{todo[0].result}: {error}")
                    ended(todo[0], 1)
                todo.pop(0)
            ask()
            if not running and not todo:
                return
    finally:
        for _, job in running.values():  # after a second signal, or a mistake of ours
            job.kill()


def main(config: GridConfig) -> dict:
    """Run what is not done yet. Returns how many rows were done before, and now; SystemExit 1 if one has failed."""
    path = Path(config.table)
    table = read_table(path)
    if not 1 <= config.at_once <= 10_000 or not 0 <= config.gpus <= 64:
        raise BadInput(f"--at-once must be 1 to 10000 and --gpus 0 to 64, got {config.at_once} and {config.gpus}")
    with path.open() as lock:  # commands inherit it: what a killed grid has left holds it too
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BadInput(f"another grid works on {path}, or a command that one left behind") from error
        if config.ray:
            begin_ray()
            return run_steps(table, lambda row: RayJob(row, config.gpus), config.at_once)
        return run_steps(table, lambda row: Job(row, (lock.fileno(),)), config.at_once)


def run_steps(table: list[list[Row]], start: Callable, at_once: int) -> dict:
    """Step after step, until one has a row that fails; what there is to say is said."""
    total, before = sum(map(len, table)), sum(row.done() for step in table for row in step)
    done, failed, begun = before, [], time.monotonic()
    say(f"{before} of {total} rows are done already")
    for row in (row for step in table for row in step if row.done() and row.changed()):
        say(f"{row.result} is there, made by other commands (see {row.log}): to make it anew, delete {row.result}")

    def ended(row: Row, code: int) -> None:
        nonlocal done
        done += code == 0
        failed.extend([row] if code else [])
        now = done + len(failed)
        left = (time.monotonic() - begun) / (now - before) * (total - now) / 60
        how = f"FAILED with exit code {code}, see {row.log}" if code else "done"
        how = "stopped" if code in STOPPED else how
        say(f"[{now} of {total}] {row.result}: {how}; about {left:.0f} minutes left")

    for step in table:
        if not failed:
            work([row for row in step if not row.done()], start, at_once, ended)
    if failed:
        say(f"{done} of {total} rows are done, {len(failed)} failed, {total - done - len(failed)} were not begun:")
        for row in failed:
            say(f"    {row.result}: {row.said()}")
        raise SystemExit(1)
    return {"done_before": before, "done_now": done - before}


def begin_ray() -> None:
    """Join the cluster, or make one."""
    try:
        import ray
    except ImportError as error:
        raise BadInput("--ray needs Ray: pip install -r requirements-ray.txt") from error
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    interrupt.install()  # Ray has put handlers of its own in their place


if __name__ == "__main__":
    run(lambda: main(parse(GridConfig)))
