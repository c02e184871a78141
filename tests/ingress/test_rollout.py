"""Flags and experiments at the front door: put, refused, applied, reported, counted."""

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc
import httpx
import msgspec
import pytest

from cluster.errors import EngineFailed
from deployments.config import GatewayConfig
from deployments.ingress import serving_pb2 as pb
from deployments.ingress import serving_pb2_grpc as stubs
from experts.api import Chunk, GenerateRequest, Speculated
from tests.ingress.rig import Rig, Script, failing, front_door, saying

CHAT = "/v1/chat/completions"
FLAG = "/admin/flags/speculation"
BODY = {"model": "general", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
REPORT = BODY | {"switchyard": {"report": True}}
PUT = {"enabled": True, "percent": 20, "tenants": {"acme": False}, "routes": {"tools": True}, "version": 0}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
STRUCTURED = BODY | {
    "max_tokens": 64,
    "response_format": {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}},
}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": CITY}}]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


def counted(rig: Rig, field: str = "requests") -> dict[str, int]:
    return {each.cohort: getattr(each, field) for each in rig.door.tallies()}


async def test_a_flag_is_put_and_at_once_in_force(http: httpx.AsyncClient, rig: Rig) -> None:
    answer = await http.put(FLAG, json=PUT)
    assert (answer.status_code, answer.headers["etag"]) == (200, '"1"')
    flag = answer.json()
    assert (flag["version"], flag["percent"], flag["tenants"], flag["routes"]) == (
        1,
        20,
        {"acme": False},
        {"tools": True},
    )
    assert (await http.get(FLAG)).json() == flag
    assert (await http.get("/admin/flags")).json() == {"flags": [flag]}
    await http.post(CHAT, json=BODY, headers={"x-switchyard-tenant": "acme"})
    assert not rig.pools.requests[0].speculate


async def test_if_match_names_the_version_too_and_a_star_means_any(http: httpx.AsyncClient) -> None:
    body = {name: value for name, value in PUT.items() if name != "version"}
    for header, version in (('"0"', 1), ("1", 2), ("*", 3), ('W/"3"', 4)):
        answer = await http.put(FLAG, json=body, headers={"if-match": header})
        assert (answer.status_code, answer.json()["version"]) == (200, version)


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        (PUT | {"percent": 101}, {}, (400, "invalid_request", "percent")),
        (PUT | {"percent": "20"}, {}, (400, "invalid_request", "percent")),
        (PUT | {"tenants": {"a b": True}}, {}, (400, "invalid_request", "tenants.a b")),
        (PUT | {"tenants": {"acme": "off"}}, {}, (400, "invalid_request", "tenants.acme")),
        (PUT | {"tenants": {f"t{number}": True for number in range(257)}}, {}, (413, "too_large", "tenants")),
        (PUT | {"colour": "blue"}, {}, (400, "invalid_request", "colour")),
        (PUT | {"routes": {"nowhere": True}}, {}, (400, "invalid_request", "routes")),
        (PUT | {"version": 7}, {}, (409, "conflict", None)),
        (PUT, {"if-match": '"7"'}, (400, "invalid_request", "version")),
        (PUT | {"version": None}, {}, (400, "invalid_request", "version")),
        (PUT | {"version": None}, {"if-match": '"7"'}, (409, "conflict", None)),
        (PUT, {"if-match": "soon"}, (400, "invalid_request", "if-match")),
        ({"enabled": True, "version": 0}, {}, (400, "invalid_request", "percent")),
        ([], {}, (400, "invalid_request", None)),
    ],
)
async def test_what_cannot_be_put_is_refused_and_changes_nothing(http, rig: Rig, body, headers, expected):
    answer = await http.put(FLAG, json=body, headers=headers)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == expected
    assert rig.rollout.flags.get("speculation").version == 0


