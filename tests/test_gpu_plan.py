"""study/gpu has to work the first time, on a machine that is lent for minutes: here it runs, tiny, without a GPU."""

import json
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT
from safetensors.torch import load_file

from plumbing.cli import BadInput
from study.gpu import section

SOURCE = {"command", "revision", "seed", "hardware", "software", "versions"}  # plumbing.cli.provenance
COMMON = {"section", "tiny", "torch", "section_seconds"} | SOURCE


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """run.sh over a section that goes well, one that cannot write its result, one that is there. -> folder, process."""
    folder = tmp_path_factory.mktemp("gpu")
    (folder / "components.json").mkdir()
    (folder / "mt6-small.json").write_text('{"section": "made before"}')
    flags = ["--tiny", "--device", "cpu", "--out", folder, "--runs", folder / "runs"]
    command = ["bash", ROOT / "study" / "gpu" / "run.sh", "components", "tests", "mt6-small", *flags]
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])  # run.sh calls "python"
    environment = {**os.environ, "PATH": path}
    done = subprocess.run([str(w) for w in command], capture_output=True, text=True, cwd=folder, env=environment)
    return folder, done


def read(folder, name: str) -> dict:
    result = json.loads((folder / f"{name}.json").read_text())
    assert set(result) >= COMMON and result["section"] == name and result["tiny"] is True
    return {key: value for key, value in result.items() if key not in COMMON}


def test_a_failing_section_is_named_and_does_not_stop_the_others(plan):
    folder, done = plan
    assert done.returncode == 1 and done.stderr.rstrip().endswith("failed: components"), done.stderr[-2000:]
    assert not list((folder / "components.json").iterdir())
    assert (folder / "tests.json").is_file()


def test_a_section_with_a_result_is_left_out(plan):
    folder, done = plan
    assert json.loads((folder / "mt6-small.json").read_text()) == {"section": "made before"}
    assert f"mt6-small: {folder}/mt6-small.json is there already" in done.stderr
    assert not (folder / "runs" / "mt6-small").exists()


def test_without_names_all_sections_are_made():
    (names,) = re.findall(r"\|\| names=\((.*)\)", (ROOT / "study" / "gpu" / "run.sh").read_text())
    assert sorted(names.split()) == sorted(section.SECTIONS)


def test_the_tests_for_a_gpu_run(plan):
    result = read(plan[0], "tests")
    assert set(result) == {"passed", "tests"}
    assert result["passed"] == len(result["tests"]) > 5, result["tests"]


def test_what_another_section_has_made_is_not_removed(tmp_path):
    """A tiny one may not take the checkpoints of a real one away, nor any a folder of somebody else's."""
    real, tiny = (section.SectionConfig("mt6-base", tiny=tiny, runs=str(tmp_path)) for tiny in (False, True))
    home = section.fresh(real)
    (home / "step-1000").mkdir()
    with pytest.raises(BadInput, match="not of such a section"):
        section.fresh(tiny)
    assert (home / "step-1000").exists()
    section.fresh(real)  # its own earlier try
    assert not (home / "step-1000").exists()
    (tmp_path / "mt6-small").mkdir()
    with pytest.raises(BadInput, match="not of such a section"):
        section.fresh(section.SectionConfig("mt6-small", runs=str(tmp_path)))


def test_components_beside_one(tmp_path):
    make("components", tmp_path)
    acting, training = read(tmp_path, "components")["rows"]
    for row, what in ((acting, "one action chunk, B = 1"), (training, "training, batch 64")):
        assert row["what"] == f"K = 2 beside K = 1: {what}"
        times = row["milliseconds"]
        assert row["ratio"] == {"K = 2 / K = 1": pytest.approx(times["K = 2"] / times["K = 1"])}


def make(name: str, folder) -> None:
    config = section.SectionConfig(name, tiny=True, device="cpu", out=str(folder), runs=str(folder / "runs"))
    assert section.main(config)["wrote"] == [str(folder / f"{name}.json")]


def test_mt6_from_nothing_finds_the_first_checkpoint_that_reached_the_goal(tmp_path, monkeypatch):
    monkeypatch.setattr(section, "GOALS", {"mt6": (0.0, 2.0)})  # the first of which any checkpoint reaches
    make("mt6-small", tmp_path)
    result = read(tmp_path, "mt6-small")
    checkpoints = result["checkpoints"]
    assert checkpoints[-1]["step"] == 2 and result["training_finished"] is True
    assert set(result["final"]["tasks"]) == {"reach", "push"}
    seeds = [r["seeds"] for r in result["final"]["tasks"].values()]
    assert seeds == [[1_060_000, 1_060_000]] * 2  # block 6, one episode
    assert 0 < checkpoints[-1]["seconds"] <= result["seconds"]["until trained"] <= result["seconds"]["until evaluated"]
    assert set(result["seconds"]) >= {"demonstrations", "training"}  # two steps may take less than what is rounded away
    assert (
        result["seconds_to_goal"] == {"0.0": checkpoints[0]["seconds"], "2.0": None} and checkpoints[0]["success"] >= 0
    )
    run = tmp_path / "runs" / "mt6-small"
    weights, kept = (load_file(run / which / "model.safetensors") for which in ("run", "step-2"))
    assert all((weights[part] == kept[part]).all() for part in weights)
    assert json.loads((run / "run" / "config.json").read_text())["train"]["size"] == "small"
    assert (run / "data").is_dir()  # demonstrations of its own: they are part of what is timed


