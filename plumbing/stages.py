"""Around adaptation: which requests make sense, which stages of a sequence are done, and the success matrix.

    success[stage][task]: after the stage, on unseen episodes; a task's column begins with the stage that learned it

Everything is measured by the one `evaluate()`; here results are only found again, and averaged. A task whose actions
are the same bits as before a stage has the same success too, and is not played again.
"""

import time
from contextlib import nullcontext
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import torch

import evaluate
import skills
import train
from encoder import StateEncoder, rows
from envs import elsewhere
from envs.demos import DATASET_ID, drawn
from envs.pixels import as_policy_sees
from envs.rollout import Roller, block_seeds
from envs.tasks import check_fit, common_spaces, resolve_tasks, slug
from plumbing import configs, figures, files, folders, interrupt, reports, resume, runs
from plumbing.cli import BadInput, numbers, provenance, say, write_json
from plumbing.limits import check_apart, check_limits, check_memory
from plumbing.log import at_rest, read_log
from variants.staged import alive

TRANSFER = 10  # episodes at most: before it is learned nearly all of a task fail, and a failure takes all 500 steps
RANK = 16  # of a stage's adapter of the encoder
FREE = ("run", "out", "device", "precision", "data_dir")  # may differ when a command goes on after an interruption


def check(config) -> list[str]:
    """Refuse what cannot work before anything is made; fill in defaults. Returns the new tasks."""
    if bool(config.tasks) == bool(config.sequence):
        raise BadInput("give either --tasks, learned together, or --sequence, learned one after another")
    if not (config.run or config.sequence):
        raise BadInput("--run: name the run to start from; only a --sequence can begin with a fresh policy")
    check_limits(config)
    moves_old = config.mode in ("components", "full", "scratch") or config.train_encoder
    config.retain = config.retain or ("paper" if moves_old else "exact")
    if config.retain == "exact" and moves_old:
        raise BadInput("--retain exact needs old components and the encoder frozen: use mode router or add-component")
    if config.retain != "exact" and config.encoder_rank is not None:
        raise BadInput("--encoder-rank goes with --retain exact: otherwise old tasks would see through it too")
    if config.retain != "exact" and config.lean_on != "all":
        raise BadInput("--lean-on base goes with --retain exact: otherwise there is one policy, and no skills apart")
    if config.retain == "exact" and config.encoder_rank is None:
        config.encoder_rank = RANK
    if config.retain == "replay" and config.train_encoder:
        raise BadInput("--retain replay keeps a router that sees through the encoder: leave out --train-encoder, or "
                       "use --retain exact, which adapts the encoder for the new tasks alone")  # fmt: skip
    if config.retain == "replay" and config.mode in ("full", "scratch", "components"):
        raise BadInput(f"--retain replay needs old components frozen, and mode {config.mode} moves them: leave it out")
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
    if config.mode not in ("full", "scratch") and not hasattr(policy, "router"):
        raise BadInput(f"policy '{variant}' has no router: use --mode full or scratch")
    if config.mode not in ("full", "scratch") and not hasattr(policy, "components"):
        raise BadInput(f"policy '{variant}' has no `components`: use --mode full or scratch")
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
    # A copy shares its original's weight: of one that has none it would get none, and never learn.
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
    with at_rest(policy), torch.random.fork_rng(devices=[]):
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
    with torch.random.fork_rng(devices=[]):  # what is built to see whether it can be, decides on nothing else
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
    with torch.random.fork_rng(devices=[]):  # what a fork draws here decides on nothing else
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


def train_first(config, task: str, folder: Path) -> None:
    """Train it, or go on where that was interrupted."""
    flags = first_flags(config, task, folder)
    if (folder / "model.safetensors").exists() and runs.training_record(folder)["steps"] == flags.steps:
        return
    if config.copies:
        say(f"{task}, the first task, is learned from its demonstrations alone: copies are made of later tasks' only")
    flags.resume = (folder / resume.FILE).exists()
    flags.overwrite = not flags.resume and folders.taken(folder)  # killed before its first checkpoint
    train.main(flags)


