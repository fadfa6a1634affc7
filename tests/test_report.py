"""The page of results is what its files give; intervals against cases worked out by hand and in closed form."""

import fnmatch
import functools
import json
import math
import re
import shutil
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from envs.metaworld import TASKS
from study import coverage, finding, intervals, markdown, plots, report
from study.adapt import results as adapt
from study.core import results as core
from study.gpu import results as gpu
from study.ml45 import results as ml45
from study.mt50 import results as mt50
from study.pixels import results as pixels
from study.router import results as router
from study.router.table import PREDICTIONS
from study.sequences import results as sequences

ROOT = Path(__file__).resolve().parent.parent
SLOW = ("ml45/*", "router/*", "mt50/*")  # sections with intervals that take seconds, each time
FILES = [path.relative_to(markdown.STUDY) for path in sorted(markdown.STUDY.glob("*/**/*.json"))]


def copied(folder: Path, *leave_out: str) -> Path:
    """A copy of study/ without some of its results. Not links: a test that writes must not reach the real ones."""
    for path in FILES:
        if not any(fnmatch.fnmatch(str(path), pattern) for pattern in leave_out):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(markdown.STUDY / path, folder / path)
    return folder


def entry(failed=(), lost=(), episodes=10, first=1_030_000) -> dict:
    """One task of an evaluation. failed, lost: which of its episodes."""
    n = episodes - len(lost)
    return {"n": n, "successes": n - len(failed), "seeds": [first, first + episodes - 1],
            "failed_seeds": [first + i for i in failed], "lost": {str(first + i): "killed" for i in lost}}  # fmt: skip


def normal_interval(played: dict[str, np.ndarray]) -> tuple[float, float]:
    """mean +- 1.96 standard errors in closed form: episodes are drawn within each task, tasks weigh the same."""
    x = [p.mean(0) for p in played.values()]  # (E,) each: one number for a cluster
    error = math.sqrt(sum(p.var() / len(p) for p in x)) / len(x)
    center = np.mean([p.mean() for p in x])
    return center - 1.959964 * error, center + 1.959964 * error


# ------------------------------------------------------------------------------------------------ no number can drift


@functools.cache
def whole_page(study: Path) -> str:
    return USUAL_PAGE(study)


USUAL_PAGE = report.page


def test_the_committed_pages_are_what_the_files_give(capsys, monkeypatch):
    monkeypatch.setattr(report, "page", whole_page)  # half a minute; other tests read it, too
    assert report.main(["--check"]) == 0, capsys.readouterr().err


def test_check_names_the_first_line_that_differs_and_a_run_repairs_it(tmp_path, capsys, monkeypatch):
    copied(tmp_path / "study", *SLOW)
    some = list(report.SECTIONS)[:2]  # the page is made seven times
    monkeypatch.setattr(report, "SECTIONS", {title: report.SECTIONS[title] for title in some})
    (tmp_path / "README.md").write_text("# fdp\n\n<!-- finding -->\nold\n<!-- /finding -->\nend\n")
    assert report.main([], tmp_path) == 0
    assert report.main(["--check"], tmp_path) == 0
    page, readme = tmp_path / "study/README.md", tmp_path / "README.md"
    assert readme.read_text().startswith("# fdp\n\n<!-- finding -->\n- **New tasks")
    assert "- **Factorizing gains" in readme.read_text()
    assert readme.read_text().endswith("\n<!-- /finding -->\nend\n")

    page.write_text(page.read_text().replace("887/900", "888/900", 1))
    assert report.main(["--check"], tmp_path) == 1
    line = next(i for i, line in enumerate(page.read_text().splitlines(), 1) if "888/900" in line)
    assert f"study/README.md, line {line}, has" in capsys.readouterr().err
    report.main([], tmp_path)
    assert report.main(["--check"], tmp_path) == 0

    readme.write_text(readme.read_text().replace("Factorizing", "Fusing", 1))
    assert report.main(["--check"], tmp_path) == 1
    assert re.match(r"README.md, line \d+, has '- \*\*Fusing", capsys.readouterr().err)
    page.write_text(page.read_text() + "more\n")
    assert report.main(["--check"], tmp_path) == 1
    assert "has 'more', and should have None" in capsys.readouterr().err
    assert report.main(["--typo"], tmp_path) == 2


def test_fill_replaces_marked_blocks_and_nothing_else():
    tables = report.marked_tables()
    assert set(tables) == {"finding"}
    text = "a\n<!-- finding -->\nstale | <!-- /finding --> b <!-- note -->\nc <!-- finding --><!-- /finding -->\n"
    new = f"<!-- finding -->\n{tables['finding']}\n<!-- /finding -->"
    filled = report.fill(text)
    assert filled == f"a\n{new} b <!-- note -->\nc {new}\n"
    assert report.fill(filled) == filled
    with pytest.raises(ValueError, match="finding"):
        report.fill("<!-- finding -->\n- old\n")


# ---------------------------------------------------------------------------------------------------------- reading


def test_outcomes_of_single_episodes_with_failed_and_lost_ones():
    found = intervals.outcomes(entry(failed=[2, 9], lost=[0, 5]))
    np.testing.assert_array_equal(found, [np.nan, 1, 0, 1, 1, np.nan, 1, 1, 1, 0])
    assert intervals.count({"a": found[None]}) == "6/8"
    assert intervals.success({"a": found[None]}) == 6 / 8
    with pytest.raises(ValueError, match="do not agree"):
        intervals.outcomes(entry(failed=[2]) | {"failed_seeds": []})
    with pytest.raises(ValueError, match="not of the same episodes"):
        intervals.stack([entry(), entry(first=1_050_000)])


def test_lost_episodes_count_as_nothing_in_the_interval():
    seeds = intervals.stack([entry(failed=[2], lost=[0]), entry(failed=[2, 9]), entry(failed=[2, 4])])
    rate = intervals.rate({"a": seeds})
    assert (rate.count, rate.mean) == ("24/29", pytest.approx(24 / 29))
    assert rate.low < rate.mean < rate.high
    alone = intervals.rate({"a": intervals.stack([entry(lost=[0, 1, 2])])})
    assert (alone.low, alone.high) == intervals.wilson(7, 7)  # not 10


def test_every_committed_evaluation_agrees_with_itself():
    evaluations = [r for path in FILES if "mean_success" in (r := json.loads((markdown.STUDY / path).read_text()))]
    assert len(evaluations) > 150
    for result in (result for r in evaluations for result in r["tasks"].values()):
        assert np.nanmean(intervals.outcomes(result)) == pytest.approx(result["success"])
        assert intervals.wilson(result["successes"], result["n"]) == pytest.approx(tuple(result["interval"]))


def test_the_block_of_a_sequence_is_read_from_its_command():
    assert markdown.flag("python adapt.py --eval-seed 5 --seed 1", "--eval-seed", 0) == 5
    assert markdown.flag("python adapt.py --seed 1 --eval-seed=12", "--eval-seed", 0) == 12
    assert markdown.flag("python adapt.py --seed 1", "--eval-seed", 0) == 0


# -------------------------------------------------------------------------------------------------------- intervals


def test_where_all_succeed_wilson_counts_episodes_once_whatever_the_number_of_seeds():
    rate = intervals.rate({"a": np.ones((3, 50)), "b": np.ones((3, 50))})
    assert (rate.low, rate.high) == intervals.wilson(100, 100)  # neither 300, nor a width of zero
    assert rate.low == pytest.approx(0.963, abs=5e-4)
    assert str(rate) == "300/300, 0.963 to 1.000†"
    nothing = intervals.rate({"a": np.zeros((3, 50))})
    assert (nothing.low, nothing.high) == intervals.wilson(0, 50)


def test_one_seed_has_wilsons_interval():
    rate = intervals.rate({"a": intervals.stack([entry(failed=[1], episodes=50)])})
    assert rate == (0.98, *intervals.wilson(49, 50), "49/50", True)


def test_two_tasks_against_the_closed_form():
    random = np.random.default_rng(1)
    hard, easy = random.random((1, 200)) < 0.4, random.random((1, 100)) < 0.9
    played = {"a": (random.random((3, 200)) < 0.2 + 0.6 * hard) * 1.0, "b": np.repeat(easy, 3, 0) * 1.0}
    rate, (low, high) = intervals.rate(played), normal_interval(played)
    assert rate.mean == pytest.approx((low + high) / 2)
    assert (rate.low, rate.high) == pytest.approx((low, high), abs=0.05 * (high - low))
    assert not rate.wilson


