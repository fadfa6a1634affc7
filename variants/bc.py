"""No diffusion at all: a plain network of the same size that says the chunk at once. Is diffusion needed on this data?

    python train.py --policy bc --tasks mt6 --components 4

Behaviour cloning by regression, with everything else as in fdp.py: encoder, task's name, data, averaging. The squared
error is least at the mean of all actions that were demonstrated in a situation. Where there is one way to do it, that
is the way. Where demonstrations go left and right around something, the mean may go straight into it; a diffusion
model draws one of the two (study/README.md has both cases).
"""

import math

import torch
import torch.nn as nn

from fdp import Policy as FactorizedPolicy
from fdp import PolicyConfig  # noqa: F401  (a variant has both names)
from router import Router
from unet import UNet
from variants.monolithic import size


class Policy(FactorizedPolicy):
    def build(self):
        """Four linear layers as large as K components and their router; within 2 %, tests check."""
        c = self.config
        with torch.device("meta"):  # shapes without memory: size is all we want of these
            unet = UNet(c.components, c.action_dim, c.condition_dim, c.horizon, tuple(c.channels), c.kernel)
            wanted = size(unet) + size(Router(c.condition_dim, c.components))
        out = c.horizon * c.action_dim
        # 2 w^2 + (C + out + 3) w + out = wanted
        linear = c.condition_dim + out + 3
        width = round((math.sqrt(linear**2 + 8 * (wanted - out)) - linear) / 4)
        layers = [nn.Linear(c.condition_dim, width), nn.SiLU()]
        for _ in range(2):
            layers += [nn.Linear(width, width), nn.SiLU()]
        self.components = nn.Sequential(*layers, nn.Linear(width, out))

    def weigh(self, condition, step=None):
        """(B, C) -> (B, 1): there is one network."""
        return condition.new_ones(len(condition), 1)

    def forward(self, noisy_actions, step, condition, weights=None):
        """(B, C) -> the chunk (B, H, A) in [-1, 1]; noise and step are not looked at."""
        return self.components(condition).unflatten(1, (self.config.horizon, self.config.action_dim))

    def loss(self, observation, task, actions, step, noise):
        """(B,): squared error of the chunk."""
        said = self(noise, step, self.encode(observation, task)).float()
        return (said - self.normalize(actions)).square().mean(dim=(1, 2))

    def choose_sampler(self, name=None, steps=None):
        if name not in (None, "regression") or steps not in (None, 1):
            raise ValueError(f"policy bc has no sampler '{name}' of {steps} steps: it says the chunk at once")
        return "regression", 1

    def sample(self, condition, noise, name, steps, generator=None):
        """(B, H, A), (B, 1): in one call, and the same whatever the noise."""
        return self(noise, None, condition).clamp(-1, 1), self.weigh(condition)
