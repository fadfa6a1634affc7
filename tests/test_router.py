"""One invariant per mode, for any logits; and what the router may see."""

import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from router import MODES, Router, information, normalize_logits

# None too small to be normal: whoever trained before in this process has made zeros of those (`choose_device`).
LOGIT = st.floats(-20, 20, width=32, allow_subnormal=False)
LOGITS = st.integers(1, 8).flatmap(
    lambda k: st.lists(st.lists(LOGIT, min_size=k, max_size=k), min_size=1, max_size=4)
).map(torch.tensor)  # fmt: skip


@settings(deadline=None)
@given(LOGITS)
def test_softmax_weights_are_positive_and_sum_to_one(logits):
    weights = normalize_logits(logits, "softmax")
    assert (weights >= 0).all() and torch.allclose(weights.sum(-1), torch.ones(len(logits)), atol=1e-5)


@settings(deadline=None)
@given(LOGITS)
def test_affine_weights_sum_to_one_and_keep_the_differences_of_the_logits(logits):
    weights = normalize_logits(logits, "affine")
    assert torch.allclose(weights.sum(-1), torch.ones(len(logits)), atol=1e-4)
    assert torch.allclose(weights[:, :1] - weights, logits[:, :1] - logits, atol=1e-4)


def test_affine_can_subtract_a_component_and_softmax_cannot():
    logits = torch.tensor([[2.0, -2.0]])
    assert normalize_logits(logits, "affine").tolist() == [[2.5, -1.5]]
    assert (normalize_logits(logits, "softmax") > 0).all()


@settings(deadline=None)
@given(LOGITS)
def test_raw_weights_are_the_logits(logits):
    assert torch.equal(normalize_logits(logits, "raw"), logits)


@pytest.mark.parametrize("mode", ["softmax", "informed", "affine"])
def test_a_single_component_has_weight_one(mode):
    assert torch.equal(Router(16, 1, mode)(torch.randn(7, 16)), torch.ones(7, 1))


def test_it_sees_the_observation_only():
    assert list(inspect.signature(Router.forward).parameters) == ["self", "condition"]


@pytest.mark.parametrize("mode", MODES)
def test_it_learns_to_pick_a_component_by_the_observation(mode):
    """The simplest job: the sign of one number decides which of two components is right."""
    torch.manual_seed(0)
    router, x = Router(4, 2, mode), torch.randn(256, 4)
    wanted = torch.stack([x[:, 0] > 0, x[:, 0] <= 0], -1).float()
    optimizer = torch.optim.Adam(router.parameters(), 1e-2)
    for _ in range(200):
        loss = (router(x) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (router(x).argmax(-1) == wanted.argmax(-1)).float().mean() > 0.95


def test_information_is_what_the_drawn_component_tells_about_the_row():
    """Against the definition: sum over rows and components of p(row, k) log p(row, k) / (p(row) p(k))."""
    assert information(torch.full((6, 4), 0.25)).item() == pytest.approx(0, abs=1e-6)
    assert information(torch.eye(4)[[2] * 6]).item() == pytest.approx(0, abs=1e-6)
    assert information(torch.eye(4)[[0, 0, 1, 1]]).item() == pytest.approx(math.log(2))
    w = torch.randn(7, 4).softmax(-1).double()
    joint = w / len(w)
    found = (joint * (joint / (joint.sum(0) / len(w))).log()).sum()
    assert information(w).item() == pytest.approx(found.item(), abs=1e-9) and found > 0.01


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="'sparse': choose from softmax, informed, affine, raw"):
        Router(4, 2, "sparse")
