"""What has to hold on a GPU as on a CPU. Where there is none these are skipped; FDP_TEST_DEVICE=cpu runs them there,
which finds out whether they work, and little else (study/gpu/section.py)."""

import copy
import os
from contextlib import contextmanager, nullcontext

import pytest
import torch
from conftest import command
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

import adapt
import train
from envs.demos import demonstrations
from plumbing import runs
from plumbing.log import Log
from study.speed.candidates import TASK, make_policy

DEVICE = os.environ.get("FDP_TEST_DEVICE") or ("cuda" if torch.cuda.is_available() else "")
pytestmark = pytest.mark.skipif(not DEVICE, reason="there is no GPU here")
ON_CPU = DEVICE == "cpu"


@pytest.fixture
def both() -> tuple:
    """The same policy on the CPU and on the device, and a batch on each."""
    here = make_policy(3, "small", torch.device("cpu"))
    observation = {part: torch.randn(32, *shape) for part, shape in here.config.observation.items()}
    actions = torch.rand(32, 8, 4) * 2 - 1
    batch = (observation, torch.zeros(32, dtype=torch.long), actions, *train.draw_noise(here, actions))
    there = copy.deepcopy(here).to(DEVICE)
    moved = tuple({n: v.to(DEVICE) for n, v in x.items()} if isinstance(x, dict) else x.to(DEVICE) for x in batch)
    return here, batch, there, moved


def gradients(policy) -> list[torch.Tensor]:
    return [p.grad.cpu() for p in policy.parameters()]


def test_losses_and_gradients_are_those_of_the_cpu(both):
    here, batch, there, moved = both
    for policy, inputs in ((here, batch), (there, moved)):
        policy.loss(*inputs)[0].mean().backward()
    exact = here.loss(*batch)[0].detach()
    torch.testing.assert_close(there.loss(*moved)[0].detach().cpu(), exact, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradients(there), gradients(here), rtol=1e-3, atol=1e-5)
    with torch.autocast(torch.device(DEVICE).type, torch.bfloat16):
        rough = there.loss(*moved)[0].detach().cpu()
    assert rough.dtype == torch.float32 and not torch.equal(rough, exact)
    assert abs(rough.mean() / exact.mean() - 1) < 0.05


@pytest.mark.parametrize("sampler,steps", [("dpm", 5), ("ddim", 10)])
def test_actions_are_those_of_the_cpu(both, sampler, steps):
    here, batch, there, _ = both
    observation, noise = {part: x.numpy() for part, x in batch[0].items()}, batch[-1]
    (expected, w), (actions, v) = (p.act(observation, [TASK] * 32, sampler, steps, noise) for p in (here, there))
    torch.testing.assert_close([actions, v], [expected, w], rtol=0, atol=1e-3)


def test_drawn_actions_come_from_the_devices_generator(both):
    *_, there, moved = both
    observation = {part: x.cpu().numpy() for part, x in moved[0].items()}
    first, again, other = (
        there.act(observation, [TASK] * 32, "ddpm", None, None, torch.Generator(DEVICE).manual_seed(seed))[0]
        for seed in (0, 0, 1)
    )
    assert (first == again).all() and (first != other).any()


def test_compiled_losses_and_gradients_are_the_eager_ones(both):
    """With code generated for a GPU, and without for a CPU, which would take a minute."""
    *_, there, moved = both
    there.loss(*moved)[0].mean().backward()
    eager, expected = there.loss(*moved)[0].detach(), gradients(there)
    there.zero_grad()
    compiled = torch.compile(there.loss, fullgraph=True, backend="aot_eager" if ON_CPU else "inductor")(*moved)[0]
    compiled.mean().backward()
    torch.testing.assert_close(compiled.detach(), eager, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradients(there), expected, rtol=1e-3, atol=1e-5)


class NobodyReads(TorchDispatchMode):
    """Refuses what a GPU would have to finish its work for: a number, or a shape that depends on numbers."""

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        if function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            raise AssertionError(f"{function} makes the CPU wait")
        return function(*arguments, **(named or {}))


@contextmanager
def no_waiting():
    """CUDA says itself what waits, a copy from the CPU for example; the other check works on a CPU too."""
    with NobodyReads():
        if not ON_CPU:
            torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            if not ON_CPU:
                torch.cuda.set_sync_debug_mode("default")


