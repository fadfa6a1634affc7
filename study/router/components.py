"""How many components? K = 1, 2, 4, 8, 16, each as large as ever, or all together as large as four. Two hours.

    python study/grid.py study/router/components.py

mt6, 25 demonstrations, 6,000 steps, two seeds (K = 16, which takes longest: one); 50 episodes of each task on block 15,
and with weights of 1/K. How spread the losses of seeds are, spikes of the gradient's norm, components that nobody uses:
the runs' own log.jsonl, kept beside each result.
"""

HOW = {"each": "", "together": "--policy waking --how narrow"}  # what stays as large as it is with K = 4


def row(how: str, K: int, seed: int) -> tuple[str, ...]:
    """Train, play, and keep the log."""
    folder, result = (f"{top}/router/components/{how}-{K}-s{seed}" for top in ("runs", "study"))
    play = f"python evaluate.py --run {folder} --episodes 50 --seed 15 --out {result}"
    return (
        f"{result}.json",
        f"python train.py --tasks mt6 --components {K} --demos-per-task 25 --steps 6000 --eval-episodes 0 "
        f"--log-every 200 --seed {seed} {HOW[how]} --out {folder} --overwrite".replace("  ", " "),
        *[f"{play}-even.json --even"] * (K > 1),
        "mkdir -p study/router/components",
        f"cp {folder}/log.jsonl {result}.jsonl",
        f"{play}.json",
    )


TABLE = [
    [("runs/router/components/demonstrations/model.safetensors",
      "python train.py --tasks mt6 --demos-per-task 25 --steps 1 --eval-episodes 0 --overwrite "
      "--out runs/router/components/demonstrations")],
    [row(how, K, seed) for seed in range(2) for how in HOW for K in (1, 2, 4, 8, 16)
     if (how, K) != ("together", 4) and (K, seed) != (16, 1)],
]  # fmt: skip
