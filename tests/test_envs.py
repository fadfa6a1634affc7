"""Environments: Gymnasium's contract, seeds that mean something, experts that succeed, workers that may die."""

import subprocess
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from conftest import script
from gymnasium.utils.env_checker import check_env
from metaworld.policies import ENV_POLICY_MAP

import envs  # noqa: F401
from envs import two_ways
from envs.metaworld import DIFFERENCES, GROUPS, PARTS, TASKS, MetaWorldEnv, split_state
from envs.rollout import FIRST_EVALUATION_SEED, Roller
from envs.tasks import check_fit, common_spaces, own_random, resolve_tasks, spaces
from envs.worker import Episode, Worker
from plumbing.cli import BadInput


def test_all_50_tasks_are_registered_with_a_string_entry_point():
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE, ML10_V3, ML45_V3, MT10_V3

    assert len(TASKS) == len(set(TASKS)) == 50
    assert {f"{task}-v3-goal-observable" for task in TASKS} == set(ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE)
    assert GROUPS["mt10"] == [name.removesuffix("-v3") for name in MT10_V3]
    for name, theirs in (("ml10", ML10_V3), ("ml45", ML45_V3)):
        for part in ("train", "test"):
            assert set(GROUPS[f"{name}-{part}"]) == {task.removesuffix("-v3") for task in theirs[part]}
    assert len(set(GROUPS["cw10"])) == 10 and set(GROUPS["cw10"]) <= set(TASKS)
    for task in TASKS:
        assert gymnasium.spec(f"fdp/{task}-v3").entry_point == "envs.metaworld:MetaWorldEnv"


@pytest.mark.parametrize("task", ["push", "door-open"])
@pytest.mark.filterwarnings("ignore:.*(infinity|not within|render modes).*")
def test_gymnasium_accepts_the_environment(task):
    check_env(gymnasium.make(f"fdp/{task}-v3").unwrapped, skip_render_check=True)


