"""The composition and its reparametrisations; what the loss and acting must keep."""

import math

import pytest
import torch

from envs.metaworld import PARTS, split_state
from fdp import Policy, PolicyConfig
from sampler import to_noise
from variants.monolithic import Policy as Monolithic
from variants.monolithic import size

B, A = 6, 4


def make(**changes) -> Policy:
    torch.manual_seed(0)
    settings = {"observation": PARTS, "action_low": (-1.0,) * A, "action_high": (1.0,) * A, "tasks": ["reach", "push"]}
    return Policy(PolicyConfig(**{**settings, **changes}))


@pytest.fixture
def batch():
    """What the loss takes: observation, task, actions, diffusion step, noise."""
    torch.manual_seed(1)
    seen = split_state(torch.randn(B, 39)), torch.tensor([0, 1, 0, 1, 0, 1]), torch.rand(B, 8, A) * 2 - 1
    return *seen, torch.tensor([0, 1, 30, 60, 98, 99]), torch.randn(B, 8, A)


@pytest.fixture
def noisy():
    torch.manual_seed(2)
    return torch.randn(B, 8, A), torch.tensor([0, 1, 30, 60, 98, 99]), torch.randn(B, 128)


def test_composition_is_the_weighted_sum_of_separate_components(noisy):
    policy = make()
    predictions, weights = policy.components(*noisy), policy.weigh(noisy[2])
    by_hand = sum(weights[:, k, None, None] * predictions[k] for k in range(4))
    assert torch.allclose(policy(*noisy), by_hand, atol=1e-6)


def test_identical_components_ignore_the_weights(noisy):
    policy = make()
    for parameter in policy.components.parameters():
        parameter.data[:] = parameter.data[:1].clone()
    one, other = torch.tensor([[1.0, 0, 0, 0]]).expand(B, 4), torch.tensor([[-1.5, 2, 0.25, 0.25]]).expand(B, 4)
    assert torch.allclose(policy(*noisy, one), policy(*noisy, other), atol=1e-5)


@pytest.mark.parametrize("sees", [False, True])
def test_a_router_is_told_the_step_while_it_learns_and_acts_or_never(batch, sees):
    """Or it would be trained with something that it does not get when it acts."""
    asked = []

    class Recording(Policy):
        router_sees_step = sees

        def weigh(self, condition, step=None):
            asked.append(step)
            return super().weigh(condition, step)

    torch.manual_seed(0)
    policy = Recording(make().config)
    policy.loss(*batch)
    policy.eval().act({name: x.numpy() for name, x in batch[0].items()}, ["reach"] * B)
    assert len(asked) == (6 if sees else 2)  # once a batch; at each of five steps, or once a chunk
    assert all(isinstance(step, torch.Tensor) == sees for step in asked)


@pytest.mark.parametrize("mode", ["softmax", "affine"])
def test_one_component_is_a_plain_diffusion_policy(batch, mode):
    """The DDPM loss of the bare U-Net, written out here, is the policy's loss to the last bit. So is its noise."""
    policy = make(components=1, router=mode, target="noise")
    observation, task, actions, step, noise = batch
    frames = torch.cat([observation["proprioception"], observation["objects"]], -1).flatten(1)
    state = torch.cat([frames, observation["goal"]], -1)
    condition = policy.encoder.net(state.clamp(-5, 5)) + policy.task_embedding.weight[task]
    ab = policy.alpha_bar.float()[step][:, None, None]
    noisy = ab.sqrt() * actions + (1 - ab).sqrt() * noise
    plain = (policy.components(noisy, step, condition)[0] - noise).square().mean((1, 2))
    assert torch.equal(policy.loss(*batch)[0], plain)


@pytest.mark.parametrize("target", ["noise", "clean", "velocity"])
def test_composing_commutes_with_reparametrising_if_weights_sum_to_one(noisy, target):
    policy = make(target=target)
    actions, step, condition = noisy
    step = step.clamp(max=90)  # beyond, dividing by sqrt(ab) = 5e-4 leaves float32 no digits to compare
    ab = policy.alpha_bar_32[step]
    predictions = policy.components(actions, step, condition)
    weights = torch.randn(B, 4)
    weights += (1 - weights.sum(-1, keepdim=True)) / 4

    def converted_first(weights):
        return sum(weights[:, k, None, None] * to_noise(target, predictions[k], actions, ab) for k in range(4))

    composed_first = to_noise(target, policy(actions, step, condition, weights), actions, ab)
    assert torch.allclose(composed_first, converted_first(weights), atol=1e-3)
    if target != "noise":  # and only then: this is what the `raw` router gives up
        wrong = to_noise(target, policy(actions, step, condition, 2 * weights), actions, ab)
        assert (wrong - converted_first(2 * weights)).abs().max() > 0.1


