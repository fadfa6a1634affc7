"""Other people's demonstrations with pictures: what fits becomes a dataset, what does not is one line."""

import io
import json
import shutil

import numpy as np
import pyarrow
import pytest
from conftest import command
from PIL import Image
from pyarrow import parquet

import train
from envs import demos, from_lerobot, lerobot_files
from envs.from_lerobot import ConvertConfig
from plumbing import opengl, runs
from plumbing.cli import BadInput

LABELS = {"Push the puck to a goal": 0, "Open a drawer": 1}


def picture(value: int, size: int = 128) -> bytes:
    """A grey PNG, but for a red corner."""
    pixels = np.full((size, size, 3), value, np.uint8)
    pixels[: size // 2, : size // 2] = (255, 0, 0)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def rows(episode: int, task: int, n: int = 6) -> list[dict]:
    random = np.random.default_rng(episode)
    goal = random.uniform(-1, 1, 3)
    return [{"episode_index": episode, "frame_index": i, "task_index": task, "index": i, "timestamp": i / 80,
             "observation.image": {"bytes": picture(10 * i), "path": None},
             "observation.environment_state": [*random.uniform(-1, 1, 36), *goal],
             "action": random.uniform(-1, 1, 4).tolist()} for i in range(n)]  # fmt: skip


def write(folder, version: str, episodes: list[list[dict]], **info):
    """A LeRobotDataset as small as can be: v2 has a file for each episode, v3 several episodes in one."""
    (folder / "meta").mkdir(parents=True)
    (folder / "data" / "chunk-000").mkdir(parents=True)
    features = {"observation.image": {"dtype": "image"}, "observation.environment_state": {"dtype": "float32"},
                "action": {"dtype": "float32"}}  # fmt: skip
    (folder / "meta" / "info.json").write_text(json.dumps({"codebase_version": version, "features": features} | info))
    if version.startswith("v2"):
        lines = [json.dumps({"task_index": i, "task": label}) for label, i in LABELS.items()]
        (folder / "meta" / "tasks.jsonl").write_text("\n".join(lines))
        files = {f"episode_{e[0]['episode_index']:06d}": e for e in episodes}
    else:
        columns = {"task_index": list(LABELS.values()), "__index_level_0__": list(LABELS)}
        parquet.write_table(pyarrow.table(columns), folder / "meta" / "tasks.parquet")
        files = {"file-000": sum(episodes[::2], []), "file-001": sum(episodes[1::2], [])}
    for name, content in files.items():
        parquet.write_table(pyarrow.Table.from_pylist(content), folder / "data" / "chunk-000" / f"{name}.parquet")
    return folder


def three(change=lambda episode: None) -> list[list[dict]]:
    episodes = [rows(0, 0), rows(1, 1), rows(2, 0)]
    change(episodes[2])
    return episodes


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_episodes_of_one_label_become_a_dataset_that_trains(version, tmp_path):
    folder = write(tmp_path / "theirs", version, three())
    config = ConvertConfig(str(folder), "push", "Push the puck to a goal", data_dir=str(tmp_path / "data"))
    assert from_lerobot.main(config) == {"dataset": "lerobot/fdp-push-pixels-v3/v0", "episodes": 2}
    if not opengl.find():
        pytest.skip(opengl.INSTALL)
    parts = ("corner", "proprioception")
    task, name = "fdp/push-pixels-v3", "lerobot/{task}/v0"
    (_, last) = demos.demonstrations([task], 2, tmp_path / "data", name, parts=parts)[task]
    theirs = rows(2, 0)
    assert np.allclose(last["actions"], [row["action"] for row in theirs[:-1]], atol=1e-6)
    state = np.array([row["observation.environment_state"] for row in theirs])
    assert np.allclose(last["observations"]["proprioception"][:, 0], state[:, :4], atol=1e-6)
    assert np.allclose(last["observations"]["proprioception"][:, 1], state[:, 18:22], atol=1e-6)
    seen = last["observations"]["corner"]
    assert seen.shape == (6, 3, 64, 64) and seen.dtype == np.uint8
    assert seen[3, :, 0, 0].tolist() == [255, 0, 0] and seen[3, :, 63, 63].tolist() == [30, 30, 30]
    line = ["--tasks", "push", "--observation", "pixels", "--demos-per-task", 2, "--data-dir", tmp_path / "data",
            "--dataset-id", name, "--steps", 2, "--batch-size", 4, "--eval-episodes", 0, "--device", "cpu"]  # fmt: skip
    command(train, *line, "--cameras", "corner", "--out", tmp_path / "run")
    assert set(runs.read_config(tmp_path / "run")["policy_config"]["observation"]) == set(parts)
    with pytest.raises(BadInput, match=r"have parts \['corner', 'proprioception'\], not \['corner', 'wrist', 'prop"):
        command(train, *line, "--out", tmp_path / "both")
    with pytest.raises(BadInput, match="exists: remove it"):
        from_lerobot.main(config)


def test_a_namespace_of_somebody_elses_keeps_its_record_and_a_bad_folder_is_one_line(tmp_path):
    folder = write(tmp_path / "theirs", "v2.1", three())
    record = tmp_path / "data" / "lerobot" / "namespace_metadata.json"
    record.parent.mkdir(parents=True)
    record.write_text('{"author": "somebody"}')
    words = (str(folder), "push", "Push the puck to a goal")
    from_lerobot.main(ConvertConfig(*words, data_dir=str(tmp_path / "data")))
    assert record.read_text() == '{"author": "somebody"}'
    (tmp_path / "file").write_text("")
    for bad in (tmp_path / "file", tmp_path / ("x" * 300)):
        with pytest.raises(BadInput, match="cannot write to --data-dir"):
            from_lerobot.main(ConvertConfig(*words, data_dir=str(bad)))


def broken(what: str):
    def change(episode: list[dict]) -> None:
        if what == "action":
            episode[3]["action"][0] = 1.5
        elif what == "state":
            episode[3]["observation.environment_state"][0] = float("nan")
        elif what == "frame":
            episode[3]["frame_index"] = 9
        elif what == "picture":
            episode[3]["observation.image"]["bytes"] = b"no picture"
        elif what == "large":
            episode[3]["observation.image"]["bytes"] = picture(0, 1030)
        elif what == "goal":
            for row in episode:
                row["observation.environment_state"][36:] = rows(0, 0)[0]["observation.environment_state"][36:]

    return change


@pytest.mark.parametrize("what,message", [
    ("action", "episode 2 has actions up to 1.50, and MetaWorld takes -1 to 1"),
    ("state", "episode 2 has numbers that are not finite"), ("frame", "episode 2 has frames missing"),
    ("picture", "cannot be read: cannot identify image"), ("large", r"a picture of \(1030, 1030\); squares of at most"),
    ("goal", "the goal is the same in all episodes"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(what, message, tmp_path):
    folder = write(tmp_path / "theirs", "v2.1", three(broken(what)))
    with pytest.raises(BadInput, match=message):
        from_lerobot.main(
            ConvertConfig(str(folder), "push", "Push the puck to a goal", data_dir=str(tmp_path / "data"))
        )
    assert not (tmp_path / "data").exists()


def test_more_rows_than_such_a_file_has_are_not_unpacked(tmp_path, monkeypatch):
    folder = write(tmp_path / "theirs", "v2.1", three())
    monkeypatch.setattr(lerobot_files, "MOST_ROWS", 2)
    with pytest.raises(BadInput, match="rows, more than the 2 that are read"):
        from_lerobot.main(
            ConvertConfig(str(folder), "push", "Push the puck to a goal", data_dir=str(tmp_path / "data"))
        )


def test_a_file_that_unpacks_to_more_than_it_may_is_not_unpacked(tmp_path, monkeypatch):
    folder = write(tmp_path / "theirs", "v2.1", three())
    monkeypatch.setattr(lerobot_files, "MOST_BYTES", 1000)
    with pytest.raises(BadInput, match="unpacks to more than 1,000 bytes"):
        from_lerobot.convert(folder, "Push the puck to a goal", 64)


def test_files_that_are_small_and_many_are_counted_together(tmp_path, monkeypatch):
    folder = write(tmp_path / "theirs", "v2.1", three())
    sizes = [
        sum(b.nbytes for b in parquet.ParquetFile(path).iter_batches()) for path in folder.glob("data/*/*.parquet")
    ]
    monkeypatch.setattr(lerobot_files, "MOST_BYTES", max(sizes) + 10)
    with pytest.raises(BadInput, match="unpacks to more than"):
        from_lerobot.convert(folder, "Push the puck to a goal", 64)


@pytest.mark.parametrize("values", [pyarrow.nulls(12), pyarrow.array([True] * 12),
                                    pyarrow.array(["x"] * 12).dictionary_encode()])  # fmt: skip
def test_lists_of_what_takes_no_room_in_a_file_are_not_unpacked(tmp_path, values):
    folder = write(tmp_path / "theirs", "v2.1", three())
    (path, *_) = sorted(folder.glob("data/*/*.parquet"))
    table = parquet.read_table(path)
    lists = pyarrow.ListArray.from_arrays(list(range(0, 13, 2)), values)
    at = table.column_names.index("action")
    parquet.write_table(table.set_column(at, "action", lists), path)
    with pytest.raises(BadInput, match="has a column 'action' of type list<.*, which is not read"):
        from_lerobot.convert(folder, "Push the puck to a goal", 64)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    folder = write(tmp_path / "theirs", "v2.1", three())
    (path, *_) = sorted(folder.glob("data/*/*.parquet"))
    shutil.move(path, tmp_path / "private.parquet")
    path.symlink_to(tmp_path / "private.parquet")
    with pytest.raises(BadInput, match="is a link that leads out of"):
        from_lerobot.convert(folder, "Push the puck to a goal", 64)


def test_what_is_no_such_dataset_is_refused(tmp_path):
    video = {"observation.image": {"dtype": "video"}, "observation.environment_state": {}, "action": {}}
    bare = {"observation.image": {"dtype": "image"}, "action": {}}
    for name, features, message in (("video", video, "must be pictures in columns, not video"),
                                    ("bare", bare, "has no column 'observation.environment_state'")):  # fmt: skip
        folder = write(tmp_path / name, "v3.0", three(), features=features)
        with pytest.raises(BadInput, match=message):
            from_lerobot.main(ConvertConfig(str(folder), "push"))
    folder = write(tmp_path / "labels", "v3.0", three())
    for label in ("", "Shut a drawer"):
        with pytest.raises(BadInput, match="--label must be one of 'Open a drawer', 'Push the puck to a goal', got"):
            from_lerobot.main(ConvertConfig(str(folder), "push", label))
    with pytest.raises(BadInput, match="info.json"):
        from_lerobot.main(ConvertConfig(str(tmp_path / "nowhere"), "push"))
    for tasks, size, message in (("push,reach", 64, "one task, got 2"), ("push", 80, "--size must be one")):
        with pytest.raises(BadInput, match=message):
            from_lerobot.main(ConvertConfig(str(folder), tasks, "Open a drawer", size))
    for text in ("{}", "[]", '{"features": 5}'):
        (tmp_path / "bare/meta/info.json").write_text(text)
        with pytest.raises(BadInput, match="does not list its features"):
            from_lerobot.main(ConvertConfig(str(tmp_path / "bare"), "push"))
    (folder / "data/chunk-000/file-001.parquet").write_bytes(b"PAR1 no parquet")
    with pytest.raises(BadInput, match="cannot be read"):
        from_lerobot.main(ConvertConfig(str(folder), "push", "Open a drawer"))
    shutil.rmtree(folder)
