"""Clusters of these tests live in a temporary directory of their own, so they cannot meet the operator's."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from deployments.cli.processes import Identity

ROOT = Path(__file__).parents[2]
SWITCHYARD = (sys.executable, "-c", "from deployments.cli.main import app; app()")

CONFIG = """
name: tiny
gateway: {http_port: 0, grpc_port: 0, metrics_port: 0}
pools:
  general: {model: none, engine: {kind: simulated}}
"""


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(CONFIG)
    return path


class Playground:
    """Runs the command as an operator does, and looks at what it left."""

    def __init__(self, directory: Path, config: Path) -> None:
        self.directory = directory
        self.config = config
        self.runtime = directory / f"switchyard-{os.getuid()}" / "tiny"
        self._environment = os.environ | {"TMPDIR": str(directory), "PYTHONPATH": str(ROOT), "COLUMNS": "200"}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*SWITCHYARD, *arguments],
            env=self._environment,
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*SWITCHYARD, *arguments],
            env=self._environment,
            cwd=self.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def up(self, application: str, *more: str) -> tuple[str, ...]:
        return ("up", "--config", str(self.config), "--app", f"tests.cli.applications:{application}", *more)

    def owner(self) -> Identity:
        return msgspec.json.decode((self.runtime / "owner.json").read_bytes(), type=Identity)

    def session(self) -> list[psutil.Process]:
        """All living processes of the supervisor's session, itself included."""
        leader = self.owner().pid
        return living([each for each in psutil.process_iter() if _session(each.pid) == leader])

    def is_clean(self) -> bool:
        return not list(self.directory.iterdir())


def living(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Without those that have ended; an orphan's entry may outlast it where nobody reaps."""
    return [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


@pytest.fixture
def playground(config_file: Path) -> Iterator[Playground]:
    """Everything in it is ended afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="sy"))  # pytest's own would be too long a path for Ray's sockets
    ground = Playground(directory, config_file)
    yield ground
    ground.run("down")
    shutil.rmtree(directory)
