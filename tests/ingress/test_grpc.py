"""The gRPC API with its generated stubs: the same meaning as HTTP, and gRPC's own manners."""

import asyncio
import json
import time
from collections.abc import AsyncIterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from cluster.errors import NoReplica, QueueFull, ReplicaLost
from deployments.ingress import serving_pb2 as pb
from deployments.ingress import serving_pb2_grpc as stubs
from experts.api import Chunk, GenerateRequest, Grammar, TokenLogprob, TopLogprob
from tests.ingress.rig import Rig, endless, failing, saying

ASK = [pb.Message(role="user", content="hello")]
WEATHER = pb.Tool(name="weather", parameters='{"type": "object"}')
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> stubs.ServingStub:
    return stubs.ServingStub(channel)


async def refusal(call) -> tuple[grpc.StatusCode, dict[str, str]]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in call:
            pass
    return caught.value.code(), dict(caught.value.trailing_metadata())


async def test_a_chat_streams_deltas_and_ends_with_a_summary(stub, rig: Rig) -> None:
    request = pb.ChatRequest(model="general", messages=ASK, max_tokens=5, options=pb.Options(report=True))
    call = stub.Chat(request)
    messages = [message async for message in call]
    deltas = [message.delta for message in messages[:-1]]
    assert "".join(delta.text for delta in deltas) == "w0 w1 w2 w3 w4 "
    assert [(delta.tokens, delta.accepted) for delta in deltas] == [(2, 1), (2, 1), (1, 0)]
    assert [delta.finish_reason for delta in deltas] == ["", "", "length"]
    summary = messages[-1].summary
    assert (summary.usage.prompt_tokens, summary.usage.completion_tokens) == (5, 5)
    assert (summary.report.replica, summary.report.drafted, summary.report.accepted) == ("general#1", 6, 2)
    metadata = dict(await call.initial_metadata())
    assert metadata["x-request-id"] == messages[0].id
    assert metadata["x-switchyard-route"] == "named/general/general#1"


async def test_without_a_wish_there_is_no_report(stub) -> None:
    messages = [message async for message in stub.Chat(pb.ChatRequest(model="general", messages=ASK, max_tokens=2))]
    assert not messages[-1].summary.HasField("report")


async def test_completions_take_text_or_tokens(stub, rig: Rig) -> None:
    for prompt in ({"text": "ab"}, {"tokens": pb.TokenIds(values=[7, 8])}):
        messages = [
            message async for message in stub.Complete(pb.CompleteRequest(model="general", max_tokens=2, **prompt))
        ]
        assert messages[0].delta.text == "w0 w1 "
    assert [request.prompt for request in rig.pools.requests] == [(97, 98), (7, 8)]


async def test_every_option_reaches_the_engine(stub, rig: Rig) -> None:
    sampling = pb.Sampling(
        temperature=0,
        top_p=0.5,
        top_k=4,
        min_p=0.1,
        presence_penalty=1,
        frequency_penalty=-1,
        repetition_penalty=1.5,
        seed=-3,
        stop=["x"],
        stop_token_ids=[9],
        min_tokens=2,
        ignore_eos=True,
        logit_bias={5: -100},
        logprobs=2,
    )
    options = pb.Options(speculate=False, latency="escalation", timeout=9)
    structured = pb.StructuredOutput(choice=pb.StringList(values=["a", "b"]))
    request = pb.ChatRequest(
        model="general", messages=ASK, max_tokens=6, sampling=sampling, options=options, structured_output=structured
    )
    assert [message async for message in stub.Chat(request)]
    (sent,) = rig.pools.requests
    got = sent.sampling
    assert (got.temperature, got.top_p, got.top_k, got.min_p, got.max_tokens) == (0, 0.5, 4, 0.1, 6)
    assert (got.presence_penalty, got.frequency_penalty, got.repetition_penalty, got.seed) == (1, -1, 1.5, -3)
    assert (got.stop, got.stop_token_ids, got.min_tokens, got.ignore_eos) == (("x",), (9,), 2, True)
    assert (got.logit_bias, got.logprobs, sent.speculate) == ({5: -100}, 2, False)
    assert sent.grammar == Grammar("choice", '["a","b"]')
    assert (rig.desk.asked[0].latency, sent.timeout < 9) == ("escalation", True)


