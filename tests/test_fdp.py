"""The composition and its reparametrisations; what acting and the normaliser must keep."""

import pytest
import torch

import sampler
from fdp import Normalizer, Policy, PolicyConfig
from variants.monolithic import Policy as Monolithic
from variants.monolithic import size

B, O_DIM, A = 6, 39, 4


def make(**changes) -> Policy:
    torch.manual_seed(0)
    return Policy(PolicyConfig(**{"observation_dim": O_DIM, "action_dim": A, "tasks": ["reach", "push"], **changes}))


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.randn(B, O_DIM), torch.tensor([0, 1, 0, 1, 0, 1]), torch.rand(B, 8, A) * 2 - 1


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


@pytest.mark.parametrize("mode", ["softmax", "affine"])
def test_one_component_is_a_plain_diffusion_policy(batch, mode):
    """The DDPM loss of the bare U-Net, written out here, is the policy's loss to the last bit. So is its noise."""
    policy = make(components=1, router=mode, target="noise")
    observation, task, actions = batch
    condition = policy.encoder(observation.clamp(-5, 5)) + policy.task_embedding.weight[task]
    torch.manual_seed(7)
    step, noise = torch.randint(0, 100, (B,)), torch.randn(B, 8, A)
    ab = policy.alpha_bar.float()[step][:, None, None]
    noisy = ab.sqrt() * actions + (1 - ab).sqrt() * noise
    plain = (policy.components(noisy, step, condition)[0] - noise).square().mean((1, 2))
    torch.manual_seed(7)
    assert torch.equal(policy.loss(observation, task, actions), plain)


@pytest.mark.parametrize("target", ["noise", "clean", "velocity"])
def test_composing_commutes_with_reparametrising_if_weights_sum_to_one(noisy, target):
    policy = make(target=target)
    actions, step, condition = noisy
    step = step.clamp(max=90)  # beyond, dividing by sqrt(ab) = 5e-4 leaves float32 no digits to compare
    predictions = policy.components(actions, step, condition)
    weights = torch.randn(B, 4)
    weights += (1 - weights.sum(-1, keepdim=True)) / 4

    def converted_first(weights):
        return sum(weights[:, k, None, None] * policy.to_noise(predictions[k], actions, step) for k in range(4))

    composed_first = policy.to_noise(policy(actions, step, condition, weights), actions, step)
    assert torch.allclose(composed_first, converted_first(weights), atol=1e-3)
    if target != "noise":  # and only then: this is what the `raw` router gives up
        wrong = policy.to_noise(policy(actions, step, condition, 2 * weights), actions, step)
        assert (wrong - converted_first(2 * weights)).abs().max() > 0.1


@pytest.mark.parametrize("target", ["noise", "clean", "velocity"])
def test_a_perfect_prediction_in_any_target_is_the_exact_noise(target):
    policy = make(target=target)
    torch.manual_seed(3)
    clean, noise, step = torch.rand(B, 8, A) * 2 - 1, torch.randn(B, 8, A), torch.tensor([0, 1, 30, 60, 98, 99])
    ab = policy.alpha_bar.float()[step]
    noisy, a = sampler.add_noise(clean, noise, ab), ab[:, None, None]
    perfect = {"noise": noise, "clean": clean, "velocity": a.sqrt() * noise - (1 - a).sqrt() * clean}[target]
    assert torch.allclose(policy.to_noise(perfect, noisy, step), noise, atol=1e-4)


