"""What is kept of old tasks, and what was forgotten: a small memory, the success matrix of a sequence, its summary.

    success[stage][task]: after the stage, on unseen episodes; a task's column begins with the stage that learned it

Everything is measured by the one `evaluate()`; here results are only found again, and averaged.
"""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

import checkpoint
import evaluate
from cli import BadInput, provenance
from envs.demos import DATASET_ID, demonstrations, make_windows
from envs.rollout import FIRST_EVALUATION_SEED
from grow import grow
from sampler import resolve_steps

REPLAYED = 64  # observations kept per task, of 39 numbers: 10 kB


class Memory:
    """A few observations of every task that a run knows, and what its router answered there (--retain replay).

    They are read from the run, or, where it keeps none yet, taken from the demonstrations of its tasks.
    """

    def __init__(self, run: Path, policy, data_dir: Path):
        path, device = run / "replay.safetensors", policy.alpha_bar_32.device
        self.observations = {}
        if path.exists():
            try:
                self.observations = safetensors.torch.load_file(path)
                torch.stack([o.reshape(REPLAYED, policy.config.observation_dim) for o in self.observations.values()])
            except Exception as error:  # truncated, or with other shapes
                raise BadInput(f"{path} is damaged: {error}") from error
        if missing := [task for task in policy.config.tasks if task not in self.observations]:
            came_from = datasets(checkpoint.read_config(run))
            for task in missing:
                episodes = demonstrations([task], 5, data_dir, came_from[task])[task]
                self.add(task, make_windows(episodes, 1)[0])
        self.old = torch.cat([self.observations[task] for task in policy.config.tasks]).to(device)
        self.index = policy.task_index([task for task in policy.config.tasks for _ in range(REPLAYED)]).to(device)
        with torch.no_grad():
            self.weights = policy.weigh(policy.encode(self.old, self.index))  # (R, K)

    def add(self, task: str, observations: torch.Tensor) -> None:
        """Keep REPLAYED of these (N, O), spread evenly."""
        self.observations[task] = observations[np.linspace(0, len(observations) - 1, REPLAYED).astype(int)].clone()

    def drift(self, grown) -> torch.Tensor:
        """How far the grown router is from the old one there: squared error, components added since should have 0."""
        now = grown.weigh(grown.encode(self.old, self.index))
        wanted = torch.nn.functional.pad(self.weights, (0, now.shape[1] - self.weights.shape[1]))
        return (now - wanted).square().sum(1).mean()

    def save(self, run: Path, new: dict[str, torch.Tensor]) -> None:
        """With the tasks learned meanwhile: task -> observations (N, O)."""
        for task, observations in new.items():
            self.add(task, observations)
        safetensors.torch.save_file(self.observations, run / "replay.safetensors")


def datasets(config: dict) -> dict[str, str]:
    """Where the demonstrations of each task that a run knows came from: task -> Minari id with {task}."""
    tasks = config["policy_config"]["tasks"]
    return config.get("datasets") or dict.fromkeys(tasks, config["train"].get("dataset_id", DATASET_ID))


def before_learning(variant: str, policy, tasks: list[str], episodes: int, seed: int = 0) -> dict[str, dict]:
    """What forward transfer compares: new tasks' success with a policy that knows their names only, and untrained.

    The name stands at the mean of the known names. The untrained policy sees through the same normaliser.
    """
    device = policy.alpha_bar_32.device
    variant, known = grow(variant, policy, tasks, 0, [], variant == "staged")
    untrained = checkpoint.build_policy(variant, asdict(known.config))
    untrained.normalizer.load_state_dict(policy.normalizer.state_dict())
    measured = {}
    for name, candidate in (("success_before_learning", known), ("success_untrained", untrained)):
        result, _ = evaluate.evaluate(candidate.to(device).eval(), tasks, episodes, seed)
        measured[name] = {task: result["tasks"][task]["success"] for task in tasks}
    return measured


def evaluated(run: Path, path: Path, episodes: int, seed: int, device) -> dict:
    """A run's evaluation on the first episodes of a block: read where it was made before, made into `path` otherwise.

    (Never into the run that we start from.)
    """
    first = FIRST_EVALUATION_SEED + 10_000 * seed
    block = [first, first + episodes - 1]
    policy = checkpoint.load_policy(run, device)
    how = {"sampler": "dpm", "sampling_steps": resolve_steps("dpm", None, policy.config.diffusion_steps)}
    how["training"] = checkpoint.training_record(run)  # of these weights, not of an earlier checkpoint
    for made in (run / "evaluation.json", path):
        try:
            result = json.loads(made.read_text())
            same = list(result["tasks"]) == policy.config.tasks and all(result[key] == how[key] for key in how)
            if same and all(r["seeds"] == block and r["n"] == episodes for r in result["tasks"].values()):
                return result
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or damaged: it is made again
            continue
    result, traces = evaluate.evaluate(policy, policy.config.tasks, episodes, seed)
    result.update(provenance(seed, str(device)), training=how["training"])
    path.parent.mkdir(parents=True, exist_ok=True)
    evaluate.write_evaluation(path, policy, result, traces, video=False)
    return result


def size(run: Path) -> int:
    """Bytes that acting, and adapting further, need."""
    paths = (run / name for name in ("model.safetensors", "replay.safetensors"))
    return sum(path.stat().st_size for path in paths if path.exists())


def metrics(success: list[dict[str, float]], stages: list[dict]) -> dict:
    """Continual-learning metrics of success[stage][task], a task's row beginning with the stage that learned it.

    average success: over all tasks, after the last stage. backward transfer: success at the end minus success right
    after learning, over the tasks learned before the last stage (Lopez-Paz & Ranzato 2017, arXiv 1706.08840, section
    2). forgetting: the best success before the last stage minus that at the end, over the same tasks (Chaudhry et al.
    2018, arXiv 1801.10112, section 3). forward transfer: success just before a task is learned minus that of an
    untrained policy (Lopez-Paz & Ranzato); see `before_learning`.
    """

    def mean(values) -> float | None:
        values = list(values)
        return float(np.mean(values)) if values else None

    # A task whose episodes were all lost has no success at that stage.
    last = {task: rate for task, rate in success[-1].items() if rate is not None}
    seen = {task: [row[task] for row in success if row.get(task) is not None] for task in last}
    transfer = [
        rate - stage["success_untrained"][task]
        for stage in stages
        for task, rate in stage.get("success_before_learning", {}).items()
        if None not in (rate, stage["success_untrained"][task])
    ]
    old = {task: rates for task, rates in seen.items() if len(rates) > 1}
    return {
        "average_success": mean(last.values()),
        "backward_transfer": mean(rates[-1] - rates[0] for rates in old.values()),
        "forgetting": mean(max(rates[:-1]) - rates[-1] for rates in old.values()),
        "forward_transfer": mean(transfer),
    }
