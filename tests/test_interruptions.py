"""Ctrl-C, SIGTERM, losses that are not finite: what was learned is kept, and going on gives the same weights."""

import itertools
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, command
from safetensors.torch import load_file

import adapt
import evaluate
import train
from plumbing import cli, figures, files, interrupt, machine, resume, runs, tensors
from plumbing.cli import BadInput
from plumbing.log import Log


@pytest.fixture
def signals():
    """Handlers as a command has them; the test runner's own come back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, and would stay so
    interrupt.begin()
    yield
    interrupt._begun = False
    for number, handler in before.items():
        signal.signal(number, handler)


def send_in_call(monkeypatch, number: int, call: int, times: int = 1) -> None:
    """The loss sends a signal to this process when it is asked for the n-th time."""
    real, calls = runs.load_variant("fdp").Policy.loss, []

    def loss(*arguments):
        calls.append(0)
        for _ in range(times if len(calls) == call else 0):
            os.kill(os.getpid(), number)
        return real(*arguments)

    monkeypatch.setattr(runs.load_variant("fdp").Policy, "loss", loss)


def same_weights(one: Path, other: Path) -> bool:
    a, b = (load_file(folder / "model.safetensors") for folder in (one, other))
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("number,code", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_training_finishes_the_step_saves_and_goes_on_to_the_same_weights(
    tiny, tiny_run, tmp_path, monkeypatch, signals, number, code
):
    run = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(interrupt.Interrupted) as stopped:
        send_in_call(patch, number, 1 + 17)  # the first call is the trial before the run
        patch.setattr(sys, "argv", ["train.py", "--tasks", "reach,push", "--overwrite"])
        command(train, *tiny, "--out", run, "--eval-episodes", 0)
    assert stopped.value.code == code
    goes_on = f"python train.py --tasks reach,push --resume --out {run}"
    assert str(stopped.value) == f"saved after step 17; go on with: {goes_on}"
    command(train, *tiny, "--out", run, "--resume", "--eval-episodes", 0)
    assert same_weights(run, tiny_run)


@pytest.mark.parametrize("retain", ["exact", "replay"])
def test_adapting_one_task_goes_on_where_it_was_interrupted(tiny, tiny_run, tmp_path, monkeypatch, signals, retain):
    flags = ["--run", tiny_run, "--tasks", "drawer-open", "--retain", retain, "--steps", 12]
    flags += ["--batch-size", 8, "--demos-per-task", 3, "--eval-episodes", 0, "--device", "cpu"]
    flags += tiny[tiny.index("--data-dir") :][:2]
    command(adapt, *flags, "--out", tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(interrupt.Interrupted, match="saved after step 7;") as stopped:
        send_in_call(patch, signal.SIGTERM, 7 + 1)  # one call to see whether anything learns, and nothing old moves
        patch.setattr(sys, "argv", ["adapt.py", "--tasks", "drawer-open"])
        command(adapt, *flags, "--out", tmp_path / "run")
    # It finds the folder of the same command again; to name it would be wrong where it is a stage's, in a sequence.
    assert str(stopped.value).endswith("go on with: python adapt.py --tasks drawer-open")
    assert not (tmp_path / "run" / "model.safetensors").exists()
    with pytest.raises(BadInput, match="has steps = 12, not 13"):
        command(adapt, *flags, "--out", tmp_path / "run", "--steps", 13)
    command(adapt, *flags, "--out", tmp_path / "run")
    assert same_weights(tmp_path / "run", tmp_path / "whole") and not (tmp_path / "run" / resume.FILE).exists()
    read = [runs.read_config(tmp_path / name)["adapted"][0] for name in ("run", "whole")]
    assert all(stage.pop("seconds") >= 0 for stage in read) and read[0] == read[1]


@pytest.mark.parametrize("where", ["figures", "evaluation"])
def test_when_all_is_learned_a_signal_says_so(tiny, tmp_path, monkeypatch, signals, where):
    """What takes minutes after the last step is not lost: the line names the run, and what to type."""

    def stop(*_arguments, **_flags):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    monkeypatch.setattr(*{"figures": (figures, "training"), "evaluation": (evaluate, "evaluate")}[where], stop)
    run, more = tmp_path / "run", tmp_path / "more"
    with pytest.raises(interrupt.Interrupted, match=f"play it with: python evaluate.py --run {run}$"):
        command(train, *tiny, "--out", run, "--eval-episodes", 2)
    assert runs.load_policy(run).config.tasks == ["reach", "push"]
    if where == "evaluation":
        flags = ["--run", run, "--tasks", "drawer-open", "--steps", 3, "--batch-size", 8, "--demos-per-task", 3]
        flags += tiny[tiny.index("--data-dir") :][:2]
        with pytest.raises(interrupt.Interrupted, match=f"^{more} is saved; the same command goes on from there$"):
            command(adapt, *flags, "--out", more, "--eval-episodes", 2)
        assert "drawer-open" in runs.load_policy(more).config.tasks


def test_a_second_signal_does_not_wait(tiny, tmp_path, monkeypatch, signals):
    send_in_call(monkeypatch, signal.SIGINT, 1 + 12, times=2)
    with pytest.raises(interrupt.Interrupted, match="^$"):
        command(train, *tiny, "--out", tmp_path / "run", "--eval-episodes", 0)
    assert tensors.header(tmp_path / "run" / resume.FILE)["step"] == "10"


def test_outside_of_steps_a_signal_tidies_up_and_is_one_line(signals, capsys):
    tidied = []

    def main():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            tidied.append(True)

    with pytest.raises(SystemExit) as left:
        cli.run(main)
    assert left.value.code == 143 and tidied and capsys.readouterr().err == "interrupted\n"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks /proc when a process handles a signal")
@pytest.mark.parametrize("script", interrupt.SCRIPTS)
def test_while_importing_a_signal_is_one_line(script):
    process = subprocess.Popen([sys.executable, script], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        caught = 0
        while not caught & (1 << (signal.SIGTERM - 1)):
            status = Path(f"/proc/{process.pid}/status").read_text()
            caught = int(status.split("SigCgt:")[1].split()[0], 16)
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=20)[1] == "interrupted\n" and process.returncode == 143
    finally:
        process.kill()


def test_a_signal_is_answered_where_nobody_listens(signals, monkeypatch):
    """`2>&1 | tee log`: tee dies of the same Ctrl-C, and the step that is to be finished must not die of that."""
    reading, writing = os.pipe()
    os.close(reading)
    kept = os.dup(2)
    os.dup2(writing, 2)
    try:
        monkeypatch.setattr(sys, "stderr", os.fdopen(os.dup(writing), "w"))
        saved = []
        with pytest.raises(interrupt.Interrupted):
            for step in interrupt.steps(range(5), lambda done: saved.append(done) or "saved"):
                cli.say("step", step)
                if step == 2:
                    interrupt._handle(signal.SIGINT, None)
        assert saved == [3]
    finally:
        os.dup2(kept, 2)
        for handle in (kept, writing):
            os.close(handle)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a disk that is always full")
def test_a_log_on_a_full_disk_ends_nothing(monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        cli.say("lost")
        cli.say("too")
        full.close = lambda: None  # what it still holds could not be written at the end either
    assert sys.stderr is not full


def test_what_strangers_write_moves_no_cursor(capsys):
    cli.say("task \x1b]0;owned\x07\x1b[2J of\na run\t\x9b")
    assert capsys.readouterr().err == "task ?]0;owned??[2J of\na run\t?\n"


def test_a_run_without_a_checkpoint_is_begun_again_by_the_same_command(tiny, tiny_run, tmp_path, monkeypatch):
    run = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train.Learner, "step", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        command(train, *tiny, "--out", run, "--eval-episodes", 0)
    with pytest.raises(BadInput, match="has no checkpoint yet; leave out --resume to begin it again"):
        command(train, *tiny, "--out", run, "--resume")
    command(train, *tiny, "--out", run, "--eval-episodes", 0)
    assert same_weights(run, tiny_run)


def test_weights_that_no_checkpoint_stands_beside_are_not_said_to_have_none(tiny, tiny_run, tmp_path):
    """The advice to begin it again would cost a finished run."""
    shutil.copytree(tiny_run, tmp_path / "run")
    (tmp_path / "run" / resume.FILE).unlink()
    with pytest.raises(BadInput, match="run has weights, but not resume.safetensors, which going on needs"):
        command(train, *tiny, "--out", tmp_path / "run", "--resume")


def test_a_run_goes_on_in_its_own_precision(tiny, tiny_run, tmp_path, monkeypatch):
    """Another CPU would choose another one, and the command that began the run would be refused."""
    shutil.copytree(tiny_run, tmp_path / "run")
    usual = machine.choose_precision
    monkeypatch.setattr(machine, "choose_precision", lambda name, *_: usual("bf16" if name == "auto" else name, *_))
    command(train, *tiny, "--out", tmp_path / "run", "--resume", "--eval-episodes", 0)
    assert runs.read_config(tmp_path / "run")["train"]["precision"] == "float32"
    with pytest.raises(BadInput, match="has precision = float32, not bf16"):
        command(train, *tiny, "--out", tmp_path / "run", "--resume", "--precision", "bf16")


def test_an_unfinished_training_is_told_where_it_is_used(tiny, tmp_path, capsys, monkeypatch, signals):
    with monkeypatch.context() as patch, pytest.raises(interrupt.Interrupted):
        send_in_call(patch, signal.SIGINT, call=21)  # the first is the trial before the run
        command(train, *tiny, "--out", tmp_path / "run", "--eval-episodes", 0)
    cli.say_once.cache_clear()
    command(evaluate, "--run", tmp_path / "run", "--episodes", 1)
    assert f"{tmp_path / 'run'} is trained for 20 of 30 steps" in capsys.readouterr().err
    cli.say_once.cache_clear()
    runs.load_policy(tmp_path / "run", checkpoint=True)  # by study/curve.py, whose business it is
    assert "trained for" not in capsys.readouterr().err
    command(train, *tiny, "--out", tmp_path / "run", "--resume", "--eval-episodes", 0)
    cli.say_once.cache_clear()
    capsys.readouterr()
    runs.load_policy(tmp_path / "run")
    assert "trained for" not in capsys.readouterr().err


class Killed(BaseException):
    """As kill -9: nothing that tidies up knows about it."""


@pytest.mark.parametrize("way", ["train", "sequence"])
def test_a_command_killed_in_any_of_its_writes_goes_on_to_the_same_weights(data_dir, tmp_path, monkeypatch, way):
    usual = ["--steps", 6, "--demos-per-task", 2, "--data-dir", data_dir, "--device", "cpu", "--eval-episodes", 0]
    if way == "train":
        usual += ["--tasks", "reach", "--batch-size", 8, "--save-every", 3]
        module, last, more = train, ".", lambda folder: ["--resume"] * (folder / resume.FILE).exists()
    else:
        usual += ["--sequence", "reach,drawer-open"]
        module, last, more = adapt, "2-drawer-open", lambda _: []
    real, left = files.write, -1

    def write(path, content):
        nonlocal left
        left -= 1
        if left == 0:
            (path.parent / f"{files.TEMPORARY}x").write_bytes(b"half")
            raise Killed
        real(path, content)

    monkeypatch.setattr(files, "write", write)
    monkeypatch.setattr(figures, "training", lambda *_: [])  # they take longer than all the rest
    monkeypatch.setattr(train, "loss_by_step", lambda *_: [])
    monkeypatch.setattr(figures, "loss_by_step", lambda *_: "")
    command(module, *usual, "--out", tmp_path / "whole")
    for number in itertools.count(1):
        run, left = tmp_path / str(number), number
        try:
            command(module, *usual, "--out", run)
            break
        except Killed:
            command(module, *usual, "--out", run, *more(run))
        assert same_weights(run / last, tmp_path / "whole" / last), number
        assert not list(run.rglob(f"{files.TEMPORARY}*")), number
    assert number > 5  # config.json, and two checkpoints of two files each


# ------------------------------------------------------------------------------------------------ not finite


def small_policy():
    torch.manual_seed(0)
    return runs.build_policy("fdp", {
        "observation": {"state": (3,)}, "action_low": (-1.0, -1.0), "action_high": (1.0, 1.0), "tasks": ["a"],
        "components": 2, "channels": (8, 16),
    })  # fmt: skip


def batch(seed: int) -> tuple:
    random = torch.Generator().manual_seed(seed)
    actions, noise = torch.rand(4, 8, 2, generator=random), torch.randn(4, 8, 2, generator=random)
    return (
        {"state": torch.randn(4, 3, generator=random)},
        torch.zeros(4, dtype=torch.long),
        actions,
        torch.arange(4),
        noise,
    )


def test_a_step_that_is_not_finite_is_as_if_it_had_not_been():
    """Bit for bit, Adam's counts and moments included, against a learner that never saw the bad batches."""
    clean, troubled = small_policy(), small_policy()
    learners = train.Learner(clean), train.Learner(troubled)
    for i in range(6):
        for bad in (float("nan"), float("inf")):
            *rest, noise = batch(100 + i)
            losses, _ = learners[1].step(troubled.loss, (*rest, noise * bad), 1e-3, 0.5)
            assert losses == {"loss": 0, "skipped": 1}
        for learner in learners:
            losses, _ = learner.step(learner.policy.loss, batch(i), 1e-3, 0.5)
            assert losses["loss"] > 0 and losses["skipped"] == 0
    for name, value in clean.state_dict().items():
        assert torch.equal(value, troubled.state_dict()[name]), name
    assert all(torch.equal(a, b) for a, b in zip(learners[0].average, learners[1].average, strict=True))
    assert learners[1].skipped_in_a_row == 0


