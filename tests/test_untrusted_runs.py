"""A run folder is data: nothing in it is executed, no name in it leads elsewhere, no number in it is taken on trust."""

import json
import os
import pickle
import random
import shutil
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from conftest import command

import adapt
import evaluate
import train
from adaptation import refusals
from adaptation.memory import read_memory
from adaptation.stages import evaluated
from envs import tasks
from plumbing import cli, configs, machine, opengl, resume, runs, tensors
from plumbing.cli import BadInput
from plumbing.log import read_log

CPU = torch.device("cpu")


class Payload:
    """Pickled, it makes a file as soon as anybody unpickles it."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def run(tiny_run, tmp_path) -> Path:
    """A copy, to be damaged."""
    return shutil.copytree(tiny_run, tmp_path / "run")


def change(run: Path, **fields) -> None:
    """Other fields in config.json; `policy_config__tasks` is one inside policy_config."""
    config = json.loads((run / "config.json").read_text())
    for name, value in fields.items():
        outer, _, inner = name.partition("__")
        (config[outer] if inner else config)[inner or outer] = value
    (run / "config.json").write_text(json.dumps(config))


def attack(run: Path, **fields) -> None:
    """`change`, by somebody who makes the weights' file say that they belong to it."""
    change(run, **fields)
    state, about = tensors.load(run / "model.safetensors")
    tensors.save(run / "model.safetensors", state, about | {"config": runs.settings_checksum(run)})


# ------------------------------------------------------------------------------------------------ nothing is executed


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "resume.safetensors", "replay.safetensors",
                                  "log.jsonl", "evaluation.json"])  # fmt: skip
def test_a_pickle_in_the_place_of_any_file_is_never_opened(run, tiny, tmp_path, monkeypatch, name):
    mark = tmp_path / "executed"
    pickle.loads(pickle.dumps(Payload(mark)))
    assert mark.exists()  # it would work
    mark.rmdir()
    torch.save({"step": Payload(mark)}, run / name)
    (run / "raw").write_bytes(pickle.dumps(Payload(mark)))
    monkeypatch.setattr(evaluate, "evaluate", lambda *_, **__: (_ for _ in ()).throw(BadInput("played again")))
    again = ["--out", run, "--resume", "--eval-episodes", 0]
    reads = {
        "config.json": [lambda: runs.load_policy(run), lambda: runs.training_record(run)],
        "model.safetensors": [lambda: runs.load_policy(run), lambda: runs.training_record(run)],
        resume.FILE: [lambda: tensors.load(run / name), lambda: command(train, *tiny, *again)],
        "replay.safetensors": [lambda: read_memory(run, {"goal": (64, 3)})],
        "log.jsonl": [lambda: read_log(run / name)],
        "evaluation.json": [lambda: command(evaluate, "--run", run, "--episodes", 1, "--out", run / name),
                            lambda: evaluated(run, run / name, 1, 0, CPU)],
    }  # fmt: skip
    for content in ((run / name).read_bytes(), (run / "raw").read_bytes()):
        (run / name).write_bytes(content)
        for read in reads[name]:
            try:
                read()
            except BadInput as error:
                assert "\n" not in str(error)
            assert not mark.exists()


def test_a_module_that_only_a_file_names_is_not_imported(run, tmp_path, monkeypatch):
    (tmp_path / "payload_module.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'executed')!r})\n")
    monkeypatch.chdir(tmp_path)
    attack(run, policy_config__tasks=["reach", "payload_module:Evil-v0"])
    # The numbers fit: only the name is another.
    for script, flags in ((evaluate, ["--episodes", 1]), (adapt, ["--tasks", "drawer-open", "--steps", 1])):
        with pytest.raises(BadInput, match="module 'payload_module' is only imported when .* --tasks"):
            command(script, "--run", run, *flags)
    assert not (tmp_path / "executed").exists() and "payload_module" not in sys.modules
    with pytest.raises(BadInput, match="no environment"):  # named by the user: imported, and it has no such environment
        command(evaluate, "--run", run, "--episodes", 1, "--tasks", "payload_module:Evil-v0")
    assert (tmp_path / "executed").exists()


def test_a_seed_that_is_none_is_refused_before_a_run_is_made_of_it(run):
    change(run, train__seed="one")
    with pytest.raises(BadInput, match="'seed' in 'train' must be a whole number"):
        runs.read_config(run)


