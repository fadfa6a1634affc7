"""What an evaluation leaves: a table for people, a JSON file with its figures and videos; a rate's interval."""

import math
import shlex
import sys
from pathlib import Path

from envs.tasks import slug
from plumbing import figures, folders
from plumbing.cli import ROOT, say, write_json


def evaluation_command(folder: Path, tasks: list[str]) -> str:
    """What to type to play a run. (A module that makes a task is only imported where its user names it.)"""
    named = ["--tasks", ",".join(tasks)] if any(":" in task for task in tasks) else []
    home = Path(sys.argv[0]).parent  # train.py may lie elsewhere than where one is
    beside = home / "evaluate.py" if home.resolve() == ROOT else "evaluate.py"
    return shlex.join(["python", str(beside), "--run", str(folder), *named])


def wilson_interval(successes: float, n: float) -> tuple[float, float]:
    """95 % interval of a success rate. Wilson 1927: unlike +-1.96 standard errors it has a width at 0 and 1. Near them,
    where ours are, it covers 95 % on average over rates, and less at single ones (n = 50: 84 % at a rate of 0.9965).
    successes: may be a fraction, as a mean is."""
    if n == 0:
        return 0.0, 1.0
    z, p = 1.959964, successes / n
    center = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # Exact at the ends, where rounding would leave 1e-17 or 1 - 1e-16.
    return (0.0 if successes == 0 else center - half), (1.0 if successes == n else center + half)


def table(result: dict) -> str:
    """The result for people: one line per task, the expert's own success beside ours, as the reference."""

    def rate(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    wide = max([23, *map(len, result["tasks"])]) + 1
    lines = [f"{'task':<{wide}}{'success':>8}   {'95 % interval':<15}{'expert':>8}{'episodes':>10}{'CPU seconds':>14}"]
    for task, r in result["tasks"].items():
        interval = " - ".join(map(rate, r["interval"]))
        lines.append(
            f"{task:<{wide}}{rate(r['success']):>8}   {interval:<15}{rate(r['expert']['success']):>8}{r['n']:>10}"
            f"{r['simulation_seconds']:>14.1f}" + (f"   ({len(r['lost'])} lost, not counted)" if r["lost"] else "")
        )
    return "\n".join([*lines, f"{'mean over tasks':<{wide}}{rate(result['mean_success']):>8}"])


def lost(result: dict) -> dict:
    """{"lost": how many episodes could not be played, the expert's too}; empty if all were. See plumbing/cli.py."""
    count = sum(len(r["lost"]) + len(r["expert"]["lost"]) for r in result["tasks"].values())
    return {"lost": count} if count else {}


def write_evaluation(path: Path, policy, result: dict, traces: list, video=False, replace=False) -> list[str]:
    """Say the table; write the JSON, its figures and videos beside each other: at `path`, or, unless asked to replace
    what is there, where nothing better is lost (`evaluation_beside`). Returns the paths written."""
    say(table(result))  # first: if the disk is full, it is at least said
    path = path if replace else folders.evaluation_beside(path, result)
    if replace and path.exists():
        say(f"replaces {path}")
    write_json(path, result)
    folder = path.parent / "figures"
    written = [path, figures.success_bars(result, folder / f"{path.stem}-success.png")]
    if traces and traces[0][1].shape[1] > 1:
        written.append(figures.router_weights(traces, policy.config.executed, folder / f"{path.stem}-router.png"))
    if video:
        # The first episode of each task, then those that failed.
        filmed = [(e, w) for e, w in traces if e.frames and figures.check_picture(e)]
        for i, (episode, w) in enumerate(filmed):
            again = any(e.task == episode.task for e, _ in filmed[:i])
            name = f"{path.stem}-{slug(episode.task)}{'-failed' * again}.gif"
            written.append(figures.video(episode, w, policy.config.executed, path.parent / "videos" / name))
    return [str(p) for p in written]
