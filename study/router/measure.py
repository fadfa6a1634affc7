"""Does the router route? One command for any run with a router.

    python study/router/measure.py --run study/core/mt6 --out study/router/mt6.json      # JSON, and four pictures

It plays the same episodes again and again: as the policy is; with the router's weights replaced, by each task's mean
weights, by their mean over tasks, by 1/K, by the two largest, by weights that it gave in another task; and with each
component left out. If replacing the weights changes nothing, the router does nothing. Components that never acted
together may not bear 1/K, whoever chose among them; another task's weights are of the kind that they know. What the
first playing saw says the rest: how sure the router is, what a component tells about task, situation and time
(study/router/routing.py), beside five routers that have learned nothing, saw the same and weigh in the policy's own way
(the best two of eight random logits tell a lot about the task), and how alike the components' predictions are.

Success is played by the project's one `evaluate()`. Labels are what the environment reports (near_object,
grasp_success; at success the episode ends); no phases are written by hand. Differences are paired by episode.
"""

import copy
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import sampler  # noqa: E402
from envs.pixels import as_policy_sees  # noqa: E402
from envs.rollout import Roller  # noqa: E402
from envs.tasks import resolve_tasks  # noqa: E402
from evaluate import evaluate  # noqa: E402
from fdp import Policy  # noqa: E402
from plumbing import folders, machine, runs  # noqa: E402
from plumbing.cli import BadInput, check_output, parse, provenance, run, say, write_json  # noqa: E402
from plumbing.files import read_json  # noqa: E402
from study import intervals  # noqa: E402
from study.router import pictures, routing  # noqa: E402

STEPS_PER_LABEL, STEP_LABELS = 20, 10  # the time in an episode, as a label: 0-19, 20-39, ..., 180 and later
UNTRAINED = 5  # routers that have learned nothing
BINS = 20  # of an episode, from its beginning to its end, in the picture of weights over time


@dataclass
class MeasureConfig:
    """Find out what a policy's router does."""

    run: str = "study/core/mt6"
    tasks: str = ""  # default: all that it was trained on
    episodes: int = 20  # per task; all are played 6 + K times
    seed: int = 400  # block of evaluation episodes: 400 is the one for choices
    out: str = ""  # the JSON, and the pictures' first words; default: figures/router.json in the run's folder
    device: str = "auto"


@contextmanager
def weighed(policy: Policy, change: Callable[[np.ndarray, list[str]], np.ndarray]):
    """The policy with other weights: change(weights (B, K), task of each row) -> (B, K)."""
    act, weigh, playing = policy.act, policy.weigh, []

    def remember(observation, tasks, *more, **named):
        playing[:] = tasks
        return act(observation, tasks, *more, **named)

    def changed(condition, step=None):
        weights = weigh(condition, step)
        return torch.tensor(change(weights.double().cpu().numpy(), playing)).to(weights)

    policy.act, policy.weigh = remember, changed
    try:
        yield
    finally:
        del policy.act, policy.weigh


def untrained(policy: Policy, seed: int) -> Policy:
    """The policy with a router that has learned nothing: it sees the same, and weighs in the policy's own way."""
    other = copy.deepcopy(policy)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        other.router = type(policy)(policy.config).router.to(policy.device)
    return other.eval()


@contextmanager
def watched(policy: Policy, others: list[Policy], similarity: routing.Similarity):
    """The policy as it is, while its components' predictions are compared, and while other routers see the same: their
    weights are returned to the right of the policy's own."""
    sample, compose, units_of_noise = policy.sample, policy.compose, type(policy).sample is Policy.sample
    act, counted, playing = policy.act, [], [True]

    def acting(observation, *more, **named):  # evaluate() times chunks of a robot that sees nothing at all
        playing[:] = [any(x.any() for x in observation.values())]
        return act(observation, *more, **named)

    def both(condition, *rest):
        clean, weights = sample(condition, *rest)
        return clean, torch.cat([weights, *(other.weigh(condition) for other in others)], -1)

    def listen(noisy, step, condition, weights):
        counted[:] = [weights.double().cpu().numpy()]
        return compose(noisy, step, condition, weights)

    def compare(_module, inputs, said):  # said: (K, B, H, A)
        if not playing[0]:
            return
        if units_of_noise:  # whatever the target is: all of them say the same thing in units of noise
            noisy, step, *_ = inputs
            said = sampler.to_noise(policy.config.target, said, noisy, policy.alpha_bar_32[step])
        similarity.add(said.flatten(2).cpu().numpy(), *counted)

    hook = policy.components.register_forward_hook(compare)
    policy.act, policy.sample, policy.compose = acting, both, listen
    try:
        yield
    finally:
        hook.remove()
        del policy.act, policy.sample, policy.compose


