"""The Factorized Diffusion Policy (FDP, arXiv 2512.21898): K small diffusion models and a router.

                         +--> component 1 --+
    noisy actions, t, o -+--> component 2 --+--> weighted sum --> prediction  (velocity; `sampler.to_noise` converts)
                     |   +--> component K --+        ^
                     +----------> router(o) ---------+

The idea is `Policy.compose` below, two lines of code. Around it: how it learns (`loss`), how it acts (`act`). For an
idea of your own, subclass `Policy` in variants/mine.py, and run `python train.py --policy mine`. Made to be overridden:

    build_encoder  what it sees           weigh    the weights w_k          errors, terms, loss     the objective
    build          components and router  compose  how predictions combine  sample, choose_sampler  the denoising

Paper name -> variable:  o observation | a_0 clean | a_t noisy_actions | eps_k self.components | w_k weights
Axis legend: B batch, K components, H action horizon, A action dim, C condition dim, T diffusion steps
"""

from dataclasses import dataclass

import torch
import torch.nn as nn
from torch import Tensor

import sampler
from encoder import Difference, Observation, augmented, make_encoder
from plumbing.observations import as_tensors, center_and_scale
from router import Router, bonus, check_mode
from unet import UNet


@dataclass
class PolicyConfig:
    """Everything needed to rebuild the network before its weights are loaded; stored in the run's config.json."""

    observation: dict[str, tuple[int, ...]]  # part -> shape, as the environment gives them
    action_low: tuple[float, ...]  # A numbers each: the environment's bounds. They become -1 and 1, where samplers clip
    action_high: tuple[float, ...]
    tasks: list[str]  # names, never indices: the order of a benchmark's task list differs between versions
    components: int = 4  # K
    horizon: int = 8  # H, actions predicted at once
    executed: int = 4  # actions executed before replanning (receding horizon); the paper predicts 16, executes 8
    channels: tuple[int, ...] = (32, 64)
    kernel: int = 3
    eye: str = "small"  # image backbone: one of encoder.py's EYES; unused without pictures
    condition_dim: int = 128  # C
    router: str = "softmax"  # logits -> weights: one of router.py's MODES
    target: str = "velocity"  # what components predict: one of sampler.py's TARGETS
    task_conditioning: str = "name"  # name: a learned embedding is added to the condition; none: it sees no task
    differences: tuple[Difference, ...] = ()  # positions whose difference the encoder also gets
    diffusion_steps: int = 100  # T

    @property
    def action_dim(self) -> int:
        """A."""
        return len(self.action_low)


