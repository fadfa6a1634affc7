"""The scripted expert beside a policy: on the same episodes, each played once in the life of a process."""

from envs.rollout import Roller
from envs.tasks import spaces
from envs.worker import Episode
from plumbing.cli import BadInput

ENOUGH = 20  # episodes of a task that an expert cannot all fail, unless something is broken
_played: dict[tuple[str, int], Episode] = {}  # by task and seed: it is the same beside every policy


def play_experts(roller: Roller, todo: list[Episode], bar) -> list[Episode]:
    """The expert's episodes for those of `todo` whose environment has an expert. bar: a progress bar over `todo`.

    BadInput if it fails all of a task's first 20: what a policy does there would say nothing either.
    """

    def on_done(episode: Episode) -> None:
        forget_records(episode)
        bar.update()

    todo = [e for e in todo if spaces(e.task).expert]
    new = [Episode(e.task, e.seed, expert=True) for e in todo if (e.task, e.seed) not in _played]
    bar.update(len(todo) - len(new))
    played = {(e.task, e.seed): e for e in roller.play_expert(new, on_done=on_done)}
    _played.update({key: e for key, e in played.items() if not e.lost})
    experts = [played.get(key) or _played[key] for key in ((e.task, e.seed) for e in todo)]
    for task in dict.fromkeys(e.task for e in experts):
        first = [e for e in experts if e.task == task and not e.lost][:ENOUGH]
        if len(first) == ENOUGH and not any(e.success for e in first):
            raise BadInput(
                f"the scripted expert fails all of the first {ENOUGH} episodes of '{task}': its environment, or this "
                "installation, is broken. Nothing was written. Try: python evaluate.py --check"
            )
    return experts


def forget_records(episode: Episode) -> None:
    """50 kB, which nobody asks for once it has been counted."""
    for record in (episode.observations, episode.actions, episode.executed, episode.rewards, episode.phases):
        record.clear()
