"""Teach a trained policy new tasks, by adding components, and measure what it forgets.

    python adapt.py --run runs/mt6 --tasks door-close                         # one new task, or several together
    python adapt.py --run runs/mt6 --sequence door-close,drawer-close         # one after another
    python adapt.py --sequence cw10                                           # the same, beginning with nothing

| mode          | what trains                                               | source                                   |
|---------------|-----------------------------------------------------------|------------------------------------------|
| add-component | new components, which start as copies, and the router     | FDP, arXiv 2512.21898                    |
| router        | the router (exact: the encoder's adapter, too)            | the paper's, with --encoder-rank 0       |
| components    | some of the existing components, and the router           | the paper's fine-tuning of a subset      |
| full          | everything; it may go on with known tasks, on other data  | the baseline that forgets the others     |
| scratch       | a fresh policy, on the new tasks alone                    | the baseline that transfers nothing      |

A *stage* is one round of learning: a task, or several together. A new task's embedding always trains. The encoder is
frozen, since frozen components rely on its output (not with full, scratch, --train-encoder). With `--retain exact`,
below, a stage adds a low-rank adapter to the encoder, used only for its own tasks: variants/staged.py, `LoRA`.

| retain | how old tasks are kept                                                   | what it costs                   |
|--------|--------------------------------------------------------------------------|---------------------------------|
| exact  | each keeps its router, components and encoder: actions are identical,    | a router and an adapter per     |
|        | bit for bit                                                              | stage; tasks must have names    |
| replay | a penalty on changed predictions, on a few stored old observations       | per task 10 kB, pictures 1.6 MB |
| paper  | not at all: the router trains on the new data only                       | whatever is forgotten           |

Read variants/staged.py (kept), `grow` (copied), `train_only` (frozen), `learn` (a stage); adaptation/stages.py: `main`.
Axis legend: K components before growing, n new ones, B batch
"""

from plumbing import interrupt  # isort: skip  (first: Ctrl-C while PyTorch loads is one line, no traceback)
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch.nn.utils import parametrize

import skills
from adaptation import refusals, stages
from adaptation.memory import Memory
from adaptation.rows import count, only_rows, release, share_weight, spread_rows
from encoder import join
from envs import elsewhere
from envs.demos import DATASET_ID, demonstrations, make_windows
from plumbing import machine, resume, runs
from plumbing.cli import numbers, parse, progress, run
from plumbing.log import Log, Usage
from train import Learner, Windows, average_decay, draw_noise, learning_rate
from variants.staged import add_stage, components_of, newest_router, unstaged

REPLAY_WEIGHT = 10.0  # coefficient of the squared change in predictions on old observations; 1 was no worse (LOG.md)


@dataclass
class AdaptConfig:
    """Learn new tasks from a trained run, into a new run; evaluate.py plays it like any other."""

    run: str = ""  # the run to start from; it is only read. Without one, a sequence's first task trains a fresh policy
    tasks: str = ""  # new tasks, learned together; with mode full also known ones
    sequence: str = ""  # or: new tasks, learned one after another, all known tasks evaluated after each
    mode: Literal["add-component", "router", "components", "full", "scratch"] = "add-component"  # what trains
    retain: Literal["exact", "replay", "paper"] | None = None  # for old tasks; default exact, paper if old parts train
    new_components: int = 1  # how many add-component adds, at each stage
    start_from: str = "most-used"  # new ones copy: most-used on the new demonstrations | random | numbers, such as 0,2
    train_components: str = ""  # with mode components: which
    lean_on: Literal["all", "base"] = "all"  # with retain exact, a stage uses all stages before it | the base alone
    encoder_rank: int | None = None  # with retain exact: rank of the encoder's adapter, 0 for none; default 16
    train_encoder: bool = False  # the authors' setting; it changes what old components see
    demos_per_task: int = 25  # the authors' baseline code has 100 for four tasks
    demo_draw: int = 0  # which of 20 disjoint sets of demonstrations, as in train.py
    copies: int | None = None  # made of each demo, objects moved (envs/elsewhere.py); default 100 for up to 3, else 0
    steps: int | None = None  # optimiser steps of a stage; default 2000 for each new task
    batch_size: int = 64
    lr: float = 1e-3  # schedule, weight decay, clipping and averaging are train.py's
    eval_episodes: int = 50  # per task, old and new, after each stage; 0 trains only
    eval_seed: int = 0  # which block of 10,000 evaluation episodes, as evaluate.py's --seed
    seed: int = 0
    device: str = "auto"  # auto | cpu | cuda
    data_dir: str = "data"
    dataset_id: str = DATASET_ID  # of the new tasks' demonstrations; as in train.py
    out: str = ""  # run folder; default runs/NAME-TASKS-MODE-RETAIN. A sequence has a folder per stage in it


