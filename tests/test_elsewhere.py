"""Demonstrations that were made of others: what stays, what moves, and that a real arm does what they say."""

import gymnasium
import numpy as np
import pytest
from conftest import command
from toy import Point  # noqa: F401  (registers toy:Point-v0)

import adapt
from envs import elsewhere
from envs.demos import demonstrations
from plumbing.cli import BadInput
from plumbing.runs import read_config


def test_a_demonstration_as_if_things_had_stood_elsewhere():
    """A made-up one: the hand goes to a thing, and carries it to its goal, 2 mm a step for an action of 0.2, which it
    follows three steps later."""
    L, way = 100, np.array([[0.0, 0.0], [0.1, 0.0], [0.1, 0.1]])  # where it begins, where the thing is, its goal
    path = np.concatenate([np.linspace(way[0], way[1], 51), np.linspace(way[1], way[2], 51)[1:]])  # (L + 1, 2)
    hand, objects = np.full((L + 1, 2, 4), 0.3), np.zeros((L + 1, 2, 14))
    hand[:, 0, :2], hand[1:, 1, :2], hand[0, 1, :2] = path, path[:-1], path[0]
    objects[:, :, 2:7] = 0.3  # as high as the hand; a quaternion
    objects[..., :2] = np.where(np.arange(L + 1)[:, None, None] > 50, hand[..., :2], way[1])
    goal = np.tile([*way[2], 0.3], (L + 1, 1))
    lag = elsewhere.LAG
    actions = np.zeros((L, 4))
    actions[:-lag, :2] = np.diff(path, axis=0)[lag:] / 0.01
    episode = {"observations": {"proprioception": hand, "objects": objects, "goal": goal}, "actions": actions}
    before = {part: x.copy() for part, x in episode["observations"].items()}
    thing, there = np.array([0.03, -0.02]), np.array([-0.01, 0.04])
    made = elsewhere.moved(episode, thing, there)
    assert all(np.array_equal(episode["observations"][part], x) for part, x in before.items())
    at, moving = elsewhere.turns(episode)
    assert at in (40, 41) and moving in (55, 56)  # 2 cm before; 1 cm after
    seen = made["observations"]

    def near(a, b):
        np.testing.assert_allclose(a, b, atol=1e-6)

    near(seen["proprioception"][0], hand[0])  # it begins where it began
    near(seen["objects"][:51, 0, :2], objects[:51, 0, :2] + thing)
    near(seen["goal"][:, :2], goal[:, :2] + there)
    for step in range(30, moving + 1):  # at the thing: as it was, seen from there
        near((seen["proprioception"] - hand)[step, 0, :2], thing)
    near((seen["proprioception"] - hand)[-10:, :, :2], np.broadcast_to(there, (10, 2, 2)))
    near((seen["objects"] - objects)[-10:, :, :2], np.broadcast_to(there, (10, 2, 2)))
    near(seen["proprioception"][1:, 1, :2], seen["proprioception"][:-1, 0, :2])  # a step ago is a step ago
    arrives = seen["proprioception"][lag, 0, :2] + 0.01 * made["actions"][:-lag, :2].cumsum(0)
    near(arrives, seen["proprioception"][lag + 1 :, 0, :2])
    near(seen["objects"][..., 2:], objects[..., 2:])  # height, quaternion, and the other thing, which is not there
    near(seen["proprioception"][..., 2:], hand[..., 2:])
    assert np.abs(elsewhere.moved(episode, 100 * thing, there)["actions"]).max() == 1
    # A second thing goes where the first one does.
    two = {**episode, "observations": episode["observations"] | {"objects": objects.copy()}}
    two["observations"]["objects"][..., 7:14] = objects[..., :7] + 0.05
    both = elsewhere.moved(two, thing, there)["observations"]["objects"] - two["observations"]["objects"]
    near(both[..., 7:9], both[..., :2])
    assert np.abs(both[..., 7:9]).max() > 0.02


