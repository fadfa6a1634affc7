"""Every picture: training curve, loss by diffusion step, router weights over an episode, success bars, rollout videos.

Each function draws from plain data (log lines, evaluation results) into a file and returns its path.
"""

import io
import math
from pathlib import Path

import numpy as np

from plumbing import files, opengl
from plumbing.cli import say

COLORS = [f"C{k}" for k in range(10)]  # matplotlib's ten default colours
PHASES = ("near object", "grasped", "success")


def pyplot():
    """matplotlib, imported at the first picture: half a second that --help does not need."""
    import matplotlib

    matplotlib.use("Agg")  # no display needed
    import matplotlib.pyplot as plt

    return plt


def plain(name: str) -> str:
    """A name from a file, which may be a stranger's: a dollar in it begins no formula."""
    return name.replace("$", r"\$")


def save(figure, path: Path) -> Path:
    """As a PNG."""
    content = io.BytesIO()
    figure.savefig(content, dpi=120, bbox_inches="tight", format="png")
    pyplot().close(figure)
    path.parent.mkdir(exist_ok=True)
    files.write(path, content.getbuffer())
    return path


def training(log: list[dict], folder: Path) -> list[Path]:
    """The pictures of a training run, from the lines of its log.jsonl; none where it has none."""
    if not log:
        return []
    paths = [training_curve(log, folder / "training.png")]
    if any("router" in line for line in log):
        paths.append(router_usage([line for line in log if "router" in line], folder / "router-usage.png"))
    return paths


def training_curve(log: list[dict], path: Path) -> Path:
    """The loss (one mean squared error), whatever terms a policy adds to it, and the learning rate over steps."""
    usual = {"step", "lr", "grad_norm", "seconds", "router", "skipped"}
    figure, axis = pyplot().subplots(figsize=(7, 3.5))
    steps = [line["step"] for line in log]
    for i, name in enumerate([name for name in log[-1] if name not in usual]):
        axis.plot(steps, [line.get(name, math.nan) for line in log], color=COLORS[i % 10], label=plain(name))
    if all(line[name] > 0 for line in log for name in line if name not in usual):
        axis.set_yscale("log")
    axis.set(xlabel="training step", ylabel="mean since the last line")
    axis.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncol=5, frameon=False)
    axis.grid(alpha=0.3)
    rate = axis.twinx()
    rate.plot(steps, [line["lr"] for line in log], color="gray", linestyle=":")
    rate.set_ylabel("learning rate (dotted)", color="gray")
    return save(figure, path)


def router_usage(log: list[dict], path: Path) -> Path:
    """How the router divides its weight while training: over all tasks, how sure it is, and task by task at the end."""
    tasks, steps = list(log[-1]["router"]), [line["step"] for line in log]
    usage = np.array([[line["router"][task]["usage"] for task in tasks] for line in log])  # (lines, tasks, K)
    entropy = np.array([[line["router"][task]["entropy"] for task in tasks] for line in log])
    K = usage.shape[-1]
    figure, axes = pyplot().subplots(1, 3, figsize=(12, max(3.2, 0.16 * len(tasks) + 1.2)))
    for k in range(K):
        axes[0].plot(steps, usage.mean(1)[:, k], color=COLORS[k % 10], label=f"component {k}")
    axes[0].axhline(1 / K, color="black", linewidth=0.6, linestyle=":")
    axes[0].set(title="mean weight, all tasks (dotted: 1/K)", xlabel="training step")
    axes[0].set_ylim(min(0, usage.mean(1).min()) - 0.1 / K, 1.1 * max(1 / K, usage.mean(1).max()))
    axes[0].legend(fontsize=7, ncol=2, loc="lower left")
    axes[1].plot(steps, entropy, color="0.7", linewidth=0.7)
    axes[1].plot(steps, entropy.mean(1), color=COLORS[0], label="mean over tasks")
    axes[1].axhline(math.log(K), color="black", linewidth=0.6, linestyle=":", label=f"ln {K}: indifferent")
    axes[1].set(title="entropy of the weights, each task", xlabel="training step", ylabel="nats")
    axes[1].set_ylim(0, 1.1 * math.log(K) + 0.01)
    axes[1].legend(fontsize=7, loc="lower left")
    picture = axes[2].imshow(usage[-1], vmin=0, vmax=max(1 / K, usage[-1].max()), cmap="viridis", aspect="auto")
    axes[2].set_xticks(range(K), range(K))
    axes[2].set_yticks(range(len(tasks)), map(plain, tasks), fontsize=7 if len(tasks) < 20 else 5)
    axes[2].set(title="mean weight at the end", xlabel="component")
    figure.colorbar(picture, ax=axes[2])
    figure.tight_layout()
    return save(figure, path)


