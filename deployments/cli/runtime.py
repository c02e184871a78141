"""Where one local cluster keeps its files while it lives, and the records it keeps there.

    <temporary directory>/switchyard-<user id>/<cluster name>/
        config.json      the configuration as it runs, with the ports that were chosen
        launch.json      what the supervisor was asked to run
        owner.json       which process the supervisor is
        progress.json    how far it has come
        token            the secret of this cluster's own Ray
        supervisor.log   what the supervisor and its Ray printed
        r/               Ray's temporary directory

The directory is the lock: who creates it starts the cluster.
"""

import hashlib
import os
import re
import secrets
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from cluster.errors import ConfigError, Failure
from deployments.cli.processes import Identity
from deployments.config import Config, parse_json

Phase = Literal["starting", "ready", "failed", "stopping"]
StepState = Literal["running", "done", "failed"]

GRACE = 30.0
"""How long a stopping cluster may finish its streams before Ray is ended under it (seconds)."""

_SOCKET_PATH = 107
"""Bytes of a Unix socket's path on Linux (sun_path without its NUL)."""
_BELOW = len("/r/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")
"""What Ray appends to the directory for its longest socket name."""
_SHORTEST_NAME = 8


class Launch(msgspec.Struct, frozen=True):
    """What to run: an application builder as ``module:function``, which must be ready within ``timeout`` seconds."""

    app: str
    timeout: float


class Step(msgspec.Struct, frozen=True):
    """One line of the start: how long it took, or has been taking, in seconds."""

    name: str
    state: StepState
    seconds: float
    note: str = ""


class Progress(msgspec.Struct, frozen=True):
    """How far the cluster has come, and what went wrong once the phase is ``failed``."""

    phase: Phase
    seconds: float
    steps: tuple[Step, ...] = ()
    failure: Failure | None = None


Record = TypeVar("Record", bound=msgspec.Struct)


class Runtime:
    """The directory of one cluster."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ray = directory / "r"
        self.log = directory / "supervisor.log"
        self.token = directory / "token"

    @property
    def name(self) -> str:
        return self.directory.name

    def create(self, config: Config, launch: Launch) -> bool:
        """Claim the directory and fill it. False if it exists already."""
        home = self.directory.parent
        home.mkdir(mode=0o700, exist_ok=True)
        _check_private(home)
        try:
            self.directory.mkdir(mode=0o700)
        except FileExistsError:
            return False
        self._put("config.json", config.model_dump_json(indent=1).encode())
        self._put("launch.json", msgspec.json.encode(launch))
        self._put("token", secrets.token_hex(32).encode())
        return True

    def remove(self) -> None:
        """Delete the directory, and the user's one above it when that was the last."""
        shutil.rmtree(self.directory, ignore_errors=True)
        if not list_clusters():
            shutil.rmtree(self.directory.parent, ignore_errors=True)

    def config(self) -> Config:
        return parse_json((self.directory / "config.json").read_text(encoding="utf-8"))

    def launch(self) -> Launch:
        return msgspec.json.decode((self.directory / "launch.json").read_bytes(), type=Launch)

    def owner(self) -> Identity | None:
        return self._get("owner.json", Identity)

    def own(self, owner: Identity) -> None:
        self._put("owner.json", msgspec.json.encode(owner))

    def progress(self) -> Progress | None:
        return self._get("progress.json", Progress)

    def report(self, progress: Progress) -> None:
        self._put("progress.json", msgspec.json.encode(progress))

    def _get(self, name: str, kind: type[Record]) -> Record | None:
        try:
            return msgspec.json.decode((self.directory / name).read_bytes(), type=kind)
        except FileNotFoundError:
            return None

    def _put(self, name: str, content: bytes) -> None:
        """Readers see the old content or the new, never half of it."""
        draft = self.directory / f".{name}.{os.getpid()}"
        draft.touch(mode=0o600)
        draft.write_bytes(content)
        draft.replace(self.directory / name)


def home() -> Path:
    """The directory of all clusters this user has on this machine."""
    return Path(tempfile.gettempdir()) / f"switchyard-{os.getuid()}"


def list_clusters() -> list[Runtime]:
    if not home().is_dir():
        return []
    return [Runtime(path) for path in sorted(home().iterdir()) if path.is_dir()]


def runtime_for(name: str) -> Runtime:
    """The directory of the cluster called ``name``; long names are cut so that Ray's sockets fit.

    Raises ConfigError where the system's temporary directory leaves no room for them.
    """
    room = _SOCKET_PATH - _BELOW - len(os.fsencode(home())) - 1
    if room < _SHORTEST_NAME:
        raise ConfigError(f"{tempfile.gettempdir()} is too long a path for Ray's sockets: set TMPDIR to a shorter one")
    plain = re.sub(r"[^A-Za-z0-9_-]", "-", name) or "switchyard"
    if len(plain) > room or plain != name:
        plain = f"{plain[: room - 7]}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
    return Runtime(home() / plain)


def _check_private(directory: Path) -> None:
    """The name is easy to guess, so another user could have put a directory of theirs there."""
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ConfigError(f"{directory} must be a directory of yours that others cannot enter (mode 0700)")
