"""A new task from one demonstration, as a section of study/README.md."""

import json
from collections import Counter
from pathlib import Path

import numpy as np

from study.intervals import count, crossed_difference, crossed_rate, number, stack
from study.markdown import NotMeasured, bullets, expert, played_on, read, span, table, text, words

NEW_ML45 = ("bin-picking", "box-close", "door-lock", "door-unlock", "hand-insert")  # MetaWorld's ml45-test
ONE = {  # (base, way) -> how a new task was learned from one demonstration
    ("fdp", "add-exact"): "fdp base: add-component, exact",
    ("fdp", "add-elsewhere"): "the same, augmented (100 copies, objects moved): the default",
    ("fdp", "small"): "fdp base: router, exact: no new component",
    ("fdp", "small-elsewhere"): "the same, augmented",
    ("fdp", "router"): "fdp base: router, exact, `--encoder-rank 0`",
    ("fdp", "full"): "fdp base: full",
    ("monolithic", "low-rank"): "monolithic base: low-rank adapters on every layer",
    ("monolithic", "low-rank-elsewhere"): "the same, augmented",
    ("monolithic", "full"): "monolithic base: full",
    ("fdp", "specialist"): "no base: specialist, a policy of a stage's size",
    ("fdp", "specialist-elsewhere"): "the same, augmented",
    ("fdp", "scratch"): "no base: scratch, a policy of the base's size",
}


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
        missing = set(NEW_ML45) - set(found.get((base, way), ()))
        if missing and demos == 1 and "elsewhere" not in way:
            raise NotMeasured(f"`study/ml45/{base}/{way}-{min(missing)}-d{demos}-n{steps}-*.json`")
        if missing:  # measured later than the others
            found.pop((base, way), None)
    return {key: found[key] for key in ONE if key in found}


def runs_of(study: Path, key: tuple[str, str], demos: int) -> list[dict]:
    """What `crossed_runs` is made of, one way's."""
    base, way = key
    return [r for r in read(study, f"ml45/{base}/{way}-*-d{demos}-n2000-*.json").values() if r["way"] == way]


def ways_table(study: Path, found: dict[tuple[str, str], dict[str, np.ndarray]], demos: int) -> list[str]:
    """A row for each way, compared with the first one, and the expert's."""
    rows, first, every = [], next(iter(found.values())), {key: runs_of(study, key, demos) for key in found}
    for key, played in found.items():
        made = np.all([np.isfinite(x).any(2) for x in played.values()], 0)  # (S, D): of all tasks
        change = "" if played is first else crossed_difference(played, first)
        rows.append([ONE[key] if demos == 1 else alone(key),
                     f"{made.any(1).sum()} x {made.any(0).sum()}"
                     + " in part" * (not made[made.any(1)][:, made.any(0)].all()),
                     *(count({task: played[task]}) for task in NEW_ML45), crossed_rate(played).share, change,
                     f"{every[key][0]['stage']['trained_parameters']:,}",
                     f"{np.median([r['stage']['seconds'] for r in every[key]]):.0f}"])  # fmt: skip
    runs = [r for mine in every.values() for r in mine]
    successes, n = expert(runs, NEW_ML45)
    rows.append(["scripted expert", "", *("/".join(map(str, expert(runs, [task]))) for task in NEW_ML45),
                 number(successes / n)])  # fmt: skip
    header = ["way", "base seeds x draws", *NEW_ML45, "all, 95 % interval", "minus the first row, points", "trained "
              "parameters", "seconds"]  # fmt: skip
    return table(header, rows)


def alone(key: tuple[str, str]) -> str:
    """A way's title where the row above may be another's."""
    usual = key[0], {"add-elsewhere": "add-exact"}.get(key[1], key[1].removesuffix("-elsewhere"))
    return f"{ONE[usual]}, augmented" if usual != key else ONE[key]


def one_demonstration(study: Path) -> list[str]:
    found, near = crossed_runs(study, 1, 2000), read(study, "ml45/nearness.json")
    runs = [r for key in found for r in runs_of(study, key, 1)]
    bases = [f"{name} {words(number(r['mean_success']) for r in read(study, f'ml45/{name}-s[0-9].json').values())}"
             for name in ("fdp", "monolithic")]  # fmt: skip
    return [
        *text("Commands: `study/ml45/table.py`. Bases: the 45 tasks of MetaWorld's ml45-train, 25 demonstrations each, "
              f"24,000 steps; success on them {words(bases)} (each seed; 20 episodes of each task, block 0). New: the "
              "five of ml45-test, one at a time, from ONE demonstration, 2000 steps.", played_on(runs)),
        *ways_table(study, found, 1),
        *text("A draw is the choice of the demonstration. Intervals resample draws, bases and episodes; "
              "differences are on the bases and draws that both have. With one base and one draw (1 x 1) an interval "
              "is over episodes alone, and too narrow. Seconds are of training, the median run."),
        "![One demonstration: success of every way](ml45/one.png)", "",
        *trained_anew(study, found),
        *one_demonstration_notes(found, *(r["tasks"] for r in near.values())),
        *chained(study),
        *more_demonstrations(study),
    ]  # fmt: skip


