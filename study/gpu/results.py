"""What a GPU does, as a section of study/README.md."""

import json
from pathlib import Path

from study.intervals import by_task, count, number
from study.markdown import NotMeasured, expert, read, table, text, words

FROM_NOTHING = {"mt6-base": "mt6 from the state, `--size base`", "mt6-small": "mt6 from the state, `--size small`",
                "mt6-pixels": "mt6 from two cameras of 128 pixels, `--size base`",
                "mt50-base": "50 tasks from the state, `--size base`",
                "mt50-small": "50 tasks from the state, `--size small`"}  # fmt: skip


def on_a_gpu(study: Path) -> list[str]:
    made = [path for path in sorted(study.glob("gpu/*.json"))]
    if not made:
        raise NotMeasured("`study/gpu/*.json`")
    every = [json.loads(path.read_text()) for path in made]
    hardware, torch = words(sorted({r["hardware"] for r in every})), words(sorted({r["torch"] for r in every}))
    return [
        *text("Commands: `study/gpu/run.sh`. [gpu/README.md](gpu/README.md) says what each section is, and what else "
              f"that machine did meanwhile. {hardware}, bf16, torch {torch}."),
        *checked(study), *from_nothing(study), *paces(study),
    ]  # fmt: skip


def checked(study: Path) -> list[str]:
    found = read(study, "gpu/tests.json")["tests"]
    others = [f"{name}: {said}" for name, said in found["tests"].items() if said != "passed"]
    return text(f"`tests/test_gpu.py` compares the GPU with the CPU: {found['passed']} of {len(found['tests'])} pass.",
                *others)  # fmt: skip


def from_nothing(study: Path) -> list[str]:
    """Policies trained there, and the seconds from no demonstrations to a success."""
    rows = []
    for name, what in FROM_NOTHING.items():
        if not (study / f"gpu/{name}.json").exists():
            continue
        r = read(study, f"gpu/{name}.json")[name]
        last, (successes, n) = r["checkpoints"][-1], expert([r["final"]])
        reached = [f"{goal}: {'not seen' if s is None else f'{s:.0f} s'}" for goal, s in r["seconds_to_goal"].items()]
        asked = int(r["train"][r["train"].index("--steps") + 1]) if "--steps" in r["train"] else None
        steps = f"{last['step']:,}" + (f" of {asked:,}" if asked and asked != last["step"] else "")
        rows.append([what, steps, f"{last['seconds']:.0f}", ", ".join(reached), count(by_task([r["final"]])),
                     number(r["final"]["mean_success"]), number(successes / n)])  # fmt: skip
    if not rows:
        return []
    header = ["from scratch", "steps", "seconds", "first checkpoint on block 400 to reach",
              "last checkpoint, block 6", "mean", "expert"]  # fmt: skip
    return [
        *table(header, rows),
        *text("Seconds count from the beginning of the command: demonstrations are made in them. One seed each. Where "
              "fewer steps were taken than asked for, the time was up, and the learning rate had not come down yet."),
    ]  # fmt: skip


def paces(study: Path) -> list[str]:
    """How fast a step and a chunk are, and what stands in their way."""
    found = read(study, "gpu/speed.json")["speed"]
    timed = {row["what"]: row for row in found["rows"] if row.get("ratio")}
    rows, peak = [], found["peak_gflops"]
    for what, row in timed.items():
        if "one by one" not in row["ratio"]:
            continue
        if "samples_per_second" in row:
            ours = f"{row['samples_per_second']['ours']:.0f} samples/s"
        else:
            ours = f"{row['milliseconds']['ours']:.1f} ms"
        share = f"{100 * row['gflops'] / peak:.2g} %"  # "gflops" are those of a second
        rows.append([what, ours, share, f"{number(row['ratio']['one by one'], 1)} x"])
    compiled = [
        f"{what.removeprefix('training, ')}: {way} {number(ratio, 2)} of the eager step's time, ready after "
        f"{row['seconds_until_ready'][way]:.0f} s"
        for what, row in timed.items()
        for way, ratio in row["ratio"].items()
        if way.startswith("compile")
    ]
    base, small = (timed[f"training, {size}, K = 4, batch 64"] for size in ("base", "small"))
    longer = small["samples_per_second"]["ours"] / base["samples_per_second"]["ours"]
    work = base["gflops"] / small["gflops"] * longer
    return [
        *table(["what", "ours", "share of the best matrix product", "our components one by one take"], rows),
        *text(f"The best matrix product is one in bfloat16, whatever a row computes in. What holds a step up is "
              f"launching kernels, not arithmetic: base does {number(work, 0)} times the work of small in "
              f"{number(longer, 2)} times the time. A chunk is timed with small. Other trainings ran "
              "on other cores: times are upper bounds (a chunk for one robot needs no more than 64 do).",
              *(["Compiled: " + "; ".join(compiled) + "."] if compiled else [])),
    ]  # fmt: skip
