"""Does the router route? As sections of study/README.md."""

import json
from itertools import product
from pathlib import Path

import numpy as np

from study.intervals import (
    DAGGER,
    Difference,
    by_task,
    compare,
    compare_seeds,
    count,
    crossed_difference,
    crossed_rate,
    difference,
    number,
    points,
    rate,
    redrawn,
    stack,
)
from study.markdown import (
    NotMeasured,
    bullets,
    evenly,
    expert,
    expert_cell,
    paired,
    played_on,
    read,
    span,
    table,
    text,
    words,
)
from study.router.baselines import SETTINGS as DATA
from study.router.baselines import TABLE as RUNS
from study.router.default import NAMES
from study.router.table import LATER, PREDICTIONS
from study.router.table import WAYS as WAKING

CHANGES = ("1/K", "another task's", "the task's mean", "mean over tasks", "top two")  # what stands in for the weights
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
        rows.append([name, f"`{WAKING[name][1]}`" if WAKING[name][1] else "as it is", len(r["similarity"]["signed"]),
                     f"{r['parameters']:,}",
                     rate(by_task([{"tasks": r["played"]}])),
                     *map(change, CHANGES), *nats,
                     number(max(r["untrained"]["task"]), 2), number(r["contrast"], 0),
                     number(r["similarity"]["effective_rank"], 1), "yes" if routes(r) else "no",
                     PREDICTIONS[name]])  # fmt: skip
    asleep = [found[name]["changed"]["another task's"]["difference"] for name in names if not routes(found[name])]
    alone = sum(change["mean"] <= ROUTES[1] and change["high"] < 0 for change in asleep)
    one = found[names[0]]
    successes, n = (sum(e[key] for e in one["expert"].values()) for key in ("successes", "n"))
    header = ["way", "flags", "K", "parameters", "success, 95 % interval", "weights 1/K", "another task's",
              "the task's mean", "mean over tasks", "top two only", "nats: task", "nats: events", "nats: time",
              "nats: task, untrained", "contrast", "effective rank", "routes",
              "predicted: does it route?"]  # fmt: skip
    most = one["tells"]["task"]["most"]
    return [
        *text("Commands: `study/router/table.py`; `python study/router/measure.py --run RUN` for any other run. mt6, "
              f"25 demonstrations, 6,000 steps, one seed. {played_on([{'tasks': one['played']}])} The expert: "
              f"{number(successes / n)}.", f"Not measured yet: {words(missing)}." if missing else "",
              "Flags are train.py's; the head of `variants/waking.py` says what its ways are. Rows of a GPU machine "
              "(study/gpu/README.md) were trained on its CPU."),
        *table(header, rows), *text(DAGGER),
        *text("Five columns replace the weights: success, and in brackets the change in points. "
              "Nats: mutual information of a component, drawn by the weights, with the task (at most ln K and ln 6: "
              f"{number(most, 2)} with K = 4), less that of shuffled labels; with events in the episode "
              "(near the object, grasped), less that of another episode of the task; and with the time in the "
              "episode. Another task's weights are those of a random moment, which costs success by itself; the "
              "task's own mean has the right task and no moment, for comparison. Untrained: the most that five "
              "untrained routers of the same kind reach. Contrast: success lost without a component, "
              "the task that loses most minus the median task, in points, mean over components. Effective rank of the "
              "components' predictions: 1 (all alike) to K. *Routes*, by a rule "
              f"written down beforehand: {ROUTES[0]} nats about the task, with an interval above the untrained; and "
              f"{-ROUTES[1]} points lost with weights of another task (the next of the list), with an interval below "
              f"zero. {alone} of the {len(asleep)} ways that do not route pass that half, too: the nats decide."),
        *(pictures(found[READ], one) if READ in found and "tasks" in found[READ] else []),
    ]  # fmt: skip


def pictures(found: dict, usual: dict) -> list[str]:
    """Of the way whose weights can be read most easily."""
    return [
        *text(f"`{READ}`, from an episode's beginning to its end, and success without each component at the right:"),
        f"![{READ}: the weight of each component over time, task by task](router/wake/{READ}-time.png)", "",
        f"![{READ}: success with other weights, and without each component](router/wake/{READ}-without.png)", "",
        f"![{READ}: mean weight of each component in each task](router/wake/{READ}-usage.png)", "",
        f"![{READ}: cosines between components' predictions](router/wake/{READ}-likeness.png)", "",
        *bullets(*reading(found), *called(found), only_that(found), named(found, usual),
                 alike({READ: found, "softmax": usual})),
    ]  # fmt: skip


