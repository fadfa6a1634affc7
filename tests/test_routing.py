"""The instruments that say whether a router routes, on made-up routers and components whose answers are known."""

import json
import math
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn as nn
from conftest import ROOT

from envs.tasks import resolve_tasks
from fdp import Policy, PolicyConfig
from plumbing import runs
from plumbing.cli import BadInput
from study.router import measure, pictures, routing

TASKS = ["toy:Point-v0", "toy:OtherPoint-v0", "toy:ThirdPoint-v0"]


# ------------------------------------------------------------------------------------------ made-up weights


def made_up(weigh, episodes=20, chunks=30, tasks=3):
    """weigh(task, flag, step) -> (K,). -> weights, labels by name, names of the episodes' tasks."""
    random, weights, flags, steps, names = np.random.default_rng(0), [], [], [], []
    for i in range(episodes * tasks):
        flag, step = random.integers(2, size=chunks), np.arange(chunks) // 10
        weights.append(np.array([weigh(i % tasks, f, s) for f, s in zip(flag, step, strict=True)], float))
        flags.append(flag)
        steps.append(step)
        names.append(f"task {i % tasks}")
    labels = {"task": [np.full(chunks, i % tasks) for i in range(episodes * tasks)], "flags": flags, "step": steps}
    return weights, labels, names


def one_hot(k: int, K: int = 3) -> np.ndarray:
    return np.eye(K)[k]


ROUTERS = {  # a router -> what its components tell, in nats; everything else they tell nothing about
    "uniform": (lambda task, flag, step: np.full(3, 1 / 3), {}),
    "by task": (lambda task, flag, step: one_hot(task), {"task": math.log(3)}),
    "by flag": (lambda task, flag, step: one_hot(flag), {"flags": math.log(2)}),
    "by step": (lambda task, flag, step: one_hot(step), {"step": math.log(3)}),
    "half sure of the task": (  # (2/3, 1/6, 1/6): ln 3 minus its entropy
        lambda task, flag, step: 0.5 * one_hot(task) + 1 / 6,
        {"task": math.log(3) + 2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 6)},
    ),
}


HOW = {"task": "episodes", "flags": "courses", "step": "chunks"}


@pytest.mark.parametrize("router", ROUTERS)
def test_what_a_component_tells_is_what_the_router_looks_at(router):
    weigh, known = ROUTERS[router]
    weights, labels, names = made_up(weigh)
    for label, series in labels.items():
        told = routing.tells(weights, series, names, HOW[label])
        if label in known:
            assert told["nats"] == pytest.approx(known[label], abs=2e-3), label
            assert told["above"] == pytest.approx(known[label], abs=0.05)
            assert told["interval"][0] > 0.9 * known[label]
        else:
            assert abs(told["above"]) < 0.01 and told["interval"][0] < 0.005, (label, told)
        most = math.log(2) if label == "flags" else math.log(3)
        assert told["most"] == pytest.approx(most, abs=2e-3)


def test_a_flag_that_only_stands_for_the_task_is_not_taken_for_routing_by_the_flag():
    """Weights depend on the task alone. In one task the flag is always set: it seems to tell ln 3 - (2/3) ln 2."""
    weights, labels, names = made_up(lambda task, flag, step: one_hot(task))
    flags = [(task == 0).astype(int) for task in labels["task"]]
    told = routing.tells(weights, flags, names, "courses")
    assert told["nats"] == pytest.approx(math.log(3) - 2 / 3 * math.log(2))
    assert told["above"] == pytest.approx(0, abs=1e-9)


def arrivals(seed: int, late: int) -> tuple[list[np.ndarray], list[str]]:
    """Flags that are set once, from a chunk on that differs by `late` at most, and the task of each episode."""
    random = np.random.default_rng(seed)
    return [np.arange(60) >= 25 + random.integers(late + 1) for _ in range(40)], ["a", "b"] * 20


