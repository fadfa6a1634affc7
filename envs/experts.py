"""The scripted expert beside a policy: on the same episodes, each played once in the life of a process."""

from collections import defaultdict

from envs.rollout import Roller
from envs.tasks import spaces
from envs.worker import Episode
from plumbing.cli import BadInput

ENOUGH = 20  # episodes of a task, the first that are played: an expert cannot fail them all unless something is broken
_played: dict[tuple[str, int], Episode] = {}  # by task and seed: it is the same beside every policy


def play_experts(roller: Roller, todo: list[Episode], bar) -> list[Episode]:
    """The expert's episodes for those of `todo` whose environment has an expert. bar: a progress bar over `todo`.

    BadInput, and at once, if it fails all of a task's first 20: what a policy does there would say nothing either.
    """
    failed, solved = defaultdict(int), set()  # how many of a task's episodes, and which tasks at all

    def on_done(episode: Episode) -> None:
        forget_records(episode)
        bar.update()
        if episode.success:
            solved.add(episode.task)
        failed[episode.task] += not (episode.success or episode.lost)
        if failed[episode.task] >= ENOUGH and episode.task not in solved:
            raise BadInput(
                f"the scripted expert fails all of the first {ENOUGH} episodes of '{episode.task}': its environment, "
                "or this installation, is broken. Nothing was written. Try: python evaluate.py --check"
            )

    todo = [(e.task, e.seed) for e in todo if spaces(e.task).expert]
    for key in todo:
        if key in _played:
            on_done(_played[key])
    new = [Episode(*key, expert=True, recorded=False) for key in todo if key not in _played]
    played = {(e.task, e.seed): e for e in roller.play_expert(new, on_done=on_done)}
    _played.update({key: e for key, e in played.items() if not e.lost})
    return [played.get(key) or _played[key] for key in todo]


def forget_records(episode: Episode) -> None:
    """50 kB, which nobody asks for once it has been counted."""
    for record in (episode.observations, episode.actions, episode.executed, episode.rewards, episode.phases):
        record.clear()
