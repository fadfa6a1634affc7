"""Success over seconds of training: train.py as anybody runs it, and its checkpoints, played when it has ended.

    python study/curve.py --tasks mt50 --policy fdp --out study/mt50/curve-fdp-s0.json      # the same again goes on

Checkpoints are copied as they appear, and played in order on block 400, the one for choices: which of them was the
first to reach a success is a choice. Seconds are those of the training loop, which a resumed training adds up.
"""

import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from envs.rollout import Roller  # noqa: E402
from envs.tasks import resolve_tasks  # noqa: E402
from evaluate import evaluate  # noqa: E402
from plumbing import machine, runs  # noqa: E402
from plumbing.cli import ROOT, BadInput, check_output, parse, provenance, run, say, write_json  # noqa: E402
from plumbing.files import read_json  # noqa: E402
from plumbing.limits import check_limits  # noqa: E402
from study.gpu.section import keep  # noqa: E402


@dataclass
class CurveConfig:
    """Train, and play every checkpoint."""

    tasks: str = "mt6"
    policy: str = "fdp"
    seed: int = 0
    steps: int | None = None  # default that of train.py
    save_every: int = 2000  # steps between checkpoints
    episodes: int = 4  # per task and checkpoint
    out: str = ""  # the JSON; default study/curve-TASKS-POLICY-sSEED.json
    data_dir: str = "data"


def train(config: CurveConfig, home: Path) -> None:
    """Run train.py, or go on with it, and copy each checkpoint as it appears."""
    flags = {"--tasks": config.tasks, "--policy": config.policy, "--seed": config.seed,
             "--out": (home / "run").relative_to(ROOT),  # it is recorded, and others have another root
             "--save-every": config.save_every, "--data-dir": config.data_dir, "--eval-episodes": 0}  # fmt: skip
    flags |= {"--steps": config.steps} if config.steps else {}
    how = "--resume" if (home / "run" / "resume.safetensors").exists() else "--overwrite"
    words = [sys.executable, "train.py", *(word for flag in flags.items() for word in flag), how]
    shutil.rmtree(home / "step.tmp", ignore_errors=True)  # a copy that was interrupted
    # A session of its own: Ctrl-C reaches this process alone, which asks for a save; a second signal would not wait.
    child, seen = subprocess.Popen([str(word) for word in words], cwd=ROOT, start_new_session=True), None
    weights = home / "run" / "model.safetensors"
    try:
        ended = False
        while not ended:
            ended = child.poll() is not None  # asked first: what it wrote last is still looked at
            if weights.exists() and (now := weights.stat().st_mtime_ns) != seen:
                seen = now
                keep(home)
            time.sleep(0.1)
    except KeyboardInterrupt:
        say("what train.py is about to say is of this training alone: to go on with the curve, the same command again")
        raise
    finally:
        child.terminate()  # it saves
        child.wait()
    if child.returncode:
        raise BadInput(f"train.py ended with {child.returncode}; what it says is above")
    (home / "trained").touch()


def main(config: CurveConfig) -> dict:
    """Returns what the command's last line says: the path written."""
    path = Path(config.out or f"study/curve-{config.tasks}-{config.policy}-s{config.seed}.json")
    check_output(path, "checkpoints")
    check_limits(config)  # what train.py would refuse must not be remembered as this curve's flags
    resolve_tasks(config.tasks)
    runs.load_variant(config.policy)
    if not 1 <= config.episodes <= 10_000:
        raise BadInput(f"--episodes must be between 1 and 10000, got {config.episodes}")
    home = ROOT / "runs" / "curve" / path.stem
    home.mkdir(parents=True, exist_ok=True)
    if (home / "run" / "config.json").exists():
        asked = {"tasks": config.tasks, "policy": config.policy, "seed": config.seed}
        if other := runs.difference(home / "run", asked | ({"steps": config.steps} if config.steps else {}), ()):
            raise BadInput(f"the run in {home} has {other}: choose another --out")
    flags = {**asdict(config), "episodes": None, "out": str(path)}
    if (home / "flags.json").exists() and (before := read_json(home / "flags.json")) != flags:
        other = next(name for name in flags if before.get(name) != flags[name])
        raise BadInput(f"{home} has {other} = {before.get(other)}, not {flags[other]}: choose another --out")
    write_json(home / "flags.json", flags)
    if not (home / "trained").exists():
        train(config, home)
    device, played = machine.choose_device("auto"), home / f"played-{config.episodes}.json"
    made = read_json(played) if played.exists() else []
    steps = sorted(int(copy.name.removeprefix("step-")) for copy in home.glob("step-*"))
    last = runs.training_record(home / "run")["steps"]  # a run that was stopped has saved where it was, too
    steps = [step for step in steps if step % config.save_every == 0 or step == last]
    made = [row for row in made if row["step"] in steps]
    with Roller() as roller:
        for step in [step for step in steps if step not in [row["step"] for row in made]]:
            copy = home / f"step-{step}"
            policy, seconds = runs.load_policy(copy, device, checkpoint=True), runs.training_record(copy)["seconds"]
            result, _ = evaluate(policy, policy.config.tasks, config.episodes, 400, roller=roller)
            kept = {task: (r["successes"], r["n"], r["expert"]["successes"]) for task, r in result["tasks"].items()}
            made.append({"step": step, "seconds": seconds, "success": result["mean_success"], "tasks": kept})
            write_json(played, made)
            say(f"step {step}, {seconds:.0f} s: {result['mean_success']:.3f}")
    about = {"flags": asdict(config), "training": runs.training_record(home / "run")}
    write_json(path, {"checkpoints": made, **about} | provenance(config.seed, str(device)))
    return {"wrote": [str(path)]}


if __name__ == "__main__":
    run(lambda: main(parse(CurveConfig)))
