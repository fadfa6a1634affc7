"""What an evaluation counts, against outcomes that are known beforehand."""

import numpy as np
import pytest
import torch
from conftest import ROOT
from toy import Point

import evaluate
from envs import experts
from envs.rollout import Roller
from envs.tasks import spaces
from fdp import Policy, PolicyConfig
from plumbing.runs import load_policy

TASKS, EPISODES, BLOCK = ["reach", "push"], 10, 7
FIRST = 1_000_000 + 10_000 * BLOCK  # written out: the rule, not the function that follows it
WINS = {"reach": {0, 1, 2, 5}, "push": {3}}  # by the last digit of the seed
EXPERT_WINS = {"reach": {0, 1, 2, 3, 4, 5, 6, 7, 8}, "push": {0, 1, 2, 3, 4}}


class Known:
    """Stands in for the pool of simulators: every episode ends as the tables above say."""

    chunks: list = []

    def __init__(self, workers=None):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def play(self, act, episodes, on_done=lambda _: None):
        for episode in episodes:
            seen = {name: np.zeros((1, *shape)) for name, shape in spaces(episode.task).observation.items()}
            Known.chunks.append(act(seen, [episode], [0]))
            episode.success = episode.seed % 10 in WINS[episode.task]
            episode.steps = 40 + episode.seed % 10 if episode.success else 500
            on_done(episode)
        return episodes

    def play_expert(self, episodes, on_done):
        for episode in episodes:
            episode.success = episode.seed % 10 in EXPERT_WINS[episode.task]
            on_done(episode)
        return episodes


@pytest.fixture(scope="module")
def policy() -> Policy:
    torch.manual_seed(0)
    s = spaces("reach")
    config = PolicyConfig(s.observation, s.action_low, s.action_high, TASKS, 2, executed=3, channels=(8, 16))
    return Policy(config).eval()


@pytest.fixture
def result(policy, monkeypatch) -> dict:
    monkeypatch.setattr(evaluate, "Roller", Known)
    monkeypatch.setattr(experts, "_played", {})
    Known.chunks = []
    return evaluate.evaluate(policy, TASKS, EPISODES, BLOCK)[0]


def test_the_block_that_was_asked_for_is_played(result):
    assert all(row["seeds"] == [FIRST, FIRST + EPISODES - 1] for row in result["tasks"].values())


def test_successes_are_the_policys_and_the_experts_stand_beside_them(result):
    reach, push = result["tasks"]["reach"], result["tasks"]["push"]
    assert (reach["n"], reach["successes"], reach["success"]) == (10, 4, 0.4)
    assert (push["n"], push["successes"], push["success"]) == (10, 1, 0.1)
    assert [row["expert"]["successes"] for row in (reach, push)] == [9, 5]
    assert result["mean_success"] == pytest.approx(0.25)


def test_failed_seeds_are_those_that_failed(result):
    assert result["tasks"]["reach"]["failed_seeds"] == [FIRST + i for i in (3, 4, 6, 7, 8, 9)]
    assert result["tasks"]["push"]["failed_seeds"] == [FIRST + i for i in (0, 1, 2, 4, 5, 6, 7, 8, 9)]


def test_the_first_failure_of_each_task_is_played_once_more_for_its_film(policy, monkeypatch):
    """push fails in its first episode, which is filmed anyway; reach in its fourth."""
    monkeypatch.setattr(evaluate, "Roller", Known)
    monkeypatch.setattr(experts, "_played", {})
    result, traces = evaluate.evaluate(policy, TASKS, EPISODES, BLOCK, video=True)
    assert [(e.task, e.seed - FIRST, e.render_every) for e, _ in traces] == [
        ("reach", 0, 4),
        ("push", 0, 4),
        ("reach", 3, 4),
    ]
    assert not traces[2][0].success and traces[2][1].shape == (1, policy.config.components)
    assert (result["tasks"]["reach"]["n"], result["tasks"]["reach"]["successes"]) == (10, 4), "it counts once"


def test_mean_steps_are_those_of_successes(result):
    assert result["tasks"]["reach"]["mean_steps_to_success"] == np.mean([40, 41, 42, 45])
    assert result["tasks"]["reach"]["steps_to_success"] == [40, 41, 42, 45]
    assert result["tasks"]["push"]["mean_steps_to_success"] == 43


