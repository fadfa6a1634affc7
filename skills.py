"""A new task as a file: what was learned for it can be stored, shared, added to a policy, and removed again.

    python skills.py --run study/core/mt6 --put door-close.safetensors,window-open.safetensors --out runs/both
    python skills.py --run runs/both --take-off door-close --out runs/less

    policy = put(load_policy("study/core/mt6"), "door-close.safetensors", "window-open.safetensors")

`adapt.py` with `--retain exact` moves no bit of the policy that it starts from, the *base*. So what it learns is an
addition, and its run folder holds it as skill.safetensors too: new components, a router over old and new ones, an
adapter of the encoder, and the new name's embedding. (A policy keeps them as *stages*, and the base is the first:
variants/staged.py, to be read before this.) Skills are learned apart, by different people, and put onto another copy of
the same base in any order: each task acts as when it was learned, bit for bit, and so do old tasks.

A skill stores a checksum of what it depends on: the base alone, or (`--lean-on all`, from a run that had skills
already) the base and those skills, in that order. On anything else its numbers would mean nothing: it is refused.

`take_apart`, a policy to base and skills, and `put_together`, the reverse, are the whole idea; the rest is files.

Axis legend: K components of the base, n of a skill
"""

from plumbing import interrupt  # isort: skip  (first: Ctrl-C while PyTorch loads is one line, no traceback)  # noqa: F401
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from plumbing import configs, files, folders, runs, tensors
from plumbing.cli import BadInput, parse, provenance, run, say
from variants.staged import LoRA, as_first_stage, components_of, unstaged

FILE = "skill.safetensors"  # in the folder of a run that adapt.py made


@dataclass
class Skill:
    """What a stage adds to a policy.

    tensors: components.* (n, ...), router.* over what it leans on and its own n, residual.* (`LoRA`), and its rows
    of task_embedding. leans_on: `identity` of what it was learned on, over these settings. about: what there is to
    know; text and numbers.
    """

    tasks: list[str]
    tensors: dict[str, Tensor]
    leans_on: str
    about: dict = field(default_factory=dict)
    settings: tuple[str, ...] | None = None


def identity(base, skills: tuple | list[Skill] = (), settings: tuple[str, ...] | None = None) -> str:
    """A checksum of a policy without skills, settings and all, and of those that were put onto it, in their order.

    settings: the names of those that count; all, if None. A skill says which there were when it was learned: a field
    that the code got later must not part it from its base."""
    # Without how many actions are executed: that is decided when acting, and all skills fit whatever it is.
    every = asdict(base.config) | {"executed": 4}
    chosen = json.dumps({name: every.get(name) for name in settings or every}, sort_keys=True)
    own = tensors.checksum([base.variant, chosen, dict(base.state_dict())])
    return tensors.checksum([own, *(skill.tensors for skill in skills)]) if skills else own


def take_apart(policy) -> tuple:
    """A policy -> (its base, its skills); (itself, []) if it has no stages (`--retain exact`). BadInput for one that
    adapt.py cannot have made."""
    if not hasattr(policy.config, "stages"):
        return policy, []
    c, state, stacked = policy.config, policy.state_dict(), stack(policy)
    pieces, components, tasks = [], 0, 0  # how many components and tasks have gone into pieces so far
    for number, (used, names) in enumerate(c.stages):
        new = max(components, max(components_of(used)) + 1)  # up to here: the stages' own lie one after another
        piece = {}
        for name, x in state.items():
            part, _, rest = name.partition(".")
            stage, _, inner = rest.partition(".")
            if part in ("router", "residual"):
                piece |= {f"{part}.{inner}": x} if int(stage) == number else {}
            elif name in stacked:
                piece[name] = x[components:new].clone()
            elif part == "task_embedding":
                piece[name] = x[tasks : tasks + len(names)].clone()
            elif number == 0:  # the encoder, and what else there is only one of
                piece[name] = x
        pieces.append(piece)
        components, tasks = new, tasks + len(names)
    K = len(components_of(c.stages[0][0]))
    base = runs.build_policy(c.base, unstaged(c) | {"components": K, "tasks": list(c.stages[0][1])})
    try:
        base.load_state_dict(pieces[0])
    except RuntimeError as error:
        raise BadInput(f"the stages of this policy do not come apart: {error!s:.200}") from error
    base, skills = base.to(policy.device).eval(), []
    for number, (used, names) in enumerate(c.stages[1:], 1):
        beneath = skills if isinstance(used, int) else []  # a number: it leans on all before it; a list: on the base
        skill = Skill(list(names), pieces[number], identity(base, beneath), settings=tuple(asdict(base.config)))
        skills.append(skill)
    return base, skills


