"""The routes of the HTTP API, and their handlers."""

import asyncio
import logging
import os
import time
import uuid
from collections.abc import Callable

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from cluster.errors import MethodNotAllowed, NotFound, RouterUnavailable, SwitchyardError, UnknownModel
from deployments.config import HttpLimits
from deployments.ingress import openai_wire as wire
from deployments.ingress.admin import admin_routes, public_routes
from deployments.ingress.exchange import (
    TENANT,
    Exchange,
    Inflight,
    checked_tenant,
    error_headers,
    header,
    place_headers,
    request_id,
    shutting_down,
)
from deployments.ingress.openai_jobs import chat_plan, completion_plan
from deployments.ingress.openai_stream import ChatFormat, CompletionFormat, Format, error_body
from deployments.ingress.openai_types import ChatRequest, CompletionRequest
from deployments.ingress.parsing import parse
from deployments.ingress.plan import Plan
from deployments.ingress.readiness import Readiness
from deployments.ingress.status import status_of
from deployments.ingress.turn import Stage, Turn, serving
from deployments.ingress.view import ModelCard, load_of

log = logging.getLogger(__name__)

_JSON = "application/json"
_STARTED = int(time.time())


class Generation:
    """An endpoint that generates: body to plan, plan to steps, steps to events or to one body."""

    def __init__(
        self,
        stage: Stage,
        inflight: Inflight,
        plan: Callable[[bytes, HttpLimits], Plan],
        form: Callable[[Turn], Format],
    ) -> None:
        self._stage = stage
        self._inflight = inflight
        self._plan = plan
        self._form = form

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send, self._stage.bounds)
        try:
            self._inflight.admit()
            limits = self._stage.limits
            tenant = checked_tenant(header(scope, TENANT))
            plan = self._plan(await exchange.read(limits.body_bytes), limits).asked(exchange.id, tenant)
            self._inflight.admit()
        except SwitchyardError as error:
            self._stage.metrics.refused(error.reason)
            await exchange.fail(error)
        else:
            await self._inflight.run(self._answer(plan, exchange), receive)

    async def _answer(self, plan: Plan, exchange: Exchange) -> None:
        """The boundary where every failure becomes an answer."""
        try:
            async with serving(plan, self._stage) as turn, self._stage.bounds.answer(plan.jobs):
                await (self._stream(turn, exchange) if plan.stream else self._whole(turn, exchange))
        except SwitchyardError as error:
            await exchange.fail(error)
        except asyncio.CancelledError:
            if not self._inflight.expired:
                raise
            await exchange.fail(shutting_down())
        except Exception:
            log.exception("request %s failed", exchange.id)
            await exchange.fail(SwitchyardError("internal error"))

    async def _stream(self, turn: Turn, exchange: Exchange) -> None:
        form = self._form(turn)
        async for step in turn.steps:
            event = form.event(step)
            if event:
                await exchange.event(event, turn.place)
        await exchange.event(form.closing(), turn.place)
        await exchange.end()

    async def _whole(self, turn: Turn, exchange: Exchange) -> None:
        form = self._form(turn)
        async for step in turn.steps:
            form.add(step)
        await exchange.reply(200, form.body(), place_headers(turn.place))


class Pages:
    """The endpoints that only look."""

    def __init__(self, stage: Stage, readiness: Readiness) -> None:
        self._stage = stage
        self._readiness = readiness

    async def models(self, request: Request) -> Response:
        cards = self._stage.view.models()
        return _page(request, wire.ModelList([_model(card) for card in cards]))

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        cards = self._stage.view.models()
        for card in cards:
            if card.name == name:
                return _page(request, _model(card))
        raise UnknownModel(f"no such model; there are {', '.join(card.name for card in cards)}", param="model")

    async def live(self, request: Request) -> Response:
        """The event loop runs, or this would not."""
        return _page(request, {"live": True, "pid": os.getpid()})

    async def ready(self, request: Request) -> Response:
        verdict = await self._readiness.check()
        return _page(request, verdict, status=200 if verdict.ready else 503)

    async def status(self, request: Request) -> Response:
        directory = self._stage.view.directory()
        if directory is None:
            raise RouterUnavailable("the router has not told this gateway yet who is alive")
        self._stage.watch.hear(directory, time.monotonic())
        return _page(request, status_of(directory, self._stage.watch.drafts))

    async def metrics(self, _: Request) -> Response:
        directory = self._stage.view.directory()
        metrics = self._stage.metrics
        if directory:
            self._stage.watch.hear(directory, time.monotonic())
        metrics.show_pools([load_of(pool) for pool in directory.pools] if directory else [])
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)


def http_app(stage: Stage, readiness: Readiness, inflight: Inflight, *, admin: bool) -> Starlette:
    """The API's application; ``admin``: with what changes the cluster."""
    pages = Pages(stage, readiness)
    chat = Generation(stage, inflight, _chat, ChatFormat)
    completions = Generation(stage, inflight, _completion, CompletionFormat)
    return _application(
        [
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/completions", completions, methods=["POST"]),
            Route("/v1/models", pages.models),
            Route("/v1/models/{name:path}", pages.model),
            Route("/health/live", pages.live),
            Route("/health/ready", pages.ready),
            Route("/metrics", pages.metrics),
            Route("/status", pages.status),
            *public_routes(stage),
            *(admin_routes(stage, inflight) if admin else ()),
        ]
    )


def metrics_app(stage: Stage, readiness: Readiness) -> Starlette:
    """What the metrics listener serves: nothing that costs a token."""
    pages = Pages(stage, readiness)
    return _application([Route("/metrics", pages.metrics), Route("/health/live", pages.live)])


def _application(routes: list[Route]) -> Starlette:
    app = Starlette(routes=routes, exception_handlers={HTTPException: _refused, SwitchyardError: _failed})
    app.router.redirect_slashes = False
    return app


def _chat(body: bytes, limits: HttpLimits) -> Plan:
    return chat_plan(parse(ChatRequest, body), limits, f"chatcmpl-{uuid.uuid4().hex}")


def _completion(body: bytes, limits: HttpLimits) -> Plan:
    return completion_plan(parse(CompletionRequest, body), limits, f"cmpl-{uuid.uuid4().hex}")


def _model(card: ModelCard) -> wire.Model:
    return wire.Model(card.name, _STARTED, card.description, card.max_context)


def _page(request: Request, content: msgspec.Struct | dict[str, object], *, status: int = 200) -> Response:
    headers = {"x-request-id": request_id(request.scope)}
    return Response(msgspec.json.encode(content), status, headers, _JSON)


async def _refused(request: Request, error: Exception) -> Response:
    """What the router of the framework refuses, in the API's shape."""
    assert isinstance(error, HTTPException)
    if error.status_code == MethodNotAllowed.http_status:
        typed: SwitchyardError = MethodNotAllowed(f"{request.method} is not offered here")
    else:
        typed = NotFound("no such route")
    response = await _failed(request, typed)
    response.headers.update(error.headers or {})
    return response


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, SwitchyardError)
    headers = {name.decode(): value.decode() for name, value in error_headers(error)}
    headers["x-request-id"] = request_id(request.scope)
    return Response(error_body(error), error.http_status, headers, _JSON)
