"""The pictures of study/README.md, from the same JSON files as the tables:   python study/plots.py

Numbers and intervals are those of the tables. A picture whose files do not exist yet is left out.
"""

import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from plumbing import figures  # noqa: E402
from plumbing.cli import no_arguments  # noqa: E402
from study import intervals, markdown  # noqa: E402
from study.adapt import results as adapt  # noqa: E402
from study.core import results as core  # noqa: E402
from study.ml45 import results as ml45  # noqa: E402
from study.sequences.results import called  # noqa: E402
from study.sequences.results import in_turn as read_in_turn  # noqa: E402

EXPERT = {"color": "black", "linewidth": 1, "zorder": 1, "label": "scripted expert"}


def dots(axis, x, rates: list, horizontal: bool = False, **style) -> None:
    """Points with the intervals of `rates` (rows of mean, low, high), along x, or along y for names of rows."""
    mean, low, high = np.array([rate[:3] for rate in rates], float).T
    error = [np.maximum(mean - low, 0), np.maximum(high - mean, 0)]
    place = {"x": mean, "y": x, "xerr": error} if horizontal else {"x": x, "y": mean, "yerr": error}
    axis.errorbar(**place, **{"fmt": "o", "markersize": 5, "capsize": 3} | style)


def mt6(study: Path, path: Path) -> Path:
    """Success per task, the factorized policy beside a single network of the same size, and the expert's."""
    found = core.core_groups(study, *core.MT6)
    tasks = list(found[core.MT6[0]][0]["tasks"])
    experts = [markdown.expert(found[core.MT6[0]], some) for some in (*([task] for task in tasks), tasks)]
    figure, axes = figures.pyplot().subplots(1, 2, figsize=(11, 3.6), sharey=True)
    for axis, demos in zip(axes, (25, 50), strict=True):
        for i, (policy, color) in enumerate((("fdp", figures.COLORS[0]), ("monolithic", figures.COLORS[1]))):
            results = found[f"mt6-{policy}-{demos}"]
            played = intervals.by_task(results)
            rates = [*(intervals.rate({task: played[task]}) for task in tasks), intervals.rate(played)]
            place = np.arange(len(rates)) + 0.24 * i - 0.12
            dots(axis, place, rates, color=color, label=f"{policy} ({len(results)} seeds)")
        for i, (successes, n) in enumerate(experts):
            axis.plot([i - 0.35, i + 0.35], [successes / n] * 2, **EXPERT | ({} if i == 0 else {"label": None}))
        axis.axvline(len(tasks) - 0.5, color="0.8", linewidth=0.8)
        axis.set_xticks(range(len(tasks) + 1), [*tasks, "all"], rotation=25, ha="right")
        axis.set_title(f"mt6, {demos} demonstrations per task", fontsize=10)
        axis.grid(axis="y", alpha=0.3)
    axes[0].set_ylabel("success, 95 % interval")
    axes[0].legend(fontsize=8, loc="lower left")
    return figures.save(figure, path)


def one_task(study: Path, path: Path) -> Path:
    """For every way: success on the new tasks, and what the old tasks lose."""
    found, was = adapt.ways(study), adapt.before(study)
    names = [title.replace("`", "").partition(":")[0] for title in adapt.WAYS.values()]
    figure, axes = figures.pyplot().subplots(1, 2, figsize=(10, 4), sharey=True)
    rows = range(len(names))
    dots(axes[0], rows, [intervals.rate(adapt.new_tasks(found[way])) for way in adapt.WAYS], horizontal=True)
    successes, n = markdown.expert([r for runs in found.values() for r in runs], adapt.NEW)
    axes[0].axvline(successes / n, **EXPERT)
    axes[0].legend(fontsize=8, loc="center")
    for row, (way, runs) in enumerate(found.items()):
        if way in adapt.ALONE:
            axes[1].text(-2, row, "knows no old task", ha="right", va="center", fontsize=8, color="0.4")
        else:
            each = adapt.each_change(runs, was)
            axes[1].plot(each, [row] * len(each), "|", color="0.55", label=None if row else "each run")
            change = adapt.old_change(runs, was) or (0, 0, 0)
            dots(axes[1], [row], [change], horizontal=True, color=figures.COLORS[1], label=None if row else "mean")
    axes[1].legend(fontsize=8, loc="lower left")
    axes[0].set_yticks(rows, names)
    axes[0].invert_yaxis()
    axes[0].set_xlabel("success on the new tasks, 95 % interval")
    axes[1].set_xlabel("change of the six old tasks, points, 95 % interval")
    for axis in axes:
        axis.grid(alpha=0.3)
    return figures.save(figure, path)


def sequences(study: Path, path: Path) -> Path:
    """The success matrices of the first seed, side by side, on the block that has most of them."""
    found = adapt.continual(study, "sequence")
    block = max({block for _, block in found}, key=lambda block: (sum(b == block for _, b in found), block))
    chosen = {title: found[name, block][0] for name, title in adapt.RETAIN.items() if (name, block) in found}
    return figures.success_matrix(chosen, path)


