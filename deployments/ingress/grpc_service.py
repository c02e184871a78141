"""The gRPC server: our service, standard health checking driven by readiness, and reflection."""

import asyncio
import logging
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

import grpc
import msgspec
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection

from cluster.errors import ConfigError, SwitchyardError
from deployments.config import HttpLimits
from deployments.ingress import serving_pb2 as pb
from deployments.ingress import serving_pb2_grpc as stubs
from deployments.ingress.exchange import TENANT, checked_tenant, error_headers, place_headers, sane_id
from deployments.ingress.grpc_translate import (
    delta_message,
    models_message,
    plan_chat,
    plan_completion,
    summary_message,
)
from deployments.ingress.plan import Plan
from deployments.ingress.readiness import Readiness
from deployments.ingress.turn import Stage, serving

log = logging.getLogger(__name__)

SERVICE = "switchyard.v1.Serving"
_WATCH_SECONDS = 2.0
"""How often the pools are looked at while a client watches their health."""

_LAST_WORDS = 1.0
"""How long a status may take to leave (seconds). It waits behind messages that the client does not read."""

Message = TypeVar("Message")
Context = grpc.aio.ServicerContext[Any, Any]
Translate = Callable[[Message, HttpLimits, str], Plan]
Status = health_pb2.HealthCheckResponse


class Serving(stubs.ServingServicer):  # type: ignore[misc]  # generated without types
    """Translates, serves, translates back. grpc cancels a handler when its client leaves or its deadline passes."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    async def Chat(self, request: pb.ChatRequest, context: Context) -> None:  # noqa: N802  the proto's name
        await self._answer(request, plan_chat, f"chatcmpl-{uuid.uuid4().hex}", context)

    async def Complete(self, request: pb.CompleteRequest, context: Context) -> None:  # noqa: N802  the proto's name
        await self._answer(request, plan_completion, f"cmpl-{uuid.uuid4().hex}", context)

    async def ListModels(self, _: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:  # noqa: N802  the proto's name
        del context
        return models_message(self._stage.view.models())

    async def _answer(self, request: Message, translate: Translate[Message], name: str, context: Context) -> None:
        """The boundary where every failure becomes a status."""
        try:
            await self._generate(self._planned(request, translate, name, context), context)
        except SwitchyardError as error:
            await _abort(context, error)
        except grpc.aio.AbortError:
            raise
        except Exception:
            log.exception("request %s failed", name)
            await _abort(context, SwitchyardError("internal error"))

    def _planned(self, request: Message, translate: Translate[Message], name: str, context: Context) -> Plan:
        try:
            told = _told(context)
            tenant = checked_tenant(told.get(TENANT.decode(), b""))
            key = sane_id(told.get("x-request-id", b"")) or name
            plan = translate(request, self._stage.limits, name).asked(key, tenant)
        except SwitchyardError as error:
            self._stage.metrics.refused(error.reason)
            raise
        return _within(plan, context.time_remaining())

    async def _generate(self, plan: Plan, context: Context) -> None:
        begun = False
        bounds = self._stage.bounds
        async with serving(plan, self._stage) as turn, bounds.answer(plan.jobs):
            async for step in turn.steps:
                async with bounds.message():
                    if not begun:
                        begun = True
                        await context.send_initial_metadata(
                            _metadata([(b"x-request-id", plan.id.encode()), *place_headers(turn.place)])
                        )
                    await context.write(delta_message(turn, step))
            async with bounds.message():
                await context.write(summary_message(turn))


class PoolHealth(health.HealthServicer):  # type: ignore[misc]  # ships no types
    """The standard health service: ``""`` and our service stand for the gateway, each required pool for itself."""

    def __init__(self, readiness: Readiness) -> None:
        super().__init__()
        self._readiness = readiness

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> health_pb2.HealthCheckResponse:  # noqa: N802  the protocol's name
        await self._look()
        return await super().Check(request, context)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:  # noqa: N802  the protocol's name
        watching = asyncio.create_task(self._keep_looking())
        try:
            await super().Watch(request, context)
        finally:
            watching.cancel()

    async def _keep_looking(self) -> None:
        while True:
            await self._look()
            await asyncio.sleep(_WATCH_SECONDS)

    async def _look(self) -> None:
        verdict = await self._readiness.check()
        for name in ("", SERVICE):
            await self.set(name, _status(ready=verdict.ready))
        for name, pool in verdict.pools.items():
            await self.set(name, _status(ready=pool.ready))


class GrpcServer:
    """The listener. Refused or wrong addresses are a ConfigError that names the port."""

    def __init__(self, stage: Stage, readiness: Readiness) -> None:
        options = [
            ("grpc.so_reuseport", 1),
            ("grpc.max_receive_message_length", stage.limits.body_bytes),
        ]
        self._server = grpc.aio.server(options=options)
        self._health = PoolHealth(readiness)
        stubs.add_ServingServicer_to_server(Serving(stage), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((SERVICE, "grpc.health.v1.Health", reflection.SERVICE_NAME), self._server)

    async def start(self, host: str, port: int) -> int:
        """Listen and return the port."""
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise ConfigError(f"gateway.grpc_port: cannot listen on {address}: it is in use or not ours") from error
        await self._server.start()
        return int(bound)

    async def stop(self, grace: float) -> None:
        """Take nothing new, let calls finish for ``grace`` seconds, cancel the rest."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace)


def _status(*, ready: bool) -> int:
    return int(Status.SERVING if ready else Status.NOT_SERVING)


def _within(plan: Plan, remaining: float | None) -> Plan:
    """The call's own deadline bounds every job's."""
    if remaining is None:
        return plan
    jobs = [
        msgspec.structs.replace(job, timeout=max(0.001, min(job.timeout or remaining, remaining))) for job in plan.jobs
    ]
    return msgspec.structs.replace(plan, jobs=tuple(jobs))


def _told(context: Context) -> dict[str, bytes]:
    """What the client says beside its request."""
    return {
        name: value if isinstance(value, bytes) else value.encode()
        for name, value in context.invocation_metadata() or ()
    }


def _metadata(headers: list[tuple[bytes, bytes]]) -> tuple[tuple[str, str], ...]:
    """Metadata values are ASCII on the wire."""
    return tuple((name.decode(), value.decode().encode("ascii", "replace").decode()) for name, value in headers)


async def _abort(context: Context, error: SwitchyardError) -> None:
    trailing = [(b"switchyard-reason", error.reason.encode()), *error_headers(error)]
    if error.param is not None:
        trailing.append((b"switchyard-param", error.param.encode()))
    try:
        async with asyncio.timeout(_LAST_WORDS):
            await context.abort(getattr(grpc.StatusCode, error.grpc_code), error.message, _metadata(trailing))
    except TimeoutError:
        raise asyncio.CancelledError from None
