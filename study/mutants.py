"""Deliberate mistakes, one at a time: does a test fail?      python study/mutants.py [--only NAME ...]

A suite that passes says little until it is known to fail. Each row below puts one plausible mistake into a copy of the
code and runs the tests that should notice. Writes study/mutants.json; exit code 1 if a mistake survives. A quarter
of an hour on one core. tests/test_mutants.py checks that the table still fits the code.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from plumbing.cli import provenance, say, write_json  # noqa: E402

LIMIT = 300  # seconds for the tests of one mistake; running into it counts as noticed: they hang

# name: (file, what stands there, once, and what is put in its place, the tests that should fail)
MUTANTS = {
    # Eleven that an earlier suite let pass.
    "another block of episodes": ("evaluate.py", "seeds = block_seeds(seed, episodes)", "seeds = block_seeds(0, episodes)", "test_counting.py"),
    "the whole chunk is executed": ("evaluate.py", "return actions[:, : policy.config.executed]", "return actions", "test_counting.py"),
    "the expert's success is ours": ("evaluate.py", "        **_count(own),", "        **_count(experts),", "test_counting.py"),
    "failed seeds inverted": ("evaluate.py", "if not e.success and not e.lost]", "if e.success and not e.lost]", "test_counting.py"),
    "mean steps count failures": ("evaluate.py", "sorted(e.steps for e in own if e.success and not e.lost)", "sorted(e.steps for e in own if not e.lost)", "test_counting.py"),
    "labels shuffled": ("train.py", "rows(self.observations, index), self.task_ids[index], self.actions[index]", "rows(self.observations, index), self.task_ids[index.flip(0)], self.actions[index]", "test_learning.py"),
    "decay swapped": ("train.py", "share = (1 - decay) * ~bad", "share = decay * ~bad", "test_learning.py"),
    "all new tasks under the first name": ("train.py", "self.task_ids = policy.task_index(tasks).repeat", "self.task_ids = policy.task_index([tasks[0]] * len(tasks)).repeat", "test_learning.py"),
    "no steps after success": ("envs/worker.py", "remaining = episode.steps_after_success", "remaining = 0", "test_traps.py"),
    "DPM-Solver's result unclipped": ("sampler.py", "            break  # lam of clean data is infinite", "            clean = _predict_clean(predict_noise, x, t, ab, False); break  # lam", "test_traps.py"),
    "downsampling drops odd steps": ("unet.py", "torch.cat([x[:, 0::2], x[:, 1::2]], dim=-1)", "torch.cat([x[:, 0::2], x[:, 0::2]], dim=-1)", "test_traps.py"),
    # Samplers and network.
    "noise on the last step": ("sampler.py", "        if ab_next < 1:\n            fresh = torch.randn(x.shape, generator=generator, device=x.device)\n            x = x + math.sqrt(beta * (1 - ab_next) / (1 - ab)) * fresh", "        if True:\n            x = x + math.sqrt(beta) * torch.randn(x.shape, generator=generator, device=x.device)", "test_sampler.py"),
    "timesteps one off": ("sampler.py", "[round(T - i * T / steps) - 1 for i in range(steps)]", "[round(T - i * T / steps) - 2 for i in range(steps)]", "test_sampler.py"),
    "velocity with the wrong sign": ("sampler.py", "return a.sqrt() * noise - (1 - a).sqrt() * clean", "return a.sqrt() * noise + (1 - a).sqrt() * clean", "test_sampler.py test_fdp.py"),
    "the skip connection carries nothing": ("unet.py", "skips.pop()", "torch.zeros_like(skips.pop())", "test_traps.py"),
    "components share their noise": ("fdp.py", '"kbha,bk->bha", predictions, weights', '"kbha,bk->bha", predictions[:1].expand_as(predictions), weights', "test_fdp.py"),
    "the router is asked without the task": ("fdp.py", "condition = condition + self.task_embedding(task)", "condition = condition", "test_fdp.py"),
    "actions scaled by their upper end only": ("plumbing/observations.py", "    return (low + high) / 2, (high - low) / 2", "    return (low + high) / 2, high", "test_fdp.py"),
    "affine weights that sum to zero": ("router.py", "- logits.mean(dim=-1, keepdim=True) + 1 / logits.shape[-1]", "- logits.mean(dim=-1, keepdim=True)", "test_router.py"),
    "the previous frame first": ("encoder.py", "name: x[:, 0] if x.ndim == 3", "name: x[:, 1] if x.ndim == 3", "test_encoder.py"),
    # Data.
    "the observation after the action": ("envs/demos.py", "{name: rows[:length] for name, rows", "{name: rows[1:] for name, rows", "test_demos.py -k windows"),
    "the disturbed action as label": ("envs/worker.py", "episode.actions.append(action)", "episode.actions.append(executed)", "test_demos.py -k replay"),
    "each process looks for what a checkpoint lacks": ("train.py", "parallel.first(lambda: resume.behind(folder, config.steps))", "resume.behind(folder, config.steps)", "test_parallel.py -k lacks_its"),
    "an old GPU imitates bf16": ("plumbing/machine.py", "is_bf16_supported(including_emulation=False)", "is_bf16_supported()", "test_train.py -k precisely"),
    "a goal that no picture shows is learned": ("envs/pixels.py", "        if not 0 < least <= size:", "        if False:", "test_pixels.py -k guessed"),
    "a camera that nobody looks through is shifted": ("envs/pixels.py", "in CAMERAS and camera not in parts:", "in () and camera not in parts:", "test_pixels.py -k looks_otherwise"),
    "one place is enough for a spatial softmax": ("encoder.py", "if min(features.shape[2:]) < 2:", "if False:", "test_pixels.py -k no_eye_can"),
    "a probe makes no picture": ("plumbing/opengl.py", "mujoco.MjrContext(mujoco.MjModel.from_xml_string('<mujoco/>'), mujoco.mjtFontScale.mjFONTSCALE_100.value); ", "", "test_pixels.py -k without_a_screen"),
    "draws of demonstrations overlap": ("envs/recording.py", "seeds = range(DRAW_SEEDS * draw + attempts, DRAW_SEEDS * draw + attempts + missing)", "seeds = range(draw + attempts, draw + attempts + missing)", "test_environments.py -k another_draw"),
    # Training and adapting.
    "raw weights are saved": ("train.py", "return state | {name: x for name", "return state or {name: x for name", "test_train.py -k saved_weights"),
    "resuming forgets the random state": ("plumbing/resume.py", '        torch.set_rng_state(saved["rng"])\n', "", "test_train.py -k resuming_gives"),
    "extra terms without coefficient": ("train.py", "sum((coefficient * term for", "sum((term for", "test_forks.py -k coefficient"),
    "a step that is not finite moves weights": ("train.py", "self.optimizer.found_inf = bad.float()", "self.optimizer.found_inf = bad.float() * 0", "test_interruptions.py -k not_finite"),
    "a skipped step counts in the mean": ("plumbing/log.py", "counted = self.count - skipped", "counted = self.count", "test_interruptions.py -k skipped_step"),
    "an interrupted step is done again": ("plumbing/interrupt.py", "raise Interrupted(stop, save(number + 1))", "raise Interrupted(stop, save(number))", "test_interruptions.py -k finishes"),
    "what acting keeps outlives a change": ("variants/staged.py", "if name not in kept or kept[name][0] != state:", "if name not in kept:", "test_residual.py -k keeps"),
    "a bonus for telling nothing": ("variants/informed.py", "(-self.config.bonus, batch_i", "(self.config.bonus, batch_i", "test_waking.py -k bonus"),
    "knocked out, and still counted": ("study/router/routing.py", "others[:, k] = False", "others[:, k] = True", "test_routing.py -k left_out"),
    "labels are not shuffled": ("study/router/routing.py", "return [random.permutation(label) for label in labels]", "return labels", "test_routing.py -k tells"),
    "chunks are drawn in the place of episodes": ("study/router/routing.py", "counts[:, mine] = random.multinomial(len(mine), np.full(len(mine), 1 / len(mine)), size=resamples)", "counts[:, mine] = 1", "test_routing.py -k counts_episodes"),
    "seeds are not drawn for an interval": ("study/intervals.py", "seeds = random.multinomial(S, [1 / S] * S, size=RESAMPLES)", "seeds = np.ones((RESAMPLES, S))", "test_report.py -k makes_its_own"),
    # Nobody let in, nothing lost.
    "links in a dataset are followed": ("envs/datasets.py", "if not isinstance(link, h5py.HardLink):", "if link is None:", "test_untrusted_datasets.py -k plain_numbers"),
    "a dataset's checksums are not compared": ("envs/datasets.py", "if sealed and not", "if False and not", "test_untrusted_datasets.py -k flipped"),
    "actions beyond the range are kept": ("envs/demos.py", ".clip(low, high)", ".clip(-9, 9)", "test_untrusted_datasets.py -k clipped"),
    "weights are not compared with their checksum": ("plumbing/tensors.py", "elif written != checksum([about, tensors]):", "elif False:", "test_untrusted_runs.py -k flipped"),
    "a module is imported because a file names it": ("envs/tasks.py", "if module and module not in _named and module not in sys.modules:", "if False:", "test_untrusted_runs.py -k module"),
    "sizes in a config.json are not limited": ("plumbing/configs.py", "        _is(-most <= value <= most, ", "        _is(True, ", "test_untrusted_runs.py -k bomb"),
    "a folder is claimed without a lock": ("plumbing/folders.py", "    if not _lock(handle):", "    if False:", "test_run_folders.py -k several"),
    "an overwritten run is gone at once": ("plumbing/folders.py", "            os.replace(path, aside / name)", "            pass", "test_run_folders.py -k overwriting"),
    "lost episodes are not played again": ("envs/rollout.py", "if not lost or self.last_try:", "if True:", "test_rollout_failures.py -k alone"),
    "a silent simulator is waited for": ("envs/rollout.py", "elif self.silent[connection] >= self.PATIENCE:", "elif False:", "test_rollout_failures.py -k falls_silent"),
    "an expert that always fails is believed": ("envs/experts.py", "if failed[episode.task] >= ENOUGH and", "if False and", "test_rollout_failures.py -k always_fails"),
    "each process learns from the whole batch": ("plumbing/parallel.py", "mine = slice(size * rank // processes, size * (rank + 1) // processes)", "mine = slice(0, size)", "test_parallel.py -k steps_of_one"),
    # What somebody found who followed paths.
    "a buffer made anew is saved as it was": ("plumbing/resume.py", "        if now.get(name) is not before[name]:", "        if False:", "test_forks.py -k buffers_would"),
    "a buffer made anew later is": ("train.py", "if current.get(name) is not x]:", "if False]:", "test_forks.py -k buffers_would"),
    "two tasks share a dataset": ("envs/demos.py", "names.setdefault(slug(task), task)) != task:", "names.setdefault(slug(task), task)) is None:", "test_environments.py -k look_alike"),
    "a dataset of another task is read": ("envs/recording.py", "if ours and not _is_of(dataset, task):", "if False:", "test_environments.py -k look_alike"),
    "full drops known tasks": ("adaptation/refusals.py", 'if config.mode != "full" and named and', "if named and", "test_environments.py -k named_to_trust"),
    "new tasks of other ranges beside old ones": ("adaptation/refusals.py", "common_spaces([*policy.config.tasks, *tasks])", "common_spaces(tasks)", "test_environments.py -k another_shape"),
    "a NaN ends the evaluation": ("envs/worker.py", "over = terminated or truncated or not seen", "over = terminated or truncated", "test_environments.py -k comes_to_a_nan"),
    "a flow is told another place": ("variants/flow.py", "weights[-1]) * ((here - there) / T)", "weights[-1]) / steps", "test_forks.py -k walks_to_it"),
    "frozen rows in the optimiser": ("adaptation/rows.py", "parametrize.register_parametrization(part, name, _Rows(parameter, learned))", "pass", "test_adapt.py -k rows"),
    "copies do not share a weight": ("adaptation/rows.py", "last.bias[sharing] -= math.log(2)", "last.bias[sharing] -= 0.0", "test_adapt.py -k grown"),
    "new names at random": ("adapt.py", "grown.task_embedding.weight[len(old.tasks) :] = known.mean(0)", "pass", "test_adapt.py -k forward"),
    "a frozen encoder in training mode": ("adapt.py", "part.train(count(part, learning=True) > 0)", "part.train(True)", "test_forks.py -k counters"),
    "an old stage sees all components": ("variants/staged.py", "if len(own) < c.components:", "if False:", "test_adapt.py -k exact_keeps"),
    "forgetting from the first row": ("adaptation/stages.py", "max(rates[:-1]) - rates[-1]", "rates[0] - rates[-1]", "test_adapt.py -k metrics"),
    "an old run's statistics are left out": ("plumbing/formats.py", '"normalizer.observation_mean": "encoder.mean"', '"normalizer.observation_mean": "encoder.scale"', "test_formats.py"),
    # Simulators and tasks.
    "every chunk starts from the same noise": ("envs/rollout.py", "chunks = group.running[index][2] + 1 if", "chunks = group.running[index][2] if", "test_counting.py"),
    "a chunk goes to another episode": ("envs/rollout.py", "orders[group.running[i][0]].append((i, None, np.asarray(chunk)))", "orders[group.running[i][0]].append((i, None, np.asarray(chunks[0])))", "test_envs.py -k rollouts"),
    "evaluation plays the seeds of demonstrations": ("envs/rollout.py", "FIRST_EVALUATION_SEED = 1_000_000", "FIRST_EVALUATION_SEED = 0", "test_counting.py"),
    "steps go on after success": ("envs/worker.py", "episode.steps += not episode.success", "episode.steps += 1", "test_traps.py"),
    "tasks sorted": ("envs/tasks.py", "return list(dict.fromkeys(names))", "return sorted(set(names))", "test_envs.py -k resolve"),
    "a buffer that no file holds": ("plumbing/resume.py", "if id(buffer) not in kept and not", "if False and not", "test_forks.py -k as_they_were"),
    "adapting waits for processes that have left": ("plumbing/interrupt.py", 'os.environ.pop("TORCHELASTIC_RUN_ID", None)', "pass", "test_parallel.py -k torchrun_had"),
    "one task by two names": ("envs/tasks.py", 'word.removeprefix("fdp/").removesuffix("-v3")', 'word.removesuffix("-v3")', "test_envs.py -k resolve"),
    "the action range taken as symmetric": ("envs/tasks.py", "for end in (action.low, action.high))", "for end in (-action.high, action.high))", "test_traps.py -k range"),
    "tasks of other action ranges learn together": ("envs/tasks.py", 'for what in ("observation", "action_low", "action_high"):', 'for what in ("observation",):', "test_traps.py -k range"),
    "the last action is not repeated": ("envs/demos.py", "np.arange(horizon), length - 1)", "np.arange(horizon), length) % length", "test_demos.py -k windows"),
    "failed demonstrations are kept": ("envs/recording.py", "if e.success and finite(e.", "if finite(e.", "test_traps.py -k successful"),
    # Training, continued.
    "the noisiest step is never trained": ("train.py", "step = torch.randint(0, policy.config.diffusion_steps, (len(actions),)", "step = torch.randint(0, policy.config.diffusion_steps - 1, (len(actions),)", "test_learning.py"),
    "gradients are not clipped": ("train.py", "clip_grad_norm_(self.parameters, self.grad_clip)", "clip_grad_norm_(self.parameters, math.inf)", "test_learning.py"),
    "the learning rate stays": ("train.py", 'group["lr"] = lr', "pass", "test_learning.py"),
    "resuming starts another average": ("plumbing/resume.py", 'mine.copy_(_like(saved[f"average.{name}"], mine.shape))', "pass", "test_train.py -k resuming_gives"),
    "resuming forgets what the log had summed": ("plumbing/resume.py", '"count": about["count"]}', '"count": 0}', "test_train.py -k resuming_gives"),
    "a loaded policy is in training mode": ("plumbing/runs.py", "return policy.to(device).eval()", "return policy.to(device)", "test_learning.py"),
    "an overwritten run keeps its evaluation": ("plumbing/runs.py", "folders.set_aside(folder, [*FILES, *results])", "folders.set_aside(folder, [*FILES])", "test_train.py -k overwriting"),
    # Adapting, continued.
    "statistics taken again while adapting": ("adapt.py", '    if config.mode == "scratch":\n        grown.encoder.fit', "    if True:\n        grown.encoder.fit", "test_adapt.py -k exact_keeps"),
    "old weights meet the wrong components": ("adaptation/memory.py", "pad(self.weights[some], (0, now.shape[1] - self.weights.shape[1]))", "pad(self.weights[some], (now.shape[1] - self.weights.shape[1], 0))", "test_adapt.py -k drift"),
    "the last weights are kept, not their average": ("adapt.py", "    learner.adopt_average()\n", "", "test_learning.py"),
    "the least used is copied": ("adapt.py", ".mean(0).topk(n).indices", ".mean(0).topk(n, largest=False).indices", "test_adapt.py -k most_used"),
    "old tasks get the newest router": ("variants/staged.py", '"router": self.router[stage]}', '"router": self.router[-1]}', "test_adapt.py -k exact_keeps"),
    "old tasks see through the newest adapter": ("variants/staged.py", "self.components, self.residual[stage]", "self.components, self.residual[-1]", "test_adapt.py -k exact_keeps"),
    "a new stage forgets the last one's adapter": ("variants/staged.py", 'for part in ("router", "residual"):', 'for part in ("router",):', "test_residual.py -k begins"),
    "the adapter does not learn": ("adapt.py", "        policy.residual[-1].requires_grad_(True)\n", "        pass\n", "test_residual.py -k newest"),
    # Skills.
    "one same action makes a task unchanged": ("adaptation/stages.py", "reshape(len(old.config.tasks), -1).all(1)", "reshape(len(old.config.tasks), -1).any(1)", "test_adapt.py -k one_other_bit"),
    "a skill goes onto any base": ("skills.py", "if skill.leans_on != alone and skill.leans_on != identity(base, skills[: number - 1], skill.settings):", "if False:", "test_skills.py -k another"),
    "a skill uses the first one's component": ("skills.py", "own = list(range(total, total + n))", "own = list(range(K, K + n))", "test_skills.py -k any_order"),
    "a skill uses the components of all before it": ("skills.py", "on_base = skill.leans_on == alone and number > 1", "on_base = False", "test_skills.py -k any_order"),
    "learned beside others, a skill leans on them": ("adapt.py", 'skills.take_apart(policy) if config.lean_on == "base" else (policy, [])', "(policy, [])", "test_skills.py -k leaning_on_the_base_a"),
    "backward transfer with the wrong sign": ("adaptation/stages.py", "mean(rates[-1] - rates[0] for", "mean(rates[0] - rates[-1] for", "test_adapt.py -k metrics"),
    "stages are measured on block 0": ("adaptation/stages.py", "evaluate.evaluate(policy, todo, episodes, seed, roller=roller)", "evaluate.evaluate(policy, todo, episodes, roller=roller)", "test_learning.py -k block"),
    # Stopped anywhere; runs that somebody else made.
    "what was half written takes a folder": ("plumbing/folders.py", "if path.is_file() and not _half_written(path, folder))", "if path.is_file())", "test_interruptions.py -k killed_in_any"),
    "half of the last checkpoint is enough": ("train.py", "if log.start == config.steps and parallel.first(lambda: resume.behind(folder, config.steps)):", "if False:", "test_interruptions.py -k killed_in_any"),
    "results go where a link leads": ("plumbing/folders.py", "    check_inner(folder)\n", "", "test_untrusted_runs.py -k folder_of_results"),
    "an interrupted run replaces a finished one": ("plumbing/resume.py", "    if not interrupted:\n", "    if True:\n", "test_run_folders.py -k overwriting_keeps"),
    "actions beyond what an environment takes": ("envs/tasks.py", "if not least - slack <= low <= high <= most + slack:", "if False:", "test_untrusted_runs.py -k action_range"),
    # What routes, and what that saves.
    "an episode is compared with itself": ("study/router/routing.py", "given[order] = mine[np.roll(order, 1)]", "given[order] = mine[order]", "test_routing.py -k nobody"),
    "an untrained router that was trained": ("study/router/measure.py", "other.router = type(policy)(policy.config).router.to(policy.device)", "pass", "test_routing.py -k untrained"),
    "a chosen row with another's weight": ("variants/informed.py", "weights[rows.row, rows.column]", "weights[rows.row, rows.place]", "test_waking.py -k chosen_rows"),
    "paid for telling nothing": ("router.py", "(-BONUS, batch_i", "(BONUS, batch_i", "test_waking.py -k informed_router"),
    "a new task pays for switching within it": ("router.py", "paid = len(config.tasks) == 1 or (task != task[0]).any()", "paid = 1.0", "test_waking.py -k informed_router"),
    "information of the mean alone": ("router.py", " - entropy(weights).mean()", "", "test_router.py -k information"),
    "pictures that nobody lights": ("variants/lit.py", "(pictures * light)", "(1.0 * pictures)", "test_pixels.py -k lit"),
    # Cameras.
    "pictures of where things stood before": ("envs/pixels.py", "            mujoco.mj_kinematics(self.sim.model, self.sim.data)\n", "", "test_pixels.py -k first_picture"),
    "noises of one picture go to another": ("fdp.py", "condition.repeat_interleave(len(task) // len(condition), 0)", "condition.repeat(len(task) // len(condition), 1)", "test_forks.py -k looked_at_once"),
    "a flow's router is not told the step": ("variants/flow.py", "self.weigh(condition, step if self.router_sees_step else None)", "self.weigh(condition)", "test_forks.py -k flow_asks"),
    "an optimiser's memory of any size": ("plumbing/resume.py", "copy_(_like(saved[f\"{i}.{name}\"], weight.shape))", "copy_(saved[f\"{i}.{name}\"])", "test_untrusted_runs.py -k too_short"),
    "a slower command replaces a finished run": ("adaptation/stages.py", "if not unfinished(config, origin, folder) or going_on != (folder / resume.FILE).exists():", "if False:", "test_run_folders.py -k meanwhile"),
    "a quick look replaces many episodes": ("plumbing/folders.py", "r[\"n\"] <= new[\"n\"]", "True", "test_run_folders.py -k quick_look"),
    "what old observations come to is not held": ("adaptation/memory.py", "return grown.compose(noisy, step, condition, now - wanted).float()", "return (now - wanted).float()", "test_adapt.py -k drift"),
    "one noise for a picture": ("train.py", "self.noises = NOISES if", "self.noises = 1 if", "test_pixels.py -k four_steps"),
    "a process takes the rows of other pictures": ("plumbing/parallel.py", "part = slice(mine.start * noises, mine.stop * noises)", "part = slice(mine.start, mine.start + (mine.stop - mine.start) * noises)", "test_parallel.py -k steps_of_one"),
    "simulators that cannot draw go on": ("envs/rollout.py", 'if self.opengl != os.environ.get("MUJOCO_GL"):', "if False:", "test_pixels.py -k begun_before"),
    "pictures are moved by four pixels": ("encoder.py", "SHIFT = 1 / 64", "SHIFT = 1 / 16", "test_pixels.py -k pixel_of_64"),
    "drawn though nobody looks": ("envs/worker.py", "look(env, is_last)", "look(env, True)", "test_pixels.py -k drawn"),
    "the corner camera hangs upside down": ("envs/pixels.py", "picture[:, ::-1] if camera in UPSIDE_DOWN else picture[::-1]", "picture[::-1]", "test_pixels.py -k right_way"),
    "pictures are moved while acting": ("fdp.py", "augmented(self.encoder, observation) if self.training else observation", "augmented(self.encoder, observation)", "test_pixels.py -k training_only"),
    "a policy with one camera gets both": ("envs/pixels.py", "if name in names or name not in CAMERAS}", "}", "test_pixels.py -k one_camera_sees"),
    # Forks.
    "a fork's default is ignored": ("plumbing/runs.py", "changed = changed_defaults(fork, usual)", "changed = {}", "test_forks.py -k changes_are"),
    "a fork of one size gets another": ("train.py", "    extra |= runs.changed_defaults(config.policy, SIZES[config.size])  # a fork of one size\n", "", "test_forks.py -k changes_are"),
    "what a component is stays behind": ("adapt.py", "if x.ndim and len(x) == old.components:", "if name in dict(policy.components.named_parameters()):", "test_forks.py -k copied_with_it"),
    "another's buffer taken for a component's": ("adapt.py", "if x.ndim and len(x) == old.components:", "if x.ndim:", "test_forks.py -k copied_with_it"),
    "half of a router learns": ("variants/staged.py", 'return policy.router[-1] if hasattr(policy.config, "stages") else policy.router', "return policy.router[-1] if isinstance(policy.router, nn.ModuleList) else policy.router", "test_forks.py -k learns_whole"),
    "one robot acts on what another sees": ("variants/staged.py", "            check_rows(observation, c.observation, tasks)\n", "", "test_forks.py -k row_for_each"),
    "stages are tried after the training": ("adapt.py", "refusals.try_out(grown)", "skills.take_apart(grown)", "test_forks.py -k before_it_is_trained"),
    "a sparse fork trains otherwise than it acts": ("variants/informed.py", "p = self.probabilities(condition, step if self.router_sees_step else None).float()", "p = self.router(condition).float()", "test_forks.py -k trains_as_it_acts"),
    # What intervals cover.
    "seeds are not drawn": ("study/intervals.py", "return crossed_difference(redrawn(one), redrawn(other))", "return compare(one, other)", "test_report.py -k seeds_that_differ"),
    "a run of 1/K is left out": ("study/router/results.py", '    "mt50/fdp-s[0-9]-even.json",\n', "", "test_report.py -k left_out"),
    "where a feature is, mirrored": ("encoder.py", "x.repeat(len(y)), y.repeat_interleave(len(x))", "x.repeat_interleave(len(y)), y.repeat(len(x))", "test_pixels.py -k softmax"),
    # Lines that no test noticed until somebody tried (tests/test_single_lines.py), and what forks got wrong.
    "a gradient that is not finite is taken": ("train.py", "bad = ~(total.detach().isfinite() & norm.isfinite())", "bad = ~total.detach().isfinite()", "test_single_lines.py -k a_gradient_that"),
    "an evaluation of even weights is the usual one": ("adaptation/stages.py", 'same = same and not (result.get("even") or result.get("shift"))', "pass", "test_single_lines.py -k even_weights"),
    "a stage draws with another generator": ("variants/staged.py", "seen, names_of_rows, sampler_name, sampling_steps, noise[rows], generator", "seen, names_of_rows, sampler_name, sampling_steps, noise[rows]", "test_single_lines.py -k given_generator"),
    "success is the mean of episodes": ("evaluate.py", 'rates = [r["success"] for r in result["tasks"].values() if r["n"]]', 'rates = [r["success"] for r in result["tasks"].values() for _ in range(r["n"])]', "test_single_lines.py -k mean_of_tasks"),
    "lost experts have failed": ("envs/experts.py", "not (episode.success or episode.lost)", "not episode.success", "test_single_lines.py -k expert_whose"),
    "half of the light is nine tenths": ("envs/pixels.py", "light *= 0.5", "light *= 0.9", "test_pixels.py -k as_large_as"),
    "a fork's own term is lost": ("variants/moe.py", "self.terms(weights, task) | {", "{", "test_forks.py -k term_of_a_forks_own"),
    "fractions are a picture": ("plumbing/observations.py", "if len(parts[name]) == 3 and parts[name][0] == 3 and not is_picture(x):", "if False:", "test_encoder.py -k fractions"),
    "a dataset's name may be that of many": ("envs/recording.py", 'if target.exists() and not (target / "data" / "metadata.json").exists():', "if False:", "test_environments.py -k nobody_could"),
    "episodes are stored unseen": ("envs/recording.py", "        check_episode(f\"{name}, episode {i}\", rows, episode.actions, shapes, acted.shape)\n", "        pass\n", "test_environments.py -k nobody_could"),
    "a loss may be errors alone": ("plumbing/resume.py", "if not (isinstance(loss, tuple) and len(loss) == 2 and isinstance(loss[1], dict)):", "if False:", "test_forks.py -k errors_and_terms"),
    "regression that is ahead is not told": ("study/finding.py", 'verdict += f", regression in {len(loses)}" * bool(loses)', "pass", "test_report.py -k who_is_ahead"),
    "a NaN after a success ends the recording": ("envs/recording.py", "if e.success and finite(e.observations[-1])", "if e.success", "test_environments.py -k after_a_success"),
    "what is missing is not noticed": ("envs/worker.py", "if found != shapes:", "if False:", "test_environments.py -k missing"),
    "an edited fork is used without a word": ("plumbing/runs.py", "return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists()", 'return "" if path.exists()', "test_forks.py -k edited"),
    "an unfinished run is used without a word": ("plumbing/runs.py", "int(step) < steps:", "int(step) < 0:", "test_interruptions.py -k unfinished"),
    "a run goes on in this machine's precision": ("plumbing/resume.py", 'if config.precision == "auto" and config.resume', "if False", "test_interruptions.py -k own_precision"),
    "what is learned from an edited fork forgets it": ("adaptation/stages.py", 'about["fork_checksum"] = source["fork_checksum"]', "pass", "test_forks.py -k edited"),
    "another version's evaluation is taken over": ("adaptation/stages.py", "() if runs.edited(runs.read_config(run)) else", "() if False else", "test_forks.py -k edited"),
    "going on forgets an edit": ("plumbing/runs.py", '"fork_checksum": fork_checksum(fork_of(config))}', '"fork_checksum": None}', "test_forks.py -k edited"),
    "datasets lie in each other": ("envs/recording.py", "    if others:\n", "    if False:\n", "test_environments.py -k nobody_could"),
    "a signal between two renames costs both": ("envs/recording.py", "os.rename(old, target)", "pass", "test_environments.py -k nobody_could"),
    "terms are not looked at": ("plumbing/resume.py", "and pair and term[1].dim() == 0)", "or True)", "test_forks.py -k term_that_is_none"),
    "an evaluation outlives its run": ("evaluate.py", "if not (same or config.out):", "if False:", "test_single_lines.py -k trained_anew"),
    "another module of the name is taken": ("envs/tasks.py", "if os.path.exists(mine) and", "if False and", "test_environments.py -k python_has"),
    "a sparse mixture trains densely": ("variants/moe.py", "self.errors(condition, weights,", "self.errors(condition, probabilities,", "test_single_lines.py -k sparse_mixture"),
    "replay moves old pictures": ("adaptation/memory.py", "grown.training, grown.progress = False, 1.0", "grown.progress = 1.0", "test_single_lines.py -k old_pictures"),
    "after replay new pictures are not moved": ("adaptation/memory.py", "grown.training, grown.progress = training, progress", "grown.progress = progress", "test_single_lines.py -k old_pictures"),
    "a policy of one task is never paid": ("router.py", "paid = len(config.tasks) == 1 or (task != task[0]).any()", "paid = (task != task[0]).any()", "test_single_lines.py -k one_task_is_paid"),
    "the average forgets": ("train.py", "-0.75, 0.9999)", "-0.75, 0.99)", "test_single_lines.py -k average_reaches"),
    "flags do not reach the optimiser": ("train.py", "config.lr, config.weight_decay, config.grad_clip, config.precision)", "config.lr, precision=config.precision)", "test_single_lines.py -k flags_reach"),
    "seconds of training begin anew": ("plumbing/resume.py", '"seconds": about["seconds"]', '"seconds": 0.0', "test_single_lines.py -k seconds_of_training"),
    "what was played before decides what is drawn": ("adapt.py", "    torch.manual_seed(config.seed)  # again", "    pass  # again", "test_single_lines.py -k decides_nothing"),
    "the weights of two plays are one": ("evaluate.py", "if chunk == 0:  # also", "if (episode.task, episode.seed) not in weights:  # also", "test_single_lines.py -k played_again"),
    "learning moves what old tasks act with": ("adapt.py", "    refusals.try_learning(config, grown, windows)\n", "", "test_forks.py -k counter_that_moves"),
    "replay of what it cannot hold": ("adaptation/memory.py", "        self.check(policy, noise, condition)\n", "", "test_forks.py -k composition_is_another"),
    "a policy that remembers is exact": ("adaptation/refusals.py", "        check_forgetful(policy)\n", "        pass\n", "test_forks.py -k remembers"),
    "an episode is its end, again and again": ("envs/worker.py", "copy.deepcopy(observation)", "observation", "test_environments.py -k same_arrays"),
    "what begins at random gets no weight": ("adaptation/rows.py", "unused = [k for k in range(K) if k not in used]", "unused = [k for k in range(len(last.bias)) if k not in used]", "test_skills.py -k begins_at_random"),
    "the beginning of a run replaces a finished one": ("plumbing/folders.py", " and not _interrupted(folder):", ":", "test_run_folders.py -k overwriting_keeps"),
    "the revision is asked for at the end": ("plumbing/cli.py", "        revision()\n        result = main()", "        result = main()", "test_single_lines.py -k the_revision"),
    "a run in training is learned from": ("adaptation/refusals.py", "    if folders.busy(origin) and ", "    if False and ", "test_run_folders.py -k still_trained"),
    "a number that is none becomes an action": ("plumbing/observations.py", "if not x.isfinite().all():", "if False:", "test_encoder.py -k no_number"),
    "every label is the last action": ("envs/worker.py", "np.array(policy.expert_action(), np.float32)", "np.asarray(policy.expert_action(), np.float32)", "test_environments.py -k same_arrays"),
    "what is learned from may change": ("adaptation/stages.py", 'if runs.weights_checksum(origin) != found["source_weights"]:', "if False:", "test_run_folders.py -k must_not_change"),
    "a field more parts skills from bases": ("skills.py", "for name in settings or every}", "for name in every}", "test_skills.py -k field_more"),
    "nothing learns, in silence": ("adaptation/refusals.py", "    if not any(x.requires_grad for x in", "    if False and not any(x.requires_grad for x in", "test_forks.py -k nothing_learns"),
    "steps are skipped in silence": ("plumbing/log.py", "        if self.skipped and self.file:\n", "        if False:\n", "test_interruptions.py -k told_and"),
    "an infinite range of actions": ("plumbing/observations.py", "    if not (np.isfinite(twice).all()", "    if False and not (np.isfinite(twice).all()", "test_fdp.py -k without_a_width"),
    "a stopped curve has points more": ("study/curve.py", "if step % config.save_every == 0 or step == last]", "]", "test_grid.py -k points_that"),
    "a stage upon a base of another time": ("study/adapt/one_task.py", '.get("source_weights") != weights:', '.get("source_weights") is None:', "test_grid.py -k other_weights"),
    "what is saved is not told": ("plumbing/interrupt.py", "raise Interrupted(number, _done)", "raise Interrupted(number)", "test_interruptions.py -k all_is_learned"),
}  # fmt: skip


def mutated(name: str, code: Path = ROOT) -> tuple[Path, str]:
    """The file that a mistake is in, and its text with the mistake. ValueError where the table does not fit the code."""
    file, old, new, _ = MUTANTS[name]
    text = (code / file).read_text()
    if text.count(old) != 1:
        raise ValueError(f"mutant '{name}': {file} has {text.count(old)} places that read {old!r}, not one")
    return Path(file), text.replace(old, new)


def copied(code: Path, to: Path) -> Path:
    """A copy of the code, without what tests do not read."""
    left_out = shutil.ignore_patterns("data", "runs", ".git", "__pycache__", ".venv", ".hypothesis")
    return shutil.copytree(code, to, ignore=left_out)


def passes(tests: str, code: Path, file: Path | None = None, text: str = "") -> tuple[bool, str]:
    """Whether these tests pass in a copy of the code, in which one file may read otherwise; and the first that fails."""
    with tempfile.TemporaryDirectory() as folder:
        copy = copied(code, Path(folder) / "copy")
        if file:
            (copy / file).write_text(text)
        names, *chosen = tests.split(" -k ")
        words = [*(f"tests/{name}" for name in names.split()), *(["-k", *chosen] if chosen else [])]
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *words]
        try:
            done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=LIMIT)
        except subprocess.TimeoutExpired:
            return False, "ran into the time limit"
    said = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))] or ["no test failed"]
    if done.returncode not in (0, 1, 2):  # 2: a test file that cannot be imported
        raise RuntimeError(f"pytest {tests} ended with {done.returncode}\n{done.stdout[-500:]}{done.stderr[-500:]}")
    return done.returncode == 0, said[0].split(" - ")[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=MUTANTS, metavar="NAME", nargs="+", help="some mistakes, by their names")
    names, begin, alive = parser.parse_args().only or list(MUTANTS), time.perf_counter(), 0
    source = provenance(0, "cpu")
    with tempfile.TemporaryDirectory() as folder:
        code = copied(ROOT, Path(folder) / "code")  # or what is edited meanwhile would fail, and count as noticed
        for tests in dict.fromkeys(MUTANTS[name][3] for name in names):
            healthy, said = passes(tests, code)  # or the tests would seem to notice whatever is done
            if not healthy:
                raise SystemExit(f"{tests} fails without any mistake: {said}")
        for name in names:
            survived, said = passes(MUTANTS[name][3], code, *mutated(name, code))
            keep(name, {"file": MUTANTS[name][0], "survived": survived, "said": said}, source)
            say(f"{'SURVIVED' if survived else 'caught':<10}{name:<46}{said}")
            alive += survived
    say(f"{len(names) - alive} of {len(names)} caught, in {time.perf_counter() - begin:.0f} s")
    return int(alive > 0)


def keep(name: str, row: dict, source: dict, path: Path = ROOT / "study/mutants.json") -> None:
    """Write one result, at once; the others stay, each with the revision that it was tried at."""
    found = json.loads(path.read_text())["mutants"] if path.exists() else {}
    found[name] = row | {"revision": source["revision"]}
    write_json(path, {"mutants": {name: found[name] for name in MUTANTS if name in found}, **source})


if __name__ == "__main__":
    raise SystemExit(main())
