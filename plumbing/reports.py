"""What an evaluation leaves: a table for people, a JSON file with its figures and videos."""

from pathlib import Path

from envs.tasks import slug
from plumbing import figures
from plumbing.cli import write_json


def table(result: dict) -> str:
    """The result for people: one line per task, the expert's own success beside ours, as the reference."""

    def rate(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    wide = max([23, *map(len, result["tasks"])]) + 1
    lines = [f"{'task':<{wide}}{'success':>8}   {'95 % interval':<15}{'expert':>8}{'episodes':>10}{'sim. seconds':>14}"]
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


def write_evaluation(path: Path, policy, result: dict, traces: list, video: bool) -> list[str]:
    """evaluation.json, its figures and videos, beside each other. Returns the paths written."""
    write_json(path, result)
    folder = path.parent / "figures"
    written = [path, figures.success_bars(result, folder / f"{path.stem}-success.png")]
    if traces and traces[0][1].shape[1] > 1:
        written.append(figures.router_weights(traces, policy.config.executed, folder / f"{path.stem}-router.png"))
    if video:
        filmed = [(e, w) for e, w in traces if e.frames]  # the first episode of each task, then those that failed
        for i, (episode, w) in enumerate(filmed):
            again = any(e.task == episode.task for e, _ in filmed[:i])
            name = f"{path.stem}-{slug(episode.task)}{'-failed' * again}.gif"
            written.append(figures.video(episode, w, policy.config.executed, path.parent / "videos" / name))
    return [str(p) for p in written]
