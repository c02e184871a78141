"""Clients that hang up, and gateways that go down: whoever leaves, nothing keeps running."""

import asyncio
import json
import time
from collections.abc import AsyncIterator

import grpc
import httpx
import pytest

from deployments.config import GatewayConfig
from deployments.ingress import serving_pb2 as pb
from deployments.ingress import serving_pb2_grpc as stubs
from deployments.ingress.exchange import Inflight
from experts.api import Chunk, GenerateRequest
from tests.ingress.rig import Rig, endless, front_door, mute, saying

CHAT = "/v1/chat/completions"
BODY = {"model": "general", "messages": [{"role": "user", "content": "hello"}]}


async def until(condition, seconds: float = 2.0) -> float:
    """Seconds until it holds."""
    started = time.perf_counter()
    while not condition():
        assert time.perf_counter() - started < seconds, "did not happen in time"
        await asyncio.sleep(0.001)
    return time.perf_counter() - started


async def connect(rig: Rig, body: dict) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.ports.http)
    data = json.dumps(body).encode()
    writer.write(b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (CHAT.encode(), len(data)) + data)
    return reader, writer


@pytest.mark.parametrize("script", [endless, mute])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("n", [1, 3])
async def test_a_client_that_hangs_up_ends_generation_within_100_ms(rig: Rig, script, stream, n) -> None:
    rig.pools.script = script
    _, writer = await connect(rig, BODY | {"stream": stream, "n": n})
    await until(lambda: len(rig.pools.requests) == n)
    await asyncio.sleep(0.02)
    writer.transport.abort()
    gone = await until(lambda: len(rig.pools.closed) == n)
    assert gone < 0.1
    assert len(rig.desk.released) == n
    assert rig.registry.get_sample_value("switchyard_requests_total", {"pool": "general", "outcome": "cancelled"}) == 1
    assert rig.registry.get_sample_value("switchyard_requests_in_flight") == 0


async def test_a_client_that_stops_reading_holds_its_own_stream_only(rig: Rig) -> None:
    produced = 0

    async def flood(request: GenerateRequest) -> AsyncIterator[Chunk]:
        nonlocal produced
        while True:
            produced += 1
            yield Chunk(request.id, tokens=(1,), text="x" * 65536)

    rig.pools.script = flood
    reader, writer = await connect(rig, BODY | {"stream": True})
    await reader.readline()
    writer.transport.pause_reading()
    await asyncio.sleep(0.2)
    stuck = produced
    async with httpx.AsyncClient(base_url=rig.url) as http:
        assert (await http.get("/health/live")).status_code == 200
    await asyncio.sleep(0.1)
    assert produced == stuck
    writer.transport.abort()
    assert await until(lambda: len(rig.pools.closed) == 1) < 0.1


async def test_a_drain_lets_streams_finish_and_refuses_new_ones(config: GatewayConfig) -> None:
    async with front_door(config) as rig:
        rig.pools.script = saying("slow " * 100, size=1)
        async with httpx.AsyncClient(base_url=rig.url, timeout=20) as http:
            request = asyncio.create_task(http.post(CHAT, json=BODY | {"stream": True}))
            await until(lambda: rig.pools.requests)
            await rig.door.stop(10.0)
            answer = await request
            assert answer.text.endswith("data: [DONE]\n\n")
            assert "error" not in answer.text
            with pytest.raises(httpx.ConnectError):
                await http.post(CHAT, json=BODY)


async def test_a_request_that_arrives_during_a_drain_is_refused_and_told_when_to_come_back(rig: Rig) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.ports.http)
    data = json.dumps(BODY).encode()
    writer.write(b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (CHAT.encode(), len(data)))
    await asyncio.sleep(0.05)  # the head has arrived: the server waits for the body
    stopping = asyncio.create_task(rig.door.stop(5.0))
    await asyncio.sleep(0.05)
    writer.write(data)
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"retry-after: 1\r\n" in answer
    assert json.loads(answer.rpartition(b"\r\n")[2])["error"]["code"] == "unavailable"
    assert not rig.pools.requests
    await stopping
    writer.close()


async def test_a_drain_waits_for_what_joins_it_and_not_a_moment_longer() -> None:
    inflight, finished = Inflight(), []

    async def connected() -> dict[str, str]:
        await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def work(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        finished.append(name)

    first = asyncio.create_task(inflight.run(work("first", 0.1), connected))
    await asyncio.sleep(0.01)
    draining = asyncio.create_task(inflight.drain(5.0))
    await asyncio.sleep(0.01)
    late = asyncio.create_task(inflight.run(work("late", 0.3), connected))
    assert await until(draining.done) < 0.6
    assert finished == ["first", "late"]
    await asyncio.gather(first, late, draining)


async def test_a_drain_that_runs_out_of_time_tells_the_streams_it_ends(config: GatewayConfig) -> None:
    async with front_door(config) as rig:
        rig.pools.script = endless
        async with httpx.AsyncClient(base_url=rig.url, timeout=20) as http:
            streamed = asyncio.create_task(http.post(CHAT, json=BODY | {"stream": True}))
            whole = asyncio.create_task(http.post(CHAT, json=BODY))
            await until(lambda: len(rig.pools.requests) == 2)
            started = time.perf_counter()
            await rig.door.stop(0.2)
            assert time.perf_counter() - started < 2
            event = (await streamed).text.split("\n\n")[-3]
            assert json.loads(event.removeprefix("data: "))["error"]["code"] == "unavailable"
            assert (await whole).status_code == 503
            assert len(rig.pools.closed) == 2


async def test_a_drain_covers_grpc_calls_too(config: GatewayConfig) -> None:
    async with front_door(config) as rig, grpc.aio.insecure_channel(f"127.0.0.1:{rig.ports.grpc}") as channel:
        rig.pools.script = endless
        request = pb.ChatRequest(model="general", messages=[pb.Message(role="user", content="hello")])
        call = stubs.ServingStub(channel).Chat(request)
        messages = aiter(call)
        assert (await anext(messages)).delta.text == "x"
        started = time.perf_counter()
        await rig.door.stop(0.2)
        assert 0.2 <= time.perf_counter() - started < 2
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            _ = [message async for message in messages]
        assert caught.value.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
        assert len(rig.pools.closed) == 1
