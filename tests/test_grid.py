"""A table of commands: what is done is left out, a failure stops nothing else, a signal leaves no process behind."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from conftest import ROOT, script

import adapt
import evaluate
import train
from plumbing import interrupt, limits, runs
from plumbing.cli import BadInput, parse
from plumbing.runs import parse_with_own_fields
from study import curve, grid, jobs
from study.adapt import one_task
from study.adapt.one_task import OneTaskConfig
from study.curve import CurveConfig
from study.router.measure import MeasureConfig


@pytest.fixture
def table(tmp_path, monkeypatch):
    """table(step, step, ...) writes one; results and logs are in the temporary folder. Signals as in a command."""
    monkeypatch.setattr(grid, "ROOT", tmp_path)
    monkeypatch.setattr(jobs, "ROOT", tmp_path)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    interrupt.begin()

    def write(*steps) -> str:
        path = tmp_path / "table.py"
        path.write_text(f"TABLE = {list(steps)!r}")
        return str(path)

    yield write
    interrupt._begun = False
    for number, handler in before.items():
        signal.signal(number, handler)


def code(folder: Path, text: str, *arguments: str) -> str:
    """A command that runs these lines of Python in the folder."""
    number = len(list(folder.glob("script-*.py")))
    path = folder / f"script-{number}.py"
    path.write_text(f"import os, pathlib, signal, subprocess, sys, time\nos.chdir({str(folder)!r})\n{text}\n")
    return " ".join(["python", str(path), *arguments])


def alive(pid: int) -> bool:
    """Whether a process is there; one that has ended and is not yet collected is not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout[:1] not in "Z"


def until(condition) -> bool:
    end = time.monotonic() + 20
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


WAIT_FOR_THE_OTHER = """
pathlib.Path(sys.argv[1]).touch()
for _ in range(500):
    if os.path.exists(sys.argv[2]): sys.exit()
    time.sleep(0.02)
sys.exit("the other did not begin")
"""

COUNT = """
mine = pathlib.Path("at-once") / str(os.getpid())
mine.parent.mkdir(exist_ok=True)
mine.touch()
print(len(list(mine.parent.iterdir())), file=open("counts", "a"))
time.sleep(0.15)
mine.unlink()
pathlib.Path(sys.argv[1]).touch()
"""


def test_rows_run_side_by_side_but_not_more_than_asked(table, tmp_path):
    one, other = (code(tmp_path, WAIT_FOR_THE_OTHER, *names) for names in (["a", "b"], ["b", "a"]))
    assert grid.main(grid.GridConfig(table([("a", one), ("b", other)]), at_once=2)) == {"done_before": 0, "done_now": 2}
    counting = code(tmp_path, COUNT)
    grid.main(grid.GridConfig(table([(f"c{i}", f"{counting} c{i}") for i in range(5)]), at_once=2))
    counts = [int(line) for line in (tmp_path / "counts").read_text().split()]
    assert len(counts) == 5 and max(counts) == 2


def test_a_row_whose_log_cannot_be_written_fails_alone(table, tmp_path, capsys):
    """The others go on, and are not killed."""
    last = table([(name, code(tmp_path, f"time.sleep(1); pathlib.Path('{name}').touch()")) for name in ("a", "b")])
    (tmp_path / "runs" / "grid" / "b.log").mkdir(parents=True)
    with pytest.raises(SystemExit):
        grid.main(grid.GridConfig(last))
    assert (tmp_path / "a").exists() and not (tmp_path / "b").exists()
    assert "b: nothing in" in capsys.readouterr().err


