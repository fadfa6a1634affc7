"""Around adaptation: where stages go, which of a sequence are done, and the success matrix.

    success[stage][task]: after the stage, on unseen episodes; a task's column begins with the stage that learned it

What is refused beforehand: refusals.py. Everything is measured by the one `evaluate()`; here results are only found
again, and averaged. A task whose actions are the same bits as before a stage has the same success too, and is not
played again.
"""

import time
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

import evaluate
import skills
import train
from adaptation.refusals import check, check_source, first_flags, made_up
from encoder import StateEncoder, rows
from envs.demos import DATASET_ID, drawn
from envs.rollout import Roller, block_seeds
from envs.tasks import slug
from plumbing import figures, files, folders, interrupt, machine, reports, resume, runs
from plumbing.cli import BadInput, provenance, say, write_json
from plumbing.limits import check_apart
from plumbing.log import read_log

TRANSFER = 10  # episodes at most: before it is learned nearly all of a task fail, and a failure takes all 500 steps
FREE = ("run", "out", "device", "precision", "data_dir")  # may differ when a command goes on after an interruption


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
             "precision": machine.choose_precision("auto", grown.config, grown.device), **found}  # fmt: skip
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
    beyond = {}
    if isinstance(encoder := getattr(policy.encoder, "numbers", policy.encoder), StateEncoder):  # beside pictures, too
        beyond["observed"] = encoder.standardize(observation).abs() - StateEncoder.CLIP
    far = policy.normalize(actions).abs() - 1 - 1e-4
    if (far > 0).any() or not beyond:  # only where a run took its range from data: demonstrations come clipped
        beyond["action"] = far
    words = [f"{(x > 0).float().mean():.1%} of its {kind} numbers (by up to {x.max().clamp(min=0):.1f} scales)"
             for kind, x in beyond.items()]  # fmt: skip
    return f"{' and '.join(words)} are outside the range that is known, and clipped"


def main(config, learn) -> dict:
    """Learn, stage by stage, and evaluate. Returns what the command's last line says: success, seconds, paths."""
    tasks, device = check(config), machine.choose_device(config.device)
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
    with machine.one_thread():
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

    (Never into the run that we start from.) before: the run that it was learned from, and that one's evaluation. Tasks
    in which both act the same, bit for bit, are not played again: "same_bits" in their result names the run that has
    played them. Of a policy with stages only, which keep the bits; in any other a few observations prove little.
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
