"""Going on with a run bit for bit, and finding out early that one cannot run."""

import contextlib
import math
import os
import shlex
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from envs.tasks import slug
from plumbing import runs
from plumbing.cli import BadInput, provenance
from plumbing.log import read_log

FREE = ("out", "resume", "overwrite", "eval_episodes", "data_dir", "log_every", "save_every")  # may change on resuming


def check_same_run(folder: Path, config) -> None:
    """Resuming with other flags would make a run that no command describes."""
    runs.read_config(folder)  # raises where there is no run
    if not (folder / "resume.pt").exists():
        raise BadInput(f"--resume: the run in {folder} has no checkpoint yet; leave out --resume to begin it again")
    if other := runs.difference(folder, asdict(config), FREE):
        raise BadInput(f"--resume: the run in {folder} has {other}")


def fingerprint(observations: dict[str, torch.Tensor], actions: torch.Tensor) -> list[float]:
    """What training data are recognised by: their number, and a sum."""
    return [len(actions), float(sum(x.double().sum() for x in [*observations.values(), actions]))]


def run_folder(config) -> Path:
    """Where train.py's run goes: an old one to resume, or a new one. That is tried, and made when the run begins: a
    command that is refused until then leaves nothing."""
    if config.resume:
        check_same_run(Path(config.out), config)
        return Path(config.out)
    name = f"{config.tasks.replace(' ', '').replace(',', '-')[:100]}-{config.policy}"
    folder = Path(config.out) if config.out else runs.free_folder(Path("runs") / slug(name))
    made = [path for path in (folder / "figures", folder, *folder.parents) if not os.path.exists(path)]
    try:
        runs.claim_folder(folder, config.overwrite)
    finally:
        for path in made:
            with contextlib.suppress(OSError):  # not even made; or somebody else has put something there
                path.rmdir()
    return folder


def command(folder: Path) -> str:
    """What to type to go on with an interrupted command: the same, with the folder named."""
    words = ["python", *sys.argv]
    if os.path.basename(sys.argv[0]) == "train.py":
        words = [word for word in words if word not in ("--overwrite", "--resume")] + ["--resume"]
    named = any(word == "--out" or word.startswith("--out=") for word in words)
    return shlex.join(words if named else [*words, "--out", str(folder)])


def save(folder: Path, learner, log, data: list[float], step: int, weights: bool = True) -> str:
    """model.safetensors gets the averaged weights, resume.pt everything that going on bit for bit needs. Returns how to
    go on. BadInput, and the last files stay, if the weights are not finite.

    weights=False leaves out the first, where a folder with weights is one that is finished.
    """
    learner.check(step)
    if weights:
        runs.save_weights(folder, learner.averaged_state(), step, log.seconds)
    state = {
        "step": step, "seconds": log.seconds, "data": data, "sums": log.sums, "count": log.count,
        "policy": learner.policy.state_dict(), "average": learner.average, "optimizer": learner.optimizer.state_dict(),
        "skipped_in_a_row": learner.skipped_in_a_row, "rng": torch.get_rng_state(),
    }  # fmt: skip
    if learner.policy.device.type == "cuda":
        state["cuda_rng"] = torch.cuda.get_rng_state(learner.policy.device)
    runs.save_resume(folder, state)
    return f"saved after step {step}; go on with: {command(folder)}"


def restore(folder: Path, learner, seed: int, data: list[float]) -> dict:
    """Put weights, optimiser and random state back where the run in the folder stopped. -> what the log goes on with.

    BadInput for a file that does not fit, or other demonstrations.
    """
    device = learner.policy.device
    saved = runs.load_resume(folder, device)
    try:
        learner.policy.load_state_dict(saved["policy"])
        learner.optimizer.load_state_dict(saved["optimizer"])
        for mine, old in zip(learner.average, saved["average"], strict=True):
            mine.copy_(old)
        learner.skipped_in_a_row = saved.get("skipped_in_a_row", learner.skipped_in_a_row)
        same = saved["data"][0] == data[0] and math.isclose(saved["data"][1], data[1], rel_tol=1e-9)
        torch.set_rng_state(saved["rng"].cpu())
        if device.type == "cuda":
            torch.cuda.set_rng_state(saved["cuda_rng"].cpu(), device)
        found = {"start": saved["step"], "seconds": saved["seconds"], "count": saved["count"]}
        found["sums"] = {name: value.to(device) for name, value in saved["sums"].items()}
    except (KeyError, ValueError, RuntimeError, TypeError, AttributeError, IndexError) as error:
        raise BadInput(f"{folder / 'resume.pt'} does not fit this run: {error}") from error
    if (log := folder / "log.jsonl").exists():
        read_log(log)  # raises for what is no file, before anything is written
    if not same:
        raise BadInput(f"--resume: the demonstrations are not those that the run in {folder} began with")
    runs.note_resuming(folder, found["start"], provenance(seed, str(device)))
    return found


def try_once(policy, loss_function, windows, config) -> None:
    """One forward and backward before an old run is overwritten: too large a batch, or no compiler for --compile. The
    run itself goes on as if nothing had been: with its random numbers, and with the statistics of a BatchNorm."""
    device = policy.device
    statistics = [(buffer, buffer.clone()) for buffer in policy.buffers()]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            index = torch.arange(config.batch_size, device=device) % len(windows.actions)
            observation, task, actions = windows.select(index)
            step = torch.randint(0, policy.config.diffusion_steps, (len(actions),), device=device)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                errors = loss_function(observation, task, actions, step, torch.randn_like(actions))
                (errors[0] if isinstance(errors, tuple) else errors).mean().backward()
        except Exception as error:
            # A GPU has an error of its own for this; a CPU says it in words.
            if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "allocate memory" in str(error):
                raise BadInput(f"--batch-size {config.batch_size} does not fit into the memory of {device}") from error
            if not config.compile:
                raise
            raise BadInput(f"--compile fails on this machine; leave it out ({str(error).splitlines()[0]})") from error
    for buffer, before in statistics:
        buffer.copy_(before)
