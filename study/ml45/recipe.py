"""How to learn from one demonstration: what was tried, on the block for choices. An hour on 2 cores.

    python study/grid.py study/ml45/recipe.py

From the first base of study/ml45/table.py, five new tasks, two draws of a demonstration that no table reports (6, 7),
25 episodes of block 400. What was predicted, and what was kept, stands in LOG.md.
"""

from study.ml45.table import NEW, folder

TRIED = [  # (steps, way of study/adapt/one_task.py), in the order in which they were run
    *[(1000, way) for way in ("add-exact", "add-shift", "add-noise", "two", "slow", "fast")],
    *[(1000, "add-return"), (3000, "add-shift")],  # chosen after the six above were known
    *[(1000, "rank-64"), (1000, "small"), (300, "add-exact"), (3000, "add-exact")],
    # Chosen after adapters on the monolithic base had learned more than the first row, with base 0.
    *[(1000, "add-low-rank"), (1000, "low-rank"), (3000, "add-low-rank")],
    # Chosen after study/ml45/nearness.py: what begins far from the demonstration fails.
    *[(1000, "add-elsewhere"), (3000, "add-elsewhere")],
    (1000, "add-tether"),
]


def row(steps: int, way: str) -> tuple[str, str]:
    last = f"{way}-{NEW.split(',')[-1]}-d1-n{steps}-draw7-s0"
    return (
        f"study/ml45/choice/{last}.json",
        f"python study/adapt/one_task.py --run {folder('fdp', 0)} --tasks {NEW} --demos 1 --steps {steps} --new-only "
        f"--block 400 --episodes 25 --out study/ml45/choice --ways {way} --seeds 0 --draws 6,7",
    )


TABLE = [
    [(f"runs/ml45/draw-{draw}/model.safetensors",
      f"python train.py --tasks ml45-test --demos-per-task 1 --demo-draw {draw} --steps 1 --eval-episodes 0 "
      f"--overwrite --out runs/ml45/draw-{draw}") for draw in (6, 7)],
    [row(steps, way) for steps, way in TRIED],
]  # fmt: skip
