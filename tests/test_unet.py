"""The batched U-Net against K separate ones, and its convolution against PyTorch's."""

import pytest
import torch
import torch.nn.functional as F

from unet import Conv, Linear, UNet, sinusoidal_embedding

K, B, H, A, C = 3, 5, 8, 4, 16


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    return torch.randn(B, H, A), torch.tensor([0, 1, 50, 98, 99]), torch.randn(B, C)


def one_of(unet: UNet, k: int, **shape) -> UNet:
    """Component k as a U-Net of its own: every parameter has K as its first axis."""
    single = UNet(1, A, C, H, **shape)
    single.load_state_dict({name: value[k : k + 1] for name, value in unet.state_dict().items()})
    return single


@pytest.mark.parametrize("shape", [{}, {"channels": (8, 16, 24), "kernel": 5}, {"channels": (8,)}])
def test_batched_components_equal_separate_ones(inputs, shape):
    unet = UNet(K, A, C, H, **shape)
    together = unet(*inputs)
    assert together.shape == (K, B, H, A)
    for k in range(K):
        assert torch.allclose(together[k], one_of(unet, k, **shape)(*inputs)[0], atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 0.01  # they start different, or the test above says nothing


def test_every_parameter_of_every_component_gets_gradient(inputs):
    unet = UNet(K, A, C, H)
    unet(*inputs).square().sum().backward()
    for name, parameter in unet.named_parameters():
        assert (parameter.grad.flatten(1).abs().amax(1) > 0).all(), name


def test_components_do_not_touch_each_other(inputs):
    unet = UNet(K, A, C, H)
    unet(*inputs)[1].square().sum().backward()
    for name, parameter in unet.named_parameters():
        assert (parameter.grad[[0, 2]] == 0).all(), name


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("horizon", [8, 2, 1])  # down to where the kernel reaches past both ends
def test_convolution_and_its_gradients_equal_pytorch(kernel, horizon):
    torch.manual_seed(0)
    conv, x = Conv(K, 6, 7, kernel), torch.randn(K, horizon, B, 6, requires_grad=True)
    ours, seen_from_above = conv(x), torch.randn(K, horizon, B, 7)
    variables = (x, conv.weight, conv.bias)
    gradients = torch.autograd.grad((ours * seen_from_above).sum(), variables)
    reference = torch.stack([
        F.conv1d(x[k].permute(1, 2, 0), conv.weight[k].permute(2, 1, 0), conv.bias[k, 0], padding=kernel // 2)
        for k in range(K)
    ]).permute(0, 3, 1, 2)  # fmt: skip
    assert torch.allclose(ours, reference, atol=1e-5)
    expected = torch.autograd.grad((reference * seen_from_above).sum(), variables)
    for one, other in zip(gradients, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_linear_shares_an_input_without_the_component_axis():
    layer, x = Linear(K, 6, 7), torch.randn(B, 6)
    assert torch.equal(layer(x), layer(x.expand(K, B, 6)))
    assert torch.allclose(layer(x)[1], x @ layer.weight[1] + layer.bias[1], atol=1e-6)


def test_step_and_condition_reach_the_output(inputs):
    actions, step, condition = inputs
    unet = UNet(K, A, C, H)
    out = unet(actions, step, condition)
    for other in (unet(actions, step.flip(0), condition), unet(actions, step, -condition)):
        changed = (out - other).abs().amax((2, 3))
        assert (changed[:, [0, 4]] > 1e-4).all()


def test_the_network_sees_the_whole_chunk(inputs):
    """Gradient of the first output with respect to the last input: without the down path, kernel 3 would not reach
    it.
    """
    actions, step, condition = inputs
    actions.requires_grad_()
    UNet(1, A, C, H)(actions, step, condition)[0, :, 0].sum().backward()
    assert (actions.grad[:, -1].abs().sum(-1) > 0).all()


def test_neighbouring_diffusion_steps_are_distinguishable():
    embedding = sinusoidal_embedding(torch.arange(100), 64)
    distance = torch.cdist(embedding, embedding) + 10 * torch.eye(100)
    assert distance.min() > 0.1


@pytest.mark.parametrize("arguments,words", [
    ((0, A, C, H), "components must be at least 1, got 0"),
    ((2, A, C, 6, (8, 16, 24)), "horizon 6 does not divide: 3 levels .* multiple of 4"),
    ((2, A, C, 0), "horizon 0"),
    ((2, A, C, H, (8, 16), 4), "kernel must be odd, got 4"),
])  # fmt: skip
def test_impossible_shapes_are_refused_with_their_numbers(arguments, words):
    with pytest.raises(ValueError, match=words):
        UNet(*arguments)
