"""Runs made by older versions of this code, read as if they had been made by this one.

format 1    observation as one vector of MetaWorld's 39 numbers; a normaliser beside the encoder, which also held the
            action range, taken from the data
format 2    observation as named parts; statistics in the encoder; the action range is the environment's

Flags that came later are added to a run's record with what they would have been.
"""

import re
from pathlib import Path

import torch

from plumbing import tensors
from plumbing.cli import BadInput

FORMAT = 2

# What all did once.
LATER = {"demo_draw": 0, "observation": "state", "cameras": "corner,wrist", "image_size": 64, "held_out": 0}

# What a vector of 39 numbers held, written out: it was so then, and acting on a robot needs no simulator (envs/ does).
PARTS = {"proprioception": (2, 4), "objects": (2, 14), "goal": (3,)}
# Where its positions stood.
POSITIONS = {0: ("proprioception", 0), 4: ("objects", 0), 11: ("objects", 7), 36: ("goal", 0)}
# The encoder puts parts side by side in just that order, so no weight has to be permuted: names are all that changed.
WEIGHTS = {"normalizer.observation_mean": "encoder.mean", "normalizer.observation_scale": "encoder.scale"}


def upgrade_config(config: dict, folder: Path) -> dict:
    """config.json in today's format. BadInput for one of a later version, or of an observation unknown here."""
    version = config.get("format", 1)
    if version > FORMAT:
        raise BadInput(f"the run in {folder} has format {version}, and this code reads up to {FORMAT}: update the code")
    if version == 1:
        old = dict(config["policy_config"])
        if old.pop("observation_dim") != 39:
            raise BadInput(f"the run in {folder} was made for an environment that is not known here")
        center, scale = _action_range(folder / "model.safetensors", old.pop("action_dim"))
        pairs = [[*POSITIONS[i], *POSITIONS[j]] for i, j in old.pop("differences", ())]
        new = {"observation": {part: list(shape) for part, shape in PARTS.items()}, "differences": pairs}
        new |= {"action_low": (center - scale).tolist(), "action_high": (center + scale).tolist()}
        config = config | {"format": FORMAT, "policy_config": new | old}
    policy = config["policy_config"]
    if isinstance(policy, dict) and isinstance(stages := policy.get("stages"), list) and not policy.get("ranks"):
        # Before there were adapters of the encoder, no stage had one.
        config = config | {"policy_config": policy | {"ranks": [0] * len(stages)}}
    was = "bf16" if str(config["train"].get("device", "cpu")).startswith("cuda") else "float32"
    return config | {"train": LATER | {"precision": was} | config["train"]}


def upgrade_weights(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of model.safetensors under today's names."""
    if "normalizer.observation_mean" not in state:
        return state
    state = {WEIGHTS.get(name, name): tensor for name, tensor in state.items() if not name.startswith("normalizer.act")}
    return {re.sub(r"^encoder\.(\d)", r"encoder.net.\1", name): tensor for name, tensor in state.items()}


def upgrade_memory(kept: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of replay.safetensors by task and part: in format 1 there was one of shape (R, 39) for each task."""
    from envs.metaworld import split_state  # not on a robot, where nothing adapts

    found = {name: x for name, x in kept.items() if "/" in name}
    for task, state in kept.items():
        if "/" not in task:
            found |= {f"{task}/{part}": x.contiguous() for part, x in split_state(state).items()}
    return found


def _action_range(weights: Path, action_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Center and scale (A,) of a run of format 1: they stood among the weights."""
    if not (isinstance(action_dim, int) and 1 <= action_dim <= 1000):
        raise ValueError(f"'action_dim' must be a whole number from 1 to 1000, got {action_dim!s:.80}")
    if not weights.exists():  # no checkpoint yet: nothing was learned in any range
        return torch.zeros(action_dim), torch.ones(action_dim)
    with tensors.opened(weights) as file:
        ends = [file.get_tensor(f"normalizer.action_{name}") for name in ("center", "scale")]
        if any(x.shape != (action_dim,) for x in ends):
            raise ValueError(f"its action range is not of {action_dim} numbers")
    return ends[0], ends[1]