def test_what_is_done_is_left_out_and_a_step_waits_for_the_one_before(table, tmp_path, capsys):
    note = code(tmp_path, "print(sys.argv[1], file=open('order', 'a')); pathlib.Path(sys.argv[1]).touch()")
    (tmp_path / "b").touch()
    steps = [[("a", f"{note} half", f"{note} a"), ("b", f"{note} b")], [("c", f"{note} c")], [("d", f"{note} d")]]
    assert grid.main(grid.GridConfig(table(*steps))) == {"done_before": 1, "done_now": 3}
    assert (tmp_path / "order").read_text().split() == ["half", "a", "c", "d"]
    capsys.readouterr()
    assert grid.main(grid.GridConfig(table(*steps))) == {"done_before": 4, "done_now": 0}
    assert "other commands" not in capsys.readouterr().err
    changed = [[("a", f"{note} whole", f"{note} a"), *steps[0][1:]], *steps[1:]]
    assert grid.main(grid.GridConfig(table(*changed))) == {"done_before": 4, "done_now": 0}
    said = [line for line in capsys.readouterr().err.splitlines() if "other commands" in line]
    assert len(said) == 1 and said[0].startswith("a is there, made by other commands (see ")


def test_a_row_that_fails_stops_no_other_and_its_output_is_kept(table, tmp_path, capsys):
    fails = code(tmp_path, "print('on stdout'); sys.exit('no such luck')")
    steps = [[("a", fails, "touch a"), ("b", "no-such-program"), ("c", "true"), ("d", "touch d")], [("e", "touch e")]]
    with pytest.raises(SystemExit) as ended:
        grid.main(grid.GridConfig(table(*steps)))
    assert ended.value.code == 1
    assert {name for name in "abcde" if (tmp_path / name).exists()} == {"d"}
    log = (tmp_path / "runs" / "grid" / "a.log").read_text().splitlines()
    assert log[0].startswith("== begun ")
    assert log[1:] == [f"$ {fails}", "on stdout", "no such luck", "== failed: exit code 1"]
    said = capsys.readouterr().err
    assert "1 of 5 rows are done, 3 failed, 1 were not begun:" in said
    assert "a: no such luck" in said and "b: no-such-program: No such file" in said
    assert "c: all commands have ended, and there is no c" in said
    assert said.count("FAILED with exit code") == 3 and "127" in said and "minutes left" in said
    (tmp_path / "b").touch(), (tmp_path / "c").touch(), (tmp_path / "script-0.py").write_text("")
    assert grid.main(grid.GridConfig(table(*steps))) == {"done_before": 3, "done_now": 2}


def test_a_row_that_was_stopped_has_not_failed(table, tmp_path, capsys):
    killed = code(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGTERM)")
    with pytest.raises(SystemExit):
        grid.main(grid.GridConfig(table([("a", killed), ("b", code(tmp_path, "sys.exit(143)")), ("c", "false")])))
    said = capsys.readouterr().err
    assert "a: stopped;" in said and "b: stopped;" in said and "c: FAILED with exit code 1" in said


# Begins a process of its own, then has grid.py stopped. "saves" ends when it is asked to, "stays" does not.
STOPPED = """
child = subprocess.Popen(["sleep", "100"], start_new_session=False)
def asked(number, frame):
    pathlib.Path("asked").touch()
    if sys.argv[1] == "stays":
        os.kill(os.getppid(), signal.SIGINT)
        return
    time.sleep(0.3)
    pathlib.Path("saved").touch()
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, asked)
pathlib.Path("pids").write_text(f"{os.getpid()} {child.pid}")
os.kill(os.getppid(), getattr(signal, sys.argv[2]))
while True: time.sleep(0.1)
"""


@pytest.mark.parametrize("how,number,ends", [
    ("saves", "SIGINT", 130), ("saves", "SIGTERM", 143), ("stays", "SIGINT", 130),
])  # fmt: skip
def test_a_signal_lets_commands_save_and_leaves_no_process_behind(table, tmp_path, how, number, ends):
    command = code(tmp_path, STOPPED, how, number)
    path = table([("a", command, "touch a"), ("b", "touch b")])
    with pytest.raises(interrupt.Interrupted) as stopped:
        grid.main(grid.GridConfig(path, at_once=1))
    assert stopped.value.code == ends and (tmp_path / "asked").exists()
    assert (tmp_path / "saved").exists() == (how == "saves")
    assert (how == "saves") == str(stopped.value).startswith("go on with: python ")
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2 and until(lambda: not any(map(alive, pids)))
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()
    (tmp_path / "script-0.py").write_text("")
    assert grid.main(grid.GridConfig(path)) == {"done_before": 0, "done_now": 2}


