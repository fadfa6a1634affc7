"""Every table of results, from the JSON files in study/, and the blocks of the README that quote them.

    python study/report.py             # writes study/README.md, and the marked blocks of README.md
    python study/report.py --check     # writes nothing; exit code 1 and the first line that differs

A section of study/README.md is one function that returns Markdown lines, in the results.py of its study; SECTIONS names
them. A function whose files do not exist yet raises NotMeasured, and the page says so in one line. Prose stands there
too, with every measured number formatted in: no number can drift from its file.
"""

import json
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from plumbing import files  # noqa: E402
from study.adapt.results import (  # noqa: E402
    budget,
    one_task,
    sequences,
    together,
    why_paper,
)
from study.core.results import commands, core, looking, mt6  # noqa: E402
from study.finding import finding  # noqa: E402
from study.forks.results import fork_table  # noqa: E402
from study.gpu.results import on_a_gpu  # noqa: E402
from study.intervals import RESAMPLES, number  # noqa: E402
from study.markdown import BLOCK, FIRST, STUDY, NotMeasured, read, table, text, words  # noqa: E402
from study.ml45.results import one_demonstration  # noqa: E402
from study.mt50.results import fifty, speed_run  # noqa: E402
from study.pixels.results import cameras  # noqa: E402
from study.router.results import (  # noqa: E402
    as_default,
    by_routing,
    how_many,
    on_fifty,
    rivals,
    sparse_cost,
    waking,
)
from study.sequences.results import from_nothing, upon_one_task  # noqa: E402
from study.speed.results import samplers, speed  # noqa: E402


def coverage(study: Path) -> list[str]:
    """How often an interval that draws seeds and episodes anew has the truth inside."""
    (made,) = read(study, "coverage.json").values()
    trained: dict[str, list[float]] = {}
    for folder in ("core", "mt50", "pixels", "router/fifty", "router/baselines", "router/components"):
        for path in sorted(study.glob(f"{folder}/*-s[0-9].json")):
            name = f"{folder}/{path.stem.rsplit('-', 1)[0]}"
            if (result := json.loads(path.read_text())).get("mean_success") is not None:  # not a curve
                trained.setdefault(name, []).append(result["mean_success"])
    spreads = {name: 100 * float(np.std(x, ddof=1)) for name, x in trained.items() if len(x) > 1}
    least, most = sorted(spreads, key=spreads.get)[:: len(spreads) - 1]
    rows = [[f"{spread} points", *(number(by[spread]) for each in made["covered"].values() for by in each.values())]
            for spread in next(iter(next(iter(made["covered"].values())).values()))]  # fmt: skip
    header = ["standard deviation of seeds", *(f"{what}, {seeds} seeds" for what, each in made["covered"].items()
                                               for seeds in each)]  # fmt: skip
    return [
        *text("Command: `python study/coverage.py`. Simulated comparisons of two equally good policies, "
              f"{made['repeats']} per cell: the share of intervals, resampled over seeds and episodes, that contain "
              "zero; it should be 0.95 (and may be 0.03 off by chance). "
              f"Of the {len(spreads)} policies trained here with several seeds, the standard deviation over seeds is "
              f"{number(spreads[least], 1)} to {number(spreads[most], 1)} points ({most}), in the middle "
              f"{number(float(np.median(list(spreads.values()))), 1)}."),
        *table(header, rows),
    ]  # fmt: skip


