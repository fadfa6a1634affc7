"""Ctrl-C, SIGTERM, and the SIGHUP of a closed terminal: a loop finishes its step and saves, all else ends in a line.

    import plumbing.interrupt              # first of all imports: PyTorch takes seconds, and somebody may be impatient

    for step in interrupt.steps(range(1000), save):    # a signal: finish the step, save(steps done), end
        ...

Before a command begins, a signal ends it at once: nothing has been made yet. Later it raises Interrupted where the
program happens to be, so that whatever has to be tidied up is (simulator processes, temporary files). While steps are
made the first signal only leaves a note; a second one does not wait. Exit codes are the shell's: 128 + the signal's
number, 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

SCRIPTS = ("train.py", "evaluate.py", "adapt.py", "skills.py")


class Interrupted(KeyboardInterrupt):
    """A signal has come. code: the exit code that tells which; its text says how to go on, where that is known."""

    def __init__(self, number: int, text: str = ""):
        super().__init__(text)
        self.code = 128 + number


def is_first() -> bool:
    """Of several processes that torchrun starts for one training (plumbing/parallel.py) the first one speaks."""
    return "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("RANK", "0") == "0"


_begun = _deferring = False
_asked = 0  # the signal that came during a step, and is still to be answered
_done = ""  # what `done` was told


def install() -> None:
    """From here on signals are handled as above. In other threads Python does not allow it, and nothing changes."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # a shell's background jobs Ctrl-C, nohup's SIGHUP
                signal.signal(number, _handle)


def begin() -> None:
    """Importing is over, and the command begins."""
    global _begun
    if _program.name in SCRIPTS and _program.name != "train.py":  # only training is work for several
        if not is_first():
            raise SystemExit(0)
        os.environ.pop("TORCHELASTIC_RUN_ID", None)  # the first goes on as without torchrun: adapt.py may train, too
    install()
    _begun = True
    done("")


def done(text: str) -> None:
    """What an interruption says from here on: what is finished already, and how to go on."""
    global _done
    _done = text


def steps(numbers: Iterable[int], save: Callable[[int], str], agree: Callable[[int], int] = int) -> Iterator[int]:
    """The numbers, one by one. If a signal has come during one, then after it: save(steps done), which says how to go
    on, and Interrupted. agree: makes the signal of one process that of all, where there are several."""
    global _deferring, _asked
    _deferring, _asked = True, 0
    try:
        for number in numbers:
            yield number
            if stop := agree(_asked):
                raise Interrupted(stop, save(number + 1))
    finally:
        _deferring = False


def _handle(number: int, _frame) -> None:
    global _asked
    if not _begun:
        _tell("interrupted\n")
        os._exit(128 + number)
    if _deferring and not _asked:
        _asked = number
        _tell("\ninterrupted: finishing this step; once more stops at once\n")
        return
    raise Interrupted(number, _done)


def _tell(text: str) -> None:
    """To stderr, past Python's own streams, which may be in use just now. Nobody may be there to read it: the `tee`
    that it went through dies of the same Ctrl-C, and an exception here would end the step that is to be finished."""
    if is_first():
        with contextlib.suppress(OSError):
            os.write(2, text.encode())


# Only where a script of ours is what runs: who imports train.py into a program keeps that program's handlers.
_program = Path(getattr(sys.modules.get("__main__"), "__file__", None) or ".").resolve()
if _program.name in SCRIPTS and _program.parent == Path(__file__).resolve().parent.parent:
    install()
