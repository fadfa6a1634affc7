"""What a run says while it trains: log.jsonl, and how the router is used."""

import json
import math
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from encoder import rows
from plumbing import files
from plumbing.cli import say
from router import entropy

MOST_TERMS = 1000  # in a line of the log: a stranger's could draw for hours
LARGEST = 1e39  # more than a float32 holds; near 1e308 a picture's axes overflow


class Log:
    """Means of the losses since the last line, one line of log.jsonl each time.

    Args:
        folder: the run folder; None writes nothing.
        start: the step that training begins at; lines past it, which a crash left behind, will be made again.
        seconds: of training before that.
        sums, count: of the losses since the last line, where the run was interrupted.
    """

    def __init__(self, folder: Path | None, device: torch.device, start=0, seconds=0.0, sums=None, count=0):
        self.file, kept = None, []
        if folder:
            path = folder / "log.jsonl"
            kept = [line for line in read_log(path) if line["step"] <= start] if path.exists() else []
            files.write(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
            self.file = path.open("a")
        self.device, self.before, self.begin = device, seconds, time.perf_counter()
        self.start, self.count = start, count
        # On the device: reading a number would make the GPU wait at every step.
        self.sums: dict[str, torch.Tensor] = sums or {}
        self.skipped = sum(line.get("skipped", 0) for line in kept)

    @property
    def seconds(self) -> float:
        """Of training, over all commands that worked on this run."""
        return self.before + time.perf_counter() - self.begin

    def add(self, losses: dict[str, torch.Tensor]) -> None:
        """The losses of one step, all 0 where it was skipped."""
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, torch.zeros((), device=self.device)) + value
        self.count += 1

    def write(self, step: int, **more) -> dict:
        """One line: the means since the last one over the steps that counted, and whatever else there is to say. Where
        no step has counted the line waits for the next."""
        skipped = int(self.sums["skipped"].item())
        counted = self.count - skipped
        if not counted:
            return {"loss": math.nan}
        means = {name: value.item() / counted for name, value in self.sums.items() if name != "skipped"}
        more |= {"skipped": skipped} if skipped else {}
        self.skipped += skipped
        line = {"step": step, **means, **more, "seconds": round(self.seconds, 2)}
        odd = [name for name, x in more.items() if isinstance(x, float) and not math.isfinite(x)]  # no JSON: grad_norm
        line = {name: x for name, x in line.items() if name not in odd}
        if self.file:
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()
        self.sums, self.count = {}, 0
        return line

    def close(self) -> None:
        if self.skipped and self.file:
            say(f"warning: {self.skipped} steps were skipped: their loss or gradient was not finite (log.jsonl: when)")
        if self.file:
            self.file.close()


class Usage:
    """How much weight each component gets, task by task, on a few observations that stay the same during training.

    A component that dies, or a router that stays at 1/K, shows here long before it shows in the loss.
    """

    def __init__(self, windows, each: int = 32):
        """windows: of train.py. `each` of every task are looked at, by `of_task`: the policy itself may get no task."""
        self.tasks, picks = windows.tasks, []
        for number in range(len(windows.tasks)):
            mine = (windows.of_task == number).nonzero()[:, 0]
            picks.append(mine[torch.linspace(0, len(mine) - 1, each).long().to(mine.device)])
        index = torch.cat(picks)
        self.observations, self.task_ids, _ = windows.select(index)
        self.each = each

    @torch.no_grad()
    def __call__(self, policy) -> dict:
        """-> {"router": {task: {"usage": mean weights (K), "entropy": their mean, in nats}}}, for the log."""
        if not hasattr(policy, "router"):
            return {}
        with at_rest(policy):
            weights = policy.weigh(policy.encode(self.observations, self.task_ids)).float()
        weights = weights.view(len(self.tasks), self.each, -1)
        usage, uncertain = weights.mean(1).cpu(), usage_entropy(weights).mean(1).cpu()
        return {"router": {
            task: {"usage": [round(w, 4) for w in usage[i].tolist()], "entropy": round(uncertain[i].item(), 4)}
            for i, task in enumerate(self.tasks)
        }}  # fmt: skip


@contextmanager
def at_rest(policy):
    """In eval mode for a look: no dropout, no drawing of components, and so nothing drawn that training would draw."""
    modes = {module: module.training for module in policy.modules()}
    policy.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


