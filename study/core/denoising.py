"""What sampling does, as a picture: action chunks on their way from noise to actions.    python study/core/denoising.py

The policy that comes with the code sees one situation of the hammer task, 20 steps after the reset. 24 noises are
taken through the five steps of DPM-Solver++ (sampler.py); each column is what the chunks are before the next step. In
the end they agree on what to do (go right and up), and differ a little in when: so do the demonstrations.
Writes study/core/denoising.png.
"""

import sys
from pathlib import Path

import gymnasium
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))

import envs  # noqa: E402, F401  (registers fdp/hammer-v3)
from plumbing import figures  # noqa: E402
from plumbing.cli import no_arguments, say  # noqa: E402
from plumbing.runs import load_policy  # noqa: E402
from sampler import sampling_timesteps  # noqa: E402

TASK, SEED, LOOKED, NOISES = "hammer", 1, 20, 24
NUMBERS = {0: "hand: right", 2: "hand: up"}  # of a MetaWorld action's four, each in [-1, 1], those that are drawn


def situation(seed: int = SEED) -> dict:
    """An observation {part: array}, after the scripted expert has acted for LOOKED steps."""
    env = gymnasium.make(f"fdp/{TASK}-v3")
    observation, _ = env.reset(seed=seed)
    for _ in range(LOOKED):
        observation, *_ = env.step(env.unwrapped.expert_action())
    env.close()
    return observation


def on_the_way(policy, observation: dict, noises: int = NOISES) -> list[torch.Tensor]:
    """Of `noises` chunks: what they are before each step of the sampler, and in the end; (noises, H, A) each."""
    seen = []
    hook = policy.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
    repeated = {part: x[None].repeat(noises, 0) for part, x in observation.items()}
    actions, _ = policy.act(repeated, [TASK] * noises, generator=torch.Generator().manual_seed(0))
    hook.remove()
    return [*seen, policy.normalize(torch.as_tensor(actions))]


def picture(chunks: list[torch.Tensor], T: int, path: Path) -> Path:
    """A row for each of NUMBERS, a column for each moment. T: diffusion steps."""
    plt, columns = figures.pyplot(), len(chunks)
    figure, axes = plt.subplots(len(NUMBERS), columns, figsize=(1.8 * columns, 3.2), sharex=True, sharey=True)
    times = [f"t = {t}" for t in sampling_timesteps(T, columns - 1)]
    titles = [f"{times[0]}: noise", *times[1:], "the actions"]
    for column, (x, title) in enumerate(zip(chunks, titles, strict=True)):
        axes[0, column].set_title(title, fontsize=10)
        for axis, number in zip(axes[:, column], NUMBERS, strict=True):
            axis.plot(x[:, :, number].T.numpy(), color="C0", alpha=0.35, linewidth=1)
            axis.axhspan(-1, 1, color="0.94", zorder=0)  # what the environment takes
            axis.set_ylim(-3, 3)
        axes[-1, column].set_xlabel("step of the chunk", fontsize=9)
    for axis, name in zip(axes[:, 0], NUMBERS.values(), strict=True):
        axis.set_ylabel(name, fontsize=9)
    figure.tight_layout()
    return figures.save(figure, path)


if __name__ == "__main__":
    no_arguments()
    policy = load_policy(HERE / "mt6")
    chunks = on_the_way(policy, situation())
    say(f"wrote {picture(chunks, policy.config.diffusion_steps, HERE / 'denoising.png')}")
