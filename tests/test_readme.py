"""Every command of the README, run in order through the scripts' own command lines, at the smallest size."""

import re
import shlex

import pytest
from conftest import ROOT, command

import adapt
import evaluate
import train

README = (ROOT / "README.md").read_text()
COMMANDS = [
    shlex.split(line, comments=True)[1:]
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    for line in line.split("&&")
    if line.strip().startswith("python ")
]
SHRINK = {
    "train.py": ["--steps", 2, "--batch-size", 4, "--demos-per-task", 2, "--eval-episodes", 1, "--device", "cpu",
                 "--executed", 8],
    "evaluate.py": ["--episodes", 1, "--device", "cpu"],
    "adapt.py": ["--steps", 2, "--batch-size", 4, "--demos-per-task", 2, "--eval-episodes", 0, "--device", "cpu"],
}  # fmt: skip


def test_every_command_of_the_readme_runs(tmp_path, monkeypatch, data_dir):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(data_dir)  # demonstrations that other tests made already
    (tmp_path / "study").symlink_to(ROOT / "study")  # the trained run that comes with the code
    scripts = {"train.py": train, "evaluate.py": evaluate, "adapt.py": adapt}
    assert {words[0] for words in COMMANDS} == set(scripts), "a command of the README that this test cannot run"
    for script, *flags in COMMANDS:
        flags = [flag for flag in flags if flag != "--compile"]  # minutes of warm-up on a CPU
        # Untrained policies fail for 500 steps an episode, which takes long and, the third time, shows nothing new.
        extra = ["--eval-episodes", 0] if {"base", "monolithic"} & set(flags) else []
        extra += ["--tasks", "reach"] if "--video" in flags else []
        result = command(scripts[script], *flags, *SHRINK[script], *extra)
        assert all((tmp_path / path).exists() for path in result["wrote"]), (script, flags)


@pytest.mark.parametrize("path", [p.name for p in ROOT.glob("*.py")])
def test_the_file_map_names_every_file(path):
    assert f"`{path}`" in README


def test_links_and_pictures_of_the_readme_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target
