"""The run folder: what training leaves behind, and how it is read again.

    runs/NAME/
        config.json         the training flags, the policy's file and configuration, where it came from
        model.safetensors   EMA weights and normaliser statistics: all that acting needs
        resume.safetensors  raw weights, optimiser, random state: what going on with training needs
        log.jsonl           one line per logged step
        evaluation.json     figures/  videos/

Loading somebody else's run executes nothing: tensors are in safetensors files, config.json is checked as data
(configs.py), and nothing is unpickled. Which folder a run may have: folders.py.
"""

import dataclasses
import functools
import hashlib
import importlib
import inspect
import json
import re
import sys
import traceback
import typing
from pathlib import Path
from types import ModuleType
from typing import Annotated

import torch
import tyro

from plumbing import configs, files, folders, formats, tensors
from plumbing.cli import ROOT, BadInput, other_versions, parse, say_once, write_json

# resume.pt is of runs that an older version made: nothing reads it, and --overwrite sets it aside with the rest.
FILES = ("config.json", "model.safetensors", "resume.safetensors", "resume.pt", "replay.safetensors",
         "skill.safetensors", "adaptation.json", "before", "log.jsonl", "figures", "videos")  # fmt: skip


def load_variant(name: str) -> ModuleType:
    """'fdp' -> fdp.py; 'mine' -> variants/mine.py. A variant is any module with `Policy` and `PolicyConfig`."""
    if name == "fdp":
        return importlib.import_module("fdp")
    available = sorted(p.stem for p in (ROOT / "variants").glob("*.py"))
    if name not in available:
        raise BadInput(f"no policy '{name}': choose fdp or a file in variants/, without .py ({', '.join(available)})")
    module = importlib.import_module(f"variants.{name}")
    fork_checksum(name)  # now: minutes later, when the run begins, the file may be another one
    for needed in ("Policy", "PolicyConfig"):
        if not hasattr(module, needed):
            raise BadInput(f"variants/{name}.py does not define {needed}; see variants/monolithic.py for an example")
    config = module.PolicyConfig
    own = inspect.get_annotations(config) if isinstance(config, type) else {}
    if own and "__dataclass_fields__" not in vars(config):  # they would be ignored
        raise BadInput(f"variants/{name}.py: put @dataclass above class PolicyConfig, or its fields are none")
    return module


def own_fields(variant: str) -> list[dataclasses.Field]:
    """The config fields that a policy has beyond those of fdp.py; they are flags of train.py."""
    usual = {field.name for field in dataclasses.fields(load_variant("fdp").PolicyConfig)}
    theirs = load_variant(variant).PolicyConfig
    return [f for f in dataclasses.fields(theirs) if f.name not in usual] if dataclasses.is_dataclass(theirs) else []


def explained(config_class, field: dataclasses.Field):
    """The field's type, with the comment beside it in its class as the flag's help."""
    pattern = rf"^\s+{field.name}\s*:[^#\n]*#\s*(.*)$"
    comment = re.search(pattern, inspect.getsource(config_class), re.MULTILINE)
    kind = typing.get_type_hints(config_class)[field.name]  # `field.type` may be its text
    return Annotated[kind, tyro.conf.arg(help=comment.group(1) if comment else "")]


def changed_defaults(variant: str, names) -> dict[str, object]:
    """Of these fields of fdp.py's config those to which a policy gives another default, with it: where a flag, or
    --size, would overrule what its author has written."""
    usual, theirs = (
        {f.name: f for f in dataclasses.fields(config)} if dataclasses.is_dataclass(config) else {}
        for config in (load_variant("fdp").PolicyConfig, load_variant(variant).PolicyConfig)
    )
    both = {name: (usual[name].default, theirs[name].default) for name in names if name in usual and name in theirs}
    return {name: new for name, (old, new) in both.items() if dataclasses.MISSING not in (old, new) and new != old}


def parse_with_own_fields(config_class, arguments: list[str] | None = None):
    """The command line as a config, in which the policy that `--policy` names may have flags of its own.

    A default that it changes becomes that of the flag. BadInput for a policy that does not exist, or a field of its own
    that has the name of a flag of ours, or no default.
    """
    words = [str(a) for a in (sys.argv[1:] if arguments is None else arguments)]
    fork = ["fdp", *re.findall(r"--policy[= ](\S+)", " ".join(words))][-1]
    extra, usual = [], config_class.__dataclass_fields__
    for field in own_fields(fork):
        if field.name in usual or field.name in ("base", "stages", "ranks"):  # the second: of variants/staged.py
            raise BadInput(f"variants/{fork}.py: config field '{field.name}' has the name of a flag, or of what "
                           "adapt.py adds; rename it")  # fmt: skip
        if field.default is field.default_factory is dataclasses.MISSING:
            raise BadInput(f"variants/{fork}.py: config field '{field.name}' needs a default, as it becomes a flag")
        default = dataclasses.field(default=field.default, default_factory=field.default_factory)
        extra.append((field.name, explained(load_variant(fork).PolicyConfig, field), default))
    changed = changed_defaults(fork, usual)
    if extra or changed:
        for name, field in usual.items():  # ours too: the comments are in the source of a class that is replaced here
            default = changed.get(name, field.default)
            extra.append((name, explained(config_class, field), dataclasses.field(default=default)))
        name, text = config_class.__name__, config_class.__doc__
        config_class = dataclasses.make_dataclass(name, extra, bases=(config_class,), namespace={"__doc__": text})
    return parse(config_class, words)


