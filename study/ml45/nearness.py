"""What makes a demonstration a good one?   python study/ml45/nearness.py

From the results of study/ml45/table.py: is an episode solved more often where it begins near the one demonstration
(first object and goal, in mm, as study/core/nearest.py measures it)? And what do the better demonstrations have: are
they shorter, or nearer to the middle of all episodes? Demonstrations are recorded anew, by their seeds; nothing is
trained. Writes study/ml45/nearness.json.
"""

import argparse
import json
import sys
from pathlib import Path

import gymnasium
import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from envs.demos import DATASET_ID, demonstrations  # noqa: E402  (registers fdp/door-lock-v3, ... as well)
from plumbing.cli import provenance, run, say, write_json  # noqa: E402
from study.core.nearest import start  # noqa: E402
from study.intervals import outcomes  # noqa: E402
from study.ml45.table import LEADING, NEW  # noqa: E402


def begins(task: str, seeds: range) -> np.ndarray:
    """(E, 6): where the episodes begin."""
    env, found = gymnasium.make(f"fdp/{task}-v3"), []
    for seed in seeds:
        env.reset(seed=seed)
        now = env.step(np.zeros(4, np.float32))[0]
        found.append(start(now["objects"], now["goal"]))
    return np.stack(found)


def halves(distance: np.ndarray, success: np.ndarray) -> list[float]:
    """Success of the nearer and of the farther half of the episodes. distance: (E,); success: (E,), a share of runs."""
    order = np.argsort(distance, kind="stable")
    return [float(np.nanmean(success[part])) for part in np.array_split(order, 2)]


def main() -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, default=HERE.parents[1] / "data")
    data_dir, result = parser.parse_args().data_dir, {}
    for task in NEW.split(","):
        rows = {}
        for draw in range(1, 6):
            runs = {base: [json.loads(path.read_text()) for path in
                           sorted((HERE / base).glob(f"{way}-{task}-d1-n2000-draw{draw}-s[0-9].json"))]
                    for base, way in LEADING.items()}  # fmt: skip
            if not any(runs.values()):
                continue
            first, last = next(r for mine in runs.values() for r in mine)["tasks"][task]["seeds"]
            (shown,) = demonstrations([task], 1, data_dir, DATASET_ID, draw)[task]
            there = start(shown["observations"]["objects"][1], shown["observations"]["goal"][1])
            here = begins(task, range(first, last + 1))
            distance = np.linalg.norm(here - there, axis=1)
            success = {base: np.mean([outcomes(r["tasks"][task]) for r in mine], 0) for base, mine in runs.items()}
            rows[str(draw)] = {
                "steps": len(shown["actions"]),
                "from_the_middle": round(float(np.linalg.norm(there - here.mean(0))), 1),
                "median_distance": round(float(np.median(distance)), 1),
                "success": {base: float(np.nanmean(x)) for base, x in success.items()},
                "nearer_and_farther_half": {base: halves(distance, x) for base, x in success.items()},
            }
            say(f"{task}, draw {draw}: {rows[str(draw)]}")
        result[task] = rows
    write_json(HERE / "nearness.json", {"unit": "mm", "tasks": result, **provenance(9, "cpu")})
    return {"wrote": [str(HERE / "nearness.json")]}


if __name__ == "__main__":
    run(main)