def test_failures_that_all_seeds_share_make_the_interval_wider_than_a_pooled_one():
    shared = np.ones((3, 50))
    shared[:, :10] = 0  # the same ten episodes, three times
    spread = np.ones(150)
    spread[:30] = 0
    spread = np.random.default_rng(0).permutation(spread).reshape(3, 50)
    pooled = np.diff(intervals.wilson(120, 150))[0]
    rates = [intervals.rate({"a": x}) for x in (shared, spread)]
    widths = [rate.high - rate.low for rate in rates]
    assert rates[0].count == rates[1].count == "120/150"
    assert widths[0] > 1.5 * pooled  # three outcomes alike carry the weight of one: sqrt(3) times as wide
    assert widths[1] < 1.2 * pooled


def test_a_paired_difference():
    random = np.random.default_rng(0)
    one = {"a": (random.random((3, 50)) < 0.6) * 1.0, "b": (random.random((3, 50)) < 0.9) * 1.0}
    assert intervals.difference(one, dict(reversed(one.items()))) == (0, 0, 0)  # exactly
    # Episodes are hard or easy for both; the other fails on three more. Unpaired, the hard ones would dominate.
    hard = np.repeat(random.random((1, 50)) < 0.5, 3, 0) * 1.0
    other = hard.copy()
    other[:, np.flatnonzero(hard[0])[:3]] = 0
    change = intervals.difference({"a": hard}, {"a": other})
    assert change.mean == pytest.approx(6)
    low, high = 100 * np.array(normal_interval({"a": hard - other}))
    assert (change.low, change.high) == pytest.approx((low, high), abs=2)
    wide = intervals.rate({"a": hard})
    assert change.high - change.low < 0.6 * 100 * (wide.high - wide.low)
    assert intervals.Difference(2, 1, 3).verdict == "the interval lies above zero"
    assert intervals.Difference(-2, -3, -1).verdict == "the interval lies below zero"
    assert intervals.Difference(1, 0, 2).verdict == "the interval includes zero"
    with pytest.raises(ValueError, match="same tasks"):
        intervals.difference(one, {"a": one["a"]})
    lost = {task: x.copy() for task, x in one.items()}
    lost["a"][1, :5] = np.nan  # by one of them: then it counts for neither
    assert intervals.difference(one, lost) == (0, 0, 0)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_of_seeds_demonstrations_and_episodes_makes_its_own_interval(axis):
    """Outcomes that depend on one of them alone: the others' draws change nothing, and its own is the usual one."""
    random, shape = np.random.default_rng(axis), (12, 15, 40)
    lots = [random.random(shape[axis]) < 0.7 for _ in range(2)]
    played = {task: np.broadcast_to(np.expand_dims(x * 1.0, [i for i in range(3) if i != axis]), shape)
              for task, x in zip("ab", lots, strict=True)}  # fmt: skip
    if axis == 0:  # one base has learned both tasks: their outcomes rise and fall together
        error = np.mean([x * 1.0 for x in lots], 0).std() / math.sqrt(shape[0])
    else:
        error = math.sqrt(sum(x.var() for x in lots) / shape[axis]) / 2
    rate = intervals.crossed_rate(played)
    assert not rate.wilson and rate.mean == pytest.approx(np.mean(lots))
    assert (rate.high - rate.low) / 2 == pytest.approx(1.96 * error, rel=0.08)  # steps of 1/12


def test_where_all_succeed_crossed_draws_say_nothing_and_wilson_counts_episodes_once():
    rate = intervals.crossed_rate({"a": np.ones((3, 2, 50)), "b": np.ones((3, 2, 50))})
    assert (rate.low, rate.high) == intervals.wilson(100, 100) and rate.interval.endswith("†")
    assert router.daggers([["fdp", rate.share]])[0].startswith("†") and router.daggers([["fdp", "0.900"]]) == []


def test_seeds_and_demonstrations_that_were_not_played_are_not_drawn():
    """One base and one draw in a table of three times three: the interval of that one alone."""
    random = np.random.default_rng(1)
    alone = {task: (random.random((1, 1, 50)) < 0.7) * 1.0 for task in "ab"}
    table = {task: np.full((3, 3, 50), np.nan) for task in "ab"}
    for task, x in alone.items():
        table[task][1, 2] = x[0, 0]
    worse = {task: x * (np.arange(50) % 2) for task, x in alone.items()}
    assert intervals.crossed_rate(table) == intervals.crossed_rate(alone)
    assert intervals.crossed_difference(table, {task: x * (np.arange(50) % 2) for task, x in table.items()}) == (
        intervals.crossed_difference(alone, worse))  # fmt: skip


def test_results_are_paired_by_their_seed(tmp_path):
    for name in ("a-s0", "a-s2", "b-s1", "b-s2", "c-s5"):
        (tmp_path / f"{name}.json").write_text(json.dumps(name))
    assert markdown.paired(tmp_path, "a-s[0-9].json", "b-s[0-9].json") == [["a-s2"], ["b-s2"]]
    assert markdown.paired(tmp_path, "a-s[0-9].json", "c-s[0-9].json") == [[], []]


def test_a_crossed_difference_is_paired_and_of_what_both_have():
    random = np.random.default_rng(0)
    one = {task: (random.random((3, 5, 50)) < 0.8) * 1.0 for task in "ab"}
    assert intervals.crossed_difference(one, dict(reversed(one.items()))) == (0, 0, 0)
    other = {task: x.copy() for task, x in one.items()}
    other["a"][:, 0, :] = np.nan  # was not played, and was all wrong where it was
    change = intervals.crossed_difference(one | {"a": np.where(np.isnan(other["a"]), 0, one["a"])}, other)
    assert change == (0, 0, 0)
    assert intervals.crossed_rate(other).count == f"{sum(int(np.nansum(x)) for x in other.values())}/1350"
    with pytest.raises(ValueError, match="same tasks, seeds"):
        intervals.crossed_difference(one, {"a": one["a"]})


def test_seeds_that_differ_make_a_difference_uncertain_and_stand_beside_it(tmp_path):
    """Of two seeds one loses 4 of 10 episodes and the other none, each the same way on other episodes: over episodes
    alone that is certain, over seeds it is not."""
    for seed, failed in {0: (), 1: (0, 1, 2, 3)}.items():
        (tmp_path / f"a-s{seed}.json").write_text(json.dumps({"tasks": {"a": entry()}}))
        (tmp_path / f"a-s{seed}-even.json").write_text(json.dumps({"tasks": {"a": entry(failed)}}))
    even, usual = markdown.paired(tmp_path, "a-s[0-9]-even.json", "a-s[0-9].json")
    narrow, wide = intervals.compare(even, usual), intervals.compare_seeds(even, usual)
    assert narrow.mean == wide.mean == pytest.approx(-20) and narrow.high < 0 == wide.high
    assert wide.low <= -60 < narrow.low  # twice the seed that loses, and unlucky episodes
    assert markdown.evenly(tmp_path, "a-s[0-9]-even.json") == f"{wide}; each seed 0.0, -40.0"
    (tmp_path / "a-s0.json").unlink()
    assert markdown.evenly(tmp_path, "a-s[0-9]-even.json") == str(intervals.compare(even[1:], usual[1:]))
    assert markdown.evenly(tmp_path, "b-s[0-9]-even.json") == ""


def test_students_t_over_the_differences_of_seeds():
    """Three seeds lose 1, 2 and 6 of 10: mean 30 points, standard deviation sqrt(700), t of 2 degrees of freedom."""
    usual = [{"tasks": {"a": entry()}}] * 3
    worse = [{"tasks": {"a": entry(range(n))}} for n in (1, 2, 6)]
    t = intervals.by_seed(worse, usual)
    half = 4.3026527 * 700**0.5 / 3**0.5
    assert t == pytest.approx((-30, -30 - half, -30 + half), abs=0.01)
    assert t.verdict.endswith("includes zero")
    assert intervals.by_seed(worse[:1], usual[:1]) is None, "of one seed it says nothing"


def test_evaluations_of_other_episodes_are_not_compared():
    here, there = ({"tasks": {"a": entry([1], first=first)}} for first in (1_030_000, 1_050_000))
    assert intervals.compare([here, here], [here]) == (0, 0, 0)
    with pytest.raises(ValueError, match="not of the same episodes"):
        intervals.compare([here], [there])
    with pytest.raises(ValueError, match="not of the same episodes"):
        adapt.old_change([here | {"old_actions_bit_equal": False}], there["tasks"])


