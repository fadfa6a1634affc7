"""Policies that see cameras, as a section of study/README.md."""

import json
from pathlib import Path

from envs.pixels import SHIFTS
from study.adapt.results import WAYS
from study.intervals import (
    DAGGER,
    Difference,
    by_task,
    compare,
    compare_seeds,
    count,
    difference,
    number,
    rate,
    stack,
)
from study.markdown import NotMeasured, evenly, expert, flag, paired, played_on, read, table, text, typed, words

CAMERAS = {  # files of study/pixels -> what it is; what it is compared with, and that in words
    "fdp-25": ("fdp", "", ""),
    "fdp-50": ("fdp, 50 demonstrations per task, not 25", "fdp-25", "fdp"),
    "monolithic-25": ("monolithic: one network of the same size", "fdp-25", "fdp"),
    "uniform-25": ("weights fixed at 1/K", "fdp-25", "fdp"),
    "moe-top2-25": ("mixture of experts, top 2", "fdp-25", "fdp"),
    "usual-fdp": ("fdp, random shifts up to 4 pixels in training, not 1", "fdp-25", "fdp"),
    "usual-monolithic": ("monolithic, same shifts", "usual-fdp", "fdp, same shifts"),
}


OTHERS = "corner, MuJoCo's settings"


def cameras(study: Path) -> list[str]:
    first = list(read(study, "pixels/fdp-25-s[0-9].json").values())
    found = {name: [json.loads(path.read_text()) for path in sorted(study.glob(f"pixels/{name}-s[0-9].json"))]
             for name in CAMERAS}  # fmt: skip
    rows, shifted, tasks = [], [], list(first[0]["tasks"])
    for name, results in found.items():
        if not results:
            continue
        what, rival, called = CAMERAS[name]
        both = paired(study, *(f"pixels/{one}-s[0-9].json" for one in (name, rival)))
        across = compare_seeds if len(both[0]) > 1 else compare  # several seeds are drawn anew, too
        change = f"{across(*both)} ({called})" if both[0] else ""
        played = by_task(results)
        rows.append([what, len(results), *(count({task: played[task]}) for task in tasks),
                     rate(played).share, change, evenly(study, f"pixels/{name}-s[0-9]-even.json")])  # fmt: skip
        for shift in SHIFTS:
            pair = paired(study, f"pixels/shift/{name}-s[0-9]-{shift}.json", f"pixels/{name}-s[0-9].json")
            if pair[0]:
                shifted.append([what, f"`{shift}`", len(pair[0]), rate(by_task(pair[0])).share,
                                str((compare_seeds if len(pair[0]) > 1 else compare)(*pair))])  # fmt: skip
    usual = study / "pixels/shift/run.json"
    for shift in SHIFTS:
        if (path := usual.with_stem(f"run-{shift}")).exists():
            pair = [[json.loads(file.read_text())] for file in (path, usual)]
            shifted.append(["fdp, study/pixels/run", f"`{shift}`", 1, rate(by_task(pair[0])).share,
                            str(compare(*pair))])  # fmt: skip
    successes, n = expert(first)
    each = ("/".join(map(str, expert(first, [task]))) for task in tasks)
    rows.append(["scripted expert", "", *each, number(successes / n)])
    names = [plain(task) for task in tasks]
    demos = flag(first[0]["training"]["command"], "--demos-per-task", 25)
    header = ["policy", "seeds", *names, "all, 95 % interval", "minus (in brackets), points", "with 1/K"]
    moved = ["policy", "`--shift`", "seeds", "all, 95 % interval", "minus as it was, points"]
    return [
        *text("Commands: `study/pixels/table.py`. mt6 from a corner and a wrist camera of 64 x 64 pixels and the "
              f"hand's own position, {demos} demonstrations per task, {first[0]['training']['steps']:,} steps, K = 4. "
              "Each seed draws its own demonstrations.", played_on(first)),
        *table(header, rows), *text(DAGGER),
        *(table(moved, shifted) if shifted else []),
        *at_once(study), *shipped(study), *cost(study), *router(study),
        "![What the policy sees](pixels/sees.png)", "",
        *adapted(study),
        *tried(study, tasks),
    ]  # fmt: skip


def at_once(study: Path) -> list[str]:
    """The one command, and what it took."""
    if not (path := study / "pixels/command.json").exists():
        return []
    r = json.loads(path.read_text())
    took = r["seconds_of_command"]
    parts = ", ".join(f"{name} {seconds / 60:.0f}" for name, seconds in took.items() if name != "whole process")
    return text(f"All of it by one command, {typed(r['command'])}, on two idle cores "
                f"({r['hardware'].partition(',')[0]}): {took['whole process'] / 60:.0f} minutes ({parts}), success "
                f"{rate(by_task([r])).share}.", played_on([r]))  # fmt: skip


