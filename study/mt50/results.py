"""One policy for fifty tasks, as sections of study/README.md."""

import json
from pathlib import Path

import numpy as np

from study.intervals import (
    DAGGER,
    Difference,
    by_seed,
    by_task,
    compare,
    compare_seeds,
    count,
    number,
    points,
    rate,
    success,
)
from study.markdown import NotMeasured, evenly, expert, paired, played_on, read, table, text, typed, words
from study.mt50.soccer import PREDICTIONS

# How published averages group the tasks (Seo et al. 2022, arXiv 2206.14244); whatever is in none of these is easy.
DIFFICULTY = {
    "easy": (),
    "medium": ("basketball", "bin-picking", "box-close", "coffee-pull", "coffee-push", "hammer", "peg-insert-side",
               "push-wall", "soccer", "sweep", "sweep-into"),
    "hard": ("assembly", "hand-insert", "pick-out-of-hole", "pick-place", "push", "push-back"),
    "very hard": ("disassemble", "pick-place-wall", "shelf-place", "stick-pull", "stick-push"),
}  # fmt: skip


def groups(played: dict[str, np.ndarray]) -> dict[str, float]:
    """difficulty -> success over its tasks. played: task -> (S, E)."""
    of = {task: difficulty for difficulty, tasks in DIFFICULTY.items() for task in tasks}
    return {name: success({t: x for t, x in played.items() if of.get(t, "easy") == name}) for name in DIFFICULTY}


def fifty(study: Path) -> list[str]:
    fdp = list(read(study, "mt50/fdp-s[0-9].json").values())
    both, other = paired(study, "mt50/fdp-s[0-9].json", "mt50/monolithic-s[0-9].json")
    found = {"fdp": both, "monolithic": other} if other else {"fdp": fdp}  # what is compared is of the same seeds
    seeds = len(found["fdp"])
    played = {policy: by_task(results) for policy, results in found.items()}
    experts = {task: np.array([[r["expert"]["successes"] / r["expert"]["n"]]])
               for task, r in found["fdp"][0]["tasks"].items()}  # fmt: skip
    rows = []
    for policy, x in played.items():
        mine, short = groups(x), [t for t in x if np.nanmean(x[t]) < experts[t].mean() - 0.1]
        training = [r["training"]["seconds"] / 60 for r in found[policy]]
        rows.append([policy, seeds, words(number(r["mean_success"]) for r in found[policy]), rate(x),
                     "" if policy == "fdp" else minus(found[policy], found["fdp"]),
                     evenly(study, f"mt50/{policy}-s[0-9]-even.json"), *map(number, mine.values()),
                     number(float(np.mean(list(mine.values())))), words(short) if short else "none",
                     f"{number(min(training), 0)} ({cpu(found[policy])})"])  # fmt: skip
    mine = groups(experts)
    rows.append(["scripted expert", "", "", number(success(experts)), "", "", *map(number, mine.values()),
                 number(float(np.mean(list(mine.values()))))])  # fmt: skip
    header = ["policy", "seeds", "success, each seed", "over tasks, 95 % interval", "minus fdp, points",
              "weights 1/K: points", *DIFFICULTY, "mean of these (arXiv 2206.14244)", ">10 points below the expert",
              "training minutes, fastest"]  # fmt: skip
    weakest = sorted(played["fdp"], key=lambda task: np.nanmean(played["fdp"][task]))
    perfect = [task for task in weakest if all(np.nanmean(x[task]) == 1 for x in played.values())]
    weak = [[task, *(count({task: x[task]}) for x in played.values()), "/".join(map(str, expert(found["fdp"], [task])))]
            for task in weakest if task not in perfect]  # fmt: skip
    one = found["fdp"][0]["training"]
    return [
        *text(f"Commands: `study/mt50/table.py`. {one['demos_per_task']} demonstrations of each of the 50 tasks, "
              f"{one['steps']:,} steps, K = 4, and one network of the same size"
              + ("." if other else " (not measured yet)."), played_on(found["fdp"])),
        *table(header, rows), *text(scattered(found)), *text(DAGGER), *rivals(study),
        *table(["task, fdp's weakest first", *played, "expert"], weak),
        *text(f"Without a failure, {words(played)}: {words(perfect or ['none'])}."),
        *sooner(study),
        *needs(study),
        *alone(study),
        *text("Published averages have other protocols, and none of these is a comparison: one policy from the state, "
              "random goals, trained on what a reinforcement learner has played, 0.884 over tasks (DaCe-DT, table 2); "
              "cameras and language, 0.9 B parameters, at most 400 steps, 0.920 over tasks (FabriVLA, as listed by "
              "MINT-SJTU/Evo-SOTA.io); Diffusion Policy from cameras and language 0.161 over tasks, 0.105 over the "
              "four groups (as the SmolVLA paper, arXiv 2506.01844, reports it)."),
    ]  # fmt: skip


def scattered(found: dict[str, list[dict]]) -> str:
    """What three seeds alone say about one network minus fdp."""
    if len(found) < 2 or not (t := by_seed(found["monolithic"], found["fdp"])):
        return ""
    each = words(str(points(compare([a], [b]).mean)) for a, b in zip(found["monolithic"], found["fdp"], strict=True))
    return f"By Student's t over the seeds' differences alone ({each}) the interval is {t} points: {t.verdict}."


