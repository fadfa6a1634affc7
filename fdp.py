"""The Factorized Diffusion Policy (FDP, arXiv 2512.21898): K small diffusion models and a router.

                         +--> component 1 --+
    noisy actions, t, o -+--> component 2 --+--> weighted sum --> noise  (one step of any sampler)
                     |   +--> component K --+        ^
                     +----------> router(o) ---------+

The idea is `Policy.compose` below, two lines of code. Around it: what the policy sees (`Normalizer`, `encode`), how it
learns (`loss`), how it acts (`act`). To try an idea of your own, copy this file to variants/mine.py, or subclass
`Policy` there and override one method, and run `python train.py --policy mine`.

Paper name -> variable:  o observation | a^0 clean_actions | a^t noisy_actions | eps_k self.components | w_k weights
Axis legend: B batch, K components, H action horizon, A action dim, O observation dim, C condition dim, T diffusion
steps
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor

import sampler
from router import Router
from unet import UNet

TARGETS = ("noise", "clean", "velocity")


@dataclass
class PolicyConfig:
    """Everything needed to rebuild the network before its weights are loaded; stored in the run's config.json."""

    observation_dim: int  # O
    action_dim: int  # A
    tasks: list[str]  # names, never indices: the order of a benchmark's task list differs between versions
    components: int = 4  # K
    horizon: int = 8  # H, actions predicted at once
    executed: int = 4  # actions carried out before looking again; the paper predicts 16 and executes 8
    channels: tuple[int, ...] = (32, 64)
    kernel: int = 3
    condition_dim: int = 128  # C
    router: str = "softmax"
    target: str = "velocity"
    task_conditioning: str = "name"
    differences: tuple[tuple[int, int], ...] = ()  # (i, j): the encoder also gets o[i:i+3] - o[j:j+3]
    diffusion_steps: int = 100  # T


