"""What a policy is asked to act on: refused unless it is numbers of the right shapes, a row for each task. And the
range of its actions."""

import numpy as np
import torch
from torch import Tensor

from plumbing.cli import BadInput


def check_rows(observation: dict, parts: dict, tasks: list[str]) -> None:
    """ValueError unless each part, name -> shape, has a row for each of a list of tasks: PyTorch would repeat a single
    row, and a robot act on what another sees."""
    if not len(tasks):
        raise ValueError("name a task for each row of the observation; got no task")
    for name, shape in parts.items():
        if name not in observation:
            raise ValueError(f"this policy sees {', '.join(parts)}; an observation has no '{name}'")
        wanted = (len(tasks), *shape)
        if isinstance(tasks, str) or np.shape(observation[name]) != wanted:
            raise ValueError(f"observation '{name}' must have the shape {wanted}, a row for each of a list of tasks; "
                             f"got {np.shape(observation[name])} and {tasks!r}")  # fmt: skip


def as_tensors(observation: dict, parts: dict, tasks: list[str], device: torch.device) -> dict[str, Tensor]:
    """What the environments gave, arrays {part: (B, *shape)}, as float32 on the device. ValueError as `check_rows`, and
    BadInput for a number that is not finite: it would come out as an action, and go to a robot."""
    check_rows(observation, parts, tasks)
    tensors = {}
    for name in parts:
        try:
            tensors[name] = x = torch.as_tensor(np.asarray(observation[name]), dtype=torch.float32)
        except (TypeError, ValueError) as error:  # a sensor that gave None
            raise ValueError(f"observation '{name}' must be numbers: {error!s:.100}") from error
        if not x.isfinite().all():
            raise BadInput(f"observation '{name}' has numbers that are not finite, at {tasks[0]} or a row beside it")
        if len(parts[name]) == 3 and parts[name][0] == 3 and not is_picture(x):
            raise ValueError(f"picture '{name}' must hold whole numbers from 0 to 255, as uint8 does; got "
                             f"{x.min():.3g} to {x.max():.3g}")  # fmt: skip
    return {name: x.to(device) for name, x in tensors.items()}


def is_picture(x: Tensor) -> bool:
    """Whether these are bytes: 0 to 1 would be all black to a policy, and 16 bits all white."""
    return not x.frac().any() and bool((x >= 0).all() and (x <= 255).all())


def center_and_scale(low: tuple[float, ...], high: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """The ends of the range of actions, A numbers each -> its middle and its half width, (A,). ValueError for a range
    so wide that float32 has no number for it: all actions would be 0 in it, and infinite when they come out."""
    with np.errstate(over="ignore", invalid="ignore"):
        width, twice = (how(np.float32(high), np.float32(low)) for how in (np.subtract, np.add))
    if not (np.isfinite(twice).all() and np.isfinite(width).all() and (width > 0).all()):
        raise ValueError(f"actions must lie between two numbers, not {low} and {high}")
    low, high = torch.tensor(low), torch.tensor(high)
    return (low + high) / 2, (high - low) / 2
