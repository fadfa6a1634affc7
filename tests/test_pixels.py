"""Cameras: the same episodes as without, pictures that depend on nothing else, and a policy that gets nothing more."""

import json
import os
import subprocess
import sys

import gymnasium
import h5py
import mujoco
import numpy as np
import pytest
import safetensors
import torch
from conftest import ROOT, command
from gymnasium.utils.env_checker import check_env

import adapt
import encoder
import evaluate
import train
from adaptation import stages
from envs import demos, pixels
from envs.metaworld import GROUPS, TASKS, MetaWorldEnv
from envs.pixels import CAMERAS, IDS, PixelsEnv
from envs.rollout import Roller
from envs.tasks import make, name_parts, resolve_tasks, spaces
from envs.worker import Episode, Worker
from plumbing import opengl
from plumbing.cli import BadInput
from plumbing.runs import build_policy, load_policy
from variants.staged import LoRA

pytestmark = pytest.mark.skipif(not opengl.find(), reason=f"no OpenGL here; {opengl.INSTALL}")
CPU = torch.device("cpu")


def together(task: str, seed: int, steps: int = 25, size: int = 64):
    """An environment with cameras and one without, after the same actions. -> both, and the last observation."""
    seen, blind = PixelsEnv(task, size), MetaWorldEnv(task)
    observation, _ = seen.reset(seed=seed)
    blind.reset(seed=seed)
    for _ in range(steps):
        action = blind.expert_action()
        assert np.array_equal(action, seen.expert_action())
        one, other = seen.step(action), blind.step(action)
        assert np.array_equal(seen.state, blind.state) and one[1:] == other[1:]
        observation = one[0]
    return seen, blind, observation


# ------------------------------------------------------------------------------------------------ environment


def test_ids_and_spaces():
    assert IDS["fdp/push-pixels-v3"] == ("push", 64) and IDS["fdp/push-pixels128-v3"] == ("push", 128)
    assert len(IDS) == 3 * len(TASKS) and all(name in gymnasium.registry for name in IDS)
    env = gymnasium.make("fdp/push-pixels96-v3").unwrapped
    assert {part: space.shape for part, space in env.observation_space.items()} == spaces(
        "fdp/push-pixels96-v3"
    ).observation
    assert spaces("fdp/push-pixels96-v3").observation["corner"] == (3, 96, 96)
    check_env(env, skip_render_check=True)
    assert isinstance(make("fdp/push-pixels-v3"), PixelsEnv)  # not wrapped: simulators clone it


@pytest.mark.parametrize("task", ["hammer", "door-open", "window-close"])
def test_an_episode_is_the_same_with_and_without_cameras(task):
    seen, blind, observation = together(task, seed=3)
    for _ in range(5):  # looking changes nothing either
        seen.observe()
    assert np.array_equal(seen.step(np.zeros(4))[0]["proprioception"], blind.step(np.zeros(4))[0]["proprioception"])
    assert set(observation) == {"corner", "wrist", "proprioception"}
    assert all(observation[c].dtype == np.uint8 and observation[c].std() > 10 for c in CAMERAS)


def test_pictures_are_the_right_way_up_and_not_mirrored():
    """Above the table it is dark, the arm comes from the left, and a raised hand is higher in the picture."""
    env = PixelsEnv("push")
    low = env.reset(seed=1)[0]["corner"].astype(int)
    assert low[:, :10, 40:].mean() + 20 < low[:, -10:].mean()
    red = low[0] - low[1:].max(0)
    assert (red[:, :20] > 60).sum() > 3 * (red[:, -20:] > 60).sum()
    for _ in range(15):
        high = env.step(np.array([0.0, 0.0, 1.0, 0.0]))[0]["corner"].astype(int)
    fingers = [np.argwhere((x[2] > 150) & (x[0] < 120)).mean(0) for x in (low, high)]  # the cyan one
    assert fingers[1][0] < fingers[0][0] - 2


def test_what_is_hidden_is_in_the_pictures_or_nowhere():
    """Objects and goal are put elsewhere, behind the policy's back: what it gets changes in the pictures alone."""
    env, _, before = together("push", seed=1, steps=3)
    env.sim.data.qpos[9:11] += (0.05, -0.05)  # the puck
    env.sim.model.site("goal").pos[:2] += 0.1
    env.state = env.state.copy()
    env.state[4:18] += 1.0
    env.state[36:] += 1.0
    after = env.observe()
    assert np.array_equal(before["proprioception"], after["proprioception"])
    assert (before["corner"] != after["corner"]).any()


