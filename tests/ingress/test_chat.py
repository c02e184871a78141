"""Chat completions through the official client."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest
from openai import AsyncOpenAI

from experts.api import Chunk, GenerateRequest, Grammar, TokenLogprob, TopLogprob
from tests.ingress.rig import Rig, saying

ASK = [{"role": "user", "content": "hello"}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "the weather somewhere",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    },
    {"type": "function", "function": {"name": "clock"}},
]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


async def test_a_whole_answer_has_text_finish_and_bill(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="general", messages=ASK, max_tokens=5)
    assert answer.choices[0].message.content == "w0 w1 w2 w3 w4 "
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (5, 5, 10)
    assert (answer.model, answer.object) == ("general", "chat.completion")


async def test_a_stream_says_the_same_as_the_whole_answer(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model="general", messages=ASK, max_tokens=5, stream=True)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "w0 w1 w2 w3 w4 "
    assert [chunk.choices[0].delta.role for chunk in chunks] == ["assistant", None, None]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, "length"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks)


async def test_the_bill_of_a_stream_comes_last_and_only_on_request(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="general", messages=ASK, max_tokens=4, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 4


async def test_the_first_token_is_sent_before_the_second_exists(rig: Rig, client: AsyncOpenAI) -> None:
    go_on = asyncio.Event()

    async def script(request: GenerateRequest) -> AsyncIterator[Chunk]:
        yield Chunk(request.id, tokens=(1,), text="first")
        await go_on.wait()
        yield Chunk(request.id, tokens=(2,), text=" second", finish="stop")

    rig.pools.script = script
    stream = await client.chat.completions.create(model="general", messages=ASK, stream=True)
    first = await asyncio.wait_for(anext(stream), 2)
    assert first.choices[0].delta.content == "first"
    go_on.set()
    assert [chunk.choices[0].delta.content async for chunk in stream] == [" second"]


async def test_n_choices_have_their_own_seed_index_and_text(rig: Rig, client: AsyncOpenAI) -> None:
    async def script(request: GenerateRequest) -> AsyncIterator[Chunk]:
        yield Chunk(request.id, tokens=(1,), text=f"seed {request.sampling.seed}", finish="stop")

    rig.pools.script = script
    answer = await client.chat.completions.create(model="general", messages=ASK, n=3, seed=10)
    assert [choice.message.content for choice in answer.choices] == ["seed 10", "seed 11", "seed 12"]
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 3)
    assert len({request.id for request in rig.pools.requests}) == 3


async def test_streams_of_n_choices_are_interleaved(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model="general", messages=ASK, n=3, max_tokens=6, stream=True)
    texts, order = ["", "", ""], []
    async for chunk in stream:
        order.append(chunk.choices[0].index)
        texts[order[-1]] += chunk.choices[0].delta.content or ""
    assert texts == ["w0 w1 w2 w3 w4 w5 "] * 3
    assert sorted(order[:3]) == [0, 1, 2]


async def test_sampling_options_reach_the_engine(rig: Rig, client: AsyncOpenAI) -> None:
    await client.chat.completions.create(
        model="general",
        messages=ASK,
        max_completion_tokens=7,
        temperature=0,
        top_p=0.5,
        presence_penalty=1,
        frequency_penalty=-1.5,
        seed=3,
        stop=["a", "b"],
        logit_bias={"5": -100},
        user="someone",
        metadata={"team": "x"},
        extra_body={
            "top_k": 4,
            "min_p": 0.1,
            "repetition_penalty": 1.1,
            "min_tokens": 2,
            "ignore_eos": True,
            "stop_token_ids": [9],
            "switchyard": {"speculate": False, "latency": "fast", "timeout": 12.5},
        },
    )
    request = rig.pools.requests[0]
    sampling = request.sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.top_k) == (7, 0.0, 0.5, 4)
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty) == (1.0, -1.5, 1.1)
    assert (sampling.seed, sampling.stop, sampling.stop_token_ids) == (3, ("a", "b"), (9,))
    assert (sampling.min_p, sampling.min_tokens, sampling.ignore_eos) == (0.1, 2, True)
    assert sampling.logit_bias == {5: -100.0}
    assert not request.speculate
    assert 12 < request.timeout <= 12.5
    assert rig.desk.asked[0].latency == "fast"


async def test_without_a_limit_the_answer_may_fill_the_context(rig: Rig, client: AsyncOpenAI) -> None:
    await client.chat.completions.create(model="general", messages=ASK)
    assert rig.pools.requests[0].sampling.max_tokens == 4096 - 5


async def test_text_parts_and_past_calls_become_one_conversation(rig: Rig, client: AsyncOpenAI) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    await client.chat.completions.create(
        model="general",
        messages=[
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
        ],
    )
    assert bytes(rig.pools.requests[0].prompt) == b"be brief\nab\n\nrain"


async def test_logprobs_have_the_apis_shape(rig: Rig, client: AsyncOpenAI) -> None:
    async def script(request: GenerateRequest) -> AsyncIterator[Chunk]:
        top = (TopLogprob(1, "é", -0.5), TopLogprob(2, "b", float("-inf")))[: request.sampling.logprobs]
        yield Chunk(request.id, tokens=(1,), text="é", logprobs=(TokenLogprob(1, "é", -0.5, top),), finish="stop")

    rig.pools.script = script
    answer = await client.chat.completions.create(model="general", messages=ASK, logprobs=True, top_logprobs=2)
    assert answer.choices[0].logprobs is not None
    (token,) = answer.choices[0].logprobs.content or ()
    assert (token.token, token.logprob, token.bytes) == ("é", -0.5, [195, 169])
    assert [(top.token, top.logprob) for top in token.top_logprobs] == [("é", -0.5), ("b", -9999.0)]
    assert rig.pools.requests[0].sampling.logprobs == 2


async def test_offered_tools_may_be_called(rig: Rig, client: AsyncOpenAI) -> None:
    rig.pools.script = saying(f"Let me look.\n{CALL}\n{CALL}")
    answer = await client.chat.completions.create(model="auto", messages=ASK, tools=TOOLS)
    choice = answer.choices[0]
    assert (choice.finish_reason, choice.message.content, answer.model) == ("tool_calls", "Let me look.", "tools")
    calls = choice.message.tool_calls or []
    assert [call.function.name for call in calls] == ["weather", "weather"]
    assert [json.loads(call.function.arguments) for call in calls] == [{"city": "Oslo"}] * 2
    assert len({call.id for call in calls}) == 2
    assert rig.pools.requests[0].grammar is None


async def test_streamed_calls_can_be_put_together_by_the_client(rig: Rig, client: AsyncOpenAI) -> None:
    rig.pools.script = saying(f"{CALL}\n{CALL}")
    async with client.chat.completions.stream(model="general", messages=ASK, tools=TOOLS) as stream:
        final = await stream.get_final_completion()
    calls = final.choices[0].message.tool_calls or []
    assert [call.function.arguments for call in calls] == ['{"city": "Oslo"}'] * 2
    assert final.choices[0].finish_reason == "tool_calls"


async def test_without_parallel_calls_generation_ends_with_the_first(rig: Rig, client: AsyncOpenAI) -> None:
    rig.pools.script = saying(CALL.removesuffix("</tool_call>"))
    answer = await client.chat.completions.create(
        model="general", messages=ASK, tools=TOOLS, parallel_tool_calls=False, stop="END"
    )
    assert rig.pools.requests[0].sampling.stop == ("END", "</tool_call>")
    assert len(answer.choices[0].message.tool_calls or ()) == 1


@pytest.mark.parametrize(
    ("choice", "names"),
    [("required", ["weather", "clock"]), ({"type": "function", "function": {"name": "weather"}}, ["weather"])],
)
async def test_a_demanded_call_is_forced_by_a_grammar(rig: Rig, client: AsyncOpenAI, choice, names) -> None:
    rig.pools.script = saying('{"name": "weather", "arguments": {"city": "Oslo"}}')
    answer = await client.chat.completions.create(model="general", messages=ASK, tools=TOOLS, tool_choice=choice)
    grammar = rig.pools.requests[0].grammar
    assert grammar is not None
    schema = json.loads(grammar.text)
    forms = schema.get("anyOf", [schema])
    assert [form["properties"]["name"]["const"] for form in forms] == names
    assert answer.choices[0].finish_reason == "tool_calls"
    (call,) = answer.choices[0].message.tool_calls or ()
    assert (call.function.name, call.function.arguments) == ("weather", '{"city": "Oslo"}')
    assert answer.choices[0].message.content is None


async def test_with_tool_choice_none_marks_are_only_text(rig: Rig, client: AsyncOpenAI) -> None:
    rig.pools.script = saying(CALL)
    answer = await client.chat.completions.create(model="auto", messages=ASK, tools=TOOLS, tool_choice="none")
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (CALL, "stop")
    assert answer.model == "general"


@pytest.mark.parametrize(
    ("options", "grammar"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, Grammar("json_object")),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}},
            Grammar("json_schema", '{"type":"object"}'),
        ),
        ({"extra_body": {"structured_outputs": {"regex": "[ab]{2,5}"}}}, Grammar("regex", "[ab]{2,5}")),
        ({"extra_body": {"structured_outputs": {"choice": ["yes", "no"]}}}, Grammar("choice", '["yes","no"]')),
        (
            {"extra_body": {"structured_outputs": {"json": '{"type": "array"}'}}},
            Grammar("json_schema", '{"type":"array"}'),
        ),
    ],
)
async def test_formats_become_grammars(rig: Rig, client: AsyncOpenAI, options, grammar) -> None:
    await client.chat.completions.create(model="general", messages=ASK, max_tokens=2, **options)
    assert rig.pools.requests[0].grammar == grammar


async def test_a_report_shows_the_route_and_every_draft(http: httpx.AsyncClient) -> None:
    body = {"model": "general", "messages": ASK, "max_tokens": 5, "switchyard": {"report": True}}
    whole = (await http.post("/v1/chat/completions", json=body)).json()
    expected = {
        "pool": "general",
        "replica": "general#1",
        "route": "named",
        "drafted": 6,
        "accepted": 2,
        "queue_ms": 2.0,
        "cohort": "on",
        "why": "ramp",
        "speculation": None,
    }
    assert whole["switchyard"] == expected
    streamed = await http.post("/v1/chat/completions", json=body | {"stream": True})
    events = [json.loads(line[6:]) for line in streamed.text.split("\n\n") if line.startswith("data: {")]
    assert [event["switchyard"] for event in events[:-1]] == [
        {"tokens": 2, "accepted": 1},
        {"tokens": 2, "accepted": 1},
        {"tokens": 1, "accepted": 0},
    ]
    assert events[-1]["switchyard"] == expected
    assert streamed.text.endswith("data: [DONE]\n\n")


async def test_headers_name_the_request_and_its_route(http: httpx.AsyncClient) -> None:
    body = {"model": "general", "messages": ASK, "max_tokens": 2}
    for stream in (False, True):
        answer = await http.post(
            "/v1/chat/completions", json=body | {"stream": stream}, headers={"x-request-id": "mine-1"}
        )
        assert answer.headers["x-request-id"] == "mine-1"
        assert answer.headers["x-switchyard-route"] == "named/general/general#1"
    odd = await http.post("/v1/chat/completions", json=body, headers={"x-request-id": "a b;c"})
    assert odd.headers["x-request-id"] not in ("", "a b;c")


async def test_64_streams_at_once_are_all_whole(client: AsyncOpenAI, rig: Rig) -> None:
    async def one(number: int) -> str:
        stream = await client.chat.completions.create(
            model="general", messages=[{"role": "user", "content": f"{number}"}], max_tokens=20, stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    texts = await asyncio.gather(*(one(number) for number in range(64)))
    assert set(texts) == {"".join(f"w{index} " for index in range(20))}
    assert len(rig.desk.released) == 64
