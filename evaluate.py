"""The only evaluation: play episodes nobody trained on, count successes, put the scripted expert beside them.

    python evaluate.py --run runs/reach-push-fdp --episodes 50 --sampler dpm --sampling-steps 5 --video

Success: the environment's success flag at any step of the episode, which then ends; failure: an episode without it
(500 steps in MetaWorld). Episode i of every task has seed 1_000_000 + 10_000 * --seed + i: the same episodes for every
policy, and never one of a demonstration. No checkpoint is chosen: weights are the last running average (train.py).
Exit code 0: all were played; 2: input that is refused; 3: episodes were lost, and the success is that of the others.
"""

import plumbing.interrupt  # noqa: F401  isort: skip  (first: Ctrl-C while PyTorch loads is one line, no traceback)
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from envs.experts import forget_records, play_experts
from envs.pixels import as_policy_sees, check_shift
from envs.rollout import Roller, block_seeds
from envs.tasks import own_random, resolve_tasks, spaces
from envs.worker import Episode
from plumbing import doctor, figures, reports
from plumbing.cli import BadInput, check_output, parse, progress, provenance, run, say
from plumbing.folders import check_inner
from plumbing.limits import check_evaluation
from plumbing.machine import choose_device, one_thread
from plumbing.reports import wilson_interval
from plumbing.runs import load_policy, training_record


@dataclass
class EvaluateConfig:
    """Play a trained policy on episodes it has never seen, next to the scripted expert."""

    run: str = ""  # the run folder, such as runs/reach-push-fdp
    tasks: str = ""  # tasks or groups; default: all that the run was trained on
    episodes: int = 50  # per task. The 95 % interval is at most 27 points wide at 50, 14 at 200
    sampler: str = ""  # ddpm (all diffusion steps) | ddim | dpm (DPM-Solver++ 2M); default: the policy's own, dpm
    sampling_steps: int | None = None  # network calls per action chunk; default 5, for ddpm all of them
    executed: int | None = None  # actions executed per chunk, 1 to H; default: the policy's own, often 4
    seed: int = 0  # which block of 10,000 evaluation episodes
    even: bool = False  # replace the router's weights by their mean (1/K, but if raw): does success depend on them?
    shift: str = ""  # with cameras, what to change: camera | light | table | object | corner-off | wrist-off
    video: bool = False  # also render, of each task, the first episode and the first that failed
    out: str = ""  # the JSON; default: evaluation.json (-even, ...) in the run folder, -2 to keep a larger result
    device: str = "auto"  # auto | cpu | cuda
    check: bool = False  # no evaluation: look at this installation for some seconds, and say what to mend


def starting_noise(policy, episodes: list[Episode], chunks: list[int]) -> torch.Tensor:
    """(B, H, A), from each episode's seed and chunk number: with a deterministic sampler an episode does not depend on
    which others share its batch, up to the rounding of matrix products.
    """
    shape = (policy.config.horizon, policy.config.action_dim)
    sources = [own_random(e.task, e.seed, chunk) for e, chunk in zip(episodes, chunks, strict=True)]
    return torch.tensor(np.stack([source.standard_normal(shape) for source in sources]), dtype=torch.float32)


