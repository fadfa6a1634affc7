"""How far every evaluation episode is from the nearest demonstration:   python study/core/nearest.py [--data-dir data]

Evaluation draws positions from the same box as the demonstrations, by other seeds: "unseen" means between theirs. This
says how far between, for the first object and the goal together. Writes study/core/nearest.json, in millimetres.
"""

import argparse
import sys
from pathlib import Path

import gymnasium
import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))

from envs.demos import demonstrations  # noqa: E402  (registers fdp/push-v3, ... as well)
from envs.rollout import FIRST_EVALUATION_SEED  # noqa: E402
from envs.tasks import resolve_tasks  # noqa: E402
from plumbing.cli import provenance, run, say, write_json  # noqa: E402

TASKS, COUNT, BLOCK = "reach,push,mt6", 50, 3  # the study's own: 50 demonstrations, `evaluate.py --seed 3`


def start(objects: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """objects (2, 14) and goal (3,) one step after reset -> first object's and goal's position (6,), in mm.

    One step, because in some tasks (drawer-open, window-close) MetaWorld's reset still shows the object elsewhere.
    """
    return 1000 * np.concatenate([objects[0, :3], goal]).astype(np.float64)


def nearest(here: np.ndarray, there: np.ndarray, same: bool = False) -> dict[str, float]:
    """Distances from every row of `here` (n, d) to the nearest row of `there` (m, d); if same, other than itself."""
    distances = np.linalg.norm(here[:, None] - there[None], axis=-1)  # (n, m)
    closest = np.where(np.eye(*distances.shape, dtype=bool) & same, np.inf, distances).min(1)
    return {name: round(float(f(closest)), 1) for name, f in (("min", np.min), ("median", np.median), ("max", np.max))}


def main() -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, default=HERE.parent.parent / "data")
    result = {}
    for task, episodes in demonstrations(resolve_tasks(TASKS), COUNT, parser.parse_args().data_dir).items():
        seen = [e["observations"] for e in episodes]
        shown = np.array([start(o["objects"][1], o["goal"][1]) for o in seen])  # (50, 6)
        env, played = gymnasium.make(f"fdp/{task}-v3"), np.empty_like(shown)
        for i in range(COUNT):
            env.reset(seed=FIRST_EVALUATION_SEED + 10_000 * BLOCK + i)
            now = env.step(np.zeros(4, np.float32))[0]
            played[i] = start(now["objects"], now["goal"])
        result[task] = {
            "nearest": nearest(played, shown),
            "nearest_goal": nearest(played[:, 3:], shown[:, 3:]),  # all that counts in reach
            "between_demonstrations": nearest(shown, shown, same=True),
        }
        say(f"{task:<18}" + ", ".join(f"{what} {r}" for what, r in result[task].items()))
        for name, x in (("demonstrations", shown), ("evaluation", played)):  # (object, goal) x, y, z: least and most
            result[task][name] = np.stack([x.min(0), x.max(0)]).round(1).tolist()
    write_json(HERE / "nearest.json", {"unit": "mm", "tasks": result, **provenance(BLOCK, "cpu")})
    return {"wrote": [str(HERE / "nearest.json")]}


if __name__ == "__main__":
    run(main)
