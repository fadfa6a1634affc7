"""Does a router route? What its weights tell about the situation, and how alike the components are: pure functions.

A weight is read as a probability here: draw a component by the weights of a moment, and ask what it says about where
and when that was. Knowing the component, how many nats does one know about the task, about what the environment reports
(near the object, grasped), about the time? (Mutual information: Cover & Thomas 2006, Elements of Information Theory,
chapter 2.) A router that always gives the same weights tells nothing, and neither does one that gives other weights
whose differences have nothing to do with the situation.

Weights are positive and sum to one, or are made so (`as_probabilities`). A chunk is one decision of the policy.

Axis legend: E episodes, N chunks of an episode, L labels, K components, M moments (chunks and denoising steps), R draws
"""

import numpy as np

RESAMPLES, SHUFFLES = 1000, 50


# ------------------------------------------------------------------------------------------ weights and situations


def as_probabilities(weights: np.ndarray) -> np.ndarray:
    """(..., K) -> (..., K): absolute values that sum to one, for routers that may subtract a component."""
    size = np.abs(weights)
    return size / np.maximum(size.sum(-1, keepdims=True), 1e-12)


def entropy(p: np.ndarray) -> np.ndarray:
    """(..., K) -> (...): nats of a distribution; ln K is indifference, 0 is certainty."""
    return -(p * np.log(np.maximum(p, 1e-300))).sum(-1)


def tables(weights: list[np.ndarray], labels: list[np.ndarray], L: int) -> np.ndarray:
    """E arrays of weights (N, K) and of labels (N,) in 0 .. L-1 -> (E, L, K): how much weight met which label."""
    return np.stack([np.stack([w[label == i].sum(0) for i in range(L)])
                     for w, label in zip(weights, labels, strict=True)])  # fmt: skip


def information(table: np.ndarray) -> np.ndarray:
    """(..., L, K) weight that met each label -> (...): I(component; label) in nats. 0 where nothing met anything."""
    joint = table / np.maximum(table.sum((-2, -1), keepdims=True), 1e-300)
    return entropy(joint.sum(-1)) + entropy(joint.sum(-2)) - entropy(joint.reshape(*joint.shape[:-2], -1))


def shuffled(labels: list[np.ndarray], how: str, tasks: list[str], random: np.random.Generator) -> list[np.ndarray]:
    """Labels that have lost their meaning, and keep everything else.

    "episodes": what is the same throughout an episode (the task) is handed around between episodes. "chunks": what
    changes (the time) is handed around within each. "courses": an episode gets the whole course of a label from another
    one of its task, at the same times (its last value from where that one ended). For what happens once in every
    episode: a flag that is set when the hand has arrived is known from the clock alone, and nearly so from the task.
    What a component tells beyond this control it can only have from the situation.
    """
    if how == "chunks":
        return [random.permutation(label) for label in labels]
    if how == "episodes":
        order = random.permutation(len(labels))
        return [np.full(len(label), labels[i][0]) for label, i in zip(labels, order, strict=True)]
    other = np.arange(len(labels))
    for task in dict.fromkeys(tasks):  # not a set: its order is another one in every process
        mine = np.flatnonzero(np.array(tasks) == task)
        other[mine] = _nobodys_own(mine, random)
    return [labels[i][np.minimum(np.arange(len(label)), len(labels[i]) - 1)]
            for label, i in zip(labels, other, strict=True)]  # fmt: skip


