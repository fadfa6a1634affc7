"""How many actions of a chunk should be carried out before looking again? An hour on 2 cores.

    python study/grid.py study/core/executed.py

The same weights, trained once, with H = 8: it decides nothing in training. Policies that come with the code, 20
episodes of each task of block 400, the one for choices. Eight of eight is a quarter of the policy calls of two.

The rule, written before it was run: train.py's default becomes the largest number whose success on the 50 tasks is
within one point of the best. PREDICTIONS was written when three tasks had been tried (25 episodes of block 400, 4, 2
and 1 actions: lever-pull 21, 25 and 24; handle-pull-side 20, 25 and 25; soccer 17, 18 and 20), before all others.
"""

POLICIES = {"mt50": "study/mt50/run", "mt6": "study/core/mt6"}
EXECUTED = (2, 1, 4, 8)  # in the order in which they are to be run

PREDICTIONS = {  # success on the 50 tasks, and on the six
    8: (0.90, 0.95),
    4: (0.968, 0.985),
    2: (0.980, 0.985),
    1: (0.980, 0.985),
}

TABLE = [
    [(f"study/core/executed/{name}-{n}.json",
      f"python evaluate.py --run {run} --executed {n} --episodes 20 --seed 400 "
      f"--out study/core/executed/{name}-{n}.json")
     for name, run in POLICIES.items() for n in EXECUTED],
]  # fmt: skip