@pytest.mark.parametrize("path", ["/admin/flags/teleport", "/experiments/teleport"])
async def test_an_unknown_flag_is_not_found(http: httpx.AsyncClient, path: str) -> None:
    answer = await http.get(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    if path.startswith("/admin"):
        assert (await http.put(path, json=PUT)).status_code == 404
        assert (await http.delete(path)).status_code == 405


async def test_a_body_that_is_no_flag_is_refused_by_its_size(http: httpx.AsyncClient) -> None:
    answer = await http.put(FLAG, content=b"x" * 200_000)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


async def test_beyond_loopback_nothing_can_be_changed(config: GatewayConfig) -> None:
    open_to_all = config.model_copy(update={"host": "0.0.0.0"})
    async with front_door(open_to_all) as rig, httpx.AsyncClient(base_url=rig.url) as http:
        assert (await http.put(FLAG, json=PUT)).status_code == 404
        assert (await http.get("/admin/flags")).status_code == 404
        assert (await http.get("/experiments/speculation")).status_code == 200


async def test_the_report_tells_the_cohort_and_what_speculation_did(http: httpx.AsyncClient, rig: Rig) -> None:
    async def speculating(request: GenerateRequest) -> AsyncIterator[Chunk]:
        did = Speculated(steps=3, plain=1, drafted=9, accepted=(1, 0, 0, 2))
        yield Chunk(request.id, tokens=(1, 2), text="ab", drafted=3, accepted=1, finish="stop", speculated=did)

    rig.pools.script = speculating
    report = (await http.post(CHAT, json=REPORT | {"n": 2})).json()["switchyard"]
    assert (report["cohort"], report["why"]) == ("on", "ramp")
    assert report["speculation"] == {"steps": 6, "plain": 2, "drafted": 18, "accepted": [2, 0, 0, 4], "mean": 2.0}
    rig.rollout.set(enabled=False)
    report = (await http.post(CHAT, json=REPORT)).json()["switchyard"]
    assert (report["cohort"], report["why"]) == ("off", "disabled")


async def test_grpc_clients_say_who_they_are_and_see_the_same_report(channel: grpc.aio.Channel, rig: Rig) -> None:
    async def speculating(request: GenerateRequest) -> AsyncIterator[Chunk]:
        did = Speculated(steps=2, drafted=4, accepted=(1, 1))
        yield Chunk(request.id, tokens=(1,), text="a", finish="stop", speculated=did)

    rig.pools.script = speculating
    rig.rollout.set(tenants={"acme": False})
    ask = pb.ChatRequest(
        model="general", messages=[pb.Message(role="user", content="hello")], options=pb.Options(report=True)
    )
    call = stubs.ServingStub(channel).Chat(ask, metadata=(("x-switchyard-tenant", "acme"), ("x-request-id", "again")))
    report = [message async for message in call][-1].summary.report
    assert (report.cohort, report.why) == ("off", "tenant")
    told = report.speculation
    assert (told.steps, told.drafted, list(told.accepted), told.mean) == (2, 4, [1, 1], 0.5)
    call = stubs.ServingStub(channel).Chat(ask, metadata=(("x-switchyard-tenant", "no name"),))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        _ = [message async for message in call]
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("tenant", ["no name", "x" * 65, "a/b", "ä"])
async def test_a_tenant_that_is_no_name_is_refused(http: httpx.AsyncClient, rig: Rig, tenant: str) -> None:
    answer = await http.post(CHAT, json=BODY, headers={"x-switchyard-tenant": tenant.encode()})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "x-switchyard-tenant")
    assert not rig.pools.requests


async def test_a_request_that_is_tried_again_stays_in_its_cohort(
    http: httpx.AsyncClient, channel: grpc.aio.Channel, rig: Rig
) -> None:
    rig.rollout.set(percent=50.0)
    cohorts = {}
    for number in range(24):
        name = {"x-request-id": f"request-{number}"}
        first, again = [(await http.post(CHAT, json=BODY, headers=name)).status_code for _ in range(2)]
        ask = pb.ChatRequest(model="general", messages=[pb.Message(role="user", content="hello")], max_tokens=5)
        assert [m async for m in stubs.ServingStub(channel).Chat(ask, metadata=tuple(name.items()))]
        assert first == again == 200
        cohorts[number] = {request.speculate for request in rig.pools.requests[-3:]}
    assert all(len(each) == 1 for each in cohorts.values())
    assert {each for found in cohorts.values() for each in found} == {True, False}


async def test_all_choices_of_a_request_share_its_cohort_and_count_once(http: httpx.AsyncClient, rig: Rig) -> None:
    rig.rollout.set(percent=50.0)
    for _ in range(12):
        await http.post(CHAT, json=BODY | {"n": 3})
        assert len({request.speculate for request in rig.pools.requests[-3:]}) == 1
    assert sum(counted(rig).values()) == 12
    assert sum(counted(rig, "tokens").values()) == 12 * 15


