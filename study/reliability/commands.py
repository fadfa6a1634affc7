"""Command lines, configs, weights and demonstrations that nobody would write: each is done, or refused in one line.

    python study/reliability/commands.py --data-dir data     # 5,000 of them; about ten minutes on one core

Each case is a command on a small run and its demonstrations, of which a file may be damaged. What takes long is cut
off: a command that gets as far as beginning its run, a training step, an episode, the compiler, or the collecting of
demonstrations has been accepted. Refused means exit code 2, one last line `error: ...`, and every file as it was, none
more. Anything else is a failure: a traceback, a minute without an answer, something left behind. A case runs in a
process of its own.
"""

import argparse
import contextlib
import io
import json
import os
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path
from unittest import mock

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import adapt  # noqa: E402
import evaluate  # noqa: E402
import skills  # noqa: E402
import train  # noqa: E402
from adaptation import stages  # noqa: E402
from envs import demos, recording  # noqa: E402
from plumbing import cli, interrupt, runs  # noqa: E402
from study.reliability.table import row, write  # noqa: E402

PATIENCE = 60  # seconds for one case: far more than any takes, also on a busy machine
TINY = "--steps 3 --batch-size 4 --demos-per-task 2 --data-dir data --device cpu --eval-episodes 0".split()
# What a run and its demonstrations consist of, and which command reads it.
RUN_FILES = ("run/config.json", "run/model.safetensors", "run/resume.safetensors", "run/log.jsonl")
DATA_FILES = tuple(f"data/fdp/reach/expert-v0/data/{name}" for name in ("main_data.hdf5", "metadata.json"))
COMMANDS = {
    "train.py": ["--tasks", "reach", "--components", "1", *TINY, "--out", "new"],
    "train.py --resume": ["--tasks", "reach,push", "--resume", "--out", "run"],  # and the flags that the run began with
    "evaluate.py": ["--run", "run", "--episodes", "2", "--device", "cpu", "--out", "new.json"],
    "adapt.py": ["--run", "run", "--tasks", "drawer-open", *TINY, "--out", "new"],
    "skills.py": ["--run", "run", "--put", "skill.safetensors", "--out", "new"],
}
CONFIGS = {"train": train.TrainConfig, "evaluate": evaluate.EvaluateConfig, "adapt": adapt.AdaptConfig,
           "skills": skills.SkillsConfig}  # fmt: skip


SLOW = ((runs, "begin_run"), (interrupt, "steps"), (evaluate, "evaluate"), (recording, "collect"), (torch, "compile"))


class Accepted(BaseException):
    """The command has begun what takes long; no `except Exception` stops it."""


class TooSlow(BaseException):
    """No answer."""


@dataclass
class Case:
    """A command, words that are added to it, and what is done to a file before."""

    command: str
    words: list[str]
    damage: tuple = ()


# ---------------------------------------------------------------------------------------------- what is tried

WHOLE = [-(2**63), -1, 0, 1, 2, 3, 7, 8, 50, 1025, 10_001, 2**31 - 1, 2**31, 2**63 - 1, 2**63, 10**30]
BROKEN = ["nan", "inf", "-inf", "-1", "0", "1e-3", "1e39", "1e400", "1e-400", "0x10", "1_0", "", " ", "1.5", "²"]
NAMES = (
    """run data file folder pipe loop nowhere run/config.json . .. ../x a/b/c ~ - -- {task} $(touch\tx) /dev/null
/proc/nowhere None \x1b[31m new.json reach mt6 reach,push reach,,reach no:Env-v0 os:system fdp/push-v3 moe flow mien
staged cuda cpu:7 meta 0,1 0,9 ddim ddpm exact replay paper full scratch router components base none raw affine clean
mine/{task}/x-v0 fdp/{task}/expert-v1""".split()
    + ["x" * 300, "a\nb", "two words", "\udcff", ""]
)
# Not those that would take long or much memory as they should, and no path out of the temporary folder.
text = st.text(max_size=12).filter(lambda word: not word.startswith("/") and "../.." not in word and "\0" not in word)
value = st.one_of(st.sampled_from(WHOLE).map(str), st.sampled_from(BROKEN), st.sampled_from(NAMES), text)
whole = st.sampled_from(WHOLE).map(str)
json_value = st.one_of(
    st.sampled_from([None, True, False, -1, 0, 1, 3, 8, 2**63, 10**30, 1e308, -1e-9, float("nan"), float("inf")]),
    st.sampled_from(
        ["", "x", "../x", "/dev/null", "a\0b", "raw", [], {}, [[]], [None], ["x"] * 3, [3, 2**63], {"x": 1}]
    ),
    text,
)