def stack(policy) -> list[str]:
    """The names of all tensors that have a row for each component."""
    state, K = policy.components.state_dict(), policy.config.components
    return [f"components.{name}" for name, x in state.items() if x.ndim and len(x) == K]


def sizes(base, skill: Skill) -> tuple[int, int]:
    """How many components a skill adds, and the rank of its adapter. ValueError if its tensors' names or shapes do not
    fit this base: the file may be anybody's, and memory is allocated by these sizes next."""
    state, stacked = base.state_dict(), stack(base)
    n = len(skill.tensors[stacked[0]])
    rank = skill.tensors["residual.A.0"].shape[1] if "residual.A.0" in skill.tensors else 0
    if rank > 1024:
        raise ValueError(f"an adapter of rank {rank}")
    expected = {name: (n, *state[name].shape[1:]) for name in stacked}
    names = [name for name in state if name.startswith("task_embedding")]
    expected |= {name: (len(skill.tasks), *state[name].shape[1:]) for name in names}
    with torch.device("meta"):  # shapes, without memory
        expected |= {f"residual.{name}": x.shape for name, x in LoRA(base.encoder, rank).state_dict().items()}
    given = {name: x.shape for name, x in skill.tensors.items() if not name.startswith("router.")}
    for name in expected | given:
        if name not in expected or name not in given or tuple(given[name]) != tuple(expected[name]):
            raise ValueError(f"{name} has shape {tuple(given.get(name, ()))}, not {tuple(expected.get(name, ()))}")
    return n, rank


def put_together(base, skills: list[Skill]):
    """A policy without skills, and skills for it -> a policy with them. BadInput for one that does not belong to it."""
    if not skills:
        return base
    K = total = base.config.components
    stages, ranks = [(K, list(base.config.tasks))], [0]
    state = as_first_stage(base.state_dict())
    stacked = stack(base)
    for number, skill in enumerate(skills, 1):
        names = ", ".join(skill.tasks)
        if again := [task for task in skill.tasks if any(task in known for _, known in stages)]:
            raise BadInput(f"'{', '.join(again)}' is known already: take it off first, or leave out one of the skills")
        alone = identity(base, (), skill.settings)
        if skill.leans_on != alone and skill.leans_on != identity(base, skills[: number - 1], skill.settings):
            raise BadInput(f"the skill for '{names}' belongs to another policy, or leans on skills that are not here")
        try:
            n, rank = sizes(base, skill)
            own = list(range(total, total + n))
            on_base = skill.leans_on == alone and number > 1  # the first one is what adapt.py makes: the first K + n
            stages.append(([*range(K), *own] if on_base else total + n, skill.tasks))
            ranks.append(rank)
            for name, x in skill.tensors.items():
                part, _, inner = name.partition(".")
                if name in stacked or part == "task_embedding":
                    state[name] = torch.cat([state[name], x.to(base.device)])
                else:
                    state[f"{part}.{number}.{inner}"] = x
            total += n
        except (KeyError, IndexError, RuntimeError, TypeError, ValueError) as error:
            raise BadInput(f"the skill for '{names}' is damaged: {error!s:.200}") from error
    tasks = [task for _, names in stages for task in names]
    settings = asdict(base.config) | {"base": base.variant, "components": total, "tasks": tasks}
    policy = runs.build_policy("staged", settings | {"stages": stages, "ranks": ranks})
    try:
        policy.load_state_dict(state)
    except RuntimeError as error:
        raise BadInput(f"these skills do not fit this policy: {error!s:.200}") from error
    return policy.to(base.device).eval()


def put(policy, *paths: Path | str):
    """The policy with skills from files beside those that it has."""
    base, skills = take_apart(policy)
    return put_together(base, [*skills, *map(read, paths)])


# ---------------------------------------------------------------------------------------------- files


def write(path: Path, skill: Skill) -> None:
    """One safetensors file, with a checksum."""
    about = {"tasks": skill.tasks, "leans_on": skill.leans_on, "settings": skill.settings, "about": skill.about}
    tensors.save(path, skill.tensors, {"skill": json.dumps(about)})


def read(path: Path | str) -> Skill:
    """BadInput for a file that is damaged, or is none of ours."""
    found, header = tensors.load(Path(path))
    try:
        about = json.loads(header["skill"])
        settings = about.get("settings")
        if settings is not None and not configs.texts(settings):
            raise ValueError("its settings are no names")
        skill = Skill(about["tasks"], found, about["leans_on"], about["about"], settings and tuple(settings))
        texts, stage, datasets = [skill.leans_on], skill.about["stage"], skill.about["datasets"]
        if not (configs.texts(skill.tasks) and all(isinstance(text, str) for text in [*texts, *datasets.values()])):
            raise ValueError("its header is not as adapt.py writes it")
        skill.about["stage"] = {**stage, "tasks": skill.tasks}
        skill.about["datasets"] = {task: name for task, name in datasets.items() if task in skill.tasks}
        configs.check_sizes([skill.tasks, skill.about], "about", 0)  # as deep as they will be in a config.json
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise BadInput(f"{path} is no skill of adapt.py: {error!s:.200}") from error
    return skill


