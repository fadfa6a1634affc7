"""What a policy is asked to act on: refused unless it is numbers of the right shapes, a row for each task."""

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
    tensors = {name: torch.as_tensor(np.asarray(observation[name]), dtype=torch.float32) for name in parts}
    for name, x in tensors.items():
        if not x.isfinite().all():
            raise BadInput(f"observation '{name}' has numbers that are not finite, at {tasks[0]} or a row beside it")
    return {name: x.to(device) for name, x in tensors.items()}
