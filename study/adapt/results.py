"""New tasks, one at a time, in turn and together, as sections of study/README.md."""

from pathlib import Path

import numpy as np

from study.intervals import DAGGER, Difference, count, difference, number, points, rate, stack, success, wilson
from study.markdown import (
    EPISODES,
    NotMeasured,
    bullets,
    expert,
    flag,
    mean,
    played_on,
    read,
    span,
    table,
    text,
    typed,
    words,
)

DEMOS, STEPS = 25, 2000  # the usual budget of an adaptation
WAYS = {
    "add-exact": "add-component, exact",
    "rank-0": "add-component, exact, `--encoder-rank 0`",
    "small": "router, exact: no new component",
    "router": "router, exact, `--encoder-rank 0`",
    "add-replay": "add-component, replay",
    "add-paper": "add-component, paper",
    "add-encoder": "add-component, `--train-encoder`",
    "start-random": "add-component, exact, `--start-from random`",
    "components": "components 0, 1",
    "full": "full",
    "scratch": "scratch: a policy of the same size, for this task alone",
    "specialist": "specialist: one of a stage's size, for this task alone",
    "five-steps": "trained for five steps",
}
ALONE = ("scratch", "specialist", "five-steps")  # ways that know no old task
NEW = ("door-close", "drawer-close", "disassemble", "window-open")  # the paper's mt4, in the order of the sequences
RETAIN = {"exact": "exact", "replay": "replay", "paper": "paper", "full": "full fine-tuning"}
BUDGETS = {  # what is varied -> its label
    "demos_per_task": f"demonstrations of the new task ({STEPS} steps)",
    "steps": f"training steps ({DEMOS} demonstrations)",
}
SHORT = ("add-exact", "small", "rank-0", "full", "scratch", "specialist")  # ways that were measured on less
EVERY = ("add-exact", "full", "specialist")  # those that were on every budget
DAGGER_RATES = "† Wilson's interval over the episodes of one seed: these files hold rates, not single episodes."


def ways(study: Path) -> dict[str, list[dict]]:
    """One-task adaptations with the usual budget, by way. NotMeasured if a way or one of its new tasks is missing."""
    runs = [r for r in read(study, "adapt/*-s[0-9]*.json").values() if "way" in r]
    usual = [r for r in runs if (r["flags"]["demos_per_task"], r["flags"]["steps"]) == (DEMOS, STEPS)
             or r["way"] == "five-steps"]  # fmt: skip
    found = {way: [r for r in usual if r["way"] == way] for way in WAYS}
    for way, mine in found.items():
        if missing := set(NEW) - {r["task"] for r in mine}:
            raise NotMeasured(f"`study/adapt/{way}-{min(missing)}-s*.json`")
    return found


def before(study: Path) -> dict[str, dict]:
    """old task -> its evaluation before any adaptation."""
    return read(study, "adapt/before.json")["before"]["tasks"]


def budget_runs(study: Path, varied: str) -> dict[tuple[str, int], dict[str, np.ndarray]]:
    """(way, level) -> new task -> (S, E): with demonstrations or steps varied, and the other as usual. NotMeasured if
    one of EVERY is missing at a level, or one of SHORT at the lowest; the others of SHORT may be."""
    fixed, value = ("steps", STEPS) if varied == "demos_per_task" else ("demos_per_task", DEMOS)
    runs = [*read(study, "adapt/budget/*-s[0-9]*.json").values(), *(r for w in SHORT for r in ways(study)[w])]
    runs = [r for r in runs if r["flags"][fixed] == value and r["way"] in SHORT]
    found = {(way, level): [r for r in runs if (r["way"], r["flags"][varied]) == (way, level)]
             for level in sorted({r["flags"][varied] for r in runs}) for way in SHORT}  # fmt: skip
    least = min(level for _, level in found)
    for (way, level), mine in list(found.items()):
        if missing := set(NEW) - {r["task"] for r in mine}:
            if way in EVERY or level == least:
                raise NotMeasured(f"`study/adapt/budget/{way}-{min(missing)}-*.json` with {varied} {level}")
            del found[way, level]
    return {key: new_tasks(mine) for key, mine in found.items()}


