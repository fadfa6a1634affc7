"""Learning in turn, beginning with nothing: Continual World's ten tasks, and all fifty. Some twelve hours on 2 cores.

    python study/grid.py study/sequences/table.py && python study/report.py && python study/plots.py

50 demonstrations of each task, 100 episodes (of the fifty: 50) of each, on block 10 (what was decided after looking at
it: docs/measuring.md). What old tasks do to the same bits is checked, and then not played again.
"""

WAYS = {
    "exact": "",  # a stage leans on all before it
    "base": "--lean-on base",  # on the first policy alone: as dear for the last task as for the first
    "wide": "--lean-on base --encoder-rank 64",  # what one task has taught to see is not enough for the next ones
    "long": "--lean-on base --encoder-rank 64",  # the same, in as many steps as for one of ten
    "replay": "--retain replay",
    "full": "--mode full",
}


# Whose last policy is also played executing two actions per chunk; the first seed's weights had not been kept.
SOONER = [("mt50", "long", 0), ("cw10", "exact", 1), ("cw10", "exact", 2)]
LAST = {"cw10": "10-peg-unplug-side", "mt50": "50-window-open"}  # the stage whose evaluation is of all tasks
HALVED = {("mt50", "wide"): 1000}  # of adapt.py's own 2000, so that fifty stages fit two hours; "long" fits too


def sequence(group: str, way: str, seed: int, episodes: int) -> tuple[str, ...]:
    """All tasks of a group in turn, in its order."""
    folder = f"runs/sequences/{group}-{way}-s{seed}"
    result = f"study/sequences/{group}-{way}-s{seed}.json"
    return (
        result,
        f"python adapt.py --sequence {group} {WAYS[way]} --demos-per-task 50 "
        f"--steps {HALVED.get((group, way), 2000)} "
        f"--eval-episodes {episodes} --eval-seed 10 --seed {seed} --out {folder}",
        f"cp {folder}/{LAST[group]}/evaluation.json {result.replace('.json', '-evaluation.json')}",
        *[f"python evaluate.py --run {folder}/{LAST[group]} --executed 2 --episodes {episodes} --seed 10 "
          f"--out {result.replace('.json', '-executed-2.json')}"] * ((group, way, seed) in SOONER),
        f"cp {folder}/adaptation.json {result}",
    )  # fmt: skip


TABLE = [
    [  # Demonstrations, once, before they are asked for side by side.
        (f"runs/sequences/demonstrations-{group}/model.safetensors",
         f"python train.py --tasks {group} --demos-per-task 50 --steps 1 --eval-episodes 0 --overwrite "
         f"--out runs/sequences/demonstrations-{group}") for group in ("cw10",)
    ],
    [
        *[sequence("cw10", way, 0, 100) for way in WAYS if way != "long"],
        *[sequence("cw10", way, seed, 100) for seed in (1, 2) for way in ("exact", "base", "replay")],
        sequence("mt50", "wide", 0, 50),
        sequence("mt50", "long", 0, 50),
    ],
]  # fmt: skip