def run_folder(config, stages: list[list[str]]) -> Path:
    """Where the new run goes: a free folder, or that of the same command, finished or interrupted. BadInput if --out
    names one where anything else is."""
    names = slug((config.tasks or config.sequence).replace(",", "-"))[:100]
    begins = f"{Path(config.run).name}-" if config.run else ""
    out = wanted = Path(config.out or Path("runs") / f"{begins}{names}-{config.mode}-{config.retain}")
    number = 2
    while other := _taken_by_another(config, out, stages):
        if config.out:
            raise BadInput(f"{out} exists{other.rstrip()}: choose another --out")
        out, number = wanted.with_name(f"{wanted.name}-{number}"), number + 1
    check_apart(out, Path(config.data_dir))
    if config.run and out.resolve().is_relative_to(Path(config.run).resolve()):
        raise BadInput(f"--out {out} is inside the run that is only read: choose another --out")
    if not folders.taken(out):
        folders.check_free(out)  # that it can be written, before demonstrations are collected
    folders.check_inner(out)
    return out


def _taken_by_another(config, out: Path, stages: list[list[str]]) -> str:
    """What is there that this command did not begin, in words; empty if nothing is."""
    first = stage_folder(config, out, 1, stages[0])
    if not folders.taken(out):
        return ""
    if not (first / "config.json").exists():
        return " "
    if config.run:
        other = runs.difference(first, asdict(config), FREE)
    else:
        other = runs.difference(first, asdict(first_flags(config, stages[0][0], first)), (*FREE, *resume.FREE))
        later = (stage_folder(config, out, i, new) for i, new in enumerate(stages[1:], 2))
        begun = [folder for folder in later if (folder / "config.json").exists()]
        other = other or next(filter(None, (runs.difference(folder, asdict(config), FREE) for folder in begun)), None)
        if not other:  # of another sequence that begins with the same task
            others = sorted({path.parent for path in out.glob("[0-9]*-*/config.json")} - {first, *begun})
            other = f"{others[0].name}, which this sequence does not" if others else None
    return f", and the run in it has {other}" if other else ""


def stage_folder(config, out: Path, number: int, tasks: list[str]) -> Path:
    """A sequence has a folder per stage in its own; a single stage is the run itself."""
    return out / f"{number}-{slug('-'.join(tasks))}" if config.sequence else out


def begin(config, origin: Path, folder: Path, grown, parts: dict, windows, found: dict, going_on: bool) -> dict:
    """Say what learns and what new data look like to old parts; claim the run folder, and begin the run there, unless
    an interrupted stage is gone on with. -> what `finish` completes. found: what else there is to record of it."""
    for number, task in enumerate(windows.tasks):
        mine = windows.of_task == number
        say(f"{task}: {outside(grown, rows(windows.observations, mine), windows.actions[mine])}")
    if config.mode == "add-component":
        how = f"as copies of {found['copied']}" if found["copied"] else "at random"
        say(f"new components start {how}")
    say(f"{'part':<16}{'parameters':>12}{'trained':>12}")
    for name, (total, learns) in parts.items():
        say(f"{name:<16}{total:>12,}{learns:>12,}")
    folders.claim(folder, overwrite=True)  # one where the same command was interrupted, or a free one
    # While this command collected demonstrations another one may have trained what it learns from again ...
    if runs.weights_checksum(origin) != found["source_weights"]:
        raise BadInput(f"the run in {origin} has other weights than when this began: type this again")
    # ... or may have begun, and ended, in the same folder.
    if not unfinished(config, origin, folder) or going_on != (folder / resume.FILE).exists():
        raise BadInput(f"another command has been at work in {folder} meanwhile: type this one again")
    if going_on:
        return runs.read_config(folder)
    stage = {"tasks": windows.tasks, "mode": config.mode, "retain": config.retain,
             "components": grown.config.components, "trained_parameters": sum(learns for _, learns in parts.values()),
             "precision": runs.choose_precision("auto", grown.config, grown.device), **found}  # fmt: skip
    source = runs.read_config(origin)
    learned_from = drawn(config.demo_draw) if config.demo_draw else config.dataset_id
    about = {**provenance(config.seed, str(grown.device)), "adapted": [*(source.get("adapted") or []), stage],
             "datasets": datasets(source) | dict.fromkeys(windows.tasks, learned_from)}  # fmt: skip
    if config.mode != "scratch" and "fork_checksum" in source:  # of the version that its old parts were learned with
        about["fork_checksum"] = source["fork_checksum"]
    if config.retain == "exact":  # how the base was made, which is what is left where all skills are taken off
        made = source.get("base_training") if source["policy"] == "staged" else runs.how_trained(origin)
        about |= {"base_training": made} if made else {}
    flags = asdict(config) | {"policy": grown.variant, "run": str(origin)}
    runs.begin_run(folder, flags, asdict(grown.config), about)
    return about


