"""Several processes train what one trains, and end together. Real torchrun agents and gloo; forked, not started anew,
because importing PyTorch again would take most of the time."""

import json
import multiprocessing
import os
import shutil
import signal
import sys
import uuid
from pathlib import Path

import pytest
import torch
from conftest import command
from safetensors.torch import load_file
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import train
from plumbing import cli, figures, interrupt, parallel, resume, runs, tensors
from plumbing.cli import BadInput

fork = multiprocessing.get_context("fork")
pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="PyTorch cannot be used after forking there")


def launch(work, processes: int = 2, restarts: int = 0) -> int:
    """What `torchrun` does, with work() in place of a script. -> the agent's exit code; kills all if they hang."""

    def agent():
        config = LaunchConfig(1, 1, processes, run_id=str(uuid.uuid4()), rdzv_backend="c10d", max_restarts=restarts,
                              rdzv_endpoint="localhost:0", start_method="fork", monitor_interval=0.05)  # fmt: skip
        os.setsid()
        elastic_launch(config, worker)()

    def worker():
        torch.set_num_threads(1)
        interrupt._asked = 0
        try:
            cli.run(lambda: parallel.together(work))
        except SystemExit as left:
            held.append(left)  # and with it all that the work made: see parallel.leave
            raise

    def leave(code):  # the agent of processes that are forked wants to hear that they are done
        raise SystemExit(code)

    held = []

    process = fork.Process(target=agent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "leave", leave)
        process.start()
    process.join(60)
    if hung := process.is_alive():
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
    assert not hung, "a process waits for one that is gone"
    return process.exitcode


def rank() -> int:
    return int(os.environ["RANK"])


def losses(folder) -> list[float]:
    return [line["loss"] for line in train.read_log(folder / "log.jsonl")]


def close(one, other) -> bool:
    """Whether two runs learned the same, up to how sums are rounded."""
    a, b = (load_file(folder / "model.safetensors") for folder in (one, other))
    return set(a) == set(b) and all(torch.allclose(a[name], b[name], rtol=1e-3, atol=1e-4) for name in a)


def learn(variant: str, settings: dict, draws: int = 1) -> dict:
    """A few steps on seven observations (two processes cannot halve them), one with a row that is not a number."""
    torch.manual_seed(0)
    policy = runs.build_policy(variant, {
        "observation": {"state": (3,)}, "action_low": (-1.0, -1.0), "action_high": (1.0, 1.0), "tasks": ["a"],
        "components": 3, "channels": (8, 16), **settings,
    })  # fmt: skip
    learner, loss, said, grads = train.Learner(policy), parallel.share(policy, policy.loss), [], {}
    for step in range(5):
        actions = (torch.rand(7, 8, 2) * 2 - 1).repeat_interleave(draws, 0)
        batch = (
            {"state": torch.randn(7, 3)},
            torch.zeros(len(actions), dtype=torch.long),
            actions,
            *train.draw_noise(policy, actions),
        )
        if step == 0:
            errors, terms = loss(*batch)
            (errors.mean() + sum(term for _, term in terms.values())).backward()
            loss = parallel.exchange(loss)
        if step == 2:
            batch[-1][-1] = torch.nan  # in the last process only
        got, norm = learner.step(loss, batch, 1e-3, 0.5)
        grads = grads or {name: None if p.grad is None else p.grad.clone() for name, p in policy.named_parameters()}
        said.append({name: value.item() for name, value in got.items()} | {"norm": norm.item()})
    return {"said": said, "grads": grads, "average": learner.average, "drawn": torch.rand(3)}


# Variant, settings, rows for each observation. Without balance: a product of means over rows is not the mean over the
# parts.
CASES = [
    ("fdp", {}, 1), ("fdp", {}, 3), ("flow", {}, 1), ("moe", {"top": 1, "balance": 0.0}, 1), ("uniform", {}, 1),
    ("monolithic", {}, 1),
]  # fmt: skip


def test_two_processes_make_the_steps_of_one(tmp_path):
    def work():
        parallel.begin("cpu", 7)
        for variant, *how in CASES:
            torch.save(learn(variant, *how), tmp_path / f"{variant}-{how[-1]}-{rank()}")
        return {}

    assert launch(work) == 0
    for variant, *how in CASES:
        alone = learn(variant, *how)
        pair = [torch.load(tmp_path / f"{variant}-{how[-1]}-{number}") for number in (0, 1)]
        assert torch.equal(pair[0]["drawn"], alone["drawn"]) and torch.equal(pair[1]["drawn"], alone["drawn"])
        assert [step["skipped"] for step in alone["said"]] == [0, 0, 1, 0, 0]
        for both in pair:
            for one, other in zip(alone["said"], both["said"], strict=True):
                other.pop("balance", one.pop("balance", None))
                assert other == pytest.approx(one, rel=1e-4, nan_ok=True), variant
            # Not weights: Adam makes a large step of a gradient that is zero but for rounding.
            for name, grad in alone["grads"].items():
                found = both["grads"][name]
                assert found is grad is None or torch.allclose(found, grad, rtol=1e-4, atol=1e-6), (variant, name)
        assert all(torch.equal(a, b) for a, b in zip(pair[0]["average"], pair[1]["average"], strict=True)), variant


