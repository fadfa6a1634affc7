"""The router: looks at the situation and says how much each component counts.

    condition (B, C)  ->  weights (B, K)

It sees the *condition* only: what the encoder made of the observation, and the task's name unless that is switched
off; neither the noisy actions nor the diffusion step. Hence the weights are computed once per action chunk, however
many denoising steps follow, and a softmax weight is component k's share in the sum. (Not its effect: two components
that predict the same can trade weight.) If it routes, weights plotted over an episode can be read (FDP, arXiv
2512.21898). A router that sees the step too is a fork: variants/stepwise.py.

How raw network outputs (logits) become weights is a real choice:

| mode     | weights                       | why it exists                           | how it fails                  |
|----------|-------------------------------|-----------------------------------------|-------------------------------|
| softmax  | positive, sum to 1            | a blend: the sum never leaves the range | nearly the same everywhere: an|
|          |                               | of what components predict              | ensemble with constant weights|
| informed | positive, sum to 1: softmax,  | the only one here that routes: the loss | success a point or two lower, |
|          | `information` as a loss bonus | rewards telling situations apart        | seven from cameras            |
| affine   | logits - mean + 1/K:          | may also subtract a component (signed), | large weights of opposite     |
|          | signed, sum to 1              | has no saturation; starts around 1/K    | sign cancel: noise amplified  |
| raw      | the logits: anything          | the authors' released code; the sum may | the prediction's scale drifts |
|          |                               | rescale the whole prediction            | off; needs the noise target   |

Weights that sum to one have a property that `fdp.py` builds on: the composition is then the same whether the
components predict noise, clean actions or velocity. `raw` gives that up.

The denoising loss alone hardly makes it route: nothing there rewards telling situations apart. On mt6 the weights
differ between components (a task's means: 0.13 to 0.38 for K = 4), but hardly between tasks. Components get used to
those small differences: with weights taken from a moment of another task, success fell from 0.97 to 0.72. They are not
needed, though: a policy that was trained with weights of 1/K (variants/uniform.py) is as good. A larger learning rate
or an encoder of its own changes nothing; of all that was tried only a bonus for information makes it route
(study/README.md, "What makes the router route"). It buys weights that can be read, and no success: that falls by a
point or two, by seven from cameras, by nine with three demonstrations or one (there two of four act; one seed each of
the last three). Hence it is not the default.

A new task by routing alone (router and name learn, on one demonstration, upon a base of 45 tasks): with softmax new
weights can only give something between what the components say, with `affine` their differences can be amplified. With
four components that was no help, 0.35 of success where softmax has 0.39; with sixteen slim ones, as large together, it
was 0.63 (one base each; sixteen with softmax were not tried). One network of the same size has 0.48 by the name alone,
and 0.82 with adapters of about as many numbers as the router has: changing what layers compute does more than new
weights (study/README.md, "A new task by routing alone").

Axis legend: B batch, K components, C condition dim.
"""

import torch.nn as nn
from torch import Tensor

BLENDS = ("softmax", "informed")  # whose weights are positive and sum to one
MODES = (*BLENDS, "affine", "raw")
BONUS = 0.1  # loss coefficient of `information` (nats); at 0.01 no router routes (variants/informed.py has a flag)


class Router(nn.Module):
    """Two linear layers and a normalisation: a few thousand parameters, "lightweight" as in the paper.

    Args:
        condition_dim: C.
        components: K.
        mode: one of MODES; ValueError otherwise.
    """

    def __init__(self, condition_dim: int, components: int, mode: str = "softmax"):
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"unknown router mode '{mode}': choose from {', '.join(MODES)}")
        self.mode = mode
        self.net = nn.Sequential(nn.Linear(condition_dim, 64), nn.SiLU(), nn.Linear(64, components))

    def forward(self, condition: Tensor) -> Tensor:
        """condition (B, C) -> weights (B, K)."""
        return normalize_logits(self.net(condition), self.mode)


def normalize_logits(logits: Tensor, mode: str) -> Tensor:
    """logits (B, K) -> weights (B, K), by the table above. K = 1 gives weight 1 in all modes but `raw`."""
    if mode in BLENDS:
        return logits.softmax(dim=-1)
    if mode == "affine":
        return logits - logits.mean(dim=-1, keepdim=True) + 1 / logits.shape[-1]
    return logits


def bonus(config, weights: Tensor, task: Tensor) -> dict[str, tuple[float, Tensor]]:
    """What a policy's loss gets beside the errors, from weights (B, K) and tasks (B,): in mode "informed"
    {"information": (coefficient, nats)}, negative: more information, lower loss. Else nothing."""
    if config.router != "informed":
        return {}
    return {"information": (-BONUS, batch_information(config, weights, task))}


def batch_information(config, weights: Tensor, task: Tensor) -> Tensor:
    """Weights (B, K), tasks (B,) -> the `information`, in nats, that the bonus rewards. 0 if the policy knows several
    tasks but the batch holds only one, as when adapt.py learns a new task: it could then only reward switching within
    that task. (With several processes, each computes it on its own part of the batch.)"""
    paid = len(config.tasks) == 1 or (task != task[0]).any()
    return paid * information(weights.float())


def information(weights: Tensor) -> Tensor:
    """I(component; situation) in nats, 0 .. ln K, of a batch of probabilities (B, K):

        I = H(mean over the batch of w)  -  mean over the batch of H(w)

    The first term is large if all components are used, the second small if each situation's weights are peaked: without
    the first, one component would take everything; without the second, all would stay at 1/K. (As in clustering by
    regularised information maximisation, Krause et al. 2010, NeurIPS 23; Mod-Squad, arXiv 2212.08066, does so between
    experts and tasks.)
    """
    return entropy(weights.mean(0)) - entropy(weights).mean()


def entropy(p: Tensor) -> Tensor:
    """(..., K) -> (...), in nats."""
    return -(p * p.clamp_min(1e-9).log()).sum(-1)


def check_mode(mode: str, target: str, task_conditioning: str) -> None:
    """ValueError for a mode that does not go with what is predicted, or with what the policy is told."""
    if mode == "raw" and target != "noise":
        # See sampler.py, `to_noise`: with such weights, only noise predictions compose as in the paper.
        raise ValueError("router 'raw' needs target 'noise': its weights do not sum to one")
    if mode == "informed" and task_conditioning == "none":  # all task indices are 0: several tasks look like one
        raise ValueError("router 'informed' needs to know tasks apart: task conditioning name, not none")
