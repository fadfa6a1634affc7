"""Simulators that die or fall silent in the middle of an evaluation: is every episode played, with its own result?

    python study/reliability/evaluation.py [--times 25]

A worker process is killed, or stopped so that it never answers, at a random moment. Survived: no episode is lost, and
all successes and lengths are those of the evaluation that nobody disturbed. And tasks evaluated one by one, beside all
together: with padded batches the same bits; without, how many episodes differ in success or length.
"""

import argparse
import os
import random
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import torch  # noqa: E402

import evaluate  # noqa: E402
from envs.rollout import Roller  # noqa: E402
from plumbing.cli import ROOT, say  # noqa: E402
from plumbing.runs import load_policy  # noqa: E402
from study.reliability.table import row, write  # noqa: E402

EPISODES = 4  # of each of the six tasks


def outcome(result: dict) -> dict:
    return {task: (r["successes"], r["n"], r["failed_seeds"], r["mean_steps_to_success"], r["router_weights"])
            for task, r in result["tasks"].items()}  # fmt: skip


def disturbed(policy, signal_number: int, after: int) -> dict:
    """An evaluation in which one worker gets a signal when the policy has been asked so many times."""
    real, asked, hit = Roller._next_chunks, [0], [False]

    def next_chunks(self, act, group, episodes):
        asked[0] += 1
        if asked[0] == after and not hit[0]:
            hit[0] = True
            os.kill(random.choice(list(self.workers.values())).pid, signal_number)
        return real(self, act, group, episodes)

    Roller._next_chunks = next_chunks
    try:
        return evaluate.evaluate(policy, policy.config.tasks, EPISODES, padded=True, workers=2)[0]
    finally:
        Roller._next_chunks = real


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=25, help="of each kind (default: %(default)s)")
    flags = parser.parse_args()
    torch.set_num_threads(1)
    random.seed(0)
    Roller.PATIENCE = 8.0  # a minute, usually
    policy, rows = load_policy(ROOT / "study/core/mt6"), {}
    calm = evaluate.evaluate(policy, policy.config.tasks, EPISODES, padded=True, workers=2)[0]
    for what, number in (("a worker is killed", signal.SIGKILL), ("a worker falls silent", signal.SIGSTOP)):
        times, wrong = flags.times if number == signal.SIGKILL else max(1, flags.times // 3), []
        for _ in range(times):
            after = random.randrange(2, 200)
            result = disturbed(policy, number, after)
            if evaluate.lost(result) or outcome(result) != outcome(calm):
                wrong.append(after)
                say(f"{what} after {after}: {evaluate.lost(result)}")
        rows[what] = row(times, times - len(wrong), "all episodes played, the same outcomes", failures=wrong)
    for padded in (True, False):
        together = evaluate.evaluate(policy, policy.config.tasks, 20, padded=padded, workers=2)[0]
        same = flips = 0
        for task in policy.config.tasks:
            alone = evaluate.evaluate(policy, [task], 20, padded=padded, workers=2)[0]
            same += outcome(alone)[task] == outcome(together)[task]
            a, b = (set(r["tasks"][task]["failed_seeds"]) for r in (alone, together))
            flips += len(a ^ b)
        count = len(policy.config.tasks)
        if padded:
            rows["tasks one by one, padded batches"] = row(count, same, "the same bits as all together")
            continue
        rows["episodes one task at a time, as usual"] = row(
            20 * count, 20 * count - flips, "the same success as all together", tasks_with_the_same_bits=same
        )
    write("evaluation", rows, seed=0)


if __name__ == "__main__":
    main()
