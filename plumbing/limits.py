"""Which numbers make sense: refused before anything is made, not after minutes, and not by a killed process."""

import dataclasses
import math
import os
from pathlib import Path

import torch

from envs.recording import DRAWS
from envs.tasks import check_fit
from plumbing import runs
from plumbing.cli import BadInput
from plumbing.files import TEXT_LIMIT, exists
from plumbing.machine import memory as machine_memory

# Flag -> least and most, for every command that has it. The limits are far beyond what is useful: they keep out slips,
# and what would fail deep inside. Python's numbers have no end; those of a tensor's shape or a file do.
LIMITS = {
    "components": (1, 1024), "new_components": (1, 1024), "horizon": (1, 1024), "executed": (1, 1024),
    "encoder_rank": (0, 1024),
    "steps": (1, 10**9), "batch_size": (1, 10**6), "log_every": (1, 10**9), "save_every": (1, 10**9),
    "demos_per_task": (1, 10_000), "held_out": (0, 10_000),
    "copies": (0, 1000), "demo_draw": (0, DRAWS - 1), "eval_episodes": (0, 10_000),
    "seed": (0, 2**31 - 1), "eval_seed": (0, 2**31 - 1),
    "lr": (1e-38, 1e38), "weight_decay": (0, 1e38), "grad_clip": (1e-38, 1e38),  # what a float32 can hold
}  # fmt: skip


def check_limits(config: object) -> None:
    """BadInput for a number of a command's config outside its limits, or one of a fork's own that is not finite. None
    stands for a default, which is filled in later."""
    for field in dataclasses.fields(config):
        value, flag = getattr(config, field.name), f"--{field.name.replace('_', '-')}"
        least, most = LIMITS.get(field.name, (-math.inf, math.inf))
        if isinstance(value, float) and field.name not in LIMITS and not math.isfinite(value):
            raise BadInput(f"{flag} must be a finite number, got {value}")
        if field.name in LIMITS and value is not None:
            if not value >= least:  # and not "value < least", which nan is not
                raise BadInput(f"{flag} must be at least {least}, got {value}")
            if value > most:
                raise BadInput(f"{flag} must be at most {most}, got {value}")


def check_training(config) -> None:
    """BadInput for flags of train.py that make no sense, alone or together; what concerns shapes the policy checks."""
    check_limits(config)
    if (config.resume or config.overwrite) and not config.out:
        raise BadInput(f"--{'resume' if config.resume else 'overwrite'} needs --out with the run folder")
    if config.resume and config.overwrite:
        raise BadInput("--resume and --overwrite exclude each other")
    if config.out:
        check_apart(Path(config.out), Path(config.data_dir))
    if config.held_out >= config.demos_per_task:
        asked = f"--held-out {config.held_out} of --demos-per-task {config.demos_per_task}"
        raise BadInput(f"{asked} leaves none to learn from")


def check_evaluation(policy, tasks: list[str], episodes: int, seed: int, sampler: str, steps: int | None) -> tuple:
    """Refuse, before minutes of simulation, what cannot be evaluated. -> the sampler and its number of steps."""
    if not 0 <= seed < 2**31:  # a negative block would reach down to the seeds of the demonstrations
        raise BadInput(f"--seed must be between 0 and 2147483647, got {seed}")
    if not 1 <= episodes <= 10_000:
        raise BadInput(f"episodes must be between 1 and 10000 per task, got {episodes}")
    try:
        policy.task_index(tasks)
        chosen = policy.choose_sampler(sampler or None, steps)
    except ValueError as error:
        raise BadInput(str(error)) from error
    check_fit(policy.config, tasks, "this policy")
    return chosen


def check_apart(out: Path, data_dir: Path) -> None:
    """BadInput where demonstrations would lie in the folder of a run."""
    exists(out), exists(data_dir)  # refuses what is no name, before links are followed
    if Path(os.path.realpath(data_dir)).is_relative_to(os.path.realpath(out)):
        raise BadInput(f"--data-dir {data_dir} is --out {out}, or inside it: demonstrations go elsewhere")


def check_log(steps: int, every: int, tasks: int, K: int) -> None:
    """BadInput for a log.jsonl that would be larger than what is read: measured, 80 bytes a task with K = 4."""
    lines, most = steps // every + 1, TEXT_LIMIT // (200 + tasks * (60 + 9 * K))
    if lines > most:
        raise BadInput(f"--log-every {every} would make a log of {lines:,} lines, and {most:,} of them can be read; "
                       f"give at least {math.ceil(steps / (most - 1))}")  # fmt: skip


def check_memory(policy: dict, batch_size: int, device: torch.device, weights: int) -> None:
    """BadInput where training cannot fit into this machine: Linux would promise the memory, and then kill the process.

    policy: the fields of its PolicyConfig; weights: how many numbers it learns. A lower bound is asked for, so that
    nothing that fits is refused; a GPU's own memory tells in time by itself (plumbing/resume.py, `try_once`).
    """
    K, H, memory = policy["components"], policy["horizon"], machine_memory()
    needed = 20 * weights  # float32: the weight, its gradient, the optimiser's two moments, the average
    if device.type == "cpu":  # measured: 68 (monolithic) to 114 bytes per component, sample, action and channel
        needed += 64 * K * batch_size * H * sum(policy["channels"])
    if needed > memory:
        raise BadInput(f"{K} components, --batch-size {batch_size} and a horizon of {H} need more than the memory of "
                       f"this machine: {needed / 1e9:,.0f} GB of {memory / 1e9:,.0f}")  # fmt: skip


def count_weights(variant: str, settings: dict) -> int:
    """How many numbers a policy learns, without making them. 0 for few components: asking costs two seconds."""
    if settings["components"] <= 16:
        return 0
    try:
        with torch.device("meta"):
            return sum(p.numel() for p in runs.build_policy(variant, settings).parameters())
    except (RuntimeError, NotImplementedError):  # a fork whose `build` reads numbers, which there are none of
        return 0
