"""What a router that routes would cost as train.py's default, where it has not been tried: an hour on 2 cores.

    python study/grid.py study/router/default.py

By the rule of study/router/table.py, fifty tasks decide (study/router/fifty.py). Before a default changes, what people
do with it is looked at, on the block for choices, one seed: reach and push, mt6 with 50 demonstrations, a new task upon
that (mt4, each alone, 25 demonstrations), mt6 from cameras (half of the steps, as study/pixels/recipe.py, whose
`shift-1` stands beside it).

Expected of top2-bonus, written before any of it was run: reach and push 1.0; mt6 0.985 (as it is 0.99); new tasks 0.95
(0.97): a component that is not among the best two gets no gradient, and a new one begins as a copy of another; cameras
0.90 (0.925). Of bonus-0.1, when top2-bonus had been run but for the cameras (mt6 0.977, as it is 0.990), and bonus-0.1
had 0.935 on fifty tasks with its first seed (block 400; as it is 0.930): reach and push 1.0, mt6 0.98, new tasks 0.97,
cameras 0.90. Of falling-0.1, whose pay ends after half of the steps here, too, when bonus-0.1 had been run (0.973,
0.965, 0.850) and falling-0.1 had 0.907 on fifty tasks with its first seed (as it is 0.903): mt6 0.985, new tasks 0.98,
cameras 0.90.
"""

from study.router.table import WAYS

NAMES = ("softmax", "top2-bonus", "bonus-0.1", "falling-0.1")
PLAY = "--episodes 50 --seed 400 --out study/router/default"


def flags(name: str, steps: int) -> str:
    """Of train.py, for so many steps."""
    return WAYS[name][1].replace("3000", str(steps // 2))


def trained(name: str, tasks: str) -> tuple[str, ...]:
    """Train as the README does, play. Today's mt6 comes with the code."""
    run, result = f"runs/router/default/{name}-{tasks.replace(',', '-')}", f"{name}-{tasks.replace(',', '-')}.json"
    how = flags(name, 12_000 if tasks == "mt6" else 4_000)  # train.py's own
    shipped = (name, tasks) == ("softmax", "mt6")
    train = f"python train.py --tasks {tasks} --components 4 --eval-episodes 0 {how} --out {run} --overwrite"
    return (
        f"study/router/default/{result}",
        *[train.replace("  ", " ")] * (not shipped),
        f"python evaluate.py --run {'study/core/mt6' if shipped else run} {PLAY}/{result}",
    )


def adapted(name: str) -> tuple[str, str]:
    run = "study/core/mt6" if name == "softmax" else f"runs/router/default/{name}-mt6"
    return (
        f"study/router/default/{name}/add-exact-window-open-s0.json",
        f"python study/adapt/one_task.py --run {run} --new-only --block 400 --out study/router/default/{name} "
        "--ways add-exact",
    )


def from_cameras(name: str) -> tuple[str, ...]:
    run, result = f"runs/router/default/{name}-pixels", f"study/router/default/{name}-pixels.json"
    return (
        result,
        f"python train.py --tasks mt6 --observation pixels --demos-per-task 25 --steps 6000 --eval-episodes 0 "
        f"{flags(name, 6000)} --out {run} --overwrite",
        f"python evaluate.py --run {run} --episodes 20 --seed 400 --out {result}",
    )


TABLE = [
    [("runs/router/default/demonstrations/model.safetensors",
      "python train.py --tasks reach,push,mt6,mt4 --steps 1 --eval-episodes 0 --overwrite "
      "--out runs/router/default/demonstrations"),
     ("runs/router/default/pictures/model.safetensors",
      "python train.py --tasks mt6 --observation pixels --demos-per-task 25 --steps 1 --eval-episodes 0 --overwrite "
      "--out runs/router/default/pictures")],
    [trained(name, tasks) for name in NAMES for tasks in ("reach,push", "mt6")],
    [*map(adapted, NAMES), *(from_cameras(name) for name in NAMES if name != "softmax")],
]  # fmt: skip