def finish(folder: Path, about: dict, policy, earlier: list, steps: int, seconds: float) -> None:
    """Figures, the record of the stage, the skill, the weights, in this order: a folder with weights holds a finished
    stage. earlier: skills that were left aside while this one was learned (--lean-on base), and come back here."""
    base, found = skills.take_apart(policy)
    if found:
        policy = skills.put_together(base, [*found[:-1], *earlier, found[-1]])
    figures.training(read_log(folder / "log.jsonl"), folder / "figures")
    stage = about["adapted"][-1]
    stage |= {"seconds": round(seconds, 1), "components": policy.config.components}
    write_json(folder / "config.json", runs.read_config(folder) | {
        "policy": policy.variant, "policy_config": asdict(policy.config), "adapted": about["adapted"],
    })  # fmt: skip
    if found:
        found[-1].about = {"stage": stage, "datasets": {task: about["datasets"][task] for task in stage["tasks"]},
                           "demonstrations": runs.read_config(folder)["train"]["demos_per_task"],
                           "base": base.config.tasks, "revision": about["revision"]}  # fmt: skip
        skills.write(folder / skills.FILE, found[-1])
    runs.save_weights(folder, policy.state_dict(), steps, seconds)
    (folder / resume.FILE).unlink(missing_ok=True)


def note_success(folder: Path, tasks: list[str], result: dict) -> None:
    """Into the skill, if there is one, what it was evaluated to."""
    if (path := folder / skills.FILE).exists():
        skill, played = skills.read(path), result["tasks"]
        skill.about["success"] = {
            task: {key: played[task][key] for key in ("successes", "n", "seeds")} for task in tasks
        }
        skills.write(path, skill)


def outside(policy, observation, actions) -> str:
    """How far new observations {part: (N, *shape)} and actions (N, H, A) leave what an old policy can see and do, in
    words. Samplers clip actions to [-1, 1], the range of the environment that the policy was made for."""
    beyond = {"action": policy.normalize(actions).abs() - 1 - 1e-4}
    if isinstance(policy.encoder, StateEncoder):
        beyond = {"observed": policy.encoder.standardize(observation).abs() - StateEncoder.CLIP} | beyond
    words = [f"{(x > 0).float().mean():.1%} of its {kind} numbers (by up to {x.max().clamp(min=0):.1f} scales)"
             for kind, x in beyond.items()]  # fmt: skip
    return f"{' and '.join(words)} are outside the range that is known, and clipped"


def main(config, learn) -> dict:
    """Learn, stage by stage, and evaluate. Returns what the command's last line says: success, seconds, paths."""
    tasks, device = check(config), runs.choose_device(config.device)
    check_source(config, tasks, device)
    stages = [[task] for task in tasks] if config.sequence else [tasks]
    config.steps = config.steps or 2000 * len(stages[0])
    out = run_folder(config, stages)
    simulators = Roller() if config.eval_episodes else nullcontext()  # one for all: starting them takes seconds
    with simulators as roller:
        return learn_all(config, learn, stages, out, device, roller)