RENDERING = """
from plumbing import figures
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


def row(observation) -> np.ndarray:
    """All 39 numbers of an observation."""
    return np.concatenate([observation[part].ravel() for part in PARTS])


def play(env: MetaWorldEnv, seed: int, steps: int = 4) -> np.ndarray:
    """The expert plays. -> all observations (steps + 1, 39)."""
    rows = [row(env.reset(seed=seed)[0])]
    for _ in range(steps):
        before = env.state.copy()
        action = env.expert_action()
        assert np.array_equal(before, env.state), "the expert changed the observation that it was given"
        rows.append(row(env.step(action)[0]))
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
    again, new = row(env.reset()[0]), row(env.reset()[0])
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
        for part in ("proprioception", "objects"):
            now, before = observation[part]
            assert np.array_equal(now, before) and now.any()


@pytest.mark.parametrize("task", ["reach", "push", "hammer"])
def test_parts_of_an_observation_are_what_they_are_called(task):
    """Against what the simulator itself says about hand, gripper, objects and goal."""
    env = MetaWorldEnv(task)
    before = env.reset(seed=0)[0]
    for _ in range(3):
        now, *_ = env.step(np.array([1.0, -1, 0.5, 1], np.float32))
        assert {part: x.shape for part, x in now.items()} == PARTS
        hand, objects = env.sim.get_endeff_pos(), env.sim._get_pos_objects()
        assert np.allclose(now["proprioception"][0, :3], hand) and 0 <= now["proprioception"][0, 3] <= 1
        assert not np.array_equal(now["proprioception"][0], before["proprioception"][0])
        places = now["objects"][0].reshape(2, 7)[:, :3].ravel()[: len(objects)]
        assert np.allclose(places, objects)
        assert np.allclose(now["goal"], env.sim._target_pos)
        for part in ("proprioception", "objects"):  # the second frame is the first of one step ago
            assert np.array_equal(now[part][1], before[part][0])
        before = now


def test_splitting_a_state_loses_nothing_and_mixes_nothing():
    state = np.arange(2 * 39).reshape(2, 39)
    parts = split_state(state)
    assert parts["proprioception"][1].tolist() == [[39, 40, 41, 42], [57, 58, 59, 60]]
    assert parts["objects"][0].tolist() == [list(range(4, 18)), list(range(22, 36))]
    assert parts["goal"].tolist() == [[36, 37, 38], [75, 76, 77]]
    assert {part: x.shape for part, x in split_state(state[0]).items()} == PARTS


def test_a_policy_of_other_actions_is_told_so():
    other = SimpleNamespace(observation=spaces("push").observation, action_dim=7, action_low=(-1,), action_high=(1,))
    with pytest.raises(BadInput, match="^this policy acts with 7 numbers, and task 'push' takes 4$"):
        check_fit(other, ["push"], "this policy")


def test_resolve_tasks():
    assert resolve_tasks("reach,push-v3,fdp/push-v3") == ["reach", "push"]  # three names, two tasks
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
    assert all(0 < e.steps < 500 and len(e.observations) == len(e.actions) + 1 for e in episodes if e.success)


@pytest.mark.parametrize("task", two_ways.WALLS)
def test_there_are_two_ways_around_the_wall_and_none_between_them(task):
    """Both succeed from the same places; the mean of what the two do runs into the wall and stays there."""
    env, usual = (gymnasium.make(f"fdp/{name}-v3").unwrapped for name in (f"{task}-two-ways", task))
    assert resolve_tasks(f"fdp/{task}-two-ways-v3") == [f"fdp/{task}-two-ways-v3"]
    assert common_spaces([task, f"fdp/{task}-two-ways-v3"]).differences == DIFFERENCES
    wall, left, right = two_ways.WALLS[task]
    sides = []
    for seed in range(16):
        here, there = env.reset(seed=seed)[0], usual.reset(seed=seed)[0]
        assert all(np.array_equal(here[part], there[part]) for part in PARTS)  # nothing foretells the side
        sides.append(env.side)
    assert 3 < sum(sides) < 13
    for how in (0, 1, "mean"):
        env.reset(seed=0)
        passed = []
        for _ in range(250):
            actions = []
            for env.side in (0, 1) if how == "mean" else (how,):
                actions.append(env.expert_action())
            *_, info = env.step(np.mean(actions, 0))
            passed += [env.state[0]] if abs(env.state[1] - wall) < 0.02 else []
            if info["success"]:
                break
        assert info["success"] == (how != "mean")
        if how != "mean":
            assert np.allclose(passed, (left, right)[how], atol=0.04) and passed
        else:
            assert not passed and left + 0.1 < env.state[0] < right - 0.1  # it stands before the wall


def expert_chunks(observations, episodes, chunks):
    """An open-loop expert: MetaWorld's own, asked once and repeated, as a policy with a chunk of 4 would."""
    frames = np.concatenate([observations["proprioception"], observations["objects"]], axis=-1)  # (B, 2, 18)
    states = np.concatenate([frames.reshape(len(frames), 36), observations["goal"]], axis=-1).astype(np.float64)
    wanted = [ENV_POLICY_MAP[f"{e.task}-v3"]().get_action(s) for s, e in zip(states, episodes, strict=True)]
    return np.stack([np.tile(action.clip(-1, 1), (4, 1)) for action in wanted])


def test_rollouts_do_not_depend_on_workers_or_slots():
    def outcome(workers, slots):
        with Roller(workers, slots) as roller:
            todo = [Episode(t, FIRST_EVALUATION_SEED + i) for t in ("reach", "drawer-open") for i in range(4)]
            return [(e.task, e.seed, e.success, e.steps, e.phases) for e in roller.play(expert_chunks, todo)]

    one = outcome(1, 100)
    assert one == outcome(2, 3) and sum(success for _, _, success, _, _ in one) >= 6


def kill_one(roller: Roller) -> subprocess.Popen:
    process = next(iter(roller.workers.values()))
    process.kill()
    return process


