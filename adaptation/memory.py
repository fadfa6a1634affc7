"""What --retain replay keeps: a few observations of every task, and what the old router answered there.

    replay.safetensors      "task/part" -> (R, *shape)

The new router must not change what old tasks do. Weights that are nearly equal do not guarantee that: where a component
was never trained it may predict fifteen times too much, and then a weight of 0.02 instead of 0 is a wrong action. So
composed predictions are compared. Composition is linear in the weights, so the change of the prediction is the
composition with the change of the weights. (With the weights themselves compared, ten tasks in turn ended at 0.77 and
forgot 17 points: LOG.md, 2026-11-30.)

Axis legend: K components, R remembered observations, REPLAYED of each task, N observations in a task's demonstrations,
H action horizon, A action dim
"""

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import sampler
from adaptation import stages
from encoder import join, rows
from envs.demos import demonstrations, make_windows, recorded
from plumbing import formats, runs, tensors
from plumbing.cli import BadInput
from train import draw_noise

REPLAYED = 64  # of 39 numbers each: 10 kB; with two pictures of 64 x 64 each: 1.6 MB
REREAD = 5  # demonstrations of a task they are picked from: all its pictures would be read for 64 of them


class Memory:
    """A few observations of every task that a run knows, and what its router answered there (--retain replay): read
    from the run, or, where it keeps none yet, taken from the demonstrations of its tasks."""

    def __init__(self, folder: Path, policy, data_dir: Path):
        shapes, tasks = policy.config.observation, policy.config.tasks
        self.kept = read_memory(folder, {part: (REPLAYED, *shape) for part, shape in shapes.items()})
        source = runs.read_config(folder)
        came_from, most = stages.datasets(source), min(REREAD, source["train"]["demos_per_task"])
        for task in [task for task in tasks if not any(name.startswith(f"{task}/") for name in self.kept)]:
            few = min(most, recorded(task, came_from[task], data_dir) or most)  # an earlier stage may have had fewer
            demos = demonstrations([task], few, data_dir, came_from[task], parts=shapes)[task]
            self.add(task, make_windows(demos, 1)[0])
        self.old = join([{part: self.kept[f"{task}/{part}"].to(policy.device) for part in shapes} for task in tasks])
        self.index = policy.task_index([task for task in tasks for _ in range(REPLAYED)]).to(policy.device)
        with torch.no_grad():
            condition = policy.encode(self.old, self.index)
            self.weights = policy.weigh(condition)  # (R, K)
            noise = torch.randn(len(condition), policy.config.horizon, policy.config.action_dim, device=policy.device)
            self.clean = policy.sample(condition, noise, *policy.choose_sampler())[0]  # what it does there, (R, H, A)
        self.check(policy, noise, condition)

    def check(self, policy, noise: Tensor, condition: Tensor) -> None:
        """BadInput for a fork whose composition is another than `drift` takes it for: the change of a prediction would
        not be the composition with the change of the weights. noise (R, H, A), condition (R, C)."""
        step = torch.zeros(len(noise), dtype=torch.long, device=noise.device)
        one, two = self.weights, torch.full_like(self.weights, 1 / self.weights.shape[1])
        with torch.no_grad():
            sums = [policy.compose(noise, step, condition, w) for w in (one - two, one, two)]
        if not torch.allclose(sums[0], sums[1] - sums[2], atol=1e-3):
            raise BadInput(
                "--retain replay needs a composition that is linear in the weights, and this policy's is not"
            )

    def add(self, task: str, observation: dict[str, Tensor]) -> None:
        """Keep REPLAYED of these {part: (N, *shape)}, spread evenly."""
        chosen = rows(observation, np.linspace(0, len(next(iter(observation.values()))) - 1, REPLAYED).astype(int))
        self.kept |= {f"{task}/{part}": x.clone() for part, x in chosen.items()}

    def save(self, folder: Path, new: dict[str, dict[str, Tensor]]) -> None:
        """Into a run's folder, with some of what new tasks look like: task -> {part: (N, *shape)}."""
        for task, observation in new.items():
            self.add(task, observation)
        tensors.save(folder / "replay.safetensors", self.kept)

    def drift(self, grown) -> Tensor:
        """How far the grown policy's prediction is from what it was there, squared, at a random step of REPLAYED of
        them. The old components stay; those added since should have no weight there, or nothing to say."""
        some = torch.randint(0, len(self.index), (REPLAYED,), device=self.index.device)
        training, progress = grown.training, grown.progress
        grown.training, grown.progress = False, 1.0  # as they were asked: no picture is moved
        condition = grown.encode(rows(self.old, some), self.index[some])
        now = grown.weigh(condition)
        grown.training, grown.progress = training, progress
        wanted = torch.nn.functional.pad(self.weights[some], (0, now.shape[1] - self.weights.shape[1]))
        step, noise = draw_noise(grown, self.clean[some])
        noisy = sampler.add_noise(self.clean[some], noise, grown.alpha_bar_32[step])  # (flow.py trains on less noise)
        return grown.compose(noisy, step, condition, now - wanted).float().square().mean()


def read_memory(folder: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """A run's replay.safetensors, "task/part" -> (R, *shape); empty where it has none. BadInput for a damaged one."""
    path = folder / "replay.safetensors"
    try:
        kept = formats.upgrade_memory(tensors.load(path)[0]) if os.path.lexists(path) else {}
        wrong = [name for name, x in kept.items() if tuple(x.shape) != shapes[name.rpartition("/")[2]]]
        wrong += [name for name, x in kept.items() if x.dtype not in (torch.float32, torch.uint8)]
        tasks = dict.fromkeys(name.rpartition("/")[0] for name in kept)
        wrong += [name for task in tasks for part in shapes if (name := f"{task}/{part}") not in kept]
    except BadInput:
        raise
    except Exception as error:  # with other parts
        raise BadInput(f"{path} is damaged: {error}") from error
    if wrong:
        raise BadInput(f"{path} is damaged: {wrong[0]} is missing, or of another shape than this policy's observations")
    return kept
