"""The same tasks, seen through two cameras: what a policy gets where nobody tells it the state.

    python train.py --tasks mt6 --observation pixels           # fdp/door-open-pixels-v3, ...; -pixels96-, -pixels128-

    corner          (3, size, size) uint8    a camera at the table's corner, beside the robot
    wrist           (3, size, size) uint8    one that looks past the gripper, and moves with the hand
    proprioception  (2, 4)                   hand position and gripper opening, now and one step ago

Objects and goal are in the pictures or nowhere, and a task whose goal they too often lack is refused. The state stays
with the simulator, where the scripted expert reads it: the same seed and the same actions are the same episode as
without cameras, to the last bit.

Rendering decides what this costs. With MuJoCo's own settings a picture takes ten times as long as without shadows,
reflections, sky and multisampling. And a policy sees only what follows the last action of a chunk: until then
`drawing` is off, and nothing is rendered anew.
"""

import atexit
from collections.abc import Iterable

import gymnasium
import mujoco
import numpy as np

from envs.metaworld import CORNER, PARTS, TASKS, MetaWorldEnv, split_state
from plumbing import opengl
from plumbing.cli import BadInput

SIZES = (64, 96, 128)
CAMERAS = {"corner": "corner2", "wrist": "gripperPOV"}  # ours -> MetaWorld's
UPSIDE_DOWN = ("corner",)
OFF = (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION, mujoco.mjtRndFlag.mjRND_SKYBOX,
       mujoco.mjtRndFlag.mjRND_HAZE)  # fmt: skip
MOST_GEOMS = 1000  # in a scene; ours have 50
SHIFTS = {  # what may be other than in training (evaluate.py --shift), and never is there
    "camera": "the corner camera stands 2 cm farther right and is turned by 2 degrees",
    "light": "half of the light",
    "table": "a table of another colour",
    "object": "a yellow box lies on the table, where nothing needs to go",
    "corner-off": "the corner camera is black",
    "wrist-off": "the wrist camera is black",
}
# Where the goal is a place of its own, no object tells it: a policy can only see the ball that marks it.
FREE_GOALS = ("reach", "reach-wall", "push", "push-wall", "push-back", "pick-place", "pick-place-wall", "soccer",
              "sweep-into", "hand-insert", "pick-out-of-hole", "coffee-push", "coffee-pull", "shelf-place",
              "plate-slide", "stick-pull", "stick-push")  # fmt: skip
# Cameras -> task -> the smallest pictures of which nine in ten show that ball at reset, or 0: none do. All other tasks
# are seen (study/pixels/goals.py has counted).
GOAL_UNSEEN = {
    "corner,wrist": {"coffee-push": 96, "coffee-pull": 96},
    "corner": {"push-wall": 96, "hand-insert": 0, "pick-out-of-hole": 96, "coffee-push": 96, "coffee-pull": 96,
               "plate-slide": 96},
    "wrist": dict.fromkeys(("reach", "reach-wall", "pick-place", "pick-place-wall", "pick-out-of-hole", "coffee-push",
                            "coffee-pull", "shelf-place", "stick-pull", "stick-push"), 0),
}  # fmt: skip
BOX = ((-0.22, 0.52, 0.03), (0.03, 0.03, 0.03), (0.9, 0.8, 0.1, 1.0))  # where (metres), half sizes, colour


def task_id(task: str, size: int) -> str:
    """The Gymnasium id of a task seen through cameras."""
    return f"fdp/{task}-pixels{'' if size == SIZES[0] else size}-v3"


IDS = {task_id(task, size): (task, size) for task in TASKS for size in SIZES}


def through_cameras(observation: str, tasks: list[str], size: int, cameras: str = ",".join(CAMERAS)) -> list[str]:
    """Tasks as `--observation` has them: as they are ("state"), or MetaWorld's with cameras ("pixels"). BadInput for
    others, which have pictures of their own or none, and for cameras where there are none."""
    if observation == "state":
        if (size, cameras) != (SIZES[0], ",".join(CAMERAS)):
            raise BadInput("--cameras and --image-size go with --observation pixels")
        return tasks
    if others := [task for task in tasks if task not in TASKS and task not in IDS]:
        raise BadInput(f"--observation pixels is for MetaWorld's tasks, and '{others[0]}' is none: leave it out")
    if others := [task for task in tasks if IDS.get(task, (task, size))[1] != size]:
        raise BadInput(f"'{others[0]}' has pictures of {IDS[others[0]][1]} pixels, and {size} are asked for")
    return list(dict.fromkeys(task_id(IDS.get(task, (task,))[0], size) for task in tasks))  # two names, one task


