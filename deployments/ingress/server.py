"""The front door of one gateway replica: an HTTP server, a gRPC server and a metrics listener on one event loop."""

import asyncio
import contextlib
import errno
import math
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import uvicorn
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cluster.errors import ConfigError
from cluster.metrics import GatewayMetrics
from cluster.tallies import Tally
from deployments.config import GatewayConfig
from deployments.ingress.bounds import Bounds
from deployments.ingress.exchange import ABORT, Inflight
from deployments.ingress.grpc_service import GrpcServer
from deployments.ingress.http import http_app, metrics_app
from deployments.ingress.readiness import Readiness
from deployments.ingress.trial import Trial
from deployments.ingress.turn import Stage
from deployments.ingress.view import ClusterView
from deployments.ingress.watch import Watch
from router.api import Directory
from router.router import Router

BACKLOG = 2048
_TICK = 0.01
_GOODBYE = 2.0
"""What a server gets beyond the grace to write the last words of its streams (seconds)."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the front door really listens."""

    http: int
    grpc: int
    metrics: int


class FrontDoor:
    """Starts and drains the listeners. Several gateways on a node share the HTTP and the gRPC port; each has a metrics
    port of its own, the first free one from the configured port on, because a scrape must meet one process."""

    def __init__(
        self,
        config: GatewayConfig,
        router: Router,
        view: ClusterView,
        *,
        registry: CollectorRegistry | None = None,
        request_timeout: float = math.inf,
    ) -> None:
        """``request_timeout``: the router's deadline of a request that brings none (seconds)."""
        bounds = Bounds(config.send_timeout, request_timeout)
        metrics = GatewayMetrics(registry or CollectorRegistry())
        self._watch = Watch(view.speculation(), metrics.registry)
        self._trial = Trial(metrics.registry)
        stage = Stage(router, view, config.limits, metrics, bounds, self._watch, self._trial)
        self._config = config
        self._inflight = Inflight()
        self._readiness = Readiness(stage, config.ready_timeout)
        self._http = HttpServer(http_app(stage, self._readiness, self._inflight, admin=config.loopback))
        self._metrics = HttpServer(metrics_app(stage, self._readiness))
        self._grpc = GrpcServer(stage, self._readiness)

    async def start(self) -> Ports:
        """Open all ports or none. Raises ConfigError naming the port that cannot be had."""
        config = self._config
        with contextlib.ExitStack() as opened:
            http = opened.enter_context(listen(config.host, (config.http_port,), "http_port", shared=True))
            span = _metrics_ports(config)
            metrics = opened.enter_context(listen(config.host, span, "metrics_port", shared=False))
            grpc_port = await self._grpc.start(config.host, config.grpc_port)
            opened.pop_all()
        await self._http.start(http)
        await self._metrics.start(metrics)
        return Ports(http.getsockname()[1], grpc_port, metrics.getsockname()[1])

    def hear(self, directory: Directory) -> None:
        """Tell it who is alive, each time that is heard: what replicas report between two scrapes is counted, too."""
        self._watch.hear(directory, time.monotonic())

    def tallies(self) -> tuple[Tally, ...]:
        """What has been counted here for the experiments."""
        return self._trial.tallies()

    async def stop(self, grace: float) -> None:
        """Drain: refuse what is new, let streams finish for ``grace`` seconds, end the rest with an error."""
        self._readiness.close()
        await asyncio.gather(self._inflight.drain(grace), self._http.stop(grace), self._grpc.stop(grace))
        await self._metrics.stop(0.0)
        self._trial.close()


class HttpServer:
    """uvicorn on a socket and a loop that are ours, without its signal handlers and its access log."""

    def __init__(self, app: ASGIApp) -> None:
        config = uvicorn.Config(
            app,
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=BACKLOG,
        )
        self._server = _Quiet(config)
        self._task: asyncio.Task[None] | None = None

    async def start(self, listener: socket.socket) -> None:
        self._task = asyncio.create_task(self._server.serve([listener]))
        while not self._server.started:
            if self._task.done():
                self._task.result()
                raise ConfigError("the HTTP server ended before it had started")
            await asyncio.sleep(_TICK)

    async def stop(self, grace: float) -> None:
        """Close the listener, then idle connections, then the others as they finish."""
        if self._task is None:
            return
        self._server.config.timeout_graceful_shutdown = math.ceil(grace + _GOODBYE)
        self._server.should_exit = True
        await self._task
        self._task = None


class _Protocol(HttpToolsProtocol):
    """uvicorn's own, with a way to end a connection whose client does not read."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {ABORT: {"abort": self.transport.abort}}


class _Quiet(uvicorn.Server):
    """The process's signals belong to whoever runs the gateway."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(host: str, ports: Sequence[int], name: str, *, shared: bool) -> socket.socket:
    """A listening TCP socket on the first free of ``ports``; ``shared`` lets other gateways of this user listen too.

    Raises ConfigError naming the setting and the ports.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise ConfigError(f"gateway.host: {host!r} is no address of this machine") from error
    option = socket.SO_REUSEPORT if shared else socket.SO_REUSEADDR
    for port in ports:
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, option, 1)
            listener.bind((address[0], port))
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            if error.errno != errno.EADDRINUSE:
                raise ConfigError(f"gateway.{name}: cannot listen on {host}:{port}: {error.strerror}") from error
        else:
            return listener
    raise ConfigError(f"gateway.{name}: in use: {', '.join(f'{host}:{port}' for port in ports)}")


def _metrics_ports(config: GatewayConfig) -> Sequence[int]:
    """One per gateway of this node, and as many again for a rollout during which old and new ones live side by side."""
    first = config.metrics_port
    return (0,) if first == 0 else range(first, min(first + 2 * config.replicas, 65536))
