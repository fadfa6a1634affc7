"""Of a tensor only some rows learn: how adapt.py trains some of K components, or some tasks' names, and no others.

K components share one tensor with a leading K axis, of which an optimiser gets all or nothing. So the rows that train
become a parameter of their own, and the whole tensor is put together from it whenever it is used.
"""

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn.utils import parametrize


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
