"""Who learns from what: labels, names and averages, against the data and the formulas."""

import numpy as np
import pytest
import torch
from conftest import command
from safetensors.torch import load_file

import adapt
import train
from adaptation import stages
from envs.demos import demonstrations
from plumbing.runs import load_policy

NEW = ["drawer-open", "drawer-close"]


@pytest.fixture(scope="module")
def adapted(tiny_run, data_dir, tmp_path_factory):
    """Two new tasks learned together, and what every training step was given."""
    steps, folder = [], tmp_path_factory.mktemp("learning") / "run"
    real = train.Learner.step

    def watch(self, loss_function, batch, lr, decay):
        found = real(self, loss_function, batch, lr, decay)
        steps.append((batch, decay, [x.detach().clone() for x in self.tracked], list(self.names)))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.Learner, "step", watch)
        command(adapt, "--run", tiny_run, "--tasks", ",".join(NEW), "--steps", 5, "--demos-per-task", 2, "--copies", 0,
                "--data-dir", data_dir, "--eval-episodes", 0, "--device", "cpu", "--out", folder)  # fmt: skip
    return folder, steps


def test_every_window_has_the_label_of_the_task_that_it_comes_from(adapted, data_dir):
    """Goals are drawn anew for every demonstration, so a goal says which task a window is of."""
    folder, steps = adapted
    tasks = load_policy(folder).config.tasks
    goals = {task: {tuple(g) for e in demonstrations([task], 2, data_dir)[task] for g in e["observations"]["goal"]}
             for task in NEW}  # fmt: skip
    assert not goals[NEW[0]] & goals[NEW[1]]
    seen = set()
    for (observation, task, *_), *_ in steps:
        for goal, index in zip(observation["goal"].tolist(), task.tolist(), strict=True):
            assert tuple(np.float32(x) for x in goal) in goals[tasks[index]]
            seen.add(tasks[index])
    assert seen == set(NEW)


def test_each_new_task_gets_a_name_of_its_own_and_learns_it(adapted, tiny_run):
    folder, _ = adapted
    policy, source = load_policy(folder), load_policy(tiny_run)
    assert policy.config.tasks == [*source.config.tasks, *NEW]
    rows, start = policy.task_embedding.weight[-2:], source.task_embedding.weight.mean(0)
    assert torch.equal(policy.task_embedding.weight[:-2], source.task_embedding.weight)
    assert not torch.equal(rows[0], start) and not torch.equal(rows[1], start) and not torch.equal(rows[0], rows[1])


def test_adapting_saves_the_average_of_the_weights_by_its_formula(adapted):
    """a <- d a + (1 - d) w with d = 1 - (1 + step)^-0.75: after step 0 it is the first weights."""
    folder, steps = adapted
    (_, _, first, names), average = steps[0], None
    for step, (_, _, weights, _) in enumerate(steps):
        d = 1 - (1 + step) ** -0.75
        average = weights if step == 0 else [d * a + (1 - d) * w for a, w in zip(average, weights, strict=True)]
    saved = load_file(folder / "model.safetensors")
    compared = [name for name in names if name in saved]
    assert any(name.startswith("router") for name in compared)
    for name in compared:
        i = names.index(name)
        assert torch.allclose(saved[name], average[i], atol=1e-6), name
        if name.startswith("router.1"):  # the stage that learned: neither the first weights nor the last
            assert not torch.allclose(saved[name], first[i], atol=1e-6)
            assert not torch.allclose(saved[name], steps[-1][2][i], atol=1e-6)


def test_the_learners_average_step_by_step():
    class One(torch.nn.Module):
        config = None
        device = torch.device("cpu")

        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.tensor([2.0]))

    policy = One()
    learner = train.Learner(policy, weight_decay=0.0)
    before = policy.w.item()
    learner.step(lambda x: (policy.w * x, {}), (torch.ones(3),), lr=0.5, decay=0.75)
    assert policy.w.item() == pytest.approx(before - 0.5, abs=1e-5)  # Adam's first step is the learning rate
    assert learner.average[0].item() == pytest.approx(0.75 * before + 0.25 * policy.w.item())


def test_a_long_gradient_is_cut_to_the_limit_and_a_short_one_is_left():
    class Two(torch.nn.Module):
        config = None
        device = torch.device("cpu")

        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.zeros(2))

    for slope, kept in (((30.0, 40.0), (0.6, 0.8)), ((0.3, 0.4), (0.3, 0.4))):
        policy = Two()
        learner = train.Learner(policy, grad_clip=1.0)
        _, norm = learner.step(lambda x, w=policy.w: ((w * x).sum(1), {}), (torch.tensor([slope]),), 1e-3, 0.0)
        assert norm.item() == pytest.approx(np.hypot(*slope))  # what is reported is the length before
        assert torch.allclose(policy.w.grad, torch.tensor(kept), atol=1e-5)


def test_training_visits_all_diffusion_steps_alike_with_standard_noise():
    class Policy:
        class config:  # noqa: N801
            diffusion_steps = 5

    torch.manual_seed(0)
    step, noise = train.draw_noise(Policy, torch.zeros(20_000, 3, 2))
    share = torch.bincount(step) / len(step)
    assert torch.allclose(share, torch.full((5,), 0.2), atol=0.02)
    assert noise.shape == (20_000, 3, 2) and abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02


def test_a_stage_is_measured_on_the_block_that_was_asked_for(adapted, tmp_path, monkeypatch):
    class Asked(Exception):
        pass

    def evaluate(policy, tasks, episodes=50, seed=0, roller=None):
        raise Asked(tasks, episodes, seed)

    monkeypatch.setattr(stages.evaluate, "evaluate", evaluate)
    with pytest.raises(Asked) as asked:
        stages.evaluated(adapted[0], tmp_path / "none.json", 2, 3, torch.device("cpu"))
    assert asked.value.args == (["reach", "push", *NEW], 2, 3)


def test_a_policy_that_is_read_from_a_run_is_ready_to_act(tiny_run):
    """Or dropout, and whatever else differs while training, would go on in an evaluation."""
    assert not any(module.training for module in load_policy(tiny_run).modules())
