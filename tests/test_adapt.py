"""Adaptation: what must not move does not, to the last bit; what grows begins as what it was; bad input is refused."""

import copy
import hashlib
import json
import shutil

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import command

import adapt
import sampler
import skills
import train
from adapt import count, grow, most_used, newest_router, only_rows, release, train_only
from adaptation import stages
from adaptation.memory import read_memory
from adaptation.stages import outside
from envs.demos import DATASET_ID, demonstrations
from envs.metaworld import DIFFERENCES, PARTS, split_state
from fdp import Policy, PolicyConfig
from plumbing import runs
from plumbing.cli import BadInput, write_json
from plumbing.runs import load_policy, read_config, save_weights

CPU = torch.device("cpu")


@pytest.fixture
def flags(data_dir):
    # Of so many none are made: what a test trains on is what it has recorded.
    return ["--steps", 6, "--demos-per-task", 4, "--data-dir", data_dir, "--eval-episodes", 0, "--device", "cpu"]


def fingerprint(folder) -> dict:
    return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def inputs(n, seed=0):
    """Observations {part: (n, *shape)} and starting noise (n, H, A)."""
    random = np.random.default_rng(seed)
    return split_state(random.standard_normal((n, 39)) * 0.2), torch.tensor(random.standard_normal((n, 8, 4))).float()


def chunks(policy, tasks):
    observations, noise = inputs(len(tasks))
    return policy.act(observations, tasks, noise=noise)


def make_policy(router="softmax", target="velocity", conditioning="name", K=3) -> Policy:
    torch.manual_seed(0)
    config = PolicyConfig(PARTS, (-1.0,) * 4, (1.0,) * 4, ["reach", "push"], K, channels=(8, 16), router=router,
                          target=target, task_conditioning=conditioning, differences=DIFFERENCES)  # fmt: skip
    policy = Policy(config).eval()
    policy.variant = "fdp"
    return policy


# ------------------------------------------------------------------------------------------------ growing


@pytest.mark.parametrize("router,target", [("softmax", "velocity"), ("informed", "velocity"), ("raw", "noise")])
@pytest.mark.parametrize("copied", [[1], [2, 0], [0, 1, 2]])
def test_a_grown_policy_does_what_it_did(router, target, copied):
    policy = make_policy(router, target)
    before, _ = chunks(policy, ["reach", "push"] * 4)
    grown = grow(policy, ["drawer-open"], len(copied), copied, rank=None)
    after, weights = chunks(grown, ["reach", "push"] * 4)
    assert grown.variant == "fdp" and weights.shape[1] == 3 + len(copied) and np.allclose(before, after, atol=1e-4)
    # A copy of another component without sharing its weight is another function: the check above can fail.
    newest_router(grown).net[-1].bias.data[3] += 1
    assert not np.allclose(before, chunks(grown, ["reach", "push"] * 4)[0], atol=1e-3)


def test_new_components_copy_those_named_or_nothing():
    policy = make_policy()
    for copied in ([0, 2], [2, 1], []):
        grown = grow(policy, ["drawer-open"], 2, copied, rank=None)
        for name, p in grown.components.named_parameters():
            assert torch.equal(p[:3], policy.components.get_parameter(name)), name
            assert torch.equal(p[3:], p[copied]) if copied else (p[3:, None] != p[:3]).any(), name


def test_most_used_is_measured_on_the_observations():
    policy = make_policy()
    observations = split_state(torch.randn(50, 39))
    condition = policy.encoder(observations) + policy.task_embedding.weight.mean(0)
    winner = int(policy.router(condition).mean(0).argmax())
    assert most_used(policy, observations, "hammer", 1) == [winner]
    with torch.no_grad():  # turn the router to another component, and the answer follows
        policy.router.net[-1].bias[(winner + 1) % 3] += 10
    assert most_used(policy, observations, "hammer", 2) == [(winner + 1) % 3, winner]


def test_most_used_looks_at_some_of_many_pictures(monkeypatch):
    """All at once those of a hundred demonstrations would need more memory than training does."""
    parts = {"camera": (3, 64, 64), "proprioception": (2, 4)}
    policy = runs.build_policy("fdp", {"observation": parts, "action_low": (-1,), "action_high": (1,), "tasks": ["a"]})
    looked, encode = [], type(policy).encode
    monkeypatch.setattr(type(policy), "encode", lambda self, seen, task: looked.append(len(task)) or encode(
        self, seen, task))  # fmt: skip
    many = {"camera": torch.zeros((1100, 3, 64, 64), dtype=torch.uint8), "proprioception": torch.zeros((1100, 2, 4))}
    assert len(most_used(policy, many, "b", 2)) == 2 and looked == [367]


# ------------------------------------------------------------------------------------------------ freezing


