"""Reading results, and writing them as Markdown: what every study/*/results.py is made of."""

import json
import re
import shlex
import textwrap
from pathlib import Path

import numpy as np

from plumbing import files
from plumbing.cli import ROOT
from study.intervals import compare, compare_seeds, number, points

STUDY = ROOT / "study"
FIRST, BLOCK = 1_000_000, 10_000  # episode i of block N has environment seed FIRST + N * BLOCK + i (envs/rollout.py)
EPISODES = 50  # per task: the default of `adapt.py --eval-episodes`, which its results do not repeat
SAMPLERS = {"dpm": "DPM-Solver++", "ddim": "DDIM", "ddpm": "DDPM"}


class NotMeasured(Exception):
    """The files of a table do not exist yet. The message names them."""


def read(study: Path, pattern: str) -> dict[str, dict]:
    """File name without its ending -> content, in order of the names. NotMeasured if there is none."""
    found = {path.stem: files.read_json(path) for path in sorted(study.glob(pattern))}
    if not found:
        raise NotMeasured(f"`study/{pattern.replace('[0-9]', '')}`")
    return found


def expert(results: list[dict], tasks=None) -> tuple[int, int]:
    """Successes and episodes of the scripted expert, counted once for each task of these results (or of `tasks`)."""
    seen = {task: r["tasks"][task]["expert"] for r in results for task in r["tasks"] if tasks is None or task in tasks}
    return sum(e["successes"] for e in seen.values()), sum(e["n"] for e in seen.values())


def flag(command: str, name: str, default: int) -> int:
    """The whole number that a recorded command gave to a flag, as `--name 5` or `--name=5`."""
    found = re.findall(rf"{name}[= ](\d+)", command)
    return int(found[-1]) if found else default


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
    paths = sorted(path.relative_to(ROOT) for path in STUDY.glob(f"*/{script}"))
    return f"`{shlex.join([python, str(paths[0]) if paths else script, *rest])}`"


def expert_cell(results: list[dict]) -> str:
    successes, n = expert(results)
    return f"{number(successes / n)} ({successes}/{n})"


def mean(values) -> float | None:
    values = [x for x in values if x is not None]  # None: all episodes of a task were lost
    return float(np.mean(values)) if values else None


def paired(study: Path, *patterns: str) -> list[list[dict]]:
    """Results of the training seeds of which all are there, for each pattern, which has [0-9] for the seed."""
    found = [[study / pattern.replace("[0-9]", str(seed)) for pattern in patterns] for seed in range(10)]
    rows = [[json.loads(path.read_text()) for path in paths] for paths in found if all(map(Path.exists, paths))]
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in patterns]


def evenly(study: Path, pattern: str) -> str:
    """What success changes by, in points, where 1/K stood in for the router's weights: with several seeds these are
    drawn anew, too, and stand beside it. Empty if that was not played."""
    even, usual = paired(study, pattern, pattern.replace("-even", ""))
    if len(even) < 2:
        return str(compare(even, usual)) if even else ""
    each = (points(compare([a], [b]).mean) for a, b in zip(even, usual, strict=True))
    return f"{compare_seeds(even, usual)}; each seed {', '.join(each)}"
