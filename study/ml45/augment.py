"""One demonstration made into many: every window as if hand, objects and goal had stood somewhere else on the table.

What a robot does to a thing depends on where the thing is from the hand, hardly on where both are. So each sample's
positions are moved by one offset, the same for all, or (the control) each by an offset of its own. Ways "add-shift",
"add-return" and "add-noise" of study/adapt/one_task.py. Things that are not there have position
0, 0, 0, and stay there.

"add-elsewhere" makes whole demonstrations. The hand begins where it began, but the thing and its goal stand elsewhere,
and the path between them bends: near the thing, and near the goal, the hand does what it did, as seen from there. (The
idea is MimicGen's, arXiv 2310.17596; here no simulator checks what was made.)

Axis legend: B batch, L steps of an episode
"""

import numpy as np
import torch

from train import Windows

SHIFT, NOISE = 0.03, 0.005  # metres, standard deviation: across the table; of each position on its own
ELSEWHERE, COPIES = 0.07, 100  # metres, standard deviation along either side of the table; how many are made
LAG = 3  # steps by which the hand is behind its actions
ASTRAY = 0.01  # metres, standard deviation: of a hand that has left its path
CENTIMETRE = 0.01  # what an action of 1 moves the hand by, a step or three later
POSITIONS = (("proprioception", 0), ("objects", 0), ("objects", 7), ("goal", 0))  # part, and where its x, y, z begin


def moved(observation: dict[str, torch.Tensor], together: bool, shift: float = SHIFT) -> dict[str, torch.Tensor]:
    """{part: (B, ...)} -> the same with positions moved, in all frames alike. Heights stay, where all move together:
    things do not float."""
    made = {part: x.clone() for part, x in observation.items()}
    first = made["goal"]
    flat = torch.tensor([1.0, 1.0, 0.0], device=first.device)
    offset = shift * flat * torch.randn(len(first), 3, device=first.device)
    for part, start in POSITIONS:
        if not together:
            offset = NOISE * torch.randn(len(first), 3, device=first.device)
        x = made[part][..., start : start + 3]
        there = (x != 0).any(-1, keepdim=True)
        x += there * (offset[:, None] if x.ndim == 3 else offset)
    return made


def astray(observation: dict[str, torch.Tensor], actions: torch.Tensor) -> tuple:
    """{part: (B, ...)}, (B, H, A) -> the same with the hand beside its path, and actions that bring it back within the
    chunk: one demonstration shows no way back to it."""
    made, H = dict(observation), actions.shape[1]
    offset = ASTRAY * torch.randn(len(actions), 3, device=actions.device)
    made["proprioception"] = observation["proprioception"].clone()
    made["proprioception"][..., :3] += offset[:, None]
    actions = actions.clone()
    actions[..., :3] -= offset[:, None] / (H * CENTIMETRE)
    return made, actions.clamp(-1, 1)


class Shifted(Windows):
    """Hand, objects and goal together."""

    together, shift = True, SHIFT

    def sample(self, batch_size: int) -> tuple:
        observation, task, actions = super().sample(batch_size)
        return moved(observation, self.together, self.shift), task, actions


class Returning(Shifted):
    """The same, with a hand that has to find back."""

    def sample(self, batch_size: int) -> tuple:
        observation, task, actions = super().sample(batch_size)
        observation, actions = astray(observation, actions)
        return observation, task, actions


class Noisy(Shifted):
    """Each on its own."""

    together = False


def ramp(length: int, begin: float, end: float) -> np.ndarray:
    """(length,): 0 until begin, 1 from end on."""
    return np.clip((np.arange(length) - begin) / max(end - begin, 1), 0, 1)


def turns(episode: dict) -> tuple[int, int]:
    """The first steps at which the hand is at the thing (within 2 cm of the nearest that it ever gets), and at which
    the thing has been moved from there by 1 cm (L, if never)."""
    hand, thing = (episode["observations"][part][:, 0, :3] for part in ("proprioception", "objects"))
    distance = np.linalg.norm(hand - thing, axis=1)
    at = int(np.argmax(distance < distance.min() + 0.02))
    moved = np.linalg.norm(thing[at:] - thing[at], axis=1) > 0.01
    return at, at + int(np.argmax(moved)) if moved.any() else len(thing) - 1


def elsewhere(episode: dict, thing: np.ndarray, goal: np.ndarray) -> dict:
    """The same episode as if the thing had stood `thing` (2,) metres away, and its goal `goal` (2,).

    The hand is as far away as the thing when it has reached it (a bit before: it comes from above), and as far as the
    goal a bit before the end; the thing goes with the hand. Actions bend with the path; of what one would have to be
    larger than 1, the direction is left.
    """
    seen, actions, L = episode["observations"], episode["actions"].copy(), len(episode["actions"])
    at, moving = turns(episode)
    toward, along = ramp(L + 1, LAG, 0.7 * at)[:, None], ramp(L + 1, moving, moving + 0.7 * (L - moving))[:, None]
    of_hand = toward * thing + along * (goal - thing)  # (L + 1, 2)
    of_thing = thing + along * (goal - thing)
    bends = np.diff(of_hand[np.minimum(np.arange(LAG, L + LAG + 1), L)], axis=0)
    actions[:, :2] = np.clip(actions[:, :2] + bends / CENTIMETRE, -1, 1)
    made = {part: x.copy() for part, x in seen.items()}
    for frame in (0, 1):  # now, and a step ago
        ago = np.maximum(np.arange(L + 1) - frame, 0)
        made["proprioception"][:, frame, :2] += of_hand[ago]
        for start in (0, 7):
            there = (made["objects"][:, frame, start : start + 3] != 0).any(-1, keepdims=True)
            made["objects"][:, frame, start : start + 2] += there * of_thing[ago]
    made["goal"][:, :2] += (made["goal"] != 0).any(-1, keepdims=True) * goal
    return {"observations": {part: x.astype(np.float32) for part, x in made.items()},
            "actions": actions.astype(np.float32)}  # fmt: skip


class Elsewhere(Windows):
    """Every demonstration, and a hundred made from it. Whether goals go with their things is not known from one: in
    half of them they do, in half they stand somewhere of their own."""

    def __init__(self, policy, tasks, demos, device):
        made = {}
        for task in tasks:
            made[task] = list(demos[task])
            for copy in range(COPIES):
                for episode in demos[task]:
                    thing, goal = ELSEWHERE * torch.randn(2, 2).numpy()
                    made[task].append(elsewhere(episode, thing, thing if copy % 2 else goal))
        super().__init__(policy, tasks, made, device)
