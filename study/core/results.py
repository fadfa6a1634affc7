"""Policies trained from demonstrations, as sections of study/README.md."""

import re
from pathlib import Path

import numpy as np

from study.intervals import DAGGER, Difference, by_task, compare, compare_seeds, count, number, points, rate, success
from study.markdown import (
    SAMPLERS,
    NotMeasured,
    bullets,
    expert,
    expert_cell,
    played_on,
    read,
    span,
    table,
    text,
    typed,
    words,
)

CORE = {  # the names of result files without their seed; files that are not named here follow as they are
    "reach-push-velocity": "reach, push, all defaults",
    "reach-push-noise": "reach, push, the paper's target",
    "mt6-fdp-50": "mt6, fdp",
    "mt6-monolithic-50": "mt6, monolithic: one network of the same size",
    "mt6-fdp-25": "mt6, fdp",
    "mt6-monolithic-25": "mt6, monolithic",
    "mt6-noise-50": "mt6, fdp, the paper's target",
    "mt6-blind-50": "mt6, fdp, without the task's name",
    "mt10-fdp-50": "mt10, fdp",
    "overfit-hammer": "hammer alone, fdp: overfit check",
}
MT6 = ("mt6-fdp-50", "mt6-monolithic-50", "mt6-fdp-25", "mt6-monolithic-25")


def core_groups(study: Path, *needed: str) -> dict[str, list[dict]]:
    """The core study's results, by name, one for each seed. NotMeasured if one of `needed` is not among them."""
    found: dict[str, list[dict]] = {}
    for stem, result in read(study, "core/*-s[0-9]*.json").items():
        found.setdefault(stem.rsplit("-s", 1)[0], []).append(result)
    for name in needed:
        if name not in found:
            raise NotMeasured(f"`study/core/{name}-s*.json`")
    return found


def core(study: Path) -> list[str]:
    found = core_groups(study, *CORE)
    rows = []
    for name in [*CORE, *(name for name in found if name not in CORE)]:
        results = found[name]
        command = results[0]["training"]["command"].removeprefix("python train.py ")
        flags = re.sub(r" --(seed|eval-episodes|device|out) \S+| --overwrite", "", command)
        each = ", ".join(number(r["mean_success"]) for r in results)
        rows.append([CORE.get(name, name), results[0]["training"]["demos_per_task"], len(results), each,
                     rate(by_task(results)), expert_cell(results), f"`{flags}`"])  # fmt: skip
    header = ["run", "demonstrations per task", "seeds", "success, each seed", "all seeds, 95 % interval",
              "expert, same episodes", "`train.py`"]  # fmt: skip
    one = found["mt6-fdp-50"][0]
    return [
        *text("Commands: `study/core/table.py`. A run is `python train.py` with the flags in the last column and "
              "`--seed S`, then `python evaluate.py`.", played_on([r for group in found.values() for r in group]),
              f"Actions are sampled with {SAMPLERS[one['sampler']]} in {one['sampling_steps']} steps. mt6 are the "
              "paper's six tasks. mt10 is MetaWorld's group of ten."),
        *table(header, rows),
        *text(DAGGER),
        *core_notes(found),
    ]  # fmt: skip


def core_notes(found: dict[str, list[dict]]) -> list[str]:
    """What else the core table says: the target, the task's name, the router, mt10."""
    notes = []
    for name, base, what in (
        ("reach-push-noise", "reach-push-velocity", "On reach and push, the paper's noise target"),
        ("mt6-noise-50", "mt6-fdp-50", "On mt6, the noise target"),
        ("mt6-blind-50", "mt6-fdp-50", "On mt6, leaving out the task's name, as the paper does,"),
    ):
        change, seeds = compare(found[name], found[base]), (len(found[name]), len(found[base]))
        notes.append(f"{what} changes success by {change} points ({words(seeds)} seeds): {change.verdict}.")
    means = np.array([[e["router_weights"]["mean"] for e in r["tasks"].values()] for r in found["mt6-fdp-50"]])
    alone = sorted(found["overfit-hammer"][0]["tasks"]["hammer"]["router_weights"]["mean"])
    apart = np.ptp(means.reshape(len(found["mt6-fdp-50"]), -1, means.shape[-1]), axis=1)  # (S, K), over tasks
    notes.append(f"The router hardly specialises. On mt6 one component's mean weight differs by {span(apart.ravel())} "
                 f"between tasks; over components, tasks and seeds mean weights are {span(means.ravel())}, where "
                 f"{number(1 / means.shape[-1], 2)} is indifference. In the overfit check they are "
                 f"{words(number(w, 2) for w in alone)}.")  # fmt: skip
    worst = sorted(found["mt10-fdp-50"][0]["tasks"].items(),
                   key=lambda item: item[1]["successes"] - item[1]["expert"]["successes"])[:2]  # fmt: skip
    notes.append("mt10 loses most on " + words(f"{task} ({e['successes']} of {e['n']}, the expert "
                 f"{e['expert']['successes']})" for task, e in worst) + ".")  # fmt: skip
    return bullets(*notes)


def mt6_difference(found: dict[str, list[dict]], demos: int, how=compare) -> Difference:
    """fdp minus monolithic on mt6. how: `compare`, or `compare_seeds`, which draws the training seeds anew, too."""
    return how(found[f"mt6-fdp-{demos}"], found[f"mt6-monolithic-{demos}"])