def test_the_simulators_get_the_executed_actions_only(policy, result):
    assert all(chunk.shape == (1, policy.config.executed, 4) for chunk in Known.chunks)
    first = evaluate.Episode("reach", FIRST)
    seen = {name: np.zeros((1, *shape)) for name, shape in policy.config.observation.items()}
    noise = evaluate.starting_noise(policy, [first], [0])
    whole, _ = policy.act(seen, ["reach"], noise=noise)
    assert whole.shape[1] == 8 and np.array_equal(Known.chunks[0], whole[:, :3])


def test_a_real_simulator_carries_out_the_first_of_the_planned_actions(monkeypatch):
    """The toy moves by what it is given, so where it is when the policy is asked again says what it was given."""
    task, seeds = "toy:Point-v0", [FIRST, FIRST + 1]
    s = spaces(task)
    torch.manual_seed(0)
    policy = Policy(PolicyConfig(s.observation, s.action_low, s.action_high, [task], 2, executed=3, channels=(8, 16)))
    plan, seen = policy.eval().act, {}

    def watch(observation, tasks, sampler, steps, noise=None, generator=None):
        actions, weights = plan(observation, tasks, sampler, steps, noise, generator)
        if noise is not None:  # the measurement of latency plays no episode
            places, goals = observation["point"], observation["goal"]
            for goal, *rest in zip(goals, places, actions, noise.numpy(), strict=True):
                seen.setdefault(tuple(goal), []).append(rest)
        return actions, weights

    monkeypatch.setattr(policy, "act", watch)
    result, traces = evaluate.evaluate(policy, [task], 2, BLOCK, workers=1)
    assert result["tasks"][task]["n"] == len(seen) == 2
    for seed in seeds:
        begin, _ = Point().reset(seed=seed)
        chunks = seen[tuple(np.float32(begin["goal"]))]  # goals are drawn anew, so a goal says which episode it is
        assert len(chunks) > 2 and np.allclose(chunks[0][0], begin["point"])
        for number, (point, planned, noise) in enumerate(chunks):
            assert np.allclose(noise, np.random.default_rng((seed, number, 1)).standard_normal((8, 2)), atol=1e-6)
            assert planned.shape == (8, 2) and np.abs(planned[3:].sum(0)).max() > 1e-3  # or the rest would not show
            for action in planned[:3]:
                point = np.clip(point + action, -1, 1)
            if number + 1 < len(chunks):
                assert np.allclose(chunks[number + 1][0], point, atol=1e-6)
        if seed == traces[0][0].seed:
            assert len(traces[0][1]) == len(chunks) == -(-traces[0][0].steps // 3)


def test_simulators_that_are_used_again_play_the_same(monkeypatch):
    """Of a real task: MuJoCo keeps more between episodes than a toy."""
    policy, task, begun = load_policy(ROOT / "study" / "core" / "mt6"), "window-close", []
    monkeypatch.setattr(experts, "_played", {})

    def played(**more):
        row = evaluate.evaluate(policy, [task], 2, BLOCK, **more)[0]["tasks"][task]
        return {key: row[key] for key in ("n", "successes", "failed_seeds", "steps_to_success", "router_weights")}

    alone = played(workers=1)
    start = Roller._start_worker
    monkeypatch.setattr(Roller, "_start_worker", lambda self: begun.append(0) or start(self))
    with Roller(1) as roller:
        assert played(roller=roller) == played(roller=roller) == alone
    assert len(begun) == 1


def test_the_sampler_that_was_asked_for_acts(policy, monkeypatch):
    monkeypatch.setattr(evaluate, "Roller", Known)
    monkeypatch.setattr(experts, "_played", {})
    asked, act = set(), policy.act

    def watched(observation, tasks, sampler=None, steps=None, noise=None, generator=None):
        asked.add((sampler, steps, generator and generator.initial_seed()))
        return act(observation, tasks, sampler, steps, noise, generator)

    monkeypatch.setattr(policy, "act", watched)
    evaluate.evaluate(policy, TASKS, 2, BLOCK, "ddim", 3)
    assert asked == {("ddim", 3, BLOCK), ("ddim", 3, None)}  # the second is timed
    assert policy.choose_sampler() == ("dpm", 5)
