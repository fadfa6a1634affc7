"""What a task's name means: which environment it is, what that gives, and how it is made.

    push                    MetaWorld's push, the Gymnasium id fdp/push-v3; mt6, mt10, ... are groups of these
    my_envs:Point-v0        any other Gymnasium id. The module before the colon is imported first: it registers the id

An environment of one's own needs a Box, or a Dict of Boxes, as observations, a bounded Box as actions, and
`info["success"]`. With a method `expert_action() -> action` it can be demonstrated and is shown beside the policy;
without one, demonstrations come from a dataset. docs/environments.md has an example.
"""

import copy
import difflib
import functools
import importlib
import os
import re
import sys
from dataclasses import dataclass

import gymnasium
import numpy as np

from envs import metaworld, pixels
from envs.metaworld import GROUPS, TASKS
from plumbing import opengl
from plumbing.cli import BadInput, say_once


@dataclass(frozen=True)
class Spaces:
    """What an environment gives and takes."""

    observation: dict[str, tuple[int, ...]]  # part -> shape
    action_low: tuple[float, ...]  # A numbers each
    action_high: tuple[float, ...]
    differences: tuple = ()  # positions whose difference helps (encoder.py)
    expert: bool = True  # whether it has one
    filmable: bool = True  # whether it draws itself, for videos


def resolve_tasks(text: str) -> list[str]:
    """'reach,push' or 'mt6' or 'mt6,door-close-v3' or 'my_envs:Point-v0' -> task names, in the order given, each once.

    Raises BadInput for an unknown name, with the closest known ones.
    """
    names: list[str] = []
    for word in filter(None, (word.strip() for word in text.split(","))):
        name = word.removeprefix("fdp/").removesuffix("-v3")  # fdp/push-v3, the Gymnasium id, is push
        if word in GROUPS:
            names += GROUPS[word]
        elif name in TASKS:
            names.append(name)
        elif ":" in word or "/" in word:
            names.append(word)
            trust([word])
            spaces(word)  # raises if there is no such environment
        else:
            close = difflib.get_close_matches(name, [*TASKS, *GROUPS], n=3, cutoff=0.4)
            hint = (
                f"closest: {', '.join(close)}" if close else f"groups: {', '.join(GROUPS)}; tasks: {', '.join(TASKS)}"
            )
            raise BadInput(f"unknown task '{word}'; {hint}; an environment of your own is module:{word}")
    if not names:
        raise BadInput(f"no task given; name tasks ({', '.join(TASKS[:3])}, ...) or a group ({', '.join(GROUPS)})")
    return list(dict.fromkeys(names))


def trust(tasks: list[str]) -> None:
    """Let the modules of these tasks be imported: their user has named them. A name that was read from a file is not
    enough, because the file may have come with a module of its own."""
    _named.update(task.rpartition(":")[0] for task in tasks)


_named: set[str] = set()
_brought: dict[str, tuple] = {}  # Gymnasium id -> the module that it came from, and what that has registered


def slug(task: str) -> str:
    """A task's name as part of a file's name or of a dataset's id."""
    return re.sub(r"[^\w.-]+", "-", task)


def make(task: str, render_mode: str | None = None) -> gymnasium.Env:
    """The environment of a task. BadInput for an id that Gymnasium does not know, or cannot make."""
    if task in TASKS:
        return metaworld.MetaWorldEnv(task, render_mode)
    if task in pixels.IDS:
        return pixels.PixelsEnv(*pixels.IDS[task], render_mode)
    module, _, name = task.rpartition(":")
    if module and module not in _named and module not in sys.modules:
        raise BadInput(f"task '{task}' comes from a file, and its module '{module}' is only imported when a task of it "
                       f"is named on the command line: --tasks {task}, if you trust it")  # fmt: skip
    # Python looks beside train.py; one's own module lies where one calls it from. (One that only a file names has been
    # refused above: somebody's run, unpacked there, may bring a module of that name.)
    if module and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last, so that no file there can hide one of ours
    if module and not all(word.isidentifier() for word in module.split(".")):
        raise BadInput(f"no environment '{task}': '{module}' is not the name of a module")
    try:
        if module:
            found = getattr(importlib.import_module(module), "__file__", None) or ""
            mine = os.path.abspath(module.replace(".", "/") + ".py")
            folders = [os.path.dirname(os.path.realpath(path)) for path in (mine, found)]  # beside it: a compiled one
            if os.path.exists(mine) and folders[0] != folders[1]:
                raise BadInput(f"no environment '{task}': '{module}' is the name of another module, "
                               f"{found or 'part of Python'}, and {mine} is never read: rename that file")  # fmt: skip
            brought = module, getattr(gymnasium.registry.get(name), "entry_point", None)
            first = _brought.setdefault(name, brought)
            if first[0] != module and first[1] != brought[1]:  # Gymnasium has one of each id: the one before is gone
                raise BadInput(f"'{first[0]}' and '{module}' both register '{name}', and episodes of one would be "
                               "played in the other: give one of them another id")  # fmt: skip
        # Not with render_mode=None: an environment that draws nothing has no such argument.
        return gymnasium.make(name, **({"render_mode": render_mode} if render_mode else {}))
    except (ImportError, gymnasium.error.Error) as error:
        raise BadInput(f"no environment '{task}': {error}") from error