def telling(found: dict[str, list[dict]]) -> list[str]:
    """The new tasks that say something about adapting: those at which five steps of training mostly fail."""
    return [task for task, x in new_tasks(found["five-steps"]).items() if np.nanmean(x) < 0.5]


def continual(study: Path, kind: str) -> dict[tuple[str, int], list[dict]]:
    """(retention, block) -> results of adapt.py, one for each seed. Blocks apart: their episodes differ."""
    found: dict[tuple[str, int], list[dict]] = {}
    for stem, result in read(study, f"adapt/{kind}-*-s[0-9]*.json").items():
        retain = stem.removeprefix(f"{kind}-").rsplit("-s", 1)[0]
        found.setdefault((retain, flag(result["command"], "--eval-seed", 0)), []).append(result)
    return found


def new_tasks(runs: list[dict]) -> dict[str, np.ndarray]:
    """new task -> (S, E), from adaptations to one task each."""
    return {task: stack([r["tasks"][task] for r in runs if r["task"] == task]) for task in NEW}


def old_tasks(runs: list[dict], was: dict[str, dict]) -> dict[str, np.ndarray]:
    """old task -> (S, E) over all of these adaptations, whatever their new task, on the episodes of `was` (`before`).

    Where the old actions are the same to the last bit, so are the old episodes, and they were not played again.
    """
    after = [was if r["old_actions_bit_equal"] else r["tasks"] for r in runs]
    return {task: stack([entry, *(tasks[task] for tasks in after)])[1:] for task, entry in was.items()}


def each_change(runs: list[dict], was: dict[str, dict]) -> list[float]:
    """Change of the old tasks in each of these adaptations, in points."""
    start = success({task: stack([entry]) for task, entry in was.items()})
    return [100 * (success(old_tasks([r], was)) - start) for r in runs]


def old_change(runs: list[dict], was: dict[str, dict]) -> Difference | None:
    """Change of the old tasks over these adaptations; None if all old actions are the same to the last bit."""
    if all(r["old_actions_bit_equal"] for r in runs):
        return None
    return difference(old_tasks(runs, was), {task: stack([entry]) for task, entry in was.items()})


def old_cell(way: str, runs: list[dict], was: dict[str, dict]) -> str:
    return "knows none" if way in ALONE else str(old_change(runs, was) or "0, the same actions")


def one_task(study: Path) -> list[str]:
    found, was = ways(study), before(study)
    start = {task: stack([entry]) for task, entry in was.items()}
    rows = []
    for way, title in WAYS.items():
        runs, played = found[way], new_tasks(found[way])
        change = [] if way in ALONE else each_change(runs, was)
        rows.append([title, len({r["seed"] for r in runs}), *(count({task: x}) for task, x in played.items()),
                     rate(played).share, old_cell(way, runs, was), points(min(change)) if any(change) else "",
                     f"{runs[0]['stage']['trained_parameters']:,}",
                     f"{np.median([r['stage']['seconds'] for r in runs]):.0f}"])  # fmt: skip
    runs = [r for mine in found.values() for r in mine]
    successes, n = expert(runs, NEW)
    per_task = ["/".join(map(str, expert(runs, [task]))) for task in NEW]
    rows.append(["scripted expert", "", *per_task, number(successes / n)])
    header = ["way", "seeds", *NEW, "new tasks, 95 % interval", "old tasks, change in points", "worst change",
              "trained parameters", "seconds"]  # fmt: skip
    return [
        *text("Commands: `study/adapt/table.py`, or for one cell `python study/adapt/one_task.py --ways add-exact "
              f"--tasks door-close --seeds 0`. From `{runs[0]['flags']['run']}`, {DEMOS} demonstrations, {STEPS} "
              "steps.", played_on(runs), "The four new tasks are the paper's mt4."),
        *table(header, rows),
        *text(DAGGER),
        *text(f"Old tasks are the six of mt6. Before, the policy has {count(start)} on them, and the expert "
              f"{expert([{'tasks': was}])[0]}. Their interval is over these episodes. Which new task is learned "
              "matters more: see the worst run. \"The same actions\" are the same bit for bit. That was checked on "
              "random observations of every old task, and those old episodes were not played again. Seconds are of "
              "training, the median run; those of `replay` beside other work, on another machine."),
        "![Success on the new tasks, and the change of the old ones, for every way](adapt/one-task.png)", "",
        *one_task_notes(found, was, read(study, "adapt/acting.json")["acting"]),
    ]  # fmt: skip


