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

from evaluate import wilson_interval  # noqa: E402
from figures import COLORS, _save  # noqa: E402

groups = defaultdict(list)
for path in sorted(HERE.glob("*-s[0-9].json")):
    groups[path.stem[:-3]].append(json.loads(path.read_text()))


def pooled(results: list[dict], task: str) -> tuple[int, int]:
    return sum(r["tasks"][task]["successes"] for r in results), sum(r["tasks"][task]["n"] for r in results)


def rows(results: list[dict]):
    for task in results[0]["tasks"]:
        yield task, *pooled(results, task)
    counts = [pooled(results, task) for task in results[0]["tasks"]]
    yield "all", sum(s for s, _ in counts), sum(n for _, n in counts)


for name, results in groups.items():
    seconds = [float(r["training"]["seconds"]) for r in results]
    means = ", ".join(f"{r['mean_success']:.3f}" for r in results)
    print(f"\n{name}: {len(results)} seed(s), mean success {means}; training {min(seconds):.0f}-{max(seconds):.0f} s")
    for task, successes, n in rows(results):
        low, high = wilson_interval(successes, n)
        expert = results[0]["tasks"].get(task, {}).get("expert")
        ceiling = f"   expert {expert['successes']}/{expert['n']}" if expert else ""
        print(f"  {task:<22} {successes:>4}/{n:<4} {successes / n:.3f}  [{low:.3f}, {high:.3f}]{ceiling}")

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
            expert = [r["expert"]["successes"] / r["expert"]["n"] for r in results[0]["tasks"].values()]
            expert.append(sum(expert) / len(expert))
            axis.scatter(
                range(len(expert)), expert, marker="_", s=600, color="black", label="scripted expert", zorder=3
            )
            axis.set_xticks(range(len(tasks)), [t for t, _, _ in tasks], rotation=25, ha="right")
    axis.set(title=f"mt6, {demos} demonstrations per task", ylim=(0.5, 1.03))
axes[0].set_ylabel("success, 50 episodes per seed")
axes[1].legend(fontsize=8, loc="lower left")
_save(figure, HERE / "mt6.png")
