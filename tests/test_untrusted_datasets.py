"""Datasets that somebody else made, badly or with intent: nothing in them runs, and each is refused in one line."""

import fcntl
import json
import os
import pickle
import resource
import shutil
import subprocess
import threading
import warnings
import zlib
from contextlib import contextmanager

import gymnasium
import h5py
import minari
import numpy as np
import pytest
import toy  # noqa: F401  (a task of it is named below, and that it is imported is not what is tried)
from conftest import ROOT, command
from gymnasium.envs.registration import EnvSpec
from minari.data_collector import EpisodeBuffer
from test_demos import minari_folder

import adapt
import train
from envs import datasets, recording
from envs.demos import DATASET_ID, demonstrations, load
from envs.recording import check_episode
from envs.worker import Episode
from plumbing.cli import BadInput

ID, STEPS = "lab/push/human-v0", 5
BOX = json.dumps({"type": "Box", "dtype": "float32", "shape": [39]})
NUMBERS = [str(i) for i in range(101)]
ACTIONS = json.dumps({"type": "Box", "dtype": "float32", "shape": [4]})


def plant(data_dir, name=ID, change=lambda file: None, **metadata):
    """A dataset of two episodes of push, written by hand as Minari lays it out; then `change` has the HDF5 file."""
    folder = data_dir / name / "data"
    folder.mkdir(parents=True)
    about = {"total_episodes": 2, "data_format": "hdf5", "observation_space": BOX, "action_space": ACTIONS, **metadata}
    (folder / "metadata.json").write_text(json.dumps({k: v for k, v in about.items() if v is not None}))
    with h5py.File(folder / "main_data.hdf5", "w") as file:
        for i in range(2):
            file[f"episode_{i}/observations"] = np.random.default_rng(i).standard_normal((STEPS + 1, 39))
            file[f"episode_{i}/actions"] = np.full((STEPS, 4), 0.5, np.float32)
        change(file)
    return folder


def evil_spec(mark):
    """An environment whose making writes a file."""
    spec = {"id": "evil-v0", "entry_point": "os:system", "kwargs": {"command": f"touch {mark}"}}
    return json.dumps(spec | {"vector_entry_point": "os:system", "additional_wrappers": []})


class Payload:
    """Unpickled, it writes a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


# ------------------------------------------------------------------------------------------------ nothing runs


@pytest.fixture
def evil(tmp_path):
    """(metadata that name a program, the file that it would write)"""
    mark = tmp_path / "planted"
    with pytest.raises(Exception), warnings.catch_warnings():  # noqa: B017  (a number is no environment)
        warnings.simplefilter("ignore")
        gymnasium.make(EnvSpec.from_json(evil_spec(mark)), disable_env_checker=True)
    assert mark.exists()  # it is a real one: to make the environment is to run it
    mark.unlink()
    yield {"env_spec": evil_spec(mark), "eval_env_spec": evil_spec(mark)}, mark
    assert not mark.exists()


@pytest.mark.parametrize("missing", ["observation_space", "action_space"])
@pytest.mark.parametrize("script,flags", [
    (train, []),
    (train, ["--dataset-id", "lab/{task}/human-v0"]),
    (adapt, ["--run", ROOT / "study" / "core" / "mt6"]),
    (adapt, ["--run", ROOT / "study" / "core" / "mt6", "--dataset-id", "lab/{task}/human-v0"]),
])  # fmt: skip
def test_an_environment_in_the_metadata_is_never_made(evil, tmp_path, script, flags, missing):
    for name in (ID, DATASET_ID.format(task="push")):
        plant(tmp_path / "data", name, **evil[0] | {missing: None})
    with pytest.raises(BadInput, match=f"does not say its {missing}, and no environment is made"):
        command(script, "--tasks", "push", *flags, "--data-dir", tmp_path / "data", "--out", tmp_path / "run",
                "--device", "cpu", "--demos-per-task", 2)  # fmt: skip
    assert not (tmp_path / "run" / "config.json").exists()


def test_nor_where_nothing_is_missing(evil, tmp_path):
    plant(tmp_path, **evil[0])
    assert len(load("push", ID, 2, tmp_path)) == 2


def attributes(payload):
    def change(file):
        for place in (file, file["episode_0"], file["episode_0/actions"]):
            place.attrs["env_spec"] = place.attrs["options"] = payload

    return change


def test_what_stands_in_attributes_is_not_looked_at(tmp_path):
    mark = tmp_path / "planted"
    payload = np.void(pickle.dumps(Payload(mark)))
    plant(tmp_path, change=attributes(payload))
    assert len(load("push", ID, 2, tmp_path)) == 2 and not mark.exists()
    pickle.loads(payload.tobytes())
    assert mark.exists()  # it would have


# ------------------------------------------------------------------------------------------------ HDF5


def put(path, **settings):
    """Replaces an array of the file by another."""

    def change(file):
        del file[path]
        file.create_dataset(path, **settings)

    return change


def link(path, target):
    def change(file):
        del file[path]
        file[path] = target

    return change


def elsewhere(file):
    """An array whose numbers are another file's bytes."""
    del file["episode_1/actions"]
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_external(b"/etc/hostname", 0, 4 * 4 * STEPS)
    space = h5py.h5s.create_simple((STEPS, 4))
    h5py.h5d.create(file["episode_1"].id, b"actions", h5py.h5t.IEEE_F32LE, space, settings)


