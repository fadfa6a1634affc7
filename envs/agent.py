"""For numbers beside other people's: metaworld.evaluation.evaluation(Agent(policy, tasks), vector_env, ...)"""

import numpy as np

from envs.metaworld import split_state


class Agent:
    """The policy as MetaWorld's own `metaworld.evaluation.evaluation` wants it: one action per environment and step.

    It keeps each environment's action chunk and asks the policy for a new one where it has run out.

    tasks: a name for each environment, in their order.
    """

    def __init__(self, policy, tasks: list[str]):
        self.policy, self.tasks = policy, tasks
        self.queues: list[list[np.ndarray]] = [[] for _ in tasks]

    def reset(self, env_mask: np.ndarray) -> None:
        """Forget the chunks of the environments in the mask (n,)."""
        for i in np.flatnonzero(env_mask):
            self.queues[i].clear()  # a chunk planned in the old episode means nothing in the new one

    def eval_action(self, observations: np.ndarray) -> np.ndarray:
        """MetaWorld's states (n, 39) -> the next action of each environment (n, A)."""
        empty = [i for i, queue in enumerate(self.queues) if not queue]
        if empty:
            seen, names = split_state(observations[empty]), [self.tasks[i] for i in empty]
            for i, chunk in zip(empty, self.policy.act(seen, names)[0], strict=True):
                self.queues[i] = list(chunk[: self.policy.config.executed])
        return np.stack([queue.pop(0) for queue in self.queues])
