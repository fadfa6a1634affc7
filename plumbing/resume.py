"""Going on with a run bit for bit, and finding out early that one cannot run."""

import json
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from envs.tasks import resolve_tasks, slug
from plumbing import folders, machine, parallel, runs, tensors
from plumbing.cli import BadInput, provenance, say_once
from plumbing.limits import check_log
from plumbing.log import read_log

FILE = "resume.safetensors"
TAKEN = {"step", "loss", "skipped", "lr", "grad_norm", "seconds", "router", "held_out", "drift"}  # in log.jsonl
FREE = ("out", "resume", "overwrite", "eval_episodes", "data_dir", "log_every", "save_every")  # may change on resuming


def check_same_run(folder: Path, config, policy) -> None:
    """Resuming with other flags would make a run that no command describes; and a policy for other spaces, say, one
    that its config.json does not describe."""
    begun = (made := runs.read_config(folder)).get("command")  # raises where there is no run
    if not (folder / FILE).exists() and (folder / "model.safetensors").exists():
        raise BadInput(f"--resume: {folder} has weights, but not {FILE}, which going on needs (as a run that comes "
                       "with the code, or from adapt.py)")  # fmt: skip
    if not (folder / FILE).exists():
        instead = "give --overwrite instead of" if (folder / folders.REPLACED).exists() else "leave out"
        raise BadInput(f"--resume: the run in {folder} has no checkpoint yet; {instead} --resume to begin it again")
    if other := runs.difference(folder, asdict(config), FREE):
        how = f"; it was begun with: {begun}" if begun else ""
        raise BadInput(f"--resume: the run in {folder} has {other}{how}")
    if runs.edited(made):
        say_once(f"variants/{runs.fork_of(made)}.py has changed since the run in {folder} was begun: the rest is "
                 "learned with what it is now")  # fmt: skip
    was, now = made["policy_config"], json.loads(json.dumps(asdict(policy.config)))
    if other := [name for name in was if was[name] != now.get(name)]:
        raise BadInput(f"--resume: the run in {folder} has {other[0]} = {was[other[0]]!s:.200}, and now it is "
                       f"{now.get(other[0])!s:.200}: the environment, or the policy's file, has changed")  # fmt: skip


def precision(config, policy, device) -> str:
    """What training computes in. "auto", where a run is gone on with, is what it began with: another CPU, which may be
    better at the other, would refuse the command that began it."""
    path = Path(config.out) / "config.json"
    if config.precision == "auto" and config.resume and path.exists():
        return runs.read_config(path.parent)["train"].get("precision", "float32")
    return machine.choose_precision(config.precision, policy.config, device)


def behind(folder: Path, step: int) -> bool:
    """Whether the weights of a run are missing, or of an earlier step than what going on needs."""
    path = folder / "model.safetensors"
    return not path.exists() or int(tensors.header(path).get("step", -1)) < step


def fingerprint(windows, *more: dict[str, torch.Tensor]) -> str:
    """What training data are recognised by: a checksum of the windows of train.py, and of what else is learned from."""
    return tensors.checksum([windows.observations, windows.actions, *more])


def run_folder(config, policy) -> tuple[Path, bool]:
    """Where train.py's run goes, and whether it goes on there: an old one to resume, or a new one, which is made when
    it begins."""
    check_log(config.steps, config.log_every, len(resolve_tasks(config.tasks)), config.components)
    if os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0" and not config.out:
        raise BadInput("torchrun --max-restarts needs --out: a training that is started again goes on there")
    if os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0" and parallel.about().get("torchrun") == "none":
        # By this id it is known what is a start again: another torchrun without one would replace a finished run.
        raise BadInput("torchrun --max-restarts on several machines needs --rdzv-id with a name for this training")
    out = Path(config.out)
    if _started_again(out):
        config.resume = (out / FILE).exists()
        config.overwrite = not config.resume  # a process died before the first checkpoint
    if config.resume:
        check_same_run(out, config, policy)
        folders.claim(out, overwrite=True)
        return out, True
    if config.out:
        folders.check_free(out, config.overwrite)
        return out, False
    name = f"{config.tasks.replace(' ', '').replace(',', '-')[:100]}-{config.policy}"
    return folders.free(Path("runs") / slug(name)), False


def _started_again(folder: Path) -> bool:
    """Whether this torchrun has worked on the run in the folder before, and a process of it died."""
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0" or not (folder / "config.json").exists():
        return False
    config, mine = runs.read_config(folder), parallel.about().get("torchrun")  # None: adapt.py, which is one process
    return mine is not None and mine in [command.get("torchrun") for command in (config, *config.get("resumed", []))]


def begin(folder: Path, config, policy) -> Path:
    """Claim the folder, or the next free one if none was asked for by name, and begin the run there. -> the folder."""
    if config.out:
        folders.claim(folder, config.overwrite)
    else:
        folder = folders.claim_free(folder)
    source = provenance(config.seed, str(policy.device)) | parallel.about()
    runs.begin_run(folder, asdict(config), asdict(policy.config), source)
    return folder


