"""What a policy sees: every task of mt6 through both cameras, at reset and under way.   python study/pixels/sees.py

And what it would see through behindGripper, the paper's wrist camera: in MetaWorld of today it looks at the arm.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from plumbing import figures, opengl  # noqa: E402
from plumbing.cli import no_arguments  # noqa: E402

opengl.need()  # before MuJoCo is imported, which asks once how to draw
from envs import pixels  # noqa: E402
from envs.metaworld import GROUPS  # noqa: E402

SEED, STEPS, SIZE = 1, 40, 64
VIEWS = {"corner": "corner2", "wrist": "gripperPOV", "behindGripper": "behindGripper"}


def views(env: pixels.PixelsEnv) -> list[np.ndarray]:
    """(h, w, 3) each, as they are now."""
    env.observe()
    return [pixels._renderer.draw(env, name).transpose(1, 2, 0) for name in VIEWS]


def main(out: Path) -> Path:
    """Draw it into a file. -> the path."""
    pixels.CAMERAS["behindGripper"] = "behindGripper"
    tasks = GROUPS["mt6"]
    figure, axes = figures.pyplot().subplots(len(tasks), 2 * len(VIEWS), figsize=(8, 1.4 * len(tasks)))
    for row, task in zip(axes, tasks, strict=True):
        env = pixels.PixelsEnv(task, SIZE)
        env.reset(seed=SEED)
        pictures = views(env)
        for _ in range(STEPS):
            env.step(env.expert_action())
        for axis, picture in zip(row, [*pictures, *views(env)], strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(task, fontsize=8)
    for i, axis in enumerate(axes[0]):
        axis.set_title(
            f"{list(VIEWS)[i % len(VIEWS)]}\n{'at reset' if i < len(VIEWS) else f'step {STEPS}'}", fontsize=8
        )
    figure.tight_layout(pad=0.4)
    return figures.save(figure, out)


if __name__ == "__main__":
    no_arguments()
    print(main(Path(__file__).with_name("sees.png")))