@functools.cache
def spaces(task: str) -> Spaces:
    """What the environment of a task gives and takes. BadInput where it is none that a policy here can work with."""
    ends = [(end,) * metaworld.ACTION_DIM for end in (-1.0, 1.0)]  # MetaWorld's: known without building a simulator
    if task in TASKS:
        return Spaces(metaworld.PARTS, *ends, metaworld.DIFFERENCES)
    if task in pixels.IDS:
        opengl.need()
        size = pixels.IDS[task][1]
        parts = {**dict.fromkeys(pixels.CAMERAS, (3, size, size)), "proprioception": metaworld.PARTS["proprioception"]}
        return Spaces(parts, *ends)
    env = make(task)
    seen, action = env.observation_space, env.action_space
    parts = seen.spaces if isinstance(seen, gymnasium.spaces.Dict) else {"state": seen}
    if not all(isinstance(space, gymnasium.spaces.Box) for space in parts.values()):
        raise BadInput(f"environment '{task}' must have a Box, or a Dict of Boxes, as observations, not {seen}")
    pictures = {name: space.dtype for name, space in parts.items() if len(space.shape) == 3 and space.shape[0] == 3}
    if floats := [name for name, kind in pictures.items() if kind != np.uint8]:
        raise BadInput(f"environment '{task}' must have its picture '{floats[0]}' in uint8, 0 to 255, not "
                       f"{parts[floats[0]].dtype}")  # fmt: skip
    if not isinstance(action, gymnasium.spaces.Box) or len(action.shape) != 1 or not action.is_bounded():
        raise BadInput(f"environment '{task}' must have a bounded Box of numbers as actions, not {action}")
    if odd := [name for name, space in parts.items() if "/" in name or 0 in space.shape]:
        raise BadInput(f"environment '{task}' must have parts of observations with numbers in them, and without '/' in "
                       f"their names, not '{odd[0]}' of shape {parts[odd[0]].shape}")  # fmt: skip
    low, high = (tuple(float(x) for x in end) for end in (action.low, action.high))
    if not all(least < most for least, most in zip(low, high, strict=True)):
        raise BadInput(f"environment '{task}' must have actions whose lowest value is below the highest, not {action}")
    with np.errstate(over="ignore"):
        if not np.isfinite(np.float32(high) - np.float32(low)).all():
            raise BadInput(f"environment '{task}' must have a bounded Box of numbers as actions, not {action}")
    try:
        first, again = (copy.deepcopy(name_parts(task, env.reset(seed=0)[0])) for _ in range(2))
    except AssertionError as error:  # what Gymnasium says of an observation that is not as its space has it
        if not str(error):
            raise
        raise BadInput(f"environment '{task}', at reset(): {error!s:.300}") from error
    told, given = ({name: tuple(x.shape) for name, x in those.items()} for those in (parts, first))
    if told != given:
        raise BadInput(f"environment '{task}': its observation_space has {told}, and reset() returns {given}: make "
                       "them the same")  # fmt: skip
    if others := [name for name in first if not np.array_equal(first[name], again[name], equal_nan=True)]:
        say_once(f"environment '{task}' begins with another '{others[0]}' when it is reset with the same seed again: "
                 "no two policies play the same episodes, and no result comes again")  # fmt: skip
    if "success" not in env.step(action.sample())[-1]:
        raise BadInput(f"environment '{task}' must say in info['success'], at every step, whether the task is done")
    if env.spec is None or env.spec.max_episode_steps is None:
        say_once(f"environment '{task}' is registered without max_episode_steps: unless it says `truncated` itself, an "
                 "episode without success never ends")  # fmt: skip
    expert = hasattr(env.unwrapped, "expert_action")
    filmable = "rgb_array" in (env.metadata.get("render_modes") or ())
    differences = tuple(getattr(env.unwrapped, "differences", ()))
    env.close()
    return Spaces(told, low, high, differences, expert, filmable)


