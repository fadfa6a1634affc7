"""What is tried to wake a router: informed.py, decorrelated.py, waking.py, each against what it has to be by hand."""

import copy
import functools
import math

import numpy as np
import pytest
import torch
from test_forks import act, batch, make, same

import adapt
import router
import train
from fdp import Policy as FactorizedPolicy
from plumbing import runs
from plumbing.cli import BadInput
from variants import decorrelated, informed, staged, waking

# ------------------------------------------------------------------------------------------ a bonus for information


def test_the_bonus_is_the_information_of_the_batch(monkeypatch):
    policy, inputs = make("informed", bonus=0.1), batch(make())
    known = {  # a router's probabilities for six samples -> what a component tells about the sample
        "all alike": (torch.full((6, 4), 0.25), 0.0),
        "always the same one": (torch.eye(4)[[2] * 6], 0.0),
        "half and half": (torch.eye(4)[[0, 0, 0, 1, 1, 1]], math.log(2)),
    }
    for name, (p, nats) in known.items():
        monkeypatch.setattr(policy.router, "forward", lambda condition, p=p: p)
        errors, terms = policy.loss(*inputs)
        assert list(terms) == ["information"] and terms["information"][0] == -0.1  # more is better
        assert terms["information"][1].item() == pytest.approx(nats, abs=1e-6), name
        assert errors.shape == (6,)


def test_the_bonus_alone_wakes_a_router():
    """Its gradient, without any error to learn from: from nearly 1/K to a component for each of two tasks."""
    policy, inputs = make("informed"), batch(make(), n=64)
    optimizer = torch.optim.Adam(policy.router.parameters(), lr=1e-2)
    told = []
    for _ in range(60):
        coefficient, information = policy.loss(*inputs)[1]["information"]
        optimizer.zero_grad()
        (coefficient * information).backward()
        optimizer.step()
        told.append(information.item())
    assert told[0] < 0.1 and told[-1] > 0.6  # ln 2 = 0.69


def test_only_the_best_count_and_the_others_get_no_gradient():
    policy, inputs = make("informed", top=2), batch(make())
    weights = act(policy)[1]
    assert ((weights > 0).sum(1) == 2).all() and np.allclose(weights.sum(1), 1)
    p = policy.router(policy.encode(inputs[0], inputs[1]))
    kept = policy.sparse(p)
    assert torch.equal(kept.topk(2).indices, p.topk(2).indices)
    ratio = kept.topk(2).values / p.topk(2).values
    assert torch.allclose(ratio[:, 0], ratio[:, 1])  # as the router weighs them against each other
    policy.loss(*inputs)[0].sum().backward()
    used = (kept > 0).any(0)
    moved = torch.stack([x.grad.flatten(1).abs().sum(1) for x in policy.components.parameters()]).sum(0) > 0
    assert torch.equal(moved, used) and not used.all()


def test_rows_that_learn_alone_are_computed_with_the_others():
    """adapt.py lets some components of one tensor learn: what is gathered must not mistake which ones those are."""
    policy, inputs = make("informed", top=2), batch(make(), n=20)
    spread(policy)
    least = int((policy.sparse(policy.router(policy.encode(*inputs[:2]))) != 0).sum(0).argmin())
    adapt.only_rows(policy.components, [least])
    results = []
    for gathers in (True, False):
        policy.gathers = gathers
        policy.zero_grad()
        errors, _ = policy.loss(*inputs)
        errors.mean().backward()
        learned = policy.components.head.parametrizations.bias.original
        results.append((errors.detach(), learned.grad.clone()))
    torch.testing.assert_close(*results)


def test_informed_needs_to_know_tasks_apart_and_whole_numbers():
    for wrong in ({"task_conditioning": "none"}, {"top": 2.5}):
        with pytest.raises(ValueError, match="needs to know tasks apart|--top must be"):
            make("informed", **wrong)
    make("informed", task_conditioning="none", bonus=0.0)


