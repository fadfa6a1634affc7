"""What goes wrong while episodes are played: nothing is counted that was not played, nothing is lost that could be."""

import json
import os
import signal
import time
from multiprocessing import Pipe

import numpy as np
import pytest
import torch
import toy  # noqa: F401
from conftest import command
from gymnasium.spaces import Box

import evaluate
from envs import experts, rollout, worker
from envs.demos import demonstrations
from envs.rollout import FIRST_EVALUATION_SEED, Roller
from envs.tasks import spaces
from envs.worker import Episode, Worker
from fdp import Policy, PolicyConfig
from plumbing import cli, doctor, reports
from plumbing.cli import BadInput
from study.reliability.evaluation import full_batches


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


def calm(seed: int) -> tuple:
    """What becomes of an episode that nobody disturbs: played here, without any process."""
    env = toy.Point()
    seen, _ = env.reset(seed=seed)
    for steps in range(1, 61):
        if (steps - 1) % 4 == 0:
            (chunk,) = expert({name: np.float32(x)[None] for name, x in seen.items()}, None, None)
        seen, _, _, _, info = env.step(chunk[(steps - 1) % 4])
        if info["success"]:
            return seed, True, steps, ""
    return seed, False, 60, ""


def test_ctrl_c_is_for_the_main_process_alone_even_while_a_simulator_imports():
    with Roller(1) as roller:
        (process,) = roller.workers.values()
        for pause in (0.3, 1.0, 1.0):
            os.kill(process.pid, signal.SIGINT)
            time.sleep(pause)
        assert rows(roller.play(expert, [Episode(task("Point"), 5)])) == [calm(5)]
        assert [*roller.workers.values()] == [process]
    assert process.returncode == 0 and signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())


def test_an_episode_that_kills_its_process_is_lost_alone():
    todo, done = [Episode(task("Dying"), seed) for seed in range(12)], []
    with Roller(2) as roller:
        played = roller.play(expert, todo, done.append)
        there = roller.play_expert([Episode(task("Dying"), seed, expert=True) for seed in range(2, 5)])
    assert [e.seed for e in played if e.lost] == [3] and "died (exit code 7)" in played[3].lost
    assert [r for r in rows(played) if r[0] != 3] == [calm(seed) for seed in range(12) if seed != 3]
    assert sorted(e.seed for e in done) == list(range(12)) and sum(map(bool, (e.lost for e in done))) == 1
    assert [bool(e.lost) for e in there] == [False, True, False]


