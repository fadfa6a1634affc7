"""Play many episodes at once: a few worker processes simulate, the main process runs one batched policy.

A policy call costs far less than twice as much for twice the observations, and a message between processes costs as
much as a simulation step. So a whole action chunk travels per message, many episodes share a policy call, and they form
two groups that take turns: while the policy thinks for one group, the workers simulate the other.

    main      [policy for A] [policy for B] [policy for A] [policy for B]
    workers   [n steps of B] [n steps of A] [n steps of B] [n steps of A]

What a worker does with a message is in envs/worker.py.
"""

import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait

import numpy as np

from envs.worker import Episode
from plumbing.cli import ROOT, BadInput, say

# Every demonstration comes from a seed below this, every evaluation episode from one above: they can never meet.
FIRST_EVALUATION_SEED = 1_000_000

Observation = dict[str, np.ndarray]  # part -> (B, *shape)
Act = Callable[[Observation, list[Episode], list[int]], np.ndarray]


def block_seeds(block: int, episodes: int) -> range:
    """The environment seeds of evaluation episodes: `evaluate.py --seed BLOCK` plays the first ones of its 10,000."""
    first = FIRST_EVALUATION_SEED + 10_000 * block
    return range(first, first + episodes)


def available_cores() -> int:
    """Cores that this process may use: in a container or under `taskset` fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass
class Group:
    """Half of the episodes in flight: together they wait for the policy, or together for the simulators."""

    # Running episode -> its worker, its newest observation, how many chunks it has been given.
    running: dict[int, tuple[Connection, Observation, int]] = field(default_factory=dict)
    asked: dict[Connection, list[int]] = field(default_factory=dict)  # worker -> the episodes of its open message


class Roller:
    """A pool of simulator processes. Use as a context manager; workers also end by themselves when their pipe closes.

    A lost episode (its process died or fell silent, its environment raised an exception) is played once more, alone in
    a fresh process; lost again, `Episode.lost` says why. BadInput if processes die and nothing is played between.

    Args:
        workers: processes; by default one per core, at most 8.
        slots: episodes in flight at once, half of them in each group, each with a simulator of 40 MB. The number of
            workers changes neither which episodes these are nor the batch that the policy sees: two machines with
            different core counts play the same evaluation.
        last_try: lost episodes are not played once more.
    """

    MOST_DEATHS = 5  # in a row: one may be the out-of-memory killer's bad luck; five are a broken installation
    PATIENCE = 60.0  # seconds without any sign of a worker, after which it is replaced
    GOODBYE = 5.0  # seconds in which a worker may end what it is doing when all is over

    def __init__(self, workers: int | None = None, slots: int = 48, last_try: bool = False):
        self.slots, self.last_try = slots, last_try
        self.deaths = 0  # since an episode was last played to its end
        self.silent: dict[Connection, float] = defaultdict(float)  # seconds without a sign, while we wait for one
        self.workers: dict[Connection, subprocess.Popen] = {}
        self._start(workers or min(available_cores(), 8))

    def __enter__(self) -> "Roller":
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self.workers:
            connection.close()  # the worker's recv raises EOFError, and it leaves
        for process in self.workers.values():
            try:
                process.wait(self.GOODBYE)
            except subprocess.TimeoutExpired:  # its simulator hangs, and would be waited for forever
                process.kill()
                process.wait()
        self.workers.clear()

    # ------------------------------------------------------------------------------------------ experts

    def play_expert(
        self, episodes: list[Episode], on_done: Callable[[Episode], None] = lambda _: None
    ) -> list[Episode]:
        """Play expert episodes, one at a time per worker. Returns them, in the order given, with their records."""
        self._let_them_draw()
        results: dict[int, Episode] = {}
        queue = list(enumerate(episodes))[::-1]
        busy: dict[Connection, tuple[int, Episode]] = {}
        while queue or busy:
            for connection in list(self.workers):
                if connection not in busy and queue:
                    busy[connection] = queue.pop()
                    _send(connection, ("expert", busy[connection][1]))
            for connection, answer in self._answers({c: [episode] for c, (_, episode) in busy.items()}):
                index, episode = busy.pop(connection)
                results[index] = episode if answer is None else answer
                self._over(results[index], on_done)
        return self._again([results[i] for i in range(len(episodes))], Roller.play_expert, on_done)

    # ------------------------------------------------------------------------------------------ a policy

    def play(
        self, act: Act, episodes: list[Episode], on_done: Callable[[Episode], None] = lambda _: None
    ) -> list[Episode]:
        """Play episodes with a policy: act({part: (B, *shape)}, their episodes, their chunk numbers) -> (B, n, A).

        All n are executed: `act` gives only the first n of its H actions. Returns the episodes, in the order given,
        each played once.
        """
        self._let_them_draw()
        groups, done = (Group(), Group()), {}
        waiting = list(range(len(episodes)))[::-1]
        room = max(1, min(self.slots, len(episodes) + 1) // 2)  # in each group; few episodes are halved as well

        while len(done) < len(episodes):
            for group, other in (groups, groups[::-1]):
                # 1. What the simulators did since this group's last turn; the other group's answers come later.
                for index, finished in self._collect(group, other, episodes):
                    done[index] = finished
                    self._over(finished, on_done)
                # 2. The policy thinks, for this group only; the simulators are busy with the other one meanwhile.
                orders = self._next_chunks(act, group, episodes)
                # 3. Free places are taken by new episodes.
                for _ in range(min(room - len(group.running), len(waiting))):
                    index = waiting.pop()
                    orders[self._least_busy(orders, other)].append((index, episodes[index], None))
                # 4. Off to the simulators.
                group.asked = {connection: [index for index, _, _ in o] for connection, o in orders.items()}
                for connection, messages in orders.items():
                    _send(connection, ("chunk", messages))
        played = [done[i] for i in range(len(episodes))]
        return self._again(played, lambda fresh, one, then: fresh.play(act, one, then), on_done)

    def _collect(self, group: Group, other: Group, episodes: list[Episode]) -> list[tuple[int, Episode]]:
        """Read the answers to what this group asked. -> the episodes that are over, with their indices.

        A worker answers in order, so this group's answer comes before the one to the other group's later message.
        """
        over, expected = [], {c: [*indices, *other.asked.get(c, [])] for c, indices in group.asked.items()}
        while expected:
            held_by = {c: [episodes[index] for index in held] for c, held in expected.items()}
            for connection, reply in self._answers(held_by):
                held = expected.pop(connection)
                if reply is None:  # the worker is gone, and with it the episodes of both groups that it held
                    for half in (group, other):
                        half.asked.pop(connection, None)
                        for index in held:
                            half.running.pop(index, None)
                    over += [(index, episodes[index]) for index in held]
                    continue
                for index, observation, finished in reply:
                    if finished is not None:
                        group.running.pop(index, None)  # None: it raised at its reset
                        over.append((index, finished))
                    else:
                        chunks = group.running[index][2] + 1 if index in group.running else 0
                        group.running[index] = (connection, observation, chunks)
        return over

    def _next_chunks(self, act: Act, group: Group, episodes: list[Episode]) -> dict[Connection, list]:
        """One policy call for all running episodes of a group. -> worker -> orders."""
        orders: dict[Connection, list] = defaultdict(list)
        indices = sorted(group.running)  # in a fixed order: the batch must not depend on who answered first
        if indices:
            seen = [group.running[i][1] for i in indices]
            observations = {name: np.stack([o[name] for o in seen]) for name in seen[0]}
            chunks = act(observations, [episodes[i] for i in indices], [group.running[i][2] for i in indices])
            for i, chunk in zip(indices, chunks, strict=True):
                orders[group.running[i][0]].append((i, None, np.asarray(chunk)))
        return orders

    def _least_busy(self, orders: dict[Connection, list], other: Group) -> Connection:
        """The worker that has least to do in this group, and of these the one with least in the other."""
        return min(self.workers, key=lambda c: (len(orders.get(c, ())), len(other.asked.get(c, ()))))

    # ------------------------------------------------------------------------------------------ processes

    def _over(self, episode: Episode, on_done: Callable[[Episode], None]) -> None:
        """An episode has ended. A lost one is done only once it has been tried again."""
        if not episode.lost:
            self.deaths = 0
        if self.last_try or not episode.lost:
            on_done(episode)

    def _again(self, played: list[Episode], play: Callable, on_done: Callable[[Episode], None]) -> list[Episode]:
        """Play the lost ones once more, one by one: whichever takes its process down must not take others with it."""
        lost = [i for i, episode in enumerate(played) if episode.lost]
        if not lost or self.last_try:
            return played
        with Roller(1, self.slots, last_try=True) as fresh:
            for i in lost:
                if fresh.deaths < self.MOST_DEATHS - 1:
                    (played[i],) = play(fresh, [played[i].fresh()], on_done)
                else:  # the rest stays lost, rather than all that was played
                    on_done(played[i])
        say(f"{sum(not played[i].lost for i in lost)} of {len(lost)} lost episodes were played again, and are counted")
        return played

    def _start(self, workers: int) -> None:
        self.opengl = os.environ.get("MUJOCO_GL")
        for _ in range(workers):
            self._start_worker()

    def _let_them_draw(self) -> None:
        """MuJoCo asks once, when it is imported, how to draw. Workers that were started before that had been found out
        (plumbing/opengl.py) would die at their first picture: start others."""
        if self.opengl != os.environ.get("MUJOCO_GL"):
            workers = len(self.workers)
            self.__exit__()
            self._start(workers)

    def _start_worker(self) -> None:
        ours, theirs = Pipe()
        command = [sys.executable, "-m", "envs.worker", str(theirs.fileno()), os.getcwd()]
        environment = {
            **os.environ,
            # Physics must not start BLAS threads of its own beside the policy's.
            "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
            # An environment of one's own is found there as it was found here.
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }  # fmt: skip
        # Ctrl-C reaches all processes of a terminal. A worker never hears it, not even while it imports: the main
        # process does, and says so, and a worker ends when its pipe is closed.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process = subprocess.Popen(
                command, cwd=ROOT, pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()  # keep only the worker's copy open, so that its death reads as end-of-file here
        self.workers[ours] = process

    def _answers(self, held: dict[Connection, list[Episode]]) -> Iterator[tuple[Connection, list | Episode | None]]:
        """Those answers that come within a second. None for a worker that has died or fallen silent, and then the
        episodes that it held are marked as lost. At most a second of waiting is counted at a time, so that no worker
        seems dead after an hour in Ctrl-Z.
        """
        begin = time.monotonic()
        ready = wait(list(held), timeout=1.0)
        waited = min(time.monotonic() - begin, 1.0)
        for connection, episodes in held.items():
            self.silent[connection] = 0.0 if connection in ready else self.silent[connection] + waited
            try:
                if connection in ready:
                    if (answer := connection.recv()) is not None:  # None: it is still at it
                        yield connection, answer
                elif self.silent[connection] >= self.PATIENCE:
                    self.workers[connection].kill()
                    self._bury(connection, episodes, f"did not answer for {self.PATIENCE:.0f} seconds")
                    yield connection, None
            except (EOFError, OSError):  # OSError: it died in the middle of a message
                self._bury(connection, episodes)
                yield connection, None

    def _bury(self, connection: Connection, held: list[Episode], why: str = "") -> None:
        """A worker is gone: say so, mark the episodes it held, start another. BadInput if they keep dying."""
        process = self.workers.pop(connection)
        connection.close()
        code = process.wait()
        why = why or f"died (exit code {code})"
        for episode in held:
            episode.lost = f"its simulator process {why}"
        names = ", ".join(f"{e.task} seed {e.seed}" for e in held) or "none"
        say(f"warning: a simulator process {why}; lost, the episodes it held: {names}")
        self.deaths += 1
        if self.deaths >= self.MOST_DEATHS:
            raise BadInput(f"{self.deaths} simulator processes have died in a row; the messages above say how")
        self._start_worker()


def _send(connection: Connection, message: object) -> None:
    try:
        connection.send(message)
    except OSError:
        pass  # the worker is dead; `_answers` will notice, and report its episodes
