"""Starts, finds and ends the supervisor of a local cluster, from outside of it."""

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil

from cluster.errors import ConfigError, DeadlineExceeded, SwitchyardError, Unavailable, error_from
from deployments.cli import local_ray, processes
from deployments.cli.runtime import GRACE, Launch, Progress, Runtime, list_clusters, runtime_for
from deployments.config import Config

POLL = 0.2
_SETTLE = 5.0
"""How long a directory may have no owner: its launcher is about to say who it is (seconds)."""
_TAIL = 20
_KILL = 15.0
"""On top of the grace, for Ray's own end and the supervisor's sweep (seconds)."""


def up(config: Config, launch: Launch) -> tuple[Runtime, bool]:
    """The running cluster of this name, started if need be; and whether this call started it.

    Raises ConfigError if a port is taken.
    """
    runtime = runtime_for(config.name)
    if supervisor(runtime) is not None:
        return runtime, False
    down(runtime)
    chosen = _with_ports(config)
    if not runtime.create(chosen, launch):
        return runtime, False
    with runtime.log.open("ab") as log:
        process = subprocess.Popen(  # noqa: S603  # our own interpreter and module
            [sys.executable, "-P", "-m", "deployments.cli.supervisor", str(runtime.directory)],
            env=local_ray.environment(runtime),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    runtime.own(processes.identify(process.pid))
    return runtime, True


def supervisor(runtime: Runtime) -> psutil.Process | None:
    """The living supervisor of a cluster, waiting a moment for one that is just being started."""
    deadline = time.monotonic() + _SETTLE
    while runtime.directory.is_dir() and time.monotonic() < deadline:
        owner = runtime.owner()
        if owner is not None:
            return processes.find(owner)
        if time.time() - runtime.directory.stat().st_mtime > _SETTLE:
            return None
        time.sleep(POLL)
    return None


def follow(runtime: Runtime) -> Iterator[Progress]:
    """What the supervisor reports, until it is ready. Raises Unavailable when it fails or disappears."""
    limit = time.monotonic() + runtime.launch().timeout + GRACE + _KILL
    while time.monotonic() < limit:
        progress = runtime.progress()
        if progress is not None:
            yield progress
            if progress.phase == "ready":
                return
        if supervisor(runtime) is None:
            raise _end_of(runtime)
        time.sleep(POLL)
    raise DeadlineExceeded("the supervisor reports neither success nor failure")


def attend(runtime: Runtime) -> None:
    """Return when a ready cluster has been stopped by somebody. Raises Unavailable if it failed."""
    process = supervisor(runtime)
    if process is not None:
        process.wait()
    progress = runtime.progress()
    if progress is not None and progress.phase != "stopping":
        raise _end_of(runtime)


def down(runtime: Runtime) -> bool:
    """End a cluster and everything it left: also after its supervisor was killed. False if there was nothing.

    Raises Unavailable if a process outlives even SIGKILL.
    """
    owner = runtime.owner()
    if owner is not None:
        process = processes.find(owner)
        if process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
            psutil.wait_procs([process], timeout=GRACE + _KILL)
        left = processes.end(processes.members(owner, str(runtime.directory)), patience=3.0)
        if left:
            raise Unavailable(f"still alive after SIGKILL: {', '.join(str(each.pid) for each in left)}")
    existed = owner is not None or runtime.directory.is_dir()
    runtime.remove()
    return existed


def the_cluster(name: str | None) -> Runtime:
    """The cluster called ``name``, or the only one that lives or, if none lives, has left something.

    Raises ConfigError if there is none, or a choice.
    """
    if name is not None:
        return runtime_for(name)
    found = [each for each in list_clusters() if supervisor(each) is not None] or list_clusters()
    if len(found) != 1:
        what = f"there are {', '.join(each.name for each in found)}: choose with --name" if found else "none is running"
        raise ConfigError(what)
    return found[0]


def _end_of(runtime: Runtime) -> SwitchyardError:
    """Why the supervisor ended: its own account or, if it could not give one, the end of its log."""
    progress = runtime.progress()
    if progress is not None and progress.failure is not None:
        return error_from(progress.failure)
    if not runtime.log.is_file():
        return Unavailable("the cluster was stopped")
    lines = runtime.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL:]
    return Unavailable("\n".join(["the supervisor ended; its last lines:", *lines]))


def _with_ports(config: Config) -> Config:
    """The configuration with every port decided: 0 becomes a free one, a taken one is an error."""
    gateway = config.gateway
    ports = {
        name: _port(gateway.host, getattr(gateway, name), name) for name in ("http_port", "grpc_port", "metrics_port")
    }
    return config.model_copy(update={"gateway": gateway.model_copy(update=ports)})


def _port(host: str, port: int, name: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(f"gateway.{name}: port {port} on {host} is taken ({error.strerror})") from error
        return int(probe.getsockname()[1])
