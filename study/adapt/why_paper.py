"""Why --retain paper forgets: the old tasks with the new component left out of the sum.

    python study/adapt/one_task.py --ways add-paper --seeds 0     # the runs that this looks at
    python study/adapt/why_paper.py

Those runs' old components are the same bits as before; only the router changed. It can do harm in two ways: by giving
the new component weight on old tasks, or by shifting weight among the old ones. Here the first is undone: the new
component's weight becomes 0, and the others are scaled up to sum to 1. What stays lost was lost in the second way.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import checkpoint  # noqa: E402
from cli import ROOT, parse, provenance, run, say, write_json  # noqa: E402
from evaluate import evaluate  # noqa: E402

HERE = ROOT / "study/adapt"


@dataclass
class WhyPaperConfig:
    """Evaluate the old tasks of --retain paper runs without the new component."""

    tasks: str = "door-close,drawer-close,disassemble,window-open"
    seed: int = 0
    episodes: int = 50
    block: int = 3  # of evaluation episodes


def main(config: WhyPaperConfig) -> dict:
    device = checkpoint.choose_device("auto")
    before = json.loads((HERE / "before.json").read_text())["tasks"]
    K = checkpoint.load_policy(ROOT / "study/core/mt6", device).config.components
    rows = []
    for task in config.tasks.split(","):
        policy = checkpoint.load_policy(ROOT / f"runs/adapt/add-paper-{task}-s{config.seed}", device)

        def without(condition, weigh=policy.weigh):
            weights = weigh(condition).clone()
            weights[:, K:] = 0
            return weights / weights.sum(1, keepdim=True)

        policy.weigh = without
        result, _ = evaluate(policy, list(before), config.episodes, config.block)
        paper = json.loads((HERE / f"add-paper-{task}-s{config.seed}.json").read_text())["tasks"]
        rows.append({
            "new_task": task,
            "before": {old: r["successes"] for old, r in before.items()},
            "paper": {old: paper[old]["successes"] for old in before},
            "without_the_new_component": {old: result["tasks"][old]["successes"] for old in before},
            "weight_of_the_new_component": {old: paper[old]["router_weights"]["mean"][K] for old in before},
        })  # fmt: skip
        say(json.dumps(rows[-1]))
    path = HERE / "why-paper.json"
    write_json(path, {"episodes_per_task": config.episodes, "rows": rows} | provenance(config.seed, str(device)))
    return {"wrote": [str(path)]}


if __name__ == "__main__":
    run(lambda: main(parse(WhyPaperConfig)))
