"""Every seam that a fork can use, each by a fork that uses it: the encoder, the sampler, loss terms, the router's step,
stages, and what the log says of them.

The environment is tests/toy.py's point where something has to be trained: no physics, so a run takes a second.
"""

import contextlib
import copy
import dataclasses
import importlib.util
import json
import math
import os
import re
import shutil
import struct
import subprocess
import sys
import types
from typing import Literal

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn as nn
from conftest import ROOT, command

import adapt
import adaptation.refusals
import evaluate
import fdp
import sampler
import skills
import train
import variants.staged
from envs.demos import demonstrations
from envs.metaworld import DIFFERENCES, PARTS
from plumbing import cli, figures, folders, limits, log, runs
from plumbing.cli import BadInput, run
from plumbing.log import Usage, read_log, usage_entropy
from variants import flow

TINY = ["--tasks", "toy:Point-v0", "--batch-size", 8, "--demos-per-task", 5, "--components", 3, "--device", "cpu"]
ONES = (1.0, 1.0, 1.0, 1.0)
SMALL = {"observation": PARTS, "action_low": tuple(-x for x in ONES), "action_high": ONES, "tasks": ["reach", "push"],
         "components": 4, "channels": (8, 16), "condition_dim": 16, "differences": DIFFERENCES}  # fmt: skip


def make(variant="fdp", **changes):
    """A small policy with MetaWorld's observations, the same one every time."""
    torch.manual_seed(0)
    return runs.build_policy(variant, SMALL | changes).eval()