def test_extra_terms_are_weighted_by_rows_and_what_a_loss_draws_moves_nobody_else(tmp_path):
    """Two parts of 3 and 4 rows: a term is (3 a + 4 b) / 7, as errors are; a loss draws other numbers in each part."""

    def work():
        parallel.begin("cpu", 7)
        torch.manual_seed(0)
        policy = torch.nn.Linear(1, 1)
        policy.device = torch.device("cpu")
        drawn = []

        def loss(observation, x):
            drawn.append(torch.rand(3))
            return policy(observation["x"])[:, 0], {"term": (0.5, x.mean())}

        shared, x = parallel.share(policy, loss), torch.arange(7.0)
        for _ in range(2):
            errors, terms = shared({"x": x[:, None]}, x)
            found = parallel.mean({"loss": errors.mean(), "term": terms["term"][1]})
            torch.rand(1)
        torch.save(
            (drawn, {name: value.item() for name, value in found.items()}, torch.rand(3)), tmp_path / f"{rank()}"
        )
        return {}

    assert launch(work) == 0
    torch.manual_seed(0)
    policy = torch.nn.Linear(1, 1)
    expected = policy(torch.arange(7.0)[:, None]).mean().item()
    torch.rand(2)
    (first, found, after), (second, also_found, also_after) = (torch.load(tmp_path / name) for name in "01")
    assert found == also_found == pytest.approx({"loss": expected, "term": 3.0})
    assert len({tuple(x.tolist()) for x in [*first, *second]}) == 4
    assert torch.equal(after, also_after) and torch.equal(after, torch.rand(3))


def test_a_signal_to_one_stops_all_and_another_number_goes_on(tiny, tiny_run, tmp_path, monkeypatch, capfd):
    run, real, calls = tmp_path / "run", train.Learner.step, []

    def step(*arguments):
        calls.append(0)
        if len(calls) == 17 and rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(train.Learner, "step", step)
        patch.setattr(sys, "argv", ["train.py", "--tasks", "reach,push"])
        assert launch(lambda: command(train, *tiny, "--out", run, "--eval-episodes", 0)) == 1
    said = capfd.readouterr()
    assert said.err.count("saved after step 17; go on with: torchrun --nproc-per-node 2 train.py") == 1
    assert "exitcode  : 143" in said.err and said.err.count("interrupted: finishing") <= 1 and said.out == ""
    assert tensors.header(run / resume.FILE)["step"] == "17"
    assert runs.read_config(run)["processes"] == 2

    command(train, *tiny, "--out", run, "--resume", "--eval-episodes", 0)  # one process
    assert close(run, tiny_run) and losses(run) == pytest.approx(losses(tiny_run), rel=1e-4)


def test_three_go_on_where_one_stopped_and_only_the_first_writes(tiny, tiny_run, tmp_path, monkeypatch, capfd):
    run, real = tmp_path / "run", train.Learner.step
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train.Learner, "step", _stopping(real, 14))
        command(train, *tiny, "--out", run, "--eval-episodes", 0)
    assert tensors.header(run / resume.FILE)["step"] == "10"
    capfd.readouterr()
    drawing = figures.training
    monkeypatch.setattr(figures, "training", lambda *a: print("drawn", file=sys.stderr) or drawing(*a))
    assert launch(lambda: command(train, *tiny, "--out", run, "--resume", "--eval-episodes", 0), processes=3) == 0
    said = capfd.readouterr()
    assert said.err.count("drawn") == 1
    assert len(said.out.splitlines()) == 1 and json.loads(said.out)["run"] == str(run)
    assert said.err.count("parameters, 4 components") == 1 and "Traceback" not in said.err
    assert close(run, tiny_run) and losses(run) == pytest.approx(losses(tiny_run), rel=1e-4)
    assert len((run / "log.jsonl").read_text().splitlines()) == 3


def test_a_last_checkpoint_that_lacks_its_weights_is_saved_by_all_or_none(tiny, tiny_run, tmp_path, monkeypatch):
    """The second looks when the first has saved them already, or on a machine where there is no such folder."""
    run, real = tmp_path / "run", resume.behind
    shutil.copytree(tiny_run, run)
    (run / "model.safetensors").unlink()
    monkeypatch.setattr(resume, "behind", lambda *which: rank() == 0 and real(*which))
    assert launch(lambda: command(train, *tiny, "--out", run, "--resume", "--eval-episodes", 0)) == 0
    assert close(run, tiny_run)


def _stopping(real, after: int):
    calls = []

    def step(*arguments):
        calls.append(0)
        if len(calls) > after:
            raise KeyboardInterrupt
        return real(*arguments)

    return step


def dying(real, after: int, who: int, starts: tuple[str, ...]):
    """Learner.step, in whose n-th call one process is killed, the first times that torchrun has started it."""
    calls = []

    def step(*arguments):
        calls.append(0)
        if len(calls) == after and rank() == who and os.environ["TORCHELASTIC_RESTART_COUNT"] in starts:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)

    return step


