"""Success rates with intervals, and paired differences, from the outcome of every single episode.

Several training seeds play the same episodes, so 3 x 50 episodes are not 150 independent ones. A cluster is one episode
of one task, with the outcomes of all seeds on it, and whole clusters are drawn anew within each task (bootstrap: Efron
1979, Annals of Statistics 7, 1-26; percentile interval: Efron & Tibshirani 1993, An Introduction to the Bootstrap,
chapter 13). For one seed alone (in `rate`), and where no draw differs from another: Wilson's interval (1927, Journal of
the American Statistical Association 22, 209-212) over the episodes, marked with a dagger. All intervals are at 95 %.

Where several things were drawn that cross each other (training seeds of a base, demonstrations, episodes), each of them
is drawn anew on its own, and an outcome counts as often as the product of its three counts (the pigeonhole bootstrap:
Owen 2007, Annals of Applied Statistics 1, 386-411). It tends to be too wide where seeds hardly differ, and is too
narrow where a few differ much: study/coverage.py tries it.

Axis legend: S runs (training seeds, mostly), D draws of demonstrations, E episodes of a task
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from plumbing.reports import wilson_interval as wilson

RESAMPLES = 10_000
DAGGER = "† Wilson's interval over the episodes: one training seed, or the same outcome everywhere."


def outcomes(entry: dict) -> np.ndarray:
    """(E,) of 1 success, 0 failure, nan lost: the episodes of one task in an evaluation, in order of their seeds."""
    first, last = entry["seeds"]
    failed, lost = set(entry["failed_seeds"]), {int(seed) for seed in entry["lost"]}
    result = np.array([math.nan if s in lost else float(s not in failed) for s in range(first, last + 1)])
    if (np.nansum(result), np.isfinite(result).sum()) != (entry["successes"], entry["n"]):
        raise ValueError(f"{entry['successes']} of {entry['n']} do not agree with the failed and the lost seeds")
    return result


def stack(entries: list[dict]) -> np.ndarray:
    """(S, E): several evaluations of one task, on the same episodes."""
    if len(seeds := {tuple(entry["seeds"]) for entry in entries}) != 1:
        raise ValueError(f"not of the same episodes: {sorted(seeds)}")
    return np.stack([outcomes(entry) for entry in entries])


def by_task(results: list[dict]) -> dict[str, np.ndarray]:
    """task -> (S, E), from evaluations of the same tasks."""
    return {task: stack([r["tasks"][task] for r in results]) for task in results[0]["tasks"]}


def success(played: dict[str, np.ndarray]) -> float:
    """Mean over tasks of the share of successes among the episodes that ended. played: task -> (S, E)."""
    return float(np.mean([np.nanmean(x) for x in played.values()]))


def count(played: dict[str, np.ndarray]) -> str:
    """successes/episodes, over tasks and seeds"""
    return f"{sum(np.nansum(x) for x in played.values()):.0f}/{sum(np.isfinite(x).sum() for x in played.values())}"


@lru_cache
def draws(sizes: tuple[int, ...]) -> list[np.ndarray]:
    """How often each resample has each episode: for every task (RESAMPLES, E). sizes: the tasks' E.

    The same for all ways of the same tasks: that pairs differences, and makes the page the same every time.
    """
    random, counts = np.random.default_rng(0), []
    for E in sizes:
        drawn = random.integers(E, size=(RESAMPLES, E)) + E * np.arange(RESAMPLES)[:, None]
        counts.append(np.bincount(drawn.ravel(), minlength=RESAMPLES * E).reshape(RESAMPLES, E).astype(float))
    return counts


def resampled(played: dict[str, np.ndarray]) -> np.ndarray:
    """(RESAMPLES,): `success` of each draw of episodes, each with the outcomes of all seeds on it."""
    rates = []
    for x, counts in zip(played.values(), draws(tuple(x.shape[1] for x in played.values())), strict=True):
        # einsum, where @ would start threads: those wait for each other if the machine is busy.
        successes, ended = (np.einsum("re,e->r", counts, y) for y in (np.nansum(x, 0), 1.0 * np.isfinite(x).sum(0)))
        rates.append(successes / ended)
    return np.mean(rates, 0)


@lru_cache
def crossed_draws(shapes: tuple[tuple[int, int, int], ...]) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """How often each resample has each seed (R, S), and for every task each draw (R, D) and episode (R, E)."""
    random, S = np.random.default_rng(0), shapes[0][0]
    seeds = random.multinomial(S, [1 / S] * S, size=RESAMPLES)
    return seeds, [tuple(random.multinomial(n, [1 / n] * n, size=RESAMPLES) for n in shape[1:]) for shape in shapes]


def crossed(played: dict[str, np.ndarray]) -> np.ndarray:
    """(RESAMPLES,): mean success over tasks of each draw of seeds, of each task's demonstrations and of its episodes.

    played: task -> (S, D, E), nan where nothing was played. The same seeds are drawn for all tasks, as one base has
    learned them all. Like `draws` it is the same for all ways of the same shape, which pairs differences. Only seeds
    and draws that were played are drawn. A resample that hits nothing that was played of a task, which happens where
    cells in between are empty, counts as the task's mean.
    """
    there = [np.isfinite(x).any(2) for x in played.values()]  # (S, D)
    seeds_played, draws_played = np.any([x.any(1) for x in there], 0), np.any([x.any(0) for x in there], 0)
    played = {task: x[seeds_played][:, draws_played] for task, x in played.items()}
    rates, shapes = [], tuple(x.shape for x in played.values())
    seeds, each = crossed_draws(shapes)
    for x, (demos, episodes) in zip(played.values(), each, strict=True):
        weights = seeds[:, :, None] * demos[:, None, :]  # (R, S, D)
        totals = [np.einsum("rsd,re,sde->r", weights, episodes, y, optimize=True)
                  for y in (np.nan_to_num(x), 1.0 * np.isfinite(x))]  # fmt: skip
        rates.append(np.divide(*totals, out=np.full(RESAMPLES, np.nanmean(x)), where=totals[1] > 0))
    return np.mean(rates, 0)


def crossed_rate(played: dict[str, np.ndarray]) -> "Rate":
    """Success with its interval over seeds, demonstrations and episodes. played: task -> (S, D, E)."""
    low, high = np.percentile(crossed(played), [2.5, 97.5])
    alike = bool(high - low < 1e-9)  # as in `rate`
    if alike:
        episodes = sum(int(np.isfinite(x).any((0, 1)).sum()) for x in played.values())
        low, high = wilson(success(played) * episodes, episodes)
    return Rate(success(played), float(low), float(high), count(played), alike)


def crossed_difference(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> "Difference":
    """Success of `one` minus `other`, on those seeds and demonstrations that both have. task -> (S, D, E)."""
    if {task: x.shape for task, x in one.items()} != {task: x.shape for task, x in other.items()}:
        raise ValueError("not of the same tasks, seeds, demonstrations and episodes")
    both = {task: np.isfinite(one[task]) & np.isfinite(other[task]) for task in one}
    mine, its = ({task: np.where(both[task], x[task], np.nan) for task in one} for x in (one, other))
    low, high = np.percentile(crossed(mine) - crossed(its), [2.5, 97.5])
    return Difference(*(100 * float(x) for x in (success(mine) - success(its), low, high)))


class Rate(NamedTuple):
    """A success rate with its interval. `str` of it: successes/episodes, then the interval."""

    mean: float
    low: float
    high: float
    count: str
    wilson: bool

    @property
    def interval(self) -> str:
        return f"{number(self.low)} to {number(self.high)}" + "†" * self.wilson

    @property
    def share(self) -> str:
        return f"{number(self.mean)}, {self.interval}"

    def __str__(self) -> str:
        return f"{self.count}, {self.interval}"


def rate(played: dict[str, np.ndarray]) -> Rate:
    """Success with its interval, over tasks and seeds. played: task -> (S, E), nan where an episode was lost."""
    mean, ended = success(played), [np.isfinite(x) for x in played.values()]
    low, high = np.percentile(resampled(played), [2.5, 97.5])
    by_wilson = max(map(len, ended)) == 1 or bool(high - low < 1e-9)
    if by_wilson:
        episodes = sum(int(x.any(0).sum()) for x in ended)  # not episodes x seeds
        low, high = wilson(mean * episodes, episodes)
    return Rate(mean, float(low), float(high), count(played), by_wilson)


class Difference(NamedTuple):
    """One way's success minus another's on the same episodes, with its interval, in points (hundredths)."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{points(self.mean)} [{points(self.low)}, {points(self.high)}]"

    @property
    def verdict(self) -> str:
        side = "lies above" if self.low > 1e-9 else "lies below" if self.high < -1e-9 else "includes"
        return f"the interval {side} zero"


