"""What there is to know first, flattering or not: the block of README.md between its <!-- finding --> marks.

What follows, in five sentences; then the table that it follows from: what was learned, how well, and what stands beside
it. The details of each number are in study/README.md.
"""

from pathlib import Path

import numpy as np

from study.adapt.results import NEW, before, new_tasks, old_change, ways
from study.intervals import (
    Difference,
    by_seed,
    by_task,
    compare,
    compare_seeds,
    crossed_difference,
    crossed_rate,
    difference,
    number,
    success,
)
from study.markdown import NotMeasured, bullets, expert, paired, read, span, table, words
from study.ml45.results import NEW_ML45, crossed_runs, runs_of
from study.router.results import READ, dependence, minus, routed
from study.sequences.results import alone, in_turn
from study.speed.results import beside_lerobot

RIVALS = {  # what is learned, from how many demonstrations of each task -> files of fdp, and of one network
    "six tasks, 50 of each": "core/mt6-{}-50",
    "six tasks, 25 of each": "core/mt6-{}-25",
    "six tasks from two cameras, 25": "pixels/{}-25",
    "fifty tasks, 50": "mt50/{}",
}
LITTLE = 2  # points
EXECUTED = 4  # actions before looking again: train.py's default
HEADER = ("what is learned, demonstrations of each", "fdp's success", "expert", "alternatives, minus fdp (points)")


def finding(study: Path) -> list[str]:
    """README's block. NotMeasured if none of RIVALS is there."""
    against = [*filter(None, (beside_one_network(study, what, name) for what, name in RIVALS.items()))]
    if not against:
        raise NotMeasured("`study/core/mt6-*.json`")
    rows, differences = map(list, zip(*against, strict=True))  # of each row: one network minus fdp, and by Student's t
    for row, change in filter(None, (told(one_demonstration, study), told(new_upon_six, study))):
        rows.append(row)
        differences.append((change, None))
    rows += told(in_turn_from_nothing, study) or []
    return [
        *bullets(
            *filter(None, [told(forgetting, study)]),  # first what one network cannot
            verdict(rows, differences),
            *(said for function in (router, diffusion, fast) if (said := told(function, study))),
        ),
        *table(HEADER, rows)[:-1],
    ]


def verdict(rows: list[list[str]], differences: list[tuple[Difference | None, Difference | None]]) -> str:
    """Who is ahead of whom, and where. rows: the table's first ones, each with one network minus fdp, or nothing, and
    the same by Student's t, where there are several seeds."""
    pairs = [(row[0], d, t) for row, (d, t) in zip(rows, differences, strict=False) if d]
    ahead = {who: [f"{what.replace(', ', ' (')}; {abs(d.mean):.1f} points{weak(t)})" for what, d, t in pairs
                   if is_ahead(d)]
             for who, is_ahead in (("fdp", lambda d: d.high < 0), ("one network", lambda d: d.low > 0))}  # fmt: skip
    title = "gains little" if ahead["fdp"] and max(-d.mean for _, d, _ in pairs) < LITTLE else "gains"
    if not ahead["fdp"]:
        title = "gains nothing that is shown"
    where = {who: f"in {words(places)}" if places else "in none" for who, places in ahead.items()}
    return (
        f"**Factorizing {title}**: of {len(pairs)} comparisons with one network below, intervals that exclude "
        f"zero favour fdp {where['fdp']}, one network {where['one network']}."
    )


def weak(t: Difference | None) -> str:
    """A word where the same difference includes zero by Student's t."""
    return "; not by Student's t" if t and t.low <= 0 <= t.high else ""


def told(function, study: Path):
    """What a function says, or nothing where it has nothing to say yet."""
    try:
        return function(study)
    except NotMeasured:
        return None


def seeds(n: int) -> str:
    return f"{n} seed{'s' * (n > 1)}"


def cell(results: list[dict]) -> str:
    return f"{number(success(by_task(results)))} ({seeds(len(results))})"


def theirs(results: list[dict], tasks=None) -> str:
    """The expert's success on the same episodes."""
    successes, n = expert(results, tasks)
    return number(successes / n)


