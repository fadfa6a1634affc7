"""What a policy sees: in which order, on which scale, and what is clipped."""

import numpy as np
import pytest
import torch
import torch.nn as nn

from encoder import StateEncoder, join, make_encoder, rows
from plumbing.cli import BadInput
from plumbing.observations import as_tensors


def test_statistics_round_trip_with_constant_and_hardly_moving_dimensions():
    torch.manual_seed(0)
    encoder = StateEncoder({"state": (3,)}, 8)
    state = torch.stack([torch.randn(1000), torch.full((1000,), 0.7), 1e-4 * torch.randn(1000)], -1)
    encoder.fit({"state": state})
    assert torch.allclose(encoder.mean, state.mean(0)) and encoder.scale[0].item() == pytest.approx(state[:, 0].std())
    seen = encoder.standardize({"state": state})
    assert seen[:, 0].mean().abs() < 1e-4 and seen[:, 0].std().item() == pytest.approx(1, rel=1e-3)
    assert seen[:, 1].abs().max() < 1e-4
    assert torch.allclose(seen * encoder.scale + encoder.mean, state, atol=1e-6)
    # A millimetre in a dimension whose spread was a tenth of one: 10 spreads, but no alarm.
    assert encoder.standardize({"state": torch.tensor([[0.0, 0.7, 0.001]])})[0, 2].abs() < 0.1


def test_what_sticks_out_is_clipped_before_the_network():
    encoder = StateEncoder({"state": (3,)}, 3)
    encoder.fit({"state": torch.tensor([[0.0, 0.7, 0.0], [1.0, 0.7, 0.0], [2.0, 0.7, 0.0]])})
    far = {"state": torch.tensor([[1.0, 0.7, 1.0], [-100.0, 0.7, 0.0]])}
    assert encoder.standardize(far)[0, 2] == 50  # a metre, where nothing moved: 0.02 is the floor of the scale
    encoder.net = nn.Identity()
    assert encoder(far).tolist() == [[0, 0, 5], [-5, 0, 0]]


@pytest.mark.filterwarnings("ignore:std.*degrees of freedom:UserWarning")
def test_one_observation_has_no_spread_and_no_nan():
    encoder = StateEncoder({"state": (2,)}, 4)
    encoder.fit({"state": torch.tensor([[3.0, -1.0]])})
    assert encoder.mean.tolist() == [3, -1] and torch.allclose(encoder.scale, torch.full((2,), 0.02))


def test_statistics_travel_with_the_weights_and_are_not_learned():
    encoder = StateEncoder({"state": (3,)}, 8)
    assert {"mean", "scale"} <= set(encoder.state_dict()) and {"mean", "scale"}.isdisjoint(
        name for name, _ in encoder.named_parameters()
    )


def test_differences_of_positions_have_statistics_of_their_own():
    torch.manual_seed(0)
    hand, offset = torch.randn(1000, 3), 0.1 * torch.randn(1000, 3)
    encoder = StateEncoder({"hand": (3,), "object": (3,)}, 8, differences=(("object", 0, "hand", 0),))
    observation = {"hand": hand, "object": hand + offset}
    encoder.fit(observation)
    seen = encoder.standardize(observation)
    assert seen.shape == (1000, 9) and encoder.net[0].in_features == 9
    assert torch.allclose(seen[:, 6:], (offset - offset.mean(0)) / offset.std(0), atol=1e-4)


def test_the_order_of_the_numbers():
    """Frame by frame, then what has no frames, then differences in the current frame; worked out by hand."""
    encoder = StateEncoder({"arm": (2, 4), "goal": (3,), "ball": (2, 3)}, 8,
                           differences=(("ball", 0, "arm", 1), ("goal", 0, "ball", 0)))  # fmt: skip
    observation = {
        "unread": torch.full((1, 5), 99.0),
        "ball": torch.tensor([[[20.0, 21, 22], [25, 26, 27]]]),
        "arm": torch.tensor([[[0.0, 1, 2, 3], [4, 5, 6, 7]]]),
        "goal": torch.tensor([[100.0, 200, 300]]),
    }
    now, before = [0, 1, 2, 3, 20, 21, 22], [4, 5, 6, 7, 25, 26, 27]
    apart = [20 - 1, 21 - 2, 22 - 3, 100 - 20, 200 - 21, 300 - 22]
    assert encoder.side_by_side(observation).tolist() == [[*now, *before, 100, 200, 300, *apart]]


def test_differences_are_seen_beside_a_picture_too():
    parts = {"corner": (3, 32, 32), "hand": (3,), "goal": (3,)}
    one = make_encoder(parts, 8, (("goal", 0, "hand", 0),), "small")
    numbers = one.numbers.side_by_side({"hand": torch.ones(2, 3), "goal": torch.full((2, 3), 3.0)})
    assert torch.equal(numbers[:, 6:], torch.full((2, 3), 2.0)) and numbers.shape == (2, 9)


def test_parts_of_different_lengths_of_memory_are_refused():
    with pytest.raises(ValueError, match="must have as many frames as each other"):
        StateEncoder({"hand": (2, 4), "thing": (3, 4)}, 8)


@pytest.mark.parametrize("difference", [("goal", 0, "point", 0), ("arm", 5, "arm", 0), ("arm", 0, "arm", -1)])
def test_a_difference_of_what_is_no_position_is_refused(difference):
    """A position is three numbers in a row; of two it would be a shape that does not fit, much later."""
    parts = {"point": (2,), "goal": (2,), "arm": (2, 7)}
    with pytest.raises(ValueError, match="a difference is of two positions of 3 numbers each, and part '.*' of the"):
        StateEncoder(parts, 8, differences=(difference,))