def virtual(file):
    del file["episode_1/actions"]
    layout = h5py.VirtualLayout((STEPS, 4), np.float32)
    layout[:] = h5py.VirtualSource("other.hdf5", "actions", (STEPS, 4))
    file.create_virtual_dataset("episode_1/actions", layout)


def plugin(file):
    """Compressed by a program library that HDF5 would look for."""
    del file["episode_1/actions"]
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_chunk((STEPS, 4))
    settings.set_filter(32015, h5py.h5z.FLAG_OPTIONAL)
    space = h5py.h5s.create_simple((STEPS, 4))
    h5py.h5d.create(file["episode_1"].id, b"actions", h5py.h5t.IEEE_F32LE, space, settings)


def many(file):
    """Small on the disk, and large in memory: the same array over and over."""
    file.create_dataset("zeros", (90_000, 39, 200), np.float64, chunks=(10, 39, 200), compression="gzip")
    link("episode_1/observations", file["zeros"])(file)


def overfull(file):
    """A block of 16 bytes a step, and in it twice as many and five more."""
    put("episode_1/actions", shape=(STEPS, 4), dtype="f4", chunks=(STEPS, 4), compression="gzip")(file)
    file["episode_1/actions"].id.write_direct_chunk((0, 0), zlib.compress(bytes(2 * 16 * STEPS + 5)))


def twice(file):
    """What is packed is packed again."""
    del file["episode_1/actions"]
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_chunk((STEPS, 4))
    for _ in range(2):
        settings.set_filter(h5py.h5z.FILTER_DEFLATE, 0, (9,))
    space = h5py.h5s.create_simple((STEPS, 4))
    h5py.h5d.create(file["episode_1"].id, b"actions", h5py.h5t.IEEE_F32LE, space, settings)


