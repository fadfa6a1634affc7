"""raw.py RUN: RUN-raw, the same run with the last weights in the place of the averaged ones. For a trial."""

import shutil
import sys
from pathlib import Path

from plumbing import tensors

run = Path(sys.argv[1])
raw = run.with_name(run.name + "-raw")
shutil.copytree(run, raw)
_, header = tensors.load(run / "model.safetensors")
saved, _ = tensors.load(run / "resume.safetensors")
state, _ = tensors.load(run / "model.safetensors")
new = {name: saved["policy." + name] for name in state}
print(sum((new[n] != state[n]).any().item() for n in new), "of", len(new), "tensors differ")
tensors.save(raw / "model.safetensors", new, header)
