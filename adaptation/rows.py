"""Rows along the K axis: which of them learn, and how those of a router become more. For adapt.py.

K components share one tensor with a leading K axis, of which an optimiser gets all or nothing. So the rows that train
become a parameter of their own, and the whole tensor is put together from it whenever it is used.
"""

import math

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn.utils import parametrize

from router import BLENDS, Router


class _Rows(nn.Module):
    """A tensor of which some rows are learned and the others are constants, out of any optimiser's reach."""

    def __init__(self, whole: Tensor, learned: list[int]):
        super().__init__()
        self.register_buffer("whole", whole.detach().clone())
        self.register_buffer("rows", torch.tensor(learned, device=whole.device))

    def forward(self, learned: Tensor) -> Tensor:
        return self.whole.index_copy(0, self.rows, learned)

    def right_inverse(self, whole: Tensor) -> Tensor:
        return whole[self.rows]


def only_rows(module: nn.Module, learned: list[int]) -> None:
    """Of every parameter in the module, let only these rows (components, or tasks) learn. Undone by `release`."""
    for part in list(module.modules()):
        for name, parameter in list(part.named_parameters(recurse=False)):
            parameter.requires_grad_(True)
            parametrize.register_parametrization(part, name, _Rows(parameter, learned))


def release(module: nn.Module) -> None:
    """Make whole tensors of the rows again, with what was learned in its place."""
    for part in list(module.modules()):
        for name in list(getattr(part, "parametrizations", ())):
            parametrize.remove_parametrizations(part, name, leave_parametrized=True)


def count(module: nn.Module, learning: bool = False) -> int:
    """Its parameters; or only those that learn."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not learning)


def spread_rows(router: nn.Module, used: list[int], K: int) -> None:
    """Move the first rows of a copied router to those of K components that they belong to; others get little weight.
    (Except in mode affine, where each weight depends on all logits. A fork's own router is left as it is.)"""
    if isinstance(router, Router):
        last = router.net[-1]
        weight, bias = last.weight[: len(used)].clone(), last.bias[: len(used)].clone()
        unused = [k for k in range(K) if k not in used]
        last.weight[unused], last.bias[unused] = 0.0, -15.0 if router.mode in BLENDS else 0.0
        last.weight[used], last.bias[used] = weight, bias


def share_weight(router: nn.Module, copied: list[int], K: int) -> None:
    """Components K, K+1, ... get the logits of those they copy. Each pair shares what the one had (not in affine)."""
    if not isinstance(router, Router):  # a fork's own: its new rows begin as it drew them
        return
    last = router.net[-1]
    last.weight[K:], last.bias[K:] = last.weight[copied], last.bias[copied]
    sharing = [*copied, *range(K, K + len(copied))]
    if router.mode in BLENDS:  # exp(logit - log 2) is half of the weight
        last.bias[sharing] -= math.log(2)
    elif router.mode == "raw":
        last.weight[sharing] /= 2
        last.bias[sharing] /= 2