def acts(found: dict, k: int) -> list[str]:
    """The tasks in which component k has a mean weight of at least 0.15."""
    return [task for task, entry in found["tasks"].items() if entry["mean"][k] >= 0.15]


def only_that(found: dict) -> str:
    """Whether what fails without a component is where it acts, and all of that."""
    K = len(found["similarity"]["signed"])
    lost = [lost_without(found, k) for k in range(K)]
    named = [(k, task) for k in range(K) for task in acts(found, k)]
    kept = [(k, task) for k, task in named if lost[k][task] < 0.5]
    else_ = [(k, task) for k in range(K) for task, x in lost[k].items() if x >= 0.5 and (k, task) not in named]
    told = words(f"{task} without {k}" for k, task in kept)
    return (
        f"Of {len(named)} pairs of a component and a task in which it acts, {len(named) - len(kept)} lose half or more"
        + (f" ({told} {'does' if len(kept) == 1 else 'do'} not)" if kept else "")
        + f"; of the {K * len(lost[0]) - len(named)} others, {len(else_) or 'none'}."
    )


CALLED = {  # what a person calls a component of READ, and the tasks in which it has the most weight
    "the hammer": ["hammer"],
    "the drawer": ["drawer-open"],
    "what is carried, and put on or into something": ["assembly", "peg-insert-side"],
    "what turns or slides": ["door-open", "window-close"],
}


def called(found: dict) -> list[str]:
    """Names for the components, as long as they are those that were looked at."""
    most = [[task for task, entry in found["tasks"].items() if int(np.argmax(entry["mean"])) == k]
            for k in range(len(found["similarity"]["signed"]))]  # fmt: skip
    if list(map(sorted, most)) != list(map(sorted, CALLED.values())):
        return []
    return [f"By the tasks in which each has the most weight one would call them: {words(CALLED)}."]


def alike(those: dict[str, dict]) -> str:
    """How alike the components' predictions are."""
    told = []
    for name, found in those.items():
        s, K = found["similarity"], len(found["similarity"]["signed"])
        cosine = (np.sum(s["signed"]) - K) / (K * K - K)
        told.append(f"{number(cosine, 2)} and {number(s['double_counting'], 3)} (`{name}`)")
    return (
        "Between components' predictions the mean cosine and the double counting (study/router/routing.py) are "
        f"{words(told)}."
    )


def lost_without(found: dict, k: int) -> dict[str, float]:
    """Task -> share of its episodes that fail for want of component k."""
    left_out = found["changed"][f"without {k}"]["tasks"]
    return {task: (e["successes"] - left_out[task]["successes"]) / e["n"] for task, e in found["played"].items()}


def reading(found: dict) -> list[str]:
    """What a person reads off the pictures of one way: where a component acts, and what fails without it."""
    told = []
    for k in range(len(found["similarity"]["signed"])):
        fails = [task for task, lost in lost_without(found, k).items() if lost >= 0.5]
        loses = f"{words(fails or ['nothing'])} {'loses' if len(fails) < 2 else 'lose'} half or more"
        told.append(f"Component {k} acts in {words(acts(found, k) or ['nothing'])} (mean weight at least 0.15); without"
                    f" it {loses}.")  # fmt: skip
    return told


def named(found: dict, usual: dict) -> str:
    """How many tasks fail without a component, beside the same of the usual router."""
    need = [[sum(x >= 0.5 for x in lost_without(r, k).values()) for k in range(len(r["similarity"]["signed"]))]
            for r in (found, usual)]  # fmt: skip
    return (
        f"Without one of its components {span(need[0], 0)} of {len(found['played'])} tasks lose half or more; but so "
        f"do {span(need[1], 0)} without one of `softmax`, which hardly routes: failing without a "
        "component is no sign of routing."
    )


REPLACED = (  # evaluations of today's router with 1/K in the place of its weights
    *(f"router/baselines/{setting}-fdp-s[0-9]-even.json" for setting in DATA),
    "router/fifty/softmax-s[0-9]-even.json",
    "router/components/each-4-s[0-9]-even.json",
    "mt50/fdp-s[0-9]-even.json",
    "pixels/fdp-25-s[0-9]-even.json",
    "pixels/fdp-50-s[0-9]-even.json",
    "pixels/usual-fdp-s[0-9]-even.json",
)
READ = "bonus-0.1"  # whose pictures can be read most easily