@pytest.mark.parametrize(("demos", "low", "mean", "high"), [(50, -0.3, 0.6, 1.4), (25, -1.8, -0.9, 0.0)])
def test_factorized_minus_monolithic_against_the_exact_distribution(demos, low, mean, high):
    """Sums of 50 draws of whole numbers: their distribution is 50 convolutions, with no random number in it."""
    found = core.core_groups(markdown.STUDY, *core.MT6)
    one, other = (intervals.by_task(found[f"mt6-{policy}-{demos}"]) for policy in ("fdp", "monolithic"))
    distribution, start = np.ones(1), 0
    for task in one:
        change = (one[task].sum(0) - other[task].sum(0)).astype(int).tolist()  # of three seeds, each episode
        single = np.array([Counter(change)[i] / 50 for i in range(min(change), max(change) + 1)])
        for _ in range(50):
            distribution = np.convolve(distribution, single)
        start += 50 * min(change)
    points = 100 * (np.arange(len(distribution)) + start) / (3 * 50 * len(one))
    exact = [points[np.searchsorted(distribution.cumsum(), q)] for q in (0.025, 0.975)]
    found = core.mt6_difference(found, demos)
    assert found.mean == pytest.approx((distribution * points).sum())
    step = points[1] - points[0]  # 10,000 draws may end up on the neighbour
    assert (found.low, found.high) == pytest.approx(exact, abs=1.01 * step)
    assert str(found) == f"{intervals.points(mean)} [{intervals.points(low)}, {intervals.points(high)}]"


# ------------------------------------------------------------------------------------------------------------- page


@pytest.mark.parametrize("title", report.SECTIONS)
def test_a_section_without_its_files_says_so_in_one_line(title, tmp_path):
    lines = report.or_not_measured(report.SECTIONS[title][0], tmp_path)
    assert len(lines) == 2 and re.fullmatch(r"Not measured yet: `study/.*\.json`\.", lines[0]) and lines[1] == ""


def test_blocks_without_their_files_say_so(tmp_path):
    assert all(text.startswith("Not measured yet: `study/") for text in report.marked_tables(tmp_path).values())
    assert "Not measured yet" in report.fill("<!-- finding --><!-- /finding -->", tmp_path)


@pytest.mark.parametrize(("title", "pattern"), [
    ("Policies trained from demonstrations", "core/mt10-fdp-50-s0.json"),
    ("One new task at a time", "adapt/add-paper-disassemble-s0.json"),
    ("Four new tasks in turn", "adapt/sequence-*"),
    ("Why the paper's retention forgets", "adapt/why-paper.json"),
])  # fmt: skip
def test_one_missing_result_is_named_and_harms_no_other_section(title, pattern, tmp_path, monkeypatch):
    some = (title, "mt6, task by task: factorized and monolithic")
    monkeypatch.setattr(report, "SECTIONS", {title: report.SECTIONS[title] for title in some})
    sections = dict(part.split("\n", 1) for part in report.page(copied(tmp_path, pattern, *SLOW)).split("\n## ")[1:])
    assert "Not measured yet: `study/" + pattern.split("-s0")[0].split("*")[0] in sections[title]
    assert "fdp minus monolithic" in sections["mt6, task by task: factorized and monolithic"]


def test_tasks_learned_together_and_in_turn_on_two_blocks(tmp_path):
    old, new = {"hammer": 1.0, "reach": 0.5}, {"door-close": 0.9, "disassemble": 0.7}
    stage = {"tasks": list(new), "trained_parameters": 155849, "seconds": 300.0, "bytes_added": 5,
             "success_before_learning": {"door-close": 0.4}, "success_untrained": {"door-close": 0.1}}  # fmt: skip
    result = {
        "success": [old, {"hammer": 0.6, "reach": 0.5} | new], "expert": old | {"door-close": 1.0, "disassemble": 0.8},
        "stages": [stage],
        "average_success": 0.675, "forgetting": 0.2, "backward_transfer": -0.2, "forward_transfer": None,
        "command": "python adapt.py --run study/core/mt6 --tasks door-close,disassemble --eval-seed 5 --seed 0",
    }  # fmt: skip
    study = copied(tmp_path, "adapt/sequence-*", "adapt/together-*")
    for name in ("together-paper-s0", "sequence-exact-s0"):
        (study / f"adapt/{name}.json").write_text(json.dumps(result))
    (study / "adapt/sequence-exact-s1.json").write_text(json.dumps(
        result | {"command": result["command"].replace("--eval-seed 5", "")}))  # fmt: skip
    lines = adapt.together(study)
    low, high = (intervals.number(x) for x in intervals.wilson(80, 100))
    assert f"| paper | 5 | 1 | 0.900 | 0.700 | 0.800, {low} to {high}† | -20.0 | 0.675 | 155,849 | 300 |" in lines
    assert any(line.startswith("| scripted expert | 5 |  | 1.000 | 0.800 | 0.900,") for line in lines)
    assert "`python adapt.py --run study/core/mt6 --tasks door-close,disassemble" in lines[0]
    rows = [line.split(" | ") for line in adapt.sequences(study) if line.startswith(("| exact", "| scripted"))]
    assert [row[1] for row in rows] == ["0", "0", "5", "5"]  # a row, and the expert, for each block
    assert rows[0][4:7] == ["0.200", "-0.200", "-"]  # forgetting, backward transfer, no forward transfer
    assert "0.40 on door-close (untrained 0.10)" in " ".join(adapt.sequences(study))


def test_tasks_learned_in_turn_from_nothing(tmp_path):
    """Two tasks, ten episodes of each, two seeds; the first task loses two of its successes with the second."""
    (tmp_path / "sequences").mkdir()
    stage = {"trained_parameters": 100, "bytes_added": 2000, "seconds": 60.0, "latency_ms": 5.0, "same_bits": []}
    for seed in (0, 1):
        result = {
            "success": [{"reach": 1.0}, {"reach": 0.8, "push": 0.9}],
            "expert": {"reach": 1.0, "push": 1.0},
            "stages": [stage | {"tasks": ["reach"], "mode": "fresh"}, stage | {"tasks": ["push"], "seconds": 70}],
            "average_success": 0.85,
            "forgetting": 0.2,
            "backward_transfer": -0.2,
            "forward_transfer": 0.1,
        }
        del result["stages"][0]["trained_parameters"]  # of a fresh policy nothing is frozen
        expert = {"successes": 10, "n": 10}
        last = {"tasks": {"reach": entry(failed=[1, 2]) | {"steps_to_success": [50] * 7 + [300], "expert": expert},
                          "push": entry(failed=[3]) | {"steps_to_success": [200] * 9, "expert": expert}}}  # fmt: skip
        for name, content in ((f"cw10-base-s{seed}", result), (f"cw10-base-s{seed}-evaluation", last)):
            (tmp_path / f"sequences/{name}.json").write_text(json.dumps(content))
    lines = sequences.from_nothing(tmp_path)
    (row,) = [line.split(" | ") for line in lines if line.startswith("| exact")]
    between = intervals.rate(intervals.by_task([last, last])).interval
    assert row[:4] == ["| exact, `--lean-on base`", "2", f"0.850, {between}", "0.800"]
    # Of one task of two; of both; backward and forward transfer.
    assert row[4:8] == ["0.200, 0.200", "0.100, 0.100", "-0.200, -0.200", "0.100, 0.100"]
    assert row[8:] == ["100", "2,000", "70", "5.0 |"]
    assert any(line.startswith("| scripted expert |  | 1.000 |") for line in lines)
    assert not any("learned apart" in line for line in lines)
    (tmp_path / "sequences/apart-s0.json").write_text(json.dumps(last))
    said = " ".join(sequences.from_nothing(tmp_path))
    assert "learned apart" in said and "Success 0.850, " in said and "(the expert 1.000; 10 episodes" in said
    assert "Weakest: reach (8/10) and push (9/10)." in said and "a policy of its own" not in said
    own = {"tasks": {"push": entry(failed=[3, 4, 5]) | {"expert": expert}}}  # of the other task there is none yet
    (tmp_path / "sequences/alone").mkdir()
    (tmp_path / "sequences/alone/push.json").write_text(json.dumps(own))
    said = " ".join(sequences.from_nothing(tmp_path))
    change = intervals.compare([{"tasks": {"push": last["tasks"]["push"]}}], [own])
    assert (
        "the first 1 of 49 tasks by name, all that were played so far): 0.700, 0.397 to 0.892†, where learned apart "
        f"upon the first has 0.900: {change} points" in said
    )
    assert "Largest differences, in episodes of 10: push +2." in said
    assert plots.in_turn(tmp_path, tmp_path / "cw10.png").exists()
    with pytest.raises(markdown.NotMeasured, match="mt50"):
        plots.in_turn(tmp_path, tmp_path / "mt50.png")