@pytest.mark.parametrize("kind,name", [(torch.float8_e4m3fn, "F8_E4M3"), (torch.complex64, "C64")])
def test_numbers_that_no_run_here_has_are_refused_unread(tmp_path, monkeypatch, kind, name):
    """Of eight bits they take twelve times their room, and complex ones would not be asked whether they are finite."""
    tensors.save(tmp_path / "x.safetensors", {"x": torch.tensor([1.0, float("nan")]).to(kind)}, {})
    monkeypatch.setattr(tensors, "checksum", lambda _: pytest.fail("read"))
    with pytest.raises(BadInput, match=f"has numbers of type {name}, which no run here has"):
        tensors.load(tmp_path / "x.safetensors")


def test_a_file_of_zeros_that_takes_no_room_is_not_read(tmp_path, monkeypatch):
    tensors.save(tmp_path / "x.safetensors", {"x": torch.zeros(1000)}, {})
    monkeypatch.setattr(machine, "memory", lambda: 15_999)
    with pytest.raises(BadInput, match="needs 16,000 bytes of memory, more than the 15,999 of this machine"):
        tensors.load(tmp_path / "x.safetensors")


def test_a_file_in_the_current_folder_is_not_imported_by_the_way(run, tmp_path, monkeypatch):
    """Neither where OpenGL is looked for, nor by the name of an environment whose package is not installed."""
    mark = tmp_path / "executed"
    for name in ("mujoco", "Box2D"):
        (tmp_path / f"{name}.py").write_text(f"open({str(mark)!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    opengl._works.__wrapped__("osmesa")
    with pytest.raises(BadInput, match="no environment 'LunarLanderContinuous-v3'"):
        tasks.make("LunarLanderContinuous-v3")
    assert not mark.exists()


@pytest.mark.parametrize("changed", [{"tasks": ["push", "reach"]}, {"target": "noise"}, {"diffusion_steps": 10}])
def test_weights_beside_another_config_are_refused(run, changed):
    """They would fit, and act otherwise."""
    change(run, policy_config__executed=2)  # this one may be changed by hand
    assert runs.load_policy(run).config.executed == 2
    change(run, **{f"policy_config__{name}": value for name, value in changed.items()})
    with pytest.raises(BadInput, match="model.safetensors was saved with another config.json than the one beside it"):
        runs.load_policy(run)
    state, about = tensors.load(run / "model.safetensors")
    del about["config"]  # an older run's
    tensors.save(run / "model.safetensors", state, about)
    assert runs.load_policy(run)


def test_copies_are_not_made_for_a_policy_that_does_not_see_all_of_the_state(run):
    """Its demonstrations would have no objects to move: none by default, and one line where they are asked for."""
    observation = json.loads((run / "config.json").read_text())["policy_config"]["observation"]
    change(run, policy_config__observation={part: x for part, x in observation.items() if part != "objects"})
    config = adapt.AdaptConfig(run=str(run), tasks="drawer-open", demos_per_task=1)
    refusals.check(config)
    assert config.copies == 0
    with pytest.raises(BadInput, match="--copies: which numbers"):
        refusals.check(adapt.AdaptConfig(run=str(run), tasks="drawer-open", demos_per_task=1, copies=2))


@pytest.mark.parametrize("policy", ["../../evil", "os", "/tmp/evil", "fdp.Policy", ""])
def test_a_policy_is_a_file_of_ours(run, policy):
    change(run, policy=policy)
    with pytest.raises(BadInput, match="no policy"):
        runs.load_policy(run)


@pytest.mark.parametrize("dataset", ["../../elsewhere/{task}", "/etc/{task}", "fdp/{task}/../../../x"])
@pytest.mark.parametrize("where", ["train__dataset_id", "datasets"])
def test_demonstrations_stay_in_the_data_folder(run, data_dir, dataset, where):
    change(run, **{where: dataset if where == "train__dataset_id" else {"reach": dataset, "push": dataset}})
    with pytest.raises(BadInput, match="dataset id must be plain words"):
        command(adapt, "--run", run, "--tasks", "drawer-open", "--retain", "replay", "--steps", 2, "--eval-episodes", 0,
                "--demos-per-task", 2, "--data-dir", data_dir, "--out", run.parent / "new")  # fmt: skip


# ------------------------------------------------------------------------------------------------ nothing leads away


RESULTS = ("log.jsonl", "evaluation.json", "model.safetensors", "resume.safetensors", "config.json",
           "figures/training.png", "figures/router-usage.png", "figures/loss-by-step.png",
           "figures/evaluation-success.png", "figures/evaluation-router.png")  # fmt: skip


@pytest.mark.parametrize("where", ["precious", "nothing"])
def test_a_link_in_a_run_is_never_written_through(run, tiny, tmp_path, monkeypatch, where):
    """Wherever results are written, and under whatever name first: what a link leads to, or would make, is left."""
    result, shown = evaluate.evaluate(runs.load_policy(run), ["reach"], 1)
    monkeypatch.setattr(evaluate, "evaluate", lambda *_, **__: (result, shown))
    for script, *flags in ((train, *tiny, "--out", run, "--resume"), (evaluate, "--run", run),
                           (train, *tiny, "--out", run, "--overwrite", "--steps", 1)):  # fmt: skip
        kept = {}
        for number, name in enumerate([*RESULTS, *(f"{name}.tmp" for name in RESULTS)]):
            target = tmp_path / f"{where}-{number}"
            kept[target] = (run / name).read_bytes() if (run / name).exists() else b'{"mean_success": 1}'
            if where == "precious":
                target.write_bytes(kept[target])
            elif (run / name).exists():  # this one is read
                continue
            (run / name).unlink(missing_ok=True)
            (run / name).symlink_to(target)
        command(script, *flags, *["--eval-episodes", 0] * (script is train))
        for target, content in kept.items():
            assert target.read_bytes() == content if where == "precious" else not target.exists(), target
        for path in [path for path in run.rglob("*") if path.is_symlink()]:  # not written: as it was
            content = path.read_bytes() if path.exists() else None
            path.unlink()
            if content and path.suffix != ".tmp":
                path.write_bytes(content)


@pytest.mark.parametrize("name", ["figures", "videos", "replaced"])
@pytest.mark.parametrize("what", ["link", "file"])
def test_a_folder_of_results_is_a_folder(run, tiny, tmp_path, monkeypatch, name, what):
    (tmp_path / "precious").mkdir()
    shutil.rmtree(run / name, ignore_errors=True)
    (run / name).symlink_to(tmp_path / "precious") if what == "link" else (run / name).touch()
    monkeypatch.setattr(evaluate, "evaluate", lambda *_, **__: pytest.fail("played"))
    asked = [(train, *tiny, "--out", run, "--resume"), (train, *tiny, "--out", run, "--overwrite")]
    asked += [(evaluate, "--run", run)] * (name != "replaced")  # what lies there is no business of evaluate.py
    for script, *flags in asked:
        with pytest.raises(BadInput, match=f"{name} is {'a link' if what == 'link' else 'no folder'}: remove it"):
            command(script, *flags)
    assert not list((tmp_path / "precious").iterdir()) and (run / "model.safetensors").exists()


def test_other_things_that_end_in_json_do_not_stop_a_run_from_being_replaced(run, tiny):
    os.mkfifo(run / "pipe.json")
    (run / "folder.json").mkdir()
    command(train, *tiny, "--out", run, "--overwrite", "--steps", 1, "--eval-episodes", 0)
    assert (run / "folder.json").is_dir()


def test_an_action_range_beyond_the_environments_is_refused(run, monkeypatch):
    """Its actions would be clipped, and mean something else than what was learned."""
    monkeypatch.setattr(evaluate, "Roller", lambda *_: pytest.fail("played"))
    attack(run, policy_config__action_high=[1, 1, 1, 9])
    for script, flags in ((evaluate, ["--episodes", 1]), (adapt, ["--tasks", "drawer-open", "--steps", 1])):
        with pytest.raises(BadInput, match="acts from -1.0 to 9, and task '.*' takes -1.0 to 1.0"):
            command(script, "--run", run, *flags)


def test_a_step_of_thousands_of_digits_is_no_traceback(run, capsys):
    state, header = tensors.load(run / "model.safetensors")
    tensors.save(run / "model.safetensors", state, {**header, "step": "9" * 5000})
    assert runs.load_policy(run).header["step"] == "9" * 5000 and "trained for" not in capsys.readouterr().err


@pytest.mark.parametrize("resumed,said", [
    (None, False), ([], False), ([{}], False), ([{"fork_checksum": []}], True), ([{"fork_checksum": {"a": 1}}], True),
])  # fmt: skip
def test_what_a_stranger_says_of_a_forks_checksum_is_no_traceback(resumed, said, run):
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"resumed": resumed}))
    assert runs.load_policy(run).config.tasks == ["reach", "push"]
    assert runs.edited(runs.read_config(run)) == said


