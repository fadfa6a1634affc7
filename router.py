"""The router: looks at the situation and says how much each component counts.

    condition (B, C)  ->  weights (B, K)

It sees the *condition* only: what the encoder made of the observation, and the task's name unless that is switched
off; neither the noisy actions nor the diffusion step. Hence the weights are computed once per action chunk, however
many denoising steps follow, and a weight of softmax means "in this situation, component k matters that much": where it
routes, that can be plotted over an episode and read (FDP, arXiv 2512.21898). A router that sees the step too is a
fork: `router_sees_step`.

How raw network outputs (logits) become weights is a real choice:

| mode    | weights                        | why it exists                           | how it fails                  |
|---------|--------------------------------|-----------------------------------------|-------------------------------|
| softmax | positive, sum to 1             | a blend: the sum never leaves the range | stays uniform at 1/K, or one  |
|         |                                | of what components predict; readable    | component takes everything    |
| affine  | logits - mean + 1/K:           | may also subtract a component (signed), | large weights of opposite     |
|         | signed, sum to 1               | has no saturation; starts near 1/K      | sign cancel: noise amplified  |
| raw     | the logits: anything           | the authors' released code; the sum may | the prediction's scale drifts |
|         |                                | rescale the whole prediction            | off; needs the noise target   |

Weights that sum to one have a property that `fdp.py` builds on: the composition is then the same whether the
components predict noise, clean actions or velocity. `raw` gives that up.

Whether a router routes is another matter. The denoising loss does not ask it to tell situations apart, and left alone
it hardly does: whatever the mode, its weights are nearly the same in every task (softmax: between 0.13 and 0.46 for
K = 4). Components get used to that balance, though, and few hundredths of weight decide: with the weights of another
task, of another moment, a policy had 0.72 instead of 0.97. A larger learning rate or an encoder of its own changes
nothing. Of the ways that were tried one wakes it: paying it for information, as `variants/informed.py` does
(study/README.md, "What wakes the router"; one seed).

Axis legend: B batch, K components, C condition dim.
"""

import torch.nn as nn
from torch import Tensor

MODES = ("softmax", "affine", "raw")


class Router(nn.Module):
    """Two linear layers and a normalisation: a few thousand parameters, "lightweight" as in the paper.

    Args:
        condition_dim: C.
        components: K.
        mode: one of MODES; ValueError otherwise.
        hidden: width of the hidden layer.
    """

    def __init__(self, condition_dim: int, components: int, mode: str = "softmax", hidden: int = 64):
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"unknown router mode '{mode}': choose from {', '.join(MODES)}")
        self.mode = mode
        self.net = nn.Sequential(nn.Linear(condition_dim, hidden), nn.SiLU(), nn.Linear(hidden, components))

    def forward(self, condition: Tensor) -> Tensor:
        """condition (B, C) -> weights (B, K)."""
        return normalize_logits(self.net(condition), self.mode)


def normalize_logits(logits: Tensor, mode: str) -> Tensor:
    """logits (B, K) -> weights (B, K), by the table above. K = 1 gives weight 1 in `softmax` and `affine`."""
    if mode == "softmax":
        return logits.softmax(dim=-1)
    if mode == "affine":
        return logits - logits.mean(dim=-1, keepdim=True) + 1 / logits.shape[-1]
    return logits
