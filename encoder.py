"""What a policy sees: the named parts of an observation, on one scale, and the network that turns them into one vector.

    {"proprioception": (B, 2, 4), "objects": (B, 2, 14), "goal": (B, 3)}   --StateEncoder-->   condition (B, C)
    {"corner": (B, 3, h, w), "wrist": ..., "proprioception": (B, 2, 4)}    --PixelsEncoder-->  condition (B, C)

An observation stays a dictionary all the way from the simulator to the network. Nothing in between looks inside:
recording, windows, rollouts, adaptation carry whatever parts there are. Three places know names: the environment that
makes the parts (envs/metaworld.py, envs/pixels.py), the encoder that reads some of them, and envs/elsewhere.py, which
moves MetaWorld's things. So on the policy's side a camera, or a policy that must not see the objects, is a new encoder
and nothing else: see variants/proprioception.py.

An encoder is any module with the first two of these; fdp.py makes it in `Policy.build_encoder`:

    fit(observation)        take statistics from all training observations, {part: (N, *shape)}; called once
    forward(observation)    {part: (B, *shape)} -> condition (B, C), for the router and for all components
    augment(observation)    optional: a randomly changed copy, used only in training

Numbers arrive in float32. Pictures are (B, 3, h, w) from 0 to 255: bytes in training, where a copy would cost memory,
and float32 in acting. An encoder brings both to the scale that it wants, as PixelsEncoder does to -1..1.

With `--retain exact` a task learned later uses the same encoder, frozen, plus a low-rank adapter of its own (`LoRA` in
variants/staged.py).

Axis legend: B batch, N training observations, F numbers the encoder reads, C condition dim, h and w of pictures
"""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from plumbing.cli import say_once

Observation = dict[str, Tensor]  # part -> (B, *shape)

# (part, i, part, j): the difference of two positions, part[i : i + 3] - part[j : j + 3], in the current frame.
Difference = tuple[str, int, str, int]


def join(observations: list[Observation]) -> Observation:
    """Concatenate {part: (n, *shape)} dictionaries along the first axis."""
    return {name: torch.cat([o[name] for o in observations]) for name in observations[0]}


def rows(observation: Observation, index) -> Observation:
    """Index the first axis of {part: (N, *shape)}."""
    return {name: x[index] for name, x in observation.items()}


def make_encoder(parts: dict, condition_dim: int, differences: tuple[Difference, ...], eye: str) -> nn.Module:
    """The encoder for these parts, name -> shape: one with eyes if there are pictures."""
    if any(len(shape) == 3 for shape in parts.values()):
        return PixelsEncoder(parts, condition_dim, eye, differences)
    return StateEncoder(parts, condition_dim, differences)


def augmented(encoder: nn.Module, observation: Observation) -> Observation:
    """The observation, augmented if the encoder can. (`Policy.encode` asks if the *policy* is in training mode, not the
    encoder: in adapt.py that is frozen, but the adapter that learns upon it needs augmented pictures too.)"""
    return encoder.augment(observation) if hasattr(encoder, "augment") else observation


