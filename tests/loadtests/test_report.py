"""A result says which way its bar points and whether it holds, in the table and in the file."""

import json

import pytest

from loadtests import report
from loadtests.report import Bar, Outcome, bounded, compared, publish


def test_a_ratio_above_its_bar_holds_where_higher_is_better():
    bar = Bar("split vs plain", "tokens/s", 2.0, higher_is_better=True)
    row = compared(bar, [210.0, 200.0, 230.0], [100.0, 100.0, 100.0])
    assert (row.ratio, row.spread, row.holds, row.higher_is_better) == (2.1, (2.0, 2.3), True, True)
    assert compared(bar, [199.0], [100.0]).holds is False


def test_a_ratio_above_its_bar_fails_where_lower_is_better():
    bar = Bar("start", "s", 1.25)
    assert compared(bar, [13.0], [10.0]).holds is False
    assert compared(bar, [12.0], [10.0]).holds is True


def test_a_figure_without_a_bar_neither_holds_nor_fails():
    row = bounded(Bar("processor", "share"), [0.5, 0.7, 0.6])
    assert (row.ours, row.holds, row.spread) == (0.6, None, (0.5, 0.7))


def test_the_file_has_the_given_form_and_keeps_the_detail(tmp_path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    row = compared(Bar("split vs plain", "tokens/s", 2.0, higher_is_better=True), [231.0], [109.0])
    path = publish("speculation", Outcome((row,), detail={"notes": "none"}))
    stored = json.loads(path.read_text())
    assert set(stored) == {"machine", "commit", "rows", "detail"}
    assert stored["rows"][0] | {"ratio": 2.12} == {
        "bar": "split vs plain",
        "ours": 231.0,
        "theirs": 109.0,
        "unit": "tokens/s",
        "ratio": 2.12,
        "spread": [stored["rows"][0]["ratio"]] * 2,
        "must": 2.0,
        "higher_is_better": True,
        "holds": True,
        "engine": "real",
    }
    assert ">= 2" in capsys.readouterr().out