def learn_all(config, learn, stages: list[list[str]], out: Path, device, roller) -> dict:
    """Each stage, into folders in `out`, and what is to be evaluated. -> as `main`. roller: simulators, or None."""
    origin = Path(config.run) if config.run else None
    success, history, experts, lost, before = [], [], {}, 0, None

    def measure(run: Path, into: Path) -> None:
        nonlocal lost, before
        asked = (config.eval_episodes, config.eval_seed, device)
        result = evaluated(run, into / "evaluation.json", *asked, before, roller)
        played = {task: r for task, r in result["tasks"].items() if not r.get("same_bits")}
        lost += reports.lost({"tasks": played}).get("lost", 0)
        success.append({task: r["success"] for task, r in result["tasks"].items()})
        experts.update({task: r["expert"]["success"] for task, r in result["tasks"].items()})
        before = run, result

    for i, new in enumerate(stages, 1):
        folder = stage_folder(config, out, i, new)
        if len(stages) > 1:
            say(f"stage {i} of {len(stages)}: {', '.join(new)}")
        if origin is None:
            train_first(config, new[0], folder)
            seconds = runs.training_record(folder)["seconds"]
            stage = {"tasks": new, "mode": "fresh", "seconds": round(seconds, 1), "bytes_added": size(folder)}
        else:
            if unfinished(config, origin, folder):
                learn(config, origin, new, folder, roller)
            else:
                say(f"{folder} is trained already, by revision {runs.read_config(folder).get('revision')}")
            stage = runs.read_config(folder)["adapted"][-1] | {"bytes_added": size(folder) - size(origin)}
        interrupt.done(f"{folder} is saved; the same command goes on from there")
        if config.eval_episodes and i == 1 and config.run and config.mode != "scratch":
            measure(origin, out / "before")  # the same then and now: origin is only read
        if config.eval_episodes:
            measure(folder, folder)
            note_success(folder, new, before[1])
            # As before this stage, and therefore not played again; and what it costs beside training.
            stage["same_bits"] = [task for task, r in before[1]["tasks"].items() if r.get("same_bits")]
            stage |= {"evaluation_seconds": before[1]["seconds"], "latency_ms": chunk_ms(folder, new)}
        history.append(stage | {"run": str(folder)})
        origin = folder
    written = [stage["run"] for stage in history]
    summary = {"run": str(origin), "seconds": sum(stage["seconds"] for stage in history), "wrote": written}
    if config.eval_episodes:
        measured = metrics(success, history)
        result = {"success": success, "expert": experts, "stages": history, **measured}
        write_json(out / "adaptation.json", result | provenance(config.seed, str(device)))
        matrix = figures.success_matrix({"": result}, out / "figures" / "matrix.png")
        written += [str(out / "adaptation.json"), str(matrix)]
        summary |= {**measured, **({"lost": lost} if lost else {})}
    return summary


def unfinished(config, origin: Path, folder: Path) -> bool:
    """Whether a stage is still to be made. BadInput if the folder holds one made with other flags."""
    if not folders.taken(folder):
        return True
    if other := runs.difference(folder, asdict(config), FREE):
        raise BadInput(f"the run in {folder} has {other}: choose another --out")
    stage = (runs.read_config(folder).get("adapted") or [{}])[-1]
    if stage.get("source_weights") != runs.weights_checksum(origin):
        raise BadInput(f"the run in {folder} was learned from other weights than {origin} holds: choose another --out")
    return not (folder / "model.safetensors").exists()


def datasets(config: dict) -> dict[str, str]:
    """Where the demonstrations of each task that a run knows came from: task -> Minari id with {task}."""
    flags = config["train"]
    usual = drawn(flags["demo_draw"]) if flags.get("demo_draw") else flags.get("dataset_id", DATASET_ID)
    return dict.fromkeys(config["policy_config"]["tasks"], usual) | (config.get("datasets") or {})


def chunk_ms(run: Path, tasks: list[str]) -> float:
    """Milliseconds for one action chunk, B = 1, of the first of these tasks, on one thread."""
    policy = runs.load_policy(run)
    with runs.one_thread():
        return evaluate.latency(policy, tasks[0], *policy.choose_sampler())


def before_learning(named, tasks: list[str], episodes: int, seed: int = 0, roller=None) -> dict:
    """What forward transfer compares: new tasks' success with a policy that knows their names only, and untrained.

    named: the old policy, with the new names at the mean of the known ones. The untrained one sees through the same
    encoder's statistics.
    """
    untrained = runs.build_policy(named.variant, asdict(named.config)).to(named.device)
    for mine, theirs in zip(untrained.encoder.buffers(), named.encoder.buffers(), strict=True):
        mine.copy_(theirs)
    measured, begin, episodes = {}, time.perf_counter(), min(episodes, TRANSFER)
    for name, candidate in (("success_before_learning", named), ("success_untrained", untrained)):
        result, _ = evaluate.evaluate(candidate.eval(), tasks, episodes, seed, roller=roller)
        measured[name] = {task: result["tasks"][task]["success"] for task in tasks}
    return measured | {"before_learning_seconds": round(time.perf_counter() - begin, 1)}


