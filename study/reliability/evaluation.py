"""Simulators that die or fall silent in the middle of an evaluation: is every episode played, with its own result?

    python study/reliability/evaluation.py [--times 20]

A worker process is killed, or stopped so that it never answers, at a random moment while experts or the policy play.
Survived: no episode is lost, and all successes, lengths and router weights are those of the evaluation that nobody
disturbed (with padded batches, so that who shares a batch changes no bit). Then tasks evaluated one by one and half the
episodes, beside all together: with padded batches the same bits; without, how many episodes differ in success.
"""

import argparse
import os
import random
import signal
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import torch  # noqa: E402

import evaluate  # noqa: E402
from envs import experts  # noqa: E402
from envs.rollout import Roller  # noqa: E402
from plumbing import reports  # noqa: E402
from plumbing.cli import ROOT, say  # noqa: E402
from plumbing.runs import load_policy  # noqa: E402
from study.reliability.table import row, write  # noqa: E402

ROWS = 24  # in a batch at most: half of a Roller's slots
EPISODES, PIECES = 2, 12  # of each of the six tasks: where simulators die, and in pieces beside the whole


@contextmanager
def full_batches(policy, size: int = ROWS):
    """In here each batch is filled up to its full size, with its first row again: so rounding, and with it an episode,
    does not depend on how many others run."""
    usual = policy.act

    def act(observations, tasks, sampler=None, steps=None, noise=None, generator=None):
        rows = [*range(len(tasks)), *[0] * (size - len(tasks))]
        observations = {part: x[rows] for part, x in observations.items()}
        noise = None if noise is None else noise[rows]
        actions, weights = usual(observations, [tasks[i] for i in rows], sampler, steps, noise, generator)
        return actions[: len(tasks)], weights[: len(tasks)]

    policy.act = act
    try:
        yield
    finally:
        del policy.act


def outcome(result: dict) -> dict:
    return {task: (r["successes"], r["n"], r["failed_seeds"], r["mean_steps_to_success"], r["router_weights"],
                   r["expert"]["successes"], r["expert"]["n"]) for task, r in result["tasks"].items()}  # fmt: skip


def played(policy, signal_number: int = 0, at: int = 0) -> tuple[dict, int]:
    """An evaluation, experts and all, in which one worker gets a signal when its answer has been waited for so many
    times. -> result, how many times that was."""
    real, asked = Roller._answers, 0

    def answers(self, held):
        nonlocal asked
        asked += 1
        if asked == at:
            os.kill(random.choice(list(self.workers.values())).pid, signal_number)
        return real(self, held)

    experts._played.clear()
    Roller._answers = answers
    try:
        with full_batches(policy):
            result, _ = evaluate.evaluate(policy, policy.config.tasks, EPISODES, workers=2)
        return result, asked
    finally:
        Roller._answers = real


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20, help="of each kind (default: %(default)s)")
    flags = parser.parse_args()
    torch.set_num_threads(1)
    random.seed(0)
    Roller.PATIENCE = 5.0  # a minute, usually
    policy, rows = load_policy(ROOT / "study/core/mt6"), {}
    calm, answers = played(policy)
    for what, number in (("a worker is killed", signal.SIGKILL), ("a worker falls silent", signal.SIGSTOP)):
        times, wrong = flags.times if number == signal.SIGKILL else max(1, flags.times // 4), []
        for _ in range(times):
            at = random.randrange(1, answers)
            result, _ = played(policy, number, at)
            if reports.lost(result) or outcome(result) != outcome(calm):
                wrong.append(at)
                say(f"{what} at answer {at} of {answers}: {reports.lost(result)}")
        rows[what] = row(times, times - len(wrong), "all episodes played, the same outcomes", failures=wrong)
    tasks, count = policy.config.tasks, len(policy.config.tasks)
    for padded in (True, False):
        with full_batches(policy) if padded else nullcontext():
            together, _ = evaluate.evaluate(policy, tasks, PIECES, workers=2)
            half, _ = evaluate.evaluate(policy, tasks, PIECES // 2, workers=2)
            each = {task: evaluate.evaluate(policy, [task], PIECES, workers=2)[0] for task in tasks}
        same = flips = half_flips = 0
        for task, alone in each.items():
            same += outcome(alone)[task] == outcome(together)[task]
            a, b, c = (r["tasks"][task]["failed_seeds"] for r in (alone, together, half))
            flips += len(set(a) ^ set(b))
            half_flips += len(set(c) ^ {seed for seed in b if seed < together["tasks"][task]["seeds"][0] + PIECES // 2})
        how, n = "padded batches" if padded else "batches as they come", PIECES * count
        if padded:
            rows["tasks one by one, to the bit"] = row(count, same, "the same bits as all together, padded batches")
        rows[f"tasks one by one, {how}"] = row(n, n - flips, "the same success as all together",
                                               policy_seconds=together["policy_seconds"],
                                               tasks_with_the_same_bits=same)  # fmt: skip
        rows[f"half the episodes, {how}"] = row(n // 2, n // 2 - half_flips, "the same success as in the whole")
    write("evaluation", rows, seed=0)


if __name__ == "__main__":
    main()