def test_a_training_that_was_stopped_goes_on_and_one_that_is_wanted_again_begins_anew(table, tmp_path):
    """What a command leaves when it ends without its result, by a signal or a lost machine, is the same to us."""
    train = code(tmp_path, "pathlib.Path('run').mkdir(exist_ok=True); pathlib.Path('run/resume.safetensors').touch()\n"
                 "print(*sys.argv[1:], file=open('calls', 'a')); sys.exit(not os.path.exists('may-end'))")  # fmt: skip
    config = grid.GridConfig(table([("a", f"{train} --overwrite --out run", "touch a")]))
    for _ in range(2):
        with pytest.raises(SystemExit):
            grid.main(config)
    (tmp_path / "may-end").touch()
    grid.main(config)
    (tmp_path / "a").unlink()
    grid.main(config)
    anew, again = "--overwrite --out run", "--resume --out run"
    assert (tmp_path / "calls").read_text().splitlines() == [anew, again, again, anew]


@pytest.mark.parametrize("given,then", [
    ("--out run", "--out run --resume"), ("--out=run --overwrite", "--out=run --resume"),
    ("--out=run", "--out=run --resume"), ("--resume --out run", "--resume --out run"),
])  # fmt: skip
def test_it_goes_on_however_it_was_written(table, tmp_path, monkeypatch, given, then):
    """Without --overwrite only train.py's own commands, since others have no --resume."""
    calls = tmp_path / "calls"
    (tmp_path / "train.py").write_text(
        "import pathlib, sys\npathlib.Path('run').mkdir(exist_ok=True)\n"
        "pathlib.Path('run/resume.safetensors').touch()\n"
        f"print(*sys.argv[1:], file=open({str(calls)!r}, 'a')); sys.exit(len(open({str(calls)!r}).readlines()) < 2)"
    )
    config = grid.GridConfig(table([("a", f"python train.py {given}", "touch a")]))
    with pytest.raises(SystemExit):
        grid.main(config)
    assert grid.main(config)["done_now"] == 1
    assert calls.read_text().splitlines() == [given, then]
    assert not grid.read_table(Path(config.table))[0][0].changed()


def test_what_an_earlier_row_has_saved_is_not_gone_on_with(table, tmp_path):
    """Wanted anew, and stopped before it could save; or stopped, and then wanted with other flags."""
    train = code(tmp_path, "print(*sys.argv[1:], file=open('calls', 'a'))\n"
                 "pathlib.Path('run').mkdir(exist_ok=True); pathlib.Path('run/resume.safetensors').touch()\n"
                 "sys.exit(1)")  # fmt: skip
    early = code(tmp_path, "print(*sys.argv[1:], file=open('calls', 'a')); sys.exit(1)")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/resume.safetensors").touch()  # of a run that was done, and whose result somebody has deleted
    os.utime(tmp_path / "run/resume.safetensors", (1, 1))

    def play(flags: str, script: str) -> str:
        with pytest.raises(SystemExit):
            grid.main(grid.GridConfig(table([("a", f"{script} {flags} --overwrite --out run", "touch a")])))
        return (tmp_path / "calls").read_text().splitlines()[-1]

    for _ in range(2):  # the second time its log says that it was stopped
        assert play("--lr 1", early) == "--lr 1 --overwrite --out run"
    assert play("--lr 2", train) == "--lr 2 --overwrite --out run"
    assert play("--lr 2", train) == "--lr 2 --resume --out run"
    assert play("--lr 3", train) == "--lr 3 --overwrite --out run", "with other flags it begins anew"


