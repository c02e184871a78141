"""The process that owns a local cluster: its Ray, its Serve, its application. ``switchyard up`` starts it.

It runs from ``main`` to the end of the cluster. Whatever ends it (a signal, a failed start, a dead Ray), it stops
everything it started, within a bounded time.
"""

import importlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import httpx
import msgspec
import psutil
import ray
from ray import serve

from cluster.errors import ConfigError, DeadlineExceeded, Failure, SwitchyardError, Unavailable
from deployments.cli import local_ray, processes
from deployments.cli.client import gateway_url
from deployments.cli.journal import Journal
from deployments.cli.runtime import GRACE, Runtime
from deployments.ingress.readiness import Verdict

log = logging.getLogger(__name__)

STATUS_POLL = 0.7
"""Seconds between two looks at Serve. A look costs 27 ms of CPU time, which the loading engines could use."""
READY_POLL = 0.2
WATCH = 2.0
"""Seconds between two looks at Ray's core once the cluster stands."""
APPLICATION = "default"
_TAIL = 8
"""Lines of a message or a log that are shown as the cause of a failure: a traceback says at its end what happened."""
_CORE = ("gcs_server", "raylet")


class Stopped(Exception):
    """The operator wants the cluster to end."""


class Supervisor:
    """One life of one cluster."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._launch = runtime.launch()
        self._config = runtime.config()
        self._journal = Journal(runtime.report)
        self._logs = runtime.ray / "session_latest" / "logs" / "serve"
        self._stop = threading.Event()

    def run(self) -> int:
        """The exit status: 0 if it was asked to end, 1 if something failed."""
        self._listen()
        failure = self._live()
        self._journal.turn("failed" if failure else "stopping", failure)
        self._end(gracefully=failure is None)
        if failure is None:
            self._runtime.remove()
        return 0 if failure is None else 1

    def _live(self) -> Failure | None:
        """Start, then stand until the end. Returns what ended it; nothing if the operator did."""
        try:
            self._start()
            self._journal.turn("ready")
            self._watch()
        except Stopped:
            return None
        except SwitchyardError as error:
            log.error("%s", error.message)  # noqa: TRY400  # the message is the whole story
            return error.failure()
        except Exception as error:  # the process boundary: the launcher shows it
            log.exception("the supervisor failed")
            return Failure(SwitchyardError.reason, f"{type(error).__name__}: {error}")

    def _listen(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: self._stop.set())

    def _start(self) -> None:
        with self._journal.step("application"):
            build = _imported(self._launch.app)
            application = build({"config": str(self._runtime.directory / "config.json")})
        self._check()
        with self._journal.step("ray"):
            ray.init(**local_ray.init_options(self._config, self._runtime))
            self._listen()  # Ray has put its own handlers in place
        self._check()
        with self._journal.step("serve"):
            serve.start(**local_ray.serve_options(self._config))
            target = serve.RunTarget(application, name=APPLICATION, route_prefix=None)
            serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
        with self._journal.step("deployments"):
            while not self._deployed():
                self._pause(STATUS_POLL)
        self._await_ready()

    def _await_ready(self) -> None:
        url = gateway_url(self._config.gateway)
        timeout = self._config.gateway.ready_timeout + READY_POLL
        with self._journal.step("readiness"), httpx.Client(base_url=url, timeout=timeout, trust_env=False) as client:
            while not self._ready(client):
                self._pause(READY_POLL)

    def _deployed(self) -> bool:
        """Whether all deployments run. Raises Unavailable once one has failed for good."""
        status = serve.status().applications.get(APPLICATION)
        if status is None:
            return False
        for name, deployment in status.deployments.items():
            healthy = deployment.status == "HEALTHY"
            self._journal.note(name, "done" if healthy else "running", "" if healthy else _first(deployment.message))
        failed = [name for name, each in status.deployments.items() if each.status in ("DEPLOY_FAILED", "UNHEALTHY")]
        if failed or status.status in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise Unavailable(self._cause(failed, status))
        return bool(status.status == "RUNNING")

    def _cause(self, failed: list[str], status: Any) -> str:
        if not failed:
            return str(status.message)
        parts = []
        for name in failed:
            self._journal.note(name, "failed")
            parts += [f"{name} cannot start:", _ending(status.deployments[name].message), _tail(self._logs, name)]
        return "\n".join(filter(None, parts))

    def _ready(self, client: httpx.Client) -> bool:
        """Whether the gateway says that every required pool would serve a request."""
        try:
            answer = client.get("/health/ready")
            verdict = msgspec.json.decode(answer.content, type=Verdict)
        except (httpx.HTTPError, msgspec.MsgspecError):
            return False
        for name, pool in verdict.pools.items():
            self._journal.note(f"first token: {name}", "done" if pool.ready else "running", _first(pool.message))
        return verdict.ready

    def _watch(self) -> NoReturn:
        """Serve mends what is inside the cluster; what it cannot mend is Ray itself."""
        core = [each for each in psutil.Process().children() if each.name() in _CORE]
        while not self._stop.wait(WATCH):
            for process in core:
                if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                    raise Unavailable("a process of Ray's core has ended; the cluster cannot go on")
        raise Stopped

    def _pause(self, seconds: float) -> None:
        self._journal.beat()
        self._stop.wait(seconds)
        self._check()

    def _check(self) -> None:
        """Raises Stopped or, when the start has taken too long, DeadlineExceeded."""
        if self._stop.is_set():
            raise Stopped
        if self._journal.elapsed > self._launch.timeout:
            waiting = self._journal.running()
            logs = "\n".join(filter(None, (_tail(self._logs, name) for name in waiting)))
            raise DeadlineExceeded(
                f"not ready after {self._launch.timeout:.0f} s; still waiting for {', '.join(waiting)}\n{logs}".strip()
            )

    def _end(self, *, gracefully: bool) -> None:
        """Let Serve drain as far as time allows, then end Ray and whatever is left."""
        if gracefully and ray.is_initialized():
            stopping = threading.Thread(target=serve.shutdown, daemon=True)
            stopping.start()
            stopping.join(GRACE)
        ray.shutdown()
        left = processes.members(processes.identify(os.getpid()), str(self._runtime.directory))
        processes.end(left, patience=3.0)


def _imported(path: str) -> Callable[[dict[str, str]], serve.Application]:
    """The builder named ``module:function``. Raises ConfigError if there is none."""
    module, _, function = path.partition(":")
    try:
        found: Callable[[dict[str, str]], serve.Application] = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"no application {path!r}: {error}") from error
    return found


def _first(text: str) -> str:
    """The first line, short enough for a table."""
    return text.strip().partition("\n")[0][:120]


def _ending(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-_TAIL:])


def _tail(logs: Path, deployment: str) -> str:
    """The end of the newest log of a deployment's replicas; empty if there is none."""
    found = sorted(logs.glob(f"replica_{APPLICATION}_{deployment}_*.log"), key=lambda path: path.stat().st_mtime)
    if not found:
        return ""
    return f"--- end of {found[-1].name}\n{_ending(found[-1].read_text(encoding='utf-8', errors='replace'))}"


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    runtime = Runtime(Path(sys.argv[1]))
    runtime.own(processes.identify(os.getpid()))
    sys.exit(Supervisor(runtime).run())


if __name__ == "__main__":
    main()
