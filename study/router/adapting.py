"""A new task by routing alone: from one demonstration, only the router and the task's name are learned. Three hours.

    python study/grid.py study/router/adapting.py && python study/report.py

Bases are of ml45-train, 25 demonstrations each, 24,000 steps; new, one at a time, the five of ml45-test. What a router
can do here is choose among components that it finds. Does it do more on a base whose router routes? Predicted: 0.46
from today's base without demonstrations made of the one (that was measured before, study/ml45), 0.5 with them; from a
base that routes 0.55 to 0.65.

Both stayed below 0.45. Weights that are positive and sum to one can only give something between what the components
say. With signed weights (affine) their differences may be amplified, and sixteen slim components, as large together as
four, have fifteen differences in the place of three. Predicted, before these two are trained: affine 0.50 with four,
0.60 with sixteen; both bases a point or two below today's at their own 45 tasks.

Sixteen had 0.628. What would one network have, in which there is nothing to weigh? It learns the new task's name alone,
128 numbers; or also adapters of rank 1 on every layer, 10,780 numbers, where the router and the name of the sixteen are
9,424. Predicted, before its base is trained: by name alone 0.30, with adapters 0.80, since they change what its layers
compute; adapters of rank 24 had 0.91 (study/ml45).

Signed weights over four had 0.35: not the sign alone. Sixteen slim ones under a softmax, predicted before they are
trained: 0.50.
"""

from study.ml45.table import NEW

BASES = {
    "fdp": "",  # today's, which is shipped: study/ml45/base
    "informed": "--policy informed --bonus 0.1",
    "affine-16": "--policy waking --how narrow --router affine",
    "affine": "--router affine",
    "slim-16": "--policy waking --how narrow",
    "monolithic": "--policy monolithic",
}
COMPONENTS = {"affine-16": 16, "slim-16": 16}  # the others have 4
ROUTER = "router-elsewhere"  # the router and the name
WAYS = {"monolithic": "name-elsewhere,low-rank-1-elsewhere"}  # of the others: ROUTER


def row(name: str) -> tuple[str, str]:
    """The five in its ways, from three draws of one demonstration."""
    run, ways = "study/ml45/base" if name == "fdp" else f"runs/router/adapting/{name}-s0", WAYS.get(name, ROUTER)
    return (
        f"study/router/adapting/{name}/{ways.split(',')[-1]}-hand-insert-d1-n2000-draw3-s0.json",
        f"python study/adapt/one_task.py --run {run} --tasks {NEW} --demos 1 --steps 2000 --new-only --block 9 "
        f"--out study/router/adapting/{name} --ways {ways} --seeds 0 --draws 1,2,3",
    )


TABLE = [
    [(f"runs/router/adapting/{name}-s0/evaluation.json",
      f"python train.py --tasks ml45-train --components {COMPONENTS.get(name, 4)} --demos-per-task 25 --steps 24000 "
      f"--eval-episodes 20 {flags} --out runs/router/adapting/{name}-s0 --overwrite",
      f"cp runs/router/adapting/{name}-s0/evaluation.json study/router/adapting/{name}-s0.json")
     for name, flags in BASES.items() if flags],
    [row(name) for name in BASES],
]  # fmt: skip
