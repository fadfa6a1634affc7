"""What goes wrong while episodes are played: nothing is counted that was not played, nothing is lost that could be."""

import json

import numpy as np
import pytest
import torch
import toy  # noqa: F401
from conftest import command

import evaluate
from envs import experts, worker
from envs.rollout import FIRST_EVALUATION_SEED, Roller
from envs.tasks import spaces
from envs.worker import Episode, Worker
from fdp import Policy, PolicyConfig
from plumbing import cli, doctor
from plumbing.cli import BadInput


def task(name: str) -> str:
    return f"toy:{name}-v0"


def policy_for(*tasks: str) -> Policy:
    torch.manual_seed(0)
    s = spaces(tasks[0])
    return Policy(PolicyConfig(s.observation, s.action_low, s.action_high, list(tasks), 2, channels=(8, 16))).eval()


def rows(played: list[Episode]) -> list[tuple]:
    return [(e.seed, e.success, e.steps, e.lost) for e in played]


def expert(observations, episodes, chunks):
    """Point's own expert, as a policy: from the observation alone."""
    apart = observations["goal"] - observations["point"]
    return np.repeat(np.clip(0.3 * apart, -0.05, 0.05)[:, None], 4, 1)


def test_an_episode_that_kills_its_process_is_lost_alone():
    todo = [Episode(task("Dying"), seed) for seed in range(12)]
    with Roller(2) as roller:
        played = roller.play(expert, todo)
        there = roller.play_expert([Episode(task("Dying"), seed, expert=True) for seed in range(2, 5)])
    with Roller(2) as roller:
        calm = roller.play(expert, [Episode("toy:Point-v0", seed) for seed in range(12)])
    assert [e.seed for e in played if e.lost] == [3] and "died (exit code 7)" in played[3].lost
    assert [r for r in rows(played) if r[0] != 3] == [r for r in rows(calm) if r[0] != 3]
    assert [bool(e.lost) for e in there] == [False, True, False]


@pytest.mark.parametrize("how", ["play", "play_expert"])
def test_a_process_that_falls_silent_is_replaced_and_its_episodes_are_played_again(how, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FDP_TEST_MARK", str(tmp_path / "mark"))
    monkeypatch.setattr(Roller, "PATIENCE", 3.0)
    todo = [Episode(task("Silent"), seed, expert=how == "play_expert") for seed in range(6)]
    with Roller(1) as roller:
        played = roller.play(expert, todo) if how == "play" else roller.play_expert(todo)
    assert not any(e.lost for e in played) and [e.seed for e in played] == list(range(6))
    assert "did not answer for 3 seconds" in capsys.readouterr().err and (tmp_path / "mark").exists()


def test_lost_episodes_are_told_last_and_by_an_exit_code_of_their_own(monkeypatch, capsys):
    monkeypatch.setattr(experts, "_played", {})
    policy = policy_for(task("Dying"))
    result, _ = evaluate.evaluate(policy, [task("Dying")], 5)
    (row,) = result["tasks"].values()
    bad = str(FIRST_EVALUATION_SEED + 3)
    assert (row["n"], list(row["lost"]), row["expert"]["n"], list(row["expert"]["lost"])) == (4, [bad], 4, [bad])
    assert evaluate.lost(result) == {"lost": 2}
    with pytest.raises(SystemExit) as left:
        cli.run(lambda: {"mean_success": 0.5, **evaluate.lost(result)})
    out, err = capsys.readouterr()
    assert left.value.code == 3 and json.loads(out)["lost"] == 2
    assert err.strip().splitlines()[-1].startswith("incomplete: 2 episodes were lost")


def test_an_expert_that_always_fails_stops_an_evaluation(monkeypatch):
    monkeypatch.setattr(experts, "_played", {})
    policy = policy_for(task("Hopeless"))
    with pytest.raises(BadInput, match="expert fails all of the first 20 episodes of '.*Hopeless-v0'.*--check"):
        evaluate.evaluate(policy, [task("Hopeless")], 20)
    result, _ = evaluate.evaluate(policy, [task("Hopeless")], 3)  # too few to say
    assert next(iter(result["tasks"].values()))["expert"]["successes"] == 0


def test_actions_that_are_not_finite_are_never_counted_as_failures(monkeypatch):
    policy = policy_for("toy:Point-v0")
    monkeypatch.setattr(policy, "denormalize", lambda clean: clean * float("nan"))
    with pytest.raises(BadInput, match="actions are not finite"):
        evaluate.evaluate(policy, ["toy:Point-v0"], 2)


def test_an_unstable_simulation_is_counted_and_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    worker.listen()
    serving, episode = Worker(), Episode("reach", 0)
    serving.chunk([(0, episode, None)])
    env = serving.running[0][1]
    serving.chunk([(0, None, np.zeros((2, 4)))])
    assert episode.unstable == 0
    env.unwrapped.sim.data.qvel[:] = np.inf
    serving.chunk([(0, None, np.zeros((2, 4)))])
    assert episode.unstable > 0 and not list(tmp_path.iterdir())
    assert evaluate._count([episode])["unstable"] == episode.unstable


def test_padded_batches_make_the_bits_of_an_episode_its_own(monkeypatch):
    """Also where it is the last that still runs, or one of few."""
    policy, seen = policy_for("toy:Point-v0", "toy:OtherPoint-v0"), {}
    real = Policy.act

    def act(self, observations, tasks, *more):
        actions, weights = real(self, observations, tasks, *more)
        seen.setdefault(len(tasks), []).append(actions)
        return actions, weights

    monkeypatch.setattr(Policy, "act", act)
    monkeypatch.setattr(evaluate, "_latency", lambda *_: 0.0)
    outcomes = []
    for tasks in (["toy:Point-v0", "toy:OtherPoint-v0"], ["toy:OtherPoint-v0"]):
        seen.clear()
        outcomes.append(evaluate.evaluate(policy, tasks, 3, padded=True)[0]["tasks"]["toy:OtherPoint-v0"])
        assert list(seen) == [24]
    together, alone = outcomes
    assert together["router_weights"] == alone["router_weights"] and together["failed_seeds"] == alone["failed_seeds"]


def test_thousands_of_episodes_do_not_pile_up(monkeypatch):
    """What is kept of each is a few numbers; only first episodes keep what a figure shows."""
    monkeypatch.setattr(experts, "_played", {})
    played, real = [], Roller.play
    monkeypatch.setattr(Roller, "play", lambda self, *a, **k: played.extend(real(self, *a, **k)) or played)
    evaluate.evaluate(policy_for("toy:Point-v0"), ["toy:Point-v0"], 4)
    assert [len(e.phases) > 0 for e in played] == [True, False, False, False]
    for e in [*played[1:], *experts._played.values()]:
        assert not (e.phases or e.rewards or e.observations or e.actions or e.executed or e.frames)


def test_looking_at_an_installation(monkeypatch, capsys):
    assert command(evaluate, "--check", "--device", "cpu")["check"] == "all is well"
    told = capsys.readouterr().err
    assert all(words in told for words in ("mujoco", "expert: hammer", "solved in", "videos", "GPU"))
    monkeypatch.setattr(doctor, "TASKS", (task("Hopeless"),))
    with pytest.raises(BadInput, match="to mend: the expert does not solve '.*Hopeless-v0'"):
        command(evaluate, "--check", "--device", "cpu")
    with pytest.raises(BadInput, match="--run: name a run folder"):
        command(evaluate, "--episodes", 3)
