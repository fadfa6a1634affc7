"""MetaWorld's tasks cut to 25 steps and without their experts: for counting episodes, not successes (load.py)."""

import gymnasium

from envs.metaworld import TASKS, MetaWorldEnv


class Short(MetaWorldEnv):
    @property
    def expert_action(self):
        raise AttributeError("25 steps are too few for experts")


for _task in TASKS:
    name = f"{_task}-short-v0"
    gymnasium.register(name, "study.reliability.short:Short", max_episode_steps=25, kwargs={"task": _task})
