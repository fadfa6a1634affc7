"""The machine that computes: which device, how precisely, in how many threads, and how much memory it has."""

import os
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import torch

from plumbing.cli import BadInput

WIDE = 128  # channels from which products are what a CPU's time goes into; below, rounding to bf16 costs what it saves
CONTAINER = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")  # v2, v1


def choose_device(name: str) -> torch.device:
    """'auto' -> CUDA if there is one, else CPU. BadInput for a device that torch does not have. From here on, in this
    thread and those that it begins, numbers too small to be normal (below 1e-38) are zeros: a CPU takes many times as
    long for them, and a router that is sure gives such weights, so that a training step took twice as long."""
    torch.set_flush_denormal(True)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("only cpu and cuda are supported")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BadInput(
            f"device '{name}' is not available here; try --device cpu ({str(error).splitlines()[0]})"
        ) from error
    return device


def choose_precision(name: str, policy_config, device: torch.device) -> str:
    """'auto' -> 'bf16' or 'float32', in which training multiplies matrices. bf16 has the range of float32 with 8 bits
    of mantissa; weights, optimiser and average stay float32. It is for hardware that has it: any network on a GPU, wide
    ones and pictures on a CPU, where those take half the time (LOG.md).

    What autocast rounds is not the same on both: norms are computed in float32 on a GPU, in bf16 on a CPU."""
    if name != "auto":
        return name
    pictures = any(len(shape) == 3 for shape in getattr(policy_config, "observation", {}).values())
    wide = pictures or min(getattr(policy_config, "channels", (0,))) >= WIDE
    return "bf16" if (wide or device.type == "cuda") and has_bf16(device) else "float32"


def has_bf16(device: torch.device) -> bool:
    """Whether a device multiplies bf16 in hardware: GPUs since Ampere, CPUs with AVX512-BF16 or AMX. PyTorch imitates
    it on older GPUs, slowly, and without some convolutions."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    can = torch.cpu.get_capabilities()
    return bool(can.get("avx512_bf16") or can.get("amx_bf16"))


def drawing_nothing(device: torch.device) -> AbstractContextManager:
    """What is drawn at random inside, on this device or on the CPU, changes no number that is drawn after it."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which a training step computes."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def one_thread():
    """The simulators have the other cores, and threads that wait for each other on busy cores are slower than one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def memory() -> int:
    """Bytes of memory that this machine has; in a container those that it was given, beyond which Linux kills."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in CONTAINER:
        with suppress(OSError, ValueError):  # not there; "max": no limit
            found.append(int(path.read_text()))
    return min(found)