def _nobodys_own(mine: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(n,) -> (n,): the same in another order, in which nothing stands where it stood (one alone keeps its place)."""
    order = random.permutation(len(mine))
    given = np.empty_like(mine)
    given[order] = mine[np.roll(order, 1)]
    return given


def draw_episodes(tasks: list[str], random: np.random.Generator, resamples: int = RESAMPLES) -> np.ndarray:
    """Task of each episode -> (R, E): how often each draw has each episode, drawn anew within each task."""
    counts = np.zeros((resamples, len(tasks)))
    for task in dict.fromkeys(tasks):  # not a set: its order is another one in every process
        mine = np.flatnonzero(np.array(tasks) == task)
        counts[:, mine] = random.multinomial(len(mine), np.full(len(mine), 1 / len(mine)), size=resamples)
    return counts


def tells(weights: list[np.ndarray], labels: list[np.ndarray], tasks: list[str], how: str, seed: int = 0) -> dict:
    """What the component tells about a label, beside what it seems to tell about shuffled ones.

    weights: E arrays (N, K); labels: E arrays (N,) of whole numbers from 0; tasks: the task of each episode, in which
    episodes are drawn anew for the interval; how: of `shuffled`. -> {"nats", "shuffled", "above", "interval" (95 %, of
    `above`), "most": what a perfect router would have}. `above` is a little low: shuffled labels tell something of
    whatever the weights are sure of, by chance.
    """
    random, L = np.random.default_rng(seed), 1 + max(int(label.max()) for label in labels)
    counts = draw_episodes(tasks, random)
    told = tables(weights, labels, L)
    empty = [tables(weights, shuffled(labels, how, tasks, random), L) for _ in range(SHUFFLES)]

    def drawn(table: np.ndarray) -> np.ndarray:
        return information(np.einsum("re,elk->rlk", counts, table))

    found, control = information(told.sum(0)), float(np.mean([information(table.sum(0)) for table in empty]))
    above = drawn(told) - np.mean([drawn(table) for table in empty], 0)
    # Some episodes are drawn twice, and fewer different ones tell more by chance: centred where the estimate is.
    low, high = np.percentile(above - above.mean(), [2.5, 97.5]) + (found - control)
    share = told.sum((0, 2)) / told.sum()
    return {"nats": float(found), "shuffled": control, "above": float(found - control),
            "interval": [float(low), float(high)],
            "most": float(min(entropy(share), np.log(told.shape[-1])))}  # fmt: skip


# ------------------------------------------------------------------------------------------ components


class Similarity:
    """Sums over moments of how alike K predictions are; `result` of them. Add with `add` as a policy acts.

    The quantities are those with which Laprevotte et al. (CoRL 2026, "Learning to be Different") describe components.
    """

    def __init__(self, K: int):
        self.signed, self.absolute, self.gram = np.zeros((K, K)), np.zeros((K, K)), np.zeros((K, K))
        self.twice, self.own, self.moments = 0.0, 0.0, 0

    def add(self, predictions: np.ndarray, weights: np.ndarray) -> None:
        """predictions (K, M, D), flat; weights (M, K)."""
        r = predictions.astype(np.float64)
        size = np.maximum(np.linalg.norm(r, axis=-1, keepdims=True), 1e-12)
        for total, x in ((self.signed, r / size), (self.absolute, np.abs(r / size))):
            total += np.einsum("imd,jmd->ij", x, x, optimize=True)
        gram = np.einsum("imd,jmd->mij", r, r, optimize=True)
        self.gram += gram.sum(0)
        counted = np.einsum("mi,mj,mij->mij", weights, weights, gram)
        own = np.einsum("mii->m", counted)
        self.twice += float((counted.sum((1, 2)) - own).sum())
        self.own += float(own.sum())
        self.moments += r.shape[1]

    def result(self) -> dict:
        """signed and absolute: mean cosines (K, K), the latter of the predictions' absolute values, in which opposite
        signs cannot hide a likeness. effective_rank: exp of the entropy of the normalised eigenvalues of E[<r_i, r_j>],
        1 if all say the same, K if they are orthogonal and of one size. double_counting: E[2 sum_{i<j} w_i w_j <r_i,
        r_j>] over E[sum_i w_i^2 |r_i|^2], K - 1 if all say the same with weights 1/K, 0 if nobody repeats another.
        """
        eigenvalues = np.linalg.eigvalsh(self.gram / self.moments).clip(0)
        return {"signed": (self.signed / self.moments).tolist(), "absolute": (self.absolute / self.moments).tolist(),
                "effective_rank": float(np.exp(entropy(eigenvalues / eigenvalues.sum()))),
                "double_counting": self.twice / self.own, "moments": self.moments}  # fmt: skip


# ------------------------------------------------------------------------------------------ weights of another router


def top(weights: np.ndarray, n: int) -> np.ndarray:
    """(B, K) -> (B, K): the n largest, by absolute value, with the sum that all had; the others are 0."""
    kept = np.zeros_like(weights)
    best = np.argsort(-np.abs(weights), axis=-1, kind="stable")[:, :n]
    np.put_along_axis(kept, best, np.take_along_axis(weights, best, -1), -1)
    return with_sum(kept, weights.sum(-1), kept != 0)


def without(weights: np.ndarray, k: int) -> np.ndarray:
    """(B, K) -> (B, K): component k left out, the others with the sum that all had."""
    others = np.ones_like(weights, bool)
    others[:, k] = False
    return with_sum(weights * others, weights.sum(-1), others)


def with_sum(weights: np.ndarray, total: np.ndarray, may: np.ndarray) -> np.ndarray:
    """Weights (B, K) scaled to the sums (B,). Where they (nearly) cancel, scaling would make them huge: those that
    `may` (B, K) share the sum instead. So it is, too, where a router gave everything to what was left out."""
    now = weights.sum(-1, keepdims=True)
    equal = may / np.maximum(may.sum(-1, keepdims=True), 1)
    scaled = np.where(np.abs(now) > 1e-3, weights / np.where(np.abs(now) > 1e-3, now, 1), equal)
    return scaled * total[:, None]


def contrast(drops: np.ndarray) -> float:
    """(K, tasks) success lost without each component -> the mean over components of (largest loss - median loss).

    High where a component matters to some tasks and not to others; 0 where each is missed everywhere alike, or nowhere.
    """
    return float((drops.max(1) - np.median(drops, 1)).mean())
