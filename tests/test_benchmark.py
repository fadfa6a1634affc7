"""What study/speed measures is what it says: the deeper network, the memory of all processes. No times here."""

import importlib.util
import json
import subprocess
import sys

import pytest
import torch

import evaluate
from envs import experts
from envs.rollout import Roller
from plumbing import figures
from plumbing.cli import ROOT, BadInput
from plumbing.runs import build_policy
from study.router import cost
from study.speed import benchmark, candidates, timing
from unet import ResidualBlock
from variants import informed


def test_the_deeper_network_has_lerobots_number_of_blocks_and_uses_all_of_them():
    policy = candidates.as_deep_as_lerobot(candidates.make_policy(2, "small", torch.device("cpu")))
    # Two levels: two blocks each going down and in the middle, as LeRobot has (2 + 2 + 2), and two going up.
    assert sum(isinstance(m, ResidualBlock) for m in policy.components.modules()) == 8
    policy.components(torch.randn(3, 8, 4), torch.tensor([0, 5, 99]), torch.randn(3, 128)).square().sum().backward()
    for name, p in policy.components.named_parameters():
        assert (p.grad.flatten(1).abs().amax(1) > 0).all(), name


def test_the_timed_step_is_a_training_step():
    """Every parameter that a step of train.py moves, it moves; a loss that was handed over is the one that is used."""
    policy, asked = candidates.make_policy(2, "small", torch.device("cpu")), []
    before = {name: p.clone() for name, p in policy.named_parameters()}

    def loss(*batch):
        asked.append([x.shape for x in batch[1:]])
        return policy.loss(*batch)

    candidates.training_step(policy, 5, loss)()
    assert asked == [[(5,), (5, 8, 4), (5,), (5, 8, 4)]]
    for name, p in policy.named_parameters():
        assert not torch.equal(p, before[name]), name


def test_two_of_eight_components_get_as_many_rows_as_each_other():
    """What study/router/cost.py times: the rows of the sparse one by hand, and its rival's size."""
    made = cost.policies("small", torch.device("cpu"))
    sparse = made["two of K = 8"]
    rows = informed.gather(sparse.weigh(torch.randn(cost.BATCH, 128)), cost.TOP)
    assert rows.components == list(range(8)) and rows.index.shape == (8, cost.TOP * cost.BATCH // 8)
    assert torch.equal(rows.column.bincount(), torch.full((8,), 16))
    assert sparse.config.components == made["K = 8"].config.components == 8 and sparse.gathers
    size = {name: sum(p.numel() for p in policy.components.parameters()) for name, policy in made.items()}
    assert size["two of K = 8"] == size["K = 8"] == 4 * size["K = 2"]
    assert size["one network as large as two"] == pytest.approx(size["K = 2"], rel=0.05)


def test_components_are_timed_as_they_are_trained():
    """As large as ever each, or together as large as four; study/router/results.py reads them by these names."""
    made = cost.by_number(torch.device("cpu"))
    size = {name: sum(p.numel() for p in policy.components.parameters()) for name, policy in made.items()}
    for K in (1, 2, 4, 8, 16):
        assert size[f"K = {K}, each"] == K * size["K = 1, each"]
        assert size[f"K = {K}, together"] == pytest.approx(size["K = 4, each"], rel=0.01)
        assert made[f"K = {K}, together"].config.components == made[f"K = {K}, each"].config.components == K
    assert len(size) == 10


def test_rows_are_those_of_the_stored_result():
    """study/speed/results.py reads rows by what they say, and candidates by their names."""
    stored = {row["what"]: row for row in json.loads((ROOT / "study" / "speed" / "cpu.json").read_text())["rows"]}
    device = torch.device("cpu")
    for row in [*benchmark.training_rows(None, device, 1, ["small"]), *benchmark.scaling_rows(device, 1)]:
        old = stored[row["what"]]
        assert set(old) - {"share_of_peak"} == set(row)
        for numbers in (key for key, value in row.items() if isinstance(value, dict)):
            assert set(old[numbers]) - {"LeRobot"} == set(row[numbers])


@pytest.mark.skipif(sys.platform != "linux", reason="memory of other processes is read from /proc")
def test_memory_counts_a_process_and_its_children():
    hold = "import sys; x = bytearray(80_000_000); x[::4096] = b'1' * len(x[::4096]); "
    inner = hold + "print('ready', flush=True); sys.stdin.read()"
    outer = hold + f"import subprocess; subprocess.run([sys.executable, '-c', {inner!r}])"
    with subprocess.Popen([sys.executable, "-c", outer], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        both = timing.memory(process.pid)
        process.stdin.close()
    assert 160 < both < 260
    assert timing.memory(process.pid) == 0


@pytest.mark.skipif(importlib.util.find_spec("lerobot") is not None, reason="the lerobot package is installed")
def test_the_peer_policy_says_what_it_needs():
    settings = {"observation": {"state": (39,)}, "action_low": (-1,) * 4, "action_high": (1,) * 4, "tasks": ["reach"]}
    with pytest.raises(BadInput, match="needs the lerobot package"):
        build_policy("lerobot", settings)


def test_the_expert_plays_an_episode_once_in_the_life_of_a_process(trained_run, monkeypatch):
    policy = evaluate.load_policy(trained_run, torch.device("cpu"))
    asked = []
    play = Roller.play_expert
    monkeypatch.setattr(experts, "_played", {})
    monkeypatch.setattr(Roller, "play_expert", lambda self, todo, **k: asked.append(len(todo)) or play(self, todo, **k))
    first, _ = evaluate.evaluate(policy, ["reach"], 2, seed=9)
    again, _ = evaluate.evaluate(policy, ["reach"], 3, seed=9)
    assert asked == [2, 1]
    assert again["tasks"]["reach"]["expert"]["n"] == 3 and first["tasks"]["reach"]["expert"]["n"] == 2


def test_pictures_of_speed_and_of_a_sequence(tmp_path, drawn_in_full):
    rows = [{"what": "training", "ratio": {"ours": 1.0, "theirs": 7.5}}, {"what": "memory", "ratio": {}}]
    result = {"success": [{"a": 1.0}, {"a": 0.5, "b": 1.0}], "stages": [{"tasks": ["b"]}], "average_success": 0.75,
              "forgetting": 0.5, "expert": {"a": 1.0, "b": 0.9}}  # fmt: skip
    names = [f"task-{i}" for i in range(30)]
    many = {**result, "success": [dict.fromkeys(names[:29], 1.0), dict.fromkeys(names, 0.5)], "expert": {},
            "stages": [{"tasks": ["task-0"]}, {"tasks": ["task-29"], "same_bits": names[:29]}]}  # fmt: skip
    lost = result | {"average_success": None, "success": [{"a": 1.0}, {"a": None, "b": None}]}
    for path in (
        benchmark.picture(rows, tmp_path / "speed.png"),
        figures.success_matrix({"": json.loads(json.dumps(result))}, tmp_path / "figures" / "matrix.png"),
        figures.success_matrix({"exact": result, "full": result}, tmp_path / "both.png"),
        figures.success_matrix({"exact": many}, tmp_path / "many.png"),
        figures.success_matrix({"lost": lost}, tmp_path / "lost.png"),
    ):
        assert path.read_bytes()[:4] == b"\x89PNG" and path.stat().st_size > 5000