# ---------------------------------------------------------------------------------------------- what is copied


def grow(policy, tasks: list[str], n: int, copied: list[int], rank: int | None):
    """A larger policy that begins as the same function: K + n components, old and new tasks.

    A new component starts as a copy of an old one ("upcycling"): it knows how to move already, and only has to learn
    what is different. Its router row is a copy too, and log 2 is subtracted from both logits (softmax): each gets half
    of the original weight, so the grown policy does what the old one did, up to rounding. (Exceptions: a random start;
    the affine router, whose mean shifts; top-k weights, of which half may drop out; a fork that scales its logits, or
    whose `compose` is no sum.)
    Several new ones copy different components: twins with the same weight would get the same gradient, forever.

    tasks: names to add, which start at the mean of the known embeddings (what is known stays); n: may be 0;
    copied: whom each new one copies, [] to start at random; rank: of the encoder's adapter, if this is a stage with its
    own (variants/staged.py), else None. BadInput for a fork whose components change size where there are more of them.
    """
    variant, old, state = policy.variant, policy.config, dict(policy.state_dict())
    settings = asdict(old) | {"tasks": list(dict.fromkeys([*old.tasks, *tasks])), "components": old.components + n}
    if rank is not None:
        variant, settings, state = add_stage(variant, old, settings, state, tasks, rank)
    grown = runs.build_policy(variant, settings)
    refusals.check_grown(state, grown.state_dict())
    with torch.no_grad():
        for name, value in grown.state_dict().items():
            if name in state:  # into the first rows and columns; those beyond keep what `build` drew at random
                value[tuple(map(slice, state[name].shape))] = state[name]
        if hasattr(old, "stages"):  # the copied router's rows were for some components, such as 0, 1, 5
            spread_rows(newest_router(grown), components_of(old.stages[-1][0]), old.components)
        if old.task_conditioning == "name":
            known = grown.task_embedding.weight[: len(old.tasks)]
            grown.task_embedding.weight[len(old.tasks) :] = known.mean(0)
        if copied:
            for name, x in policy.components.state_dict().items():  # buffers too: they may say what a component is
                if x.ndim and len(x) == old.components:
                    grown.components.state_dict()[name][old.components :] = x[copied]
            share_weight(newest_router(grown), copied, old.components)
    return grown.to(policy.device)


def named(policy, tasks: list[str]):
    """A copy that also knows these names, each at the mean of the known embeddings; nothing is learned."""
    return grow(policy, tasks, 0, [], getattr(policy.config, "ranks", [None])[-1])