class StateEncoder(nn.Module):
    """Numbers about the world: put side by side, standardised, and passed through three linear layers.

    Args:
        parts: name -> shape of what it reads, (n,) numbers or (frames, n) with the current frame first. Parts of the
            observation that are not named here are not seen.
        condition_dim: C.
        differences: pairs of positions whose difference is appended; those in parts that it does not read are left out.

    Raises ValueError for a part that is no vector of numbers, such as a picture, and for a position outside its part.
    """

    # Standardising blows up what hardly moves: an object's quaternion with spread 0.002 in the demonstrations is off by
    # hundreds of "standard deviations" once the object tips over. So the scale has a floor (metres, or quaternion
    # units), and what still sticks out is clipped.
    FLOOR, CLIP = 0.02, 5.0

    def __init__(self, parts: dict[str, tuple[int, ...]], condition_dim: int, differences: tuple[Difference, ...] = ()):
        super().__init__()
        for name, shape in parts.items():
            if not 1 <= len(shape) <= 2:
                raise ValueError(f"this encoder reads numbers, and part '{name}' of the observation has shape {shape}")
        if len(frames := {shape[0] for shape in parts.values() if len(shape) == 2}) > 1:
            raise ValueError(f"parts of the observation must have as many frames as each other, not {frames}: {parts}")
        self.parts = list(parts)
        self.differences = [d for d in differences if d[0] in parts and d[2] in parts]
        for part, i in (end for d in self.differences for end in (d[:2], d[2:])):
            if not 0 <= i <= parts[part][-1] - 3:
                raise ValueError(f"a difference is of two positions of 3 numbers each, and part '{part}' of the "
                                 f"observation, of shape {parts[part]}, has none at {i}")  # fmt: skip
        size = sum(torch.Size(shape).numel() for shape in parts.values()) + 3 * len(self.differences)  # F
        # Buffers, not parameters: they are not learned, but they travel with the weights.
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))
        # A linear layer before the first activation, which would flatten what is negative (unet.py, "Changed").
        self.net = nn.Sequential(
            nn.Linear(size, 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, condition_dim)
        )

    def fit(self, observation: Observation) -> None:
        """Take mean and scale from {part: (N, *shape)}. Once, on the first training data, and never again: refitting
        while adapting would silently change what every old component sees."""
        numbers = self.side_by_side(observation)
        self.mean.copy_(numbers.mean(0))
        spread = numbers.std(0).nan_to_num()  # one observation has none
        self.scale.copy_(spread.clamp(min=self.FLOOR))
        by_part = {name: observation[name].float().std(0).nan_to_num().max().item() for name in self.parts}
        for name, most in by_part.items():  # too large a unit (kilometres, say) for this part, or for all
            if most > 0 and (most < self.FLOOR / 4 or spread.max() < self.FLOOR):
                say_once(f"warning: no number of '{name}' varies by more than {most:.1g}; what varies by less than "
                         f"{self.FLOOR} is faint: give it in smaller units")  # fmt: skip

    def forward(self, observation: Observation) -> Tensor:
        """{part: (B, *shape)} -> condition (B, C)."""
        return self.net(self.standardize(observation).clamp(-self.CLIP, self.CLIP))

    def standardize(self, observation: Observation) -> Tensor:
        """{part: (B, *shape)} -> (B, F), before clipping."""
        return (self.side_by_side(observation) - self.mean) / self.scale

    def side_by_side(self, observation: Observation) -> Tensor:
        """{part: (B, *shape)} -> (B, F): parts with frames, frame by frame; parts without; differences of positions.

        What the hand must do depends on the object's position *relative to the hand*. A network can learn to subtract,
        but 25 demonstrations teach it that at 25 object positions only. (One seed, assembly gained most: LOG.md, first
        entry.)
        """
        read = [observation[name] for name in self.parts]
        moving, still = ([x for x in read if x.ndim == axes] for axes in (3, 2))
        frames = [torch.cat(moving, dim=-1).flatten(1)] if moving else []  # (B, frames * n)
        newest = {name: x[:, 0] if x.ndim == 3 else x for name, x in zip(self.parts, read, strict=True)}
        offsets = [newest[a][:, i : i + 3] - newest[b][:, j : j + 3] for a, i, b, j in self.differences]
        return torch.cat([*frames, *still, *offsets], dim=-1)


# ---------------------------------------------------------------------------------------------- pictures


class SpatialSoftmax(nn.Module):
    """(B, channels, h, w) -> (B, 2 * channels): expected position (x, y) of each channel's feature, in [-1, 1] (Levine
    et al. 2016, arXiv 1504.00702, section 5.1).

    A policy has to know where things are. Pooling discards that, and flattening makes every pixel a separate input, to
    be learned one by one; the mean position under a softmax is two numbers that move with the object.
    """

    def forward(self, features: Tensor) -> Tensor:
        if min(features.shape[2:]) < 2:  # a single place is where everything is: it says nothing, and learns nothing
            raise ValueError(f"pictures are too small for this backbone: {tuple(features.shape[2:])} places are left")
        share = features.flatten(2).float().softmax(-1)  # (B, channels, h * w)
        y, x = (torch.linspace(-1, 1, n, device=share.device) for n in features.shape[2:])
        places = torch.stack([x.repeat(len(y)), y.repeat_interleave(len(x))])  # (2, h * w)
        # Not as a matrix product: autocast would round the coordinates to bf16, in steps of 0.004 near the edge, a
        # tenth of a pixel of 64.
        return (share[:, :, None] * places).sum(-1).flatten(1)


def small_eye() -> nn.Sequential:
    """(B, 3, h, w) -> (B, 128), for a CPU, where the first layers cost most: large strides leave few pixels to compute,
    and no normalisation layer reads every activation once more. A 64 x 64 picture takes 1 ms, forward and backward, on
    one thread in float32 (study/pixels/cost.py)."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), SpatialSoftmax(),
    )  # fmt: skip


class BasicBlock(nn.Module):
    """Two convolutions and what they are added to (He et al. 2015, arXiv 1512.03385, figure 5, left)."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), groups(outputs)
        self.conv2, self.norm2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), groups(outputs)
        same = inputs == outputs and stride == 1
        project = (nn.Conv2d(inputs, outputs, 1, stride, bias=False), groups(outputs))
        self.skip = nn.Identity() if same else nn.Sequential(*project)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(h)) + self.skip(x))


