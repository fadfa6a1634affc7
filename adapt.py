"""Teach a trained policy new tasks, by adding components, and measure what it forgets.

    python adapt.py --run runs/mt6 --tasks door-close                         # one new task, or several together
    python adapt.py --run runs/mt6 --sequence door-close,drawer-close         # one after another

| mode          | what trains                                               | source                                   |
|---------------|-----------------------------------------------------------|------------------------------------------|
| add-component | new components, which start as copies, and the router     | FDP, arXiv 2512.21898                    |
| router        | the router                                                | the paper's router-only adaptation       |
| components    | some of the existing components, and the router           | the paper's fine-tuning of a subset      |
| full          | everything                                                | the baseline that forgets                |
| scratch       | a fresh policy, on the new tasks alone                    | the lower line of every plot             |

With every mode the new tasks' embeddings train too: they are what a name means. The encoder is frozen (the frozen
components see through it), except with full, scratch and --train-encoder. A trained normaliser is never fitted again.

| retain | how old tasks are kept                                                   | what it costs                   |
|--------|--------------------------------------------------------------------------|---------------------------------|
| exact  | each keeps its router and its components: the same actions, bit for bit  | a router per stage; task names  |
| replay | a few old observations, on which the router imitates the old router      | 10 kB per old task, kept        |
| paper  | not at all: the router trains on the new data only                       | whatever is forgotten           |
"""

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from torch.nn.utils import parametrize
from tqdm import tqdm

import checkpoint
import continual
import evaluate
import figures
from cli import BadInput, check_limits, parse, provenance, run, say, write_json
from envs.demos import DATASET_ID, demonstrations, make_windows
from envs.metaworld import resolve_tasks
from grow import check_source, outside, prepare, release
from train import average_decay, learning_rate

# Of the router's squared error on old observations, beside the new tasks' loss. Errors of weights (0.1 squared) are
# small beside errors of predictions; tenfold they count.
REPLAY_WEIGHT = 10.0


@dataclass
class AdaptConfig:
    """Learn new tasks from a trained run, into a new run; evaluate.py plays it like any other."""

    run: str  # the run to start from; it is only read
    tasks: str = ""  # new tasks, learned together
    sequence: str = ""  # or: new tasks, learned one after another, all known tasks evaluated after each
    mode: Literal["add-component", "router", "components", "full", "scratch"] = "add-component"  # what trains
    retain: Literal["exact", "replay", "paper"] | None = None  # default exact; paper where old parts may move
    new_components: int = 1  # how many add-component adds, at each stage
    start_from: str = "most-used"  # what they copy: most-used on the new demonstrations | random | numbers, such as 0,2
    train_components: str = ""  # mode components: which, such as 0,2
    train_encoder: bool = False  # the authors' setting; it moves what old components see
    demos_per_task: int = 25  # the paper's number
    steps: int | None = None  # optimiser steps of a stage; default 2000 for each new task
    batch_size: int = 64
    lr: float = 1e-3  # schedule, weight decay, clipping and averaging are train.py's
    eval_episodes: int = 50  # per task, old and new, after each stage; 0 trains only
    eval_seed: int = 0  # which block of 10,000 evaluation episodes
    seed: int = 0
    device: str = "auto"  # auto | cpu | cuda
    data_dir: str = "data"
    dataset_id: str = DATASET_ID  # of the new tasks' demonstrations; as in train.py
    out: str = ""  # run folder; default runs/NAME-TASKS-MODE-RETAIN. A sequence has a folder per stage in it


