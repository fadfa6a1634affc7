"""Runs of older versions: what was learned then acts now as it did, and what cannot be read is refused in one line.

The run that comes with the code, study/core/mt6, is of format 1: one vector of 39 numbers, a normaliser beside the
encoder, and the action range among the weights.
"""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file, save_file

import train
from adaptation import memory
from envs.metaworld import PARTS, split_state
from envs.tasks import resolve_tasks
from plumbing import formats, resume, runs
from plumbing.cli import BadInput

SHIPPED = ROOT / "study" / "core" / "mt6"
WEIGHTS = load_file(SHIPPED / "model.safetensors")

# What the code of format 1 (revision 98df6ee0141e) answered to `question` below, with 5 steps of dpm: for each of the
# six tasks, the last of the 8 actions and the router's weights. Change nothing here: it is what must be kept.
LAST_ACTIONS = [
    [-0.98187, -1.0, 0.93088, 0.19978],
    [-0.83893, -0.68381, 0.70772, -0.65586],
    [-0.25539, 0.39957, 0.5074, 0.51095],
    [1.0, 1.0, 1.0, 0.90349],
    [1.0, -0.00326, 0.08643, -1.0],
    [-0.56708, -0.52681, 0.7461, -0.39757],
]
ROUTER_WEIGHTS = [
    [0.23847, 0.21011, 0.45795, 0.09348],
    [0.21965, 0.26445, 0.40197, 0.11393],
    [0.24983, 0.1848, 0.24487, 0.3205],
    [0.2652, 0.20639, 0.26404, 0.26437],
    [0.24562, 0.25454, 0.25664, 0.2432],
    [0.25362, 0.19375, 0.50741, 0.04522],
]


def question():
    """A state (39,) and starting noise (8, 4) for each task, from formulas: no library's random numbers are in it."""
    mean, scale = (WEIGHTS[f"normalizer.observation_{name}"][:39].numpy() for name in ("mean", "scale"))
    states = mean + 2 * scale * np.sin(np.arange(6 * 39)).reshape(6, 39)  # some of them beyond what is clipped
    return states, torch.tensor(np.sqrt(2) * np.cos(np.arange(6 * 8 * 4)), dtype=torch.float32).view(6, 8, 4)


def act(policy):
    states, noise = question()
    return policy.act(split_state(states), policy.config.tasks, "dpm", 5, noise)


def old_run(folder, tensors=(), **settings):
    """A copy of the shipped run, with other tensors, or other settings of its policy."""
    shutil.copytree(SHIPPED, folder)
    save_file(WEIGHTS | dict(tensors), folder / "model.safetensors", metadata={"step": "12000", "seconds": "1.0"})
    config = json.loads((folder / "config.json").read_text())
    config["policy_config"] |= settings
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_the_shipped_run_is_of_format_1():
    """Or the tests below are about nothing."""
    config = json.loads((SHIPPED / "config.json").read_text())
    assert "format" not in config and config["policy_config"]["observation_dim"] == 39
    assert "normalizer.observation_mean" in WEIGHTS and "encoder.0.weight" in WEIGHTS


def test_its_weights_have_new_names_and_the_same_numbers():
    policy = runs.load_policy(SHIPPED)
    state = policy.state_dict()
    for layer in (0, 2, 4):
        for name in ("weight", "bias"):
            assert torch.equal(state[f"encoder.net.{layer}.{name}"], WEIGHTS[f"encoder.{layer}.{name}"])
    assert torch.equal(policy.encoder.mean, WEIGHTS["normalizer.observation_mean"])
    assert torch.equal(policy.encoder.scale, WEIGHTS["normalizer.observation_scale"])
    rest = [name for name in WEIGHTS if not name.startswith(("encoder.", "normalizer."))]
    assert len(rest) == len(state) - 8 and all(torch.equal(state[name], WEIGHTS[name]) for name in rest)
    assert policy.config.tasks == resolve_tasks("mt6")
    assert torch.equal(policy.action_center, torch.zeros(4)) and torch.equal(policy.action_scale, torch.ones(4))


def test_it_acts_as_it_did():
    actions, weights = act(runs.load_policy(SHIPPED))
    assert actions.shape == (6, 8, 4) and np.isfinite(actions).all() and np.abs(actions).max() <= 1
    assert np.allclose(actions[:, -1], LAST_ACTIONS, atol=2e-4)
    assert np.allclose(weights, ROUTER_WEIGHTS, atol=2e-5)


def test_an_action_range_taken_from_the_data_stays_what_it_was(tmp_path):
    """Format 1 first scaled actions by the range of the demonstrations; such runs act in that range."""
    center, scale = torch.tensor([0.5, 0.0, -1.0, 2.0]), torch.tensor([0.5, 2.0, 1.0, 0.25])
    run = old_run(tmp_path / "run", {"normalizer.action_center": center, "normalizer.action_scale": scale})
    actions, weights = act(runs.load_policy(run))
    assert np.allclose(actions[:, -1], np.array(LAST_ACTIONS) * scale.numpy() + center.numpy(), atol=4e-4)
    assert np.allclose(weights, ROUTER_WEIGHTS, atol=2e-5)