@pytest.mark.parametrize("change,words", [
    (overfull, "actions unpacks to more than its blocks hold"),
    (twice, "is compressed in a way that is not read"),
    (link("episode_1/actions", h5py.SoftLink("/episode_0/actions")), "'actions' in /episode_1 is a link"),
    (link("episode_1", h5py.ExternalLink("other.hdf5", "/episode_1")), "'episode_1' in / is a link"),
    (link("episode_1", h5py.SoftLink("/episode_1")), "is a link"),
    (virtual, "keeps its numbers in other files"),
    (elsewhere, "keeps its numbers in other files"),
    (plugin, "is compressed in a way that is not read"),
    (put("episode_1/actions", data=["rm -rf"] * STEPS), "must hold numbers, not object"),
    (put("episode_1/actions", data=np.void(pickle.dumps("x"))), "must hold numbers, not"),
    (put("episode_1/actions", shape=(STEPS, 4), dtype=h5py.ref_dtype), "must hold numbers, not object"),
    (put("episode_1/actions", shape=(STEPS,), dtype=np.dtype([("x", "f4", 4)])), "must hold numbers, not"),
    (put("episode_1/actions", shape=(STEPS, 4), dtype=np.complex64), "must hold numbers, not complex64"),
    (put("episode_1/actions", data=np.float32(1)), r"has shape \(\): there must be"),
    (put("episode_1/actions", data=h5py.Empty("f4")), "has shape None: there must be"),
    (put("episode_1/actions", shape=(10**12, 4), dtype="f4", chunks=(99, 4)), "1 to 100,000 steps"),
    (put("episode_1/actions", shape=(STEPS, 4), dtype="f4", chunks=(10**8, 4), maxshape=(None, 4), compression="gzip"),
     "2 episodes have 1,6[0-9,]+ bytes, more than"),
    (many, "2 episodes have 5,6[0-9,]+ bytes, more than"),
    (lambda file: file.pop("episode_1/actions"), "/episode_1 has no 'actions'"),
    (lambda file: file.pop("episode_1"), "/ has no 'episode_1'"),
    (link("episode_1", np.zeros(3)), "/episode_1 must be a group"),
    (lambda file: (file.pop("episode_1/actions"), file.create_group("episode_1/actions")), "must be an array"),
])  # fmt: skip
def test_only_plain_numbers_in_this_file_are_read(tmp_path, monkeypatch, change, words):
    plant(tmp_path, change=change)
    monkeypatch.setattr(datasets, "_rows", lambda *_: pytest.fail("read before it was checked"))
    monkeypatch.setattr(datasets, "MOST_BYTES", 10**9)  # a block of more than 4 GB cannot be made
    with pytest.raises(BadInput, match=words) as refused:
        load("push", ID, 2, tmp_path)
    assert "\n" not in str(refused.value) and str(refused.value).startswith(f"dataset '{ID}'")


def test_other_plain_numbers_and_compressions_are_read(tmp_path):
    numbers = np.arange(STEPS * 4).reshape(STEPS, 4) % 2

    def change(file):
        put("episode_0/actions", data=numbers.astype(np.int8), compression="gzip", shuffle=True, fletcher32=True)(file)
        put("episode_1/actions", data=numbers.astype(bool), compression="lzf")(file)

    plant(tmp_path, change=change)
    for episode in load("push", ID, 2, tmp_path):
        assert np.array_equal(episode["actions"], numbers) and episode["actions"].dtype == np.float32


def test_pictures_are_what_minari_makes_of_them(tmp_path):
    """JPEG, one length for all or a length each."""
    shape, noise = (40, 48, 3), np.random.default_rng(0).integers(0, 256, (3, 40, 48, 3), np.uint8)
    space = gymnasium.spaces.Dict({"camera": gymnasium.spaces.Box(0, 255, shape, np.uint8)})
    buffers = [
        EpisodeBuffer(id=i, observations={"camera": pictures}, actions=np.zeros((2, 4), np.float32), rewards=[0.0] * 2,
                      terminations=[False] * 2, truncations=[False, True])
        for i, pictures in enumerate([noise, np.zeros_like(noise)])
    ]  # fmt: skip
    with minari_folder(tmp_path), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = minari.create_dataset_from_buffers(ID, buffers, observation_space=space,
                                                  action_space=gymnasium.spaces.Box(-1, 1, (4,)))  # fmt: skip
        theirs = [episode.observations["camera"] for episode in made.iterate_episodes()]
    mine = datasets.read(datasets.find(ID, tmp_path), 2)
    for episode, pictures in zip(mine, theirs, strict=True):
        assert pictures.shape == (3, *shape) and np.array_equal(episode["observations"]["camera"], pictures)
    metadata = tmp_path / ID / "data" / "metadata.json"
    metadata.write_text(metadata.read_text().replace("[40, 48, 3]", "[48, 40, 3]"))
    with pytest.raises(BadInput, match=r"has a picture of size \(48, 40\), and metadata.json says \(48, 40, 3\)"):
        datasets.read(datasets.find(ID, tmp_path), 2)


def test_pictures_that_are_no_bytes_are_refused():
    """In 0..1 they would be learned, and 0..255 be seen."""
    pictures, actions, shapes = np.zeros((3, 3, 40, 48)), np.zeros((2, 1), np.float32), {"camera": (3, 40, 48)}
    check_episode("dataset", {"camera": pictures.astype(np.uint8)}, actions, shapes, (1,))
    with pytest.raises(BadInput, match="observations 'camera' are pictures, and must be uint8, 0 to 255, not float64"):
        check_episode("dataset", {"camera": pictures}, actions, shapes, (1,))


