"""An environment of one's own, as docs/environments.md describes them: a point in a square, to be moved to a goal.

`--tasks toy:Point-v0` imports this file, which registers the ids below. The action range is not [-1, 1], so whoever
forgets to scale actions is found out.
"""

import os
import time

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict


class Point(gymnasium.Env):
    """Observation {"point": (2,), "goal": (2,)}, or one vector (4,) if flat, goal first, as Dict sorts its parts.
    Action (2,): how far to move."""

    def __init__(self, flat: bool = False):
        self.flat = flat
        parts = {"point": Box(-1, 1, (2,), np.float64), "goal": Box(-1, 1, (2,), np.float64)}
        self.observation_space = Box(-1, 1, (4,), np.float64) if flat else Dict(parts)
        self.action_space = Box(-0.05, 0.05, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.point, self.goal = self.np_random.uniform(-0.9, 0.9, (2, 2))
        return self.observe(), {}

    def step(self, action):
        self.point = np.clip(self.point + np.clip(action, -0.05, 0.05), -1, 1)
        distance = float(np.linalg.norm(self.goal - self.point))
        return self.observe(), -distance, False, False, {"success": distance < 0.05}

    def observe(self):
        point, goal = self.point.copy(), self.goal.copy()
        return np.concatenate([goal, point]) if self.flat else {"point": point, "goal": goal}

    def expert_action(self):
        return np.clip(0.3 * (self.goal - self.point), -0.05, 0.05).astype(np.float32)


class Alone(Point):
    """The same without an expert: who wants to train on it brings a dataset."""

    @property
    def expert_action(self):
        raise AttributeError("nobody knows how")


class Dying(Point):
    """Every tenth episode takes its process with it."""

    def reset(self, *, seed=None, options=None):
        if seed is not None and seed % 10 == 3:
            self.fail()
        return super().reset(seed=seed, options=options)

    def fail(self):
        os._exit(7)


class Silent(Dying):
    """Every tenth episode never answers; once, and then a file says that it has happened."""

    def fail(self):
        if not os.path.exists(os.environ["FDP_TEST_MARK"]):
            open(os.environ["FDP_TEST_MARK"], "w").close()
            time.sleep(600)


class Raising(Dying):
    """Every tenth episode raises an exception in its third step; the one after the next does so in the first process
    that plays it, and not in another."""

    def reset(self, *, seed=None, options=None):
        self.left, self.bad = 3, seed % 10 if seed is not None else 0
        return Point.reset(self, seed=seed, options=options)

    def step(self, action):
        self.left -= 1
        if self.left == 0 and (self.bad == 3 or self.bad == 5 and first_process()):
            raise RuntimeError("the gearbox is broken")
        return super().step(action)


def first_process() -> bool:
    """Whether this is the first process that asks."""
    mark = os.environ["FDP_TEST_MARK"]
    if not os.path.exists(mark):
        with open(mark, "w") as file:
            file.write(str(os.getpid()))
    with open(mark) as file:
        return file.read() == str(os.getpid())


class Hopeless(Point):
    """With an expert that never succeeds."""

    def expert_action(self):
        return np.zeros(2, np.float32)


class SameArrays(Point):
    """Gives the same arrays at every step, and changes what is in them."""

    def observe(self):
        self.seen = getattr(self, "seen", {"point": np.zeros(2), "goal": np.zeros(2)})
        self.seen["point"][:], self.seen["goal"][:] = self.point, self.goal
        return self.seen

    def expert_action(self):
        self.wanted = getattr(self, "wanted", np.zeros(2, np.float32))
        self.wanted[:] = super().expert_action()
        return self.wanted


class Unseeded(Point):
    """Begins somewhere, whatever the seed."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=None, options=options)


class Strict(Point):
    """Insists on its action space, whose ends float32 cannot say."""

    def __init__(self):
        super().__init__()
        self.action_space = Box(-0.05, 0.05, (2,), np.float64)

    def step(self, action):
        assert self.action_space.contains(action), action
        return super().step(action)


class Relative(Point):
    """Reads a file where the command was called; says things in arrays of one."""

    def reset(self, *, seed=None, options=None):
        assert os.path.exists("table.txt"), os.getcwd()
        return super().reset(seed=seed, options=options)

    def step(self, action):
        observation, reward, *over, info = super().step(action)
        return observation, np.array([reward]), *over, {"success": np.array([info["success"]])}


class Misshapen(Point):
    """Says that there are four numbers, and gives two."""

    def __init__(self):
        super().__init__()
        self.observation_space = Dict({"point": Box(-1, 1, (4,)), "goal": Box(-1, 1, (2,))})


class MisshapenLater(Point):
    """Gives what it says, but for odd seeds."""

    def reset(self, *, seed=None, options=None):
        self.odd = seed is not None and seed % 2 == 1
        return super().reset(seed=seed, options=options)

    def observe(self):
        seen = super().observe()
        return seen | {"point": np.zeros(3)} if self.odd else seen


class Broken(Point):
    """Some episodes come to a number that is not finite, one of them in float32 alone; one begins with it."""

    NUMBERS = {1: np.nan, 1_000_001: np.nan, 1_000_002: 1e39, 1_000_003: np.nan}

    def reset(self, *, seed=None, options=None):
        self.more = self.NUMBERS.get(seed, 0)
        observation, info = super().reset(seed=seed, options=options)
        return (observation | {"point": observation["point"] * np.nan} if seed == 1_000_003 else observation), info

    def step(self, action):
        observation, *rest = super().step(action)
        return observation | {"point": observation["point"] + self.more}, *rest


class Overflowing(Point):
    """After a success of odd seeds comes a number that is not finite; of seed 4 it comes with it."""

    def reset(self, *, seed=None, options=None):
        self.bad, self.after = {1: 3, 3: 3, 4: 0}.get(seed, 99), 0
        return super().reset(seed=seed, options=options)

    def step(self, action):
        observation, *rest, info = super().step(action)
        self.after += info["success"]
        bad = self.after > self.bad
        return ({name: x * np.nan for name, x in observation.items()} if bad else observation), *rest, info


class Blinking(Point):
    """Of every fifth episode the goal cannot be seen in the third step."""

    def reset(self, *, seed=None, options=None):
        self.left = 3 if seed is not None and seed % 5 == 2 else 0
        return super().reset(seed=seed, options=options)

    def step(self, action):
        self.left -= 1
        observation, *rest = super().step(action)
        return {name: x for name, x in observation.items() if self.left or name != "goal"}, *rest


class Whole(Point):
    """Takes whole numbers, and insists on it."""

    def __init__(self):
        super().__init__()
        self.action_space = Box(-5, 5, (2,), np.int64)

    def step(self, action):
        assert self.action_space.contains(action), action
        return super().step(action * 0.01)

    def expert_action(self):
        return 100 * super().expert_action()


class Wide(Point):
    """Takes larger steps than the others say they do."""

    def __init__(self):
        super().__init__()
        self.action_space = Box(-0.1, 0.1, (2,), np.float32)


class Floats(Point):
    """Draws itself with numbers from 0 to 1."""

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, render_mode=None):
        super().__init__()
        self.render_mode = render_mode

    def render(self):
        return np.zeros((48, 48, 3))


OTHERS = (Floats, Strict, Relative, SameArrays, Unseeded, Misshapen, MisshapenLater, Broken, Whole, Wide, Dying, Silent)
for kind in (*OTHERS, Raising, Hopeless, Overflowing, Blinking):
    gymnasium.register(f"{kind.__name__}-v0", f"toy:{kind.__name__}", max_episode_steps=60)
gymnasium.register("Point-v0", "toy:Point", max_episode_steps=60)
gymnasium.register("ns/Point-v0", "toy:Point", max_episode_steps=60)  # two names that look alike as folders
gymnasium.register("ns-Point-v0", "toy:Point", max_episode_steps=60)
gymnasium.register("OtherPoint-v0", "toy:Point", max_episode_steps=60)  # more tasks of the same shapes
gymnasium.register("ThirdPoint-v0", "toy:Point", max_episode_steps=60)
gymnasium.register("Alone-v0", "toy:Alone", max_episode_steps=60)
gymnasium.register("FlatPoint-v0", Point, max_episode_steps=60, kwargs={"flat": True})  # a class: nothing to store
