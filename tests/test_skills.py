"""Skills: put on in any order and taken off again, every task does what it did when it was learned, bit for bit."""

import dataclasses
import pickle
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from conftest import ROOT, command
from test_adapt import CPU, chunks, fingerprint, flags, inputs  # noqa: F401  (flags is a fixture)

import adapt
import skills
from envs.demos import demonstrations
from envs.rollout import block_seeds
from plumbing.cli import BadInput
from plumbing.runs import load_policy, read_config, training_record
from skills import put, put_together, take_apart
from variants.staged import alive

NEW = ("drawer-open", "drawer-close", "door-close")
OLD = ["reach", "push"]


@pytest.fixture(scope="module")
def learned(tiny_run, data_dir, tmp_path_factory):
    """Task -> its run. One for each new task, learned apart from the same base; one with an adapter of another rank,
    one without a new component. And "both": a second stage that leans on the first one too."""
    home = tmp_path_factory.mktemp("skills")
    usual = ["--steps", 6, "--demos-per-task", 4, "--data-dir", data_dir, "--eval-episodes", 0, "--device", "cpu"]
    demonstrations([*NEW, "push-back"], 4, data_dir)  # together: simulators take seconds to start
    more = dict.fromkeys(NEW, ()) | {"drawer-close": ("--encoder-rank", 3), "door-close": ("--mode", "router")}
    for task in NEW:
        command(adapt, "--run", tiny_run, "--tasks", task, *usual, *more[task], "--out", home / task)
    command(adapt, "--run", home / "drawer-open", "--tasks", "push-back", *usual, "--out", home / "both")
    return {name: home / name for name in (*NEW, "both")}


def file(run):
    return run / "skill.safetensors"


def use(*arguments) -> dict:
    return command(skills, *arguments)


def same(policy, other, tasks) -> bool:
    """The same actions and weights, to the last bit. (Of other components than its own a task has weight 0.)"""
    for task in tasks:
        (one, w), (two, v) = (chunks(p, [task] * 5) for p in (policy, other))
        w, v = (x[:, x.any(0)] for x in (w, v))
        if not ((one == two).all() and w.shape == v.shape and (w == v).all()):
            return False
    return True


@pytest.mark.parametrize("order", [NEW, NEW[::-1], ("drawer-close", "door-close", "drawer-open")])
def test_in_any_order_every_task_does_what_it_did_when_it_was_learned(tiny_run, learned, order):
    base = load_policy(tiny_run, CPU)
    policy = put(base, *(file(learned[task]) for task in order))
    assert policy.config.tasks == [*OLD, *order] and policy.config.components == base.config.components + 2
    assert same(policy, base, OLD)
    for task in order:
        alone = load_policy(learned[task], CPU)
        assert same(policy, alone, [task])
        assert not (chunks(alone, [task] * 5)[0] == chunks(base, ["reach"] * 5)[0]).all()  # it did learn something


def test_taking_one_off_leaves_the_bits_of_the_others(tiny_run, learned):
    base = load_policy(tiny_run, CPU)
    found, (one, two, three) = take_apart(put(base, *(file(learned[task]) for task in NEW)))
    less = put_together(found, [one, three])
    assert less.config.tasks == [*OLD, NEW[0], NEW[2]] and same(less, base, OLD)
    assert all(same(less, load_policy(learned[task], CPU), [task]) for task in (NEW[0], NEW[2]))
    bare = put_together(found, [])
    assert bare.variant == "fdp" and bare.config == base.config
    assert all(torch.equal(x, bare.state_dict()[name]) for name, x in base.state_dict().items())
    assert two.leans_on == three.leans_on == skills.identity(base)