def test_a_stage_upon_it_does_not_cool_it_further():
    policy, inputs = make("waking", how="cooling"), batch(make())
    policy.train()
    policy.loss(*inputs)
    assert policy.seen == 1
    policy.encoder.requires_grad_(False)  # as adapt.py does
    policy.loss(*inputs)
    assert policy.seen == 1
    # A stage with an adapter of the encoder, whose weights are sums of which one part learns.
    config = adapt.AdaptConfig(retain="exact", start_from="0", encoder_rank=2)
    grown, *_ = adapt.prepare(config, policy.eval(), ["drawer-open"], {})
    observation, task, *rest = batch(make())
    grown.loss(observation, torch.full_like(task, 2), *rest)[0].mean().backward()
    assert grown.residual[-1].A[0].grad.any() and grown.seen == 1


def test_components_that_shrink_as_they_become_more_are_not_added_to():
    config = adapt.AdaptConfig(retain="exact", start_from="0", encoder_rank=2)
    with pytest.raises(BadInput, match="this policy makes components of another size where there are more of them"):
        adapt.prepare(config, make("waking", how="narrow"), ["drawer-open"], {})


class TwoTables(FactorizedPolicy):
    """Each task has a second number, in a table that adapt.py knows nothing of."""

    def build(self):
        super().build()
        self.numbers = torch.nn.Embedding(len(self.config.tasks), 1)


def test_a_fork_with_a_second_table_of_tasks_is_refused_before_its_stage_is_trained(monkeypatch):
    monkeypatch.setattr(waking, "Policy", TwoTables)
    staged.on_top_of.cache_clear()
    config = adapt.AdaptConfig(retain="exact", start_from="0", encoder_rank=2)
    with pytest.raises(BadInput, match="do not come apart"):
        adapt.prepare(config, make("waking"), ["drawer-open"], {})
    staged.on_top_of.cache_clear()


@pytest.mark.parametrize("retain", ["exact", "paper"])
def test_a_new_task_is_named_to_both_encoders(retain):
    """own-encoder: the row that the router reads, too, begins at the mean of the known ones, and learns."""
    policy = make("waking", how="own-encoder")
    config = adapt.AdaptConfig(retain=retain, start_from="0", encoder_rank=2 if retain == "exact" else None)
    grown, parts, _ = adapt.prepare(config, policy, ["drawer-open"], {})
    assert torch.equal(grown.task_embedding.weight[2], policy.task_embedding.weight.mean(0)) and parts[
        "task_embedding"
    ] == (3 * 32, 32)
    observation, task, *rest = batch(make())
    grown.loss(observation, torch.full_like(task, 2), *rest)[0].mean().backward()
    assert grown.task_embedding.parametrizations.weight.original.grad[0, 16:].any()


@pytest.mark.parametrize("how", ["fast", "cooling"])
def test_what_changes_the_logits_of_a_softmax_takes_no_other_router(how):
    with pytest.raises(ValueError, match=f"--how {how} changes the logits of a softmax: --router softmax, not affine"):
        make("waking", how=how, router="affine")


def spread(policy) -> None:
    """A router that is sure of itself, and sends different observations to different components."""
    with torch.no_grad():
        policy.router.net[-1].weight.mul_(40)


@pytest.mark.parametrize("top,K", [(1, 4), (2, 4), (2, 8), (3, 8)])
def test_what_is_computed_for_the_chosen_rows_is_what_all_of_it_would_give(top, K):
    """Errors and every gradient, and actions: beside fdp.py's own sum over all components."""
    policy = make("informed", components=K, top=top)
    spread(policy)
    dense, inputs = copy.deepcopy(policy), batch(make(), n=20)
    dense.compose = functools.partial(FactorizedPolicy.compose, dense)
    results = []
    for one in (policy, dense):
        errors, _ = one.loss(*inputs)
        errors.mean().backward()
        results.append((errors, {name: x.grad for name, x in one.named_parameters() if x.grad is not None}, act(one)))
    (errors, gradients, (actions, weights)), (wanted, theirs, (their_actions, _)) = results
    assert len((weights != 0).any(0).nonzero()[0]) > 1
    torch.testing.assert_close(errors, wanted)
    np.testing.assert_allclose(actions, their_actions, atol=1e-5)
    for name, x in theirs.items():
        mine = gradients.get(name, torch.zeros_like(x))
        torch.testing.assert_close(mine, x, atol=1e-6, rtol=1e-4, msg=name)
    copy.deepcopy(policy)  # nothing of a step is left in it


