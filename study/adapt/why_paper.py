"""Why --retain paper forgets: the old tasks, with the new component's weight given back to the one that it copied.

    python study/adapt/one_task.py --ways add-paper --seeds 0     # the runs that this looks at
    python study/adapt/why_paper.py

Those runs' old components are the same bits as before. Old tasks can lose in two ways: the new component keeps a share
of their weight (it began with half of its original's) but has become something else; or the router shifts weight among
the old ones. Here the first is undone: all weight of the new component goes back to its original. (Before training
that is the old policy.) What returns was lost in the first way, what stays lost in the second.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from adapt import most_used  # noqa: E402
from envs.demos import demonstrations, make_windows  # noqa: E402
from evaluate import evaluate  # noqa: E402
from plumbing import machine, runs  # noqa: E402
from plumbing.cli import ROOT, parse, provenance, run, say, write_json  # noqa: E402

HERE = ROOT / "study/adapt"


@dataclass
class WhyPaperConfig:
    """Evaluate the old tasks of --retain paper runs with the old components only."""

    tasks: str = "door-close,drawer-close,disassemble,window-open"
    seed: int = 0
    episodes: int = 50
    block: int = 8  # of evaluation episodes


def main(config: WhyPaperConfig) -> dict:
    device = machine.choose_device("auto")
    before = json.loads((HERE / "before.json").read_text())["tasks"]
    old_policy = runs.load_policy(ROOT / "study/core/mt6", device)
    K = old_policy.config.components
    rows = []
    for task in config.tasks.split(","):
        policy = runs.load_policy(ROOT / f"runs/adapt/add-paper-{task}-s{config.seed}", device)

        observation, _ = make_windows(demonstrations([task], 25, ROOT / "data")[task], 1)
        seen = {part: x.to(device) for part, x in observation.items()}
        original = most_used(old_policy, seen, task, 1)[0]

        def given_back(condition, step=None, weigh=policy.weigh, original=original):
            weights = weigh(condition).clone()
            weights[:, original] += weights[:, K:].sum(1)
            weights[:, K:] = 0
            return weights

        policy.weigh = given_back
        result, _ = evaluate(policy, list(before), config.episodes, config.block)
        paper = json.loads((HERE / f"add-paper-{task}-s{config.seed}.json").read_text())["tasks"]
        rows.append({
            "new_task": task,
            "copied": original,
            "before": {old: r["successes"] for old, r in before.items()},
            "paper": {old: paper[old]["successes"] for old in before},
            "given_back": {old: result["tasks"][old]["successes"] for old in before},
            "weights_before": {old: r["router_weights"]["mean"] for old, r in before.items()},
            "weights_given_back": {old: result["tasks"][old]["router_weights"]["mean"] for old in before},
            "weight_of_the_new_component": {old: paper[old]["router_weights"]["mean"][K] for old in before},
        })  # fmt: skip
        say(json.dumps(rows[-1]))
    path = HERE / "why-paper.json"
    write_json(path, {"episodes_per_task": config.episodes, "rows": rows} | provenance(config.seed, str(device)))
    return {"wrote": [str(path)]}


if __name__ == "__main__":
    run(lambda: main(parse(WhyPaperConfig)))