def test_one_skipped_step_among_many_does_not_spoil_the_picture(tiny, tmp_path, monkeypatch):
    """It is in one line of the log, and in no other."""
    real, calls = runs.load_variant("fdp").Policy.loss, []

    def loss(*arguments):
        calls.append(0)
        errors, terms = real(*arguments)
        return errors * (float("inf") if len(calls) == 19 else 1.0), terms

    monkeypatch.setattr(runs.load_variant("fdp").Policy, "loss", loss)
    made = command(train, *tiny, "--out", tmp_path / "run", "--eval-episodes", 0, "--log-every", 5, "--steps", 20)
    lines = train.read_log(tmp_path / "run" / "log.jsonl")
    assert ["skipped" in line for line in lines] == [False, False, False, True]
    assert str(tmp_path / "run" / "figures" / "training.png") in made["wrote"]


def test_a_skipped_step_is_counted_told_and_left_out_of_the_means(tiny, tmp_path, monkeypatch, capsys):
    real, calls, seen = runs.load_variant("fdp").Policy.loss, [], []

    def loss(*arguments):
        calls.append(0)
        errors, terms = real(*arguments)
        if 1 < len(calls) <= 11:
            seen.append(errors.mean().item())
        return errors * (float("inf") if len(calls) in (4, 7) else 1.0), terms

    monkeypatch.setattr(runs.load_variant("fdp").Policy, "loss", loss)
    command(train, *tiny, "--out", tmp_path / "run", "--eval-episodes", 0, "--steps", 10)
    (line,) = train.read_log(tmp_path / "run" / "log.jsonl")
    good = [x for i, x in enumerate(seen) if i + 2 not in (4, 7)]
    assert line["skipped"] == 2 and line["loss"] == pytest.approx(sum(good) / 8, rel=1e-6)
    assert "warning: 2 steps were skipped" in capsys.readouterr().err


