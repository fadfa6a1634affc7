"""The baseline without routing: every component counts the same, 1/K. What fdp.py has beyond it, the router gave.

python train.py --policy uniform --tasks mt6
"""

from fdp import Policy as FactorizedPolicy
from fdp import PolicyConfig  # noqa: F401  (a variant has both names)


class Policy(FactorizedPolicy):
    def weigh(self, condition, step=None):
        """(B, C) -> (B, K). The router is still there, gets no gradient, and is never asked."""
        return condition.new_full((len(condition), self.config.components), 1 / self.config.components)
