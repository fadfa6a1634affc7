"""One U-Net of the same size as the K components and their router together: the baseline that FDP has to beat.

    python train.py --policy monolithic --tasks mt6 --components 4

Also an example of a fork that replaces `build` and `weigh` and keeps everything else of fdp.py (the shortest is
variants/uniform.py). `--components` says how many components it has to match in size; there is no router: `--router` is
only checked.
"""

import torch

from fdp import Policy as FactorizedPolicy
from fdp import PolicyConfig  # noqa: F401  (a variant has both names)
from router import Router
from unet import UNet


def size(module: torch.nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters())


def unet(config, components: int, widen: float = 1.0) -> UNet:
    """U-Nets as fdp.py's, but so many times as wide."""
    channels = tuple(round(widen * width) for width in config.channels)
    return UNet(components, config.action_dim, config.condition_dim, config.horizon, channels, config.kernel)


def of_size(config, components: int, target: int, narrow: float, wide: float) -> UNet:
    """So many components, of a width at which they have `target` parameters together; within 2 %, tests check. (Widths
    are whole numbers: of the last two that were tried the better one is taken.)"""
    with torch.device("meta"):  # shapes without memory: size is all we want of these
        while wide - narrow > 1 / (4 * config.channels[0]):  # parameters grow with width: halve the interval
            middle = (narrow + wide) / 2
            narrow, wide = (middle, wide) if size(unet(config, components, middle)) < target else (narrow, middle)
        best = min((narrow, wide), key=lambda widen: abs(size(unet(config, components, widen)) - target))
    return unet(config, components, best)


class Policy(FactorizedPolicy):
    def build(self) -> None:
        """One U-Net, widened until it is as large as K components and their router."""
        c = self.config
        with torch.device("meta"):
            target = size(unet(c, c.components)) + size(Router(c.condition_dim, c.components))
        self.components = of_size(c, 1, target, 1.0, c.components + 0.5)

    def weigh(self, condition: torch.Tensor, step: torch.Tensor | None = None) -> torch.Tensor:
        """(B, C) -> (B, 1), always 1: with a single component the composition is a plain diffusion policy."""
        return condition.new_ones(len(condition), 1)
