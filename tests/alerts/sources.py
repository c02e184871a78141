"""What is checked: rules, dashboards, runbooks, and the metrics that gateways really export."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import CollectorRegistry

from cluster.experiments import Experiments
from cluster.metrics import GatewayMetrics
from experts.speculation.metrics import SpeculationMetrics

ROOT = Path(__file__).parents[2]
RULES = sorted((ROOT / "deployments" / "alerts").glob("*.yaml"))
DASHBOARDS = sorted((ROOT / "deployments" / "dashboards").glob("*.json"))
RUNBOOKS = sorted((ROOT / "runbooks").glob("*.md"))
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}
METRIC = re.compile(r"\b(?:switchyard|gen_ai)_\w+")
RECORDED = re.compile(r"\bpool:\w+:\w+")


@dataclass(frozen=True)
class Expression:
    """A PromQL expression and where it stands."""

    where: str
    text: str


@cache
def exported() -> frozenset[str]:
    """The names of all samples that a gateway may export."""
    registry = CollectorRegistry()
    GatewayMetrics(registry)
    SpeculationMetrics(registry)
    Experiments(registry)
    return frozenset(family.name + suffix for family in registry.collect() for suffix in SUFFIXES[family.type])


@cache
def rules() -> tuple[dict[str, Any], ...]:
    return tuple(
        rule
        for path in RULES
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
        for rule in group["rules"]
    )


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", ())


@cache
def dashboards() -> dict[str, dict[str, Any]]:
    return {path.name: json.loads(path.read_text(encoding="utf-8")) for path in DASHBOARDS}


def shown() -> list[Expression]:
    """What dashboards draw."""
    return [
        Expression(f"{name}: {panel['title']}", target["expr"])
        for name, dashboard in dashboards().items()
        for panel in panels(dashboard)
        for target in panel.get("targets", ())
    ]


def expressions() -> list[Expression]:
    """Those of rules and dashboards."""
    return [Expression(rule.get("record") or rule["alert"], rule["expr"]) for rule in rules()] + shown()


def blocks(runbook: Path) -> list[str]:
    """The shell blocks of a runbook, whether or not they are indented in a list."""
    text = runbook.read_text(encoding="utf-8")
    return re.findall(r"(?ms)^ *```sh\n(.*?)^ *```$", text)