def test_a_component_that_nobody_chose_is_not_touched():
    policy = make("informed", components=4, top=2)
    with torch.no_grad():
        policy.router.net[-1].weight.zero_()
        policy.router.net[-1].bias.copy_(torch.tensor([1.0, -50.0, 2.0, -60.0]))
        before = act(policy)
        for x in policy.components.parameters():
            x[[1, 3]] = math.nan
    assert same(act(policy), before)
    assert policy.loss(*batch(make()))[0].isfinite().all()
    with torch.no_grad():  # another's weights, such as 1/K, are those of all
        condition = torch.randn(3, policy.config.condition_dim)
        everyone = policy(torch.randn(3, 8, 4), torch.zeros(3).long(), condition, torch.full((3, 4), 0.25))
    assert everyone.isnan().all()


@pytest.mark.parametrize("seed", range(3))
def test_every_chosen_pair_has_one_place(seed):
    torch.manual_seed(seed)
    weights = torch.randn(30, 8).softmax(-1)
    kept = torch.zeros_like(weights).scatter(1, weights.topk(3).indices, 1.0)
    kept[:, 5] = 0  # which leaves rows with fewer
    rows = informed.gather(kept * weights, 3)
    found = torch.zeros(30, 8)
    for place, slot, row, column in zip(rows.place, rows.slot, rows.row, rows.column, strict=True):
        assert rows.components[place] == column and rows.index[place, slot] == row
        found[row, column] += 1
    assert (found <= 1).all() and (found >= (kept * weights != 0)).all() and found.sum() == 90
    assert informed.gather(weights, 3) is None


def test_one_task_alone_is_paid_nothing_where_a_policy_knows_several():
    policy, (observation, task, *rest) = make("informed"), batch(make())
    assert policy.loss(observation, task, *rest)[1]["information"][1] != 0
    assert policy.loss(observation, torch.zeros_like(task), *rest)[1]["information"][1] == 0


@pytest.mark.parametrize("variant", ["fdp", "flow", "lit", "waking", "decorrelated", "monolithic", "uniform"])
def test_the_informed_router_is_paid_in_every_fork_that_can_route(variant):
    """fdp with router "informed" is the fork with its bonus: the same errors, the same pay. Others are paid by the same
    rule, and what cannot route earns nothing."""
    parts = {"wrist": (3, 32, 32), **{part: tuple(x.shape[1:]) for part, x in batch(make())[0].items()}}
    more = {"observation": parts} if variant == "lit" else {}
    policy, (observation, task, *rest) = make(variant, router="informed", **more), batch(make())
    if variant == "lit":
        observation = observation | {"wrist": torch.rand(6, 3, 32, 32)}
    errors, terms = policy.loss(observation, task, *rest)
    coefficient, nats = terms["information"]
    assert errors.shape == (6,) and coefficient == -router.BONUS
    if variant in ("monolithic", "uniform"):
        assert nats.item() == pytest.approx(0, abs=1e-6)
    else:
        assert nats.item() == pytest.approx(router.information(policy.weigh(policy.encode(observation, task))).item())
        assert nats > 1e-5 and torch.autograd.grad(nats, policy.router.net[-1].weight, retain_graph=True)[0].any()
        assert policy.loss(observation, torch.zeros_like(task), *rest)[1]["information"][1] == 0
    if variant == "fdp":
        fork = make("informed", bonus=router.BONUS)
        theirs, paid = fork.loss(observation, task, *rest)
        assert torch.equal(errors, theirs) and paid["information"][1].item() == nats.item()
        with pytest.raises(ValueError, match="router 'informed' needs to know tasks apart: task conditioning name"):
            make(router="informed", task_conditioning="none")


