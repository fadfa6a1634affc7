"""A policy that has learned in stages: every task keeps the components, the router and the encoder it was learned with.

Written by `adapt.py --retain exact`, on top of any policy that keeps the K axis (`base`). A stage adds components and a
router of its own, and a low-rank adapter of the encoder (`LoRA`, below). Tasks of earlier stages never see them:
each is served by a *view* of the policy, which has its stage's router and adapter and those K_s components that its
stage knew, in products of the same shapes as then, so that its actions stay what they were, bit for bit, and its
success cannot change. (For the same rows in a batch: which rows share a matrix product decides how sums are rounded,
here as with any policy, in the seventh digit.)
The price: the task's name must be given, and every stage stores its own router and adapter.

A stage may use all components before it, or only those of the first policy. In the second case its cost does not grow
with the number of stages, and skills.py can move it, as a *skill*, to any other copy of the first policy.
"""

import functools
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor

from plumbing.observations import check_rows
from plumbing.runs import load_variant


def PolicyConfig(base: str = "fdp", **settings):  # noqa: N802  (a variant has both names)
    return on_top_of(base)[1](base=base, **settings)


def Policy(config):  # noqa: N802
    return on_top_of(config.base)[0](config)


@functools.cache
def on_top_of(base: str):
    """The staged policy and its configuration for a policy in fdp.py ("fdp") or variants/."""
    module = load_variant(base)

    @dataclass
    class StagedConfig(module.PolicyConfig):
        base: str = "fdp"
        # (which components a stage uses, the tasks it learned); a number stands for the first so many
        stages: tuple[tuple[int | list[int], list[str]], ...] = ()
        ranks: tuple[int, ...] = ()  # of each stage's adapter of the encoder; 0: none

    class StagedPolicy(module.Policy):
        def build(self) -> None:
            """The base's parts; of its router one for each stage, and an adapter of the encoder (`LoRA`). ValueError
            for stages that do not name every component and task."""
            c = self.config
            used, tasks = [components_of(k) for k, _ in c.stages], [task for _, names in c.stages for task in names]
            if tasks != list(c.tasks) or set().union(*used) != set(range(c.components)) or not all(used):
                raise ValueError(f"stages {c.stages} do not fit {c.components} components and the tasks {c.tasks}")
            super().build()
            routers = []
            for own in used:
                smaller = _share(self, module.Policy, config=replace(c, components=len(own)))
                module.Policy.build(smaller)  # what its router looks like, only the base knows
                routers.append(smaller.router)
            self.router = nn.ModuleList(routers)
            self.residual = nn.ModuleList([LoRA(self.encoder, rank) for rank in c.ranks])

        def at(self, stage: int):
            """The policy as one stage left it: a view on shared tensors, which changes no state of this one. Without
            the cache of `made_of` it is the base's policy with router[s], encoder + LoRA[s] and components[own]."""
            c, own = self.config, components_of(self.config.stages[stage][0])
            encoder, components, residual = self.encoder, self.components, self.residual[stage]
            modules = {**self._modules, "router": self.router[stage]}
            modules["encoder"] = self.made_of(
                ("encoder", stage), (encoder, residual), lambda: _replaced(encoder, residual.weights(encoder))
            )
            if len(own) < c.components:
                modules["components"] = self.made_of(
                    ("components", *own), (components,), lambda: some(components, own, c.components)
                )
            return _share(self, module.Policy, _modules=modules, config=replace(c, components=len(own)))

        def made_of(self, name: tuple, parts: tuple[nn.Module, ...], make) -> nn.Module:
            """make(), cached for as long as these parts do not change, as while acting. In-place changes raise a
            tensor's `_version`; replacing or moving it changes its address. Fused optimisers do not raise `_version`:
            so a call with gradients enabled clears the cache. Tensors of `torch.inference_mode` have none: no cache."""
            tensors = [x for part in parts for x in (*part.parameters(), *part.buffers())]
            if torch.is_grad_enabled() or any(x.is_inference() for x in tensors):
                self.__dict__.pop("kept", None)
                return make()
            state = [self.training, *((x.data_ptr(), x._version) for x in tensors)]
            kept = self.__dict__.setdefault("kept", {})
            if name not in kept or kept[name][0] != state:
                kept[name] = state, make()
            return kept[name][1]

        def task_index(self, names: list[str]) -> Tensor:
            """As the base does, but a name is needed even where the network sees none: it decides on the stage."""
            for name in names:
                if name not in self.config.tasks:
                    known = ", ".join(self.config.tasks)
                    raise ValueError(f"this policy does not know task '{name}'; it knows {known}")
            return super().task_index(names)

        def encode(self, observation: dict[str, Tensor], task: Tensor) -> Tensor:
            """{part: (B, *shape)}, (B,) -> (B, C): what the newest stage sees, which training is about."""
            return self.at(-1).encode(observation, task)

        def weigh(self, condition: Tensor, step: Tensor | None = None) -> Tensor:
            """(B, C) -> (B, K): the newest stage's router."""
            return self.at(-1).weigh(condition, step)

        def loss(self, *batch) -> tuple[Tensor, dict]:
            """The newest stage's."""
            return self.at(-1).loss(*batch)

        @torch.no_grad()
        def act(self, observation, tasks, sampler_name=None, sampling_steps=None, noise=None, generator=None):
            """As the base does, stage by stage. Weights (B, K): zero for components that a stage did not know."""
            c = self.config
            check_rows(observation, c.observation, tasks)
            self.task_index(tasks)  # refuses names that no stage knows
            if noise is None:
                noise = torch.randn((len(tasks), c.horizon, c.action_dim), generator=generator, device=self.device)
            actions = np.empty((len(tasks), c.horizon, c.action_dim), np.float32)
            weights = np.zeros((len(tasks), c.components), np.float32)
            for stage, (used, names) in enumerate(c.stages):
                rows = [i for i, task in enumerate(tasks) if task in names]
                if rows:
                    seen = {name: np.asarray(observation[name])[rows] for name in c.observation}
                    names_of_rows = [tasks[i] for i in rows]
                    actions[rows], weights[np.ix_(rows, components_of(used))] = self.at(stage).act(
                        seen, names_of_rows, sampler_name, sampling_steps, noise[rows], generator
                    )
            return actions, weights

    StagedPolicy.__module__ = StagedConfig.__module__ = __name__
    return StagedPolicy, StagedConfig


