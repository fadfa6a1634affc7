"""What adapt.py refuses, each with the line that it says: flags that do not go together, a run that cannot learn what
is asked for, and forks that growing or exact retention would break. All of it before anything is written.
"""

from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import torch

import skills
import train
from envs import elsewhere
from envs.pixels import as_policy_sees, check_goals
from envs.tasks import check_fit, common_spaces, resolve_tasks
from plumbing import configs, folders, machine, resume, runs
from plumbing.cli import BadInput, numbers, say
from plumbing.limits import check_limits, check_memory
from plumbing.log import at_rest
from variants.staged import alive

RANK = 16  # of a stage's adapter of the encoder


def check(config) -> list[str]:
    """Refuse what cannot work before anything is made; fill in defaults. Returns the new tasks."""
    if bool(config.tasks) == bool(config.sequence):
        raise BadInput("give either --tasks, learned together, or --sequence, learned one after another")
    if not (config.run or config.sequence):
        raise BadInput("--run: name the run to start from; only a --sequence can begin with a fresh policy")
    check_limits(config)
    moves_old = config.mode in ("components", "full", "scratch") or config.train_encoder
    config.retain = config.retain or ("paper" if moves_old else "exact")
    if config.retain in ("exact", "replay") and moves_old:
        raise BadInput(f"--retain {config.retain} needs old components and the encoder frozen: use mode router or "
                       "add-component and leave out --train-encoder, or leave it out")  # fmt: skip
    if config.retain != "exact" and config.encoder_rank is not None:
        raise BadInput("--encoder-rank goes with --retain exact: otherwise old tasks would see through it too")
    if config.retain != "exact" and config.lean_on != "all":
        raise BadInput("--lean-on base goes with --retain exact: otherwise there is one policy, and no skills apart")
    if config.retain == "exact" and config.encoder_rank is None:
        config.encoder_rank = RANK
    if (config.mode == "components") != bool(config.train_components):
        raise BadInput("--train-components, such as 0,2, goes with --mode components, and is needed there")
    if config.mode != "add-component" and (config.new_components, config.start_from) != (1, "most-used"):
        raise BadInput(f"--new-components and --start-from go with --mode add-component, not {config.mode}")
    if config.mode in ("full", "scratch") and config.train_encoder:
        raise BadInput(f"--mode {config.mode} trains everything: leave out --train-encoder")
    if config.mode == "scratch" and config.sequence:
        raise BadInput("--mode scratch learns the new tasks alone, so there is no sequence: use --tasks")
    named = [task for words in config.sequence.split(",") if words.strip() for task in resolve_tasks(words)]
    if again := sorted({task for task in named if named.count(task) > 1}):
        raise BadInput(f"--sequence names '{', '.join(again)}' twice")
    tasks, known = resolve_tasks(config.tasks or config.sequence), {}
    if config.run:
        known = runs.read_config(Path(config.run))["policy_config"]
        tasks = as_policy_sees(known["tasks"], tasks)
        check_goals([task for task in tasks if task not in known["tasks"]], known["observation"])
        # One that it knows is named to let its module be imported (envs/tasks.py, `trust`), not to be learned again.
        named = [task for task in tasks if ":" in task and task in known["tasks"]]
        if config.mode != "full" and named and len(named) < len(tasks):
            tasks = [task for task in tasks if task not in named]
            say(f"known already, and named so that a module is imported: {', '.join(named)}")
    other = [task for task in tasks if not elsewhere.possible(task, *([known["observation"]] if known else []))]
    if config.copies and other:
        raise BadInput(f"--copies: which numbers of '{other[0]}' are positions is not known; leave it out, or say 0")
    if (made := (config.copies or 0) * config.demos_per_task) > elsewhere.MOST:
        raise BadInput(f"--copies {config.copies} of {config.demos_per_task} demonstrations would be {made:,} made "
                       f"ones; at most {elsewhere.MOST:,} of a task")  # fmt: skip
    if config.copies is None:
        config.copies = elsewhere.COPIES if config.demos_per_task <= elsewhere.FEW and not other else 0
    if not config.run and len(tasks) < 2:
        raise BadInput("--sequence without --run begins with a fresh policy for the first task: name more than one")
    return tasks


