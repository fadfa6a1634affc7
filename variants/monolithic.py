"""One U-Net of the same size as the K components and their router together: the baseline that FDP has to beat.

    python train.py --policy monolithic --tasks mt6 --components 4

Also the shortest example of a fork: it replaces `build` and keeps everything else of fdp.py. `--components` says how
many components it has to match in size.
"""

import torch

from fdp import Policy as FactorizedPolicy
from fdp import PolicyConfig  # noqa: F401  (train.py looks for it here)
from router import Router
from unet import UNet


def size(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


class Policy(FactorizedPolicy):
    def build(self) -> None:
        c = self.config

        def unet(components: int, widen: float) -> UNet:
            channels = tuple(round(widen * width) for width in c.channels)
            return UNet(components, c.action_dim, c.condition_dim, c.horizon, channels, c.kernel)

        with torch.device("meta"):  # shapes without memory: size is all we want of these
            target = size(unet(c.components, 1.0)) + size(Router(c.condition_dim, c.components))
            # Parameters grow with width; take the width that comes closest. Finer than one channel changes nothing.
            factors = [1 + i / (4 * c.channels[0]) for i in range(4 * c.channels[0] * c.components)]
            best = min(factors, key=lambda f: abs(size(unet(1, f)) - target))
        self.components = unet(1, best)

    def weigh(self, condition: torch.Tensor) -> torch.Tensor:
        return condition.new_ones(len(condition), 1)  # a single component, weight 1: plain diffusion policy
