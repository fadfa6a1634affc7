"""Fifty tasks as one policy and forty-nine files: each learned upon the first task alone, apart from all others, and
put together afterwards. Two hours on 2 cores.

    python study/grid.py study/sequences/apart.py && python study/report.py

Such a stage begins with the first policy alone, whether it is learned in turn (`adapt.py --sequence mt50 --lean-on
base`) or here, and becomes the same (LOG.md: compared for one task). What is otherwise than in
study/sequences/table.py: 2000 steps for each task instead of 1000, adapt.py's own, and two actions before looking again
instead of four. Block 18, on which nothing was chosen. Expected before it was run: an average of 0.955 (in turn, with
1000 steps and four actions, 0.913; the expert has 0.988), because on the block for choices stick-pull went from 21 of
50 to 46 with 3000 steps, and handle-pull-side from 13 to 45 with two actions.
"""

from envs.metaworld import TASKS

FIRST, *OTHERS = TASKS  # in the order in which the sequence has them
HOME = "runs/apart"
SKILLS = [f"{HOME}/{task}/skill.safetensors" for task in OTHERS]


def skill(task: str) -> tuple[str, str]:
    """The file that a task becomes."""
    return (
        f"{HOME}/{task}/skill.safetensors",
        f"python adapt.py --run {HOME}/{FIRST} --tasks {task} --lean-on base --encoder-rank 64 --demos-per-task 50 "
        f"--eval-episodes 0 --out {HOME}/{task}",
    )


TABLE = [
    [(f"{HOME}/{FIRST}/evaluation.json",  # the last thing; weights are there from the first checkpoint on
      f"python train.py --tasks {FIRST} --executed 2 --eval-episodes 0 --overwrite --out {HOME}/{FIRST}",
      f"python evaluate.py --run {HOME}/{FIRST} --episodes 10 --seed 400")],
    [skill(task) for task in OTHERS],
    [(f"{HOME}/all/model.safetensors",
      f"python skills.py --run {HOME}/{FIRST} --put {','.join(SKILLS)} --out {HOME}/all")],
    [("study/sequences/apart-s0.json",
      f"python evaluate.py --run {HOME}/all --episodes 50 --seed 18 --out study/sequences/apart-s0.json")],
]  # fmt: skip