def unchanged(old, new) -> list[str]:
    """The tasks of the old policy, all known to the new one, that both do to the same bits: 20 made-up observations of
    each, and the same noise."""
    random, names = np.random.default_rng(0), [task for task in old.config.tasks for _ in range(20)]
    observation = made_up(old, names, random)
    shape = (len(names), old.config.horizon, old.config.action_dim)
    noise = torch.tensor(random.standard_normal(shape), dtype=torch.float32)
    theirs, mine = old.act(observation, names, noise=noise)[0], new.act(observation, names, noise=noise)[0]
    same = (theirs == mine).reshape(len(old.config.tasks), -1).all(1)
    return [task for task, whole in zip(old.config.tasks, same, strict=True) if whole]


def _adds_up(played: dict, block: list[int], n: int) -> bool:
    """Whether an entry of an evaluation that may be taken over is of these episodes, and its counts and rates agree."""
    if played["seeds"] != block or played["n"] != n:
        return False
    successes = played["successes"]
    return successes == n - len(set(played["failed_seeds"])) and abs(played["success"] - successes / n) < 1e-6


def evaluated(run: Path, path: Path, episodes: int, seed: int, device, before=None, roller=None) -> dict:
    """A run's evaluation on the first episodes of a block: read where it was made before, made into `path` otherwise.

    (Never into the run that we start from.) before: the run that it was learned from, and that one's evaluation, from
    which tasks are taken over that are done to the same bits. They say in "same_bits" which run has played them. Of a
    policy with stages only: they are what keeps the bits; in any other a few observations would prove little.
    """
    seeds = block_seeds(seed, episodes)
    policy = runs.load_policy(run, device)
    how = dict(zip(("sampler", "sampling_steps"), policy.choose_sampler(), strict=True))
    how["training"] = runs.training_record(run, policy)  # of these weights, not of an earlier checkpoint
    beside = [other for home in (run, path.parent) for other in sorted(home.glob("evaluation-?.json"))]
    # What another version of the fork's file has played says nothing of this one.
    for made in () if runs.edited(runs.read_config(run)) else (run / "evaluation.json", path, *beside):
        try:
            result = files.read_json(made)
            same = list(result["tasks"]) == policy.config.tasks and all(result[key] == how[key] for key in how)
            looks = policy.config.executed
            same = same and result.get("executed", looks) == looks  # older files do not say: the policy's own
            same = same and not (result.get("even") or result.get("shift"))  # with other weights, or of other pictures
            if same and all(_adds_up(r, [seeds[0], seeds[-1]], episodes) for r in result["tasks"].values()):
                table = reports.table(result)  # and what else is read of it later: is it all there?
                reports.lost(result)
                float(result["seconds"])
                say(f"not played again: {made}, by revision {str(result.get('revision'))!r:.80}\n{table}")
                return result
        except (OSError, ArithmeticError, ValueError, KeyError, TypeError, AttributeError):  # none, or damaged: again
            continue
    same = []
    if before and policy.variant == "staged":
        kept = before[1]["tasks"]
        same = [t for t in unchanged(runs.load_policy(before[0], device), policy) if kept[t]["n"] == episodes]
    todo = [task for task in policy.config.tasks if task not in same]
    result, traces = evaluate.evaluate(policy, todo, episodes, seed, roller=roller)
    if same:
        found = result["tasks"] | {task: {"same_bits": str(before[0])} | kept[task] for task in same}
        result["tasks"] = {task: found[task] for task in policy.config.tasks}
        result["mean_success"] = evaluate.mean_success(result)
    result.update(provenance(seed, str(device)), training=how["training"])
    reports.write_evaluation(path, policy, result, traces)
    return result


def size(run: Path) -> int:
    """Bytes that acting, and adapting further, need."""
    paths = (run / name for name in ("model.safetensors", "replay.safetensors"))
    return sum(path.stat().st_size for path in paths if path.exists())


def metrics(success: list[dict[str, float]], stages: list[dict]) -> dict:
    """Continual-learning metrics of success[stage][task], a task's column beginning with the stage that learned it.

    average success: over all tasks, after the last stage. backward transfer: success at the end minus success right
    after learning, over the tasks learned before the last stage (Lopez-Paz & Ranzato 2017, arXiv 1706.08840, section
    2). forgetting: the best success before the last stage minus that at the end, over the same tasks (Chaudhry et al.
    2018, arXiv 1801.10112, section 3). forward transfer: success just before a task is learned minus that of an
    untrained policy (Lopez-Paz & Ranzato), see `before_learning`.
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
