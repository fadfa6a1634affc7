"""The noise schedule and three ways to turn noise into actions.

Diffusion in one paragraph. A *chunk* is the robot's next H actions (x here, as in papers on sampling; in fdp.py a, with
noise eps). Take a clean one, x_0, and mix it with Gaussian noise e:

    x_t = sqrt(ab_t) * x_0 + sqrt(1 - ab_t) * e                  (Ho et al. 2020, DDPM, equation 4)

where `ab_t` ("alpha bar") falls from almost 1 at step t = 0 to almost 0 at t = T - 1. (Both factors squared sum to
one: if x_0 has unit variance, so has x_t. Papers count steps from 1 to T; our t = 0 is their 1. x_0 is always the clean
chunk.) A network learns to predict the noise in x_t. Sampling goes backwards: start at pure noise, predict the noise in
it, remove a little of that, predict again. Everything below is arithmetic on that one equation.

Why not remove all of it at once: under a squared error the best prediction is the *average* of all noise that could be
in x_t. (The network also sees the observation, which is left out here.) So one jump from pure noise lands at the
average of all chunks demonstrated in this situation, which may be none of them: between a way left of a wall and one
right of it is the wall. A small move commits to a little, and the next average is over fewer. (variants/bc.py makes the
one jump; study/README.md says when it fails.)

What a chunk is, in time, with H = 8 and 4 actions executed per chunk (o: seen, a: predicted):

    robot step  -1   0   1   2   3   4   5   6   7
    seen         o   o
    predicted        a   a   a   a   a   a   a   a      one chunk: what sampling makes out of noise
    executed         a   a   a   a                      blindly, 0.05 s in MetaWorld; then it looks again

`study/core/denoising.png` shows chunks on their way from noise to actions.

A sampler gets `predict_noise(x_t, t) -> e`, with x_t (B, H, A) and t (B,), and cannot tell one U-Net from a weighted
sum of K. All take the arguments of `ddpm`. You choose one when acting, not when training: every checkpoint of fdp.py
works with every sampler.

Axis legend: B batch, H action horizon, A action dim, T diffusion steps (100).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

PredictNoise = Callable[[Tensor, Tensor], Tensor]
TARGETS = ("noise", "clean", "velocity")


def check_target(target: str) -> None:
    """ValueError unless it is one of TARGETS."""
    if target not in TARGETS:
        raise ValueError(f"unknown prediction target '{target}': choose from {', '.join(TARGETS)}")


def squared_cosine_schedule(T: int) -> Tensor:
    """alpha bar for t = 0 .. T-1, float64 (T,). Nichol & Dhariwal 2021 (arXiv 2102.09672), equation 17.

    The cosine spends many steps at medium noise, where actions take shape. (DDPM's linear betas, 1e-4 to 0.02 in 100
    steps, end at ab = 0.36: x_99 holds 0.6 of the action's amplitude, yet sampling would start from pure noise.)
    """

    def f(u: float) -> float:
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    # beta_t is the variance added by one step. The last one would be exactly 1, so that ab_{T-1} = 0 and
    # x_0 = (x_t - e) / 0 could not be recovered; 0.999 keeps a trace of signal.
    beta = torch.tensor([min(1 - f((t + 1) / T) / f(t / T), 0.999) for t in range(T)], dtype=torch.float64)
    return torch.cumprod(1 - beta, dim=0)


def add_noise(clean: Tensor, noise: Tensor, alpha_bar_t: Tensor) -> Tensor:
    """x_t from x_0 (B, H, A), noise (B, H, A) and alpha bar at each sample's step (B,). DDPM equation 4."""
    a = alpha_bar_t[:, None, None]
    return a.sqrt() * clean + (1 - a).sqrt() * noise


def regression_target(target: str, clean: Tensor, noise: Tensor, alpha_bar_t: Tensor) -> Tensor:
    """What the network is trained to predict, (B, H, A), for one of the three TARGETS; alpha bar at each step (B,)."""
    check_target(target)
    if target == "noise":  # DDPM's objective, and the paper's
        return noise
    if target == "clean":
        return clean
    # v-prediction (Salimans & Ho 2022, arXiv 2202.00512, section 4): sqrt(ab) = cos(phi), sqrt(1-ab) = sin(phi). Then
    # x_t walks a quarter circle from clean (phi = 0) to noise, and this is d x_t / d phi, the direction it goes in.
    a = alpha_bar_t[:, None, None]
    return a.sqrt() * noise - (1 - a).sqrt() * clean


def to_noise(target: str, prediction: Tensor, noisy: Tensor, alpha_bar_t: Tensor) -> Tensor:
    """Whatever a network predicts (B, H, A) -> the noise (B, H, A) that samplers ask for.

    From x_t = sqrt(ab) clean + sqrt(1-ab) noise, each target is an affine function of each other one:

        noise = (x_t - sqrt(ab) clean) / sqrt(1-ab)        noise = sqrt(ab) velocity + sqrt(1-ab) x_t

    Both read c(t) x_t + d(t) y. So composing K predictions y_k first or converting them first makes no difference *if
    the weights sum to one*:

        sum_k w_k (c x_t + d y_k)  =  c x_t (sum_k w_k) + d sum_k w_k y_k  =  c x_t + d (sum_k w_k y_k)

    What differs is how the loss weights an error at each t. By the equations above, an error r in the implied clean
    action is one of r sqrt(ab) / sqrt(1-ab) in the noise, and of r / sqrt(1-ab) in the velocity. Squared, `clean`
    weights it by 1 everywhere; `noise` by the signal-to-noise ratio ab/(1-ab) (1600 at t = 0, 1 in the middle, 0 at
    t = T - 1); `velocity` by that plus one: as strict near clean data, and it still learns where there is much noise.
    Hence the default.
    """
    check_target(target)
    a = alpha_bar_t[:, None, None]
    if target == "noise":
        return prediction
    if target == "clean":
        return (noisy - a.sqrt() * prediction) / (1 - a).sqrt()
    return a.sqrt() * prediction + (1 - a).sqrt() * noisy


def sampling_timesteps(T: int, steps: int) -> list[int]:
    """The steps to visit, from T-1 down. `steps` evenly spaced ones; every one of them when steps == T.

    T=100, steps=4 -> [99, 74, 49, 24]. It must begin at T-1, the only step at which x_t really is the pure noise
    that sampling starts from ("trailing" spacing; the usual "leading" one begins at 90 for ten steps). After
    the last entry comes not step 0 but clean data, ab = 1: step 0 still holds a little noise.

    Few steps narrow the distribution: the last jump, here from 24, lands on the mean of all clean data that may
    have become this x_24, so detail finer than its noise is averaged. (Where data has a standard deviation of 0.2, five
    steps of dpm make half of it. With quadratic spacing, 99, 63, 35, 15, 3, they make 0.88 of it, and success is the
    same: LOG.md, 2026-11-30.)
    """
    check_steps(T, steps)
    return [round(T - i * T / steps) - 1 for i in range(steps)]


def check_steps(T: int, steps: int) -> None:
    """ValueError for a number of steps that a schedule of T does not have."""
    if not 1 <= steps <= T:
        raise ValueError(f"sampling steps must be between 1 and the {T} diffusion steps of this policy, got {steps}")


def _walk(alpha_bar: Tensor, steps: int):
    """(t, ab_t, ab_next) for each step. The last ab_next is 1: clean data."""
    ts = sampling_timesteps(len(alpha_bar), steps)
    ab = [float(alpha_bar[t]) for t in ts] + [1.0]
    return zip(ts, ab[:-1], ab[1:], strict=True)


def _predict_clean(predict_noise: PredictNoise, x: Tensor, t: int, ab: float, clip: bool) -> Tensor:
    """Ask the network, solve the mixing equation for x_0 = (x_t - sqrt(1 - ab) e) / sqrt(ab), and clip.

    When sampling starts, sqrt(ab) is tiny: an error in a *predicted* e is a huge one in x_0. (One in a velocity v is
    not: in e it is smaller by sqrt(ab), `to_noise`.) Actions lie in [-1, 1], so anything outside is certainly wrong.
    """
    noise = predict_noise(x, torch.full((len(x),), t, device=x.device))
    clean = (x - math.sqrt(1 - ab) * noise) / math.sqrt(ab)
    return clean.clamp(-1, 1) if clip else clean


def ddpm(predict_noise, x, alpha_bar, steps, clip=True, generator=None) -> Tensor:
    """Undo the noising step by step, all T of them, with fresh noise at each ("ancestral sampling"). DDPM algorithm 2,
    mean and variance of equations 6-7.

    Args (all samplers): predict_noise; x: pure noise (B, H, A); alpha_bar: (T,) on the CPU; steps: network calls;
    clip: clamp predicted clean actions to [-1, 1]; generator: of ddpm's fresh noise. Returns clean actions (B, H, A).
    Raises ValueError for a number of steps that the schedule does not have.
    """
    for t, ab, ab_next in _walk(alpha_bar, resolve_steps("ddpm", steps, len(alpha_bar))):
        clean = _predict_clean(predict_noise, x, t, ab, clip)
        beta = 1 - ab / ab_next  # variance that noising adds from the next, cleaner step to this one
        # q(x_{t-1} | x_t, x_0) is Gaussian. Its mean is a weighted sum of the predicted x_0 and of x_t ...
        x = math.sqrt(ab_next) * beta / (1 - ab) * clean + math.sqrt(ab / ab_next) * (1 - ab_next) / (1 - ab) * x
        # ... and fresh noise of its variance is put back; not after the last step (ab_next = 1, variance 0), where it
        # would go straight to the robot.
        if ab_next < 1:
            fresh = torch.randn(x.shape, generator=generator, device=x.device)
            x = x + math.sqrt(beta * (1 - ab_next) / (1 - ab)) * fresh
    return x


def ddim(predict_noise, x, alpha_bar, steps, clip=True, generator=None) -> Tensor:
    """Deterministic. Song et al. 2021 (arXiv 2010.02502), equation 12 with sigma = 0.

    The trick that permits few steps: x_0 and e together determine x at *every* noise level (DDPM equation 4), so one
    may jump to any earlier step and not only to the neighbouring one.
    """
    for t, ab, ab_next in _walk(alpha_bar, steps):
        clean = _predict_clean(predict_noise, x, t, ab, clip)
        # The noise is recomputed from the *clipped* action: otherwise the two no longer add up to x_t.
        noise = (x - math.sqrt(ab) * clean) / math.sqrt(1 - ab)
        x = math.sqrt(ab_next) * clean + math.sqrt(1 - ab_next) * noise
    return x


def dpm(predict_noise, x, alpha_bar, steps, clip=True, generator=None) -> Tensor:
    """DPM-Solver++(2M), deterministic. Lu et al. 2022 (arXiv 2211.01095), algorithm 2.

    Ever smaller steps of DDIM trace the probability-flow ODE. A large one is exact only if the predicted clean action
    stays constant (first order). It does not, so this one extrapolates it linearly, from the previous step and this
    one, to the step's midpoint (second order), at no extra network call. The midpoint is in terms of `lam`, half the
    log of the signal-to-noise ratio ab / (1 - ab), which serves as the equation's time.
    """
    previous = None  # (lam, clean) of the step before
    for t, ab, ab_next in _walk(alpha_bar, steps):
        clean = _predict_clean(predict_noise, x, t, ab, clip)
        if ab_next == 1.0:
            break  # lam of clean data is infinite: a first-order step tends to this, a second-order one diverges
        lam, lam_next = (0.5 * math.log(a / (1 - a)) for a in (ab, ab_next))
        h = lam_next - lam
        halfway = clean  # the first step is one of DDIM: nothing to extrapolate from
        if previous is not None:
            r = (lam - previous[0]) / h  # length of the previous step relative to this one
            halfway = (1 + 1 / (2 * r)) * clean - 1 / (2 * r) * previous[1]  # clean + (clean - previous) / (2 r)
        x = math.sqrt((1 - ab_next) / (1 - ab)) * x - math.sqrt(ab_next) * math.expm1(-h) * halfway
        previous = (lam, clean)
    return clean


SAMPLERS = {"ddpm": ddpm, "ddim": ddim, "dpm": dpm}


def resolve_steps(name: str, steps: int | None, T: int) -> int:
    """The number of steps to take: `steps`, or by default all T for ddpm and 5 for the others.

    Raises ValueError, in one line, for an unknown sampler or a number of steps that it cannot take.
    """
    if name not in SAMPLERS:
        raise ValueError(f"unknown sampler '{name}': choose from {', '.join(SAMPLERS)}")
    if steps is None:
        steps = T if name == "ddpm" else min(5, T)
    check_steps(T, steps)
    if name == "ddpm" and steps != T:
        raise ValueError(f"ddpm visits all {T} diffusion steps, got {steps}; use ddim or dpm for fewer")
    return steps
