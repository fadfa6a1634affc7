"""A new task from ONE demonstration: on a base of 45 tasks, factorized or one network. Some ten hours on 2 cores.

    python study/grid.py study/ml45/table.py && python study/report.py

MetaWorld's own split: ml45-train is what the bases learn, from 25 demonstrations each; the five of ml45-test are
learned one at a time, from one demonstration, in adapt.py's own 2000 steps; evaluated on block 9. Three seeds of either
base, five draws of the demonstration. "elsewhere": with demonstrations made of it (adapt.py's default for so few; the
other ways are without). Rows are in the order in which they answer the question: the first draws first.
Weights of bases are not kept with the code, but for the first factorized one, study/ml45/base: where runs/ is empty
they are trained anew.
"""

from itertools import product

NEW = "bin-picking,box-close,door-lock,door-unlock,hand-insert"  # ml45-test; the last one is whose result ends a row
LEADING = {"fdp": "add-exact", "monolithic": "low-rank"}  # on every base and draw
ELSEWHERE = {"fdp": "specialist-elsewhere,add-elsewhere", "monolithic": "low-rank-elsewhere"}  # and what is made of it
OTHERS = {"fdp": "small,full,router,scratch,specialist", "monolithic": "full"}  # on the first base


def folder(policy: str, seed: int) -> str:
    """Where a base is."""
    return "study/ml45/base" if (policy, seed) == ("fdp", 0) else f"runs/ml45/{policy}-s{seed}"


def base(policy: str, seed: int) -> tuple[str, ...]:
    """45 tasks in 24,000 steps, with everything else as train.py does it."""
    run = folder(policy, seed)
    return (
        f"{run}/evaluation.json",
        f"python train.py --tasks ml45-train --policy {policy} --demos-per-task 25 --steps 24000 --eval-episodes 20 "
        f"--seed {seed} --out {run} --overwrite",
        f"cp {run}/evaluation.json study/ml45/{policy}-s{seed}.json",
    )


def new_tasks(policy: str, ways: str, seed: int, draws: str, demos: int = 1) -> tuple[str, str]:
    """The five in some ways, from these draws of one demonstration, or of some."""
    last = f"{ways.split(',')[-1]}-hand-insert-d{demos}-n2000-draw{draws.split(',')[-1]}-s{seed}"
    return (
        f"study/ml45/{policy}/{last}.json",
        f"python study/adapt/one_task.py --run {folder(policy, seed)} --tasks {NEW} --demos {demos} --steps 2000 "
        f"--new-only --block 9 --out study/ml45/{policy} --ways {ways} --seeds {seed} --draws {draws}",
    )


def chain(draw: int) -> tuple[str, ...]:
    """The five in turn, each leaning on all that came before it. Leaning on the base alone they are what the rows of
    `add-elsewhere` are, whatever the order: those need no run of their own. (Draw 1 was made with its stages played,
    too: chain-draw1-s0.json is what adapt.py said of them.)"""
    run, result = f"runs/ml45/chain-draw{draw}", f"study/ml45/chain-draw{draw}-s0-evaluation.json"
    return (
        result,
        f"python adapt.py --run {folder('fdp', 0)} --sequence {NEW} --demos-per-task 1 --demo-draw {draw} --steps 2000 "
        f"--eval-episodes 0 --seed 0 --out {run}",
        f"python evaluate.py --run {run}/5-hand-insert --tasks {NEW} --episodes 50 --seed 9 --out {result}",
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
    [
        new_tasks("fdp", LEADING["fdp"], 0, "1,2,3"),  # needs no base but the one that is shipped
        *[base(policy, seed) for policy, seed in product(LEADING, range(3)) if folder(policy, seed).startswith("runs")],
    ],
    [new_tasks(policy, LEADING[policy], seed, "1,2,3") for seed, policy in product(range(3), LEADING)][1:],
    [new_tasks(policy, OTHERS[policy], 0, "1") for policy in OTHERS],
    [new_tasks(policy, ELSEWHERE[policy], 0, "1,2,3") for policy in ELSEWHERE],
    [new_tasks(policy, ELSEWHERE[policy].split(",")[-1], 0, "1,2,3", demos=3) for policy in ELSEWHERE],
    [new_tasks(policy, LEADING[policy], 0, "1", demos=10) for policy in LEADING],
    [new_tasks("fdp", "specialist-elsewhere", 0, "2,3"), new_tasks("fdp", "add-elsewhere", 0, "4,5"),
     *map(chain, (1, 2, 3))],
    [new_tasks(policy, LEADING[policy], seed, "4,5") for seed, policy in product(range(3), LEADING)],
    [new_tasks(policy, OTHERS[policy], 0, "2,3") for policy in OTHERS],
    # Without a component of its own, augmented; the third of the best three ways from more demonstrations.
    [new_tasks("fdp", "small-elsewhere", 0, "1,2,3"), new_tasks("fdp", "small-elsewhere", 0, "1", demos=3),
     new_tasks("fdp", "small", 0, "1", demos=10), new_tasks("monolithic", "low-rank-elsewhere", 0, "4,5")],
]  # fmt: skip
