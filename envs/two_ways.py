"""Two tasks whose expert goes around a wall, left in some episodes and right in the others: two modes.

    python train.py --tasks fdp/reach-wall-two-ways-v3,fdp/button-press-wall-two-ways-v3

The reason why diffusion policies exist. MetaWorld's experts have one way of doing things, and where there is one, plain
regression does nearly as well (by a U-Net, on mt6, three points less with 25 demonstrations, seven to nine with fewer:
study/README.md). Here the hand comes down to the height of the wall and passes it on one side or the other, and nothing
in the observation foretells which. The mean of the two runs into the wall. Not always: once the hand is a little to one
side, the side is decided (regression by a U-Net succeeds in 0.92, diffusion in 1.00).
Everything else is MetaWorld's reach-wall and button-press-wall: the same places from the same seeds, the same success.
"""

import gymnasium
import numpy as np

from envs.metaworld import MetaWorldEnv

# task -> y of the wall, and x where the hand passes it, left and right (metres)
WALLS = {"reach-wall": (0.75, -0.13, 0.33), "button-press-wall": (0.60, -0.11, 0.31)}
LOW = 0.08  # height at which it passes; the walls are 0.12 and 0.15 high
GAIN = 10.0  # how hard the hand is pulled to where it should be; actions are clipped to one centimetre


class TwoWaysEnv(MetaWorldEnv):
    """One of WALLS, with an expert that takes either side of it, as the episode's seed has it."""

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        observation, info = super().reset(seed=seed)
        self.side = int(self.np_random.integers(2))  # 0 left, 1 right; drawn last: all places are the usual ones
        return observation, info

    def expert_action(self) -> np.ndarray:
        """(4,): around the wall, then as MetaWorld's own expert."""
        wall, *sides = WALLS[self.task]
        hand, x = self.state[:3], sides[self.side]
        if hand[1] > wall + 0.06:
            return super().expert_action()
        beside = abs(hand[0] - x) <= 0.03 or hand[1] >= wall - 0.04
        y = wall + 0.15 if beside else wall - 0.05  # up to the wall slantwise, and past it once beside it
        gripper = 0.0 if self.task == "reach-wall" else 1.0  # as their own experts hold it
        return np.append(np.clip(GAIN * (np.array([x, y, LOW]) - hand), -1, 1), gripper).astype(np.float32)


def register_all() -> None:
    for task in WALLS:
        gymnasium.register(f"fdp/{task}-two-ways-v3", entry_point="envs.two_ways:TwoWaysEnv", kwargs={"task": task})
