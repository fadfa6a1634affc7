"""One demonstration made into many: every window as if hand, objects and goal had stood somewhere else on the table.

What a robot does to a thing depends on where the thing is from the hand, hardly on where both are. So each sample's
positions are moved by one offset, the same for all, or (the control) each by an offset of its own. Ways "add-shift" and
"add-noise" of study/adapt/one_task.py. Things that are not there have position 0, 0, 0, and stay there.

Axis legend: B batch
"""

import torch

from train import Windows

SHIFT, NOISE = 0.03, 0.005  # metres, standard deviation: across the table; of each position on its own
POSITIONS = (("proprioception", 0), ("objects", 0), ("objects", 7), ("goal", 0))  # part, and where its x, y, z begin


def moved(observation: dict[str, torch.Tensor], together: bool) -> dict[str, torch.Tensor]:
    """{part: (B, ...)} -> the same with positions moved, in all frames alike. Heights stay, where all move together:
    things do not float."""
    made = {part: x.clone() for part, x in observation.items()}
    first = made["goal"]
    offset = (
        SHIFT * torch.randn(len(first), 3, device=first.device) * torch.tensor([1.0, 1.0, 0.0], device=first.device)
    )
    for part, start in POSITIONS:
        if not together:
            offset = NOISE * torch.randn(len(first), 3, device=first.device)
        x = made[part][..., start : start + 3]
        there = (x != 0).any(-1, keepdim=True)
        x += there * (offset[:, None] if x.ndim == 3 else offset)
    return made


class Shifted(Windows):
    """Hand, objects and goal together."""

    together = True

    def sample(self, batch_size: int) -> tuple:
        observation, task, actions = super().sample(batch_size)
        return moved(observation, self.together), task, actions


class Noisy(Shifted):
    """Each on its own."""

    together = False
