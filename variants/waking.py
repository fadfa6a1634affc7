"""Six small things that might wake a sleeping router, each tried in study/router/table.py. Not an example to copy: a
fork of one's own does one thing, and has no switch.

    python train.py --policy waking --how own-encoder --tasks mt6

own-encoder: the router reads the observation with an encoder of its own; the shared one may serve the components only.
fast: its last layer learns ten times as fast, so that it can take sides before the components have become alike.
cooling: its logits are divided by a temperature that falls from 5 to 0.2 while training: all learn first, then choose.
dropout: in training each component is left out of a sample with probability 0.25: it cannot count on the others.
narrow: so narrow that all K together are as large as four of the usual width; try `--components 8`.
falling: `--router informed`, whose bonus falls to zero over `--cooling-steps`: once components do different things, the
    denoising loss alone may preserve the routing, and it is all that the remaining steps minimise.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn as nn

from encoder import augmented
from fdp import Policy as FactorizedPolicy
from fdp import PolicyConfig as FactorizedConfig
from router import BLENDS
from variants.monolithic import of_size, size, unet

FASTER, HOT, COLD, LEFT_OUT, USUAL = 10, 5.0, 0.2, 0.25, 4


How = Literal["own-encoder", "fast", "cooling", "dropout", "narrow", "falling"]


@dataclass
class PolicyConfig(FactorizedConfig):
    how: How = "own-encoder"  # what is tried: the head of variants/waking.py explains
    cooling_steps: int = 6000  # of training, after which the router is as cold as it gets, or is paid no more


class TwoEncoders(nn.Module):
    """{part: (B, *shape)} -> (B, 2 * C): what the components see, then what the router sees."""

    def __init__(self, one: nn.Module, other: nn.Module):
        super().__init__()
        self.both = nn.ModuleList([one, other])

    def fit(self, observation):
        for encoder in self.both:
            encoder.fit(observation)

    def augment(self, observation):
        return augmented(self.both[0], observation)

    def forward(self, observation):
        return torch.cat([encoder(observation) for encoder in self.both], -1)


class Policy(FactorizedPolicy):
    def build_encoder(self):
        one = super().build_encoder()
        return TwoEncoders(one, super().build_encoder()) if self.config.how == "own-encoder" else one

    def build(self):
        c = self.config
        super().build()
        if c.how == "own-encoder" and c.task_conditioning == "name":  # a task's name is told to both
            self.task_embedding = nn.Embedding(len(c.tasks), 2 * c.condition_dim)
        if c.how in ("fast", "cooling") and c.router not in BLENDS:
            raise ValueError(f"--how {c.how} changes the logits of a softmax: --router softmax, not {c.router}")
        if c.how == "narrow":
            with torch.device("meta"):
                target = size(unet(c, USUAL))
            self.components = of_size(c, c.components, target, 2 / min(c.channels), 32.0)
        if c.how == "fast":  # Adam's steps have one size, however small a weight is: a small one changes sooner
            with torch.no_grad():
                for x in self.router.net[-1].parameters():
                    x /= FASTER
        if c.how == "falling" and c.router != "informed":
            raise ValueError(f"--how falling is about what a router is paid: --router informed, not {c.router}")
        if not (isinstance(c.cooling_steps, int) and 1 <= c.cooling_steps <= 10**9):
            raise ValueError(f"--cooling-steps must be between 1 and 10^9, got {c.cooling_steps}")
        if c.how in ("cooling", "falling"):
            # Steps of training, saved with the weights. From before `self.progress`, which a fork should use instead.
            self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def compose(self, noisy_actions, step, condition, weights):
        """As in fdp.py, on what the components see: `encode` gives (B, C), or (B, 2 * C) with two encoders."""
        return super().compose(noisy_actions, step, condition[:, : self.config.condition_dim], weights)

    def weigh(self, condition, step=None):
        """(B, C) or (B, 2 * C) -> (B, K)."""
        seen, how = condition[:, -self.config.condition_dim :], self.config.how
        if how == "fast":
            return (FASTER * self.router.net(seen)).softmax(-1)
        if how == "cooling":
            way = (self.seen / self.config.cooling_steps).clamp(max=1)
            return (self.router.net(seen) / (HOT * (COLD / HOT) ** way)).softmax(-1)
        return self.router(seen)

    def loss(self, observation, task, actions, step, noise):
        """fdp.py's errors (B,), of which some components may be left out, and its terms, of all."""
        first = next(self.encoder.parameters())  # no leaf if a stage's adapter computes it (variants/staged.py)
        if self.training and hasattr(self, "seen") and first.requires_grad and first.is_leaf:
            self.seen += 1  # of this policy's own training, not of a stage upon it, which must not change it
        condition = self.encode(observation, task)
        weights = own = self.weigh(condition, step if self.router_sees_step else None)
        if self.training and self.config.how == "dropout":
            kept = weights * (torch.rand_like(weights) > LEFT_OUT) + 1e-6 * weights  # all dropped: as if none were
            weights = kept / kept.sum(-1, keepdim=True)
        return self.errors(condition, weights, actions, step, noise), self.terms(own, task)

    def terms(self, weights, task):
        """What the router is paid, (B, K), (B,): less and less, if that is what is tried."""
        terms = super().terms(weights, task)
        if self.config.how != "falling":
            return terms
        left = (1 - self.seen / self.config.cooling_steps).clamp(min=0)
        return {name: (coefficient * left, term) for name, (coefficient, term) in terms.items()}