def check_source(config, tasks: list[str], device) -> None:
    """Refuse what this run, or a fresh policy for the first task, cannot do, before demonstrations are made."""
    if config.run:
        check_finished(Path(config.run))
        origin, policy = f"the run in {config.run}", runs.load_policy(Path(config.run), device)
    else:
        flags = first_flags(config, tasks[0], "")
        origin, policy = "a fresh policy", runs.build_policy(flags.policy, train.policy_settings(flags, tasks[:1]))
        tasks = tasks[1:] or tasks
    variant = policy.variant
    if config.run and config.mode != "full" and (again := [task for task in tasks if task in policy.config.tasks]):
        raise BadInput(f"{origin} knows '{', '.join(again)}' already; --mode full goes on with known tasks")
    check_fit(policy.config, tasks, origin)
    if config.mode != "scratch":  # old tasks are played again, beside the new ones, and may not be known here
        try:
            common_spaces([*policy.config.tasks, *tasks])
        except BadInput as error:
            raise BadInput(f"{origin} cannot learn {', '.join(tasks)} beside what it knows: {error}") from error
    if variant == "staged" and config.retain != "exact" and config.mode != "scratch":
        raise BadInput(f"{origin} keeps its stages exactly: go on with --retain exact")
    if config.run and config.eval_episodes and config.mode != "scratch":
        runs.training_record(Path(config.run))  # which evaluations repeat: now, rather than after the training
    base, _ = skills.take_apart(policy)
    total = policy.config.components  # skills that are left aside while this one is learned come back
    policy = base if config.lean_on == "base" else policy
    least = getattr(policy.config, "ranks", [0])[-1]  # the new adapter begins as the newest one
    if config.encoder_rank is not None and config.encoder_rank < least:
        raise BadInput(f"--encoder-rank must be at least {least}, as in {origin}, got {config.encoder_rank}")
    if config.retain == "replay" and policy.router_sees_step:
        raise BadInput(
            f"the router of policy '{variant}' sees the denoising step, at which --retain replay does not ask"
        )
    for part in ("router", "components") if config.mode not in ("full", "scratch") else ():
        if not hasattr(policy, part):
            raise BadInput(f"policy '{variant}' has no `{part}`: use --mode full or scratch")
    K, new = policy.config.components, config.new_components
    parts = list(policy.components.parameters()) if hasattr(policy, "components") else []
    size = sum(p[0].numel() for p in parts if p.ndim)
    added = new * (len(tasks) if config.sequence else 1) if config.mode == "add-component" else 0
    if total + added > (most := configs.LIMITS["components"]):
        raise BadInput(f"--new-components: {origin} has {total}, and a policy may have {most:,}; this adds {added:,}")
    check_memory(asdict(policy.config) | {"components": K + new}, config.batch_size, device, size * (K + new))
    if config.mode in ("add-component", "components") or config.retain == "exact":
        if not all(p.ndim and len(p) == K for p in parts):
            raise BadInput(f"policy '{variant}' has components without a leading K axis: use --mode full, or --mode "
                           "router --retain paper")  # fmt: skip
    if config.mode == "components":
        numbers(config.train_components, K, "--train-components")
    # A copy takes half of its original's weight. Half of nothing is nothing: it would get no gradient.
    used = alive(policy.config)
    if config.start_from == "most-used" and new > len(used):
        raise BadInput(f"--new-components copy different components, and {len(used)} have weight: at most {len(used)}, "
                       f"got {new}")  # fmt: skip
    if config.start_from not in ("most-used", "random"):
        chosen = numbers(config.start_from, K, "--start-from, if not most-used or random,")
        if len(chosen) != new:
            raise BadInput(f"--start-from must name {new}, one for each new component, got '{config.start_from}'")
        if not set(chosen) <= set(used):
            raise BadInput(f"--start-from must name components to which the newest router of {origin} gives weight, "
                           f"{', '.join(map(str, used))}, got '{config.start_from}'")  # fmt: skip
    if config.retain == "exact":
        check_forgetful(policy)


def check_finished(origin: Path) -> None:
    """BadInput for a run that another command trains: its weights change, and what was learned from would be nowhere.
    (One that another command still evaluates is finished.)"""
    if folders.busy(origin) and (origin / "model.safetensors").exists():
        if runs.training_record(origin)["steps"] < (runs.read_config(origin)["train"].get("steps") or 0):
            raise BadInput(f"another command is training the run in {origin}: wait until it is done")


