"""Files of tensors that notice damage: a checksum of the numbers, written with them and compared before they are used.

A disk that flips a bit, or a download with a block of zeros, leaves a file that loads without complaint and a policy
that acts almost as before. safetensors checks that a file is complete, not that it is what was written.
"""

import hashlib
import json
import math
from contextlib import contextmanager
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from plumbing import files, machine
from plumbing.cli import BadInput, say_once

KINDS = {"F64", "F32", "F16", "BF16", "I64", "I32", "U8", "BOOL"}  # that are written here


def save(path: Path, tensors: dict[str, Tensor], about: dict[str, str] | None = None) -> None:
    """Write a safetensors file, as a whole or not at all, with `about` and a checksum of both in its header."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = safetensors.torch.save(tensors, {**(about or {}), "sha256": checksum([about or {}, tensors])})
    files.write(path, content)


@contextmanager
def opened(path: Path):
    """A safetensors file, whose tensors are read when they are asked for. BadInput for anything else."""
    files.regular_file(path)
    try:
        with safetensors.safe_open(path, "pt") as file:
            parts = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118
            if strange := {part.get_dtype() for part in parts} - KINDS:
                raise BadInput(f"{path} has numbers of type {min(strange)}, which no run here has")
            needed, memory = 16 * sum(math.prod(part.get_shape()) for part in parts), machine.memory()
            if needed > memory:  # a file of zeros takes no room on a disk
                raise BadInput(f"{path} needs {needed:,} bytes of memory, more than the {memory:,} of this machine")
            yield file
    except BadInput:
        raise
    except Exception as error:  # whatever a damaged file makes the library raise
        raise BadInput(f"{path} is damaged: {error!s:.200}") from error


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """-> (tensors, about). BadInput if the file is none, is damaged, or holds a number that is not finite.

    A file that was saved elsewhere, and has no checksum, is read with one line of warning.
    """
    with opened(path) as file:  # opened once: a training may put a newer file in its place
        about = dict(file.metadata() or {})
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    written = about.pop("sha256", None)
    if written is None:
        say_once(f"{path} has no checksum: it was not saved here, and damage to its numbers would not be noticed")
    elif written != checksum([about, tensors]):
        raise BadInput(f"{path} is damaged: its numbers are not those that were written (checksum)")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise BadInput(f"{path} is of no use: '{name}' has numbers that are not finite")
    return tensors, about


def header(path: Path) -> dict[str, str]:
    """What stands beside the tensors."""
    with opened(path) as file:
        return dict(file.metadata() or {})


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of what is in a safetensors file, without reading it."""
    with opened(path) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def checksum(content) -> str:
    """SHA-256 of nested dictionaries and lists of tensors, numbers, texts: of their types, order and every byte."""
    digest = hashlib.sha256()

    def add(value) -> None:
        if isinstance(value, Tensor):
            flat = value.detach().cpu().contiguous().flatten()
            digest.update(f"{value.dtype} {tuple(value.shape)};".encode())
            digest.update(flat.view(torch.uint8).numpy() if flat.numel() else b"")
        elif isinstance(value, dict):
            digest.update(f"dict {len(value)};".encode())
            for key in sorted(value, key=str):  # safetensors does not keep the order
                add(key)
                add(value[key])
        elif isinstance(value, (list, tuple)):
            digest.update(f"list {len(value)};".encode())
            for item in value:
                add(item)
        else:
            digest.update(f"{type(value).__name__} {json.dumps(value)};".encode())

    add(content)
    return digest.hexdigest()
