"""Learning in turn from nothing, as a section of study/README.md."""

import json
from pathlib import Path

import numpy as np

from study.intervals import DAGGER, by_task, compare, compare_seeds, count, difference, number, rate, stack, success
from study.markdown import NotMeasured, expert, flag, paired, played_on, read, table, text, words
from study.sequences.apart import OTHERS

TAKES = {"seconds": "training", "before_learning_seconds": "looking before it", "evaluation_seconds": "evaluation"}
LIMIT = 200  # steps, in published tables of these sequences
IN_TURN = {  # way of study/sequences/table.py -> what it is
    "exact": "exact, a stage uses all before it",
    "base": "exact, `--lean-on base`",
    "wide": "exact, `--lean-on base --encoder-rank 64`",
    "long": "exact, `--lean-on base --encoder-rank 64`, 2000 steps",
    "replay": "replay",
    "weights": "older replay: router weights held, not predictions",  # LOG.md, 2026-11-30
    "full": "full fine-tuning",
}
GROUPS = {"cw10": "Continual World's ten", "mt50": "all fifty"}


def in_turn(study: Path, group: str) -> dict[str, tuple[list[dict], list[dict]]]:
    """way -> (what adapt.py wrote, its last evaluation of all tasks), one of each for every seed. Empty if there is
    none: the groups are measured one after the other."""
    found: dict[str, tuple[list[dict], list[dict]]] = {}
    for path in sorted(study.glob(f"sequences/{group}-*-s[0-9].json")):
        last = path.with_name(f"{path.stem}-evaluation.json")
        mine = found.setdefault(path.stem.split("-")[1], ([], []))
        for kept, file in zip(mine, (path, last), strict=True):
            kept.append(json.loads(file.read_text()))
    return {way: found[way] for way in IN_TURN if way in found}


def within(evaluations: list[dict], limit: int = LIMIT) -> float:
    """Mean success over tasks and seeds if an episode had this many steps."""
    return float(np.mean([sum(steps <= limit for steps in entry["steps_to_success"]) / entry["n"]
                          for result in evaluations for entry in result["tasks"].values()]))  # fmt: skip


def from_nothing(study: Path) -> list[str]:
    found = {group: in_turn(study, group) for group in GROUPS}
    if not any(found.values()):
        raise NotMeasured("`study/sequences/*.json`")
    lines = text(
        "Commands: `study/sequences/table.py`. The first task trains a fresh policy. 50 demonstrations and 2000 steps "
        "for each task, unless a row says otherwise. Average success is over all tasks after the last stage, from the "
        f"episodes of the last evaluation; beside it the same with a limit of {LIMIT} steps instead of 500. Tasks "
        "whose actions a stage did not change by a bit are not played again. Forward transfer is from 10 episodes of "
        "each task (files from before 2026-11-28: 20, or all). Milliseconds were taken beside other work, and scatter "
        "by it."
    )
    for group, mine in found.items():
        rows = []
        for way, (results, last) in mine.items():
            N, stages = len(last[0]["tasks"]), results[0]["stages"]
            each = [", ".join(number(r[key]) for r in results)
                    for key in ("forgetting", "backward_transfer", "forward_transfer")]  # fmt: skip
            usual = ", ".join(number(-r["backward_transfer"] * (N - 1) / N) for r in results)
            cost = [(f"{stages[1][key]:,.0f}", f"{stages[-1][key]:,.0f}")
                    for key in ("trained_parameters", "bytes_added", "seconds")]  # fmt: skip
            chunk = [f"{stages[i]['latency_ms']:.1f}" for i in (0, -1)]
            told = [number(within(last)), each[0], usual, *each[1:]]
            told += [" to ".join(dict.fromkeys(ends)) for ends in (*cost, chunk)]
            rows.append([called(way, results[0]), len(results), rate(by_task(last)).share, *told])
        if rows:
            last = next(iter(mine.values()))[1]
            successes, n = expert(last)
            rows.append(["scripted expert", "", number(successes / n)])
            header = [f"{GROUPS[group]}, in turn", "seeds", "average success, 95 % interval", f"within {LIMIT} steps",
                      "forgetting", "forgetting (Continual World)", "backward transfer", "forward transfer", "trained "
                      "parameters, second to last stage", "bytes added", "seconds", "ms for a chunk, first to last "
                      "task"]  # fmt: skip
            lines += [*text(played_on(last)), *table(header, rows)]
            if "long" in mine:
                lines += text(hours(mine["long"][0][0]["stages"]))
            lines += sooner(study, group)
            lines += lacking(study) if "replay" in mine else []
            if (study / f"sequences/{group}.png").exists():
                lines += [f"![{GROUPS[group]}: success of every task after every stage](sequences/{group}.png)", ""]
    return [*lines, *text(DAGGER), *learned_apart(study), *text(
        "Continual World (arXiv 2105.10919) counts forgetting from right after a task was learned, over all tasks, the "
        "last one too. Its forward transfer compares curves of learning; ours (Lopez-Paz & Ranzato, 2017) the success "
        "before a task is learned. Published for a diffusion policy that sees the same 39 numbers, on the ten tasks, "
        f"with 2,500 demonstrations of each, 100 rollouts and {LIMIT} steps (arXiv 2602.02417): fine-tuning 0.179 "
        "(forgetting 0.730), generative replay 0.853 (0.082), Trust Region 0.883 (0.044). Other demonstrations, "
        "another network, and of one size, where ours grows by a stage for each task and is told which task it is: "
        "beside ours, not a comparison.",
    )]  # fmt: skip