def evaluate(policy, tasks, episodes=50, seed=0, sampler="", steps=None, video=False, workers=None, roller=None,
             every=False, shift=""):  # fmt: skip
    """Play `episodes` per task. -> (result for evaluation.json, first episode of each task with its router weights;
    with video also the first that failed).

    Every number that this project reports comes from here. tasks: names; seed: the block of episodes (`block_seeds`);
    sampler, steps: as `Policy.choose_sampler` takes them; workers: processes; roller: simulators that another
    evaluation used before (starting new ones takes seconds); every: return all episodes with their weights, not only
    the first ones; shift: what looks otherwise than in training, of envs/pixels.py.
    Raises BadInput for tasks that the policy does not know, for impossible numbers of episodes or steps, and where a
    policy or the scripted expert is so broken that its failures would say nothing.
    """
    sampler, steps = check_evaluation(policy, tasks, episodes, seed, sampler, steps)
    seeds = block_seeds(seed, episodes)
    # All tasks at the same time, not one after the other: simulators are used again instead of built again, and the
    # tasks that take long do not all end last.
    filmed = {t for t in tasks if video and spaces(t).filmable}
    todo = [Episode(t, s, render_every=4 * (t in filmed and s == seeds[0]), shift=shift) for s in seeds for t in tasks]
    generator = torch.Generator(device=policy.device).manual_seed(seed)  # used by stochastic samplers only
    weights: dict[tuple[str, int], list[np.ndarray]] = {}
    policy_seconds, started = 0.0, time.perf_counter()

    def act(observations: dict[str, np.ndarray], playing: list[Episode], chunks: list[int]) -> np.ndarray:
        nonlocal policy_seconds
        begin = time.perf_counter()
        noise = starting_noise(policy, playing, chunks)
        actions, w = policy.act(observations, [e.task for e in playing], sampler, steps, noise, generator)
        policy_seconds += time.perf_counter() - begin
        if not np.isfinite(actions).all():  # else MuJoCo would reset itself, and all would count as failures
            raise BadInput(f"the policy's actions are not finite, at {playing[0].task} or an episode beside it")
        for episode, row, chunk in zip(playing, w, chunks, strict=True):
            if chunk == 0:  # also of an episode that is played again
                weights[episode.task, episode.seed] = []
            weights[episode.task, episode.seed].append(row)
        return actions[:, : policy.config.executed]

    def on_done(episode: Episode) -> None:  # thousands of episodes must fit into memory
        bar.update()
        if not episode.lost:
            weights[episode.task, episode.seed] = np.stack(weights[episode.task, episode.seed])
        if episode.seed != seeds[0] and not every:
            forget_records(episode)

    count = len(todo) + sum(spaces(e.task).expert for e in todo)
    simulators = nullcontext(roller) if roller else Roller(workers)
    with one_thread(), simulators as roller, progress(total=count, unit="episode", desc="evaluation") as bar:
        experts = play_experts(roller, todo, bar)  # first: an expert that always fails ends the evaluation
        with policy.register_forward_hook(_refuse_infinite):
            played = roller.play(act, todo, on_done=on_done)
            per_task = {}
            for task in tasks:
                own = [e for e in played if e.task == task]
                expert = [e for e in experts if e.task == task]
                per_task[task] = summary(own, expert, [weights[task, e.seed] for e in own if not e.lost])
                per_task[task]["seeds"] = [seeds[0], seeds[-1]]
            # To film a failure takes a second play. (In another batch a rounding may let it succeed: then none.)
            first = [(t, seed) for t in filmed for seed in per_task[t]["failed_seeds"][:1] if seed != seeds[0]]
            again = roller.play(act, [Episode(t, seed, render_every=4, shift=shift) for t, seed in first])

    how = {"sampler": sampler, "sampling_steps": steps, "executed": policy.config.executed}
    result = {"tasks": per_task, "mean_success": mean_success({"tasks": per_task}), **how}
    result["latency_ms_batch_1"] = latency(policy, tasks[0], sampler, steps)
    result["policy_seconds"] = round(policy_seconds, 2)
    result["seconds"] = round(time.perf_counter() - started, 2)
    kept = [e for e in played if (every or e.seed == seeds[0])] + [e for e in again if not e.success]
    return result, [(e, np.stack(weights[e.task, e.seed])) for e in kept if not e.lost]


def _refuse_infinite(_module, _inputs, prediction) -> None:
    """Samplers clip to [-1, 1]: an infinite prediction would become a finite action."""
    if not torch.isfinite(prediction).all():
        raise BadInput("the policy's predictions are not finite: its training has diverged")


def summary(own: list[Episode], experts: list[Episode], weights: list[np.ndarray]) -> dict:
    """One task's entry in evaluation.json (docs/metrics.md has the fields), from the policy's and the expert's episodes
    and the weights (chunks, K) of each that was played to its end."""
    w = np.array([row for episode in weights for row in episode], dtype=np.float64)
    steps = sorted(e.steps for e in own if e.success and not e.lost)
    return {
        **_count(own),
        "expert": _count(experts),
        "mean_steps_to_success": float(np.mean(steps)) if steps else None,
        "steps_to_success": steps,  # for readers who give fewer than 500
        "failed_seeds": [e.seed for e in own if not e.success and not e.lost],
        "router_weights": {"mean": w.mean(0).round(4).tolist(), "std": w.std(0).round(4).tolist()} if len(w) else None,
    }


