"""A sparse mixture of experts: per observation only the best one or two whole components count, the others do nothing.

    python train.py --policy moe --tasks mt6 --top 1
    python train.py --policy moe --tasks mt6 --top 2 --selection multinomial --balance 0.03

What FDP says it does not need. A component that is not selected gets no gradient, so whoever is ahead at the start
stays ahead: a load-balancing term has to push the router towards all of them (Shazeer et al. 2017, arXiv 1701.06538, in
the form of the Switch Transformer, Fedus et al. 2021, arXiv 2101.03961, equation 4). Selection: "straight-through"
takes the top components, and gradients pass as if it had taken all; "multinomial" draws them from the router's
probabilities while training, so that unlikely ones are tried too (as MoDE does, Reuss et al. 2024, arXiv 2412.12953),
and takes the top ones when acting. All K components are still computed: this shows what sparsity does to learning.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from fdp import Policy as FactorizedPolicy
from fdp import PolicyConfig as FactorizedConfig


@dataclass
class PolicyConfig(FactorizedConfig):
    top: int = 2  # components that count, per observation: 1 or 2
    selection: Literal["straight-through", "multinomial"] = "straight-through"  # how they are chosen in training
    balance: float = 0.01  # coefficient of the load-balancing term; 0 lets components die


class Policy(FactorizedPolicy):
    def build(self):
        c = self.config
        if not (isinstance(c.top, int) and 1 <= c.top <= min(2, c.components)):
            raise ValueError(f"--top must be 1 or 2, and at most the {c.components} components, got {c.top}")
        if c.selection not in ("straight-through", "multinomial"):
            raise ValueError(f"unknown selection '{c.selection}': choose from straight-through, multinomial")
        if c.selection == "multinomial" and c.top == 1:
            raise ValueError("--selection multinomial needs --top 2: a single weight is always 1 and teaches no router")
        if c.router != "softmax":
            raise ValueError(f"policy moe selects by probability: it needs router softmax, not {c.router}")
        super().build()

    def select(self, probabilities):
        """(B, K) -> (B, K): ones for the selected components, zeros for the others."""
        if self.training and self.config.selection == "multinomial":
            chosen = torch.multinomial(probabilities.float() + 1e-9, self.config.top)  # without replacement
        else:
            chosen = probabilities.topk(self.config.top).indices
        return torch.zeros_like(probabilities).scatter(1, chosen, 1.0)

    def probabilities(self, condition, step=None):
        """(B, C) -> (B, K), before any are left out. A fork with another router overrides this: `loss` calls it too."""
        return self.router(condition)

    def weigh(self, condition, step=None):
        """(B, C) -> (B, K): zero but for `top` of them, which sum to one."""
        return self.sparse(self.probabilities(condition, step))[0]

    def sparse(self, probabilities):
        """Probabilities (B, K) -> weights (B, K), and who was selected (B, K)."""
        selected = self.select(probabilities)
        weights = probabilities * selected
        weights = weights / weights.sum(-1, keepdim=True)  # with top 1 always 1: no gradient reaches the router ...
        if self.config.selection == "straight-through":  # ... but around the selection, as if weights = probabilities
            weights = weights.detach() + probabilities - probabilities.detach()
        return weights, selected

    def loss(self, observation, task, actions, step, noise):
        """fdp.py's errors (B,), and K * sum_k (share of observations that selected k) * (mean probability of k): it is
        `top` for a balanced router, and larger the more of the work goes to the same few."""
        condition = self.encode(observation, task)
        probabilities = self.probabilities(condition, step if self.router_sees_step else None)
        weights, selected = self.sparse(probabilities)
        balance = self.config.components * (selected.mean(0) * probabilities.mean(0)).sum()
        errors = self.errors(condition, weights, actions, step, noise)
        return errors, self.terms(weights, task) | {"balance": (self.config.balance, balance)}