def test_rows_that_do_not_learn_stay_bit_equal_under_weight_decay_and_momentum():
    policy = make_policy()
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    train_only(policy, [1], [1], encoder=False)
    parameters = [p for p in policy.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.1, weight_decay=1.0)
    for _ in range(3):
        optimizer.zero_grad()
        observation, task = split_state(torch.randn(8, 39)), torch.ones(8, dtype=torch.long)
        step, noise = torch.randint(0, 100, (8,)), torch.randn(8, 8, 4)
        policy.loss(observation, task, torch.rand(8, 8, 4), step, noise)[0].mean().backward()
        optimizer.step()
    release(policy)
    for name, value in policy.state_dict().items():
        rows = [1] if name.startswith(("components", "task_embedding")) else range(len(value))
        learns = name.startswith(("components", "task_embedding", "router"))
        for row in range(len(value)):
            same = torch.equal(value[row], before[name][row])
            assert same != (learns and row in rows), (name, row)


def test_zeroed_gradients_would_not_have_been_enough():
    """The trap that `only_rows` is for: AdamW moves a parameter whose gradient is zero."""
    weight = torch.nn.Parameter(torch.ones(2, 3))
    optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=1.0)
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert not torch.equal(weight, torch.ones(2, 3))


def test_rows_put_back_are_what_was_learned():
    layer = torch.nn.Linear(3, 4)
    whole = layer.weight.detach().clone()
    only_rows(layer, [3, 1])
    assert torch.equal(layer.weight, whole) and count(layer, learning=True) == 2 * 3 + 2
    with torch.no_grad():
        layer.parametrizations.weight.original.add_(1)
    release(layer)
    assert torch.equal(layer.weight, whole + torch.tensor([0.0, 1.0, 0.0, 1.0])[:, None])
    assert sorted(name for name, _ in layer.named_parameters()) == ["bias", "weight"]


MOVES = {  # which parts of the source's tensors an adaptation may move; None: everything
    "add-component": {"router"}, "router": {"router"}, "components": {"router", "components"}, "full": None,
}  # fmt: skip


