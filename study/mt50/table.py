"""One policy for all 50 tasks, and one network of the same size: some five hours on 2 cores. Steps are train.py's own.

    python study/grid.py study/mt50/table.py && python study/report.py && python study/plots.py

50 demonstrations of each task; three seeds; 50 episodes of each task on block 11, on which nothing was ever chosen.
Looking again sooner, which was tried on block 400, is on block 17.
The curves of the first seed, and of mt6, are the speed run: seconds of training to a success on block 400.

Two rivals of the first seed, thought of when with half the demonstrations and a quarter of the steps regression had
been two points ahead of one network that denoises, and weights of 1/K two ahead of fdp (study/router/fifty.py).
Expected of both here, before they are run: no difference, bc-unet 0.960 and uniform 0.965, since what learns faster has
no advantage where all have learned.
"""

POLICIES = ("fdp", "monolithic")
RIVALS = {"bc-unet": "--policy bc --body unet", "uniform": "--policy uniform"}


def trained(policy: str, seed: int) -> tuple[str, ...]:
    """All 50 tasks, then evaluated. The first seed is the one whose curve is drawn."""
    name = f"{policy}-s{seed}"
    run = f"runs/curve/curve-{name}/run" if seed == 0 else f"runs/mt50/{name}"
    flags = f"--tasks mt50 --policy {policy}"
    train = f"python train.py {flags} --components 4 --seed {seed} --eval-episodes 0 --overwrite --out {run}"
    if seed == 0:
        train = f"python study/curve.py {flags} --save-every 4000 --out study/mt50/curve-{name}.json"
    play = f"python evaluate.py --run {run} --episodes 50 --seed 11 --out study/mt50/{name}"
    # With one network there is nothing to replace by 1/K.
    even = [f"{play}-even.json --even"] * (policy == "fdp")
    return f"study/mt50/{name}.json", train, *even, f"{play}.json"


def rival(policy: str) -> tuple[str, ...]:
    """The same data, steps and episodes."""
    run, result = f"runs/mt50/{policy}-s0", f"study/mt50/{policy}-s0.json"
    return (
        result,
        f"python train.py --tasks mt50 {RIVALS[policy]} --components 4 --seed 0 --eval-episodes 0 --overwrite "
        f"--out {run}",
        f"python evaluate.py --run {run} --episodes 50 --seed 11 --out {result}",
    )


TABLE = [
    [("runs/mt50/demonstrations/model.safetensors",  # once, before they are asked for side by side
      "python train.py --tasks mt50 --steps 1 --eval-episodes 0 --overwrite --out runs/mt50/demonstrations")],
    [
        *[trained(policy, seed) for seed in range(3) for policy in POLICIES],
        *map(rival, RIVALS),
        *[(f"study/mt50/curve-mt6-{policy}-s0.json",
           f"python study/curve.py --tasks mt6 --policy {policy} --save-every 1000 --episodes 10 "
           f"--out study/mt50/curve-mt6-{policy}-s0.json") for policy in POLICIES],
        *[(f"study/mt50/executed-{n}.json",  # the weights that come with the code, looking again sooner: LOG.md
           f"python evaluate.py --run study/mt50/run --executed {n} --episodes 50 --seed 17 "
           f"--out study/mt50/executed-{n}.json") for n in (2, 4)],
    ],
]  # fmt: skip
