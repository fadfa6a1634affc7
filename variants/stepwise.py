"""A router that also sees how noisy the chunk is: it may use other components for the rough beginning of denoising than
for its fine end, as the experts of eDiff-I do (Balaji et al. 2022, arXiv 2211.01324, section 4).

    python train.py --policy stepwise --tasks mt6

fdp.py's router is asked once per chunk, so its weights describe a situation. Here it is asked at every denoising step:
they describe a situation and a noise level, and what is recorded of them is their mean over the steps.
"""

import torch

from fdp import Policy as FactorizedPolicy
from fdp import PolicyConfig  # noqa: F401  (a variant has both names)
from router import Router


class Policy(FactorizedPolicy):
    router_sees_step = True

    def build(self):
        super().build()
        c = self.config
        self.router = Router(c.condition_dim + 1, c.components, c.router)  # one number more: the noise level

    def weigh(self, condition, step=None):
        """(B, C), (B,) -> (B, K). Where nothing is denoised, as when usage is logged, at the middle step."""
        if step is None:
            step = torch.full((len(condition),), self.config.diffusion_steps // 2, device=condition.device)
        level = (1 - self.alpha_bar_32[step]).sqrt().to(condition.dtype)  # share of noise: 0 clean, 1 noise alone
        return self.router(torch.cat([condition, level[:, None]], -1))