# ---------------------------------------------------------------------------------------------- command


@dataclass
class SkillsConfig:
    """Put new tasks onto a trained run, or take them off, into a new run; evaluate.py plays it like any other."""

    run: str  # from train.py, or with skills already; it is only read
    put: str = ""  # skill files, such as runs/mt6-door-close-add-component-exact/skill.safetensors, with commas between
    take_off: str = ""  # tasks, with commas between
    out: str = ""  # run folder; default runs/NAME-TASKS


def main(config: SkillsConfig) -> dict:
    """Returns what the command's last line says: the tasks of each skill, and the run written."""
    if not (config.put or config.take_off):
        raise BadInput("give --put, with skill files, or --take-off, with tasks")
    origin = Path(config.run)
    source, policy = runs.read_config(origin), runs.load_policy(origin)
    base, skills = take_apart(policy)
    stages, datasets = source.get("adapted") or [], source.get("datasets") or {}
    before = stages[: max(0, len(stages) - len(skills))]  # of the base, if it was adapted in another way
    for skill in skills:
        learned = [stage for stage in stages if stage["tasks"] == skill.tasks]
        skill.about = {"stage": (learned or [{"tasks": skill.tasks}])[-1],
                       "datasets": {task: name for task, name in datasets.items() if task in skill.tasks}}  # fmt: skip
    from envs.pixels import IDS  # here: `put` is for robots, too, which have no simulator
    from envs.tasks import slug

    known = [task for skill in skills for task in skill.tasks]
    usual = {IDS[task][0]: task for task in known if task in IDS}  # with cameras, too, the usual names will do
    off = [usual.get(task.strip(), task.strip()) for task in config.take_off.split(",") if task.strip()]
    if config.take_off and not off:
        raise BadInput(f"--take-off: name tasks, separated by commas, got '{config.take_off}'")
    if strange := [task for task in off if task not in known]:
        raise BadInput(f"no skill for '{strange[0]}' to take off {origin}; it has {', '.join(known) or 'none'}")
    for skill in skills:
        if 0 < len(set(off) & set(skill.tasks)) < len(skill.tasks):
            raise BadInput(f"--take-off: one skill is for {', '.join(skill.tasks)}; name all of them, or none")
    skills = [skill for skill in skills if skill.tasks[0] not in off]
    put = [path.strip() for path in config.put.split(",") if path.strip()]
    if config.put and not put:
        raise BadInput(f"--put: name files of skills, separated by commas, got '{config.put}'")
    skills += map(read, put)
    policy = put_together(base, skills)
    for skill in skills:
        size = sum(x.nbytes for x in skill.tensors.values())
        say(f"{', '.join(skill.tasks)}: {size:,} bytes, leans on {skill.leans_on[:12]}")
    made = source.get("base_training") or runs.how_trained(origin)  # of the base; "adapted" says it of skills
    names = slug("-".join(task for skill in skills for task in skill.tasks))[:100] or "base"
    out = Path(config.out or Path("runs") / f"{origin.name}-{names}")
    files.exists(out)  # refuses what is no name, before links are followed
    if out.resolve().is_relative_to(origin.resolve()):
        raise BadInput(f"--out {out} is inside the run that is only read: choose another --out")
    if config.out:
        if folders.taken(out):
            raise BadInput(f"{out} exists: choose another --out")
        folders.claim(out)
    folder = out if config.out else folders.claim_free(out)
    about = provenance(source["train"].get("seed", 0), "cpu") | {
        "adapted": [*before, *(skill.about["stage"] for skill in skills)],
        "datasets": {task: name for task, name in datasets.items() if task in base.config.tasks},
        **({"base_training": made} if skills else {}),
    }
    if "fork_checksum" in source:
        about["fork_checksum"] = source["fork_checksum"]
    for skill in skills:
        about["datasets"] |= skill.about["datasets"]
    flags = made["train"] | {"policy": policy.variant, "run": str(origin)}
    runs.begin_run(folder, flags, asdict(policy.config), about)
    runs.save_weights(folder, policy.state_dict(), made["steps"], made["seconds"])
    return {"skills": [skill.tasks for skill in skills], "wrote": [str(folder)]}


if __name__ == "__main__":
    run(lambda: main(parse(SkillsConfig)))
