"""Rules and dashboards: they parse, they fire and clear as their unit tests say, and they name metrics that exist."""

import json
import re
from itertools import combinations
from pathlib import Path

import pytest

from tests.alerts.promtool import promtool
from tests.alerts.sources import (
    DASHBOARDS,
    METRIC,
    RECORDED,
    RULES,
    Expression,
    alerts,
    dashboards,
    exported,
    expressions,
    panels,
    rules,
    shown,
)

UNITS = sorted(Path(__file__).parent.glob("*.yaml"))


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.stem)
def test_prometheus_accepts_the_rules(path: Path) -> None:
    checked = promtool("check", "rules", path)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_alerts_fire_and_clear_when_they_should(path: Path) -> None:
    tested = promtool("test", "rules", path)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_has_a_unit_test_in_which_it_fires() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in UNITS)
    fired = set(re.findall(r'ALERTS\{alertname="(\w+)", alertstate="firing", pool', text))
    assert fired == {alert["alert"] for alert in alerts()}


def test_every_expression_of_a_dashboard_is_promql(tmp_path: Path) -> None:
    listed = [{"record": f"panel:{number}", "expr": each.text} for number, each in enumerate(shown())]
    path = tmp_path / "panels.yaml"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": listed}]}))
    checked = promtool("check", "rules", path)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(listed)} rules found" in checked.stdout


@pytest.mark.parametrize("each", expressions(), ids=lambda each: each.where)
def test_every_metric_named_is_exported_or_recorded(each: Expression) -> None:
    named = set(METRIC.findall(each.text)) | set(RECORDED.findall(each.text))
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    assert named or each.text.startswith("vector("), "an expression over nothing of ours"
    assert named <= exported() | recorded


@pytest.mark.parametrize("each", expressions(), ids=lambda each: each.where)
def test_pool_facts_are_maximised_over_gateways_and_all_else_is_summed(each: Expression) -> None:
    for found in METRIC.finditer(each.text):
        before = re.sub(r"\s+", " ", each.text[: found.start()])
        pool = found[0].startswith("switchyard_pool_")
        operator, functions = ("max", "rate|label_replace") if pool else ("sum", "rate|increase")
        wanted = rf"{operator} by \([\w, ]+\) \((({functions})\(){'?' if pool else ''}$"
        assert re.search(wanted, before), f"{found[0]} after {before[-60:]!r}"


def test_every_recorded_series_is_used() -> None:
    used = {name for each in expressions() for name in RECORDED.findall(each.text)}
    assert {rule["record"] for rule in rules() if "record" in rule} == used


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_whole(path: Path) -> None:
    dashboard = dashboards()[path.name]
    drawn = list(panels(dashboard))
    assert dashboard["title"]
    assert len({panel["id"] for panel in drawn}) == len(drawn)
    assert all(panel["title"] and (panel["type"] == "row" or panel["targets"]) for panel in drawn)
    places = [panel["gridPos"] for panel in drawn]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    assert not [pair for pair in combinations(places, 2) if _overlap(*pair)]


def _overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    across = one["x"] < other["x"] + other["w"] and other["x"] < one["x"] + one["w"]
    down = one["y"] < other["y"] + other["h"] and other["y"] < one["y"] + one["h"]
    return across and down