@pytest.mark.parametrize(
    ("structured", "grammar"),
    [
        (pb.StructuredOutput(json_object=True), Grammar("json_object")),
        (pb.StructuredOutput(json_schema='{"type": "array"}'), Grammar("json_schema", '{"type":"array"}')),
        (pb.StructuredOutput(regex="[a-z]+"), Grammar("regex", "[a-z]+")),
    ],
)
async def test_constraints_become_grammars(stub, rig: Rig, structured, grammar) -> None:
    request = pb.CompleteRequest(model="general", text="a", max_tokens=1, structured_output=structured)
    assert [message async for message in stub.Complete(request)]
    assert rig.pools.requests[0].grammar == grammar


async def test_tools_are_called_and_their_answers_understood(stub, rig: Rig) -> None:
    rig.pools.script = saying(f"Hm. {CALL}")
    messages = [message async for message in stub.Chat(pb.ChatRequest(model="auto", messages=ASK, tools=[WEATHER]))]
    calls = [call for message in messages for call in message.delta.tool_calls]
    assert [(call.name, json.loads(call.arguments)) for call in calls] == [("weather", {"city": "Oslo"})]
    assert (messages[-2].delta.finish_reason, messages[-2].model) == ("tool_calls", "tools")
    history = [
        *ASK,
        pb.Message(role="assistant", tool_calls=calls),
        pb.Message(role="tool", tool_call_id=calls[0].id, content="rain"),
    ]
    assert [message async for message in stub.Chat(pb.ChatRequest(model="general", messages=history, tools=[WEATHER]))]
    assert bytes(rig.pools.requests[-1].prompt) == b"hello\n\nrain"


async def test_a_call_may_be_demanded(stub, rig: Rig) -> None:
    for choice in (pb.ToolChoice(mode="required"), pb.ToolChoice(name="weather")):
        request = pb.ChatRequest(model="general", messages=ASK, tools=[WEATHER], tool_choice=choice, max_tokens=2)
        assert [message async for message in stub.Chat(request)]
    for sent in rig.pools.requests:
        assert sent.grammar is not None
        assert json.loads(sent.grammar.text)["properties"]["name"] == {"const": "weather"}


async def test_logprobs_come_with_the_deltas(stub, rig: Rig) -> None:
    async def script(request: GenerateRequest) -> AsyncIterator[Chunk]:
        info = TokenLogprob(1, "a", -0.5, (TopLogprob(2, "b", -1.5),))
        yield Chunk(request.id, tokens=(1,), text="a", logprobs=(info,), finish="stop")

    rig.pools.script = script
    request = pb.ChatRequest(model="general", messages=ASK, sampling=pb.Sampling(logprobs=1))
    messages = [message async for message in stub.Chat(request)]
    (token,) = messages[0].delta.logprobs
    assert (token.text, token.logprob, token.top[0].token, token.top[0].logprob) == ("a", -0.5, 2, -1.5)


async def test_n_choices_are_interleaved(stub) -> None:
    request = pb.ChatRequest(model="general", messages=ASK, n=3, max_tokens=4)
    texts = {0: "", 1: "", 2: ""}
    async for message in stub.Chat(request):
        if message.WhichOneof("payload") == "delta":
            texts[message.delta.index] += message.delta.text
    assert set(texts.values()) == {"w0 w1 w2 w3 "}


@pytest.mark.parametrize(
    ("request_", "code", "reason", "param"),
    [
        (pb.ChatRequest(model="nobody", messages=ASK), grpc.StatusCode.NOT_FOUND, "unknown_model", "model"),
        (pb.ChatRequest(messages=ASK), grpc.StatusCode.INVALID_ARGUMENT, "invalid_request", "model"),
        (pb.ChatRequest(model="general"), grpc.StatusCode.INVALID_ARGUMENT, "invalid_request", "messages"),
        (
            pb.ChatRequest(model="general", messages=[pb.Message(role="robot")]),
            grpc.StatusCode.INVALID_ARGUMENT,
            "invalid_request",
            "messages[0]",
        ),
        (
            pb.ChatRequest(model="general", messages=ASK, tools=[pb.Tool(name="f", parameters="{")]),
            grpc.StatusCode.INVALID_ARGUMENT,
            "invalid_request",
            "tools",
        ),
        (
            pb.ChatRequest(model="general", messages=ASK, max_tokens=100_000),
            grpc.StatusCode.INVALID_ARGUMENT,
            "too_long",
            "max_tokens",
        ),
        (pb.ChatRequest(model="general", messages=ASK, n=99), grpc.StatusCode.INVALID_ARGUMENT, "too_large", "n"),
        (
            pb.ChatRequest(model="general", messages=ASK, options=pb.Options(latency="warp")),
            grpc.StatusCode.INVALID_ARGUMENT,
            "unsupported_option",
            "switchyard.latency",
        ),
    ],
)
async def test_refusals_have_code_reason_and_field(stub, request_, code, reason, param) -> None:
    found, trailing = await refusal(stub.Chat(request_))
    assert (found, trailing["switchyard-reason"], trailing["switchyard-param"]) == (code, reason, param)


