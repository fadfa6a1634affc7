"""A router that is paid for telling situations apart, and, if asked, lets only the best few components act.

    python train.py --policy informed --tasks mt6
    python train.py --policy informed --tasks mt6 --top 2

By default fdp.py's router gives all tasks nearly the same weights: nothing in the loss asks for more (study/README.md).
`--router informed` adds a bonus for information (router.py); here its coefficient is a flag, and `--top` limits how
many act. The others have weight zero in training too: what acts sparsely has to be trained sparsely.

And what has weight zero need not be computed. Weights do not change while a chunk is denoised, so each component gets
the rows of the batch that chose it, and nothing else is touched (study/README.md, "What acting sparsely costs").

Axis legend: B batch, K components, R rows of the component that has most, N = B * top chosen (row, component) pairs
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from fdp import Policy as FactorizedPolicy
from fdp import PolicyConfig as FactorizedConfig
from router import BLENDS, BONUS, batch_information
from variants.staged import some


class Rows(NamedTuple):
    """Which component computes which rows. Components that no row chose are left out: K counts the others here. A
    chosen pair is a batch row and a component with weight in it."""

    components: list[int]  # which ones, of all
    index: Tensor  # (K, R): their rows of the batch; row 0 again and again where a component has fewer than R
    place: Tensor  # (N,): each chosen pair's component, as numbered in `components`
    slot: Tensor  # (N,): where in that component's rows of `index` the pair stands
    row: Tensor  # (N,): its row of the batch
    column: Tensor  # (N,): its component, as numbered in the policy


def gather(weights: Tensor, top: int) -> Rows | None:
    """Weights (B, K) -> Rows, if no row has more than `top` weights that are not zero. Reads numbers from the device:
    how many rows there are decides on shapes."""
    if (weights != 0).sum(-1).max() > top:
        return None  # not ours: 1/K, say
    column, order = weights.abs().topk(top).indices.flatten().sort(stable=True)
    counts = torch.bincount(column, minlength=weights.shape[1])
    slot = torch.arange(len(column), device=column.device) - (counts.cumsum(0) - counts)[column]
    components = counts.nonzero()[:, 0]
    place = torch.searchsorted(components, column)
    index = torch.zeros(len(components), int(counts.max()), dtype=torch.long, device=column.device)
    index[place, slot] = order // top
    return Rows(components.tolist(), index, place, slot, order // top, column)


@dataclass
class PolicyConfig(FactorizedConfig):
    bonus: float = BONUS  # coefficient of I; 0.01 is too little on six tasks, 0.03 on fifty
    top: int = 0  # components that count, per observation; 0: all


class Policy(FactorizedPolicy):
    gathers = True  # False: all components are computed, for whoever wants to look at them

    def build(self):
        c = self.config
        if not (isinstance(c.top, int) and 0 <= c.top <= c.components):
            raise ValueError(f"--top must be between 0 and the {c.components} components, got {c.top}")
        if c.router not in BLENDS:
            raise ValueError(f"policy informed needs probabilities: router softmax, not {c.router}")
        if c.task_conditioning == "none" and c.bonus:  # all task indices are 0: several tasks look like one
            raise ValueError("policy informed needs to know tasks apart: task conditioning name, not none")
        super().build()

    def probabilities(self, condition, step=None):
        """(B, C) -> (B, K), before any are left out. A fork with another router overrides this: `loss` calls it too."""
        return self.router(condition)

    def weigh(self, condition, step=None):
        """(B, C) -> (B, K): zero but for `top` of them, which sum to one."""
        return self.sparse(self.probabilities(condition, step))

    def sparse(self, p):
        """Probabilities (B, K) -> weights (B, K). Among those that are kept, gradients flow as usual; which are kept is
        decided by the router's probabilities, and those learn from the bonus too."""
        if self.config.top in (0, self.config.components):  # renormalising would change bits: sums are 1 up to rounding
            return p
        best, which = p.topk(self.config.top)
        return torch.zeros_like(p).scatter(1, which, best / best.sum(-1, keepdim=True))

    def compose(self, noisy_actions, step, condition, weights):
        """As in fdp.py, without the components whose weight is zero."""
        c = self.config
        learning_rows = any(parametrize.is_parametrized(part) for part in self.components.modules())  # `only_rows`
        if c.top in (0, c.components) or learning_rows or not self.gathers:
            return super().compose(noisy_actions, step, condition, weights)
        known, rows, chosen = self.__dict__.get("gathered", (None,) * 3)
        if known is not weights or torch.is_grad_enabled():
            rows = gather(weights, c.top)
            chosen = some(self.components, rows.components, c.components) if rows else None
        if not torch.is_grad_enabled():  # once per chunk: the weights stay while it is denoised
            self.__dict__["gathered"] = weights, rows, chosen
        if not rows:
            return super().compose(noisy_actions, step, condition, weights)
        predictions = chosen(noisy_actions[rows.index], step[rows.index], condition[rows.index])  # (K, R, H, A)
        predictions = predictions[rows.place, rows.slot] * weights[rows.row, rows.column][:, None, None]  # (N, H, A)
        return torch.zeros_like(noisy_actions).index_add(0, rows.row, predictions.to(noisy_actions.dtype))

    def loss(self, observation, task, actions, step, noise):
        """fdp.py's errors (B,), and the bonus for information, in nats."""
        condition = self.encode(observation, task)
        p = self.probabilities(condition, step if self.router_sees_step else None).float()
        weights = self.sparse(p)
        own = {"information": (-self.config.bonus, batch_information(self.config, p, task))}
        return self.errors(condition, weights, actions, step, noise), self.terms(weights, task) | own