def components(policy) -> int:
    """K, by asking. BadInput for a policy without components side by side, or with a router for each stage."""
    if hasattr(policy.config, "stages"):
        raise BadInput("this run has a router for each stage; measure the run that it was adapted from")
    said = []
    hook = policy.components.register_forward_hook(lambda _module, _inputs, x: said.append(len(x)))
    nothing = {part: np.zeros((1, *shape)) for part, shape in policy.config.observation.items()}
    _, weights = policy.act(nothing, policy.config.tasks[:1])
    hook.remove()
    K = weights.shape[-1]
    if K < 2 or set(said) != {K}:
        raise BadInput("only K > 1 components side by side can be looked at, and this policy has something else")
    return K


def flags_at(phases: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """What the environment reported before each of these steps: (n, 3) near object, grasped, success; at step 0
    nothing yet."""
    return np.concatenate([np.zeros((1, 3)), phases])[np.minimum(steps, len(phases))] >= 0.5


def over_time(weights: list[np.ndarray], flags: list[np.ndarray]) -> dict:
    """Means over episodes at BINS points from their beginning to their end: weights (BINS, K), flags (BINS, 2)."""
    places = [np.linspace(0, len(w) - 1, BINS).round().astype(int) for w in weights]

    def average(values: list[np.ndarray]) -> list:
        return np.mean([x[at] for x, at in zip(values, places, strict=True)], 0).round(4).tolist()

    return {"weights": average(weights), "flags": average([flag[:, :2] for flag in flags])}


def kept(result: dict) -> dict:
    """What is stored of an evaluation: every episode's outcome."""
    names = ("n", "successes", "seeds", "failed_seeds", "lost")
    return {task: {name: r[name] for name in names} for task, r in result["tasks"].items()}


def measure(policy, tasks: list[str], episodes: int, block: int) -> dict:
    """Everything, as it goes into the JSON."""
    policy.gathers = False  # variants/informed.py leaves out those that are not chosen
    c, K = policy.config, components(policy)
    similarity = routing.Similarity(K)
    others = [untrained(policy, seed) for seed in range(UNTRAINED)]
    with Roller() as roller, torch.no_grad():

        def play(what: str, every: bool = False) -> tuple[dict, list]:
            result, traces = evaluate(policy, tasks, episodes, block, roller=roller, every=every)
            say(f"{what}: {result['mean_success']:.3f}")
            return result, traces

        with watched(policy, others, similarity):
            result, traces = play("as it is", every=True)
        told = describe(traces, K, c.executed)
        task_mean = {task: np.array(entry["mean"]) for task, entry in told["tasks"].items()}
        overall = np.mean(list(task_mean.values()), 0)
        total = overall.sum()  # 1, but for raw routers
        random, given = np.random.default_rng(0), {t: [] for t in tasks}  # task -> weights that it was played with
        for episode, weights in traces:
            given[episode.task].append(weights[:, :K])
        given = {task: np.concatenate(x) for task, x in given.items()}
        swapped = dict(zip(tasks, [*tasks[1:], tasks[0]], strict=True))
        changes = {
            "the task's mean": lambda w, playing: np.stack([task_mean[task] for task in playing]),
            "mean over tasks": lambda w, playing: np.broadcast_to(overall, w.shape),
            "1/K": lambda w, playing: np.full_like(w, total / K),
            "top two": lambda w, playing: routing.top(w, 2),
            "another task's": lambda w, playing: np.stack([random.choice(given[swapped[task]]) for task in playing]),
            **{f"without {k}": lambda w, playing, k=k: routing.without(w, k) for k in range(K)},
        }
        played = {}
        for what, change in changes.items():
            with weighed(policy, change):
                played[what] = play(what)[0]
    base = intervals.by_task([result])
    changed = {what: {"success": r["mean_success"],
                      "difference": intervals.difference(intervals.by_task([r]), base)._asdict(), "tasks": kept(r)}
               for what, r in played.items()}  # fmt: skip
    drops = [[100 * (result["tasks"][t]["success"] - played[f"without {k}"]["tasks"][t]["success"]) for t in tasks]
             for k in range(K)]  # fmt: skip
    expert = {task: r["expert"] for task, r in result["tasks"].items()}
    return {"success": result["mean_success"], "played": kept(result), "expert": expert, "changed": changed,
            "contrast": routing.contrast(np.array(drops)), **told, "similarity": similarity.result()}  # fmt: skip


def describe(traces: list, K: int, executed: int) -> dict:
    """Everything that weights tell. traces: (episode, weights (N, (1 + R) K): the policy's, and R other routers')."""
    names = [episode.task for episode, _ in traces]
    order = list(dict.fromkeys(names))
    own, *others = ([routing.as_probabilities(w[:, i : i + K].astype(np.float64)) for _, w in traces]
                    for i in range(0, traces[0][1].shape[1], K))  # fmt: skip
    steps = [np.arange(len(w)) * executed for w in own]
    flags = [flags_at(np.array(episode.phases), at) for (episode, _), at in zip(traces, steps, strict=True)]
    labels = {
        "task": ([np.full(len(w), order.index(name)) for name, w in zip(names, own, strict=True)], "episodes"),
        "flags": ([flag[:, 0] + 2 * flag[:, 1] for flag in flags], "courses"),  # 0 .. 3: near, grasped, both
        "step": ([np.minimum(at // STEPS_PER_LABEL, STEP_LABELS - 1) for at in steps], "chunks"),
    }
    per_task = {}
    for task in order:
        mine = [i for i, name in enumerate(names) if name == task]
        raw = np.concatenate([traces[i][1][:, :K] for i in mine])
        p = np.concatenate([own[i] for i in mine])
        per_task[task] = {"mean": raw.mean(0).round(6).tolist(), "std": raw.std(0).round(6).tolist(),
                          "entropy": float(routing.entropy(p).mean()),
                          "over_time": over_time([own[i] for i in mine], [flags[i] for i in mine])}  # fmt: skip
    tells, *chance = ({name: routing.tells(weights, label, names, how) for name, (label, how) in labels.items()}
                      for weights in (own, *others))  # fmt: skip
    untold = {name: [told[name]["above"] for told in chance] for name in labels}
    return {"tasks": per_task, "tells": tells, "untrained": untold}


def main(config: MeasureConfig) -> dict:
    """Returns what the command's last line says."""
    folder = Path(config.run)
    path = Path(config.out or folder / "figures" / "router.json")
    check_output(path, "tells")
    if not config.out:  # beside what train.py draws, so that it goes with the weights where these are replaced
        folders.check_inner(folder)
        if path.exists() and read_json(path)["flags"]["episodes"] > config.episodes:
            raise BadInput(f"{path} has more episodes: name another file with --out")
    device = machine.choose_device(config.device)
    policy = runs.load_policy(folder, device)
    known = policy.config.tasks
    tasks = as_policy_sees(known, resolve_tasks(config.tasks)) if config.tasks else known
    if len(tasks) < 2:
        raise BadInput(f"--tasks must name two at least, whose weights are exchanged, got '{config.tasks}'")
    found = measure(policy, tasks, config.episodes, config.seed)
    trained = runs.training_record(folder) | {"demo_draw": runs.read_config(folder)["train"].get("demo_draw", 0)}
    about = {"flags": asdict(config), "policy": policy.variant, "training": trained,
             "parameters": sum(p.numel() for p in policy.parameters())}  # fmt: skip
    write_json(path, found | about | provenance(config.seed, str(device)))
    drawn = pictures.draw(found, path.with_suffix(""))
    return {"mean_success": found["success"], "1/K": found["changed"]["1/K"]["success"],
            "wrote": [str(p) for p in (path, *drawn)]}  # fmt: skip


if __name__ == "__main__":
    run(lambda: main(parse(MeasureConfig)))