class Policy(nn.Module):
    """The composed denoiser: `forward` has the interface of one network, (B, H, A), so samplers need not know K.

    Raises ValueError for an unknown target, router, conditioning or eye; shapes, bounds or `executed` that do not fit.
    """

    router_sees_step = False  # True: `weigh` is asked at every denoising step, not once per chunk
    progress = 1.0  # share of training done, for forks that anneal: set by the training loop (yours too), 1 when acting
    schedule = staticmethod(sampler.squared_cosine_schedule)  # T -> alpha bar (T,), float64, strictly between 0 and 1

    def __init__(self, config: PolicyConfig):
        super().__init__()
        sampler.check_target(config.target)
        if config.task_conditioning not in ("name", "none"):
            raise ValueError(f"unknown task conditioning '{config.task_conditioning}': choose from name, none")
        check_mode(config.router, config.target, config.task_conditioning)
        self.config = config
        self.encoder = self.build_encoder()
        if config.task_conditioning == "name":
            self.task_embedding = nn.Embedding(len(config.tasks), config.condition_dim)
        self.build()
        if not 1 <= config.executed <= config.horizon:
            raise ValueError(f"executed must be between 1 and the horizon {config.horizon}, got {config.executed}")
        # float64 on the CPU for the samplers' scalar arithmetic, float32 on the device for training.
        self.alpha_bar = self.schedule(config.diffusion_steps)
        self.register_buffer("alpha_bar_32", self.alpha_bar.float(), persistent=False)
        center, scale = center_and_scale(config.action_low, config.action_high)
        self.register_buffer("action_center", center, persistent=False)
        self.register_buffer("action_scale", scale, persistent=False)

    def build_encoder(self) -> nn.Module:
        """What turns an observation into a condition; encoder.py says what it has to be able to do."""
        c = self.config
        return make_encoder(c.observation, c.condition_dim, c.differences, c.eye)

    def build(self) -> None:
        """Make `components`, (B, H, A), (B,), (B, C) -> (K, B, H, A), with K first in every tensor, and a `router`."""
        c = self.config
        self.components = UNet(c.components, c.action_dim, c.condition_dim, c.horizon, c.channels, c.kernel)
        self.router = Router(c.condition_dim, c.components, c.router)

    # ------------------------------------------------------------------------------------------ the idea

    def compose(self, noisy_actions: Tensor, step: Tensor, condition: Tensor, weights: Tensor) -> Tensor:
        """sum_k w_k(o) * eps_k(a_t, t, o): (B, H, A), (B,), (B, C), (B, K) -> (B, H, A).

        Why a sum. A perfect noise prediction, E[noise | a_t, o], times -1/sqrt(1 - ab_t), is the score: the gradient of
        log p(a_t | o) with respect to a_t. Adding scores multiplies densities (other targets: sampler.py, `to_noise`):

            sum_k w_k grad log p_k(a_t)  =  grad log prod_k p_k(a_t)^w_k

        So if each eps_k stands for a density, an action is likely where all components that have weight agree (Liu et
        al. 2022, arXiv 2206.01714). A mixture would add densities: an action would be likely where *any* component
        likes it. Two caveats: training fits the sum alone, so a single eps_k need not stand for any density; and at
        intermediate noise levels the product of noised densities is not the noised product (Du et al., 2302.11552).

        Why every component learns. d loss / d eps_k = w_k * d loss / d sum: all components get gradient at every
        sample, in proportion to their weight. A top-k router, as in a sparse mixture of experts (variants/moe.py),
        starves those it does not choose and needs a load-balancing loss. A softmax starves none (it can come close).
        """
        predictions = self.components(noisy_actions, step, condition)  # (K, B, H, A)
        return torch.einsum("kbha,bk->bha", predictions, weights)

    def forward(self, noisy_actions: Tensor, step: Tensor, condition: Tensor, weights: Tensor | None = None) -> Tensor:
        """The composed prediction (B, H, A) of what `config.target` names; given `weights` (B, K), no router runs."""
        return self.compose(noisy_actions, step, condition, self.weigh(condition, step) if weights is None else weights)

    def weigh(self, condition: Tensor, step: Tensor | None = None) -> Tensor:
        """Condition (B, C) -> weights (B, K), which sum to one. If yours do not: target "noise" (`sampler.to_noise`).
        A fork that sets `router_sees_step` gets `step` (B,) wherever something is denoised; others must not need it."""
        return self.router(condition)

    def encode(self, observation: Observation, task: Tensor) -> Tensor:
        """Raw observation {part: (B, *shape)} and task index (B,) -> condition (B, C).

        `task_conditioning="none"` is the paper's setting: the task must be inferred from the observation. With pictures
        train.py gives n task rows per observation, (n * B,): each is encoded once, its condition repeated: (n * B, C).
        """
        condition = self.encoder(augmented(self.encoder, observation) if self.training else observation)
        condition = condition.repeat_interleave(len(task) // len(condition), 0)
        if self.config.task_conditioning == "name":
            condition = condition + self.task_embedding(task)
        return condition

    # ------------------------------------------------------------------------------------------ how it learns

    def loss(self, observation: Observation, task: Tensor, actions: Tensor, step: Tensor, noise: Tensor) -> tuple:
        """-> (one mean squared error per sample, (N,); `terms`). Minimised: the errors' mean + sum coefficient * term.
        observation: raw, {part: (B, *shape)}; task (N,), actions (N, H, A), step (N,) in 0 .. T-1, noise (N, H, A); the
        caller draws the last two. N is B, or with pictures n * B (`encode`)."""
        condition = self.encode(observation, task)
        weights = self.weigh(condition, step if self.router_sees_step else None)
        return self.errors(condition, weights, actions, step, noise), self.terms(weights, task)

    def terms(self, weights: Tensor, task: Tensor) -> dict[str, tuple[float, Tensor]]:
        """(N, K), (N,) -> {name: (coefficient, scalar)}: none, but for the bonus of router "informed"."""
        return bonus(self.config, weights, task)

    def errors(self, condition: Tensor, weights: Tensor, actions: Tensor, step: Tensor, noise: Tensor) -> Tensor:
        """(B, C), (B, K), actions (B, H, A) in the environment's units, (B,), (B, H, A) -> mean squared errors (B,)."""
        clean, ab = self.normalize(actions), self.alpha_bar_32[step]
        prediction = self(sampler.add_noise(clean, noise, ab), step, condition, weights).float()
        return (prediction - sampler.regression_target(self.config.target, clean, noise, ab)).square().mean(dim=(1, 2))

    # ------------------------------------------------------------------------------------------ how it acts

    @torch.no_grad()
    def act(self, observation, tasks: list[str], sampler_name=None, sampling_steps=None, noise=None, generator=None):
        """Observations {part: (B, *shape)} and their tasks -> arrays: chunks (B, H, A) in the environment's units, and
        weights (B, K). Call `policy.eval()` first, unless it was loaded: in training mode pictures are augmented.

        noise: the starting point (B, H, A), drawn if not given; with ddim and dpm the only source of randomness.
        Raises ValueError for what `as_tensors` refuses, an unknown task (if it is told tasks), sampler or step count.
        """
        c, (name, steps) = self.config, self.choose_sampler(sampler_name, sampling_steps)
        seen = as_tensors(observation, c.observation, tasks, self.device)
        if noise is None:
            noise = torch.randn((len(tasks), c.horizon, c.action_dim), generator=generator, device=self.device)
        condition = self.encode(seen, self.task_index(tasks).to(self.device))
        clean, weights = self.sample(condition, noise.to(condition), name, steps, generator)
        return self.denormalize(clean).cpu().numpy(), weights.cpu().numpy()

    def choose_sampler(self, name: str | None = None, steps: int | None = None) -> tuple[str, int]:
        """Sampler and network calls per chunk, as evaluation.json says them. ValueError for what this policy cannot."""
        name = name or "dpm"
        return name, sampler.resolve_steps(name, steps, self.config.diffusion_steps)

    def sample(self, condition: Tensor, noise: Tensor, name: str, steps: int, generator=None) -> tuple[Tensor, Tensor]:
        """Condition (B, C) and pure noise (B, H, A) -> clean actions (B, H, A) in [-1, 1], weights (B, K).
        Ask the network by self(...): evaluate.py's check for infinite predictions is a hook on that call."""
        weights = [] if self.router_sees_step else [self.weigh(condition)]  # once per chunk, not once per step

        def predict_noise(noisy_actions: Tensor, step: Tensor) -> Tensor:
            if self.router_sees_step:
                weights.append(self.weigh(condition, step))
            prediction = self(noisy_actions, step, condition, weights[-1])
            return sampler.to_noise(self.config.target, prediction, noisy_actions, self.alpha_bar_32[step])

        clean = sampler.SAMPLERS[name](predict_noise, noise, self.alpha_bar, steps, generator=generator)
        return clean, torch.stack(weights).mean(0)  # of one, or over the steps

    # ------------------------------------------------------------------------------------------ helpers

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.alpha_bar_32.device

    def normalize(self, actions: Tensor) -> Tensor:
        """Actions (..., A) in the environment's units -> [-1, 1]."""
        return (actions - self.action_center) / self.action_scale

    def denormalize(self, clean: Tensor) -> Tensor:
        """The inverse of `normalize`."""
        return clean * self.action_scale + self.action_center

    def task_index(self, names: list[str]) -> Tensor:
        """Task names -> indices (B,). ValueError for one it does not know; all 0, unchecked, if it is told no task."""
        if self.config.task_conditioning == "none":
            return torch.zeros(len(names), dtype=torch.long)
        if other := [name for name in names if name not in self.config.tasks]:
            raise ValueError(f"this policy does not know task '{other[0]}'; it knows {', '.join(self.config.tasks)}")
        return torch.tensor([self.config.tasks.index(name) for name in names])