def test_what_turns_in_the_hand_is_reached_where_it_is_grasped(data_dir):
    """Held at its end, 6 cm beside its middle, and at last tilted: the middle is nearest long after it was grasped, and
    what was made had the hand go beside it. First a made-up one, then MetaWorld's stick."""
    L = 100
    hand, objects = np.full((L + 1, 2, 4), 0.3), np.zeros((L + 1, 2, 14))
    hand[:, 0, 0] = [*np.linspace(0, 0.1, 31), *[0.1] * 10, *np.linspace(0.1, 0.3, 60)]  # goes, waits, carries
    beside = np.concatenate([np.full(80, 0.06), np.linspace(0.06, 0.01, 21)])
    objects[:, 0, 0] = np.where(np.arange(L + 1) < 41, 0.1, hand[:, 0, 0])
    objects[:, 0, 1], objects[:, 0, 2:7] = 0.3 + beside, 0.3
    episode = {"observations": {"proprioception": hand, "objects": objects}}
    at, moving = elsewhere.turns(episode)
    assert at == 15 and moving == 44  # at 8 cm, 2 from the nearest before it is carried; and not 93
    objects[:6, 0, 0] -= np.linspace(0.02, 0, 6)  # at first it slides by itself, with the hand not far
    assert elsewhere.turns(episode) == (15, 44)
    for one in demonstrations(["stick-pull"], 3, data_dir)["stick-pull"]:
        made = elsewhere.moved({**one}, np.array([0.07, 0.0]), np.array([0.07, 0.0]))["observations"]
        seen, thing = one["observations"], one["observations"]["objects"][:, 0, :3]
        grasped = 10 + int(np.argmax(np.linalg.norm(thing[10:] - thing[10], axis=1) > 0.01))
        away = [o["proprioception"][grasped, 0, :3] - o["objects"][grasped, 0, :3] for o in (seen, made)]
        assert np.linalg.norm(away[0] - away[1]) < 0.01


def test_things_are_moved_by_seven_centimetres(data_dir):
    (one,) = demonstrations(["push"], 1, data_dir)["push"]
    made = elsewhere.multiply({"push": [one]}, 300, 0)["push"][1:]
    for part in ("goal", "objects"):
        moves = [(m["observations"][part] - one["observations"][part])[0].flatten()[:2] for m in made]
        assert np.std(moves, 0) == pytest.approx([0.07, 0.07], rel=0.15), part


def test_a_real_arm_goes_where_the_made_actions_say(data_dir):
    """MuJoCo's arm, without feedback, from the expert's actions and from bent ones: their paths differ as promised."""
    (episode,) = demonstrations(["push"], 1, data_dir)["push"]
    at, _ = elsewhere.turns(episode)
    offset = np.array([0.03, -0.03])  # such that hardly an action would have to be larger than 1
    bent, paths = elsewhere.moved(episode, offset, offset), []
    for actions in (episode["actions"], bent["actions"]):
        env = gymnasium.make("fdp/push-v3")
        observation, _ = env.reset(seed=0)
        path = [observation["proprioception"][0, :2]]
        for action in actions[:at]:
            path.append(env.step(action)[0]["proprioception"][0, :2])
        paths.append(np.stack(path))
    promised = (bent["observations"]["proprioception"] - episode["observations"]["proprioception"])[: at + 1, 0, :2]
    np.testing.assert_allclose(paths[1] - paths[0], promised, atol=0.008)
    assert np.abs(promised[-1] - offset).max() < 1e-6


@pytest.mark.parametrize("together", [True, False])
def test_where_the_thing_plays_no_part_the_hand_goes_with_the_goal(together, data_dir):
    """In reach there is a puck that nobody touches."""
    (episode,) = demonstrations(["reach"], 1, data_dir)["reach"]
    thing, there = np.array([0.08, -0.05]), np.array([-0.06, 0.04])
    seen = elsewhere.moved(episode, there if together else thing, there)["observations"]
    before = episode["observations"]
    assert np.allclose(seen["goal"][:, :2] - before["goal"][:, :2], there, atol=1e-6)
    moved = seen["proprioception"][:, 0, :2] - before["proprioception"][:, 0, :2]
    assert not moved[0].any() and np.allclose(moved[-1], there, atol=1e-6)
    assert np.array_equal(seen["proprioception"][:, 0, 2], before["proprioception"][:, 0, 2])  # no height was asked for
    puck = seen["objects"][:, 0, :2] - before["objects"][:, 0, :2]
    assert np.allclose(puck, there if together else thing, atol=1e-6)


