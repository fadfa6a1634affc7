"""Train a factorized diffusion policy on MetaWorld, from nothing to a table of success rates.

    python train.py --tasks reach,push --components 4            # minutes on a laptop CPU
    python train.py --tasks mt6 --components 4 --size base       # the paper-sized network, for one GPU

In order, visible in this file: demonstrations, windows, policy, the loop (sample, noise, predict, loss, step, EMA, log,
save), evaluation. Everything lands in one run folder; see checkpoint.py for what is in it.
"""

import json
import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from tqdm import tqdm

import checkpoint
import evaluate
import figures
from cli import BadInput, check_limits, parse, provenance, run, say
from envs.demos import DATASET_ID, demonstrations, make_windows
from envs.metaworld import ACTION_DIM, OBSERVATION_DIM, POSITION_PAIRS, resolve_tasks

SIZES = {
    # Widths of the U-Net's levels and its kernel. small: 0.15 M parameters per component, 25 s per 1000 steps on
    # 2 cores.
    "small": {"channels": (32, 64), "kernel": 3},
    "base": {"channels": (128, 256, 512), "kernel": 5},  # the U-Net option of the FDP authors' released code
}


@dataclass
class TrainConfig:
    """Train a policy on MetaWorld demonstrations and evaluate it on episodes never seen in training."""

    tasks: str = "reach,push"  # task names or groups (mt6, mt4, mt10, mt50), separated by commas
    components: int = 4  # K; the paper's choice. 1 is a plain diffusion policy
    policy: str = "fdp"  # fdp, or a file in variants/ such as monolithic
    size: Literal["small", "base"] = "small"  # small for a CPU, base (the paper's widths) for one GPU
    task_conditioning: Literal["name", "none"] = "name"  # none (the paper): read the task from the observation
    router: Literal["softmax", "affine", "raw"] = "softmax"  # how logits become weights; router.py has the table
    target: Literal["noise", "clean", "velocity"] = "velocity"  # what is predicted; noise is the paper's objective
    horizon: int = 8  # H, actions predicted at once: 0.1 s of robot time. The paper predicts 16
    executed: int = 4  # of these, carried out before looking again; 8 is half the work and loses precision (LOG.md)
    demos_per_task: int = 50  # expert episodes; collected once and kept
    steps: int | None = None  # optimiser steps; default 2000 for each task: precise tasks need them (LOG.md)
    batch_size: int = 64  # windows per step; small, because many small steps beat fewer large ones here (LOG.md)
    lr: float = 1e-3  # peak learning rate: linear warm-up over 100 steps, then a cosine to zero
    weight_decay: float = 1e-4  # hardly any: the EMA does the regularising
    grad_clip: float = 1.0  # largest gradient norm; rarely reached after warm-up, saves the run from one bad batch
    seed: int = 0  # the same command with the same seed gives the same weights, bit for bit, on one CPU
    device: str = "auto"  # auto | cpu | cuda; bf16 autocast on CUDA
    compile: bool = False  # torch.compile the loss; minutes of warm-up, pays in long runs on a GPU
    eval_episodes: int = 50  # per task, after training; 0 trains only
    data_dir: str = "data"  # where demonstrations are kept, as Minari datasets
    dataset_id: str = DATASET_ID  # Minari id with {task}; change it to train on your own demonstrations
    out: str = ""  # run folder; default runs/TASKS-POLICY, with a number where that is taken
    resume: bool = False  # go on with the run in --out; all other flags as when it was started
    overwrite: bool = False  # replace the run in --out
    log_every: int = 50  # steps between lines of log.jsonl
    save_every: int = 1000  # steps between checkpoints


def check(config: TrainConfig) -> None:
    """Refuse impossible numbers before anything is made. What concerns shapes is checked by the policy itself."""
    any_number = (1, math.inf)
    check_limits(config, {
        "components": any_number, "steps": any_number, "batch_size": any_number, "log_every": any_number,
        "save_every": any_number, "demos_per_task": (1, 10_000), "eval_episodes": (0, 10_000), "seed": (0, 2**31 - 1),
    })  # fmt: skip
    for name in ("lr", "grad_clip"):
        if not getattr(config, name) > 0:
            raise BadInput(f"--{name.replace('_', '-')} must be greater than 0, got {getattr(config, name)}")
    if not config.weight_decay >= 0:
        raise BadInput(f"--weight-decay must be at least 0, got {config.weight_decay}")
    if (config.resume or config.overwrite) and not config.out:
        raise BadInput(f"--{'resume' if config.resume else 'overwrite'} needs --out with the run folder")
    if config.resume and config.overwrite:
        raise BadInput("--resume and --overwrite exclude each other")


def check_same_run(folder: Path, config: TrainConfig) -> None:
    """Resuming with other flags would make a run that no command describes."""
    free = ("out", "resume", "overwrite", "eval_episodes", "data_dir", "log_every", "save_every")
    if other := checkpoint.difference(folder, asdict(config), free):
        raise BadInput(f"--resume: the run in {folder} has {other}")


