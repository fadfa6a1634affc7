"""What a new task from cameras lacks beside a policy of its own: the adapter's rank, or steps? An hour on 2 cores.

    python study/grid.py study/pixels/adapting.py && python study/report.py

disassemble upon the policy that comes with the code (study/pixels/run), from 5, 10 and 25 demonstrations, one seed, 50
episodes of block 400. Upon an earlier run, on block 16, a component with an adapter of rank 16 had 32, 38 and 37 of 50,
a policy from nothing 33, 30 and 42: with 25 demonstrations it was ten points behind. The convolutions have at most 64
outputs, so that rank 64 leaves them nothing that they cannot become.

Rule, written before it was run: rank 64 becomes the default for policies with cameras if it has at least eight points
more than rank 16 over the three budgets of two draws (300 episodes each); the second draw is run only if the first has
five. Expected: rank 16 0.66, 0.74 and 0.76; rank 64 0.64, 0.76 and 0.82; from nothing 0.64, 0.66 and 0.82; twice the
steps, from 25: rank 16 0.80, rank 64 0.84, from nothing 0.84.
"""

OUT = "study/pixels/adapt/choice"


def row(way: str, demos: int, steps: int = 2000, draw: int = 0) -> tuple[str, str]:
    """Learn, play the new task."""
    budget = "" if (demos, steps) == (25, 2000) else f"-d{demos}-n{steps}"
    name = f"{way}-fdp-disassemble-pixels-v3{budget}{f'-draw{draw}' if draw else ''}-s0"
    return (
        f"{OUT}/{name}.json",
        f"python study/adapt/one_task.py --run study/pixels/run --tasks disassemble --demos {demos} --steps {steps} "
        f"--new-only --block 400 --out {OUT} --ways {way} --draws {draw}",
    )


WAYS = ("rank-16", "rank-64", "scratch")


def reported(task: str, way: str, demos: int) -> tuple[str, str]:
    """The default and a policy from nothing, on block 16, where nothing of this was chosen. (disassemble was learned
    once: the folders of rank-16 and scratch, above, were copied, of which add-exact is the first under another name.)
    Expected, written when block 400 had 44 and 35 of 50 from 5 demonstrations and 46 and 46 from 25, before block 16
    was played: disassemble add-exact 0.74, 0.76, 0.80, from nothing 0.60, 0.70, 0.80; window-open 0.98 everywhere.
    Expected of disassemble from 25, where the first had 39 of 50 and the second 42, and before these were played:
    fine-tuning everything 0.84, a small policy for it alone 0.70."""
    budget = "" if demos == 25 else f"-d{demos}-n2000"
    return (
        f"study/pixels/adapt/shipped/{way}-fdp-{task}-pixels-v3{budget}-s0.json",
        f"python study/adapt/one_task.py --run study/pixels/run --tasks {task} --demos {demos} --new-only --block 16 "
        f"--out study/pixels/adapt/shipped --ways {way}",
    )


TABLE = [
    [("runs/pixels/demonstrations-disassemble/model.safetensors",  # once, before they are asked for side by side
      "python train.py --tasks disassemble --observation pixels --demos-per-task 25 --steps 1 --eval-episodes 0 "
      "--overwrite --out runs/pixels/demonstrations-disassemble"),
     ("runs/pixels/demonstrations-window-open/model.safetensors",
      "python train.py --tasks window-open --observation pixels --demos-per-task 25 --steps 1 --eval-episodes 0 "
      "--overwrite --out runs/pixels/demonstrations-window-open")],
    [row(way, demos) for demos in (25, 5, 10) for way in WAYS] + [row(way, 25, 4000) for way in WAYS],
    [reported(task, way, demos) for task in ("disassemble", "window-open") for demos in (5, 10, 25)
     for way in ("add-exact", "scratch")]
    + [reported("disassemble", way, 25) for way in ("full", "specialist")],
]  # fmt: skip