def test_all_of_them_is_the_usual_policy():
    assert same(act(make("informed", top=4)), act(make())) and same(act(make("informed")), act(make()))
    for wrong, said in (({"top": 5}, "--top must be between 0 and the 4"), ({"router": "affine"}, "router softmax")):
        with pytest.raises(ValueError, match=said):
            make("informed", **wrong)


# ------------------------------------------------------------------------------------------ a penalty on likeness


def test_likeness_of_components():
    def pair(one, other):
        return torch.tensor([one, other], dtype=torch.float32)[:, None, :, None]  # K = 2, B = 1, H, A = 1

    assert decorrelated.likeness(pair([1, 2, 3], [-2, -4, -6])).item() == pytest.approx(1)  # signs do not hide it
    assert decorrelated.likeness(pair([1, 0, 0], [0, 5, 5])).item() == 0
    assert decorrelated.likeness(pair([1, 0], [3, 3])).item() == pytest.approx(0.5)  # cos 45 degrees, squared
    three = torch.stack([torch.ones(2, 4, 2), torch.ones(2, 4, 2), torch.zeros(2, 4, 2)])
    assert decorrelated.likeness(three).item() == pytest.approx(1 / 3)  # one of three pairs; zeros are like nothing


def test_the_penalty_makes_components_differ():
    policy, inputs = make("decorrelated", penalty=1.0), batch(make())
    copy.deepcopy(policy)
    learner, told = train.Learner(policy), []
    for _ in range(15):
        told.append(learner.step(policy.loss, inputs, 1e-3, 0.0)[0]["likeness"].item())
    copy.deepcopy(policy)  # nothing of a step is left in it
    assert told[-1] < 0.9 * told[0]
    assert same(act(make("decorrelated")), act(make()))
    with pytest.raises(ValueError, match="at least 2"):
        make("decorrelated", components=1)


# ------------------------------------------------------------------------------------------ five small things


def test_a_router_with_an_encoder_of_its_own_teaches_that_one_only():
    policy, inputs = make("waking", how="own-encoder"), batch(make())
    condition = policy.encode(inputs[0], inputs[1])
    assert condition.shape == (6, 32)
    policy.weigh(condition).square().sum().backward()
    shared, own = ([p.grad for p in encoder.parameters()] for encoder in policy.encoder.both)
    assert all(g is None or not g.any() for g in shared) and any(g.any() for g in own)
    seen_by_components, seen_by_router = policy.task_embedding.weight.grad.chunk(2, dim=1)
    assert seen_by_router.any() and not seen_by_components.any()
    policy.encoder.fit(inputs[0])
    assert torch.equal(policy.encoder.both[0].mean, policy.encoder.both[1].mean) and policy.encoder.both[0].mean.any()


def test_a_fast_router_begins_alike_and_moves_ten_times_as_far():
    logits = {}
    for name, policy in (("fast", make("waking", how="fast")), ("usual", make())):
        inputs = batch(policy)
        condition = policy.encode(inputs[0], inputs[1]).detach()
        before = policy.weigh(condition).log()
        optimizer = torch.optim.Adam(policy.router.net[-1].parameters(), lr=1e-5, eps=1e-20)
        policy.weigh(condition)[:, 0].sum().backward()
        optimizer.step()
        logits[name] = before.detach(), (policy.weigh(condition).log() - before).detach()
    torch.testing.assert_close(logits["fast"][0], logits["usual"][0])
    torch.testing.assert_close(logits["fast"][1], waking.FASTER * logits["usual"][1], rtol=0.02, atol=1e-6)