def test_what_routes_and_what_was_not_measured_is_named(tmp_path):
    """Of four made-up ways one fulfils the whole rule; the others each miss one part of it."""

    def change(mean, high):
        return {"success": 0.5, "difference": {"mean": mean, "low": mean - 5, "high": high}}

    def told(above, low):
        return {"above": above, "interval": [low, above + 0.1], "most": 1.39}

    def way(above=0.5, low=0.4, untrained=0.1, mean=-20.0, high=-10.0) -> dict:
        changed = {what: change(-50.0, -40.0) for what in router.CHANGES}
        return {"played": {"hammer": entry(failed=[1])}, "expert": {"hammer": {"successes": 10, "n": 10}},
                "changed": changed | {"another task's": change(mean, high)}, "contrast": 7.0, "parameters": 1234,
                "tells": {label: told(above, low) for label in ("task", "flags", "step")},
                "untrained": {"task": [0.0, untrained]},
                "similarity": {"signed": [[1, 0], [0, 1]], "effective_rank": 2.0}}  # fmt: skip

    (tmp_path / "router" / "wake").mkdir(parents=True)
    ways = {"softmax": way(), "noise": way(above=0.19), "clean": way(untrained=0.4), "affine": way(mean=-9.0),
            "raw": way(high=0.1)}  # fmt: skip
    for name, content in ways.items():
        (tmp_path / f"router/wake/{name}.json").write_text(json.dumps(content))
    lines = router.waking(tmp_path)
    rows = {line.split(" | ")[0][2:]: line.split(" | ") for line in lines if line.startswith("| ")}
    assert [rows[name][16] for name in ways] == ["yes", "no", "no", "no", "no"]
    assert rows["softmax"][5:7] == ["0.500 (-50.0 [-55.0, -40.0])", "0.500 (-20.0 [-25.0, -10.0])"]
    assert rows["clean"][10] == "0.50 [0.40, 0.60]" and rows["clean"][13] == "0.40"
    assert rows["clean"][1] == "`--target clean`"
    assert rows["noise"][-1] == f"{PREDICTIONS['noise']} |"
    assert "Not measured yet: own-encoder, fast," in " ".join(lines[:5])


def test_where_a_component_acts_and_what_fails_without_it():
    left_out = {"without 0": {"a": entry(failed=range(10)), "b": entry(failed=range(4))},
                "without 1": {"a": entry(), "b": entry(failed=range(5))}}  # fmt: skip
    found = {"similarity": {"signed": [[1, 0], [0, 1]]}, "played": {"a": entry(), "b": entry()},
             "tasks": {"a": {"mean": [0.9, 0.1]}, "b": {"mean": [0.5, 0.5]}},
             "changed": {what: {"tasks": tasks} for what, tasks in left_out.items()}}  # fmt: skip
    assert router.reading(found) == [
        "Component 0 acts in a and b (mean weight at least 0.15); without it a loses half or more.",
        "Component 1 acts in b (mean weight at least 0.15); without it b loses half or more.",
    ]


def test_tasks_that_fail_without_a_component_are_counted_beside_the_usual_router():
    def way(*lost: int) -> dict:
        """lost: how many of ten episodes of the two tasks fail without either component."""
        pairs = (lost[:2], lost[2:])
        left_out = {f"without {k}": {"tasks": {"a": entry(range(a)), "b": entry(range(b))}}
                    for k, (a, b) in enumerate(pairs)}  # fmt: skip
        return {"similarity": {"signed": [[1, 0], [0, 1]]}, "played": {"a": entry(), "b": entry()},
                "changed": left_out}  # fmt: skip

    told = router.named(way(10, 0, 0, 5), way(10, 9, 0, 4))
    assert told.startswith("Without one of its components 1 of 2 tasks lose half or more; but so do 0 to 2 without one")


def test_the_finding_says_who_is_ahead(tmp_path):
    """By the intervals of whatever was measured; what was not is left out, and of nothing there is no finding."""
    with pytest.raises(markdown.NotMeasured, match="core/mt6"):
        finding.finding(tmp_path)
    written(tmp_path / "mt50/fdp-s0", 1)
    with pytest.raises(markdown.NotMeasured):  # nothing to stand beside it
        finding.finding(tmp_path)
    for failed, (gains, fdp, one) in {
        (1, 2): ("gains nothing that is shown", "in none", "in none"),  # a failure more: its interval ends at zero
        (1, 2, 3, 4, 5, 6): ("gains", "in fifty tasks (50; 50.0 points)", "in none"),
    }.items():
        written(tmp_path / "mt50/monolithic-s0", *failed)
        *bullet, _, _, row = finding.finding(tmp_path)  # and the table's head
        said = " ".join(bullet)
        change = intervals.compare(*([json.loads((tmp_path / f"mt50/{name}-s0.json").read_text())]
                                     for name in ("monolithic", "fdp")))  # fmt: skip
        assert row == f"| fifty tasks, 50 | 0.900 (1 seed) | 0.900 | one network {change} |"
        assert said.startswith(f"- **Factorizing {gains}**: of 1 comparisons with one network below, intervals")
        assert f"that exclude zero favour fdp {fdp}, one network {one}." in re.sub(r" +", " ", said)
    written(tmp_path / "core/mt6-fdp-50-s0", 1, 2, 3, 4, 5, 6)
    written(tmp_path / "core/mt6-monolithic-50-s0", 1)
    written(tmp_path / "mt50/fdp-s1")
    lines = finding.finding(tmp_path)
    said = re.sub(r" +", " ", " ".join(lines))
    assert (
        "of 2 comparisons with one network below" in said
        and "favour fdp in fifty tasks (50; 50.0 points), one network in six tasks (50 of" in said
    )
    assert lines[-1].startswith("| fifty tasks, 50 | 0.950 (2 seeds) | 0.900 | one network -50.0 [")
    assert lines[-1].endswith("] (1 seed) |")  # the one that both have


def test_the_finding_of_the_committed_files():
    """Every mean of the table, from the files' own counts."""
    rows = {line.split(" | ")[0][2:]: line for line in finding.finding(markdown.STUDY) if line.startswith("| ")}

    def mean(pattern: str) -> float:
        found = [json.loads(path.read_text())["tasks"] for path in markdown.STUDY.glob(pattern)]
        return sum(r["successes"] for tasks in found for r in tasks.values()) / sum(
            r["n"] for tasks in found for r in tasks.values()
        )

    for what, fdp, one in (("six tasks, 50 of each", "core/mt6-fdp-50-s?.json", "core/mt6-monolithic-50-s?.json"),
                           ("six tasks, 25 of each", "core/mt6-fdp-25-s?.json", "core/mt6-monolithic-25-s?.json"),
                           ("fifty tasks, 50", "mt50/fdp-s?.json", "mt50/monolithic-s?.json")):  # fmt: skip
        assert f"| {mean(fdp):.3f} (" in rows[what]
        if len([*markdown.STUDY.glob(fdp)]) == len([*markdown.STUDY.glob(one)]):
            assert f"| one network {intervals.points(100 * (mean(one) - mean(fdp)))} [" in rows[what]
    alone = markdown.STUDY / "sequences/alone"
    own = mean("sequences/alone/*.json")
    apart = json.loads((markdown.STUDY / "sequences/apart-s0.json").read_text())["tasks"]
    same = np.mean([apart[path.stem]["success"] for path in alone.glob("*.json")])
    last = rows["50 tasks, 49 added alone to the first, 50"]
    assert f"a small policy each {intervals.points(100 * (own - same))} [" in last
    assert f" (first {len([*alone.glob('*.json')])} by name, here {same:.3f})" in last
    learned = [json.loads(path.read_text()) for path in markdown.STUDY.glob("adapt/full-*-s?.json")]
    full = np.mean([r["tasks"][r["task"]]["success"] for r in learned])
    exact = [json.loads(path.read_text()) for path in markdown.STUDY.glob("adapt/add-exact-*-s?.json")]
    gain = full - np.mean([r["tasks"][r["task"]]["success"] for r in exact])
    assert f"| fine-tuning everything {intervals.points(100 * gain)} [" in rows["one task added to six, 25"]