def check(config: AdaptConfig) -> list[str]:
    """Refuse what cannot work before anything is made; fill in defaults. Returns the new tasks."""
    if bool(config.tasks) == bool(config.sequence):
        raise BadInput("give either --tasks, learned together, or --sequence, learned one after another")
    check_limits(config, {
        "new_components": (1, math.inf), "steps": (1, math.inf), "batch_size": (1, math.inf), "seed": (0, 2**31 - 1),
        "demos_per_task": (1, 10_000), "eval_episodes": (0, 10_000), "eval_seed": (0, 2**31 - 1),
    })  # fmt: skip
    if not 0 < config.lr < math.inf:
        raise BadInput(f"--lr must be a positive number, got {config.lr}")
    moves_old = config.mode in ("components", "full", "scratch") or config.train_encoder
    config.retain = config.retain or ("paper" if moves_old else "exact")
    if config.retain == "exact" and moves_old:
        raise BadInput("--retain exact needs old components and the encoder frozen: use mode router or add-component")
    if config.retain == "replay" and config.mode in ("full", "scratch"):
        raise BadInput(f"--retain replay keeps the router, and mode {config.mode} moves everything: leave it out")
    if (config.mode == "components") != bool(config.train_components):
        raise BadInput("--train-components, such as 0,2, goes with --mode components, and is needed there")
    if config.mode != "add-component" and (config.new_components, config.start_from) != (1, "most-used"):
        raise BadInput(f"--new-components and --start-from go with --mode add-component, not {config.mode}")
    if config.mode in ("full", "scratch") and config.train_encoder:
        raise BadInput(f"--mode {config.mode} trains everything: leave out --train-encoder")
    if config.mode == "scratch" and config.sequence:
        raise BadInput("--mode scratch learns the new tasks alone, so there is no sequence: use --tasks")
    return resolve_tasks(config.tasks or config.sequence)


def learn(config: AdaptConfig, origin: Path, tasks: list[str], folder: Path) -> None:
    """One stage: from the run in `origin`, which is only read, to one in `folder` that knows `tasks` too."""
    device = checkpoint.choose_device(config.device)
    source, policy = checkpoint.read_config(origin), checkpoint.load_policy(origin, device)
    demos = demonstrations(tasks, config.demos_per_task, Path(config.data_dir), config.dataset_id)
    windows = [make_windows(demos[task], policy.config.horizon) for task in tasks]
    observations, actions = (torch.cat(parts).to(device) for parts in zip(*windows, strict=True))

    # ---- Grow, freeze, and say what learns.
    torch.manual_seed(config.seed)
    variant, grown, parts, copied = prepare(config, source["policy"], policy, tasks, observations)
    grown.to(device)
    if config.mode == "scratch":
        grown.normalizer.fit(observations)
    for task, (o, a) in zip(tasks, windows, strict=True):
        say(f"{task}: {outside(grown.normalizer, o.to(device), a.to(device))}")
    index = grown.task_index([t for t, (o, _) in zip(tasks, windows, strict=True) for _ in o]).to(device)
    say(f"{'part':<16}{'parameters':>12}{'trained':>12}")
    for name, (total, learns) in parts.items():
        say(f"{name:<16}{total:>12,}{learns:>12,}")
    memory = continual.Memory(origin, policy, Path(config.data_dir)) if config.retain == "replay" else None
    stage = {"tasks": tasks, "mode": config.mode, "retain": config.retain, "components": grown.config.components,
             "copied": copied, "trained_parameters": sum(learns for _, learns in parts.values()),
             "source_weights": checkpoint.fingerprint(origin)}  # fmt: skip
    if config.sequence and config.eval_episodes:
        stage |= continual.before_learning(source["policy"], policy, tasks, config.eval_episodes, config.eval_seed)
    checkpoint.claim_folder(folder, overwrite=True)
    about = {**provenance(config.seed, str(device)), "adapted": [*source.get("adapted", []), stage],
             "datasets": continual.datasets(source) | dict.fromkeys(tasks, config.dataset_id)}  # fmt: skip
    checkpoint.begin_run(folder, asdict(config) | {"policy": variant, "run": str(origin)}, asdict(grown.config), about)

    # ---- The loop: train.py's, over fewer parameters.
    torch.manual_seed(config.seed)  # again: what was evaluated before must not decide what is drawn
    begin = time.perf_counter()
    parameters = [p for p in grown.parameters() if p.requires_grad]
    average = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=1e-4, fused=True)
    log = (folder / "log.jsonl").open("w")
    for step in tqdm(range(config.steps), unit="step", desc=", ".join(tasks), mininterval=0.5):
        rows = torch.randint(0, len(observations), (config.batch_size,), device=device)
        # cached: the tensors of frozen and learned rows are put together once a step, not at each use
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"), parametrize.cached():
            loss = grown.loss(observations[rows], index[rows], actions[rows]).mean()
            if memory:
                loss = loss + REPLAY_WEIGHT * memory.drift(grown)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, parameters, 1 - average_decay(step))
        if (step + 1) % 50 == 0 or step == config.steps - 1:
            line = {"step": step + 1, "loss": loss.item(), "lr": learning_rate(config, step)}
            log.write(json.dumps(line) + "\n")
            if not math.isfinite(line["loss"]):
                raise BadInput(f"the loss is {line['loss']} by step {step + 1}: lower --lr (now {config.lr})")
    log.close()
    if not all(p.isfinite().all() for p in average):  # the last step's loss was of the weights before it
        raise BadInput(f"the weights are not finite after the last step: lower --lr (now {config.lr})")
    with torch.no_grad():
        torch._foreach_copy_(parameters, average)
    release(grown)  # frozen and learned rows back into one tensor, as fdp.py and the checkpoint know it
    stage["seconds"] = round(time.perf_counter() - begin, 1)

    # ---- Save. The weights come last: a folder that has them holds a finished stage.
    if memory:
        memory.save(folder, {task: o for task, (o, _) in zip(tasks, windows, strict=True)})
    figures.training_curve(figures.read_log(folder / "log.jsonl"), folder / "figures" / "training.png")
    write_json(folder / "config.json", checkpoint.read_config(folder) | {"adapted": about["adapted"]})
    checkpoint.save_weights(folder, grown.state_dict(), config.steps, stage["seconds"])


