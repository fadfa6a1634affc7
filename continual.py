"""What was learned and what was forgotten: the success matrix of a sequence of tasks, and its summary.

    success[stage][task]: after the stage, on unseen episodes; a task's column begins with the stage that learned it

Everything is measured by the one `evaluate()`; here results are only found again, and averaged.
"""

import json
from pathlib import Path

import numpy as np

import checkpoint
import evaluate
from cli import provenance
from envs.rollout import FIRST_EVALUATION_SEED


def evaluated(run: Path, path: Path, episodes: int, device) -> dict:
    """A run's evaluation on the first episodes of block 0: read where it was made before, made into `path` otherwise.

    (Never into the run that we start from.)
    """
    block = [FIRST_EVALUATION_SEED, FIRST_EVALUATION_SEED + episodes - 1]
    policy = checkpoint.load_policy(run, device)
    for result in (json.loads(p.read_text()) for p in (run / "evaluation.json", path) if p.exists()):
        same_tasks = list(result["tasks"]) == policy.config.tasks
        if same_tasks and result["sampler"] == "dpm" and all(r["seeds"] == block for r in result["tasks"].values()):
            return result
    result, traces = evaluate.evaluate(policy, policy.config.tasks, episodes)
    result.update(provenance(0, str(device)), training=checkpoint.training_record(run))
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
    2018, arXiv 1801.10112, section 3). forward transfer: success just before a task is learned, when its name still
    stands at the mean of the known names, minus that of an untrained policy, which is 0 (Lopez-Paz & Ranzato).
    """

    def mean(values) -> float | None:
        values = list(values)
        return float(np.mean(values)) if values else None

    last = success[-1]
    seen = {task: [row[task] for row in success if task in row] for task in last}
    old = {task: rates for task, rates in seen.items() if len(rates) > 1}
    return {
        "average_success": mean(last.values()),
        "backward_transfer": mean(rates[-1] - rates[0] for rates in old.values()),
        "forgetting": mean(max(rates[:-1]) - rates[-1] for rates in old.values()),
        "forward_transfer": mean(s for stage in stages for s in stage.get("success_before_learning", {}).values()),
    }
