"""Which folder a run gets: nobody's work is overwritten, by two commands at once, by a refused one, or by a crash."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, command
from safetensors.torch import load_file, save

import adapt
import evaluate
import skills
import train
from adaptation import refusals
from plumbing import files, folders, interrupt, runs, tensors
from plumbing.cli import BadInput
from study import grid

SHIPPED = ROOT / "study" / "core" / "mt6"
CLAIM = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from plumbing import folders
from plumbing.cli import BadInput
while time.time() < float(sys.argv[4]):
    pass
try:
    if sys.argv[3] == "named":
        folders.claim(Path(sys.argv[2]))
        print(sys.argv[2], flush=True)
    else:
        print(folders.claim_free(Path(sys.argv[2])), flush=True)
except BadInput as error:
    print("refused:", error, flush=True)
sys.stdin.read()
"""


def race(wanted: Path, how: str, count: int = 4) -> tuple[list[str], list[subprocess.Popen]]:
    """What so many processes get that claim at the same moment; they hold on to it until their stdin is closed."""
    begin = str(time.time() + 1)
    processes = [subprocess.Popen([sys.executable, "-c", CLAIM, ROOT, wanted, how, begin], text=True,
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(count)]  # fmt: skip
    return [process.stdout.readline().strip() for process in processes], processes


def test_processes_that_want_the_same_free_folder_get_one_each(tmp_path):
    got, processes = race(tmp_path / "run", "free")
    try:
        assert sorted(got) == [str(tmp_path / name) for name in ("run", "run-2", "run-3", "run-4")]
    finally:
        for process in processes:
            process.communicate()


def test_one_of_several_gets_the_folder_that_all_name_and_a_killed_one_gives_it_back(tmp_path):
    got, processes = race(tmp_path / "run", "named")
    try:
        assert sorted(word.startswith("refused: another command is at work in") for word in got) == [False] + [True] * 3
        with pytest.raises(BadInput, match="another command is at work"):
            folders.check_free(tmp_path / "run")
        assert folders.free(tmp_path / "run") == tmp_path / "run-2"
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    folders.claim(tmp_path / "run")


@pytest.mark.parametrize("flags", [
    ["--horizon", 0], ["--tasks", "no-such-task"], ["--executed", 9], ["--dataset-id", "other/{task}/x-v0"],
    ["--policy", "none"], ["--lr", "nan"], ["--data-dir", "/dev/null/x"], ["--components", 0], ["--device", "tpu"],
])  # fmt: skip
def test_a_refused_command_leaves_nothing_behind(tiny, tmp_path, monkeypatch, flags):
    monkeypatch.chdir(tmp_path)
    for out in (["--out", tmp_path / "runs" / "deep" / "run"], []):
        with pytest.raises(BadInput):
            command(train, *tiny, *out, *flags)
        assert not list(tmp_path.iterdir())


def test_somebody_elses_folder_with_a_config_of_its_own_is_left_alone(tiny, tmp_path):
    for content, more in (
        ('{"model": "theirs"}', None),
        ('{"policy": 1, "policy_config": 2, "train": 3}', "thesis.txt"),
    ):
        folder = tmp_path / str(more)
        folder.mkdir()
        (folder / "config.json").write_text(content)
        if more:
            (folder / more).write_text("years of work")
        with pytest.raises(BadInput, match="exists: choose another"):
            command(train, *tiny, "--out", folder)
        assert (folder / "config.json").read_text() == content


def test_a_run_whose_weights_were_removed_is_still_a_run(tiny, tiny_run, tmp_path):
    """As in a clone, where weights are not kept with the code: its log and figures are not to be begun upon."""
    run = shutil.copytree(tiny_run, tmp_path / "run")
    for name in ("model.safetensors", "resume.safetensors", "evaluation.json"):
        (run / name).unlink()
    assert folders.taken(run)
    with pytest.raises(BadInput, match="exists: choose another"):
        command(train, *tiny, "--out", run)
    shutil.rmtree(run / "figures")
    (run / "figures").mkdir()
    assert folders.taken(run)  # its log goes on past the first checkpoint
    lines = (run / "log.jsonl").read_text().splitlines(keepends=True)
    (run / "log.jsonl").write_text("".join(lines[:1]))
    assert not folders.taken(run)


def test_overwriting_replaces_no_folder_that_has_a_config_of_its_own(tiny, tmp_path):
    folder = tmp_path / "project"
    (folder / "videos").mkdir(parents=True)
    (folder / "videos" / "wedding.mp4").write_bytes(b"years of life")
    for content in ('{"editor": "vim"}', '{"policy": 1, "policy_config": 2, "train": 3}'):
        (folder / "config.json").write_text(content)
        with pytest.raises(BadInput, match="--overwrite replaces runs, and .*project is none"):
            command(train, *tiny, "--out", folder, "--overwrite")
    assert (folder / "videos" / "wedding.mp4").exists()


def test_a_run_without_weights_is_kept_too_until_the_new_one_has_some(tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    for name in ("model.safetensors", "resume.safetensors"):
        (run / name).unlink()
    folders.set_aside(run, [*runs.FILES, "evaluation.json"])
    assert {"config.json", "log.jsonl", "evaluation.json", "figures"} <= {p.name for p in (run / "replaced").iterdir()}
    folders.drop_replaced(run)
    assert not list(run.iterdir())


def test_deleting_what_was_replaced_may_be_cut_short(tiny_run, tmp_path, monkeypatch):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    for _ in range(2):
        folders.set_aside(run, [*runs.FILES, "evaluation.json"])
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # killed, or a file that is still open elsewhere
            folders.drop_replaced(run)
        assert folders.free(run) == run
        shutil.copytree(tiny_run, run, dirs_exist_ok=True)
    folders.claim(run, overwrite=True)
    assert {path.name for path in run.iterdir()} == {path.name for path in tiny_run.iterdir()}


def test_what_could_not_be_read_again_is_not_written(tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    config = runs.read_config(run)
    with pytest.raises(BadInput, match="'cooling_steps' must be a number up to 1,000,000,000, got 2000000000"):
        runs.begin_run(run, config["train"], config["policy_config"] | {"cooling_steps": 2 * 10**9}, {})
    assert (run / "model.safetensors").exists() and runs.read_config(run) == config


def test_what_a_killed_writer_left_does_not_stand_in_the_way_and_goes(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text('{"policy": "fdp", "policy_config": {}, "train": {}}')
    (run / ".writing-abc").write_bytes(b"half a checkpoint")
    assert folders.free(run) == run
    folders.claim(run)
    assert [path.name for path in run.iterdir()] == ["config.json"]


def test_moving_a_run_aside_may_be_killed_at_any_moment(tiny_run, tmp_path, monkeypatch):
    """Then done again: whatever was moved already is still there."""
    for moves in range(1, 6):
        run, real, done = shutil.copytree(tiny_run, tmp_path / str(moves)), os.replace, []

        def replace(*paths, real=real, done=done, moves=moves):
            done.append(real(*paths))
            if len(done) == moves:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, "replace", replace)
            folders.set_aside(run, [*runs.FILES, "evaluation.json"])
        folders.check_free(run, overwrite=True)
        folders.set_aside(run, [*runs.FILES, "evaluation.json"])
        kept = {path.name for path in (run / folders.REPLACED).iterdir()}
        assert kept == {path.name for path in tiny_run.iterdir()}, moves
        assert [path.name for path in run.iterdir()] == [folders.REPLACED]


@pytest.mark.parametrize("out", ["x" * 300, "circle/run", "a\0b"])
def test_impossible_folders_are_one_line(tiny, tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    os.symlink("circle", "circle")
    with pytest.raises(BadInput, match="cannot use"):
        command(train, *tiny, "--out", out)
    monkeypatch.setattr(evaluate, "evaluate", lambda *_: pytest.fail("played"))
    for script, *flags in (
        (evaluate, "--run", SHIPPED, "--out", f"{out}.json"), (evaluate, "--run", SHIPPED, "--out", f"{out}/a.json"),
        (adapt, "--run", SHIPPED, "--tasks", "push", "--out", out), (adapt, "--run", out, "--tasks", "push"),
        (evaluate, "--run", out), (skills, "--run", out, "--put", "x"), (skills, "--run", SHIPPED, "--put", out),
    ):  # fmt: skip
        with pytest.raises(BadInput):
            command(script, *flags)
    with pytest.raises(BadInput):
        grid.main(grid.GridConfig(out))
    assert os.listdir() == ["circle"]


def test_refused_means_untouched(tiny_run, tmp_path, monkeypatch):
    """Folders too: of results, and of demonstrations that are not ours to make."""
    monkeypatch.chdir(tmp_path)
    header = tensors.load(tiny_run / "model.safetensors")[0]
    shutil.copytree(tiny_run, "run")
    tensors.save(Path("run/model.safetensors"), header)  # and no word on steps and seconds
    with pytest.raises(BadInput, match="after how many steps"):
        command(evaluate, "--run", "run", "--out", "new/a/b.json")
    for script, flags in ((train, ["--tasks", "reach"]), (adapt, ["--run", tiny_run, "--tasks", "drawer-open"])):
        with pytest.raises(BadInput, match="--data-dir .*new does not exist"):
            command(script, *flags, "--dataset-id", "other/{task}", "--data-dir", "new")
    with pytest.raises(BadInput, match="no expert_action"):
        command(train, "--tasks", "toy:Alone-v0", "--data-dir", "new")
    assert os.listdir() == ["run"]


def stop_after_one(numbers, save, agree):
    """As interrupt.steps, where a signal came in the first step."""
    yield 0
    raise interrupt.Interrupted(2, save(1))


def test_overwriting_keeps_the_old_run_until_the_new_one_has_a_checkpoint(tiny, tiny_run, tmp_path, monkeypatch):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    old = load_file(run / "model.safetensors")
    for _ in range(2):  # killed before its first checkpoint, twice
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(train.Learner, "step", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            command(train, *tiny, "--out", run, "--overwrite", "--seed", 1)
        kept = load_file(run / folders.REPLACED / "model.safetensors")
        assert all((kept[name] == x).all() for name, x in old.items())
        assert (run / folders.REPLACED / "evaluation.json").exists()
        runs.load_policy(run / folders.REPLACED)
        with pytest.raises(BadInput, match="the run that it replaces is in .*replaced"):
            runs.load_policy(run)
        with pytest.raises(BadInput, match="exists: choose another"):
            command(train, *tiny, "--out", run)
    with pytest.raises(BadInput, match="no checkpoint yet; give --overwrite instead of --resume to begin it again"):
        command(train, *tiny, "--out", run, "--resume", "--seed", 1)
    for _ in range(2):  # and after one step, twice
        with monkeypatch.context() as patch, pytest.raises(interrupt.Interrupted):
            patch.setattr(train.interrupt, "steps", stop_after_one)
            command(train, *tiny, "--out", run, "--overwrite", "--seed", 1)
        assert runs.training_record(run)["steps"] == 1 and runs.training_record(run / folders.REPLACED)["steps"] == 30
    command(train, *tiny, "--out", run, "--resume", "--seed", 1, "--eval-episodes", 0)
    new = load_file(run / "model.safetensors")
    assert (
        not (run / folders.REPLACED).exists() and not (new["encoder.net.0.weight"] == old["encoder.net.0.weight"]).all()
    )


def test_nothing_is_learned_from_a_run_that_is_still_trained(tiny_run, data_dir, tmp_path):
    """What it had learned from would soon be nowhere."""
    run = shutil.copytree(tiny_run, tmp_path / "run")
    flags = ["--tasks", "drawer-open", "--steps", 1, "--eval-episodes", 0, "--data-dir", data_dir, "--out"]
    handle = os.open(run, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)  # another one that asks
        assert not folders.busy(run)
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert folders.busy(run)
        refusals.check_finished(run)  # another command may only evaluate it
        config = json.loads((run / "config.json").read_text())
        config["train"]["steps"] += 1
        (run / "config.json").write_text(json.dumps(config))
        with pytest.raises(BadInput, match="another command is training the run in .*run: wait until it is done"):
            command(adapt, "--run", run, *flags, tmp_path / "new")
    finally:
        os.close(handle)
    assert not folders.busy(run) and not (tmp_path / "new").exists()


def test_what_is_learned_from_must_not_change_meanwhile(tiny_run, data_dir, tmp_path, monkeypatch):
    """Another command trains it again, or removes it, while demonstrations are collected."""
    run, collect = shutil.copytree(tiny_run, tmp_path / "run"), adapt.demonstrations
    weights, out = run / "model.safetensors", tmp_path / "new"
    flags = ["--tasks", "drawer-open", "--steps", 1, "--eval-episodes", 0, "--demos-per-task", 3]
    flags += ["--data-dir", data_dir]
    for change, said in ((lambda: weights.write_bytes(b"other"), "has other weights than when this began"),
                         (weights.unlink, "cannot read .*model.safetensors: No such file")):  # fmt: skip
        monkeypatch.setattr(adapt, "demonstrations", lambda *a, change=change: (collect(*a), change())[0])
        with pytest.raises(BadInput, match=said):
            command(adapt, "--run", run, *flags, "--out", out)
        assert not (out / "config.json").exists()
        shutil.copy(tiny_run / "model.safetensors", weights)
    monkeypatch.setattr(adapt, "demonstrations", collect)
    command(adapt, "--run", run, *flags, "--out", out)
    assert json.loads((out / "config.json").read_text())["adapted"][-1]["source_weights"] == runs.weights_checksum(run)


def test_a_run_that_another_command_has_finished_meanwhile_is_not_replaced(tiny_run, data_dir, tmp_path, monkeypatch):
    """Two commands name one folder; the first is still collecting demonstrations when the second has learned."""
    out, collect = tmp_path / "new", adapt.demonstrations
    flags = ["--run", tiny_run, "--demos-per-task", 3, "--steps", 2, "--eval-episodes", 0, "--data-dir", data_dir]

    def slowly(tasks, *wanted):
        monkeypatch.setattr(adapt, "demonstrations", collect)
        command(adapt, *flags, "--tasks", other, "--out", out)
        return collect(tasks, *wanted)

    for other, said in (
        ("drawer-open", "drawer-open, not door-open"),
        ("door-open", "another command has been at work"),
    ):
        monkeypatch.setattr(adapt, "demonstrations", slowly)
        shutil.rmtree(out, ignore_errors=True)
        with pytest.raises(BadInput, match=said):
            command(adapt, *flags, "--tasks", "door-open", "--out", out)
        assert runs.load_policy(out).config.tasks[-1] == other


def test_a_quick_look_does_not_replace_the_evaluation_of_many_episodes(tmp_path):
    """Only what has the same settings, begins with the same episode, and has every task, as often or more, does."""

    def result(n=50, tasks=("reach", "push"), first=0, **more) -> dict:
        played = {task: {"n": n, "seeds": [first, first + n - 1]} for task in tasks}
        how = {"sampler": "dpm", "sampling_steps": 5, "executed": 4, "training": {"steps": 30}}
        return {"tasks": played, **how, **more}

    path = tmp_path / "evaluation.json"
    assert folders.evaluation_beside(path, result()) == path
    path.write_text(json.dumps(result()))
    for same in (result(), result(n=60), result(tasks=("reach", "push", "hammer"))):
        assert folders.evaluation_beside(path, same) == path
    later = result(n=1, training={"steps": 40})  # of weights that have trained on: the old ones are gone
    assert folders.evaluation_beside(path, later) == path
    second = tmp_path / "evaluation-2.json"
    for other in (result(n=1), result(tasks=("reach",)), result(sampling_steps=1), result(first=10_000)):
        assert folders.evaluation_beside(path, other) == second
    second.write_text(json.dumps(result(n=1)))
    assert folders.evaluation_beside(path, result(n=2)) == second
    assert folders.evaluation_beside(path, result(first=7)) == tmp_path / "evaluation-3.json"
    for damaged in ("{", "[]", "3", '{"tasks": 3}', '{"tasks": {"reach": {"n": 1}}}'):
        path.write_text(damaged)
        assert folders.evaluation_beside(path, result()) in (path, second)


def test_a_finished_run_is_kept_where_the_one_it_replaced_was_left_beside_it(tiny_run, tmp_path):
    """By a process that was killed before it could delete it: what would be replaced next is the finished one."""
    run = shutil.copytree(tiny_run, tmp_path / "run")
    shutil.copytree(tiny_run, run / "replaced")
    (run / "replaced" / "log.jsonl").write_text("older")
    folders.set_aside(run, list(runs.FILES))
    assert (run / "replaced" / "log.jsonl").read_bytes() == (tiny_run / "log.jsonl").read_bytes()
    assert (run / "replaced" / "model.safetensors").exists() and not (run / "config.json").exists()


def test_what_nobody_replaced_is_not_dropped(tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    (run / "replaced").mkdir()
    (run / "replaced" / "thesis.txt").write_text("mine")
    folders.drop_replaced(run)
    with pytest.raises(BadInput, match="thesis.txt is nothing that a run has left there"):
        folders.claim(run, overwrite=True)
    assert (run / "replaced" / "thesis.txt").exists()
    folders.check_inner(run, ("figures", "videos"))  # where evaluate.py writes: it deletes nothing


def test_demonstrations_are_not_kept_in_the_run_that_they_are_for(tiny, tiny_run, tmp_path):
    (tmp_path / "link").symlink_to("run")
    for data_dir in ("run/data", "run", "x/../run/data", "link/data"):
        with pytest.raises(BadInput, match="--data-dir .* is --out .*, or inside it: demonstrations go elsewhere"):
            command(train, *tiny, "--out", tmp_path / "run", "--data-dir", tmp_path / data_dir)
        with pytest.raises(BadInput, match="--data-dir .* is --out .*, or inside it: demonstrations go elsewhere"):
            command(adapt, "--run", tiny_run, "--tasks", "door-open", "--steps", 2, "--out", tmp_path / "run",
                    "--data-dir", tmp_path / data_dir)  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_a_file_is_written_where_links_lead(tmp_path):
    """link/../b is beside what the link leads to, and not beside the link."""
    for folder in ("far/away", "far/b"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "link").symlink_to("far/away")
    files.write(tmp_path / "link" / ".." / "b" / "c", b"content")
    assert (tmp_path / "far/b/c").read_bytes() == b"content"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="nothing can be made in /proc, by nobody")
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_collected(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr(adapt, "demonstrations", lambda *_: pytest.fail("collected"))
    flags = ["--run", tiny_run, "--tasks", "door-open", "--steps", 2, "--data-dir", tmp_path]
    with pytest.raises(BadInput, match="cannot write to --out /proc/nowhere/x: /proc is "):
        command(adapt, *flags, "--out", "/proc/nowhere/x")


def test_weights_saved_elsewhere_are_refused_before_a_stage_is_learned(tiny_run, data_dir, tmp_path, monkeypatch):
    """An evaluation could not say after how many steps they were saved."""
    learned = ["--demos-per-task", 3, "--eval-episodes", 0, "--data-dir", data_dir, "--out", tmp_path / "new"]
    command(adapt, "--run", tiny_run, "--tasks", "door-open", "--steps", 2, *learned)
    run = shutil.copytree(tiny_run, tmp_path / "run")
    tensors.files.write(run / "model.safetensors", save(load_file(run / "model.safetensors")))
    monkeypatch.setattr(adapt, "demonstrations", lambda *_: pytest.fail("collected"))
    with pytest.raises(BadInput, match="does not say after how many steps"):
        command(adapt, "--run", run, "--tasks", "door-open", "--steps", 2, "--data-dir", tmp_path)
    with pytest.raises(BadInput, match="does not say after how many steps"):
        command(skills, "--run", run, "--put", tmp_path / "new" / "skill.safetensors", "--out", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
