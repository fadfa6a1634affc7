"""What makes the router route: every way that was tried on mt6, one seed each, on block 400. 90 minutes on two cores.

    python study/grid.py study/router/table.py && python study/report.py

25 demonstrations, 6,000 steps, then study/router/measure.py: success as it is, with the weights replaced by 1/K and by
the two largest, with each component left out, and what a component tells. 10 episodes of each task on block 400.

PREDICTIONS was written before any of it was run; LOG.md says what became of it. The rule, also written before: a way
*routes* if a component tells at least 0.2 nats about the task above shuffled labels, with an interval above what five
routers tell that have learned nothing and weigh in the same way, and if another task's weights in the place of its own
cost at least 10 points, with an interval below zero. Of the ways that route, the three with the highest success go to
50 tasks (10,000 steps, three seeds, block 13). A way becomes train.py's default if it routes there too, and its success
is not below today's: the interval of the difference on block 13 includes zero or lies above.
"""

TRAIN = "--tasks mt6 --components {K} --demos-per-task 25 --steps 6000 --eval-episodes 0 --device cpu --overwrite"

WAYS = {  # name: (K, flags of train.py)
    "softmax": (4, ""),
    "noise": (4, "--target noise"),
    "clean": (4, "--target clean"),
    "affine": (4, "--router affine"),
    "raw": (4, "--router raw --target noise"),
    "own-encoder": (4, "--policy waking --how own-encoder"),
    "fast": (4, "--policy waking --how fast"),
    "cooling": (4, "--policy waking --how cooling --cooling-steps 6000"),
    "dropout": (4, "--policy waking --how dropout"),
    "narrow-8": (8, "--policy waking --how narrow"),
    "narrow-16": (16, "--policy waking --how narrow"),
    "bonus-0.01": (4, "--policy informed --bonus 0.01"),
    "bonus-0.03": (4, "--policy informed --bonus 0.03"),
    "bonus-0.1": (4, "--policy informed --bonus 0.1"),
    "top2-balance": (4, "--policy moe --top 2"),
    "top2-bonus": (4, "--policy informed --top 2 --bonus 0.03"),
    "top2-of-8-bonus": (8, "--policy informed --top 2 --bonus 0.03"),
    "falling-0.1": (4, "--policy waking --how falling --router informed --cooling-steps 3000"),
    "decorrelated-0.003": (4, "--policy decorrelated --router affine --penalty 0.003"),
    "decorrelated-0.045": (4, "--policy decorrelated --router affine --penalty 0.045"),
}

LATER = {  # to 50 tasks, too, though not among the three: study/router/fifty.py
    "falling-0.1": (4, WAYS["falling-0.1"][1].replace("3000", "5000")),  # half of the steps there, too
    "top2-of-8-bonus": WAYS["top2-of-8-bonus"],
}

PREDICTIONS = {  # does it route? and what else
    "softmax": "no: weights within 0.2 to 0.3, 1/K costs nothing",
    "noise": "no: as softmax, the loss weighs steps differently, and that is all",
    "clean": "a little: the throw-away prototype had 0.13 to 0.45; 1/K costs a point or two",
    "affine": "no: small signed differences, 1/K costs under two points",
    "raw": "1/K costs points because the scale is learned, not because it routes by task",
    "own-encoder": "no: the loss asks for nothing that the shared encoder could not give",
    "fast": "a little: sides are taken early and stay; under 0.1 nats",
    "cooling": "yes by force, with success down by some points: a cold router chooses, late, among alike components",
    "dropout": "the opposite: components become exchangeable, and 1/K costs nothing",
    "narrow-8": "no: as softmax",
    "narrow-16": "no: as softmax; success a point lower, the components are small",
    "bonus-0.01": "partly: between 0.003, which does nothing, and 0.03",
    "bonus-0.03": "yes: ln 4 nearly, 1/K near 0.5, top two as good as all",
    "bonus-0.1": "yes, one-hot by task; success a point or two lower",
    "top2-balance": "partly: which two is decided early, by chance; usage is even, information low",
    "top2-bonus": "yes: success as with the bonus alone",
    "top2-of-8-bonus": "yes, and the best of those that route: eight components for six tasks",
    "falling-0.1": "yes, at 0.5 nats, with softmax's success (written when bonus-0.1 had lost two on fifty tasks)",
    "decorrelated-0.003": "no for the router; cosines fall, effective rank rises",
    "decorrelated-0.045": "no for the router; success a point lower",
}


def row(name: str, K: int, flags: str) -> tuple[str, str, str]:
    """Train, then measure."""
    folder = f"runs/router/{name}"
    return (
        f"study/router/wake/{name}.json",
        f"python train.py {TRAIN.format(K=K)} {flags} --out {folder}".replace("  ", " "),
        f"python study/router/measure.py --run {folder} --episodes 10 --out study/router/wake/{name}.json",
    )


TABLE = [
    [("runs/router/demonstrations/model.safetensors",  # once, before they are asked for side by side
      "python train.py --tasks mt6 --demos-per-task 25 --steps 1 --eval-episodes 0 --overwrite "
      "--out runs/router/demonstrations")],
    [row(name, K, flags) for name, (K, flags) in WAYS.items()],
]  # fmt: skip