# ------------------------------------------------------------------------------------------------ metadata, files


def box(*shape, **more):
    return json.dumps({"type": "Box", "shape": shape, **more})


@pytest.mark.parametrize("metadata,words", [
    ({"total_episodes": "2"}, "total_episodes must be a number of episodes, got '2'"),
    ({"total_episodes": True}, "total_episodes must be a number of episodes, got True"),
    ({"total_episodes": -1}, "total_episodes must be a number of episodes, got -1"),
    ({"total_episodes": None}, "total_episodes must be a number of episodes, got None"),
    ({"total_episodes": 1}, "holds 1 episodes, 2 are needed"),
    ({"data_format": "arrow"}, "data_format must be 'hdf5', got 'arrow'"),
    ({"observation_space": box()}, "observation_space must be a Box with at least one dimension"),
    ({"observation_space": box("39")}, "observation_space must be a Box with"),
    ({"observation_space": box(0)}, "observation_space must be a Box with"),
    ({"observation_space": json.dumps({"type": "Discrete", "n": 9})}, "observation_space must be a Box with"),
    ({"observation_space": json.dumps({"type": "Text", "charset": "a"})}, "observation_space must be a Box with"),
    ({"observation_space": json.dumps({"type": "Dict", "subspaces": {}})}, "observation_space must be a Box with"),
    ({"observation_space": json.dumps({"type": "Dict", "subspaces": {"a/../b": json.loads(BOX)}})}, "must be a Box"),
    ({"observation_space": json.dumps({"type": "Dict", "subspaces": dict.fromkeys(("", "a"), json.loads(BOX))})},
     "observation_space must be a Box with"),
    ({"observation_space": json.dumps({"type": "Dict", "subspaces": dict.fromkeys(NUMBERS, json.loads(BOX))})},
     "observation_space must be a Box with"),
    ({"observation_space": json.dumps({"type": "Dict", "subspaces": [1]})}, "observation_space must be a Box with"),
    ({"observation_space": "[" * 10**6}, "observation_space must be a Box with"),
    ({"observation_space": "import os"}, "observation_space must be a Box with"),
    ({"observation_space": 7}, "observation_space must be a Box with"),
    ({"observation_space": box(40)}, r"has shape \(6, 39\), and metadata.json says \(steps, 40,\)"),
    ({"observation_space": box(9**99)}, "2 episodes have .* bytes, more than"),
    ({"observation_space": json.dumps({"type": "Dict", "subspaces": {"a": json.loads(BOX)}})}, "must be a group"),
    ({"action_space": json.dumps({"type": "Dict", "subspaces": {"a": json.loads(BOX)}})}, "must be a Box, not a Dict"),
])  # fmt: skip
def test_metadata_are_checked_as_data(tmp_path, metadata, words):
    plant(tmp_path, **metadata)
    with pytest.raises(BadInput, match=words) as refused:
        load("push", ID, 2, tmp_path)
    assert len(str(refused.value)) < 500 + len(str(tmp_path))


@pytest.mark.parametrize("file", datasets.FILES)
@pytest.mark.parametrize("how,words", [
    (lambda path, out: path.mkdir(), "is no file"),
    (lambda path, out: os.mkfifo(path), "is no file"),
    (lambda path, out: path.symlink_to(path), "a dataset's file|Too many levels|is no file|cannot read"),
    (lambda path, out: path.symlink_to(out), "leads out of"),
    (lambda path, out: path.write_bytes(b"\xff\x00 nothing that is known"), "is damaged|cannot be read"),
    (lambda path, out: path.write_bytes(b""), "is damaged|cannot be read"),
    (lambda path, out: path.write_text("[]"), "must hold an object|cannot be read"),
    (lambda path, out: None, "is damaged: it has no (metadata.json|main_data.hdf5)"),
])  # fmt: skip
def test_other_things_in_place_of_a_file(tmp_path, file, how, words):
    path, out = plant(tmp_path / "data") / file, tmp_path / "outside"
    shutil.copy(path, out)  # a good one, but not in the data folder
    path.unlink()
    how(path, out)
    with pytest.raises(BadInput, match=words):
        load("push", ID, 2, tmp_path / "data")