def common_spaces(tasks: list[str]) -> Spaces:
    """What all these tasks give and take. BadInput if they differ: one policy cannot serve them."""
    for task in tasks[1:]:
        for what in ("observation", "action_low", "action_high"):
            one, other = getattr(spaces(tasks[0]), what), getattr(spaces(task), what)
            # Ends of ranges may differ by a rounding: 0.05 in float32 and in float64.
            same = one == other or (what != "observation" and len(one) == len(other) and np.allclose(one, other))
            if not same:
                raise BadInput(f"tasks '{tasks[0]}' and '{task}' cannot be learned together: {what} {one} and {other}")
    return spaces(tasks[0])


def tell_differences(tasks: list[str]) -> None:
    """A line where a policy that is made for these tasks will see the `differences` of the first one alone."""
    if other := [task for task in tasks if spaces(task).differences != spaces(tasks[0]).differences]:
        say_once(f"'{tasks[0]}' and '{other[0]}' have different `differences` (positions whose difference is a further "
                 f"input): the policy gets those of '{tasks[0]}'")  # fmt: skip


def check_fit(config, tasks: list[str], who: str) -> None:
    """BadInput if a policy with this PolicyConfig, `who` in words, sees other things than these tasks give, or acts
    beyond what they take: its actions would be clipped, and mean something else."""
    found, mine = common_spaces(tasks), {name: tuple(shape) for name, shape in config.observation.items()}
    if {part: found.observation.get(part) for part in mine} != mine:
        raise BadInput(f"{who} sees {mine}, and task '{tasks[0]}' gives {found.observation}")
    if (takes := len(found.action_low)) != config.action_dim:
        raise BadInput(f"{who} acts with {config.action_dim} numbers, and task '{tasks[0]}' takes {takes}")
    for low, high, least, most in zip(
        config.action_low, config.action_high, found.action_low, found.action_high, strict=True
    ):
        slack = 1e-3 * (most - least)
        if not least - slack <= low <= high <= most + slack:
            raise BadInput(f"{who} acts from {low} to {high}, and task '{tasks[0]}' takes {least} to {most}")


def own_random(task: str, seed: int, *which: int) -> np.random.Generator:
    """Our own random numbers for an episode, independent of those of its environment.

    Gymnasium's environments draw from default_rng(seed), and to numpy (seed, 0) is the same seed: without the 1, our
    noise would repeat the numbers that laid out the scene. A MetaWorld task takes one number of that stream, as the
    seed of the generator that lays it out: nothing repeats, so there is no 1, and published results keep their numbers.
    One seed gives all of MetaWorld's tasks the same noise.
    """
    theirs = task in TASKS or task in pixels.IDS
    return np.random.default_rng((seed, *which) if theirs else (seed, *which, 1))


def name_parts(task: str, observation) -> dict[str, np.ndarray]:
    """An observation as parts, float32: a plain array is the part 'state', or MetaWorld's 39 numbers. Pictures stay
    bytes: as float32 those of 150 demonstrations would take 1.5 GB.
    """
    if not isinstance(observation, dict):
        state = np.asarray(observation)
        theirs = task in TASKS and state.shape[-1:] == (metaworld.STATE_DIM,)
        observation = metaworld.split_state(state) if theirs else {"state": state}
    arrays = {name: np.asarray(x) for name, x in observation.items()}
    return {name: x if x.dtype == np.uint8 and x.ndim >= 3 else x.astype(np.float32) for name, x in arrays.items()}
