"""The tables and the figures of study/adapt/, from its JSON files: python study/adapt/summarize.py"""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import figures  # noqa: E402
from evaluate import wilson_interval  # noqa: E402

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
TASKS = ["door-close", "drawer-close", "disassemble", "window-open"]  # the order of the sequences


def read(pattern: str) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(HERE.glob(pattern))]


def usual(r: dict) -> bool:
    """Whether a run had the usual budget: 25 demonstrations, 2000 steps."""
    return (r["flags"]["demos_per_task"], r["flags"]["steps"]) == (25, 2000)


def new_success(runs: list[dict]) -> tuple[int, int]:
    """Successes on the new task, and episodes, over all these runs."""
    results = [r["tasks"][r["task"]] for r in runs]
    return sum(r["successes"] for r in results), sum(r["n"] for r in results)


def one_task() -> None:
    """The table of every way, and its scatter plot: top right is best."""
    before = {task: r["successes"] for task, r in read("before.json")[0]["tasks"].items()}
    runs = [r for r in read("*-s[0-9].json") if "way" in r and usual(r)]  # not the sequences
    header = ["way", "seeds", *TASKS, "new tasks, 95 % interval", "old tasks", "trained parameters", "seconds"]
    print(f"| {' | '.join(header)} |\n" + "|---" * len(header) + "|")
    figure, axis = figures._pyplot().subplots(figsize=(7, 4))
    for i, (way, name) in enumerate(NAMES.items()):
        mine = [r for r in runs if r["way"] == way]
        if {r["task"] for r in mine} != set(TASKS):  # not finished: a mean over other tasks would not compare
            print(f"{name}: not finished", file=sys.stderr)
            continue
        per_task = [new_success([r for r in mine if r["task"] == task]) for task in TASKS]
        cells = " | ".join(f"{s}/{n}" for s, n in per_task)
        s, n = new_success(mine)
        low, high = wilson_interval(s, n)
        note = "knows none"
        if way == "scratch":
            axis.axvline(s / n, color="gray", linestyle=":", label=f"{name} (knows no old task)")
        else:
            changes = [0.0 if r["old_actions_bit_equal"] else lost(r, before) for r in mine]
            note = f"{round(np.mean(changes), 1) + 0.0:+.1f} points ({min(changes):+.1f} at worst)"
            if all(r["old_actions_bit_equal"] for r in mine):
                note = "0, the same bits"
            if not way.startswith("start"):  # where a component starts moves no old task: they would lie on each other
                axis.scatter(s / n, np.mean(changes), marker="os^vDPX"[i % 7], s=110, linewidths=1.5, facecolors="none",
                             edgecolors=figures.COLORS[i % 10], label=name.replace("`", ""))  # fmt: skip
        seeds = len({r["seed"] for r in mine})
        seconds = np.median([r["stage"]["seconds"] for r in mine])
        print(f"| {name} | {seeds} | {cells} | {s / n:.3f}, {low:.3f} - {high:.3f} | {note} | "
              f"{mine[0]['stage']['trained_parameters']:,} | {seconds:.0f} |")  # fmt: skip
    experts = [next(r["tasks"][t]["expert"] for r in runs if r["task"] == t) for t in TASKS]
    expert = float(np.mean([e["success"] for e in experts]))
    cells = " | ".join(f"{e['successes']}/{e['n']}" for e in experts)
    print(f"| scripted expert | | {cells} | {expert:.3f} | | | |\n")
    axis.axvline(expert, color="black", linewidth=0.8, label="scripted expert")
    axis.set(xlabel="success on the new task, mean", ylabel="change of the six old tasks, points")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figures._save(figure, HERE / "one-task.png")


def lost(r: dict, before: dict[str, int]) -> float:
    """Change of the old tasks' success, over all their episodes, in points."""
    n = sum(r["tasks"][task]["n"] for task in before)
    return 100 * sum(r["tasks"][task]["successes"] - before[task] for task in before) / n


