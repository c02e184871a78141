"""Processes of one cluster: told apart from strangers', and ended by id only."""

import contextlib
import os
from collections.abc import Callable, Collection, Iterator

import msgspec
import psutil

MARK = "SWITCHYARD_RUNTIME"
"""Set in the supervisor's environment to its directory; children inherit it."""
_CLOCK_STEP = 2.0
"""How much a process's start time may seem to move when the host's clock is set (seconds)."""


class Identity(msgspec.Struct, frozen=True):
    """A process id together with when it started (seconds since the epoch), so that a reused id is not mistaken."""

    pid: int
    created: float


def identify(pid: int) -> Identity:
    return Identity(pid, psutil.Process(pid).create_time())


def find(identity: Identity) -> psutil.Process | None:
    """The process, if it still runs."""
    try:
        process = psutil.Process(identity.pid)
        same = abs(process.create_time() - identity.created) < _CLOCK_STEP
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def members(owner: Identity, directory: str) -> list[psutil.Process]:
    """Every living process of the cluster, without the caller.

    The supervisor leads a session of its own. Its descendants stay in that session whatever they call themselves and
    whoever their parent has become; those that left it still carry the directory in their environment.
    """
    if _is_reused(owner):
        return []
    return [each for each in _others() if _belongs(each, owner, directory)]


def end(processes: Collection[psutil.Process], patience: float) -> list[psutil.Process]:
    """Ask, wait ``patience`` seconds, then kill. Returns those that outlive even that."""
    for process in processes:
        _quietly(process.terminate)
    _, alive = psutil.wait_procs(processes, timeout=patience)
    for process in alive:
        _quietly(process.kill)
    _, immortal = psutil.wait_procs(alive, timeout=patience)
    return list(immortal)


def _is_reused(owner: Identity) -> bool:
    """Whether the supervisor's id belongs to somebody else now."""
    try:
        return abs(identify(owner.pid).created - owner.created) >= _CLOCK_STEP
    except psutil.NoSuchProcess:
        return False


def _others() -> Iterator[psutil.Process]:
    return (each for each in psutil.process_iter() if each.pid != os.getpid())


def _belongs(process: psutil.Process, owner: Identity, directory: str) -> bool:
    try:
        if process.create_time() < owner.created - _CLOCK_STEP or process.status() == psutil.STATUS_ZOMBIE:
            return False
        return os.getsid(process.pid) == owner.pid or process.environ().get(MARK) == directory
    except (psutil.Error, ProcessLookupError, PermissionError):
        return False


def _quietly(action: Callable[[], None]) -> None:
    """A process that ended by itself meanwhile is what was wanted."""
    with contextlib.suppress(psutil.NoSuchProcess):
        action()
