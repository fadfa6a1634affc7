"""Slips that leave everything running and the loss falling."""

import gymnasium
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from toy import Point

from envs import recording
from envs.recording import STEPS_AFTER_SUCCESS
from envs.rollout import FIRST_EVALUATION_SEED, Roller
from envs.tasks import common_spaces, spaces
from envs.worker import Episode
from fdp import Policy, PolicyConfig
from plumbing.cli import BadInput, check_output, numbers
from plumbing.limits import LIMITS, check_log
from sampler import dpm, squared_cosine_schedule
from unet import Downsample, UNet


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


def test_skip_connections_carry_what_each_level_had_before_halving():
    """Without them every shape still fits, and what two neighbouring steps differ in is gone."""
    torch.manual_seed(0)
    widths, had, got = (8, 12, 16), [], []
    net = UNet(2, 4, 10, 8, widths)
    for block, _ in net.down:
        block.register_forward_hook(lambda _, inputs, output: had.append(output))
    for _, block in net.up:
        block.register_forward_hook(lambda _, inputs, output: got.insert(0, inputs[0]))
    net(torch.randn(3, 8, 4), torch.tensor([0, 5, 99]), torch.randn(3, 10))
    assert len(had) == len(got) == 2
    for width, before, joined in zip(widths, had, got, strict=False):
        assert before.shape[-1] == width and torch.equal(joined[..., width:], before)
    for parameter in net.up[-1][0].parameters():  # with the way from below shut, actions still reach their own step
        torch.nn.init.zeros_(parameter)
    x = torch.randn(3, 8, 4, requires_grad=True)
    net(x, torch.tensor([0, 5, 99]), torch.randn(3, 10))[:, :, 4].sum().backward()
    assert x.grad[:, 4].abs().min() > 0


def simulators(succeeds, saw=lambda seed: [np.zeros(1)]) -> type:
    """Stands in for recording.Roller: the expert succeeds at these seeds, and sees this."""

    class Stub(Roller):
        def __init__(self):
            self.workers = {}

        def play_expert(self, episodes, on_done):
            for episode in episodes:
                episode.success, episode.observations = succeeds(episode.seed), saw(episode.seed)
                on_done(episode)
            return episodes

    return Stub


def test_only_successful_demonstrations_are_kept_in_the_order_of_their_seeds(tmp_path, monkeypatch):
    stored = []
    monkeypatch.setattr(recording, "Roller", simulators(lambda seed: seed not in (0, 2)))
    monkeypatch.setattr(recording, "_store", lambda task, kept, attempts, *_: stored.append((kept, attempts)))
    recording.collect(["push"], 3, tmp_path)
    ((kept, attempts),) = stored
    assert [episode.seed for episode in kept] == [1, 3, 4] and attempts == 5  # 0, 1, 2, and two more for the two


def test_more_than_can_be_read_is_not_recorded_to_its_end(tmp_path, monkeypatch):
    stored, played = [], []
    monkeypatch.setattr(
        recording, "Roller", simulators(lambda seed: True, lambda seed: played.append(seed) or [np.zeros(9)])
    )
    monkeypatch.setattr(recording, "_store", lambda *_: stored.append(1))
    monkeypatch.setattr(recording.datasets, "MOST_BYTES", 3 * 72)
    recording.collect(["push"], 3, tmp_path)
    with pytest.raises(BadInput, match="9 demonstrations of 'push' are more than 216 bytes: ask for fewer"):
        recording.collect(["push"], 9, tmp_path)
    assert stored == [1] and played == [0, 1, 2, 0, 1, 2, 3]


def test_an_expert_that_hardly_ever_succeeds_is_no_teacher(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "Roller", simulators(lambda seed: False))
    with pytest.raises(BadInput, match="the scripted expert for 'push' succeeded only 0 times in 28"):
        recording.collect(["push"], 2, tmp_path)


def test_draws_of_demonstrations_share_no_seed_with_each_other_or_with_evaluation():
    assert LIMITS["demo_draw"] == (0, recording.DRAWS - 1) == (0, 19)
    assert recording.DRAWS * recording.DRAW_SEEDS <= FIRST_EVALUATION_SEED


class Lopsided(Point):
    """Its actions do not lie around zero."""

    LOW, HIGH = (-0.1, 0.5), (0.3, 2.5)

    def __init__(self):
        super().__init__()
        self.action_space = gymnasium.spaces.Box(np.float32(self.LOW), np.float32(self.HIGH))


gymnasium.register("lopsided/Point-v0", Lopsided, max_episode_steps=60)


def test_an_action_range_that_is_not_symmetric_is_used_as_it_is():
    s = spaces("lopsided/Point-v0")
    assert np.allclose(s.action_low, Lopsided.LOW) and np.allclose(s.action_high, Lopsided.HIGH)
    policy = Policy(PolicyConfig(s.observation, s.action_low, s.action_high, ["lopsided/Point-v0"], channels=(8, 16)))
    ends = torch.tensor([Lopsided.LOW, Lopsided.HIGH])
    assert torch.allclose(policy.denormalize(torch.tensor([[-1.0, -1], [1, 1]])), ends)
    assert torch.allclose(policy.normalize(ends), torch.tensor([[-1.0, -1], [1, 1]]), atol=1e-6)


def test_tasks_of_other_action_ranges_are_not_learned_together():
    with pytest.raises(BadInput, match="cannot be learned together: action_low"):
        common_spaces(["toy:Point-v0", "lopsided/Point-v0"])


def test_numbers_that_would_fail_after_hours_are_refused_at_once(tmp_path):
    check_log(40_000, 3, 50, 4)
    with pytest.raises(BadInput, match="--log-every 1 would make a log of 40,001 lines, and .* give at least 3"):
        check_log(40_000, 1, 50, 4)
    check_output(tmp_path / f"{'x' * 195}.json", "tasks")
    with pytest.raises(BadInput, match="--out has a name of 205 bytes; at most 200"):
        check_output(tmp_path / f"{'x' * 200}.json", "tasks")
    with pytest.raises(BadInput, match="--start-from must name components of this run, 0 to 3"):
        numbers("1" * 5000, 4, "--start-from")
