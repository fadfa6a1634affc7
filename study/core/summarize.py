"""Turn study/core/*.json into the tables of the README and one figure.   python study/core/summarize.py

Success is pooled over seeds: n episodes = seeds x 50, interval Wilson 95 % over those episodes. Seeds share the
evaluation episodes and the demonstrations, so the spread over seeds is given beside it.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

from evaluate import wilson_interval  # noqa: E402
from figures import COLORS, _save  # noqa: E402

groups = defaultdict(list)
for path in sorted(HERE.glob("*-s[0-9].json")):
    groups[path.stem[:-3]].append(json.loads(path.read_text()))
if not groups:
    raise SystemExit(f"no results in {HERE}: run study/core/run.sh first")


def pooled(results: list[dict], task: str) -> tuple[int, int]:
    return sum(r["tasks"][task]["successes"] for r in results), sum(r["tasks"][task]["n"] for r in results)


def rows(results: list[dict]):
    for task in results[0]["tasks"]:
        yield task, *pooled(results, task)
    counts = [pooled(results, task) for task in results[0]["tasks"]]
    yield "all", sum(s for s, _ in counts), sum(n for _, n in counts)


def expert(results: list[dict]) -> float:
    rates = [r["expert"]["success"] for r in results[0]["tasks"].values()]
    return sum(rates) / len(rates)


print("| run | success, each seed | all, 95 % interval | expert, same episodes | training |\n|---|---|---|---|---|")
for name, results in groups.items():
    means = ", ".join(f"{r['mean_success']:.3f}" for r in results)
    *_, (_, successes, n) = rows(results)
    low, high = wilson_interval(successes, n)
    seconds = [r["training"]["seconds"] for r in results]
    took = f"{min(seconds):.0f}-{max(seconds):.0f} s" if len(seconds) > 1 else f"{seconds[0]:.0f} s"
    print(f"| {name} | {means} | {successes}/{n}, {low:.3f} - {high:.3f} | {expert(results):.3f} | {took} |")

mt6 = {name: results for name, results in groups.items() if name.startswith("mt6-")}
print("\n| task | " + " | ".join(f"{name[4:]}" for name in mt6) + " | expert |\n" + "|---" * (len(mt6) + 2) + "|")
for i, (task, *_) in enumerate(rows(next(iter(mt6.values())))):
    counts = [list(rows(results))[i] for results in mt6.values()]
    results = next(iter(mt6.values()))
    ceiling = expert(results) if task == "all" else results[0]["tasks"][task]["expert"]["success"]
    print(f"| {task} | " + " | ".join(f"{s}/{n}" for _, s, n in counts) + f" | {ceiling:.3f} |")

for name, results in groups.items():
    means = np.array(
        [[row["router_weights"]["mean"] for row in r["tasks"].values()] for r in results]
    )  # (seed, task, K)
    if means.shape[-1] > 1:
        overall = means.mean((0, 1)).round(2)
        print(f"{name}: router weights {overall}, task means from {means.min():.2f} to {means.max():.2f}")

# mt6: the factorized policy beside a single network of the same size, with the expert as the ceiling.
figure, axes = plt.subplots(1, 2, figsize=(11, 3.4), sharey=True)
for axis, demos in zip(axes, (25, 50), strict=True):
    for offset, policy in ((-0.19, "fdp"), (0.19, "monolithic")):
        results = groups.get(f"mt6-{policy}-{demos}")
        if not results:
            continue
        tasks = list(rows(results))
        x = [i + offset for i in range(len(tasks))]
        rates = [s / n for _, s, n in tasks]
        bounds = [wilson_interval(s, n) for _, s, n in tasks]
        errors = [
            [r - b[0] for r, b in zip(rates, bounds, strict=True)],
            [b[1] - r for r, b in zip(rates, bounds, strict=True)],
        ]
        label = f"{policy} ({len(results)} seeds)"
        axis.bar(
            x, rates, 0.36, yerr=errors, capsize=2, color=COLORS[0 if policy == "fdp" else 7], label=label, alpha=0.85
        )
        if policy == "fdp":
            marks = [r["expert"]["success"] for r in results[0]["tasks"].values()] + [expert(results)]
            axis.scatter(range(len(marks)), marks, marker="_", s=600, color="black", label="scripted expert", zorder=3)
            axis.set_xticks(range(len(tasks)), [t for t, _, _ in tasks], rotation=25, ha="right")
    axis.set(title=f"mt6, {demos} demonstrations per task", ylim=(0.5, 1.03))
axes[0].set_ylabel("success, 50 episodes per seed")
axes[1].legend(fontsize=8, loc="lower left")
_save(figure, HERE / "mt6.png")