@pytest.mark.parametrize("task", pixels.FREE_GOALS)
def test_the_goal_can_be_seen(task):
    env = PixelsEnv(task)
    before = env.reset(seed=1)[0]["corner"].astype(int)
    for i in range(env.sim.model.nsite):
        if "goal" in env.sim.model.site(i).name:
            env.sim.model.site(i).pos[:2] += (0.1, -0.1)
    assert np.abs(env.observe()["corner"].astype(int) - before).max() > 30


def test_tasks_whose_goal_the_cameras_lack_are_the_ones_that_were_counted():
    counted = json.loads((ROOT / "study/pixels/goals.json").read_text())
    for cameras, unseen in pixels.GOAL_UNSEEN.items():
        for task in pixels.FREE_GOALS:
            shown = [size for size in pixels.SIZES if counted["tasks"][task][str(size)][cameras] >= 22.5]
            least = min(shown, default=0)
            assert unseen.get(task, pixels.SIZES[0]) == least, (cameras, task)
            assert [size for size in pixels.SIZES if size >= (least or 999)] == shown  # larger ones show it, too
    assert counted["episodes"] == 25


def test_a_goal_that_only_could_be_guessed_is_refused_where_a_task_is_learned(run, usual, tmp_path):
    seen = "'coffee-pull' from the corner and wrist camera in 64 pixels: its goal is a small ball, .* 96 pixels show it"
    with pytest.raises(BadInput, match=seen):
        command(adapt, "--run", run, "--tasks", "coffee-pull", "--steps", 1, *usual, "--out", tmp_path / "new")
    pixels.check_goals(["fdp/coffee-pull-pixels96-v3", "fdp/hammer-pixels-v3", "coffee-pull"], PARTS)
    with pytest.raises(BadInput, match="'reach' from the wrist camera in 128 pixels: .* lack it; both cameras show it"):
        pixels.check_goals(["fdp/reach-pixels128-v3"], ["wrist", "proprioception"])


def test_pictures_depend_on_the_seed_and_on_nothing_that_was_drawn_before():
    first = {task: PixelsEnv(task).reset(seed=5)[0] for task in ("hammer", "push")}
    other, _, _ = together("window-close", seed=2, steps=5, size=96)
    again = PixelsEnv("hammer")
    again.reset(seed=9)
    again.step(np.ones(4))
    for env in (PixelsEnv("hammer"), again, again.clone(), other.clone() and PixelsEnv("hammer").clone()):
        seen, _ = env.reset(seed=5)
        assert all(np.array_equal(seen[part], x) for part, x in first["hammer"].items())
    assert (PixelsEnv("hammer").reset(seed=6)[0]["corner"] != first["hammer"]["corner"]).any()


def test_the_first_picture_shows_where_things_were_put():
    """MetaWorld's own first observation does not: in window-close the window is 20 cm off."""
    env = PixelsEnv("window-close")
    first = env.reset(seed=2)[0]["corner"]
    mujoco.mj_forward(env.sim.model, env.sim.data)
    assert np.array_equal(env.observe()["corner"], first)


def test_films_in_one_process_do_not_mix_with_each_other_or_with_cameras():
    """Each has an OpenGL context of its own, in which its own meshes are loaded."""
    films = [MetaWorldEnv("soccer", "rgb_array"), MetaWorldEnv("lever-pull", "rgb_array"),
             PixelsEnv("hammer", render_mode="rgb_array")]  # fmt: skip
    for env in films:
        env.reset(seed=1)
    first = [env.render() for env in films]
    PixelsEnv("push").reset(seed=1)
    assert all(np.array_equal(env.render(), picture) for env, picture in zip(films, first, strict=True))
    assert all(picture.shape == (480, 480, 3) and picture[:100].std() > 10 for picture in first)
    assert len({picture.tobytes() for picture in first}) == 3


def test_simulators_that_were_begun_before_opengl_was_found_draw_too(monkeypatch, capsys):
    """study/router/measure.py and study/adapt/one_task.py begin them before anybody asks for a task's pictures."""
    found = os.environ["MUJOCO_GL"]
    monkeypatch.delenv("MUJOCO_GL")
    episodes = [Episode("fdp/push-pixels-v3", seed, expert=True) for seed in (1, 2)]
    with Roller(1) as roller:
        before = [*roller.workers.values()]
        monkeypatch.setenv("MUJOCO_GL", found)  # as `spaces` does
        for episode in episodes:
            (played,) = roller.play_expert([episode])
            assert played.success and played.observations[0]["corner"].std() > 10
        after = [*roller.workers.values()]
    assert len(after) == 1 and before != after and before[0].poll() is not None  # all of them, once
    assert "died" not in capsys.readouterr().err


