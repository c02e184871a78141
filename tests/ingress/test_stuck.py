"""Clients that stay connected and do not read: their answer ends all the same, and with it what it holds."""

import asyncio
import time

import grpc
import pytest

from cluster.errors import Cancelled
from deployments.config import GatewayConfig
from deployments.ingress import serving_pb2 as pb
from deployments.ingress import serving_pb2_grpc as stubs
from deployments.ingress.grpc_service import _abort
from tests.ingress.rig import Rig, flood, front_door
from tests.ingress.test_leaving import BODY, connect, until

STREAM = BODY | {"stream": True}
MARGIN = 2.0


async def stuck(rig: Rig, body: dict) -> asyncio.StreamWriter:
    """A client that reads the head of its stream and then nothing more."""
    rig.pools.script = flood
    reader, writer = await connect(rig, body)
    await reader.readline()
    writer.transport.pause_reading()
    return writer


def outcomes(rig: Rig, outcome: str) -> float | None:
    return rig.registry.get_sample_value("switchyard_requests_total", {"pool": "general", "outcome": outcome})


def connections(rig: Rig) -> int:
    return len(rig.door._http._server.server_state.connections)


@pytest.mark.parametrize("n", [1, 3])
async def test_a_client_that_does_not_read_is_cut_off_after_the_send_timeout(config: GatewayConfig, n: int) -> None:
    async with front_door(config.model_copy(update={"send_timeout": 0.3})) as rig:
        writer = await stuck(rig, STREAM | {"n": n})
        assert 0.2 < await until(lambda: len(rig.desk.released) == n) < 1.0
        assert len(rig.pools.closed) == n
        await until(lambda: connections(rig) == 0)
        assert outcomes(rig, "cancelled") == 1
        writer.transport.abort()


async def test_a_blocked_stream_ends_with_the_deadline_of_its_request(rig: Rig) -> None:
    writer = await stuck(rig, STREAM | {"switchyard": {"timeout": 0.2}})
    assert MARGIN <= await until(lambda: rig.desk.released, 5.0) < MARGIN + 1.0
    await until(lambda: connections(rig) == 0)
    assert outcomes(rig, "deadline") == 1
    writer.transport.abort()


async def test_a_blocked_stream_ends_with_the_configured_deadline_if_its_request_has_none(
    config: GatewayConfig,
) -> None:
    async with front_door(config, request_timeout=0.2) as rig:
        writer = await stuck(rig, STREAM)
        assert MARGIN <= await until(lambda: rig.desk.released, 5.0) < MARGIN + 1.0
        await until(lambda: connections(rig) == 0)
        writer.transport.abort()


async def test_a_client_that_reads_a_little_now_and_then_gets_no_more_than_its_deadline(config: GatewayConfig) -> None:
    async with front_door(config.model_copy(update={"send_timeout": 1.0})) as rig:
        writer = await stuck(rig, STREAM | {"switchyard": {"timeout": 0.2}})
        started = time.perf_counter()
        while not rig.desk.released:
            assert time.perf_counter() - started < MARGIN + 2.0, "did not happen in time"
            writer.transport.resume_reading()
            await asyncio.sleep(0.005)
            writer.transport.pause_reading()
            await asyncio.sleep(0.3)
        assert outcomes(rig, "deadline") == 1
        writer.transport.abort()


async def test_a_drain_does_not_wait_for_a_client_that_does_not_read(config: GatewayConfig) -> None:
    async with front_door(config) as rig:
        writer = await stuck(rig, STREAM)
        await asyncio.sleep(0.1)
        started = time.perf_counter()
        await rig.door.stop(0.2)
        assert time.perf_counter() - started < 1.0
        assert connections(rig) == 0
        writer.transport.abort()


@pytest.mark.parametrize(
    ("settings", "limit", "bound", "code"),
    [
        ({"send_timeout": 0.3}, None, 1.3, grpc.StatusCode.CANCELLED),
        ({}, 0.2, MARGIN + 1.2, grpc.StatusCode.DEADLINE_EXCEEDED),
    ],
)
async def test_a_grpc_client_that_does_not_read_loses_its_lease(
    config: GatewayConfig, settings, limit, bound, code
) -> None:
    async with (
        front_door(config.model_copy(update=settings)) as rig,
        grpc.aio.insecure_channel(f"127.0.0.1:{rig.ports.grpc}") as channel,
    ):
        rig.pools.script = flood
        request = pb.ChatRequest(model="general", messages=[pb.Message(role="user", content="hello")])
        if limit is not None:
            request.options.timeout = limit
        call = stubs.ServingStub(channel).Chat(request)
        await call.initial_metadata()
        await until(lambda: rig.desk.released, bound)
        assert len(rig.pools.closed) == 1
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            _ = [message async for message in call]
        assert caught.value.code() is code


async def test_a_grpc_status_that_cannot_leave_is_given_up() -> None:
    class Blocked:
        async def abort(self, *_: object) -> None:
            await asyncio.Event().wait()

    started = time.perf_counter()
    with pytest.raises(asyncio.CancelledError):
        await _abort(Blocked(), Cancelled("the client stopped reading"))
    assert time.perf_counter() - started < 2.0