@pytest.mark.parametrize("mode", MOVES)
def test_each_mode_moves_what_its_row_of_the_table_says(tiny_run, flags, tmp_path, mode):
    more = ["--train-components", "1,3"] if mode == "components" else []
    retain = [] if mode == "full" else ["--retain", "paper"]
    command(adapt, "--run", tiny_run, "--tasks", "drawer-open", "--mode", mode, *more, *retain, *flags, "--out",
            tmp_path / "run")  # fmt: skip
    old, new = load_policy(tiny_run, CPU), load_policy(tmp_path / "run", CPU)
    assert new.config.tasks == ["reach", "push", "drawer-open"]
    assert new.config.components == 4 + (mode == "add-component")
    changed = set()
    for name, value in old.state_dict().items():
        now = new.state_dict()[name]
        if mode == "components" and name.startswith("components"):
            assert torch.equal(now[[0, 2]], value[[0, 2]]) and not torch.equal(now[[1, 3]], value[[1, 3]]), name
        if not torch.equal(now[: len(value)], value):
            changed.add(name.split(".")[0])
    assert changed == (MOVES[mode] or {"encoder", "task_embedding", "components", "router"})
    for name in ("mean", "scale"):  # statistics are never taken again, whatever else moves
        assert torch.equal(getattr(old.encoder, name), getattr(new.encoder, name))
    stage = read_config(tmp_path / "run")["adapted"][-1]
    parts = {"router": count(new.router), "task_embedding": 128, "components": count(new.components) // 5}
    if mode == "add-component":
        assert stage["trained_parameters"] == sum(parts.values())
    if mode == "full":
        assert stage["trained_parameters"] == count(new)


def test_train_encoder_moves_the_encoder_and_only_then(tiny_run, flags, tmp_path):
    command(adapt, "--run", tiny_run, "--tasks", "drawer-open", "--train-encoder", *flags, "--out", tmp_path / "run")
    old, new = load_policy(tiny_run, CPU), load_policy(tmp_path / "run", CPU)
    assert not torch.equal(old.encoder.net[0].weight, new.encoder.net[0].weight)
    assert torch.equal(old.encoder.mean, new.encoder.mean) and torch.equal(old.encoder.scale, new.encoder.scale)


# ------------------------------------------------------------------------------------------------ retention


def test_exact_keeps_every_old_action_bit_for_bit_over_several_stages(tiny_run, flags, tmp_path):
    old = load_policy(tiny_run, CPU)
    expected = chunks(old, ["reach", "push", "push"])
    learned, origin = {}, tiny_run
    for stage, (task, mode) in enumerate((("drawer-open", "add-component"), ("window-close", "router"),
                                          ("drawer-close", "add-component"))):  # fmt: skip
        command(adapt, "--run", origin, "--tasks", task, "--mode", mode, *flags, "--out", tmp_path / str(stage))
        origin = tmp_path / str(stage)
        policy = load_policy(origin, CPU)
        assert type(policy).__module__ == "variants.staged"
        for tasks, (actions, weights) in {("reach", "push", "push"): expected, **learned}.items():
            now, now_weights = chunks(policy, list(tasks))
            assert np.array_equal(now, actions), (task, tasks)
            assert np.array_equal(now_weights[:, : weights.shape[1]], weights)
            assert (now_weights[:, weights.shape[1] :] == 0).all()
        learned[task, task] = chunks(policy, [task, task])
    assert policy.config.components == 6 and [k for k, _ in policy.config.stages] == [4, 5, 5, 6]
    # In one batch with other tasks each gets what its own stage answers to its rows.
    (observations, noise), tasks = inputs(3), ["push", "drawer-close", "reach"]
    mixed, _ = policy.act(observations, tasks, noise=noise)
    two = {part: x[[0, 2]] for part, x in observations.items()}
    alone, _ = policy.act(two, ["push", "reach"], noise=noise[[0, 2]])
    assert np.array_equal(mixed[[0, 2]], alone)


def test_the_new_component_learns(tiny_run, flags, tmp_path):
    command(adapt, "--run", tiny_run, "--tasks", "drawer-open", "--start-from", "2", *flags, "--out", tmp_path / "run")
    for name, p in load_policy(tmp_path / "run", CPU).components.named_parameters():
        assert not torch.equal(p[4], p[2]), name  # what it was a copy of
    stage = read_config(tmp_path / "run")["adapted"][0]
    assert stage["tasks"] == ["drawer-open"] and stage["components"] == 5 and stage["copied"] == [2]
    learned = load_policy(tmp_path / "run", CPU).components.film_in.weight
    assert int((learned[:4] - learned[4]).square().flatten(1).sum(1).argmin()) == 2  # and is still nearest to


def test_several_new_components_become_different_ones(tiny_run, flags, tmp_path):
    """Twins with the same weight would have the same gradient, and stay twins."""
    command(
        adapt, "--run", tiny_run, "--tasks", "drawer-open", "--new-components", "2", *flags, "--out", tmp_path / "a"
    )
    policy = load_policy(tmp_path / "a", CPU)
    copied = read_config(tmp_path / "a")["adapted"][-1]["copied"]
    assert policy.config.components == 6 and len(set(copied)) == 2
    for name, p in policy.components.named_parameters():
        assert not torch.equal(p[4], p[5]) and not torch.equal(p[4:], p[copied]), name
    assert not torch.equal(newest_router(policy).net[-1].weight[4], newest_router(policy).net[-1].weight[5])


def test_the_memory_grows_by_the_new_tasks_and_keeps_the_old_rows(tiny_run, flags, tmp_path):
    kept, origin = {}, tiny_run
    for task in ("drawer-open", "drawer-close"):
        command(adapt, "--run", origin, "--tasks", task, "--retain", "replay", *flags, "--out", tmp_path / task)
        origin = tmp_path / task
        now = safetensors.torch.load_file(origin / "replay.safetensors")
        assert set(now) == {f"{name}/{part}" for name in {"reach", "push", "drawer-open", task} for part in PARTS}
        assert all(x.shape == (64, *PARTS[name.split("/")[1]]) for name, x in now.items())
        assert all(torch.equal(now[name], rows) for name, rows in kept.items())
        kept = now
    assert not torch.equal(kept["drawer-open/objects"], kept["drawer-close/objects"])


def test_old_observations_come_from_the_demonstrations_that_taught_the_task(tiny_run, flags, tmp_path):
    """Also where another adaptation, with other demonstrations, came in between."""
    own = tmp_path / "own"
    shutil.copytree(tiny_run, own)
    config = read_config(own)
    config["train"]["dataset_id"] = "mylab/{task}/human-v0"
    (own / "config.json").write_text(json.dumps(config))
    command(adapt, "--run", own, "--tasks", "drawer-open", *flags, "--retain", "paper", "--out", tmp_path / "a")
    assert stages.datasets(read_config(tmp_path / "a")) == {
        "reach": "mylab/{task}/human-v0", "push": "mylab/{task}/human-v0", "drawer-open": DATASET_ID,
    }  # fmt: skip
    with pytest.raises(BadInput, match="mylab/reach/human-v0"):  # nobody has recorded those here
        command(adapt, "--run", tmp_path / "a", "--tasks", "drawer-close", *flags, "--retain", "replay", "--out",
                tmp_path / "b")  # fmt: skip


def test_replay_asks_for_no_more_demonstrations_than_there_are(tiny_run, tmp_path):
    """Of somebody else's, whose task was learned from two of them, although a later stage had five."""
    own, home = tmp_path / "own", tmp_path / "data"
    shutil.copytree(tiny_run, own)
    config = read_config(own)
    config["train"] |= {"dataset_id": "mylab/{task}/v0", "demos_per_task": 5}
    (own / "config.json").write_text(json.dumps(config))
    whole = demonstrations(["reach", "push"], 2, home)
    for task in whole:
        shutil.copytree(home / "fdp" / task / "expert-v0", home / "mylab" / task / "v0")
    kept = adapt.Memory(own, load_policy(own, CPU), home).kept
    assert torch.equal(kept["reach/goal"][0], torch.from_numpy(whole["reach"][0]["observations"]["goal"][0]))
    assert torch.equal(kept["reach/goal"][-1], torch.from_numpy(whole["reach"][1]["observations"]["goal"][0]))


def test_drift_is_the_change_of_what_is_predicted_at_old_observations(tiny_run, data_dir):
    """By two policies asked apart: nothing while the copy shares its weight, and as much as it comes to when the copy
    speaks five times as loudly, and less of it the less weight it has."""
    old = load_policy(tiny_run, CPU)
    memory = adapt.Memory(tiny_run, old, data_dir)
    grown = adapt.grow(old, ["drawer-open"], 1, [0], None)
    assert memory.drift(grown.eval()) < 1e-10
    with torch.no_grad():
        for x in grown.components.head.parameters():
            x[-1] *= 5
    drifts = []
    for less in (0, 3):
        with torch.no_grad():
            grown.router.net[-1].bias[-1] -= less
        torch.manual_seed(1)
        drifts.append(memory.drift(grown).item())
        torch.manual_seed(1)
        some = torch.randint(0, len(memory.index), (64,))
        step, noise = train.draw_noise(old, memory.clean[some])
        noisy = sampler.add_noise(memory.clean[some], noise, old.alpha_bar_32[step])
        seen, task = {part: x[some] for part, x in memory.old.items()}, memory.index[some]
        before, now = (policy(noisy, step, policy.encode(seen, task)) for policy in (old, grown))
        assert drifts[-1] == pytest.approx((now - before).square().mean().item(), rel=1e-4)
    assert drifts[0] > 2 * drifts[1] > 0


def test_replay_holds_old_predictions_where_paper_lets_them_go(trained_run, flags, tmp_path):
    moved, old = {}, load_policy(trained_run, CPU)
    observations, _ = inputs(40)
    tasks, noise = ["reach", "drawer-open"] * 20, torch.randn(40, 8, 4, generator=torch.Generator().manual_seed(0))
    before, _ = old.act(observations, tasks, noise=noise)
    for retain in ("paper", "replay"):
        command(adapt, "--run", trained_run, "--tasks", "drawer-close", "--retain", retain, *flags, "--steps", 60,
                "--out", tmp_path / retain)  # fmt: skip
        after, _ = load_policy(tmp_path / retain, CPU).act(observations, tasks, noise=noise)
        moved[retain] = np.abs(before - after).mean()
    assert moved["replay"] < 0.5 * moved["paper"], moved
    kept = (tmp_path / "replay" / "replay.safetensors").stat().st_size
    assert 3 * 64 * 39 * 4 < kept < 3 * 64 * 39 * 4 + 1500  # three tasks, the new one for the stages to come
    assert not (tmp_path / "paper" / "replay.safetensors").exists()


# ------------------------------------------------------------------------------------------------ sequences


def test_metrics_of_a_matrix_worked_out_by_hand():
    success = [{"a": 0.8}, {"a": 0.9, "b": 0.5}, {"a": 0.6, "b": 0.5, "c": 1.0}]
    learned = [{"success_before_learning": {"b": 0.1}, "success_untrained": {"b": 0.2}},
               {"success_before_learning": {"c": 0.7}, "success_untrained": {"c": 0.0}}]  # fmt: skip
    result = stages.metrics(success, learned)
    expected = {"average_success": 0.7, "backward_transfer": -0.1, "forgetting": 0.15, "forward_transfer": 0.3}
    assert result == pytest.approx(expected)
    assert stages.metrics([{"a": 1.0}], [{}])["forgetting"] is None  # nothing was there to be forgotten


ONE, OTHER, THIRD, FOURTH = "toy:Point-v0", "toy:OtherPoint-v0", "toy:ThirdPoint-v0", "toy:ns/Point-v0"


@pytest.fixture
def toy_run(flags, tmp_path_factory):
    folder = tmp_path_factory.mktemp("toys") / "run"
    command(train, "--tasks", f"{ONE},{OTHER}", *flags, "--out", folder)
    return folder


def test_a_sequence_resumes_at_the_stage_where_it_was_interrupted(toy_run, flags, tmp_path, monkeypatch):
    """Of the toy: an episode of MetaWorld that fails takes 500 steps."""
    before, measured = (
        fingerprint(toy_run),
        {"success_before_learning": {"x": 0.5}, "success_untrained": {"x": 0.25}},
    )
    monkeypatch.setattr(stages, "before_learning", lambda *_: measured)  # of which the next test knows more
    line = ["--run", toy_run, "--sequence", f"{THIRD},{FOURTH}", *flags, "--eval-episodes", 1, "--out",
            tmp_path / "s"]  # fmt: skip
    result = command(adapt, *line)
    whole = fingerprint(tmp_path / "s")
    matrix = json.loads((tmp_path / "s" / "adaptation.json").read_text())
    assert [list(row) for row in matrix["success"]] == [
        [ONE, OTHER],
        [ONE, OTHER, THIRD],
        [ONE, OTHER, THIRD, FOURTH],
    ]
    assert matrix["forgetting"] == 0 and result["forgetting"] == 0  # exact is the default
    assert all(measured.items() <= stage.items() for stage in matrix["stages"])
    assert [stage["same_bits"] for stage in matrix["stages"]] == [list(row) for row in matrix["success"][:2]]
    assert all(stage["latency_ms"] > 0 and stage["evaluation_seconds"] > 0 for stage in matrix["stages"])
    assert fingerprint(toy_run) == before

    first, second = (tmp_path / "s" / name for name in ("1-toy-ThirdPoint-v0", "2-toy-ns-Point-v0"))
    learned = load_policy(second, CPU).state_dict()
    for name in ("model.safetensors", "evaluation.json"):  # as a crash in the second stage leaves it
        (second / name).unlink()
    kept = (first / "model.safetensors").stat().st_mtime_ns
    command(adapt, *line)
    assert (first / "model.safetensors").stat().st_mtime_ns == kept and set(fingerprint(tmp_path / "s")) == set(whole)
    again = load_policy(second, CPU).state_dict()
    assert all(torch.equal(again[name], value) for name, value in learned.items())
    with pytest.raises(BadInput, match="steps = 6, not 7: choose another --out"):
        command(adapt, *line, "--steps", 7)
    # The same folder name may hold another policy by now: stages learned from both would not be one sequence.
    other = tmp_path / "other"
    shutil.copytree(toy_run, other)
    weights = safetensors.torch.load_file(other / "model.safetensors")
    save_weights(other, weights | {"router.net.0.bias": weights["router.net.0.bias"] + 1}, 500, 1.0)
    with pytest.raises(BadInput, match="learned from other weights"):
        command(adapt, *line, "--run", other)


def test_tasks_that_are_done_to_the_same_bits_are_not_played_again(tiny_run, flags, tmp_path, monkeypatch):
    asked = []

    def play(policy, tasks, episodes, seed, roller):
        assert (episodes, seed) == (2, 5)
        asked.append(list(tasks))
        of_task = {"success": 0.5, "successes": 1, "n": 2, "interval": [0, 1], "expert": {"success": 1.0, "lost": {}},
                   "lost": {}, "simulation_seconds": 1.0, "seeds": [0, 1]}  # fmt: skip
        tasks = {task: {**of_task, "asked": len(asked)} for task in tasks}
        return {"tasks": tasks, "mean_success": 0.5, "seconds": 3.0}, []

    monkeypatch.setattr(stages.evaluate, "evaluate", play)
    monkeypatch.setattr(
        stages.reports, "write_evaluation", lambda path, _, result, *__, **___: write_json(path, result)
    )
    line = ["--run", tiny_run, "--tasks", "drawer-open", *flags, "--eval-episodes", 2, "--eval-seed", 5]
    command(adapt, *line, "--out", tmp_path / "exact")
    assert asked == [["reach", "push"], ["drawer-open"]]
    made = json.loads((tmp_path / "exact" / "evaluation.json").read_text())
    how = {task: (r["asked"], bool(r.get("same_bits"))) for task, r in made["tasks"].items()}
    played = skills.read(tmp_path / "exact" / skills.FILE).about["success"]  # the skill says how good it is
    assert played == {"drawer-open": {"successes": 1, "n": 2, "seeds": [0, 1]}}
    assert how == {"reach": (1, True), "push": (1, True), "drawer-open": (2, False)} and made["mean_success"] == 0.5
    command(adapt, *line, "--mode", "router", "--retain", "paper", "--out", tmp_path / "paper")
    assert asked[2:] == [["reach", "push"], ["reach", "push", "drawer-open"]]


def test_one_other_bit_makes_a_task_another(tiny_run):
    policy, other = load_policy(tiny_run, CPU), load_policy(tiny_run, CPU)
    assert stages.unchanged(policy, other) == ["reach", "push"]
    act = other.act

    def nearly(*arguments, **more):
        actions, weights = act(*arguments, **more)
        actions[25, 3, 1] = np.nextafter(actions[25, 3, 1], np.float32(2))  # in the sixth row of push
        return actions, weights

    other.act = nearly
    assert stages.unchanged(policy, other) == ["reach"]


def test_a_sequence_without_a_run_begins_with_what_train_makes(flags, tmp_path, monkeypatch):
    command(train, "--tasks", "reach", *flags, "--out", tmp_path / "alone")
    alone = load_policy(tmp_path / "alone", CPU)
    line = ["--sequence", "reach,drawer-open", *flags, "--out", tmp_path / "s"]
    step, steps = train.Learner.step, []

    def stop(*arguments):
        steps.append(0)
        if len(steps) == 4:
            raise MemoryError  # before the first checkpoint
        return step(*arguments)

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(train.Learner, "step", stop)
        command(adapt, *line)
    assert not (tmp_path / "s" / "1-reach" / "model.safetensors").exists()
    command(adapt, *line)
    first, last = (load_policy(tmp_path / "s" / name, CPU) for name in ("1-reach", "2-drawer-open"))
    for name, x in alone.state_dict().items():
        assert torch.equal(x, first.state_dict()[name]), name
    assert last.config.tasks == ["reach", "drawer-open"] and stages.unchanged(first, last) == ["reach"]
    before = fingerprint(tmp_path)
    command(adapt, *line)  # all of it is there
    for other, message in ((["--seed", 1], "seed = 0, not 1"), (["--lean-on", "base"], "lean_on = all, not base")):
        with pytest.raises(BadInput, match=f"has {message}: choose another --out"):
            command(adapt, *line, *other)
    assert {p: x for p, x in fingerprint(tmp_path).items() if p.suffix == ".safetensors"} == {
        p: x for p, x in before.items() if p.suffix == ".safetensors"
    }


def test_another_sequence_that_begins_with_the_same_task_leaves_the_first_one_alone(flags, tmp_path):
    """Its second stage has another folder, and both would have the same matrix."""
    line = [*flags, "--steps", 2, "--out", tmp_path / "s"]
    command(adapt, "--sequence", "reach,drawer-open", *line)
    before = fingerprint(tmp_path)
    with pytest.raises(BadInput, match="the run in it has 2-drawer-open, which this sequence does not: choose another"):
        command(adapt, "--sequence", "reach,door-close", *line)
    assert fingerprint(tmp_path) == before


@pytest.mark.parametrize("arguments,message", [
    (["--tasks", "reach"], "--run: name the run to start from"),
    (["--sequence", "reach"], "begins with a fresh policy for the first task: name more than one"),
    (["--sequence", "reach,reach"], "names 'reach' twice"),
    (["--sequence", "reach,push", "--start-from", "7"], "0 to 3, got '7'"),
])  # fmt: skip
def test_beginning_with_nothing_is_refused_where_it_makes_no_sense(flags, tmp_path, arguments, message):
    with pytest.raises(BadInput, match=message):
        command(adapt, *flags, "--out", tmp_path / "s", *arguments)
    assert not list(tmp_path.iterdir())


def test_forward_transfer_compares_one_that_knows_the_name_only_with_an_untrained_one(
    tiny_run, flags, tmp_path, monkeypatch
):
    """The first acts like the old policy; both know the new name."""
    asked, given = [], []

    def stop(*arguments):
        given.extend(arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(adapt.stages, "before_learning", stop)
        command(adapt, "--run", tiny_run, "--sequence", "drawer-open", *flags, "--eval-episodes", 30, "--eval-seed", 2,
                "--out", tmp_path / "run")  # fmt: skip

    def evaluated(policy, tasks, episodes, seed, roller):
        assert (tasks, episodes, seed) == (["drawer-open"], 10, 2) and roller is given[-1]
        asked.append(policy)
        return {"tasks": {"drawer-open": {"success": len(asked) / 4}}}, {}

    monkeypatch.setattr(stages.evaluate, "evaluate", evaluated)
    policy = load_policy(tiny_run, CPU)
    measured = stages.before_learning(*given)
    assert measured.pop("before_learning_seconds") >= 0 and measured == {
        "success_before_learning": {"drawer-open": 0.25},
        "success_untrained": {"drawer-open": 0.5},
    }
    known, untrained = asked
    old, named = chunks(policy, ["reach", "push"])[0], chunks(known, ["reach", "push"])[0]
    assert np.array_equal(old, named) and known.config.tasks[-1] == untrained.config.tasks[-1] == "drawer-open"
    embedding = known.task_embedding.weight
    assert torch.allclose(embedding[2], embedding[:2].mean(0))
    assert not np.allclose(chunks(untrained, ["reach", "push"])[0], old, atol=0.01)
    assert torch.equal(untrained.encoder.mean, policy.encoder.mean) and policy.encoder.mean.any()
    assert torch.equal(untrained.encoder.scale, policy.encoder.scale)


def test_demonstrations_outside_what_is_known_are_told():
    policy = make_policy()
    inside, beyond = {part: torch.zeros(10, *shape) for part, shape in PARTS.items()}, torch.zeros(10, 8, 4)
    assert outside(policy, inside, beyond).startswith("0.0% of its observed numbers (by up to 0.0 scales) are")
    inside["proprioception"][:, 0, 0], beyond[..., 3] = 7.0, -1.5
    said = outside(policy, inside, beyond)
    # Of 39 numbers and 4 differences, 3 each: the hand's x, and how far both objects and the goal are from it.
    assert f"{4 / 51:.1%} of its observed numbers (by up to 2.0 scales)" in said
    assert "25.0% of its action numbers (by up to 0.5 scales)" in said


def test_full_fine_tuning_goes_on_with_a_known_task_on_other_demonstrations(tiny_run, flags, tmp_path):
    """As when somebody brings more of them. Beside a new one, too; and nothing is added for what is known."""
    other = ["--demo-draw", 1, *flags]
    command(adapt, "--run", tiny_run, "--tasks", "push", "--mode", "full", *other, "--out", tmp_path / "a")
    command(adapt, "--run", tiny_run, "--tasks", "push,drawer-open", "--mode", "full", *flags, "--out", tmp_path / "b")
    before = load_policy(tiny_run, CPU)
    for run, tasks in (("a", ["reach", "push"]), ("b", ["reach", "push", "drawer-open"])):
        after = load_policy(tmp_path / run, CPU)
        assert after.config.tasks == tasks and after.config.components == before.config.components
        moved = (after.task_embedding.weight[:2] - before.task_embedding.weight).abs().amax(1)
        assert moved[1] > 10 * moved[0], "of what is not learned the embedding gets no gradient, only weight decay"
    learned_from = read_config(tmp_path / "a")["datasets"]
    assert learned_from["push"] != learned_from["reach"] == read_config(tmp_path / "b")["datasets"]["push"]


# ------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    "arguments,message",
    [
        ([], "give either --tasks"),
        (["--tasks", "reach", "--sequence", "push"], "give either --tasks"),
        (["--tasks", "reach"], "knows 'reach' already; --mode full goes on with known tasks"),
        (["--sequence", "drawer-open,push"], "knows 'push' already"),
        (["--sequence", "drawer-open,door-close,drawer-open-v3"], "--sequence names 'drawer-open' twice"),
        (["--tasks", "drawer-opn"], "drawer-open"),
        (["--tasks", "drawer-open", "--mode", "full", "--retain", "exact"], "--retain exact needs"),
        (["--tasks", "drawer-open", "--train-encoder", "--retain", "exact"], "--retain exact needs"),
        (["--tasks", "drawer-open", "--mode", "scratch", "--retain", "replay"], "leave it out"),
        (["--tasks", "drawer-open", "--mode", "components"], "--train-components"),
        (["--tasks", "drawer-open", "--mode", "components", "--train-components", "4"], "0 to 3, got '4'"),
        (["--tasks", "drawer-open", "--start-from", "best"], "0 to 3, got 'best'"),
        (["--tasks", "drawer-open", "--start-from", "0,2"], "must name 1, one for each new component, got '0,2'"),
        (["--tasks", "drawer-open", "--start-from", "²"], "0 to 3, got '²'"),
        (["--tasks", "drawer-open", "--new-components", "5"], "at most 4, got 5"),
        (["--tasks", "drawer-open", "--mode", "router", "--start-from", "0"], "go with --mode add-component"),
        (["--tasks", "drawer-open", "--mode", "full", "--train-encoder"], "leave out --train-encoder"),
        (["--sequence", "drawer-open", "--mode", "scratch"], "use --tasks"),
        (["--tasks", "drawer-open", "--eval-episodes", "20000"], "--eval-episodes must be at most 10000"),
        (["--tasks", "drawer-open", "--new-components", "0"], "--new-components must be at least 1"),
        (["--tasks", "drawer-open", "--new-components", "2000000000"], "--new-components must be at most 1024"),
        (
            ["--tasks", "drawer-open", "--new-components", "1000", "--start-from", "random", "--batch-size", "1000000"],
            "1004 components, --batch-size 1000000 and a horizon of 8 need more than the memory",
        ),
        (["--tasks", "drawer-open", "--steps", "0"], "--steps must be at least 1"),
        (["--tasks", "drawer-open", "--lr", "nan"], "--lr must be at least 1e-38, got nan"),
        (["--tasks", "drawer-open", "--lr", "inf"], "--lr must be at most 1e\\+38, got inf"),
        (["--tasks", "drawer-open", "--device", "tpu"], "device 'tpu'"),
        (["--tasks", "drawer-open", "--dataset-id", "mylab/{task}/human-v0"], "mylab/drawer-open/human-v0"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(tiny_run, flags, tmp_path, arguments, message):
    before = fingerprint(tiny_run)
    with pytest.raises(BadInput, match=message):
        command(adapt, "--run", tiny_run, *flags, "--out", tmp_path / "run", *arguments)
    assert fingerprint(tiny_run) == before and not list(tmp_path.rglob("*"))


def test_a_run_is_not_written_into_the_one_that_it_starts_from(tiny_run, flags):
    before = fingerprint(tiny_run)
    with pytest.raises(BadInput, match="inside the run that is only read"):
        command(adapt, "--run", tiny_run, "--tasks", "drawer-open", *flags, "--out", tiny_run / "figures" / "new")
    assert fingerprint(tiny_run) == before


def test_weights_that_are_not_finite_are_not_saved(tiny_run, flags, tmp_path):
    with pytest.raises(BadInput, match="lower --lr"):
        command(adapt, "--run", tiny_run, "--tasks", "drawer-open", *flags, "--lr", "1e38", "--steps", 1, "--out",
                tmp_path / "run")  # fmt: skip
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_runs_that_are_missing_or_damaged_are_refused(tiny_run, flags, tmp_path):
    with pytest.raises(BadInput, match="no run in"):
        command(adapt, "--run", tmp_path / "nowhere", "--tasks", "drawer-open", *flags)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "config.json").write_text((tiny_run / "config.json").read_text())
    (damaged / "model.safetensors").write_bytes((tiny_run / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(BadInput, match="damaged"):
        command(adapt, "--run", damaged, "--tasks", "drawer-open", *flags)


@pytest.mark.parametrize("how", ["--tasks", "--sequence"])
def test_an_existing_folder_is_never_written_to(tiny_run, flags, tmp_path, how):
    (tmp_path / "thesis.txt").write_text("years of work")
    before = fingerprint(tiny_run)
    for out in (tmp_path, tiny_run):
        with pytest.raises(BadInput, match="exists.*: choose another --out"):
            command(adapt, "--run", tiny_run, how, "drawer-open", *flags, "--out", out)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"] and fingerprint(tiny_run) == before


def test_a_damaged_memory_is_refused(tiny_run, flags, tmp_path):
    line = ["--retain", "replay", *flags]
    command(adapt, "--run", tiny_run, "--tasks", "drawer-open", *line, "--out", tmp_path / "a")
    path = tmp_path / "a" / "replay.safetensors"
    kept = {name: x for name, x in safetensors.torch.load_file(path).items() if name != "reach/goal"}
    (tmp_path / "part").mkdir()
    safetensors.torch.save_file(kept, tmp_path / "part" / path.name)
    with pytest.raises(BadInput, match="reach/goal is missing"):
        read_memory(tmp_path / "part", {part: (64, *shape) for part, shape in PARTS.items()})
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(BadInput, match="replay.safetensors is damaged"):
        command(adapt, "--run", tmp_path / "a", "--tasks", "drawer-close", *line, "--out", tmp_path / "b")


def test_scratch_knows_the_new_task_alone_and_is_evaluated(tiny_run, flags, tmp_path, data_dir):
    result = command(adapt, "--run", tiny_run, "--tasks", "drawer-open", "--mode", "scratch", *flags,
                     "--eval-episodes", 1, "--out", tmp_path / "run")  # fmt: skip
    policy, old = load_policy(tmp_path / "run", CPU), load_policy(tiny_run, CPU)
    assert policy.config.tasks == ["drawer-open"] and result["forgetting"] is None
    # Its statistics are those of the new demonstrations. The first four numbers are hand and gripper, now, wherever an
    # action followed.
    episodes = demonstrations(["drawer-open"], 4, data_dir)["drawer-open"]
    hand = np.concatenate([e["observations"]["proprioception"][:-1, 0] for e in episodes])
    assert np.allclose(policy.encoder.mean[:4], hand.mean(0), atol=1e-4)
    assert not torch.allclose(policy.encoder.mean, old.encoder.mean, atol=1e-4)


def test_an_evaluation_of_other_weights_or_steps_is_not_taken_for_this_one(tiny_run, tmp_path, monkeypatch):
    run, played = tmp_path / "run", []
    shutil.copytree(tiny_run, run)
    made = json.loads((run / "evaluation.json").read_text())

    def once(*arguments, **named):  # what comes out is the same each time; how often it is asked is what matters here
        played.append(arguments)
        return copy.deepcopy(made), []

    monkeypatch.setattr(stages.evaluate, "evaluate", once)
    assert stages.evaluated(run, tmp_path / "none" / "e.json", 2, 0, CPU)["tasks"] == made["tasks"]
    assert not (tmp_path / "none").exists() and not played  # it was found, not made
    short = {task: {name: x for name, x in r.items() if name != "interval"} for task, r in made["tasks"].items()}
    whole = made["tasks"].items()
    for change in ({"sampling_steps": 1}, {"tasks": ["reach"]}, {"training": {**made["training"], "steps": 5}},
                   {"tasks": short}, {"executed": 1}, {"tasks": {task: r | {"success": 7.5} for task, r in whole}},
                   {"tasks": {task: r | {"failed_seeds": [0, 1, 2]} for task, r in whole}}):  # fmt: skip
        (run / "evaluation.json").write_text(json.dumps(made | change))
        assert stages.evaluated(run, tmp_path / "new" / "e.json", 2, 0, CPU)["sampling_steps"] == 5
        assert (tmp_path / "new" / "e.json").exists()
        (tmp_path / "new" / "e.json").unlink()
    assert len(played) == 7


def test_a_staged_run_goes_on_exactly_or_not_at_all(tiny_run, flags, tmp_path):
    command(adapt, "--run", tiny_run, "--tasks", "drawer-open", *flags, "--out", tmp_path / "a")
    with pytest.raises(BadInput, match="go on with --retain exact"):
        command(adapt, "--run", tmp_path / "a", "--tasks", "drawer-close", "--retain", "paper", *flags)


def test_a_staged_policy_asks_for_the_task_even_where_the_network_does_not():
    policy = make_policy(conditioning="none")
    before, _ = chunks(policy, ["reach", "push"])
    grown = grow(policy, ["drawer-open"], 1, [0], rank=4)
    assert np.array_equal(chunks(grown, ["reach", "push"])[0], before)
    with pytest.raises(ValueError, match="does not know task 'hammer'"):
        chunks(grown, ["hammer"])
