"""A simulator process: steps the environments of many episodes, for envs/rollout.py in the main process.

    message in       ("chunk", [(index, new episode or None, actions (n, A) or None), ...])   or   ("expert", episode)
    message out      [(index, observation, finished episode or None), ...]                    or   the episode, recorded
                     None, now and then, from a simulator that takes long: it has not died, and the answer is to come

An environment that raises an exception costs its own episode and no other: that one comes back with `lost` set.

Workers are plain Python processes without torch: they start in a second and share no thread pool with the policy. They
end when the main process closes its end of the pipe.
"""

import contextlib
import copy
import os
import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

import gymnasium
import mujoco
import numpy as np

from envs.metaworld import MetaWorldEnv
from envs.tasks import make, name_parts, own_random, trust


@dataclass
class Episode:
    """One episode, before (task, seed) and after it was played. Ends at the first success (an expert's recording
    `steps_after_success` later), or when the environment says so."""

    task: str
    seed: int
    expert: bool = False  # played by the scripted expert, in the worker, without any message per step
    action_noise: float = 0.0  # expert only, in half action ranges: disturbs what is executed, not what is recorded
    steps_after_success: int = 0  # expert only: keep recording for a while
    render_every: int = 0  # keep a picture of every n-th step; 0 renders nothing
    recorded: bool = True  # expert only: whether anybody wants to know what it saw
    shift: str = ""  # one of envs/pixels.py's SHIFTS: what looks otherwise than in training
    success: bool = False
    steps: int = 0  # until the first success, or until the end
    seconds: float = 0.0  # of simulation, resetting included: processor time, so waiting for a busy core is not in it
    unstable: bool = False  # MuJoCo has warned, and has reset the simulation on its own; or a number is not finite
    lost: str = ""  # why it could not be played to its end: then it counts neither as success nor as failure
    # Recorded, one entry per step; observations have one more. Policy episodes keep phases, frames, rewards.
    phases: list = field(default_factory=list)  # near object 0..1, grasped 0..1, success 0..1
    frames: list = field(default_factory=list)
    observations: list = field(default_factory=list)
    actions: list = field(default_factory=list)
    executed: list = field(default_factory=list)
    rewards: list = field(default_factory=list)

    def fresh(self) -> "Episode":
        """The same, not played yet."""
        asked = ("task", "seed", "expert", "action_noise", "steps_after_success", "render_every", "recorded", "shift")
        return Episode(**{name: getattr(self, name) for name in asked})


SPARE = 32  # environments that wait for another episode, where not every task needs one; up to 40 MB each