@pytest.mark.parametrize("name", ["mt6-base", "mt6-pixels"])
def test_other_sections_train_with_flags_of_their_own(tmp_path, monkeypatch, name):
    said = []

    def stop(command: list[str], home, begin: float, seconds: float):
        said.extend(command)
        raise KeyboardInterrupt

    monkeypatch.setattr(section, "watch", stop)
    with pytest.raises(KeyboardInterrupt):
        make(name, tmp_path)
    flags = dict(zip(said[1::2], said[2::2], strict=True))
    assert flags["--size"] == "base" and flags["--tasks"] == "reach,push"
    assert (flags.get("--observation"), flags.get("--image-size")) == (
        ("pixels", "128") if name == "mt6-pixels" else (None, None)
    )


def test_one_demonstration_on_a_base_of_its_own(tmp_path):
    make("one-demonstration", tmp_path)
    result = read(tmp_path, "one-demonstration")
    assert result["base"]["step"] == 2 and result["training_finished"] is True and result["left_out"] == []
    ((task, found),) = result["tasks"].items()
    assert task == "box-close" and found["seeds"] == [1_090_000, 1_090_000] and found["n"] == 1
    run = json.loads((tmp_path / "runs" / "one-demonstration" / task / "config.json").read_text())
    assert run["policy_config"]["tasks"] == ["reach", "push", task] and run["adapted"][-1]["retain"] == "exact"
    assert run["train"]["demo_draw"] == run["train"]["demos_per_task"] == 1


def test_training_that_takes_too_long_is_stopped_and_its_checkpoints_stay(tmp_path, monkeypatch):
    """A train.py that never ends is stood in for. Its time is up as soon as the second checkpoint was noticed."""
    script = """
import pathlib, sys, time
import numpy as np
from safetensors.numpy import save_file
home = pathlib.Path(sys.argv[1])
(home / "run").mkdir()
(home / "run" / "config.json").write_text("{}")
for step in (1, 2):
    save_file({"x": np.full(1, step)}, home / "run" / "new", metadata={"step": str(step)})
    (home / "run" / "new").rename(home / "run" / "model.safetensors")
    while not (home / f"step-{step}").exists():
        time.sleep(0.01)
time.sleep(1000)
"""
    said = []

    def listen(words: str) -> None:
        said.append(json.loads(words)["step"])
        monkeypatch.setattr(section, "TRAINING_ENDS", 0 if said == [1, 2] else 1000)

    monkeypatch.setattr(section, "say", listen)
    monkeypatch.setattr(section, "TRAINING_ENDS", 1000)
    checkpoints, summary = section.watch(["-c", script, str(tmp_path)], tmp_path, section.time.perf_counter(), 480)
    assert summary is None and [checkpoint["step"] for checkpoint in checkpoints] == [1, 2]
    assert [load_file(tmp_path / f"step-{n}" / "model.safetensors")["x"].item() for n in (1, 2)] == [1, 2]


def test_training_without_a_checkpoint_is_a_failure(tmp_path):
    with pytest.raises(RuntimeError, match="no checkpoint, exit code 3"):
        section.watch(["-c", "raise SystemExit(3)"], tmp_path, section.time.perf_counter(), 480)


def test_speed_says_what_failed_and_measures_the_rest(tmp_path, monkeypatch):
    compile = section.torch.compile

    def broken_graphs(loss, **how):
        broken_graphs.calls += 1
        if broken_graphs.calls == 2:
            raise RuntimeError("no such mode")
        return compile(loss, **how)

    broken_graphs.calls = 0
    monkeypatch.setattr(section.torch, "compile", broken_graphs)
    monkeypatch.setattr(section, "acting_rows", lambda *_: 1 / 0)
    make("speed", tmp_path)
    result = read(tmp_path, "speed")
    assert result["peer"] == "no peer"
    training, acting, seeing, compiled = result["rows"]
    assert set(seeing["ratio"]) == {"ours", "the encoder alone", "from the state"}
    assert 0 < seeing["ratio"]["the encoder alone"] < 1
    assert training["LeRobot"] == "no peer" and set(training["ratio"]) == {
        "ours", "ours, as deep as LeRobot's", "one by one",
    }  # fmt: skip
    assert acting == {"what": "acting", "failed": "ZeroDivisionError: division by zero", "LeRobot": "no peer"}
    assert compiled["failed"] == {"compile, CUDA graphs": "RuntimeError: no such mode"}
    assert set(compiled["samples_per_second"]) == set(compiled["seconds_until_ready"]) == {"eager", "compile"}


def test_without_a_gpu_nothing_is_measured(tmp_path):
    with pytest.raises(BadInput, match="here is none; --tiny"):
        section.main(section.SectionConfig("speed", device="cpu", out=str(tmp_path)))
    assert not any(tmp_path.iterdir())
