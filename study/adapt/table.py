"""Every run behind the README's numbers on adaptation: some three hours on 2 cores.

    python study/grid.py study/adapt/table.py && python study/report.py && python study/plots.py

Checkpoints go to runs/adapt/ and runs/sequence/, results to study/adapt/.
"""

ORDER = "door-close,drawer-close,disassemble,window-open"
HALVES = ("door-close,disassemble", "drawer-close,window-open")
FOUR = {**{retain: f"--retain {retain}" for retain in ("exact", "replay", "paper")}, "full": "--mode full"}
EVERY = "add-exact,full,specialist"  # ways at every budget
SHORT = f"small,rank-0,scratch,{EVERY}"  # at the least data, and the fewest steps

DEMONSTRATIONS = (  # once, before they are asked for side by side: 50 of each task, of which fewer are the first
    "runs/adapt-demonstrations/model.safetensors",
    "python train.py --tasks mt6,mt4 --steps 1 --eval-episodes 0 --overwrite --out runs/adapt-demonstrations",
)


def four_tasks(name: str, how: str, seed: int) -> tuple[str, str, str]:
    """Four tasks, in turn or at once, evaluated on block 8: episodes on which nothing was ever chosen."""
    folder, flags = f"runs/sequence/{how[2:]}-{name}-s{seed}", FOUR[name]
    result = f"study/adapt/{'sequence' if how == '--sequence' else 'together'}-{name}-s{seed}.json"
    return (
        result,
        f"python adapt.py --run study/core/mt6 {how} {ORDER} --eval-seed 8 --out {folder} {flags} --seed {seed}",
        f"cp {folder}/adaptation.json {result}",
    )


def one_task(half: str, flags: str, last: str) -> tuple[str, str]:
    """one_task.py makes many results and leaves out those that are there; `last` is the one that it makes last, of the
    last task."""
    return (
        f"study/adapt/{last.format(half.split(',')[-1])}.json",
        f"python study/adapt/one_task.py --tasks {half} {flags}",
    )


def budget(half: str, flags: str, amount: str, least: bool = False) -> list[tuple[str, str]]:
    """Less data, or fewer steps: success on the new task. Where it is least, more ways, and three seeds of those two
    that are compared."""
    flags = f"--new-only --out study/adapt/budget {flags}"
    rows = [one_task(half, f"{flags} --ways {SHORT if least else EVERY}", f"budget/specialist-{{}}-{amount}-s0")]
    more = one_task(half, f"{flags} --ways add-exact,full --seeds 1,2", f"budget/full-{{}}-{amount}-s2")
    return [*rows, more] if least else rows


TABLE = [
    [DEMONSTRATIONS],
    [
        # 0. The choice of a rank, on episodes for choices, at the one precise task and another: few steps, little data.
        *[one_task("disassemble,window-open",
                   f"--new-only --block 400 --out study/adapt/choice --ways rank-0,rank-4,rank-16,rank-64,small,full "
                   f"--seeds 0,1 {flags}", f"choice/full-{{}}-{amount}-s1")
          for flags, amount in (("--steps 250", "d25-n250"), ("--demos 1", "d1-n2000"))],
        # 1. One new task at a time: success on it, and on the six old ones.
        *[one_task(half, f"--ways {SHORT},router,add-replay,add-paper,add-encoder,start-random,components --seeds 0",
                   "components-{}-s0") for half in HALVES],
        *[one_task(half, "--ways add-exact,full --seeds 1,2", "full-{}-s2") for half in HALVES],
        *[one_task(half, "--ways five-steps --seeds 0,1,2", "five-steps-{}-s2") for half in HALVES],
        # 2. Four tasks in turn. 3. The same four, learned together.
        *[four_tasks(name, how, 0) for how in ("--sequence", "--tasks") for name in FOUR],
        # 4. Fewer steps, fewer demonstrations.
        *[row for steps in (250, 500, 1000) for half in HALVES
          for row in budget(half, f"--steps {steps}", f"d25-n{steps}", least=steps == 250)],
        *[row for demos in (1, 3, 10, 5) for half in HALVES
          for row in budget(half, f"--demos {demos}", f"d{demos}-n2000", least=demos == 1)],
        *[four_tasks(name, "--sequence", seed) for seed in (1, 2) for name in ("exact", "full")],
    ],
    [("study/adapt/why-paper.json", "python study/adapt/why_paper.py")],  # 5. Of the runs of 1.
    [("study/adapt/acting.json", "python study/adapt/acting.py")],  # 6. Alone, because it takes the time.
]  # fmt: skip