def test_the_share_of_intervals_that_hold_is_that_of_the_file():
    made = json.loads((markdown.STUDY / "coverage.json").read_text())["covered"]
    rows = cells(report.coverage(markdown.STUDY))
    assert [row[0] for row in rows] == ["0 points", "1 points", "3 points"]
    for row in rows:
        spread = row[0].split()[0]
        assert row[1:] == [f"{by[spread]:.3f}" for each in made.values() for by in each.values()]


def test_policies_that_are_equally_good_are_made_so():
    """Success near 0.95, seeds as far apart as they should be, and no difference but for chance."""
    random, spread = np.random.default_rng(1), 3.0
    one, other = coverage.play(random, 20, 200, 60, spread)
    rates = [np.stack([x[:, 0] for x in played.values()]).mean((0, 2)) for played in (one, other)]  # of each seed
    assert abs(np.mean(rates) - 0.95) < 0.01 and abs(rates[0].mean() - rates[1].mean()) < 0.015
    assert np.std(rates[0], ddof=1) == pytest.approx(spread / 100, rel=0.35)


def test_no_run_of_todays_router_is_left_out():
    even = {str(path.relative_to(markdown.STUDY)) for path in markdown.STUDY.glob("**/*-even.json")}
    mine = {path for path in even if re.search(r"(fdp|softmax)[^/]*-s\d-even", path)}
    assert len(mine) >= 6
    for path in mine:
        assert re.sub(r"-s\d-", "-s[0-9]-", path) in router.REPLACED, path


def test_what_1_k_costs_in_all_runs_of_todays_router(tmp_path):
    with pytest.raises(markdown.NotMeasured, match="router/baselines"):
        router.dependence(tmp_path)
    for name, failed in {"router/baselines/mt6-25-fdp-s0": [1], "router/fifty/softmax-s1": [], "mt50/fdp-s0": [1, 2],
                         "router/baselines/mt6-25-informed-s0": []}.items():  # fmt: skip
        written(tmp_path / name, *failed)
        written(tmp_path / f"{name}-even", 1, 2, 3)
    assert router.dependence(tmp_path) == (
        "Replacing them by 1/K changes success by -30.0 to -10.0 points after training (3 runs, K = 4)"
    )


def written(folder: Path, *failed: int, loss: float = 0.5, weights=(0.9, 0.1)) -> None:
    """An evaluation of one task, and the log of the run."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    tasks = {
        "hammer": entry(failed=failed) | {"expert": {"successes": 9, "n": 10}, "router_weights": {"mean": weights}}
    }
    content = {"tasks": tasks, "mean_success": 1 - len(failed) / 10, "latency_ms_batch_1": 4.0,
               "training": {"seconds": 90}}  # fmt: skip
    Path(f"{folder}.json").write_text(json.dumps(content))
    log = [{"loss": 9.0, "grad_norm": norm} for norm in (1.0, 1.0, 3.0)] + [{"loss": loss, "grad_norm": 1.0}]
    Path(f"{folder}.jsonl").write_text("\n".join(map(json.dumps, log)))


def test_who_is_ahead_regression_or_diffusion(tmp_path):
    """One network by regression beside the one that denoises, five times: behind in three, ahead in one, one even."""
    few, many = ((1,), range(8))
    for place, regression, denoising in (("baselines/mt6-25-", many, few), ("baselines/mt6-3-", many, few),
                                         ("baselines/mt6-1-", many, few), ("baselines/two-ways-", few, few),
                                         ("fifty/", few, many)):  # fmt: skip
        with pytest.raises(markdown.NotMeasured, match=f"router/{place}bc-unet"):
            finding.diffusion(tmp_path)
        for seed in range(2):
            written(tmp_path / f"router/{place}bc-unet-s{seed}", *regression)
            written(tmp_path / f"router/{place}monolithic-s{seed}", *denoising)
    said = finding.diffusion(tmp_path)
    assert said.startswith("**Diffusion is ahead in 3 of 5 cases, regression in 1**: regression minus diffusion, one")
    assert said.count("-70.0 [") == 3 and "0.0 [0.0, 0.0] on two ways around a wall, +70.0 [" in said
    assert said.endswith("on fifty tasks (25) (2 seeds).")


def test_rivals_with_all_demonstrations_are_told_once_they_are_there(tmp_path):
    assert mt50.rivals(tmp_path) == []
    for name, failed in {"bc-unet": [1, 2], "monolithic": [1], "uniform": [1], "fdp": [1, 2, 3]}.items():
        written(tmp_path / f"mt50/{name}-s0", *failed)
    told = " ".join(mt50.rivals(tmp_path))
    assert re.search(r"regression, the same data and steps, 1 seed: 8/10, .* -10\.0 \[.* beside one network that", told)
    assert re.search(r"from the start, the same data and steps, 1 seed: 9/10, .* \+20\.0 \[.* beside fdp", told)


def cells(lines: list[str]) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")][2:]


def test_what_routes_on_fifty_tasks(tmp_path):
    """Differences are of the seeds that both have: seed 1 of softmax, which has no rival, failed everywhere."""
    for name, failed in {"softmax-s0": [1, 2], "softmax-s1": range(10), "softmax-s0-even": [1, 2, 3],
                         "monolithic-s0": [1], "monolithic-2-s0": [1, 2, 3, 4]}.items():  # fmt: skip
        written(tmp_path / "router/fifty" / name, *failed)
    (tmp_path / "router/fifty/softmax-s0-router.json").write_text(json.dumps(
        {"tells": {"task": {"above": 0.1, "interval": [0.05, 0.2]}}, "untrained": {"task": [0.0]},
         "changed": {"another task's": {"difference": {"mean": -20, "low": -30, "high": -10}}}}))  # fmt: skip
    rows = {row[0]: row for row in cells(router.on_fifty(tmp_path))}
    assert rows["`softmax`"][1] == "0.800, 0.000" and rows["`softmax`"][2] == "0.400, 0.000 to 1.000"  # seeds are drawn
    assert [x.split(" [")[0] for x in rows["`softmax`"][3:7]] == ["", "-10.0", "+20.0", "-10.0"]
    assert rows["`softmax`"][7:] == ["0.10", "no", "1.5"]
    assert rows["one network of the same total size"][3].startswith("+10.0 [")
    assert rows["scripted expert"][-1] == "0.900"


def test_a_table_of_one_way_so_far(tmp_path):
    written(tmp_path / "router/fifty/softmax-s0", 1, 2)
    (row, _) = cells(router.on_fifty(tmp_path))
    assert row[:7] == ["`softmax`", "0.800", row[2], "", "", "", ""] and row[2].startswith("0.800, ")


def test_a_router_that_routes_as_the_default(tmp_path):
    """Of an adaptation, the new task's episodes alone; what one of the two has not played is left out."""
    for name, failed in {"softmax-mt6": [1], "top2-bonus-mt6": [1, 2, 3], "softmax-reach-push": [],
                         "softmax/add-exact-a": [5], "top2-bonus/add-exact-a": [5, 6]}.items():  # fmt: skip
        written(path := tmp_path / "router/default" / name, *failed)
        if "add" in name:
            r = json.loads(Path(f"{path}.json").read_text())
            content = {"task": "a", "tasks": {"old": entry(failed=range(10)), "a": r["tasks"]["hammer"]}}
            Path(f"{path}.json").write_text(json.dumps(content))
    rows = {row[0]: row[1:] for row in cells(router.as_default(tmp_path))}
    assert list(rows) == ["mt6, 50 demonstrations", "a new task upon that, of mt4, each alone"]
    assert [x.split(" [")[0] for x in rows["mt6, 50 demonstrations"][1:]] == ["7/10 (-20.0", "", "", "9/10"]
    assert rows["mt6, 50 demonstrations"][0].startswith("9/10, ")
    upon = rows["a new task upon that, of mt4, each alone"]
    assert [x.split(" [")[0] for x in upon[1:]] == ["8/10 (-10.0", "", "", "9/10"]


