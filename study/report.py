"""Every table of results, from the JSON files in study/, and the blocks of the README that quote them.

    python study/report.py             # writes study/README.md, and the marked blocks of README.md
    python study/report.py --check     # writes nothing; exit code 1 and the first line that differs

A section of study/README.md is one function that returns Markdown lines. A later study adds one, and names it in
SECTIONS. A function whose files do not exist yet raises NotMeasured, and the page says so in one line. Prose stands
here too, with every measured number formatted in: no number can drift from its file.
"""

import json
import re
import shlex
import sys
import textwrap
from collections import Counter
from pathlib import Path

import numpy as np

STUDY = Path(__file__).resolve().parent
sys.path.insert(0, str(STUDY.parent))
from study.intervals import (  # noqa: E402
    DAGGER,
    RESAMPLES,
    Difference,
    by_task,
    compare,
    count,
    crossed_difference,
    crossed_rate,
    difference,
    number,
    points,
    rate,
    stack,
    success,
    wilson,
)  # fmt: skip
from study.router.table import PREDICTIONS  # noqa: E402
from study.router.table import WAYS as WAKING  # noqa: E402

FIRST, BLOCK = 1_000_000, 10_000  # episode i of block N has environment seed FIRST + N * BLOCK + i (envs/rollout.py)
EPISODES = 50  # per task: the default of `adapt.py --eval-episodes`, which its results do not repeat
DEMOS, STEPS = 25, 2000  # the usual budget of an adaptation

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

SAMPLERS = {"dpm": "DPM-Solver++", "ddim": "DDIM", "ddpm": "DDPM"}

DAGGER_RATES = "† Wilson's interval over the episodes of one seed: these files hold rates, not single episodes."

FORKS = {  # result files -> what was trained, and the file that it is in
    "mt6-fdp": ("fdp", "fdp.py"),
    "mt6-uniform": ("weights fixed at 1/K", "variants/uniform.py"),
    "mt6-flow": ("flow matching, Euler in 5 steps", "variants/flow.py"),
    "mt6-moe-top1": ("mixture of experts, top 1", "variants/moe.py"),
    "mt6-moe-top1-unbalanced": ("the same without balancing", "variants/moe.py"),
    "mt6-moe-top2": ("top 2", "variants/moe.py"),
    "mt6-moe-top2-multinomial": ("top 2, drawn in training", "variants/moe.py"),
    "mt6-proprioception": ("sees its own hand only", "variants/proprioception.py"),
    "reach-push-flow": ("flow matching, on reach and push", "variants/flow.py"),
}

NEW_ML45 = ("bin-picking", "box-close", "door-lock", "door-unlock", "hand-insert")  # MetaWorld's ml45-test
ONE = {  # (base, way) -> how a new task was learned from one demonstration
    ("fdp", "add-exact"): "fdp base: add-component, exact",
    ("fdp", "small"): "fdp base: router, exact: no new component",
    ("fdp", "router"): "fdp base: router, exact, `--encoder-rank 0`",
    ("fdp", "full"): "fdp base: full",
    ("monolithic", "low-rank"): "monolithic base: low-rank adapters on every layer",
    ("monolithic", "full"): "monolithic base: full",
    ("fdp", "specialist"): "no base: specialist, a policy of a stage's size",
    ("fdp", "scratch"): "no base: scratch, a policy of the base's size",
}

# How published averages group the tasks (Seo et al. 2022, arXiv 2206.14244); whatever is in none of these is easy.
DIFFICULTY = {
    "easy": (),
    "medium": ("basketball", "bin-picking", "box-close", "coffee-pull", "coffee-push", "hammer", "peg-insert-side",
               "push-wall", "soccer", "sweep", "sweep-into"),
    "hard": ("assembly", "hand-insert", "pick-out-of-hole", "pick-place", "push", "push-back"),
    "very hard": ("disassemble", "pick-place-wall", "shelf-place", "stick-pull", "stick-push"),
}  # fmt: skip


class NotMeasured(Exception):
    """The files of a table do not exist yet. The message names them."""


# --------------------------------------------------------------------------------------------------------- reading


def read(study: Path, pattern: str) -> dict[str, dict]:
    """File name without its ending -> content, in order of the names. NotMeasured if there is none."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(study.glob(pattern))}
    if not found:
        raise NotMeasured(f"`study/{pattern.replace('[0-9]', '')}`")
    return found


def core_groups(study: Path, *needed: str) -> dict[str, list[dict]]:
    """The core study's results, by name, one for each seed. NotMeasured if one of `needed` is not among them."""
    found: dict[str, list[dict]] = {}
    for stem, result in read(study, "core/*-s[0-9]*.json").items():
        found.setdefault(stem.rsplit("-s", 1)[0], []).append(result)
    for name in needed:
        if name not in found:
            raise NotMeasured(f"`study/core/{name}-s*.json`")
    return found


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


def expert(results: list[dict], tasks=None) -> tuple[int, int]:
    """Successes and episodes of the scripted expert, counted once for each task of these results (or of `tasks`)."""
    seen = {task: r["tasks"][task]["expert"] for r in results for task in r["tasks"] if tasks is None or task in tasks}
    return sum(e["successes"] for e in seen.values()), sum(e["n"] for e in seen.values())


def flag(command: str, name: str, default: int) -> int:
    """The whole number that a recorded command gave to a flag, as `--name 5` or `--name=5`."""
    found = re.findall(rf"{name}[= ](\d+)", command)
    return int(found[-1]) if found else default


def each_change(runs: list[dict], was: dict[str, dict]) -> list[float]:
    """Change of the old tasks in each of these adaptations, in points."""
    start = success({task: stack([entry]) for task, entry in was.items()})
    return [100 * (success(old_tasks([r], was)) - start) for r in runs]


def old_change(runs: list[dict], was: dict[str, dict]) -> Difference | None:
    """Change of the old tasks over these adaptations; None if all old actions are the same to the last bit."""
    if all(r["old_actions_bit_equal"] for r in runs):
        return None
    return difference(old_tasks(runs, was), {task: stack([entry]) for task, entry in was.items()})


# -------------------------------------------------------------------------------------------------------- Markdown


def words(items) -> str:
    """a, b and c"""
    *most, last = map(str, items)
    return f"{', '.join(most)} and {last}" if most else last


def span(values, digits: int = 2) -> str:
    """least to most"""
    ends = [number(f(values), digits) for f in (min, max)]
    return " to ".join(dict.fromkeys(ends))


def table(header, rows) -> list[str]:
    """Rows that are too short end in empty cells."""
    full = [header, ["---"] * len(header), *([*row, *[""] * (len(header) - len(row))] for row in rows)]
    return [*(f"| {' | '.join(map(str, row))} |" for row in full), ""]


