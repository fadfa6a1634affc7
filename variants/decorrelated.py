"""Components that are asked to say different things: a penalty on how alike their predictions are.

    python train.py --policy decorrelated --tasks mt6 --router affine --penalty 0.003

"Learning to be Different" (Laprevotte et al., CoRL 2026): two components whose predictions point the same way do the
same work twice. For each pair the absolute values of the chunk are compared,

    penalty = mean over pairs i < j and over the batch of cos(|r_i|, |r_j|)^2          r_k: (H, A), flat

before the router weighs them. Absolute, because opposite signs along the horizon would cancel and hide similarity. In
the paper r_k predicts noise and the router is "affine"; here r_k is whatever `--target` says.
"""

from dataclasses import dataclass

import torch

from fdp import Policy as FactorizedPolicy
from fdp import PolicyConfig as FactorizedConfig


@dataclass
class PolicyConfig(FactorizedConfig):
    penalty: float = 0.003  # its coefficient


def likeness(predictions):
    """(K, B, H, A) -> the mean squared cosine of pairs, between 0 and 1."""
    size = predictions.abs().flatten(2).float()
    r = size / size.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    cosines = torch.einsum("ibd,jbd->bij", r, r)
    K = len(r)
    return cosines.square().triu(1).sum((1, 2)).mean() / (K * (K - 1) / 2)


class Policy(FactorizedPolicy):
    listening = False

    def build(self):
        if self.config.components < 2:
            raise ValueError("policy decorrelated compares components: --components must be at least 2")
        super().build()

    def compose(self, noisy_actions, step, condition, weights):
        """fdp.py's, with every component's prediction kept for the loss, while that is being computed."""
        predictions = self.components(noisy_actions, step, condition)
        self.predictions = predictions if self.listening else None
        return torch.einsum("kbha,bk->bha", predictions, weights)

    def loss(self, observation, task, actions, step, noise):
        """fdp.py's errors (B,), and how alike the components are."""
        self.listening = True
        errors, terms = super().loss(observation, task, actions, step, noise)
        predictions = self.predictions
        self.predictions, self.listening = None, False  # a graph that outlives its step would stay in memory
        return errors, terms | {"likeness": (self.config.penalty, likeness(predictions))}
