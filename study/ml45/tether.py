"""Held near the base: does a new task that is learned from one demonstration gain if what learns may not go far?

A penalty on the squared distance of every learned number from where it began, all of it a copy of what the base knows
(L2-SP, Li et al. 2018, arXiv 1802.01483, equation 2, for all layers). The way "add-tether" of study/adapt/one_task.py;
everything else is as adapt.py does it, the copies of the demonstration too.
"""

import torch

import train

COEFFICIENT = 1e-3  # times the sum of squares; the loss is near 0.05, and 155,000 numbers that move by 0.02 make 62


class Learner(train.Learner):
    """train.py's, with one term more."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.began = [p.detach().clone() for p in self.parameters]

    def step(self, loss_function, *rest):
        def held(*batch):
            errors, terms = loss_function(*batch)
            pairs = zip(self.parameters, self.began, strict=True)
            moved = torch.stack([(p - began).square().sum() for p, began in pairs]).sum()
            return errors, terms | {"tether": (COEFFICIENT, moved)}

        return super().step(held, *rest)
