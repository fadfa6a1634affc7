"""Is the goal in the pictures? Counted for every task whose goal is a place of its own, told by no object.

    python study/pixels/goals.py

MetaWorld marks such a goal with a small ball. 25 episodes of block 400, at reset, with 64, 96 and 128 pixels: the ball
is hidden, and a camera has seen it if some byte of its picture changes by more than 30 of 255. envs/pixels.py refuses
tasks whose goal more than a tenth of the episodes do not show (`GOAL_UNSEEN`; tests/test_pixels.py compares).
"""

import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from plumbing import opengl  # noqa: E402

opengl.need()  # before MuJoCo is imported, which asks once how to draw

import numpy as np  # noqa: E402

from envs.pixels import CAMERAS, FREE_GOALS, SIZES, PixelsEnv  # noqa: E402
from envs.rollout import block_seeds  # noqa: E402
from plumbing.cli import parse, progress, provenance, run, write_json  # noqa: E402

EPISODES, BLOCK = 25, 400
BYTES = 30  # of 255


@dataclass
class GoalsConfig:
    """Count the episodes in which each camera shows the goal at reset."""

    out: str = "study/pixels/goals.json"


def seen(env: PixelsEnv, seed: int) -> dict[str, bool]:
    """Camera -> whether it shows the goal of this episode at reset."""
    shown, _ = env.reset(seed=seed)
    sites = [i for i in range(env.sim.model.nsite) if "goal" in env.sim.model.site(i).name]
    before = env.sim.model.site_rgba[sites].copy()
    env.sim.model.site_rgba[sites, 3] = 0
    hidden = env.observe()
    env.sim.model.site_rgba[sites] = before
    return {camera: int(np.abs(shown[camera].astype(int) - hidden[camera]).max()) > BYTES for camera in CAMERAS}


def main(config: GoalsConfig) -> dict:
    found: dict[str, dict[str, dict[str, int]]] = {}
    with progress(total=len(FREE_GOALS) * len(SIZES) * EPISODES, unit="episode") as bar:
        for task in FREE_GOALS:
            found[task] = {}
            for size in SIZES:
                env, rows = PixelsEnv(task, size), []
                for seed in block_seeds(BLOCK, EPISODES):
                    rows.append(seen(env, seed))
                    bar.update()
                counts = {camera: sum(row[camera] for row in rows) for camera in CAMERAS}
                found[task][str(size)] = counts | {",".join(CAMERAS): sum(any(row.values()) for row in rows)}
    path = ROOT / config.out
    write_json(path, {"episodes": EPISODES, "block": BLOCK, "tasks": found, **provenance(BLOCK, "cpu")})
    return {"wrote": [config.out]}


if __name__ == "__main__":
    run(lambda: main(parse(GoalsConfig)))
