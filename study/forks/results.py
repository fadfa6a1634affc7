"""What the forks in variants/ do, as a section of study/README.md."""

from pathlib import Path

import numpy as np

from plumbing.cli import ROOT
from study.intervals import DAGGER, by_task, compare, rate
from study.markdown import NotMeasured, expert_cell, played_on, read, span, table, text

FORKS = {  # result files -> what was trained, and the file that it is in
    "mt6-fdp": ("fdp", "fdp.py"),
    "mt6-uniform": ("weights fixed at 1/K", "variants/uniform.py"),
    "mt6-flow": ("flow matching, Euler in 5 steps", "variants/flow.py"),
    "mt6-moe-top1": ("mixture of experts, top 1", "variants/moe.py"),
    "mt6-moe-top1-unbalanced": ("the same without balancing", "variants/moe.py"),
    "mt6-moe-top2": ("top 2", "variants/moe.py"),
    "mt6-moe-top2-multinomial": ("top 2, drawn in training", "variants/moe.py"),
    "mt6-stepwise": ("a router that sees the diffusion step, too", "variants/stepwise.py"),
    "mt6-proprioception": ("sees its own hand only", "variants/proprioception.py"),
    "reach-push-flow": ("flow matching, on reach and push", "variants/flow.py"),
}


def forks(study: Path) -> dict[str, dict]:
    """Name -> evaluation, of the policies in variants/. NotMeasured unless all are there."""
    found = {name: result for name, result in read(study, "forks/*.json").items()}
    for name in FORKS:
        if name not in found:
            raise NotMeasured(f"`study/forks/{name}.json`")
    return found


def fork_table(study: Path) -> list[str]:
    found, rows = forks(study), []
    for name, (what, file) in FORKS.items():
        result = found[name]
        lines = len((ROOT / file).read_text().splitlines())
        change = "" if name == "mt6-fdp" or not name.startswith("mt6") else compare([result], [found["mt6-fdp"]])
        usage = np.array([row["router_weights"]["mean"] for row in result["tasks"].values()])  # (tasks, K)
        weights = f"{span(usage.ravel())}" if usage.shape[1] > 1 else ""
        rows.append([what, f"`{file}`", lines, rate(by_task([result])), change, weights, expert_cell([result])])
    header = ["policy", "file", "its lines", "success, 95 % interval", "minus fdp, points", "a task's mean weights",
              "expert"]  # fmt: skip
    return [
        *text("Command: `study/forks/table.py`. 50 demonstrations and 2000 steps per task, K = 4, one training seed.",
              played_on([found["mt6-fdp"]]), "fdp is the shipped run, study/core/mt6."),
        *table(header, rows), *text(DAGGER),
        *text("Differences are paired by episode. One seed each: they say what the forks do, not which is better."),
    ]  # fmt: skip
