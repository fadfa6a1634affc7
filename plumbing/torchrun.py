"""How processes that torchrun has started end: with one voice. (What they do together is plumbing/parallel.py.)"""

import os
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import NoReturn

import torch.distributed as dist

from plumbing.files import BadInput
from plumbing.interrupt import is_first

LOST = "another process of this training has ended or cannot be reached; what was saved is still there"


def together(main: Callable[[], dict]) -> dict:
    """main() in each process -> its result, in the first. The others end without a word, unless they have one that
    nobody has said yet: what is wrong in one is often wrong in all."""
    try:
        result = main()
    except KeyboardInterrupt as stopped:
        for number in (signal.SIGINT, signal.SIGTERM) if about() else ():
            signal.signal(number, signal.SIG_IGN)  # torchrun sends one more when a process has ended
        if is_first():
            raise
        leave(getattr(stopped, "code", 130))
    except (BadInput, RuntimeError) as error:
        lost = isinstance(error, dist.DistError) or "gloo" in str(error)
        if not lost and not isinstance(error, BadInput):
            raise
        text = LOST if lost else str(error)
        if not _said(text):
            raise BadInput(text) from error
        leave(2)
    if is_first():
        return result
    leave(0)


def leave(code: int) -> NoReturn:
    """End at once. Tidying up may wait forever: a group of processes waits for its threads while it is deleted, and
    they for Python, if they are not quite done with the last exchange."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def about() -> dict:
    """How many processes there are, and which torchrun started them, for a run's record; empty without torchrun."""
    if not dist.is_torchelastic_launched():
        return {}
    return {"processes": int(os.environ["WORLD_SIZE"]), "torchrun": os.environ["TORCHELASTIC_RUN_ID"]}


def _said(text: str) -> bool:
    """Whether another process has said this before; from here on it counts as said."""
    try:
        return bool(about()) and next(dist.rendezvous("env://", timeout=timedelta(seconds=10)))[0].add(text, 1) > 1
    except (RuntimeError, ValueError):  # nobody is there to ask
        return not is_first()