def beside_one_network(study: Path, what: str, name: str):
    """-> (a row, (one network minus fdp, the same by Student's t)), or None where not both have been played."""
    mine, its = paired(study, *(f"{name.format(policy)}-s[0-9].json" for policy in ("fdp", "monolithic")))
    if not mine:
        return None
    fdp = list(read(study, f"{name.format('fdp')}-s[0-9].json").values())
    change = (compare_seeds if len(mine) > 1 else compare)(its, mine)
    beside = [f"one network {change}" + f" ({seeds(len(mine))})" * (len(mine) != len(fdp))]
    if name == "core/mt6-{}-25":
        paper, usual = paired(study, *(f"router/baselines/mt6-25-{x}-s[0-9].json" for x in ("paper", "fdp")))
        if paper:
            beside.append(f"the paper's settings {compare_seeds(paper, usual)} ({seeds(len(paper))}, 6,000 steps)")
    if name == "mt50/{}":
        beside += [f"`--executed 2` {compare(*pair)} (1 seed, other episodes)"] if (pair := sooner(study)) else []
    return [what, cell(fdp), theirs(fdp), "; ".join(beside)], (change, by_seed(its, mine))


def sooner(study: Path) -> list[list[dict]]:
    """Fifty tasks, looking again after two actions, and after four: of the same weights and episodes."""
    try:
        return [[read(study, f"mt50/executed-{n}.json")[f"executed-{n}"]] for n in (2, 4)]
    except NotMeasured:
        return []


def one_demonstration(study: Path):
    """-> (a row, one network with adapters minus fdp). Of the way that adapt.py goes by itself, where that is there."""
    found = crossed_runs(study, 1, 2000)
    made = "-elsewhere" if ("fdp", "add-elsewhere") in found else ""
    best = found["fdp", f"add{made}" if made else "add-exact"]
    runs = [r for key in found for r in runs_of(study, key, 1)]
    beside, change = [], None
    if rival := found.get(("monolithic", f"low-rank{made}")):
        change = crossed_difference(rival, best)
        fewer = f" ({shared(rival, best)})" * (shared(rival, best) != shared(best))
        stages = [r["stage"] for r in runs_of(study, ("monolithic", f"low-rank{made}"), 1)]
        bases = {stage.get("source_weights") for stage in stages} - {None}  # older results do not say
        fewer += f" (upon {len(bases)} bases)" * bool(made and len(bases) > 1)
        beside.append(f"one network with adapters {change}{fewer}")
    others = {"no new component": f"small{made}", "a small policy alone": f"specialist{made}"}
    theirs_alone = [(what, found["fdp", way]) for what, way in others.items() if ("fdp", way) in found]
    told = [f"{what} {crossed_difference(rival, best)}" for what, rival in theirs_alone]
    upon = [shared(rival, best) for _, rival in theirs_alone]
    if len(set(upon)) == 1:  # one bracket for both
        beside.append(f"{' and '.join(told)} ({upon[0]})")
    else:
        beside += [f"{one} ({which})" for one, which in zip(told, upon, strict=True)]
    what = "one task added to 45, 1" + " (augmented)" * bool(made)
    row = [what, f"{number(crossed_rate(best).mean)} ({shared(best)})",
           theirs(runs, NEW_ML45), "; ".join(beside)]  # fmt: skip
    return row, change


def shared(*ways: dict[str, np.ndarray]) -> str:
    """How many bases and draws of the demonstration all of these have, for all tasks: task -> (S, D, E) each."""
    played = np.all([np.isfinite(x).any(2) for way in ways for x in way.values()], 0)  # (S, D)
    bases, draws = (int(played.any(axis).sum()) for axis in (1, 0))
    return f"{bases} base{'s' * (bases > 1)}, {draws} draw{'s' * (draws > 1)}"