@pytest.mark.parametrize("line", ['{"step": 5}', '{"step": 5, "loss": "x", "lr": 1, "seconds": 1}', "", "[]", "5",
                                  '{"step": 5, "loss": 1, "lr": 1, "seconds": 1, "router": 5}',
                                  '{"step": 5, "loss": 1, "lr": 1, "seconds": 1, "router": {"a": {"usage": [1]}}}',
                                  '{"step": 5, "loss": 1, "lr": 1, "seconds": 1, "router": '
                                  '{"a": {"usage": [], "entropy": 1}}}',
                                  '{"step": 5, "loss": 1, "lr": 1, "seconds": 1, "router": '
                                  '{"a": {"usage": [Infinity], "entropy": 1}}}',
                                  '{"step": 5, "loss": 1, "lr": 1, "seconds": 1, "router": '
                                  '{"a": {"usage": [1e308, -1e308], "entropy": 1}}}',
                                  '{"step": 5, "loss": 1e308, "lr": 1, "seconds": 1}',
                                  '{"step": 5, "loss": 1' + 400 * "0" + ', "lr": 1, "seconds": 1}',
                                  json.dumps({f"term {i}": 1 for i in range(3000)} | {"step": 5, "loss": 1, "lr": 1}),
                                  ])  # fmt: skip