def flags(script: str) -> st.SearchStrategy[list[str]]:
    """Up to three flags of a command with values, most of a fitting type; or words that are none."""
    one = []
    for field in fields(CONFIGS[script]):
        name, kind = f"--{field.name.replace('_', '-')}", str(field.type)
        if field.type is bool:
            one.append(st.just([name]))
        elif "Literal" in kind:
            one.append(st.sampled_from([*getattr(field.type, "__args__", ()), "x"]).map(lambda v, n=name: [n, str(v)]))
        else:
            fitting = whole if "int" in kind else st.sampled_from(BROKEN) if "float" in kind else st.sampled_from(NAMES)
            one.append(st.one_of(fitting, fitting, value).map(lambda v, n=name: [n, v]))
            one.append(value.map(lambda v, n=name: [f"{n}={v}"]))
    one.append(st.lists(value, min_size=1, max_size=2))
    return st.lists(st.one_of(one), max_size=3).map(lambda parts: sum(parts, []))


position = st.integers(0, 999)  # thousandths of a file's length
damages = st.one_of(
    st.tuples(st.just("cut"), position),
    st.tuples(st.just("flip"), st.lists(st.tuples(position, st.integers(1, 255)), min_size=1, max_size=4)),
    st.tuples(st.sampled_from(["missing", "folder", "pipe", "loop", "empty", "noise"])),
)
# Where: a way down the tree, child after child. What: it is replaced, taken away, or gets a neighbour.
edits = st.tuples(st.just("edit"), st.lists(st.integers(0, 60), min_size=1, max_size=4),
                  st.sampled_from(["replace", "replace", "remove", "add"]), json_value)  # fmt: skip


@st.composite
def cases(draw) -> Case:
    command = draw(st.sampled_from([*COMMANDS]))
    if draw(st.integers(0, 2)):
        return Case(command, draw(flags(command.split(".")[0])))
    # train.py begins with demonstrations; the others read a run, most of them only its config and weights.
    names = DATA_FILES if command == "train.py" else RUN_FILES[:2] * 2 + RUN_FILES
    names = ("skill.safetensors", *RUN_FILES[:2]) if command == "skills.py" else names
    name = draw(st.sampled_from(names))
    editable = name.endswith((".json", ".safetensors"))
    return Case(command, [], (name, *draw(st.one_of(damages, edits, edits) if editable else damages)))


# ---------------------------------------------------------------------------------------------- how it is tried


def edited(tree, way: list[int], how: str, new):
    """The tree with one place changed; `way` picks a child at each level, and stops at a leaf."""
    if not isinstance(tree, dict | list) or not tree:
        return new
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    key = keys[way[0] % len(keys)]
    if len(way) > 1 and isinstance(tree[key], dict | list) and tree[key]:
        tree[key] = edited(tree[key], way[1:], how, new)
    elif how == "remove":
        del tree[key]
    elif how == "add" and isinstance(tree, dict):
        tree["more"] = new
    elif how == "add":
        tree.append(new)
    else:
        tree[key] = new
    return tree