def rivals(study: Path) -> list[str]:
    """What regression, and weights of 1/K from the start, come to with all of these demonstrations and steps."""
    said = []
    for policy, title, other, beside in (
        ("bc-unet", "One network trained by regression", "monolithic", "one network that denoises"),
        ("uniform", "Weights that are 1/K from the start", "fdp", "fdp"),
    ):
        mine, its = paired(study, f"mt50/{policy}-s[0-9].json", f"mt50/{other}-s[0-9].json")
        if mine:
            seeds = f"{len(mine)} seed{'s' * (len(mine) > 1)}"
            said.append(f"{title}, the same data and steps, {seeds}: {rate(by_task(mine))}, {minus(mine, its)} points "
                        f"beside {beside}.")  # fmt: skip
    return text(*said) if said else []


def minus(one: list[dict], other: list[dict]) -> Difference:
    """In points; with several training seeds these are drawn anew, too."""
    return (compare_seeds if len(one) > 1 else compare)(one, other)


def cpu(results: list[dict]) -> str:
    """On what they were trained: minutes of two machines cannot be compared."""
    return words(sorted({r["training"]["hardware"].partition(",")[0] for r in results}))


def below(result: dict) -> list[str]:
    """Tasks more than 10 points below the expert."""
    return [task for task, r in result["tasks"].items() if r["n"] and r["expert"]["n"]
            and r["expert"]["successes"] / r["expert"]["n"] - r["successes"] / r["n"] > 0.1 + 1e-9]  # fmt: skip


def sooner(study: Path) -> list[str]:
    """The same weights, looking again after fewer actions. Nothing where that was not played."""
    try:
        two, four = (read(study, f"mt50/executed-{n}.json")[f"executed-{n}"] for n in (2, 4))
    except NotMeasured:
        return []
    (successes, n), change = expert([two]), compare([two], [four])
    return text(
        "The same fdp weights, executing two actions per chunk instead of four (`evaluate.py --executed 2`; why: "
        f"LOG.md): {rate(by_task([two]))}, with four {rate(by_task([four]))}: {change} points. "
        f"The expert has {number(successes / n)}. More than 10 points below it: "
        f"{words(below(two) or ['none'])}; after four: {words(below(four) or ['none'])}.", played_on([two, four])
    )  # fmt: skip


def needs(study: Path) -> list[str]:
    """Seconds and memory. Nothing where that was not measured."""
    if not (path := study / "mt50/memory.json").exists():
        return []
    r = json.loads(path.read_text())
    whole = {"collecting": f"{r['demos']} demonstrations of each", "training": f"{r['steps']:,} steps",
             "evaluating": f"{r['episodes']} episodes of each, and as many of the expert"}  # fmt: skip
    rows = [[name, whole[name], *(f"{x:,.0f}" for x in (*row["seconds"], *row["megabytes"]))]
            for name, row in r["rows"].items()]  # fmt: skip
    header = ["fifty tasks", "how much", "seconds, a fifth of it", "then all", "MB, a fifth", "MB, all"]
    return [*text(f"What it takes ({typed(r['command'])}; {r['hardware'].partition(',')[0]}, beside other runs; "
                  "whole commands, all processes together, at the most; collecting goes on from the fifth, the others "
                  f"begin anew). Left behind: {words(r['left'] or ['nothing'])}."), *table(header, rows)]  # fmt: skip


def alone(study: Path) -> list[str]:
    """Soccer learned alone, from more demonstrations and in more steps. Nothing where that was not measured."""
    try:
        found = read(study, "mt50/soccer/*.json")
    except NotMeasured:
        return []
    rows = []
    for (demos, steps), predicted in PREDICTIONS.items():
        mine = [found.get(f"{demos}-{steps}{ending}") for ending in ("", "-executed-2")]
        if all(mine):
            rows.append([demos, f"{steps:,}", words(number(x, 2) for x in predicted),
                         *("/".join(map(str, (r["tasks"]["soccer"]["successes"], r["tasks"]["soccer"]["n"])))
                           for r in mine), "/".join(map(str, expert(mine)))])  # fmt: skip
    header = ["demonstrations", "steps", "predicted, executing 4 and 2", "executing 4", "executing 2", "expert"]
    return [*text("What soccer lacks (`study/mt50/soccer.py`): the same policy trained on soccer alone.",
                  played_on(list(found.values()))), *table(header, rows)]  # fmt: skip


def speed_run(study: Path) -> list[str]:
    """Seconds of training to a success: which checkpoint was the first."""
    rows = []
    for result in read(study, "mt50/curve-*.json").values():
        asked, curve = result["flags"], result["checkpoints"]
        first = [next((f"{c['seconds']:.0f} ({c['step']:,})" for c in curve if c["success"] > goal - 1e-9), "-")
                 for goal in (0.9, 0.95)]  # fmt: skip
        best = max(curve, key=lambda c: c["success"])
        n = sum(n for _, n, _ in best["tasks"].values())
        theirs = sum(e for _, _, e in best["tasks"].values()) / n
        rows.append([asked["tasks"], asked["policy"], *first, f"{number(best['success'])} ({best['seconds']:.0f} s)", n,
                     number(theirs), result["hardware"], typed(result["command"]), result["revision"]])  # fmt: skip
    header = ["tasks", "policy", "seconds (steps) to 0.90", "to 0.95", "best checkpoint", "episodes", "expert",
              "machine", "command", "revision"]  # fmt: skip
    return [
        *text("Seconds of training until a checkpoint first reached a success, with train.py defaults; a dash: never. "
              "Demonstrations and evaluation come on top. Block 400, the one for choices: the first of many that "
              "reached a number is a choice, not an estimate. Seconds of different machines say nothing about "
              "policies; steps do. A forked training loop that is faster is a line more."),
        *table(header, rows),
        *(["![Success over seconds of training](mt50/curves.png)", ""] if (study / "mt50/curves.png").exists() else []),
    ]  # fmt: skip