def test_two_grids_do_not_work_on_the_same_table(table, tmp_path):
    """Nor does one begin while a command that a killed one has left still runs: that holds the lock too."""
    path = tmp_path / "table.py"
    table([("a", f"python {ROOT}/study/grid.py {path}")])
    with pytest.raises(SystemExit):
        grid.main(grid.GridConfig(str(path)))
    assert f"error: another grid works on {path}" in (tmp_path / "runs" / "grid" / "a.log").read_text()
    table([("a", "touch a")])
    with path.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        left = jobs.Job(jobs.Row("b", [["sleep", "100"]], tmp_path / "b.log"), (lock.fileno(),))
        assert left.poll() is None
    with pytest.raises(BadInput, match="another grid works on .*, or a command that one left behind"):
        grid.main(grid.GridConfig(str(path)))
    left.kill()
    assert until(lambda: left.poll() is not None)
    assert grid.main(grid.GridConfig(str(path))) == {"done_before": 0, "done_now": 1}


@pytest.mark.parametrize("text,words", [
    ("TABLE = [", "is no table: SyntaxError"),
    ("rows = []", "is no table: KeyError: 'TABLE'"),
    ("TABLE = [[('a', 'echo \"')]]", "is no table: ValueError: No closing quotation"),
    ("TABLE = [[('a', 7)]]", "is no table"),
    ("TABLE = [[('a',)]]", "a must be the result of one row, with a command"),
    ("TABLE = [[('a', '')]]", "a must be the result of one row, with a command"),
    ("TABLE = [['x1.json']]", "is no table: TypeError: a row is"),
    ("raise SystemExit(0)", "is no table: SystemExit: 0"),
    ("TABLE = [[('a/b', 'true'), ('a-b', 'false')]]", "a/b and a-b would have the same log"),
    ("TABLE = [[('a', 'true')], [('./a', 'false')]]", "a and ./a would have the same log"),
    ("TABLE = [[('a', 'true')], [('a', 'false')]]", "a must be the result of one row, with a command"),
])  # fmt: skip
def test_what_is_no_table_is_refused(tmp_path, text, words):
    (tmp_path / "table.py").write_text(text)
    with pytest.raises(BadInput, match=words):
        grid.main(grid.GridConfig(str(tmp_path / "table.py")))
    with pytest.raises(BadInput, match="study/core/table.py"):
        grid.main(grid.GridConfig(str(tmp_path / "none.py")))


@pytest.mark.parametrize("study,count", [("core", 22), ("forks", 10), ("adapt", 12)])
def test_results_of_the_studies_were_made_by_the_commands_of_their_tables(study, count):
    """The last command stands in the result, the training before it too. one_task.py was called piece by piece."""
    compared = 0
    for row in [row for step in grid.read_table(ROOT / "study" / study / "table.py") for row in step]:
        if not row.result.startswith("study/") or not (ROOT / row.result).exists():  # demonstrations; not measured yet
            continue
        made = json.loads((ROOT / row.result).read_text())
        commands = [" ".join(words) for words in row.commands if words[1] in ("train.py", "evaluate.py", "adapt.py")]
        if commands:
            assert commands[-1] == made["command"]
            compared += 1
        if len(commands) == 2:
            assert commands[0] == made["training"]["command"]
    assert compared == count


@pytest.mark.parametrize("flags,words", [({"ways": "add-exacct"}, "--ways: no way 'add-exacct'; there are add-exact,"),
                                         ({"seeds": "x"}, "--seeds and --draws must be whole numbers"),
                                         ({"episodes": 0}, "--episodes must be 1 to 10000"),
                                         ({"block": -1}, "--block at least 0; got 50, -1")])  # fmt: skip
