"""Whatever a command is given, it does it or refuses it in one line: study/reliability/commands.py tries many more."""

import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from conftest import command
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.internal.conjecture import providers

import adapt
import skills
import train
from plumbing import configs, limits, runs
from plumbing.cli import BadInput
from study.reliability import commands
from study.reliability.commands import Case, survives


@pytest.fixture(scope="module")
def where(tiny, tiny_run, data_dir, tmp_path_factory):
    """The run that is damaged, its demonstrations, its flags, and a skill for it."""
    more = tmp_path_factory.mktemp("skill") / "run"
    command(adapt, "--run", tiny_run, "--tasks", "drawer-open", "--steps", 2, "--demos-per-task", 2, "--eval-episodes",
            0, "--device", "cpu", "--data-dir", data_dir, "--out", more)  # fmt: skip
    return tiny_run, data_dir, [str(word) for word in tiny], more / skills.FILE


def tried(case: Case, where) -> tuple[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        return survives(case, *where, Path(folder) / "home")


@pytest.mark.filterwarnings("ignore")  # of NumPy, about damaged numbers
def test_whatever_is_given_is_done_or_refused_in_one_line(where, tmp_path, monkeypatch):
    """The same 250 cases each time: a test that fails now and then says nothing about a change. (More of them:
    study/reliability/commands.py.)"""
    # Else Hypothesis also tries the constants in our modules: others whenever a line is changed, or a test came before.
    monkeypatch.setattr(providers, "_get_local_constants", providers.Constants)
    monkeypatch.setattr(providers, "CONSTANTS_CACHE", type(providers.CONSTANTS_CACHE)(1024))
    counts, folders = Counter(), [tmp_path / "0"]

    @settings(max_examples=250, derandomize=True, deadline=None, database=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(commands.cases())
    def try_one(case: Case) -> None:
        how, said = survives(case, *where, folders[-1])
        counts[how] += 1
        if how != "refused" or case.damage:  # otherwise nothing has changed there
            folders.append(tmp_path / str(len(folders)))
        assert how != "failed", f"{case}: {said}"

    state = torch.get_rng_state()
    try_one()
    torch.set_rng_state(state)
    assert counts["accepted"] > 25 and counts["refused"] > 100


def test_untouched_commands_are_accepted(where):
    """Or everything above might be refused for a reason of its own."""
    for script in commands.COMMANDS:
        assert tried(Case(script, []), where)[0] == "accepted", script


def test_a_run_does_not_wait_for_itself(where, monkeypatch):
    """Runs and demonstrations both lock their folder."""
    monkeypatch.setattr(commands, "PATIENCE", 5)
    for script in ("train.py --resume", "train.py"):
        how, said = tried(Case(script, ["--data-dir", "run"]), where)
        assert how == "refused" and "demonstrations go elsewhere" in said, (script, said)


def test_what_breaks_the_promise_is_noticed(where, monkeypatch):
    def behave(deed) -> tuple[str, str]:
        with monkeypatch.context() as patch:
            patch.setattr(train, "main", lambda _: deed())
            return tried(Case("train.py", []), where)

    def leave_something():
        Path("left").touch()
        raise BadInput("no")

    def change_something():
        Path("run/config.json").write_text("{}")
        raise BadInput("no")

    def refuse():
        raise BadInput("one line\nand another")

    assert behave(refuse) == ("refused", "error: one line and another")
    assert behave(lambda: 1 / 0)[1].startswith("ZeroDivisionError")
    assert behave(leave_something)[1].endswith("/left") and behave(leave_something)[0] == "failed"
    assert behave(change_something)[1].endswith("/run/config.json")
    assert behave(lambda: exit(1))[0] == "failed"
    monkeypatch.setattr(commands, "PATIENCE", 0.05)
    assert behave(lambda: time.sleep(5))[1] == "no answer in 0.05 seconds"


def test_numbers_beyond_their_limits_are_refused_by_name():
    for name, (least, most) in limits.LIMITS.items():
        config = train.TrainConfig() if hasattr(train.TrainConfig, name) else commands.adapt.AdaptConfig("run")
        for value in (least, most, None):
            setattr(config, name, value)
            limits.check_limits(config)
        configs.check_sizes(most, name, 0)  # or the run could not be read again
        for value in (least - 1, most * 2 + 1, float("nan"), float("inf"), -float("inf")):
            setattr(config, name, value)
            with pytest.raises(BadInput, match=f"--{name.replace('_', '-')} must be at (least|most) .*, got"):
                limits.check_limits(config)


def test_memory_is_asked_for_before_it_is_taken(monkeypatch):
    config = train.TrainConfig(components=20)
    settings = train.policy_settings(config, ["reach"])
    weights = limits.count_weights("fdp", settings)
    assert weights == sum(p.numel() for p in runs.build_policy("fdp", settings).parameters())
    monkeypatch.setattr(limits.os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**30 // 4096}.get)  # 1 GB
    limits.check_memory(settings, 64, torch.device("cpu"), weights)
    limits.check_memory(settings, 10**6, torch.device("cuda"), weights)  # a GPU says so by itself
    for batch_size, count in ((10**4, weights), (64, 10**8)):
        with pytest.raises(BadInput, match=f"20 components, --batch-size {batch_size} .* more than the memory"):
            limits.check_memory(settings, batch_size, torch.device("cpu"), count)