def test_a_damaged_log_costs_its_pictures_and_nothing_else(run, tiny, line):
    (run / "log.jsonl").write_text(f"{line}\n")
    assert read_log(run / "log.jsonl") == []
    command(train, *tiny, "--out", run, "--resume", "--eval-episodes", 0)  # of a run that is finished
    good = '{"step": 5, "loss": 1.0, "lr": 1, "seconds": 1, "extra$\\\\frac{$": NaN}'
    (run / "log.jsonl").write_text(f"{good}\n{line}\n{good}\n")
    assert len(read_log(run / "log.jsonl")) == 2


def test_lines_of_a_log_whose_routers_differ_are_not_one_log(tmp_path):
    def line(**usage) -> str:
        router = {task: {"usage": weights, "entropy": 1.0} for task, weights in usage.items()}
        return json.dumps({"step": 5, "loss": 1.0, "lr": 1, "seconds": 1} | ({"router": router} if router else {}))

    for other in (line(a=[1, 0]), line(a=[1], b=[1]), line(b=[1])):
        (tmp_path / "log.jsonl").write_text("\n".join([line(), line(a=[1]), line(), line(a=[2]), other, line()]))
        assert len(read_log(tmp_path / "log.jsonl")) == 5


@pytest.mark.parametrize("part,value", [("step", "5"), ("step", -1), ("step", 2.5), ("step", None), ("step", [5]),
                                        ("step", 10**400), ("seconds", "long"), ("seconds", float("nan")),
                                        ("count", "x")])  # fmt: skip
def test_a_checkpoint_whose_counters_are_none_is_one_line(run, tiny, part, value):
    """Somebody who writes one by hand gets its checksum right."""
    saved, about = tensors.load(run / resume.FILE)
    tensors.save(run / resume.FILE, saved, about | {part: json.dumps(value)})
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    with pytest.raises(BadInput, match=f"{resume.FILE} does not fit this run"):
        command(train, *tiny, "--out", run, "--resume")
    assert before == {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}


def test_an_optimisers_memory_that_is_too_short_is_never_written_into(run, tiny):
    """PyTorch takes it, and a fused optimiser writes beyond its end: the process dies, or worse."""
    good, about = tensors.load(run / resume.FILE)
    one = torch.ones(1)

    def memory(kind: str, value: torch.Tensor) -> dict:
        return good | {name: value for name in good if name.startswith("optimizer.") and name.endswith(f".{kind}")}

    for bad in (memory("exp_avg", one), memory("exp_avg_sq", one), memory("step", one), memory("step", -one[0]),
                good | {name: one for name in good if name.startswith("average.")}, good | {"rng": one},
                good | {"skipped_in_a_row": torch.zeros(5)}, good | {"sums.loss": torch.zeros(3)},
                {name: x for name, x in good.items() if name != "optimizer.0.exp_avg"}):  # fmt: skip
        tensors.save(run / resume.FILE, {name: x.clone() for name, x in bad.items()}, about)
        with pytest.raises(BadInput, match=f"{resume.FILE} does not fit this run"):
            command(train, *tiny, "--out", run, "--resume")


