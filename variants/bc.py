"""No diffusion at all: a network of the same size that says the chunk at once. Is diffusion needed on this data?

    python train.py --policy bc --tasks mt6 --components 4                # four linear layers
    python train.py --policy bc --tasks mt6 --components 4 --body unet    # variants/monolithic.py's U-Net, asked once

Behaviour cloning by regression, with everything else as in fdp.py: encoder, task's name, data, averaging. The squared
error is minimised by the mean of all actions demonstrated in a situation. If there is one way to do it, the mean is
that way. If demonstrations pass an obstacle on either side, the mean may run straight into it; a diffusion model
samples one of the two (study/README.md has both cases). `--target` and `--router` are only checked.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn as nn

from fdp import PolicyConfig as FactorizedConfig
from router import Router
from variants.monolithic import Policy as OneNetwork
from variants.monolithic import size, unet


@dataclass
class PolicyConfig(FactorizedConfig):
    body: Literal["mlp", "unet"] = "mlp"  # unet: only diffusion is taken away, not the network too


class Policy(OneNetwork):
    predicts = "chunk"

    def build(self):
        """As large as K components and their router, within 2 % (tests check): a U-Net, or four linear layers."""
        c = self.config
        if c.body == "unet":
            super().build()
            return
        with torch.device("meta"):  # shapes without memory: size is all we want of these
            target = size(unet(c, c.components)) + size(Router(c.condition_dim, c.components))
        out = c.horizon * c.action_dim
        # 2 w^2 + (C + out + 3) w + out = target
        linear = c.condition_dim + out + 3
        width = round((math.sqrt(linear**2 + 8 * (target - out)) - linear) / 4)
        layers = [nn.Linear(c.condition_dim, width), nn.SiLU()]
        for _ in range(2):
            layers += [nn.Linear(width, width), nn.SiLU()]
        self.components = nn.Sequential(*layers, nn.Linear(width, out))

    def forward(self, noisy_actions, step, condition, weights=None):
        """(B, C) -> the chunk (B, H, A) in [-1, 1]; noise and step are not looked at."""
        c, B = self.config, len(condition)
        if c.body == "unet":  # in the place of noisy actions: where in the chunk each one is, or all would be alike
            at = torch.linspace(-1, 1, c.horizon, device=condition.device, dtype=condition.dtype)
            start = at[:, None].expand(B, c.horizon, c.action_dim)
            return self.components(start, condition.new_zeros(B), condition)[0]
        return self.components(condition).unflatten(1, (c.horizon, c.action_dim))

    def errors(self, condition, weights, actions, step, noise):
        """(B,): squared error of the chunk."""
        prediction = self(noise, step, condition).float()
        return (prediction - self.normalize(actions)).square().mean(dim=(1, 2))

    def choose_sampler(self, name=None, steps=None):
        if name not in (None, "regression") or steps not in (None, 1):
            raise ValueError(f"policy bc has no sampler '{name}' of {steps} steps: it says the chunk at once")
        return "regression", 1

    def sample(self, condition, noise, name, steps, generator=None):
        """(B, H, A), (B, 1): in one call, and the same whatever the noise."""
        return self(noise, None, condition).clamp(-1, 1), self.weigh(condition)