def test_a_router_that_cools(tmp_path):
    policy, inputs = make("waking", how="cooling", cooling_steps=10), batch(make())
    condition = policy.encode(inputs[0], inputs[1])
    logits = policy.router.net(condition)
    for steps, temperature in ((0, 5.0), (5, 1.0), (10, 0.2), (99, 0.2)):
        policy.seen.fill_(steps)
        torch.testing.assert_close(policy.weigh(condition), (logits / temperature).softmax(-1))
    policy.seen.zero_()
    policy.loss(*inputs)
    assert policy.seen == 0  # looking is not training
    policy.train()
    for _ in range(3):
        policy.loss(*inputs)
    assert policy.seen == 3 and policy.state_dict()["seen"] == 3  # goes where the weights go


def test_pay_that_falls_to_nothing():
    policy, inputs = make("waking", how="falling", router="informed", cooling_steps=10), batch(make())
    errors, terms = make(router="informed").loss(*inputs)
    for steps, share in ((0, 1.0), (5, 0.5), (10, 0.0), (99, 0.0)):
        policy.seen.fill_(steps)
        mine, (coefficient, nats) = policy.loss(*inputs)[0], policy.loss(*inputs)[1]["information"]
        assert torch.equal(mine, errors) and nats == terms["information"][1]
        assert float(coefficient) == pytest.approx(-router.BONUS * share)
    policy.seen.zero_()
    policy.train().loss(*inputs)
    assert policy.seen == 1
    with pytest.raises(ValueError, match="--how falling is about what a router is paid: --router informed, not softm"):
        make("waking", how="falling")


def test_components_that_are_dropped_out():
    policy, inputs = make("waking", how="dropout"), batch(make(), n=512)
    assert same(act(policy), act(make()))
    seen, errors = [], policy.errors
    policy.errors = lambda condition, weights, *rest: seen.append(weights) or errors(condition, weights, *rest)
    policy.train()
    torch.manual_seed(0)
    policy.loss(*inputs)
    (weights,) = seen
    assert torch.allclose(weights.sum(1), torch.ones(512))
    assert (weights < 1e-4).float().mean().item() == pytest.approx(waking.LEFT_OUT, abs=0.03)


def test_an_encoder_of_its_own_is_trained_on_moved_pictures_too():
    parts = {"corner": (3, 32, 32), "proprioception": (2, 4)}
    policy = make("waking", how="own-encoder", observation=parts)
    seen = {"corner": torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8), "proprioception": torch.zeros(3, 2, 4)}
    task = torch.zeros(3, dtype=torch.long)
    assert torch.equal(policy.encode(seen, task), policy.encode(seen, task))
    policy.train()
    one = policy.encode(seen, task)
    assert not torch.allclose(one, policy.encode(seen, task)) and one.shape == (3, 2 * policy.config.condition_dim)


@pytest.mark.parametrize("K", [1, 2, 8, 16])
def test_narrow_components_are_together_as_large_as_four(K):
    usual = {"channels": (32, 64), "kernel": 3, "condition_dim": 128}
    few, many = (sum(p.numel() for p in policy.components.parameters())
                 for policy in (make(**usual), make("waking", how="narrow", **usual | {"components": K})))  # fmt: skip
    assert many == pytest.approx(few, rel=0.02)
    assert act(make("waking", how="narrow", components=K))[1].shape == (4, K)


@pytest.mark.parametrize("how", ["own-encoder", "fast", "cooling", "dropout", "narrow", "falling"])
def test_each_of_them_is_what_it_was_when_it_is_loaded(how, tmp_path):
    policy = make("waking", how=how, router="informed" if how == "falling" else "softmax")
    policy.train()
    train.Learner(policy).step(policy.loss, batch(policy), 1e-3, 0.5)
    policy.eval()
    again = runs.build_policy("waking", {f: getattr(policy.config, f) for f in policy.config.__dataclass_fields__})
    again.load_state_dict(policy.state_dict())
    assert same(act(again.eval()), act(policy))
