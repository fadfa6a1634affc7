"""One training on several processes, which torchrun starts; docs/parallel.md has the commands.

Every process draws the same batch, from the same seed, and learns from its part of it; gradients are averaged. So all
make the same steps, and what is saved does not depend on how many there are. The first process alone writes and speaks.
Without torchrun nothing here does anything: nothing is started, copied or drawn.
"""

import os
import signal
import sys
import zlib
from collections.abc import Callable
from datetime import timedelta
from typing import NoReturn

import torch
import torch.distributed as dist

from plumbing.files import BadInput
from plumbing.interrupt import is_first

LOST = "another process of this training has ended or cannot be reached; what was saved is still there"
_waiting = None  # all processes, with patience: the others wait as long as the first one collects demonstrations


def begin(device: str, batch_size: int) -> None:
    """Join the other processes; each takes a GPU of its own where there are any. BadInput for what cannot work."""
    global _waiting
    if (processes := about().get("processes", 1)) == 1:
        return
    env, on_gpu = os.environ, device != "cpu" and torch.cuda.is_available()
    if batch_size < processes:
        raise BadInput(f"--batch-size must be at least {processes}, one for each process, got {batch_size}")
    if on_gpu:
        if device not in ("auto", "cuda") or int(env["LOCAL_RANK"]) >= torch.cuda.device_count():
            raise BadInput(
                f"a GPU for each process: --device cuda, --nproc-per-node {torch.cuda.device_count()} at most"
            )
        torch.cuda.set_device(int(env["LOCAL_RANK"]))  # from here on "cuda" means this one
    # When torchrun starts us again its store has the addresses of dead processes. A number in front of all names makes
    # it a new one, but each machine counts its own starts.
    kept = env["TORCHELASTIC_USE_AGENT_STORE"] == "True"
    if kept and env["GROUP_WORLD_SIZE"] != "1" and env["TORCHELASTIC_MAX_RESTARTS"] != "0":
        raise BadInput("--max-restarts on several machines needs TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 before torchrun")
    store, rank, _ = next(dist.rendezvous("env://"))
    store = dist.PrefixStore(env["TORCHELASTIC_RESTART_COUNT"], store) if kept else store
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", store=store, rank=rank, world_size=processes)
    _waiting = dist.new_group(backend="gloo", timeout=timedelta(days=365))


def first(make: Callable):
    """make() in the first process, while the others wait -> its result, in all. Its BadInput is raised in all."""
    if not dist.is_initialized():
        return make()
    box = [None, None]
    if is_first():
        try:
            box[0] = make()
        except BadInput as error:
            box[1] = str(error)
    dist.broadcast_object_list(box, group=_waiting)
    if box[1]:
        raise BadInput(box[1])
    return box[0]


class _Share(torch.nn.Module):
    """A policy's loss on this process's part of a batch, so weighted that the mean over all processes is the whole
    batch's, also where that cannot be divided evenly."""

    def __init__(self, policy: torch.nn.Module, loss: Callable):
        super().__init__()
        self.policy, self.loss = policy, loss

    def forward(self, observation, *batch) -> tuple:
        size, rank, processes = len(next(iter(observation.values()))), dist.get_rank(), dist.get_world_size()
        mine = slice(size * rank // processes, size * (rank + 1) // processes)
        noises = len(batch[0]) // size  # train.py, `Windows.sample`: the rows of an observation stand together
        part = slice(mine.start * noises, mine.stop * noises)
        weight = (mine.stop - mine.start) * processes / size
        gpu = [self.policy.device] if self.policy.device.type == "cuda" else []
        # What a policy draws in its loss (dropout, say) differs between processes, and must not move what all of them
        # draw: the next batch.
        state = torch.cuda.get_rng_state() if gpu else torch.get_rng_state()
        with torch.random.fork_rng(gpu):
            torch.manual_seed(zlib.crc32(state.numpy().tobytes()) + rank)
            loss = self.loss({name: x[mine] for name, x in observation.items()}, *(x[part] for x in batch))
        if not isinstance(loss, tuple):
            return loss  # a fork's mistake, and `resume.check_loss` says so
        errors, terms = loss
        return errors * weight, {name: (coefficient, term * weight) for name, (coefficient, term) in terms.items()}


def share(policy: torch.nn.Module, loss: Callable) -> Callable:
    """policy.loss -> the same function of a whole batch, of which each process computes its part."""
    return _Share(policy, loss) if dist.is_initialized() else loss


def exchange(loss: Callable) -> Callable:
    """What `share` gave, after one backward pass; from here on all processes get the gradient of the whole batch."""
    if not dist.is_initialized():
        return loss
    # Parts that never get a gradient (the router of variants/uniform.py) have to be looked for, which takes time.
    some_unused = any(p.grad is None for p in loss.parameters() if p.requires_grad)
    return torch.nn.parallel.DistributedDataParallel(loss, find_unused_parameters=some_unused)


def mean(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Numbers by name -> their means over all processes."""
    if not dist.is_initialized():
        return values
    sums = torch.stack([value.detach().float() for value in values.values()])
    dist.all_reduce(sums)
    return dict(zip(values, sums / dist.get_world_size(), strict=True))


def agree(number: int) -> int:
    """The largest of all processes' numbers, exchanged on the CPU: no GPU waits."""
    if not dist.is_initialized():
        return number
    largest = torch.tensor(number)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return largest.item()


def finish() -> None:
    """Training is over, and the others end here: the first plays episodes as long as it takes."""
    if dist.is_initialized():
        dist.destroy_process_group()
        if not is_first():
            leave(0)


# ------------------------------------------------------------------------------------------ they end with one voice


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