@pytest.mark.parametrize("target", ["noise", "clean", "velocity"])
def test_the_loss_of_a_perfect_network_is_zero_in_every_target(batch, target):
    """Replace the network by an oracle that knows the clean action: any slip between loss and target shows."""
    policy = make(target=target)
    observation, task, actions = batch

    def oracle(noisy, step, condition):
        a = policy.alpha_bar.float()[step][:, None, None]
        noise = (noisy - a.sqrt() * actions) / (1 - a).sqrt()
        return {"noise": noise, "clean": actions, "velocity": a.sqrt() * noise - (1 - a).sqrt() * actions}[target]

    policy.forward = oracle
    assert policy.loss(observation, task, actions, step=torch.tensor([0, 1, 30, 60, 98, 99])).max() < 1e-6


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
    policy.loss(*batch).mean().backward()
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
    policy = make()
    policy.normalizer.fit(batch[0])
    policy.normalizer.action_center[3], policy.normalizer.action_scale[3] = 3, 1
    noise = torch.randn(B, 8, A)
    first, weights = policy.act(batch[0], ["push"] * B, "ddim", 10, noise)
    assert (first == policy.act(batch[0], ["push"] * B, "ddim", 10, noise)[0]).all() and weights.shape == (B, 4)
    assert abs(first[..., 0]).max() <= 1 and first[..., 3].min() >= 2 and first[..., 3].max() <= 4
    alone = policy.act(batch[0][2:3], ["push"], "ddim", 10, noise[2:3])[0]
    assert abs(alone - first[2:3]).max() < 1e-3


def test_normaliser_round_trip_with_constant_and_hardly_moving_dimensions():
    torch.manual_seed(0)
    normalizer = Normalizer(3, 3)
    observations = torch.stack([torch.randn(1000), torch.full((1000,), 0.7), 1e-4 * torch.randn(1000)], -1)
    normalizer.fit(observations)
    actions = 0.3 * torch.rand(1000, 3)  # a narrow range in the data leaves the environment's as it is
    assert torch.equal(normalizer.action(actions), actions) and torch.equal(normalizer.raw_action(actions), actions)
    seen = normalizer.observation(observations)
    assert seen[:, 0].std().item() == pytest.approx(1, rel=1e-3) and seen[:, 1].abs().max() < 1e-4
    # A millimetre in a dimension whose spread was a tenth of one: 10 spreads, but no alarm. A metre: clipped.
    assert normalizer.observation(torch.tensor([[0.0, 0.7, 0.001]]))[0, 2].abs() < 0.1
    assert normalizer.observation(torch.tensor([[0.0, 0.7, 1.0]]))[0, 2] == Normalizer.CLIP


def test_the_encoder_gets_differences_of_positions_with_statistics_of_their_own():
    torch.manual_seed(0)
    hand, offset = torch.randn(1000, 3), 0.1 * torch.randn(1000, 3)
    normalizer = Normalizer(6, 1, differences=((3, 0),))
    observations = torch.cat([hand, hand + offset], -1)
    normalizer.fit(observations)
    seen = normalizer.observation(observations)
    assert seen.shape == (1000, 9) == (1000, normalizer.features)
    assert torch.allclose(seen[:, 6:], (offset - offset.mean(0)) / offset.std(0), atol=1e-4)


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
    step = torch.full((B,), 50)
    torch.manual_seed(0)
    exact = policy.loss(*batch, step=step)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        rough = policy.loss(*batch, step=step)
    assert rough.dtype == torch.float32 and torch.allclose(rough, exact, rtol=0.05)


def test_the_loss_compiles_as_one_graph_and_stays_what_it_was(batch):
    """What --compile does, short of generating code, which takes minutes: no graph break, the same numbers."""
    policy = make()
    torch.manual_seed(0)
    eager = policy.loss(*batch)
    torch.manual_seed(0)
    assert torch.allclose(torch.compile(policy.loss, backend="aot_eager", fullgraph=True)(*batch), eager, atol=1e-6)


@pytest.mark.parametrize("changes,words", [
    ({"components": 0}, "components must be at least 1, got 0"),
    ({"horizon": 7, "executed": 4}, "horizon 7 does not divide"),
    ({"executed": 9}, "between 1 and the horizon 8, got 9"),
    ({"target": "score"}, "'score': choose from noise, clean, velocity"),
    ({"router": "top-k"}, "'top-k': choose from softmax, affine, raw"),
    ({"router": "raw", "target": "clean"}, "'raw' needs target 'noise'"),
    ({"task_conditioning": "language"}, "choose from name, none"),
])  # fmt: skip
def test_impossible_configurations_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        make(**changes)
