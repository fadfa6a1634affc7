"""MetaWorld's 50 manipulation tasks as Gymnasium environments.

    import envs, gymnasium
    env = gymnasium.make("fdp/push-v3", render_mode="rgb_array")

A Sawyer arm at a table. Observation, in metres and unit quaternions, as named parts; "frames" are now and one step ago:

    proprioception (2, 4)    frames of: hand position 0:3, gripper opening 3 (0..1)
    objects        (2, 14)   frames of: first object 0:7, position and quaternion; second object 7:14 (zeros if none)
    goal           (3,)      where to; the same during an episode

Action (4,) in [-1, 1]: hand displacement x, y, z (1 is one centimetre per step), and gripper effort (1 closes).

Why not `gymnasium.make("Meta-World/MT1", ...)`: it builds a benchmark of 50 frozen goals first, its spec holds a
lambda, which Minari cannot store, and its reset() ignores the seed.
"""

import copy
import warnings

import gymnasium
import mujoco
import numpy as np

# MetaWorld's experts ask for actions beyond [-1, 1] and are warned about it at every step; we clip them.
warnings.filterwarnings("ignore", message="Constant\\(s\\) may be too high")

# Written out, because asking metaworld for them costs every command, even --help, 0.6 s of importing. Tests compare.
TASKS = """
    assembly basketball bin-picking box-close button-press button-press-topdown button-press-topdown-wall
    button-press-wall coffee-button coffee-pull coffee-push dial-turn disassemble door-close door-lock door-open
    door-unlock drawer-close drawer-open faucet-close faucet-open hammer hand-insert handle-press handle-press-side
    handle-pull handle-pull-side lever-pull peg-insert-side peg-unplug-side pick-out-of-hole pick-place
    pick-place-wall plate-slide plate-slide-back plate-slide-back-side plate-slide-side push push-back push-wall
    reach reach-wall shelf-place soccer stick-pull stick-push sweep sweep-into window-close window-open
""".split()

ML45_TEST = ["bin-picking", "box-close", "hand-insert", "door-lock", "door-unlock"]
GROUPS = {
    # The paper's six tasks for joint training and its four for adaptation (inverse skills).
    "mt6": ["door-open", "drawer-open", "assembly", "window-close", "peg-insert-side", "hammer"],
    "mt4": ["door-close", "drawer-close", "disassemble", "window-open"],
    "mt10": """
        reach push pick-place door-open drawer-open drawer-close button-press-topdown peg-insert-side
        window-open window-close
        """.split(),
    "mt50": TASKS,
    # Meta-learning splits: a base learns one part, and new tasks are of the other.
    "ml10-train": """
        reach push pick-place door-open drawer-close button-press-topdown peg-insert-side window-open sweep basketball
        """.split(),
    "ml10-test": ["drawer-open", "door-close", "shelf-place", "sweep-into", "lever-pull"],
    "ml45-train": [task for task in TASKS if task not in ML45_TEST],
    "ml45-test": ML45_TEST,
    # Continual World's sequence (arXiv 2105.10919), with the tasks of today's MetaWorld; its order matters.
    "cw10": """
        hammer push-wall faucet-close push-back stick-pull handle-press-side push shelf-place window-close
        peg-unplug-side
        """.split(),
}

# MetaWorld's own observation is one vector of 39 numbers. These are its parts; nothing else in this project counts.
STATE_DIM, ACTION_DIM = 39, 4
CORNER = (0.75, 0.075, 0.7)  # metres; MetaWorld's corner2 camera stands far off, from here the table fills the picture
PARTS = {"proprioception": (2, 4), "objects": (2, 14), "goal": (3,)}
# Positions that a policy should see the difference of: both objects and the goal from the hand, the goal from the first
# object.
DIFFERENCES = (
    ("objects", 0, "proprioception", 0), ("objects", 7, "proprioception", 0),
    ("goal", 0, "proprioception", 0), ("goal", 0, "objects", 0),
)  # fmt: skip


def split_state(state: np.ndarray) -> dict[str, np.ndarray]:
    """MetaWorld's state (..., 39) -> its parts. It holds hand and gripper (4), two objects (14), the same 18 numbers
    one step earlier, and the goal (3)."""
    frames = state[..., :36].reshape(*state.shape[:-1], 2, 18)
    return {"proprioception": frames[..., :4], "objects": frames[..., 4:], "goal": state[..., 36:]}