def test_a_way_is_the_default_if_fifty_tasks_allow_it_and_it_loses_nowhere(tmp_path):
    assert router.decided(tmp_path, "a", []) == "`a` was not played on fifty tasks."
    looked = {"tells": {"task": {"above": 0.5, "interval": [0.4, 0.6]}}, "untrained": {"task": [0.0]},
              "changed": {"another task's": {"difference": {"mean": -20, "low": -30, "high": -10}}}}  # fmt: skip
    for name, failed in {"softmax": [1], "a": [2], "worse": range(2, 9), "idle": []}.items():
        written(tmp_path / f"router/fifty/{name}-s0", *failed)
        idle = looked | {"tells": {"task": {"above": 0.1, "interval": [0.0, 0.2]}}}
        path = tmp_path / f"router/fifty/{name}-s0-router.json"
        path.write_text(json.dumps(idle if name == "idle" else looked))
    assert router.decided(tmp_path, "a", []).endswith("be the default by the rule; nothing above speaks against it.")
    assert router.decided(tmp_path, "a", ["x", "y"]).endswith("for that look no threshold had been written down.")
    written(tmp_path / "router/fifty/new-s0", 3)
    assert router.decided(tmp_path, "new", []).endswith("on fifty tasks; whether it routes there was not measured.")
    for name in ("worse", "idle"):
        assert router.decided(tmp_path, name, []).startswith(f"`{name}` is no default by the rule: fifty tasks, ")


def test_what_two_of_eight_components_cost(tmp_path):
    rows = [{"what": "a step", "size": "small", "milliseconds": {"K = 2": 10.0},
             "ratio": {"K = 2": 1.0, "two of K = 8": ratio}} for ratio in (1.1, 1.25)]  # fmt: skip
    (tmp_path / "router").mkdir()
    path = tmp_path / "router/cost.json"
    path.write_text(json.dumps({"threads": 1, "hardware": "a machine", "rows": rows}))
    assert cells(router.sparse_cost(tmp_path))[1] == ["a step, small", "10.0", "1.25"]
    assert "at most 1.3, is met" in " ".join(router.sparse_cost(tmp_path))
    rows[0]["ratio"]["two of K = 8"] = 1.31
    path.write_text(json.dumps({"threads": 2, "hardware": "a machine", "rows": rows}))
    assert "at most 1.3, is missed" in " ".join(router.sparse_cost(tmp_path))


def test_new_tasks_by_routing_alone(tmp_path):
    """The base that routes has learned of one draw so far, and is compared on that one. README names two bases, and of
    one network what is there."""
    made = {("fdp", "router", 1): [1, 2, 3], ("fdp", "router", 2): range(10), ("informed", "router", 1): [1],
            ("monolithic", "name", 1): [1, 2, 3, 4]}  # fmt: skip

    def write(base: str, way: str, draw: int, failed) -> None:
        played = entry(failed=failed) | {"expert": {"successes": 9, "n": 10}}
        path = tmp_path / "router/adapting" / base / f"{way}-elsewhere-hammer-draw{draw}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"tasks": {"hammer": played}, "task": "hammer", "way": f"{way}-elsewhere",
                                    "flags": {"demo_draw": draw}, "stage": {"trained_parameters": 8644}}))  # fmt: skip

    for key, failed in made.items():
        write(*key, failed)
    rows = cells(router.by_routing(tmp_path))
    assert [row[2:4] for row in rows] == [["2", "7/20"], ["1", "9/10"], ["1", "6/10"], ["", "9/10"]]
    assert rows[1][5].startswith("+20.0 [") and rows[2][5].startswith("-10.0 [") and rows[2][1] == "name"
    assert rows[-1][-1] == "0.900"
    with pytest.raises(markdown.NotMeasured):
        finding.alone_by_routing(tmp_path)
    write("affine-16", "router", 1, [1, 2])
    assert finding.alone_by_routing(tmp_path).endswith(
        "to 0.800 (16 slim, signed parts; default 0.350, one network's name 0.600; 1 base, 1 draw)."
    )
    folder = tmp_path / "router/adapting/informed"  # a second task begins to come in
    text = (folder / "router-elsewhere-hammer-draw1.json").read_text()
    (folder / "router-elsewhere-reach-draw1.json").write_text(text.replace("hammer", "reach"))
    rows = cells(router.by_routing(tmp_path))
    assert [row[0] for row in rows] == [router.BASES["informed"], "scripted expert"] and rows[0][3:5] == ["9/10"] * 2


def test_rivals_are_compared_within_their_data(tmp_path):
    for name, failed in {"mt6-25-fdp-s0": [1, 2], "mt6-25-fdp-s1": [1, 2], "mt6-25-bc-s0": [1], "mt6-25-bc-s1": [1],
                         "mt6-1-fdp-s0": range(10), "mt6-1-bc-s0": [1]}.items():  # fmt: skip
        written(tmp_path / "router/baselines" / name, *failed)
    rows = cells(router.rivals(tmp_path))
    assert [row[1] for row in rows] == ["fdp", router.RIVALS["bc"]] * 2
    assert [row[4].split(" [")[0] for row in rows] == ["", "+10.0", "", "+90.0"]
    assert all(row[-1] == "0.900 (9/10)" for row in rows)
    page = " ".join(router.rivals(tmp_path))
    assert "6 of 84 planned runs are there." in page
    linear = router.RIVALS["bc"]
    assert f"25 demonstrations of each task, {linear}: hammer 18/20 (16/20)." in page
    assert f"mt6, 1 demonstration, {linear}: hammer 9/10 (0/10)." in page


def test_how_many_components(tmp_path):
    """Four are the same in both halves of the table."""
    for name, failed in {"each-1-s0": [1], "each-4-s0": [], "each-4-s1": [1, 2], "together-8-s0": []}.items():
        written(tmp_path / "router/components" / name, *failed, loss=0.1 * (name == "each-4-s1") + 0.5)
    rows = cells(router.how_many(tmp_path))
    assert [row[:3] for row in rows[:-1]] == [
        ["each as large as ever", "1", "1"], ["each as large as ever", "4", "2"],
        ["all together as large as four", "4", "2"], ["all together as large as four", "8", "1"]]  # fmt: skip
    assert rows[1][1:] == rows[2][1:]
    assert rows[1][6:] == ["-", "-", "0.5000 to 0.6000", "3.0", "0.100"]
    assert [row[4].partition(" ")[0] for row in rows[:-1]] == ["-10.0", "", "", "0.0"]
    ratios = [{f"K = {K}, {how}": K * x for K in (1, 4, 8) for how in ("each", "together")} for x in (0.25, 0.5)]
    (tmp_path / "router/components/cost.json").write_text(json.dumps(
        {"rows": [{"ratio": ratio} for ratio in ratios], "hardware": "a clock", "threads": 2}))  # fmt: skip
    assert [row[6:8] for row in cells(router.how_many(tmp_path))[:-1]] == [
        ["0.25", "0.50"], ["1.00", "2.00"], ["1.00", "2.00"], ["2.00", "4.00"]]  # fmt: skip


def test_rows_upon_another_training_of_a_base_are_named(tmp_path):
    (tmp_path / "ml45/monolithic").mkdir(parents=True)
    for way, draw, weights in (("low-rank", 1, "aa"), ("full", 1, "aa"), ("low-rank-elsewhere", 1, "bb")):
        (tmp_path / f"ml45/monolithic/{way}-push-d1-n2000-draw{draw}-s0.json").write_text(json.dumps(
            {"way": way, "flags": {"seed": 0}, "stage": {"source_weights": weights}}))  # fmt: skip
    told = " ".join(ml45.trained_anew(tmp_path, dict.fromkeys(
        [("monolithic", way) for way in ("low-rank", "full", "low-rank-elsewhere")])))  # fmt: skip
    assert "monolithic, seed 0: `low-rank` and `full` upon one and `low-rank-elsewhere` upon one." in told
    assert ml45.trained_anew(tmp_path, {("monolithic", "low-rank"): None, ("monolithic", "full"): None}) == []


