"""A router that is paid for telling situations apart, and, if asked, lets only the best few components act.

    python train.py --policy informed --tasks mt6
    python train.py --policy informed --tasks mt6 --top 2

Left alone, fdp.py's router stays near 1/K: nothing in the loss asks for more (study/README.md). Here it is given a
bonus, the mutual information between situation and component, estimated on the batch:

    I = H(mean over the batch of w)  -  mean over the batch of H(w)

The first term is large if all components are used, the second small if each situation is sure of its own: without the
first, one component would take everything; without the second, all would stay at 1/K. (As in clustering by regularised
information maximisation, Krause et al. 2010, NeurIPS 23; Mod-Squad, arXiv 2212.08066, does so between experts and
tasks.) With `top`, the others have weight zero in training as in acting: what acts sparsely has to train sparsely.
"""

from dataclasses import dataclass

import torch

from fdp import Policy as FactorizedPolicy
from fdp import PolicyConfig as FactorizedConfig


@dataclass
class PolicyConfig(FactorizedConfig):
    bonus: float = 0.03  # coefficient of I; 0.003 does nothing
    top: int = 0  # components that count, per observation; 0: all


def entropy(p):
    """(..., K) -> (...), in nats."""
    return -(p * p.clamp_min(1e-9).log()).sum(-1)


class Policy(FactorizedPolicy):
    def build(self):
        c = self.config
        if not 0 <= c.top <= c.components:
            raise ValueError(f"--top must be between 0 and the {c.components} components, got {c.top}")
        if c.router != "softmax":
            raise ValueError(f"policy informed needs probabilities: router softmax, not {c.router}")
        super().build()

    def weigh(self, condition, step=None):
        """(B, C) -> (B, K): zero but for `top` of them, which sum to one."""
        return self.sparse(self.router(condition))

    def sparse(self, p):
        """Probabilities (B, K) -> weights (B, K). Among those that are kept, gradients flow as usual; which are kept is
        decided by the router's probabilities, and those learn from the bonus too."""
        if self.config.top in (0, self.config.components):  # dividing by a sum that rounding keeps from 1 moves bits
            return p
        best, which = p.topk(self.config.top)
        return torch.zeros_like(p).scatter(1, which, best / best.sum(-1, keepdim=True))

    def loss(self, observation, task, actions, step, noise):
        """fdp.py's errors (B,), and minus the information, in nats."""
        condition = self.encode(observation, task)
        p = self.router(condition).float()
        information = entropy(p.mean(0)) - entropy(p).mean()
        errors = self.errors(condition, self.sparse(p), actions, step, noise)
        return errors, {"information": (-self.config.bonus, information)}
