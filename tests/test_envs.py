"""Environments: Gymnasium's contract, seeds that mean something, experts that succeed, workers that may die."""

import os
import signal

import gymnasium
import numpy as np
import pytest
from conftest import script
from gymnasium.utils.env_checker import check_env

import envs  # noqa: F401
from cli import BadInput
from envs.metaworld import GROUPS, MAX_STEPS, TASKS, MetaWorldEnv, expert, resolve_tasks
from envs.rollout import FIRST_EVALUATION_SEED, Episode, Roller


def test_all_50_tasks_are_registered_with_a_string_entry_point():
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE, MT10_V3

    assert len(TASKS) == len(set(TASKS)) == 50
    assert {f"{task}-v3-goal-observable" for task in TASKS} == set(ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE)
    assert GROUPS["mt10"] == [name.removesuffix("-v3") for name in MT10_V3]
    for task in TASKS:
        assert gymnasium.spec(f"fdp/{task}-v3").entry_point == "envs.metaworld:MetaWorldEnv"


@pytest.mark.parametrize("task", ["push", "door-open"])
@pytest.mark.filterwarnings("ignore:.*(infinity|not within|render modes).*")
def test_gymnasium_accepts_the_environment(task):
    check_env(gymnasium.make(f"fdp/{task}-v3").unwrapped, skip_render_check=True)


RENDERING = """
import figures
if not figures.find_opengl():
    raise SystemExit(77)
import envs, gymnasium
env = gymnasium.make("fdp/push-v3", render_mode="rgb_array")
env.reset(seed=0)
first = env.render().astype(int)
assert first.shape == (480, 480, 3) and first.std() > 20, "an empty picture"
for _ in range(10):
    env.step(env.action_space.high)
assert abs(env.render() - first).max() > 50, "the arm moved, the picture did not"
"""


def test_rgb_array_rendering():
    """In a process of its own: the OpenGL platform has to be chosen before MuJoCo is imported."""
    done = script("-c", RENDERING)
    if done.returncode == 77:
        pytest.skip("no OpenGL platform here (apt-get install libosmesa6)")
    assert done.returncode == 0, done.stderr


def play(env: MetaWorldEnv, seed: int, steps: int = 12) -> np.ndarray:
    policy, rows = expert(env.task), [env.reset(seed=seed)[0]]
    for _ in range(steps):
        before = rows[-1].copy()
        rows.append(env.step(policy(rows[-1]))[0])
        assert np.array_equal(before, rows[-2]), "the expert changed the observation that it was given"
    return np.array(rows)


@pytest.mark.parametrize("task", TASKS)
def test_a_seed_determines_the_episode_whatever_was_played_before(task):
    env = MetaWorldEnv(task)
    twin = env.clone()
    first = play(env, seed=3)
    other = play(env, seed=4)
    assert not np.array_equal(first[0], other[0]), "another seed must move the goal or an object"
    assert np.array_equal(first, play(env, seed=3))
    play(twin, seed=5)
    assert np.array_equal(first, play(twin, seed=3)), "a clone is the same environment"
    env.reset(seed=3)
    again, new = env.reset()[0], env.reset()[0]
    assert not np.array_equal(again, new), "unseeded resets go on drawing new positions"


def test_clones_are_independent():
    env = MetaWorldEnv("push")
    env.reset(seed=0)
    before = env.sim.data.qpos.copy()
    play(env.clone(), seed=1)
    assert np.array_equal(before, env.sim.data.qpos)


def test_at_reset_the_previous_frame_is_the_current_one():
    """So nothing has to be padded at the start of an episode."""
    for task in ("reach", "push", "hammer"):
        observation, _ = MetaWorldEnv(task).reset(seed=0)
        assert np.array_equal(observation[:18], observation[18:36])


def test_resolve_tasks():
    assert resolve_tasks("reach,push-v3") == ["reach", "push"]
    assert resolve_tasks("mt6") == ["door-open", "drawer-open", "assembly", "window-close", "peg-insert-side", "hammer"]
    assert resolve_tasks("mt4") == ["door-close", "drawer-close", "disassemble", "window-open"]
    assert len(resolve_tasks("mt10")) == 10 and len(resolve_tasks("mt50")) == 50
    assert resolve_tasks("mt4,window-open, reach") == [*GROUPS["mt4"], "reach"]


@pytest.mark.parametrize(
    "text,words", [("puhs", "'puhs'; closest: .*push"), ("zzzzzz", "groups: mt6"), (" , ", "no task given")]
)
def test_unknown_tasks_are_refused_with_the_closest_names(text, words):
    with pytest.raises(BadInput, match=words):
        resolve_tasks(text)


SAMPLE = [
    "reach",
    "push",
    "door-open",
    "drawer-open",
    "assembly",
    "window-close",
    "hammer",
    "pick-place",
    "button-press-topdown",
]


def test_experts_succeed():
    """If they do not, neither can the policy: versions of simulator and experts do not fit. Each is near 1.0 on
    these.
    """
    with Roller(2) as roller:
        episodes = roller.play_expert([Episode(task, seed, expert=True) for task in SAMPLE for seed in (0, 1)])
    failed = [(e.task, e.seed) for e in episodes if not e.success]
    assert len(failed) <= 1, failed
    assert all(0 < e.steps < MAX_STEPS and len(e.observations) == len(e.actions) + 1 for e in episodes if e.success)


def expert_chunks(observations, episodes, chunks):
    """An open-loop expert: asks once and repeats, as a policy with a chunk of 4 would."""
    return np.stack([np.tile(expert(e.task)(o), (4, 1)) for o, e in zip(observations, episodes, strict=True)])


def test_rollouts_do_not_depend_on_workers_or_slots():
    def outcome(workers, slots):
        with Roller(workers, slots) as roller:
            todo = [Episode(t, FIRST_EVALUATION_SEED + i) for t in ("reach", "drawer-open") for i in range(4)]
            return [(e.task, e.seed, e.success, e.steps, e.phases) for e in roller.play(expert_chunks, todo)]

    one = outcome(1, 100)
    assert one == outcome(2, 3) and sum(success for _, _, success, _, _ in one) >= 6


def kill_one(roller: Roller) -> None:
    os.kill(next(iter(roller.workers.values())).pid, signal.SIGKILL)


def test_a_worker_that_dies_is_reported_replaced_and_not_counted(capsys):
    with Roller(2) as roller:
        todo = [Episode("reach", i) for i in range(6)]

        def act(observations, episodes, chunks):
            if chunks[0] == 1 and roller.deaths == 0:
                kill_one(roller)
            return expert_chunks(observations, episodes, chunks)

        played = roller.play(act, todo)
        lost = [e for e in played if e.lost]
        assert len(lost) == 3 and not any(e.success for e in lost)
        assert all(e.success for e in played if not e.lost) and len(roller.workers) == 2
        warning = capsys.readouterr().err
        assert all(f"reach seed {e.seed}" in warning for e in lost) and "not counted" in warning

        kill_one(roller)  # and the same while experts play
        played = roller.play_expert([Episode("reach", i, expert=True) for i in range(6)])
        assert sum(bool(e.lost) for e in played) == 1 and sum(e.success for e in played) == 5


def test_workers_that_keep_dying_are_an_error():
    with Roller(1, slots=1) as roller, pytest.raises(RuntimeError, match="5 simulator processes have died"):
        roller.play(lambda *_: kill_one(roller) or np.zeros((1, 4, 4)), [Episode("reach", i) for i in range(9)])