def test_policies_with_cameras(tmp_path):
    (tmp_path / "pixels" / "shift").mkdir(parents=True)

    def result(failed) -> dict:
        tasks = {"fdp/hammer-pixels-v3": entry(failed=failed) | {"expert": {"successes": 10, "n": 10}}}
        return {
            "tasks": tasks,
            "training": {"command": "python train.py --demos-per-task 25", "steps": 9, "seconds": 120},
        }

    for name, failed in {"fdp-25-s0": [1, 2], "fdp-25-s1": [], "monolithic-25-s0": [1], "fdp-25-s0-even": [1, 2, 3],
                         "shift/fdp-25-s0-light": [1, 2, 3, 4]}.items():  # fmt: skip
        (tmp_path / f"pixels/{name}.json").write_text(json.dumps(result(failed)))
    lines = pixels.cameras(tmp_path)
    rows = [line.split(" | ") for line in lines if line.startswith("| ")]
    assert rows[0][2] == "hammer" and rows[2][:3] == ["| fdp", "2", "18/20"] and rows[2][5].startswith("-10.0 [")
    assert rows[3][:3] == ["| monolithic: one network of the same size", "1", "9/10"]
    assert rows[3][4].startswith("+10.0 [") and rows[4][:4] == ["| scripted expert", "", "10/10", "1.000"]
    assert rows[-1][:2] == ["| fdp", "`light`"] and rows[-1][4].startswith("-20.0 [")
    (tmp_path / "pixels/choice").mkdir()
    (tmp_path / "pixels/adapt").mkdir()
    for way, demos, failed in (("add-exact", 5, [1]), ("scratch", 5, [1, 2, 3]), ("add-exact", 10, [])):
        new = result(failed) | {
            "way": way,
            "task": "fdp/hammer-pixels-v3",
            "flags": {"demos_per_task": demos, "steps": 9},
            "stage": {"retain": "paper" if way == "scratch" else "exact"},
            "old_actions_bit_equal": way != "scratch",
        }
        (tmp_path / f"pixels/adapt/{way}-{demos}.json").write_text(json.dumps(new))
    whole = {"demonstrations": 60, "training": 100, "evaluation": 20, "whole process": 180}
    (tmp_path / "pixels/command.json").write_text(
        json.dumps(
            result([1])
            | {"command": "python train.py --tasks mt6", "hardware": "EPYC, 2 cores", "seconds_of_command": whole}
        )
    )
    (tmp_path / "pixels/usual-fdp-s0.json").write_text(json.dumps(result([1, 2, 3, 4, 5])))
    changes = {
        what: {"difference": {"mean": mean, "low": mean - 1, "high": mean + 1}}
        for what, mean in {
            "the task's mean": -1,
            "mean over tasks": 2,
            "1/K": -3,
            "another task's": -4,
            "top two": -5,
        }.items()
    }
    tells = {"tells": {"task": {"above": 0.5}}, "untrained": {"task": [0.1, 0.2]}}
    (tmp_path / "pixels/usual-router.json").write_text(json.dumps({"success": 0.9, "changed": changes} | tells))
    page = " ".join(pixels.cameras(tmp_path))
    assert "3 minutes (demonstrations 1, training 2, evaluation 0), success 0.900, 0.596 to 0.982†" in page
    assert "tells 0.500 nats about the task, those of routers that have learned nothing up to 0.200" in page
    assert "another task's by -4.0 [-5.0, -3.0]" in page
    learned = [line for line in pixels.adapted(tmp_path) if line.startswith("| 5") or line.startswith("| 10")]
    assert "where a way is exact, the old tasks' actions are the same bit" in " ".join(pixels.adapted(tmp_path))
    moved = json.loads((tmp_path / "pixels/adapt/add-exact-10.json").read_text()) | {"old_actions_bit_equal": False}
    (tmp_path / "pixels/adapt/add-exact-10.json").write_text(json.dumps(moved))
    assert "in 1 of 2 exact stages old tasks' actions changed" in " ".join(pixels.adapted(tmp_path))
    assert [line.split(" | ")[2] for line in learned] == ["9/10", "7/10", "10/10"]
    assert learned[0].split(" | ")[4].startswith("+20.0 [") and learned[2].endswith(" |  |")  # nothing to compare with
    tried = result([1])
    tried["training"]["hardware"] = "AMD EPYC, 2 cores"
    (tmp_path / "pixels/choice/draws-4-6000.json").write_text(json.dumps(tried))
    *_, last, expert = [line for line in pixels.cameras(tmp_path) if line.startswith("| ")]
    assert (
        expert == "| scripted expert | 10 | 1.000 |  |  |"
        and last.startswith("| four steps and noises, as")
        and last.endswith(" | 9 | 0.900, 0.596 to 0.982† | 2 | AMD EPYC |")
    )


def test_both_averages_over_fifty_tasks():
    """A policy that fails at one of the five hardest tasks alone loses a fiftieth, or a fifth of a quarter."""
    assert [28, *(len(names) for d, names in mt50.DIFFICULTY.items() if d != "easy")] == [28, 11, 6, 5]
    assert {task for names in mt50.DIFFICULTY.values() for task in names} < set(TASKS)
    played = {task: np.full((1, 4), float(task != "shelf-place")) for task in TASKS}
    means = mt50.groups(played)
    assert means == pytest.approx({"easy": 1, "medium": 1, "hard": 1, "very hard": 0.8})
    assert (intervals.success(played), np.mean(list(means.values()))) == pytest.approx((0.98, 0.95))


def test_looking_again_sooner(tmp_path):
    """Two tasks of ten episodes: after two actions one of twenty fails, after four four of them, all of one task."""
    for folder in ("mt50", "core/executed"):
        (tmp_path / folder).mkdir(parents=True)
    for n, failed in ((2, [3]), (4, [0, 3, 5, 6])):
        tasks = {task: entry(fails) | {"success": 1 - len(fails) / 10} for task, fails in (("a", []), ("b", failed))}
        for played in tasks.values():
            played["expert"] = {"successes": 9, "n": 10, "success": 0.9}
        result = json.dumps({"tasks": tasks, "executed": n, "policy_seconds": n / 10})
        for name in (f"mt50/executed-{n}", f"core/executed/mt6-{n}"):
            (tmp_path / f"{name}.json").write_text(result)
    said = " ".join(mt50.sooner(tmp_path))
    assert "19/20" in said and "16/20" in said and ": +15.0 [" in said and "The expert has 0.900" in said
    assert "More than 10 points below it: none; after four: b." in said and "block 3" in said
    rows = cells(core.looking(tmp_path))
    assert [(row[1], row[3][:7]) for row in rows] == [("2", "+15.0 ["), ("4", "")]
    assert "needs eight actions on fifty tasks" in " ".join(core.looking(tmp_path))
    for n, share in ((2, 0.985), (4, 0.975), (8, 0.97)):  # four are one point below, and not more
        played = json.loads(result) | {"executed": n, "mean_success": share}
        (tmp_path / f"core/executed/mt50-{n}.json").write_text(json.dumps(played))
    assert "the best on the 50 tasks, it is 4." in " ".join(core.looking(tmp_path))
    (tmp_path / "mt50/executed-4.json").unlink()
    assert mt50.sooner(tmp_path) == []


def test_soccer_alone(tmp_path):
    """Rows that were played both ways, each beside what was expected of it."""
    assert mt50.alone(tmp_path) == []
    (tmp_path / "mt50/soccer").mkdir(parents=True)
    for name, failed in {"200-2000": [1], "200-2000-executed-2": [], "50-2000": [1]}.items():
        played = entry(failed) | {"expert": {"successes": 9, "n": 10}}
        (tmp_path / f"mt50/soccer/{name}.json").write_text(json.dumps({"tasks": {"soccer": played}}))
    assert cells(mt50.alone(tmp_path)) == [["200", "2,000", "0.78 and 0.82", "9/10", "10/10", "9/10"]]


def test_a_difference_over_several_seeds_draws_them_anew():
    """Two seeds that disagree about everything: over episodes alone the mean is sure, over seeds it is not."""
    one = [{"tasks": {"a": entry(failed)}} for failed in ([], range(10))]
    other = [{"tasks": {"a": entry(range(10))}}] * 2
    assert mt50.minus(one[:1], other[:1])[:] == (100, 100, 100)
    assert mt50.minus(one, other)[:] == (50, 0, 100)


def test_ten_points_below_are_not_more_than_ten():
    """41 and 46 of 50 differ by 0.1 and a rounding error. Where no episode ended there is nothing to compare."""
    played = {"a": (41, 50), "b": (40, 50), "c": (0, 0)}
    tasks = {task: {"successes": s, "n": n, "expert": {"successes": 46, "n": 50}} for task, (s, n) in played.items()}
    assert mt50.below({"tasks": tasks}) == ["b"]


