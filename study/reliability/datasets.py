"""Datasets of others, damaged ones, full disks, kills, races: does anything run, get lost, or load as something else?

    python study/reliability/datasets.py [--flips 350] [--times 40]     # five minutes

Payloads go through the real commands. The rest happens in processes of its own, each of which may crash: a dataset is
changed, then loaded as train.py loads it. Storing is the real thing with episodes that need no simulator, except in
the rows that say so.
"""

import argparse
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
import h5py  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from test_untrusted_datasets import (  # noqa: E402
    OURS,
    STEPS,
    TASK,
    Payload,
    attributes,
    elsewhere,
    evil_spec,
    link,
    many,
    plant,
    play,
    plugin,
    put,
    same,
    virtual,
)  # fmt: skip

from envs import datasets, demos, recording, tasks  # noqa: E402
from envs.demos import demonstrations, drawn  # noqa: E402
from plumbing.cli import BadInput, say  # noqa: E402
from study.reliability.table import row, write  # noqa: E402

FORK = get_context("fork")
DAY = 86_400
GOOD, REFUSED, CHANGED, CRASHED = "as before", "refused in one line", "other numbers", "crashed"


def apart(work: Callable[[], str], seconds: float = 60) -> str:
    """What work() answers, in a process of its own, which may crash, or not come back."""
    receiving, sending = FORK.Pipe(duplex=False)

    def child():
        sys.stderr = sys.stdout = open(os.devnull, "w")
        try:
            answer = work()
        except BadInput as error:
            answer = REFUSED if "\n" not in str(error) else f"{CRASHED}: several lines: {error}"
        except BaseException:
            answer = f"{CRASHED}: {traceback.format_exc()}"
        sending.send(answer)

    process = FORK.Process(target=child)
    process.start()
    sending.close()
    try:
        return receiving.recv() if receiving.poll(seconds) else f"{CRASHED}: no answer in {seconds} s"
    except EOFError:
        process.join()
        return f"{CRASHED}: exit code {process.exitcode}"
    finally:
        process.kill()
        process.join()


def result(tried: list[str], promise: str, allowed: tuple[str, ...], **more) -> dict:
    wrong = [answer for answer in tried if answer not in allowed]
    for answer in wrong:
        say(f"{promise}: {answer[:100]} ... {answer[-200:]}")
    counts = {answer: tried.count(answer) for answer in allowed}
    return row(len(tried), len(tried) - len(wrong), promise, answers=counts, failures=wrong[:10], **more)


# ------------------------------------------------------------------------------------------------ payloads, limits


def payloads(folder: Path) -> dict:
    """Metadata and HDF5 files with something to run in them, through the commands that a user gives."""
    mark = folder / "planted"
    spec, pickled = evil_spec(mark), np.void(pickle.dumps(Payload(mark)))
    strings = h5py.string_dtype()
    kinds = {  # what is planted -> (metadata, change of the HDF5 file, whether it is ignored and training goes on)
        "no observation_space": ({"env_spec": spec, "observation_space": None}, None, False),
        "no action_space": ({"env_spec": spec, "action_space": None}, None, False),
        "all spaces": ({"env_spec": spec, "eval_env_spec": spec}, None, True),
        "attributes": ({}, attributes(pickled), True),
        "pickle as array": ({}, put("episode_0/actions", data=pickled), False),
        "objects": ({}, put("episode_0/actions", data=[pickle.dumps(Payload(mark), 0)] * STEPS, dtype=strings), False),
        "link to a file": ({}, link("episode_0/actions", h5py.ExternalLink(str(mark), "/x")), False),
    }
    ways = {"train.py": [], "train.py --dataset-id": ["--dataset-id", "lab/{task}/human-v0"],
            "adapt.py": ["--run", "study/core/mt6"]}  # fmt: skip
    tried = []
    for kind, (metadata, change, goes_on) in kinds.items():
        for way, flags in ways.items():
            data = folder / "data"
            name = "lab/push/human-v0" if "--dataset-id" in way else "fdp/push/expert-v0"
            plant(data, name, change or (lambda file: None), **metadata)
            script, *rest = [way.split()[0], "--tasks", "push", *flags, "--data-dir", data, "--out", folder / "run"]
            rest += ["--steps", 2, "--demos-per-task", 2, "--batch-size", 4, "--eval-episodes", 0, "--device", "cpu"]
            done = subprocess.run([sys.executable, script, *map(str, rest)], cwd=ROOT, capture_output=True, text=True)
            one_line = done.stderr.count("\n") == 1 and done.stderr.startswith("error: dataset")
            right = done.returncode == 0 if goes_on else done.returncode == 2 and one_line
            answer = (GOOD if goes_on else REFUSED) if right and not mark.exists() else f"{CRASHED}: {kind}, {way}"
            tried.append(answer if answer in (GOOD, REFUSED) else f"{answer}: {done.stderr[-300:]}")
            for rest in (data, folder / "run"):
                shutil.rmtree(rest, ignore_errors=True)
    return result(tried, "nothing of it runs; ignored, or refused in one line", (GOOD, REFUSED))