def command(folder: Path) -> str:
    """What to type to go on with an interrupted command: the same, with the folder named. (adapt.py and a study find
    the folder of the same command again, and this one may be a part of it.)"""
    processes = os.environ.get("LOCAL_WORLD_SIZE") if parallel.about() else None
    words = ["torchrun", "--nproc-per-node", processes] if processes else ["python"]
    words += sys.argv
    script = os.path.basename(sys.argv[0])
    if script == "train.py":
        words = [word for word in words if word not in ("--overwrite", "--resume")] + ["--resume"]
    named = any(word == "--out" or word.startswith("--out=") for word in words)
    return shlex.join(words if named or script != "train.py" else [*words, "--out", str(folder)])


def save(folder: Path, learner, log, data: str, step: int, weights: bool = True, interrupted: bool = False) -> str:
    """model.safetensors gets the averaged weights, FILE everything that going on bit for bit needs. Returns how to go
    on. BadInput, and the last files stay, if the weights are not finite.

    weights=False leaves out the first, where a folder with weights is one that is finished. The run that this one
    replaces goes, unless training was interrupted: perhaps before it was any good. Of several processes the first one
    saves, and the others wait.
    """
    return parallel.first(lambda: _save(folder, learner, log, data, step, weights, interrupted))


def _save(folder: Path, learner, log, data: str, step: int, weights: bool, interrupted: bool) -> str:
    learner.check(step)
    state = {f"policy.{name}": x for name, x in learner.policy.state_dict().items()}
    state |= {f"average.{name}": x for name, x in zip(learner.names, learner.average, strict=True)}
    for i, of_weight in learner.optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{i}.{name}": x for name, x in of_weight.items()}
    state |= {f"sums.{name}": x for name, x in log.sums.items()}
    state |= {"skipped_in_a_row": learner.skipped_in_a_row, "rng": torch.get_rng_state()}
    if learner.policy.device.type == "cuda":
        state["cuda_rng"] = torch.cuda.get_rng_state(learner.policy.device)
    about = {"step": step, "seconds": log.seconds, "count": log.count, "data": data, "interrupted": interrupted}
    # This file first: if the disk is full before the second, training can go on; with weights alone it could not.
    tensors.save(folder / FILE, state, {name: json.dumps(x) for name, x in about.items()})
    if weights:
        runs.save_weights(folder, learner.averaged_state(), step, log.seconds)
    if not interrupted:
        folders.drop_replaced(folder)
    return f"saved after step {step}; go on with: {command(folder)}"


def restore(folder: Path, learner, seed: int, data: str) -> dict:
    """Put weights, optimiser and random state back where the run in the folder stopped. -> what the log goes on with.

    BadInput for a file that does not fit, or other demonstrations.
    """
    device = learner.policy.device
    saved, header = parallel.first(lambda: tensors.load(folder / FILE))  # other machines may not see the file
    try:
        about = {name: json.loads(text) for name, text in header.items()}
        learner.policy.load_state_dict(_under("policy.", saved))
        learner.optimizer.load_state_dict(_memory(_under("optimizer.", saved), learner))
        for name, mine in zip(learner.names, learner.average, strict=True):
            mine.copy_(_like(saved[f"average.{name}"], mine.shape))
        learner.skipped_in_a_row = _like(saved["skipped_in_a_row"], ()).to(device)
        torch.set_rng_state(saved["rng"])
        if device.type == "cuda" and "cuda_rng" in saved:  # begun on a CPU it has none
            torch.cuda.set_rng_state(saved["cuda_rng"], device)
        found = {"start": about["step"], "seconds": about["seconds"], "count": about["count"]}
        found["sums"] = {name: _like(x, ()).to(device) for name, x in _under("sums.", saved).items()}
        for name, kind in {"start": int, "count": int, "seconds": float}.items():
            if not (type(found[name]) is kind and 0 <= found[name] <= 1e9):
                raise ValueError(f"'{name}' is {found[name]!r:.80}")
        same = about["data"] == data
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        raise BadInput(f"{folder / FILE} does not fit this run: {error!s:.200}") from error
    if (log := folder / "log.jsonl").exists():
        read_log(log)  # raises for what is no file, before anything is written
    if not same:
        raise BadInput(f"the demonstrations are not those that the run in {folder} began with: choose another --out")
    source = provenance(seed, str(device)) | parallel.about()
    parallel.first(lambda: runs.note_resuming(folder, found["start"], source))
    return found


def _memory(saved: dict, learner) -> dict:
    """The optimiser's memory from a file, which may be a stranger's: what each weight has of it, in the weight's shape.
    PyTorch does not look at shapes there, and a fused optimiser writes beyond the end of what is too short. The
    settings are those of the flags, as ever."""
    memory = {}
    for i, weight in enumerate(learner.parameters):
        if f"{i}.step" in saved:  # else it never had a gradient
            if _like(step := saved[f"{i}.step"], ()) < 0:
                raise ValueError("the optimiser has made no such number of steps")
            # Copies, laid out as the weight is: where a tensor begins in its file is the file's word, too.
            memory[i] = {"step": step.clone()} | {
                name: torch.empty_like(weight, device="cpu").copy_(_like(saved[f"{i}.{name}"], weight.shape))
                for name in ("exp_avg", "exp_avg_sq")
            }
    return {"state": memory, "param_groups": learner.optimizer.state_dict()["param_groups"]}