def dependence(study: Path) -> str:
    """What it costs to replace a trained router's weights by 1/K, on episodes that were kept for reports."""
    changes = []
    for pattern in REPLACED:
        even, usual = paired(study, pattern, pattern.replace("-even", ""))
        changes += [compare([a], [b]).mean for a, b in zip(even, usual, strict=True)]
    if not changes:
        raise NotMeasured(f"`study/{REPLACED[0]}`")
    return (
        f"Replacing them by 1/K changes success by {points(min(changes))} to {points(max(changes))} points after "
        f"training ({len(changes)} runs, K = 4)"
    )


def by_name(study: Path, pattern: str) -> dict[str, list[dict]]:
    """Name of a run without its seed -> results, one for each seed."""
    found: dict[str, list[dict]] = {}
    for stem, result in read(study, pattern).items():
        found.setdefault(stem.rpartition("-s")[0], []).append(result)
    return found


def minus(study: Path, folder: str, *names: str) -> str:
    """Success of one minus another one, in points, over the seeds that both have; empty if there are none."""
    pair = paired(study, *(f"router/{folder}/{name}-s[0-9].json" for name in names))
    return str(compare_seeds(*pair)) if pair[0] else ""


def minutes(results: list[dict]) -> str:
    return number(float(np.median([r["training"]["seconds"] for r in results])) / 60, 1)


ON_FIFTY = {"monolithic": "one network of the same total size", "monolithic-2": "one network, of two components' size"}


def on_fifty(study: Path) -> list[str]:
    found, rows = by_name(study, "router/fifty/*-s[0-9].json"), []
    looked = {path.name.rpartition("-s")[0]: json.loads(path.read_text())
              for path in study.glob("router/fifty/*-router.json")}  # fmt: skip
    for name, results in found.items():
        told = looked.get(name)
        nats = number(told["tells"]["task"]["above"], 2) if told else ""
        title = ON_FIFTY.get(name) or RIVALS.get(name, f"`{name}`")
        rows.append([title, ", ".join(number(r["mean_success"]) for r in results),
                     crossed_rate(redrawn(results)).share,
                     *("" if other == name else minus(study, "fifty", name, other)
                       for other in ("softmax", *ON_FIFTY)),
                     evenly(study, f"router/fifty/{name}-s[0-9]-even.json"), nats,
                     ("yes" if routes(told) else "no") if told else "", minutes(results)])  # fmt: skip
    results = [r for mine in found.values() for r in mine]
    later = [f"`{name}`" for name in LATER if name in found]
    successes, n = expert(results)
    rows.append(["scripted expert", "", number(successes / n)])
    header = ["way", "success, each seed", "all seeds, 95 % interval", "minus softmax", "minus one network",
              "minus one network of two components' size", "weights 1/K", "nats about the task", "routes",
              "minutes of training"]  # fmt: skip
    return [
        *text("Commands: `study/router/fifty.py`. Up to three ways of the table above that route on mt6,"
              + (f" some added later ({words(later)})," if later else "") + " and the default, `softmax`, on 50 "
              "tasks with 25 demonstrations of each and 10,000 steps; three seeds of each are planned, finished ones "
              "shown; of `bonus-0.03`, `top2-of-8-bonus`, a mixture of experts and the paper's settings the first. "
              "Other rivals were not trained on 50 tasks.", played_on(results)),
        *table(header, rows), *daggers(rows),
        *text("Differences are in points, of the seeds that both have. Intervals resample seeds and episodes; with "
              "one seed they are over episodes alone, and too narrow: see how far the seeds of one way are from each "
              "other. Weights 1/K: over the seeds listed in the cell, else one seed. Nats and the rule: as "
              "above, for the first seed, 4 episodes of each task on block 400. Minutes are of one core beside other "
              "work."),
    ]  # fmt: skip


AT_HOME = {  # what people do with the default -> results of a way, below study/
    "reach and push": "router/default/{}-reach-push",
    "mt6, 50 demonstrations": "router/default/{}-mt6",
    "a new task upon that, of mt4, each alone": "router/default/{}/add-*",
    "mt6 from cameras, half the steps": "router/default/{}-pixels",
}
USUAL = {"router/default/softmax-pixels": "pixels/choice/shift-1-6000"}  # was there before


def played_by(study: Path, pattern: str) -> dict[str, dict]:
    """task -> its entry, from one evaluation, or from adaptations to one task each. Empty if that was not played."""
    found = [json.loads(path.read_text()) for path in sorted(study.glob(f"{pattern}.json"))]
    return {task: entry for r in found for task, entry in r["tasks"].items() if r.get("task", task) == task}


