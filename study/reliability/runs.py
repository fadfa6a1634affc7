"""Somebody else's run folder, a damaged one, and two commands that want the same: what gets in, what gets lost?

    python study/reliability/runs.py [--data-dir data]

Payloads: a pickle that would make a folder, in the place of every file of a run, met by every command that reads it.
Damage: a bit flipped or 512 bytes zeroed at a random place; survived is what is refused in one line, or loads the very
same numbers. Bombs: a config.json that asks for more than any machine has. Races: four processes claim a folder at the
same moment. Overwriting: `train.py --overwrite` is killed at a random moment; survived is an old or a new run, whole.
"""

import argparse
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
import torch  # noqa: E402

from adaptation.memory import read_memory  # noqa: E402
from plumbing import folders, runs, tensors  # noqa: E402
from plumbing.cli import BadInput, say  # noqa: E402
from study.reliability.table import row, write  # noqa: E402

FLAGS = "--tasks reach,push --steps 60 --batch-size 8 --demos-per-task 3 --save-every 20".split()
FLAGS += "--eval-episodes 0 --device cpu".split()
ADAPT = "--tasks drawer-open --retain replay --steps 2 --eval-episodes 0 --demos-per-task 2 --device cpu".split()
BOMBS = {
    "diffusion_steps": 10**9, "components": 10**6, "horizon": 10**9, "channels": [10**6] * 3, "kernel": 10**9,
    "condition_dim": 10**9, "executed": 10**9, "observation": {"state": [10**9] * 2}, "tasks": ["x"] * 10**5,
    "action_low": [-1.0] * 10**5, "differences": [["a", 0, "b", 0]] * 10**5, "router": "x" * 10**6,
}  # fmt: skip


class Payload:
    """Pickled, it makes a folder as soon as anybody unpickles it."""

    def __init__(self, mark: str):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def start(*words: object, **more) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, *map(str, words)], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, **more)  # fmt: skip


def payloads(run: Path, data: list) -> dict:
    names = ("config.json", "model.safetensors", "resume.safetensors", "replay.safetensors", "log.jsonl",
             "evaluation.json")  # fmt: skip
    tried, wrong = 0, []
    for name in names:
        for form in ("pickle", "torch.save"):
            copy, mark = shutil.copytree(run, run.parent / "planted"), run.parent / "executed"
            if form == "pickle":
                (copy / name).write_bytes(pickle.dumps(Payload(str(mark))))
            else:
                torch.save({"step": Payload(str(mark))}, copy / name)
            for words in (["evaluate.py", "--run", copy, "--episodes", 1, "--device", "cpu"],
                          ["train.py", *FLAGS, *data, "--out", copy, "--resume"],
                          ["adapt.py", "--run", copy, *ADAPT, *data, "--out", run.parent / "new"]):  # fmt: skip
                process = start(*words)
                _, said = process.communicate(timeout=300)
                tried += 1
                if mark.exists() or process.returncode not in (0, 2) or "Traceback" in said:
                    wrong.append(f"{words[0]}, {form} as {name}: exit code {process.returncode}")
                    say(wrong[-1], said[-400:])
                for rest in (mark, run.parent / "new"):
                    shutil.rmtree(rest, ignore_errors=True)
            shutil.rmtree(copy)
    return row(tried, tried - len(wrong), "nothing of it runs; one line, or not even read", failures=wrong)


def damage(path: Path, read, times: int, draw: random.Random) -> dict:
    content, good = path.read_bytes(), tensors.checksum(read())
    refused, wrong = 0, []
    for i in range(times):
        damaged, at = bytearray(content), draw.randrange(len(content))
        if i % 3:
            damaged[at] ^= 1 << draw.randrange(8)
        else:
            damaged[at : at + 512] = bytes(len(damaged[at : at + 512]))
        path.write_bytes(damaged)
        try:
            if tensors.checksum(read()) != good:
                wrong.append(at)
        except BadInput as error:
            refused += "\n" not in str(error)
        except Exception as error:
            wrong.append(f"{at}: {error!r:.100}")
    path.write_bytes(content)
    return row(
        times, times - len(wrong), "refused in one line, or the very same numbers", refused=refused, failures=wrong
    )


