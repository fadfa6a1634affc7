"""What benchmark.py measures is what it says: the deeper network, the memory of all processes. No times here."""

import importlib.util
import json
import subprocess
import sys

import pytest
import torch

import benchmark
import evaluate
import figures
from checkpoint import build_policy
from cli import BadInput
from envs.rollout import Roller
from unet import ResidualBlock


def test_the_deeper_network_has_lerobots_number_of_blocks_and_uses_all_of_them():
    policy = benchmark.as_deep_as_lerobot(benchmark.make_policy(2, "small", torch.device("cpu")))
    # Two levels: two blocks each going down and in the middle, as LeRobot has (2 + 2 + 2), and two going up.
    assert sum(isinstance(m, ResidualBlock) for m in policy.components.modules()) == 8
    policy.components(torch.randn(3, 8, 4), torch.tensor([0, 5, 99]), torch.randn(3, 128)).square().sum().backward()
    for name, p in policy.components.named_parameters():
        assert (p.grad.flatten(1).abs().amax(1) > 0).all(), name


def test_memory_counts_a_process_and_its_children():
    hold = "import sys; x = bytearray(80_000_000); x[::4096] = b'1' * len(x[::4096]); "
    inner = hold + "print('ready', flush=True); sys.stdin.read()"
    outer = hold + f"import subprocess; subprocess.run([sys.executable, '-c', {inner!r}])"
    with subprocess.Popen([sys.executable, "-c", outer], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        both = benchmark.memory(process.pid)
        process.stdin.close()
    assert 160 < both < 260
    assert benchmark.memory(process.pid) == 0


@pytest.mark.skipif(importlib.util.find_spec("lerobot") is not None, reason="the lerobot package is installed")
def test_the_peer_policy_says_what_it_needs():
    settings = {"observation_dim": 39, "action_dim": 4, "tasks": ["reach"]}
    with pytest.raises(BadInput, match="needs the lerobot package"):
        build_policy("lerobot", settings)


def test_the_expert_plays_an_episode_once_in_the_life_of_a_process(trained_run, monkeypatch):
    policy = evaluate.load_policy(trained_run, torch.device("cpu"))
    asked = []
    play = Roller.play_expert
    monkeypatch.setattr(evaluate, "_experts", {})
    monkeypatch.setattr(Roller, "play_expert", lambda self, todo, **k: asked.append(len(todo)) or play(self, todo, **k))
    first, _ = evaluate.evaluate(policy, ["reach"], 2, seed=9)
    again, _ = evaluate.evaluate(policy, ["reach"], 3, seed=9)
    assert asked == [2, 1]
    assert again["tasks"]["reach"]["expert"]["n"] == 3 and first["tasks"]["reach"]["expert"]["n"] == 2


def test_pictures_of_speed_and_of_a_sequence(tmp_path):
    rows = [{"what": "training", "ratio": {"ours": 1.0, "theirs": 7.5}}, {"what": "memory", "ratio": {}}]
    result = {"success": [{"a": 1.0}, {"a": 0.5, "b": 1.0}], "stages": [{"tasks": ["b"]}], "average_success": 0.75,
              "forgetting": 0.5, "expert": {"a": 1.0, "b": 0.9}}  # fmt: skip
    for path in (
        figures.speed(rows, tmp_path / "speed.png"),
        figures.success_matrix({"": json.loads(json.dumps(result))}, tmp_path / "figures" / "matrix.png"),
        figures.success_matrix({"exact": result, "full": result}, tmp_path / "both.png"),
    ):
        assert path.read_bytes()[:4] == b"\x89PNG"
