"""A run's config.json as data: somebody else may have written it, and it decides what is built, and how large.

Types and sizes are checked before memory or time is taken; how the numbers fit together is left to the policy.
"""

import math
from collections.abc import Callable
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from plumbing.cli import BadInput

# Far beyond what is useful. Fields of a fork that are not here may be any finite number up to MOST.
LIMITS = {
    "components": 1024, "horizon": 1024, "executed": 1024, "diffusion_steps": 100_000, "condition_dim": 16_384,
    "channels": 16_384, "kernel": 63, "demos_per_task": 10_000, "eval_episodes": 10_000, "steps": 10**9,
    "batch_size": 10**6, "format": 1000, "seed": 2**31 - 1, "eval_seed": 2**31 - 1,
    "seeds": 10**14,  # of episodes, 10,000 to a block
}  # fmt: skip
MOST = 10**9
LENGTH = 10_000  # of a list, or a dictionary
DEPTH = 6
TEXT = 10_000  # characters
LARGE = 10**7  # numbers that a policy learns: from here on it is asked before it is made (`large`)


def check_outline(config: object, path: Path) -> dict:
    """That it is a run's config.json at all, of whatever format. BadInput if not."""
    with _of(path):
        _outline(config)
    return config


def check(config: dict, path: Path) -> dict:
    """The fields that are read, in today's format (plumbing/formats.py). BadInput for the first that is wrong."""
    with _of(path):
        _fields(config)
    return config


@contextmanager
def _of(path: Path):
    try:
        yield
    except BadInput as error:
        raise BadInput(f"{path} is damaged: {error}") from error


def _outline(config: object) -> None:
    _is(isinstance(config, dict), "it must hold an object")
    for name, kind in {"policy": str, "policy_config": dict, "train": dict}.items():
        _is(isinstance(config.get(name), kind), f"'{name}' must be {'a text' if kind is str else 'an object'}")
    _is(_whole(config["train"].get("demos_per_task")), "'demos_per_task' in 'train' must be a whole number")
    _is(_whole(config.get("format", 1)), "'format' must be a whole number")
    _is(_whole(config["train"].get("seed", 0)), "'seed' in 'train' must be a whole number")
    check_sizes(config, "config.json", 0)