@pytest.mark.parametrize("height", [0.06, -0.03, -1.0])
def test_a_goal_in_the_air_may_be_higher_or_lower_but_not_in_the_table(height, data_dir):
    """Reach's goals are 5 to 30 cm above the table. The hand goes there, by actions that say so; nothing else rises."""
    demos = demonstrations(["reach", "push"], 2, data_dir)
    episode = demos["reach"][0]
    before, there = episode["observations"], np.array([-0.06, 0.04])
    level = elsewhere.moved(episode, there, there)
    made = elsewhere.moved(episode, there, there, height)
    rise = max(height, 0.05 - before["goal"][-1, 2])
    seen = made["observations"]
    assert np.allclose(seen["goal"][:, 2] - before["goal"][:, 2], rise, atol=1e-6)
    risen = seen["proprioception"][:, 0, 2] - before["proprioception"][:, 0, 2]
    assert not risen[0] and np.allclose(risen[-1], rise, atol=1e-6) and (np.diff(risen * np.sign(rise)) > -1e-6).all()
    more = made["actions"] - level["actions"]
    assert not more[:, [0, 1, 3]].any() and np.array_equal(seen["objects"], level["observations"]["objects"])
    free = np.abs(made["actions"][:, 2]) < 1  # not clipped
    lag, L = elsewhere.LAG, len(more)
    by = np.diff(risen[np.minimum(np.arange(lag, L + lag + 1), L)]) / 0.01
    assert free.any() and np.allclose(more[free, 2], by[free], atol=1e-4)
    push = elsewhere.moved(demos["push"][0], there, there, height)["observations"]
    for part, x in demos["push"][0]["observations"].items():  # its puck lies on the table, and so does its goal
        assert np.array_equal(push[part][..., 2], x[..., 2]), part
    many = elsewhere.multiply({"reach": [episode]}, 300, 0)["reach"][1:]
    heights = np.array([m["observations"]["goal"][0, 2] for m in many])
    assert heights.min() >= 0.05 - 1e-6 and np.quantile(heights, [0.5, 0.84]) == pytest.approx(
        before["goal"][-1, 2] + np.array([0, 0.07]), abs=0.015
    )


def test_originals_stay_and_the_same_seed_makes_the_same(data_dir):
    demos = demonstrations(["reach", "push"], 2, data_dir)
    made, again, other = (elsewhere.multiply(demos, 4, seed) for seed in (0, 0, 1))
    for task, episodes in demos.items():
        assert len(made[task]) == 2 + 2 * 4 and made[task][:2] == episodes
        assert all(np.array_equal(a["actions"], b["actions"]) for a, b in zip(made[task], again[task], strict=True))
        assert not np.array_equal(made[task][-1]["actions"], other[task][-1]["actions"])
        moves = [
            [
                one["observations"][part][0, ..., :2] - of["observations"][part][0, ..., :2]
                for part in ("objects", "goal")
            ]
            for one, of in zip(made[task][2:], 4 * episodes, strict=True)
        ]
        together = [bool(np.allclose(thing[0], goal, atol=1e-6)) for thing, goal in moves]
        assert together == [False, False, True, True] * 2  # every other one, of either demonstration
    assert elsewhere.multiply(demos, 0, 0) == demos


@pytest.mark.parametrize("flags,copies", [((1,), 100), ((3,), 100), ((4,), 0), ((4, "--copies", 2), 2),
                                          ((1, "--copies", 0), 0)])  # fmt: skip
def test_few_demonstrations_are_made_into_many(tiny_run, data_dir, tmp_path, monkeypatch, flags, copies):
    asked = []
    multiply = elsewhere.multiply
    monkeypatch.setattr(elsewhere, "multiply", lambda demos, n, seed: multiply(demos, asked.append(n) or n, seed))
    command(adapt, "--run", tiny_run, "--tasks", "drawer-open", "--steps", 1, "--data-dir", data_dir, "--device", "cpu",
            "--eval-episodes", 0, "--out", tmp_path / "run", "--demos-per-task", *flags)  # fmt: skip
    assert asked == [copies] and read_config(tmp_path / "run")["train"]["copies"] == copies


def test_where_positions_are_is_not_known_of_other_environments(tiny_run, tmp_path):
    assert elsewhere.possible("push") and not elsewhere.possible("toy:Point-v0")
    with pytest.raises(BadInput, match="--copies: which numbers of 'toy:Point-v0' are positions is not known"):
        command(adapt, "--run", tiny_run, "--tasks", "toy:Point-v0", "--copies", 5, "--out", tmp_path / "run")
    with pytest.raises(BadInput, match="--copies must be at most 1000, got 1001"):
        command(adapt, "--run", tiny_run, "--tasks", "drawer-open", "--copies", 1001, "--out", tmp_path / "run")
    with pytest.raises(BadInput, match="--copies 1000 of 11 demonstrations would be 11,000 made ones; at most 10,000"):
        command(adapt, "--run", tiny_run, "--tasks", "drawer-open", "--copies", 1000, "--demos-per-task", 11, "--out",
                tmp_path / "run")  # fmt: skip
    assert not list(tmp_path.iterdir())