def mt6(study: Path) -> list[str]:
    found = core_groups(study, *MT6)
    played = {name: by_task(found[name]) for name in MT6}
    rows = []
    for task in played[MT6[0]]:
        of_expert = "/".join(map(str, expert(found[MT6[0]], [task])))
        rows.append([task, *(rate({task: p[task]}) for p in played.values()), of_expert])
    rows.append(["all", *map(rate, played.values()), "/".join(map(str, expert(found[MT6[0]])))])
    changes = []
    for demos in (50, 25):
        pairs = zip(found[f"mt6-fdp-{demos}"], found[f"mt6-monolithic-{demos}"], strict=True)
        each = [points(100 * (success(by_task([a])) - success(by_task([b])))) for a, b in pairs]
        change, wide = (mt6_difference(found, demos, how) for how in (compare, compare_seeds))
        changes.append([f"{demos} demonstrations per task", len(each), ", ".join(each), change, wide, wide.verdict])
    header = ["task", *(", ".join(name.split("-")[1:]) for name in MT6), "expert"]
    return [
        *text("The mt6 runs of the table above, task by task, with 50 and with 25 demonstrations per task.",
              played_on([r for name in MT6 for r in found[name]])),
        *table(header, rows),
        *text(DAGGER),
        "![mt6: success per task with 95 % intervals, and the scripted expert's](core/mt6.png)", "",
        *text("fdp minus monolithic, in points, paired by episode:"),
        *table(["mt6", "seeds", "each seed", "all seeds, 95 % interval over episodes", "over episodes and seeds", ""],
               changes),
        *mt6_notes(found, played),
    ]  # fmt: skip


def mt6_notes(found: dict[str, list[dict]], played: dict[str, dict[str, np.ndarray]]) -> list[str]:
    """What the mt6 tables say, and what not."""
    notes = []
    if all("includes" in mt6_difference(found, demos, compare_seeds).verdict for demos in (50, 25)):
        notes.append("At this size, with state observations, neither of the two has been shown to be better. More "
                     "tasks, adaptation and pixels are other questions.")  # fmt: skip
    for demos in (50, 25):
        mine, other = (played[f"mt6-{policy}-{demos}"] for policy in ("fdp", "monolithic"))
        failed = [task for task in mine if min(np.nanmin(mine[task]), np.nanmin(other[task])) == 0]
        told = [f"{task} (fdp {count({task: mine[task]})}, monolithic {count({task: other[task]})})" for task in failed]
        notes.append(f"With {demos} demonstrations, one or both fail at times on {words(told or ['none'])}. The other "
                     f"{len(mine) - len(failed)} tasks are without a failure.")  # fmt: skip
    for task, entry in found[MT6[0]][0]["tasks"].items():
        if (reference := entry["expert"]["success"]) < 1:
            means = [(*name.split("-")[1:], float(np.nanmean(p[task]))) for name, p in played.items()]
            above, not_above = ([f"{policy} with {demos} demonstrations ({number(x)})" for policy, demos, x in means
                                 if (x > reference) == wanted] for wanted in (True, False))  # fmt: skip
            notes.append(
                f"On {task} the expert itself has {number(reference)}; policies learn from its successes. "
                f"Above it: {words(above or ['none'])}. Not above: {words(not_above or ['none'])}."
            )
    return bullets(*notes)


def looking(study: Path) -> list[str]:
    """How many actions are carried out before the policy looks again."""
    found = read(study, "core/executed/*.json")
    rows, names = [], sorted({stem.rsplit("-", 1)[0] for stem in found})
    for name in names:
        mine = {r["executed"]: r for stem, r in found.items() if stem.rsplit("-", 1)[0] == name}
        for n in sorted(mine):
            r = mine[n]
            change = compare([r], [mine[4]]) if n != 4 and 4 in mine else ""
            rows.append([name, n, rate(by_task([r])), change, expert_cell([r])])
    fifty = {r["executed"]: r["mean_success"] for stem, r in found.items() if stem.startswith("mt50-")}
    within = [n for n, success in fifty.items() if success >= max(fifty.values()) - 0.01 - 1e-9]
    verdict = (f"By the rule of that file, the largest number within one point of the best on the 50 tasks, it is "
               f"{max(within)}." if 8 in fifty else "The rule of that file needs eight actions on fifty tasks, "
               "too.")  # fmt: skip
    header = ["tasks", "actions executed per chunk", "success, 95 % interval", "minus four, points",
              "expert, same episodes"]  # fmt: skip
    return [
        *text("Commands: `study/core/executed.py`. The policies that come with the code, trained once: `evaluate.py "
              "--executed` decides it at run time. A chunk has eight actions, of which train.py's default carries out "
              "four.", played_on(list(found.values())), "Block 400 is for choices.", verdict),
        *table(header, rows), *text(DAGGER),
    ]  # fmt: skip


def commands(study: Path) -> list[str]:
    found = list(read(study, "core/*-command.json").values())
    parts = ("demonstrations", "training", "evaluation", "whole process")
    rows = [[typed(r["command"]), *(f"{r['seconds_of_command'][part]:.0f}" for part in parts), rate(by_task([r])),
             expert_cell([r])] for r in found]  # fmt: skip
    return [*text("Seconds, on an otherwise idle machine. One training seed.", played_on(found)),
            *table(["command", *parts, "success, 95 % interval", "expert"], rows), *text(DAGGER)]  # fmt: skip
