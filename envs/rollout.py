"""Play many episodes at once: a few worker processes simulate, the main process runs one batched policy.

A policy call costs far less than twice as much for twice the observations, and a message between processes costs as
much as a simulation step. So a whole action chunk travels per message, many episodes share a policy call, and they form
two groups that take turns: while the policy thinks for one group, the workers simulate the other.

    main      [policy for A] [policy for B] [policy for A] [policy for B]
    workers   [H steps of B] [H steps of A] [H steps of B] [H steps of A]

Workers are plain Python processes without torch: they start in a second and share no thread pool with the policy.
"""

import os
import subprocess
import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait

import numpy as np

from cli import ROOT, say
from envs.metaworld import MetaWorldEnv, expert

# Every demonstration comes from a seed below this, every evaluation episode from one above: they can never meet.
FIRST_EVALUATION_SEED = 1_000_000


@dataclass
class Episode:
    """One episode, before (task, seed) and after it was played. Ends at the first success, or after MAX_STEPS."""

    task: str
    seed: int
    expert: bool = False  # played by the scripted expert, in the worker, without any message per step
    action_noise: float = 0.0  # expert only: disturbs what is executed, not what is recorded
    steps_after_success: int = 0  # expert only: keep recording for a while
    render_every: int = 0  # keep a picture of every n-th step; 0 renders nothing
    success: bool = False
    steps: int = 0  # until the first success, or until the end
    seconds: float = 0.0  # of simulation, resetting included: processor time, so waiting for a busy core is not in it
    lost: str = ""  # why it could not be played to its end: then it counts neither as success nor as failure
    # Recorded, (steps, ...) each; observations have one more row. Policy episodes keep only `phases` and `frames`.
    phases: list = field(default_factory=list)  # per step: near object 0..1, grasped 0..1, success 0..1
    frames: list = field(default_factory=list)
    observations: list = field(default_factory=list)
    actions: list = field(default_factory=list)
    executed: list = field(default_factory=list)
    rewards: list = field(default_factory=list)