def seen(n: int, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {part: torch.randn((n, *shape), generator=generator) for part, shape in PARTS.items()}


def batch(policy, n: int = 6, seed: int = 0) -> tuple:
    """What `Policy.loss` takes: observation, task, actions, step, noise."""
    g = torch.Generator().manual_seed(seed)
    actions = torch.rand((n, 8, 4), generator=g) * 2 - 1
    task, step = torch.arange(n) % 2, torch.randint(0, policy.config.diffusion_steps, (n,), generator=g)
    return seen(n, seed), task, actions, step, torch.randn(actions.shape, generator=g)


def act(policy, n: int = 4, observation=None, **how) -> tuple[np.ndarray, np.ndarray]:
    noise = torch.randn((n, 8, 4), generator=torch.Generator().manual_seed(7))
    return policy.act(seen(n) if observation is None else observation, ["reach", "push"] * (n // 2), noise=noise, **how)


def same(one, other) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


USUAL_LOAD = runs.load_variant  # of which a fixture makes another one


def with_policy(kind: type, config: type = fdp.PolicyConfig):
    """A fork as a module, as if it were a file in variants/."""
    return types.SimpleNamespace(Policy=kind, PolicyConfig=config)


class NormEncoder(nn.Module):
    """What an encoder for cameras would have: statistics that move while it learns."""

    def __init__(self, parts: dict, condition_dim: int):
        super().__init__()
        self.parts = list(parts)
        size = sum(math.prod(shape) for shape in parts.values())
        self.norm, self.net = nn.BatchNorm1d(size), nn.Linear(size, condition_dim)

    def fit(self, observation):
        """Nothing: it takes them as it goes."""

    def forward(self, observation):
        return self.net(self.norm(torch.cat([observation[part].flatten(1) for part in self.parts], dim=-1)))


class NormPolicy(fdp.Policy):
    def build_encoder(self):
        return NormEncoder(self.config.observation, self.config.condition_dim)


def copy_of_fdp():
    spec = importlib.util.spec_from_file_location("variants.twin", ROOT / "fdp.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for it there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", autouse=True)
def my_forks():
    """variants/twin.py, a copy of fdp.py, and variants/norm.py, as far as any code can tell. (Not mine.py: that is the
    name which readers are told to take, and `-k mine` has to try theirs.)"""
    patch, usual = pytest.MonkeyPatch(), runs.load_variant
    mine = {"twin": copy_of_fdp(), "norm": with_policy(NormPolicy)}
    for module in (runs, variants.staged):
        patch.setattr(module, "load_variant", lambda name: mine[name] if name in mine else usual(name))
    yield mine
    patch.undo()
    variants.staged.on_top_of.cache_clear()  # or it would know this "twin" forever
    del sys.modules["variants.twin"]


# ------------------------------------------------------------------------------------------------ build_encoder


def test_a_policy_that_feels_its_hand_only_is_blind_to_the_rest():
    blind, sighted = make("proprioception"), make()
    before, elsewhere = seen(4), seen(4, seed=1)
    moved = elsewhere | {"proprioception": before["proprioception"]}
    assert same(act(blind, observation=before), act(blind, observation=moved))
    assert not np.allclose(act(blind, observation=before)[0], act(blind, observation=elsewhere)[0])
    assert not np.allclose(act(sighted, observation=before)[0], act(sighted, observation=moved)[0])
    assert blind.encoder.mean.shape == (2 * 4,)  # two frames of four numbers, and nothing else has statistics


def test_it_says_where_there_is_no_hand():
    with pytest.raises(BadInput, match="give point, goal, and no part named 'proprioception'"):
        make("proprioception", observation={"point": (2,), "goal": (2,)}, differences=())


@pytest.fixture(scope="module")
def norm_run(data_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("forks") / "norm"
    command(train, "--policy", "norm", *TINY, "--steps", 20, "--eval-episodes", 0, "--data-dir", data_dir, "--out",
            folder)  # fmt: skip
    return folder


def test_an_encoder_with_statistics_of_its_own_trains(norm_run):
    state = safetensors.torch.load_file(norm_run / "model.safetensors")
    assert state["encoder.norm.num_batches_tracked"] == 20  # the trial step before the run is none of them
    # The demonstrations' positions lie around 0 with a spread of 0.5; the statistics began at mean 0, variance 1.
    assert 0.05 < state["encoder.norm.running_var"].mean() < 0.95 and state["encoder.norm.running_mean"].abs().max() > 0


def test_the_average_of_the_weights_has_the_statistics_of_the_same_steps():
    policy = make("norm").train()
    learner, decays = train.Learner(policy), (0.0, 0.4, 0.7)
    mean, weight = torch.zeros(()), torch.zeros(())
    for i, decay in enumerate(decays):
        learner.step(policy.loss, batch(policy, seed=i), 1e-2, decay)
        mean = decay * mean + (1 - decay) * policy.encoder.norm.running_mean
        weight = decay * weight + (1 - decay) * policy.encoder.net.weight.detach()
    state = learner.averaged_state()
    assert torch.allclose(state["encoder.norm.running_mean"], mean, atol=1e-6)
    assert torch.allclose(state["encoder.net.weight"], weight, atol=1e-6)
    assert not torch.allclose(mean, policy.encoder.norm.running_mean, atol=1e-3)  # or this would prove nothing
    learner.adopt_average()
    assert torch.allclose(policy.encoder.norm.running_mean, mean, atol=1e-6)


def test_growing_keeps_counters(norm_run):
    policy = runs.load_policy(norm_run)
    grown = adapt.grow(policy, ["toy:OtherPoint-v0"], 1, [0], rank=None)
    assert grown.encoder.norm.num_batches_tracked == 20
    assert torch.equal(grown.encoder.norm.running_var, policy.encoder.norm.running_var)
    adapt.train_only(grown, [3], [1], encoder=False)
    assert not grown.encoder.training and not grown.encoder.norm.training and grown.router.training


@pytest.mark.parametrize("more,moves", [([], False), (["--train-encoder"], True)])
def test_a_frozen_encoder_keeps_its_statistics_to_the_last_bit(norm_run, data_dir, tmp_path, more, moves):
    command(adapt, "--run", norm_run, "--tasks", "toy:OtherPoint-v0", *more, "--steps", 5, "--batch-size", 8,
            "--demos-per-task", 2, "--data-dir", data_dir, "--out", tmp_path / "run", "--eval-episodes", 0,
            "--device", "cpu")  # fmt: skip
    old, new = (safetensors.torch.load_file(folder / "model.safetensors") for folder in (norm_run, tmp_path / "run"))
    mine = [name for name in old if name.startswith("encoder.")]
    assert len(mine) == 7  # weight and bias twice, mean, variance, counter
    assert all(torch.equal(old[name], new[name]) != moves for name in mine)


# ------------------------------------------------------------------------------------------------ how it acts


class FlowOracle(flow.Policy):
    """It knows the action. On the straight line x = (1 - s) clean + s noise, the direction noise - clean is
    (x - clean) / s, wherever one stands."""

    def forward(self, noisy_actions, step, condition, weights=None):
        s = ((step + 1) / self.config.diffusion_steps)[:, None, None]
        return (noisy_actions - self.known) / s


@pytest.mark.parametrize("T,steps", [(100, 1), (100, 2), (100, 5), (100, 20), (100, 100), (10, 4), (7, 3), (4, None)])
def test_a_flow_that_knows_the_action_walks_to_it(T, steps):
    low, high = (-0.2, 0.0, -3.0, 5.0), (0.2, 1.0, 1.0, 6.0)
    settings = SMALL | {"action_low": low, "action_high": high, "diffusion_steps": T}
    policy = FlowOracle(flow.PolicyConfig(**settings)).eval()
    policy.known = torch.rand((4, 8, 4)) * 2 - 1
    actions, weights = act(policy, sampling_steps=steps)
    low, high = np.array(low), np.array(high)
    assert np.allclose(actions, low + (policy.known.numpy() + 1) / 2 * (high - low), atol=1e-5)
    assert weights.shape == (4, 4)
    # What it learns is the same line: the oracle has nothing left to learn.
    observation, task, _, step, noise = batch(policy, n=4)
    assert policy.loss(observation, task, torch.tensor(actions), step, noise)[0].max() < 1e-6


def test_a_flow_is_evaluated_as_what_it_is(data_dir, tmp_path):
    command(train, "--policy", "flow", *TINY, "--steps", 5, "--eval-episodes", 2, "--data-dir", data_dir, "--out",
            tmp_path / "run")  # fmt: skip
    result = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert (result["sampler"], result["sampling_steps"]) == ("euler", 5)
    for sampler_name in ("ddim", "dpm"):
        with pytest.raises(BadInput, match=f"unknown sampler '{sampler_name}'.*euler"):
            command(evaluate, "--run", tmp_path / "run", "--sampler", sampler_name, "--episodes", 2)
    with pytest.raises(BadInput, match="between 1 and the 100"):
        command(evaluate, "--run", tmp_path / "run", "--sampling-steps", 101, "--episodes", 2)


class Rebinding(fdp.Policy):
    """Makes a new tensor where it should change the one that it has, as is usual where nobody else holds it."""

    def build(self):
        super().build()
        self.register_buffer("seen", torch.zeros(()))

    def loss(self, *batch):
        self.seen = self.seen + 1
        return super().loss(*batch)


class RebindingLater(Rebinding):
    def loss(self, *batch):
        return super().loss(*batch) if self.progress > 0 else fdp.Policy.loss(self, *batch)


class Late(fdp.Policy):
    """Registers a buffer when it is first asked for a loss."""

    def loss(self, observation, task, actions, step, noise):
        if not hasattr(self, "spread"):
            self.register_buffer("spread", actions.std())
        return super().loss(observation, task, actions, step, noise)


class Forgetful(fdp.Policy):
    """Counts in a buffer that no file holds."""

    def build(self):
        super().build()
        self.register_buffer("counted", torch.zeros((), dtype=torch.long), persistent=False)
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]), persistent=False)  # may be there: it stays

    def loss(self, *batch):
        self.counted += 1
        return super().loss(*batch)


@pytest.mark.parametrize("kind,said", [
    (Forgetful, "changes 'counted' while it learns, and a run's file does not hold it"),
    (Rebinding, "loss replaces 'seen' by a new tensor: change it in place"),
    (RebindingLater, "has replaced 'seen' by a new tensor: change it in place"),
    (Late, "registers 'spread' when it is first asked for its loss"),
])  # fmt: skip
def test_a_fork_whose_buffers_would_be_saved_as_they_were_is_refused(kind, said, my_forks, data_dir, tmp_path):
    """Training averages, saves and restores the tensors that are there when it begins."""
    my_forks["rebinding"] = with_policy(kind)
    with pytest.raises(BadInput, match=said):
        command(train, "--policy", "rebinding", *TINY, "--steps", 5, "--eval-episodes", 0, "--data-dir", data_dir,
                "--out", tmp_path / "run")  # fmt: skip
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_an_action_is_for_somebody():
    for variant in ("fdp", "monolithic"):
        with pytest.raises(ValueError, match="got no task"):
            make(variant).act({part: x[:0] for part, x in seen(1).items()}, [])
    one = seen(2), ["reach", "push"]
    noise = torch.zeros(2, 8, 4)
    assert np.array_equal(make().act(*one, noise=noise)[0], make().act(*one, noise=noise.double())[0])


def test_the_usual_policy_does_not_know_euler():
    with pytest.raises(ValueError, match="unknown sampler 'euler'"):
        make().choose_sampler("euler")


# ------------------------------------------------------------------------------------------------ no diffusion


@pytest.mark.parametrize("body", ["mlp", "unet"])
@pytest.mark.parametrize("settings", [{}, {"components": 2}, {"channels": (128, 256, 512), "kernel": 5}])
def test_regression_is_of_the_same_size(settings, body):
    sizes = [sum(p.numel() for p in make(*how, **settings, **own).parameters())
             for how, own in ((["bc"], {"body": body}), (["fdp"], {}))]  # fmt: skip
    assert sizes[0] / sizes[1] == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("body", ["mlp", "unet"])
def test_regression_says_the_mean_of_two_ways(body):
    policy, (observation, task, actions, step, noise) = make("bc", body=body), batch(make())
    ways = torch.cat([actions, -actions])
    twice = {part: torch.cat([x, x]) for part, x in observation.items()}, torch.cat([task, task])
    learner = train.Learner(policy)
    for _ in range(150):
        learner.step(policy.loss, (*twice, ways, torch.cat([step, step]), torch.cat([noise, noise])), 1e-3, 0.0)
    said = policy.act({part: x.numpy() for part, x in observation.items()}, ["reach", "push"] * 3)[0]
    assert abs(said).max() < 0.1 < actions.abs().mean()
    assert same(act(policy), policy.act(seen(4), ["reach", "push"] * 2, noise=torch.zeros(4, 8, 4)))  # whatever noise
    for wrong in (("dpm", None), (None, 5)):
        with pytest.raises(ValueError, match="policy bc has no sampler"):
            policy.choose_sampler(*wrong)


# ------------------------------------------------------------------------------------------------ loss, with terms


def test_terms_are_added_with_their_coefficient():
    """The gradient of one step, against that of errors and term, taken apart and put together by hand."""
    policy = make("moe", top=2, balance=0.3)
    twin, inputs = copy.deepcopy(policy), batch(policy)
    losses, _ = train.Learner(policy, grad_clip=math.inf).step(policy.loss, inputs, 1e-3, 0.0)
    gradients = []
    for part in range(2):
        twin.zero_grad()
        errors, terms = twin.loss(*inputs)
        assert list(terms) == ["balance"] and terms["balance"][0] == 0.3
        (errors.mean() if part == 0 else terms["balance"][1]).backward()
        gradients.append({name: p.grad.clone() for name, p in twin.named_parameters() if p.grad is not None})
    assert set(losses) == {"loss", "balance", "skipped"}
    assert losses["loss"] == errors.mean() and losses["balance"] == terms["balance"][1]
    changed = 0
    for name, p in policy.named_parameters():
        of_errors, of_term = (g.get(name, torch.zeros_like(p)) for g in gradients)
        assert torch.allclose(p.grad, of_errors + 0.3 * of_term, atol=1e-6), name
        changed += not torch.allclose(p.grad, of_errors, atol=1e-5)
    assert changed > 0  # the term reaches something


@pytest.fixture(scope="module")
def moe_run(data_dir, tmp_path_factory):
    """A run with a loss term, and the figures that it drew."""
    folder, drawn = tmp_path_factory.mktemp("forks") / "moe", {}
    with pytest.MonkeyPatch.context() as patch:
        usual = figures.save
        patch.setattr(figures, "save", lambda figure, path: drawn.update({path.name: figure}) or usual(figure, path))
        command(train, "--policy", "moe", *TINY, "--steps", 10, "--log-every", 5, "--eval-episodes", 0, "--top", 2,
                "--selection", "multinomial", "--balance", 0.25, "--data-dir", data_dir, "--out", folder)  # fmt: skip
    return folder, drawn


def test_terms_are_logged_by_name_and_drawn(moe_run):
    folder, drawn = moe_run
    lines = read_log(folder / "log.jsonl")
    assert [line["step"] for line in lines] == [5, 10]
    assert all(1 <= line["balance"] <= 3 and line["balance"] != line["loss"] for line in lines)  # of 3 components
    curves = {line.get_label(): line.get_ydata() for line in drawn["training.png"].axes[0].lines}
    assert set(curves) == {"loss", "balance"}
    assert list(curves["balance"]) == [line["balance"] for line in lines]


def test_a_forks_own_fields_are_flags_and_are_kept(moe_run):
    config = runs.read_config(moe_run[0])["policy_config"]
    assert (config["top"], config["selection"], config["balance"]) == (2, "multinomial", 0.25)
    assert runs.load_policy(moe_run[0]).config.selection == "multinomial"


@pytest.mark.parametrize("words", [["--policy", "moe", "--help"], ["--policy=moe", "--help"]])
def test_its_flags_are_explained(words, capsys):
    with pytest.raises(SystemExit) as left:
        runs.parse_with_own_fields(train.TrainConfig, words)
    text = " ".join(re.sub(r"[─╭╮╰╯│]", " ", capsys.readouterr().out).split())
    assert left.value.code == 0 and "--balance" in text and "--top" in text and "{straight-through,multinomial}" in text
    assert "coefficient of the load-balancing term; 0 lets components die" in text
    assert "optimiser steps; default 2000 times the number of tasks" in text  # and the flags that all have


def test_they_are_nobody_elses_flags(capsys):
    with pytest.raises(SystemExit):
        run(lambda: command(train, *TINY, "--balance", 0.1))
    assert re.fullmatch(r"error: .*--balance.*\n", capsys.readouterr().err)
    with pytest.raises(BadInput, match="--top must be 1 or 2.* got 3"):
        make("moe", top=3)


def test_a_field_with_the_name_of_a_flag_is_refused(my_forks, monkeypatch):
    config = type("PolicyConfig", (fdp.PolicyConfig,), {"__annotations__": {"lr": float}, "lr": 0.5})
    monkeypatch.setitem(my_forks, "norm", with_policy(NormPolicy, dataclasses.dataclass(config)))
    with pytest.raises(BadInput, match="config field 'lr' has the name of a flag, or of what adapt.py adds; rename it"):
        runs.parse_with_own_fields(train.TrainConfig, ["--policy", "norm"])


def forked(base=fdp.PolicyConfig, **fields):
    """A config of one's own: name = (type, default)."""
    return dataclasses.make_dataclass("PolicyConfig", [(n, t, d) for n, (t, d) in fields.items()], bases=(base,))


OWN = {"components": (int, 2), "horizon": (int, 16), "executed": (int, 3), "router": (str, "affine"),
       "target": (str, "noise"), "task_conditioning": (str, "none"), "channels": (tuple[int, ...], (48, 96)),
       "kernel": (int, 7), "eye": (str, "tiny")}  # fmt: skip


@pytest.mark.parametrize("name", OWN)
def test_defaults_that_a_fork_changes_are_those_of_the_flags(name, my_forks, monkeypatch):
    """Everything that a flag, or --size, would overrule: with "condition_dim" and "diffusion_steps", which have none,
    these are all fields of the config that have a default."""
    monkeypatch.setitem(my_forks, "norm", with_policy(NormPolicy, forked(**{name: OWN[name]})))
    words = ["--policy", "norm", "--tasks", "reach", "--size", "base"]

    def settings(*more: str) -> dict:
        return train.policy_settings(runs.parse_with_own_fields(train.TrainConfig, [*words, *more]), ["reach"])

    usual = train.policy_settings(train.TrainConfig(tasks="reach", size="base"), ["reach"])
    assert settings() == usual | {name: OWN[name][1]} != usual
    if name not in train.SIZES["base"]:
        said = ["--" + name.replace("_", "-"), str(usual[name])]
        assert settings(*said)[name] == usual[name]  # what is typed counts


def test_these_are_all_that_a_fork_could_change():
    given = set(train.policy_settings(train.TrainConfig(tasks="reach", size="base"), ["reach"]))
    defaults = {f.name for f in dataclasses.fields(fdp.PolicyConfig) if f.default is not dataclasses.MISSING}
    assert set(OWN) == (given & defaults) - {"differences"} and defaults - given == {"condition_dim", "diffusion_steps"}


@dataclasses.dataclass
class KindsConfig(fdp.PolicyConfig):
    kinds: list[str] = dataclasses.field(default_factory=lambda: ["noise", "clean"])  # one for each component
    horizon: int = 16


def test_fields_of_a_config_of_ones_own(my_forks, monkeypatch, capsys):
    monkeypatch.setitem(my_forks, "norm", with_policy(NormPolicy, KindsConfig))
    words = ["--policy", "norm", "--tasks", "reach"]
    assert runs.parse_with_own_fields(train.TrainConfig, words).kinds == ["noise", "clean"]
    said = runs.parse_with_own_fields(train.TrainConfig, [*words, "--kinds", "noise", "velocity"])
    assert (said.kinds, said.horizon) == (["noise", "velocity"], 16)
    with pytest.raises(SystemExit):
        runs.parse_with_own_fields(train.TrainConfig, [*words, "--help"])
    told = " ".join(re.sub(r"[─╭╮╰╯│]", " ", capsys.readouterr().out).split())
    assert "one for each component (default: noise clean)" in told
    assert "H, actions per chunk" in told and "(default: 16)" in told  # train.py's words, and the fork's number
    # One that does not build on fdp.py's: nothing is a default there.
    whole = forked(object, **{name: (kind, dataclasses.MISSING) for name, (kind, _) in OWN.items()})
    monkeypatch.setitem(my_forks, "norm", with_policy(NormPolicy, whole))
    assert runs.parse_with_own_fields(train.TrainConfig, words).horizon == 8
    monkeypatch.setitem(my_forks, "norm", with_policy(NormPolicy, forked(object, needed=(int, dataclasses.MISSING))))
    with pytest.raises(BadInput, match="variants/norm.py: config field 'needed' needs a default, as it becomes a flag"):
        runs.parse_with_own_fields(train.TrainConfig, words)


@pytest.mark.parametrize("slip", ["undefined_name", "self.no_such_part", "len(3)", "import no_such_package"])
def test_a_slip_in_a_fork_is_not_called_a_damaged_run(slip, norm_run, my_forks, monkeypatch):
    made = {}
    exec(compile(f"def build(self):\n    {slip}\n", ROOT / "variants/norm.py", "exec"), made)
    kind = type("Policy", (NormPolicy,), {"build": made["build"]})
    monkeypatch.setitem(my_forks, "norm", with_policy(kind))
    with pytest.raises((NameError, AttributeError, TypeError, ImportError), match="no_such|undefined|int"):
        runs.load_policy(norm_run)  # with its traceback, which says where


def test_a_fork_that_has_changed_since_its_run(norm_run, my_forks, monkeypatch):
    def wider(self):
        NormPolicy.build(self)
        self.more = nn.Linear(2, 2)

    monkeypatch.setitem(my_forks, "norm", with_policy(type("Policy", (NormPolicy,), {"build": wider})))
    with pytest.raises(BadInput, match="does not fit its config.json, or variants/norm.py has changed since: Error"):
        runs.load_policy(norm_run)
    needed = forked(object, needed=(int, dataclasses.MISSING))
    monkeypatch.setitem(my_forks, "norm", with_policy(NormPolicy, needed))
    with pytest.raises(BadInput, match="config.json is damaged, or variants/norm.py has changed since"):
        runs.load_policy(norm_run)


def test_a_fork_that_was_edited_since_is_told(my_forks, monkeypatch, data_dir, tmp_path, capsys):
    """Where its tensors are as they were, nothing else would notice. And what is learned from such a run is of the old
    version, too; what the old version has played is not taken for the new one's."""
    (file := tmp_path / "variants" / "twin.py").parent.mkdir()
    (file.parent / "staged.py").touch()
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    read = runs.fork_checksum.__wrapped__  # as a new process: in this one it is remembered

    def edit(text: str) -> None:
        file.write_text(text)
        runs.fork_checksum.cache_clear()
        cli.say_once.cache_clear()
        capsys.readouterr()

    def told(run: str) -> int:
        cli.say_once.cache_clear()
        capsys.readouterr()
        runs.load_policy(tmp_path / run)
        words = f"variants/twin.py has changed since the run in {tmp_path / run} was begun: it may act otherwise"
        return capsys.readouterr().err.count(words)

    edit("clip = 1.0\n")
    flags = ["--batch-size", 8, "--eval-episodes", 2, "--data-dir", data_dir]
    training = ["--policy", "twin", *TINY, *flags, "--steps", 2]
    command(train, *training, "--out", tmp_path / "run")
    more = ["--run", tmp_path / "run", "--tasks", "toy:OtherPoint-v0,toy:Point-v0", *flags, "--demos-per-task", 2,
            "--steps", 2]  # fmt: skip
    command(adapt, *more, "--out", tmp_path / "same")
    assert "not played again" in capsys.readouterr().err and not (tmp_path / "same/before").exists()
    edit("clip = 2.0\n")
    command(adapt, *more, "--out", tmp_path / "more")
    assert "not played again" not in capsys.readouterr().err and (tmp_path / "more/before/evaluation.json").exists()
    command(skills, "--run", tmp_path / "more", "--take-off", "toy:OtherPoint-v0", "--out", tmp_path / "less")
    command(adapt, *more, "--mode", "scratch", "--out", tmp_path / "anew")
    assert {run: told(run) for run in ("run", "same", "more", "less", "anew")} == {
        "run": 1, "same": 1, "more": 1, "less": 1, "anew": 0}  # fmt: skip
    with monkeypatch.context() as patch:  # what is edited while a command runs is not what it runs
        patch.setattr(train, "demonstrations", lambda *a: (file.write_text("clip = 3.0\n"), demonstrations(*a))[1])
        command(train, *training, "--out", tmp_path / "late")
    assert runs.read_config(tmp_path / "late")["fork_checksum"] == runs.fork_checksum("twin") != read("twin")
    edit("clip = 2.0\n")
    command(train, *training, "--out", tmp_path / "run", "--resume")
    assert f"since the run in {tmp_path / 'run'} was begun: the rest is learned with what" in capsys.readouterr().err
    edit("clip = 1.0\n")  # as it was at first: but the last steps were others
    assert told("run") == 1 and told("same") == 0


def test_a_bug_in_a_fork_keeps_its_traceback(my_forks, monkeypatch):
    class Buggy(fdp.Policy):
        def build(self):
            raise TypeError("a slip of the pen")

    monkeypatch.setitem(my_forks, "norm", with_policy(Buggy))
    with pytest.raises(TypeError, match="slip of the pen"):
        make("norm")


def test_a_loss_may_take_gradients_itself():
    class Steep(fdp.Policy):
        def errors(self, condition, *more):
            return torch.autograd.grad(condition.square().sum(), condition)[0].square().mean(1)

    policy = Steep(make().config).eval()
    windows = types.SimpleNamespace(actions=torch.zeros(6, 8, 4), select=lambda index: batch(policy, len(index))[:3])
    found = log.loss_by_step(policy, windows, samples=6, points=3)
    condition = policy.encode(*batch(policy)[:2])
    assert list(found) == [0, 50, 99] and found[0] == pytest.approx(4 * condition.square().mean().item(), rel=1e-5)


# ------------------------------------------------------------------------------------------------ the sparse mixture


def balance_of(policy, bias, n: int = 6) -> float:
    """The load-balancing term where the router's probabilities are the softmax of `bias`, whatever it sees."""
    with torch.no_grad():
        policy.router.net[-1].weight.zero_()
        policy.router.net[-1].bias.copy_(torch.as_tensor(bias))
    return policy.loss(*batch(policy, n))[1]["balance"][1].item()


@pytest.mark.parametrize("top", [1, 2])
def test_the_balance_term_by_hand(top):
    policy = make("moe", top=top)
    assert balance_of(policy, torch.zeros(4)) == pytest.approx(top)  # uniform: 4 * (top shares in all) * 1/4
    assert balance_of(policy, torch.tensor([50.0, 0, 0, 0])) == pytest.approx(4)  # one has everything: 4 * 1 * 1
    share = np.array([0.5, 0.3, 0.15, 0.05])  # the first `top` are always selected
    assert balance_of(policy, np.log(share).astype(np.float32)) == pytest.approx(4 * share[:top].sum(), rel=1e-5)


def test_top_1_is_one_hot_and_learns_as_if_it_were_not():
    policy = make("moe", top=1)
    logits = torch.randn((5, 4), generator=torch.Generator().manual_seed(0), requires_grad=True)
    probabilities, value = logits.softmax(-1), torch.randn(5, 4)
    weights, selected = policy.sparse(probabilities)
    one_hot = torch.eye(4)[logits.argmax(-1)]
    assert torch.allclose(weights, one_hot, atol=1e-6) and torch.equal(selected, one_hot)
    (through,) = torch.autograd.grad((weights * value).sum(), logits, retain_graph=True)
    (direct,) = torch.autograd.grad((probabilities * value).sum(), logits)
    assert torch.equal(through, direct) and direct.abs().max() > 0


def test_top_2_shares_what_the_two_had():
    weights, _ = make("moe", top=2).sparse(torch.tensor([[0.1, 0.5, 0.1, 0.3]]))
    assert torch.allclose(weights, torch.tensor([[0, 0.625, 0, 0.375]]), atol=1e-6)


def test_multinomial_draws_while_training_and_never_when_acting():
    policy = make("moe", top=2, selection="multinomial")
    share = torch.tensor([0.6, 0.25, 0.1, 0.05])
    torch.manual_seed(0)
    policy.train()
    drawn = policy.select(share.expand(20_000, 4)).mean(0)
    # Two without replacement: k is first, or second after any other.
    wanted = [p + sum(q * p / (1 - q) for j, q in enumerate(share) if j != k) for k, p in enumerate(share)]
    assert torch.allclose(drawn, torch.stack(wanted), atol=0.015)
    policy.eval()
    state = torch.get_rng_state()
    assert torch.equal(policy.select(share.expand(3, 4)), torch.tensor([[1.0, 1, 0, 0]]).expand(3, 4))
    assert same(act(policy), act(policy)) and torch.equal(torch.get_rng_state(), state)
    assert ((act(policy)[1] > 0).sum(1) == 2).all()


# ------------------------------------------------------------------------------------------------ weigh alone


def test_weigh_alone_makes_a_baseline():
    """variants/uniform is fdp with a router that says 1/K: the same actions, the same gradients for all the rest."""
    uniform, usual = make("uniform"), make()
    usual.load_state_dict(uniform.state_dict())
    assert not np.allclose(act(uniform)[0], act(usual)[0])
    with torch.no_grad():  # softmax of zeros
        usual.router.net[-1].weight.zero_()
        usual.router.net[-1].bias.zero_()
    assert same(act(uniform), act(usual)) and (act(uniform)[1] == 0.25).all()
    for policy in (uniform, usual):
        policy.loss(*batch(policy))[0].mean().backward()
    for (name, mine), theirs in zip(uniform.named_parameters(), usual.parameters(), strict=True):
        if name.startswith("router"):
            assert mine.grad is None, name  # never asked, so it never learns
        else:
            assert torch.allclose(mine.grad, theirs.grad, atol=1e-7), name


# ------------------------------------------------------------------------------------------------ who draws what


# Every file in variants/, yours too, but what is not a policy of its own, or needs more than is installed, or pictures.
ALL = ["fdp", *sorted({path.stem for path in (ROOT / "variants").glob("[!_]*.py")} - {"staged", "lerobot", "lit"})]


@pytest.mark.parametrize("variant", [name for name in [*ALL, "norm"] if name != "bc"])  # whose errors have no noise
def test_the_loss_is_a_function_of_its_inputs(variant):
    policy = make(variant)
    policy.train()
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        found.append(policy.loss(*batch(policy))[0].detach())
        assert torch.equal(torch.get_rng_state(), state), "it drew something"
    assert torch.equal(*found) and found[0].shape == (6,)
    observation, task, actions, step, noise = batch(policy)
    other = policy.loss(observation, task, actions, step, noise + 0.1)[0]
    assert not torch.allclose(other, found[0])  # and of no fewer


@pytest.mark.parametrize("variant", ALL)
def test_what_is_looked_at_once_and_denoised_often_is_as_looked_at_each_time(variant):
    """Three rows of task, actions, step and noise for an observation: the losses of three batches, in the rows' order,
    with one look at every observation."""
    policy, looked = make(variant), []
    given = batch(policy)
    policy.encoder.register_forward_hook(lambda _, __, condition: looked.append(len(condition)))
    (observation, task, actions, *_), (steps, noises) = given, (torch.randint(0, 100, (6, 3)), torch.randn(6, 3, 8, 4))
    repeated = (x.repeat_interleave(3, 0) for x in (task, actions))
    found, _ = policy.loss(observation, *repeated, steps.flatten(), noises.flatten(0, 1))
    assert looked == [6]
    each = [policy.loss(observation, task, actions, steps[:, i], noises[:, i])[0] for i in range(3)]
    assert torch.allclose(found.view(6, 3), torch.stack(each, 1), atol=1e-5)
    assert variant == "bc" or not torch.allclose(each[0], each[1], atol=1e-3)


@pytest.mark.parametrize("module", [train, adapt])
def test_each_step_draws_index_step_noise_and_nothing_else(module, norm_run, data_dir, tmp_path, monkeypatch):
    """From the random state before the first batch, all batches of the run are drawn again, with the log in between."""
    states, windows, batches, rates = [], [], [], []
    sample, learn = train.Windows.sample, train.Learner.step

    def watched_sample(self, batch_size):
        states.append(torch.get_rng_state())
        windows.append(self)
        return sample(self, batch_size)

    def watched_step(self, loss_function, inputs, lr, decay):
        batches.append(inputs)
        rates.append((lr, decay))
        return learn(self, loss_function, inputs, lr, decay)

    monkeypatch.setattr(train.Windows, "sample", watched_sample)
    monkeypatch.setattr(train.Learner, "step", watched_step)
    flags = ["--steps", 3, "--eval-episodes", 0, "--data-dir", data_dir, "--out", tmp_path / "run"]
    if module is train:
        command(train, *TINY, *flags, "--log-every", 1)
    else:
        command(adapt, "--run", norm_run, "--tasks", "toy:OtherPoint-v0", "--demos-per-task", 2, "--batch-size", 8,
                "--device", "cpu", *flags)  # fmt: skip
    assert len(batches) == 3
    # By the schedules: a cosine over these three steps, and an average that forgets its beginning.
    assert np.allclose(rates, [(5e-4 * (1 + math.cos(math.pi * s / 3)), 1 - (1 + s) ** -0.75) for s in range(3)])
    torch.set_rng_state(states[0])
    for observation, _, actions, step, noise in batches:
        index = torch.randint(0, len(windows[0].actions), (8,))
        assert torch.equal(actions, windows[0].actions[index])
        assert all(torch.equal(observation[part], windows[0].observations[part][index]) for part in ("point", "goal"))
        assert torch.equal(step, torch.randint(0, 100, (8,)))
        assert torch.equal(noise, torch.randn(8, 8, 2))


# ------------------------------------------------------------------------------------------------ a router and the step


class Clock(fdp.Policy):
    """One component for the rough half of the denoising, another one for the fine half."""

    router_sees_step = True

    def weigh(self, condition, step=None):
        self.asked.append(step)
        if step is None:  # asked for the whole chunk
            step = torch.full((len(condition),), 99)
        return nn.functional.one_hot((step < 50).long(), self.config.components).to(condition.dtype)


def test_a_router_that_sees_the_step_is_asked_at_each_one():
    policy = make()
    clock = Clock(policy.config).eval()
    clock.load_state_dict(policy.state_dict())
    clock.asked = []
    actions, weights = act(clock, sampler_name="ddim", sampling_steps=5)
    assert [step.unique().item() for step in clock.asked] == [99, 79, 59, 39, 19]
    assert np.allclose(weights, [[0.6, 0.4, 0, 0]] * 4)  # their mean over the steps
    # The same by hand, from the two components alone.
    condition = policy.encode(seen(4), torch.tensor([0, 1, 0, 1]))

    def predict_noise(x, step):
        velocity = policy.components(x, step, condition)[0 if step[0] >= 50 else 1]
        return sampler.to_noise("velocity", velocity, x, policy.alpha_bar_32[step])

    noise = torch.randn((4, 8, 4), generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        assert np.allclose(actions, sampler.ddim(predict_noise, noise, policy.alpha_bar, 5), atol=1e-5)
    # In training it sees the step that each sample was given.
    clock.asked, inputs = [], batch(clock)
    clock.loss(*inputs)
    assert len(clock.asked) == 1 and torch.equal(clock.asked[0], inputs[3])


def test_a_flow_asks_a_router_that_sees_the_step_at_each_one():
    class Tides(Clock, flow.Policy):
        """One component far from the action, another one near it, on straight lines."""

    tides, noise = Tides(make("flow").config).eval(), torch.randn(4, 8, 4)
    tides.load_state_dict(make("flow").state_dict())
    tides.asked, condition = [], torch.randn(4, 16)
    clean, weights = tides.sample(condition, noise, "euler", 2)
    assert [step.unique().item() for step in tides.asked] == [99, 49]
    x = noise
    for component, step in enumerate((99, 49)):
        x = x - tides.components(x, torch.full((4,), step), condition)[component] / 2
    assert torch.allclose(clean, x.clamp(-1, 1), atol=1e-6) and weights[:, :2].eq(0.5).all()  # the mean of both


def test_a_schedule_of_ones_own():
    class Linear(fdp.Policy):
        """What is left of a clean action, half at the middle step."""

        schedule = staticmethod(lambda T: torch.linspace(1, 0, T + 2, dtype=torch.float64)[1:-1])

    policy = Linear(make().config).eval()
    policy.load_state_dict(make().state_dict())
    assert policy.alpha_bar_32[49].item() == pytest.approx(0.5, abs=0.01)
    assert not np.allclose(act(policy)[0], act(make())[0])


@pytest.mark.parametrize("variant", ["moe", "informed"])
def test_a_sparse_router_of_ones_own_trains_as_it_acts(variant):
    policy = make(variant, top=2)

    class Own(type(policy)):
        router_sees_step = True

        def probabilities(self, condition, step=None):
            self.asked.append(step)
            return super().probabilities(condition, step)

    own = Own(policy.config).eval()
    own.asked, inputs = [], batch(own)
    own.loss(*inputs)
    assert len(own.asked) == 1 and torch.equal(own.asked[0], inputs[3])
    own.asked.clear()
    act(own, sampler_name="ddim", sampling_steps=5)
    assert [step.unique().item() for step in own.asked] == [99, 79, 59, 39, 19]


def test_any_other_router_is_asked_once_per_chunk():
    class Patient(Clock):
        router_sees_step = False

    policy = Patient(make().config).eval()
    policy.asked = []
    _, weights = act(policy)
    assert policy.asked == [None] and np.array_equal(weights, [[1, 0, 0, 0]] * 4)


# ------------------------------------------------------------------------------------------------ stages


NEW = ("toy:OtherPoint-v0", "toy:ThirdPoint-v0")


@pytest.fixture(scope="module")
def stages(data_dir, tmp_path_factory):
    """A copy of fdp.py, trained, and taught two more tasks exactly. -> three policies."""
    folder = tmp_path_factory.mktemp("forks")
    command(train, "--policy", "twin", *TINY, "--steps", 5, "--eval-episodes", 0, "--data-dir", data_dir, "--out",
            folder / "twin")  # fmt: skip
    command(adapt, "--run", folder / "twin", "--sequence", ",".join(NEW), "--retain", "exact", "--steps", 5,
            "--batch-size", 8, "--demos-per-task", 2, "--eval-episodes", 0, "--data-dir", data_dir, "--out",
            folder / "more", "--device", "cpu")  # fmt: skip
    later = sorted(path.parent for path in (folder / "more").glob("*/model.safetensors"))
    return [runs.load_policy(path) for path in (folder / "twin", *later)]


class Labelled(fdp.Policy):
    """Each component has a number of its own, in a buffer."""

    def build(self):
        super().build()
        self.components.register_buffer("label", 10.0 * torch.arange(self.config.components))
        self.components.register_buffer("steps_seen", torch.tensor(7.0))  # and two that are nobody's
        self.components.register_buffer("taps", torch.arange(6.0))


class Two(nn.ModuleList):
    """A router for rough and one for fine steps."""

    def forward(self, condition):
        return (self[0](condition) + self[1](condition)) / 2


def test_what_a_component_is_is_copied_with_it(my_forks, monkeypatch):
    monkeypatch.setitem(my_forks, "norm", with_policy(Labelled))
    policy = make("norm")
    grown = adapt.grow(policy, ["door-close"], 2, [2, 1], rank=None)
    assert grown.components.label.tolist() == [0, 10, 20, 30, 20, 10] and grown.components.steps_seen == 7
    assert grown.components.taps.tolist() == list(range(6))  # as many as components now, by chance


def test_a_router_of_several_parts_learns_whole(my_forks, monkeypatch):
    class Parted(fdp.Policy):
        def build(self):
            super().build()
            self.router = Two([self.router, copy.deepcopy(self.router)])

    monkeypatch.setitem(my_forks, "norm", with_policy(Parted))
    policy = make("norm")
    parts = adapt.train_only(policy, [0], [1], encoder=False)
    assert parts["router"][0] == parts["router"][1] > 0 and adapt.newest_router(policy) is policy.router


class Counting(NormPolicy):
    """Components that know their number: all together they act, and an old stage's, cut to what it had, do not."""

    def build(self):
        super().build()
        self.components.K = self.config.components
        self.components.register_forward_hook(lambda unet, _, x: x.view(unet.K, *x.shape[1:]))


class Out(NormPolicy):
    """It fails with any number."""

    def sample(self, *_):
        raise RuntimeError("invalid for input of size, or out of memory")


@pytest.mark.parametrize(("kind", "blamed"), [(Counting, True), (Out, False)])
def test_a_stage_that_cannot_act_is_found_before_it_is_trained(kind, blamed, norm_run, data_dir, tmp_path, my_forks,
                                                               monkeypatch, capsys):  # fmt: skip
    monkeypatch.setitem(my_forks, "norm", with_policy(kind))
    monkeypatch.setattr(variants.staged, "on_top_of", variants.staged.on_top_of.__wrapped__)  # it would remember
    with pytest.raises(RuntimeError, match="invalid for input of size"):
        command(adapt, "--run", norm_run, "--tasks", "toy:OtherPoint-v0", "--demos-per-task", 2, "--steps", 5,
                "--data-dir", data_dir, "--out", tmp_path / "run", "--device", "cpu")  # fmt: skip
    said = capsys.readouterr().err
    told = "the stage of 'toy:Point-v0' cannot act with its own components alone; see docs/troubleshooting.md"
    assert (told in said, "cannot act" in said) == (blamed, blamed)
    assert not (tmp_path / "run/model.safetensors").exists() and "step/s" not in said


def test_trying_stages_out_leaves_them_training(stages):
    policy = stages[2].train()
    adaptation.refusals.try_out(policy)
    assert all(part.training for part in policy.modules())
    policy.eval()


@pytest.mark.parametrize(("build", "message"), [
    (lambda self: setattr(self, "experts", self.__dict__["_modules"].pop("components")), "has no `components`"),
    (lambda self: setattr(self.components, "gain", nn.Parameter(torch.tensor(1.0))), "without a leading K axis"),
])  # fmt: skip
def test_what_cannot_be_grown_is_refused(norm_run, tmp_path, my_forks, monkeypatch, build, message):
    class Other(NormPolicy):
        def build(self):
            super().build()
            build(self)

    monkeypatch.setitem(my_forks, "norm", with_policy(Other))
    monkeypatch.setattr(runs, "load_policy", lambda *_: make("norm", observation={"point": (2,), "goal": (2,)},
        tasks=["toy:Point-v0"], differences=(), action_low=(-0.05,) * 2, action_high=(0.05,) * 2))  # fmt: skip
    with pytest.raises(BadInput, match=message):
        command(adapt, "--run", norm_run, "--tasks", "toy:OtherPoint-v0", "--out", tmp_path / "run", "--device", "cpu")


def test_acting_wants_a_row_for_each_task(stages):
    one, three = ({part: np.zeros((n, 2)) for part in ("point", "goal")} for n in (1, 3))
    for policy in (stages[0], stages[2]):
        for seen, tasks in ((one, ["toy:Point-v0"] * 3), (three, ["toy:Point-v0"]), (three, "toy:Point-v0")):
            with pytest.raises(ValueError, match="must have the shape"):
                policy.act(seen, tasks)
        actions, _ = policy.act(three | {"more": 1.0}, ["toy:Point-v0"] * 3)  # what it does not see is no matter
        assert actions.shape == (3, 8, 2)


def play(policy, tasks: list[str]) -> tuple[np.ndarray, np.ndarray]:
    generator = torch.Generator().manual_seed(3)
    position = {part: torch.rand((len(tasks), 2), generator=generator) for part in ("point", "goal")}
    return policy.act(position, tasks, noise=torch.randn((len(tasks), 8, 2), generator=generator))


def test_a_copied_fork_keeps_old_tasks_to_the_last_bit(stages, my_forks):
    first, second, third = stages
    assert isinstance(third, my_forks["twin"].Policy) and not isinstance(third, fdp.Policy)
    assert [policy.config.components for policy in stages] == [3, 4, 5] and third.config.base == "twin"
    old, middle = ["toy:Point-v0"] * 4, [NEW[0]] * 4
    actions, weights = play(first, old)
    for policy in (second, third):
        again, padded = play(policy, old)
        assert np.array_equal(actions, again) and np.array_equal(weights, padded[:, :3]) and not padded[:, 3:].any()
    assert np.array_equal(play(second, middle)[0], play(third, middle)[0])
    assert not np.allclose(play(third, old)[0], play(third, middle)[0])  # the tasks are not all one


def test_an_exception_while_acting_changes_nothing(stages, my_forks, monkeypatch):
    policy, tasks = stages[2], ["toy:Point-v0", *NEW, "toy:Point-v0"]
    before, config = play(policy, tasks), copy.deepcopy(policy.config)
    state = {name: (x, x.data_ptr(), x.clone()) for name, x in policy.state_dict().items()}
    base = my_forks["twin"].Policy
    for stage in range(3):  # in the middle of each stage's turn
        calls, usual = [], base.sample

        def fails(self, *arguments, calls=calls, usual=usual, stage=stage):
            calls.append(self)
            if len(calls) == stage + 1:
                raise RuntimeError("out of memory, say")
            return usual(self, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(base, "sample", fails)
            with pytest.raises(RuntimeError, match="out of memory"):
                play(policy, tasks)
        assert len(calls) == stage + 1
        assert policy.config == config and type(policy.router) is nn.ModuleList and len(policy.router) == 3
        now = policy.state_dict()
        assert list(now) == list(state)
        for name, (_, where, value) in state.items():
            assert now[name].data_ptr() == where and torch.equal(now[name], value), name
        assert same(before, play(policy, tasks))


def test_views_of_old_stages_hold_no_copies(stages):
    policy = stages[2]
    own = {p.untyped_storage().data_ptr() for p in [*policy.parameters(), *policy.buffers()]}
    for stage, known in enumerate((3, 4, 5)):
        view = policy.at(stage)
        assert view.router is policy.router[stage]
        corrected = policy.residual[stage].weights(policy.encoder)  # the only tensors that are computed
        for name, p in view.encoder.state_dict(keep_vars=True).items():
            same = policy.encoder.state_dict(keep_vars=True)[name]
            assert torch.equal(p, corrected[name]) if name in corrected else p is same, name
        assert bool(corrected) == (stage > 0)
        parts = dict(view.components.named_parameters())
        assert parts.keys() == dict(policy.components.named_parameters()).keys()
        for name, p in parts.items():
            whole = policy.components.get_parameter(name)
            assert len(p) == known and p.data_ptr() == whole.data_ptr() and torch.equal(p, whole[:known]), name
        seen = {id(x) for x in view.encoder.parameters()}
        others = [x for x in [*view.parameters(), *view.buffers()] if id(x) not in seen]
        assert all(x.untyped_storage().data_ptr() in own for x in others)


# ------------------------------------------------------------------------------------------------ what the log says


def test_entropy_by_hand():
    cases = {(0.5, 0.5): math.log(2), (1.0, 0.0): 0.0, (0.25,) * 4: math.log(4), (2.0, -2.0): math.log(2),
             (0.9, 0.1): -0.9 * math.log(0.9) - 0.1 * math.log(0.1), (0.0, 0.0): 0.0}  # fmt: skip
    for weights, nats in cases.items():
        assert usage_entropy(torch.tensor(weights)).item() == pytest.approx(nats, abs=1e-6), weights
    assert usage_entropy(torch.rand(2, 5, 3)).shape == (2, 5)


class Told(nn.Module):
    """Its router's answer stands in the observation; asked while training, it would give another one."""

    def __init__(self):
        super().__init__()
        self.router, self.frozen = nn.Dropout(0.5), nn.Dropout(0.5)

    def encode(self, observation, task):
        return observation["told"] * (1 + task[:, None])

    def weigh(self, condition, step=None):
        return self.router(condition)


def windows(tasks, observations, task_ids, of_task) -> train.Windows:
    """Of these, without a policy or demonstrations."""
    made = train.Windows.__new__(train.Windows)
    made.tasks, made.observations, made.task_ids, made.of_task = tasks, observations, task_ids, of_task
    made.actions = torch.zeros(len(task_ids), 1, 1)
    return made


def test_usage_by_hand():
    """Two tasks of different length, two observations of each: the first and the last."""
    told = torch.tensor([[1.0, 0.0], [9, 9], [0.5, 0.5], [0, 1], [9, 9], [9, 9], [0.2, 0.8]])
    of_task = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    usage = Usage(windows(["a", "b"], {"told": told}, torch.zeros(7, dtype=torch.long), of_task), each=2)
    policy = Told()
    policy.frozen.eval()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    found = usage(policy)["router"]
    assert torch.equal(torch.get_rng_state(), state)
    assert policy.training and policy.router.training and not policy.frozen.training
    assert found["a"]["usage"] == [0.75, 0.25] and found["b"]["usage"] == [0.1, 0.9]
    assert found["a"]["entropy"] == pytest.approx(math.log(2) / 2, abs=1e-4)
    assert found["b"]["entropy"] == pytest.approx((-0.2 * math.log(0.2) - 0.8 * math.log(0.8)) / 2, abs=1e-4)
    told_its_task = Usage(windows(["a"], {"told": told}, torch.ones(7, dtype=torch.long), of_task * 0), each=2)
    assert told_its_task(policy)["router"]["a"]["usage"] == [1.2, 0.8]  # 2 * (1 + 0.2) / 2 and 2 * (0 + 0.8) / 2
    assert usage(nn.Linear(1, 1)) == {}  # a policy without a router has nothing to say


def test_a_component_that_hardly_lives_shows_in_the_usage():
    observation, task = seen(40), torch.arange(40) % 2
    for variant in ("fdp", "moe"):
        policy = make(variant)
        usage = Usage(windows(["reach", "push"], observation, task, task))
        alive = usage(policy)["router"]
        assert min(alive["reach"]["usage"]) > 0.05 or variant == "moe"
        with torch.no_grad():
            policy.router.net[-1].bias[2] -= 8
        dead = usage(policy)["router"]
        for name in ("reach", "push"):
            assert dead[name]["usage"][2] < 0.002 and len(dead[name]["usage"]) == 4
            assert sum(dead[name]["usage"]) == pytest.approx(1, abs=2e-4)
            assert dead[name]["entropy"] < alive[name]["entropy"] or variant == "moe"


def test_asking_for_the_usage_does_not_change_a_run():
    """Multinomial selection would draw, and a BatchNorm would count, if it were asked in training mode."""
    for variant, own in (("moe", {"selection": "multinomial"}), ("norm", {})):
        policy = make(variant, **own).train()
        task = torch.arange(40) % 2
        usage = Usage(windows(["reach", "push"], seen(40), task, task))
        before, state = copy.deepcopy(policy.state_dict()), torch.get_rng_state()
        usage(policy)
        assert torch.equal(torch.get_rng_state(), state) and all(module.training for module in policy.modules())
        assert all(torch.equal(before[name], x) for name, x in policy.state_dict().items())


# ------------------------------------------------------------------------------------------------ small change


PROGRESS = "from plumbing.cli import progress; list(progress(range(3), desc='working'))"


def test_progress_writes_lines_into_a_file_and_redraws_on_a_terminal(tmp_path):
    with (tmp_path / "log").open("wb") as log:
        subprocess.run([sys.executable, "-c", PROGRESS], cwd=ROOT, stderr=log, check=True)
    text = (tmp_path / "log").read_bytes()
    assert b"\r" not in text and text.endswith(b"\n") and b"working: 100%" in text and b"3/3" in text
    pty, shown = pytest.importorskip("pty"), b""
    import fcntl
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))  # or it would have no columns to draw in
    subprocess.run([sys.executable, "-c", PROGRESS], cwd=ROOT, stderr=theirs, check=True)
    os.close(theirs)
    with contextlib.suppress(OSError):  # how Linux says that the other end is closed
        while more := os.read(ours, 10_000):
            shown += more
    os.close(ours)
    assert b"\rworking: 100%" in shown


CORES = """
import os
from envs.rollout import available_cores
mine = sorted(os.sched_getaffinity(0))
for n in (1, len(mine)):
    os.sched_setaffinity(0, mine[:n])
    print(n, available_cores())
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no such thing on this system")
def test_as_many_cores_as_this_process_may_use():
    done = subprocess.run([sys.executable, "-c", CORES], cwd=ROOT, capture_output=True, text=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == 2 and all(wanted == found for wanted, found in lines), done.stdout + done.stderr


# ------------------------------------------------------------------------------------------------ what forks got wrong


class Annealed(NormPolicy):
    """It counts its own steps, and acts by that: what `progress` is there for."""

    def build(self):
        super().build()
        self.register_buffer("steps_seen", torch.zeros(()))

    def loss(self, *batch):
        self.steps_seen += 1
        return super().loss(*batch)


class Remembering(NormPolicy):
    """Its weights depend on those before, which are kept where nobody looks for them."""

    last = None

    def weigh(self, condition, step=None):
        now = super().weigh(condition, step)
        if self.last is not None and len(self.last) == len(now) and not torch.is_grad_enabled():
            now = 0.7 * self.last + 0.3 * now
        self.last = now.detach()
        return now


@pytest.mark.parametrize(("kind", "said"), [
    pytest.param(Annealed, "'steps_seen' of this policy changes while it learns, and old tasks act with",
                 id="counter_that_moves"),
    pytest.param(Remembering, "this policy acts otherwise when it sees the same again: it remembers", id="remembers"),
])  # fmt: skip
def test_what_would_move_old_tasks_is_refused(kind, said, data_dir, tmp_path, my_forks, monkeypatch):
    monkeypatch.setitem(my_forks, "norm", with_policy(kind))
    monkeypatch.setattr(variants.staged, "on_top_of", variants.staged.on_top_of.__wrapped__)
    command(train, "--policy", "norm", *TINY, "--steps", 3, "--eval-episodes", 0, "--data-dir", data_dir, "--out",
            tmp_path / "old")  # fmt: skip
    flags = ["--run", tmp_path / "old", "--tasks", "toy:OtherPoint-v0", "--demos-per-task", 2, "--steps", 2,
             "--data-dir", data_dir, "--device", "cpu", "--eval-episodes", 0]  # fmt: skip
    with pytest.raises(BadInput, match=said):
        command(adapt, *flags, "--out", tmp_path / "exact")
    assert not folders.taken(tmp_path / "exact")
    command(adapt, *flags, "--out", tmp_path / "paper", "--retain", "paper")


def test_a_policy_that_is_random_in_training_alone_does_not_remember():
    """As a fresh one is, which a sequence without --run begins with: dropout here, pictures moved elsewhere."""

    class Dropping(fdp.Policy):
        def weigh(self, condition, step=None):
            return super().weigh(nn.functional.dropout(condition, 0.5, self.training))

    policy = Dropping(
        fdp.PolicyConfig(observation={"point": (2,)}, action_low=(-1.0,), action_high=(1.0,), tasks=["a"])
    )
    before = torch.get_rng_state()
    adaptation.refusals.check_forgetful(policy.train())
    assert policy.training and policy.router.training and torch.equal(torch.get_rng_state(), before)


def test_a_loss_without_an_error_for_each_sample_is_refused_before_training(data_dir, tmp_path, my_forks, monkeypatch):
    class Averaged(NormPolicy):
        def loss(self, *batch):
            errors, terms = super().loss(*batch)
            return errors.mean(), terms

    monkeypatch.setitem(my_forks, "norm", with_policy(Averaged))
    with pytest.raises(BadInput, match=r"an error for each sample, a row of numbers, not one of shape \(\)"):
        command(train, "--policy", "norm", *TINY, "--steps", 3, "--eval-episodes", 0, "--data-dir", data_dir, "--out",
                tmp_path / "run")  # fmt: skip
    assert not folders.taken(tmp_path / "run")


@pytest.mark.parametrize("terms", [
    {"x": 0.5}, {"x": (0.1, 0.5)}, {"x": (0.1, torch.ones(1))}, {"x": (0.1, torch.ones(8))},
    {"x" * 101: (1, torch.ones(()))}, {5: (0.1, torch.ones(()))}, {"x": [0.1, torch.ones(())]},
])  # fmt: skip
def test_a_term_that_is_none_is_refused_before_an_old_run_is_touched(
    terms, norm_run, data_dir, tmp_path, my_forks, monkeypatch
):
    run = shutil.copytree(norm_run, tmp_path / "run")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    monkeypatch.setitem(my_forks, "norm", with_policy(type("Policy", (NormPolicy,), {"terms": lambda *_: terms})))
    with pytest.raises(BadInput, match="the policy's loss has a term .* that is none: it must be a name of at most"):
        command(train, "--policy", "norm", *TINY, "--steps", 3, "--eval-episodes", 0, "--data-dir", data_dir, "--out",
                run, "--overwrite")  # fmt: skip
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("adapts", [False, True])
def test_a_loss_that_is_not_errors_and_terms_is_refused_before_training(
    adapts, data_dir, tmp_path, my_forks, monkeypatch
):
    class Bare(NormPolicy):
        def loss(self, *batch):
            return super().loss(*batch)[0]

    flags = ["--steps", 3, "--eval-episodes", 0, "--data-dir", data_dir]
    if adapts:
        command(train, "--policy", "norm", *TINY, *flags, "--out", tmp_path / "old")
    monkeypatch.setitem(my_forks, "norm", with_policy(Bare))
    with pytest.raises(BadInput, match="loss must return two things, an error for each sample and a dictionary"):
        if adapts:
            monkeypatch.setattr(variants.staged, "on_top_of", variants.staged.on_top_of.__wrapped__)
            command(adapt, "--run", tmp_path / "old", "--tasks", "toy:OtherPoint-v0", "--demos-per-task", 2, *flags,
                    "--out", tmp_path / "run")  # fmt: skip
        else:
            command(train, "--policy", "norm", *TINY, *flags, "--out", tmp_path / "run")
    assert not folders.taken(tmp_path / "run")


@pytest.mark.parametrize("variant,mode", [("fdp", "softmax"), ("fdp", "informed"), ("moe", "softmax"),
                                          ("informed", "softmax"), ("waking", "informed"), ("decorrelated", "softmax"),
                                          ("bc", "softmax"), ("flow", "informed")])  # fmt: skip
def test_a_term_of_a_forks_own_stands_beside_those_that_are_there(variant, mode):
    """As whoever writes one would: what the policy below returns, and one more, whatever the router."""
    policy, plain = make(variant, router=mode).eval(), make(variant, router=mode).eval()

    class Small(type(policy)):
        def terms(self, weights, task):
            return super().terms(weights, task) | {"size": (0.5, weights.square().sum())}

    policy.__class__ = Small
    (errors, terms), (theirs, usual) = policy.loss(*batch(policy)), plain.loss(*batch(plain))
    assert torch.equal(errors, theirs) and terms.keys() - usual.keys() == {"size"} and "size" not in usual
    assert ("information" in terms) == (mode == "informed" or variant == "informed")
    assert all(torch.equal(terms[name][1], x) and terms[name][0] == c for name, (c, x) in usual.items())
    weights = plain.weigh(plain.encode(*batch(plain)[:2]))
    assert terms["size"][0] == 0.5 and torch.equal(terms["size"][1], weights.square().sum())


class ManyTerms(NormPolicy):
    """More terms than there are colours."""

    def loss(self, *batch):
        return super().loss(*batch)[0], {f"term-{i}": (0.0, torch.ones(())) for i in range(12)}


class TermNamedRouter(NormPolicy):
    def loss(self, *batch):
        return super().loss(*batch)[0], {"router": (0.0, torch.ones(()))}


class Masked(NormPolicy):
    """As a transformer has it."""

    persistent = False

    def build(self):
        super().build()
        self.register_buffer("mask", torch.full((8, 8), -torch.inf).triu(1), persistent=self.persistent)


class MaskKept(Masked):
    persistent = True


class Tied(NormPolicy):
    def build(self):
        super().build()
        self.twin = self.router.net[0]


@pytest.mark.parametrize("kind", [ManyTerms, Masked])
def test_many_terms_and_a_mask_of_infinities_are_no_reason_to_stop(kind, data_dir, tmp_path, my_forks, monkeypatch):
    monkeypatch.setitem(my_forks, "norm", with_policy(kind))
    command(train, "--policy", "norm", *TINY, "--steps", 3, "--eval-episodes", 0, "--data-dir", data_dir, "--out",
            tmp_path / "run")  # fmt: skip
    assert runs.load_policy(tmp_path / "run") and (tmp_path / "run" / "figures" / "training.png").exists()


@pytest.mark.parametrize("kind, said", [
    (TermNamedRouter, "loss has a term 'router', as a line of log.jsonl has already"),
    (MaskKept, "tensor 'mask' has numbers that are not finite, which no run may hold"),
    (Tied, "tensors 'router.net.0.weight' and 'twin.weight' share their memory"),
])  # fmt: skip
def test_what_no_run_can_hold_is_refused_before_training(kind, said, data_dir, tmp_path, my_forks, monkeypatch):
    monkeypatch.setitem(my_forks, "norm", with_policy(kind))
    with pytest.raises(BadInput, match=said):
        command(train, "--policy", "norm", *TINY, "--steps", 3, "--eval-episodes", 0, "--data-dir", data_dir, "--out",
                tmp_path / "run")  # fmt: skip
    assert not folders.taken(tmp_path / "run")


@dataclasses.dataclass
class InWords(fdp.PolicyConfig):
    """As with `from __future__ import annotations`."""

    kind: "Literal['a', 'b']" = "a"  # which


@dataclasses.dataclass
class Based(fdp.PolicyConfig):
    base: float = 2.0


def test_fields_may_be_annotated_in_words_and_may_not_be_named_as_what_a_stage_adds(my_forks, monkeypatch):
    monkeypatch.setitem(my_forks, "norm", with_policy(NormPolicy, InWords))
    assert runs.parse_with_own_fields(train.TrainConfig, ["--policy", "norm", "--kind", "b"]).kind == "b"
    monkeypatch.setitem(my_forks, "norm", with_policy(NormPolicy, Based))
    with pytest.raises(BadInput, match="config field 'base' has the name of a flag, or of what adapt.py adds; rename"):
        runs.parse_with_own_fields(train.TrainConfig, ["--policy", "norm"])


def test_a_fork_is_told_how_far_training_is(data_dir, tmp_path, my_forks, monkeypatch):
    told = []

    class Watched(NormPolicy):
        def loss(self, *batch):
            told.append(self.progress)
            return super().loss(*batch)

    monkeypatch.setitem(my_forks, "norm", with_policy(Watched))
    monkeypatch.setattr(variants.staged, "on_top_of", variants.staged.on_top_of.__wrapped__)
    command(train, "--policy", "norm", *TINY, "--steps", 4, "--eval-episodes", 0, "--data-dir", data_dir, "--out",
            tmp_path / "old")  # fmt: skip
    assert told[1:5] == [0, 0.25, 0.5, 0.75]  # after the step that is tried
    assert runs.load_policy(tmp_path / "old").progress == 1
    told.clear()
    command(adapt, "--run", tmp_path / "old", "--tasks", "toy:OtherPoint-v0", "--demos-per-task", 2, "--steps", 2,
            "--data-dir", data_dir, "--device", "cpu", "--eval-episodes", 0, "--out", tmp_path / "new")  # fmt: skip
    assert told[-2:] == [0, 0.5]


def test_a_buffer_that_has_as_many_rows_by_chance_is_found_before_training(data_dir, tmp_path, my_forks, monkeypatch,
                                                                           capsys):  # fmt: skip
    """Three components, and a table with three rows for something else: it does not come apart with the stages."""

    class Table(NormPolicy):
        def build(self):
            super().build()
            self.components.register_buffer("table", torch.ones(3))

    monkeypatch.setitem(my_forks, "norm", with_policy(Table))
    monkeypatch.setattr(variants.staged, "on_top_of", variants.staged.on_top_of.__wrapped__)
    command(train, "--policy", "norm", *TINY, "--steps", 2, "--eval-episodes", 0, "--data-dir", data_dir, "--out",
            tmp_path / "old")  # fmt: skip
    capsys.readouterr()
    with pytest.raises(BadInput, match="'components.table'"):
        command(adapt, "--run", tmp_path / "old", "--tasks", "toy:OtherPoint-v0", "--demos-per-task", 2, "--steps", 2,
                "--data-dir", data_dir, "--device", "cpu", "--eval-episodes", 0, "--out", tmp_path / "new")  # fmt: skip
    assert "step/s" not in capsys.readouterr().err
    assert not folders.taken(tmp_path / "new")


class Roots(NormPolicy):
    def compose(self, noisy_actions, step, condition, weights):
        return super().compose(noisy_actions, step, condition, weights.abs().sqrt())


def test_replay_is_refused_where_the_composition_is_another(norm_run, data_dir, tmp_path, my_forks, monkeypatch):
    monkeypatch.setitem(my_forks, "norm", with_policy(Roots))
    with pytest.raises(BadInput, match="linear in the weights"):
        command(adapt, "--run", norm_run, "--tasks", "toy:OtherPoint-v0", "--retain", "replay", "--demos-per-task", 2,
                "--steps", 2, "--data-dir", data_dir, "--device", "cpu", "--eval-episodes", 0, "--out",
                tmp_path / "new")  # fmt: skip


def test_fields_without_a_dataclass_are_refused(monkeypatch):
    config = type("PolicyConfig", (fdp.PolicyConfig,), {"__annotations__": {"guidance": float}, "guidance": 1.5})
    monkeypatch.setitem(sys.modules, "variants.uniform", with_policy(NormPolicy, config))
    with pytest.raises(BadInput, match="variants/uniform.py: put @dataclass above class PolicyConfig"):
        USUAL_LOAD("uniform")


def test_a_run_of_a_fork_that_is_gone_says_so(norm_run, my_forks, monkeypatch):
    monkeypatch.delitem(my_forks, "norm")
    with pytest.raises(BadInput, match="norm needs its policy: no policy 'norm': choose fdp or a file"):
        runs.load_policy(norm_run)


def test_a_fork_that_reads_numbers_while_it_is_built_is_not_counted(my_forks, monkeypatch):
    class Reads(NormPolicy):
        def build(self):
            super().build()
            self.largest = float(torch.linspace(0, 1, 5).max())

    monkeypatch.setitem(my_forks, "norm", with_policy(Reads))
    settings = dataclasses.asdict(make("norm").config) | {"components": 17}
    assert limits.count_weights("norm", settings) == 0 < limits.count_weights("fdp", settings)


def test_resuming_with_other_flags_names_the_command_that_began(norm_run):
    with pytest.raises(BadInput, match=r"has tasks = toy:Point-v0, not reach; it was begun with: python "):
        command(train, "--policy", "norm", "--tasks", "reach", "--out", norm_run, "--resume")


def test_where_nothing_learns_it_is_said_before_anything_is_written(data_dir, tmp_path):
    """A router that is never asked, alone, and no name."""
    flags = [*TINY, "--steps", 2, "--eval-episodes", 0, "--data-dir", data_dir, "--task-conditioning", "none"]
    command(train, "--policy", "uniform", *flags, "--out", tmp_path / "base")
    more = ["--steps", 2, "--eval-episodes", 0, "--demos-per-task", 2, "--data-dir", data_dir]
    more += ["--out", tmp_path / "new"]
    with pytest.raises(BadInput, match="nothing of this policy learns with --mode router"):
        command(adapt, "--run", tmp_path / "base", "--tasks", NEW[0], "--mode", "router", "--retain", "paper", *more)
    assert not (tmp_path / "new").exists()


def test_more_components_than_a_run_may_hold_are_refused_at_once(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr(adapt, "demonstrations", lambda *_: pytest.fail("it came too late"))
    for lean, how, number in (("all", "--tasks", 1021), ("all", "--sequence", 511), ("base", "--tasks", 1021)):
        new = "drawer-open" if how == "--tasks" else "drawer-open,door-open"
        with pytest.raises(BadInput, match="has 4, and a policy may have 1,024; this adds 1,02"):
            command(adapt, "--run", tiny_run, how, new, "--new-components", number, "--start-from", "random",
                    "--lean-on", lean, "--eval-episodes", 0, "--out", tmp_path / "new")  # fmt: skip


class Lazy(fdp.Policy):
    """Makes a mask when it first needs one; it is not saved, so nobody misses it."""

    def errors(self, condition, weights, actions, step, noise):
        if not hasattr(self, "mask"):
            self.register_buffer("mask", torch.ones(()), persistent=False)
        return self.mask * super().errors(condition, weights, actions, step, noise)


def test_a_mask_that_is_made_at_the_first_loss_may_be_adapted(data_dir, tmp_path, my_forks):
    my_forks["lazy"] = with_policy(Lazy)
    flags = ["--steps", 2, "--eval-episodes", 0, "--demos-per-task", 2, "--data-dir", data_dir]
    command(train, "--policy", "lazy", *TINY, *flags, "--out", tmp_path / "base")
    command(adapt, "--run", tmp_path / "base", "--tasks", NEW[0], "--mode", "full", *flags, "--out", tmp_path / "new")
    assert runs.load_policy(tmp_path / "new", "cpu").config.tasks == [TINY[1], NEW[0]]
