"""Several noises for every observation: where the encoder is the expensive part, encode once and denoise often.

    python train.py --policy draws --draws 4 --tasks mt6 --observation pixels

A sample of the loss is random in its observation, its diffusion step and its noise; more of any makes gradients less
noisy. From cameras the encoder takes most of a training step on a CPU, so three more steps and noises for one picture
cost much less than three more pictures (Mini-Diffuser, arXiv 2505.09430: a level-2 batch). From the state they cost
nearly as much as three more observations, which say more. Half the steps came to the success of all (0.80, one seed,
120 episodes; study/README.md, "From cameras").
"""

from dataclasses import dataclass

import torch

from fdp import Policy as FactorizedPolicy
from fdp import PolicyConfig as FactorizedConfig


@dataclass
class PolicyConfig(FactorizedConfig):
    draws: int = 4  # of diffusion step and noise, for every observation of a batch


class Policy(FactorizedPolicy):
    def __init__(self, config: PolicyConfig):
        if config.draws < 1:
            raise ValueError(f"draws must be at least 1, got {config.draws}")
        super().__init__(config)

    def loss(self, observation, task, actions, step, noise):
        """(B,): the mean over the draws; the first is the one that was given."""
        condition, more = self.encode(observation, task), self.config.draws - 1
        steps = torch.randint(0, self.config.diffusion_steps, (more * len(step),), device=step.device)
        noises = torch.randn((more * len(noise), *noise.shape[1:]), device=noise.device)
        again = [x.repeat(more + 1, *[1] * (x.ndim - 1)) for x in (condition, actions)]
        errors = self.errors(again[0], None, again[1], torch.cat([step, steps]), torch.cat([noise, noises]))
        return errors.view(more + 1, -1).mean(0)