def one_task_notes(found: dict[str, list[dict]], was: dict[str, dict], acting: dict) -> list[str]:
    """What the table of the ways says, and what not."""
    replay, paper, full = (old_change(found[way], was) for way in ("add-replay", "add-paper", "full"))
    weights = [r["tasks"][task]["router_weights"]["mean"][-1] for r in found["add-replay"] for task in was]
    each = {way: words(f"{task} {count({task: x})}" for task, x in new_tasks(found[way]).items())
            for way in ("five-steps", "router", "small")}  # fmt: skip
    trained, full_size, own = (
        found[way][0]["stage"]["trained_parameters"] for way in ("add-exact", "full", "specialist")
    )
    tell = telling(found)

    def minus(other: str) -> str:
        """add-component minus another way, on all new tasks, and on those that tell."""
        one, its = (new_tasks(found[way]) for way in ("add-exact", other))
        alone = difference(*({task: x[task] for task in tell} for x in (one, its)))
        return f"{difference(one, its)} points ({alone} on {words(tell)} alone)"

    return bullets(
        f"Not every task proves something. A policy trained for five steps, hardly more than the mean action, has "
        f"{each['five-steps']}. What is said below rests on {words(tell)}.",
        "The row `paper` is the paper's retention, not its protocol. The paper learns its new tasks together; this "
        "table one at a time. In turn, and together, follow below.",
        "`exact` with `--encoder-rank 0` and `paper` train alike and differ in what they keep. So with the same seed "
        "they agree on the new task by construction.",
        f"Time per chunk (B = 1, {acting['threads']} thread{'s' * (acting['threads'] > 1)}): an added task takes "
        f"{number(acting['ratio']['a component more'], 2)} x as long as an old one (one more component, acting by a "
        f"view), times {number(acting['ratio']['the correction of the encoder'], 2)} with the encoder's "
        f"adapter (`python study/adapt/acting.py`).",
        f"`replay` keeps a few observations of every old task. The old tasks change by {replay} points. The new "
        f"component's mean weight on an old task is {span(weights)}.",
        f"`paper` changes the old tasks by {paper} points, and `full` fine-tuning by {full}.",
        f"A new router over the old components alone has {each['router']}. With the adapter of the encoder beside "
        f"it, and still no new component, {each['small']}.",
        f"The honest rival of a new component is a policy of its own for each task: `specialist`, {own:,} parameters "
        f"where a stage trains {trained:,}, on the same demonstrations. add-component minus `specialist` is "
        f"{minus('specialist')}, minus `scratch` {minus('scratch')}, minus `full` {minus('full')}. So with state "
        f"observations and {DEMOS} demonstrations adapting is not needed for success. It gives one policy for all "
        f"tasks, and a stage trains {number(trained / full_size, 2)} of what `full` does.",
    )


def whole(average: float, tasks: int, result: dict) -> str:
    """A mean success over tasks, with Wilson's interval over the episodes of one seed."""
    n = tasks * flag(result["command"], "--eval-episodes", EPISODES)
    low, high = wilson(average * n, n)
    return f"{number(average)}, {number(low)} to {number(high)}†"


def continual_rows(found: dict[tuple[str, int], list[dict]], row, expert_row) -> list[list]:
    """For each block: a row for each retention, then the expert on the same episodes. row: results -> cells."""
    rows = []
    for block in sorted({block for _, block in found}):
        mine = {name: found[name, block] for name in RETAIN if (name, block) in found}
        rows += [[RETAIN[name], block, len(results), *row(results)] for name, results in mine.items()]
        rows.append(["scripted expert", block, "", *expert_row(next(iter(mine.values()))[0])])
    return rows


def continual_intro(results: list[dict]) -> str:
    episodes = words(sorted({flag(r["command"], "--eval-episodes", EPISODES) for r in results}))
    return (f"Command: {typed(results[0]['command'])}, and so on (`study/adapt/table.py`). {episodes} episodes per "
            "task, on the block that the table names (`--eval-seed`).")  # fmt: skip