def build_policy(variant: str, settings: dict):
    """Make a policy with fresh weights from its file and configuration. BadInput where they cannot work together."""
    module = load_variant(variant)
    try:
        config = module.PolicyConfig(**settings)
    except TypeError as error:
        raise BadInput(str(error)) from error
    try:
        policy = module.Policy(config)
    except ValueError as error:  # and nothing else: a bug in a fork has to keep its traceback
        raise BadInput(str(error)) from error
    policy.variant = variant
    return policy


def save_weights(folder: Path, state: dict[str, torch.Tensor], step: int, seconds: float) -> None:
    """Write model.safetensors; after how many steps and seconds of training these weights are stands in its header, and
    which config.json they belong to."""
    header = {"step": str(step), "seconds": f"{seconds:.1f}", "config": settings_checksum(folder)}
    tensors.save(folder / "model.safetensors", state, header)


def settings_checksum(folder: Path) -> str:
    """A checksum of what config.json says of the policy: with another target, or its tasks in another order, the same
    weights act otherwise, and nothing would fail. Only `executed` may be changed by hand."""
    config = files.read_json(folder / "config.json")
    fields = {name: value for name, value in config["policy_config"].items() if name != "executed"}
    return tensors.checksum([config["policy"], fields])


def read_config(folder: Path) -> dict:
    """config.json of a run. BadInput if the folder is no run (naming those beside it), or the file is damaged."""
    path = folder / "config.json"
    if not files.exists(path):
        found = sorted(str(p.parent) for p in folder.parent.glob("*/config.json"))
        more = f", and {len(found) - 20} more" if len(found) > 20 else ""
        raise BadInput(f"no run in {folder} (no config.json); runs beside it: {', '.join(found[:20]) or 'none'}{more}")
    config = configs.check_outline(files.read_json(path), path)
    try:
        config = formats.upgrade_config(config, folder)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RuntimeError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{path} is damaged: {error!s:.200}") from error
    return configs.check(config, path)


def difference(folder: Path, flags: dict, free: tuple[str, ...]) -> str | None:
    """The first flag, not among the free ones, that the run in this folder was not made with: 'steps = 6, not 7'."""
    before, now = read_config(folder)["train"], json.loads(json.dumps(flags))
    for name in now:
        if name not in free and before.get(name) != now[name]:
            return f"{name} = {before.get(name)}, not {now[name]}"
    return None


def fork_of(config: dict) -> str:
    """Whose `Policy` a run's is: of a staged one that beneath its stages."""
    return config["policy_config"].get("base", "fdp") if config["policy"] == "staged" else config["policy"]


@functools.cache
def fork_checksum(fork: str) -> str:
    """The SHA-256 of a fork's file, as it was when this process read it; "" for fdp.py, which changes with the
    revision, and for what is no file. (Of this file alone: what it imports is not watched.)"""
    path = ROOT / "variants" / f"{fork}.py"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def edited(config: dict) -> bool:
    """Whether a run, by its config.json, was learned with another version of its fork's file, at least in part."""
    made = [part.get("fork_checksum") for part in (config, *(config.get("resumed") or []))]  # None: of an older run
    return any(checksum not in (None, fork_checksum(fork_of(config))) for checksum in made)


def tell_doubts(folder: Path, config: dict, header: dict, checkpoint: bool = False) -> None:
    """A line for whatever may make a run act otherwise than its own results say: other versions of libraries, an edited
    fork, a training that is not done. header: of its weights."""
    if other := other_versions(config.get("versions") or {}):
        say_once(f"{folder} was made with {other}: its success may differ a little")
    if edited(config):
        say_once(f"variants/{fork_of(config)}.py has changed since the run in {folder} was begun: it may act otherwise")
    step, steps = header.get("step", ""), config["train"].get("steps")
    if not checkpoint and step.isdecimal() and len(step) < 12 and type(steps) is int and int(step) < steps:
        say_once(f"{folder} is trained for {int(step):,} of {steps:,} steps: what it does is that of an unfinished run")