def loss_by_step(losses: dict[int, float], target: str, path: Path) -> Path:
    """Mean squared error at each diffusion step: the picture that says what a diffusion model finds hard.

    With target `noise` it falls from left to right (noise is hard to see where there is little of it), with target
    `clean` it rises (the action is hard to see where there is little of it).
    """
    figure, axis = pyplot().subplots(figsize=(7, 3.5))
    axis.semilogy(list(losses), list(losses.values()), color=COLORS[0], marker=".")
    axis.set(
        xlabel="diffusion step t  (0: almost clean, right end: almost pure noise)",
        ylabel=f"error of the predicted {target}",
    )
    axis.grid(alpha=0.3)
    return save(figure, path)


def success_bars(result: dict, path: Path) -> Path:
    """Success per task with 95 % Wilson intervals; the expert's own success as a black mark."""
    names = list(result["tasks"])
    rows = [result["tasks"][name] for name in names]
    success = np.array([r["success"] or 0.0 for r in rows])
    low, high = np.array([r["interval"] for r in rows]).T
    expert = {task: r["expert"]["success"] for task, r in result["tasks"].items() if r["expert"]["n"]}
    figure, axis = pyplot().subplots(figsize=(max(3.5, 0.9 * len(names) + 1.5), 3.5))
    axis.bar(names, success, color=COLORS[0], alpha=0.8, width=0.6)
    axis.errorbar(names, success, yerr=[success - low, high - success], fmt="none", ecolor="black", capsize=4)
    if expert:  # an environment of one's own may have none
        marks = {"marker": "_", "s": 500, "color": "black", "label": "scripted expert", "zorder": 3}
        axis.scatter(list(expert), list(expert.values()), **marks)
        axis.legend(loc="lower right", bbox_to_anchor=(1, 1), fontsize=7, markerscale=0.4, frameon=False)
    axis.set(ylim=(0, 1.08), ylabel=f"success, {rows[0]['n']} unseen episodes")
    axis.set_title(f"mean {result['mean_success'] or 0:.3f}", fontsize=10, loc="left")
    axis.tick_params(axis="x", rotation=30)
    for label in axis.get_xticklabels():
        label.set_horizontalalignment("right")
    return save(figure, path)


def _draw_weights(axis, below, episode, weights: np.ndarray, executed: int) -> None:
    """Router weights as stairs (constant over a chunk) and, on the axis below, the phases that the environment
    reports.
    """
    steps = len(episode.phases)
    edges = np.minimum(np.arange(len(weights) + 1) * executed, steps)
    for k in range(weights.shape[1]):
        axis.stairs(weights[:, k], edges, color=COLORS[k % 10], baseline=None, linewidth=1.6, label=f"component {k}")
    axis.set(xlim=(0, steps), ylim=(min(0.0, weights.min()) - 0.03, max(1.0, weights.max()) + 0.03), xticks=[])
    phases = np.array(episode.phases) >= 0.5
    for row in range(len(PHASES)):
        starts = np.flatnonzero(phases[:, row])
        below.broken_barh([(s, 1) for s in starts], (row - 0.35, 0.7), color="0.45")
    below.set(xlim=(0, steps), ylim=(len(PHASES) - 0.4, -0.6))
    below.set_yticks(range(len(PHASES)), PHASES, fontsize=7)


def router_weights(traces: list, executed: int, path: Path) -> Path:
    """What the router does while the robot works: one panel per task. traces: (played episode, weights (chunks, K))."""
    figure = pyplot().figure(figsize=(7.5, 2.4 * len(traces)))
    grid = figure.add_gridspec(len(traces), 1, hspace=0.45)
    for row, (episode, weights) in enumerate(traces):
        panel = grid[row].subgridspec(2, 1, height_ratios=[3, 1], hspace=0.05)
        axis, below = figure.add_subplot(panel[0]), figure.add_subplot(panel[1])
        _draw_weights(axis, below, episode, weights, executed)
        outcome = "success" if episode.success else "failure"
        axis.set_title(f"{episode.task}, seed {episode.seed}: {outcome} after {episode.steps} steps", fontsize=9)
        axis.set_ylabel("router weight", fontsize=8)
        if row == 0:
            axis.legend(fontsize=7, ncol=4, loc="upper left")
    below.set_xlabel("environment step")
    return save(figure, path)