def limits(folder: Path) -> dict:
    """Small files that claim to be large, and numbers that lie in other files. A child may grow by 100 MB."""
    kinds = [
        many, virtual, elsewhere, plugin,
        put("episode_1/actions", shape=(10**12, 4), dtype="f4", chunks=(99, 4)),
        put("episode_1/actions", shape=(90_000, 10**6), dtype="f4", chunks=(9, 10**6), compression="gzip"),
        put("episode_1/actions", shape=(STEPS, 4), dtype="f4", chunks=(2**27, 4), maxshape=(None, 4)),
        link("episode_1", h5py.SoftLink("/episode_0")), link("episode_1", h5py.SoftLink("/episode_1")),
        link("episode_1", h5py.ExternalLink("main_data.hdf5", "/episode_0")),
    ]  # fmt: skip
    spaces = [
        '{"type": "Box", "shape": []}',
        '{"type": "Box", "shape": [1e99]}',
        "[" * 10**6,
        '"' + "x" * 10**6,
        "9" * 10**6,
    ]

    def work() -> str:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            return read()
        finally:
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
            assert grown < 100, f"it took {grown} MB"

    def read() -> str:
        demos.load("push", "lab/push/human-v0", 2, folder / "data")
        return GOOD

    tried = []
    for change, metadata in [(k, {}) for k in kinds] + [(None, {"observation_space": s}) for s in spaces]:
        plant(folder / "data", "lab/push/human-v0", change or (lambda file: None), **metadata)
        tried.append(apart(work))
        shutil.rmtree(folder / "data")
    return result(tried, "refused in one line, before 100 MB are taken", (REFUSED,))


# ------------------------------------------------------------------------------------------------ damage


def flips(folder: Path, times: int, random: np.random.Generator, sealed: bool) -> dict:
    """One bit of one file each, the file drawn by its size or, every second time, as one of them."""
    data, whole, tried = folder / "data", folder / "whole", []
    right = demonstrations([TASK], 3, data)[TASK]
    if not sealed:
        (data / OURS / "data" / datasets.CHECKSUMS).unlink()
    data.rename(whole)

    def work() -> str:
        return GOOD if same(demonstrations([TASK], 3, data)[TASK], right) else CHANGED

    paths = sorted((whole / OURS / "data").iterdir())
    sizes = np.array([path.stat().st_size for path in paths])
    for i in range(times):
        shutil.copytree(whole, data)
        path = data / paths[random.choice(len(paths), p=sizes / sizes.sum() if i % 2 else None)].relative_to(whole)
        damaged = bytearray(path.read_bytes())
        damaged[random.integers(len(damaged))] ^= 1 << random.integers(8)
        path.write_bytes(damaged)
        tried.append(apart(work, 20))
        shutil.rmtree(data)
    shutil.rmtree(whole)
    if sealed:
        return result(tried, "the same numbers, or refused in one line", (GOOD, REFUSED))
    return result(tried, "no crash; other numbers are not noticed", (GOOD, REFUSED, CHANGED))


# ------------------------------------------------------------------------------------------------ storing