def text(*sentences: str, bullet: bool = False) -> list[str]:
    """A paragraph, or an item of a list."""
    lines = textwrap.wrap(" ".join(sentences), 118, initial_indent="- " * bullet, subsequent_indent="  " * bullet,
                          break_long_words=False, break_on_hyphens=False)  # fmt: skip
    return lines if bullet else [*lines, ""]


def bullets(*items: str) -> list[str]:
    return [*(line for item in items for line in text(item, bullet=True)), ""]


def played_on(results: list[dict]) -> str:
    """How many episodes of which block these evaluations had, in words."""
    entries = [entry for r in results for entry in r["tasks"].values()]
    counts = words(sorted({entry["seeds"][1] - entry["seeds"][0] + 1 for entry in entries}))
    blocks = words(sorted({(entry["seeds"][0] - FIRST) // BLOCK for entry in entries}))
    return f"{counts} episodes per task and seed, block {blocks} (`evaluate.py --seed {blocks}`)."


def typed(command: str) -> str:
    """A recorded command, which names its script without a folder, as it is typed in the repository's root today."""
    python, script, *rest = shlex.split(command)
    paths = sorted(path.relative_to(STUDY.parent) for path in STUDY.glob(f"*/{script}"))
    return f"`{shlex.join([python, str(paths[0]) if paths else script, *rest])}`"


def expert_cell(results: list[dict]) -> str:
    successes, n = expert(results)
    return f"{number(successes / n)} ({successes}/{n})"


# ---------------------------------------------------------------------------------------------------- the core study


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
    notes.append(f"The router hardly specialises. On mt6 a task's mean weights are {span(means.ravel())}, where "
                 f"{number(1 / means.shape[-1], 2)} is indifference. In the overfit check they are "
                 f"{words(number(w, 2) for w in alone)}.")  # fmt: skip
    worst = sorted(found["mt10-fdp-50"][0]["tasks"].items(), key=lambda item: item[1]["success"])[:2]
    notes.append("mt10 loses most on " + words(f"{task} ({e['successes']} of {e['n']}, the expert "
                 f"{e['expert']['successes']})" for task, e in worst) + ".")  # fmt: skip
    return bullets(*notes)


def mt6_difference(found: dict[str, list[dict]], demos: int) -> Difference:
    """fdp minus monolithic on mt6."""
    return compare(found[f"mt6-fdp-{demos}"], found[f"mt6-monolithic-{demos}"])


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
        change = mt6_difference(found, demos)
        changes.append([f"{demos} demonstrations per task", len(each), ", ".join(each), change, change.verdict])
    header = ["task", *(", ".join(name.split("-")[1:]) for name in MT6), "expert"]
    return [
        *text("The mt6 runs of the table above, task by task, with 50 and with 25 demonstrations per task.",
              played_on([r for name in MT6 for r in found[name]])),
        *table(header, rows),
        *text(DAGGER),
        "![mt6: success per task with 95 % intervals, and the scripted expert's](core/mt6.png)", "",
        *text("fdp minus monolithic, in points, paired by episode:"),
        *table(["mt6", "seeds", "each seed", "all seeds, 95 % interval", ""], changes),
        *mt6_notes(found, played),
    ]  # fmt: skip


def mt6_notes(found: dict[str, list[dict]], played: dict[str, dict[str, np.ndarray]]) -> list[str]:
    """What the mt6 tables say, and what not."""
    notes = []
    if all("includes" in mt6_difference(found, demos).verdict for demos in (50, 25)):
        notes.append("At this size, with state observations, neither of the two has been shown to be better. More "
                     "tasks, adaptation and pixels are other questions.")  # fmt: skip
    for demos in (50, 25):
        mine, other = (played[f"mt6-{policy}-{demos}"] for policy in ("fdp", "monolithic"))
        failed = [task for task in mine if min(np.nanmin(mine[task]), np.nanmin(other[task])) == 0]
        told = (f"{task} (fdp {count({task: mine[task]})}, monolithic {count({task: other[task]})})" for task in failed)
        notes.append(f"With {demos} demonstrations, one or both fail at times on {words(told)}. The other "
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


# ------------------------------------------------------------------------------------------------------- adaptation


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
    header = ["way", "seeds", *NEW, "new tasks, 95 % interval", "old tasks, points, 95 % interval", "worst run",
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
              "training, the median run."),
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
    played = {way: new_tasks(found[way]) for way in ("add-exact", "specialist", "scratch")}
    return bullets(
        f"Not every task proves something. A policy trained for five steps, hardly more than the mean action, has "
        f"{each['five-steps']}. What is said below rests on {words(telling(found))}.",
        "The row `paper` is the paper's retention, not its protocol. The paper learns its new tasks together; this "
        "table one at a time. In turn, and together, follow below.",
        "`exact` with `--encoder-rank 0` and `paper` train alike and differ in what they keep. So with the same seed "
        "they agree on the new task by construction.",
        f"Acting (one chunk, B = 1, {acting['threads']} thread{'s' * (acting['threads'] > 1)}): a task that was added "
        f"takes {number(acting['ratio']['a component more'], 2)} x as long as one before it, for the component and its "
        f"view of the others, and {number(acting['ratio']['the correction of the encoder'], 2)} x that with the "
        f"correction of the encoder (`python study/adapt/acting.py`). Old tasks take as long as before.",
        f"`replay` keeps a few observations of every old task. The old tasks change by {replay} points. The new "
        f"component's mean weight on an old task is {span(weights)}.",
        f"`paper` changes the old tasks by {paper} points, and `full` fine-tuning by {full}.",
        f"A new router over the old components alone has {each['router']}. With the correction of the encoder beside "
        f"it, and still no new component, {each['small']}.",
        f"The honest rival of a new component is a policy of its own for each task: `specialist`, {own:,} parameters "
        f"where a stage trains {trained:,}, on the same demonstrations. add-component minus `specialist` is "
        f"{difference(played['add-exact'], played['specialist'])} points, and minus `scratch` "
        f"{difference(played['add-exact'], played['scratch'])}. So with state observations and {DEMOS} demonstrations "
        f"adapting is not needed for success. It gives one policy for all tasks, and a stage trains "
        f"{number(trained / full_size, 2)} of what `full` does.",
    )


def mean(values) -> float | None:
    values = [x for x in values if x is not None]  # None: all episodes of a task were lost
    return float(np.mean(values)) if values else None


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
        *text(f"Just before it learns a task, the policy knows its name only. It has {words(told)}. Forward transfer "
              "is this difference. Untrained networks differ from each other."),
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
              "its retention too. Success is the mean over seeds."),
        *table(header, continual_rows(found, row, expert_row)),
        *text(DAGGER_RATES),
    ]  # fmt: skip


LIMIT = 200  # steps, in published tables of these sequences
IN_TURN = {  # way of study/sequences/table.py -> what it is
    "exact": "exact, a stage leans on all before it",
    "base": "exact, `--lean-on base`",
    "replay": "replay",
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
        "for each task. Average success is over all tasks after the last stage, from the episodes of the last "
        f"evaluation; beside it the same with a limit of {LIMIT} steps instead of 500. Tasks whose actions a stage did "
        "not change by a bit are not played again."
    )
    for group, mine in found.items():
        rows = []
        for way, (results, last) in mine.items():
            N, stages = len(last[0]["tasks"]), results[0]["stages"]
            each = [", ".join(number(r[key]) for r in results) for key in ("forgetting", "forward_transfer")]
            usual = ", ".join(number(-r["backward_transfer"] * (N - 1) / N) for r in results)
            cost = [(f"{stages[1][key]:,.0f}", f"{stages[-1][key]:,.0f}")
                    for key in ("trained_parameters", "bytes_added", "seconds")]  # fmt: skip
            chunk = [f"{stages[i]['latency_ms']:.1f}" for i in (0, -1)]
            rows.append([IN_TURN[way], len(results), rate(by_task(last)).share, number(within(last)), each[0], usual,
                         each[1], *(" to ".join(dict.fromkeys(ends)) for ends in (*cost, chunk))])  # fmt: skip
        if rows:
            last = next(iter(mine.values()))[1]
            successes, n = expert(last)
            rows.append(["scripted expert", "", number(successes / n)])
            header = [f"{GROUPS[group]}, in turn", "seeds", "average success, 95 % interval", f"within {LIMIT} steps",
                      "forgetting", "forgetting (Continual World)", "forward transfer", "trained parameters, second to "
                      "last stage", "bytes added", "seconds", "ms for a chunk, first to last task"]  # fmt: skip
            lines += [*text(played_on(last)), *table(header, rows)]
            if (study / f"sequences/{group}.png").exists():
                lines += [f"![{GROUPS[group]}: success of every task after every stage](sequences/{group}.png)", ""]
    return [*lines, *text(DAGGER), *text(
        "Continual World (arXiv 2105.10919) counts forgetting from right after a task was learned, over all tasks, the "
        "last one too. Published for a diffusion policy that sees the same 39 numbers, on the ten tasks, with 2,500 "
        f"demonstrations of each, 100 rollouts and {LIMIT} steps (arXiv 2602.02417): fine-tuning 0.179 (forgetting "
        "0.730), generative replay 0.853 (0.082), Trust Region 0.883 (0.044). Other demonstrations, another network: "
        "beside ours, not a comparison.",
    )]  # fmt: skip


def budget(study: Path) -> list[str]:
    found = {varied: budget_runs(study, varied) for varied in BUDGETS}
    usual = ways(study)
    five, tasks = new_tasks(usual["five-steps"]), telling(usual)
    shown = [r for way in SHORT for r in usual[way]]

    def rows(varied: str, only: list[str]) -> list[list]:
        levels = dict.fromkeys(level for _, level in found[varied])
        made = [[WAYS[way], max(len(x) for x in found[varied][way, min(levels)].values()),
                 *(rate({task: found[varied][way, level][task] for task in only})
                   if (way, level) in found[varied] else "" for level in levels)]
                for way in SHORT]  # fmt: skip
        made.append([WAYS["five-steps"], max(map(len, five.values())), rate({task: five[task] for task in only})])
        return [*made, ["scripted expert", "", "/".join(map(str, expert(shown, only)))]]

    tables = []
    for varied, label in BUDGETS.items():
        levels = dict.fromkeys(level for _, level in found[varied])
        tables += table([label, "seeds", *levels], rows(varied, list(NEW)))
        tables += table([f"the same, {words(tasks)} alone", "seeds", *levels], rows(varied, tasks))
    demos, steps = found.values()
    fewest, shortest = (min(level for _, level in levels) for levels in (demos, steps))

    def minus(levels: dict, level: int, other: str) -> Difference:
        return difference(levels["add-exact", level], levels[other, level])

    share = {way: usual[way][0]["stage"]["trained_parameters"] for way in SHORT}
    return [
        *text("Commands: `study/adapt/table.py`, such as `python study/adapt/one_task.py --demos 5 --new-only --out "
              "study/adapt/budget`.", played_on(shown), "Success is over new tasks, each learned alone."),
        *tables,
        *text(DAGGER),
        "![Success on new tasks over demonstrations, and over training steps](adapt/budget.png)", "",
        *bullets(
            f"After {shortest} steps add-component minus `full` is {minus(steps, shortest, 'full')} points "
            f"({minus(steps, shortest, 'full').verdict}), with {number(share['add-exact'] / share['full'], 3)} of its "
            f"parameters; minus the same with the encoder left as it is (`--encoder-rank 0`) "
            f"{minus(steps, shortest, 'rank-0')}; minus the specialist {minus(steps, shortest, 'specialist')}.",
            f"With {fewest} demonstration{'s' * (fewest > 1)}: add-component minus `full` "
            f"{minus(demos, fewest, 'full')} points, minus the specialist {minus(demos, fewest, 'specialist')}, minus "
            f"`--encoder-rank 0` {minus(demos, fewest, 'rank-0')}.",
            f"Without a new component, with {share['small']:,} parameters instead of {share['add-exact']:,}: "
            f"{count(steps['small', shortest])} after {shortest} steps, {count(demos['small', fewest])} with {fewest} "
            f"demonstration{'s' * (fewest > 1)}.",
        ),
    ]  # fmt: skip


def crossed_runs(study: Path, demos: int, steps: int) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    """(base, way) -> new task -> (S, D, E), by seed of the base and draw of the demonstrations; nan: not made (yet)."""
    runs = [(base, r) for base in ("fdp", "monolithic") for r in read(study, f"ml45/{base}/*.json").values()]
    runs = [(base, r) for base, r in runs if (r["flags"]["demos_per_task"], r["flags"]["steps"]) == (demos, steps)]
    seeds, draws = (sorted({r["flags"][name] for _, r in runs}) for name in ("seed", "demo_draw"))
    found: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    for base, r in runs:
        x = stack([r["tasks"][r["task"]]])[0]
        cells = found.setdefault((base, r["way"]), {})
        cell = cells.setdefault(r["task"], np.full((len(seeds), len(draws), len(x)), np.nan))
        cell[seeds.index(r["flags"]["seed"]), draws.index(r["flags"]["demo_draw"])] = x
    for base, way in ONE:
        if missing := set(NEW_ML45) - set(found.get((base, way), ())):
            raise NotMeasured(f"`study/ml45/{base}/{way}-{min(missing)}-d{demos}-n{steps}-*.json`")
    return found


def one_demonstration(study: Path) -> list[str]:
    found = crossed_runs(study, 1, 2000)
    rows, best = [], found["fdp", "add-exact"]
    every = {key: [r for r in read(study, f"ml45/{key[0]}/{key[1]}-*-d1-n2000-*.json").values()] for key in found}
    for key, title in ONE.items():
        played, runs = found[key], every[key]
        made = np.isfinite(played[NEW_ML45[0]]).any(2)  # (S, D)
        change = "" if played is best else crossed_difference(played, best)
        rows.append([title, f"{made.any(1).sum()} x {made.any(0).sum()}" + " in part" * (not made.all()),
                     *(count({task: played[task]}) for task in NEW_ML45), crossed_rate(played).share, change,
                     f"{runs[0]['stage']['trained_parameters']:,}",
                     f"{np.median([r['stage']['seconds'] for r in runs]):.0f}"])  # fmt: skip
    runs = [r for mine in every.values() for r in mine]
    successes, n = expert(runs, NEW_ML45)
    rows.append(["scripted expert", "", *("/".join(map(str, expert(runs, [task]))) for task in NEW_ML45),
                 number(successes / n)])  # fmt: skip
    header = ["way", "base seeds x draws", *NEW_ML45, "all, 95 % interval", "minus the first row, points", "trained "
              "parameters", "seconds"]  # fmt: skip
    bases = [f"{name} {words(number(r['mean_success']) for r in read(study, f'ml45/{name}-s[0-9].json').values())}"
             for name in ("fdp", "monolithic")]  # fmt: skip
    return [
        *text("Commands: `study/ml45/table.py`. Bases: the 45 tasks of MetaWorld's ml45-train, 25 demonstrations each, "
              f"24,000 steps; success on them {words(bases)} (each seed). New: the five of ml45-test, one at a time, "
              "from ONE demonstration, 2000 steps.", played_on(runs)),
        *table(header, rows),
        *text("Which demonstration it is (a draw), which base, and which episode are all drawn anew for the intervals; "
              "differences are on the bases and draws that both have. With one base and one draw (1 x 1) an interval "
              "is over episodes alone, and too narrow. Seconds are of training, the median run."),
        *one_demonstration_notes(found),
    ]  # fmt: skip


def one_demonstration_notes(found: dict[tuple[str, str], dict[str, np.ndarray]]) -> list[str]:
    """What one demonstration is worth, and how much depends on which."""
    best, notes = found["fdp", "add-exact"], []
    for other, what in ((("monolithic", "low-rank"), "one network of the same size with adapters"),
                        (("fdp", "specialist"), "a specialist"), (("fdp", "scratch"), "scratch")):  # fmt: skip
        change = crossed_difference(best, found[other])
        notes.append(f"add-component minus {what}: {change} points, {change.verdict}.")
    rates = {task: np.nanmean(x, 2).ravel() for task, x in best.items()}
    notes.append("A demonstration makes a difference: over bases and draws a task's success is "
                 + words(f"{span(r[np.isfinite(r)])} on {task}" for task, r in rates.items()) + ".")  # fmt: skip
    return bullets(*notes)


def groups(played: dict[str, np.ndarray]) -> dict[str, float]:
    """difficulty -> success over its tasks. played: task -> (S, E)."""
    of = {task: difficulty for difficulty, tasks in DIFFICULTY.items() for task in tasks}
    return {name: success({t: x for t, x in played.items() if of.get(t, "easy") == name}) for name in DIFFICULTY}


def evenly(study: Path, pattern: str, results: list[dict]) -> str:
    """What success changes by, in points, where 1/K stood in for the router's weights. Empty if that was not played."""
    found = [json.loads(path.read_text()) for path in sorted(study.glob(pattern))][: len(results)]
    return str(compare(found, results[: len(found)])) if found else ""


def fifty(study: Path) -> list[str]:
    fdp = list(read(study, "mt50/fdp-s[0-9].json").values())
    other = [json.loads(path.read_text()) for path in sorted(study.glob("mt50/monolithic-s[0-9].json"))]
    found = {"fdp": fdp} | ({"monolithic": other} if other else {})
    seeds = min(map(len, found.values()))  # what is compared has to be of the same seeds
    found = {policy: results[:seeds] for policy, results in found.items()}
    played = {policy: by_task(results) for policy, results in found.items()}
    experts = {task: np.array([[r["expert"]["successes"] / r["expert"]["n"]]])
               for task, r in found["fdp"][0]["tasks"].items()}  # fmt: skip
    rows = []
    for policy, x in played.items():
        mine, short = groups(x), [t for t in x if np.nanmean(x[t]) < experts[t].mean() - 0.1]
        training = [r["training"]["seconds"] / 60 for r in found[policy]]
        rows.append([policy, seeds, words(number(r["mean_success"]) for r in found[policy]), rate(x),
                     "" if policy == "fdp" else difference(x, played["fdp"]),
                     evenly(study, f"mt50/{policy}-s[0-9]-even.json", found[policy]), *map(number, mine.values()),
                     number(float(np.mean(list(mine.values())))), words(short) if short else "none",
                     number(float(np.median(training)), 0)])  # fmt: skip
    mine = groups(experts)
    rows.append(["scripted expert", "", "", number(success(experts)), "", "", *map(number, mine.values()),
                 number(float(np.mean(list(mine.values()))))])  # fmt: skip
    header = ["policy", "seeds", "success, each seed", "over tasks, 95 % interval", "minus fdp, points",
              "weights 1/K: points", *DIFFICULTY,
              "over these four", "tasks below the expert minus 10 points", "minutes of training"]  # fmt: skip
    weakest = sorted(played["fdp"], key=lambda task: np.nanmean(played["fdp"][task]))
    weak = [[task, *(count({task: x[task]}) for x in played.values()), "/".join(map(str, expert(found["fdp"], [task])))]
            for task in weakest]  # fmt: skip
    one = found["fdp"][0]["training"]
    return [
        *text(f"Commands: `study/mt50/table.py`. {one['demos_per_task']} demonstrations of each of the 50 tasks, "
              f"{one['steps']:,} steps, K = 4, and one network of the same size"
              + ("." if other else " (not measured yet)."), played_on(found["fdp"])),
        *table(header, rows), *text(DAGGER),
        *table(["task, fdp's weakest first", *played, "expert"], weak),
        *text("Published averages have other protocols, and none of these is a comparison: one policy from the state, "
              "random goals, 88.4 over tasks (DaCe-DT); cameras and language, 0.9 B parameters, 92.0 over tasks "
              "(FabriVLA); Diffusion Policy from cameras 16.1 over tasks, 10.5 over the four groups."),
    ]  # fmt: skip


def speed_run(study: Path) -> list[str]:
    """Seconds of training to a success: which checkpoint was the first."""
    rows = []
    for result in read(study, "mt50/curve-*.json").values():
        asked, curve = result["flags"], result["checkpoints"]
        first = [next((f"{c['seconds']:.0f}" for c in curve if c["success"] >= goal), "-") for goal in (0.9, 0.95)]
        best = max(curve, key=lambda c: c["success"])
        n = sum(n for _, n, _ in best["tasks"].values())
        theirs = sum(e for _, _, e in best["tasks"].values()) / n
        rows.append([asked["tasks"], asked["policy"], *first, f"{number(best['success'])} ({best['seconds']:.0f} s)", n,
                     number(theirs), result["hardware"], typed(result["command"]), result["revision"]])  # fmt: skip
    header = ["tasks", "policy", "seconds to 0.90", "to 0.95", "best checkpoint", "episodes", "expert", "machine",
              "command", "revision"]  # fmt: skip
    return [
        *text("Seconds of training until a checkpoint first reached a success, with train.py defaults; a dash: never. "
              "Demonstrations and evaluation come on top. Block 400, the one for choices: the first of many that "
              "reached a number is a choice, not an estimate. A forked training loop that is faster is a line more."),
        *table(header, rows),
        *(["![Success over seconds of training](mt50/curves.png)", ""] if (study / "mt50/curves.png").exists() else []),
    ]  # fmt: skip


def why_paper(study: Path) -> list[str]:
    result, was = read(study, "adapt/why-paper.json")["why-paper"], before(study)
    first = result["rows"][0]["before"]
    rows = [["before", *first.values(), sum(first.values())]]
    for row in result["rows"]:
        for key, name in (("paper", "as it is"), ("given_back", "its weight given back")):
            rows.append([f"{row['new_task']}, {name}", *row[key].values(), sum(row[key].values())])
        weight = row["weight_of_the_new_component"]
        rows.append([f"{row['new_task']}, its weight", *(number(weight[task], 2) for task in first)])
    experts = [was[task]["expert"]["successes"] for task in first]
    rows.append(["scripted expert", *experts, sum(experts)])
    total = {key: sum(sum(row[key].values()) for row in result["rows"]) for key in ("before", "paper", "given_back")}
    weights = [w for row in result["rows"] for w in row["weight_of_the_new_component"].values()]
    n = result["episodes_per_task"] * len(first) * len(result["rows"])
    return [
        *text(f"Command: {typed(result['command'])}, on the runs of the row `add-component, paper`. Training seed "
              f"{result['seed']}.", played_on([{"tasks": was}]),
              "Successes on each old task, after a new one was learned. \"It\" is the new component."),
        *table(["new task learned", *first, "sum"], rows),
        *text("A new component begins as a copy, with half of its original's weight, on old tasks too. It then "
              f"becomes another function, and keeps {span(weights)} of the weight. The old tasks fall from "
              f"{total['before']} to {total['paper']} of {n}. With that weight given back to the component that was "
              f"copied, they have {total['given_back']}. The rest is weight that the router shifted among old ones."),
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ speed


def speed(study: Path) -> list[str]:
    result, peer = read(study, "speed/cpu.json")["cpu"], read(study, "speed/lerobot-mt6.json")["lerobot-mt6"]
    mine, timed = core_groups(study, "mt6-fdp-50")["mt6-fdp-50"], {row["what"]: row for row in result["rows"]}
    rows, faster = [], []
    for what, row in timed.items():
        if "ours" not in (ratio := row["ratio"]):
            continue
        if "samples_per_second" in row:
            ours, end = f"{row['samples_per_second']['ours']:.0f} samples/s", ""
        else:
            ours, end = f"{row['milliseconds']['ours']:.1f} ms", ", DDIM 10"
            faster.append(f"{number(ratio['ours, DPM 3'], 2)} ({what.split(', ', 2)[2]})")
        theirs = ratio[f"LeRobot{end}"]
        times = (theirs, theirs / ratio[f"ours, as deep as LeRobot's{end}"], ratio["one by one"])
        rows.append([what, ours, *(f"{number(x, 1)} x" for x in times)])
    header = ["what", "ours", "LeRobot's takes", "at equal depth and sampler", "our components one by one take"]
    return [
        *text(f"Command: {typed(result['command'])} (`study/speed/lerobot_peer.py` says how to make the peer). "
              f"{result['hardware']}, no GPU, float32. One run measures everything in turn."),
        *table(header, rows),
        *text("The peer is a Python loop over LeRobot's U-Nets with diffusers' DDIM in 10 steps, at our widths and "
              "kernel. Ours samples with DPM-Solver++ in 5. LeRobot's U-Net has two residual blocks per level where "
              "ours has one. The fourth column compares networks of equal depth with the same sampler."),
        *text(f"Trained in our loop, the peer has {count(by_task([peer]))} on mt6, ours "
              f"{words(count(by_task([r])) for r in mine)}, and the expert {expert([peer])[0]}.",
              played_on([peer]), f"Command: {typed(peer['command'])}."),
        *text(f"`--sampling-steps 3` takes this share of the default's time: {words(faster)}."),
        "![Time of each alternative, in times of ours](speed/cpu.png)", "",
        *table(["also measured", "found"], also_measured(result["peak_gflops"], timed)),
    ]  # fmt: skip


def also_measured(peak: float, timed: dict[str, dict]) -> list[tuple[str, str]]:
    """The rest of the benchmark, as pairs of what and how much."""

    def ratio(what: str, name: str = "", digits: int = 1) -> str:
        ratios = timed[what]["ratio"]
        return f"{number(ratios[name] if name else next(iter(ratios.values())), digits)} x"

    share = {size: timed[f"training, {size}, K = 4, batch 64"]["share_of_peak"] for size in ("base", "small")}
    memory = {what: number(row["megabytes"] / 1000, 1) for what, row in timed.items() if "megabytes" in row}
    return [
        *((f"time, {what}", ratio(what)) for what in timed if what.startswith("K = 8")),
        (f"share of the best matrix product ({peak:.0f} GFLOP/s) in a training step",
         ", ".join(f"{size} {number(x, 2)}" for size, x in share.items())),
        ("environment steps per second with the policy, beside the bare simulator",
         ratio("environment steps of mt6, policy included", digits=2)),
        ("time of `evaluate.py` on mt6, beside the physics of its episodes",
         ratio("evaluate.py --run mt6 --episodes 50")),
        ("time of `train.py --help`, beside importing torch", ratio("start-up", "train.py --help / import torch", 2)),
        ("time to the first training step once demonstrations exist, beside importing torch",
         ratio("start-up", "first training step / import torch", 2)),
        *((what, f"{size} GB") for what, size in memory.items()),
        ("memory, evaluating 400 episodes, beside 100", ratio("memory, evaluating 100 episodes", digits=2)),
    ]  # fmt: skip


def samplers(study: Path) -> list[str]:
    found: dict[tuple[str, int], list[dict]] = {}
    settings = read(study, "speed/samplers.json")["samplers"]["settings"]
    for r in settings:
        found.setdefault((r["sampler"], r["steps"]), []).append(r)

    def cells(mine: list[dict], key: str) -> list[str]:
        total = f"{sum(r[key] for r in mine)}/{sum(r['n'] for r in mine)}"
        return [", ".join(str(r[key]) for r in mine), total]

    rows = [[SAMPLERS[sampler], steps, *cells(mine, "successes")] for (sampler, steps), mine in sorted(found.items())]
    one = next(iter(found.values()))
    many, few = ([sum(r["successes"] for r in mine) for (_, steps), mine in found.items() if (steps >= 3) == wanted]
                 for wanted in (True, False))  # fmt: skip
    blocks = words(sorted({r["seed"] for r in settings}))
    return [
        *text(f"Command: {typed(settings[0]['command'])}. mt6, {len(one)} runs (training seeds), {one[0]['n']} "
              f"episodes each, block {blocks}. That block is for choices: no other table here is from it."),
        *table(["sampler", "calls", "successes, each run", "all"],
               [*rows, ["scripted expert", "", *cells(one, "expert_successes")]]),
        *text(f"From 3 calls on, all settings have {span(many, 0)} successes, below {span(few, 0)}. The default is 5, "
              "because fewer narrow the distribution of actions (LOG.md). The file holds counts, not single episodes, "
              "so no intervals are given."),
        "![Success over network calls per chunk, for three samplers](speed/samplers.png)", "",
    ]  # fmt: skip


def forks(study: Path) -> dict[str, dict]:
    """Name -> evaluation, of the policies in variants/. NotMeasured unless all are there."""
    found = {name: result for name, result in read(study, "forks/*.json").items()}
    for name in FORKS:
        if name not in found:
            raise NotMeasured(f"`study/forks/{name}.json`")
    return found


CAMERAS = {"fdp": "fdp", "monolithic": "monolithic: one network of the same size", "uniform": "weights fixed at 1/K",
           "moe-top2": "mixture of experts, top 2"}  # fmt: skip


def cameras(study: Path) -> list[str]:
    first = list(read(study, "pixels/fdp-25-s[0-9].json").values())
    found = {policy: [json.loads(path.read_text()) for path in sorted(study.glob(f"pixels/{policy}-25-s[0-9].json"))]
             for policy in CAMERAS}  # fmt: skip
    rows, shifted, tasks = [], [], list(first[0]["tasks"])
    for policy, results in found.items():
        if not results:
            continue
        change = "" if policy == "fdp" else str(compare(results, first[: len(results)]))
        played, training = by_task(results), np.median([r["training"]["seconds"] for r in results]) / 60
        rows.append([CAMERAS[policy], len(results), *(count({task: played[task]}) for task in tasks),
                     rate(played).share, change, evenly(study, f"pixels/{policy}-25-s[0-9]-even.json", results),
                     f"{training:.0f}"])  # fmt: skip
        for path in sorted(study.glob(f"pixels/shift/{policy}-25-s0-*.json")):
            r, shift = json.loads(path.read_text()), path.stem.partition("-s0-")[2]
            shifted.append([CAMERAS[policy], f"`{shift}`", rate(by_task([r])).share, str(compare([r], results[:1]))])
    successes, n = expert(first)
    each = ("/".join(map(str, expert(first, [task]))) for task in tasks)
    rows.append(["scripted expert", "", *each, number(successes / n)])
    names = [task.removeprefix("fdp/").partition("-pixels")[0] for task in tasks]
    demos = flag(first[0]["training"]["command"], "--demos-per-task", 25)
    header = ["policy", "seeds", *names, "all, 95 % interval", "minus fdp, points", "weights 1/K: points", "minutes"]
    return [
        *text("Commands: `study/pixels/table.py`. mt6 from a corner and a wrist camera of 64 x 64 pixels and the "
              f"hand's own position, {demos} demonstrations per task, {first[0]['training']['steps']:,} steps, K = 4. "
              "Each seed draws its own demonstrations. Minutes are of training.", played_on(first)),
        *table(header, rows), *text(DAGGER),
        *table(["policy", "`--shift`", "all, 95 % interval", "minus as it was, points"], shifted),
        "![What the policy sees](pixels/sees.png)", "",
    ]  # fmt: skip


def fork_table(study: Path) -> list[str]:
    found, rows = forks(study), []
    for name, (what, file) in FORKS.items():
        result = found[name]
        lines = len((STUDY.parent / file).read_text().splitlines())
        change = "" if name == "mt6-fdp" or not name.startswith("mt6") else compare([result], [found["mt6-fdp"]])
        usage = np.array([row["router_weights"]["mean"] for row in result["tasks"].values()])  # (tasks, K)
        weights = f"{span(usage.ravel())}" if usage.shape[1] > 1 else ""
        rows.append([what, f"`{file}`", lines, rate(by_task([result])), change, weights, expert_cell([result])])
    header = ["policy", "file", "its lines", "success, 95 % interval", "minus fdp, points", "a task's mean weights",
              "expert"]  # fmt: skip
    return [
        *text("Command: `study/forks/table.py`. 50 demonstrations and 2000 steps per task, K = 4, one training seed.",
              played_on([found["mt6-fdp"]]), "fdp is the shipped run, made by the default command."),
        *table(header, rows), *text(DAGGER),
        *text("Differences are paired by episode. One seed each: they say what the forks do, not which is better."),
    ]  # fmt: skip


ROUTES = (0.2, -10)  # at least so many nats, at most so many points with another task's weights: study/router/table.py


def routes(found: dict) -> bool:
    """Whether a router routes, by the rule that was written down before any was measured."""
    told, swapped = found["tells"]["task"], found["changed"]["another task's"]["difference"]
    knows = told["above"] >= ROUTES[0] and told["interval"][0] > max(found["untrained"]["task"])
    return knows and swapped["mean"] <= ROUTES[1] and swapped["high"] < 0


def waking(study: Path) -> list[str]:
    found = read(study, "router/wake/*.json")
    names, missing = ([name for name in WAKING if (name in found) == there] for there in (True, False))
    rows = []
    for name in names:
        r = found[name]

        def change(what: str, r: dict = r) -> str:
            entry = r["changed"][what]
            return f"{number(entry['success'])} ({Difference(**entry['difference'])})"

        nats = [f"{number(told['above'], 2)} [{', '.join(number(x, 2) for x in told['interval'])}]"
                for told in map(r["tells"].get, ("task", "flags", "step"))]  # fmt: skip
        rows.append([name, len(r["similarity"]["signed"]), f"{r['parameters']:,}",
                     rate(by_task([{"tasks": r["played"]}])),
                     *map(change, ("1/K", "another task's", "mean over tasks", "top two")), *nats,
                     number(max(r["untrained"]["task"]), 2), number(r["contrast"], 0),
                     number(r["similarity"]["effective_rank"], 1), "yes" if routes(r) else "no",
                     PREDICTIONS[name]])  # fmt: skip
    one = found[names[0]]
    successes, n = (sum(e[key] for e in one["expert"].values()) for key in ("successes", "n"))
    header = ["way", "K", "parameters", "success, 95 % interval", "weights 1/K", "another task's", "their mean over "
              "tasks", "top two", "nats about the task", "about flags", "about time", "untrained, about the task",
              "contrast", "effective rank", "routes", "predicted: does it route?"]  # fmt: skip
    most = one["tells"]["task"]["most"]
    return [
        *text("Commands: `study/router/table.py`; `python study/router/measure.py --run RUN` for any other run. mt6, "
              f"25 demonstrations, 6,000 steps, one seed. {played_on([{'tasks': one['played']}])} The expert: "
              f"{number(successes / n)}.", f"Not measured yet: {words(missing)}." if missing else ""),
        *table(header, rows), *text(DAGGER),
        *text("In brackets: points more or less than as it is, with their interval. Nats: what a component, drawn by "
              f"the weights, tells about the task (ln K and ln 6 are the most: {number(most, 2)} with K = 4) above "
              "shuffled labels; about what the environment reports (near the object, grasped) above the same of "
              "another episode of the task; and about the time in the episode. Untrained: the most that five routers "
              "tell which have learned nothing and weigh in the same way. Contrast: success lost without a component, "
              "the task that loses most minus the median task, in points, mean over components. *Routes*, by a rule "
              f"written down beforehand: {ROUTES[0]} nats about the task, with an interval above the untrained; and "
              f"{-ROUTES[1]} points lost with weights of another task, with an interval below zero."),
    ]  # fmt: skip


def commands(study: Path) -> list[str]:
    found = list(read(study, "core/*-command.json").values())
    parts = ("demonstrations", "training", "evaluation", "whole process")
    rows = [[typed(r["command"]), *(f"{r['seconds_of_command'][part]:.0f}" for part in parts), rate(by_task([r])),
             expert_cell([r])] for r in found]  # fmt: skip
    return [*text("Seconds, on an otherwise idle machine. One training seed.", played_on(found)),
            *table(["command", *parts, "success, 95 % interval", "expert"], rows), *text(DAGGER)]  # fmt: skip


def sources(study: Path) -> list[str]:
    """Which revisions of the code and which machines the files come from."""
    rows = []
    for pattern in ("core/*-s[0-9]*.json", "adapt/*-s[0-9]*.json", "adapt/budget/*.json", "ml45/*-s[0-9].json",
                    "ml45/*/*-draw[0-9]-s[0-9].json", "mt50/*-s[0-9].json", "sequences/*-s[0-9].json",
                    "router/wake/*.json", "speed/[cl]*.json"):  # fmt: skip
        if rows and not any(study.glob(pattern)):
            continue  # not measured yet, as its own section says
        results = read(study, pattern).values()
        revisions = sorted(Counter(r["revision"] for r in results).items())
        rows.append([f"`study/{pattern}`", ", ".join(f"{name} ({n})" for name, n in revisions),
                     words(sorted({r["hardware"] for r in results}))])  # fmt: skip
    return [*text("Revisions of the code, and how many files are from each. `-dirty`: a tracked file had changed "
                  "(LOG.md)."), *table(["files", "revisions", "machine"], rows)]  # fmt: skip


# --------------------------------------------------------------------------------------------------------- the page

HEAD = f"""# Results, with the commands that make them

`python study/report.py` writes this page from the JSON files beside it. With `--check` it says whether they agree.
Commands are typed in the repository's root. How everything was measured: [measuring.md](../docs/measuring.md).

**Success** is the share of simulated episodes in which the environment's success flag was set at some step.

**The scripted expert** is MetaWorld's own, on the same episodes. It is a reference: a policy can be above it.

**Episodes.** No policy was trained on an evaluation episode. Its goal and objects stand at new places, but inside the
same box as in training. So this is interpolation, not a new distribution. The environment's seed decides the places.
Evaluation episodes come in blocks: episode i of block N has the seed {FIRST:,} + {BLOCK:,} N + i. Every section says
how many episodes of which block it has.

**Seeds**, where nothing else is said, are training seeds. All seeds of a row learn from the same demonstrations and
play the same episodes.

**Intervals** are at 95 %. Three seeds on the same episodes are not three times as many independent episodes. So we
draw whole episodes anew within each task, each with the outcomes of all seeds, and take the middle 95 % of
{RESAMPLES:,} draws (Efron's bootstrap, by clusters). Where there is one seed, or the same outcome everywhere, we give
Wilson's interval over the episodes and mark it †. Differences are paired: both sides come from the same drawn episodes.
An interval covers the choice of episodes. It does not cover other demonstrations, and hardly other training seeds.
Where few episodes fail, a drawn interval is too narrow: a row with one failure can seem surer than a row with none.
"""

SECTIONS = {
    "Policies trained from demonstrations": core,
    "mt6, task by task: factorized and monolithic": mt6,
    "One new task at a time": one_task,
    "Four new tasks in turn": sequences,
    "Four new tasks together": together,
    "Fewer demonstrations, fewer steps": budget,
    "Why the paper's retention forgets": why_paper,
    "A new task from one demonstration": one_demonstration,
    "Learning in turn, beginning with nothing": from_nothing,
    "One policy for fifty tasks": fifty,
    "Seconds to a success": speed_run,
    "From cameras": cameras,
    "Forks": fork_table,
    "What wakes the router": waking,
    "Speed, beside a peer": speed,
    "Network calls per action chunk": samplers,
    "How long whole commands take": commands,
    "Where the files come from": sources,
}


def or_not_measured(function, study: Path) -> list[str]:
    """What a function of a section returns, or one line that names the missing files."""
    try:
        return function(study)
    except NotMeasured as missing:
        return [f"Not measured yet: {missing}.", ""]


def page(study: Path = STUDY) -> str:
    """study/README.md."""
    sections = [line for title, function in SECTIONS.items()
                for line in (f"## {title}", "", *or_not_measured(function, study))]  # fmt: skip
    return "\n".join([HEAD, *sections]).rstrip("\n") + "\n"


# ------------------------------------------------------------------------------------- blocks for the top-level README


def finding(study: Path) -> list[str]:
    """What there is to know first, flattering or not."""
    found, was, adapted = core_groups(study, *MT6), before(study), ways(study)
    more, fewer = (mt6_difference(found, demos) for demos in (50, 25))
    rates = [number(success(by_task(found[name]))) for name in MT6]
    successes, n = expert(found[MT6[0]])
    verdict = "does not beat" if more.low <= 0 else "beats"
    fork = {name: success(by_task([forks(study)[name]])) for name in ("mt6-fdp", "mt6-uniform")}
    exact, full = adapted["add-exact"], adapted["full"]
    new, of = expert([r for mine in adapted.values() for r in mine], NEW)
    share = exact[0]["stage"]["trained_parameters"] / full[0]["stage"]["trained_parameters"]
    fewest, steps = least(study, "steps")
    one, demos = least(study, "demos_per_task")
    return [
        *text(f"Factorizing {verdict} one network of the same size here: on six tasks the difference is {more} points "
              f"with 50 demonstrations each ({rates[0]} and {rates[1]}), {fewer} with 25 ({len(found[MT6[0]])} seeds, "
              f"95 % intervals; the scripted expert has {number(successes / n)}).", bullet=True),
        *text(f"The router hardly routes: trained with weights fixed at 1/K the policy has "
              f"{number(fork['mt6-uniform'])}, with a router {number(fork['mt6-fdp'])} (one seed).", bullet=True),
        *text(f"New tasks are added without forgetting: a stage (a component copied, a router, a correction of the "
              f"encoder) learns four to {number(success(new_tasks(exact)))} with {share:.0%} of the parameters (the "
              f"expert {number(new / of)}), and old tasks keep their actions bit for bit. Fine-tuning everything has "
              f"{number(success(new_tasks(full)))}, and loses {number(-old_change(full, was).mean, 1)} points on them.",
              bullet=True),
        *text(f"The honest rival, a policy of a stage's size for each new task alone, has "
              f"{number(success(new_tasks(adapted['specialist'])))} from the same {DEMOS} demonstrations; from {one} "
              f"{demos['specialist']} (adding {demos['add-exact']}), after {fewest} steps {steps['specialist']} "
              f"({steps['add-exact']}).", bullet=True),
        *when_measured(one_demonstration_finding, study), *when_measured(fifty_finding, study),
    ]  # fmt: skip


def when_measured(function, study: Path) -> list[str]:
    """An item of the finding, where there is something to say."""
    try:
        return text(function(study), bullet=True)
    except NotMeasured:
        return []


def one_demonstration_finding(study: Path) -> str:
    found = crossed_runs(study, 1, 2000)
    best, rival = found["fdp", "add-exact"], found["monolithic", "low-rank"]
    runs = [r for key in found for r in read(study, f"ml45/{key[0]}/{key[1]}-*-d1-n2000-*.json").values()]
    successes, n = expert(runs, NEW_ML45)
    change = crossed_difference(best, rival)
    alone = {way: number(success(found["fdp", way])) for way in ALONE[:2]}
    why = "Factorizing helps here" if change.low > 0 else "Factorizing is not shown to help"
    return (
        f"A policy of 45 tasks learns each of five others from one demonstration to {number(crossed_rate(best).mean)} "
        f"(from nothing {alone['specialist']} and {alone['scratch']}, with the first of the demonstrations; the expert "
        f"{number(successes / n)}). {why}: one "
        f"network of the same size, with low-rank adapters, has {number(success(rival))}; the difference is {change} "
        f"points ({change.verdict})."
    )


def fifty_finding(study: Path) -> str:
    found = list(read(study, "mt50/fdp-s[0-9].json").values())
    rates, (successes, n) = rate(by_task(found)), expert(found)
    even = evenly(study, "mt50/fdp-s[0-9]-even.json", found)
    minutes, S = np.median([r["training"]["seconds"] for r in found]) / 60, len(found)
    router = f" Weights of 1/K change that by {even} points." if even else ""
    return (f"One policy for all 50 tasks has {number(rates.mean)} [{number(rates.low)}, {number(rates.high)}] "
            f"({S} seed{'s' * (S > 1)}, {minutes:.0f} minutes on one core; the expert {number(successes / n)}).{router}"
            )  # fmt: skip


def least(study: Path, varied: str) -> tuple[int, dict[str, str]]:
    """The smallest budget that was measured, and way -> success on the new tasks with it."""
    found = budget_runs(study, varied)
    level = min(level for _, level in found)
    return level, {way: number(success(found[way, level])) for way in EVERY}


BLOCKS = {"finding": finding}


def marked_tables(study: Path = STUDY) -> dict[str, str]:
    """name -> Markdown that a page may have between <!-- name --> and <!-- /name -->."""
    return {name: "\n".join(or_not_measured(function, study)).strip("\n") for name, function in BLOCKS.items()}


def fill(markdown: str, study: Path = STUDY) -> str:
    """The text with the content of its marked blocks made anew. ValueError for a block that does not end."""
    for name, content in marked_tables(study).items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if markdown.count(begin) != markdown.count(end):
            raise ValueError(f"{begin} without {end}, or the other way round")
        block = f"{begin}\n{content}\n{end}"
        markdown = re.sub(f"{begin}.*?{end}", lambda _, block=block: block, markdown, flags=re.DOTALL)
    return markdown


def first_difference(path: Path, wanted: str) -> str | None:
    """The first line in which a file is not what it should be, in words. None if there is none."""
    found, lines = path.read_text().splitlines() if path.exists() else [], wanted.splitlines()
    for i in range(max(len(found), len(lines))):
        has, should = (x[i] if i < len(x) else None for x in (found, lines))
        if has != should:
            return f"line {i + 1}, has {has!r}, and should have {should!r}"
    return None


def main(arguments: list[str], root: Path = STUDY.parent) -> int:
    """Write, or with --check compare, the pages in a repository's root. Returns the exit code."""
    if set(arguments) - {"--check"}:
        print(__doc__, file=sys.stderr)
        return 2
    readme = root / "README.md"
    for path, wanted in ((root / "study/README.md", page(root / "study")),
                         (readme, fill(readme.read_text(), root / "study"))):  # fmt: skip
        if "--check" not in arguments:
            path.write_text(wanted)
        elif told := first_difference(path, wanted):
            print(f"{path.relative_to(root)}, {told}\nmake it anew: python study/report.py", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