@pytest.mark.parametrize("dataset_id", [
    "../outside/{task}/human-v0", "/etc/{task}", "lab/{task}/../{task}/human-v0", "{task}\0", "~/{task}",
    "{task}" * 50_000, "linked/{task}/human-v0", "circle/{task}", ["{task}"], 7,
])  # fmt: skip
def test_ids_stay_in_the_data_folder(tmp_path, dataset_id):
    """They come from the command line, or from the config.json of somebody's run."""
    plant(tmp_path / "outside", "push/human-v0")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "outside")
    (tmp_path / "data" / "circle").symlink_to(tmp_path / "data" / "circle")
    with pytest.raises(BadInput) as refused:
        demonstrations(["push"], 2, tmp_path / "data", dataset_id)
    assert len(str(refused.value)) < 400 + 2 * len(str(tmp_path))


def test_a_data_folder_that_is_none(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for folder in ("file", "file/in-it", "circle", "x" * 300):
        with pytest.raises(BadInput, match="cannot use --data-dir"):
            demonstrations(["push"], 2, tmp_path / folder)


# ------------------------------------------------------------------------------------------------ numbers


def test_actions_beyond_the_range_are_clipped_and_counted(tmp_path, capsys):
    actions = np.full((STEPS, 4), 0.5)
    actions[1, 2], actions[3], actions[4, 0] = -1.25, 7, 1
    plant(tmp_path, change=put("episode_1/actions", data=actions))
    episodes = load("push", ID, 2, tmp_path)
    assert np.array_equal(episodes[1]["actions"], np.clip(actions, -1, 1)) and (episodes[0]["actions"] == 0.5).all()
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and "no checksums" in said[0]
    assert "2 of 10 actions lie beyond what 'push' takes, up to" in said[1]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("path,words", [("actions", "actions"), ("observations", "observations 'goal'")])
def test_numbers_that_are_not_finite_are_refused(tmp_path, recwarn, value, path, words):
    rows = np.zeros((STEPS, 4) if path == "actions" else (STEPS + 1, 39))
    rows[2, -1] = value
    plant(tmp_path, change=put(f"episode_1/{path}", data=rows))
    with pytest.raises(BadInput, match=f"episode 1: {words} contain NaN or infinite values"):
        load("push", ID, 2, tmp_path)
    assert not recwarn.list


# ------------------------------------------------------------------------------------------------ what we store


TASK, OURS = "toy:Point-v0", "fdp/toy-Point-v0/expert-v0"


def play(count, steps=20):
    """Episodes as simulators return them."""
    made = []
    for seed in range(count):
        random = np.random.default_rng(seed)
        seen = [{part: random.uniform(-1, 1, 2) for part in ("point", "goal")} for _ in range(steps + 1)]
        actions = list(random.uniform(-0.05, 0.05, (steps, 2)).astype(np.float32))
        made.append(Episode(TASK, seed, observations=seen, actions=actions, executed=actions, rewards=[0.0] * steps,
                            phases=[[0, 0, 0]] * steps))  # fmt: skip
    return made


@pytest.fixture
def store(tmp_path, monkeypatch):
    """The real thing, except that nothing has to be simulated."""
    monkeypatch.setattr(
        recording, "collect", lambda tasks, count, *where: recording._store(TASK, play(count), count, *where)
    )
    return tmp_path


def same(one, other) -> bool:
    return all(
        np.array_equal(a["actions"], b["actions"])
        and all(np.array_equal(a["observations"][part], b["observations"][part]) for part in ("point", "goal"))
        for a, b in zip(one, other, strict=True)
    )


def test_a_flipped_bit_is_noticed(store, monkeypatch, capsys):
    right = demonstrations([TASK], 3, store)[TASK]
    for episode, played in zip(right, play(3), strict=True):
        for part, rows in episode["observations"].items():
            assert np.array_equal(rows, np.float32([seen[part] for seen in played.observations]))
        assert np.array_equal(episode["actions"], np.stack(played.actions))
    assert "checksum" not in capsys.readouterr().err
    monkeypatch.setattr(recording, "collect", lambda *_: pytest.fail("recorded again instead"))
    random, refused = np.random.default_rng(0), 0
    for file in (*datasets.FILES, datasets.CHECKSUMS):
        path = store / OURS / "data" / file
        good = path.read_bytes()
        for _ in range(20):
            damaged = bytearray(good)
            damaged[random.integers(len(good))] ^= 1 << random.integers(8)
            path.write_bytes(damaged)
            try:
                assert same(demonstrations([TASK], 3, store)[TASK], right)
            except BadInput as error:
                assert "is damaged" in str(error)
                refused += 1
        path.write_bytes(good)
    assert refused >= 58 and same(demonstrations([TASK], 3, store)[TASK], right)


def test_older_ones_without_checksums_still_load(store, monkeypatch, capsys):
    right = demonstrations([TASK], 3, store)[TASK]
    (store / OURS / "data" / datasets.CHECKSUMS).unlink()
    monkeypatch.setattr(recording, "collect", lambda *_: pytest.fail("recorded again instead"))
    assert same(demonstrations([TASK], 3, store)[TASK], right) and "checksum" not in capsys.readouterr().err


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="the usual tool is not here")
def test_the_usual_tool_makes_and_checks_checksums(store, capsys):
    folder = plant(store)
    load("push", ID, 2, store)
    assert "has no checksums" in capsys.readouterr().err
    subprocess.run("sha256sum main_data.hdf5 metadata.json > SHA256SUMS", shell=True, check=True, cwd=folder)
    load("push", ID, 2, store)
    assert not capsys.readouterr().err
    (folder / "metadata.json").write_text((folder / "metadata.json").read_text() + " ")
    with pytest.raises(BadInput, match="is damaged: its files do not match SHA256SUMS"):
        load("push", ID, 2, store)
    (folder / "main_data.hdf5").unlink()
    with pytest.raises(BadInput, match=f"is damaged: it has no main_data.hdf5. Restore it; .* if {folder.parent} is"):
        load("push", ID, 2, store)
    with pytest.raises(BadInput, match=f"no Minari dataset .lab/push. in .*; there: {ID}"):
        load("push", ID.rpartition("/")[0], 2, store)  # not damaged: a folder of datasets, which must not be deleted
    demonstrations([TASK], 2, store)
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], check=True, cwd=store / OURS / "data")