def bombs(run: Path) -> dict:
    wrong, original = [], (run / "config.json").read_text()
    contents = []
    for name, value in BOMBS.items():
        config = json.loads(original)
        config["policy_config"][name] = value
        contents.append((name, json.dumps(config)))
    contents += [
        ("nested lists", "[" * 10**6), ("nested objects", '{"a":' * 10**5), ("nan", original.replace("60", "NaN")),
        ("no object", "3"), ("empty", ""), ("half", original[: len(original) // 2]),
    ]  # fmt: skip
    for name, content in contents:
        (run / "config.json").write_text(content)
        tracemalloc.start()
        begin = time.perf_counter()
        try:
            runs.load_policy(run)
            wrong.append(f"{name}: loaded")
        except BadInput as error:
            peak, seconds = tracemalloc.get_traced_memory()[1], time.perf_counter() - begin
            if "\n" in str(error) or peak > 200 * 2**20 or seconds > 20:
                wrong.append(f"{name}: {peak} bytes, {seconds:.1f} seconds")
        except BaseException as error:
            wrong.append(f"{name}: {error!r:.100}")
        tracemalloc.stop()
    (run / "config.json").write_text(original)
    return row(len(contents), len(contents) - len(wrong), "refused in one line, before memory is taken", failures=wrong)


CLAIM = """
import sys, time
from pathlib import Path
from plumbing import folders
from plumbing.cli import BadInput
while time.time() < float(sys.argv[3]):
    pass
try:
    wanted = Path(sys.argv[1])
    got = folders.claim_free(wanted) if sys.argv[2] == "free" else folders.claim(wanted) or wanted
    (Path(got) / "model.safetensors").write_text("mine")
    print(got, flush=True)
except BadInput as error:
    print("refused:", error, flush=True)
sys.stdin.read()
"""  # fmt: skip


def races(folder: Path, how: str, times: int) -> dict:
    wrong = []
    for i in range(times):
        begin = str(time.time() + 0.7)
        processes = [start("-c", CLAIM, folder / f"{how}-{i}", how, begin, stdin=subprocess.PIPE) for _ in range(4)]
        got = [process.stdout.readline().strip() for process in processes]
        for process in processes:
            process.communicate()
        winners = {word for word in got if not word.startswith("refused: another command is at work in")}
        if len(winners) != (4 if how == "free" else 1):
            wrong.append(got)
    promise = "each gets its own" if how == "free" else "one gets it, the others one line"
    return row(times, times - len(wrong), promise, failures=wrong)


def overwriting(run: Path, data: list, times: int, draw: random.Random) -> dict:
    old, wrong, ended = tensors.checksum(tensors.load(run / "model.safetensors")), [], {"old": 0, "new": 0}
    for _ in range(times):
        copy = shutil.copytree(run, run.parent / "overwritten")
        process = start("train.py", *FLAGS, *data, "--seed", 1, "--out", copy, "--overwrite")
        time.sleep(draw.uniform(1.0, 9.0))
        process.kill()
        process.communicate()
        try:
            aside = copy / folders.REPLACED
            kept = copy if (copy / "model.safetensors").exists() else aside
            runs.load_policy(kept)
            same = tensors.checksum(tensors.load(kept / "model.safetensors")) == old
            ended["old" if same else "new"] += 1
        except Exception as error:
            wrong.append(f"{error!r:.200}")
        shutil.rmtree(copy)
    return row(
        times, times - len(wrong), "the old run, or a checkpoint of the new one, is whole", failures=wrong, **ended
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default="data", help="demonstrations (default: %(default)s)")
    flags = parser.parse_args()
    torch.set_num_threads(1)
    draw, data, rows = random.Random(0), ["--data-dir", Path(flags.data_dir).resolve()], {}
    with tempfile.TemporaryDirectory() as name:
        run, other = Path(name) / "run", Path(name) / "other"
        for words in (["train.py", *FLAGS, *data, "--out", run],
                      ["adapt.py", "--run", run, *ADAPT, *data, "--out", other]):  # fmt: skip
            subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, check=True, capture_output=True)
        shutil.copy(other / "replay.safetensors", run)
        kept, _ = tensors.load(run / "replay.safetensors")
        shapes = {name.rpartition("/")[2]: x.shape for name, x in kept.items()}
        reads = {"model.safetensors": (210, lambda: tensors.load(run / "model.safetensors")),
                 "resume.safetensors": (90, lambda: tensors.load(run / "resume.safetensors")),
                 "replay.safetensors": (90, lambda: read_memory(run, shapes))}  # fmt: skip
        rows["a pickle in the place of a file, three commands"] = payloads(run, data)
        for file, (times, read) in reads.items():
            rows[f"damage in {file}"] = damage(run / file, read, times, draw)
        rows["a config.json that asks for too much"] = bombs(run)
        rows["four processes want a free folder"] = races(Path(name), "free", 25)
        rows["four processes name the same folder"] = races(Path(name), "named", 25)
        rows["--overwrite, killed at a random moment"] = overwriting(run, data, 15, draw)
    write("runs", rows, seed=0)


if __name__ == "__main__":
    main()
