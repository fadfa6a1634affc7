"""How fast it is, as sections of study/README.md."""

from pathlib import Path

from study.core.results import core_groups
from study.intervals import by_task, count, number
from study.markdown import SAMPLERS, expert, played_on, read, span, table, text, typed, words


def speed(study: Path) -> list[str]:
    result, peer = read(study, "speed/cpu.json")["cpu"], read(study, "speed/lerobot-mt6.json")["lerobot-mt6"]
    mine, timed = core_groups(study, "mt6-fdp-50")["mt6-fdp-50"], {row["what"]: row for row in result["rows"]}
    rows, faster = [], []
    for what, row in timed.items():
        if "ours" not in (ratio := row["ratio"]):
            continue
        if "samples_per_second" in row:
            ours = f"{row['samples_per_second']['ours']:.0f} samples/s"
        else:
            ours = f"{row['milliseconds']['ours']:.1f} ms"
            faster.append(f"{number(ratio['ours, DPM 3'], 2)} ({what.split(', ', 2)[2]})")
        rows.append([what, ours, *(f"{number(x, 1)} x" for x in (*beside_lerobot(row), ratio["one by one"]))])
    header = ["what", "ours", "LeRobot's time", "LeRobot, equal depth, sampler", "our components one by one"]
    return [
        *text(f"Command: {typed(result['command'])} (`study/speed/lerobot_peer.py` says how to make the peer). "
              f"{result['hardware']}, no GPU, float32. One run measures everything in turn."),
        *table(header, rows),
        *text("The peer is a Python loop over LeRobot's U-Nets with diffusers' DDIM in 10 steps, at our widths and "
              "kernel. Ours samples with DPM-Solver++ in 5. LeRobot's U-Net has two residual blocks per level where "
              "ours has one. The fourth column compares networks of equal depth with the same sampler."),
        *text(f"Trained in our loop, the peer has {count(by_task([peer]))} on mt6, ours "
              f"{words(count(by_task([r])) for r in mine)}, and the expert {expert([peer])[0]}.",
              played_on([peer]), f"Command: {typed(peer['command'])}."),
        *text(f"`--sampling-steps 3` takes this share of the default's time: {words(faster)}."),
        "![Time of each alternative, in times of ours](speed/cpu.png)", "",
        *table(["also measured", "found"], also_measured(result["peak_gflops"], timed)),
    ]  # fmt: skip


def beside_lerobot(row: dict) -> tuple[float, float]:
    """How many times as long LeRobot's networks take, and beside ours of equal depth; acting, with the same sampler."""
    end = "" if "samples_per_second" in row else ", DDIM 10"
    theirs = row["ratio"][f"LeRobot{end}"]
    return theirs, theirs / row["ratio"][f"ours, as deep as LeRobot's{end}"]


def also_measured(peak: float, timed: dict[str, dict]) -> list[tuple[str, str]]:
    """The rest of the benchmark, as pairs of what and how much."""

    def ratio(what: str, name: str = "", digits: int = 1) -> str:
        ratios = timed[what]["ratio"]
        return f"{number(ratios[name] if name else next(iter(ratios.values())), digits)} x"

    share = {size: timed[f"training, {size}, K = 4, batch 64"]["share_of_peak"] for size in ("base", "small")}
    memory = {what: number(row["megabytes"] / 1000, 1) for what, row in timed.items() if "megabytes" in row}
    return [
        *((f"time, {what}", ratio(what)) for what in timed if what.startswith("K = 8")),
        (f"share of the best matrix product ({peak:.0f} GFLOP/s) in a training step",
         ", ".join(f"{size} {number(x, 2)}" for size, x in share.items())),
        ("environment steps per second with the policy, beside the bare simulator",
         ratio("environment steps of mt6, policy included", digits=2)),
        ("time of `evaluate.py` on mt6, beside the physics of its episodes",
         ratio("evaluate.py --run mt6 --episodes 50")),
        ("time of `train.py --help`, beside importing torch", ratio("start-up", "train.py --help / import torch", 2)),
        ("time to the first training step once demonstrations exist, beside importing torch",
         ratio("start-up", "first training step / import torch", 2)),
        *((what, f"{size} GB") for what, size in memory.items()),
        ("memory, evaluating 400 episodes, beside 100", ratio("memory, evaluating 100 episodes", digits=2)),
    ]  # fmt: skip


def samplers(study: Path) -> list[str]:
    found: dict[tuple[str, int], list[dict]] = {}
    settings = read(study, "speed/samplers.json")["samplers"]["settings"]
    for r in settings:
        found.setdefault((r["sampler"], r["steps"]), []).append(r)

    def cells(mine: list[dict], key: str) -> list[str]:
        total = f"{sum(r[key] for r in mine)}/{sum(r['n'] for r in mine)}"
        return [", ".join(str(r[key]) for r in mine), total]

    rows = [[SAMPLERS[sampler], steps, *cells(mine, "successes")] for (sampler, steps), mine in sorted(found.items())]
    one = next(iter(found.values()))
    many, few = ([sum(r["successes"] for r in mine) for (_, steps), mine in found.items() if (steps >= 3) == wanted]
                 for wanted in (True, False))  # fmt: skip
    blocks = words(sorted({r["seed"] for r in settings}))
    return [
        *text(f"Command: {typed(settings[0]['command'])}. mt6, {len(one)} runs (training seeds), {one[0]['n']} "
              f"episodes each, block {blocks}, the one for choices."),
        *table(["sampler", "calls", "successes, each run", "all"],
               [*rows, ["scripted expert", "", *cells(one, "expert_successes")]]),
        *text(f"From 3 calls on, all settings have {span(many, 0)} successes; fewer: {span(few, 0)}. The default is 5: "
              "the fewer calls, the narrower the distribution of actions (`sampling_timesteps` in sampler.py). The "
              "file holds counts, not single episodes, so no intervals are given."),
        "![Success over network calls per chunk, for three samplers](speed/samplers.png)", "",
    ]  # fmt: skip