def test_only_what_somebody_looks_at_is_drawn(monkeypatch):
    drawn, draw = [], pixels.Renderer.draw
    monkeypatch.setattr(pixels.Renderer, "draw", lambda self, env, c: drawn.append(c) or draw(self, env, c))
    worker, task = Worker(), "fdp/push-pixels-v3"
    ((_, first, _),) = worker.chunk([(0, Episode(task, 1), None)])
    assert drawn == [*CAMERAS] and first["corner"].dtype == np.uint8
    ((_, last, _),) = worker.chunk([(0, None, np.tile([1.0, 0, 0, 0], (4, 1)))])
    assert drawn == [*CAMERAS] * 2 and (last["corner"] != first["corner"]).any()  # of four steps the last one
    _, env = worker.running[0]
    assert np.array_equal(last["wrist"], env.observe()["wrist"])
    drawn.clear()
    worker.expert(Episode(task, 2, expert=True, recorded=False))
    assert len(drawn) <= 2 and worker.expert(Episode(task, 2, expert=True)).observations
    assert len(drawn) > 40


@pytest.mark.parametrize("shift", pixels.SHIFTS)
def test_a_shift_changes_pictures_and_nothing_else(shift):
    usual, other = PixelsEnv("hammer"), PixelsEnv("hammer").shifted(shift)
    one, two = (env.reset(seed=4)[0] for env in (usual, other))
    twin = other.clone()
    assert all(np.array_equal(two[part], x) for part, x in twin.reset(seed=4)[0].items())
    assert np.array_equal(one["proprioception"], two["proprioception"]) and np.array_equal(usual.state, other.state)
    changed = {c for c in CAMERAS if (one[c] != two[c]).any()}
    one_of_them = {"camera": {"corner"}, "corner-off": {"corner"}, "wrist-off": {"wrist"}}
    assert changed == one_of_them.get(shift, {"corner", "wrist"})
    if shift.endswith("off"):
        assert not two[changed.pop()].any()
    assert np.array_equal(PixelsEnv("hammer").reset(seed=4)[0]["corner"], one["corner"])  # others are as they were


def test_shifted_episodes_have_simulators_of_their_own():
    worker, seen = Worker(), {}
    for i, shift in enumerate(["", "table", "", "table"]):
        ((_, observation, _),) = worker.chunk([(i, Episode("fdp/push-pixels-v3", 1, shift=shift), None)])
        assert np.array_equal(seen.setdefault(shift, observation)["corner"], observation["corner"])
    assert (seen[""]["corner"] != seen["table"]["corner"]).any()
    assert Episode("x", 1, shift="table").fresh().shift == "table"


def test_without_opengl_it_is_one_line(monkeypatch, tmp_path):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(opengl, "_works", lambda name: False)
    spaces.cache_clear()
    with pytest.raises(BadInput, match="MuJoCo finds no OpenGL here; on Debian or Ubuntu: apt-get install libosmesa6"):
        command(train, "--tasks", "push", "--observation", "pixels", "--out", tmp_path / "run", "--data-dir", tmp_path)
    assert not list(tmp_path.iterdir())