@torch.no_grad()
def most_used(policy, observation, task: str, n: int) -> list[int]:
    """The components with the largest (signed) mean weights on a new task's demonstrations {part: (N, *shape)}."""
    larger = named(policy, [task]).eval()  # the router needs the name's embedding first
    each = max(len(x) // 512 + 1 if x.ndim == 4 else 1 for x in observation.values())  # all pictures would be gigabytes
    observation = {part: x[::each].to(policy.device) for part, x in observation.items()}
    index = larger.task_index([task]).to(policy.device).expand(len(next(iter(observation.values()))))
    return larger.weigh(larger.encode(observation, index)).mean(0).topk(n).indices.tolist()


# ---------------------------------------------------------------------------------------------- what is frozen


def train_only(policy, components: list[int], tasks: list[int], encoder: bool) -> dict[str, tuple[int, int]]:
    """Freeze all but the newest router and adapter of the encoder, these components, these tasks' embeddings, and,
    if asked, the encoder. -> part -> (parameters, parameters that learn).

    Frozen means out of the optimiser. Setting gradients to zero is not enough: AdamW's weight decay moves a parameter
    whose gradient is zero, and so does its momentum. So rows that learn become parameters of their own (`only_rows`).
    """
    totals = {name: count(part) for name, part in policy.named_children()}
    policy.requires_grad_(False)
    policy.encoder.requires_grad_(encoder)
    newest_router(policy).requires_grad_(True)
    if hasattr(policy.config, "stages"):
        policy.residual[-1].requires_grad_(True)
    if components:
        only_rows(policy.components, components)
    if policy.config.task_conditioning == "name":
        only_rows(policy.task_embedding, tasks)
    for part in policy.children():  # frozen parts run in eval mode: no dropout, no batch statistics of new data
        part.train(count(part, learning=True) > 0)
    return {name: (totals[name], count(part, learning=True)) for name, part in policy.named_children() if totals[name]}


def prepare(config: AdaptConfig, policy, tasks: list[str], demos: dict) -> tuple:
    """Grow the policy and freeze what the mode leaves alone. -> (policy, {part: (parameters, trained)}, whom new ones
    copy)."""
    known, K, copied = len(policy.config.tasks), policy.config.components, []
    if config.mode == "scratch":
        variant = policy.config.base if policy.variant == "staged" else policy.variant
        grown = runs.build_policy(variant, unstaged(policy.config) | {"tasks": tasks}).to(policy.device)
    else:
        new = config.new_components if config.mode == "add-component" else 0
        if new and config.start_from == "most-used":
            observations = join([make_windows(demos[task], 1)[0] for task in tasks])
            copied = most_used(policy, observations, tasks[0], new)  # any name: all begin at the same embedding
        elif new and config.start_from != "random":
            copied = numbers(config.start_from, K, "--start-from")
        grown = grow(policy, tasks, new, copied, config.encoder_rank)
        if config.retain == "exact":
            refusals.try_out(grown)  # now, rather than after the training
    if config.mode in ("full", "scratch"):
        return grown, {name: (count(p), count(p)) for name, p in grown.named_children() if count(p)}, copied
    subset = list(range(K, grown.config.components))
    if config.mode == "components":
        subset = numbers(config.train_components, K, "--train-components")
    parts = train_only(grown, subset, list(range(known, known + len(tasks))), config.train_encoder)
    return grown, parts, copied


# ---------------------------------------------------------------------------------------------- one stage


def learn(config: AdaptConfig, origin: Path, tasks: list[str], folder: Path, roller=None) -> None:
    """From the run in `origin`, which is only read, to one in `folder` that knows `tasks` too. roller: simulators."""
    refusals.check_finished(origin)
    weights = runs.weights_checksum(origin)
    policy = runs.load_policy(origin, device := machine.choose_device(config.device))
    policy, earlier = skills.take_apart(policy) if config.lean_on == "base" else (policy, [])
    asked_for = (tasks, config.demos_per_task, Path(config.data_dir), config.dataset_id, config.demo_draw)
    demos = demonstrations(*asked_for, policy.config.observation)

    # ---- Grow, freeze, and say what learns.
    torch.manual_seed(config.seed)
    grown, parts, copied = prepare(config, policy, tasks, demos)
    windows = Windows(grown, tasks, elsewhere.multiply(demos, config.copies, config.seed), device)
    if config.mode == "scratch":
        grown.encoder.fit(windows.observations)
    refusals.try_learning(config, grown, windows)
    memory = Memory(origin, policy, Path(config.data_dir)) if config.retain == "replay" else None
    going_on, report = (folder / resume.FILE).exists(), {"copied": copied, "source_weights": weights}
    if config.sequence and config.eval_episodes and not going_on:  # an interrupted stage has this behind it
        report |= stages.before_learning(named(policy, tasks), tasks, config.eval_episodes, config.eval_seed, roller)
    about = stages.begin(config, origin, folder, grown, parts, windows, report, going_on)

    # ---- The loop: train.py's, over fewer parameters.
    def loss(*batch):
        with parametrize.cached():  # frozen and learned rows are put together once a step, not at each use
            errors, terms = grown.loss(*batch)
            return errors, terms | ({"drift": (REPLAY_WEIGHT, memory.drift(grown))} if memory else {})

    torch.manual_seed(config.seed)  # again: what was evaluated before must not decide what is drawn
    learner = Learner(grown, config.lr, precision=about["adapted"][-1].get("precision", "auto"))
    data = resume.fingerprint(windows, *([memory.old] if memory else []))
    log = Log(folder, device, **(resume.restore(folder, learner, config.seed, data) if going_on else {}))
    usage = Usage(windows)
    save = partial(resume.save, folder, learner, log, data, weights=False)
    for step in interrupt.steps(progress(range(log.start, config.steps), unit="step", desc=", ".join(tasks)), save):
        observation, task, actions = windows.sample(config.batch_size)
        batch, rate = (observation, task, actions, *draw_noise(grown, actions)), learning_rate(config, step)
        grown.progress = step / config.steps
        losses, norm = learner.step(loss, batch, rate, average_decay(step))
        log.add(losses)
        if (step + 1) % 50 == 0 or step == config.steps - 1:
            learner.check(step + 1)
            log.write(step + 1, lr=rate, grad_norm=norm.item(), **usage(grown))
        if (step + 1) % 1000 == 0 or step == config.steps - 1:
            save(step + 1)
    log.close()
    learner.adopt_average()
    release(grown)  # frozen and learned rows back into one tensor, as fdp.py and the checkpoint know it

    # ---- Save. The weights come last: a folder that has them holds a finished stage.
    if memory:
        memory.save(folder, {task: make_windows(demos[task], 1)[0] for task in tasks})
    stages.finish(folder, about, grown, earlier, config.steps, log.seconds)


if __name__ == "__main__":
    run(lambda: stages.main(parse(AdaptConfig), learn))  # checks; for each stage: `learn`, then plays all known tasks