def sequences(study: Path) -> list[str]:
    found = continual(study, "sequence")
    results = [r for group in found.values() for r in group]

    def row(results: list[dict]) -> list[str]:
        average = whole(mean(r["average_success"] for r in results), len(results[0]["success"][-1]), results[0])
        each = [", ".join(number(r[key]) for r in results)
                for key in ("forgetting", "backward_transfer", "forward_transfer")]  # fmt: skip
        counts = [f"{stage['trained_parameters']:,}" for stage in results[0]["stages"]]
        added = sum(stage["bytes_added"] for stage in results[0]["stages"])
        return [average, *each, " to ".join(dict.fromkeys([counts[0], counts[-1]])), f"{added:,}"]

    def expert_row(result: dict) -> list[str]:
        return [whole(mean(result["expert"].values()), len(result["expert"]), result)]

    told = []
    for task in NEW:
        stages = [s for r in results for s in r["stages"] if task in s.get("success_before_learning", {})]
        named, untrained = ([s[key][task] for s in stages] for key in ("success_before_learning", "success_untrained"))
        told += [f"{span(named)} on {task} (untrained {span(untrained)})"] if stages else []
    header = ["in turn", "block", "seeds", "average success, 95 % interval", "forgetting", "backward transfer",
              "forward transfer", "parameters trained, each stage", "bytes added"]  # fmt: skip
    order = words(task for stage in results[0]["stages"] for task in stage["tasks"])
    return [
        *text(continual_intro(results), f"The order is {order}. Average success is over all tasks after the last "
              "stage. [metrics.md](../docs/metrics.md) explains the others. Several seeds stand beside each other."),
        *table(header, continual_rows(found, row, expert_row)),
        *text(DAGGER_RATES),
        "![Success of every task after every stage, for each retention](adapt/sequences.png)", "",
        *text(f"Just before it learns a task, the policy is given its name only. Success is {words(told)}. Forward "
              "transfer is the difference. Untrained networks differ from each other."),
    ]  # fmt: skip


def together(study: Path) -> list[str]:
    found = continual(study, "together")
    results = [r for group in found.values() for r in group]
    tasks = results[0]["stages"][-1]["tasks"]

    def new(rows: list[dict], result: dict) -> list[str]:
        rates = [mean(row[task] for row in rows) for task in tasks]
        return [*map(number, rates), whole(mean(rates), len(tasks), result)]

    def row(results: list[dict]) -> list[str]:
        change = [mean(100 * (r["success"][-1][task] - rate) for task, rate in r["success"][0].items()
                       if None not in (rate, r["success"][-1][task])) for r in results]  # fmt: skip
        stage = results[0]["stages"][-1]
        return [*new([r["success"][-1] for r in results], results[0]), ", ".join(map(points, change)),
                number(mean(r["average_success"] for r in results)), f"{stage['trained_parameters']:,}",
                f"{np.median([r['stages'][-1]['seconds'] for r in results]):.0f}"]  # fmt: skip

    def expert_row(result: dict) -> list[str]:
        return [*new([result["expert"]], result), "", number(mean(result["expert"].values()))]

    header = ["together", "block", "seeds", *tasks, "new tasks, 95 % interval", "old tasks, points, each seed",
              "all tasks", "trained parameters", "seconds"]  # fmt: skip
    return [
        *text(continual_intro(results), "This is the paper's protocol: all new tasks in one stage. The row `paper` has "
              "its retention too. Success is the mean over seeds. Seconds of `replay` are beside other work on another "
              "machine."),
        *table(header, continual_rows(found, row, expert_row)),
        *text(DAGGER_RATES),
    ]  # fmt: skip