def test_how_to_draw_is_told_where_mujoco_gl_says_it_wrongly(monkeypatch):
    """MuJoCo reads it while it is imported, before any command could refuse anything."""
    words = [sys.executable, ROOT / "train.py", "--help"]
    done = subprocess.run(words, env=os.environ | {"MUJOCO_GL": "foo"}, capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "MUJOCO_GL: foo; MUJOCO_GL=foo says how to draw: unset it" in done.stderr
    monkeypatch.setenv("MUJOCO_GL", "disable")
    spaces.cache_clear()
    with pytest.raises(BadInput, match="no OpenGL here; MUJOCO_GL=disable says how to draw: unset it, or name another"):
        spaces("fdp/push-pixels-v3")


@pytest.mark.skipif("DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ, reason="there is a screen")
def test_glfw_without_a_screen_draws_nothing():
    """It only warns, and gives a context."""
    assert not opengl._works("glfw")
    program = "import envs, gymnasium; gymnasium.make('fdp/push-pixels-v3').reset(seed=0)"
    bare = {name: value for name, value in os.environ.items() if name != "MUJOCO_GL"}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=bare, capture_output=True, text=True)
    assert "BadInput: MuJoCo cannot draw" in done.stderr and "before anything imports MuJoCo" in done.stderr


@pytest.mark.parametrize("flags,message", [
    (["--cameras", "corner,side"], "--cameras must be one or more of corner, wrist, got 'corner,side'"),
    (["--cameras", ""], "--cameras must be one or more"),
    (["--cameras", "wrist", "--observation", "state"], "--cameras and --image-size go with --observation pixels"),
    (["--image-size", 96, "--observation", "state"], "--cameras and --image-size go with --observation pixels"),
    (["--tasks", "CartPole-v1:x"], "is not the name of a module"),
    (["--tasks", "toy:Point-v0"], "--observation pixels is for MetaWorld's tasks, and 'toy:Point-v0' is none"),
    (["--image-size", 65], "image-size"),
    (["--tasks", "mt6,reach", "--cameras", "wrist"], "'reach' from the wrist camera in 64 pixels: its goal is a small"),
    (["--tasks", "coffee-push"], "'coffee-push' from the corner and wrist camera in 64 .* lack it; 96 pixels show it"),
    (["--tasks", "fdp/push-pixels96-v3"], "'fdp/push-pixels96-v3' has pictures of 96 pixels, and 64 are asked for"),
])  # fmt: skip
def test_what_cannot_be_seen_is_refused(tmp_path, flags, message):
    line = ["--observation", "pixels", "--out", tmp_path / "run", "--data-dir", tmp_path, *flags]
    with pytest.raises(BadInput, match=message):
        command(train, *([] if "--tasks" in flags else ["--tasks", "push"]), *line)
    assert not list(tmp_path.iterdir())


def test_two_names_of_one_task_are_one_task():
    assert pixels.through_cameras("pixels", ["push", "fdp/push-pixels-v3", "reach"], 64) == [
        "fdp/push-pixels-v3", "fdp/reach-pixels-v3"]  # fmt: skip
    assert pixels.as_policy_sees(["fdp/push-pixels96-v3"], ["reach"]) == ["fdp/reach-pixels96-v3"]
    with pytest.raises(BadInput, match="this policy sees pictures of 96 pixels, and 'fdp/reach-pixels-v3' has 64"):
        pixels.as_policy_sees(["fdp/push-pixels96-v3"], ["fdp/reach-pixels-v3"])
    with pytest.raises(BadInput, match="^this policy sees MetaWorld's tasks through cameras, and 'toy:Point-v0' is n"):
        pixels.as_policy_sees(["fdp/push-pixels96-v3"], ["reach", "toy:Point-v0"])


# ------------------------------------------------------------------------------------------------ encoder


def test_a_spatial_softmax_says_where_a_feature_is():
    features = torch.full((1, 3, 5, 9), -100.0)
    features[0, 0, 0, 8] = features[0, 1, 4, 6] = features[0, 2, 2, 4] = 100.0  # a corner, an edge, the middle
    x = encoder.SpatialSoftmax()(features)
    assert torch.allclose(x, torch.tensor([[1.0, -1, 0.5, 1, 0, 0]]), atol=1e-6)  # x, y of each
    assert torch.allclose(encoder.SpatialSoftmax()(torch.zeros(2, 1, 4, 4)), torch.zeros(2, 2), atol=1e-6)


def test_resnet_18_is_the_published_one():
    """11,689,512 parameters, 513,000 of them in the last layer; GroupNorm has as many as BatchNorm. Ours adds a 1x1."""
    *layers, head, _ = encoder.resnet_eye()
    assert sum(p.numel() for layer in layers for p in layer.parameters()) == 11_689_512 - 513_000
    x, shapes = torch.zeros(1, 3, 128, 128), []
    for layer in layers:
        x = layer(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes[3] == (64, 32, 32) and shapes[-1] == (512, 4, 4) and head(x).shape[1] == 64
    assert encoder.resnet_eye()(torch.zeros(2, 3, 128, 128)).shape == (2, 128)


def seen(n: int, size: int = 64, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pictures = {c: torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=generator) for c in CAMERAS}
    return pictures | {"proprioception": torch.randn(n, 2, 4, generator=generator)}


PARTS = {"corner": (3, 64, 64), "wrist": (3, 64, 64), "proprioception": (2, 4)}


@pytest.mark.parametrize("eye,size", [("small", 64), ("small", 96), ("resnet18", 128)])
def test_every_part_reaches_the_condition_and_learns(eye, size):
    torch.manual_seed(0)
    parts = {name: (3, size, size) if len(shape) == 3 else shape for name, shape in PARTS.items()}
    made, observation = encoder.PixelsEncoder(parts, 16, eye), seen(3, size)
    made.fit(observation)
    before = made(observation)
    assert before.shape == (3, 16)
    before.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in made.parameters())
    for part, x in observation.items():
        other = made(observation | {part: x.flip(0)})
        assert not torch.allclose(other, before) and torch.allclose(other[1], before[1], atol=1e-5)
    assert torch.allclose(made({name: x.float() for name, x in observation.items()}), before)  # as acting gives them


@pytest.mark.parametrize("size,most", [(32, 1), (64, 1), (96, 2), (128, 2)])
def test_augmentation_moves_pictures_by_up_to_a_pixel_of_64_and_nothing_else(size, most):
    torch.manual_seed(0)
    observation, inner = seen(400, size), slice(8, size - 8)
    made = encoder.PixelsEncoder({part: tuple(x.shape[1:]) for part, x in observation.items()}, 16)
    moved = made.augment(observation)
    assert torch.equal(moved["proprioception"], observation["proprioception"])
    found = {camera: [] for camera in CAMERAS}
    for camera in CAMERAS:
        for old, new in zip(observation[camera][:, 0].numpy(), moved[camera][:, 0].numpy(), strict=True):
            (by,) = [(dy, dx) for dy in range(-4, 5) for dx in range(-4, 5)
                     if np.array_equal(new[inner, inner], np.roll(old, (-dy, -dx), (0, 1))[inner, inner])]  # fmt: skip
            found[camera].append(by)
    for shifts in map(np.array, found.values()):
        assert (shifts.min(), shifts.max()) == (-most, most) and np.abs(shifts.mean(0)).max() < 0.5
        assert np.abs(np.bincount(shifts[:, 0] + most) / len(shifts) - 1 / (2 * most + 1)).max() < 0.08
    assert found["corner"] != found["wrist"]  # each camera by its own


def test_the_lit_forks_pictures_are_moved_and_as_a_whole_darker_or_brighter(monkeypatch):
    torch.manual_seed(0)
    observation = seen(400)
    made = small_policy(variant="lit").encoder
    moved = []
    monkeypatch.setattr(made, "shifted", lambda pictures: moved.append(len(pictures)) or pictures)
    assert torch.equal(made.augment(observation)["proprioception"], observation["proprioception"])
    assert moved == [400, 400]
    found = {}
    for camera, lit in ((camera, made.augment(observation)[camera]) for camera in CAMERAS):
        old = observation[camera].float()
        assert lit.dtype == torch.float32 and lit.min() >= 0 and lit.max() == 255
        inside = (old > 0) & (lit < 255)
        times = torch.where(inside, lit / old, torch.nan)
        found[camera] = times.nanmean((1, 2, 3))
        assert torch.allclose(times[inside], found[camera][:, None, None, None].expand_as(old)[inside])
        assert torch.equal(lit[~inside & (old > 0)], torch.full_like(lit[~inside & (old > 0)], 255))
        assert 0.6 <= found[camera].min() < 0.62 and 1.38 < found[camera].max() <= 1.4
        assert (found[camera] < 1).float().mean().item() == pytest.approx(0.5, abs=0.08)
    assert not torch.allclose(found["corner"], found["wrist"])  # each camera by its own
    with pytest.raises(ValueError, match="policy lit learns from pictures: --observation pixels"):
        small_policy(variant="lit", observation={"proprioception": (2, 4)})


def test_augmentation_is_for_training_only_also_where_the_encoder_is_frozen():
    policy = small_policy()
    observation, task = seen(4), torch.zeros(4, dtype=torch.long)
    policy.eval()
    assert torch.equal(policy.encode(observation, task), policy.encode(observation, task))
    policy.train()
    policy.encoder.eval().requires_grad_(False)
    assert not torch.allclose(policy.encode(observation, task), policy.encode(observation, task))


@pytest.mark.parametrize("parts,eye,message", [
    ({"corner": (64, 64, 3)}, "small", r"pictures must be \(3, h, w\)"), ({"corner": (3, 16, 16)}, "small", "32 x 32"),
    (PARTS, "third", "unknown eye 'third': choose from small, resnet18"),
    ({"a": (3, 32, 32)}, "resnet18", r"pictures are too small for this backbone: \(1, 1\) places are left"),
])  # fmt: skip
def test_what_no_eye_can_see_is_refused(parts, eye, message):
    with pytest.raises(ValueError, match=message):
        encoder.PixelsEncoder(parts, 16, eye)


def test_a_backbone_of_ones_own_may_have_any_width(monkeypatch):
    def mine():
        return torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.BatchNorm2d(5), torch.nn.Flatten())

    monkeypatch.setitem(encoder.EYES, "mine", mine)
    made = encoder.PixelsEncoder(PARTS, 16, "mine")
    assert made.eyes[0][1].num_batches_tracked == 0 and all(module.training for module in made.modules())
    assert made(seen(3, 64)).shape == (3, 16)
    monkeypatch.setitem(encoder.EYES, "mine", lambda: mine()[:2])
    with pytest.raises(ValueError, match=r"backbone 'mine' must turn .* into \(B, n\), not \(1, 5, 62, 62\): flatten"):
        encoder.PixelsEncoder(PARTS, 16, "mine")


