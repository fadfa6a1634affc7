"""Eyes that tell finer where things are: a spatial softmax over 15 x 15 places of a picture of 64 pixels, not 6 x 6.

    python train.py --policy fine --tasks mt6 --observation pixels --draws 4

What fails from cameras are the precise tasks, a ring onto a peg and a peg into a hole. The small eye of `encoder.py`
looks at places 8 pixels apart, and a mean over few places is a rough one. Here its second stride and its last layer are
gone, and the second is a thin one: 1.5 times the work, two and a half times as fine, but each place sees 24 pixels
around it, not 52. The field
`draws` comes from variants/draws.py, where an encoded picture is used several times, so that eyes cost less. Whether it
pays: study/pixels/recipe.py.
"""

import torch
import torch.nn as nn

from encoder import SpatialSoftmax
from variants.draws import Policy as DrawsPolicy
from variants.draws import PolicyConfig  # noqa: F401


def fine_eye() -> nn.Sequential:
    """(B, 3, h, w) -> (B, 128)."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1), SpatialSoftmax(),
    )  # fmt: skip


class Policy(DrawsPolicy):
    def build_encoder(self):
        encoder = super().build_encoder()
        if not hasattr(encoder, "eyes"):
            raise ValueError("policy fine is about eyes: it needs --observation pixels")
        if self.config.eye != "small":
            raise ValueError("policy fine has eyes of its own: --size base would not be asked")
        eyes = [fine_eye() for _ in encoder.cameras]
        encoder.eyes = nn.ModuleList(eyes).to(memory_format=torch.channels_last)
        return encoder
