"""Small Serve applications for the supervisor: real deployments, but nothing behind the gateway's door."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
from ray import serve

from deployments.config import Config, load
from deployments.ingress.readiness import PoolReady, Verdict
from deployments.ingress.status import PoolStatus, Status

ANSWERS = {
    "/health/ready": Verdict(ready=True, pools={"general": PoolReady(ready=True)}),
    "/status": Status(1, (PoolStatus("general", "expert", queued=2, acceptance=0.5, replicas=()),)),
}


class Door(BaseHTTPRequestHandler):
    """Answers as a gateway with one ready pool does."""

    def do_GET(self) -> None:
        body = msgspec.json.encode(ANSWERS[self.path]) if self.path in ANSWERS else None
        self.send_response(404 if body is None else 200)
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *args) -> None:
        """Quiet."""


class Gateway:
    def __init__(self, port: int) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", port), Door)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()


class Deaf:
    """A gateway that never opens its door."""


class Broken:
    def __init__(self) -> None:
        raise RuntimeError("the weights are on fire")


def _configured(args: dict[str, str]) -> Config:
    return load(args["config"])


def _small(kind: type) -> serve.Deployment:
    return serve.deployment(kind).options(name=kind.__name__.lower(), ray_actor_options={"num_cpus": 0.1})


def working(args: dict[str, str]) -> serve.Application:
    return _small(Gateway).bind(_configured(args).gateway.http_port)


def deaf(args: dict[str, str]) -> serve.Application:
    return _small(Deaf).bind()


def broken(args: dict[str, str]) -> serve.Application:
    return _small(Broken).bind()