def chained(study: Path) -> list[str]:
    """The five in turn, each leaning on those before it, beside each on the base alone. Nothing where not measured."""
    paths = sorted(study.glob("ml45/chain-draw[0-9]-s0-evaluation.json"))
    if not paths:
        return []
    chain, apart, rows = {}, {}, []
    for task in NEW_ML45:
        both = [[json.loads(path.read_text())["tasks"][task] for path in paths],
                [json.loads((study / f"ml45/fdp/add-elsewhere-{task}-d1-n2000-{path.name.split('-')[1]}-s0.json")
                            .read_text())["tasks"][task] for path in paths]]  # fmt: skip
        chain[task], apart[task] = (stack(entries)[None] for entries in both)  # (1, D, E)
    draws = words(path.name.split("-")[1].removeprefix("draw") for path in paths)
    for what, played in (("in turn, each leaning on all before it", chain), ("each upon the base alone", apart)):
        change = crossed_difference(played, apart) if played is chain else ""
        rows.append([what, *(count({task: played[task]}) for task in NEW_ML45), crossed_rate(played).share, change])
    header = ["augmented", *NEW_ML45, "all, 95 % interval", "minus upon the base, points"]
    return [
        *text(f"In turn, or apart? (`--lean-on all` and `base`; draw {draws}, one training each.)"),
        *table(header, rows),
        *text("What leans on the base alone can be moved, in any order, to any copy of it. What leans on what came "
              "before costs a component more for each: see the ten tasks in turn, below, where it learns more."),
    ]  # fmt: skip


def trained_anew(study: Path, found: dict[tuple[str, str], dict[str, np.ndarray]]) -> list[str]:
    """Which rows rest on another training of a base than the others of its seed: weights were not always kept."""
    upon: dict[tuple[str, int], dict[str, list[str]]] = {}
    for key in found:
        for r in runs_of(study, key, 1):
            if weights := r["stage"].get("source_weights"):
                ways = upon.setdefault((key[0], r["flags"]["seed"]), {}).setdefault(weights, [])
                if key[1] not in ways:
                    ways.append(key[1])
    told = [f"{base}, seed {seed}: " + words(
                f"{words(f'`{way}`' for way in ways)} upon {'one' if n == 1 else f'{n} others'}"
                for ways, n in Counter(map(tuple, mine.values())).items()
            ) for (base, seed), mine in upon.items() if len(mine) > 1]  # fmt: skip
    if not told:
        return []
    return text(f"Trained more than once, because weights were not kept: {'; '.join(told)}. Between these rows a "
                "difference is also one of bases, and an interval over one base does not cover that.")  # fmt: skip


def more_demonstrations(study: Path) -> list[str]:
    """The same from three and from ten, where that is measured."""
    lines = []
    for demos in (3, 10):
        if found := crossed_runs(study, demos, 2000):
            lines += [*text(f"From {demos} demonstrations (a draw is {demos} of them):"),
                      *ways_table(study, found, demos)]  # fmt: skip
    return lines


def one_demonstration_notes(found: dict[tuple[str, str], dict[str, np.ndarray]], near: dict) -> list[str]:
    """What one demonstration is worth, and how much depends on which. near: study/ml45/nearness.json, by task."""
    best, notes = found["fdp", "add-exact"], []
    for mine, other, what in (
        ("add-exact", ("monolithic", "low-rank"), "one network of the same size with adapters"),
        ("add-exact", ("fdp", "specialist"), "a specialist"),
        ("add-exact", ("fdp", "scratch"), "scratch"),
        ("add-elsewhere", ("fdp", "small-elsewhere"), "the same without a component of its own, both augmented"),
        ("add-elsewhere", ("monolithic", "low-rank-elsewhere"), "one network with adapters, both augmented"),
        ("add-elsewhere", ("fdp", "specialist-elsewhere"), "a specialist, both augmented"),
    ):  # fmt: skip
        if ("fdp", mine) in found and other in found:
            change = crossed_difference(found["fdp", mine], found[other])
            notes.append(f"add-component minus {what}: {change} points, {change.verdict}.")
    rates = {task: np.array([np.nanmean(x[cell]) for cell in zip(*np.isfinite(x).any(2).nonzero(), strict=True)])
             for task, x in best.items()}  # fmt: skip
    notes.append("A demonstration makes a difference: over bases and draws a task's success is "
                 + words(f"{span(r)} on {task}" for task, r in rates.items()) + ".")  # fmt: skip
    pairs = {base: np.array([row["nearer_and_farther_half"][base] for rows in near.values() for row in rows.values()])
             for base in ("fdp", "monolithic")}  # (tasks x draws, 2)  # fmt: skip
    told = {base: words(map(number, x.mean(0))) for base, x in pairs.items()}
    better = [(x[:, 0] > x[:, 1]).sum() for x in pairs.values()]
    notes.append(
        "Episodes that start near the demonstration succeed more often: the nearer and the farther "
        f"half have {told['fdp']} (adapters on one network: {told['monolithic']}). The nearer half is "
        f"better in {words(better)} of {len(pairs['fdp'])} pairs of task and draw (`python "
        "study/ml45/nearness.py`: the distance of first object and goal from the demonstration's)."
    )
    return bullets(*notes)