def difference(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> Difference:
    """Success of `one` minus `other`, paired: both from the same draws of the same episodes. task -> (S, E)."""
    if {task: x.shape[1] for task, x in one.items()} != {task: x.shape[1] for task, x in other.items()}:
        raise ValueError("not of the same tasks and episodes")
    # In the same order, so that each task meets the same draws; an episode that one of them has lost counts in neither.
    both = {task: np.isfinite(one[task]).all(0) & np.isfinite(other[task]).all(0) for task in one}
    mine, its = ({task: np.where(both[task], x[task], np.nan) for task in one} for x in (one, other))
    low, high = np.percentile(resampled(mine) - resampled(its), [2.5, 97.5])
    return Difference(*(100 * float(x) for x in (success(mine) - success(its), low, high)))


def compare(one: list[dict], other: list[dict]) -> Difference:
    """`difference` between evaluations. ValueError if they are not of the same episodes."""
    by_task([*one, *other])  # which says so
    return difference(by_task(one), by_task(other))


def redrawn(results: list[dict]) -> dict[str, np.ndarray]:
    """task -> (S, 1, E): as the crossed draws want it. A seed has demonstrations of its own, or all have the same."""
    return {task: x[:, None] for task, x in by_task(results).items()}


def compare_seeds(one: list[dict], other: list[dict]) -> Difference:
    """`compare`, with the training seeds drawn anew, too; the i-th of one is paired with the i-th of the other."""
    return crossed_difference(redrawn(one), redrawn(other))


# Student's t, 97.5 %, by the number of seeds (one more than its degrees of freedom).
T_975 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}


def by_seed(one: list[dict], other: list[dict]) -> Difference | None:
    """one minus other, in points, by Student's t over the differences of seeds alone; None for one seed. Of few seeds
    it is wider than `compare_seeds`: it knows nothing of episodes, and has to learn the spread from three numbers."""
    each = np.array([compare([a], [b]).mean for a, b in zip(one, other, strict=True)])
    if len(each) < 2:
        return None
    half = T_975[len(each)] * each.std(ddof=1) / len(each) ** 0.5
    return Difference(each.mean(), each.mean() - half, each.mean() + half)


def number(x: float | None, digits: int = 3) -> str:
    """Rounded twice: the last bits of a sum differ between machines, and would decide where a 5 goes. Never -0."""
    return "-" if x is None else f"{round(round(x, 9), digits) + 0.0:.{digits}f}"


def points(x: float) -> str:
    """With its sign, unless it is zero."""
    return number(x, 1) if number(x, 1) in ("0.0", "-") or x < 0 else f"+{number(x, 1)}"
