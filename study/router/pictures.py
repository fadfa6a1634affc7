"""The pictures of study/router/measure.py, from what it measured: weights over time, usage, likeness, knock-outs."""

from pathlib import Path

import numpy as np

from plumbing import figures


def draw(found: dict, stem: Path) -> list[Path]:
    """All four, as STEM-time.png and so on. -> their paths."""
    kinds = {"time": over_time, "usage": usage, "likeness": likeness, "without": without}
    return [picture(found, stem.with_name(f"{stem.name}-{name}.png")) for name, picture in kinds.items()]


def grid(panels: int, width: float, height: float, columns: int = 3):
    """-> a figure, and as many axes."""
    columns = min(columns, panels)
    rows = -(-panels // columns)
    figure, axes = figures.pyplot().subplots(rows, columns, figsize=(width * columns, height * rows), squeeze=False)
    for axis in axes.flat[panels:]:
        axis.set_visible(False)
    return figure, axes.flat[:panels]


def over_time(found: dict, path: Path) -> Path:
    """A heat map for each task: component x time, from an episode's beginning to its end; right of it the success that
    is left without each component, under it how many of the episodes have the environment's flags by then."""
    tasks = found["tasks"]
    top = max(np.max(entry["over_time"]["weights"]) for entry in tasks.values())
    figure, axes = grid(len(tasks), 3.2, 1.9, columns=3 if len(tasks) <= 12 else 6)
    for axis, (task, entry) in zip(axes, tasks.items(), strict=True):
        weights, flags = np.array(entry["over_time"]["weights"]).T, np.array(entry["over_time"]["flags"]).T
        K, bins = weights.shape
        picture = axis.imshow(weights, vmin=0, vmax=top, cmap="viridis", aspect="auto", extent=(0, 1, K, 0))
        strip = np.arange(bins + 1) / bins
        for row, (name, raised) in enumerate(zip(figures.PHASES, flags, strict=False)):
            y = K + 0.45 + 0.75 * row
            axis.pcolormesh(strip, [y, y + 0.6], raised[None], vmin=0, vmax=1, cmap="Greys")
            if axis.get_subplotspec().is_first_col():
                axis.text(-0.02, y + 0.3, name, ha="right", va="center", fontsize=6)
        axis.set(ylim=(K + 2, 0), xlim=(0, 1), xticks=[])
        axis.set_yticks(np.arange(K) + 0.5, range(K), fontsize=7)
        usual = share(found["played"][task])
        axis.set_title(f"{task}, success {usual:.2f}", fontsize=9)
        axis.text(1.03, -0.15, "without", va="bottom", fontsize=6, color="grey")
        for k in range(K):
            left = share(found["changed"][f"without {k}"]["tasks"][task])
            color = "crimson" if left <= usual / 2 else "grey"
            axis.text(1.03, k + 0.5, f"{left:.2f}", va="center", fontsize=7, color=color)
    figure.supxlabel("beginning to end of the episode", fontsize=9)
    figure.supylabel("component", fontsize=9)
    figure.tight_layout()
    figure.colorbar(picture, ax=list(axes), label="router weight", shrink=0.6)
    return figures.save(figure, path)


def share(played: dict) -> float:
    """Successes of the episodes that ended."""
    return played["successes"] / max(1, played["n"])


def usage(found: dict, path: Path) -> Path:
    """Mean weight of every component in every task."""
    tasks = list(found["tasks"])
    mean = np.array([found["tasks"][task]["mean"] for task in tasks])
    many = len(tasks) > 20
    cell = 0.16 if many else 0.35  # inches
    figure, axis = figures.pyplot().subplots(figsize=(0.5 * mean.shape[1] + 3, cell * len(tasks) + 1))
    picture = axis.imshow(mean, vmin=min(0, mean.min()), vmax=mean.max(), cmap="viridis", aspect="auto")
    axis.set_xticks(range(mean.shape[1]))
    axis.set_yticks(range(len(tasks)), tasks, fontsize=5 if many else 8)
    if not many:
        for (i, j), value in np.ndenumerate(mean):
            color = "white" if value < 0.6 * mean.max() else "black"
            axis.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color=color)
    axis.set(xlabel="component", title=f"mean weight (1/K = {1 / mean.shape[1]:.2f})")
    figure.colorbar(picture, ax=axis)
    return figures.save(figure, path)


def likeness(found: dict, path: Path) -> Path:
    """Mean cosines between the components' predictions, as they are and of their absolute values."""
    s = found["similarity"]
    figure, axes = grid(2, 3.4, 3.2)
    for axis, name in zip(axes, ("signed", "absolute"), strict=True):
        values = np.array(s[name])
        picture = axis.imshow(values, vmin=-1 if name == "signed" else 0, vmax=1, cmap="coolwarm")
        if len(values) <= 8:
            for (i, j), value in np.ndenumerate(values):
                axis.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7)
        axis.set(title=f"{name} cosine", xticks=range(len(values)), yticks=range(len(values)))
        figure.colorbar(picture, ax=axis, shrink=0.8)
    figure.suptitle(f"effective rank {s['effective_rank']:.2f} of {len(values)}, double counting "
                    f"{s['double_counting']:.2f}", fontsize=9)  # fmt: skip
    figure.tight_layout()
    return figures.save(figure, path)


def without(found: dict, path: Path) -> Path:
    """Success as it is, with replaced weights, and without each component: over all tasks, and task by task."""
    tasks, changed = list(found["played"]), found["changed"]
    names = {"as it is": {"tasks": found["played"]}, **changed}
    values = np.array([[share(entry["tasks"][task]) for task in tasks] for entry in names.values()])
    many = len(tasks) > 20
    width = (0.16 if many else 0.55) * len(tasks)  # of the right half, in inches
    figure, axes = figures.pyplot().subplots(
        1, 2, figsize=(3.5 + width, 0.3 * len(names) + 1.6), sharey=True, width_ratios=[2, width]
    )
    colors = [figures.COLORS[0 if name == "as it is" else 1] for name in names]
    axes[0].barh(range(len(names)), values.mean(1), color=colors)
    for i, value in enumerate(values.mean(1)):
        axes[0].text(0.02, i, f"{value:.3f}", va="center", fontsize=7, color="white" if value > 0.2 else "black")
    axes[0].set_yticks(range(len(names)), names, fontsize=8)
    axes[0].set(xlim=(0, 1), xlabel="success, all tasks")
    axes[1].imshow(values, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    if not many:
        for (i, j), value in np.ndenumerate(values):
            color = "white" if value < 0.6 else "black"
            axes[1].text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color=color)
    axes[1].set_xticks(range(len(tasks)), tasks, rotation=90 if many else 30, ha="center" if many else "right",
                       fontsize=5 if many else 8)  # fmt: skip
    axes[1].tick_params(left=False)
    figure.tight_layout()
    return figures.save(figure, path)
