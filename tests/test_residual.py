"""The adapter of the encoder that a stage brings: what it computes, what learns, and that old tasks never see it."""

import json

import numpy as np
import pytest
import torch
import torch.nn as nn
from conftest import command
from test_adapt import CPU, chunks, flags, make_policy  # noqa: F401  (flags is a fixture)

import adapt
import skills
from adapt import count, grow, train_only
from encoder import StateEncoder
from plumbing import tensors
from plumbing.cli import BadInput
from plumbing.runs import build_policy, load_policy, read_config
from study.ml45 import augment, low_rank
from variants.staged import LoRA, _replaced


def filled(encoder: nn.Module, rank: int) -> LoRA:
    residual = LoRA(encoder, rank)
    with torch.no_grad():
        for p in residual.parameters():
            p.normal_(std=0.1)
    return residual


class Pixels(nn.Module):
    """An encoder with convolutions, and something that is not corrected."""

    def __init__(self):
        super().__init__()
        self.look = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Flatten())
        self.head = nn.Linear(4 * 6 * 6, 5, bias=False)

    def forward(self, observation):
        return self.head(self.look(observation["image"]))


@pytest.mark.parametrize("encoder,observation,layers", [
    (StateEncoder({"state": (3,)}, 8), {"state": (7, 3)}, ["net.0", "net.2", "net.4"]),
    (Pixels(), {"image": (7, 3, 8, 8)}, ["look.0", "head"]),
])  # fmt: skip
def test_a_correction_is_the_sum_of_two_linear_maps(encoder, observation, layers):
    """W x + A (B x) + b + d, worked out layer by layer, beside W + A B put into the weights."""
    torch.manual_seed(0)
    residual = filled(encoder, 2)
    seen = {name: torch.randn(shape) for name, shape in observation.items()}
    modules, plain = dict(encoder.named_modules()), encoder(seen)
    handles = []
    for name, A, B, d in zip(layers, residual.A, residual.B, residual.d, strict=True):

        def corrected(layer, inputs, output, A=A, B=B, d=d):
            (x,) = inputs
            if isinstance(layer, nn.Conv2d):
                first = nn.functional.conv2d(x, B.view(2, *layer.weight.shape[1:]))
                return output + nn.functional.conv2d(first, A[:, :, None, None]) + d[:, None, None]
            return output + x @ B.T @ A.T + (d if layer.bias is not None else 0)

        handles.append(modules[name].register_forward_hook(corrected))
    expected = encoder(seen)
    for handle in handles:
        handle.remove()
    view = _replaced(encoder, residual.weights(encoder))
    assert torch.allclose(view(seen), expected, atol=1e-5) and not torch.allclose(expected, plain, atol=1e-2)
    assert torch.equal(encoder(seen), plain)  # who sees through the encoder itself sees what it always saw


@pytest.mark.parametrize("norm", [nn.utils.parametrizations.spectral_norm, nn.utils.parametrizations.weight_norm])
def test_a_layer_that_computes_its_weight_has_no_adapter(norm):
    """It would be allocated, and do nothing."""
    with pytest.raises(ValueError, match="layer '1' computes its weight .* --encoder-rank 0"):
        LoRA(nn.Sequential(nn.Linear(3, 4), norm(nn.Linear(4, 2))), 2)
    assert count(LoRA(nn.Sequential(norm(nn.Linear(4, 2))), 0)) == 0


def test_a_fresh_correction_changes_nothing_and_can_learn():
    encoder = StateEncoder({"state": (3,)}, 8).requires_grad_(False)
    residual, seen = LoRA(encoder, 4), {"state": torch.randn(5, 3)}
    view = _replaced(encoder, residual.weights(encoder))
    assert torch.equal(view(seen), encoder(seen))
    view(seen).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in [*residual.A, *residual.d]) and all(
        p.grad is None for p in encoder.parameters()
    )
    assert count(residual) == 4 * (3 + 256 + 256 + 256 + 256 + 8) + 256 + 256 + 8
    assert count(LoRA(encoder, 0)) == 0