@pytest.mark.parametrize("how", ["play", "play_expert"])
def test_an_environment_that_raises_costs_its_own_episode_only(how, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("FDP_TEST_MARK", str(tmp_path / "mark"))
    todo = [Episode(task("Raising"), seed, expert=how == "play_expert") for seed in range(2, 8)]
    with Roller(1) as roller:
        (process,) = roller.workers.values()
        played = roller.play(expert, todo) if how == "play" else roller.play_expert(todo)
        assert [process] == list(roller.workers.values()) and process.poll() is None and roller.deaths == 0
    assert [(e.seed, e.lost) for e in played if e.lost] == [
        (3, "its environment raised RuntimeError: the gearbox is broken")
    ]
    assert int((tmp_path / "mark").read_text()) == process.pid  # so seed 5 did raise there
    if how == "play":
        assert [r for r in rows(played) if r[0] != 3] == [calm(seed) for seed in range(2, 8) if seed != 3]
    assert capfd.readouterr().err.count("Traceback") == 2  # once in each process, not for each episode


@pytest.mark.parametrize("name,why", [("Raising", "raised RuntimeError: the gearbox is broken"), ("Dying", "died")])
def test_a_seed_that_cannot_be_demonstrated_is_one_line(name, why, tmp_path, monkeypatch):
    """It used to be asked for forever."""
    (tmp_path / "mark").write_text("0")
    monkeypatch.setenv("FDP_TEST_MARK", str(tmp_path / "mark"))
    with pytest.raises(BadInput, match=f"for '{task(name)}' could not be played with seed 3: its .* {why}"):
        demonstrations([task(name)], 4, tmp_path / "data")
    assert not list((tmp_path / "data").rglob("*.hdf5"))


def test_deaths_are_forgiven_where_episodes_are_played_in_between(monkeypatch):
    """Ten thousand episodes may meet the out-of-memory killer more than five times."""
    monkeypatch.setattr(Roller, "MOST_DEATHS", 4)
    with Roller(1, slots=2) as roller:
        played = roller.play(expert, [Episode(task("Dying"), 10 * i + j) for i in range(5) for j in (1, 2, 3)])
    assert {e.seed for e in played if e.lost} == {3, 13, 23, 33, 43}


class Stub:
    """Stands in for a worker's process."""

    killed = False

    def kill(self):
        self.killed = True

    def wait(self):
        return -9


def test_who_takes_long_and_who_was_stopped_is_not_taken_for_silent(monkeypatch):
    """Signs of life are enough to be waited for. An hour in which we were stopped ourselves counts as a second."""
    roller, (ours, theirs), process = Roller.__new__(Roller), Pipe(), Stub()
    Roller.__init__(roller, workers=-1)  # none are started
    monkeypatch.setattr(Roller, "_start_worker", lambda self: None)
    roller.workers[ours] = process
    held, clock = {ours: [Episode("reach", 1)]}, iter(range(0, 10**7, 3600))
    monkeypatch.setattr(rollout.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(rollout, "wait", lambda connections, timeout: [c for c in connections if c.poll(0)])
    for _ in range(3):
        for _ in range(59):
            assert list(roller._answers(held)) == []
        theirs.send(None)  # as from a worker that steps a slow simulator
        assert list(roller._answers(held)) == [] and not process.killed
    for _ in range(59):
        assert list(roller._answers(held)) == []
    assert list(roller._answers(held)) == [(ours, None)] and process.killed
    assert "did not answer for 60 seconds" in held[ours][0].lost


def test_a_worker_gives_signs_of_life_between_steps():
    signs = []
    serving, episode = Worker(lambda: signs.append(1)), Episode("toy:Point-v0", 0)
    serving.chunk([(0, episode, None)])
    before = len(signs)
    serving.chunk([(0, None, np.zeros((5, 2)))])
    assert before >= 1 and len(signs) >= before + 5
    played = serving.expert(Episode("toy:Point-v0", 0, expert=True))
    assert len(signs) >= before + 5 + len(played.actions)


def test_a_process_that_hangs_does_not_keep_us_when_all_is_over(monkeypatch):
    monkeypatch.setattr(Roller, "GOODBYE", 0.2)
    with pytest.raises(KeyError), Roller(1) as roller:
        (process,) = roller.workers.values()
        os.kill(process.pid, signal.SIGSTOP)
        raise KeyError
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("how", ["play", "play_expert"])
def test_a_process_that_falls_silent_is_replaced_and_its_episodes_are_played_again(how, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FDP_TEST_MARK", str(tmp_path / "mark"))
    bury = Roller._bury

    def patient_again(self, *arguments):  # the next process needs longer than that to start
        monkeypatch.setattr(Roller, "PATIENCE", 60.0)
        bury(self, *arguments)

    monkeypatch.setattr(Roller, "_bury", patient_again)
    todo = [Episode(task("Silent"), seed, expert=how == "play_expert") for seed in range(6)]
    with Roller(1) as roller:
        roller.play(expert, [Episode(task("Silent"), 8)])  # it is up
        monkeypatch.setattr(Roller, "PATIENCE", 1.0)
        played = roller.play(expert, todo) if how == "play" else roller.play_expert(todo)
    assert not any(e.lost for e in played) and [e.seed for e in played] == list(range(6))
    assert how == "play_expert" or rows(played) == [calm(seed) for seed in range(6)]
    assert "did not answer for 1 seconds" in capsys.readouterr().err and (tmp_path / "mark").exists()


def test_lost_episodes_are_told_last_and_by_an_exit_code_of_their_own(monkeypatch, capsys):
    monkeypatch.setattr(experts, "_played", {})
    policy = policy_for(task("Dying"))
    result, _ = evaluate.evaluate(policy, [task("Dying")], 5, workers=1)
    (row,) = result["tasks"].values()
    bad = str(FIRST_EVALUATION_SEED + 3)
    assert (row["n"], list(row["lost"]), row["expert"]["n"], list(row["expert"]["lost"])) == (4, [bad], 4, [bad])
    assert reports.lost(result) == {"lost": 2}
    with pytest.raises(SystemExit) as left:
        cli.run(lambda: {"mean_success": 0.5, **reports.lost(result)})
    out, err = capsys.readouterr()
    assert left.value.code == 3 and json.loads(out)["lost"] == 2
    assert err.strip().splitlines()[-1].startswith("incomplete: 2 episodes were lost")


def test_an_expert_that_always_fails_stops_an_evaluation(monkeypatch):
    monkeypatch.setattr(experts, "_played", {})
    policy = policy_for(task("Hopeless"))
    monkeypatch.setattr(policy, "act", None)  # it is not even asked: hours of playing would be for nothing
    with pytest.raises(BadInput, match="expert fails all of the first 20 episodes of '.*Hopeless-v0'.*--check"):
        evaluate.evaluate(policy, [task("Hopeless")], 20)
    assert not experts._played  # but three are too few to say
    monkeypatch.undo()
    result, _ = evaluate.evaluate(policy, [task("Hopeless")], 3, workers=1)
    assert next(iter(result["tasks"].values()))["expert"]["successes"] == 0


def test_actions_that_are_not_finite_are_never_counted_as_failures(monkeypatch):
    policy = policy_for("toy:Point-v0")
    monkeypatch.setattr(policy, "denormalize", lambda clean: clean * float("nan"))
    with pytest.raises(BadInput, match="actions are not finite"):
        evaluate.evaluate(policy, ["toy:Point-v0"], 2, workers=1)
    monkeypatch.undo()
    with torch.no_grad():
        policy.components.head.bias.fill_(float("inf"))  # which samplers clip to actions that look like any other
    noise = torch.zeros(1, 8, 2)
    seen = {name: np.zeros((1, 2)) for name in ("point", "goal")}
    assert np.isfinite(policy.act(seen, ["toy:Point-v0"], noise=noise)[0]).all()
    with pytest.raises(BadInput, match="predictions are not finite"):
        evaluate.evaluate(policy, ["toy:Point-v0"], 2, workers=1)


def test_an_unstable_simulation_is_counted_and_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    worker.listen()
    serving, episode = Worker(), Episode("reach", 0)
    serving.chunk([(0, episode, None)])
    env = serving.running[0][1]
    serving.chunk([(0, None, np.zeros((2, 4)))])
    assert not episode.unstable
    env.unwrapped.sim.data.qvel[:] = np.inf
    serving.chunk([(0, None, np.zeros((2, 4)))])
    assert episode.unstable and not list(tmp_path.iterdir())
    assert evaluate._count([episode, Episode("reach", 1)])["unstable"] == 1


def test_padded_batches_make_the_bits_of_an_episode_its_own(monkeypatch):
    """Also where it is the last that still runs, or one of few."""
    policy, seen = policy_for("toy:Point-v0", "toy:OtherPoint-v0"), {}
    real = Policy.act

    def act(self, observations, tasks, *more):
        actions, weights = real(self, observations, tasks, *more)
        seen.setdefault(len(tasks), []).append(actions)
        return actions, weights

    monkeypatch.setattr(Policy, "act", act)
    monkeypatch.setattr(evaluate, "latency", lambda *_: 0.0)
    outcomes = []
    for tasks in (["toy:Point-v0", "toy:OtherPoint-v0"], ["toy:OtherPoint-v0"]):
        seen.clear()
        with full_batches(policy):
            outcomes.append(evaluate.evaluate(policy, tasks, 3, workers=1)[0]["tasks"]["toy:OtherPoint-v0"])
        assert list(seen) == [24]
    together, alone = outcomes
    assert together["router_weights"] == alone["router_weights"] and together["failed_seeds"] == alone["failed_seeds"]


def test_thousands_of_episodes_do_not_pile_up(monkeypatch):
    """What is kept of each is a few numbers; only first episodes keep what a figure shows."""
    monkeypatch.setattr(experts, "_played", {})
    played, real = [], Roller.play
    monkeypatch.setattr(Roller, "play", lambda self, *a, **k: played.extend(real(self, *a, **k)) or played)
    evaluate.evaluate(policy_for("toy:Point-v0"), ["toy:Point-v0"], 4, workers=1)
    assert [len(e.phases) > 0 for e in played] == [True, False, False, False]
    for e in [*played[1:], *experts._played.values()]:
        assert not (e.phases or e.rewards or e.observations or e.actions or e.executed or e.frames)


def test_looking_at_an_installation(monkeypatch, capsys):
    assert command(evaluate, "--check", "--device", "cpu")["check"] == "all is well"
    told = capsys.readouterr().err
    assert all(words in told for words in ("mujoco", "expert: hammer", "videos", "GPU")) and told.count("solved") == 3
    monkeypatch.setattr(doctor, "TASKS", (task("Hopeless"),))
    monkeypatch.setattr(doctor.figures, "find_opengl", lambda: False)
    with pytest.raises(BadInput, match="to mend: the expert does not solve '.*Hopeless-v0'"):
        command(evaluate, "--check", "--device", "cpu")
    monkeypatch.setattr(doctor.Roller, "play_expert", lambda self, todo: self._bury(next(iter(self.workers)), todo))
    monkeypatch.setattr(doctor.Roller, "MOST_DEATHS", 1)
    with pytest.raises(BadInput, match="to mend: simulator processes end at once"):
        doctor.check(torch.device("cpu"))
    with pytest.raises(BadInput, match="--run: name a run folder"):
        command(evaluate, "--episodes", 3)


def test_noise_is_as_large_as_the_range_of_whole_numbers_of_eight_bits(monkeypatch):
    """In which 127 - -128 is -1."""
    usual = toy.Point.__init__

    def eight_bits(self, *arguments, **options):
        usual(self, *arguments, **options)
        self.action_space = Box(-128, 127, (2,), np.int8)

    monkeypatch.setattr(toy.Point, "__init__", eight_bits)
    episode = Worker().expert(Episode("toy:Point-v0", 0, expert=True, action_noise=0.1))
    shaken = np.array(episode.executed, float) - np.array(episode.actions)
    assert len(shaken) > 5 and 4 < np.abs(shaken).mean() < 30  # of a normal of 0.1 x 127.5: 10


def test_environments_do_not_pile_up_where_many_episodes_of_a_task_met_once(monkeypatch):
    monkeypatch.setattr(worker, "SPARE", 2)
    serving, closed, point, other = Worker(), [], "toy:Point-v0", "toy:OtherPoint-v0"
    monkeypatch.setattr(toy.Point, "close", lambda self: closed.append(self))
    for _ in range(3):
        for index in range(5):
            serving.chunk([(index, Episode(point, index), None)])
        serving.chunk([(5, Episode(other, 5), None)])
        replies = serving.chunk([(index, None, np.zeros((60, 2))) for index in range(6)])
        assert all(finished.steps == 60 for _, _, finished in replies)
        assert len(serving.free[point, False, ""]) in (2, 3) and len(serving.free[other, False, ""]) == 1
    assert len(closed) >= 6 and len(set(map(id, closed))) == len(closed)
