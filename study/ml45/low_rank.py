"""Low-rank adapters on every layer of a policy: what one network would do where a factorized one adds a component.

W + A B in the place of every weight matrix W of encoder and U-Net (LoRA, arXiv 2106.09685, section 4.1), with biases
and the new tasks' embeddings learned as they are, and everything else frozen: `RANK` makes that as many numbers as a
stage of `adapt.py --retain exact` trains. The way "low-rank" of study/adapt/one_task.py.

Two ways for study/router/adapting.py: "low-rank-1", the smallest adapters there are, and "name", none: the new task's
embedding alone is learned.

The way "add-low-rank" asks whether it is the adapters that help, or the one network: a new component is added as
adapt.py does it, but it differs from the copy that it starts as by A B alone.

Axis legend: n inputs and m outputs of a layer, r rank
"""

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn.utils import parametrize

import adapt
from adapt import prepare as as_usual  # by name, because one_task.py puts ours in its place

RANK = 24  # on a monolithic policy of the size of four components: 178,387 numbers; the stage has 175,737
OF_A_COMPONENT = 8


class LowRank(nn.Module):
    """(..., n, m) -> the same + A B, which is zero at first."""

    def __init__(self, weight: Tensor, rank: int):
        super().__init__()
        n, m = weight.flatten(0, -2).shape
        self.A = nn.Parameter(torch.zeros(n, rank, device=weight.device))
        self.B = nn.Parameter(torch.empty(rank, m, device=weight.device).uniform_(-(m**-0.5), m**-0.5))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.A @ self.B).view_as(weight)


def add_adapters(policy, rank: int, tasks: list[int]) -> int:
    """Freeze all but adapters, biases and these tasks' embeddings. -> how many numbers learn.

    A matrix that has no more numbers than its adapters would have learns as it is. `adapt.release` makes whole tensors
    of all of it again.
    """
    policy.requires_grad_(False)
    for part in (policy.encoder, policy.components):
        for layer in list(part.modules()):
            for name, x in list(layer.named_parameters(recurse=False)):
                n, m = x.flatten(0, -2).shape if x.ndim > 1 else (1, len(x))
                if rank * (n + m) < n * m:
                    parametrize.register_parametrization(layer, name, LowRank(x, rank))
                else:
                    x.requires_grad_(True)
    adapt.only_rows(policy.task_embedding, tasks)
    return adapt.count(policy, learning=True)


def prepare(config, policy, tasks: list[str], demos: dict, rank: int = RANK) -> tuple:
    """As adapt.py's, in the place of its mode "full". Rank 0: the new tasks' embeddings alone."""
    known = len(policy.config.tasks)
    grown = adapt.grow(policy, tasks, 0, [], None)
    learned = list(range(known, known + len(tasks)))
    if rank:
        add_adapters(grown, rank, learned)
    else:
        adapt.only_rows(grown.requires_grad_(False).task_embedding, learned)
    parts = {name: (adapt.count(p), adapt.count(p, learning=True)) for name, p in grown.named_children()}
    return grown, {name: x for name, x in parts.items() if x[0]}, []


class LowRankRow(LowRank):
    """(K, ..., n, m) -> the same, with A B added to the last row, which is what a new component is."""

    def __init__(self, weight: Tensor, rank: int):
        super().__init__(weight[-1], rank)

    def forward(self, weight: Tensor) -> Tensor:
        return torch.cat([weight[:-1], super().forward(weight[-1])[None]])


def prepare_component(config, policy, tasks: list[str], demos: dict) -> tuple:
    """As adapt.py's, but of the new component's matrices, only A and B learn."""
    grown, parts, copied = as_usual(config, policy, tasks, demos)
    for layer in list(grown.components.modules()):
        for name in list(getattr(layer, "parametrizations", {})):
            whole = getattr(layer, name).detach()
            n, m = whole[0].flatten(0, -2).shape
            if OF_A_COMPONENT * (n + m) < n * m:  # a bias is (K, 1, m), and learns as it is
                layer.parametrizations[name].original.requires_grad_(False)
                parametrize.register_parametrization(layer, name, LowRankRow(whole, OF_A_COMPONENT))
    components = adapt.count(policy.components) // policy.config.components * grown.config.components
    parts["components"] = components, adapt.count(grown.components, learning=True)
    return grown, parts, copied
