"""The tables and the picture of study/adapt/, from its JSON files: python study/adapt/summarize.py"""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import figures  # noqa: E402

HERE = Path(__file__).resolve().parent
NAMES = {
    "add-exact": "add-component, exact",
    "add-replay": "add-component, replay",
    "add-paper": "add-component, paper",
    "add-encoder": "add-component, `--train-encoder`",
    "router": "router, exact",
    "components": "components 0, 1",
    "full": "full",
    "scratch": "scratch",
    "start-0": "add-component, `--start-from 0`",
    "start-random": "add-component, `--start-from random`",
}


def main() -> None:
    before = json.loads((HERE / "before.json").read_text())
    old_before = {task: r["successes"] for task, r in before["tasks"].items()}
    n_old = sum(r["n"] for r in before["tasks"].values())
    runs = [json.loads(path.read_text()) for path in sorted(HERE.glob("*-s[0-9].json"))]
    tasks = list(dict.fromkeys(r["task"] for r in runs))
    print(f"| way | seeds | {' | '.join(tasks)} | new tasks | change of the old tasks | trained parameters | seconds |")
    print("|---|---" + "|---" * len(tasks) + "|---|---|---|---|")
    points = {}
    for way, name in NAMES.items():
        mine = [r for r in runs if r["way"] == way]
        if not mine:
            continue
        cells = []
        for task in tasks:
            these = [r["tasks"][task] for r in mine if r["task"] == task]
            cells.append(f"{sum(t['successes'] for t in these)}/{sum(t['n'] for t in these)}" if these else "-")
        new = sum(r["tasks"][r["task"]]["successes"] for r in mine) / sum(r["tasks"][r["task"]]["n"] for r in mine)
        if way == "scratch":
            change, note = None, "knows none"
        else:
            changes = [0.0 if r["old_actions_bit_equal"] else lost(r, old_before, n_old) for r in mine]
            change = float(np.mean(changes))
            same = all(r["old_actions_bit_equal"] for r in mine)
            note = "0, the same bits" if same else f"{100 * change:+.1f} points ({100 * min(changes):+.1f} at worst)"
        points[name.replace("`", "")] = (new, change)
        seeds = len({r["seed"] for r in mine})
        seconds = np.median([r["stage"]["seconds"] for r in mine])
        print(f"| {name} | {seeds} | {' | '.join(cells)} | {new:.3f} | {note} | "
              f"{mine[0]['stage']['trained_parameters']:,} | {seconds:.0f} |")  # fmt: skip
    experts = [next(r["tasks"][t]["expert"] for r in runs if r["task"] == t) for t in tasks]
    cells = " | ".join(f"{e['successes']}/{e['n']}" for e in experts)
    print(f"| scripted expert | | {cells} | {np.mean([e['success'] for e in experts]):.3f} | | | |")
    draw(points, float(np.mean([e["success"] for e in experts])))


def lost(r: dict, before: dict[str, int], n: int) -> float:
    """Change of the old tasks' success, over all their episodes."""
    return sum(r["tasks"][task]["successes"] - before[task] for task in before) / n


def draw(points: dict, expert: float) -> None:
    """New tasks' success against what the old tasks kept: top right is best."""
    figure, axis = figures._pyplot().subplots(figsize=(7, 4))
    for i, (name, (new, change)) in enumerate(points.items()):
        if change is None:
            axis.axvline(new, color="gray", linestyle=":", label=f"{name} (knows no old task)")
        else:
            axis.scatter(new, 100 * change, color=figures.COLORS[i % 10], s=60, label=name, alpha=0.8)
    axis.axvline(expert, color="black", linewidth=0.8, label="scripted expert")
    axis.set(xlabel="success on the new task, mean", ylabel="change of the six old tasks, points")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    print(figures._save(figure, HERE / "one-task.png"))


if __name__ == "__main__":
    main()