def as_default(study: Path) -> list[str]:
    """What a way that routes comes to where it is not fifty tasks."""
    rows, loses = [], {name: [] for name in NAMES[1:]}
    for what, pattern in AT_HOME.items():
        entries = [played_by(study, USUAL.get(path, path)) for path in map(pattern.format, NAMES)]
        usual, *mine = ({task: stack([entry]) for task, entry in played.items()} for played in entries)
        cells = []
        for name, x in zip(NAMES[1:], mine, strict=True):
            change = difference(x, usual) if x and set(x) == set(usual) else None
            cells.append(f"{rate(x).count} ({change})" if change else "")
            loses[name] += [what] * (change is not None and change.high < 0)
        if any(cells):
            rows.append([what, rate(usual), *cells, "/".join(map(str, expert([{"tasks": entries[0]}])))])
    if not rows:
        raise NotMeasured("`study/router/default/*.json`")
    return [
        *text("Commands: `study/router/default.py`. Ways that route, beside today's default where people would meet "
              "them, one seed, block 400. In brackets: points more or less, on the same episodes. (softmax from "
              "cameras has the best of four sizes of shift, chosen on these episodes, which favours it. An interval "
              "that ends within half a point of zero depends on the seed of the resampling.)"),
        *table(["what", "softmax, 95 % interval", *(f"`{name}`" for name in NAMES[1:]), "expert"], rows),
        *text(DAGGER), *text(*(decided(study, name, what) for name, what in loses.items())),
    ]  # fmt: skip


def decided(study: Path, name: str, loses: list[str]) -> str:
    """What becomes of a way by the rule: fifty tasks first, and then where people would meet it."""
    pair, path = paired(study, *(f"router/fifty/{x}-s[0-9].json" for x in (name, "softmax"))), study / "router/fifty"
    looked = path / f"{name}-s0-router.json"
    if not pair[0]:
        return f"`{name}` was not played on fifty tasks."
    change = compare_seeds(*pair)
    if not looked.exists():
        return f"`{name}` has {change} points on fifty tasks; whether it routes there was not measured."
    if not routes(json.loads(looked.read_text())) or change.high < 0:
        return f"`{name}` is no default by the rule: fifty tasks, {change} points."
    ends = (f"it loses in {words(loses)}, so we left it; for that look no threshold had been written down" if loses
            else "nothing above speaks against it")  # fmt: skip
    return f"Fifty tasks ({change} points) would let `{name}` be the default by the rule; {ends}."


def sparse_cost(study: Path) -> list[str]:
    """What two of eight components cost."""
    found = read(study, "router/cost.json")["cost"]
    names = list(found["rows"][0]["ratio"])
    rows = [[f"{row['what']}, {row['size']}", number(row["milliseconds"][names[0]], 1),
             *(number(row["ratio"][name], 2) for name in names[1:])] for row in found["rows"]]  # fmt: skip
    most = max(row["ratio"]["two of K = 8"] for row in found["rows"])
    threads = f"{found['threads']} thread{'s' * (found['threads'] > 1)}"
    return [
        *text(f"Command: `python study/router/cost.py`. {found['hardware']}, {threads}. Each row of a batch uses two "
              "of K = 8 components, spread evenly by hand; only those are computed. Columns without ms are times "
              "relative to K = 2."),
        *table(["what", f"{names[0]}, ms", *names[1:]], rows),
        *text(f"The goal, at most 1.3, is {'met' if most <= 1.3 else 'missed'}. The multiplications are as many as "
              "those of K = 2, but in eight products of a quarter of the rows, with four times the weights to read "
              "and, in training, to update."),
    ]  # fmt: skip


BASES = {
    "fdp": "today's",
    "informed": "one that routes: `--policy informed --bonus 0.1`",
    "affine": "signed weights: `--router affine`",
    "affine-16": "signed weights, sixteen slim components: `--router affine --policy waking --how narrow`",
    "slim-16": "sixteen slim components: `--policy waking --how narrow`",
    "monolithic": "one network of the same size",
}
LEARNS = {  # way -> what learns
    "router-elsewhere": "router and name",
    "name-elsewhere": "name",
    "low-rank-1-elsewhere": "name, adapters of rank 1",
}


