"""What a policy sees: the named parts of an observation, on one scale, and the network that turns them into one vector.

    {"proprioception": (B, 2, 4), "objects": (B, 2, 14), "goal": (B, 3)}   --StateEncoder-->   condition (B, C)

An observation is a dictionary from the simulator to the network, and nothing in between looks inside: recording,
training windows, rollouts and adaptation carry whatever parts there are. Only two places know names. The environment
says which parts it has (envs/metaworld.py), an encoder picks those that it reads. So a camera, or a policy that must
not see the objects, is a new encoder and nothing else: see variants/proprioception.py.

An encoder is any module with these two methods; fdp.py makes it in `Policy.build_encoder`:

    fit(observation)        take statistics from all training observations, {part: (N, *shape)}; called once
    forward(observation)    {part: (B, *shape)} -> condition (B, C), for the router and for all components

A task that is learned later sees through the same encoder, which is frozen, and a `Residual` of its own.

Axis legend: B batch, N training observations, F numbers the encoder reads, C condition dim, r rank
"""

import torch
import torch.nn as nn
from torch import Tensor

Observation = dict[str, Tensor]  # part -> (B, *shape)

# (part, i, part, j): the difference of two positions, part[i : i + 3] - part[j : j + 3], in the current frame.
Difference = tuple[str, int, str, int]


def join(observations: list[Observation]) -> Observation:
    """Several {part: (n, *shape)} under each other."""
    return {name: torch.cat([o[name] for o in observations]) for name in observations[0]}


def rows(observation: Observation, index) -> Observation:
    """Some rows of {part: (N, *shape)}."""
    return {name: x[index] for name, x in observation.items()}


class StateEncoder(nn.Module):
    """Numbers about the world: put side by side, standardised, and passed through three linear layers.

    Args:
        parts: name -> shape of what it reads, (n,) numbers or (frames, n) with the current frame first. Parts of the
            observation that are not named here are not seen.
        condition_dim: C.
        differences: pairs of positions to see the difference of; those of parts that it does not read are left out.

    Raises ValueError for a part that is no vector of numbers, such as a picture.
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
        self.parts = list(parts)
        self.differences = [d for d in differences if d[0] in parts and d[2] in parts]
        size = sum(torch.Size(shape).numel() for shape in parts.values()) + 3 * len(self.differences)  # F
        # Buffers, not parameters: they are not learned, but they travel with the weights.
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))
        # In front of everything else, because its first layer sees raw signs; see unet.py for what happens without.
        self.net = nn.Sequential(
            nn.Linear(size, 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, condition_dim)
        )

    def fit(self, observation: Observation) -> None:
        """Take mean and scale from {part: (N, *shape)}. Once, on the first training data, and never again: refitting
        while adapting would silently change what every old component sees."""
        numbers = self.numbers(observation)
        self.mean.copy_(numbers.mean(0))
        self.scale.copy_(numbers.std(0).nan_to_num().clamp(min=self.FLOOR))  # one observation has no spread

    def forward(self, observation: Observation) -> Tensor:
        """{part: (B, *shape)} -> condition (B, C)."""
        return self.net(self.standardize(observation).clamp(-self.CLIP, self.CLIP))

    def standardize(self, observation: Observation) -> Tensor:
        """{part: (B, *shape)} -> (B, F), before clipping."""
        return (self.numbers(observation) - self.mean) / self.scale

    def numbers(self, observation: Observation) -> Tensor:
        """{part: (B, *shape)} -> (B, F): frame by frame, then what has no frames, then how things lie to each other.

        What the hand has to do depends on where the object is *from the hand*. A network can learn to subtract, but
        from 25 demonstrations it learns it for 25 object positions, and misses a peg by millimetres at the 26th.
        """
        read = [observation[name] for name in self.parts]
        moving, still = ([x for x in read if x.ndim == axes] for axes in (3, 2))
        frames = [torch.cat(moving, dim=-1).flatten(1)] if moving else []  # (B, frames * n)
        now = {name: x[:, 0] if x.ndim == 3 else x for name, x in zip(self.parts, read, strict=True)}
        apart = [now[a][:, i : i + 3] - now[b][:, j : j + 3] for a, i, b, j in self.differences]
        return torch.cat([*frames, *still, *apart], dim=-1)


class Residual(nn.Module):
    """What is added to a frozen encoder, so that a new task may see what no old one needed: W + A B in the place of
    each weight W, b + d in that of its bias (LoRA, arXiv 2106.09685, section 4.1).

    A (outputs, r) and d are zero at first: learning begins with the encoder as it was. B (r, inputs) is drawn; if it
    were zero too, neither would ever get a gradient. The encoder itself is only read, so whoever sees through it alone
    sees what it always saw.

    Args:
        encoder: any module; its linear layers and convolutions are corrected, all else stays as it is.
        rank: r, of the correction of each layer: r (outputs + inputs) numbers instead of outputs * inputs. 0: none.
    """

    def __init__(self, encoder: nn.Module, rank: int):
        super().__init__()
        self.A, self.B, self.d = nn.ParameterList(), nn.ParameterList(), nn.ParameterList()
        for _, layer in self.layers(encoder) if rank else ():
            inputs = layer.weight[0].numel()
            self.A.append(torch.zeros(len(layer.weight), rank))
            self.B.append(torch.empty(rank, inputs).uniform_(-(inputs**-0.5), inputs**-0.5))
            self.d.append(torch.zeros(len(layer.weight) if layer.bias is not None else 0))

    def weights(self, encoder: nn.Module) -> dict[str, Tensor]:
        """Name -> corrected tensor, of the encoder's parameters that have a correction."""
        corrected = {}
        for (name, layer), A, B, d in zip(self.layers(encoder), self.A, self.B, self.d):  # noqa: B905  (none: rank 0)
            corrected[f"{name}.weight"] = layer.weight + (A @ B).view_as(layer.weight)
            if layer.bias is not None:
                corrected[f"{name}.bias"] = layer.bias + d
        return corrected

    @staticmethod
    def layers(encoder: nn.Module) -> list[tuple[str, nn.Module]]:
        """What can be corrected: layers that multiply their input by a matrix."""
        kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
        return [(name, layer) for name, layer in encoder.named_modules() if isinstance(layer, kinds)]
