"""`python evaluate.py --check`: does everything work here that a run will need? Seconds, not minutes."""

import importlib.metadata
import re
import time

import torch

from envs.rollout import FIRST_EVALUATION_SEED, Roller, available_cores
from envs.tasks import spaces
from envs.worker import Episode
from plumbing import figures
from plumbing.cli import ROOT, BadInput, say
from plumbing.machine import has_bf16

TASKS = ("reach", "drawer-open", "hammer")  # the scripted expert can do their first evaluation episodes


def check(device: torch.device) -> dict:
    """Say what works. -> what the command's last line says. BadInput, naming all that is to be mended, if not all."""
    begin, wrong = time.perf_counter(), []
    for part in (_versions(), _simulators(figures.find_opengl()), _device(device)):
        for name, verdict, mend in part:
            say(f"{name:<24}{verdict}")
            if mend and mend not in wrong:
                wrong.append(mend)
    if wrong:
        raise BadInput("to mend: " + "; ".join(wrong))
    return {"check": "all is well", "seconds": round(time.perf_counter() - begin, 1)}


def _versions():
    """(what, what was found, how to mend it or nothing): each pinned library."""
    pinned: dict[str, list[str]] = {}  # for some Python versions another one
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if found := re.match(r"([\w.-]+)(?:\[.*\])?==([^\s;]+)", line):
            pinned.setdefault(found.group(1), []).append(found.group(2))
    for name, wanted in pinned.items():
        try:
            here = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield name, "missing", "pip install -r requirements.txt"
            continue
        same = here.split("+")[0] in wanted
        yield name, here if same else f"{here}, and results were made with {' or '.join(wanted)}", ""


def _simulators(opengl: bool):
    """Each expert plays one episode, filmed where that is possible: without videos all else works."""
    seed, reinstall = FIRST_EVALUATION_SEED, "pip install -r requirements.txt"
    todo = [Episode(task, seed, expert=True, render_every=60 * (opengl and spaces(task).filmable)) for task in TASKS]
    try:
        with Roller(min(available_cores(), len(TASKS))) as roller:
            played = roller.play_expert(todo)
    except BadInput as error:  # no simulator process lives
        yield "simulators", f"FAILED: {error}", f"simulator processes end at once: {reinstall}"
        return
    for e in played:
        verdict = e.lost or (f"solved in {e.steps} steps" if e.success else "FAILED")
        mend = f"the simulator of '{e.task}' fails" if e.lost else f"the expert does not solve '{e.task}'"
        yield f"expert: {e.task}", verdict, "" if e.success else f"{mend}: {reinstall}"
    drawn = opengl and all(e.frames and e.frames[0].std() > 5 for e in played if not e.lost)
    yield "videos (OpenGL)", "work" if drawn else "pictures are empty" if opengl else "not here; all else works", ""


def _device(device: torch.device):
    yield "cores", str(available_cores()), ""
    if device.type != "cuda":
        yield "GPU", "none that PyTorch can use; CPU it is", ""
        yield (
            "bf16 on the CPU",
            "in hardware: --size base and cameras use it" if has_bf16(device) else "not in hardware",
            "",
        )
        return
    name = torch.cuda.get_device_name(device)
    yield "GPU", f"{name}, bf16 {'in hardware' if has_bf16(device) else 'not in hardware: float32 it is'}", ""
    with torch.autocast("cuda", torch.bfloat16):
        x = torch.randn(64, 64, device=device)
        error = ((x @ x).float() - (x.double() @ x.double()).float()).abs().max().item()
    yield "bf16 product", f"off by {error:.2g}", "" if error < 1 else "the GPU computes wrong products: its driver?"