def routed(study: Path) -> dict[tuple[str, str], tuple[list[dict], dict[str, np.ndarray]]]:
    """(base, way) -> its results, and task -> successes (1, draws, episodes), NaN where a draw was not learned from. Of
    what has all tasks."""
    made = {(base, way): [r for path in sorted(study.glob(f"router/adapting/{base}/{way}-*.json"))
                          if (r := json.loads(path.read_text()))["way"] == way]
            for base, way in product(BASES, LEARNS)}  # fmt: skip
    tasks = sorted({r["task"] for runs in made.values() for r in runs})
    made = {key: runs for key, runs in made.items() if runs and {r["task"] for r in runs} == set(tasks)}
    if not (every := [r for runs in made.values() for r in runs]):
        raise NotMeasured("`study/router/adapting/*/*.json`")
    draws, found = sorted({r["flags"]["demo_draw"] for r in every}), {}
    for key, runs in made.items():
        n = runs[0]["tasks"][runs[0]["task"]]["n"]
        mine = {task: np.full((1, len(draws), n), np.nan) for task in tasks}
        for r in runs:
            mine[r["task"]][0, draws.index(r["flags"]["demo_draw"])] = stack([r["tasks"][r["task"]]])[0]
        found[key] = runs, mine
    return found


def by_routing(study: Path) -> list[str]:
    """A new task by the router and the name alone; beside it, one network by what it has in their place."""
    rows, found = [], routed(study)
    every, tasks = [r for runs, _ in found.values() for r in runs], next(iter(found.values()))[1]
    for (base, way), (runs, mine) in found.items():
        _, idle = found.get(("fdp", "router-elsewhere"), ([], None))
        change = "" if base == "fdp" or idle is None else crossed_difference(mine, idle)
        rows.append([BASES[base], LEARNS[way], len({r["flags"]["demo_draw"] for r in runs}),
                     *(count({task: x}) for task, x in mine.items()), crossed_rate(mine).share, change,
                     f"{runs[0]['stage']['trained_parameters']:,}"])  # fmt: skip
    of = [expert(every, [task]) for task in tasks]
    rows.append(["scripted expert", "", "", *("/".join(map(str, cell)) for cell in of),
                 number(sum(s for s, _ in of) / sum(n for _, n in of))])  # fmt: skip
    header = ["base", "what learns", "draws", *tasks, "all, 95 % interval", "minus today's, points",
              "trained parameters"]  # fmt: skip
    return [
        *text("Commands: `study/router/adapting.py`. On a base of 45 tasks, from one demonstration, augmented, only "
              "the router and the new task's embedding are learned: the policy can only reweight its components. One "
              "network has nothing to weigh: it learns the embedding alone, or adapters on every layer, too "
              "(`study/ml45/low_rank.py`).", played_on(every)),
        *table(header, rows),
        *text("One base each. Intervals draw demonstrations and episodes; with one draw they are over episodes alone."),
    ]  # fmt: skip


SETTINGS = {
    "mt6-25": "mt6, 25 demonstrations of each task",
    "mt6-3": "mt6, 3 demonstrations",
    "mt6-1": "mt6, 1 demonstration",
    "two-ways": "two tasks whose expert goes around a wall on either side, 50 demonstrations",
}
RIVALS = {
    "fdp": "fdp",
    "monolithic": "one network of the same size",
    "uniform": "weights fixed at 1/K",
    "moe-top1": "mixture of experts, top 1",
    "moe-top2": "mixture of experts, top 2",
    "moe-top2-balance-0.1": "the same, balanced ten times as hard",
    "decorrelated": "components that are kept apart",
    "informed": "top 2, a bonus for information",
    "bc": "regression by four linear layers, no diffusion",
    "bc-unet": "regression by one network's U-Net",
    "paper": "fdp, the paper's settings",
}