def test_a_worker_that_dies_is_reported_and_replaced_and_its_episodes_are_played_again(capsys):
    with Roller(2) as roller:
        todo, killed = [Episode("reach", i) for i in range(6)], []

        def act(observations, episodes, chunks):
            if chunks[0] == 1 and not killed:
                killed.append(kill_one(roller))
            return expert_chunks(observations, episodes, chunks)

        played = roller.play(act, todo)
        assert all(e.success and not e.lost for e in played) and len(roller.workers) == 2
        assert [e.seed for e in played] == list(range(6))
        warning = capsys.readouterr().err
        assert "died (exit code -9); lost, the episodes it held: reach seed" in warning
        assert "3 of 3 lost episodes were played again" in warning and not set(roller.workers.values()) & set(killed)

        killed.append(kill_one(roller))  # and the same while experts play
        played = roller.play_expert([Episode("reach", i, expert=True) for i in range(6)])
        assert all(e.success and not e.lost for e in played) and not set(roller.workers.values()) & set(killed)
        assert "lost, the episodes it held: reach seed" in capsys.readouterr().err


def test_workers_that_keep_dying_are_an_error():
    with Roller(1, slots=1) as roller, pytest.raises(BadInput, match="5 simulator processes have died"):
        roller.play(lambda *_: kill_one(roller) and np.zeros((1, 4, 4)), [Episode("reach", i) for i in range(9)])


class Odd(gymnasium.Env):
    """With spaces that fit no policy here."""

    def __init__(self, seen=None, action=None):
        self.observation_space = seen or gymnasium.spaces.Box(-1, 1, (3,), np.float32)
        self.action_space = action or gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {"success": False}


@pytest.mark.parametrize("number,spaces_of,message", [
    (0, {"seen": gymnasium.spaces.Dict({"eye": gymnasium.spaces.Box(0, 1, (3, 64, 64), np.float32)})},
     "must have its picture 'eye' in uint8, 0 to 255, not float32"),
    (1, {"action": gymnasium.spaces.Box(-1, 1, (), np.float32)}, "must have a bounded Box of numbers as action"),
    (2, {"action": gymnasium.spaces.Box(-np.inf, 1, (2,), np.float32)}, "must have a bounded Box of numbers as action"),
])  # fmt: skip
def test_spaces_that_fit_no_policy_are_refused(number, spaces_of, message):
    gymnasium.register(f"Odd{number}-v0", Odd, kwargs=spaces_of, max_episode_steps=5)
    with pytest.raises(BadInput, match=message):
        common_spaces([f"Odd{number}-v0"])


def test_our_random_numbers_are_not_those_of_the_environment():
    """Of MetaWorld's tasks they are what they were when results were published."""
    theirs = np.random.default_rng(7).random()
    assert own_random("push", 7).random() == own_random("push", 7, 0).random() == theirs
    drawn = [theirs, *(own_random("toy:Point-v0", 7, *which).random() for which in ((), (0,), (1,)))]
    assert len(set(drawn)) == 4 and own_random("toy:Point-v0", 7, 1).random() == drawn[-1]


def test_an_evaluation_episode_is_the_published_one():
    """The first of block 0: where it lies decides what every result is about."""
    seen, _ = MetaWorldEnv("push").reset(seed=1_000_000)
    np.testing.assert_allclose(seen["goal"], [-0.03284447, 0.83971016, 0.01940468], atol=1e-6)
    np.testing.assert_allclose(seen["objects"][0, :3], [-0.05224243, 0.61175329, 0.01940468], atol=1e-6)


class Once(gymnasium.Env):
    """Done at its third step, and at no other."""

    observation_space = action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.zeros(1, np.float32), 0.0, False, False, {"success": self.t == 3}

    def expert_action(self):
        return np.zeros(1, np.float32)


gymnasium.register("flicker/Once-v0", Once, max_episode_steps=20)


def test_success_at_one_step_is_success():
    worker = Worker()
    expert = worker.expert(Episode("flicker/Once-v0", 0, expert=True, steps_after_success=4))
    assert (expert.success, expert.steps, len(expert.actions)) == (True, 3, 7)
    worker.chunk([(0, Episode("flicker/Once-v0", 0), None)])
    ((_, _, done),) = worker.chunk([(0, None, np.zeros((8, 1)))])
    assert (done.success, done.steps, len(done.phases)) == (True, 3, 3)