def test_numbers_beside_pictures_outside_what_is_known_are_told():
    """Of 8 numbers one, at seven scales, in every window; pictures have a range of their own."""
    policy = small_policy()
    numbers = seen(3, 64) | {"proprioception": torch.zeros(3, 2, 4)}
    policy.encoder.numbers.mean.zero_()
    policy.encoder.numbers.scale.fill_(1.0)
    numbers["proprioception"][:, 0, 0] = 7.0
    said = stages.outside(policy, numbers, torch.zeros(3, 8, 4))
    assert said.startswith(f"{1 / 8:.1%} of its observed numbers (by up to 2.0 scales) are outside")


def small_policy(variant="fdp", **changes):
    torch.manual_seed(0)
    return build_policy(variant, {"observation": PARTS, "action_low": (-1.0,) * 4, "action_high": (1.0,) * 4,
                                "tasks": ["a", "b"], "components": 2, "channels": (8, 16), **changes})  # fmt: skip


def test_a_policy_with_one_camera_sees_that_one():
    parts = pixels.parts_seen("wrist", PARTS)
    assert list(parts) == ["wrist", "proprioception"] and list(pixels.parts_seen("corner,wrist", PARTS)) == list(PARTS)


def test_a_policy_with_one_camera_gets_nothing_of_the_other():
    policy = small_policy(observation={part: PARTS[part] for part in ("wrist", "proprioception")}).eval()
    noise, observation = torch.randn(2, 8, 4), {name: x.numpy() for name, x in seen(2).items()}
    before = policy.act(observation, ["a", "b"], noise=noise)[0]
    for part, changes in (("corner", False), ("wrist", True), ("proprioception", True)):
        other = policy.act(observation | {part: observation[part][::-1].copy()}, ["a", "b"], noise=noise)[0]
        assert np.array_equal(other, before) != changes