def budget(study: Path, path: Path) -> Path:
    """Success on the new tasks over demonstrations, and over training steps."""
    figure, axes = figures.pyplot().subplots(1, 2, figsize=(12, 4), sharey=True, width_ratios=(1, 1.6))
    successes, n = markdown.expert([r for runs in adapt.ways(study).values() for r in runs], adapt.NEW)
    for axis, (varied, label) in zip(axes, adapt.BUDGETS.items(), strict=True):
        found = adapt.budget_runs(study, varied)
        levels = sorted({level for _, level in found})
        axis.axhline(successes / n, **EXPERT)
        for i, way in enumerate(adapt.SHORT):
            # Side by side, where intervals would cover each other.
            mine = [level for level in levels if (way, level) in found]
            place = np.array(mine) * 1.045 ** (i - (len(adapt.SHORT) - 1) / 2)
            rates = [intervals.rate(found[way, level]) for level in mine]
            title = adapt.WAYS[way].replace("`", "").partition(":")[0]
            dots(axis, place, rates, label=title, fmt="o-", color=figures.COLORS[i])
        axis.set_xscale("log")
        axis.set_xticks(levels, [str(level) for level in levels])
        axis.minorticks_off()
        axis.set(xlabel=label)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("success on the new tasks, 95 % interval")
    axes[1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figures.save(figure, path)


def in_turn(study: Path, path: Path) -> Path:
    """The success matrices of the first seed of a group of study/sequences, which the picture is named after."""
    found = read_in_turn(study, path.stem)
    if not found:
        raise markdown.NotMeasured(f"`study/sequences/{path.stem}-*.json`")
    matrices = {called(way, results[0]).replace("`", ""): results[0] for way, (results, _) in found.items()}
    return figures.success_matrix(matrices, path)


def curves(study: Path, path: Path) -> Path:
    """Success over the training of both policies, for each group of tasks."""
    found = markdown.read(study, "mt50/curve-*.json")
    groups = sorted({result["flags"]["tasks"] for result in found.values()})
    figure, axes = figures.pyplot().subplots(1, len(groups), figsize=(5.5 * len(groups), 3.6), squeeze=False)
    for axis, group in zip(axes[0], groups, strict=True):
        mine = [result for result in found.values() if result["flags"]["tasks"] == group]
        along = (
            "seconds" if len({result["hardware"] for result in mine}) == 1 else "step"
        )  # seconds of one machine only
        for i, result in enumerate(mine):
            passed, success = zip(*((row[along], row["success"]) for row in result["checkpoints"]), strict=True)
            axis.plot(passed, success, "o-", markersize=3, color=figures.COLORS[i], label=result["flags"]["policy"])
        tasks = mine[0]["checkpoints"][-1]["tasks"].values()
        axis.axhline(sum(theirs for _, _, theirs in tasks) / sum(n for _, n, _ in tasks), **EXPERT)
        axis.set(xlabel="seconds of training" if along == "seconds" else "steps of training", title=group)
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("success, block 400")
    axes[0][0].legend(fontsize=8, loc="lower right")
    return figures.save(figure, path)


def one_demonstration(study: Path, path: Path) -> Path:
    """Success on five new tasks from one demonstration, for every way, and each task's own."""
    found, marks = ml45.crossed_runs(study, 1, 2000), "sov^D"
    figure, axis = figures.pyplot().subplots(figsize=(8, 4.2))
    names = [ml45.alone(key).replace("`", "") for key in found]
    dots(axis, range(len(names)), [intervals.crossed_rate(x) for x in found.values()], horizontal=True, zorder=3,
         label="all five, 95 % interval")  # fmt: skip
    for task, mark in zip(ml45.NEW_ML45, marks, strict=True):
        each = [np.nanmean(x[task]) for x in found.values()]
        axis.plot(each, range(len(names)), mark, markersize=4, color="0.6", label=task)
    successes, n = markdown.expert([r for key in found for r in ml45.runs_of(study, key, 1)], ml45.NEW_ML45)
    axis.axvline(successes / n, **EXPERT)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.invert_yaxis()
    axis.set(xlabel="success after one demonstration of a new task", xlim=(0, 1.02))
    axis.legend(fontsize=7, ncol=4, loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
    axis.grid(alpha=0.3)
    return figures.save(figure, path)


PICTURES = {"core/mt6.png": mt6, "adapt/one-task.png": one_task, "adapt/sequences.png": sequences,
            "adapt/budget.png": budget, "sequences/cw10.png": in_turn, "sequences/mt50.png": in_turn,
            "mt50/curves.png": curves, "ml45/one.png": one_demonstration}  # fmt: skip


def main(study: Path = markdown.STUDY, out: Path | None = None) -> list[Path]:
    """Draw what can be drawn from the results in `study`. out: another folder for the pictures."""
    written = []
    for name, draw in PICTURES.items():
        path = (out or study) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            written.append(draw(study, path))
        except markdown.NotMeasured as missing:
            print(f"no {name}: {missing} not measured yet", file=sys.stderr)
    return written


if __name__ == "__main__":
    no_arguments()
    main()
