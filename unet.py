"""The components of the policy: K 1D temporal U-Nets that predict the noise in an action chunk (or its velocity).

    noisy actions (B, H, A), diffusion step (B,), condition (B, C)  ->  prediction (K, B, H, A)

The network slides over *time inside the chunk*: its "pixels" are the H future actions, its "colours"
the A action dimensions. It follows the conditional U-Net of Diffusion Policy (Chi et al. 2023,
arXiv 2303.04137, its CNN-based variant), which came from Diffuser (Janner et al. 2022, arXiv 2205.09991).

Kept from it: residual blocks of two convolutions, FiLM conditioning in every block, a down and an up path with skip
connections, sinusoidal step embedding.

Changed, and why:
  - All K components live in one module, with a leading K axis on every weight, so that one matrix product serves all
    of them; a Python loop over K costs K times the overhead.
  - LayerNorm over channels, without parameters, instead of GroupNorm: it needs no reduction over time. FiLM multiplies
    by 1 + scale (the reference by scale), and comes before the activation (there: after it).
  - A linear layer before the first activation on the condition. The reference applies Mish to the raw condition, which
    is not one-to-one below zero (-0.5 and -2.3 both give -0.22): harmless only for what is never negative.
  - Step embedding and condition share one two-layer network, instead of an MLP for the step and a layer per block.
  - Kernel 3 instead of 5, one block per level instead of two, pair-wise down- and upsampling, no convolution block
    before the 1x1 head: our chunks are 8 steps long, not 16 or more. SiLU instead of Mish, for simplicity.
  - The skip connection at full resolution is used (the reference stores it and never reads it).

Axis legend (N: however many rows there are; the other letters mean the same in nearly every file):
    B batch   K components   H action horizon   A action dim   C condition   T diffusion steps
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

STEP_DIM = 64  # size of the diffusion-step embedding


class Linear(nn.Module):
    """K independent linear layers as one batched matrix product: (K, N, in) -> (K, N, out).

    An input without the K axis, (N, in), is shared by all components.
    """

    def __init__(self, components: int, inputs: int, outputs: int):
        super().__init__()
        # The same distribution as nn.Linear, drawn per component: identical components would receive
        # identical gradients (up to their router weight) and stay nearly identical forever.
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(components, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(components, 1, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        # expand() is a view: sharing one input among K components copies nothing.
        return torch.baddbmm(self.bias, x.expand(len(self.weight), -1, -1), self.weight)


def shift(x: Tensor, s: int) -> Tensor:
    """(K, H, B, channels), later by s steps (earlier if s < 0); zeros fill the gap, what passes the end is lost."""
    if abs(s) >= x.shape[1]:
        return torch.zeros_like(x)
    return F.pad(x, (0, 0, 0, 0, s, -s)) if s else x  # a negative pad crops


class Conv(nn.Module):
    """K independent convolutions over time, "same" padding: (K, H, B, in) -> (K, H, B, out).

    A convolution is a sum over kernel taps: output[h] = sum_j input[h + j - half] @ weight[j]. So write the shifted
    inputs side by side, as channels, and the sum becomes one matrix product. With time as the axis *before* the
    batch, shifting moves whole blocks of memory. (nn.Conv1d gets a K axis only through groups=K, and wants time
    last: the matrix products around it would need transposes.)
    """

    def __init__(self, components: int, inputs: int, outputs: int, kernel: int):
        super().__init__()
        bound = 1 / math.sqrt(inputs * kernel)
        self.weight = nn.Parameter(torch.empty(components, kernel, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(components, 1, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        components, horizon, batch, _ = x.shape
        half = self.weight.shape[1] // 2
        if half:
            x = torch.cat([shift(x, s) for s in range(half, -half - 1, -1)], dim=-1)
        out = torch.baddbmm(self.bias, x.flatten(1, 2), self.weight.flatten(1, 2))
        return out.view(components, horizon, batch, -1)


class ResidualBlock(nn.Module):
    """conv, norm, FiLM, activation; conv, norm, activation; plus the input.

    FiLM (Perez et al. 2018): the condition does not enter as an input but as a scale and a shift of every
    channel. That is how one set of convolutions behaves differently at every diffusion step and observation.
    """

    def __init__(self, components: int, inputs: int, outputs: int, kernel: int):
        super().__init__()
        self.conv1 = Conv(components, inputs, outputs, kernel)
        self.conv2 = Conv(components, outputs, outputs, kernel)
        self.skip = nn.Identity() if inputs == outputs else Conv(components, inputs, outputs, kernel=1)
        self.channels = outputs

    def forward(self, x: Tensor, film: Tensor) -> Tensor:
        """x (K, H, B, inputs), film (K, 1, B, 2 * outputs) -> (K, H, B, outputs)."""
        scale, offset = film.chunk(2, dim=-1)
        h = F.layer_norm(self.conv1(x), (self.channels,))
        # 1 + scale: a condition that says nothing (scale = offset = 0) leaves the features as they are.
        h = F.silu(torch.addcmul(offset, h, 1 + scale))
        h = F.silu(F.layer_norm(self.conv2(h), (self.channels,)))
        return h + self.skip(x)


class Downsample(nn.Module):
    """Halve the horizon: two neighbouring steps become one. (K, H, B, in) -> (K, H/2, B, out)."""

    def __init__(self, components: int, inputs: int, outputs: int):
        super().__init__()
        self.merge = Conv(components, 2 * inputs, outputs, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.merge(torch.cat([x[:, 0::2], x[:, 1::2]], dim=-1))


class Upsample(nn.Module):
    """Double the horizon: each step becomes two neighbours. (K, H, B, in) -> (K, 2H, B, out)."""

    def __init__(self, components: int, inputs: int, outputs: int):
        super().__init__()
        self.split = Conv(components, inputs, 2 * outputs, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        even, odd = self.split(x).chunk(2, dim=-1)
        return torch.stack([even, odd], dim=2).flatten(1, 2)  # interleave: even0, odd0, even1, odd1, ...


def sinusoidal_embedding(step: Tensor, dim: int) -> Tensor:
    """Diffusion step (B,), or of any shape, -> (B, dim): sines and cosines from wavelength 2*pi to 10000*2*pi steps.

    A single number t in 0..99 is a poor input for a network: neighbouring steps would be indistinguishable
    next to the whole range. Many wavelengths make both visible (Vaswani et al. 2017, section 3.5).
    """
    half = dim // 2
    frequency = torch.exp(-math.log(10_000) * torch.arange(half, device=step.device) / (half - 1))
    angle = step[..., None].float() * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


class UNet(nn.Module):
    """K temporal U-Nets evaluated together; components=1 is exactly one plain U-Net.

    With H = 8 and channels (32, 64), as (steps, channels):

        (8, A) block (8, 32) ---------------- skip ---------------- join (8, 64) block (8, 32) head (8, A)
                       |                                              |
                   downsample (4, 64) block (4, 64) block (4, 64) upsample (8, 32)

    Args:
        components: K, at least 1.
        action_dim: A.
        condition_dim: C, size of the encoded observation.
        horizon: H, divisible by 2 ** (len(channels) - 1), because every level below the first halves it.
        channels: width of every level, from full resolution down.
        kernel: odd, so that "same" padding is symmetric and a feature stays aligned with its action.

    Raises ValueError with the offending numbers when the shapes cannot work.
    """

    def __init__(
        self, components: int, action_dim: int, condition_dim: int, horizon: int, channels=(32, 64), kernel: int = 3
    ):
        super().__init__()
        factor = 2 ** (len(channels) - 1)
        if components < 1:
            raise ValueError(f"components must be at least 1, got {components}")
        if horizon < 1 or horizon % factor:
            raise ValueError(
                f"horizon {horizon} does not divide: {len(channels)} levels {tuple(channels)} halve it "
                f"{len(channels) - 1} times, so it must be a positive multiple of {factor}"
            )
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, got {kernel}")
        K = components

        # Down: one block per level, then halve. Middle: two blocks at the lowest level. Up: mirror of down.
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        inputs = action_dim
        for width, deeper in zip(channels[:-1], channels[1:], strict=True):
            self.down.append(nn.ModuleList([ResidualBlock(K, inputs, width, kernel), Downsample(K, width, deeper)]))
            self.up.insert(0, nn.ModuleList([Upsample(K, deeper, width), ResidualBlock(K, 2 * width, width, kernel)]))
            inputs = deeper
        self.middle = nn.ModuleList([ResidualBlock(K, n, channels[-1], kernel) for n in (inputs, channels[-1])])
        self.head = Conv(K, channels[0], action_dim, kernel=1)

        # One two-layer network turns (step, observation) into the FiLM terms of *all* blocks at once: one large
        # matrix product instead of one small one per block.
        self.film_sizes = [2 * block.channels for block in self.blocks()]
        self.film_in = Linear(K, STEP_DIM + condition_dim, condition_dim)
        self.film_out = Linear(K, condition_dim, sum(self.film_sizes))

    def blocks(self) -> list[ResidualBlock]:
        """The residual blocks in the order in which forward() visits them."""
        return [block for block, _ in self.down] + list(self.middle) + [block for _, block in self.up]

    def forward(self, noisy_actions: Tensor, step: Tensor, condition: Tensor) -> Tensor:
        """noisy_actions (B, H, A), step (B,), condition (B, C) -> predictions of all components (K, B, H, A).

        With a leading K axis on all three, (K, R, H, A), (K, R), (K, R, C), each component has its own batch of R rows.
        """
        K = len(self.head.weight)
        embedding = sinusoidal_embedding(step, STEP_DIM).to(condition.dtype)  # (B, STEP_DIM)
        film = self.film_out(F.silu(self.film_in(torch.cat([embedding, condition], dim=-1))))  # (K, B, sum of blocks)
        film = iter(film.unsqueeze(1).split(self.film_sizes, dim=-1))  # one (K, 1, B, 2 * channels) per block

        x = noisy_actions.transpose(-3, -2).expand(K, -1, -1, -1)  # (K, H, B, A): time before batch, see Conv
        skips = []
        for block, downsample in self.down:
            x = block(x, next(film))
            skips.append(x)
            x = downsample(x)
        for block in self.middle:
            x = block(x, next(film))
        for upsample, block in self.up:
            # The skip carries single time steps; the path from below carries the chunk as a whole.
            x = block(torch.cat([upsample(x), skips.pop()], dim=-1), next(film))
        return self.head(x).transpose(1, 2)  # (K, B, H, A)