def budget(study: Path) -> list[str]:
    found = {varied: budget_runs(study, varied) for varied in BUDGETS}
    usual = ways(study)
    five, tasks = new_tasks(usual["five-steps"]), telling(usual)
    shown = [r for way in SHORT for r in usual[way]]

    def rows(varied: str, only: list[str]) -> list[list]:
        mine = {key: {task: x[task] for task in only} for key, x in found[varied].items()}
        levels = dict.fromkeys(level for _, level in mine)
        made = [[WAYS[way], *(rate(mine[way, level]) if (way, level) in mine else "" for level in levels)]
                for way in SHORT]  # fmt: skip
        made += [[f"add-component minus {other}, points",
                  *(difference(mine["add-exact", level], mine[other, level]) for level in levels)]
                 for other in EVERY[1:]]  # fmt: skip
        made.append([f"{WAYS['five-steps']}, {DEMOS} demonstrations", rate({task: five[task] for task in only})])
        return [*made, ["scripted expert", "/".join(map(str, expert(shown, only)))]]

    tables = []
    for varied, label in BUDGETS.items():
        levels = dict.fromkeys(level for _, level in found[varied])
        tables += table([label, *levels], rows(varied, list(NEW)))
        tables += table([f"the same, {words(tasks)} alone", *levels], rows(varied, tasks))
    demos, steps = found.values()
    fewest, shortest = (min(level for _, level in levels) for levels in (demos, steps))

    def minus(levels: dict, level: int, other: str) -> Difference:
        return difference(levels["add-exact", level], levels[other, level])

    share = {way: usual[way][0]["stage"]["trained_parameters"] for way in SHORT}
    return [
        *text("Commands: `study/adapt/table.py`, such as `python study/adapt/one_task.py --demos 5 --new-only --out "
              "study/adapt/budget`.", played_on(shown), "No augmentation (`--copies 0`). Success "
              "is over new tasks, each learned alone. Counts pool "
              "all seeds: three in the largest cells, one elsewhere. There is one draw of the demonstrations: with "
              "one of them, success depends on which ([below](#a-new-task-from-one-demonstration)), and no interval "
              "here covers that."),
        *tables,
        *text(DAGGER),
        "![Success on new tasks over demonstrations, and over training steps](adapt/budget.png)", "",
        *bullets(
            f"add-component trains {number(share['add-exact'] / share['full'], 2)} of the parameters of `full`. Minus "
            "the same with the encoder left as it is (`--encoder-rank 0`) it has "
            f"{minus(steps, shortest, 'rank-0')} points after {shortest} steps, and "
            f"{minus(demos, fewest, 'rank-0')} with {fewest} demonstration{'s' * (fewest > 1)}.",
            f"Without a new component, with {share['small']:,} parameters instead of {share['add-exact']:,}: "
            f"{count(steps['small', shortest])} after {shortest} steps, {count(demos['small', fewest])} with {fewest} "
            f"demonstration{'s' * (fewest > 1)}.",
        ),
    ]  # fmt: skip


def why_paper(study: Path) -> list[str]:
    result, was = read(study, "adapt/why-paper.json")["why-paper"], before(study)
    first = result["rows"][0]["before"]
    rows = [["before", *first.values(), sum(first.values())]]
    for row in result["rows"]:
        for key, name in (("paper", "as adapted"), ("given_back", "new component off")):
            rows.append([f"{row['new_task']}, {name}", *row[key].values(), sum(row[key].values())])
        weight = row["weight_of_the_new_component"]
        rows.append([f"{row['new_task']}, weight", *(number(weight[task], 2) for task in first)])
    experts = [was[task]["expert"]["successes"] for task in first]
    rows.append(["scripted expert", *experts, sum(experts)])
    total = {key: sum(sum(row[key].values()) for row in result["rows"]) for key in ("before", "paper", "given_back")}
    weights = [w for row in result["rows"] for w in row["weight_of_the_new_component"].values()]
    n = result["episodes_per_task"] * len(first) * len(result["rows"])
    return [
        *text(f"Command: {typed(result['command'])}, on the runs of the row `add-component, paper`. Training seed "
              f"{result['seed']}.", played_on([{"tasks": was}]),
              "Successes on each old task after a new one was learned; weight of the new component."),
        *table(["new task learned", *first, "sum"], rows),
        *text("A new component begins as a copy, with half of its original's weight, on old tasks too. Training "
              f"changes it, but it keeps {span(weights)} of the weight: old tasks fall from "
              f"{total['before']} to {total['paper']} of {n}. With it off (its weight given back to the original), "
              f"they have {total['given_back']}. The rest is lost as the router shifted weight among old ones."),
    ]  # fmt: skip
