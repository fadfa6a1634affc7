"""Train a factorized diffusion policy on MetaWorld, from nothing to a table of success rates.

    python train.py --tasks reach,push --components 4            # minutes on a laptop CPU
    python train.py --tasks mt6 --components 4 --size base       # the authors' U-Net widths, for one GPU

Read `main`, near the end, first: policy, demonstrations cut into windows, the loop (sample, noise, predict, loss, step,
average, log, save), evaluation. Everything lands in one run folder; see plumbing/runs.py for what is in it.
"""

from plumbing import interrupt  # isort: skip  (first: Ctrl-C while PyTorch loads is one line, no traceback)
import math
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch

import evaluate
from encoder import join, rows
from envs.demos import DATASET_ID, demonstrations, make_windows
from envs.pixels import check_goals, parts_seen, through_cameras
from envs.tasks import common_spaces, resolve_tasks, tell_differences
from plumbing import figures, machine, parallel, reports, resume, runs
from plumbing.cli import BadInput, progress, provenance, run, say
from plumbing.limits import check_memory, check_training, count_weights
from plumbing.log import HeldOut, Log, Usage, loss_by_step, read_log

# Noise samples per observation with pictures: encoding pictures is slow, and several noise samples per encoding lower
# the variance of the gradient (Mini-Diffuser, arXiv 2505.09430). States are cheap to encode: one noise sample each.
NOISES = 4
MOST_SKIPPED = 5  # steps in a row without a finite loss; one may be a freak batch, five are the end
SIZES = {
    # Widths of the U-Net's levels, and its kernel. small: 0.15 M parameters each, 15 s per 1000 steps with four.
    "small": {"channels": (32, 64), "kernel": 3},
    "base": {"channels": (128, 256, 512), "kernel": 5, "eye": "resnet18"},  # as in the FDP authors' released code
}


@dataclass
class TrainConfig:
    """Train a policy on MetaWorld demonstrations and evaluate it on episodes never seen in training."""

    tasks: str = "reach,push"  # task names, groups (mt6, mt50, ml45-train, ...), Gymnasium ids; separated by commas
    components: int = 4  # K; the paper's choice. 1 is a plain diffusion policy
    policy: str = "fdp"  # fdp, or a file in variants/ such as monolithic
    size: Literal["small", "base"] = "small"  # small for a CPU, base (the authors' widths; a ResNet-18) for one GPU
    observation: Literal["state", "pixels"] = "state"  # pixels: cameras and the hand's own position, as in the paper
    cameras: str = "corner,wrist"  # one or both, with --observation pixels
    image_size: Literal[64, 96, 128] = 64  # height and width of pictures
    task_conditioning: Literal["name", "none"] = "name"  # none (the paper): read the task from the observation
    router: Literal["softmax", "informed", "affine", "raw"] = "softmax"  # logits to weights; router.py has the table
    target: Literal["noise", "clean", "velocity"] = "velocity"  # the paper: noise; velocity: v-prediction
    horizon: int = 8  # H, actions per chunk; 8 are 0.1 s of robot time. The paper predicts 16
    executed: int = 4  # actions executed per chunk; 8 halves the computation, loses precision (study/README.md)
    demos_per_task: int = 50  # expert episodes; collected once and kept
    held_out: int = 0  # of these, kept out of training: log.jsonl and its picture also have the loss on them
    demo_draw: int = 0  # which of 20 disjoint sets of demonstrations: other seeds, a dataset of their own
    steps: int | None = None  # optimiser steps; default 2000 times the number of tasks, 40,000 at most
    batch_size: int = 64  # windows per step; many small steps beat fewer large ones here (LOG.md, 2026-11-21)
    lr: float = 1e-3  # peak learning rate: a cosine from there to zero, times a linear warm-up over at most 100 steps
    weight_decay: float = 1e-4  # hardly any; no other value was tried
    grad_clip: float = 1.0  # largest gradient norm; rarely reached after warm-up, saves the run from one bad batch
    seed: int = 0  # the same command with the same seed gives the same weights, bit for bit, on one CPU
    device: str = "auto"  # auto | cpu | cuda
    precision: Literal["auto", "float32", "bf16"] = "auto"  # of matrix products; auto: bf16 where it is faster
    compile: bool = False  # torch.compile the loss; minutes of warm-up, pays in long runs on a GPU
    eval_episodes: int = 50  # per task, after training; 0 trains only
    data_dir: str = "data"  # where demonstrations are kept, as Minari datasets
    dataset_id: str = DATASET_ID  # Minari id with {task}; change it to train on your own demonstrations
    out: str = ""  # run folder; default runs/TASKS-POLICY, with a number where that is taken
    resume: bool = False  # go on with the run in --out; flags as when it was begun, but for saving and evaluating
    overwrite: bool = False  # replace the run in --out
    log_every: int = 50  # steps between lines of log.jsonl
    save_every: int = 1000  # steps between checkpoints