def rivals(study: Path) -> list[str]:
    found, rows = by_name(study, "router/baselines/*-s[0-9].json"), []
    for setting, title in SETTINGS.items():
        mine = {policy: found[f"{setting}-{policy}"] for policy in RIVALS if f"{setting}-{policy}" in found}
        for policy, results in mine.items():
            change = "" if policy == "fdp" else minus(study, "baselines", f"{setting}-{policy}", f"{setting}-fdp")
            rows.append([title, RIVALS[policy], len(results), crossed_rate(redrawn(results)).share, change,
                         evenly(study, f"router/baselines/{setting}-{policy}-s[0-9]-even.json"),
                         minutes(results), expert_cell(results)])  # fmt: skip
    header = ["data", "policy", "seeds", "success, 95 % interval", "minus fdp", "weights 1/K", "minutes of training",
              "expert"]  # fmt: skip
    return [
        *text("Commands: `study/router/baselines.py`. Equal parameters (within 2 %) and 6,000 steps; all sample alike, "
              "but for the regression, a plain network without sampling. Each seed draws demonstrations of its own. "
              f"{sum(map(len, found.values()))} of {len(RUNS[-1])} planned runs are there.",
              played_on([r for mine in found.values() for r in mine])),
        *table(header, rows), *daggers(rows),
        *regression_by_task(found),
        *text("Differences are in points, of the seeds that both have, on the same episodes. Intervals draw episodes "
              "and seeds anew, and with a seed its demonstrations; with one seed they are over episodes alone, and too "
              "narrow."),
    ]  # fmt: skip


def daggers(rows: list[list]) -> list[str]:
    """What the mark means, where it is on the page."""
    return text(DAGGER) if any("†" in str(cell) for row in rows for cell in row) else []


def regression_by_task(found: dict[str, list[dict]]) -> list[str]:
    """Where regression is behind: task by task."""
    told = []
    for (setting, title), rival in product(SETTINGS.items(), ("bc", "bc-unet")):
        pair = [by_task(found[name]) for name in (f"{setting}-{rival}", f"{setting}-fdp") if name in found]
        if len(pair) == 2:
            bc, fdp = ([count({task: x}) for task, x in played.items()] for played in pair)
            names = [task.removeprefix("fdp/").removesuffix("-v3") for task in pair[0]]
            each = zip(names, bc, fdp, strict=True)
            told.append(f"{title}, {RIVALS[rival]}: " + words(f"{name} {mine} ({its})" for name, mine, its in each))
    return text(f"Regression, and fdp in brackets, task by task. {'. '.join(told)}.") if told else []


def how_many(study: Path) -> list[str]:
    found, rows = by_name(study, "router/components/*-s[0-9].json"), []
    found["together-4"] = found.get("each-4", [])  # the same
    cost = study / "router/components/cost.json"
    timed, unknown = json.loads(cost.read_text()) if cost.exists() else None, ["-", "-"]
    for how, title in (("each", "each as large as ever"), ("together", "all together as large as four")):
        for K in (1, 2, 4, 8, 16):
            if not (results := found.get(name := f"{how}-{K}", [])):
                continue
            file = name if name != "together-4" else "each-4"
            logs = [[json.loads(line) for line in path.read_text().splitlines()]
                    for path in sorted(study.glob(f"router/components/{file}-s[0-9].jsonl"))]  # fmt: skip
            losses = [log[-1]["loss"] for log in logs]
            norms = [[row["grad_norm"] for row in log] for log in logs]
            spikes = max(max(norm) / np.median(norm) for norm in norms)
            least = min(min(np.mean([e["router_weights"]["mean"] for e in r["tasks"].values()], 0)) for r in results)
            rows.append([title, K, len(results), rate(by_task(results)),
                         minus(study, "components", file, "each-4") if K != 4 else "",
                         evenly(study, f"router/components/{file}-s[0-9]-even.json"),
                         *([number(row["ratio"][f"K = {K}, {how}"], 2) for row in timed["rows"]] if timed else unknown),
                         span(losses, 4), number(spikes, 1), number(float(least), 3)])  # fmt: skip
    results = [r for mine in found.values() for r in mine]
    rows.append(["scripted expert", "", "", expert_cell(results)])
    header = ["components", "K", "seeds", "success, 95 % interval", "minus K = 4", "weights 1/K", "time of a training "
              "step, K = 4: 1", "of a chunk", "last loss, over seeds", "largest gradient over the median",
              "least used"]  # fmt: skip
    times = "" if timed is None else (
        f"Times: `python study/router/cost.py --number`, {timed['hardware']}, {timed['threads']} threads; a chunk is "
        "for one robot."
    )  # fmt: skip
    return [
        *text("Commands: `study/router/components.py`. mt6, 25 demonstrations, 6,000 steps.", played_on(results)),
        *table(header, rows), *text(DAGGER),
        *text("Differences are in points, of the seeds that both have; several seeds are resampled, too. The last "
              "loss is the mean of the last 200 steps. The gradient's norm is that of every 200th step; its largest, "
              "beside its median, is of the worst seed. Least used: the smallest mean weight of a component over all "
              "tasks, in any seed; 0 would be dead.", times),
    ]  # fmt: skip