def shipped(study: Path) -> list[str]:
    """The policy that comes with the code."""
    if not (path := study / "pixels/shift/run.json").exists():
        return []
    r = json.loads(path.read_text())
    machine = r["hardware"].partition(",")[0]
    return text("The same command once more made the policy that comes with the code, `study/pixels/run` "
                f"({machine}, beside another run): {rate(by_task([r]))}.", played_on([r]))  # fmt: skip


def cost(study: Path) -> list[str]:
    """What seeing costs. Nothing where that was not measured."""
    if not (path := study / "pixels/cost.json").exists():
        return []
    r = json.loads(path.read_text())
    ms, spent = r["milliseconds"], r["evaluation"]
    drawn, step = ms["picture"], ms["training step"]
    work = {name: spent[name] for name in ("pictures", "physics", "policy")}
    shares = words(f"{name} {seconds / sum(work.values()):.0%}" for name, seconds in work.items())
    return text(
        f"What cameras cost, on one thread ({r['hardware'].partition(',')[0]}; {typed(r['command'])}): a picture of 64 "
        f"x 64 pixels {number(drawn['corner'], 1)} ms (corner) and {number(drawn['wrist'], 1)} (wrist), with MuJoCo's "
        f"own settings {number(drawn[OTHERS], 0)}. A training step, 64 x 2 pictures, {number(step['ours'], 0)} ms, the "
        f"encoder's part {number(step['the encoder alone'], 0)}; from the state {number(step['from the state'], 0)}. "
        f"24 action chunks {number(ms['24 action chunks'], 0)} ms. {r['episodes']} episodes, simulators on all cores, "
        f"{number(spent['clock'], 0)} seconds, the expert's not counted; of the processors' time: {shares}."
    )


def router(study: Path) -> list[str]:
    """What the router does in the policy that comes with the code, and in an earlier run."""
    which = {"router": "study/pixels/run", "usual-router": "fdp, pictures moved by up to 4 pixels, first seed"}
    paths = {what: study / f"pixels/{name}.json" for name, what in which.items()}
    return [
        line for what, path in paths.items() if path.exists() for line in routes(what, json.loads(path.read_text()))
    ]


def routes(what: str, r: dict) -> list[str]:
    """One run's, from what study/router/measure.py wrote."""
    by = {what: Difference(**entry["difference"]) for what, entry in r["changed"].items()}
    own, other = "the task's mean", "another task's"
    told, idle = r["tells"]["task"]["above"], max(r["untrained"]["task"])
    return text(
        f"The router ({what}; `study/router/measure.py`, block 400, "
        f"{number(r['success'])}): a component tells {number(told, 3)} nats about the task, those of routers that "
        f"have learned nothing up to {number(idle, 3)}. With each task's mean weights success changes by "
        f"{by[own]} points, with their mean over tasks by {by['mean over tasks']}, with 1/K by "
        f"{by['1/K']}, with another task's by {by[other]}, with the two largest by {by['top two']}."
    )


UPON = {  # folder of new tasks -> the policy that they were learned upon
    "adapt/shipped": "the policy that comes with the code (`study/pixels/adapting.py`)",
    "adapt": "the last run of fdp in the first table, an earlier one",
}


def adapted(study: Path) -> list[str]:
    """New tasks, upon each of the policies of UPON."""
    return [line for folder, policy in UPON.items() for line in adapted_upon(study / "pixels" / folder, policy)]