@pytest.mark.parametrize("target", ["noise", "clean", "velocity"])
def test_the_loss_of_a_perfect_network_is_zero_in_every_target(batch, target):
    """Replace the network by an oracle that knows the clean action: any slip between loss and target shows."""
    policy = make(target=target)
    actions = batch[2]

    def oracle(noisy, step, condition, weights):
        a = policy.alpha_bar.float()[step][:, None, None]
        noise = (noisy - a.sqrt() * actions) / (1 - a).sqrt()
        return {"noise": noise, "clean": actions, "velocity": a.sqrt() * noise - (1 - a).sqrt() * actions}[target]

    policy.forward = oracle
    assert policy.loss(*batch)[0].max() < 1e-6
    # And of one that is wrong by half a unit in one sample: a quarter there, and nothing elsewhere.
    policy.forward = lambda *seen: oracle(*seen) + 0.5 * (torch.arange(B) == 3)[:, None, None]
    assert torch.allclose(policy.loss(*batch)[0], torch.tensor([0, 0, 0, 0.25, 0, 0]), atol=1e-4)


def test_a_weighted_sum_of_scores_is_the_score_of_the_product():
    """Finite differences of log(p_1^w1 * p_2^w2) against the composed noise, for two Gaussians whose noise is known
    exactly.
    """
    policy, x, weights = (
        make(components=2),
        torch.tensor(0.4, dtype=torch.float64),
        torch.tensor([0.3, 0.7], dtype=torch.float64),
    )
    means, spreads = torch.tensor([-0.5, 0.6], dtype=torch.float64), torch.tensor([0.2, 0.4], dtype=torch.float64)
    ab = policy.alpha_bar[10]

    def log_product(x):  # of the noised component densities
        variance = ab * spreads**2 + 1 - ab
        return (weights * (-((x - ab.sqrt() * means) ** 2) / (2 * variance))).sum()

    score = (log_product(x + 1e-5) - log_product(x - 1e-5)) / 2e-5
    noise = (1 - ab).sqrt() * (x - ab.sqrt() * means) / (ab * spreads**2 + 1 - ab)  # eps_k = -sqrt(1 - ab) * score_k
    policy.components.forward = lambda *_: noise[:, None, None, None]
    composed = policy.compose(None, None, None, weights[None])
    assert torch.allclose(composed.squeeze(), -(1 - ab).sqrt() * score, atol=1e-8)


def test_every_component_and_the_router_learn_from_the_one_loss(batch):
    policy = make()
    policy.loss(*batch)[0].mean().backward()
    for name, parameter in policy.named_parameters():
        gradient = parameter.grad.flatten(1) if name.startswith("components") else parameter.grad
        assert (gradient.abs().amax(-1) > 0).any() if gradient.ndim else gradient != 0, name
        if name.startswith("components"):
            assert (gradient.abs().amax(1) > 0).all(), name


def test_gradient_of_a_component_is_its_weight_times_the_common_gradient(noisy):
    policy = make()
    predictions = policy.components(*noisy).detach().requires_grad_()
    policy.components.forward = lambda *_: predictions
    weights = torch.rand(B, 4)
    policy(*noisy, weights).sin().sum().backward()
    total = torch.einsum("kbha,bk->bha", predictions, weights).cos()
    for k in range(4):
        assert torch.allclose(predictions.grad[k], weights[:, k, None, None] * total, atol=1e-6)


def test_task_conditioning(batch):
    observation = batch[0]
    named, blind = make(), make(task_conditioning="none")
    noise = torch.randn(B, 8, A)

    def act(policy, task):
        return policy.act(observation, [task] * B, "dpm", 2, noise)[0]

    assert abs(act(named, "reach") - act(named, "push")).max() > 1e-3
    assert (act(blind, "reach") == act(blind, "push")).all() and (act(blind, "hammer") == act(blind, "push")).all()
    with pytest.raises(ValueError, match="does not know task 'hammer'; it knows reach, push"):
        act(named, "hammer")