# ---------------------------------------------------------------------------------------------- data


class Windows:
    """The training samples: a window is an observation and the H actions from there on; one begins at every step.

    observations {part: (N, *shape)}, actions (N, H, A), task_ids (N,): the policy's index of the task (all 0 if it is
    not told the task), of_task (N,): index into `tasks`. On the device; 50 demonstrations: 1 MB, with pictures 120 MB.
    """

    def __init__(self, policy, tasks: list[str], demos: dict[str, list[dict]], device: torch.device):
        per_task = [make_windows(demos[task], policy.config.horizon) for task in tasks]
        counts = torch.tensor([len(actions) for _, actions in per_task])
        self.tasks = tasks
        observations = join([observation for observation, _ in per_task])
        self.observations = {name: observations[name].to(device) for name in policy.config.observation}
        self.actions = torch.cat([actions for _, actions in per_task]).to(device)
        self.task_ids = policy.task_index(tasks).repeat_interleave(counts).to(device)
        self.of_task = torch.arange(len(tasks)).repeat_interleave(counts).to(device)
        self.noises = NOISES if any(x.ndim == 4 for x in self.observations.values()) else 1

    def sample(self, batch_size: int) -> tuple:
        """Random windows: observation {part: (B, *shape)}, task (n * B,), actions (n * B, H, A); n = self.noises."""
        index = torch.randint(0, len(self.actions), (batch_size,), device=self.actions.device)
        observation, task, actions = self.select(index)
        return observation, task.repeat_interleave(self.noises), actions.repeat_interleave(self.noises, 0)

    def select(self, index) -> tuple:
        """The windows at these indices (B,): observation {part: (B, *shape)}, task (B,), actions (B, H, A)."""
        return rows(self.observations, index), self.task_ids[index], self.actions[index]


