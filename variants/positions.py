"""A trial: from pictures, where objects and goal are is a further target in training (study/pixels/recipe.py)."""

from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

from encoder import augmented
from envs.demos import demonstrations, make_windows
from envs.pixels import IDS
from fdp import Policy as FactorizedPolicy
from fdp import PolicyConfig  # noqa: F401  (a variant has both names)

NUMBERS = 17  # two objects of seven numbers, and the goal
COEFFICIENT = 0.1


class Policy(FactorizedPolicy):
    def build(self):
        super().build()
        self.tells = nn.Linear(self.config.condition_dim, NUMBERS)

    def hidden(self, windows, demos) -> torch.Tensor:
        """The state at every window (N, 17), standardised: the state's demonstrations are the same episodes."""
        found = []
        for task in windows.tasks:
            name, n = IDS[task][0], len(demos[task])
            episodes = demonstrations([name], n, Path("data"))[name]
            for ours, other in zip(demos[task], episodes, strict=True):
                assert (ours["actions"] == other["actions"]).all()
            state, _ = make_windows(episodes, self.config.horizon)
            found.append(torch.cat([state["objects"][:, 0], state["goal"]], 1))
        found = torch.cat(found)
        assert len(found) == len(windows.actions)
        return (found - found.mean(0)) / found.std(0).clamp(min=0.02)

    def loss(self, observation, task, actions, step, noise):
        seen = dict(observation)
        hidden = seen.pop("hidden")
        features = self.encoder(augmented(self.encoder, seen) if self.training else seen)
        condition = features.repeat_interleave(len(task) // len(features), 0) + self.task_embedding(task)
        weights = self.weigh(condition)
        off = F.mse_loss(self.tells(features).float(), hidden)
        terms = self.terms(weights, task) | {"positions": (COEFFICIENT, off)}
        return self.errors(condition, weights, actions, step, noise), terms
