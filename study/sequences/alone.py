"""The honest rival of study/sequences/apart.py: for each of the forty-nine tasks a small policy of its own, that leans
on nothing. An hour on one core.

    python study/grid.py study/sequences/alone.py && python study/report.py

The same demonstrations, steps, seed, episodes (block 18), two actions before looking again; one U-Net of the size of a
component, an encoder of its own. Expected before it was run: 0.968 as well. A stage begins as a copy of what assembly
taught, and 2000 steps are enough to forget where one began; where few demonstrations or few steps are given it may be
otherwise, and this is not asked here.
"""

from study.sequences.apart import OTHERS


def row(task: str) -> tuple[str, str, str]:
    """Train, play."""
    folder, result = f"runs/alone/{task}", f"study/sequences/alone/{task}.json"
    return (
        result,
        f"python train.py --tasks {task} --components 1 --steps 2000 --executed 2 --eval-episodes 0 --overwrite "
        f"--out {folder}",
        f"python evaluate.py --run {folder} --episodes 50 --seed 18 --out {result}",
    )


TABLE = [[row(task) for task in OTHERS]]
