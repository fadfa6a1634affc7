"""One demonstration made into many: every window as if hand, objects and goal had stood somewhere else on the table.

What a robot does to a thing depends on where the thing is from the hand, hardly on where both are. So each sample's
positions are moved by one offset, the same for all, or (the control) each by an offset of its own. Ways "add-shift",
"add-return" and "add-noise" of study/adapt/one_task.py. Things that are not there have position
0, 0, 0, and stay there.

Axis legend: B batch, L steps of an episode
"""

import torch

from envs import elsewhere
from train import Windows

SHIFT, NOISE = 0.03, 0.005  # metres, standard deviation: across the table; of each position on its own
ASTRAY = 0.01  # metres, standard deviation: of a hand that has left its path
CENTIMETRE = 0.01  # what an action of 1 moves the hand by
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


class Elsewhere(Windows):
    """Every demonstration, and what adapt.py makes of few: for a policy that train.py trains."""

    def __init__(self, policy, tasks, demos, device):
        super().__init__(policy, tasks, elsewhere.multiply(demos, elsewhere.COPIES, 0), device)