def test_acting_is_in_the_environments_units_and_depends_only_on_the_given_noise(batch):
    policy = make(action_low=(-1.0, -1, -1, 2), action_high=(1.0, 1, 1, 4))
    policy.encoder.fit(batch[0])
    noise = torch.randn(B, 8, A)
    first, weights = policy.act(batch[0], ["push"] * B, "ddim", 10, noise)
    assert (first == policy.act(batch[0], ["push"] * B, "ddim", 10, noise)[0]).all() and weights.shape == (B, 4)
    assert abs(first[..., 0]).max() <= 1 and first[..., 3].min() >= 2 and first[..., 3].max() <= 4
    one = {part: x[2:3] for part, x in batch[0].items()}
    alone = policy.act(one, ["push"], "ddim", 10, noise[2:3])[0]
    assert abs(alone - first[2:3]).max() < 1e-3


def test_actions_are_scaled_by_the_environments_range_and_nothing_else(batch):
    """Not by that of the data: who has only seen a half-open gripper could then never open it."""
    policy = make(action_low=(-1.0, 0, -0.5, 10), action_high=(1.0, 1, 0.5, 30))
    ends = torch.tensor([[-1.0, 0, -0.5, 10], [1, 1, 0.5, 30], [0, 0.5, 0, 20], [0.3, 0.25, 0.1, 12]])
    clean = torch.tensor([[-1.0] * 4, [1.0] * 4, [0.0] * 4, [0.3, -0.5, 0.2, -0.8]])
    for _ in range(2):
        assert torch.allclose(policy.normalize(ends), clean) and torch.allclose(policy.denormalize(clean), ends)
        policy.encoder.fit(batch[0])
    actions = 0.3 * batch[2]
    assert torch.equal(make().normalize(actions), actions) and torch.equal(make().denormalize(actions), actions)


@pytest.mark.parametrize(
    "components,channels,kernel", [(k, (32, 64), 3) for k in (1, 2, 4, 8)] + [(2, (128, 256, 512), 5)]
)
def test_the_monolithic_variant_has_the_same_size_within_2_percent(components, channels, kernel):
    settings = {"components": components, "channels": channels, "kernel": kernel}
    with torch.device("meta"):
        ours = make(**settings)
    twin = Monolithic(ours.config)
    assert size(twin.components) == pytest.approx(size(ours.components) + size(ours.router), rel=0.02)
    assert twin.components(torch.zeros(2, 8, A), torch.zeros(2), torch.zeros(2, 128)).shape == (1, 2, 8, A)


def test_bf16_autocast_stays_near_float32(batch):
    policy = make()
    batch = *batch[:3], torch.full((B,), 50), batch[4]
    exact = policy.loss(*batch)[0]
    with torch.autocast("cpu", torch.bfloat16):
        rough = policy.loss(*batch)[0]
    assert rough.dtype == torch.float32 and torch.allclose(rough, exact, rtol=0.05)


def test_the_loss_compiles_as_one_graph_and_stays_what_it_was(batch):
    """What --compile does, short of generating code, which takes minutes: no graph break, the same numbers."""
    policy = make()
    eager = policy.loss(*batch)[0]
    assert torch.allclose(torch.compile(policy.loss, backend="aot_eager", fullgraph=True)(*batch)[0], eager, atol=1e-6)


@pytest.mark.parametrize("changes,words", [
    ({"components": 0}, "components must be at least 1, got 0"),
    ({"horizon": 7, "executed": 4}, "horizon 7 does not divide"),
    ({"executed": 9}, "between 1 and the horizon 8, got 9"),
    ({"target": "score"}, "'score': choose from noise, clean, velocity"),
    ({"router": "top-k"}, "'top-k': choose from softmax, informed, affine, raw"),
    ({"router": "raw", "target": "clean"}, "'raw' needs target 'noise'"),
    ({"task_conditioning": "language"}, "choose from name, none"),
])  # fmt: skip
def test_impossible_configurations_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        make(**changes)


@pytest.mark.parametrize("low,high", [(-3.4e38, 3.4e38), (0.0, math.inf), (1.0, 1.0), (math.nan, 1.0)])
def test_a_range_without_a_width_is_refused(low, high):
    """All actions would be 0 in it, and come out as infinite ones."""
    with pytest.raises(ValueError, match="actions must lie between two numbers"):
        make(action_low=(-1.0,) * (A - 1) + (low,), action_high=(1.0,) * (A - 1) + (high,))