def learning_rate(config: TrainConfig, step: int) -> float:
    """Warm-up, because Adam's first estimates of the gradient's scale are poor; cosine, because a small rate at the end
    averages out what is left of the noise. Positive at step 0 and at the last step."""
    warm_up = min(100, max(1, config.steps // 10))
    return config.lr * min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * step / config.steps))


def average_decay(step: int) -> float:
    """How much of the old average of the weights is kept. The averaging window grows with training (Diffusion Policy's
    power 0.75): 1 step at the start, when old weights are worthless; the last ~400 steps of 3000. A fixed 0.999 would
    still contain the random initialisation."""
    return min(1 - (1 + step) ** -0.75, 0.9999)


def main(config: TrainConfig) -> dict:
    """Train, then evaluate. Returns what the command's last line says: the run folder, success, seconds, paths."""
    clock = time.perf_counter
    check(config)
    tasks = resolve_tasks(config.tasks)
    if config.steps is None:
        config.steps = 2000 * len(tasks)
    device = checkpoint.choose_device(config.device)
    config.device = str(device)  # a run begun on "auto" must not be resumed on something else

    # ---- The policy, before anything slow: its constructor refuses impossible shapes.
    torch.manual_seed(config.seed)
    settings = {
        "observation_dim": OBSERVATION_DIM, "action_dim": ACTION_DIM, "tasks": tasks, "components": config.components,
        "router": config.router, "target": config.target, "task_conditioning": config.task_conditioning,
        "horizon": config.horizon, "executed": config.executed, "differences": POSITION_PAIRS,
        **SIZES[config.size],
    }  # fmt: skip
    policy = checkpoint.build_policy(config.policy, settings)
    if config.resume:
        folder = Path(config.out)
        check_same_run(folder, config)
    else:
        name = f"{config.tasks.replace(' ', '').replace(',', '-')[:100]}-{config.policy}"
        folder = Path(config.out) if config.out else checkpoint.free_folder(Path("runs") / name)
        checkpoint.claim_folder(folder, config.overwrite)

    # ---- Data: every window of every demonstration, on the device. 50 demonstrations of a task are about 1 MB.
    begin = clock()
    demos = demonstrations(tasks, config.demos_per_task, Path(config.data_dir), config.dataset_id)
    windows = [make_windows(demos[task], policy.config.horizon) for task in tasks]
    observations, actions = (torch.cat(parts) for parts in zip(*windows, strict=True))
    data = [len(observations), float(observations.double().sum() + actions.double().sum())]  # recognised when resuming
    observations, actions = observations.to(device), actions.to(device)
    task_ids = torch.cat(
        [policy.task_index([task]).expand(len(o)) for task, (o, _) in zip(tasks, windows, strict=True)]
    ).to(device)
    policy.normalizer.fit(observations)
    policy.to(device)
    seconds = {"demonstrations": clock() - begin}

    # ---- Optimiser and EMA. The average of the weights over the last part of training acts better than the last
    # weights, whose noise the cosine schedule only partly removes; it is what is saved, evaluated and reported.
    parameters = list(policy.parameters())
    average = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True)
    loss_function = torch.compile(policy.loss) if config.compile else policy.loss
    start, before, running, since = 0, 0.0, torch.zeros((), device=device), 0
    if config.resume:
        saved = checkpoint.load_resume(folder, device)
        try:
            policy.load_state_dict(saved["policy"])
            optimizer.load_state_dict(saved["optimizer"])
            average, start, before = saved["average"], saved["step"], saved["seconds"]
            running, since = saved["running"].to(device), saved["since"]
            same_data = saved["data"] == data
            torch.set_rng_state(saved["rng"].cpu())
            if device.type == "cuda":
                torch.cuda.set_rng_state(saved["cuda_rng"].cpu(), device)
        except (KeyError, ValueError, RuntimeError, TypeError, AttributeError) as error:
            raise BadInput(f"{folder / 'resume.pt'} does not fit this run: {error}") from error
        if not same_data:
            raise BadInput(f"--resume: the demonstrations are not those that the run in {folder} began with")
        checkpoint.note_resuming(folder, start, provenance(config.seed, str(device)))
    else:
        _try_once(config, loss_function, observations, task_ids, actions)
        checkpoint.begin_run(folder, asdict(config), asdict(policy.config), provenance(config.seed, str(device)))
    say(
        f"{sum(p.numel() for p in parameters):,} parameters, {config.components} components, {len(observations):,} "
        f"windows of {len(tasks)} tasks, on {device}; run folder {folder}"
    )

    # ---- The loop.
    begin = clock()
    log, board = _open_log(folder, start), _tensorboard(folder)
    bar = tqdm(
        range(start, config.steps), initial=start, total=config.steps, unit="step", desc="training", mininterval=0.5
    )
    for step in bar:
        index = torch.randint(0, len(observations), (config.batch_size,), device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = loss_function(observations[index], task_ids[index], actions[index]).mean()
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, config.grad_clip)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        optimizer.step()

        with torch.no_grad():  # or the average would carry the graph of every step so far with it
            torch._foreach_lerp_(average, parameters, 1 - average_decay(step))

        running, since = running + loss.detach(), since + 1
        last = step == config.steps - 1
        logging, saving = ((step + 1) % every == 0 or last for every in (config.log_every, config.save_every))
        if (logging or saving) and not math.isfinite(running.item()):  # before it is saved over good weights
            raise BadInput(f"the loss is {running.item()} by step {step + 1}: lower --lr (now {config.lr})")
        if logging:
            line = {"step": step + 1, "loss": running.item() / since, "lr": learning_rate(config, step),
                    "grad_norm": norm.item(),
                    "seconds": round(before + clock() - begin, 2)}  # fmt: skip
            log.write(json.dumps(line) + "\n")
            log.flush()
            if board:
                for name in ("loss", "lr", "grad_norm"):
                    board.add_scalar(name, line[name], step + 1)
            bar.set_postfix(loss=f"{line['loss']:.4f}")
            running, since = torch.zeros((), device=device), 0
        if saving:
            seen = {"step": step + 1, "seconds": before + clock() - begin, "running": running, "since": since}
            seen["data"] = data
            _save(folder, policy, parameters, average, optimizer, seen)
    log.close()
    if board:
        board.close()
    seconds["training"] = before + clock() - begin

    # ---- From here on the policy is what anybody loads from the run folder: the averaged weights.
    policy = checkpoint.load_policy(folder, device)
    written = [str(folder / name) for name in ("config.json", "model.safetensors", "log.jsonl")]
    written.append(
        str(figures.training_curve(figures.read_log(folder / "log.jsonl"), folder / "figures" / "training.png"))
    )
    losses = loss_by_step(policy, observations, task_ids, actions)
    written.append(str(figures.loss_by_step(losses, config.target, folder / "figures" / "loss-by-step.png")))
    summary = {"run": str(folder)}
    if config.eval_episodes:
        begin = clock()
        result, traces = evaluate.evaluate(policy, tasks, config.eval_episodes)
        seconds["evaluation"] = clock() - begin
        result.update(provenance(0, str(device)), training=checkpoint.training_record(folder))
        written += evaluate.write_evaluation(folder / "evaluation.json", policy, result, traces, video=False)
        say(evaluate.table(result))
        summary["mean_success"] = result["mean_success"]
    say("seconds: " + ", ".join(f"{name} {value:.0f}" for name, value in seconds.items()))
    return {**summary, "seconds": {name: round(value, 1) for name, value in seconds.items()}, "wrote": written}