class LoRA(nn.Module):
    """A low-rank adapter of a frozen encoder, so that a new task may see what no old one needed: W + A @ B in the place
    of each weight W, b + d in that of its bias b (Hu et al. 2021, arXiv 2106.09685, section 4.1, with its letters
    swapped: paper and `peft` write W + B A. A and B are these matrices here, not the axes of the legend.)

    A (outputs, r) and d start at zero, so learning begins with the encoder as it was. B (r, inputs) starts random: if
    both were zero, neither would get a gradient. The encoder itself never changes, and neither does what old tasks see.

    Args:
        encoder: any module; its linear layers and convolutions are adapted, all else stays as it is.
        rank: r, for each layer: r (outputs + inputs) numbers instead of outputs * inputs. 0: none.
    """

    def __init__(self, encoder: nn.Module, rank: int):
        super().__init__()
        self.A, self.B, self.d = nn.ParameterList(), nn.ParameterList(), nn.ParameterList()
        for _, layer in self.layers(encoder) if rank else ():
            inputs = layer.weight[0].numel()
            self.A.append(torch.zeros(len(layer.weight), rank))
            self.B.append(torch.empty(rank, inputs).uniform_(-(inputs**-0.5), inputs**-0.5))
            self.d.append(torch.zeros(len(layer.weight) if layer.bias is not None else 0))

    def weights(self, encoder: nn.Module) -> dict[str, Tensor]:
        """Name -> adapted tensor, of the encoder's parameters that are adapted."""
        adapted, layers = {}, self.layers(encoder) if len(self.A) else []  # of rank 0: no A
        for (name, layer), A, B, d in zip(layers, self.A, self.B, self.d, strict=True):
            adapted[f"{name}.weight"] = layer.weight + (A @ B).view_as(layer.weight)
            if layer.bias is not None:
                adapted[f"{name}.bias"] = layer.bias + d
        return adapted

    @staticmethod
    def layers(encoder: nn.Module) -> list[tuple[str, nn.Module]]:
        """What can be adapted: layers that multiply their input by a matrix."""
        kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
        layers = [(name, layer) for name, layer in encoder.named_modules() if isinstance(layer, kinds)]
        if computed := [name for name, layer in layers if layer._parameters.get("weight") is None]:
            raise ValueError(f"the encoder's layer '{computed[0]}' computes its weight (spectral_norm, weight_norm), "
                             "to which no adapter can be added: --encoder-rank 0")  # fmt: skip
        return layers