class Policy(nn.Module):
    """The composed denoiser: `forward` has the signature of a single component, so no sampler ever knows K.

    Raises ValueError, naming the value and the choices, for a configuration that cannot work.
    """

    def __init__(self, config: PolicyConfig):
        super().__init__()
        if config.target not in TARGETS:
            raise ValueError(f"unknown prediction target '{config.target}': choose from {', '.join(TARGETS)}")
        if config.task_conditioning not in ("name", "none"):
            raise ValueError(f"unknown task conditioning '{config.task_conditioning}': choose from name, none")
        if config.target != "noise" and config.router == "raw":
            # See `to_noise`: weights that do not sum to one compose noise, and nothing else, as the paper means it.
            raise ValueError("router 'raw' needs target 'noise': its weights do not sum to one")
        self.config = config
        self.normalizer = Normalizer(config.observation_dim, config.action_dim, config.differences)
        # An encoder in front of everything else. Its first layer sees raw signs; see unet.py for what happens without.
        self.encoder = nn.Sequential(
            nn.Linear(self.normalizer.features, 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU(),
            nn.Linear(256, config.condition_dim),
        )  # fmt: skip
        if config.task_conditioning == "name":
            self.task_embedding = nn.Embedding(len(config.tasks), config.condition_dim)
        self.build()
        if not 1 <= config.executed <= config.horizon:
            raise ValueError(
                f"executed actions must be between 1 and the horizon {config.horizon}, got {config.executed}"
            )
        # float64 on the CPU for the samplers' scalar arithmetic, float32 on the device for training.
        self.alpha_bar = sampler.squared_cosine_schedule(config.diffusion_steps)
        self.register_buffer("alpha_bar_32", self.alpha_bar.float(), persistent=False)

    def build(self) -> None:
        """Make the components and the router: what most variants replace."""
        c = self.config
        self.components = UNet(c.components, c.action_dim, c.condition_dim, c.horizon, tuple(c.channels), c.kernel)
        self.router = Router(c.condition_dim, c.components, c.router)

    # ------------------------------------------------------------------------------------------ the idea

    def compose(self, noisy_actions: Tensor, step: Tensor, condition: Tensor, weights: Tensor) -> Tensor:
        """sum_k w_k(o) * eps_k(a_t, t, o): (B, H, A), (B,), (B, C), (B, K) -> (B, H, A).

        Why a sum. The noise prediction is, up to -1/sqrt(1 - ab_t), the score: the gradient of log p(a_t | o). Adding
        scores adds log-densities, and adding log-densities multiplies densities:

            sum_k w_k grad log p_k(a)  =  grad log prod_k p_k(a)^w_k

        So the policy is a *product* of K distributions: an action is likely where all components with weight agree,
        each ruling out what it knows to be wrong. (A mixture, by contrast, would add densities: an action would be
        likely where *any* component likes it, and sampling would first pick a component.) Exactly so at low noise; at
        high noise it is an approximation, since noising a product is not the product of the noised.

        Why every component learns. d loss / d eps_k = w_k * d loss / d sum: all components get gradient at every
        sample, in proportion to their weight. A top-k router, as in a sparse mixture of experts, starves those it does
        not choose and needs a load-balancing loss; here there is nothing to balance.
        """
        predictions = self.components(noisy_actions, step, condition)  # (K, B, H, A)
        return torch.einsum("kbha,bk->bha", predictions, weights)

    def forward(self, noisy_actions: Tensor, step: Tensor, condition: Tensor, weights: Tensor | None = None) -> Tensor:
        """The composed prediction, in units of `config.target`. Give `weights` to compute them once per chunk."""
        return self.compose(noisy_actions, step, condition, self.weigh(condition) if weights is None else weights)

    def weigh(self, condition: Tensor) -> Tensor:
        """Router weights (B, K). From the observation alone, hence constant over the denoising steps."""
        return self.router(condition)

    # ------------------------------------------------------------------------------------------ what it sees

    def encode(self, observation: Tensor, task: Tensor) -> Tensor:
        """Raw observation (B, O) and task index (B,) -> condition (B, C), shared by the router and all components.

        `task_conditioning="none"` is the paper's setting: which task it is must be read from the observation.
        """
        condition = self.encoder(self.normalizer.observation(observation))
        if self.config.task_conditioning == "name":
            condition = condition + self.task_embedding(task)
        return condition

    def task_index(self, names: list[str]) -> Tensor:
        """Task names -> indices (B,). ValueError for a name that this policy was not trained on."""
        if self.config.task_conditioning == "none":
            return torch.zeros(len(names), dtype=torch.long)
        for name in names:
            if name not in self.config.tasks:
                raise ValueError(f"this policy does not know task '{name}'; it knows {', '.join(self.config.tasks)}")
        return torch.tensor([self.config.tasks.index(name) for name in names])

    # ------------------------------------------------------------------------------------------ how it learns

    def loss(self, observation: Tensor, task: Tensor, actions: Tensor, step: Tensor | None = None) -> Tensor:
        """One mean squared error per sample, (B,): the whole training objective.

        observation (B, O) and actions (B, H, A) are raw; task (B,). Components and router learn together from this
        one number: no pre-training, no auxiliary loss. `step` (B,) fixes the diffusion step, for diagnosis.
        """
        condition = self.encode(observation, task)
        clean = self.normalizer.action(actions)

        if step is None:  # randint's upper end is exclusive: 0 .. T-1, both ends of the range the samplers visit
            step = torch.randint(0, self.config.diffusion_steps, (len(clean),), device=clean.device)
        noise = torch.randn_like(clean)
        ab = self.alpha_bar_32[step]
        noisy = sampler.add_noise(clean, noise, ab)
        prediction = self(noisy, step, condition).float()

        root_ab, root_rest = ab.sqrt()[:, None, None], (1 - ab).sqrt()[:, None, None]
        if self.config.target == "noise":  # the paper's objective
            target = noise
        elif self.config.target == "clean":
            target = clean
        else:  # velocity, Salimans & Ho 2022 (arXiv 2202.00512), section 4
            target = root_ab * noise - root_rest * clean
        return (prediction - target).square().mean(dim=(1, 2))

    def to_noise(self, prediction: Tensor, noisy_actions: Tensor, step: Tensor) -> Tensor:
        """Whatever the network predicts (B, H, A) -> the noise (B, H, A) that samplers ask for.

        From x_t = sqrt(ab) clean + sqrt(1-ab) noise, each target is an affine function of each other one:

            noise = (x_t - sqrt(ab) clean) / sqrt(1-ab)        noise = sqrt(ab) velocity + sqrt(1-ab) x_t

        Both read c(t) x_t + d(t) y. Composing first or converting first makes no difference *if the weights sum to
        one*:  sum_k w_k (c x_t + d y_k) = c x_t (sum_k w_k) + d sum_k w_k y_k = c x_t + d (sum_k w_k y_k).
        So a product of distributions stays one in all three; what differs is how much each diffusion step counts
        in the loss. An error in `clean` counts the same at all steps; the same error seen as `noise` is weighted by
        ab/(1-ab), the signal-to-noise ratio: 1600 at t = 0, 1 in the middle, nothing at t = T - 1; seen as `velocity`,
        by 1/(1-ab), which is that ratio plus one: precise steps count as with `noise`, rough ones as with `clean`.
        """
        ab = self.alpha_bar_32[step][:, None, None]
        if self.config.target == "noise":
            return prediction
        if self.config.target == "clean":
            return (noisy_actions - ab.sqrt() * prediction) / (1 - ab).sqrt()
        return ab.sqrt() * prediction + (1 - ab).sqrt() * noisy_actions

    # ------------------------------------------------------------------------------------------ how it acts

    @torch.no_grad()
    def act(
        self, observation, tasks: list[str], sampler_name="dpm", sampling_steps=None, noise=None, generator=None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Observations (B, O) and their tasks -> action chunks (B, H, A) in the environment's units, weights (B, K).

        noise: the starting point (B, H, A), which alone decides the result of a deterministic sampler.
        Raises ValueError for an unknown task or sampler, or a step count the schedule does not have.
        """
        steps = sampler.resolve_steps(sampler_name, sampling_steps, self.config.diffusion_steps)
        device = self.alpha_bar_32.device
        observation = torch.as_tensor(np.asarray(observation), dtype=torch.float32, device=device)
        if noise is None:
            shape = (len(observation), self.config.horizon, self.config.action_dim)
            noise = torch.randn(shape, generator=generator, device=device)
        condition = self.encode(observation, self.task_index(tasks).to(device))
        weights = self.weigh(condition)  # once per chunk, not once per denoising step

        def predict_noise(noisy_actions: Tensor, step: Tensor) -> Tensor:
            return self.to_noise(self(noisy_actions, step, condition, weights), noisy_actions, step)

        clean = sampler.SAMPLERS[sampler_name](
            predict_noise, noise.to(device), self.alpha_bar, steps, generator=generator
        )
        return self.normalizer.raw_action(clean).cpu().numpy(), weights.cpu().numpy()


class Normalizer(nn.Module):
    """Puts observations and actions on a common scale. Its statistics are buffers: they travel with the weights.

    Fitted once, on the first training data, and never again: refitting it while adapting would silently change what
    every old component sees.
    """

    # Standardising blows up what hardly moves: an object's quaternion with spread 0.002 in the demonstrations is off by
    # hundreds of "standard deviations" once the object tips over. So the scale has a floor (metres, or quaternion
    # units), and what still sticks out is clipped.
    FLOOR, CLIP = 0.02, 5.0

    def __init__(self, observation_dim: int, action_dim: int, differences: tuple[tuple[int, int], ...] = ()):
        super().__init__()
        self.differences = differences
        self.features = observation_dim + 3 * len(differences)
        self.register_buffer("observation_mean", torch.zeros(self.features))
        self.register_buffer("observation_scale", torch.ones(self.features))
        self.register_buffer("action_center", torch.zeros(action_dim))
        self.register_buffer("action_scale", torch.ones(action_dim))

    def fit(self, observations: Tensor) -> None:
        """observations (N, O). Actions are left as they are: their scale is the environment's range, [-1, 1].

        Not the range of the data: a policy that had only seen a half-open gripper could then never open it, since the
        samplers clip to [-1, 1], and no later task could teach it to.
        """
        features = self.add_differences(observations)
        self.observation_mean.copy_(features.mean(0))
        self.observation_scale.copy_(features.std(0).nan_to_num().clamp(min=self.FLOOR))  # one sample has no spread

    def add_differences(self, raw: Tensor) -> Tensor:
        """(B, O) -> (B, features): where things are relative to each other, beside where they are.

        What the hand has to do depends on where the object is *from the hand*. A network can learn to subtract, but
        from 25 demonstrations it learns it for 25 object positions, and misses a peg by millimetres at the 26th.
        """
        return torch.cat([raw, *(raw[:, i : i + 3] - raw[:, j : j + 3] for i, j in self.differences)], dim=-1)

    def observation(self, raw: Tensor) -> Tensor:
        """(B, O) -> (B, features), clipped."""
        raw = self.add_differences(raw)
        return ((raw - self.observation_mean) / self.observation_scale).clamp(-self.CLIP, self.CLIP)

    def action(self, raw: Tensor) -> Tensor:
        """(..., A) in the environment's units -> [-1, 1]."""
        return (raw - self.action_center) / self.action_scale

    def raw_action(self, normalized: Tensor) -> Tensor:
        """The inverse of `action`."""
        return normalized * self.action_scale + self.action_center