def video(episode, weights: np.ndarray, executed: int, path: Path) -> Path:
    """The rollout as a GIF with the router weights and a moving cursor under it, at 20 frames a second.

    With every 4th step rendered that is real time: MetaWorld's control runs at 80 Hz.
    """
    from PIL import Image, ImageDraw

    width = 360
    figure = pyplot().figure(figsize=(width / 100, 1.5), dpi=100)
    left, right = 0.2, 0.97  # of the width
    axis = figure.add_axes([left, 0.4, right - left, 0.55])
    below = figure.add_axes([left, 0.12, right - left, 0.24])
    _draw_weights(axis, below, episode, weights, executed)
    axis.set_ylabel("router\nweight", fontsize=7)
    for part in (axis, below):
        part.tick_params(labelsize=6)
    figure.canvas.draw()
    strip = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3])
    pyplot().close(figure)

    pictures = []
    for i, frame in enumerate(episode.frames):
        canvas = Image.new("RGB", (width, width + strip.height), "white")
        canvas.paste(Image.fromarray(frame).resize((width, width)), (0, 0))
        canvas.paste(strip, (0, width))
        x = width * (left + (right - left) * (i + 1) / len(episode.frames))
        ImageDraw.Draw(canvas).line([(x, width), (x, width + strip.height)], fill="black", width=1)
        # One palette for all frames, from the first: the scene keeps its colours, and it is six times as fast.
        palette = pictures[0] if pictures else canvas.quantize(256)
        pictures.append(canvas.quantize(palette=palette, dither=Image.Dither.NONE))
    # The last frame stays for a second, so that a looping GIF shows how it ended.
    durations = [50] * (len(pictures) - 1) + [1000]
    content = io.BytesIO()
    pictures[0].save(content, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0)
    path.parent.mkdir(exist_ok=True)
    files.write(path, content.getbuffer())
    return path


def success_matrix(results: dict[str, dict], path: Path) -> Path:
    """Sequences of adaptations, side by side: success of every task (columns) after every stage (rows).

    results: name -> what adapt.py wrote to adaptation.json. They have the same tasks and stages. A cell with "=" was
    not played: the task's actions are the same bits as in the row above.
    """
    first = next(iter(results.values()))
    tasks, rows = list(first["success"][-1]), len(first["success"]) + 1
    many = len(tasks) > 20  # then there is no room for numbers
    columns = min(len(results), 2)
    lines = math.ceil(len(results) / columns)
    width, height = (0.22, 0.18) if many else (0.55, 0.4)  # of a cell, in inches
    size = ((width * len(tasks) + 1) * columns + 1.5, (height * rows + 1) * lines + 0.8)
    figure, axes = pyplot().subplots(lines, columns, figsize=size, sharex=True, sharey=True, squeeze=False)
    figure.subplots_adjust(wspace=0.04, hspace=0.25)
    for axis, (name, result) in zip(axes.flat, results.items(), strict=False):
        success = [*result["success"], result["expert"]]
        values = np.array([[row.get(task, np.nan) for task in tasks] for row in success], dtype=float)
        axis.imshow(values, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        same = [[]] * (len(result["success"]) - len(result["stages"]))
        same += [stage.get("same_bits", []) for stage in result["stages"]] + [[]]
        for (i, j), value in np.ndenumerate(values):
            if not np.isnan(value):
                color, text = "white" if value < 0.6 else "black", "" if many else f"{value:.2f}"
                text = "=" if tasks[j] in same[i] else text
                axis.text(j, i, text, ha="center", va="center", fontsize=4 if many else 8, color=color)
        angle = 90 if many else 35
        axis.set_xticks(range(len(tasks)), tasks, rotation=angle, ha="center" if many else "right", fontsize=8)
        average = result["average_success"]
        title = f"{name}\naverage success {'-' if average is None else f'{average:.3f}'}"
        if result["forgetting"] is not None:
            title += f", forgetting {result['forgetting']:.3f}"
        title += "; =: the same bits as above" if any(same) else ""
        axis.set_title(title.strip(), fontsize=9)
    names = ["start", *(f"+ {', '.join(stage['tasks'])}" for stage in first["stages"]), "scripted expert"]
    for axis in axes[:, 0]:
        axis.set_yticks(range(rows), names[-rows:], fontsize=8)
    for axis in axes.flat[len(results) :]:
        axis.set_visible(False)
    return save(figure, path)


def check_picture(episode) -> bool:
    """Whether what an environment of one's own has rendered can be filmed; a word where not."""
    frame = np.asarray(episode.frames[0])
    right = frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3
    if not right:
        say(f"no video of {episode.task}: render() must return (height, width, 3) in uint8, 0 to 255, not "
            f"{frame.shape} in {frame.dtype}")  # fmt: skip
    return right


def find_opengl() -> bool:
    """Whether videos can be made; a word where not."""
    found = opengl.find()
    if not found:
        say(f"no video: MuJoCo finds no OpenGL; {opengl.mend()}")
    return found
