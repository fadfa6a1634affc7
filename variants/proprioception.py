"""A policy that feels its own hand and sees nothing else: what can be done blindly, and the shortest encoder fork.

    python train.py --policy proprioception --tasks drawer-close,door-open

It replaces `build_encoder` by one that reads a single part of the observation. An encoder of another kind goes in the
same place; encoder.py says which methods it needs, and has one for cameras (`--observation pixels`).
"""

from encoder import StateEncoder
from fdp import Policy as FactorizedPolicy
from fdp import PolicyConfig  # noqa: F401  (a variant has both names)


class Policy(FactorizedPolicy):
    def build_encoder(self):
        c = self.config
        if "proprioception" not in c.observation:
            raise ValueError(f"these tasks give {', '.join(c.observation)}, and no part named 'proprioception'")
        return StateEncoder({"proprioception": c.observation["proprioception"]}, c.condition_dim)