def sequences() -> None:
    """The table of the sequences, and the success matrices of the first seed side by side."""
    names = {"exact": "exact", "replay": "replay", "paper": "paper", "full": "full fine-tuning"}
    print("| four tasks in turn | seeds | average success | forgetting | backward transfer | forward transfer | "
          "parameters trained, each stage | bytes added in all |\n|---|---|---|---|---|---|---|---|")  # fmt: skip
    for name, title in names.items():
        runs = read(f"sequence-{name}-s*.json")
        cells = [" ".join(f"{r[key]:.3f}" for r in runs)
                 for key in ("average_success", "forgetting", "backward_transfer", "forward_transfer")]  # fmt: skip
        trained = [stage["trained_parameters"] for stage in runs[0]["stages"]]
        trained = f"{trained[0]:,}" + (f" to {trained[-1]:,}" if trained[-1] != trained[0] else "")
        added = sum(stage["bytes_added"] for stage in runs[0]["stages"])
        print(f"| {title} | {len(runs)} | {' | '.join(cells)} | {trained} | {added:,} |")
    expert = read("sequence-exact-s0.json")[0]["expert"]
    print(f"| scripted expert | | {np.mean(list(expert.values())):.3f} | | | | | |\n")
    matrices = {title: read(f"sequence-{name}-s0.json")[0] for name, title in names.items()}
    figures.success_matrix(matrices, HERE / "sequences.png")


def budget() -> None:
    """Success on the new task with fewer demonstrations, or fewer steps."""
    runs = read("budget/*.json") + [r for r in read("*-s0.json") if "way" in r and usual(r)]
    ways = {"add-exact": "add-component", "scratch": "scratch", "full": "full"}
    more = ways | {"add-encoder": "add-component and encoder", "start-0": "add-component, from component 0",
                   "start-random": "add-component, at random"}  # fmt: skip
    figure, axes = figures._pyplot().subplots(1, 2, figsize=(10, 3.8), sharey=True)
    panels = (("demonstrations of the new task (2000 steps)", "demos_per_task", "steps", 2000, ways),
              ("training steps (25 demonstrations)", "steps", "demos_per_task", 25, more))  # fmt: skip
    for axis, (label, varied, fixed, value, chosen) in zip(axes, panels, strict=True):
        these = [r for r in runs if r["flags"][fixed] == value]
        levels = sorted({r["flags"][varied] for r in these})
        print(f"| {label} | " + " | ".join(str(x) for x in levels) + " |\n|---" + "|---" * len(levels) + "|")
        for i, (way, name) in enumerate(chosen.items()):
            found = {x: [r for r in these if r["way"] == way and r["flags"][varied] == x] for x in levels}
            found = {x: new_success(r) for x, r in found.items() if {q["task"] for q in r} == set(TASKS)}
            cells = [f"{found[x][0]}/{found[x][1]}" if x in found else "-" for x in levels]
            print(f"| {name} | {' | '.join(cells)} |")
            rates = np.array([s / n for s, n in found.values()])
            low, high = np.array([wilson_interval(s, n) for s, n in found.values()]).T
            place = np.array(list(found)) * 1.02 ** (i - 2)  # side by side, where intervals would cover each other
            axis.errorbar(place, rates, yerr=[rates - low, high - rates], color=figures.COLORS[i], marker="o",
                          capsize=3, label=name)  # fmt: skip
        expert = {r["task"]: r["tasks"][r["task"]]["expert"]["success"] for r in these}
        print(f"| scripted expert | {np.mean(list(expert.values())):.3f} |" + " |" * (len(levels) - 1) + "\n")
        axis.axhline(np.mean(list(expert.values())), color="black", linewidth=0.8, label="scripted expert")
        axis.set_xscale("log")
        axis.set_xticks(levels, [str(x) for x in levels])
        axis.minorticks_off()
        axis.set(xlabel=label)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7, loc="lower right")
    axes[0].set_ylabel("success, mean of four new tasks")
    figures._save(figure, HERE / "budget.png")


def why_paper() -> None:
    """Old tasks' successes: before, after --retain paper, and after it with the new component's weight given back."""
    result = read("why-paper.json")[0]
    old = list(result["rows"][0]["before"])
    print("| router trained on | " + " | ".join(old) + " | sum |\n|---" + "|---" * (len(old) + 1) + "|")
    kinds = {"paper": "as it is", "given_back": "its weight given back to the one it copied"}
    before = result["rows"][0]["before"]
    print(f"| (before) | {' | '.join(str(before[t]) for t in old)} | {sum(before.values())} |")
    for row in result["rows"]:
        for key, name in kinds.items():
            print(f"| {row['new_task']}, {name} | {' | '.join(str(row[key][t]) for t in old)} | "
                  f"{sum(row[key].values())} |")  # fmt: skip
        weight = row["weight_of_the_new_component"]
        print(f"| its weight there | {' | '.join(f'{weight[t]:.2f}' for t in old)} | |")


if __name__ == "__main__":
    one_task()
    sequences()
    budget()
    why_paper()