def unfinished(config: AdaptConfig, origin: Path, folder: Path) -> bool:
    """Whether a stage is still to be made. BadInput if the folder holds one made with other flags."""
    if not checkpoint.taken(folder):
        return True
    if other := checkpoint.difference(folder, asdict(config), ("run", "out", "device", "data_dir")):
        raise BadInput(f"the run in {folder} has {other}: choose another --out")
    if not (folder / "model.safetensors").exists():
        return True
    stage = checkpoint.read_config(folder)["adapted"][-1]
    if stage.get("source_weights") != checkpoint.fingerprint(origin):
        raise BadInput(f"the run in {folder} was learned from other weights than {origin} holds: choose another --out")
    return False


def main(config: AdaptConfig) -> dict:
    """Learn, stage by stage, and evaluate. Returns what the command's last line says: success, seconds, paths."""
    tasks, origin, device = check(config), Path(config.run), checkpoint.choose_device(config.device)
    check_source(config, origin, tasks, device)
    stages = [[task] for task in tasks] if config.sequence else [tasks]
    config.steps = config.steps or 2000 * len(stages[0])
    name = f"{origin.name}-{(config.tasks or config.sequence).replace(',', '-')[:100]}-{config.mode}-{config.retain}"
    out = Path(config.out or Path("runs") / name)
    if not (config.out or config.sequence):
        out = checkpoint.free_folder(out)
    first = out / f"1-{stages[0][0]}" / "config.json"
    if checkpoint.taken(out) and not (config.sequence and first.exists()):
        raise BadInput(f"{out} exists: choose another --out")
    if out.resolve().is_relative_to(origin.resolve()):
        raise BadInput(f"--out {out} is inside the run that is only read: choose another --out")
    success, history, experts = [], [], {}

    def measure(run: Path, into: Path) -> None:
        result = continual.evaluated(run, into / "evaluation.json", config.eval_episodes, config.eval_seed, device)
        say(evaluate.table(result))
        success.append({task: r["success"] for task, r in result["tasks"].items()})
        experts.update({task: r["expert"]["success"] for task, r in result["tasks"].items()})

    for i, new in enumerate(stages, 1):
        folder = out / f"{i}-{'-'.join(new)}" if config.sequence else out
        if unfinished(config, origin, folder):
            learn(config, origin, new, folder)
        if config.eval_episodes and i == 1 and config.mode != "scratch":  # the same then and now: origin is only read
            measure(origin, out / "before")
        if config.eval_episodes:
            measure(folder, folder)
        about = {"run": str(folder), "bytes_added": continual.size(folder) - continual.size(origin)}
        origin = folder
        history.append(checkpoint.read_config(folder)["adapted"][-1] | about)
    written = [stage["run"] for stage in history]
    summary = {"run": str(origin), "seconds": sum(stage["seconds"] for stage in history), "wrote": written}
    if config.eval_episodes:
        measured = continual.metrics(success, history)
        result = {"success": success, "expert": experts, "stages": history, **measured}
        write_json(out / "adaptation.json", result | provenance(config.seed, str(device)))
        matrix = figures.success_matrix({"": result}, out / "figures" / "matrix.png")
        written += [str(out / "adaptation.json"), str(matrix)]
        summary |= measured
    return summary


if __name__ == "__main__":
    run(lambda: main(parse(AdaptConfig)))