def test_a_page_of_disk_that_holds_gigabytes_of_zeros_is_not_read(run, monkeypatch):
    path = run / "model.safetensors"
    size = 200_000_000
    about = json.dumps({"x": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    path.write_bytes(len(about).to_bytes(8, "little") + about)
    os.truncate(path, 8 + len(about) + size)  # sparse
    monkeypatch.setattr(tensors, "load", lambda _: pytest.fail("it was read"))
    with pytest.raises(BadInput, match="it asks for other tensors than model.safetensors has"):
        runs.load_policy(run)


@pytest.mark.parametrize("kind", [torch.float64, torch.int32, torch.bool])
def test_what_replay_keeps_is_numbers_of_its_own_kind(run, kind):
    tensors.save(run / "replay.safetensors", {"reach/goal": torch.zeros(64, 3, dtype=kind)})
    with pytest.raises(BadInput, match="replay.safetensors is damaged: reach/goal is missing, or of another shape"):
        read_memory(run, {"goal": (64, 3)})


# ------------------------------------------------------------------------------------------------ limits


BOMBS = {
    "policy_config__diffusion_steps": 10**9, "policy_config__components": 10**6, "train__demos_per_task": 10**9,
    "policy_config__horizon": 10**9, "policy_config__channels": [10**6, 10**6], "policy_config__condition_dim": 10**9,
    "policy_config__kernel": 65,
    "policy_config__observation": {"state": [10**9]}, "policy_config__tasks": [f"t{i}" for i in range(20_000)],
}  # fmt: skip


@pytest.mark.parametrize("field", BOMBS)
def test_a_bomb_is_refused_before_anything_is_built(run, monkeypatch, field):
    change(run, **{field: BOMBS[field]})
    monkeypatch.setattr(runs, "build_policy", lambda *_: pytest.fail("built"))
    with pytest.raises(BadInput, match="config.json is damaged"):
        runs.load_policy(run)


def test_what_is_within_every_limit_and_still_too_large_is_asked_before_it_is_made(run, monkeypatch):
    change(run, policy_config__components=1000, policy_config__channels=[4096, 8192, 16384])
    real, devices = runs.build_policy, []

    def build(*arguments):
        devices.append(torch.get_default_device().type)
        assert devices == ["meta"], "this would take terabytes"
        return real(*arguments)

    monkeypatch.setattr(runs, "build_policy", build)
    with pytest.raises(BadInput, match="other tensors than model.safetensors has"):
        runs.load_policy(run)
    assert devices == ["meta"]


@pytest.mark.parametrize("fields", [
    {"resumed": 3}, {"resumed": [3]}, {"adapted": {"a": 1}}, {"adapted": [{"tasks": 3}]}, {"datasets": ["x"]},
    {"datasets": {"reach": 3}}, {"policy_config__executed": "4"}, {"policy_config__executed": 0},
    {"policy_config__tasks": "reach"}, {"policy_config__tasks": ["reach", "reach"]}, {"policy_config": [1]},
    {"policy_config__observation": [1]}, {"policy_config__observation": {"state": "three"}}, {"train": None},
    {"policy_config__action_high": [1, 1, 1]}, {"policy_config__action_low": [1, 1, 1, 1]}, {"format": "2"},
    {"policy_config__channels": [0]}, {"policy_config__channels": 1}, {"policy_config__stages": 3},
    {"policy_config__ranks": [10**7]}, {"policy_config__ranks": [0, 4]}, {"policy_config__ranks": 3},
    {"policy_config__stages": [[[1, 1], ["reach"]]]}, {"policy_config__stages": [[[0, 1, 2, 3], ["reach"]]]},
    {"policy_config__kernel": True}, {"command": 3}, {"seed": "x"},
    {"policy_config__differences": [["objects", 0.0, "proprioception", 0]]}, {"policy_config__differences": [["a", 1]]},
    {"policy_config__differences": 3}, {"policy_config__differences": None},
])  # fmt: skip
def test_types_are_checked(run, fields):
    change(run, **fields)
    with pytest.raises(BadInput, match="config.json is damaged: '"):
        runs.load_policy(run)


def test_a_task_that_nobody_knows_is_one_line(run):
    attack(run, policy_config__tasks=["reach", "no-such-task"])
    with pytest.raises(BadInput, match="no environment 'no-such-task'"):
        command(evaluate, "--run", run, "--episodes", 1)


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "resume.safetensors", "replay.safetensors", "log.jsonl"]
)
@pytest.mark.parametrize("kind", ["pipe", "folder", "circle", "device", "nested", "binary"])
def test_what_is_no_file_of_its_kind_is_refused_at_once(run, name, kind):
    path = run / name
    path.unlink(missing_ok=True)
    {"pipe": lambda: os.mkfifo(path), "folder": path.mkdir, "circle": lambda: path.symlink_to(path),
     "device": lambda: path.symlink_to("/dev/zero"), "nested": lambda: path.write_text("[" * 100_000),
     "binary": lambda: path.write_bytes(bytes(range(256)))}[kind]()  # fmt: skip
    read = {resume.FILE: lambda: tensors.load(path), "log.jsonl": lambda: read_log(path),
            "replay.safetensors": lambda: read_memory(run, {"goal": (64, 3)})}  # fmt: skip
    if (name, kind) == ("log.jsonl", "nested"):
        return None if read[name]() == [] else pytest.fail("lines out of nothing")
    with pytest.raises(BadInput):
        read.get(name, lambda: runs.load_policy(run))()