def _fields(config: dict) -> None:
    policy = config["policy_config"]
    _is(texts(policy.get("tasks")), "'tasks' must be a list of names")
    _is(isinstance(policy.get("observation"), dict), "'observation' must be an object: part -> shape")
    for part, shape in policy["observation"].items():
        fits = isinstance(shape, (list, tuple)) and all(_whole(n) and n > 0 for n in shape)
        _is(fits and math.prod(shape) <= 10**7, f"'observation' has a part '{part}' with shape {shape!s:.80}")
    ends = [policy.get(name) for name in ("action_low", "action_high")]
    _is(all(isinstance(end, (list, tuple)) and end and all(map(_number, end)) for end in ends),
        "'action_low' and 'action_high' must be lists of numbers")  # fmt: skip
    _is(len(ends[0]) == len(ends[1]) <= 1000 and all(a < b for a, b in zip(*ends, strict=True)),
        "'action_low' must be below 'action_high', number by number")  # fmt: skip
    for name in ("components", "horizon", "executed", "diffusion_steps", "condition_dim", "kernel"):
        _is(name not in policy or _whole(policy[name]) and policy[name] > 0, f"'{name}' must be a whole number above 0")
    for name in ("channels", "stages", "ranks", "differences"):
        _is(isinstance(policy.get(name, []), (list, tuple)), f"'{name}' must be a list")
    for pair in policy.get("differences", []):  # (part, i, part, j)
        fits = isinstance(pair, (list, tuple)) and len(pair) == 4 and all(map(_text, pair[::2]))
        _is(fits and all(_whole(i) and 0 <= i <= 10**7 for i in pair[1::2]),
            f"'differences' must be of two positions each: part, where, part, where; got {pair!s:.80}")  # fmt: skip
    _is(all(_whole(n) and n > 0 for n in policy.get("channels", [])), "'channels' must be whole numbers above 0")
    for stage in policy.get("stages", []):  # (which components, the tasks that were learned)
        fits = isinstance(stage, (list, tuple)) and len(stage) == 2 and texts(stage[1])
        used = stage[0] if fits and isinstance(stage[0], list) else [stage[0]] if fits else []
        _is(used and all(_whole(n) and 0 <= n <= policy.get("components", 0) for n in used)
            and all(a < b for a, b in pairwise(used)), f"'stages' has a stage that is none: {stage!s:.80}")  # fmt: skip
    stages, ranks = policy.get("stages", []), policy.get("ranks", [])
    _is(not stages or _whole(stages[0][0]), "'stages' must begin with a number of components")
    _is(len(ranks) == len(stages) and all(_whole(n) and 0 <= n <= 1024 for n in ranks) and not any(ranks[:1]),
        "'ranks' must be whole numbers up to 1024, one for each stage, and 0 for the first")  # fmt: skip
    kinds: dict[str, Callable] = {
        "seed": _whole, "command": _text, "revision": _text, "hardware": _text, "software": _text,
        "fork_checksum": _text,
        "datasets": lambda x: isinstance(x, dict) and all(map(_text, x.values())),
        "versions": lambda x: isinstance(x, dict) and all(map(_text, x.values())),
        "base_training": lambda x: isinstance(x, dict) and isinstance(x.get("train"), dict) and _whole(x.get("steps"))
        and _number(x.get("seconds")),
        "resumed": lambda x: isinstance(x, list) and all(isinstance(y, dict) for y in x),
        "adapted": lambda x: isinstance(x, list) and all(isinstance(y, dict) and texts(y.get("tasks")) for y in x),
    }  # fmt: skip
    for name, fits in kinds.items():
        value = config.get(name)
        _is(value is None or fits(value), f"'{name}' is not what it should be: {value!s:.80}")


def large(policy: dict) -> bool:
    """Whether a policy_config may ask for so much that it should be compared with the weights before it is made."""
    wide, seen = sum(policy.get("channels", (64,))), sum(math.prod(s) for s in policy["observation"].values())
    condition = policy.get("condition_dim", 128) + 256
    component = wide * wide * policy.get("kernel", 3) + wide * condition
    stages = 1 + len(policy.get("stages", ()))
    adapters = sum(policy.get("ranks", ())) * (condition + seen)
    rest = condition * (seen + len(policy["tasks"])) + 3 * adapters
    return policy.get("components", 1) * component * stages + rest > LARGE


def _is(true: bool, otherwise: str) -> None:
    if not true:
        raise BadInput(otherwise)


def _whole(x: object) -> bool:
    return isinstance(x, int) and not isinstance(x, bool)


def _number(x: object) -> bool:
    return _whole(x) or isinstance(x, float) and math.isfinite(x)


def _text(x: object) -> bool:
    return isinstance(x, str)


def texts(x: object) -> bool:
    """Whether it is a list of different names."""
    return isinstance(x, list) and bool(x) and all(map(_text, x)) and len(set(x)) == len(x)


def check_sizes(value: object, name: str, depth: int) -> None:
    """BadInput for anything in it that is too large, too long or too deep."""
    _is(depth <= DEPTH, f"'{name}' is nested too deeply")
    if isinstance(value, (dict, list)):
        _is(len(value) <= LENGTH, f"'{name}' has {len(value):,} entries, more than {LENGTH:,}")
        for key, inner in value.items() if isinstance(value, dict) else ((name, inner) for inner in value):
            check_sizes(inner, str(key)[:80], depth + 1)
    elif isinstance(value, str):
        _is(len(value) <= TEXT, f"'{name}' is a text of {len(value):,} characters, more than {TEXT:,}")
    elif _whole(value):
        most = LIMITS.get(name, MOST)
        _is(-most <= value <= most, f"'{name}' must be a number up to {most:,}, got {value!s:.80}")
    elif isinstance(value, float):
        _is(math.isfinite(value), f"'{name}' must be a finite number, got {value}")