def files_in(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def full_disks(folder: Path, times: int, random: np.random.Generator) -> dict:
    """The disk gets full at a random size of a file, while three episodes replace two."""
    data, tried = folder / "data", []
    demonstrations([TASK], 3, data)
    largest = (data / OURS / "data" / "main_data.hdf5").stat().st_size
    shutil.rmtree(data)
    right = demonstrations([TASK], 2, data)[TASK]
    before = files_in(data)

    def work() -> str:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        demonstrations([TASK], 3, data)
        return GOOD

    for _ in range(times):
        room = int(random.integers(largest))
        answer = apart(work)
        whole = files_in(data) == before and not list(data.glob(".*"))
        whole = whole and same(demonstrations([TASK], 2, data)[TASK], right)
        tried.append(answer if whole else f"{CRASHED}: {room}: not as before: {sorted(files_in(data))}")
    shutil.rmtree(data)
    return result(tried, "one line, no crash, nothing left behind, the old dataset is whole", (REFUSED,))


def full_disks_for_real(folder: Path, times: int, random: np.random.Generator) -> dict:
    """As above, with train.py and simulators."""
    tried = []
    for _ in range(times):
        room, data = int(random.integers(1_000, 120_000)), folder / "data"  # three episodes of reach have 140 kB
        words = ["train.py", "--tasks", "reach", "--demos-per-task", 3, "--steps", 1, "--batch-size", 4,
                 "--device", "cpu", "--eval-episodes", 0, "--data-dir", data, "--out", folder / "run"]  # fmt: skip
        done = subprocess.run(
            [sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True,
            preexec_fn=lambda room=room: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
        )  # fmt: skip
        last = done.stderr.strip().splitlines()[-1]
        right = done.returncode == 2 and last.startswith("error: cannot write demonstrations") and not files_in(data)
        tried.append(
            REFUSED if right and not list(data.glob(".*")) else f"{CRASHED}: {room}: {done.returncode}: {last}"
        )
        for rest in (data, folder / "run"):
            shutil.rmtree(rest, ignore_errors=True)
    return result(tried, "exit code 2 and one line, nothing left behind", (REFUSED,))


def kills(folder: Path, times: int, random: np.random.Generator) -> dict:
    """kill -9 while datasets are stored one after the other. Each is whole or absent; the rest is swept later."""
    tried, swept, data = [], 0, folder / "data"
    draws = range(19)

    def store() -> None:
        data.mkdir()
        sending.send("begun")
        for draw in draws:
            recording._store(TASK, play(40, 150), 40, data, draw)
        time.sleep(DAY)

    def work() -> str:
        if not same(demonstrations([TASK], 40, data)[TASK], right) or list(data.glob(".collecting-*")):
            return CHANGED
        found = [draw for draw in draws if (data / recording.dataset_name(TASK, drawn(draw))).exists()]
        found = [demos.load(TASK, recording.dataset_name(TASK, drawn(draw)), 40, data) for draw in found]
        return GOOD if all(same(episodes, right) for episodes in found) else CHANGED

    right = demonstrations([TASK], 40, data)[TASK]
    for _ in range(times):
        shutil.rmtree(data)
        receiving, sending = FORK.Pipe(duplex=False)
        process = FORK.Process(target=store)
        process.start()
        receiving.recv()
        time.sleep(random.uniform(0, 1.5))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        swept += bool(list(data.glob(".collecting-*")))
        tried.append(apart(work))
    shutil.rmtree(data)
    return result(tried, "whole or absent; leftovers swept at the next start", (GOOD,), times_something_was_left=swept)


def races(folder: Path, times: int, random: np.random.Generator, task: str = TASK) -> dict:
    """Four processes ask for the same dataset at once, for different counts: some replace what others read."""
    tried, data = [], folder / "data"
    right = demonstrations([task], 9, data)[task]
    for _ in range(times):
        shutil.rmtree(data)
        counts = random.permutation([2, 4, 6, 9]).tolist()

        def work(receiving, sending, count) -> None:
            sys.stderr = open(os.devnull, "w")
            try:
                sending.send(equal(demonstrations([task], count, data)[task], right[:count]))
            except BaseException:
                sending.send(traceback.format_exc())

        pipes = [FORK.Pipe(duplex=False) for _ in counts]
        processes = [FORK.Process(target=work, args=(*pipe, n)) for pipe, n in zip(pipes, counts, strict=True)]
        for process in processes:
            process.start()
        answers = [receiving.recv() if receiving.poll(120) else "no answer" for receiving, _ in pipes]
        for process in processes:
            process.join()
        rest = [str(path) for path in data.glob(".*")]
        whole = datasets.find(recording.dataset_name(task, drawn(0)), data).metadata["total_episodes"] == 9
        whole = whole and equal(demonstrations([task], 9, data)[task], right)
        fine = not rest and whole and all(answer is True for answer in answers)
        tried.append(GOOD if fine else f"{CRASHED}: {answers} {rest}")
    shutil.rmtree(data)
    return result(tried, "each gets its episodes, the largest remains, nothing is left behind", (GOOD,))


def equal(one: list[dict], other: list[dict]) -> bool:
    """As the test's `same`, for parts of any names."""
    return len(one) == len(other) and all(
        np.array_equal(a["actions"], b["actions"])
        and all(np.array_equal(rows, b["observations"][part]) for part, rows in a["observations"].items())
        for a, b in zip(one, other, strict=True)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=350, help="bits (default: %(default)s)")
    parser.add_argument(
        "--times", type=int, default=40, help="of the others; simulated: a quarter (default: %(default)s)"
    )
    flags = parser.parse_args()
    torch.set_num_threads(1)  # a forked process has none of its parent's threads
    random, rows, simulated = np.random.default_rng(0), {}, recording.collect
    tasks.spaces(TASK)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows["something to run in a dataset, three ways in"] = payloads(folder)
        rows["small files that claim to be large, numbers elsewhere"] = limits(folder)
        rows["simulated: disk full while demonstrations are stored"] = full_disks_for_real(
            folder, flags.times // 4, random
        )
        rows["simulated: four record the same task at once"] = races(folder, flags.times // 10, random, "reach")
        recording.collect = lambda tasks, count, *where: recording._store(TASK, play(count, 150), count, *where)
        rows["a bit flipped, in a dataset with checksums"] = flips(folder, flags.flips, random, True)
        rows["a bit flipped, in one of ours without"] = flips(folder, flags.flips, random, False)
        rows["disk full while a dataset is replaced"] = full_disks(folder, flags.times, random)
        rows["kill -9 while datasets are stored"] = kills(folder, flags.times, random)
        rows["four store the same dataset at once"] = races(folder, flags.times, random)
        recording.collect = simulated
    write("datasets", rows, seed=0)


if __name__ == "__main__":
    main()
