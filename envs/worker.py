"""A simulator process: steps the environments of many episodes, for envs/rollout.py in the main process.

    message in       ("chunk", [(index, new episode or None, actions (H, A) or None), ...])   or   ("expert", episode)
    message out      [(index, observation, finished episode or None), ...]                    or   the episode, recorded

Workers are plain Python processes without torch: they start in a second and share no thread pool with the policy. They
end when the main process closes its end of the pipe.
"""

import os
import sys
import time
import traceback
from collections import defaultdict
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

import gymnasium
import mujoco
import numpy as np

from envs.metaworld import TASKS
from envs.tasks import make, name_parts, trust


@dataclass
class Episode:
    """One episode, before (task, seed) and after it was played. Ends at the first success, or when the environment
    says so."""

    task: str
    seed: int
    expert: bool = False  # played by the scripted expert, in the worker, without any message per step
    action_noise: float = 0.0  # expert only, in half action ranges: disturbs what is executed, not what is recorded
    steps_after_success: int = 0  # expert only: keep recording for a while
    render_every: int = 0  # keep a picture of every n-th step; 0 renders nothing
    success: bool = False
    steps: int = 0  # until the first success, or until the end
    seconds: float = 0.0  # of simulation, resetting included: processor time, so waiting for a busy core is not in it
    unstable: int = 0  # MuJoCo's warnings, after which it resets the simulation on its own
    lost: str = ""  # why it could not be played to its end: then it counts neither as success nor as failure
    # Recorded, one entry per step; observations have one more. Policy episodes keep only `phases` and `frames`.
    phases: list = field(default_factory=list)  # near object 0..1, grasped 0..1, success 0..1
    frames: list = field(default_factory=list)
    observations: list = field(default_factory=list)
    actions: list = field(default_factory=list)
    executed: list = field(default_factory=list)
    rewards: list = field(default_factory=list)

    def fresh(self) -> "Episode":
        """The same, not played yet."""
        asked = ("task", "seed", "expert", "action_noise", "steps_after_success", "render_every")
        return Episode(**{name: getattr(self, name) for name in asked})


class Worker:
    """Its environments, the free ones and those in use."""

    def __init__(self):
        self.first: dict[tuple, gymnasium.Env] = {}  # one built per task; MetaWorld's others are cloned from it
        self.free: dict[tuple, list[gymnasium.Env]] = defaultdict(list)
        self.running: dict[int, tuple[Episode, gymnasium.Env]] = {}

    def take(self, episode: Episode) -> gymnasium.Env:
        """An environment for this episode: a free one, or a new one."""
        key = (episode.task, bool(episode.render_every))
        if self.free[key]:
            return self.free[key].pop()
        if key in self.first and episode.task in TASKS and not episode.render_every:
            return self.first[key].clone()
        trust([episode.task])  # the process that sent it has asked already
        env = make(episode.task, "rgb_array" if episode.render_every else None)
        self.first.setdefault(key, env)
        return env

    def give_back(self, episode: Episode, env: gymnasium.Env) -> None:
        self.free[episode.task, bool(episode.render_every)].append(env)

    def chunk(self, orders: list) -> list:
        """Start new episodes, advance running ones by their chunk. -> [(index, observation, finished or None)]"""
        reply = []
        for index, new_episode, actions in orders:
            if new_episode is not None:
                self.running[index] = (new_episode, self.take(new_episode))
                reply.append((index, name_parts(new_episode.task, reset(*self.running[index])), None))
                continue
            episode, env = self.running[index]
            for action in actions:
                observation, over = step(episode, env, action)
                if over or episode.success:
                    break
            finished = over or episode.success
            if finished:
                del self.running[index]
                self.give_back(episode, env)
            reply.append((index, name_parts(episode.task, observation), episode if finished else None))
        return reply

    def expert(self, episode: Episode) -> Episode:
        """Let the environment's own expert play, disturbed if asked; record everything."""
        env = self.take(episode)
        policy, space = env.unwrapped, env.action_space
        half_range = (space.high - space.low) / 2
        disturbed = list(getattr(policy, "disturbed", range(len(space.low))))  # which actions may be shaken
        random, noise = np.random.default_rng(episode.seed), np.zeros(len(space.low), np.float32)
        episode.observations.append(reset(episode, env))
        remaining = episode.steps_after_success
        while True:
            action = np.asarray(policy.expert_action(), np.float32)
            noise[disturbed] = random.standard_normal(len(disturbed))
            executed = (action + episode.action_noise * noise * half_range).clip(space.low, space.high)
            observation, over = step(episode, env, executed)
            episode.observations.append(observation)
            episode.actions.append(action)
            episode.executed.append(executed)
            if over or (episode.success and remaining == 0):
                break
            remaining -= episode.success
        self.give_back(episode, env)
        return episode


def reset(episode: Episode, env: gymnasium.Env):
    """MetaWorld moves the hand to its place by simulating a hundred steps, so resetting counts as simulation."""
    begin = time.process_time()
    _warnings.clear()
    observation, _ = env.reset(seed=episode.seed)
    episode.seconds += time.process_time() - begin
    episode.unstable += len(_warnings)
    return observation


def step(episode: Episode, env: gymnasium.Env, action: np.ndarray) -> tuple:
    """One step, and the bookkeeping that policy and expert episodes share. -> observation, whether it is over."""
    begin = time.process_time()
    _warnings.clear()
    observation, reward, terminated, truncated, info = env.step(action)
    episode.seconds += time.process_time() - begin
    episode.unstable += len(_warnings)
    if "success" not in info:
        raise KeyError(f"environment '{episode.task}' must say info['success'] at every step")
    episode.steps += not episode.success
    episode.success = episode.success or bool(info["success"])
    episode.phases.append([float(info.get(name, 0)) for name in ("near_object", "grasp_success", "success")])
    episode.rewards.append(float(reward))
    over = terminated or truncated
    if episode.render_every and ((len(episode.phases) - 1) % episode.render_every == 0 or info["success"] or over):
        episode.frames.append(env.render())
    return observation, over


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
    worker = Worker()
    while True:
        try:
            what, content = connection.recv()
        except (EOFError, OSError):
            return  # the main process has closed its end
        answer = worker.chunk(content) if what == "chunk" else worker.expert(content)
        try:
            connection.send(answer)
        except OSError:
            return  # it has closed meanwhile, and says itself why


if __name__ == "__main__":
    # Run as a module, this file is `__main__`; the Episode that arrives is `envs.worker.Episode`. Serve from that one.
    from envs import worker

    try:
        worker.serve(Connection(int(sys.argv[1])))
    except KeyboardInterrupt:
        pass  # Ctrl-C reaches the whole process group; the main process reports it
    except Exception:
        traceback.print_exc()
        raise SystemExit(1) from None
