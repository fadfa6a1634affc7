"""Do our 95 % intervals hold what they promise?    python study/coverage.py

Made-up comparisons of two policies that are equally good: `crossed_difference` (study/intervals.py), which draws
training seeds and episodes anew, should have zero inside its interval 95 times of a hundred. Episodes differ in how
hard they are, alike for both policies; training seeds of a policy differ by a spread of so many points in their
success. Writes study/coverage.json. Two minutes on one core.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from plumbing.cli import no_arguments, provenance, say, write_json  # noqa: E402
from study import intervals  # noqa: E402

REPEATS, HARDNESS = 300, 1.5  # standard deviation of how hard an episode is, as a logit
EASY = 3.85  # the logit of an episode of middling hardness; the mean success is then 0.95
SIZES = {"six tasks, 50 episodes": (6, 50), "fifty tasks, 20 episodes": (50, 20)}
SEEDS, SPREADS = (2, 3, 5), (0.0, 1.0, 3.0)  # standard deviation of training seeds' success, in points


def play(random, tasks: int, episodes: int, seeds: int, spread: float) -> list[dict[str, np.ndarray]]:
    """Two policies: task -> (S, 1, E) of 0 and 1."""
    hard = {str(task): EASY + HARDNESS * random.standard_normal(episodes) for task in range(tasks)}
    chance = 1 / (1 + np.exp(-np.stack([*hard.values()])))
    logit = spread / 100 / np.mean(chance * (1 - chance))  # by so much a logit changes success by this many points
    found = []
    for _ in range(2):
        luck = logit * random.standard_normal(seeds)
        chance = {task: 1 / (1 + np.exp(-(x + luck[:, None]))) for task, x in hard.items()}
        found.append({task: (random.random(p.shape) < p).astype(float)[:, None] for task, p in chance.items()})
    return found


def covered(random, *how) -> float:
    """The share of intervals that have zero inside. how: as `play` has it."""
    changes = [intervals.crossed_difference(*play(random, *how)) for _ in range(REPEATS)]
    return float(np.mean([change.low <= 0 <= change.high for change in changes]))


def main() -> None:
    intervals.RESAMPLES = 1000  # for each of thousands of comparisons
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
    no_arguments()
    main()
