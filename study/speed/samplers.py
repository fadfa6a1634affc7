"""Success over the number of network calls per action chunk, for the three samplers, on trained runs.

    python study/speed/samplers.py --runs runs/core/mt6-fdp-50-s0 runs/core/mt6-fdp-50-s1 --seed 400

Block 400 of the evaluation episodes is the one for choices. Begun again, it goes on
after the last setting in its JSON.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from evaluate import evaluate, wilson_interval  # noqa: E402
from plumbing import figures  # noqa: E402
from plumbing.cli import ROOT, BadInput, check_output, parse, provenance, run, say, write_json  # noqa: E402
from plumbing.machine import choose_device  # noqa: E402
from plumbing.runs import load_policy, training_record  # noqa: E402

SETTINGS = {"dpm": [5, 4, 3, 2, 1, 10], "ddim": [10, 5, 3, 2], "ddpm": [100]}


@dataclass
class SamplersConfig:
    """Evaluate runs with every sampler and step count."""

    runs: list[str]  # run folders
    episodes: int = 50  # per task
    seed: int = 400  # block of evaluation episodes
    only: str = ""  # one setting, such as ddim-10
    out: str = "study/speed/samplers.json"


def draw(rows: list[dict], path: Path) -> Path:
    """Pooled success with 95 % intervals over network calls, one line per sampler."""
    plt = figures.pyplot()
    figure, axis = plt.subplots(figsize=(7, 3.5))
    for i, sampler in enumerate(SETTINGS):
        counts: dict[int, list[int]] = {}  # steps -> successes, episodes, over all runs
        for r in rows:
            if r["sampler"] == sampler:
                successes, n = counts.get(r["steps"], (0, 0))
                counts[r["steps"]] = [successes + r["successes"], n + r["n"]]
        settings = sorted(counts)
        rates = [counts[s][0] / counts[s][1] for s in settings]
        ends = [wilson_interval(*counts[s]) for s in settings]
        errors = [[rate - low for rate, (low, _) in zip(rates, ends, strict=True)],
                  [high - rate for rate, (_, high) in zip(rates, ends, strict=True)]]  # fmt: skip
        axis.errorbar(settings, rates, yerr=errors, marker="o", capsize=3, color=figures.COLORS[i], label=sampler)
    experts = [(r["expert_successes"], r["n"]) for r in rows]
    axis.axhline(sum(s for s, _ in experts) / sum(n for _, n in experts), color="black", label="scripted expert")
    axis.set_xscale("log")
    axis.set_xticks([1, 2, 3, 5, 10, 100], ["1", "2", "3", "5", "10", "100"])
    axis.set(xlabel="network calls per action chunk", ylabel="success, mt6")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    return figures.save(figure, path)


def main(config: SamplersConfig) -> dict:
    path, device = ROOT / config.out, choose_device("auto")
    check_output(path, "settings")
    known = [f"{sampler}-{steps}" for sampler, choices in SETTINGS.items() for steps in choices]
    if config.only and config.only not in known:
        raise BadInput(f"--only: no setting '{config.only}'; there are {', '.join(known)}")
    result = json.loads(path.read_text()) if path.exists() else {"settings": []}
    done = {(r["run"], r["seed"], r["sampler"], r["steps"]) for r in result["settings"]}
    for name in config.runs:
        policy, folder = load_policy(ROOT / name, device), ROOT / name
        for sampler, steps in ((sampler, s) for sampler, choices in SETTINGS.items() for s in choices):
            skip = config.only and config.only != f"{sampler}-{steps}"
            if skip or (name, config.seed, sampler, steps) in done:
                continue
            e, _ = evaluate(policy, policy.config.tasks, config.episodes, config.seed, sampler, steps)
            tasks = {task: r["successes"] for task, r in e["tasks"].items()}
            result["settings"].append({
                "run": name, "sampler": sampler, "steps": steps, "successes": sum(tasks.values()),
                "n": sum(r["n"] for r in e["tasks"].values()), "tasks": tasks,
                "expert_successes": sum(r["expert"]["successes"] for r in e["tasks"].values()),
                "latency_ms_batch_1": e["latency_ms_batch_1"], **provenance(config.seed, str(device)),
                "training": {key: training_record(folder)[key] for key in ("command", "revision", "policy")},
            })  # fmt: skip
            write_json(path, result)
            say(f"{name} {sampler}-{steps}: {result['settings'][-1]['successes']} of {result['settings'][-1]['n']}")
    return {"wrote": [str(path), str(draw(result["settings"], path.with_suffix(".png")))]}


if __name__ == "__main__":
    run(lambda: main(parse(SamplersConfig)))