def adapted_upon(folder: Path, policy: str) -> list[str]:
    """Nothing where none was learned."""
    runs = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    if not runs:
        return []
    tasks, rows, found = sorted({r["task"] for r in runs}), [], {}  # found: (demonstrations, way) -> task -> (1, E)
    for r in runs:
        found.setdefault((r["flags"]["demos_per_task"], r["way"]), {})[r["task"]] = stack([r["tasks"][r["task"]]])
    for (demos, way), played in sorted(found.items()):
        scratch = {t: one for t, one in found.get((demos, "scratch"), {}).items() if t in played}
        minus = str(difference(played, scratch)) if way != "scratch" and len(scratch) == len(played) else ""
        rows.append([demos, WAYS[way], *(count({t: played[t]}) if t in played else "" for t in tasks),
                     rate(played).share if len(played) == len(tasks) else "", minus])  # fmt: skip
    successes, n = expert(runs)
    rows.append(["", "scripted expert", *("/".join(map(str, expert(runs, [t]))) for t in tasks), number(successes / n)])
    names = [plain(task) for task in tasks]
    header = ["demonstrations", "way", *names, "all, 95 % interval", "minus scratch, points"]
    exact = [r["old_actions_bit_equal"] for r in runs if r["stage"].get("retain") == "exact"]
    kept = "where a way is exact, the old tasks' actions are the same bit for bit" if all(exact) else (
        f"in {exact.count(False)} of {len(exact)} exact stages old tasks' actions changed")  # fmt: skip
    return [
        *text(f"New tasks, one at a time, upon {policy}, {runs[0]['flags']['steps']} steps, one seed; {kept}.",
              played_on(runs)),
        *table(header, rows), *text(DAGGER),
    ]  # fmt: skip


def plain(task: str) -> str:
    """fdp/push-pixels128-v3 -> push: larger pictures are other environments."""
    return task.removeprefix("fdp/").partition("-pixels")[0]


TRIED = {  # files of study/pixels/choice -> what it is
    "fdp-6000": "one step and noise for every picture, half of train.py's steps",
    "plain-6000": "the same on another machine",
    "fdp-12000": "one step and noise, all of train.py's steps",
    "fdp-12000-again": "the same, trained again",
    "fdp-12000-executed-2": "its weights, two actions executed per chunk",
    "draws-4-6000": "four steps and noises, as train.py has it since; half of train.py's steps",
    "draws-4-12000": "the same, all of train.py's steps: the run of block 16 with pictures moved by 4 pixels",
    "shift-2-6000": "pictures moved by up to 2 of 64 pixels in training, not 4; half the steps",
    "shift-2-6000-camera": "the same weights, the corner camera moved in evaluation (`--shift camera`)",
    "shift-1-6000": "by up to 1 pixel; half the steps",
    "shift-0-6000": "not moved at all; half the steps",
    "shift-0-6000-camera": "the same weights, the corner camera moved in evaluation",
    "lit-6000": "by up to 1 pixel, and brightness multiplied by 0.6 to 1.4 (`--policy lit`); half the steps",
    "lit-6000-light": "the same weights, half of the light in evaluation (`--shift light`)",
    "wrist-6000": "by up to 1 pixel, the wrist camera alone (`--cameras wrist`); half the steps",
    "larger-6000": "pictures of 128 pixels, moved by up to 2 (`--image-size 128`); half the steps",
    "long-6000": "chunks of 16 actions, 8 of them executed (`--horizon 16 --executed 8`); half the steps",
    "positions-6000": "where objects and goal are as a further target (code not kept: recipe.py); half the steps",
    "frames-6000": "each camera's picture of one step ago, too (code not kept); half the steps",
    "moe-top2-25-s2": "a mixture of two, all steps, third draw",
    "moe-top2-25-s2-raw": "its last weights, not the averaged ones",
    "uniform-25-s2": "weights fixed at 1/K, all steps, third draw",
    "uniform-25-s2-raw": "its last weights, not the averaged ones",
    "fine-6000": "half the steps, 15 x 15 feature maps, not 6 x 6, smaller receptive fields (code not kept: LOG.md)",
}


def tried(study: Path, tasks: list[str]) -> list[str]:
    """What was tried to make it better, on the block for choices."""
    try:
        found = read(study, "pixels/choice/*.json")
    except NotMeasured:
        return []
    names = [plain(task) for task in tasks]
    won = {name: {plain(task): one["successes"] for task, one in run["tasks"].items()} for name, run in found.items()}
    rows = [[what, *(won[name][task] for task in names), rate(by_task([found[name]])).share,
             f"{found[name]['training']['seconds'] / 60:.0f}", found[name]["training"]["hardware"].partition(",")[0]]
            for name, what in TRIED.items() if name in found]  # fmt: skip
    some = found[next(name for name in TRIED if name in found)]
    each = [f"{one['expert']['successes']}" for one in some["tasks"].values()]
    successes, n = expert([some])
    rows.append(["scripted expert", *each, number(successes / n), "", ""])
    return [
        *text("What was tried, one seed (`study/pixels/recipe.py` and LOG.md: what was expected of each, and what is "
              "not run yet).", played_on([found[name] for name in TRIED if name in found])),
        *table(["way", *names, "all, 95 % interval", "minutes of training", "on"], rows), *text(DAGGER),
    ]  # fmt: skip