def check_goals(tasks: list[str], parts: Iterable[str]) -> None:
    """BadInput for a task, seen through the cameras among `parts`, whose goal could only be guessed: more than a tenth
    of the first pictures do not show it."""
    cameras = ",".join(camera for camera in CAMERAS if camera in parts)
    for task, size in (IDS[task] for task in tasks if task in IDS):
        least = GOAL_UNSEEN.get(cameras, {}).get(task, SIZES[0])
        if not 0 < least <= size:
            others = [f"{least} pixels"] * bool(least) + ["both cameras"] * ("," not in cameras)
            raise BadInput(f"'{task}' from the {cameras.replace(',', ' and ')} camera in {size} pixels: its goal is a "
                           f"small ball, and more than a tenth of the first pictures lack it; {' or '.join(others)} "
                           "show it")  # fmt: skip


def as_policy_sees(policy_tasks: list[str], tasks: list[str]) -> list[str]:
    """Tasks as a policy that knows `policy_tasks` would see them: through cameras of its size, or as they are."""
    sizes = [IDS[task][1] for task in policy_tasks if task in IDS]
    if sizes and (others := [task for task in tasks if task not in TASKS and task not in IDS]):
        raise BadInput(f"this policy sees MetaWorld's tasks through cameras, and '{others[0]}' is none of them")
    if sizes and (others := [task for task in tasks if IDS.get(task, (task, sizes[0]))[1] != sizes[0]]):
        raise BadInput(f"this policy sees pictures of {sizes[0]} pixels, and '{others[0]}' has {IDS[others[0]][1]}")
    return through_cameras("pixels", tasks, sizes[0]) if sizes else tasks