# ------------------------------------------------------------------------------------------------ all of it


@pytest.fixture(scope="module")
def usual(data_dir) -> list:
    return ["--batch-size", 8, "--demos-per-task", 2, "--data-dir", data_dir, "--eval-episodes", 0, "--device", "cpu"]


@pytest.fixture(scope="module")
def flags(usual) -> list:
    """Two tasks, seconds of training."""
    return [*usual, "--tasks", "reach,drawer-open", "--observation", "pixels", "--steps", 6, "--components", 2,
            "--precision", "float32"]  # fmt: skip


@pytest.fixture(scope="module")
def run(flags, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pixels") / "run"
    command(train, *flags, "--out", folder)
    return folder


def test_from_pictures_a_batch_has_four_steps_and_noises_for_each(flags, tmp_path, monkeypatch):
    """Encoded once; in the rows' order. From the state one each: tests/test_forks.py draws such batches again."""
    batches, looked, learn = [], [], train.Learner.step

    def step(self, loss_function, batch, *how):
        batches.append(batch)
        hook = self.policy.encoder.register_forward_hook(lambda _, __, condition: looked.append(len(condition)))
        said = learn(self, loss_function, batch, *how)
        hook.remove()
        return said

    monkeypatch.setattr(train.Learner, "step", step)
    command(train, *flags, "--out", tmp_path / "run", "--steps", 2, "--batch-size", 5)
    assert looked == [5, 5]
    for observation, task, actions, steps, noise in batches:
        assert len(observation["corner"]) == 5 and len(task) == len(actions) == len(steps) == len(noise) == 20
        for x in (task, actions):
            assert torch.equal(x, x[::4].repeat_interleave(4, 0))
        assert not torch.equal(steps, steps[::4].repeat_interleave(4)) and len(noise.unique(dim=0)) == 20


def test_demonstrations_are_those_without_cameras_and_their_pictures(run, data_dir):
    with_cameras = demos.demonstrations(["fdp/reach-pixels-v3"], 2, data_dir)["fdp/reach-pixels-v3"]
    without = demos.demonstrations(["reach"], 2, data_dir)["reach"]
    for one, other in zip(with_cameras, without, strict=True):
        assert np.array_equal(one["actions"], other["actions"])
        assert np.array_equal(one["observations"]["proprioception"], other["observations"]["proprioception"])
        pictures = one["observations"]["corner"]
        assert pictures.dtype == np.uint8 and pictures.shape == (len(one["actions"]) + 1, 3, 64, 64)
    env = PixelsEnv("reach")  # what was stored is what is drawn now, without loss
    assert np.array_equal(with_cameras[0]["observations"]["wrist"][0], env.reset(seed=0)[0]["wrist"])
    path = data_dir / "fdp" / "fdp-reach-pixels-v3" / "expert-v0" / "data" / "main_data.hdf5"
    with h5py.File(path) as file:
        stored = file["episode_0/observations/corner"]
        assert stored.compression == "gzip" and stored.id.get_storage_size() < 0.5 * stored.size


def test_a_dataset_of_another_size_is_refused(run, data_dir, tmp_path):
    line = ["--tasks", "reach", "--observation", "pixels", "--image-size", 96, "--data-dir", data_dir, "--steps", 1,
            "--demos-per-task", 2, "--dataset-id", "fdp/fdp-reach-pixels-v3/expert-v0{task}"]  # fmt: skip
    (data_dir / "fdp/fdp-reach-pixels-v3/expert-v0fdp-reach-pixels96-v3").symlink_to("expert-v0")
    try:
        with pytest.raises(
            BadInput, match=r"observations '\w+' have shape \(\d+, 3, 64, 64\), expected \(steps, 3, 96"
        ):
            command(train, *line, "--out", tmp_path / "run")
    finally:
        (data_dir / "fdp/fdp-reach-pixels-v3/expert-v0fdp-reach-pixels96-v3").unlink()
    assert not (tmp_path / "run").exists()


def test_a_run_knows_what_it_sees_and_is_played_by_the_tasks_usual_names(run, tmp_path):
    policy = load_policy(run, CPU)
    assert policy.config.tasks == ["fdp/reach-pixels-v3", "fdp/drawer-open-pixels-v3"]
    assert {part: tuple(shape) for part, shape in policy.config.observation.items()} == PARTS
    command(evaluate, "--run", run, "--tasks", "reach", "--episodes", 1, "--out", tmp_path / "e.json")
    result = json.loads((tmp_path / "e.json").read_text())["tasks"]
    assert list(result) == ["fdp/reach-pixels-v3"] and result["fdp/reach-pixels-v3"]["expert"]["successes"] == 1


def test_evaluating_what_looks_otherwise(run, tiny_run, tmp_path, monkeypatch):
    line, shifts, play = ["--tasks", "reach", "--episodes", 1], set(), evaluate.Roller.play

    def watched(self, act, todo, *rest, **more):
        shifts.update(episode.shift for episode in todo)
        return play(self, act, todo, *rest, **more)

    monkeypatch.setattr(evaluate.Roller, "play", watched)
    command(evaluate, "--run", run, *line, "--shift", "corner-off")
    assert shifts == {"corner-off"}
    assert "fdp/reach-pixels-v3" in json.loads((run / "evaluation-corner-off.json").read_text())["tasks"]
    for shift in ("corner-off", "camera"):
        with pytest.raises(BadInput, match=f"^--shift {shift} is of the corner camera, and this policy does not look"):
            pixels.check_shift(shift, ["fdp/reach-pixels-v3"], ["wrist", "proprioception"])
    for folder, shift in ((run, "dark"), (tiny_run, "light")):
        with pytest.raises(BadInput, match=f"--shift must be one of camera, light, .* with cameras, got '{shift}'"):
            command(evaluate, "--run", folder, *line, "--shift", shift)


def test_a_new_task_leaves_what_old_ones_do_to_the_bit(run, usual, tmp_path, monkeypatch):
    """With an adapter of the eyes, which learns from moved pictures, while the eyes of old tasks stay as they are."""
    moved, augment = [], encoder.PixelsEncoder.augment

    def watched(self, observation):
        moved.append(len(observation["corner"]))
        return augment(self, observation)

    monkeypatch.setattr(encoder.PixelsEncoder, "augment", watched)
    command(adapt, "--run", run, "--tasks", "push", "--steps", 4, *usual, "--out", tmp_path / "new")
    assert moved == [2, 8, 8, 8, 8]  # two first, to see whether learning would move what old tasks act with
    old, new = load_policy(run, CPU), load_policy(tmp_path / "new", CPU)
    assert new.config.tasks == [*old.config.tasks, "fdp/push-pixels-v3"]
    assert stages.unchanged(old, new) == old.config.tasks
    layers = [name for name, _ in LoRA.layers(new.encoder)]
    moved = [name for name, A in zip(layers, new.residual[-1].A, strict=True) if A.any()]
    assert moved == layers and sum(name.startswith("eyes") for name in layers) == 8
    command(adapt, "--run", run, "--tasks", "push", "--retain", "replay", "--steps", 2, *usual, "--out", tmp_path / "r")
    with safetensors.safe_open(tmp_path / "r" / "replay.safetensors", "pt") as file:
        assert file.get_tensor("fdp/reach-pixels-v3/corner").dtype == torch.uint8  # bytes in the memory, too


def test_a_policy_with_one_camera_keeps_one_in_its_memory(usual, tmp_path):
    line = [*usual, "--tasks", "door-open", "--observation", "pixels", "--cameras", "wrist", "--steps", 2]
    command(train, *line, "--out", tmp_path / "one")
    for number, task in enumerate(("drawer-open", "push")):
        command(adapt, "--run", tmp_path / ("one" if number == 0 else "0"), "--tasks", task, "--retain", "replay",
                "--steps", 2, *usual, "--out", tmp_path / str(number))  # fmt: skip
    with safetensors.safe_open(tmp_path / "1" / "replay.safetensors", "pt") as file:
        assert {name.rpartition("/")[2] for name in file.keys()} == {"wrist", "proprioception"}  # noqa: SIM118


def test_going_on_gives_the_same_weights(run, flags, tmp_path):
    real, steps = train.Learner.step, []

    def stop(*arguments):
        steps.append(0)
        if len(steps) == 5:
            raise MemoryError
        return real(*arguments)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(train.Learner, "step", stop)
        command(train, *flags, "--save-every", 3, "--out", tmp_path / "run")
    command(train, *flags, "--save-every", 3, "--out", tmp_path / "run", "--resume")
    one, other = load_policy(run, CPU).state_dict(), load_policy(tmp_path / "run", CPU).state_dict()
    assert all(torch.equal(x, other[name]) for name, x in one.items())


def test_pictures_stay_bytes_and_numbers_do_not():
    parts = name_parts("x", {"a": np.zeros((3, 4, 4), np.uint8), "b": np.zeros(3, np.uint8), "c": np.zeros(2)})
    assert {name: x.dtype for name, x in parts.items()} == {"a": np.uint8, "b": np.float32, "c": np.float32}
    assert resolve_tasks("mt6") == GROUPS["mt6"] and pixels.as_policy_sees(["reach"], ["push"]) == ["push"]
    assert (ROOT / ".ci" / "run").read_text().count("libosmesa6") and "MUJOCO_GL" in os.environ


def test_shifts_are_as_large_as_they_say():
    usual = PixelsEnv("hammer").sim.model
    light, camera = (PixelsEnv("hammer").shifted(name).sim.model for name in ("light", "camera"))
    for of in (lambda m: m.light_diffuse, lambda m: m.vis.headlight.diffuse, lambda m: m.vis.headlight.ambient):
        assert np.allclose(of(light), 0.5 * of(usual))
    k = usual.camera(CAMERAS["corner"]).id
    assert np.allclose(camera.cam_pos[k] - usual.cam_pos[k], (0, 0.02, 0))
    turned = 2 * np.arccos(min(1, abs(camera.cam_quat[k] @ usual.cam_quat[k])))
    assert np.rad2deg(turned) == pytest.approx(2, abs=1e-3)
