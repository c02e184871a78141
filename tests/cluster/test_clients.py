"""The real cluster through the real clients: the official OpenAI package, and gRPC with generated stubs."""

import asyncio
import json
import time

import grpc
import httpx
import jsonschema
import openai
import psutil
import pytest

from deployments.ingress import serving_pb2, serving_pb2_grpc

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

HELLO = [{"role": "user", "content": "Hello!"}]
OPEN = [{"role": "user", "content": "Make up 3 rows of sample data."}]
ADD = [{"role": "user", "content": "What is 23 + 45?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}


def test_models_are_listed_and_draft_pools_are_not_among_them(cluster):
    names = {model.id for model in cluster.client.models.list()}
    assert names == {"auto", "general", "code", "tools"}


def test_streamed_text_is_the_unstreamed_text(cluster):
    whole = cluster.client.chat.completions.create(model="general", messages=ADD, temperature=0, max_tokens=64)
    options = {"include_usage": True}
    stream = cluster.client.chat.completions.create(
        model="general", messages=ADD, temperature=0, max_tokens=64, stream=True, stream_options=options
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert whole.usage.completion_tokens > 4


def test_auto_sends_each_shape_to_its_specialist(cluster):
    asked = {
        "general": {"messages": HELLO},
        "code": {"messages": [{"role": "user", "content": "Write a Python function that adds two numbers."}]},
        "tools": {"messages": [{"role": "user", "content": "Weather for Oslo, celsius please."}], "tools": [WEATHER]},
    }
    for pool, body in asked.items():
        answer = cluster.client.chat.completions.with_raw_response.create(model="auto", max_tokens=8, **body)
        _, routed, _ = answer.headers["x-switchyard-route"].split("/")
        assert routed == pool


def test_a_forced_tool_call_is_valid_for_its_schema(cluster):
    answer = cluster.client.chat.completions.create(
        model="auto",
        messages=[{"role": "user", "content": "Weather for Oslo, celsius please."}],
        tools=[WEATHER],
        tool_choice="required",
        temperature=0,
        max_tokens=128,
    )
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert call.function.name == "get_weather"
    jsonschema.validate(json.loads(call.function.arguments), WEATHER["function"]["parameters"])


def test_a_json_schema_holds_with_drafts_on(cluster):
    schema = {
        "type": "object",
        "properties": {"answer": {"type": "integer"}, "sure": {"type": "boolean"}},
        "required": ["answer", "sure"],
        "additionalProperties": False,
    }
    kind = {"type": "json_schema", "json_schema": {"name": "sum", "schema": schema, "strict": True}}
    for seed in range(8):
        answer = cluster.client.chat.completions.create(
            model="general", messages=ADD, response_format=kind, seed=seed, max_tokens=200
        )
        if answer.choices[0].finish_reason == "stop":
            jsonschema.validate(json.loads(answer.choices[0].message.content), schema)


def test_seeds_repeat_and_differ(cluster):
    def draw(seed: int) -> str:
        answer = cluster.client.chat.completions.create(
            model="general", messages=OPEN, seed=seed, temperature=1.0, max_tokens=24
        )
        return answer.choices[0].message.content

    assert draw(7) == draw(7)
    assert len({draw(seed) for seed in range(6)}) > 1


def test_n_choices_come_each_with_its_index(cluster):
    answer = cluster.client.chat.completions.create(
        model="general", messages=OPEN, n=3, seed=1, temperature=1.0, max_tokens=16
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) == 3


def test_logprobs_name_the_chosen_token_and_its_rivals(cluster):
    answer = cluster.client.chat.completions.create(
        model="general", messages=ADD, temperature=0, max_tokens=6, logprobs=True, top_logprobs=3
    )
    entries = answer.choices[0].logprobs.content
    assert len(entries) == answer.usage.completion_tokens
    for entry in entries:
        assert len(entry.top_logprobs) == 3
        assert entry.logprob == max(rival.logprob for rival in entry.top_logprobs)


def test_stop_strings_end_the_text_before_them(cluster):
    answer = cluster.client.chat.completions.create(
        model="general", messages=ADD, temperature=0, max_tokens=64, stop=["+"]
    )
    assert answer.choices[0].finish_reason == "stop"
    assert "+" not in answer.choices[0].message.content


@pytest.mark.parametrize(
    ("body", "kind", "code"),
    [
        ({"model": "gpt-4"}, openai.NotFoundError, "unknown_model"),
        ({"messages": []}, openai.BadRequestError, "invalid_request"),
        ({"max_tokens": 100_000}, openai.BadRequestError, "too_long"),
        ({"temperature": -1}, openai.BadRequestError, "invalid_request"),
        ({"n": 99}, openai.APIStatusError, "too_large"),
        ({"messages": [{"role": "user", "content": "long " * 4000}]}, openai.BadRequestError, "too_long"),
    ],
)
def test_bad_requests_get_typed_errors_with_a_reason(cluster, body, kind, code):
    with pytest.raises(kind) as raised:
        cluster.client.chat.completions.create(**({"model": "general", "messages": HELLO} | body))
    assert raised.value.code == code


async def test_a_grpc_client_streams_the_same_tokens(cluster):
    whole = cluster.client.chat.completions.create(model="general", messages=ADD, temperature=0, max_tokens=64)
    async with grpc.aio.insecure_channel(cluster.grpc) as channel:
        stub = serving_pb2_grpc.ServingStub(channel)
        request = serving_pb2.ChatRequest(
            model="general",
            messages=[serving_pb2.Message(role="user", content="What is 23 + 45?")],
            max_tokens=64,
            sampling=serving_pb2.Sampling(temperature=0),
        )
        responses = [each async for each in stub.Chat(request, timeout=30)]
    assert "".join(each.delta.text for each in responses) == whole.choices[0].message.content
    assert responses[-1].summary.usage.completion_tokens == whole.usage.completion_tokens
    assert len(responses) > 2


async def test_sixty_four_streams_at_once_complete(cluster):
    async with cluster.aclient as client:

        async def one(number: int) -> str:
            stream = await client.chat.completions.create(
                model="general", messages=ADD, seed=number, max_tokens=48, temperature=0.7, stream=True
            )
            finishes = [chunk.choices[0].finish_reason async for chunk in stream if chunk.choices]
            return finishes[-1]

        finishes = await asyncio.gather(*(one(number) for number in range(64)))
    assert set(finishes) <= {"stop", "length"}


async def test_a_client_that_leaves_frees_its_replica_at_once(cluster):
    body = {"model": "general", "prompt": "Once", "max_tokens": 1500, "ignore_eos": True, "stream": True}
    async with (
        httpx.AsyncClient(base_url=cluster.url, timeout=30) as client,
        client.stream("POST", "/v1/completions", json=body) as response,
    ):
        await anext(response.aiter_lines())
    until = time.monotonic() + 2.0
    while any(each["running"] or each["reserved"] for each in cluster.replicas("general")):
        assert time.monotonic() < until, "still running two seconds after the client left"
        await asyncio.sleep(0.05)


def test_readiness_is_a_token_through_every_pool(cluster):
    answer = httpx.get(f"{cluster.url}/health/ready", timeout=30)
    assert answer.status_code == 200
    assert httpx.get(f"{cluster.url}/health/live", timeout=5).status_code == 200


def test_the_report_says_where_a_request_ran(cluster):
    answer = cluster.client.chat.completions.create(
        model="general", messages=ADD, max_tokens=32, temperature=0, extra_body={"switchyard": {"report": True}}
    )
    report = answer.model_extra["switchyard"]
    assert report["pool"] == "general"
    assert report["replica"] == cluster.replicas("general")[0]["replica"]
    assert report["drafted"] >= report["accepted"] >= 0


def test_every_replica_is_a_process_of_its_own(cluster):
    pids = [each["pid"] for pool in cluster.status()["pools"] for each in pool["replicas"]]
    assert len(set(pids)) == len(pids) == 4
    assert all(psutil.pid_exists(pid) for pid in pids)
