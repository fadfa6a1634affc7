"""What acting sparsely costs: eight components of which two act, beside two, one network as large as two, and eight.

    python study/router/cost.py                     # 5 minutes on an idle machine
    python study/router/cost.py --number            # K from 1 to 16 instead

A training step (batch 64) and an action chunk for 24 robots, both sizes, fresh weights, in turn in one process. Every
row of the batch has two components, and all components as many rows as each other, by hand: what a router that uses
all of them comes to at best. The goal, set before: at most 1.3 times what two components cost.
"""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from plumbing.cli import ROOT, BadInput, check_output, parse, provenance, run, write_json  # noqa: E402
from plumbing.machine import choose_device  # noqa: E402
from study.speed.candidates import action_chunk, make_policy, training_step  # noqa: E402
from study.speed.timing import take_turns, timer  # noqa: E402
from variants import informed, monolithic, waking  # noqa: E402

BATCH, ROBOTS, K, TOP = 64, 24, 8, 2
NUMBERS = (1, 2, 4, 8, 16)  # of components


class Even(informed.Policy):
    """Row b of a batch gets components 2b and 2b + 1 (modulo K), whatever the router says; it is asked all the same."""

    def probabilities(self, condition, step=None):
        row = torch.arange(len(condition), device=condition.device)[:, None]
        best = (TOP * row + torch.arange(TOP, device=row.device)) % self.config.components
        return super().probabilities(condition, step) + torch.zeros(len(condition), K).to(condition).scatter(1, best, 1)


@dataclass
class CostConfig:
    """Time what two of eight components cost."""

    device: str = "auto"  # auto | cpu | cuda
    turns: int = 7  # how often each candidate is measured
    number: bool = False  # time K = 1 to 16 instead, as study/router/components.py trains them
    out: str = ""  # default: study/router/cost.json, or study/router/components/cost.json


def policies(size: str, device: torch.device) -> dict[str, torch.nn.Module]:
    """What is timed, all from one configuration."""
    two = make_policy(TOP, size, device)
    settings = asdict(two.config)
    sparse = Even(informed.PolicyConfig(**settings | {"components": K}, top=TOP)).to(device)
    return {
        "K = 2": two,
        "one network as large as two": monolithic.Policy(monolithic.PolicyConfig(**settings)).to(device),
        "two of K = 8": sparse,
        "K = 8": make_policy(K, size, device),
    }


def by_number(device: torch.device) -> dict[str, torch.nn.Module]:
    """K from 1 to 16, as study/router/components.py trains them."""
    made = {f"K = {count}, each": make_policy(count, "small", device) for count in NUMBERS}
    settings = asdict(made["K = 4, each"].config)
    for count in NUMBERS:
        config = waking.PolicyConfig(**settings | {"components": count}, how="narrow")
        made[f"K = {count}, together"] = waking.Policy(config).to(device)
    return made


def timed(made: dict[str, torch.nn.Module], size: str, robots: int, beside: str, turns: int) -> list[dict]:
    """Rows for the result: a training step and an action chunk of each policy, and in times of one of them."""
    rows, device, calls = [], made[beside].device, {"small": 20, "base": 3}[size]
    jobs = {
        f"a training step, batch {BATCH}": {name: training_step(p, BATCH) for name, p in made.items()},
        f"an action chunk, B = {robots}": {name: action_chunk(p, robots) for name, p in made.items()},
    }
    for what, candidates in jobs.items():
        for policy in made.values():
            policy.train(what.startswith("a training"))
        seconds = take_turns({name: timer(f, calls, device) for name, f in candidates.items()}, turns)
        rows.append({"what": what, "size": size, "milliseconds": {name: 1000 * s for name, s in seconds.items()},
                     "ratio": {name: s / seconds[beside] for name, s in seconds.items()}})  # fmt: skip
    return rows


def main(config: CostConfig) -> dict:
    """Returns what the command's last line says: the path written and the ratios."""
    if config.turns < 1:
        raise BadInput("--turns must be at least 1")
    usual = "study/router/components/cost.json" if config.number else "study/router/cost.json"
    device, path = choose_device(config.device), ROOT / (config.out or usual)
    check_output(path, "threads")
    if config.number:
        rows = timed(by_number(device), "small", 1, "K = 4, each", config.turns)
    else:
        rows = [row for size in ("small", "base")
                for row in timed(policies(size, device), size, ROBOTS, "K = 2", config.turns)]  # fmt: skip
    result = {"threads": torch.get_num_threads(), "rows": rows} | provenance(0, str(device))
    write_json(path, result)
    return {"ratios": {f"{row['what']}, {row['size']}": row["ratio"] for row in rows}, "wrote": str(path)}


if __name__ == "__main__":
    run(lambda: main(parse(CostConfig)))
