"""One row of a table of commands (study/grid.py) while it runs: on this machine, or on one of a Ray cluster."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from plumbing import files
from plumbing.cli import ROOT, say

BEGUN = "== begun"  # the first line of a log, with the time
DONE = "== done"  # the last line of a log, where all went well


class Row(NamedTuple):
    """What is to be made, how, and where what the commands say is kept."""

    result: str
    commands: list[list[str]]
    log: Path

    def done(self) -> bool:
        """Whether the result is there, and not from commands that something has stopped: train.py writes weights on its
        way, too. (What was made by hand afterwards is later than what their log says last.)"""
        path = ROOT / self.result
        return self.made() and not (self.begun() and path.lstat().st_mtime_ns <= self.log.stat().st_mtime_ns)

    def made(self) -> bool:
        return files.exists(ROOT / self.result)

    def changed(self) -> bool:
        """Whether a log is there that says that all went well, and with other commands."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            return False
        return lines[-1:] == [DONE] and not self.same(lines)

    def begun(self) -> float:
        """When these same commands were begun that something has stopped; 0 if that is not so."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
            since = float(lines[0].removeprefix(BEGUN))
        except (OSError, IndexError, ValueError):  # no log, or an older one
            return 0
        return since if lines[-1] != DONE and self.same(lines) else 0

    def same(self, log: list[str]) -> bool:
        """Whether the commands in a log are these, or, where it was stopped, the first of these."""
        ran = [_alike(line) for line in log if line.startswith("$ ")]
        wanted = [_alike(f"$ {shlex.join(words)}") for words in self.commands]
        return ran == (wanted if log[-1] == DONE else wanted[: len(ran)])

    def said(self) -> str:
        """The last words of its commands."""
        try:
            return self.log.read_text(errors="replace").splitlines()[-2]
        except (OSError, IndexError):
            return f"nothing in {self.log}"


def _value(words: list[str], flag: str) -> str:
    """Of `--flag value` or `--flag=value`; empty where it is not given."""
    split = [part for word in words for part in (word.split("=", 1) if word.startswith(f"{flag}=") else [word])]
    return split[split.index(flag) + 1] if flag in split[:-1] else ""


def _alike(line: str) -> str:
    """A command, without what decides whether it begins anew or goes on."""
    return " ".join(word for word in line.split(" ") if word not in ("--overwrite", "--resume"))


class Job:
    """The commands of a row, one after another. The same here and on a machine of a Ray cluster."""

    def __init__(self, row: Row, held: tuple[int, ...] = ()):
        self.row, self.todo, self.held, self.process = row, list(row.commands), held, None
        self.since = row.begun()
        row.log.parent.mkdir(parents=True, exist_ok=True)
        row.log.write_text(f"{BEGUN} {self.since or time.time()}\n")

    def poll(self) -> int | None:
        """The exit code of the row, None while it runs. Begins the next command where one has ended."""
        code = self.process.poll() if self.process else 0
        if code is None:
            return None
        self.kill()  # whatever the command has left behind
        if code == 0 and self.todo:
            code = self.begin(self.todo.pop(0))
            if code is None:
                return None
        elif code == 0 and not self.row.made():
            self.say(f"all commands have ended, and there is no {self.row.result}")
            code = 1
        self.say(f"== failed: exit code {code}" if code else DONE)
        return code

    def begin(self, words: list[str]) -> int | None:
        """None, or the exit code where there is no such command."""
        anew, out = "--overwrite" in words, _value(words, "--out")
        if self.since and out and (anew or words[1:2] == ["train.py"]):
            saved = ROOT / out / "resume.safetensors"
            if saved.exists() and saved.stat().st_mtime > self.since:  # else it is of a run that is to be replaced
                words = ["--resume" if word == "--overwrite" else word for word in words]
                words += [] if "--resume" in words else ["--resume"]
        self.say(f"$ {shlex.join(words)}")
        words = [sys.executable, *words[1:]] if words[0] == "python" else words
        try:
            with self.row.log.open("a") as log:
                self.process = subprocess.Popen(
                    words, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=self.held,
                    env={"OMP_NUM_THREADS": "1"} | os.environ,  # rows have a core each, and more threads would wait
                    start_new_session=True,  # or Ctrl-C would reach it twice, through the terminal and through us
                )  # fmt: skip
        except OSError as error:
            self.say(f"{words[0]}: {error.strerror}")
            return 127

    def stop(self) -> None:
        """Ask the command to end; it may save first."""
        self.todo = []
        if self.process and self.process.poll() is None:
            self.process.terminate()

    def kill(self) -> None:
        """End the command and all that it has begun, as far as there is any."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except (AttributeError, OSError):
            pass

    def say(self, text: str) -> None:
        with self.row.log.open("a") as log:
            log.write(f"{text}\n")


class RayJob:
    """A Job on a machine of the cluster, which is asked and not waited for."""

    def __init__(self, row: Row, gpus: float):
        import ray

        self.ray, self.begun = ray, False
        self.actor = ray.remote(Job).options(num_cpus=1, num_gpus=gpus).remote(row)
        self.asked = self.actor.poll.remote()

    def poll(self) -> int | None:
        if not self.ray.wait([self.asked], timeout=0)[0]:  # as long as no machine is free
            return None
        try:
            code, self.begun = self.ray.get(self.asked), True
        except self.ray.exceptions.RayError as error:  # its machine is gone
            say(*str(error).splitlines()[:1])
            return 1
        if code is None:
            self.asked = self.actor.poll.remote()
        return code

    def stop(self) -> None:
        if self.begun or self.ray.wait([self.asked], timeout=1)[0]:
            self.actor.stop.remote()
        else:  # it still waits for a machine
            self.ray.kill(self.actor)

    def kill(self) -> None:
        self.ray.wait([self.actor.kill.remote()], timeout=5)