class Roller:
    """A pool of simulator processes. Use as a context manager; workers also end by themselves when their pipe closes.

    Args:
        workers: processes; by default one per core, at most 8.
        slots: episodes in flight at once, half of them in each group, each with a simulator of 40 MB. Which ones does
            not depend on the number of workers, and neither does the batch that the policy sees: two machines with
            different core counts play the same evaluation.
    """

    MOST_DEATHS = 5  # one may be the out-of-memory killer's bad luck; five are a broken installation

    def __init__(self, workers: int | None = None, slots: int = 48):
        self.slots = slots
        self.deaths = 0
        self.workers: dict[Connection, subprocess.Popen] = {}
        for _ in range(workers or min(os.cpu_count() or 1, 8)):
            self._start_worker()

    def _start_worker(self) -> None:
        ours, theirs = Pipe()
        command = [sys.executable, "-m", "envs.rollout", str(theirs.fileno())]
        # Physics must not start BLAS threads of its own beside the policy's.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        process = subprocess.Popen(
            command, cwd=ROOT, pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL
        )
        theirs.close()  # keep only the worker's copy open, so that its death reads as end-of-file here
        self.workers[ours] = process

    def __enter__(self) -> "Roller":
        return self

    def __exit__(self, *_: object) -> None:
        for connection, process in self.workers.items():
            connection.close()  # the worker's recv raises EOFError, and it leaves
            process.wait()
        self.workers.clear()

    def _bury(self, connection: Connection, held: list[Episode]) -> None:
        """A worker has died: say so, mark the episodes it held, start another. RuntimeError if they keep dying."""
        process = self.workers.pop(connection)
        connection.close()
        code = process.wait()
        for episode in held:
            episode.lost = f"its simulator process died (exit code {code})"
        names = ", ".join(f"{e.task} seed {e.seed}" for e in held) or "none"
        say(f"warning: a simulator process died (exit code {code}); not counted, the episodes it held: {names}")
        self.deaths += 1
        if self.deaths >= self.MOST_DEATHS:
            raise RuntimeError(f"{self.deaths} simulator processes have died; the messages above say how")
        self._start_worker()

    def play_expert(
        self, episodes: list[Episode], on_done: Callable[[Episode], None] = lambda _: None
    ) -> list[Episode]:
        """Play expert episodes, one at a time per worker. Returns them, in the order given, with their records."""
        results: dict[int, Episode] = {}
        queue = list(enumerate(episodes))[::-1]
        busy: dict[Connection, tuple[int, Episode]] = {}
        while queue or busy:
            for connection in list(self.workers):
                if connection not in busy and queue:
                    busy[connection] = queue.pop()
                    _send(connection, ("expert", busy[connection][1]))
            for connection in wait(list(busy)):
                index, episode = busy.pop(connection)
                try:
                    results[index] = connection.recv()
                except (EOFError, OSError):  # OSError: it died in the middle of a message
                    results[index] = episode
                    self._bury(connection, [episode])
                on_done(results[index])
        return [results[i] for i in range(len(episodes))]

    def play(
        self,
        act: Callable[[np.ndarray, list[Episode], list[int]], np.ndarray],
        episodes: list[Episode],
        on_done: Callable[[Episode], None] = lambda _: None,
    ) -> list[Episode]:
        """Play episodes with a policy: act(observations (B, O), their episodes, their chunk numbers) -> (B, H, A).

        All H actions of a chunk are executed. Returns the episodes, in the order given, each played once.
        """
        done: dict[int, Episode] = {}
        waiting = list(range(len(episodes)))[::-1]
        room = max(1, min(self.slots, len(episodes) + 1) // 2)  # in each group; few episodes are halved as well
        # For each group: running episode -> its worker, observation, chunk number; and worker -> what it was sent last.
        running: list[dict[int, tuple[Connection, np.ndarray, int]]] = [{}, {}]
        sent: list[dict[Connection, list[int]]] = [{}, {}]

        def finish(index: int, episode: Episode) -> None:
            for group in running:
                group.pop(index, None)
            done[index] = episode
            on_done(episode)

        def receive(group: int) -> None:
            """The answers to what this group was sent. A worker answers in order, so they come before the others'."""
            for connection in list(sent[group]):
                try:
                    reply = connection.recv()
                except (EOFError, OSError):  # OSError: it died in the middle of a message
                    held = [index for orders in sent for index in orders.pop(connection, [])]  # of both groups
                    self._bury(connection, [episodes[index] for index in held])
                    for index in held:
                        finish(index, episodes[index])
                    continue
                for index, observation, finished in reply:
                    if finished is None:
                        chunk_number = running[group][index][2] + 1 if index in running[group] else 0
                        running[group][index] = (connection, observation, chunk_number)
                    else:
                        finish(index, finished)

        def order(group: int) -> None:
            """Ask the policy for this group's next chunks, start new episodes in its free slots, and send both."""
            orders: dict[Connection, list] = defaultdict(list)
            # All observations in one batch, in a fixed order; one policy call.
            indices = sorted(running[group])
            if indices:
                observations = np.stack([running[group][i][1] for i in indices])
                chunks = act(observations, [episodes[i] for i in indices], [running[group][i][2] for i in indices])
                for i, chunk in zip(indices, chunks, strict=True):
                    orders[running[group][i][0]].append((i, None, np.asarray(chunk)))
            other = sent[1 - group]
            for _ in range(min(room - len(indices), len(waiting))):
                # To the worker that has least to do in this group, and of these to the one with least in the other.
                connection = min(self.workers, key=lambda c: (len(orders[c]), len(other.get(c, ()))))
                index = waiting.pop()
                orders[connection].append((index, episodes[index], None))
            sent[group] = {connection: [index for index, _, _ in o] for connection, o in orders.items() if o}
            for connection in sent[group]:
                _send(connection, ("chunk", orders[connection]))

        while len(done) < len(episodes):
            for group in (0, 1):
                receive(group)
                order(group)
        return [done[i] for i in range(len(episodes))]


def _send(connection: Connection, message: object) -> None:
    try:
        connection.send(message)
    except OSError:
        pass  # the worker is dead; the recv that follows says so, and reports its episodes


# ------------------------------------------------------------------------------------------ the worker process


class _Worker:
    def __init__(self):
        self.first: dict[tuple, MetaWorldEnv] = {}  # one built per task; the others are cloned from it
        self.free: dict[tuple, list[MetaWorldEnv]] = defaultdict(list)
        self.running: dict[int, tuple[Episode, MetaWorldEnv]] = {}

    def take(self, episode: Episode) -> MetaWorldEnv:
        key = (episode.task, bool(episode.render_every))
        if key not in self.first:
            self.first[key] = MetaWorldEnv(episode.task, render_mode="rgb_array" if episode.render_every else None)
            return self.first[key]
        if self.free[key]:
            return self.free[key].pop()
        return MetaWorldEnv(episode.task, "rgb_array") if episode.render_every else self.first[key].clone()

    def give_back(self, episode: Episode, env: MetaWorldEnv) -> None:
        self.free[episode.task, bool(episode.render_every)].append(env)

    def chunk(self, orders: list) -> list:
        """Start new episodes, advance running ones by their chunk. -> [(index, observation, finished or None)]"""
        reply = []
        for index, new_episode, actions in orders:
            if new_episode is not None:
                env = self.take(new_episode)
                observation = _reset(new_episode, env)
                self.running[index] = (new_episode, env)
                reply.append((index, observation, None))
                continue
            episode, env = self.running[index]
            for action in actions:
                observation, _, truncated, info = _step(episode, env, action)
                if info["success"] or truncated:
                    break
            over = info["success"] or truncated
            if over:
                del self.running[index]
                self.give_back(episode, env)
            reply.append((index, observation, episode if over else None))
        return reply

    def expert(self, episode: Episode) -> Episode:
        env = self.take(episode)
        policy = expert(episode.task)
        random = np.random.default_rng(episode.seed)
        observation = _reset(episode, env)
        episode.observations.append(observation)
        remaining = episode.steps_after_success
        while True:
            action = policy(observation)
            # Disturb the hand, never the gripper: shaking it drops objects without teaching how to recover them.
            disturbed = action + episode.action_noise * np.append(random.standard_normal(3), 0.0).astype(np.float32)
            disturbed = disturbed.clip(-1, 1)
            observation, reward, truncated, _ = _step(episode, env, disturbed)
            episode.observations.append(observation)
            episode.actions.append(action)
            episode.executed.append(disturbed)
            episode.rewards.append(reward)
            if truncated or (episode.success and remaining == 0):
                break
            remaining -= episode.success
        self.give_back(episode, env)
        return episode


def _reset(episode: Episode, env: MetaWorldEnv) -> np.ndarray:
    """MetaWorld moves the hand to its place by simulating a hundred steps, so resetting counts as simulation."""
    begin = time.process_time()
    observation, _ = env.reset(seed=episode.seed)
    episode.seconds += time.process_time() - begin
    return observation


def _step(episode: Episode, env: MetaWorldEnv, action: np.ndarray):
    """One step, and the bookkeeping that policy and expert episodes share."""
    begin = time.process_time()
    observation, reward, _, truncated, info = env.step(action)
    episode.seconds += time.process_time() - begin
    episode.steps += not episode.success
    episode.success = episode.success or info["success"]
    episode.phases.append([float(info["near_object"]), float(info["grasp_success"]), float(info["success"])])
    if episode.render_every and ((len(episode.phases) - 1) % episode.render_every == 0 or info["success"] or truncated):
        episode.frames.append(env.render())
    return observation, reward, truncated, info


def _serve(connection: Connection) -> None:
    os.nice(5)  # the policy goes first: while it waits for a core, all episodes of its group wait
    worker = _Worker()
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
    # Run as a module, this file is `__main__`; the Episode that arrives is `envs.rollout.Episode`. Serve from that one.
    from envs import rollout

    try:
        rollout._serve(Connection(int(sys.argv[1])))
    except KeyboardInterrupt:
        pass  # Ctrl-C reaches the whole process group; the main process reports it
    except Exception:
        traceback.print_exc()
        raise SystemExit(1) from None