def test_a_run_without_differences_of_positions_loads(tmp_path):
    """As the first ones were. Its encoder sees the 39 numbers in the order in which MetaWorld gives them."""
    narrow = {"encoder.0.weight": WEIGHTS["encoder.0.weight"][:, :39].contiguous()}
    narrow |= {name: WEIGHTS[name][:39].clone() for name in WEIGHTS if name.startswith("normalizer.observation_")}
    run = old_run(tmp_path / "run", narrow, differences=[])
    states = torch.tensor(question()[0], dtype=torch.float32)
    mean, scale = (narrow[f"normalizer.observation_{name}"] for name in ("mean", "scale"))
    first = ((states - mean) / scale).clamp(-5, 5) @ narrow["encoder.0.weight"].T + WEIGHTS["encoder.0.bias"]
    encoder = runs.load_policy(run).encoder
    encoder.net = encoder.net[0]
    assert torch.allclose(encoder(split_state(states)), first, atol=1e-4)


def test_reading_changes_no_file_and_happens_once():
    before = {path.name: path.read_bytes() for path in SHIPPED.iterdir() if path.is_file()}
    config = runs.read_config(SHIPPED)
    runs.load_policy(SHIPPED)
    assert {path.name: path.read_bytes() for path in SHIPPED.iterdir() if path.is_file()} == before
    assert config["format"] == 2 and "observation_dim" not in config["policy_config"]
    stored = json.loads(before["config.json"])["train"]
    assert config["train"] == formats.LATER | {"precision": "float32"} | stored
    # And so it can be gone on with: flags that came later are what they would have been.
    asked = dataclasses.asdict(train.TrainConfig(**stored | {"precision": "float32"}))
    assert runs.difference(SHIPPED, asked, resume.FREE) is None
    record = runs.training_record(SHIPPED)
    assert record["steps"] == 12_000 and record["policy_config"] == config["policy_config"]


def test_a_run_made_now_says_its_format(tiny_run):
    assert json.loads((tiny_run / "config.json").read_text())["format"] == 2


@pytest.mark.parametrize("read", [runs.read_config, runs.load_policy, runs.training_record])
def test_a_run_of_a_later_version_is_refused(tiny_run, tmp_path, read):
    shutil.copytree(tiny_run, tmp_path / "run")
    config = json.loads((tiny_run / "config.json").read_text())
    (tmp_path / "run" / "config.json").write_text(json.dumps(config | {"format": 3}))
    with pytest.raises(BadInput, match="^the run in .*run has format 3, and this code reads up to 2: .*$") as refused:
        read(tmp_path / "run")
    assert "\n" not in str(refused.value)


def test_an_old_run_of_an_environment_that_is_not_known_is_refused(tmp_path):
    with pytest.raises(BadInput, match="^the run in .*run was made for an environment that is not known here$"):
        runs.load_policy(old_run(tmp_path / "run", observation_dim=38))


def test_a_damaged_old_run_is_refused(tmp_path):
    for name, content in (("model.safetensors", b"half a file"), ("config.json", b'{"policy_config": {}}')):
        run = old_run(tmp_path / name)
        (run / name).write_bytes(content)
        with pytest.raises(BadInput, match=f"{name} is damaged"):
            runs.load_policy(run)


@pytest.mark.parametrize("size", [-1, 20_000_000, 4.0, "4"])
def test_an_action_of_no_size_is_refused_before_it_takes_memory(size, tmp_path, monkeypatch):
    run = old_run(tmp_path / "run", action_dim=size)
    (run / "model.safetensors").unlink()
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: pytest.fail("it took memory"))
    with pytest.raises(BadInput, match="config.json is damaged: 'action_dim' must be a whole number from 1 to 1000"):
        runs.read_config(run)


def test_a_memory_of_the_first_format_is_read_by_parts(tmp_path):
    """One tensor of 39 numbers for each task then, one for each task and part now."""
    state = torch.arange(64 * 39, dtype=torch.float32).view(64, 39)
    save_file({"door-open": state}, tmp_path / "replay.safetensors")
    shapes = {part: (64, *shape) for part, shape in PARTS.items()}
    kept = memory.read_memory(tmp_path, shapes)
    assert {name: tuple(x.shape) for name, x in kept.items()} == {f"door-open/{p}": s for p, s in shapes.items()}
    assert torch.equal(kept["door-open/objects"][:, 1, 0], state[:, 22])
    assert torch.equal(kept["door-open/goal"], state[:, 36:])
    save_file({name: x.clone() for name, x in kept.items()}, tmp_path / "replay.safetensors")
    assert all(torch.equal(x, kept[name]) for name, x in memory.read_memory(tmp_path, shapes).items())