class Worker:
    """Its environments, the free ones and those in use. alive: called before every step."""

    def __init__(self, alive: Callable[[], None] = lambda: None):
        self.alive = alive
        self.first: dict[tuple, gymnasium.Env] = {}  # one built per task; MetaWorld's others are cloned from it
        self.free: dict[tuple, list[gymnasium.Env]] = defaultdict(list)
        self.running: dict[int, tuple[Episode, gymnasium.Env]] = {}
        self.told: set[tuple[str, str]] = set()  # task and exception: a traceback is worth reading once

    def take(self, episode: Episode) -> gymnasium.Env:
        """An environment for this episode: a free one, or a new one."""
        key = kind(episode)
        if self.free[key]:
            return self.free[key].pop()
        if isinstance(self.first.get(key), MetaWorldEnv) and not episode.render_every:
            return self.first[key].clone()
        trust([episode.task])  # the process that sent it has asked already
        env = make(episode.task, "rgb_array" if episode.render_every else None)
        env = env.shifted(episode.shift) if episode.shift else env
        self.first.setdefault(key, env)
        return env

    def give_back(self, episode: Episode, env: gymnasium.Env) -> None:
        """Keep the environment for another episode, unless there are many, of this task too: how many episodes of a
        task meet is chance, and thousands of episodes would make the highest number of each task grow for hours."""
        key = kind(episode)
        if self.free[key] and sum(map(len, self.free.values())) >= SPARE and env is not self.first.get(key):
            with contextlib.suppress(Exception):  # the episode has been played, whatever is wrong with closing
                env.close()
        else:
            self.free[key].append(env)

    def chunk(self, orders: list) -> list:
        """Start new episodes, advance running ones by their chunk. -> [(index, observation, finished or None)]"""
        reply = []
        for index, new_episode, actions in orders:
            episode = new_episode or self.running[index][0]
            try:
                self.alive()
                if new_episode is not None:
                    self.running[index] = (episode, self.take(episode))
                    look(self.running[index][1], True)
                    observation, finished = reset(*self.running[index]), False
                else:
                    observation, finished = self.advance(*self.running[index], actions)
                if finished:
                    self.give_back(*self.running.pop(index))
                reply.append((index, name_parts(episode.task, observation), episode if finished else None))
            except Exception as error:
                self.running.pop(index, None)
                reply.append((index, None, self.lose(episode, error)))
        return reply

    def advance(self, episode: Episode, env: gymnasium.Env, actions: np.ndarray) -> tuple:
        """One chunk of one episode. -> the last observation, whether it is over."""
        for action, is_last in zip(actions, [*[False] * (len(actions) - 1), True], strict=True):
            self.alive()
            look(env, is_last)
            observation, over = step(episode, env, inside(env.action_space, action))
            if over or episode.success:
                break
        return observation, over or episode.success

    def lose(self, episode: Episode, error: Exception) -> Episode:
        """An environment has raised an exception. It is not used again, and no others are cloned from it."""
        self.first.pop(kind(episode), None)
        text = f"{type(error).__name__}: {error}"
        if (episode.task, text) not in self.told and len(self.told) < 20:
            self.told.add((episode.task, text))
            traceback.print_exc()
        episode.lost = f"its environment raised {text[:300]}"
        return episode

    def expert(self, episode: Episode) -> Episode:
        """Let the environment's own expert play, disturbed if asked; record everything."""
        try:
            return self.play_expert(episode)
        except Exception as error:
            return self.lose(episode, error)

    def play_expert(self, episode: Episode) -> Episode:
        env = self.take(episode)
        policy, space = env.unwrapped, env.action_space
        look(env, episode.recorded)
        low, high = (x.astype(float) if np.issubdtype(x.dtype, np.integer) else x for x in (space.low, space.high))
        half_range = (high - low) / 2  # in eight bits 127 - -128 is -1
        disturbed = list(getattr(policy, "disturbed", range(len(space.low))))  # which actions may be shaken
        random, noise = own_random(episode.task, episode.seed), np.zeros(len(space.low), np.float32)
        episode.observations.append(copy.deepcopy(reset(episode, env)))  # some give the same array at every step
        remaining = episode.steps_after_success
        while True:
            self.alive()
            action = np.array(policy.expert_action(), np.float32)  # a copy, too
            noise[disturbed] = random.standard_normal(len(disturbed))
            executed = inside(space, action + episode.action_noise * noise * half_range)
            observation, over = step(episode, env, executed)
            episode.observations.append(copy.deepcopy(observation))
            episode.actions.append(action)
            episode.executed.append(executed)
            if over or (episode.success and remaining == 0):
                break
            remaining -= episode.success
        self.give_back(episode, env)
        return episode


def inside(space, action: np.ndarray) -> np.ndarray:
    """An action (A,) as the space has it: float32's 0.05 is a little more than 0.05, and an environment may insist."""
    if np.issubdtype(space.dtype, np.integer):
        action = np.rint(action)
    return action.clip(space.low, space.high).astype(space.dtype)


def kind(episode: Episode) -> tuple:
    """What an environment has to be for this episode: those of one kind are used again for each other."""
    return episode.task, bool(episode.render_every), episode.shift


def look(env: gymnasium.Env, at_it: bool) -> None:
    """Say whether anybody will look at what the next steps return: envs/pixels.py makes pictures only then."""
    if hasattr(env.unwrapped, "drawing"):
        env.unwrapped.drawing = at_it


