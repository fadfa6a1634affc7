"""Growing a policy: more components, more tasks, and at first the same function. Freezing what must not move.

    old policy (K components, its tasks)  --grow-->  new policy (K + n components, old and new tasks)

A new component starts as a copy of an old one ("upcycling"): it knows how to move already, and only has to learn what
is different. If its row of the router is a copy too, with log 2 taken off both (softmax), the two share what the one
had, and the grown policy does what the old one did, up to rounding: learning begins where the old policy ends. (With
the affine router, or a random start, it begins elsewhere.) Several new ones copy different components: twins with the
same weight would get the same gradient, and stay one component forever.

Frozen means out of the optimiser. Setting gradients to zero is not enough: AdamW's weight decay moves a parameter
whose gradient is zero, and so does its momentum. But K components share one tensor with a leading K axis, of which
an optimiser gets all or nothing; so `only_rows` makes the rows that train a parameter of their own.

Axis legend: K components before growing, n new ones, B batch, C condition dim.
"""

import math
import os
from dataclasses import asdict

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn.utils import parametrize

from checkpoint import build_policy, load_policy, read_config
from cli import BadInput, numbers, say


def grow(variant: str, policy, tasks: list[str], count: int, copied: list[int], exact: bool):
    """A larger policy that begins as the same function. -> (the variant that it is, the policy).

    Args:
        variant, policy: the policy's file ("fdp", "staged", or a fork) and the policy.
        tasks: names to add. They start with the mean of the known tasks' embeddings.
        count: n, components to add; 0 for none.
        copied: which component each new one copies, all different; none to start at random.
        exact: as a new stage with a router of its own (variants/staged.py).

    Raises BadInput for more components than fit into memory.
    """
    old = policy.config
    size = sum(p[0].numel() for p in policy.components.parameters())
    if 32 * size * count > os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):  # with gradient, moments, average
        raise BadInput(f"{count} new components of {size:,} parameters do not fit into this machine's memory")
    settings = asdict(old) | {"tasks": [*old.tasks, *tasks], "components": old.components + count}
    state = dict(policy.state_dict())
    if exact:
        stages = [(k, list(names)) for k, names in getattr(old, "stages", [(old.components, old.tasks)])]
        settings["stages"] = [*stages, (old.components + count, list(tasks))]
        if variant == "fdp":
            state = {name.replace("router.", "router.0.") if name.startswith("router.") else name: value
                     for name, value in state.items()}  # fmt: skip
        newest, added = f"router.{len(stages) - 1}.", f"router.{len(stages)}."
        state |= {name.replace(newest, added): value for name, value in state.items() if name.startswith(newest)}
        variant = "staged"

    grown = build_policy(variant, settings)
    with torch.no_grad():
        for name, value in grown.state_dict().items():
            value[: len(state[name])].copy_(state[name])  # new rows keep what `build` drew for them
        if old.task_conditioning == "name":
            known = grown.task_embedding.weight[: len(old.tasks)]
            grown.task_embedding.weight[len(old.tasks) :] = known.mean(0)
        if copied:
            for p in grown.components.parameters():
                p[old.components :] = p[copied]
            copy_router_rows(newest_router(grown), copied, old.components)
    return variant, grown


def newest_router(policy) -> nn.Module:
    """The router that serves new tasks: the only one, or the last stage's."""
    return policy.router[-1] if isinstance(policy.router, nn.ModuleList) else policy.router


def copy_router_rows(router, copied: list[int], K: int) -> None:
    """Components K, K+1, ... get the logits of those that they copy, and each pair shares what the one had."""
    last = router.net[-1]
    last.weight[K:], last.bias[K:] = last.weight[copied], last.bias[copied]
    sharing = [*copied, *range(K, K + len(copied))]
    if router.mode == "softmax":  # exp(logit - log 2) is half of the weight
        last.bias[sharing] -= math.log(2)
    elif router.mode == "raw":
        last.weight[sharing] /= 2
        last.bias[sharing] /= 2
    # affine: subtracts the mean over all logits, which new rows change; it starts near the old function, not at it


@torch.no_grad()
def most_used(policy, observations: Tensor, count: int) -> list[int]:
    """The components with the largest mean weights on a new task's demonstrations (N, O), before it has a name.

    The new task stands where `grow` will put it, at the mean of the known tasks' embeddings.
    """
    condition = policy.encoder(policy.normalizer.observation(observations))
    if policy.config.task_conditioning == "name":
        condition = condition + policy.task_embedding.weight.mean(0)
    return policy.weigh(condition).mean(0).topk(count).indices.tolist()


class _Rows(nn.Module):
    """A tensor of which some rows are learned and the others are constants, out of any optimiser's reach."""

    def __init__(self, whole: Tensor, rows: list[int]):
        super().__init__()
        self.register_buffer("whole", whole.detach().clone())
        self.register_buffer("rows", torch.tensor(rows, device=whole.device))

    def forward(self, learned: Tensor) -> Tensor:
        return self.whole.index_copy(0, self.rows, learned)

    def right_inverse(self, whole: Tensor) -> Tensor:
        return whole[self.rows]