def damage(path: Path, how: str, *details) -> None:
    """Do to a file what a Case says."""
    content = path.read_bytes()
    path.unlink()  # it may be a link to the original
    if how == "edit" and path.suffix == ".json":
        path.write_text(json.dumps(edited(json.loads(content), *details)))
    elif how == "edit":  # of safetensors: a length, a JSON of that length, the numbers
        length = struct.unpack("<Q", content[:8])[0]
        header = json.dumps(edited(json.loads(content[8 : 8 + length]), *details)).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header + content[8 + length :])
    elif how == "cut":
        path.write_bytes(content[: len(content) * details[0] // 1000])
    elif how == "flip":
        changed = bytearray(content)
        for place, bits in details[0]:
            changed[len(changed) * place // 1000] ^= bits
        path.write_bytes(changed)
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "noise":
        path.write_bytes(bytes(range(256)) * 4)
    elif how == "folder":
        path.mkdir()
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "loop":
        path.symlink_to(path.name)


def copy(source: Path, target: Path) -> None:
    """A folder again, quickly: large files, which our code replaces and never changes, as links."""

    def quickly(old: str, new: str) -> None:
        (os.link if os.stat(old).st_size > 50_000 else shutil.copy)(old, new)

    shutil.copytree(source, target, copy_function=quickly)


def everything(folder: Path) -> dict:
    """What is there, so that any change shows."""
    return {str(p): (s.st_mode, s.st_size, s.st_mtime_ns if not p.is_dir() else 0)
            for p in folder.rglob("*") for s in [p.lstat()]}  # fmt: skip


def command(case: Case, resume: list[str]):
    """The config of a case's command, and its main()."""
    script, words = case.command.split(".")[0], COMMANDS[case.command] + case.words
    sys.argv = [f"{script}.py", *words]
    if script == "train":
        words = (resume if "--resume" in COMMANDS[case.command] else []) + words
        return lambda: train.main(runs.parse_with_own_fields(train.TrainConfig, words))
    if script == "adapt":
        return lambda: stages.main(cli.parse(adapt.AdaptConfig, words), adapt.learn)
    if script == "skills":
        return lambda: skills.main(cli.parse(skills.SkillsConfig, words))
    return lambda: evaluate.main(cli.parse(evaluate.EvaluateConfig, words))


def survives(case: Case, run: Path, data: Path, resume: list[str], skill: Path, folder: Path) -> tuple[str, str]:
    """Try a case in a new folder, or one where nothing has changed. -> "accepted", "refused" or "failed", and what was
    said.

    run, data: of `train.py` with the flags `resume`, on reach and push; skill: a file that adapt.py made of that run.
    """

    def stop(*_, **__):
        raise Accepted

    def too_slow(*_):
        raise TooSlow

    home, here, arguments = folder / "a" / "b", Path.cwd(), sys.argv
    if not home.exists():
        home.mkdir(parents=True)
        copy(run, home / "run")
        copy(data, home / "data")
        shutil.copy(skill, home / "skill.safetensors")
        (home / "file").write_text("somebody's notes")
        (home / "folder").mkdir()
        (home / "folder" / "thesis.txt").write_text("years of work")
        os.mkfifo(home / "pipe")
        (home / "loop").symlink_to("loop")
    if case.damage:
        damage(home / case.damage[0], *case.damage[1:])
    before, said, out = everything(folder), io.StringIO(), io.StringIO()
    alarm = signal.signal(signal.SIGALRM, too_slow)
    try:
        os.chdir(home)
        signal.setitimer(signal.ITIMER_REAL, PATIENCE, 1)  # and again, where something has swallowed the first
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.object(sys, "path", [*sys.path]))
            for where, name in SLOW:
                stack.enter_context(mock.patch.object(where, name, stop))
            stack.enter_context(mock.patch.object(interrupt, "begin", lambda: None))
            stack.enter_context(mock.patch.object(os, "fsync", lambda _: None))  # waits for the disk
            stack.enter_context(contextlib.redirect_stderr(said))
            stack.enter_context(contextlib.redirect_stdout(out))
            cli.run(command(case, resume))
        return "accepted", "to its end"
    except Accepted:
        return "accepted", ""
    except SystemExit as ended:
        lines = said.getvalue().splitlines() or [""]
        if not ended.code:  # --help
            return "accepted", ""
        if ended.code != 2 or not lines[-1].startswith("error: ") or out.getvalue():
            return "failed", f"exit code {ended.code}, {said.getvalue()[-300:]!r}, on stdout {out.getvalue()[-300:]!r}"
        if changed := sorted(set(everything(folder).items()) ^ set(before.items())):
            return "failed", f"{lines[-1]}, and changed: {', '.join(path for path, _ in changed[:3])}"
        return "refused", lines[-1]
    except TooSlow:
        return "failed", f"no answer in {PATIENCE} seconds"
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return "failed", f"{type(error).__name__}: {error}, at {Path(where.filename).name}:{where.lineno}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, alarm)
        os.chdir(here)
        sys.argv = arguments


# ---------------------------------------------------------------------------------------------- all of it


def apart(case: Case, *where) -> tuple[str, str]:
    """`survives` in a process of its own: HDF5 and PyTorch are C code, and may end the process."""
    with tempfile.TemporaryDirectory() as folder:
        home, answer = Path(folder) / "home", Path(folder) / "answer"
        if not (child := os.fork()):
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # progress bars, drawn when they are collected as garbage
                resource.setrlimit(resource.RLIMIT_AS, (16 * 2**30,) * 2)
                answer.write_text(json.dumps(survives(case, *where, home)))
            finally:
                os._exit(0)
        end = time.monotonic() + 2 * PATIENCE
        while not (ended := os.waitpid(child, os.WNOHANG))[0]:  # C code that waits does not even notice an alarm
            if time.monotonic() > end:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.002)
        status = ended[1]
        return tuple(json.loads(answer.read_text())) if answer.exists() else ("failed", f"ended with status {status}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data-dir", default="data", help="demonstrations of reach and push; made where there are none"
    )
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    given_here = parser.parse_args()
    counts, failures = {}, []
    with tempfile.TemporaryDirectory() as made:
        made = Path(made)
        for task in ("reach", "push"):
            demos.demonstrations([task], 2, Path(given_here.data_dir))
            shutil.copytree(Path(given_here.data_dir) / "fdp" / task, made / "data" / "fdp" / task)
        shutil.copy(Path(given_here.data_dir) / "fdp" / "namespace_metadata.json", made / "data" / "fdp")
        tiny = [*TINY, "--data-dir", str(made / "data"), "--tasks", "reach,push", "--components", "2"]
        with contextlib.redirect_stderr(io.StringIO()):
            train.main(runs.parse_with_own_fields(train.TrainConfig, [*tiny, "--out", str(made / "run")]))
            words = [
                "--run",
                str(made / "run"),
                "--tasks",
                "drawer-open",
                *TINY,
                "--out",
                str(made / "more"),
                "--data-dir",
            ]
            stages.main(cli.parse(adapt.AdaptConfig, [*words, given_here.data_dir]), adapt.learn)

        @seed(given_here.seed)
        @settings(max_examples=given_here.cases, deadline=None, database=None, phases=[Phase.generate],
                  suppress_health_check=list(HealthCheck))  # fmt: skip
        @given(cases())
        def try_all(case: Case) -> None:
            how, said = apart(case, made / "run", made / "data", tiny, made / "more" / skills.FILE)
            what = case.damage[0].split("/")[-1] if case.damage else "its words"
            counts.setdefault(f"{case.command}: {what}", Counter())[how] += 1
            if how == "failed":
                failures.append(f"{case.command} {case.words} {case.damage}: {said}")
                print(failures[-1].encode(errors="replace").decode(), file=sys.stderr, flush=True)

        try_all()
    promise = "done, or refused in one line with exit code 2 and every file as it was"
    write("commands", {
        what: row(c.total(), c["accepted"] + c["refused"], promise, **c) for what, c in sorted(counts.items())
    } | {"all of them": row(sum(c.total() for c in counts.values()), sum(c["accepted"] + c["refused"] for c in
                            counts.values()), promise, failures=sorted(failures)[:20])}, given_here.seed)  # fmt: skip


if __name__ == "__main__":
    main()