def test_a_line_of_the_log_is_json(tmp_path):
    """A norm that has none is left out; and a run that goes on counts what was skipped before."""
    for skipped in (1, 2):
        log = Log(tmp_path, torch.device("cpu"), start=skipped - 1)
        for loss, bad in ((2.0, 0.0), (0.0, 1.0)):
            log.add({"loss": torch.tensor(loss), "skipped": torch.tensor(bad)})
        log.write(skipped, lr=0.1, grad_norm=math.nan)
        log.close()
        assert log.skipped == skipped
    lines = [json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [set(line) for line in lines] == [{"step", "loss", "lr", "skipped", "seconds"}] * 2
    assert train.read_log(tmp_path / "log.jsonl") == lines


@pytest.mark.parametrize("flags", [["--lr", 1e9, "--save-every", 1], ["--lr", 1e30, "--steps", 3]])
def test_weights_that_are_not_finite_are_never_saved(tiny, tmp_path, flags):
    run = tmp_path / "run"
    try:
        command(train, *tiny, "--out", run, "--eval-episodes", 0, *flags)
        assert (run / "model.safetensors").exists() and (run / resume.FILE).exists()
    except BadInput as error:
        assert "lower --lr" in str(error)
    for file in run.glob("*.safetensors"):
        assert all(x.isfinite().all() for x in load_file(file).values())


# ------------------------------------------------------------------------------------------------ a full disk


def test_a_full_disk_is_one_line_and_keeps_the_last_checkpoint(tiny, tiny_run, tmp_path, monkeypatch, capsys):
    """A limit on the size of files fails as a full disk does: in the middle of writing one."""
    run, real, saved = tmp_path / "run", resume.save, []
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def save(*arguments, **more):
        saved.append(0)
        if len(saved) == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
        return real(*arguments, **more)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as left:
        patch.setattr(resume, "save", save)
        try:
            cli.run(lambda: command(train, *tiny, "--out", run, "--eval-episodes", 0))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    interrupt._begun = False
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert left.value.code == 2 and last.startswith("error: the disk is full") and "still there" in last
    assert tensors.header(run / resume.FILE)["step"] == "10" and runs.training_record(run)["steps"] == 10
    assert not [path for path in run.rglob("*") if path.name.startswith(".writing-") or path.suffix == ".tmp"]
    command(train, *tiny, "--out", run, "--resume", "--eval-episodes", 0)
    assert same_weights(run, tiny_run)