def test_a_training_step_never_waits_for_the_gpu(both, data_dir, tmp_path):
    """Between two lines of the log the CPU only gives orders: windows, noise, loss, gradient, average, sums. Training,
    and adapting, of which only some rows learn."""
    _, _, policy, _ = both
    demos = demonstrations([TASK], 3, data_dir)
    windows = train.Windows(policy, [TASK], demos, torch.device(DEVICE))
    grown = adapt.grow(policy, ["push"], 1, [0], rank=None)
    adapt.train_only(grown, [3], [1], encoder=False)
    for number, learning in enumerate((policy, grown)):
        learner, folder = train.Learner(learning), tmp_path / str(number)
        folder.mkdir()
        log, before = Log(folder, learning.device), [p.detach().clone() for p in learner.parameters]
        for step in range(4):
            with no_waiting() if step >= 2 else nullcontext():  # by then everything is set up
                observation, task, actions = windows.sample(16)
                batch = (observation, task, actions, *train.draw_noise(learning, actions))
                losses, _ = learner.step(learning.loss, batch, 1e-3, 0.5)
                log.add(losses)
        assert log.count == 4 and 0 < log.write(4)["loss"] < 100
        assert all((p != old).any() for p, old in zip(learner.parameters, before, strict=True))


# ------------------------------------------------------------------------------------------------ whole commands

FLAGS = ["--tasks", "toy:Point-v0", "--steps", 40, "--batch-size", 16, "--demos-per-task", 5, "--components", 2,
         "--device", DEVICE, "--save-every", 20]  # fmt: skip


@pytest.fixture(scope="module")
def toy_run(data_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu") / "run"
    summary = command(train, *FLAGS, "--data-dir", data_dir, "--out", folder, "--eval-episodes", 4)
    assert 0 <= summary["mean_success"] <= 1
    return folder


def test_resuming_is_as_if_nothing_had_been(toy_run, data_dir, tmp_path, monkeypatch):
    """To the last bit on one CPU; on a GPU sums may be added in another order."""
    save = train.resume.save

    def interrupt(*words):
        save(*words)
        raise KeyboardInterrupt

    flags = [*FLAGS, "--data-dir", data_dir, "--out", tmp_path / "run", "--eval-episodes", 0]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train.resume, "save", interrupt)
        command(train, *flags)
    assert runs.training_record(tmp_path / "run")["steps"] == 20
    torch.randn(7, device=DEVICE)  # whatever was drawn meanwhile
    command(train, *flags, "--resume")
    resumed, whole = (load_file(folder / "model.safetensors") for folder in (tmp_path / "run", toy_run))
    torch.testing.assert_close(resumed, whole, rtol=0, atol=0 if ON_CPU else 1e-5)


WAYS = [["--retain", "exact"], ["--retain", "replay"], ["--mode", "full"]]


@pytest.mark.parametrize("way", WAYS[:1] if ON_CPU else WAYS)  # test_adapt.py has them all on a CPU
def test_adapting(toy_run, data_dir, tmp_path, way):
    """The new task is learned, played, and where old actions are said to stay what they were, they do."""
    command(adapt, "--run", toy_run, "--tasks", "toy:OtherPoint-v0", *way, "--steps", 20, "--batch-size", 16,
            "--demos-per-task", 5, "--eval-episodes", 2, "--device", DEVICE, "--data-dir", data_dir, "--out",
            tmp_path / "run")  # fmt: skip
    old, new = (runs.load_policy(folder, DEVICE) for folder in (toy_run, tmp_path / "run"))
    assert new.config.tasks == ["toy:Point-v0", "toy:OtherPoint-v0"]
    observation = {"point": torch.rand(6, 2).numpy(), "goal": torch.rand(6, 2).numpy()}
    noise = torch.randn(6, 8, 2)
    before, after = (policy.act(observation, ["toy:Point-v0"] * 6, noise=noise)[0] for policy in (old, new))
    fresh, _ = new.act(observation, ["toy:OtherPoint-v0"] * 6, noise=noise)
    assert abs(fresh - before).max() > 1e-4
    moved = abs(after - before).max()
    assert (moved <= (0 if ON_CPU else 1e-6)) if "exact" in way else moved > 1e-4
