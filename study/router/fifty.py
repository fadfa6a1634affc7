"""Do the ways that route on mt6 route on 50 tasks, and at what price? Some four hours on 2 cores.

    python study/grid.py study/router/fifty.py      # after study/router/table.py, whose results decide what is in it

25 demonstrations, 10,000 steps, three seeds; 20 episodes of each task on block 13; of the first seed also with weights
of 1/K (of softmax and top2-bonus each seed), and what study/router/measure.py says, on block 400. Beside them today's
default, one network of the same total size, and one as large as the two components that are active (`monolithic
--components 2`).

Expected of bonus-0.03 and bonus-0.1, written when softmax and top2-bonus had been run, and before these: 0.903 and
0.893; both route, and 1/K costs 30 points and 45. Of falling-0.1, which was thought of when bonus-0.1 had lost 2.4
points in its first two seeds: 0.908, and it routes. Of top2-of-8-bonus, thought of last, because a larger policy of
which no more is active is what sparse acting is for: 0.915, and 1/K leaves 0.2.

Rivals of study/router/baselines.py: only the first seed was planned. (For want of time bonus-0.03 and top2-of-8-bonus
were cut to theirs, too, when it was there: the first had shown nothing, the second had missed.) Expected, written when
uniform had been found as good as softmax on six tasks, and before any of them: uniform 0.900, moe-top2 0.885 (with 1/K
0.4), bc-unet 0.865, paper 0.70, which is told no task's name and has to see in the state which of fifty it is to do.
The first seed of bc-unet had 0.929, that of uniform 0.924, where softmax has 0.903: against what was expected, so the
other two seeds of both are played as well. Expected of them, before they are: bc-unet 0.925, uniform 0.912.
"""

from study import markdown
from study.router import results
from study.router.baselines import ONE_NETWORK, POLICIES
from study.router.table import LATER, WAYS


def best() -> list[str]:
    """Of the ways that route, the three with the highest success: the rule of study/router/table.py. None where that
    has not been measured."""
    try:
        found = markdown.read(markdown.STUDY, "router/wake/*.json")
    except markdown.NotMeasured:
        return []
    routing = [name for name in WAYS if name in found and name not in LATER and results.routes(found[name])]
    return sorted(routing, key=lambda name: -found[name]["success"])[:3]


def row(name: str, K: int, flags: str, seed: int) -> tuple[str, ...]:
    """Train; of the first seed, where there is a router, look at it, and play with 1/K; play as it is."""
    folder, result = (f"{top}/router/fifty/{name}-s{seed}" for top in ("runs", "study"))
    play = f"python evaluate.py --run {folder} --episodes 20 --seed 13 --out {result}"
    look = f"python study/router/measure.py --run {folder} --episodes 4 --out {result}-router.json"
    even = seed == 0 and name not in ("uniform", *ONE_NETWORK, "monolithic-2")  # a router whose weights could be 1/K
    return (
        f"{result}.json",
        f"python train.py --tasks mt50 --components {K} --demos-per-task 25 --steps 10000 --eval-episodes 0 "
        f"--seed {seed} {flags} --out {folder} --overwrite".replace("  ", " "),
        *[f"{play}-even.json --even"] * even,
        *[look] * (even and name not in RIVALS),
        f"{play}.json",
    )


RIVALS = {name: (4, POLICIES[name]) for name in ("uniform", "moe-top2", "bc-unet", "paper")}
ONCE = ("bonus-0.03", "top2-of-8-bonus", "moe-top2", "paper")
RUNS = {name: WAYS[name] for name in ("softmax", *best())} | LATER | {
    "monolithic": (4, "--policy monolithic"), "monolithic-2": (2, "--policy monolithic"),
} | RIVALS  # fmt: skip

TABLE = [
    [("runs/router/fifty/demonstrations/model.safetensors",  # once, before they are asked for side by side
      "python train.py --tasks mt50 --demos-per-task 25 --steps 1 --eval-episodes 0 --overwrite "
      "--out runs/router/fifty/demonstrations")],
    [row(name, K, flags, seed) for seed in range(3) for name, (K, flags) in RUNS.items()
     if seed == 0 or name not in ONCE],
]  # fmt: skip
