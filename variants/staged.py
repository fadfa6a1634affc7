"""A policy that has learned in stages: every task keeps the components and the router with which it was learned.

Written by `adapt.py --retain exact`. A stage adds components and a router of its own. A task of an earlier stage never
sees them: it is served by its stage's router and by the first K_s components, in products of the same shapes as before,
so that its actions stay what they were, bit for bit. (For the same rows in a batch: which rows share a matrix product
decides how sums are rounded, here as with any policy, in the seventh digit.) The price: whose task it is must be known
(its name says so), and every stage stores one more router.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor

from fdp import Policy as FactorizedPolicy
from fdp import PolicyConfig as FactorizedConfig
from router import Router


@dataclass
class PolicyConfig(FactorizedConfig):
    stages: tuple[tuple[int, list[str]], ...] = ()  # (how many components there were, the tasks learned then), in order


class Policy(FactorizedPolicy):
    def build(self) -> None:
        c = self.config
        sizes, tasks = [k for k, _ in c.stages], [task for _, names in c.stages for task in names]
        if tasks != list(c.tasks) or sizes != sorted(sizes) or sizes[-1:] != [c.components]:
            raise ValueError(f"stages {c.stages} do not fit {c.components} components and the tasks {c.tasks}")
        super().build()
        self.router = nn.ModuleList(Router(c.condition_dim, k, c.router) for k in sizes)
        self.stage = len(sizes) - 1  # the one that answers: training is about the newest

    def task_index(self, names: list[str]) -> Tensor:
        """As in fdp.py, but a name is needed even where the network does not see it: it decides on the stage."""
        for name in names:
            if name not in self.config.tasks:
                raise ValueError(f"this policy does not know task '{name}'; it knows {', '.join(self.config.tasks)}")
        return super().task_index(names)

    def weigh(self, condition: Tensor) -> Tensor:
        """(B, C) -> (B, K_s), for the K_s components that the stage knows."""
        return self.router[self.stage](condition)

    def compose(self, noisy_actions: Tensor, step: Tensor, condition: Tensor, weights: Tensor) -> Tensor:
        """fdp.py's composition, of as many components as there are weights."""
        if weights.shape[1] == self.config.components:
            return super().compose(noisy_actions, step, condition, weights)
        known = {name: p[: weights.shape[1]] for name, p in self.components.named_parameters()}  # views, no copies
        predictions = torch.func.functional_call(self.components, known, (noisy_actions, step, condition))
        return torch.einsum("kbha,bk->bha", predictions, weights)

    def act(self, observation, tasks, sampler_name="dpm", sampling_steps=None, noise=None, generator=None):
        """As in fdp.py, stage by stage. Weights (B, K): zero for components that a task's stage did not know."""
        self.task_index(tasks)  # refuses names that no stage knows
        c, observation = self.config, np.asarray(observation)
        if noise is None:
            device = self.alpha_bar_32.device
            noise = torch.randn((len(tasks), c.horizon, c.action_dim), generator=generator, device=device)
        actions = np.empty((len(tasks), c.horizon, c.action_dim), np.float32)
        weights = np.zeros((len(tasks), c.components), np.float32)
        for stage, (known, names) in enumerate(c.stages):
            rows = [i for i, task in enumerate(tasks) if task in names]
            if rows:
                self.stage, mine = stage, [tasks[i] for i in rows]
                actions[rows], weights[rows, :known] = super().act(
                    observation[rows], mine, sampler_name, sampling_steps, noise[rows], generator
                )
        self.stage = len(c.stages) - 1
        return actions, weights