def begin_run(folder: Path, train_flags: dict, policy_config: dict, source: dict) -> None:
    """Write config.json in a folder that is claimed. Only now, with nothing left that could be refused, is an old run
    moved aside. BadInput for what could not be loaded again."""
    content = {"format": formats.FORMAT, "policy": train_flags["policy"], "policy_config": policy_config,
               "train": train_flags, **source}  # fmt: skip
    content.setdefault("fork_checksum", fork_checksum(fork_of(content)))  # or that of what it was learned from
    path = folder / "config.json"
    read_back = json.loads(json.dumps(content))  # what could not be read again is refused now, not after the training
    configs.check(configs.check_outline(read_back, path), path)
    # Evaluations of the old weights may have any name.
    results = [
        path.name
        for path in folder.glob("*.json")
        if path.is_file() and path.stat().st_size <= files.TEXT_LIMIT and b'"mean_success"' in path.read_bytes()
    ]
    folders.set_aside(folder, [*FILES, *results])
    write_json(path, content)


def note_resuming(folder: Path, step: int, source: dict) -> None:
    """Add to config.json from which step on another command, and perhaps another revision, made the weights."""
    config = read_config(folder)
    again = {"step": step, **source, "fork_checksum": fork_checksum(fork_of(config))}
    config["resumed"] = [*config.get("resumed", []), again]
    write_json(folder / "config.json", config)


def training_record(folder: Path, policy=None) -> dict:
    """What an evaluation repeats about the training behind it, so that its JSON stands alone. policy: as `load_policy`
    gave it; a training that goes on may have written other weights since."""
    config, path = read_config(folder), folder / "model.safetensors"
    names = ("command", "revision", "hardware", "resumed", "policy", "policy_config")
    record = {key: config[key] for key in names if key in config}
    about = policy.header if policy is not None else tensors.header(path)  # text: the numbers are put back
    try:
        record.update(steps=int(about["step"]), seconds=float(about["seconds"]))
    except (KeyError, ValueError) as error:
        raise BadInput(f"{path} does not say after how many steps and seconds it was saved, in its header") from error
    held_out = {"held_out": n} if (n := config["train"].get("held_out")) else {}
    return {**record, "seed": config.get("seed"), "demos_per_task": config["train"]["demos_per_task"], **held_out}


def how_trained(folder: Path) -> dict:
    """The flags, steps and seconds behind a run's weights, for a run that will be made of it (skills.py)."""
    record = training_record(folder)
    return {"train": read_config(folder)["train"], "steps": record["steps"], "seconds": record["seconds"]}


def weights_checksum(folder: Path) -> str:
    """Which weights a run holds: the SHA-256 of its model.safetensors. BadInput where it has none."""
    path = folder / "model.safetensors"
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror or error}") from error


def load_policy(folder: Path | str, device: torch.device | str = "cpu", checkpoint: bool = False):
    """The trained policy of a run, ready to act. BadInput if the folder is no run or a file in it is damaged.

    Lines of warning where weights have no checksum, and what `tell_doubts` finds. checkpoint: that they are those of an
    unfinished training is known.
    """
    folder = Path(folder)
    config, path = read_config(folder), folder / "model.safetensors"
    if not path.exists():
        old = f"; the run that it replaces is in {folder / folders.REPLACED}" * (folder / folders.REPLACED).exists()
        raise BadInput(f"{folder} has no model.safetensors yet: its training has not reached its first checkpoint{old}")
    shapes = formats.upgrade_weights(tensors.shapes(path))
    fork = fork_of(config)
    try:
        load_variant(fork)
    except BadInput as error:
        raise BadInput(f"{folder} needs its policy: {error}") from error
    changed = f", or variants/{fork}.py has changed since" * (fork != "fdp")
    try:
        # A dozen characters could ask for more than this machine has, and a page of disk could hold gigabytes of zeros.
        if configs.large(config["policy_config"]) or path.stat().st_size > 100e6:
            with torch.device("meta"):
                asked = build_policy(config["policy"], config["policy_config"]).state_dict()
            if {name: tuple(x.shape) for name, x in asked.items()} != shapes:
                raise ValueError("it asks for other tensors than model.safetensors has")
        policy = build_policy(config["policy"], config["policy_config"])
    except Exception as error:  # a width of -3 fails somewhere deep inside; what matters is where it came from
        through = {Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)}
        slip = isinstance(error, (NameError, AttributeError, TypeError, ImportError))
        if slip and ROOT / "variants" / f"{fork}.py" in through:
            raise  # a slip in a fork, whose author needs to see where
        raise BadInput(f"{folder / 'config.json'} is damaged{changed}: {error!s:.300}") from error
    state, header = tensors.load(path)
    try:
        policy.load_state_dict(formats.upgrade_weights(state))
    except Exception as error:
        raise BadInput(f"{path} does not fit its config.json{changed}: {error!s:.300}") from error
    if header.get("config") not in (None, settings_checksum(folder)):  # older runs do not say
        raise BadInput(f"{path} was saved with another config.json than the one beside it: they go together")
    tell_doubts(folder, config, header, checkpoint)
    policy.header = header  # after how many steps and seconds these weights were saved
    return policy.to(device).eval()
