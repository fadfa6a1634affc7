"""Do our 95 % intervals hold what they promise?    python study/coverage.py

Made-up comparisons of two policies that are equally good: `crossed_difference` (study/intervals.py), which draws
training seeds and episodes anew, should have zero inside its interval 95 times of a hundred. Episodes differ in how
hard they are, alike for both policies; training seeds of a policy differ by a spread of so many points in their
success. Writes study/coverage.json, which docs/measuring.md quotes. Two minutes on one core.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from plumbing.cli import provenance, say, write_json  # noqa: E402
from study import intervals  # noqa: E402

intervals.RESAMPLES = 1000  # for each of hundreds of comparisons
REPEATS, HARDNESS = 300, 1.5  # spread of how hard an episode is, as a logit around a success of 0.95
SIZES = {"six tasks, 50 episodes": (6, 50), "fifty tasks, 20 episodes": (50, 20)}
SEEDS, SPREADS = (2, 3, 5), (0.0, 1.0, 3.0)  # of training seeds, points of success at 0.95


def play(random, tasks: int, episodes: int, seeds: int, spread: float) -> list[dict[str, np.ndarray]]:
    """Two policies: task -> (S, 1, E) of 0 and 1. A spread of one point at 0.95 is a logit of 0.01 / (0.95 * 0.05)."""
    hard = {str(task): HARDNESS * random.standard_normal(episodes) + np.log(0.95 / 0.05) for task in range(tasks)}
    logit = spread / 100 / (0.95 * 0.05)
    found = []
    for _ in range(2):
        luck = logit * random.standard_normal(seeds)
        chance = {task: 1 / (1 + np.exp(-(x + luck[:, None]))) for task, x in hard.items()}
        found.append({task: (random.random(p.shape) < p).astype(float)[:, None] for task, p in chance.items()})
    return found


def covered(random, *how) -> float:
    """The share of intervals that have zero inside."""
    changes = [intervals.crossed_difference(*play(random, *how)) for _ in range(REPEATS)]
    return float(np.mean([change.low <= 0 <= change.high for change in changes]))


def main() -> None:
    random, found = np.random.default_rng(0), {}
    for size, (tasks, episodes) in SIZES.items():
        for seeds in SEEDS:
            for spread in SPREADS:
                share = covered(random, tasks, episodes, seeds, spread)
                found.setdefault(size, {}).setdefault(str(seeds), {})[f"{spread:g}"] = round(share, 3)
                say(f"{size}, {seeds} seeds that differ by {spread:g} points: {share:.3f}")
    path = Path(__file__).with_suffix(".json")
    write_json(path, {"covered": found, "repeats": REPEATS, **provenance(0, "cpu")})


if __name__ == "__main__":
    main()