def test_every_stage_begins_as_what_the_policy_was_and_leaves_it_as_it_is():
    policy, stages = make_policy(), [("drawer-open", 2), ("window-close", 2), ("door-close", 5)]
    expected = {}
    for task, rank in stages:
        grown = grow(policy, [task], 1, [0], rank)
        newest = policy.config.tasks[-1]
        # The new name's embedding is the mean of the known ones: with that of the newest task it has to act like it.
        with torch.no_grad():
            known = grown.task_embedding.weight
            known[-1] = known[-2]
        mine, before = chunks(grown, [task] * 2)[0], chunks(policy, [newest] * 2)[0]
        assert np.allclose(mine, before, atol=1e-5)
        with torch.no_grad():
            for p in grown.residual[-1].parameters():
                p.normal_(std=0.1)
        assert not np.allclose(chunks(grown, [task] * 2)[0], before, atol=1e-2)
        for name, actions in expected.items():
            assert np.array_equal(chunks(grown, [name] * 2)[0], actions), name
        expected = {name: chunks(grown, [name] * 2)[0] for name in grown.config.tasks}
        policy = grown
    assert list(policy.config.ranks) == [0, 2, 2, 5]


def test_a_fused_optimiser_does_not_leave_what_was_kept():
    """It changes weights without counting the change. The log looks at the router between steps of training."""
    grown = grow(make_policy(), ["drawer-open"], 1, [0], 2)
    parts = [p for p in grown.residual[-1].parameters() if p.numel()]
    optimizer = torch.optim.AdamW(parts, lr=0.1, fused=True)
    for _ in range(2):
        before = chunks(grown, ["drawer-open"] * 2)[0]  # as without gradients
        grown.residual.train()
        sum(x.square().sum() for x in grown.at(-1).encoder.parameters()).backward()
        optimizer.step()
        now = chunks(grown, ["drawer-open"] * 2)[0]
        grown.__dict__.pop("kept", None)
        assert np.array_equal(chunks(grown, ["drawer-open"] * 2)[0], now) and not np.array_equal(now, before)


def test_what_acting_keeps_from_call_to_call_is_made_anew_when_a_weight_changes(monkeypatch):
    """A correction's product, and a stage's components where they are not the first ones of all."""
    grown = grow(make_policy(), ["drawer-open"], 1, [0], 2)
    apart, (skill,) = skills.take_apart(grown)
    other = grow(make_policy(), ["window-close"], 1, [1], 2)
    _, (second,) = skills.take_apart(other)
    policy = skills.put_together(apart, [skill, second])
    task, K = "window-close", policy.config.components
    made, usual = [], LoRA.weights
    monkeypatch.setattr(LoRA, "weights", lambda self, encoder: made.append(self) or usual(self, encoder))

    def act():
        return chunks(policy, [task] * 2)[0]

    first = act()
    assert np.array_equal(act(), first) and made == [policy.residual[2]]  # once
    for change in (policy.residual[2].A[0], policy.encoder.net[0].bias, policy.components.head.bias[K - 1 :]):
        with torch.no_grad():
            change += 0.3
        before, now = first, act()
        assert not np.array_equal(now, before)
        policy.kept.clear()
        assert np.array_equal(act(), now)
        first = now
    assert (
        set(policy.kept) == {("encoder", 2), ("components", *range(K - 2), K - 1)}
        and policy.config.stages[2][0][-1] == K - 1
    )
    policy.load_state_dict(skills.put_together(apart, [skill, second]).state_dict(), assign=True)
    assert not np.array_equal(act(), first)  # other tensors, with no change in place


def test_only_the_newest_correction_learns():
    policy = make_policy()
    for task in ("drawer-open", "window-close"):
        policy = grow(policy, [task], 1, [0], 3)
    parts = train_only(policy, [4], [3], False)
    inputs = sum(layer.weight.shape[1] for _, layer in LoRA.layers(policy.encoder))
    outputs = sum(layer.weight.shape[0] for _, layer in LoRA.layers(policy.encoder))
    assert parts["residual"] == (2 * (3 * (inputs + outputs) + outputs), 3 * (inputs + outputs) + outputs)
    learn = {name for name, p in policy.named_parameters() if p.requires_grad and name.startswith(("enc", "res"))}
    assert learn and all(name.startswith("residual.2.") for name in learn)


