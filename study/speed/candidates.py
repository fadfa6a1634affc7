"""What is timed beside each other: our policy, the same made as deep as LeRobot's, its components one by one.

Policies have fresh weights: how long a product takes does not depend on what is in it.
"""

from collections.abc import Callable

import numpy as np
import torch

from envs.pixels import CAMERAS
from envs.tasks import spaces
from fdp import Policy
from plumbing.machine import autocast
from plumbing.runs import build_policy
from train import NOISES, SIZES, Learner, draw_noise
from unet import Linear, ResidualBlock

TASK = "reach"  # all MetaWorld tasks have its shapes


def make_policy(components: int, size: str, device: torch.device, pixels: int = 0) -> Policy:
    """Ours, as train.py makes it. pixels: of the side of each camera's pictures; 0: it sees the state."""
    torch.manual_seed(0)
    seen = spaces(TASK)
    parts, differences = seen.observation, seen.differences
    if pixels:
        parts, differences = {**dict.fromkeys(CAMERAS, (3, pixels, pixels)), "proprioception": (2, 4)}, ()
    return build_policy("fdp", {
        "observation": parts, "action_low": seen.action_low, "action_high": seen.action_high, "tasks": [TASK],
        "components": components, "differences": differences, **SIZES[size],
    }).to(device)  # fmt: skip


def three_policies(components: int, size: str, device: torch.device) -> tuple[Policy, Policy, Policy]:
    """Ours, ours as deep as LeRobot's, ours one by one."""
    policy, deep, separate = (make_policy(components, size, device) for _ in range(3))
    separate.components = OneByOne(separate).to(device)
    return policy, as_deep_as_lerobot(deep), separate


def training_step(
    policy: Policy, batch: int, loss_function: Callable | None = None, precision: str = ""
) -> Callable[[], None]:
    """One step of train.py, noise drawn, weights averaged; only the windows stay the same. loss_function: the policy's
    loss, compiled perhaps; precision: bf16 on a GPU, float32 on a CPU, unless another is named."""
    device = policy.device
    learner = Learner(policy, precision=precision or ("bf16" if device.type == "cuda" else "float32"))
    observation = {part: torch.randn(batch, *shape, device=device) for part, shape in policy.config.observation.items()}
    rows = batch * (NOISES if any(len(shape) == 3 for shape in policy.config.observation.values()) else 1)
    actions = torch.rand(rows, policy.config.horizon, policy.config.action_dim, device=device) * 2 - 1
    windows = (observation, torch.zeros(rows, dtype=torch.long, device=device), actions)

    def step() -> None:
        learner.step(loss_function or policy.loss, (*windows, *draw_noise(policy, actions)), lr=1e-4, decay=0.999)

    return step


def seeing(policy: Policy, batch: int) -> Callable[[], None]:
    """The encoder alone, forward and backward: of a training step, what is spent on looking."""
    device, precision = policy.device, "bf16" if policy.device.type == "cuda" else "float32"
    observation = {part: torch.rand(batch, *shape, device=device) for part, shape in policy.config.observation.items()}
    task = torch.zeros(batch, dtype=torch.long, device=device)

    def step() -> None:
        with autocast(device, precision):
            total = policy.encode(observation, task).sum()
        total.backward()

    return step


def action_chunk(
    policy: Policy, batch: int, sampler: str = "dpm", steps: int = 5, task: str = TASK
) -> Callable[[], tuple]:
    """One action chunk for each of `batch` robots, from the simulator's arrays to arrays for it."""
    observation = {part: np.zeros((batch, *shape)) for part, shape in policy.config.observation.items()}
    return lambda: policy.act(observation, [task] * batch, sampler, steps)


class Pair(torch.nn.Module):
    """Two residual blocks where ours has one, as in LeRobot's U-Net; to what is around it, one block with more FiLM."""

    def __init__(self, first: ResidualBlock):
        super().__init__()
        components, kernel, _, width = first.conv2.weight.shape
        self.first, self.second = first, ResidualBlock(components, width, width, kernel)
        self.channels = 2 * width

    def forward(self, x, film):
        first, second = film.chunk(2, dim=-1)
        return self.second(self.first(x, first), second)


def as_deep_as_lerobot(policy: Policy) -> Policy:
    """Its U-Net with LeRobot's widths, kernel and number of blocks: eight for two levels instead of four."""
    unet = policy.components
    for level in [*unet.down, *unet.up]:
        place = 0 if isinstance(level[0], ResidualBlock) else 1
        level[place] = Pair(level[place])
    unet.middle = torch.nn.ModuleList(Pair(block) for block in unet.middle)
    unet.film_sizes = [2 * block.channels for block in unet.blocks()]
    components, inputs, _ = unet.film_out.weight.shape
    unet.film_out = Linear(components, inputs, sum(unet.film_sizes))
    return policy.to(policy.device)


class OneByOne(torch.nn.Module):
    """Our own components without the K axis: one U-Net after the other, as a list of modules would be evaluated."""

    def __init__(self, policy: Policy):
        super().__init__()
        c = policy.config
        self.nets = torch.nn.ModuleList(
            type(policy.components)(1, c.action_dim, c.condition_dim, c.horizon, tuple(c.channels), c.kernel)
            for _ in range(c.components)
        )

    def forward(self, actions, step, condition):
        return torch.cat([net(actions, step, condition) for net in self.nets])
