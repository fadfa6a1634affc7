"""What an evaluation counts, against outcomes that are known beforehand."""

import numpy as np
import pytest
import torch

import evaluate
from envs.tasks import spaces
from fdp import Policy, PolicyConfig

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

    def play(self, act, episodes, on_done):
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
    monkeypatch.setattr(evaluate, "_experts", {})
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


def test_mean_steps_are_those_of_successes(result):
    assert result["tasks"]["reach"]["mean_steps_to_success"] == np.mean([40, 41, 42, 45])
    assert result["tasks"]["push"]["mean_steps_to_success"] == 43


def test_the_simulators_get_the_executed_actions_only(policy, result):
    assert all(chunk.shape == (1, policy.config.executed, 4) for chunk in Known.chunks)
    first = evaluate.Episode("reach", FIRST)
    seen = {name: np.zeros((1, *shape)) for name, shape in policy.config.observation.items()}
    noise = evaluate.starting_noise(policy, [first], [0])
    whole, _ = policy.act(seen, ["reach"], noise=noise)
    assert whole.shape[1] == 8 and np.array_equal(Known.chunks[0], whole[:, :3])