def test_a_run_from_before_there_were_corrections_plays_the_same_bits(tiny_run, flags, tmp_path):  # noqa: F811
    command(
        adapt, "--run", tiny_run, "--tasks", "drawer-open", "--encoder-rank", "0", *flags, "--out", tmp_path / "old"
    )
    path, tasks = tmp_path / "old" / "config.json", ["drawer-open", "push"]
    actions, _ = chunks(load_policy(tmp_path / "old", CPU), tasks)
    config = json.loads(path.read_text())
    assert config["policy_config"].pop("ranks") == [0, 0]
    path.write_text(json.dumps(config))
    state, about = tensors.load(tmp_path / "old" / "model.safetensors")  # nor did weights say which config is theirs
    tensors.save(tmp_path / "old" / "model.safetensors", state, {name: about[name] for name in ("step", "seconds")})
    assert np.array_equal(chunks(load_policy(tmp_path / "old", CPU), tasks)[0], actions)
    command(adapt, "--run", tmp_path / "old", "--tasks", "door-close", *flags, "--out", tmp_path / "new")
    new = load_policy(tmp_path / "new", CPU)
    assert np.array_equal(chunks(new, tasks)[0], actions) and list(new.config.ranks) == [0, 0, 16]
    assert all(A.abs().sum() > 0 for A in new.residual[-1].A)


def test_a_policy_that_is_loaded_in_inference_mode_acts_too(tiny_run, flags, tmp_path):  # noqa: F811
    command(adapt, "--run", tiny_run, "--tasks", "drawer-open", *flags, "--out", tmp_path / "run")
    usual = chunks(load_policy(tmp_path / "run", CPU), ["drawer-open", "push"])[0]
    with torch.inference_mode():
        assert np.array_equal(chunks(load_policy(tmp_path / "run", CPU), ["drawer-open", "push"])[0], usual)


def test_the_small_mode_learns_a_name_a_router_and_a_correction(tiny_run, flags, tmp_path):  # noqa: F811
    command(adapt, "--run", tiny_run, "--tasks", "drawer-open", "--mode", "router", *flags, "--out", tmp_path / "run")
    policy, stage = load_policy(tmp_path / "run", CPU), read_config(tmp_path / "run")["adapted"][-1]
    learned = count(policy.residual[-1]) + count(policy.router[-1]) + policy.task_embedding.weight.shape[1]
    assert stage["trained_parameters"] == learned and policy.config.components == 4


@pytest.mark.parametrize("arguments,message", [
    (["--retain", "paper", "--encoder-rank", "4"], "--encoder-rank goes with --retain exact"),
    (["--mode", "full", "--encoder-rank", "4"], "--encoder-rank goes with --retain exact"),
    (["--encoder-rank", "-1"], "--encoder-rank must be at least 0"),
    (["--encoder-rank", "2000000000"], "--encoder-rank must be at most 1024"),
    (["--retain", "replay", "--train-encoder"], "leave out --train-encoder"),
])  # fmt: skip
def test_what_would_move_old_tasks_is_refused(tiny_run, flags, tmp_path, arguments, message):  # noqa: F811
    with pytest.raises(BadInput, match=message):
        command(adapt, "--run", tiny_run, "--tasks", "drawer-open", *flags, "--out", tmp_path / "run", *arguments)
    assert not list(tmp_path.iterdir())


def test_a_smaller_rank_than_the_last_stage_has_is_refused(tiny_run, flags, tmp_path):  # noqa: F811
    command(adapt, "--run", tiny_run, "--tasks", "drawer-open", "--encoder-rank", "3", *flags, "--out", tmp_path / "a")
    with pytest.raises(BadInput, match="--encoder-rank must be at least 3, as in the run"):
        command(adapt, "--run", tmp_path / "a", "--tasks", "push-wall", "--encoder-rank", "2", *flags)