def _try_once(config: TrainConfig, loss_function, observations, task_ids, actions) -> None:
    """One forward and backward before an old run is overwritten: too large a batch, or no compiler for --compile."""
    device, index = observations.device, slice(config.batch_size)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):  # the run itself draws as if nothing was
        try:
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                loss = loss_function(observations[index], task_ids[index], actions[index]).mean()
            loss.backward()
        except torch.OutOfMemoryError as error:
            raise BadInput(f"--batch-size {config.batch_size} does not fit into the memory of {device}") from error
        except Exception as error:
            if not config.compile:
                raise
            raise BadInput(f"--compile fails on this machine; leave it out ({str(error).splitlines()[0]})") from error


def _open_log(folder: Path, start: int):
    """Open log.jsonl for appending; lines past the checkpoint that we resume from are dropped, they will be made
    again.
    """
    path = folder / "log.jsonl"
    kept = [line for line in figures.read_log(path) if line["step"] <= start] if path.exists() else []
    temporary = path.with_name("log.jsonl.tmp")
    temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
    os.replace(temporary, path)
    return path.open("a")


def _tensorboard(folder: Path):
    """A TensorBoard writer in the run folder if the tensorboard package is installed; it is not required."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"))


def _save(folder, policy, parameters, average, optimizer, seen: dict) -> None:
    """model.safetensors gets the averaged weights, resume.pt everything that going on bit for bit needs."""
    names = [name for name, _ in policy.named_parameters()]
    assert len(names) == len(parameters) == len(average)
    averaged = {**policy.state_dict(), **dict(zip(names, average, strict=True))}
    checkpoint.save_weights(folder, averaged, seen["step"], seen["seconds"])
    state = {**seen, "policy": policy.state_dict(), "average": average, "optimizer": optimizer.state_dict()}
    state["rng"] = torch.get_rng_state()
    if average[0].is_cuda:
        state["cuda_rng"] = torch.cuda.get_rng_state(average[0].device)
    checkpoint.save_resume(folder, state)


@torch.no_grad()
def loss_by_step(policy, observations, task_ids, actions, samples: int = 128, points: int = 25) -> dict[int, float]:
    """Diffusion step t -> training error there, at `points` steps from 0 to T-1, on windows spread evenly over the
    data.
    """
    index = torch.from_numpy(np.linspace(0, len(observations) - 1, samples).astype(int)).to(observations.device)
    o, i, a = observations[index], task_ids[index], actions[index]
    steps = np.unique(np.linspace(0, policy.config.diffusion_steps - 1, points).round().astype(int)).tolist()
    return {t: policy.loss(o, i, a, step=torch.full((samples,), t, device=o.device)).mean().item() for t in steps}


if __name__ == "__main__":
    run(lambda: main(parse(TrainConfig)))