def draw_noise(policy, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For actions (B, H, A): one diffusion step per row, (B,), uniform in 0 .. T-1, the steps that samplers visit
    (randint's upper end is exclusive), and the noise to add (B, H, A). With pictures n * B rows: `Windows.sample`."""
    step = torch.randint(0, policy.config.diffusion_steps, (len(actions),), device=actions.device)
    return step, torch.randn(actions.shape, device=actions.device)


def learning_rate(config, step: int) -> float:
    """Warm-up, because Adam's first estimates of the gradient's scale are poor; cosine, because a small rate at the end
    averages out the randomness of the batches. Positive at step 0 and at the last step."""
    warm_up = min(100, max(1, config.steps // 10))
    return config.lr * min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * step / config.steps))


def average_decay(step: int) -> float:
    """How much of the old average of the weights is kept. The averaging window grows with training (Diffusion Policy's
    power 0.75): 1 step at the start, when old weights are worthless; the last ~400 steps of 3000. With a fixed 0.999
    the average at step 1000 would still be 37 % random initialisation."""
    return min(1 - (1 + step) ** -0.75, 0.9999)


def default_steps(tasks: int) -> int:
    """Optimiser steps for so many tasks. Capped, because much of what they need is shared, and learned once."""
    return min(2000 * tasks, 40_000)


class Learner:
    """What training changes: weights, the optimiser's state, and the running average (EMA) of the weights.

    The average over the last part of training acts better than the last weights, whose noise the cosine schedule only
    partly removes; it is what is saved, evaluated and reported. It covers all trainable parameters, and floating-point
    buffers (BatchNorm statistics, say), which have to match the weights that they were computed with.
    """

    def __init__(self, policy, lr=1e-3, weight_decay=1e-4, grad_clip=1.0, precision="auto"):
        self.policy, self.lr, self.grad_clip = policy, lr, grad_clip
        self.precision = machine.choose_precision(precision, policy.config, policy.device)
        self.parameters = [p for p in policy.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=lr, weight_decay=weight_decay, fused=True)
        # Not averaged: rows that adapt.py freezes ("parametrizations"), and what holds inf (a mask): both are constant.
        statistics = {n: b for n, b in policy.named_buffers() if b.is_floating_point() and "parametrizations" not in n}
        statistics = {n: b for n, b in statistics.items() if b.isfinite().all()}
        self.names = [n for n, p in policy.named_parameters() if p.requires_grad] + list(statistics)
        self.tracked = [*self.parameters, *statistics.values()]
        self.average = [x.detach().clone() for x in self.tracked]
        # On the device, and read only when logging: reading at every step would synchronise the GPU.
        self.skipped_in_a_row = torch.zeros((), device=policy.device)

    def step(self, loss_function, batch: tuple, lr: float, decay: float) -> tuple[dict, torch.Tensor]:
        """Predict, loss, step, average. batch: what loss_function takes (fdp.py, `Policy.loss`).

        A loss or gradient that is not finite changes nothing: the step is skipped, and counted. Returns the mean of the
        errors and every extra term, by name, with "skipped" 0 or 1, and the norm of the gradient.
        """
        with machine.autocast(self.policy.device, self.precision):
            errors, terms = loss_function(*batch)
            losses = {"loss": errors.mean()} | {name: term for name, (_, term) in terms.items()}
            total = sum((coefficient * term for coefficient, term in terms.values()), start=losses["loss"])
        self.optimizer.zero_grad()
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.grad_clip)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        bad = ~(total.detach().isfinite() & norm.isfinite())
        losses = parallel.mean(losses | {"skipped": bad.float()})
        bad = losses.pop("skipped") > 0  # bad in one of several processes is bad in all
        self.optimizer.found_inf = bad.float()  # fused AdamW skips its step if this is 1; an `if` would synchronise
        self.optimizer.step()
        with torch.no_grad():  # or the average would carry the graph of every step so far with it
            share = (1 - decay) * ~bad  # average += share * (weights - average); 0 if the step was skipped
            torch._foreach_lerp_(self.average, self.tracked, [share.to(x.dtype) for x in self.tracked])
            self.skipped_in_a_row = (self.skipped_in_a_row + 1) * bad
            losses = {name: value.detach().masked_fill(bad, 0) for name, value in losses.items()}
        return losses | {"skipped": bad.float()}, norm

    def averaged_state(self) -> dict[str, torch.Tensor]:
        """The policy's state with the average in the place of what was learned."""
        state = self.policy.state_dict()
        return state | {name: x for name, x in zip(self.names, self.average, strict=True) if name in state}

    def check(self, step: int) -> None:
        """BadInput if training has diverged by this step, or a fork has replaced a tensor that is averaged. Called
        before a good checkpoint is overwritten."""
        if self.skipped_in_a_row >= MOST_SKIPPED:
            raise BadInput(f"no finite loss in {MOST_SKIPPED} steps up to step {step}: lower --lr (now {self.lr})")
        current = dict(self.policy.named_parameters()) | dict(self.policy.named_buffers())
        if other := [name for name, x in zip(self.names, self.tracked, strict=True) if current.get(name) is not x]:
            raise BadInput(f"the policy has replaced '{other[0]}' by a new tensor: change it in place, as with copy_")
        if not all(x.isfinite().all() for x in [*self.tracked, *self.average]):
            raise BadInput(f"the weights are not finite after step {step}: lower --lr (now {self.lr})")

    @torch.no_grad()
    def adopt_average(self) -> None:
        """Put the average in the place of what was learned."""
        torch._foreach_copy_(self.tracked, self.average)


# ---------------------------------------------------------------------------------------------- all of it


def main(config: TrainConfig) -> dict:
    """Train, then evaluate. Returns what the command's last line says: the run folder, success, seconds, paths."""
    check_training(config)
    tasks = through_cameras(config.observation, resolve_tasks(config.tasks), config.image_size, config.cameras)
    config.steps = config.steps or default_steps(len(tasks))
    parallel.begin(config.device, config.batch_size)  # under torchrun; from here on several processes do all of this
    device = machine.choose_device(config.device)
    config.device = str(device)  # a run begun on "auto" must not be resumed on something else

    # ---- The policy, before anything slow: its constructor refuses impossible shapes.
    settings = policy_settings(config, tasks)
    check_memory(settings, config.batch_size, device, count_weights(config.policy, settings))
    torch.manual_seed(config.seed)
    policy = runs.build_policy(config.policy, settings)
    # (Under torchrun `parallel.first` calls a function in one process, and all get its result.)
    config.precision = parallel.first(lambda: resume.precision(config, policy, device))
    folder, config.resume = parallel.first(lambda: resume.run_folder(config, policy))

    # ---- Data.
    begin = time.perf_counter()
    asked_for = (tasks, config.demos_per_task, Path(config.data_dir), config.dataset_id, config.demo_draw)
    demos = parallel.first(lambda: demonstrations(*asked_for, policy.config.observation))
    n = config.held_out
    windows = Windows(policy, tasks, {task: demos[task][n:] for task in tasks}, device)
    unseen = HeldOut(Windows(policy, tasks, {task: demos[task][:n] for task in tasks}, device) if n else None)
    del demos  # with pictures hundreds of megabytes
    data = resume.fingerprint(windows)
    policy.to(device)
    policy.encoder.fit(windows.observations)
    seconds = {"demonstrations": time.perf_counter() - begin}

    # ---- What learns. One step is tried before anything is replaced; a run that is resumed goes on where it stopped.
    learner = Learner(policy, config.lr, config.weight_decay, config.grad_clip, config.precision)
    loss_function = resume.try_once(policy, windows, config)  # policy.loss, compiled or shared if asked
    saved = {}
    if config.resume:
        saved = resume.restore(folder, learner, config.seed, data)
    else:
        folder = parallel.first(lambda: resume.begin(folder, config, policy))
    usage = Usage(windows)
    log = Log(folder if parallel.is_first() else None, device, **saved)
    parallel.first(lambda: say(
        f"{sum(p.numel() for p in learner.parameters):,} parameters, {config.components} components, "
        f"{len(windows.actions):,} windows of {len(tasks)} tasks, on {device}; run folder {folder}"
    ))  # fmt: skip

    # ---- The loop.
    save = partial(resume.save, folder, learner, log, data)
    bar = progress(range(log.start, config.steps), initial=log.start, total=config.steps, unit="step", desc="training",
                   disable=not parallel.is_first())  # fmt: skip
    for step in interrupt.steps(bar, partial(save, interrupted=True), parallel.agree):  # Ctrl-C: saves after the step
        observation, task, actions = windows.sample(config.batch_size)
        batch = (observation, task, actions, *draw_noise(policy, actions))  # with a diffusion step for each, and noise
        policy.progress = step / config.steps
        rate = learning_rate(config, step)
        losses, norm = learner.step(loss_function, batch, rate, average_decay(step))
        log.add(losses)
        last = step == config.steps - 1
        if (step + 1) % config.log_every == 0 or last:
            learner.check(step + 1)
            line = log.write(step + 1, lr=rate, grad_norm=norm.item(), **usage(policy), **unseen(policy))
            bar.set_postfix({x: f"{line[x]:.4g}" for x in ("loss", "skipped") if x in line}, refresh=False)
        if (step + 1) % config.save_every == 0 or last:
            save(step + 1)
    # Killed between the last checkpoint's files. One process answers for all: another may look when it has been saved.
    if log.start == config.steps and parallel.first(lambda: resume.behind(folder, config.steps)):
        save(config.steps)
    log.close()
    seconds["training"] = log.seconds
    parallel.finish()  # of several processes the first is left
    interrupt.done(f"{folder} is trained, and saved; play it with: {reports.evaluation_command(folder, tasks)}")

    # ---- From here on the policy is what anybody loads from the run folder: the averaged weights.
    policy = runs.load_policy(folder, device)
    written = [folder / name for name in ("config.json", "model.safetensors", "log.jsonl")]
    written += figures.training(read_log(folder / "log.jsonl"), folder / "figures")
    target = getattr(policy, "predicts", policy.config.target)  # a fork's own
    path = folder / "figures" / "loss-by-step.png"
    written.append(figures.loss_by_step(loss_by_step(policy, windows), target, path))
    summary = {"run": str(folder)}
    if config.eval_episodes:
        begin = time.perf_counter()
        result, traces = evaluate.evaluate(policy, tasks, config.eval_episodes)
        seconds["evaluation"] = time.perf_counter() - begin
        result.update(provenance(0, str(device)), training=runs.training_record(folder))
        written += reports.write_evaluation(folder / "evaluation.json", policy, result, traces)
        summary |= {"mean_success": result["mean_success"], **reports.lost(result)}
    say("seconds: " + ", ".join(f"{name} {value:.0f}" for name, value in seconds.items()))
    seconds = {name: round(value, 1) for name, value in seconds.items()}
    return {**summary, "seconds": seconds, "wrote": [str(path) for path in written]}


def policy_settings(config: TrainConfig, tasks: list[str]) -> dict:
    """The flags and the environment -> the fields of a PolicyConfig, a fork's own among them."""
    spaces = common_spaces(tasks)
    tell_differences(tasks)
    parts = parts_seen(config.cameras, spaces.observation) if config.observation == "pixels" else spaces.observation
    check_goals(tasks, parts)
    extra = {field.name: getattr(config, field.name) for field in runs.own_fields(config.policy)}
    extra |= runs.changed_defaults(config.policy, SIZES[config.size])  # a fork of one size
    return {
        "observation": parts, "action_low": spaces.action_low, "action_high": spaces.action_high,
        "differences": spaces.differences, "tasks": tasks, "components": config.components, "router": config.router,
        "target": config.target, "task_conditioning": config.task_conditioning, "horizon": config.horizon,
        "executed": config.executed, **SIZES[config.size], **extra,
    }  # fmt: skip


if __name__ == "__main__":
    run(lambda: parallel.together(lambda: main(runs.parse_with_own_fields(TrainConfig))))
