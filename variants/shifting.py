"""How far pictures are moved in training: an experiment on `PixelsEncoder.SHIFT` (study/pixels/recipe.py).

python train.py --policy shifting --shift 0.03 --tasks mt6 --observation pixels
"""

from dataclasses import dataclass

from fdp import Policy as FactorizedPolicy
from fdp import PolicyConfig as FactorizedConfig


@dataclass
class PolicyConfig(FactorizedConfig):
    shift: float = 1 / 32  # of a picture's size; 0: pictures stay as they are


class Policy(FactorizedPolicy):
    def build_encoder(self):
        encoder = super().build_encoder()
        encoder.SHIFT = self.config.shift
        return encoder