def test_a_router_that_looks_at_the_clock_is_not_taken_for_one_that_looks_at_the_flag():
    """Both know when the hand arrives, more or less; only one knows when it arrives late."""
    flags, names = arrivals(0, 10)
    clock = [np.stack([np.arange(60) < 30, np.arange(60) >= 30], -1) * 1.0] * 40
    told = routing.tells(clock, [flag.astype(int) for flag in flags], names, "courses")
    assert told["nats"] > 0.4 and told["interval"][0] < 0 < told["interval"][1]
    sees = [np.stack([~flag, flag], -1) * 1.0 for flag in flags]
    told = routing.tells(sees, [flag.astype(int) for flag in flags], names, "courses")
    assert told["nats"] == pytest.approx(math.log(2), abs=0.05) and told["interval"][0] > 0.1


def test_nobody_gets_the_course_of_his_own_and_shorter_ones_stay_as_they_ended():
    labels = [np.full(3 + i, i) for i in range(6)]
    for seed in range(20):
        given = routing.shuffled(labels, "courses", ["a"] * 3 + ["b"] * 3, np.random.default_rng(seed))
        assert [len(x) for x in given] == [len(x) for x in labels] and all(len(set(x)) == 1 for x in given)
        whose = [x[0] for x in given]
        assert sorted(whose[:3]) == [0, 1, 2] and all(i != who for i, who in enumerate(whose))


def test_the_interval_counts_episodes_and_not_chunks():
    """Weights that differ from episode to episode for no reason: many chunks of few episodes prove nothing."""
    random = np.random.default_rng(1)
    names, labels = ["a", "b"] * 6, [np.full(200, i % 2) for i in range(12)]
    weights = [np.repeat(random.dirichlet([0.3, 0.3])[None], 200, 0) for _ in range(12)]
    told = routing.tells(weights, labels, names, "episodes")
    assert told["interval"][0] < 0 < told["interval"][1]


def test_negative_weights_are_taken_by_their_size():
    assert routing.as_probabilities(np.array([[2.0, -1.0, 1.0]])).tolist() == [[0.5, 0.25, 0.25]]
    assert routing.entropy(np.full((2, 4), 0.25)) == pytest.approx(math.log(4))


# ------------------------------------------------------------------------------------------ components


def similarity(predictions, weights) -> dict:
    sums = routing.Similarity(len(predictions))
    half = predictions.shape[1] // 2
    sums.add(predictions[:, :half], weights[:half])  # in pieces as whole
    sums.add(predictions[:, half:], weights[half:])
    return sums.result()


def test_components_that_say_the_same():
    one = np.random.default_rng(0).normal(size=(1, 40, 32))
    found = similarity(np.repeat(one, 4, 0), np.full((40, 4), 0.25))
    assert found["effective_rank"] == pytest.approx(1, abs=1e-6)
    assert found["double_counting"] == pytest.approx(3)
    np.testing.assert_allclose(found["signed"], np.ones((4, 4)))
    mirrored = similarity(np.concatenate([one, -one]), np.full((40, 2), 0.5))
    assert mirrored["signed"][0][1] == pytest.approx(-1) and mirrored["absolute"][0][1] == pytest.approx(1)
    assert mirrored["double_counting"] == pytest.approx(-1)


def test_components_that_share_nothing():
    predictions = np.zeros((4, 40, 32))
    for k in range(4):
        predictions[k, :, 8 * k : 8 * k + 8] = np.random.default_rng(k).choice([-1.0, 1.0], size=(40, 8))
    found = similarity(predictions, np.random.default_rng(0).dirichlet(np.ones(4), 40))
    np.testing.assert_allclose(found["signed"], np.eye(4), atol=1e-12)
    np.testing.assert_allclose(found["absolute"], np.eye(4), atol=1e-12)
    assert found["effective_rank"] == pytest.approx(4) and found["double_counting"] == pytest.approx(0)


# ------------------------------------------------------------------------------------------ replaced weights