def called(way: str, result: dict) -> str:
    """A way, and its steps where they are not 2000."""
    steps = flag(result.get("command", ""), "--steps", 2000)
    return IN_TURN[way] + f", {steps} steps" * (steps != 2000)


def hours(stages: list[dict]) -> str:
    """How long a whole sequence took."""
    parts = [sum(stage.get(key) or 0 for stage in stages) / 60 for key in TAKES]
    told = words(f"{what} {number(minutes, 0)}" for what, minutes in zip(TAKES.values(), parts, strict=True))
    return f"The whole sequence of 2000 steps each took {number(sum(parts), 0)} minutes beside another run ({told})."


def sooner(study: Path, group: str) -> list[str]:
    """Last policies of a sequence, executing two actions per chunk. Nothing where that was not played."""
    said = []
    for way in IN_TURN:
        files = f"sequences/{group}-{way}-s[0-9]"
        two, four = paired(study, f"{files}-executed-2.json", f"{files}-evaluation.json")
        if two:
            change = (compare_seeds if len(two) > 1 else compare)(two, four)
            seeds = f"{len(two)} seed{'s' * (len(two) > 1)}"
            said += text(f"The last policies of \"{IN_TURN[way]}\", executing two actions per chunk instead of four "
                         f"({seeds}): {rate(by_task(two)).share}, {change} points.")  # fmt: skip
    return said


def lacking(study: Path) -> list[str]:
    """What replay lacks: one stage by three ways. Nothing where that was not played."""
    files = [study / f"sequences/choice/why-{way}.json" for way in ("replay", "exact-0", "exact-16")]
    if not all(file.exists() for file in files):
        return []
    results = [json.loads(file.read_text()) for file in files]
    (task, entry), *_ = results[0]["tasks"].items()
    replay, without, adapted = (r["tasks"][task]["successes"] for r in results)
    return text(
        f"What replay lacks is an adapter of the encoder: {task}, upon seven tasks learned by replay, has {replay} of "
        f"{entry['n']} by replay, {without} by exact retention without an adapter, and {adapted} with one "
        f"(`study/sequences/choice/why-*.json`, one seed, on the block for choices)."
    )