def test_moving_everything_on_the_table_leaves_what_lies_between():
    torch.manual_seed(0)
    objects = torch.cat([torch.rand(500, 2, 7), torch.zeros(500, 2, 7)], -1)  # one object; the other is not there
    seen = {"proprioception": torch.rand(500, 2, 4), "objects": objects, "goal": torch.rand(500, 3)}
    before = {part: x.clone() for part, x in seen.items()}
    shifted, noisy = (augment.moved(seen, together) for together in (True, False))
    far = augment.moved(seen, True, 0.1)
    assert all(torch.equal(seen[part], x) for part, x in before.items())  # windows are drawn again
    for made, spread in ((shifted, augment.SHIFT), (noisy, augment.NOISE), (far, 0.1)):
        step = {part: made[part] - x for part, x in before.items()}
        assert step["goal"][:, :2].std().item() == pytest.approx(spread, rel=0.1)
        assert torch.equal(made["objects"][..., 3:], objects[..., 3:])  # quaternions, and what is not there
        assert torch.equal(made["proprioception"][..., 3], seen["proprioception"][..., 3])  # the gripper
        assert torch.allclose(step["objects"][:, 0], step["objects"][:, 1], atol=1e-6)  # velocities stay
        between = step["goal"] - step["objects"][:, 0, :3]
        assert (between.abs().max() < 1e-6) == (made is not noisy)
    assert torch.equal(shifted["goal"][:, 2], seen["goal"][:, 2])


def test_a_hand_that_was_moved_beside_its_path_comes_back_to_it():
    torch.manual_seed(0)
    hand, actions = torch.rand(500, 2, 4), 0.1 * torch.randn(500, 8, 4)
    seen, corrected = augment.astray({"proprioception": hand, "goal": torch.rand(500, 3)}, actions)

    def arrives(where, moves):
        return where["proprioception"][:, 0, :3] + augment.CENTIMETRE * moves[..., :3].sum(1)

    gentle = (corrected.abs() < 1).all((1, 2))  # else a step is as long as it can be
    assert gentle.float().mean() > 0.9
    torch.testing.assert_close(arrives(seen, corrected)[gentle], arrives({"proprioception": hand}, actions)[gentle])
    assert torch.equal(seen["proprioception"][..., 3], hand[..., 3]) and torch.equal(corrected[..., 3], actions[..., 3])
    assert (seen["proprioception"] - hand)[..., :3].std().item() == pytest.approx(augment.ASTRAY, rel=0.1)


@pytest.mark.parametrize("rank", [0, 1])
def test_the_rival_without_a_router_learns_a_name_or_the_smallest_adapters(rank):
    """It begins as the same function; what an optimiser can move is counted by hand; the rest is left bit by bit."""
    policy = make_policy()
    policy = build_policy("monolithic", vars(policy.config)).eval()
    before = {name: x.clone() for name, x in policy.state_dict().items()}
    grown, parts, _ = low_rank.prepare(None, policy, ["drawer-open"], {}, rank=rank)
    names, noise = ["reach", "push"] * 4, torch.randn(8, 8, 4)
    seen = {
        part: np.random.default_rng(0).normal(size=(8, *shape)) for part, shape in policy.config.observation.items()
    }
    old, begun = (p.eval().act(seen, names, noise=noise)[0] for p in (policy, grown))
    np.testing.assert_allclose(begun, old, atol=1e-5)

    def numbers(module: nn.Module) -> int:  # rank (n + m) of each matrix, and biases
        return sum(sum(x.flatten(0, -2).shape) if x.ndim > 1 and "bias" not in name else x.numel()
                   for name, x in module.named_parameters())  # fmt: skip

    C = policy.config.condition_dim
    adapters = numbers(policy.encoder) + numbers(policy.components) if rank else 0
    assert sum(learned for _, learned in parts.values()) == C + adapters
    with torch.no_grad():
        for p in grown.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p))
    adapt.release(grown)
    after = grown.state_dict()
    moved = {name for name, x in before.items() if not torch.equal(after[name][: len(x)], x)}
    assert (moved == set()) == (rank == 0) and "task_embedding.weight" not in moved
    mean = before["task_embedding.weight"].mean(0)
    assert not torch.equal(after["task_embedding.weight"][2], mean)