def test_differences_of_parts_that_it_does_not_read_are_left_out():
    encoder = StateEncoder({"hand": (3,)}, 8, differences=(("object", 0, "hand", 0), ("hand", 0, "goal", 0)))
    assert encoder.differences == [] and encoder.side_by_side({"hand": torch.ones(2, 3)}).shape == (2, 3)


@pytest.mark.parametrize("shape", [(), (3, 64, 64)])
def test_a_part_that_is_no_vector_is_refused(shape):
    with pytest.raises(ValueError, match="reads numbers, and part 'camera' of the observation has shape"):
        StateEncoder({"hand": (3,), "camera": shape}, 8)


def test_joining_and_choosing_rows():
    a, b = ({"x": torch.full((n, 2), float(n)), "y": torch.arange(n)} for n in (1, 3))
    both = join([a, b])
    assert both["x"].tolist() == [[1, 1], [3, 3], [3, 3], [3, 3]] and both["y"].tolist() == [0, 0, 1, 2]
    some = rows(both, torch.tensor([3, 0]))
    assert some["x"].tolist() == [[3, 3], [1, 1]] and some["y"].tolist() == [2, 0]


@pytest.mark.filterwarnings("ignore:std")
def test_numbers_too_small_to_be_seen_are_warned_of(capsys):
    """All of them: MetaWorld has some that hardly move, beside others."""
    encoder, where = StateEncoder({"point": (2,)}, 8), torch.rand(50, 2, generator=torch.Generator().manual_seed(0))
    encoder.fit({"point": where})
    encoder.fit({"point": where * torch.tensor([1.0, 0.001])})
    encoder.fit({"point": torch.ones(50, 2)})
    encoder.fit({"point": where[:1]})
    assert not capsys.readouterr().err
    encoder.fit({"point": 0.001 * where})
    assert (
        "no number of 'point' varies by more than 0.0003; what varies by less than 0.02 is faint"
        in capsys.readouterr().err
    )
    encoder = StateEncoder({"point": (2,), "gripper": (2,)}, 8)  # in millimetres, beside one in metres
    encoder.fit({"point": 1000 * where, "gripper": 0.03 * where})
    assert not capsys.readouterr().err  # MetaWorld has goals that hardly differ
    encoder.fit({"point": 1000 * where, "gripper": 0.002 * where})
    assert "no number of 'gripper' varies by more than 0.0006;" in capsys.readouterr().err
    encoder.fit({"point": 0.002 * where, "gripper": torch.ones(50, 2)})  # of what never varies nothing can be said
    assert "'gripper'" not in capsys.readouterr().err


@pytest.mark.parametrize(("rows", "tasks"), [(1, ["reach"] * 3), (3, ["reach"]), (3, "reach"), (None, ["reach"])])
def test_a_row_for_each_task(rows, tasks):
    point = np.zeros((rows, 2)) if rows else np.zeros(2)
    with pytest.raises(ValueError, match="this policy sees point; an observation has no 'point'"):
        as_tensors({"pont": point}, {"point": (2,)}, ["reach"], torch.device("cpu"))
    with pytest.raises(ValueError, match="^observation 'point' must have the shape .*, a row for each of a list of"):
        as_tensors({"point": point}, {"point": (2,)}, tasks, torch.device("cpu"))
    found = as_tensors({"point": np.ones((2, 2)), "more": 0}, {"point": (2,)}, ["reach", "push"], torch.device("cpu"))
    assert list(found) == ["point"] and found["point"].dtype == torch.float32 and found["point"].shape == (2, 2)


def test_a_picture_of_fractions_is_refused():
    """Zero to one, as many libraries have it, would be black to a policy that learned from 0 to 255."""
    parts, device = {"corner": (3, 4, 4), "point": (2,)}, torch.device("cpu")
    seen = {"corner": np.random.default_rng(0).integers(256, size=(1, 3, 4, 4), dtype=np.uint8), "point": [[0.5, 0.1]]}
    expected = as_tensors(seen, parts, ["reach"], device)["corner"]
    whole = as_tensors(seen | {"corner": seen["corner"].astype(np.float64)}, parts, ["reach"], device)["corner"]
    assert torch.equal(whole, expected) and expected.max() > 1
    with pytest.raises(ValueError, match="picture 'corner' must hold whole numbers from 0 to 255, .* got 0 to 1"):
        as_tensors(seen | {"corner": np.round(seen["corner"] / 510, 1) * 2}, parts, ["reach"], device)
    for strange in (seen["corner"] * np.int64(257), -seen["corner"].astype(int)):  # of 16 bits; below black
        with pytest.raises(ValueError, match="picture 'corner' must hold whole numbers from 0 to 255"):
            as_tensors(seen | {"corner": strange}, parts, ["reach"], device)
    for strange in ([[None, 0.1]], [["left", "right"]]):  # a sensor that was not there
        with pytest.raises(ValueError, match="observation 'point' must be numbers: "):
            as_tensors(seen | {"point": strange}, parts, ["reach"], device)
    depths = {"depth": np.full((1, 1, 4, 4), 0.3)}  # not of three colours: numbers, for an encoder of one's own
    assert as_tensors(depths, {"depth": (1, 4, 4)}, ["reach"], device)["depth"].max() == np.float32(0.3)


@pytest.mark.parametrize("strange", [np.nan, -np.inf, 1e300])
def test_what_is_no_number_never_comes_out_as_an_action(strange):
    with pytest.raises(BadInput, match="observation 'point' has numbers that are not finite, at reach or a row beside"):
        as_tensors({"point": np.array([[0.0, strange]])}, {"point": (2,)}, ["reach"], torch.device("cpu"))