def _under(prefix: str, saved: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of the tensors in a file those whose names begin so, without it."""
    return {name.removeprefix(prefix): x for name, x in saved.items() if name.startswith(prefix)}


def _like(found: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """A tensor of real numbers from a file, if it has the shape that it should have; ValueError otherwise."""
    if found.shape != shape or not found.is_floating_point():
        raise ValueError(f"numbers of shape {tuple(found.shape)} and type {found.dtype} where {tuple(shape)} should be")
    return found


def check_can_be_saved(policy) -> None:
    """BadInput for a policy whose tensors a safetensors file does not hold: now, and not at the first checkpoint."""
    places = {}
    for name, x in policy.state_dict().items():
        if x.is_floating_point() and not x.isfinite().all():
            raise BadInput(f"the policy's tensor '{name}' has numbers that are not finite, which no run may hold: make "
                           "it a buffer with persistent=False")  # fmt: skip
        if x.numel() and (other := places.setdefault(x.untyped_storage().data_ptr(), name)) != name:
            raise BadInput(f"the policy's tensors '{other}' and '{name}' share their memory, which a run's file cannot "
                           "say: give each its own")  # fmt: skip


def check_loss(loss) -> tuple[torch.Tensor, dict]:
    """What a policy's `loss` returns. BadInput if that is not (errors (N,), {name: (coefficient, term)})."""
    if not (isinstance(loss, tuple) and len(loss) == 2 and isinstance(loss[1], dict)):
        raise BadInput("the policy's loss must return two things, an error for each sample and a dictionary of further "
                       "terms, which may be empty (fdp.py, `Policy.loss`)")  # fmt: skip
    errors, terms = loss
    if errors.dim() != 1:  # of several processes each has its part of the samples
        raise BadInput("the policy's loss must return an error for each sample, a row of numbers, not one of shape "
                       f"{tuple(errors.shape)}")  # fmt: skip
    for name, term in terms.items():
        pair = isinstance(term, tuple) and len(term) == 2 and isinstance(term[1], torch.Tensor)
        if not (isinstance(name, str) and len(name) <= 100 and pair and term[1].dim() == 0):
            raise BadInput(f"the policy's loss has a term {name!r:.120} that is none: it must be a name of at most 100 "
                           "characters, and (coefficient, a tensor that is one number)")  # fmt: skip
    if taken := set(terms) & TAKEN:
        raise BadInput(f"the policy's loss has a term '{taken.pop()}', as a line of log.jsonl has already: give it "
                       "another name")  # fmt: skip
    return errors, terms


def try_once(policy, windows, config) -> Callable:
    """The function that training asks for its loss: policy.loss, or what --compile and several processes make of it.
    It is tried, forward and backward, before an old run is overwritten: too large a batch, or no compiler. The run
    itself goes on as if nothing had been: with its random numbers, and with the statistics of a BatchNorm."""
    check_can_be_saved(policy)
    device, policy.progress = policy.device, 0.0
    loss_function = parallel.share(policy, torch.compile(policy.loss) if config.compile else policy.loss)
    statistics = {name: (buffer, buffer.clone()) for name, buffer in policy.named_buffers()}
    before = policy.state_dict(keep_vars=True)
    with machine.drawing_nothing(device):
        try:
            observation, task, actions = windows.sample(config.batch_size)
            step = torch.randint(0, policy.config.diffusion_steps, (len(actions),), device=device)
            with machine.autocast(device, config.precision):
                loss = loss_function(observation, task, actions, step, torch.randn_like(actions))
                errors, terms = check_loss(loss)
                sum((c * term for c, term in terms.values()), errors.mean()).backward()
        except BadInput:
            raise
        except Exception as error:
            # A GPU has an error of its own for this; a CPU says it in words.
            if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "allocate memory" in str(error):
                raise BadInput(f"--batch-size {config.batch_size} does not fit into the memory of {device}") from error
            if not config.compile:
                raise
            raise BadInput(f"--compile fails on this machine; leave it out ({str(error).splitlines()[0]})") from error
    now = policy.state_dict(keep_vars=True)
    if late := [name for name in now if name not in before]:
        raise BadInput(f"the policy registers '{late[0]}' when it is first asked for its loss: do it in build")
    for name in before:  # training averages, and saves, the tensors that it began with
        if now.get(name) is not before[name]:
            raise BadInput(f"the policy's loss replaces '{name}' by a new tensor: change it in place, as with copy_")
    kept = {id(x) for x in now.values()}
    for name, (buffer, as_it_was) in statistics.items():
        if id(buffer) not in kept and not torch.equal(buffer.nan_to_num(), as_it_was.nan_to_num()):
            raise BadInput(f"the policy changes '{name}' while it learns, and a run's file does not hold it: leave out "
                           "persistent=False")  # fmt: skip
        buffer.copy_(as_it_was)
    return parallel.exchange(loss_function)
