"""Flow matching instead of diffusion: straight lines from noise to actions, walked in Euler steps.

    python train.py --policy flow --tasks reach,push

Lipman et al. 2023 (arXiv 2210.02747), with the straight paths of rectified flow (Liu et al. 2022, arXiv 2209.03003):
x_s = (1 - s) * clean + s * noise, and the network predicts the direction noise - clean. It replaces what is learned
(`errors`) and how it acts (`sample`, `choose_sampler`); the rest is that of fdp.py, and `--target` changes nothing.
"""

import torch

from fdp import Policy as FactorizedPolicy
from fdp import PolicyConfig  # noqa: F401  (a variant has both names)
from sampler import check_steps


class Policy(FactorizedPolicy):
    predicts = "direction"

    def errors(self, condition, weights, actions, step, noise):
        """Squared error (B,) of the direction, at s = (step + 1) / T of the way from the action to the noise."""
        clean, s = self.normalize(actions), ((step + 1) / self.config.diffusion_steps)[:, None, None]
        direction = self((1 - s) * clean + s * noise, step, condition, weights).float()
        return (direction - (noise - clean)).square().mean(dim=(1, 2))

    def choose_sampler(self, name=None, steps=None):
        if name not in (None, "euler"):
            raise ValueError(f"unknown sampler '{name}': a flow is walked by euler")
        steps = min(5, self.config.diffusion_steps) if steps is None else steps
        check_steps(self.config.diffusion_steps, steps)
        return "euler", steps

    def sample(self, condition, noise, name, steps, generator=None):
        """From s = 1, pure noise, to s = 0; each step goes on in the direction predicted where it begins. Steps are
        as equal as they can be while each begins at an s that training draws: so the network is told its s exactly."""
        x, T, weights = noise, self.config.diffusion_steps, []
        at = [round(i * T / steps) for i in range(steps + 1)]  # T times s
        for here, there in zip(at[:0:-1], at[-2::-1], strict=True):
            step = torch.full((len(x),), here - 1, device=x.device)
            if self.router_sees_step or not weights:
                weights.append(self.weigh(condition, step if self.router_sees_step else None))
            x = x - self(x, step, condition, weights[-1]) * ((here - there) / T)
        return x.clamp(-1, 1), torch.stack(weights).mean(0)
