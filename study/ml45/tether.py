"""Held near the base: does a new task that is learned from one demonstration gain if what learns may not go far?

A penalty on the squared distance of every learned number from where it began, all of it a copy of what the base knows
(L2-SP, Li et al. 2018, arXiv 1802.01483, equation 2, for all layers). The way "add-tether" of study/adapt/one_task.py;
everything else is as adapt.py does it, the copies of the demonstration too.
"""

import torch
from torch import Tensor

from adapt import prepare as as_usual  # by name, because one_task.py puts ours in its place
from router import errors_and_terms as terms_as_usual

COEFFICIENT = 1e-3  # times the sum of squares; the loss is near 0.05, and 155,000 numbers that move by 0.02 make 62

_held: list[tuple[Tensor, Tensor]] = []  # (what learns, where it began), of the stage at work


def prepare(config, policy, tasks: list[str], demos: dict) -> tuple:
    """As adapt.py's; where everything begins is kept."""
    grown, parts, copied = as_usual(config, policy, tasks, demos)
    _held[:] = [(p, p.detach().clone()) for p in grown.parameters() if p.requires_grad]
    return grown, parts, copied


def errors_and_terms(loss) -> tuple:
    """As router.py's, with one term more."""
    errors, terms = terms_as_usual(loss)
    moved = torch.stack([(p - began).square().sum() for p, began in _held]).sum()
    return errors, terms | {"tether": (COEFFICIENT, moved)}
