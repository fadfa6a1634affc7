"""What the README promises: every command and every piece of Python in it runs, every file is named, and it is short.

Commands are run in order, through the scripts' own command lines, at the smallest size.
"""

import json
import re
import shlex

import pytest
from conftest import ROOT, command

import adapt
import evaluate
import skills
import train
from plumbing import opengl
from study.intervals import compare_seeds

README = (ROOT / "README.md").read_text()
COMMANDS = [
    shlex.split(line, comments=True)[1:]
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    for line in line.split("&&")
    if line.strip().startswith("python ")
]
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SHRINK = {
    "train.py": ["--steps", 2, "--batch-size", 4, "--demos-per-task", 2, "--eval-episodes", 1, "--device", "cpu",
                 "--executed", 8],
    "evaluate.py": ["--episodes", 1, "--device", "cpu"],
    "adapt.py": ["--steps", 2, "--batch-size", 4, "--demos-per-task", 2, "--eval-episodes", 0, "--device", "cpu"],
    "skills.py": [],
}  # fmt: skip
# In reading order; anything else has a folder.
CONCEPTS = ["sampler.py", "unet.py", "router.py", "encoder.py", "fdp.py", "train.py", "evaluate.py", "adapt.py",
            "skills.py"]  # fmt: skip


@pytest.fixture
def elsewhere(tmp_path, monkeypatch, data_dir):
    """A folder of its own to write to, with what the commands read."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(data_dir)  # demonstrations that other tests made already
    (tmp_path / "study").symlink_to(ROOT / "study")  # the trained run that comes with the code
    return tmp_path


def test_what_is_installed_is_what_is_there():
    """`pip install -e .` finds the files that README lists, and nothing has to be written down twice."""
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert sorted(told["py-modules"]) == sorted(name.removesuffix(".py") for name in CONCEPTS)
    assert all((ROOT / package).is_dir() for package in told["packages"])
    assert told["dynamic"]["dependencies"]["file"] == ["requirements.txt"]


def test_every_command_of_the_readme_runs(elsewhere):
    scripts = {"train.py": train, "evaluate.py": evaluate, "adapt.py": adapt, "skills.py": skills}
    assert {words[0] for words in COMMANDS} == set(scripts), "a command of the README that this test cannot run"
    for script, *flags in COMMANDS:
        flags = [flag for flag in flags if flag != "--compile"]  # minutes of warm-up on a CPU
        # Untrained policies fail for 500 steps an episode, which takes long and, the second time, shows nothing new.
        extra = ["--eval-episodes", 0] if script == "train.py" and "reach,push" not in flags else []
        extra += ["--components", 1] if "base" in flags else []  # 30 million parameters, or 8
        if "pixels" in flags:
            opengl.find() or pytest.skip(opengl.INSTALL)
            flags[flags.index("--tasks") + 1] = "reach,drawer-open"  # of which other tests have pictures
        if "--video" in flags:  # one film is enough; the run that comes with the code knows other tasks than the others
            extra += ["--tasks", "hammer" if "study/core/mt6" in flags else "reach"]
        result = command(scripts[script], *flags, *SHRINK[script], *extra)
        assert all((elsewhere / path).exists() for path in result["wrote"]), (script, flags)


def test_there_is_python_in_the_readme():
    assert PYTHON, "how to load a policy and act belongs on the first page"


@pytest.mark.parametrize("box", PYTHON, ids=range(len(PYTHON)))
def test_the_python_of_the_readme_runs(elsewhere, box):
    names = {"__name__": "__main__"}
    exec(compile(box, "README.md", "exec"), names)
    assert (names["actions"].shape, names["weights"].shape) == ((1, 8, 4), (1, 4))  # as its last comment says


@pytest.mark.parametrize("path", [p.name for p in ROOT.glob("*.py")])
def test_the_file_map_names_every_file(path):
    assert f"`{path}`" in README


@pytest.mark.parametrize("folder", sorted({p.parent.name for p in ROOT.glob("[a-z]*/*.py")}))
def test_the_file_map_names_every_folder_with_code(folder):
    assert f"`{folder}/`" in README


def test_links_and_pictures_of_the_readme_exist():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(targets) > 3
    for target in targets:
        assert target.startswith("http") or (ROOT / target).exists(), target


# ------------------------------------------------------------------------------------------ short enough to be read


def test_the_readme_is_short():
    lines = README.splitlines()
    assert len(lines) <= 150 and len(README.encode()) <= 10_000
    too_long = [line for line in lines if len(line) > 120 and not line.startswith("|") and "](" not in line]
    assert not too_long, too_long


@pytest.mark.parametrize("path,most", [("fdp.py", 220), ("train.py", 320), ("adapt.py", 250)])
def test_the_files_that_everybody_reads_stay_short(path, most):
    assert len((ROOT / path).read_text().splitlines()) <= most


def test_the_top_level_holds_the_eight_concepts_and_no_other_python():
    assert sorted(p.name for p in ROOT.glob("*.py")) == sorted(CONCEPTS)


def test_numbers_that_are_typed_by_hand_are_those_of_the_files():
    measuring = (ROOT / "docs/measuring.md").read_text()
    found = json.loads((ROOT / "study/core/nearest.json").read_text())
    for task, of_task in found["tasks"].items():
        near = of_task["nearest"]
        numbers = (near["min"], near["median"], near["max"], of_task["between_demonstrations"]["median"])
        assert f"| {task} | {' | '.join(f'{x:.1f}' for x in numbers)} |" in measuring
    played = [json.loads(path.read_text())["tasks"]["box-close"]
              for path in sorted((ROOT / "study/ml45/fdp").glob("add-elsewhere-box-close-d1-*.json"))]  # fmt: skip
    least, *_, most = (f"{share:.2f}" for share in sorted(r["success"] for r in played))
    assert f"(box-close: success {least} to {most}, depending on the demonstration.)" in README
    runs = (f"router/baselines/mt6-25-{policy}-s0.json" for policy in ("paper", "fdp"))
    paper, fdp = ([json.loads((ROOT / "study" / path).read_text())] for path in runs)
    change = compare_seeds(paper, fdp)
    less = f"{-change.mean:.1f} [{-change.high:.1f}, {-change.low:.1f}] points less"
    said = f"have {paper[0]['mean_success']:.3f}, {less} than with the defaults here (one seed"
    assert said in " ".join((ROOT / "docs/differences.md").read_text().split())
    cameras = json.loads((ROOT / "study/pixels/fdp-25-s0.json").read_text())["mean_success"]
    assert f"near {cameras:.2f}. It is neither a framework" in README


def test_what_is_said_of_shifts_is_what_was_found():
    """docs/cameras.md, of the policy with cameras that comes with the code."""

    def successes(shift: str) -> int:
        tasks = json.loads((ROOT / f"study/pixels/shift/run{shift}.json").read_text())["tasks"]
        return sum(task["successes"] for task in tasks.values())

    page = " ".join((ROOT / "docs/cameras.md").read_text().split())
    for words in ("{} of 300 as it is; {-camera} with the moved camera, {-object} with the box, {-table} with another "
                  "table, and {-light} in half of the light", "{-corner-off} without the corner camera",
                  "{-wrist-off} without the other"):  # fmt: skip
        said = re.sub(r"\{(.*?)\}", lambda shift: str(successes(shift[1])), words)
        assert said in page, said
