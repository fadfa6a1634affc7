"""One U-Net of the same size as the K components and their router together: the baseline that FDP has to beat.

    python train.py --policy monolithic --tasks mt6 --components 4

Also the shortest example of a fork: it replaces `build` and `weigh` and keeps everything else of fdp.py. `--components`
says how many components it has to match in size; there is no router, so `--router` changes nothing.
"""

import torch

from fdp import Policy as FactorizedPolicy
from fdp import PolicyConfig  # noqa: F401  (a variant has both names)
from router import Router
from unet import UNet


def size(module: torch.nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters())


class Policy(FactorizedPolicy):
    def build(self) -> None:
        """One U-Net, widened until it is as large as K components and their router; within 2 %, tests check."""
        c = self.config

        def unet(components: int, widen: float) -> UNet:
            channels = tuple(round(widen * width) for width in c.channels)
            return UNet(components, c.action_dim, c.condition_dim, c.horizon, channels, c.kernel)

        with torch.device("meta"):  # shapes without memory: size is all we want of these
            target = size(unet(c.components, 1.0)) + size(Router(c.condition_dim, c.components))
            narrow, wide = 1.0, c.components + 0.5  # parameters grow with width: halve the interval
            while wide - narrow > 1 / (4 * c.channels[0]):
                middle = (narrow + wide) / 2
                narrow, wide = (middle, wide) if size(unet(1, middle)) < target else (narrow, middle)
            best = min((narrow, wide), key=lambda widen: abs(size(unet(1, widen)) - target))
        self.components = unet(1, best)

    def weigh(self, condition: torch.Tensor, step: torch.Tensor | None = None) -> torch.Tensor:
        """(B, C) -> (B, 1), always 1: with a single component the composition is a plain diffusion policy."""
        return condition.new_ones(len(condition), 1)