async def test_failures_of_the_cluster_have_their_codes(stub, rig: Rig) -> None:
    request = pb.ChatRequest(model="general", messages=ASK)
    rig.desk.refusal = QueueFull("full", retry_after=2.5)
    code, trailing = await refusal(stub.Chat(request))
    assert (code, trailing["switchyard-reason"], trailing["retry-after"]) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "queue_full",
        "3",
    )
    rig.desk.refusal = None
    rig.pools.script = failing(ReplicaLost("gone"), after=1)
    code, trailing = await refusal(stub.Chat(request))
    assert (code, trailing["switchyard-reason"]) == (grpc.StatusCode.UNAVAILABLE, "replica_lost")


async def test_an_unexpected_failure_is_internal_and_tells_nothing(stub, rig: Rig) -> None:
    async def script(request: GenerateRequest) -> AsyncIterator[Chunk]:
        yield Chunk(request.id, tokens=(1,), text="x")
        raise RuntimeError("a secret path")

    rig.pools.script = script
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        _ = [message async for message in stub.Chat(pb.ChatRequest(model="general", messages=ASK))]
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.INTERNAL, "internal error")


@pytest.mark.parametrize("how", ["cancel", "deadline"])
async def test_leaving_ends_generation_at_once(stub, rig: Rig, how: str) -> None:
    rig.pools.script = endless
    call = stub.Chat(pb.ChatRequest(model="general", messages=ASK), timeout=0.3 if how == "deadline" else None)
    assert (await call.read()).delta.text == "x"
    left = time.perf_counter()
    if how == "cancel":
        call.cancel()
    else:
        assert rig.pools.requests[0].timeout < 0.3
        assert await call.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        left = time.perf_counter()
    while not rig.pools.closed:
        assert time.perf_counter() - left < 2
        await asyncio.sleep(0.001)
    assert next(iter(rig.pools.closed.values())) - left < 0.1
    assert len(rig.desk.released) == 1


async def test_a_message_over_the_body_limit_is_refused(stub) -> None:
    big = pb.ChatRequest(model="general", messages=[pb.Message(role="user", content="x" * (5 * 1024 * 1024))])
    code, _ = await refusal(stub.Chat(big))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_models_are_listed(stub) -> None:
    models = (await stub.ListModels(pb.ListModelsRequest())).models
    assert [(model.name, model.HasField("max_context")) for model in models] == [
        ("auto", False),
        ("general", True),
        ("tools", True),
    ]


async def test_standard_health_follows_readiness_per_pool(channel: grpc.aio.Channel, rig: Rig) -> None:
    health = health_pb2_grpc.HealthStub(channel)

    async def status(name: str) -> int:
        return (await health.Check(health_pb2.HealthCheckRequest(service=name))).status

    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    rig.desk.refusal = NoReplica("none")
    assert [await status(name) for name in ("", "general", "switchyard.v1.Serving")] == [not_serving] * 3
    rig.desk.refusal = None
    assert [await status(name) for name in ("", "general", "switchyard.v1.Serving")] == [serving] * 3
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await status("nobody")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


async def test_a_watcher_hears_of_changes(channel: grpc.aio.Channel, rig: Rig) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    rig.desk.refusal = NoReplica("none")
    watch = health.Watch(health_pb2.HealthCheckRequest(service="general"))
    seen = [(await asyncio.wait_for(watch.read(), 5)).status]
    if seen[-1] == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN:  # the first look is not over yet
        seen.append((await asyncio.wait_for(watch.read(), 5)).status)
    assert seen[-1] == health_pb2.HealthCheckResponse.NOT_SERVING
    rig.desk.refusal = None
    assert (await asyncio.wait_for(watch.read(), 5)).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()


async def test_reflection_names_the_services(channel: grpc.aio.Channel) -> None:
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    call = reflection.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    answer = await call.read()
    names = {service.name for service in answer.list_services_response.service}
    assert {"switchyard.v1.Serving", "grpc.health.v1.Health"} <= names
