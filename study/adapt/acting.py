"""What it costs to act in a task that was added: one action chunk at B = 1, beside the policy before.

    python study/adapt/acting.py

Three policies take turns: study/core/mt6, the same with a component more, and that with a correction of the encoder
(rank 16). Their weights are those of a stage that begins; what they cost does not depend on what was learned.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import adapt  # noqa: E402
from adaptation.refusals import RANK  # noqa: E402
from plumbing.cli import ROOT, provenance, run, say, write_json  # noqa: E402
from plumbing.runs import load_policy  # noqa: E402
from study.speed.timing import take_turns, timer  # noqa: E402

CALLS, TURNS = 50, 15


def main() -> dict:
    device = torch.device("cpu")
    base = load_policy(ROOT / "study/core/mt6", device)
    policies = {"before": (base, base.config.tasks[0])}
    for name, rank in (("added, --encoder-rank 0", 0), (f"added, --encoder-rank {RANK}", RANK)):
        policies[name] = adapt.grow(base, ["door-close"], 1, [0], rank).eval(), "door-close"

    def chunk(policy, task: str):
        observation = {part: torch.zeros(1, *shape).numpy() for part, shape in policy.config.observation.items()}
        return lambda: policy.act(observation, [task])

    seconds = take_turns({name: timer(chunk(*given), CALLS, device) for name, given in policies.items()}, TURNS)
    before, plain, corrected = seconds.values()
    result = {"milliseconds": {name: round(1000 * s, 3) for name, s in seconds.items()},
              "ratio": {"a component more": plain / before, "the correction of the encoder": corrected / plain},
              "threads": torch.get_num_threads()}  # fmt: skip
    say(str(result))
    path = ROOT / "study" / "adapt" / "acting.json"
    write_json(path, result | provenance(0, str(device)))
    return {"wrote": [str(path)]}


if __name__ == "__main__":
    run(main)
