"""Flags and experiments over HTTP: what is in force, changed at run time, and what it brings.

A flag is put whole, and only over the version that the client has seen: by ``If-Match`` or by ``version`` in the body.
"""

import re
from typing import Annotated

import msgspec
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from cluster.comparison import compare
from cluster.errors import BadRequest, SwitchyardError
from cluster.flags import Flag, FlagList, Overrides, Percent, Salt
from deployments.ingress.exchange import Exchange, Inflight, request_id
from deployments.ingress.openai_types import Body
from deployments.ingress.parsing import parse
from deployments.ingress.turn import Stage

BODY_BYTES = 128 * 1024
"""Room for all the overrides that a flag may have."""

_JSON = "application/json"
_MATCH = re.compile(r'(?:W/)?"?([0-9]{1,18})"?')
_ANY = "*"


class FlagBody(Body):
    """A flag as a client puts it. Nothing has a default but the salt, which then stays: what is left out by mistake
    would change what is in force."""

    enabled: bool
    percent: Percent
    tenants: Overrides
    routes: Overrides
    salt: Salt | None = None
    version: Annotated[int, Field(ge=0)] | None = None


class Admin:
    """The endpoints."""

    def __init__(self, stage: Stage) -> None:
        self._rollout = stage.view.rollout

    async def flags(self, request: Request) -> Response:
        return _page(request, FlagList(self._rollout.flags.all))

    async def flag(self, request: Request) -> Response:
        flag = self._rollout.flags.get(request.path_params["name"])
        return _page(request, flag, {"etag": _etag(flag)})

    async def experiment(self, request: Request) -> Response:
        """How the cohorts of a flag compare, over all gateways."""
        flag = self._rollout.flags.get(request.path_params["name"])
        counted = self._rollout.counted()
        return _page(request, compare(flag, counted.tallies, counted.gateways))


class FlagChange:
    """Puts a flag in force."""

    def __init__(self, stage: Stage, inflight: Inflight) -> None:
        self._stage = stage
        self._inflight = inflight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send, self._stage.bounds)
        try:
            self._inflight.admit()
            flag = await self._change(Request(scope), await exchange.read(BODY_BYTES))
        except SwitchyardError as error:
            await exchange.fail(error)
        else:
            await exchange.reply(200, msgspec.json.encode(flag), [(b"etag", _etag(flag).encode())])

    async def _change(self, request: Request, data: bytes) -> Flag:
        """Raises NotFound, Conflict, RouterUnavailable, or BadRequest naming the field."""
        rollout = self._stage.view.rollout
        known = rollout.flags.get(request.path_params["name"])
        body = parse(FlagBody, data)
        expected = _expected(request.headers.get("if-match"), body.version)
        wanted = msgspec.structs.replace(
            known,
            enabled=body.enabled,
            percent=body.percent,
            tenants=body.tenants,
            routes=body.routes,
            salt=known.salt if body.salt is None else body.salt or known.name,
        )
        return await rollout.change(wanted, expected)


def public_routes(stage: Stage) -> list[Route]:
    """What may be looked at wherever the gateway listens."""
    return [Route("/experiments/{name}", Admin(stage).experiment)]


def admin_routes(stage: Stage, inflight: Inflight) -> list[Route]:
    """What may change the cluster: without authentication only for listeners that this machine alone reaches."""
    admin = Admin(stage)
    return [
        Route("/admin/flags", admin.flags),
        Route("/admin/flags/{name}", admin.flag),
        Route("/admin/flags/{name}", FlagChange(stage, inflight), methods=["PUT"]),
    ]


def _expected(header: str | None, version: int | None) -> int | None:
    """The version that the client has seen; None if it wants any."""
    if header is None:
        if version is None:
            raise BadRequest("version: which version is to be replaced? Or say it in If-Match", param="version")
        return version
    if header.strip() == _ANY:
        return version
    match = _MATCH.fullmatch(header.strip())
    if match is None:
        raise BadRequest("If-Match: not the version of a flag", param="if-match")
    if version is not None and version != int(match[1]):
        raise BadRequest("version: contradicts If-Match", param="version")
    return int(match[1])


def _etag(flag: Flag) -> str:
    return f'"{flag.version}"'


def _page(request: Request, content: msgspec.Struct, headers: dict[str, str] | None = None) -> Response:
    shown = {"x-request-id": request_id(request.scope)} | (headers or {})
    return Response(msgspec.json.encode(content), 200, shown, _JSON)
