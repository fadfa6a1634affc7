"""What each way of adapting learns of one new task, and what it costs the old ones: every mode, task by task.

    python study/adapt/one_task.py --tasks door-close,drawer-close --seeds 0      # any number of these at a time
    python study/adapt/one_task.py --demos 5 --new-only --out study/adapt/budget  # learning from less
    python study/report.py && python study/plots.py                               # tables and figures

From study/core/mt6 (K = 4, six tasks), 25 demonstrations, 2000 steps; evaluated on block 8, 50 episodes per task. One
JSON per run in study/adapt/; those that are there are not made again. A process plays every expert episode once.
study/adapt/table.py has every command, and study/ml45/table.py those with one demonstration.
"""

import json
import sys
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import adapt  # noqa: E402
import train  # noqa: E402
from adaptation import stages  # noqa: E402
from envs.pixels import as_policy_sees  # noqa: E402
from envs.rollout import Roller, block_seeds  # noqa: E402
from envs.tasks import resolve_tasks, slug  # noqa: E402
from evaluate import evaluate  # noqa: E402
from plumbing import folders, machine, runs  # noqa: E402
from plumbing.cli import ROOT, BadInput, parse, provenance, run, say, write_json  # noqa: E402
from study.ml45 import augment, low_rank, tether  # noqa: E402

WAYS = {
    "add-exact": {},
    "add-elsewhere": {"copies": 100},
    "full": {"mode": "full"},
    "small": {"mode": "router"},  # name, router and adapter of the encoder, no new component
    "small-elsewhere": {"mode": "router", "copies": 100},
    **{f"rank-{rank}": {"encoder_rank": rank} for rank in (0, 4, 16, 64)},
    "add-paper": {"retain": "paper"},
    "add-replay": {"retain": "replay"},
    "scratch": {"mode": "scratch"},
    "router": {"mode": "router", "encoder_rank": 0},
    "router-elsewhere": {"mode": "router", "encoder_rank": 0, "copies": 100},
    "components": {"mode": "components", "train_components": "0,1"},
    "add-encoder": {"train_encoder": True},
    "start-random": {"start_from": "random"},
    # What might make more of one demonstration (study/ml45/recipe.py).
    "two": {"new_components": 2},
    "slow": {"lr": 3e-4},
    "fast": {"lr": 3e-3},
    "add-tether": {"copies": 100},
    **{way: {} for way in ("add-shift", "add-return", "add-noise", "add-low-rank")},
    # Adapters on every layer, of as many parameters as a stage trains: for a run that has no components to add to.
    "low-rank": {"mode": "full"},
    "low-rank-elsewhere": {"mode": "full", "copies": 100},
    "low-rank-1-elsewhere": {"mode": "full", "copies": 100},
    "name-elsewhere": {"mode": "full", "copies": 100},
    # The honest rival: a policy of its own for each task, with as many parameters as a stage trains.
    "specialist": None,
    "specialist-elsewhere": None,
    # Hardly more than the mean action. A task that it can do says nothing about adapting.
    "five-steps": {"mode": "scratch", "steps": 5},
}
OURS = {  # ways in which a part of adapt.py, or train.py, is another one
    "low-rank": {"prepare": low_rank.prepare},
    "low-rank-elsewhere": {"prepare": low_rank.prepare},
    "low-rank-1-elsewhere": {"prepare": partial(low_rank.prepare, rank=1)},
    "name-elsewhere": {"prepare": partial(low_rank.prepare, rank=0)},
    "add-low-rank": {"prepare": low_rank.prepare_component},
    "add-shift": {"Windows": augment.Shifted},
    "add-return": {"Windows": augment.Returning},
    "add-noise": {"Windows": augment.Noisy},
    "add-tether": {"Learner": tether.Learner},
    "specialist-elsewhere": {"Windows": augment.Elsewhere},
}
SPECIALIST = {"channels": (16, 32), "kernel": 3}  # widths of its one component


@dataclass
class OneTaskConfig:
    """Adapt a run to one new task at a time, in every way."""

    tasks: str = "mt4"
    ways: str = "add-exact,small,full,scratch,specialist,five-steps"
    seeds: str = "0"
    run: str = "study/core/mt6"
    episodes: int = 50
    demos: int = 25  # per task
    draws: str = "0"  # which demonstrations: adapt.py's --demo-draw
    steps: int = 2000
    new_only: bool = False  # leave out the old tasks' episodes
    block: int = 8  # of evaluation episodes
    out: str = "study/adapt"


def main(config: OneTaskConfig) -> dict:
    if strange := [way for way in config.ways.split(",") if way not in WAYS]:
        raise BadInput(f"--ways: no way '{strange[0]}'; there are {', '.join(WAYS)}")
    if not all(word.isdecimal() for word in f"{config.seeds},{config.draws}".split(",")):
        raise BadInput(f"--seeds and --draws must be whole numbers with commas between, got '{config.seeds}' and "
                       f"'{config.draws}'")  # fmt: skip
    if not (1 <= config.episodes <= 10_000 and 0 <= config.block < 2**31):
        raise BadInput(f"--episodes must be 1 to 10000, and --block at least 0; got {config.episodes}, {config.block}")
    with Roller() as roller:
        return {"wrote": adapt_all(config, roller)}