def test_the_first_checkpoint_that_reached_a_success(tmp_path):
    row = {"n": 4, "tasks": {"reach": [4, 4, 4]}}
    curve = [
        row | {"seconds": s, "step": 1000 * int(s), "success": x}
        for s, x in ((10.0, 0.5), (20.0, 0.92), (30.0, 0.89), (40.0, 0.94))
    ]
    (tmp_path / "mt50").mkdir()
    (tmp_path / "mt50/curve-fdp-s0.json").write_text(json.dumps({
        "checkpoints": curve, "flags": {"tasks": "mt50", "policy": "fdp"}, "hardware": "2 cores", "revision": "abc",
        "command": "python curve.py --tasks mt50"}))  # fmt: skip
    assert "| mt50 | fdp | 20 (20,000) | - | 0.940 (40 s) |" in "\n".join(mt50.speed_run(tmp_path))
    assert plots.curves(tmp_path, tmp_path / "curves.png").exists()


def test_the_page_is_readable_and_its_links_lead_somewhere():
    page = whole_page(markdown.STUDY)
    assert not [line for line in page.splitlines() if len(line) > 120 and not line.startswith(("|", "- ["))]
    for target in re.findall(r"\]\(([^)#]+)\)", page):
        assert target.startswith("http") or (markdown.STUDY / target).exists(), target
    headings = {re.sub("[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in report.SECTIONS}
    assert set(re.findall(r"\]\(#([^)]+)\)", page)) == headings
    for script in re.findall(r"python (\S+\.py)", page):
        assert (ROOT / script).exists(), script
    for title, section in zip(report.SECTIONS, page.split("\n## ")[1:], strict=True):
        nothing_played = report.SECTIONS[title][0] in (report.sources, report.sparse_cost, report.coverage)
        if not nothing_played and "Not measured yet" not in section:
            assert "| scripted expert |" in section or re.search(r"expert[^|\n]* \||the expert \d", section), title


def test_what_the_measurements_do_not_carry_is_not_said():
    everything = whole_page(markdown.STUDY) + "".join(report.marked_tables().values())
    for phrase in ("ceiling", "sees only the observation", "halves", "solved", "same bits"):
        assert phrase not in everything


def test_pictures_are_drawn_from_what_there_is(tmp_path, capsys, drawn_in_full):
    written = plots.main(copied(tmp_path / "study", "adapt/sequence-*"), tmp_path / "pictures")
    names = [str(path.relative_to(tmp_path / "pictures")) for path in written]
    assert names == ["core/mt6.png", "adapt/one-task.png", "adapt/budget.png", "sequences/cw10.png",
                     "sequences/mt50.png", "mt50/curves.png", "ml45/one.png"]  # fmt: skip
    assert all(path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000 for path in written)
    assert "no adapt/sequences.png" in capsys.readouterr().err
    assert plots.sequences(markdown.STUDY, tmp_path / "sequences.png").exists()


def test_a_chain_of_new_tasks_is_compared_with_each_upon_the_base_alone(tmp_path):
    (tmp_path / "ml45/fdp").mkdir(parents=True)
    assert ml45.chained(tmp_path) == []
    alone = {task: entry([1, 2]) for task in ml45.NEW_ML45}
    for (task, played), draw in product(alone.items(), (1, 3)):
        (tmp_path / f"ml45/fdp/add-elsewhere-{task}-d1-n2000-draw{draw}-s0.json").write_text(
            json.dumps({"tasks": {task: played}})
        )
    for draw, failed in ((1, []), (3, [1])):
        (tmp_path / f"ml45/chain-draw{draw}-s0-evaluation.json").write_text(json.dumps({"tasks": alone | {
            "door-lock": entry(failed), "push": entry(range(10))}}))  # fmt: skip
    page = ml45.chained(tmp_path)
    chain, apart = cells(page)
    assert "draw 1 and 3, one" in " ".join(page)
    assert chain[1:6] == ["16/20", "16/20", "19/20", "16/20", "16/20"] and apart[1:6] == ["16/20"] * 5
    assert chain[6].startswith("0.830, ") and chain[7].startswith("+3.0 [")


def test_what_cameras_and_fifty_tasks_cost(tmp_path):
    for section, folder in ((pixels.cost, "pixels"), (mt50.needs, "mt50")):
        (tmp_path / folder).mkdir()
        assert section(tmp_path) == []
    common = {"hardware": "a machine, 2 cores", "command": "python a.py"}
    spent = {"clock": 30, "pictures": 6, "physics": 3, "policy": 1, "chunks": 7}
    ms = {"picture": {"corner": 9.94, "wrist": 8, pixels.OTHERS: 159.6}, "24 action chunks": 38,
          "training step": {"ours": 90, "the encoder alone": 60, "from the state": 25}}  # fmt: skip
    (tmp_path / "pixels/cost.json").write_text(
        json.dumps({"milliseconds": ms, "evaluation": spent, "episodes": 120} | common)
    )
    told = " ".join(pixels.cost(tmp_path))
    assert "9.9 ms (corner) and 8.0 (wrist), with MuJoCo's own settings 160." in told
    assert "time: pictures 60%, physics 30% and policy 10%." in told
    rows = {name: {"seconds": [1.4, 5], "megabytes": [900, 1000]} for name in ("collecting", "training", "evaluating")}
    (tmp_path / "mt50/memory.json").write_text(
        json.dumps({"rows": rows, "left": [], "demos": 50, "steps": 2000, "episodes": 50} | common)
    )
    page = mt50.needs(tmp_path)
    assert "Left behind: nothing." in " ".join(page)
    assert cells(page)[0] == ["collecting", "50 demonstrations of each", "1", "5", "900", "1,000"]


def looked(without: list[list[int]], mean: list[list[float]]) -> dict:
    """As study/router/measure.py writes it: successes of 10 without each component, mean weights; by task."""
    tasks = "abc"
    played = {task: {"successes": 10, "n": 10} for task in tasks}
    changed = {
        f"without {k}": {"tasks": {task: {"successes": left, "n": 10} for task, left in zip(tasks, row, strict=True)}}
        for k, row in enumerate(without)
    }
    similarity = {"signed": [[1, 0.5], [0.5, 1]], "double_counting": 0.25}
    entries = {task: {"mean": weights} for task, weights in zip(tasks, mean, strict=True)}
    return {"played": played, "changed": changed, "tasks": entries, "similarity": similarity}


def test_whether_what_breaks_is_what_the_map_names():
    """Component 0 acts in a and b, and b does without it; 1 acts in b and c, and a, where it does not, fails, too."""
    found = looked([[0, 9, 10], [5, 2, 0]], [[0.9, 0.1], [0.4, 0.6], [0.0, 1.0]])
    told = router.only_that(found)
    acts, others = told.split(" (b without 0 does not); ")
    assert acts == "Of 4 pairs of a component and a task in which it acts, 3 lose half or more"
    assert others == "of the 2 others, 1."
    assert router.called(found) == []
    assert "are 0.50 and 0.250 (`one`)." in router.alike({"one": found})


def test_a_share_of_the_peak_is_of_operations_in_a_second(tmp_path):
    """ "gflops" of study/speed/benchmark.py are divided by the time already: 40 times the rate at 0.8 of the pace is 50
    times the work of a step."""
    rows = [
        {"what": f"training, {size}, K = 4, batch 64", "gflops": gflops, "samples_per_second": {"ours": pace}}
        for size, gflops, pace in (("small", 5, 1000), ("base", 200, 800))
    ] + [{"what": "one action chunk, K = 4, B = 1", "gflops": 1, "milliseconds": {"ours": 20.0}}]
    made = {"peak_gflops": 2000, "rows": [row | {"ratio": {"one by one": 3.0}} for row in rows]}
    (tmp_path / "gpu").mkdir()
    (tmp_path / "gpu/speed.json").write_text(json.dumps(made))
    lines = gpu.paces(tmp_path)
    assert [row[2] for row in cells(lines)] == ["0.25 %", "10 %", "0.05 %"]
    assert "base does 50 times the work of small in 1.25 times the time" in " ".join(lines)


def test_a_finding_without_augmentation(tmp_path):
    """What was measured later than the rest may not be there."""
    study = copied(tmp_path / "study")
    for path in (study / "ml45").rglob("*elsewhere*.json"):
        path.unlink()
    (row,) = (line for line in finding.finding(study) if line.startswith("| one task added to 45, 1 |"))
    assert "one network with adapters" in row and "augmented" not in row and "bases)" not in row.split(" | ")[2]