@pytest.mark.parametrize("out", ["x" * 300, "circle", "circle/run", "a\0b"])
def test_an_impossible_folder_is_one_line(learned, tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(BadInput, match="cannot use"):
        use("--run", learned["drawer-open"], "--take-off", "drawer-open", "--out", out)
    assert [path.name for path in tmp_path.iterdir()] == ["circle"]


def test_mixed_batches_are_served_task_by_task(tiny_run, learned):
    policy = put(load_policy(tiny_run, CPU), *(file(learned[task]) for task in NEW))
    tasks = [*NEW, *OLD] * 3
    actions, weights = chunks(policy, tasks)
    assert weights.sum(1) == pytest.approx(1)
    observations, noise = inputs(len(tasks))
    for names in (*([task] for task in NEW), OLD):  # old tasks share a stage, and so a matrix product
        mine = [i for i, task in enumerate(tasks) if task in names]
        seen = {part: x[mine] for part, x in observations.items()}
        alone = load_policy(learned.get(names[0], tiny_run), CPU)
        assert (actions[mine] == alone.act(seen, [tasks[i] for i in mine], noise=noise[mine])[0]).all()


def test_the_command_makes_a_run_and_takes_off_again(tiny_run, learned, tmp_path):
    before = {run: fingerprint(run) for run in (tiny_run, *learned.values())}
    paths = ",".join(str(file(learned[task])) for task in NEW[:2])
    result = use("--run", tiny_run, "--put", paths, "--out", tmp_path / "both")
    assert result == {"skills": [[NEW[0]], [NEW[1]]], "wrote": [str(tmp_path / "both")]}
    use("--run", tmp_path / "both", "--take-off", NEW[0], "--put", file(learned[NEW[2]]), "--out", tmp_path / "other")
    other, config = load_policy(tmp_path / "other", CPU), read_config(tmp_path / "other")
    assert other.config.tasks == [*OLD, NEW[1], NEW[2]]
    assert all(same(other, load_policy(learned[task], CPU), [task]) for task in NEW[1:])
    assert [stage["tasks"] for stage in config["adapted"]] == [[NEW[1]], [NEW[2]]]
    assert [stage["mode"] for stage in config["adapted"]] == ["add-component", "router"]
    assert set(config["datasets"]) >= set(NEW[1:])
    use("--run", tmp_path / "other", "--take-off", ",".join(NEW[1:]), "--out", tmp_path / "bare")
    assert read_config(tmp_path / "bare")["policy"] == "fdp"
    weights = [safetensors.torch.load_file(run / "model.safetensors") for run in (tmp_path / "bare", tiny_run)]
    assert all(torch.equal(weights[0][name], x) for name, x in weights[1].items())
    assert {run: fingerprint(run) for run in before} == before  # all are only read


def test_leaning_on_the_base_a_skill_is_the_same_whatever_is_there(learned, flags, tmp_path):  # noqa: F811
    run = tmp_path / "beside"
    command(
        adapt, "--run", learned["drawer-close"], "--tasks", "drawer-open", "--lean-on", "base", *flags, "--out", run
    )
    beside, alone = (skills.read(file(where)) for where in (run, learned["drawer-open"]))
    assert beside.leans_on == alone.leans_on
    assert all(torch.equal(beside.tensors[name], x) for name, x in alone.tensors.items())
    assert same(load_policy(run, CPU), load_policy(learned["drawer-close"], CPU), [*OLD, "drawer-close"])
    assert same(load_policy(run, CPU), load_policy(learned["drawer-open"], CPU), ["drawer-open"])


def test_one_that_leans_on_another_goes_where_that_is(tiny_run, learned, tmp_path):
    chained = file(learned["both"])
    first = put(load_policy(tiny_run, CPU), file(learned["drawer-open"]))
    both = put(first, chained)
    assert same(both, load_policy(learned["both"], CPU), [*OLD, "drawer-open", "push-back"])
    for policy in (
        load_policy(tiny_run, CPU),
        put(first, file(learned["drawer-close"])),
        load_policy(learned["door-close"]),
    ):
        with pytest.raises(BadInput, match="leans on skills that are not here"):
            put(policy, chained)
    with pytest.raises(BadInput, match="leans on skills that are not here"):
        use("--run", learned["both"], "--take-off", "drawer-open", "--out", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_the_file_says_where_it_comes_from(learned):
    about = skills.read(file(learned["drawer-open"])).about
    assert about["stage"]["trained_parameters"] > 0 and about["revision"] and about["demonstrations"] == 4
    assert about["base"] == OLD


def test_the_last_block_of_episodes_has_seeds_that_are_read_too(learned, tmp_path):
    skill = skills.read(file(learned["drawer-open"]))
    seeds = block_seeds(2**31 - 1, 10_000)
    skill.about["success"] = {"drawer-open": {"successes": 1, "n": 2, "seeds": [seeds[0], seeds[-1]]}}
    skills.write(tmp_path / "skill.safetensors", skill)
    assert skills.read(tmp_path / "skill.safetensors").about == skill.about


def test_a_skill_of_the_run_that_comes_with_the_code_is_small():
    policy = load_policy(ROOT / "study" / "core" / "mt6", CPU)
    grown = adapt.grow(policy, ["door-close"], 1, [0], 16)
    _, (skill,) = take_apart(grown)
    assert sum(x.nbytes for x in skill.tensors.values()) < 10**6


# ------------------------------------------------------------------------------------------------ bad input


def edited(path, to, change) -> None:
    """A skill file with other tensors or another header, and a checksum that fits."""
    skill = skills.read(path)
    change(skill)
    skills.write(to, skill)


def bomb(name: str, *shape: int):
    """A tensor without a number in it, that says it is large."""
    return lambda skill: skill.tensors.update({name: torch.zeros(shape)})


BROKEN = {
    "a bomb of components": bomb("components.head.bias", 10**9, 0),
    "a bomb of a rank": bomb("residual.A.0", 0, 10**7),
    "a rank that is too large": bomb("residual.A.0", 256, 1025),
    "a bomb of another rank": bomb("residual.A.1", 0, 10**9),
    "another width": lambda skill: skill.tensors.update({"router.net.0.bias": torch.zeros(3)}),
    "a tensor that is missing": lambda skill: skill.tensors.pop("router.net.0.bias"),
    "one too many": lambda skill: skill.tensors.update({"encoder.net.0.bias": torch.zeros(3)}),
    "no component": lambda skill: [skill.tensors.pop(name) for name in [*skill.tensors] if "components" in name],
}


@pytest.mark.parametrize("change", BROKEN)
def test_what_does_not_fit_is_refused(tiny_run, learned, tmp_path, change):
    edited(file(learned["drawer-open"]), tmp_path / "x.safetensors", BROKEN[change])
    with pytest.raises(BadInput, match="skill for 'drawer-open' is damaged|do not fit this policy"):
        use("--run", tiny_run, "--put", tmp_path / "x.safetensors", "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_of_another_base(tiny_run, learned, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(tiny_run, other)
    weights = safetensors.torch.load_file(tiny_run / "model.safetensors")
    weights["router.net.0.bias"][0] += 1e-6
    (other / "model.safetensors").unlink()
    adapt.runs.save_weights(other, weights, 6, 1.0)
    with pytest.raises(BadInput, match="the skill for 'drawer-open' belongs to another policy"):
        use("--run", other, "--put", file(learned["drawer-open"]), "--out", tmp_path / "run")


@pytest.mark.parametrize("tasks", ["abc", [], ["a", "a"], [1], ["a", ["b"]]], ids=str)
def test_names_that_are_none(tiny_run, learned, tmp_path, tasks):
    edited(file(learned["drawer-open"]), tmp_path / "x.safetensors", lambda skill: setattr(skill, "tasks", tasks))
    with pytest.raises(BadInput, match="is no skill of adapt.py"):
        use("--run", tiny_run, "--put", tmp_path / "x.safetensors", "--out", tmp_path / "run")


def test_names_lead_nowhere_and_speak_of_their_own_tasks_only(tiny_run, learned, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def change(skill):
        skill.tasks = ["a/../../../evil"]
        skill.about["datasets"] = {"reach": "theirs/{task}/x-v0", "a/../../../evil": "ours/{task}/x-v0"}

    edited(file(learned["drawer-open"]), tmp_path / "x.safetensors", change)
    (run,) = use("--run", tiny_run, "--put", "x.safetensors")["wrote"]
    assert Path(run).parent == Path("runs") and load_policy(run).config.tasks == [*OLD, "a/../../../evil"]
    assert "reach" not in read_config(Path(run))["datasets"]


def test_a_skill_for_two_tasks_is_taken_off_as_one(tiny_run, flags, tmp_path):  # noqa: F811
    command(adapt, "--run", tiny_run, "--tasks", "drawer-open,door-close", *flags, "--out", tmp_path / "two")
    with pytest.raises(BadInput, match="one skill is for drawer-open, door-close; name all of them, or none"):
        use("--run", tmp_path / "two", "--take-off", "door-close", "--out", tmp_path / "x")
    use("--run", tmp_path / "two", "--take-off", "door-close,drawer-open", "--out", tmp_path / "x")
    assert load_policy(tmp_path / "x", CPU).config.tasks == OLD


def test_a_stage_after_skills_begins_as_the_newest_of_them(tiny_run, learned):
    """Its router is over all components, theirs over some of them."""
    both = put(load_policy(tiny_run, CPU), *(file(learned[task]) for task in NEW[:2]))
    assert both.config.stages[2][0] == [0, 1, 2, 3, 5]
    grown = adapt.grow(both, ["push-back"], 1, [5], both.config.ranks[-1])
    with torch.no_grad():
        grown.task_embedding.weight[-1] = both.task_embedding.weight[both.config.tasks.index("drawer-close")]
    (mine, w), (theirs, v) = chunks(grown.eval(), ["push-back"] * 5), chunks(both, ["drawer-close"] * 5)
    assert mine == pytest.approx(theirs, abs=1e-4)
    assert w[:, 5] + w[:, 6] == pytest.approx(v[:, 5], abs=1e-4) and w[:, 4].max() < 1e-4


def test_a_stage_after_one_that_added_no_component_begins_as_it_too(tiny_run, learned):
    """The newest skill's router is over the base's components, and another skill's component is there, too."""
    both = put(load_policy(tiny_run, CPU), file(learned["drawer-open"]), file(learned["door-close"]))
    assert both.config.stages[2][0] == [0, 1, 2, 3] and both.config.components == 5
    grown = adapt.grow(both, ["push-back"], 1, [0], both.config.ranks[-1])
    with torch.no_grad():
        grown.task_embedding.weight[-1] = both.task_embedding.weight[both.config.tasks.index("door-close")]
    (mine, w), (theirs, v) = chunks(grown.eval(), ["push-back"] * 5), chunks(both, ["door-close"] * 5)
    assert mine == pytest.approx(theirs, abs=1e-4)
    assert w[:, 0] + w[:, 5] == pytest.approx(v[:, 0], abs=1e-4) and w[:, 4].max() < 1e-4


def test_a_component_that_begins_at_random_has_weight_after_skills_too(tiny_run, learned, flags, tmp_path):  # noqa: F811
    """Those that the newest skill does not use have none; a copy of one of those would have none, and never learn."""
    both = put(load_policy(tiny_run, CPU), *(file(learned[task]) for task in NEW[:2]))
    _, w = chunks(adapt.grow(both, ["push-back"], 1, [], both.config.ranks[-1]).eval(), ["push-back"] * 5)
    assert w[:, 4].max() < 1e-4 < 0.01 < w[:, 6].min()
    use("--run", tiny_run, "--put", f"{file(learned[NEW[0]])},{file(learned[NEW[1]])}", "--out", tmp_path / "both")
    with pytest.raises(BadInput, match="to which the newest router of .* gives weight, 0, 1, 2, 3, 5, got '4'"):
        command(adapt, "--run", tmp_path / "both", "--tasks", "push-back", "--start-from", "4", *flags)
    more = load_policy(tmp_path / "both", CPU)
    more = adapt.grow(more, ["push-back"], 1, [], more.config.ranks[-1])  # row 4 of its router is both's
    assert more.config.stages[-1][0] == 7 and alive(more.config) == [0, 1, 2, 3, 5, 6]
    assert alive(load_policy(tiny_run, CPU).config) == [0, 1, 2, 3]
    _, w = chunks(more.eval(), ["push-back"] * 5)
    assert [k for k in range(7) if w[:, k].max() > 1e-4] == alive(more.config)
    with pytest.raises(BadInput, match="5 have weight: at most 5, got 6"):
        command(adapt, "--run", tmp_path / "both", "--tasks", "push-back", "--new-components", "6", *flags)


def test_what_is_left_says_how_it_was_made(tiny_run, learned, tmp_path):
    """And not how the skill that was taken off was."""
    before = training_record(tiny_run)
    use("--run", learned["both"], "--take-off", "push-back", "--out", tmp_path / "one")
    use("--run", tmp_path / "one", "--take-off", " drawer-open ", "--out", tmp_path / "bare")
    for run in (tmp_path / "one", tmp_path / "bare"):
        found = training_record(run)
        assert [found[key] for key in ("steps", "seconds", "demos_per_task")] == [
            before[key] for key in ("steps", "seconds", "demos_per_task")
        ]
    assert read_config(tmp_path / "bare")["train"]["tasks"] == read_config(tiny_run)["train"]["tasks"]
    assert "base_training" in read_config(tmp_path / "one") and "base_training" not in read_config(tmp_path / "bare")


def test_names_may_have_blanks_around_them(tiny_run, learned, tmp_path):
    paths = f" {file(learned[NEW[0]])} , {file(learned[NEW[1]])} "
    assert use("--run", tiny_run, "--put", paths, "--out", tmp_path / "x")["skills"] == [[NEW[0]], [NEW[1]]]


class Planted:
    def __reduce__(self):
        return (Path.touch, (Path("planted"),))


@pytest.mark.parametrize("arguments,message", [
    ([], "give --put, with skill files, or --take-off"),
    (["--put", "nowhere"], "nowhere"),
    (["--put", "{run}/model.safetensors"], "is no skill of adapt.py"),
    (["--put", "{run}/config.json"], "config.json is damaged"),
    (["--put", "{skill},{skill}"], "'drawer-open' is known already"),
    (["--put", "{pickle}"], "is damaged"),
    (["--put", "{damaged}"], "its numbers are not those that were written"),
    (["--take-off", " , "], "--take-off: name tasks, separated by commas, got ' , '"),
    (["--take-off", "drawer-open"], "no skill for 'drawer-open' to take off .* has none"),
    (["--put", "{skill}", "--out", "{skill}"], "exists: choose another --out"),
    (["--put", "{skill}", "--out", "{run}"], "inside the run that is only read"),
    (["--put", "{skill}", "--out", "{run}/x"], "inside the run that is only read"),
])  # fmt: skip
def test_bad_input_is_one_line(tiny_run, learned, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    content = bytearray(file(learned["drawer-open"]).read_bytes())
    content[-5] ^= 1
    (tmp_path / "damaged.safetensors").write_bytes(content)
    (tmp_path / "pickle").write_bytes(pickle.dumps(Planted()))
    names = {"run": tiny_run, "skill": file(learned["drawer-open"]), "damaged": tmp_path / "damaged.safetensors",
             "pickle": tmp_path / "pickle"}  # fmt: skip
    words = [word.format(**names) for word in arguments]
    words += [] if "--out" in words else ["--out", str(tmp_path / "run")]
    before = fingerprint(tiny_run)
    with pytest.raises(BadInput, match=message):
        use("--run", tiny_run, *words)
    assert fingerprint(tiny_run) == before and not (tmp_path / "run").exists()
    assert not Path("planted").exists()


def test_leaning_on_the_base_is_for_exact_retention(tiny_run, flags, tmp_path):  # noqa: F811
    with pytest.raises(BadInput, match="--lean-on base goes with --retain exact"):
        command(adapt, "--run", tiny_run, "--tasks", "drawer-open", "--lean-on", "base", "--retain", "replay", *flags,
                "--out", tmp_path / "run")  # fmt: skip


def test_the_same_weights_with_other_settings_are_another_base(tiny_run):
    """A range of actions, an order of tasks or another way to weigh is in no weight. How many actions are executed is
    no part of what a skill leans on."""
    base = load_policy(tiny_run, CPU)
    whole = skills.identity(base)
    base.config.executed = 2
    assert skills.identity(base) == whole
    for variant, change in (("fdp", {"horizon": 4}), ("fdp", {"tasks": ["push", "reach"]}), ("uniform", {}),
                            ("fdp", {"action_high": (1.0, 1.0, 1.0, 0.5)})):  # fmt: skip
        other = adapt.runs.build_policy(variant, dataclasses.asdict(base.config) | change)
        other.load_state_dict(base.state_dict())
        assert skills.identity(other) != skills.identity(base), (variant, change)


def test_a_field_more_leaves_skills_where_they_belong(tiny_run, learned):
    """A later version of the code, or of a fork, may add one: a skill says which settings its checksum covers. Those
    all count, whatever is usual by then."""
    base, skill = load_policy(tiny_run, CPU), skills.read(file(learned[NEW[0]]))
    plain = base.config
    assert list(skill.settings) == [f.name for f in dataclasses.fields(plain)]

    @dataclasses.dataclass
    class Later(type(plain)):
        diffusion_steps: int = 50
        later: int = 0

    base.config = Later(**dataclasses.asdict(plain) | {"differences": plain.differences})
    assert skills.identity(base, (), skill.settings) == skill.leans_on != skills.identity(base)
    base.config.diffusion_steps = 50
    assert skills.identity(base, (), skill.settings) != skill.leans_on
    base.config = plain
    assert put(base, file(learned[NEW[0]])).config.tasks == [*OLD, NEW[0]]
    skill.settings = ("tasks", "nothing that there is")
    with pytest.raises(BadInput, match="belongs to another policy"):
        put_together(base, [skill])