def adapt_all(config: OneTaskConfig, roller: Roller) -> list[str]:
    """Everything that is not there yet. -> the paths written."""
    device, out = machine.choose_device("auto"), ROOT / config.out
    out.mkdir(parents=True, exist_ok=True)
    old, written = runs.load_policy(ROOT / config.run, device), []
    weights = runs.weights_checksum(ROOT / config.run)
    before, block = out / "before.json", block_seeds(config.block, config.episodes)
    seeds = [block[0], block[-1]]
    if not (config.new_only or before.exists()):
        result, _ = evaluate(old, old.config.tasks, config.episodes, config.block, roller=roller)
        write_json(before, result | {"run": config.run} | provenance(config.block, str(device)))
    if not config.new_only:  # what a change is measured against has to be of the same episodes
        made = json.loads(before.read_text())
        found = [r["seeds"] for r in made["tasks"].values()][0], made.get("run", config.run)
        if found != (seeds, config.run):
            raise BadInput(f"{before} is of {found}: move it, or choose another --out")
    every = product(map(int, config.seeds.split(",")), map(int, config.draws.split(",")), config.ways.split(","),
                    as_policy_sees(old.config.tasks, resolve_tasks(config.tasks)))  # fmt: skip
    for seed, draw, way, task in every:
        budget = "" if (config.demos, config.steps) == (25, 2000) else f"-d{config.demos}-n{config.steps}"
        path = out / f"{way}-{slug(task)}{budget}{f'-draw{draw}' if draw else ''}-s{seed}.json"
        if path.exists():
            made = json.loads(path.read_text())
            same = made["tasks"][task]["seeds"] == seeds and made["flags"].get("run", config.run) == config.run
            if not same:
                raise BadInput(f"{path} is of another run, or other episodes: choose another --out")
            continue
        folder = f"runs/{config.out.removeprefix('study/')}/{path.stem}"
        usual = {"demos_per_task": config.demos, "demo_draw": draw, "steps": config.steps, "seed": seed,
                 "eval_episodes": 0, "out": folder}  # fmt: skip
        alone = way.startswith("specialist")
        if alone:
            train.SIZES["specialist"] = SPECIALIST
            base = runs.read_config(ROOT / config.run)["train"]
            sees = {name: base[name] for name in ("observation", "cameras", "image_size")}
            flags = train.TrainConfig(tasks=task, components=1, size="specialist", **usual, **sees)
        else:
            flags = adapt.AdaptConfig(run=config.run, tasks=task, **usual | {"copies": 0} | WAYS[way])
        # train.py writes weights on its way, too.
        if not ((ROOT / folder / "model.safetensors").exists()
                and runs.training_record(ROOT / folder)["steps"] == flags.steps):  # fmt: skip
            if alone:  # what an interrupted training left; adapt.py goes on with it
                flags.overwrite = folders.taken(ROOT / folder)
            with mock.patch.multiple(train if alone else adapt, **OURS[way]) if way in OURS else nullcontext():
                train.main(flags) if alone else stages.main(flags, adapt.learn)
        made = runs.difference(
            ROOT / folder, asdict(flags), ("out", "device", "precision", "overwrite", "retain", "encoder_rank")
        )
        if made is not None:
            raise BadInput(f"{folder} has {made}: remove it, or choose another --out")
        if not alone and runs.read_config(ROOT / folder)["adapted"][-1].get("source_weights") != weights:
            raise BadInput(f"{folder} was learned from other weights than {config.run} holds: remove it")
        new = runs.load_policy(ROOT / folder, device)
        # Where old actions are the same bits, so are the old tasks' episodes: they need not be played again.
        knows_old = set(old.config.tasks) < set(new.config.tasks)
        bit_equal = knows_old and stages.unchanged(old, new) == old.config.tasks
        tasks = [task] if bit_equal or not knows_old or config.new_only else new.config.tasks
        result, _ = evaluate(new, tasks, config.episodes, config.block, roller=roller)
        made, trained = runs.read_config(ROOT / folder), sum(p.numel() for p in new.parameters())
        stage = made["adapted"][-1] if "adapted" in made else {
            "trained_parameters": trained, "seconds": runs.training_record(ROOT / folder)["seconds"],
        }  # fmt: skip
        about = {"way": way, "task": task, "old_actions_bit_equal": bit_equal, "stage": stage}
        write_json(path, result | about | {"flags": asdict(flags)} | provenance(seed, str(device)))
        say(f"{path.stem}: {result['tasks'][task]['successes']} of {config.episodes}, same bits: {bit_equal}")
        written.append(str(path))
    return written


if __name__ == "__main__":
    run(lambda: main(parse(OneTaskConfig)))
