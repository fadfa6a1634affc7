"""One demonstration made into many: as if the thing and its goal had stood elsewhere on the table.

Policies that saw a task once fail where it begins far from what they saw (study/ml45/nearness.py). But near a thing,
what the hand does depends on its position relative to the thing, hardly on where both are. So whole demonstrations are
made: the hand begins where it began, the thing stands a few centimetres away, its goal too, and the path between them
bends. Near the thing, and near the goal, the relative motion is that of the original. (Where the thing plays no part,
as in reach, the goal may be higher or lower, too.) The idea is MimicGen's (Mandlekar et al., arXiv 2310.17596), which
cuts demonstrations into a part for each object. Unlike there, no simulator checks what was made: a few are impossible
(through a wall, or off the table), most are not.

adapt.py does this where there are at most FEW demonstrations of a task (`--copies`).

Axis legend: L steps of an episode
"""

import numpy as np

from envs.metaworld import PARTS
from envs.tasks import spaces

FEW, COPIES = 3, 100  # adapt.py's default: COPIES of each demonstration if a task has at most FEW
MOST = 10_000  # made ones of a task: half a gigabyte
SPREAD = 0.07  # metres, standard deviation of how far things are moved along either side of the table, and goals up
LOWEST = 0.05  # metres above the table: lower no hand gets, so a goal is not moved lower either
CENTIMETRE, LAG = 0.01, 3  # what an action of 1 moves the hand by, and how many steps later it has done so
THING, OTHER = slice(0, 3), slice(7, 10)  # positions among an object's numbers
SETTLED = 15  # steps after which what moves along the table is moved by the hand: at reset things fall a little


def possible(task: str, seen=PARTS) -> bool:
    """Whether it is known which of its numbers are positions: MetaWorld's tasks, of whose state all parts are seen."""
    return spaces(task).observation == PARTS and set(PARTS) <= set(seen)


def multiply(demos: dict[str, list[dict]], copies: int, seed: int) -> dict[str, list[dict]]:
    """task -> its demonstrations, and `copies` made of each. The same ones for the same seed.

    One demonstration does not tell whether a goal moves with its thing (a lock on a door) or not (a bin): in half of
    the copies it does, in half it moves on its own. Impossible scenes never come up when acting, and do no harm.
    """
    random, heights, made = np.random.default_rng(seed), np.random.default_rng((seed, 1)), {}
    for task, episodes in demos.items():
        made[task] = list(episodes)
        for copy in range(copies):
            for episode in episodes:
                thing, goal = SPREAD * random.standard_normal((2, 2))
                height = SPREAD * heights.standard_normal() if only_goal(episode) else 0.0
                made[task].append(moved(episode, thing, thing if copy % 2 else goal, height))
    return made


def moved(episode: dict, thing: np.ndarray, goal: np.ndarray, height: float = 0.0) -> dict:
    """The episode as if the thing had stood `thing` (2,) metres away, and its goal `goal` (2,), and `height` higher.

    The hand is displaced as far as the thing by the time it reaches it (a bit before: it comes from above), and as far
    as the goal a bit before the end; the thing goes with the hand, or plays no part (`only_goal`). Actions change with
    the path. One that would exceed 1 is clipped, axis by axis, and falls short of it: acting looks again after a few
    steps anyway. `height` is for goals that the hand goes to empty (`only_goal`): things stay on the table, and so do
    the goals that they are brought to.
    """
    thing, goal = np.append(thing, 0.0), np.append(goal, 0.0)
    seen, actions, L = episode["observations"], episode["actions"].copy(), len(episode["actions"])
    at, moving = turns(episode)
    toward, along = ramp(L + 1, LAG, 0.7 * at)[:, None], ramp(L + 1, moving, moving + 0.7 * (L - moving))[:, None]
    of_hand = toward * thing + along * (goal - thing)  # (L + 1, 3)
    of_thing = thing + along * (goal - thing)
    if only_goal(episode):
        goal[2] = max(height, min(0.0, LOWEST - seen["goal"][-1, 2]))
        of_hand, of_thing = ramp(L + 1, LAG, 0.7 * L)[:, None] * goal, np.broadcast_to(thing, of_thing.shape)
    bends = np.diff(of_hand[np.minimum(np.arange(LAG, L + LAG + 1), L)], axis=0)
    actions[:, :3] = np.clip(actions[:, :3] + bends / CENTIMETRE, -1, 1)
    made = {part: x.copy() for part, x in seen.items()}
    for frame in (0, 1):  # now, and a step ago
        ago = np.maximum(np.arange(L + 1) - frame, 0)
        made["proprioception"][:, frame, THING] += of_hand[ago]
        for position in (THING, OTHER):
            x = made["objects"][:, frame, position]
            x += (x != 0).any(-1, keepdims=True) * of_thing[ago]  # one that is not there stays at 0, 0, 0
    made["goal"] += (made["goal"] != 0).any(-1, keepdims=True) * goal
    return {"observations": {part: x.astype(np.float32) for part, x in made.items()},
            "actions": actions.astype(np.float32)}  # fmt: skip


def turns(episode: dict) -> tuple[int, int]:
    """The first steps at which the hand is at the thing (within 2 cm of the nearest that it gets), and at which the
    thing has been moved from there by 1 cm (L, if never). Where it is nearest only after it has begun to carry the
    thing, which may turn in the hand (a stick, a lever), what counts is how near it got before."""
    hand, thing = (episode["observations"][part][:, 0, THING] for part in ("proprioception", "objects"))
    distance = np.linalg.norm(hand - thing, axis=1)
    carried = (np.linalg.norm(np.diff(thing[:, :2], axis=0), axis=1) > 0.003) & (distance[:-1] < 0.13)
    first = SETTLED + int(np.argmax(carried[SETTLED:])) if carried[SETTLED:].any() else len(thing) - 1
    at = int(np.argmax(distance < distance.min() + 0.02))
    if first < at and np.linalg.norm(thing[at] - thing[first]) > 0.02:
        at = int(np.argmax(distance < distance[: first + 1].min() + 0.02))
    away = np.linalg.norm(thing[at:] - thing[at], axis=1) > 0.01
    return at, at + int(np.argmax(away)) if away.any() else len(thing) - 1


def only_goal(episode: dict) -> bool:
    """Whether the thing plays no part, as in reach: it is never moved by 1 cm, and the hand ends within 10 cm of the
    goal. A hand that followed it would miss the goal."""
    hand, thing = (episode["observations"][part][:, 0, THING] for part in ("proprioception", "objects"))
    still = np.linalg.norm(thing - thing[0], axis=1).max() < 0.01
    return bool(still and np.linalg.norm(hand[-1] - episode["observations"]["goal"][-1]) < 0.1)


def ramp(length: int, begin: float, end: float) -> np.ndarray:
    """(length,): 0 until begin, 1 from end on."""
    return np.clip((np.arange(length) - begin) / max(end - begin, 1), 0, 1)