def test_weights_with_components_left_out_keep_their_sum():
    w = np.array([[0.1, 0.2, 0.3, 0.4], [0.0, 1.0, 0.0, 0.0], [1.5, -0.5, 0.2, -0.2]])
    np.testing.assert_allclose(routing.top(w, 2), [[0, 0, 3 / 7, 4 / 7], [0, 1, 0, 0], [1.5, -0.5, 0, 0]])
    # The one that had everything is missing: nobody says who else should count, so all do.
    np.testing.assert_allclose(routing.without(w, 1)[1], [1 / 3, 0, 1 / 3, 1 / 3])
    np.testing.assert_allclose(routing.without(w, 3)[0], [1 / 6, 1 / 3, 1 / 2, 0])
    for changed in (routing.top(w, 1), routing.top(w, 2), *(routing.without(w, k) for k in range(4))):
        np.testing.assert_allclose(changed.sum(1), 1)


def test_contrast():
    assert routing.contrast(np.diag([100.0, 100, 100])) == 100  # each carries one task
    assert routing.contrast(np.full((3, 3), 40.0)) == 0  # each is missed everywhere


# ------------------------------------------------------------------------------------------ a whole policy


class Sees(nn.Module):
    """point, goal, and room for the name of one of three tasks: (B, 7)."""

    def forward(self, observation):
        seen = torch.cat([observation["point"], observation["goal"]], -1)
        return torch.cat([seen, seen.new_zeros(len(seen), 3)], -1)


class Specialists(nn.Module):
    """Component k says the right action in task k, and the opposite elsewhere."""

    K = 3

    def forward(self, noisy, step, condition):
        to_goal = (6 * (condition[:, 2:4] - condition[:, :2])).clamp(-1, 1)[:, None].expand_as(noisy)  # of 0.05 a step
        side = 2 * condition[:, 4:].T - 1  # (K, B)
        return to_goal * side[:, :, None, None]


class ByName(nn.Module):
    """All weight to the component of the task's number."""

    def forward(self, condition):
        return condition[:, 4:]


@pytest.fixture(scope="module")
def specialists() -> Policy:
    policy = Policy(PolicyConfig(observation={"point": (2,), "goal": (2,)}, action_low=(-0.05,) * 2,
                                 action_high=(0.05,) * 2, tasks=TASKS, components=3, condition_dim=7, executed=1,
                                 target="clean"))  # fmt: skip
    policy.encoder, policy.components, policy.router = Sees(), Specialists(), ByName()
    with torch.no_grad():
        policy.task_embedding.weight.copy_(torch.eye(7)[4:])
    return policy.eval()


@pytest.fixture(scope="module")
def measured(specialists) -> dict:
    return measure.measure(specialists, resolve_tasks(",".join(TASKS)), 4, 400)


def test_a_policy_of_specialists_is_found_out(measured):
    assert measured["success"] == 1
    success = {what: entry["success"] for what, entry in measured["changed"].items()}
    knocked = {f"without {k}": pytest.approx(2 / 3) for k in range(3)}
    replaced = {"the task's mean": 1, "mean over tasks": 0, "1/K": 0, "top two": 1, "another task's": 0}
    assert success == replaced | knocked
    for k, task in enumerate(TASKS):
        entry = measured["changed"][f"without {k}"]
        assert {t: r["successes"] for t, r in entry["tasks"].items()} == {t: 4 * (t != task) for t in TASKS}
        assert measured["tasks"][task]["mean"] == np.eye(3)[k].tolist() and measured["tasks"][task]["entropy"] == 0
        assert entry["difference"]["mean"] == pytest.approx(-100 / 3)
    assert measured["contrast"] == 100
    tells = measured["tells"]
    assert tells["task"]["nats"] == pytest.approx(math.log(3), abs=0.1) and tells["task"]["above"] > 0.5
    assert abs(tells["step"]["above"]) < 1e-9 and abs(tells["flags"]["above"]) < 1e-9
    assert len(measured["untrained"]["task"]) == 5 and max(measured["untrained"]["task"]) < 0.2  # they do see the names
    assert len(set(measured["untrained"]["task"])) == 5


