"""Growing a policy: more components, more tasks, and at first the same function. Freezing what must not move.

    old policy (K components, its tasks)  --grow-->  new policy (K + n components, old and new tasks)

A new component starts as a copy of an old one ("upcycling"): it knows how to move already, and only has to learn what
is different. If its row of the router is a copy too, with log 2 taken off both (softmax), the two share what the one
had, and the grown policy does what the old one did, up to rounding: learning begins where the old policy ends. (With
the affine router, or a random start, it begins elsewhere.)

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

from checkpoint import build_policy
from cli import BadInput, numbers, say


def grow(variant: str, policy, tasks: list[str], count: int, start: str, exact: bool):
    """A larger policy that begins as the same function. -> (the variant that it is, the policy).

    Args:
        variant, policy: the policy's file ("fdp", "staged", or a fork) and the policy.
        tasks: names to add. They start with the mean of the known tasks' embeddings.
        count: n, components to add; 0 for none.
        start: "random", or the number of the component that the new ones copy.
        exact: as a new stage with a router of its own (variants/staged.py).

    Raises BadInput for components whose parameters have no leading K axis, and for more than fit into memory.
    """
    old = policy.config
    if count and not all(len(p) == old.components for p in policy.components.parameters()):
        raise BadInput(f"policy '{variant}' cannot grow: its components' parameters have no leading K axis")
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
        if count and start != "random":
            for p in grown.components.parameters():
                p[old.components :] = p[int(start)]
            copy_router_row(newest_router(grown), int(start), old.components)
    return variant, grown


def newest_router(policy) -> nn.Module:
    """The router that serves new tasks: the only one, or the last stage's."""
    return policy.router[-1] if isinstance(policy.router, nn.ModuleList) else policy.router


def copy_router_row(router, start: int, K: int) -> None:
    """Components K, K+1, ... get the logits of component `start`, and share its weight with it."""
    last = router.net[-1]
    copies = len(last.weight) - K
    last.weight[K:], last.bias[K:] = last.weight[start], last.bias[start]
    sharing = [start, *range(K, K + copies)]
    if router.mode == "softmax":  # exp(logit - log m) is an m-th of the weight
        last.bias[sharing] -= math.log(1 + copies)
    elif router.mode == "raw":
        last.weight[sharing] /= 1 + copies
        last.bias[sharing] /= 1 + copies
    # affine: subtracts the mean over all logits, which new rows change; it starts near the old function, not at it


@torch.no_grad()
def most_used(policy, observations: Tensor) -> int:
    """The component with the largest mean weight on a new task's demonstrations (N, O), before it has a name.

    The new task stands where `grow` will put it, at the mean of the known tasks' embeddings.
    """
    condition = policy.encoder(policy.normalizer.observation(observations))
    if policy.config.task_conditioning == "name":
        condition = condition + policy.task_embedding.weight.mean(0)
    return int(policy.weigh(condition).mean(0).argmax())


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


def outside(normalizer, observations: Tensor) -> str:
    """How far new observations (N, O) leave the range that the normaliser was fitted to, in words."""
    scaled = (normalizer.add_differences(observations) - normalizer.observation_mean) / normalizer.observation_scale
    beyond = (scaled.abs() - normalizer.CLIP).clamp(min=0)
    share, most = (beyond > 0).float().mean().item(), beyond.max().item()
    return f"{share:.1%} of its numbers are outside the normaliser's range, by up to {most:.1f} scales, and clipped"


def prepare(config, variant: str, policy, tasks: list[str], observations) -> tuple:
    """Grow the policy and freeze what the mode leaves alone. -> (variant, policy, {part: (parameters, trained)})."""
    known, K = len(policy.config.tasks), policy.config.components
    if config.mode == "scratch":
        variant = "fdp" if variant == "staged" else variant
        settings = {k: v for k, v in asdict(policy.config).items() if k != "stages"} | {"tasks": tasks}
        grown = build_policy(variant, settings)
    else:
        start = str(most_used(policy, observations)) if config.start_from == "most-used" else config.start_from
        new = config.new_components if config.mode == "add-component" else 0
        variant, grown = grow(variant, policy, tasks, new, start, config.retain == "exact")
        if new:
            say(f"new components start {'at random' if start == 'random' else f'as copies of component {start}'}")
    if config.mode in ("full", "scratch"):
        return variant, grown, {name: (count(p), count(p)) for name, p in grown.named_children() if count(p)}
    subset = list(range(K, grown.config.components))
    if config.mode == "components":
        subset = numbers(config.train_components, K, "--train-components")
    return variant, grown, train_only(grown, subset, list(range(known, known + len(tasks))), config.train_encoder)