class MetaWorldEnv(gymnasium.Env):
    """One task, with its goal visible and new object and goal positions at every reset.

    The same reset seed gives the same episode, whatever was played before; tests check that for all 50 tasks.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 80}  # 80 control steps are one second of robot time
    disturbed = (0, 1, 2)  # the actions that a recorder may shake: never the gripper, which would drop what it holds
    differences = DIFFERENCES

    def __init__(self, task: str, render_mode: str | None = None):
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE

        self.task, self.render_mode = task, render_mode
        # The "goal observable" class: the plain one zeroes the goal, and experts for reach and push then score 0.
        self.sim = ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE[f"{task}-v3-goal-observable"](seed=0, render_mode=render_mode)
        self.sim._freeze_rand_vec = False  # draw positions anew at each reset ...
        self.sim.seeded_rand_vec = True  # ... from the environment's generator, not from numpy's global one
        if render_mode:
            camera = self.sim.model.camera("corner2").id
            self.sim.model.cam_pos[camera] = CORNER
            self.sim.mujoco_renderer.camera_id = camera
            # For films, 480 x 480: without a GPU a picture takes 0.17 s with MuJoCo's own settings, 0.06 s with these.
            self.sim.model.vis.quality.shadowsize, self.sim.model.vis.quality.offsamples = 1024, 0
        # The simulator's own bounds differ from task to task; one policy for many tasks needs one space.
        parts = {name: gymnasium.spaces.Box(-np.inf, np.inf, shape, np.float64) for name, shape in PARTS.items()}
        self.observation_space = gymnasium.spaces.Dict(parts)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (ACTION_DIM,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        self.sim.seed(int(self.np_random.integers(2**31)))  # MetaWorld's reset ignores its seed argument: seed first
        self.state, info = self.sim.reset()
        self._expert = None  # made when it is asked, and anew for every episode
        return split_state(self.state), {**info, "success": False}

    def step(self, action):
        self.state, reward, _, truncated, info = self.sim.step(np.clip(action, -1, 1))
        info["success"] = bool(info["success"])  # MetaWorld gives a float or a bool, depending on the task
        # The task does not end at success, as in MetaWorld: who plays decides whether to go on.
        return split_state(self.state), float(reward), False, bool(truncated), info

    def expert_action(self) -> np.ndarray:
        """What MetaWorld's scripted expert for this task would do now (4,), clipped to [-1, 1].

        It gets a copy of the state: the experts for door-open and door-close shift the door by 5 cm and more *in the
        observation that they are given*. Recorded afterwards, it would teach a policy to look for the door where it is
        not.
        """
        if self._expert is None:
            from metaworld.policies import ENV_POLICY_MAP

            self._expert = ENV_POLICY_MAP[f"{self.task}-v3"]()
        return np.clip(self._expert.get_action(self.state.copy()), -1, 1).astype(np.float32)

    def render(self):
        if self.render_mode is None:
            return None
        viewer = self.sim.mujoco_renderer.viewer
        if viewer:  # a process has several films in the making, and each is drawn with what was loaded for it
            viewer.make_context_current()
        return self.sim.render()[::-1, ::-1]  # this camera hangs upside down

    def close(self):
        self.sim.close()

    def clone(self) -> "MetaWorldEnv":
        """A second, independent environment in milliseconds; building one takes 0.15 to 0.5 s of parsing meshes.

        The compiled model is copied in memory and fresh simulation data made for it. The model cannot be shared, since
        tasks move bodies in it at reset. (MetaWorld's own copy support rebuilds everything.)
        """
        if self.render_mode:
            raise ValueError("an environment that renders cannot be cloned: its renderer is tied to one model")
        twin = copy.copy(self)
        model = copy.copy(self.sim.model)
        same_object = {
            id(self.sim.model): model,
            id(self.sim.data): mujoco.MjData(model),
            id(self.sim.mujoco_renderer): None,
        }
        twin.sim = object.__new__(type(self.sim))
        twin.sim.__dict__ = copy.deepcopy(self.sim.__dict__, same_object)
        twin._np_random = None
        return twin


def register_all() -> None:
    for task in TASKS:
        # A string entry point: Minari stores the spec as JSON in the dataset, and can make the environment from it.
        gymnasium.register(id=f"fdp/{task}-v3", entry_point="envs.metaworld:MetaWorldEnv", kwargs={"task": task})