def learned_apart(study: Path) -> list[str]:
    """One policy and forty-nine files. Nothing where it was not measured."""
    try:
        results = list(read(study, "sequences/apart-s[0-9].json").values())
    except NotMeasured:
        return []
    played, (successes, n) = by_task(results), expert(results)
    weakest = sorted(played, key=lambda task: np.nanmean(played[task]))[:5]
    return text(
        "Fifty tasks, learned apart (`study/sequences/apart.py`): a base policy of the first task, 49 skills on top, "
        "each learned separately in 2000 steps, then put together; two actions are executed per chunk. "
        f"Success {rate(played).share} (the expert {number(successes / n)}; {played_on(results)[:-1]}). Weakest: "
        + words(f"{task} ({count({task: played[task]})})" for task in weakest) + ".",
        *on_their_own(study),
    )  # fmt: skip


def on_their_own(study: Path) -> list[str]:
    """The rival of learning apart upon a base."""
    if not (both := alone(study)):
        return []
    apart, own = both
    change = difference(apart, own)
    gained = {task: int(np.nansum(apart[task]) - np.nansum(own[task])) for task in own}
    most = [task for task in sorted(gained, key=lambda task: -abs(gained[task]))[:5] if gained[task]]
    each = words(f"{task} {gained[task]:+d}" for task in most) if most else "none"
    return [
        f"The fair baseline, for each task a policy of its own without a base (`study/sequences/alone.py`: the "
        f"same demonstrations, steps and episodes; the first {len(own)} of {len(OTHERS)} tasks by name, all that "
        f"were played so far): {rate(own).share}, where "
        f"learned apart upon the first has {number(success(apart))}: {change} points from the base, {change.verdict}. "
        f"Largest differences, in episodes of {next(iter(own.values())).shape[1]}: {each}."
    ]


NARROW = {  # file of study/sequences/choice -> the stage, its steps, and actions before looking again
    "both-rank-16-1000": ("default rank: 16", 1000, 4),
    "box-close-rank-16-2000": ("default rank: 16", 2000, 4),
    "box-close-rank-64-1000": ("`--encoder-rank 64`", 1000, 4),
    "basketball-rank-64-1000": ("`--encoder-rank 64`", 1000, 4),
    "mt50-wide-executed-4": ("`--encoder-rank 64`", 1000, 4),
    "mt50-wide-executed-2": ("`--encoder-rank 64`", 1000, 2),
    "stick-pull-rank-64-3000-executed-2": ("`--encoder-rank 64`", 3000, 2),
    "box-close-rank-128-two-2000": ("`--encoder-rank 128 --new-components 2`", 2000, 4),
    "box-close-scratch-2000": ("`--mode scratch`: a policy of its own", 2000, 4),
}


def upon_one_task(study: Path) -> list[str]:
    """What a stage needs where the policy that it is put upon knows a single task."""
    found = read(study, "sequences/choice/*.json")
    rows = [[how, f"{steps:,}", looks, task, *(f"{e['successes']}/{e['n']}" for e in (entry, entry["expert"]))]
            for name, (how, steps, looks) in NARROW.items() if name in found
            for task, entry in found[name]["tasks"].items() if task != "assembly"]  # fmt: skip
    return [
        *text("A stage on top of a one-task policy (assembly, 1000 steps: the first stage of all fifty in turn, "
              "`runs/base` in some commands), 50 demonstrations, block 400: experiments before and after the "
              "fifty-task sequence. Commands: `study/sequences/choice/*.json`."),
        *table(["stage", "steps", "actions executed per chunk", "task", "success", "expert"], rows),
    ]  # fmt: skip


def alone(study: Path) -> list[dict[str, np.ndarray]]:
    """[learned apart, a policy of its own for each task], on those tasks that have one. Empty if none has."""
    try:
        own = read(study, "sequences/alone/*.json").values()
        apart = by_task(list(read(study, "sequences/apart-s[0-9].json").values()))
    except NotMeasured:
        return []
    mine = {task: stack([entry]) for r in own for task, entry in r["tasks"].items()}
    return [{task: apart[task] for task in mine}, mine]
