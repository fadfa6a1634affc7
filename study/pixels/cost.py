"""What cameras cost: milliseconds for a picture, a training step, an action chunk; what an evaluation's time goes into.

    python study/pixels/cost.py && python study/report.py       # on a machine that does nothing else; some minutes

Pictures: mt6's scenes as they begin, 64 x 64 pixels, one thread; beside them the same picture as MuJoCo draws it when
nobody has turned anything off. Training and acting: one thread. Evaluation: 20 episodes of each task on block 400 by
the policy that comes with the code, simulators on all cores. Its actions are played once more in the environments
without cameras, which are the same to the last bit: the difference in the simulators' processor time is what pictures
take.

Expected, written before it was run: 9 ms a picture, 100 with MuJoCo's own settings; a training step 90 ms, 25 from the
state; 24 chunks 30 ms; of an evaluation's processor time 45 % pictures, 35 % physics, 20 % the policy; 40 s in all.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from envs import pixels  # noqa: E402
from envs.rollout import Roller, block_seeds  # noqa: E402
from envs.tasks import make  # noqa: E402
from envs.worker import Episode  # noqa: E402
from plumbing.cli import ROOT, BadInput, check_output, parse, provenance, run, write_json  # noqa: E402
from plumbing.machine import one_thread  # noqa: E402
from plumbing.runs import load_policy  # noqa: E402
from study.speed.benchmark import recording, seeing_rows  # noqa: E402
from study.speed.candidates import action_chunk  # noqa: E402
from study.speed.timing import take_turns, timer  # noqa: E402

CPU, RUN = torch.device("cpu"), ROOT / "study/pixels/run"


@dataclass
class CostConfig:
    """Measure what a policy pays for seeing."""

    turns: int = 7  # how often each candidate is measured
    episodes: int = 20  # per task, in the timed evaluation
    out: str = ""  # the JSON; default study/pixels/cost.json


def pictures(tasks: list[str], turns: int) -> dict[str, float]:
    """Milliseconds for one picture of each camera, and for a corner picture with MuJoCo's own settings: means over
    tasks."""
    ours, found = pixels.Renderer(), []
    for task in tasks:
        env = make(task).unwrapped
        env.reset(seed=0)
        theirs = mujoco.Renderer(env.sim.model, env.size, env.size)

        def usual(env=env, theirs=theirs) -> np.ndarray:
            theirs.update_scene(env.sim.data, pixels.CAMERAS["corner"])
            return theirs.render()

        candidates = {camera: lambda env=env, camera=camera: ours.draw(env, camera) for camera in pixels.CAMERAS}
        timers = {name: timer(draw, 5, CPU) for name, draw in candidates.items()}
        found.append(take_turns(timers | {"corner, MuJoCo's settings": timer(usual, 1, CPU)}, turns))
        theirs.close()
    return {name: 1000 * float(np.mean([times[name] for times in found])) for name in found[0]}


def evaluation(policy, tasks: list[str], episodes: int) -> dict[str, float]:
    """Seconds of an evaluation without the expert's part: by the clock, and of processors on pictures, physics and
    policy."""
    seeds, recorded = block_seeds(400, episodes), {}
    act, _ = recording(policy, recorded)
    with one_thread(), Roller() as roller:
        roller.play(act, [Episode(task, seed) for seed in seeds for task in tasks])  # builds simulators, fills caches
        acting = 0.0

        def timed(*request) -> np.ndarray:
            nonlocal acting
            begin = time.process_time()
            actions = act(*request)
            acting += time.process_time() - begin
            return actions

        begin = time.perf_counter()
        played = roller.play(timed, [Episode(task, seed) for seed in seeds for task in tasks])
        seconds = time.perf_counter() - begin
    blind = {task: pixels.IDS[task][0] for task in tasks}
    recorded = {(blind[task], *rest): actions for (task, *rest), actions in recorded.items()}
    _, again = recording(policy, recorded)
    with one_thread(), Roller() as roller:
        replayed = roller.play(again, [Episode(blind[task], seed) for seed in seeds for task in tasks])
    if [e.steps for e in replayed] != [e.steps for e in played]:
        raise BadInput("the same actions have led elsewhere without cameras: the shares would mean nothing")
    physics = sum(e.seconds for e in replayed)
    seeing = sum(e.seconds for e in played) - physics
    return {"clock": seconds, "pictures": seeing, "physics": physics, "policy": acting, "chunks": len(recorded)}


def main(config: CostConfig) -> dict:
    """Measure everything. Returns what the command's last line says."""
    path = Path(config.out or ROOT / "study/pixels/cost.json")
    if config.turns < 1 or config.episodes < 1:
        raise BadInput("--turns and --episodes must be at least 1")
    check_output(path, "milliseconds")
    policy = load_policy(RUN, CPU)
    tasks = policy.config.tasks
    with one_thread():
        (step,) = seeing_rows(CPU, config.turns, ("small",))
        acting = timer(action_chunk(policy, 24, task=tasks[0]), 3, CPU)
        milliseconds = {
            "picture": pictures(tasks, config.turns),
            "training step": step["milliseconds"],
            "24 action chunks": 1000 * take_turns({"": acting}, config.turns)[""],
        }
    result = {"milliseconds": milliseconds, "evaluation": evaluation(policy, tasks, config.episodes)}
    write_json(path, result | {"episodes": config.episodes * len(tasks)} | provenance(0, "cpu"))
    return result | {"wrote": [str(path)]}


if __name__ == "__main__":
    run(lambda: main(parse(CostConfig)))