def groups(channels: int) -> nn.GroupNorm:
    """GroupNorm instead of BatchNorm, as in Diffusion Policy: running statistics belong to the weights that they were
    taken with, and do not quite fit the average of the weights (EMA), which acts."""
    return nn.GroupNorm(channels // 16, channels)


def resnet_eye() -> nn.Sequential:
    """(B, 3, h, w) -> (B, 128): ResNet-18 from scratch, ending in a spatial softmax, not a classifier; for one GPU."""
    layers = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), groups(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    for inputs, outputs in ((64, 64), (64, 128), (128, 256), (256, 512)):
        layers += [BasicBlock(inputs, outputs, 1 if inputs == outputs else 2), BasicBlock(outputs, outputs, 1)]
    return nn.Sequential(*layers, nn.Conv2d(512, 64, 1), SpatialSoftmax())


# Backbones by name; each is made without arguments, once per camera, and turns pictures (B, 3, h, w), scaled to -1..1,
# into (B, n), whatever its n. To try your own, add it here and set `eye: str = "mine"` in a fork's PolicyConfig; how
# little such a fork takes, with another encoder altogether, shows variants/lit.py.
EYES = {"small": small_eye, "resnet18": resnet_eye}


class PixelsEncoder(nn.Module):
    """One image backbone per camera, a StateEncoder for the numbers, and two layers that fuse their outputs.

    Args:
        parts: name -> shape of what it reads; (3, h, w) are pictures in 0 .. 255, all else goes to a StateEncoder.
        condition_dim: C.
        eye: of EYES.
        differences: of positions among its numbers, as in a StateEncoder.

    Raises ValueError for an eye that is not known, or pictures of another shape, or too small for it.
    """

    # Largest random shift, as a fraction of the picture. At 64 x 64 a pixel is a centimetre or two of the table: after
    # a shift by four (usual at 84 x 84) a picture hardly says where a box is, and the peg misses it (study/README.md).
    SHIFT = 1 / 64

    def __init__(self, parts: dict[str, tuple[int, ...]], condition_dim: int, eye="small", differences=()):
        super().__init__()
        if eye not in EYES:
            raise ValueError(f"unknown eye '{eye}': choose from {', '.join(EYES)}")
        self.cameras = [name for name, shape in parts.items() if len(shape) == 3]
        for name in self.cameras:
            if parts[name][0] != 3 or min(parts[name][1:]) < 32:
                raise ValueError(f"pictures must be (3, h, w) of at least 32 x 32, and '{name}' has {parts[name]}")
        self.eyes = nn.ModuleList([EYES[eye]() for _ in self.cameras]).to(memory_format=torch.channels_last)
        numbers = {name: shape for name, shape in parts.items() if name not in self.cameras}
        self.numbers = StateEncoder(numbers, 64, differences) if numbers else None
        with torch.no_grad():  # in evaluation mode: trying changes no statistics of a backbone that has some
            pairs = zip(self.cameras, self.eyes.eval(), strict=True)
            shapes = [eye(torch.zeros(1, *parts[name])).shape for name, eye in pairs]
        if odd := [tuple(shape) for shape in shapes if len(shape) != 2]:
            raise ValueError(f"backbone '{eye}' must turn pictures (B, 3, h, w) into (B, n), not {odd[0]}: flatten")
        size = sum(n for _, n in shapes) + 64 * bool(numbers)
        self.eyes.train()
        self.net = nn.Sequential(nn.Linear(size, 256), nn.SiLU(), nn.Linear(256, condition_dim))

    def fit(self, observation: Observation) -> None:
        """Mean and scale of the numbers; pictures have a scale of their own."""
        if self.numbers:
            self.numbers.fit(observation)

    def forward(self, observation: Observation) -> Tensor:
        """{part: (B, *shape)} -> condition (B, C)."""
        features = []
        for camera, eye in zip(self.cameras, self.eyes, strict=True):
            picture = observation[camera].to(self.net[0].weight.dtype) / 127.5 - 1
            features.append(eye(picture.contiguous(memory_format=torch.channels_last)))
        if self.numbers:
            features.append(self.numbers(observation))
        return self.net(torch.cat(features, -1))

    def augment(self, observation: Observation) -> Observation:
        """Each picture shifted by its own random offset, edge pixels repeated (Kostrikov et al. 2020, arXiv 2004.13649,
        section 3.1). With 25 demonstrations a network memorises pixels; this prevents it."""
        return observation | {camera: self.shifted(observation[camera]) for camera in self.cameras}

    def shifted(self, pictures: Tensor) -> Tensor:
        """(B, 3, h, w) -> the same shape."""
        B, _, *sizes = pictures.shape
        at = []
        for n in sizes:
            most = max(1, round(self.SHIFT * n))
            by = torch.randint(-most, most + 1, (B, 1), device=pictures.device)
            at.append((torch.arange(n, device=pictures.device) + by).clamp(0, n - 1))  # (B, n)
        rows, columns = at[0][:, None, :, None], at[1][:, None, None, :]
        return pictures.take_along_dim(rows, 2).take_along_dim(columns, 3)
