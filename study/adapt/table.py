"""Every run behind the README's numbers on adaptation: over three hours on 2 cores.

    python study/grid.py study/adapt/table.py && python study/report.py && python study/plots.py

Checkpoints go to runs/adapt/ and runs/sequence/, results to study/adapt/.
"""

ORDER = "door-close,drawer-close,disassemble,window-open"
HALVES = ("door-close,disassemble", "drawer-close,window-open")
FOUR = {**{retain: f"--retain {retain}" for retain in ("exact", "replay", "paper")}, "full": "--mode full"}

DEMONSTRATIONS = (  # once, before they are asked for side by side: 50 of each task, of which fewer are the first
    "runs/adapt-demonstrations/model.safetensors",
    "python train.py --tasks mt6,mt4 --steps 1 --eval-episodes 0 --overwrite --out runs/adapt-demonstrations",
)


def four_tasks(name: str, how: str, flags: str) -> tuple[str, str, str]:
    """Four tasks, in turn or at once. Evaluated on block 5: episodes on which nothing was ever chosen."""
    folder = f"runs/sequence/{name.removeprefix('sequence-')}"
    return (
        f"study/adapt/{name}.json",
        f"python adapt.py --run study/core/mt6 {how} {ORDER} --eval-seed 5 --out {folder} {flags} --seed 0",
        f"cp {folder}/adaptation.json study/adapt/{name}.json",
    )


def one_task(half: str, flags: str, last: str) -> tuple[str, str]:
    """one_task.py makes many results and leaves out those that are there; `last` is the one that it makes last, of the
    last task."""
    return (
        f"study/adapt/{last.format(half.split(',')[-1])}.json",
        f"python study/adapt/one_task.py --tasks {half} {flags}",
    )


def budget(half: str, ways: str, flags: str, amount: str) -> tuple[str, str]:
    """Less data, fewer steps: success on the new task."""
    last = f"budget/{ways.split(',')[-1]}-{{}}-{amount}-s0"
    return one_task(half, f"--new-only --out study/adapt/budget --ways {ways} {flags}", last)


TABLE = [
    [DEMONSTRATIONS],
    # 1. One new task at a time: success on it, and on the six old ones.
    [one_task(half, "--seeds 0", "start-0-{}-s0") for half in HALVES],
    [
        *[one_task(half, "--ways add-exact,full --seeds 1,2", "full-{}-s2") for half in HALVES],
        # 2. Four tasks in turn. 3. The same four, learned together.
        *[four_tasks(f"sequence-{name}-s0", "--sequence", flags) for name, flags in FOUR.items()],
        *[four_tasks(f"together-{name}-s0", "--tasks", flags) for name, flags in FOUR.items()],
        # 4. Fewer demonstrations, fewer steps.
        *[budget(half, "add-exact,scratch,full", f"--demos {demos}", f"d{demos}-n2000")
          for half in HALVES for demos in (5, 10, 50)],
        *[budget(half, "add-exact,scratch,full,add-encoder", f"--steps {steps}", f"d25-n{steps}")
          for half in HALVES for steps in (250, 500, 1000)],
        *[budget(half, "start-0,start-random", "--steps 250", "d25-n250") for half in HALVES],
        # 5. Why --retain paper forgets: of the runs of 1.
        ("study/adapt/why-paper.json", "python study/adapt/why_paper.py"),
    ],
]  # fmt: skip
