"""Each alert has its runbook, each runbook its sections, and each command in it is one that exists."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from typer import Context
from typer.core import TyperGroup
from typer.main import get_command

from deployments.cli.main import app
from experts.api import SpeculationState
from experts.speculation.metrics import SpeculationMetrics
from tests.alerts.sources import ROOT, RUNBOOKS, alerts, blocks

SECTIONS = ["Meaning", "Impact", "Diagnosis", "Mitigation", "Verification", "Drill"]
COMMAND = re.compile(r"(?:^|[|;(&]|\$\()\s*switchyard\b([^|;)&\n]*)", re.MULTILINE)
GREP = re.compile(r"grep (?:-E )?'([^']+)'")


def commands(runbook: Path) -> list[list[str]]:
    """The arguments of every call of ``switchyard`` in it."""
    return [shlex.split(found[1]) for block in blocks(runbook) for found in COMMAND.finditer(block)]


def parse(arguments: list[str]) -> None:
    """Read a command line as ``switchyard`` would, without running it. Raises typer's UsageError."""
    command, name = get_command(app), "switchyard"
    context: Context | None = None
    while isinstance(command, TyperGroup) and arguments and not arguments[0].startswith("-"):
        context = Context(command, info_name=name, parent=context)
        found, child, arguments = command.resolve_command(context, arguments)
        assert child is not None
        command, name = child, str(found)
    command.make_context(name, list(arguments), parent=context).close()


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: f"{alert['alert']}-{len(alert['expr'])}")
def test_every_alert_explains_itself_and_has_its_runbook(alert: dict[str, Any]) -> None:
    notes = alert["annotations"]
    assert notes["runbook_url"] == f"runbooks/{alert['alert']}.md"
    assert (ROOT / notes["runbook_url"]).is_file()
    assert alert["labels"]["severity"] in ("page", "ticket")
    assert notes["summary"]
    assert notes["description"]


def test_every_runbook_belongs_to_an_alert() -> None:
    assert {path.stem for path in RUNBOOKS} == {alert["alert"] for alert in alerts()}


@pytest.mark.parametrize("runbook", RUNBOOKS, ids=lambda path: path.stem)
def test_a_runbook_has_its_six_sections_in_order(runbook: Path) -> None:
    text = runbook.read_text(encoding="utf-8")
    assert text.startswith(f"# {runbook.stem}\n")
    parts = re.split(r"(?m)^## (.+)$", text)[1:]
    assert parts[::2] == SECTIONS
    assert all(len(part.strip()) > 80 for part in parts[1::2])


@pytest.mark.parametrize("runbook", RUNBOOKS, ids=lambda path: path.stem)
def test_the_shell_blocks_of_a_runbook_are_shell(runbook: Path) -> None:
    found = blocks(runbook)
    assert len(found) >= 4
    for block in found:
        checked = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, timeout=20, check=False)
        assert checked.returncode == 0, block + checked.stderr


@pytest.mark.parametrize("runbook", RUNBOOKS, ids=lambda path: path.stem)
def test_a_runbook_names_commands_and_options_that_exist(runbook: Path) -> None:
    found = commands(runbook)
    assert ["status"] in found
    for arguments in found:
        parse(arguments)


def test_a_command_that_does_not_exist_would_be_noticed() -> None:
    for arguments in (["stauts"], ["status", "--yaml"], ["flags", "set", "speculation", "--never"]):
        with pytest.raises(Exception, match="No such"):
            parse(arguments)


@pytest.mark.parametrize("runbook", RUNBOOKS, ids=lambda path: path.stem)
def test_what_a_runbook_looks_for_in_metrics_is_there_to_find(runbook: Path) -> None:
    registry = CollectorRegistry()
    growth = SpeculationState(drafted=(1,), accepted=(1,), waits=(1,), changes={"breaker:recovered": 1})
    SpeculationMetrics(registry).grow("general", growth)
    text = generate_latest(registry).decode()
    patterns = [pattern for block in blocks(runbook) for pattern in GREP.findall(block)]
    assert patterns
    assert not [pattern for pattern in patterns if not re.search(pattern, text, re.MULTILINE)]