def test_one_task_looks_at_its_words_first(flags, words):
    with pytest.raises(BadInput, match=words):
        one_task.main(OneTaskConfig(**flags))


TABLES = [path.relative_to(ROOT) for path in sorted(ROOT.glob("study/*/*.py")) if "\nTABLE = [" in path.read_text()]


@pytest.mark.parametrize("path", TABLES, ids=str)
def test_every_command_of_a_table_is_one_that_its_script_understands(path):
    """Hours later would be too late."""
    configs = {"evaluate.py": evaluate.EvaluateConfig, "adapt.py": adapt.AdaptConfig, "study/curve.py": CurveConfig,
               "study/adapt/one_task.py": OneTaskConfig, "study/router/measure.py": MeasureConfig}  # fmt: skip
    understood = 0
    for row in [row for step in grid.read_table(ROOT / path) for row in step]:
        for _, name, *words in row.commands:
            if name == "train.py":
                limits.check_training(parse_with_own_fields(train.TrainConfig, words))
            elif name in configs:
                parse(configs[name], words)
            understood += name == "train.py" or name in configs
    assert understood


def test_a_ray_cluster_does_the_same(tmp_path):
    pytest.importorskip("ray", reason="pip install -r requirements-ray.txt")
    stops = code(
        tmp_path, STOPPED.replace("os.getppid()", "int(pathlib.Path('driver').read_text())"), "saves", "SIGINT"
    )
    path, a, b, c = (tmp_path / name for name in ("table.py", "a", "b", "c"))
    path.write_text(f"TABLE = [[('{a}', 'touch {a}'), ('{b}', 'cp {b} {a}')]]")
    with tempfile.TemporaryDirectory(prefix="ray-") as short:  # the names of its sockets must not be long
        environment = {**os.environ, "RAY_TMPDIR": short, "HOME": short, "OMP_NUM_THREADS": "1"}
        done = script("study/grid.py", path, "--ray", env=environment)
        assert done.returncode == 1 and "1 of 2 rows are done, 1 failed" in done.stderr, done.stderr
        assert a.exists() and f"{b}: cp: " in done.stderr
        path.write_text(f"TABLE = [[('{a}', 'false'), ('{c}', '{stops}', 'touch {c}')]]")
        words = [sys.executable, "study/grid.py", path, "--ray"]
        driver = subprocess.Popen(words, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
        (tmp_path / "driver").write_text(str(driver.pid))
        said = driver.communicate(timeout=120)[1]
        assert driver.returncode == 130 and "go on with: python study/grid.py" in said, said
        pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
        assert (tmp_path / "saved").exists() and until(lambda: not any(map(alive, pids))) and not c.exists()
    for log in (ROOT / "runs" / "grid").glob(f"{str(tmp_path).strip('/').replace('/', '-')}*"):
        log.unlink()


@pytest.mark.parametrize("flags,said", [
    ({"steps": -5}, "--steps must be at least 1"), ({"episodes": 0}, "--episodes must be"), ({"tasks": "none"}, "none"),
    ({"policy": "none"}, "no policy 'none'"), ({"seed": -1}, "--seed must be"),
])  # fmt: skip
def test_a_curve_that_is_refused_is_not_remembered(tmp_path, monkeypatch, flags, said):
    monkeypatch.setattr(curve, "ROOT", tmp_path)
    with pytest.raises(BadInput, match=said):
        curve.main(CurveConfig(out=str(tmp_path / "curve.json"), **flags))
    assert not list(tmp_path.rglob("flags.json"))


@pytest.mark.parametrize("name,value", [("save_every", 500), ("policy", "monolithic"), ("seed", 1), ("steps", 10)])
def test_a_curve_of_other_flags_is_not_gone_on_with(tiny_run, tmp_path, monkeypatch, name, value):
    """It would be published under this one's name. Neither what it was begun with nor its run is touched."""
    monkeypatch.setattr(curve, "ROOT", tmp_path)
    monkeypatch.setattr(curve, "train", lambda *_: pytest.fail("it was gone on with"))
    config = CurveConfig(tasks="reach,push", out=str(tmp_path / "curve.json"))
    home = tmp_path / "runs" / "curve" / "curve"
    home.mkdir(parents=True)
    flags = {**asdict(config), "episodes": None}
    (home / "flags.json").write_text(json.dumps(flags | {name: value}))
    with pytest.raises(BadInput, match=f"has {name} = {value}, not {flags[name]}: choose another --out"):
        curve.main(config)
    assert json.loads((home / "flags.json").read_text()) == flags | {name: value}
    (home / "flags.json").unlink()  # a run alone, from before there was this file
    shutil.copytree(tiny_run, home / "run")
    with pytest.raises(BadInput, match="has seed = 0, not 3: choose another --out"):
        curve.main(CurveConfig(tasks="reach,push", seed=3, out=str(tmp_path / "curve.json")))
    assert not (home / "flags.json").exists() and not (tmp_path / "curve.json").exists()


def test_a_curve_has_the_points_that_were_asked_for(tiny_run, tmp_path, monkeypatch):
    """A run that was stopped has saved where it was; that is no point of the curve."""
    monkeypatch.setattr(curve, "ROOT", tmp_path)
    home, last = tmp_path / "runs/curve/curve", runs.training_record(tiny_run)["steps"]
    for name in ("run", "step-100", "step-150", "step-200", f"step-{last + 1}"):
        shutil.copytree(tiny_run, home / name)
    shutil.copytree(tiny_run, home / f"step-{last}", dirs_exist_ok=True)
    (home / "trained").touch()
    (home / "played-4.json").write_text('[{"step": 150, "success": 1.0}]')  # of a time when it was one
    played = {"mean_success": 0.5, "tasks": {}}
    monkeypatch.setattr(curve, "evaluate", lambda *_, **__: (played, []))
    curve.main(CurveConfig(tasks="reach,push", save_every=100, out=str(tmp_path / "curve.json")))
    made = json.loads((tmp_path / "curve.json").read_text())["checkpoints"]
    assert [row["step"] for row in made] == sorted({100, 200, last}) and 150 not in (last, last + 1)


def test_a_stage_upon_other_weights_is_not_filed_as_upon_these(tiny_run, data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(one_task, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_run, tmp_path / "runs/base")
    (tmp_path / "data").symlink_to(data_dir)
    result = {"tasks": {"button-press": {"successes": 1, "seeds": [1, 2]}}, "mean_success": 1.0}
    monkeypatch.setattr(one_task, "evaluate", lambda *_, **__: (result, []))
    config = OneTaskConfig(
        run="runs/base", tasks="button-press", demos=2, steps=3, ways="add-exact", new_only=True, out="study/toy"
    )
    (path,) = map(Path, one_task.adapt_all(config, None))
    folder = tmp_path / "runs/toy" / path.stem
    about = json.loads((folder / "config.json").read_text())
    assert about["adapted"][-1]["source_weights"] == runs.weights_checksum(tiny_run)
    about["adapted"][-1]["source_weights"] = "of a base that was trained again"
    (folder / "config.json").write_text(json.dumps(about))
    path.unlink()
    with pytest.raises(BadInput, match="was learned from other weights than runs/base holds"):
        one_task.adapt_all(config, None)
    assert not path.exists()


def test_what_a_stopped_training_has_saved_is_not_its_result(table, tmp_path):
    """train.py writes weights on its way, too: the row goes on, and is not skipped."""
    path = table([("weights", "touch weights", "false")])
    with pytest.raises(SystemExit):
        grid.main(grid.GridConfig(str(path)))
    assert (tmp_path / "weights").exists()
    (row,) = (row for step in grid.read_table(Path(path)) for row in step)
    assert not row.done()
    row.log.unlink()  # as in a clone: the result came with the code
    assert row.done()