@contextmanager
def disk_of(size: int):
    """No file may grow beyond this; like a full disk, but for this process only."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 100, 1000, 5_000, 20_000])
def test_a_full_disk_is_one_line_and_leaves_what_was_there(store, monkeypatch, size):
    right = demonstrations([TASK], 2, store)[TASK]
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    collect = recording.collect

    def without_room(*arguments):
        with disk_of(size):
            collect(*arguments)

    monkeypatch.setattr(recording, "collect", without_room)
    with pytest.raises(BadInput, match="cannot write demonstrations to .*: File too large"):
        demonstrations([TASK], 3, store)
    assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == before
    assert not list(store.glob(".*")) and same(demonstrations([TASK], 2, store)[TASK], right)


def test_what_killed_processes_leave_is_swept_but_not_what_is_being_written(store):
    rest = store / ".collecting-dead" / "new" / "data"
    rest.mkdir(parents=True)
    (rest / "main_data.hdf5").touch()
    with recording.lock(store, fcntl.LOCK_EX) as given:
        assert given
        other = threading.Thread(target=demonstrations, args=([TASK], 2, store))
        other.start()
        other.join(0.3)
        assert other.is_alive() and rest.exists()  # it waits: somebody is writing
    other.join(20)
    assert not other.is_alive() and not list(store.glob(".*")) and len(demonstrations([TASK], 2, store)[TASK]) == 2


def test_two_that_record_the_same_do_not_disturb_each_other(store):
    """Each gets what it asked for, and what remains is the larger one."""
    got, counts = {}, [2, 5, 3, 5, 4, 1]
    threads = [
        threading.Thread(target=lambda i, n: got.update({i: demonstrations([TASK], n, store)[TASK]}), args=pair)
        for pair in enumerate(counts)
    ]
    [thread.start() for thread in threads]
    [thread.join(60) for thread in threads]
    assert [len(got[i]) for i in range(len(counts))] == counts
    assert same(demonstrations([TASK], 5, store)[TASK][:4], got[4]) and not list(store.glob(".*"))
