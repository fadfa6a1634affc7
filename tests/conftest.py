"""Small real things shared by the tests: demonstrations and one trained run, made once through the real code path."""

import base64
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from plumbing import opengl

# Before PyTorch is imported, and for all that tests start. Its threads wait for each other by spinning: beside another
# busy process the suite hardly moved.
os.environ.setdefault("OMP_NUM_THREADS", "1")

opengl.find()  # before MuJoCo is imported, which asks once how to draw

import adapt  # noqa: E402
import evaluate  # noqa: E402
import skills  # noqa: E402
import train  # noqa: E402
from adaptation import stages  # noqa: E402
from plumbing import figures, files, runs  # noqa: E402
from plumbing.cli import parse  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
DRAW = figures.save
ONE_PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)

# What a shell runs in the background ignores Ctrl-C, and so would all that the suite starts: tests that send one would
# wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def sketches():
    """Figures are put together as ever, and a single pixel is written: drawing takes a second each time."""

    def save(figure, path):
        figures.pyplot().close(figure)
        path.parent.mkdir(exist_ok=True)
        files.write(path, ONE_PIXEL)
        return path

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "save", save)
        yield


@pytest.fixture
def drawn_in_full(monkeypatch):
    """For tests that look at pictures."""
    monkeypatch.setattr(figures, "save", DRAW)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("data")


def command(module, *arguments: object) -> dict:
    """Run a script's main() as its command line would, minus the process. Returns what its last line would say."""
    words = [str(a) for a in arguments]
    result = {
        train: lambda: train.main(runs.parse_with_own_fields(train.TrainConfig, words)),
        evaluate: lambda: evaluate.main(parse(evaluate.EvaluateConfig, words)),
        adapt: lambda: stages.main(parse(adapt.AdaptConfig, words), adapt.learn),
        skills: lambda: skills.main(parse(skills.SkillsConfig, words)),
    }[module]()
    return json.loads(json.dumps(result))  # it must survive the way to stdout


@pytest.fixture(scope="session")
def tiny(data_dir, tmp_path_factory):
    """Flags for a training run of seconds, through the same code as the real one.

    Fewer actions are executed than predicted: where both are the same, a mistake between them is none.
    """
    return ["--tasks", "reach,push", "--steps", 30, "--batch-size", 16, "--demos-per-task", 3, "--data-dir", data_dir,
            "--log-every", 10, "--save-every", 10, "--device", "cpu", "--horizon", 8, "--executed", 4]  # fmt: skip


@pytest.fixture(scope="session")
def tiny_run(tiny, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "save", DRAW)
        command(train, *tiny, "--out", folder, "--eval-episodes", 2)
    return folder


@pytest.fixture(scope="session")
def trained_run(data_dir, tmp_path_factory) -> Path:
    """A run that succeeds at two easy tasks: 10 seconds of training."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    command(train, "--tasks", "reach,drawer-open", "--steps", 500, "--demos-per-task", 20,
            "--data-dir", data_dir, "--out", folder, "--eval-episodes", 0, "--device", "cpu")  # fmt: skip
    return folder


def script(*words: object, **more) -> "subprocess.CompletedProcess":  # noqa: F821
    """Run a script as a user does: a process of its own, with stdout, stderr and exit code."""
    import subprocess

    return subprocess.run(
        [sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True, timeout=170, **more
    )