# ------------------------------------------------------------------------------------------------ checksums


@pytest.mark.parametrize("name", ["model.safetensors", "resume.safetensors"])
def test_a_flipped_bit_or_a_zeroed_block_is_noticed(run, name):
    path, draw = run / name, random.Random(0)
    content = path.read_bytes()

    def read() -> str:
        return tensors.checksum(tensors.load(path))

    good, refused = read(), 0
    for i in range(24):
        damaged, at = bytearray(content), draw.randrange(len(content))
        if i % 3:
            damaged[at] ^= 1 << draw.randrange(8)
        else:
            damaged[at : at + 512] = bytes(len(damaged[at : at + 512]))
        path.write_bytes(damaged)
        try:
            assert read() == good, at  # padding of a zip file, say
        except BadInput:
            refused += 1
    assert refused > 12


def test_weights_saved_elsewhere_load_with_one_warning(run, capsys):
    content = safetensors.torch.load_file(run / "model.safetensors")
    safetensors.torch.save_file(content, run / "model.safetensors", {"step": "30", "seconds": "1.0"})
    cli.say_once.cache_clear()
    runs.load_policy(run)
    runs.load_policy(run)
    assert capsys.readouterr().err.count("has no checksum") == 1
    safetensors.torch.save_file(content, run / "model.safetensors")
    with pytest.raises(BadInput, match="does not say after how many steps and seconds"):
        runs.training_record(run)


@pytest.mark.parametrize(("path", "tasks", "size"), [
    ("core/mt6", 6, 2.9), ("ml45/base", 45, 2.9), ("mt50/run", 50, 2.9), ("pixels/run", 6, 4.1),
])  # fmt: skip
def test_the_shipped_runs_load_without_a_warning_and_are_as_large_as_said(path, tasks, size, capsys):
    folder = cli.ROOT / "study" / path
    assert len(runs.load_policy(folder).config.tasks) == tasks and capsys.readouterr().err == ""
    assert (folder / "model.safetensors").stat().st_size / 1e6 == pytest.approx(size, abs=0.06)  # README: 3 to 4


def test_weights_that_are_not_finite_are_not_loaded(run):
    content, about = tensors.load(run / "model.safetensors")
    content["encoder.net.0.weight"][0, 0] = float("nan")
    tensors.save(run / "model.safetensors", content, about)
    with pytest.raises(BadInput, match="'encoder.net.0.weight' has numbers that are not finite"):
        runs.load_policy(run)


def test_other_versions_are_told_once(run, capsys):
    change(run, versions={**runs.read_config(run)["versions"], "torch": "1.13.0"})
    cli.say_once.cache_clear()
    for _ in range(2):
        runs.load_policy(run)
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and f"torch 1.13.0 (here {torch.__version__.split('+')[0]}" in told


def test_large_policies_are_known_by_their_config():
    small = runs.read_config(cli.ROOT / "study/core/mt6")["policy_config"]
    assert not configs.large(small)
    assert configs.large(small | {"channels": [128, 256, 512], "kernel": 5}) and configs.large(
        small | {"components": 500}
    )
