"""Every fork in variants/ beside fdp, one seed each: about 45 minutes on 2 cores.

    python study/grid.py study/forks/table.py && python study/report.py

Evaluated with --seed 7, episodes on which nothing was chosen. Checkpoints go to runs/forks/.
"""

DEMONSTRATIONS = (  # once, before they are asked for side by side
    "runs/forks/demonstrations/model.safetensors",
    "python train.py --tasks mt6,reach,push --steps 1 --eval-episodes 0 --overwrite --out runs/forks/demonstrations",
)


def evaluation(name: str, run: str) -> str:
    return f"python evaluate.py --run {run} --episodes 50 --seed 7 --out study/forks/{name}.json"


def row(name: str, flags: str) -> tuple[str, str, str]:
    """Train, then evaluate."""
    return (
        f"study/forks/{name}.json",
        f"python train.py {flags} --eval-episodes 0 --device cpu --overwrite --out runs/forks/{name}",
        evaluation(name, f"runs/forks/{name}"),
    )


TABLE = [
    [DEMONSTRATIONS],
    [
        ("study/forks/mt6-fdp.json", evaluation("mt6-fdp", "study/core/mt6")),  # the shipped run, by the usual command
        row("reach-push-flow", "--tasks reach,push --policy flow"),
        row("mt6-uniform", "--tasks mt6 --policy uniform"),
        row("mt6-flow", "--tasks mt6 --policy flow"),
        row("mt6-moe-top1", "--tasks mt6 --policy moe --top 1"),
        row("mt6-moe-top2", "--tasks mt6 --policy moe --top 2"),
        row("mt6-moe-top2-multinomial", "--tasks mt6 --policy moe --top 2 --selection multinomial"),
        row("mt6-moe-top1-unbalanced", "--tasks mt6 --policy moe --top 1 --balance 0"),
        row("mt6-stepwise", "--tasks mt6 --policy stepwise"),
        row("mt6-proprioception", "--tasks mt6 --policy proprioception"),
    ],
]