def reset(episode: Episode, env: gymnasium.Env):
    """MetaWorld moves the hand to its place by simulating a hundred steps, so resetting counts as simulation."""
    begin = time.process_time()
    _warnings.clear()
    observation, _ = env.reset(seed=episode.seed)
    episode.seconds += time.process_time() - begin
    check_parts(env, observation)
    if not finite(observation):
        raise ValueError("it begins with numbers that are not finite")
    episode.unstable |= bool(_warnings)
    return observation


def step(episode: Episode, env: gymnasium.Env, action: np.ndarray) -> tuple:
    """One step, and the bookkeeping that policy and expert episodes share. -> observation, whether it is over."""
    begin = time.process_time()
    _warnings.clear()
    observation, reward, terminated, truncated, info = env.step(action)
    episode.seconds += time.process_time() - begin
    check_parts(env, observation)
    seen = finite(observation)
    episode.unstable |= bool(_warnings) or not seen
    if "success" not in info:
        raise KeyError(f"environment '{episode.task}' must say info['success'] at every step")
    episode.steps += not episode.success
    episode.success = episode.success or bool(info["success"]) and seen
    near, grasped = (float(np.max(info.get(name, 0))) for name in ("near_object", "grasp_success"))
    episode.phases.append([near, grasped, float(bool(info["success"]))])
    episode.rewards.append(float(np.sum(reward)))  # of an array of one, too
    over = terminated or truncated or not seen  # nobody could act on it; that costs this episode, and no other
    if episode.render_every and ((len(episode.phases) - 1) % episode.render_every == 0 or info["success"] or over):
        episode.frames.append(env.render())
    return observation, over


def check_parts(env: gymnasium.Env, observation) -> None:
    """ValueError for an observation that is not what the environment's observation_space has, such as a sensor that is
    missing at one step. It costs this episode; together with others it could not even be stacked."""
    told = getattr(env.observation_space, "spaces", {"": env.observation_space})
    given = observation if isinstance(observation, dict) else {"": observation}
    shapes = {part: space.shape for part, space in told.items()}
    found = {part: np.shape(x) for part, x in given.items()}
    if found != shapes:
        raise ValueError(f"it returned {found}, and its observation_space has {shapes}")


def finite(observation) -> bool:
    """Whether a policy, which computes in float32, can see numbers in all of it."""
    parts = observation.values() if isinstance(observation, dict) else [observation]
    with np.errstate(over="ignore"):  # 1e39 is finite in float64 alone
        return all(np.isfinite(np.asarray(x, np.float32)).all() for x in parts if np.asarray(x).dtype != np.uint8)


SIGN_OF_LIFE = 5.0  # seconds; envs/rollout.py waits a minute for one


# What MuJoCo has to say about the step that is being made. Left alone it writes that to a file, wherever one happens to
# be; and a simulation that was reset for "Nan, Inf or huge value" goes on as if nothing had been.
_warnings: list[str] = []


def listen() -> None:
    """Let MuJoCo's warnings come here."""
    mujoco.set_mju_user_warning(_warnings.append)


def serve(connection: Connection) -> None:
    """Answer messages until the other end is closed."""
    os.nice(5)  # the policy goes first: while it waits for a core, all episodes of its group wait
    listen()
    last = time.monotonic()

    def alive() -> None:
        nonlocal last
        if time.monotonic() > last + SIGN_OF_LIFE:
            connection.send(None)
            last = time.monotonic()

    worker = Worker(alive)
    while True:
        try:
            what, content = connection.recv()
        except (EOFError, OSError):
            return  # the main process has closed its end
        last = time.monotonic()
        answer = worker.chunk(content) if what == "chunk" else worker.expert(content)
        try:
            connection.send(answer)
        except OSError:
            return  # it has closed meanwhile, and says itself why


if __name__ == "__main__":
    # Run as a module, this file is `__main__`; the Episode that arrives is `envs.worker.Episode`. Serve from that one.
    from envs import worker

    os.chdir(sys.argv[2])  # an environment of one's own finds its files where the command was called
    try:
        worker.serve(Connection(int(sys.argv[1])))
    except Exception:
        traceback.print_exc()
        raise SystemExit(1) from None
