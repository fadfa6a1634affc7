"""mt6 from two cameras: the factorized policy and its rivals, what a shift costs, and new tasks. Some ten hours.

    python study/grid.py study/pixels/table.py && python study/report.py

25 demonstrations of each task, of which each of the three seeds draws its own; 50 episodes of each task on block 16.
Equal parameters, encoder, steps. fdp is also played with weights of 1/K, and the last seeds of fdp and one network with
shifts of `evaluate.py --shift` (fdp's first seed had two of them); the policy that comes with the code, of README's
command, with all of them. New tasks from 5, 10 and 25 demonstrations, on the last factorized run: of mt4 the two that
an untrained policy cannot do (study/adapt).

Seeds 0 and 1 of fdp and one network were run twice: with pictures that training moves by up to 4 pixels
(usual-*.json, revision cc69472bd549), and, as is train.py's default now, by up to one. Expected of the second,
written before: fdp 0.90, one network within two points of it.

Expected, written before any of it had been run with four noises: fdp 0.84; one network within three points of it,
either way; uniform within three; the mixture five lower. 1/K costs four. `camera` costs 20 points, `light` 10,
`table` 15, `object` 5; one camera off leaves 0.2. New tasks: add-exact has scratch's success at 25, ten points more
at 5; rank-0, whose eyes know no new thing, 20 less than scratch at 25. Written when 1/K had been found to cost 11 on
the first seed, and no more: its router still tells next to nothing about the task (0.02 nats), and another task's
weights cost 40. Written when camera had been found to cost 1 point and light 62 on the first seed, of the last seeds:
0.96 as they are, both; camera costs 1 to 3, light 55, table 40, object 8, corner-off leaves 0.05, wrist-off 0.25; one
network within ten points of fdp in each. Of the policy that comes with the code the same, before it was trained.

Uniform and the mixture, first seed, left for last; written when fdp had 0.963 and with 1/K 6 to 12 points less:
uniform 0.96 (a router is missed only by who has learned with it), the mixture 0.93.
"""

from envs.pixels import SHIFTS

STEPS = 12_000  # train.py's own for six tasks
POLICIES = {
    "fdp": "",
    "monolithic": "--policy monolithic",
    "uniform": "--policy uniform",
    "moe-top2": "--policy moe --top 2",
}
# Policy, seed, demonstrations -> its shifts. The others are for the policy that comes with the code (`shifted`).
SHIFTED = {("fdp", 2, 25): ("camera", "light", "object"), ("monolithic", 2, 25): ("camera", "object")}
WAYS = "add-exact,rank-0,scratch"  # full and a specialist: adapting.py, upon the policy that comes with the code


def row(policy: str, seed: int, demos: int = 25) -> tuple[str, ...]:
    """Train, play; of the last seeds with some shifts, too."""
    name = f"{policy}-{demos}-s{seed}"
    folder, result = f"runs/pixels/{name}", f"study/pixels/{name}"
    play = f"python evaluate.py --run {folder} --episodes 50 --seed 16"
    return (
        f"{result}.json",
        f"python train.py --tasks mt6 --observation pixels --demos-per-task {demos} --demo-draw {seed} --steps {STEPS} "
        f"--eval-episodes 0 --seed {seed} {POLICIES[policy]} --out {folder} --overwrite".replace("  ", " "),
        *[f"{play} --even --out {result}-even.json"] * (policy == "fdp"),
        *[
            f"{play} --shift {shift} --out study/pixels/shift/{name}-{shift}.json"
            for shift in SHIFTED.get((policy, seed, demos), ())
        ],
        f"{play} --out {result}.json",
    )


def shifted(shift: str) -> tuple[str, str]:
    """The policy that comes with the code, where something looks otherwise; as it is where nothing does."""
    result = f"study/pixels/shift/run{f'-{shift}' * bool(shift)}.json"
    asked = f"--shift {shift} " * bool(shift)
    return result, f"python evaluate.py --run study/pixels/run --episodes 50 --seed 16 {asked}--out {result}"


def adapted(demos: int) -> tuple[str, str]:
    """New tasks from so many demonstrations, upon the last run of fdp, which is not kept; from 25, one of the two."""
    tasks = "disassemble" if demos == 25 else "disassemble,window-open"
    last = f"scratch-fdp-{tasks.split(',')[-1]}-pixels-v3" + f"-d{demos}-n2000" * (demos != 25)
    return (
        f"study/pixels/adapt/{last}-s0.json",
        f"python study/adapt/one_task.py --run runs/pixels/fdp-25-s2 --tasks {tasks} --demos {demos} "
        f"--new-only --block 16 --out study/pixels/adapt --ways {WAYS} --seeds 0",
    )


TABLE = [
    [(f"runs/pixels/demonstrations-{draw}/model.safetensors",  # once, before they are asked for side by side
      f"python train.py --tasks mt6 --observation pixels --demos-per-task {50 if draw == 0 else 25} --demo-draw {draw} "
      f"--steps 1 --eval-episodes 0 --overwrite --out runs/pixels/demonstrations-{draw}") for draw in range(3)],
    [("study/pixels/run/model.safetensors",
      "python train.py --tasks mt6 --observation pixels --demos-per-task 25 --eval-episodes 0 --out study/pixels/run")],
    [shifted(shift) for shift in ("", *SHIFTS)],
    [row(policy, seed) for seed in range(3) for policy in POLICIES],
    [row("fdp", 0, demos=50), *map(adapted, (5, 10, 25)),
     ("study/pixels/router.json",  # usual-router.json is of the first run with pictures that were moved by four
      "python study/router/measure.py --run study/pixels/run --episodes 10 --out study/pixels/router.json")],
]  # fmt: skip