def check_forgetful(policy) -> None:
    """BadInput if a policy acts otherwise the second time, as a fork may that remembers what it saw: then old tasks
    cannot be kept exactly, and a single comparison of actions would not tell."""
    names = policy.config.tasks[:1] * 2
    one, other = (made_up(policy, names, np.random.default_rng(seed)) for seed in (0, 1))
    noise = torch.zeros(len(names), policy.config.horizon, policy.config.action_dim)
    # A fresh one in training mode would move pictures at random; and what a fork draws here decides on nothing else.
    with at_rest(policy), machine.drawing_nothing(policy.device):
        first, _, again = (policy.act(seen, names, noise=noise)[0] for seen in (one, other, one))
    if not np.array_equal(first, again):
        raise BadInput("this policy acts otherwise when it sees the same again: it remembers, or draws at random, and "
                       "exact retention cannot hold that; use --retain replay or paper")  # fmt: skip


def made_up(policy, names: list[str], random: np.random.Generator) -> dict[str, np.ndarray]:
    """An observation for each of these tasks that no environment gave."""
    return {part: random.integers(256, size=(len(names), *shape)) if len(shape) == 3 else  # a picture
            random.standard_normal((len(names), *shape)) * 0.2
            for part, shape in policy.config.observation.items()}  # fmt: skip


def try_out(policy) -> None:
    """Take a policy with stages apart, and let each stage act once. A fork may have tables that do not grow, or
    components that know their number and cannot act with fewer, as an old stage does; better now than after minutes."""
    with machine.drawing_nothing(policy.device):  # what is built to see whether it can be, decides on nothing else
        skills.put_together(*skills.take_apart(policy))
    policy.eval()
    for _, names in reversed(policy.config.stages):  # the newest one first, which has all: where it fails, K is not why
        seen = {part: np.zeros((1, *shape)) for part, shape in policy.config.observation.items()}
        try:
            policy.act(seen, names[:1])
        except Exception:
            if names != policy.config.stages[-1][1]:
                say(f"the stage of '{names[0]}' cannot act with its own components alone; see docs/troubleshooting.md")
            raise
    policy.train()


def try_learning(config, policy, windows) -> None:
    """One batch is tried, as training would, before anything is written. BadInput where nothing learns, as where a mode
    leaves only a router that a fork never asks; with --retain exact also where learning moves what old tasks act with,
    as a fork may that counts its calls in a buffer."""
    policy.progress = 0.0
    before = {name: x.clone() for name, x in policy.named_buffers()}
    observation, task, actions = windows.select(torch.arange(min(2, len(windows.actions)), device=policy.device))
    with machine.drawing_nothing(policy.device):  # what a fork draws here decides on nothing else
        loss = policy.loss(observation, task, actions, torch.zeros_like(task), torch.zeros_like(actions))
    errors, terms = resume.check_loss(loss)
    if not any(x.requires_grad for x in (errors, *(term for _, term in terms.values()))):
        raise BadInput(f"nothing of this policy learns with --mode {config.mode}: choose another")
    newest = f".{len(policy.config.stages) - 1}." if config.retain == "exact" else ""
    for name, x in policy.named_buffers():
        if name not in before:  # a fork's, made at its first loss and not saved
            continue
        own = not newest or name.startswith((f"router{newest}", f"residual{newest}"))
        if not (own or torch.equal(x.nan_to_num(), before[name].nan_to_num())):
            other = "" if len(policy.config.stages) > 2 else ", or use --retain replay or paper"
            raise BadInput(f"'{name}' of this policy changes while it learns, and old tasks act with it: see "
                           f"docs/troubleshooting.md, A fork{other}")  # fmt: skip
        x.copy_(before[name])


def check_grown(old: dict, new: dict) -> None:
    """BadInput if a fork's components have another size where there are more of them: nothing could be copied."""
    for name in old.keys() & new.keys():
        if name.startswith("components.") and old[name].shape[1:] != new[name].shape[1:]:
            raise BadInput("this policy makes components of another size where there are more of them: use --mode "
                           "router, full or scratch")  # fmt: skip


def first_flags(config, task: str, folder: Path | str) -> train.TrainConfig:
    """How the first policy of a sequence without --run is trained: as train.py does, with the flags that both have."""
    both = {f.name: getattr(config, f.name) for f in fields(train.TrainConfig) if hasattr(config, f.name)}
    return train.TrainConfig(**both | {"tasks": task, "eval_episodes": 0, "out": str(folder)})
