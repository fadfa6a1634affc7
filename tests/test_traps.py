"""Three slips that leave everything running and the loss falling."""

import torch
import torch.nn.functional as F

from envs.demos import STEPS_AFTER_SUCCESS
from envs.rollout import Roller
from envs.worker import Episode
from sampler import dpm, squared_cosine_schedule
from unet import Downsample


def test_demonstrations_go_on_for_a_while_after_success():
    """Or staying at the goal is in no window."""
    with Roller(1) as roller:
        (episode,) = roller.play_expert([Episode("reach", 0, True, 0.1, STEPS_AFTER_SUCCESS)])
    reached = [success for _, _, success in episode.phases].index(1.0)
    assert episode.steps == reached + 1
    assert len(episode.actions) == reached + 1 + STEPS_AFTER_SUCCESS == len(episode.observations) - 1
    assert STEPS_AFTER_SUCCESS == 10


def test_dpm_solvers_result_is_clipped_to_the_range_of_actions():
    """A network that always sees noise pushing outwards would send the robot far outside; by default it cannot."""
    start, alpha_bar = torch.randn(4, 8, 4, generator=torch.Generator().manual_seed(0)), squared_cosine_schedule(100)

    def outwards(x, t):
        return -5 * torch.ones_like(x)

    assert dpm(outwards, start, alpha_bar, 5, clip=False).abs().max() > 1.5
    assert dpm(outwards, start, alpha_bar, 5).abs().max() <= 1


def test_downsampling_is_a_strided_convolution_that_sees_every_step():
    torch.manual_seed(0)
    K, H, B, inputs, outputs = 2, 6, 3, 5, 7
    layer, x = Downsample(K, inputs, outputs), torch.randn(K, H, B, inputs, requires_grad=True)
    out = layer(x)
    for k in range(K):
        weight = layer.merge.weight[k, 0].view(2, inputs, outputs).permute(2, 1, 0)  # (out, in, two steps)
        wanted = F.conv1d(x[k].permute(1, 2, 0), weight, layer.merge.bias[k, 0], stride=2).permute(2, 0, 1)
        assert torch.allclose(out[k], wanted, atol=1e-5)
    out.sum().backward()
    assert (x.grad.abs().sum((0, 2, 3)) > 0).all(), "a step that nothing depends on"