def sources(study: Path) -> list[str]:
    """Which revisions of the code and which machines the files come from."""
    rows = []
    for pattern in ("core/*-s[0-9]*.json", "core/executed/*.json", "adapt/*-s[0-9]*.json",
                    "adapt/budget/*.json", "ml45/*-s[0-9].json", "ml45/*/*-draw[0-9]-s[0-9].json",
                    "mt50/*-s[0-9].json", "mt50/executed-*.json", "sequences/*-s[0-9].json",
                    "router/wake/*.json", "router/fifty/*-s[0-9].json", "router/baselines/*-s[0-9].json",
                    "router/components/*-s[0-9].json", "router/adapting/*/*.json", "router/cost.json",
                    "router/components/cost.json",
                    "router/default/*.json", "router/default/*/*.json",
                    "speed/[cl]*.json", "gpu/*.json", "coverage.json"):  # fmt: skip
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
Commands are typed in the repository's root. Where *Commands* names a Python file, it is a table of them: `python
study/grid.py FILE` runs those whose result is not there. How everything was measured:
[measuring.md](../docs/measuring.md).

**Success** is the share of simulated episodes in which the environment's success flag was set at some step.

**The scripted expert** is MetaWorld's own, on the same episodes. It is a reference: a policy can be above it.

**Episodes.** No policy was trained on an evaluation episode. Its goal and objects stand at new places, but inside the
same box as in training. So this is interpolation, not a new distribution. The environment's seed decides the places.
Evaluation episodes come in blocks: episode i of block N has the seed {FIRST:,} + {BLOCK:,} N + i. Every section says
how many episodes of which block it has.

**Seeds**, where nothing else is said, are training seeds. All seeds of a row learn from the same demonstrations and
play the same episodes.

**Intervals** are at 95 %. Three seeds on the same episodes are not three times as many independent episodes. So we
resample whole episodes within each task, each with the outcomes of all seeds, and take the middle 95 % of
{RESAMPLES:,} resamples (Efron's bootstrap, by clusters). With one seed, or the same outcome everywhere, we give
Wilson's interval over the episodes and mark it † (not in tables that also resample seeds). Differences are paired:
both sides use the same resampled episodes.
An interval covers the choice of episodes. It does not cover other demonstrations, and hardly other training seeds.
Where few episodes fail, a bootstrap interval is too narrow: one failure can look more certain than none.
There are hundreds of intervals, none corrected for multiple testing; with two or three seeds some are too narrow
([how much](#what-the-intervals-cover)).

**Words.** *Points* are hundredths of success. *K* is the number of components; *weights 1/K* replace the router's: what
that costs stands beside success for fifty tasks, cameras, rivals and routers. (Not where policies were trained before
it was asked for, nor after adapting: there each stage has a router of its own.)
`monolithic`, or *one network*, is a plain diffusion policy of the same size. A *draw* is one choice of demonstrations
(`--demo-draw`), a *way* one of the settings that a table compares. *Predicted*: written down before it was run. A
*base* is a policy that new tasks are added to, a *stage* one round of `adapt.py`, a *skill* a stage as a file.
*Exact*, *replay* and *paper* are the retentions of `adapt.py`, `add-component` its default mode. *Augmented*: copies
of a demonstration with things moved (`envs/elsewhere.py`).
"""

SECTIONS = {  # title -> the function that writes it, and what it answers
    "Policies trained from demonstrations": (core, "How good is a policy, by tasks, demonstrations and target?"),
    "mt6, task by task: factorized and monolithic": (mt6, "Is it better than one network of the same size?"),
    "One new task at a time": (one_task, "What does each way learn, and what do the old tasks lose?"),
    "Four new tasks in turn": (sequences, "What is left of the first after the last?"),
    "Four new tasks together": (together, "The paper's protocol: all of them in one stage."),
    "Fewer demonstrations, fewer steps": (budget, "How little is enough?"),
    "Why the paper's retention forgets": (why_paper, "Old components do not change: what does?"),
    "A new task from one demonstration": (one_demonstration, "How much does a base of 45 tasks help, and why?"),
    "Learning in turn, beginning with nothing": (from_nothing, "Ten tasks and fifty, and what they add in bytes."),
    "A stage on top of a policy of one task": (upon_one_task, "Which settings does a stage need?"),
    "One policy for fifty tasks": (fifty, "All of MetaWorld: how good, and which tasks are weak?"),
    "Seconds to a success": (speed_run, "How long until 0.90, and 0.95?"),
    "From cameras": (cameras, "The paper's setting: both policies, shifts, new tasks, what was tried."),
    "Forks": (fork_table, "How good are the variants?"),
    "What makes the router route": (waking, "Does the router tell situations apart, and what makes it?"),
    "What routes, on fifty tasks": (on_fifty, "Does that hold for many tasks, and what does it cost?"),
    "A router that routes, as the default": (as_default, "The rule set beforehand allows it: what speaks against it?"),
    "What acting sparsely costs": (sparse_cost, "Two of eight components: how long does a step take?"),
    "A new task by routing alone": (by_routing, "Can a new task be learned by new weights for old components?"),
    "The factorized policy beside its rivals": (rivals, "One network, regression, mixtures: who is ahead?"),
    "How many components": (how_many, "K from 1 to 16: success, time, stability."),
    "Speed, beside a peer": (speed, "How fast, beside LeRobot's network?"),
    "On a GPU": (on_a_gpu, "What was measured there."),
    "Network calls per action chunk": (samplers, "How few are enough?"),
    "Actions executed per chunk": (looking, "How many of a chunk's actions should be executed?"),
    "How long whole commands take": (commands, "From the command to its last line."),
    "What the intervals cover": (coverage, "How often does a 95 % interval hold the truth?"),
    "Where the files come from": (sources, "Revisions and machines."),
}


def or_not_measured(function, study: Path) -> list[str]:
    """What a function of a section returns, or one line that names the missing files."""
    try:
        return function(study)
    except NotMeasured as missing:
        return [f"Not measured yet: {missing}.", ""]


def page(study: Path = STUDY) -> str:
    """study/README.md."""
    contents = [f"- [{title}](#{anchor(title)}): {question}" for title, (_, question) in SECTIONS.items()]
    sections = [line for title, (function, _) in SECTIONS.items()
                for line in (f"## {title}", "", *or_not_measured(function, study))]  # fmt: skip
    return "\n".join([HEAD, *contents, "", *sections]).rstrip("\n") + "\n"


def anchor(title: str) -> str:
    """What GitHub calls a heading in a link."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


# ------------------------------------------------------------------------------------- blocks for the top-level README


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
        print("error: study/report.py takes nothing, or --check; got " + " ".join(arguments), file=sys.stderr)
        return 2
    readme = root / "README.md"
    for path, wanted in ((root / "study/README.md", page(root / "study")),
                         (readme, fill(readme.read_text(), root / "study"))):  # fmt: skip
        if "--check" not in arguments:
            files.write(path, wanted.encode())
        elif told := first_difference(path, wanted):
            print(f"{path.relative_to(root)}, {told}\nmake it anew: python study/report.py", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
