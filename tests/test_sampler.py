"""Samplers against diffusers' schedulers, an exact-noise oracle, and the closed form for Gaussian data."""

import math

import pytest
import torch
from conftest import ROOT
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

import sampler
from plumbing.runs import load_policy
from sampler import (
    SAMPLERS,
    TARGETS,
    add_noise,
    ddim,
    ddpm,
    dpm,
    regression_target,
    resolve_steps,
    sampling_timesteps,
    squared_cosine_schedule,
    to_noise,
)
from study.core import denoising

T = 100
AB = squared_cosine_schedule(T)
SETTINGS = {"num_train_timesteps": T, "beta_schedule": "squaredcos_cap_v2"}


def network(x, t):
    """Any smooth function of x and t will do; large enough that clipping matters."""
    return torch.sin(3 * x + 0.1 * t[:, None, None].to(x.dtype)) + 0.3 * x.flip(1)


@pytest.fixture
def start():
    return torch.randn(5, 8, 4, generator=torch.Generator().manual_seed(0))


def run_diffusers(scheduler, x, steps, generator=None, **extra):
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, torch.full((len(x),), int(t))), t, x, generator=generator, **extra).prev_sample
    return x


def test_schedule_equals_diffusers_and_its_own_definition():
    reference = DDPMScheduler(**SETTINGS).alphas_cumprod.double()
    assert torch.allclose(AB, reference, rtol=2e-5)
    f = [math.cos((t / T + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(T + 1)]
    # Nichol & Dhariwal's equation 17, except for the very last step, where beta is capped at 0.999.
    assert torch.allclose(
        AB[:-1], torch.tensor([f[t + 1] / f[0] for t in range(T - 1)], dtype=torch.float64), rtol=1e-9
    )
    assert (AB[1:] < AB[:-1]).all() and 0 < AB[-1] < 1e-5 and AB[0] > 0.999


def test_forward_noising_has_the_right_moments_at_both_ends():
    clean, noise = (
        torch.full((20_000, 1, 1), 0.7),
        torch.randn(20_000, 1, 1, generator=torch.Generator().manual_seed(1)),
    )
    for t in (0, T // 2, T - 1):
        noisy = add_noise(clean, noise, AB[t].float().expand(20_000))
        # Five standard errors of a mean (variance): a false alarm once in a million runs.
        assert noisy.mean().item() == pytest.approx(0.7 * math.sqrt(AB[t]), abs=5 * math.sqrt((1 - AB[t]) / 20_000))
        assert noisy.var().item() == pytest.approx(float(1 - AB[t]), rel=0.05)


@pytest.mark.parametrize("target", TARGETS)
def test_a_perfect_prediction_in_any_target_is_the_exact_noise(target):
    torch.manual_seed(3)
    clean, noise, step = torch.rand(6, 8, 4) * 2 - 1, torch.randn(6, 8, 4), torch.tensor([0, 1, 30, 60, 98, 99])
    ab = AB.float()[step]
    noisy, a = add_noise(clean, noise, ab), ab[:, None, None]
    perfect = {"noise": noise, "clean": clean, "velocity": a.sqrt() * noise - (1 - a).sqrt() * clean}[target]
    assert torch.equal(regression_target(target, clean, noise, ab), perfect)
    assert torch.allclose(to_noise(target, perfect, noisy, ab), noise, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 4, 10, 25, 100])
@pytest.mark.parametrize("clip", [True, False])
def test_ddim_equals_diffusers(start, steps, clip):
    """Divisors of T only: for others diffusers computes "the step before" as t - T // steps, which is not the one it
    visits next.
    """
    scheduler = DDIMScheduler(**SETTINGS, timestep_spacing="trailing", clip_sample=clip)
    reference = run_diffusers(scheduler, start, steps, use_clipped_model_output=clip)
    assert torch.allclose(ddim(network, start, AB, steps, clip=clip), reference, rtol=2e-3, atol=2e-3)


def test_ddpm_equals_diffusers(start):
    scheduler = DDPMScheduler(**SETTINGS, variance_type="fixed_small", clip_sample=True)
    reference = run_diffusers(scheduler, start, T, torch.Generator().manual_seed(5))
    ours = ddpm(network, start, AB, T, generator=torch.Generator().manual_seed(5))
    assert torch.allclose(ours, reference, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 20])
def test_dpm_solver_equals_diffusers(start, steps):
    scheduler = DPMSolverMultistepScheduler(
        **SETTINGS, algorithm_type="dpmsolver++", solver_order=2, timestep_spacing="trailing", final_sigmas_type="zero"
    )
    reference = run_diffusers(scheduler, start, steps)
    # diffusers computes the coefficients in float32; at the first step sqrt(ab) is 5e-4, which amplifies its rounding.
    assert torch.allclose(
        dpm(network, start, AB, steps, clip=False), reference, rtol=5e-3, atol=5e-3 * reference.abs().max()
    )


@pytest.mark.parametrize(
    "name,steps", [("ddpm", 100), *[(n, s) for n in ("ddim", "dpm") for s in (1, 2, 3, 10, 99, 100)]]
)
def test_exact_noise_oracle_returns_the_clean_action(start, name, steps):
    """An oracle that knows x_0 answers the exact noise at every step; a slip in the index range leaves some behind."""
    clean = torch.rand(start.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 2 - 1
    asked = []

    def oracle(x, t):
        asked.append(int(t[0]))
        ab = AB[t][:, None, None]
        return (x - ab.sqrt() * clean) / (1 - ab).sqrt()

    out = SAMPLERS[name](oracle, start.double(), AB, steps)
    assert torch.allclose(out, clean, atol=1e-9)
    assert asked[0] == T - 1 and len(asked) == steps == len(set(asked)) and asked == sorted(asked, reverse=True)
    if steps == T:
        assert asked == list(range(T - 1, -1, -1))


@pytest.mark.parametrize("name,steps", [("ddpm", 100), ("ddim", 100), ("dpm", 100)])
def test_gaussian_data_comes_out_with_its_mean_and_spread(name, steps):
    """For data N(m, s^2) the best noise prediction is linear in x_t, in closed form; samples must be N(m, s^2) again.

    Up to discretisation: DDPM's posterior variance is that of a known x_0, a lower bound, so 100 steps come out 8 %
    narrow.
    """
    m, s, n = 0.3, 0.2, 20_000

    def best(x, t):
        ab = AB[t][:, None, None].to(x.dtype)
        return (1 - ab).sqrt() * (x - ab.sqrt() * m) / (ab * s**2 + 1 - ab)

    start = torch.randn(n, 1, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    out = SAMPLERS[name](best, start, AB, steps, clip=False, generator=torch.Generator().manual_seed(4))
    assert out.mean().item() == pytest.approx(m, abs=0.02)
    assert out.std().item() == pytest.approx(s, rel=0.02 if name == "dpm" else 0.1)


def test_second_order_is_better_than_first_at_equal_cost(start):
    """Why DPM-Solver++ exists. The closed form again: here the sampling ODE maps a start z to exactly m + s * z."""

    def best(x, t):
        ab = AB[t][:, None, None].to(x.dtype)
        return (1 - ab).sqrt() * (x - ab.sqrt() * 0.3) / (ab * 0.2**2 + 1 - ab)

    errors = {
        f.__name__: (f(best, start, AB, 50, clip=False) - (0.3 + 0.2 * start)).abs().max().item() for f in (ddim, dpm)
    }
    assert errors["dpm"] < 0.3 * errors["ddim"]


def test_timesteps_begin_at_the_noisiest_step():
    assert sampling_timesteps(100, 4) == [99, 74, 49, 24]
    assert sampling_timesteps(100, 1) == [99]
    assert sampling_timesteps(100, 100) == list(range(99, -1, -1))


@pytest.mark.parametrize("name,steps,words", [("ddim", 101, "between 1 and"), ("dpm", 0, "between 1"),
                                              ("ddim", -3, "got -3"), ("ddpm", 50, "all 100"),
                                              ("euler", 5, "ddpm, ddim, dpm")])  # fmt: skip
def test_impossible_requests_are_refused(name, steps, words):
    with pytest.raises(ValueError, match=words):
        resolve_steps(name, steps, T)
    if name in SAMPLERS:
        with pytest.raises(ValueError, match=words):
            SAMPLERS[name](network, torch.zeros(1, 8, 4), AB, steps)


def test_default_steps():
    assert [resolve_steps(name, None, T) for name in ("ddpm", "ddim", "dpm")] == [100, 5, 5]
    assert resolve_steps("dpm", None, 3) == 3 and resolve_steps("ddim", 7, T) == 7


def test_an_unknown_target_is_none_of_the_three():
    x = torch.zeros(1, 8, 4)
    for ask in (lambda: sampler.regression_target("epsilon", x, x, torch.tensor([0.5])),
                lambda: sampler.to_noise("epsilon", x, x, torch.tensor([0.5]))):  # fmt: skip
        with pytest.raises(ValueError, match="unknown prediction target 'epsilon': choose from noise, clean, velocity"):
            ask()


def test_the_picture_shows_chunks_from_noise_to_actions():
    """Of the policy that comes with the code: what begins as unit noise ends as actions that hardly differ."""
    chunks = denoising.on_the_way(load_policy(ROOT / "study/core/mt6"), denoising.situation(), noises=16)
    spread = [x.std(0).mean().item() for x in chunks]  # over the noises
    assert len(chunks) == 6 and chunks[0].shape == (16, 8, 4) and abs(spread[0] - 1) < 0.1
    assert spread == sorted(spread, reverse=True) and spread[-1] < 0.1 and chunks[-1].abs().max() <= 1 + 1e-6