class HeldOut:
    """The loss on demonstrations that training does not see, which tells learning from memorising: where it rises while
    the loss in training falls, more steps only memorise. (It does not tell how well a policy acts: episodes do.)

    windows: of train.py, of these demonstrations; None: there are none, and nothing is said. Of them some, spread
    evenly, with the same diffusion steps and noise each time, or the chance of the draw would hide what changes.
    """

    def __init__(self, windows, samples: int = 512):
        self.windows, self.samples = windows, samples

    def __call__(self, policy) -> dict:
        """-> {"held_out": mean error of the weights as they are, not of their average}, for the log."""
        if not self.windows:
            return {}
        batch = spread(self.windows, self.samples)
        own = torch.Generator().manual_seed(0)  # not the one that training draws from
        step = torch.randint(0, policy.config.diffusion_steps, (self.samples,), generator=own)
        noise = torch.randn(batch[-1].shape, generator=own)
        with at_rest(policy):
            errors = errors_on(policy, batch, step.to(policy.device), noise.to(policy.device))
        return {"held_out": errors.mean().item()}


def spread(windows, samples: int) -> tuple:
    """So many windows (observation, task, actions), evenly from first to last, some twice where there are fewer."""
    return windows.select(torch.from_numpy(np.linspace(0, len(windows.actions) - 1, samples).astype(int)))


def errors_on(policy, batch: tuple, step: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """A policy's errors (B,) on windows (observation, task, actions), not all at once: a loss may take gradients."""
    seen, task, actions = batch
    errors = []
    for i in torch.arange(len(actions), device=policy.device).split(128):
        errors.append(policy.loss(rows(seen, i), task[i], actions[i], step[i], noise[i])[0].detach())
    return torch.cat(errors)


def loss_by_step(policy, windows, samples: int = 128, points: int = 25) -> dict[int, float]:
    """Diffusion step t -> training error there, at `points` steps from 0 to T-1, on windows spread evenly over the
    data."""
    batch = spread(windows, samples)
    steps = np.unique(np.linspace(0, policy.config.diffusion_steps - 1, points).round().astype(int)).tolist()
    return {
        t: errors_on(policy, batch, torch.full_like(batch[1], t), torch.randn_like(batch[2])).mean().item()
        for t in steps
    }


def usage_entropy(weights: torch.Tensor) -> torch.Tensor:
    """Of weights (..., K) -> (...), in nats: ln K where all are equal, 0 where one has everything. Weights that may be
    negative (router modes affine and raw) count by their size."""
    share = weights.abs() / weights.abs().sum(-1, keepdim=True).clamp(min=1e-12)
    return entropy(share)


def read_log(path: Path) -> list[dict]:
    """The lines of log.jsonl but those that a crash cut short or that are damaged; steps after the checkpoint are made
    again. BadInput if it is no file."""
    lines, shape = [], None
    for text in files.read_text(path).splitlines():
        try:
            line = json.loads(text)
            now = _router_shape(line)
        except (ValueError, ArithmeticError, RecursionError, TypeError, KeyError, AttributeError):
            continue
        if now is not None and now != (shape := shape or now):
            continue
        lines.append(line)
    return lines


def _router_shape(line: dict) -> dict[str, int] | None:
    """task -> K of a line of ours, None where no router is in it. An exception for what is no line of ours."""
    names = {"step", "loss", "lr", "seconds", *line} - {"router"}
    if len(names) > MOST_TERMS:
        raise ValueError("too many terms")
    for name in names:
        if type(line[name]) not in (int, float) or len(name) > 100:
            raise TypeError(name)
        if LARGEST < abs(float(line[name])) < math.inf:  # OverflowError for a whole number beyond all floats
            raise ValueError("no number of a training")
    if "router" not in line:
        return None
    if not line["router"]:
        raise ValueError("no task")
    for of_task in line["router"].values():
        if not sum(map(abs, of_task["usage"]), abs(of_task["entropy"])) < LARGEST:  # TypeError: no numbers
            raise ValueError("not finite")
        if not of_task["usage"]:
            raise ValueError("no component")
    return {task: len(of_task["usage"]) for task, of_task in line["router"].items()}
