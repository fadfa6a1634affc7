"""Demonstrations that were made of others: what stays, what moves, and that a real arm does what they say."""

import numpy as np

from envs import elsewhere


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