async def test_an_experiment_shows_both_cohorts_of_each_pool(http: httpx.AsyncClient, rig: Rig) -> None:
    rig.rollout.set(percent=50.0)
    for _ in range(60):
        await http.post(CHAT, json=BODY)
    rig.pools.script = failing(EngineFailed("broken"), after=1)
    for _ in range(10):
        await http.post(CHAT, json=BODY)
    found = (await http.get("/experiments/speculation")).json()
    assert (found["flag"], found["version"], found["percent"], found["gateways"]) == ("speculation", 1, 50.0, 1)
    (pool,) = found["pools"]
    assert pool["pool"] == "general"
    assert pool["on"]["requests"] + pool["off"]["requests"] == 70
    assert pool["on"]["errors"] + pool["off"]["errors"] == 10
    assert min(pool["on"]["requests"], pool["off"]["requests"]) > 10
    duration = next(each for each in pool["measures"] if each["name"] == "duration")
    assert duration["on"]["n"] == pool["on"]["requests"] - pool["on"]["errors"]
    assert 0 < duration["on"]["p50"] <= duration["on"]["p95"]
    assert duration["low"] < duration["effect"] < duration["high"]
    metrics = (await http.get("/metrics")).text
    assert (
        'switchyard_experiment_requests_total{cohort="off",flag="speculation",outcome="ok",pool="general"}' in metrics
    )


async def test_only_what_the_ramp_placed_is_compared(http: httpx.AsyncClient, rig: Rig) -> None:
    rig.rollout.set(tenants={"acme": True})
    await http.post(CHAT, json=BODY, headers={"x-switchyard-tenant": "acme"})
    await http.post(CHAT, json=BODY | {"switchyard": {"speculate": False}})
    await http.post(CHAT, json=BODY | {"model": "nobody"})
    assert counted(rig) == {}
    await http.post(CHAT, json=BODY)
    assert counted(rig) == {"on": 1}


async def test_a_client_that_leaves_is_no_error_of_its_cohort(rig: Rig) -> None:
    async def slow(request: GenerateRequest) -> AsyncIterator[Chunk]:
        yield Chunk(request.id, tokens=(1,), text="x")
        await asyncio.sleep(10)

    rig.pools.script = slow
    async with httpx.AsyncClient(base_url=rig.url, timeout=0.2) as http:
        with pytest.raises(httpx.ReadTimeout):
            await http.post(CHAT, json=BODY)
    await until(lambda: bool(rig.door.tallies()))
    (found,) = rig.door.tallies()
    assert (found.requests, found.cancelled, found.errors) == (1, 1, 0)


@pytest.mark.parametrize(
    ("script", "body", "verdicts"),
    [
        (saying('{"city": "Oslo"}'), STRUCTURED, (1, 0)),
        (saying('{"city": 1}'), STRUCTURED, (0, 1)),
        (saying('{"city"'), STRUCTURED, (0, 1)),
        (saying("[]"), BODY | {"response_format": {"type": "json_object"}}, (0, 1)),
        (saying('<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>'), {"tools": TOOLS}, (1, 0)),
        (saying('<tool_call>{"name": "weather", "arguments": {}}</tool_call>'), {"tools": TOOLS}, (0, 1)),
        (saying('<tool_call>{"name": "rain", "arguments": {}}</tool_call>'), {"tools": TOOLS}, (0, 1)),
        (saying("It rains."), {"tools": TOOLS}, (0, 0)),
        (saying("It rains."), {}, (0, 0)),
    ],
)
async def test_structured_answers_and_calls_are_judged(http, rig: Rig, script: Script, body, verdicts) -> None:
    rig.pools.script = script
    assert (await http.post(CHAT, json=BODY | body)).status_code == 200
    await until(lambda: bool(rig.door.tallies()))
    (found,) = rig.door.tallies()
    assert (found.valid, found.invalid) == verdicts


async def test_a_schema_that_cannot_be_judged_holds_nobody_up(http: httpx.AsyncClient, rig: Rig) -> None:
    rig.pools.script = saying('{"city": "Oslo"}')
    schema = {"$ref": "http://127.0.0.1:9/elsewhere.json"}
    broken = msgspec.json.decode(msgspec.json.encode(STRUCTURED))
    broken["response_format"]["json_schema"]["schema"] = schema
    assert (await http.post(CHAT, json=broken)).status_code == 200
    await until(lambda: bool(rig.door.tallies()))
    (found,) = rig.door.tallies()
    assert (found.requests, found.valid, found.invalid) == (1, 0, 0)