def only_rows(module: nn.Module, rows: list[int]) -> None:
    """Of every parameter in the module, let only these rows (components, or tasks) learn. Undone by `release`."""
    for part in list(module.modules()):
        for name, parameter in list(part.named_parameters(recurse=False)):
            parameter.requires_grad_(True)
            parametrize.register_parametrization(part, name, _Rows(parameter, rows))


def release(module: nn.Module) -> None:
    """Make whole tensors of the rows again, with what was learned in its place."""
    for part in list(module.modules()):
        if parametrize.is_parametrized(part):
            for name in list(part.parametrizations):
                parametrize.remove_parametrizations(part, name, leave_parametrized=True)


def train_only(policy, components: list[int], tasks: list[int], encoder: bool) -> dict[str, tuple[int, int]]:
    """Freeze all but the newest router, these components, these tasks' embeddings, and the encoder if asked.

    Returns part -> (parameters, parameters that learn).
    """
    totals = {name: count(part) for name, part in policy.named_children()}
    policy.requires_grad_(False)
    policy.encoder.requires_grad_(encoder)
    newest_router(policy).requires_grad_(True)
    if components:
        only_rows(policy.components, components)
    if policy.config.task_conditioning == "name":
        only_rows(policy.task_embedding, list(tasks))
    return {name: (totals[name], count(part, learning=True)) for name, part in policy.named_children() if totals[name]}


def count(module: nn.Module, learning: bool = False) -> int:
    """Its parameters; or only those that learn."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not learning)


def outside(normalizer, observations: Tensor, actions: Tensor) -> str:
    """How far new observations (N, O) and actions (N, H, A) leave what the normaliser was fitted to, in words.

    Actions matter more: samplers clip to [-1, 1], so that a policy which saw only a closed gripper cannot open it.
    """
    scaled = (normalizer.add_differences(observations) - normalizer.observation_mean) / normalizer.observation_scale
    found = []
    for kind, value, limit in (("observed", scaled, normalizer.CLIP), ("action", normalizer.action(actions), 1 + 1e-4)):
        beyond = (value.abs() - limit).clamp(min=0)
        share, most = (beyond > 0).float().mean().item(), beyond.max().item()
        found.append(f"{share:.1%} of its {kind} numbers (by up to {most:.1f} scales)")
    return f"{' and '.join(found)} are outside the normaliser's range, and clipped"


def check_source(config, origin, tasks: list[str], device) -> None:
    """Refuse what this run cannot do, before demonstrations are made."""
    variant, policy = read_config(origin)["policy"], load_policy(origin, device)
    if again := [task for task in tasks if task in policy.config.tasks]:
        raise BadInput(f"the run in {origin} knows '{', '.join(again)}' already")
    if variant == "staged" and config.retain != "exact" and config.mode != "scratch":
        raise BadInput(f"the run in {origin} keeps its stages exactly: go on with --retain exact")
    if config.retain == "exact" and variant not in ("fdp", "staged"):
        raise BadInput(f"--retain exact is made for policy fdp, and this run has policy '{variant}'; use replay")
    if config.mode not in ("full", "scratch") and not hasattr(policy, "router"):
        raise BadInput(f"policy '{variant}' has no router: use --mode full or scratch")
    K, new = policy.config.components, config.new_components
    if config.mode in ("add-component", "components"):
        if not all(len(p) == K for p in policy.components.parameters()):
            raise BadInput(f"policy '{variant}' has components without a leading K axis: use --mode router or full")
    if config.mode == "components":
        numbers(config.train_components, K, "--train-components")
    if config.start_from == "most-used" and new > K:
        raise BadInput(f"--new-components copy different components, and this run has {K}: at most {K}, got {new}")
    if config.start_from not in ("most-used", "random"):
        if len(numbers(config.start_from, K, "--start-from, if not most-used or random,")) != new:
            raise BadInput(f"--start-from must name {new}, one for each new component, got '{config.start_from}'")


def prepare(config, variant: str, policy, tasks: list[str], observations) -> tuple:
    """Grow the policy and freeze what the mode leaves alone.

    -> (variant, policy, {part: (parameters, trained)}, which components the new ones copy).
    """
    known, K, copied = len(policy.config.tasks), policy.config.components, []
    if config.mode == "scratch":
        variant = "fdp" if variant == "staged" else variant
        settings = {k: v for k, v in asdict(policy.config).items() if k != "stages"} | {"tasks": tasks}
        grown = build_policy(variant, settings)
    else:
        new = config.new_components if config.mode == "add-component" else 0
        if new and config.start_from == "most-used":
            copied = most_used(policy, observations, new)
        elif new and config.start_from != "random":
            copied = numbers(config.start_from, K, "--start-from")
        variant, grown = grow(variant, policy, tasks, new, copied, config.retain == "exact")
        if new:
            say(f"new components start as copies of {copied}" if copied else "new components start at random")
    if config.mode in ("full", "scratch"):
        return variant, grown, {name: (count(p), count(p)) for name, p in grown.named_children() if count(p)}, copied
    subset = list(range(K, grown.config.components))
    if config.mode == "components":
        subset = numbers(config.train_components, K, "--train-components")
    parts = train_only(grown, subset, list(range(known, known + len(tasks))), config.train_encoder)
    return variant, grown, parts, copied