def parts_seen(cameras: str, parts: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Of all parts, name -> shape, those that a policy with some cameras ("corner,wrist") sees. BadInput for a camera
    that there is not, or for none."""
    names = [name.strip() for name in cameras.split(",") if name.strip()]
    if not names or not set(names) <= set(CAMERAS):
        raise BadInput(f"--cameras must be one or more of {', '.join(CAMERAS)}, got '{cameras}'")
    return {name: shape for name, shape in parts.items() if name in names or name not in CAMERAS}


def check_shift(name: str, tasks: list[str], parts: Iterable[str]) -> None:
    """BadInput for a shift that there is not, for tasks that are not seen through cameras, and where a policy that sees
    `parts` would not notice."""
    if name and (name not in SHIFTS or not set(tasks) <= set(IDS)):
        raise BadInput(f"--shift must be one of {', '.join(SHIFTS)}, for a policy with cameras, got '{name}'")
    if (camera := {"camera": "corner"}.get(name, name.removesuffix("-off"))) in CAMERAS and camera not in parts:
        raise BadInput(f"--shift {name} is of the {camera} camera, and this policy does not look through it")


class Renderer:
    """Pictures of the models of this process, in one OpenGL context that is made at the first one.

    What a model looks like (meshes, textures) is loaded once for each task and size; where things are comes from the
    environment that is drawn, so that no picture depends on what was drawn before.
    """

    def __init__(self):
        self.gl, self.loaded = None, {}
        self.options, self.nothing = mujoco.MjvOption(), mujoco.MjvPerturb()

    def draw(self, env: "PixelsEnv", camera: str) -> np.ndarray:
        """(3, size, size) uint8."""
        model, data, size = env.sim.model, env.sim.data, env.size
        if self.gl is None:
            if not hasattr(mujoco, "GLContext"):  # it asks once, when it is imported, how to draw
                raise BadInput(f"MuJoCo was imported without OpenGL: {opengl.mend(imported=True)}")
            self.gl = mujoco.GLContext(SIZES[-1], SIZES[-1])
            atexit.register(self.gl.free)  # before the library that would free it is gone
        self.gl.make_current()  # a video may have made another one current
        if (env.task, size) not in self.loaded:
            try:
                self.loaded[env.task, size] = self.load(model, size)
            except mujoco.FatalError as error:  # no platform was named, and the one that MuJoCo took draws nothing
                raise BadInput(f"MuJoCo cannot draw ({error}): {opengl.mend(imported=True)}") from error
        context, scene = self.loaded[env.task, size]
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, context)
        eye = mujoco.MjvCamera()
        eye.type, eye.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, model.camera(CAMERAS[camera]).id
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(model, data, self.options, self.nothing, eye, everything, scene)
        if env.shift == "object":  # in the picture alone: nothing can touch it
            (where, half, colour), upright = map(np.array, BOX), np.eye(3).flatten()
            new = scene.geoms[scene.ngeom]
            mujoco.mjv_initGeom(new, mujoco.mjtGeom.mjGEOM_BOX, half, where, upright, colour.astype(np.float32))
            scene.ngeom += 1
        picture, frame = np.empty((size, size, 3), np.uint8), mujoco.MjrRect(0, 0, size, size)
        mujoco.mjr_render(frame, scene, context)
        mujoco.mjr_readPixels(picture, None, frame, context)  # from the bottom up
        picture = picture[:, ::-1] if camera in UPSIDE_DOWN else picture[::-1]
        return np.ascontiguousarray(picture.transpose(2, 0, 1))

    @staticmethod
    def load(model, size: int) -> tuple:
        """What drawing this model needs, without all that costs time and tells nothing."""
        screen, quality = model.vis.global_, model.vis.quality
        before = screen.offwidth, screen.offheight, quality.offsamples, quality.shadowsize
        screen.offwidth = screen.offheight = size
        quality.offsamples = quality.shadowsize = 0
        context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        screen.offwidth, screen.offheight, quality.offsamples, quality.shadowsize = before  # a film may be made, too
        scene = mujoco.MjvScene(model, maxgeom=MOST_GEOMS)
        for flag in OFF:
            scene.flags[flag.value] = 0
        return context, scene


_renderer = Renderer()


class PixelsEnv(MetaWorldEnv):
    """One of MetaWorld's tasks; an observation has pictures and proprioception, and nothing else."""

    drawing = True  # False: nobody looks at what the next steps return, and pictures are not made anew

    def __init__(self, task: str, size: int = SIZES[0], render_mode: str | None = None):
        super().__init__(task, render_mode)
        self.size, self.pictures, self.shift = size, {}, ""
        self.sim.model.cam_pos[self.sim.model.camera(CAMERAS["corner"]).id] = CORNER
        box = gymnasium.spaces.Box
        parts = {camera: box(0, 255, (3, size, size), np.uint8) for camera in CAMERAS}
        parts["proprioception"] = box(-np.inf, np.inf, PARTS["proprioception"], np.float64)
        self.observation_space = gymnasium.spaces.Dict(parts)
        self.differences = ()

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        _, info = super().reset(seed=seed, options=options)
        self.pictures = {}
        return self.observe(), info

    def step(self, action):
        _, *rest = super().step(action)
        return self.observe(), *rest

    def observe(self) -> dict[str, np.ndarray]:
        """What the policy gets."""
        if self.drawing or not self.pictures:
            # MetaWorld's reset moves things and does not compute where they are then; what this computes, the next step
            # of the simulation computes again.
            mujoco.mj_kinematics(self.sim.model, self.sim.data)
            mujoco.mj_camlight(self.sim.model, self.sim.data)
            self.pictures = {camera: _renderer.draw(self, camera) for camera in CAMERAS}
            if (off := self.shift.removesuffix("-off")) in CAMERAS:
                self.pictures[off][:] = 0
        return self.pictures | {"proprioception": split_state(self.state)["proprioception"]}

    def shifted(self, name: str) -> "PixelsEnv":
        """Itself, from here on looking otherwise: one of SHIFTS, or "" for none. For good."""
        model, self.shift = self.sim.model, name
        if name == "camera":
            camera, turn, turned = model.camera(CAMERAS["corner"]).id, np.zeros(4), np.zeros(4)
            model.cam_pos[camera] += (0.0, 0.02, 0.0)
            mujoco.mju_axisAngle2Quat(turn, np.array([0.0, 0.0, 1.0]), np.deg2rad(2))
            mujoco.mju_mulQuat(turned, turn, model.cam_quat[camera])
            model.cam_quat[camera] = turned
        elif name == "light":
            for light in (model.light_diffuse, model.vis.headlight.diffuse, model.vis.headlight.ambient):
                light *= 0.5
        elif name == "table":
            model.mat_rgba[model.mat("table_wood").id] = (0.45, 0.7, 1.0, 1.0)
        return self


def register_all() -> None:
    for name, (task, size) in IDS.items():
        gymnasium.register(name, entry_point="envs.pixels:PixelsEnv", kwargs={"task": task, "size": size})