def components_of(used: int | list[int]) -> list[int]:
    """Which components a stage uses: the first so many, or these."""
    return list(range(used)) if isinstance(used, int) else list(used)


def alive(config) -> list[int]:
    """The components to which a new stage's router, a copy of the newest one, gives weight (`spread_rows`)."""
    if not hasattr(config, "stages"):
        return list(range(config.components))
    used_now, known = [], 0
    for used, _ in config.stages:  # a list: it leans on the base, and not on other skills; a number: on all before it
        used_now = [*used_now, *range(known, used)] if isinstance(used, int) else list(used)
        known = max(known, *(k + 1 for k in components_of(used)))
    return used_now


def newest_router(policy) -> nn.Module:
    """The router that serves new tasks: the only one, or the last stage's."""
    return policy.router[-1] if hasattr(policy.config, "stages") else policy.router


def unstaged(config) -> dict:
    """The fields that the base's own config has."""
    return {name: value for name, value in asdict(config).items() if name not in ("base", "stages", "ranks")}


def as_first_stage(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A policy's tensors, under the names that they have where it is the first stage: its router is number 0."""
    first = "router."
    return {name.replace(first, f"{first}0.", 1) if name.startswith(first) else name: x for name, x in state.items()}


def add_stage(variant: str, old, settings: dict, state: dict[str, Tensor], tasks: list[str], rank: int) -> tuple:
    """One stage more: settings (a PolicyConfig's fields, grown already) and tensors of a policy -> the same, staged.

    The new stage's router and adapter of the encoder start as copies of the newest ones, where there are any: the
    stage begins as the function that the policy was. `old` is the config before growing.
    """
    before = [(k, list(names)) for k, names in getattr(old, "stages", [(old.components, old.tasks)])]
    ranks = [*getattr(old, "ranks", [0]), rank]  # the first policy needs no adapter
    settings = settings | {"stages": [*before, (settings["components"], list(tasks))], "ranks": ranks}
    if variant != "staged":
        settings["base"] = variant
        state = as_first_stage(state)
    for part in ("router", "residual"):
        newest, added = f"{part}.{len(before) - 1}.", f"{part}.{len(before)}."
        state = state | {name.replace(newest, added): x for name, x in state.items() if name.startswith(newest)}
    return "staged", settings, state


def _share(module: nn.Module, kind: type, **changes) -> nn.Module:
    """Another module on the same tensors. (nn.Module keeps all in __dict__; its inner dictionaries are copied.)

    Not torch.func.functional_call, which lends tensors to one call of `forward`: a stage is a whole policy, whose other
    methods, a fork's own among them, and whose config have to know of its components alone.
    """
    twin = object.__new__(kind)
    inner = {name: dict(module.__dict__[name]) for name in ("_modules", "_parameters", "_buffers")}
    twin.__dict__ = {**module.__dict__, **inner, **changes}
    return twin


def _replaced(module: nn.Module, tensors: dict[str, Tensor]) -> nn.Module:
    """The module with these tensors in the place of the parameters that have these names ("net.0.weight"), or itself
    where there are none. They may be computed from others, and gradients pass through them."""
    if not tensors:
        return module
    parameters = {name: tensors.get(name, x) for name, x in module._parameters.items()}
    inner = {}
    for part, child in module._modules.items():
        inside = {name.partition(".")[2]: x for name, x in tensors.items() if name.partition(".")[0] == part}
        inner[part] = _replaced(child, inside)
    return _share(module, type(module), _modules=inner, _parameters=parameters)


def some(module: nn.Module, own: list[int], K: int) -> nn.Module:
    """Only the components `own`: of every tensor with a K axis, their rows, as a view if they are the first."""
    which = slice(len(own)) if own == list(range(len(own))) else own

    def cut(tensors: dict) -> dict:
        return {name: t[which] if t is not None and t.ndim and len(t) == K else t for name, t in tensors.items()}

    inner = {name: some(part, own, K) for name, part in module._modules.items()}
    return _share(module, type(module), _modules=inner, _parameters=cut(module._parameters),
                  _buffers=cut(module._buffers))  # fmt: skip