def new_upon_six(study: Path):
    """-> (a row, nothing: what stands beside it is not one network, but fine-tuning)."""
    found = ways(study)
    exact, full, own = (new_tasks(found[way]) for way in ("add-exact", "full", "specialist"))
    lost = old_change(found["full"], before(study)).mean
    # Seeds are drawn anew here, as in the rows above; study/README.md has this one over episodes alone.
    drawn = crossed_difference(*({task: x[:, None] for task, x in way.items()} for way in (full, exact)))
    beside = [f"fine-tuning everything {drawn} (old tasks {number(lost, 1)})",
              f"a small policy alone {difference(own, exact)}"]  # fmt: skip
    n, alone = (len(next(iter(x.values()))) for x in (exact, own))
    beside[1] += f" ({seeds(alone)})" * (alone < n)
    return ["one task added to six, 25", f"{number(success(exact))} ({seeds(n)})",
            theirs([r for mine in found.values() for r in mine], NEW), "; ".join(beside)], None  # fmt: skip


def in_turn_from_nothing(study: Path) -> list[list[str]]:
    """Continual World's ten, and all fifty."""
    found = in_turn(study, "cw10")
    if "exact" not in found:
        raise NotMeasured("`study/sequences/cw10-exact-*.json`")
    results, last = found["exact"]
    forgot = [number(100 * float(np.mean([r["forgetting"] for r in mine])), 1) for mine, _ in found.values()]
    forgot = dict(zip(found, forgot, strict=True))
    beside = [f"forgetting {forgot['exact']}"]
    for way, name in {"replay": "`--retain replay`", "full": "fine-tuning"}.items():
        if way in found:
            its = found[way][1]
            change = (compare_seeds if len(its) == len(last) > 1 else compare)(its[: len(last)], last[: len(its)])
            fewer = f" ({seeds(len(its))})" * (len(its) < len(last))
            beside.append(f"{name} {change}, forgetting {forgot[way]}{fewer}")
    rows = [["ten tasks, one after the other, 50", cell(last), theirs(last), "; ".join(beside)]]
    apart = told(lambda study: list(read(study, "sequences/apart-s[0-9].json").values()), study)
    if apart:
        beside = ""
        if both := alone(study):
            upon, own = both
            beside = f"a small policy each {difference(own, upon)} (first {len(own)} by name, here "
            beside += f"{number(success(upon))})"
        executed = apart[0].get("executed", EXECUTED)
        looks = f" (`--executed {executed}`)" * (executed != EXECUTED)
        rows.append(["50 tasks, 49 added alone to the first, 50", cell(apart) + looks, theirs(apart), beside])
    return rows


def router(study: Path) -> str:
    """Does it route, is it needed, what wakes it, and what that costs?"""
    usual, woken = (read(study, f"router/wake/{name}.json")[name] for name in ("softmax", READ))
    knows = [number(r["tells"]["task"]["above"], 2) for r in (woken, usual)]
    costs = minus(study, "fifty", READ, "softmax")
    price = f"; fifty tasks change by {costs}" if costs else ""
    return (
        f"**The router hardly routes**: its weights tell {knows[1]} of {number(usual['tells']['task']['most'], 2)} "
        f"nats about the task. {dependence(study)}{never_routed(study)}. With a bonus (`--router informed`) they tell "
        f"{knows[0]}{price}.{told(alone_by_routing, study) or ''}"
    )


def alone_by_routing(study: Path) -> str:
    """A new task by new weights alone, of the base that is best at it; and one network's name alone."""
    results = routed(study)
    found = {key: crossed_rate(mine).mean for key, (_, mine) in results.items()}
    usual, best = (found.get((base, "router-elsewhere")) for base in ("fdp", "affine-16"))
    if None in (usual, best):
        raise NotMeasured("`study/router/adapting/*/router-elsewhere-*.json`")
    draws = min(len({r["flags"]["demo_draw"] for r in runs}) for runs, _ in results.values())
    beside = [f"{what} {number(found['monolithic', way])}" for way, what in
              {"name-elsewhere": "one network's name", "low-rank-1-elsewhere": "small adapters"}.items()
              if ("monolithic", way) in found]  # fmt: skip
    return (
        f" New weights alone teach a task to {number(best)} (16 slim, signed parts; default "
        f"{', '.join([number(usual), *beside])}; 1 base, {draws} draw{'s' * (draws > 1)})."
    )


