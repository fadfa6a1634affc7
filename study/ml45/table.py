"""A new task from ONE demonstration: on a base of 45 tasks, factorized or one network. Some ten hours on 2 cores.

    python study/grid.py study/ml45/table.py && python study/report.py

MetaWorld's own split: ml45-train is what the bases learn, from 25 demonstrations each; the five of ml45-test are
learned one at a time, from one demonstration, in adapt.py's own 2000 steps; evaluated on block 9. Three seeds of either
base, five draws of the demonstration. Rows are in the order in which they answer the question: the first draws first.
"""

NEW = "bin-picking,box-close,door-lock,door-unlock,hand-insert"  # ml45-test; the last one is whose result ends a row
BASES = {  # The first of each are compared on every base and draw, the others on the first base and its three draws.
    "fdp": ("add-exact,small", "full,router,scratch,specialist"),
    "monolithic": ("low-rank", "full"),
}


def base(policy: str, seed: int) -> tuple[str, ...]:
    """45 tasks in 24,000 steps, with everything else as train.py does it."""
    folder = f"runs/ml45/{policy}-s{seed}"
    return (
        f"study/ml45/{policy}-s{seed}.json",
        f"python train.py --tasks ml45-train --policy {policy} --demos-per-task 25 --steps 24000 --eval-episodes 20 "
        f"--seed {seed} --out {folder} --overwrite",
        f"cp {folder}/evaluation.json study/ml45/{policy}-s{seed}.json",
    )


def one_demonstration(policy: str, ways: str, seed: int, draws: str) -> tuple[str, str]:
    """Five new tasks in some ways, from these draws of a demonstration."""
    last = f"{ways.split(',')[-1]}-hand-insert-d1-n2000-draw{draws.split(',')[-1]}-s{seed}"
    return (
        f"study/ml45/{policy}/{last}.json",
        f"python study/adapt/one_task.py --run runs/ml45/{policy}-s{seed} --tasks {NEW} --demos 1 --steps 2000 "
        f"--new-only --block 9 --out study/ml45/{policy} --ways {ways} --seeds {seed} --draws {draws}",
    )


TABLE = [
    [  # Demonstrations, once, before they are asked for side by side.
        ("runs/ml45/demonstrations/model.safetensors",
         "python train.py --tasks ml45-train --demos-per-task 25 --steps 1 --eval-episodes 0 --overwrite "
         "--out runs/ml45/demonstrations"),
        *[(f"runs/ml45/draw-{draw}/model.safetensors",
           f"python train.py --tasks ml45-test --demos-per-task 10 --demo-draw {draw} --steps 1 --eval-episodes 0 "
           f"--overwrite --out runs/ml45/draw-{draw}") for draw in range(1, 6)],
    ],
    [base(policy, 0) for policy in BASES],
    [one_demonstration(policy, ways, 0, "1,2,3") for policy in BASES for ways in BASES[policy]],
    [base(policy, seed) for seed in (1, 2) for policy in BASES],
    [
        *[one_demonstration(policy, BASES[policy][0], seed, "1,2,3") for seed in (1, 2) for policy in BASES],
        *[one_demonstration(policy, BASES[policy][0], seed, "4,5") for seed in (0, 1, 2) for policy in BASES],
    ],
]  # fmt: skip