def _count(episodes: list[Episode]) -> dict:
    """Successes among the episodes that were played to their end; the lost ones are named, and count as nothing."""
    ended = [e for e in episodes if not e.lost]
    successes = sum(e.success for e in ended)
    return {
        "n": len(ended),
        "successes": successes,
        "success": successes / len(ended) if ended else None,
        "interval": wilson_interval(successes, len(ended)),
        "lost": {str(e.seed): e.lost for e in episodes if e.lost},
        "unstable": sum(e.unstable for e in ended),  # docs/metrics.md
        "simulation_seconds": round(sum(e.seconds for e in episodes), 2),
    }


def mean_success(result: dict) -> float | None:
    """Over the tasks that were played at all."""
    rates = [r["success"] for r in result["tasks"].values() if r["n"]]
    return float(np.mean(rates)) if rates else None


def latency(policy, task: str, sampler: str, steps: int) -> float:
    """Median milliseconds for one action chunk of one robot, after warm-up."""
    observation = {name: np.zeros((1, *shape)) for name, shape in policy.config.observation.items()}
    times = []
    for _ in range(12):
        begin = time.perf_counter()
        policy.act(observation, [task], sampler, steps)
        times.append(time.perf_counter() - begin)
    return round(1000 * float(np.median(times[2:])), 3)


def even(weigh):
    """A policy's `weigh`, each row's K weights replaced by their mean."""

    def weigh_evenly(condition, step=None):
        weights = weigh(condition, step)
        return weights.mean(-1, keepdim=True).expand_as(weights)

    return weigh_evenly


def main(config: EvaluateConfig) -> dict:
    """Evaluate a run. Returns what the command's last line says: mean success, seconds, and the paths written."""
    device = choose_device(config.device)
    if config.check:
        return doctor.check(device)
    if not config.run:
        raise BadInput("--run: name a run folder, or look at this installation with --check")
    folder = Path(config.run)
    policy = load_policy(folder, device)
    known = policy.config.tasks
    tasks = as_policy_sees(known, resolve_tasks(config.tasks)) if config.tasks else known
    check_evaluation(policy, tasks, config.episodes, config.seed, config.sampler, config.sampling_steps)
    if config.executed is not None:
        if not 1 <= config.executed <= policy.config.horizon:
            raise BadInput(f"--executed must be between 1 and {policy.config.horizon}, got {config.executed}")
        policy.config.executed = config.executed
    source = {**provenance(config.seed, str(device)), "training": training_record(folder, policy)}
    check_shift(config.shift, tasks, policy.config.observation)
    other = "-even" * config.even + f"-{config.shift}" * bool(config.shift)
    other += f"-executed-{config.executed}" * (config.executed is not None)
    path = Path(config.out) if config.out else folder / f"evaluation{other}.json"
    check_output(path, "mean_success")
    check_inner(path.parent, ("figures", "videos"))
    if config.video and (blind := [task for task in tasks if not spaces(task).filmable]):
        say(f"no video of {', '.join(blind)}: without 'rgb_array' among its render modes")
    video = config.video and figures.find_opengl()
    if config.even and policy.variant == "staged":
        raise BadInput("--even is for policies with one router; each stage of this one has its own")
    if config.even:
        policy.weigh = even(policy.weigh)
    how = (config.sampler, config.sampling_steps, video)
    result, traces = evaluate(policy, tasks, config.episodes, config.seed, *how, shift=config.shift)
    result.update(source, even=config.even, shift=config.shift)
    was, now = source["training"], training_record(folder)
    same = all(now.get(key) == was.get(key) for key in ("command", "revision", "seed", "policy_config"))
    if not (same or config.out):  # where its evaluation will be, or is
        raise BadInput(f"{folder} has been trained anew meanwhile; that was of weights that are gone: play it again")
    written = reports.write_evaluation(path, policy, result, traces, video, replace=bool(config.out))
    last_line = {"mean_success": result["mean_success"], **reports.lost(result), "seconds": result["seconds"]}
    return last_line | {"wrote": written}


if __name__ == "__main__":
    run(lambda: main(parse(EvaluateConfig)))