def test_a_dead_process_ends_all_with_a_line(tiny, tmp_path, monkeypatch, capfd):
    with monkeypatch.context() as patch:
        patch.setattr(train.Learner, "step", dying(train.Learner.step, 14, 1, ("0",)))
        assert launch(lambda: command(train, *tiny, "--out", tmp_path / "run", "--eval-episodes", 0)) == 1
    said = capfd.readouterr().err
    # Whichever comes first: that the other one is gone, or torchrun's signal because of it.
    assert said.count(f"error: {parallel.LOST}\n") == 1 or "\ninterrupted\n" in said
    assert tensors.header(tmp_path / "run" / resume.FILE)["step"] == "10"


@pytest.mark.parametrize("who", [0, 1])
def test_torchrun_starts_again_from_the_last_checkpoint(tiny, tiny_run, tmp_path, monkeypatch, who):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:  # the first time before any checkpoint
        starts = ("0", "1") if who else ("0",)
        patch.setattr(train.Learner, "step", dying(train.Learner.step, 4 if who else 14, who, starts))
        flags = [*tiny, "--out", run, "--eval-episodes", 0, "--overwrite"]
        assert launch(lambda: command(train, *flags), restarts=2) == 0
    assert close(run, tiny_run) and losses(run) == pytest.approx(losses(tiny_run), rel=1e-4)
    assert [again["step"] for again in runs.read_config(run).get("resumed", [])] == ([] if who else [10])


def test_bad_input_is_said_once(tiny, tmp_path, monkeypatch, capfd):
    def refuse(flags):
        assert launch(lambda: command(train, *tiny, "--out", tmp_path / "run", *flags)) == 1
        said = capfd.readouterr().err
        assert "exitcode  : 2" in said
        return [line for line in said.splitlines() if line.startswith("error: ")]

    assert refuse(["--batch-size", 1]) == ["error: --batch-size must be at least 2, one for each process, got 1"]  # all
    (line,) = refuse(["--resume"])  # the first one alone looks at the folder
    assert "no run in" in line
    real = resume.try_once

    def try_once(*arguments):
        if rank() == 1:
            raise BadInput("--batch-size 16 does not fit")
        return real(*arguments)

    monkeypatch.setattr(resume, "try_once", try_once)
    lines = refuse([])  # one that is not the first
    assert lines[0] == "error: --batch-size 16 does not fit" and lines[1:] in ([], [f"error: {parallel.LOST}"])


def test_a_start_again_has_to_be_known_from_another_training(monkeypatch, tmp_path):
    """By its id; where torchrun was given none, the next one without an id would replace this one's finished run."""
    for name, value in {"RUN_ID": "none", "MAX_RESTARTS": "1", "RESTART_COUNT": "0"}.items():
        monkeypatch.setenv(f"TORCHELASTIC_{name}", value)
    monkeypatch.setenv("WORLD_SIZE", "1")
    config = train.TrainConfig(tasks="push", steps=2, out=str(tmp_path / "run"))
    with pytest.raises(BadInput, match="--max-restarts on several machines needs --rdzv-id with a name"):
        resume.run_folder(config, None)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "mine")
    assert resume.run_folder(config, None) == (tmp_path / "run", False)


def test_several_machines_cannot_start_again_with_the_store_of_dead_processes(monkeypatch):
    for name, value in {"RUN_ID": "x", "USE_AGENT_STORE": "True", "MAX_RESTARTS": "1"}.items():
        monkeypatch.setenv(f"TORCHELASTIC_{name}", value)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    with pytest.raises(BadInput, match="needs TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 before torchrun"):
        parallel.begin("cpu", 7)


def test_adapting_goes_on_as_if_torchrun_had_not_started_it(monkeypatch):
    """Else the training of a sequence's first task would wait for processes that have left."""
    monkeypatch.setattr(interrupt, "install", lambda: None)
    monkeypatch.setattr(interrupt, "_begun", False)
    for script, rank, processes in (("train.py", "0", 2), ("train.py", "1", 2), ("adapt.py", "0", None)):
        for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": rank, "WORLD_SIZE": "2"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(interrupt, "_program", Path(script))
        interrupt.begin()
        assert parallel.about().get("processes") == processes
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit):
        interrupt.begin()


@pytest.mark.parametrize("script,named", [("train.py", True), ("adapt.py", False), ("study/adapt/one_task.py", False)])
def test_how_to_go_on_names_a_folder_where_the_command_takes_one(monkeypatch, tmp_path, script, named):
    monkeypatch.setattr(sys, "argv", [script, "--seed", "1"])
    assert ("--out" in resume.command(tmp_path)) == named


def test_the_first_training_of_a_sequence_is_never_started_again(monkeypatch, tmp_path):
    """adapt.py is one process, and goes on by itself; torchrun's words are not for the training within it."""
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    (tmp_path / "config.json").write_text('{"policy": "fdp", "policy_config": {}, "train": {}, "format": 2}')
    monkeypatch.setattr(resume.runs, "read_config", lambda _: {"torchrun": None})
    assert not resume._started_again(tmp_path)