def never_routed(study: Path) -> str:
    """Six tasks, trained with weights that are 1/K from the first step on; empty where that has not been played."""
    pairs = [paired(study, *(f"router/baselines/{setting}-{policy}-s[0-9].json" for policy in ("uniform", "fdp")))
             for setting in ("mt6-25", "mt6-3", "mt6-1")]  # fmt: skip
    if not all(pair[0] for pair in pairs):
        return ""
    least, most = (seen(len(pair[0]) for pair in pairs) for seen in (min, max))
    changes = words(str(compare_seeds(*pair)) for pair in pairs)
    many = paired(study, *(f"router/fifty/{policy}-s[0-9].json" for policy in ("uniform", "softmax")))
    fewer = f"; {seeds(len(many[0]))}" * (len(many[0]) != most)
    fifty = f", {compare_seeds(*many)} on fifty (25{fewer})" if many[0] else ""
    return (
        f"; training with 1/K by {changes} on six tasks (25, 3, 1 demonstrations; "
        f"{f'{least} to ' * (least < most)}{seeds(most)}){fifty}"
    )


def forgetting(study: Path) -> str:
    """What exact retention is worth."""
    exact = ways(study)["add-exact"]
    if not all(r["old_actions_bit_equal"] for r in exact):
        raise NotMeasured("old actions that are the same bits")
    return "**New tasks are added without forgetting**: old tasks act the same, bit for bit; a new task is a file."


def diffusion(study: Path) -> str:
    """Whether diffusion is needed: regression by the same network beside it, on data with one way to do it, and with
    two."""
    said, rival = [], ("bc-unet", "monolithic")
    for place in ("baselines/mt6-25-", "baselines/mt6-3-", "baselines/mt6-1-", "baselines/two-ways-", "fifty/"):
        pair = paired(study, *(f"router/{place}{policy}-s[0-9].json" for policy in rival))
        if not pair[0]:
            raise NotMeasured(f"`study/router/{place}{rival[0]}-s*.json`")
        said.append((compare_seeds(*pair), by_seed(*pair), len(pair[0])))
    pays, loses = ([(change, t) for change, t, _ in said if leads(change)]
                   for leads in (lambda d: d.high < 0, lambda d: d.low > 0))  # fmt: skip
    sure = sum(t is not None and not weak(t) for _, t in pays + loses)
    ahead = f"ahead in {len(pays)} of {len(said)} cases" if pays else "not shown to be ahead"
    verdict = f"Diffusion is {ahead}"
    verdict += f", regression in {len(loses)}" * bool(loses)
    of = len(pays) + len(loses)
    by_t = f"; by Student's t {sure} of {of} exclude{'s' * (sure == 1)} zero" * (sure < of)
    (many, *_), (three, *_), (one, *_), (two, _, n), (fifty, _, fewer) = said
    return (
        f"**{verdict}**: regression minus diffusion, one network each (`--policy bc --body unet`): {many}, "
        f"{three} and {one} points on six tasks (25, 3, 1), {two} on two ways around a wall, {fifty} on fifty tasks (25"
        f"{f'; {seeds(fewer)}' * (fewer != n)}) ({seeds(n)}{by_t})."
    )


def fast(study: Path) -> str:
    """How fast it is beside the same K networks made of LeRobot's."""
    timed = [row for row in read(study, "speed/cpu.json")["cpu"]["rows"] if "ours" in row["ratio"]]
    (train, train_deep), (act, act_deep) = (
        [span(x, 1) for x in zip(*(beside_lerobot(row) for row in timed if row["what"].startswith(what)), strict=True)]
        for what in ("training,", "one action chunk,")
    )
    return (
        "**It is fast**: K of LeRobot's U-Nets, one by one on a CPU, take "
        f"{train} times as long to train, {act} to act "
        f"(at equal depth {train_deep} and, with the same sampler, {act_deep})."
    )
