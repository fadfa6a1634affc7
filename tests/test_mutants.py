"""The table of deliberate mistakes in study/mutants.py fits the code, or it would test nothing."""

import json

import pytest
from conftest import ROOT

from study import mutants


@pytest.mark.parametrize("name", mutants.MUTANTS)
def test_a_mistake_can_be_made_and_leaves_python(name):
    file, text = mutants.mutated(name)
    assert text != (ROOT / file).read_text()
    compile(text, str(file), "exec")
    for test in mutants.MUTANTS[name][3].split(" -k ")[0].split():
        assert (ROOT / "tests" / test).exists(), test


def test_a_row_that_no_longer_fits_is_an_error(monkeypatch):
    monkeypatch.setitem(mutants.MUTANTS, "gone", ("fdp.py", "no such line", "", "test_fdp.py"))
    with pytest.raises(ValueError, match="'gone': fdp.py has 0 places"):
        mutants.mutated("gone")


def test_the_published_result_is_of_this_table_and_nothing_survived():
    found = json.loads((ROOT / "study/mutants.json").read_text())["mutants"]
    assert list(found) == list(mutants.MUTANTS) and not any(row["survived"] for row in found.values())