def test_an_untrained_router_weighs_in_the_policys_own_way():
    """One that keeps the best two of eight tells a lot about the task before it has learned anything."""
    settings = {"observation": {"state": (6,)}, "action_low": (-1.0,), "action_high": (1.0,), "tasks": ["a"],
                "components": 8, "channels": (8, 16)}  # fmt: skip
    policy = runs.build_policy("informed", settings | {"top": 2}).eval()
    other, condition = measure.untrained(policy, 3), torch.randn(50, policy.config.condition_dim)
    weights = other.weigh(condition)
    assert ((weights > 0).sum(1) == 2).all() and not torch.equal(weights, policy.weigh(condition))
    assert torch.equal(weights, measure.untrained(policy, 3).weigh(condition))  # of its seed
    for name, x in policy.state_dict().items():  # and nothing else is another
        assert torch.equal(x, other.state_dict()[name]) != name.startswith("router"), name


def test_likeness_is_that_of_predicted_noise(specialists, measured, monkeypatch):
    """At nearly pure noise all components see the same noise, whatever actions they believe in."""
    noisy, step = torch.randn(5, 8, 2), torch.full((5,), 99)
    condition = torch.rand(5, 7)
    sums = routing.Similarity(3)
    with measure.watched(specialists, [], sums):
        specialists.compose(noisy, step, condition, torch.full((5, 3), 1 / 3))
    assert np.array(sums.result()["signed"]).min() > 0.99
    nothing, before = {part: np.zeros((1, 2)) for part in ("point", "goal")}, sums.moments
    with measure.watched(specialists, [], sums):
        specialists.act(nothing, TASKS[:1])  # as when a chunk is timed
        assert sums.moments == before
        specialists.act({part: x + 1 for part, x in nothing.items()}, TASKS[:1])
        assert sums.moments > before
    assert measured["similarity"]["moments"] % 5 == 0  # of five denoising steps a chunk
    assert "compose" not in vars(specialists) and "weigh" not in vars(specialists)  # all is as it was


def test_its_pictures_are_drawn(measured, tmp_path, drawn_in_full):
    paths = pictures.draw(json.loads(json.dumps(measured)), tmp_path / "x")
    assert [path.name for path in paths] == ["x-time.png", "x-usage.png", "x-likeness.png", "x-without.png"]
    assert all(path.stat().st_size > 5000 for path in paths)


def test_a_policy_of_one_component_is_refused(tmp_path):
    config = PolicyConfig(
        observation={"point": (2,)}, action_low=(-1.0,), action_high=(1.0,), tasks=TASKS, components=1
    )
    with pytest.raises(BadInput, match="K > 1 components side by side"):
        measure.measure(Policy(config), TASKS, 1, 400)
    with pytest.raises(BadInput, match="--tasks must name two at least"):
        measure.main(
            measure.MeasureConfig(run=str(ROOT / "study/core/mt6"), tasks="hammer", out=str(tmp_path / "r.json"))
        )
    (tmp_path / "router.json").write_text("{}")
    with pytest.raises(BadInput, match=r"router\.json"):  # something else's file
        measure.main(measure.MeasureConfig(run=str(ROOT / "study/core/mt6"), out=str(tmp_path / "router.json")))
    # Without --out it is beside train.py's figures, which go with the weights, and a quick look does not replace it.
    shutil.copytree(ROOT / "study/core/mt6", tmp_path / "run", ignore=shutil.ignore_patterns("figures"))
    (tmp_path / "run/figures").mkdir()
    (tmp_path / "run/figures/router.json").write_text('{"tells": {}, "flags": {"episodes": 3}}')
    with pytest.raises(BadInput, match="router.json has more episodes: name another file with --out"):
        measure.main(measure.MeasureConfig(run=str(tmp_path / "run"), episodes=2))


def test_the_same_weights_tell_the_same_in_every_process():
    """A set of words has another order in each."""
    code = """
import numpy as np
from study.router import routing
random, names = np.random.default_rng(0), ["reach", "push", "door", "drawer"] * 5
weights, flags = [random.dirichlet([1, 1, 1], 6) for _ in names], [random.integers(0, 2, 6) for _ in names]
print(routing.tells(weights, flags, names, "courses"))
"""
    said = set()
    for seed in (1, 2):
        hashing = {**os.environ, "PYTHONHASHSEED": str(seed)}
        told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=hashing, capture_output=True, text=True)
        assert told.returncode == 0, told.stderr
        said.add(told.stdout)
    assert len(said) == 1
