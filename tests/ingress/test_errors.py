"""Every refusal and every failure: status, reason, field, and the shape that clients of the API expect."""

import asyncio
import json

import httpx
import pytest
from openai import APIError, AsyncOpenAI, BadRequestError, NotFoundError

from cluster.errors import (
    DeadlineExceeded,
    EngineFailed,
    NoReplica,
    Overloaded,
    QueueFull,
    ReplicaLost,
    RouterUnavailable,
)
from tests.ingress.rig import Rig, failing

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
GOOD = {"model": "general", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
PLAIN = {"model": "general", "prompt": "hello", "max_tokens": 4}
TOOL = {"type": "function", "function": {"name": "f"}}


def nested(depth: int) -> dict:
    schema: dict = {"type": "object"}
    for _ in range(depth):
        schema = {"properties": {"a": schema}}
    return schema


def schema_format(schema: dict) -> dict:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("change", "status", "code", "param"),
    [
        ({"messages": []}, 400, "invalid_request", "messages"),
        ({"messages": 5}, 400, "invalid_request", "messages"),
        ({"messages": [{"role": "user"}]}, 400, "invalid_request", "messages[0].content"),
        ({"messages": [{"role": "robot", "content": ""}]}, 400, "invalid_request", "messages[0]"),
        ({"messages": [{"role": "user", "content": "a", "x": 1}]}, 400, "invalid_request", "messages[0].x"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            400,
            "unsupported_option",
            "messages[0].content[0].type",
        ),
        ({"model": None}, 400, "invalid_request", "model"),
        ({"model": "nobody"}, 404, "unknown_model", "model"),
        ({"temperature": 3}, 400, "invalid_request", "temperature"),
        ({"temperature": "hot"}, 400, "invalid_request", "temperature"),
        ({"top_p": 0}, 400, "invalid_request", "top_p"),
        ({"max_tokens": 0}, 400, "invalid_request", "max_tokens"),
        ({"max_tokens": 5.5}, 400, "invalid_request", "max_tokens"),
        ({"max_tokens": 100_000}, 400, "too_long", "max_tokens"),
        ({"max_completion_tokens": 9}, 400, "invalid_request", "max_tokens"),
        ({"n": 0}, 400, "invalid_request", "n"),
        ({"n": 9}, 413, "too_large", "n"),
        ({"stop": [""]}, 400, "invalid_request", "stop[0]"),
        ({"stop": ["a"] * 17}, 413, "too_large", "stop"),
        ({"seed": 2**64}, 400, "invalid_request", "seed"),
        ({"logit_bias": {"word": 1}}, 400, "invalid_request", "logit_bias"),
        ({"logit_bias": {str(at): 1 for at in range(301)}}, 413, "too_large", "logit_bias"),
        ({"logit_bias": {"1": 101}}, 400, "invalid_request", "logit_bias.1"),
        ({"top_logprobs": 2}, 400, "invalid_request", "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, 413, "too_large", "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, 400, "invalid_request", "stream_options"),
        ({"min_tokens": 5}, 400, "invalid_request", "min_tokens"),
        ({"messages": [{"role": "user", "content": "x"}] * 1025}, 413, "too_large", "messages"),
        ({"tools": [TOOL] * 129}, 413, "too_large", "tools"),
        ({"tools": [TOOL, TOOL]}, 400, "invalid_request", "tools"),
        ({"parallel_tool_calls": False}, 400, "invalid_request", "parallel_tool_calls"),
        ({"tool_choice": "required"}, 400, "invalid_request", "tool_choice"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
            400,
            "invalid_request",
            "tool_choice",
        ),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, 400, "unsupported_option", "tools[0].type"),
        ({"tools": [TOOL], "response_format": {"type": "json_object"}}, 400, "unsupported_option", "response_format"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]},
            400,
            "unsupported_option",
            "tools",
        ),
        ({"response_format": schema_format(nested(30))}, 413, "too_large", "response_format"),
        ({"response_format": schema_format({"a": "x" * 20_000})}, 413, "too_large", "response_format"),
        ({"structured_outputs": {}}, 400, "invalid_request", "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, 400, "invalid_request", "structured_outputs"),
        ({"structured_outputs": {"regex": "|".join("ab" * 40)}}, 413, "too_large", "structured_outputs.regex"),
        ({"structured_outputs": {"regex": "((a{999}){999})"}}, 413, "too_large", "structured_outputs.regex"),
        (
            {"structured_outputs": {"choice": [str(at) for at in range(300)]}},
            413,
            "too_large",
            "structured_outputs.choice",
        ),
        ({"structured_outputs": {"grammar": "x"}}, 400, "invalid_request", "structured_outputs.grammar"),
        ({"unheard_of": 1}, 400, "invalid_request", "unheard_of"),
        ({"store": True}, 400, "unsupported_option", "store"),
        ({"service_tier": "flex"}, 400, "unsupported_option", "service_tier"),
        ({"reasoning_effort": "high"}, 400, "unsupported_option", "reasoning_effort"),
        ({"modalities": ["audio"]}, 400, "unsupported_option", "modalities[0]"),
        ({"functions": []}, 400, "unsupported_option", "functions"),
        ({"switchyard": {"latency": "warp"}}, 400, "unsupported_option", "switchyard.latency"),
        ({"switchyard": {"warp": 9}}, 400, "invalid_request", "switchyard.warp"),
    ],
)
async def test_a_refused_chat_names_reason_and_field(shared: httpx.AsyncClient, change, status, code, param) -> None:
    answer = await shared.post(CHAT, json=GOOD | change)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param)
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert answer.headers["x-request-id"]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("change", "status", "code", "param"),
    [
        ({"prompt": []}, 400, "invalid_request", "prompt"),
        ({"prompt": ""}, 400, "invalid_request", "prompt"),
        ({"prompt": [[]]}, 400, "invalid_request", "prompt[0]"),
        ({"prompt": [-1]}, 400, "invalid_request", "prompt[0]"),
        ({"prompt": ["a"] * 9}, 413, "too_large", "prompt"),
        ({"echo": True}, 400, "unsupported_option", "echo"),
        ({"suffix": "x"}, 400, "unsupported_option", "suffix"),
        ({"best_of": 3}, 400, "unsupported_option", "best_of"),
        ({"logprobs": 21}, 413, "too_large", "logprobs"),
        ({"messages": []}, 400, "invalid_request", "messages"),
    ],
)
async def test_a_refused_completion_names_reason_and_field(
    shared: httpx.AsyncClient, change, status, code, param
) -> None:
    answer = await shared.post(TEXT, json=PLAIN | change)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"model": "\\ud800"}', b"[" * 100_000, b'{"a":' * 40_000],
)
async def test_what_is_no_json_object_is_a_bad_request(shared: httpx.AsyncClient, body: bytes) -> None:
    answer = await shared.post(CHAT, content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


async def test_a_body_over_the_limit_is_refused_before_it_is_read(http: httpx.AsyncClient) -> None:
    answer = await http.post(CHAT, content=b"x" * (4 * 1024 * 1024 + 1))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


async def test_a_body_of_unknown_length_is_counted_while_it_comes(rig: Rig) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.ports.http)
    writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    for _ in range(65):  # one more than the limit holds, and no end
        writer.write(chunk)
    assert b" 413 " in await asyncio.wait_for(reader.readline(), 5)
    writer.close()


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/v1/models/", 404, "unknown_model"),
        ("GET", "/v1/models/nobody", 404, "unknown_model"),
        ("GET", CHAT, 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
    ],
)
async def test_unknown_routes_and_methods_answer_in_the_apis_shape(
    shared: httpx.AsyncClient, method, path, status, code
) -> None:
    answer = await shared.request(method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        (QueueFull("full", retry_after=1.2), (429, "2")),
        (Overloaded("later", retry_after=0.1), (429, "1")),
        (NoReplica("none"), (503, None)),
        (RouterUnavailable("gone"), (503, None)),
        (DeadlineExceeded("too late"), (504, None)),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_refusals_of_the_router_have_their_status_also_for_streams(
    http: httpx.AsyncClient, rig: Rig, refusal, expected, stream
) -> None:
    rig.desk.refusal = refusal
    answer = await http.post(CHAT, json=GOOD | {"stream": stream})
    assert (answer.status_code, answer.headers.get("retry-after")) == expected
    assert answer.json()["error"]["code"] == refusal.reason


@pytest.mark.parametrize("error", [EngineFailed("broken"), ReplicaLost("gone")])
async def test_a_failure_before_the_first_token_is_a_status(http: httpx.AsyncClient, rig: Rig, error) -> None:
    rig.pools.script = failing(error)
    answer = await http.post(CHAT, json=GOOD | {"stream": True})
    assert (answer.status_code, answer.json()["error"]["code"]) == (error.http_status, error.reason)


async def test_a_failure_after_the_first_token_is_an_event_that_clients_raise(
    http: httpx.AsyncClient, client: AsyncOpenAI, rig: Rig
) -> None:
    rig.pools.script = failing(ReplicaLost("the replica went away"), after=2)
    answer = await http.post(CHAT, json=GOOD | {"stream": True})
    events = answer.text.split("\n\n")
    assert answer.status_code == 200
    assert json.loads(events[2].removeprefix("data: "))["error"]["code"] == "replica_lost"
    assert events[3:] == ["data: [DONE]", ""]
    stream = await client.chat.completions.create(**GOOD, stream=True)
    with pytest.raises(APIError, match="the replica went away") as caught:
        _ = [chunk async for chunk in stream]
    assert caught.value.code == "replica_lost"


async def test_one_failing_choice_ends_the_whole_request(client: AsyncOpenAI, rig: Rig) -> None:
    rig.pools.script = failing(EngineFailed("broken"), after=1)
    with pytest.raises(APIError, match="broken"):
        await client.chat.completions.create(**GOOD, n=3)
    assert len(rig.pools.closed) == 3
    assert len(rig.desk.released) == 3


async def test_the_official_client_sees_its_own_error_classes(client: AsyncOpenAI) -> None:
    with pytest.raises(NotFoundError):
        await client.chat.completions.create(**(GOOD | {"model": "nobody"}))
    with pytest.raises(BadRequestError) as caught:
        await client.chat.completions.create(**(GOOD | {"temperature": 9}))
    assert (caught.value.param, caught.value.code) == ("temperature", "invalid_request")
