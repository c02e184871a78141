"""Strict segments: no draft that breaks a grammar or the form of a tool call is verified, and answers stay what they
are without drafts."""

import json
import random
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from drafts_double import NAME, Scripted, nothing
from engine_bench import QUESTIONS, Bench, decoded, prompt, text, tokenizer, tokens, vllm_pool
from jsonschema import validate
from scipy.stats import fisher_exact
from watch import Verified, watch

from deployments.config import HttpLimits
from deployments.ingress.grammars import call_grammar
from deployments.ingress.openai_types import FunctionTool
from deployments.ingress.prompts import FastCodec
from deployments.ingress.tool_calls import CLOSE, OPEN
from experts.api import Chunk, GenerateRequest, Grammar
from experts.engines.vllm_engine import VllmHost
from experts.speculation.proposer import DraftHistory
from experts.zoo.catalog import model_path
from experts.zoo.prompts import held_out_prompts
from router.jobs import Conversation, Message, Tool

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.engine, pytest.mark.timeout(240)]

LENGTH = 64
STOP = 2
VOCABULARY = 2048
SAMPLES = 48
DEPTH = 4
TOOLS = [
    FunctionTool.model_validate({"type": "function", "function": {"name": name, "parameters": parameters}})
    for name, parameters in (
        ("weather", {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}),
        ("timer", {"type": "object", "properties": {"minutes": {"type": "integer"}}, "required": ["minutes"]}),
    )
]
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
WORDS = "(yes|no), [0-9]{2,4}!"
CHOICES = ["certainly", "certainly not", "perhaps"]
GRAMMARS = {
    "json_schema": Grammar("json_schema", json.dumps(PERSON)),
    "regex": Grammar("regex", WORDS),
    "choice": Grammar("choice", json.dumps(CHOICES)),
    "tools": call_grammar(TOOLS, HttpLimits()),
}
ASKED = (*QUESTIONS, *(str(each.messages[-1]["content"]) for each in held_out_prompts(8, domains=("chat", "tools"))))

Script = Callable[[DraftHistory], list[int]]


def holds(kind: str, answer: str) -> bool:
    """Whether an answer that ended by itself is valid."""
    if kind == "regex":
        return re.fullmatch(WORDS, answer) is not None
    if kind == "choice":
        return answer in CHOICES
    try:
        validate(json.loads(answer), json.loads(GRAMMARS[kind].text))
    except ValueError:
        return False
    return True


def compiled(grammar: Grammar) -> Any:
    """The grammar, compiled apart from the engine."""
    import xgrammar
    from transformers import AutoTokenizer

    model = AutoTokenizer.from_pretrained(model_path("general"))
    compiler = xgrammar.GrammarCompiler(xgrammar.TokenizerInfo.from_huggingface(model, vocab_size=VOCABULARY))
    if grammar.kind == "json_schema":
        return compiler.compile_json_schema(grammar.text)
    pattern = grammar.text if grammar.kind == "regex" else "|".join(CHOICES)
    return compiler.compile_regex(pattern)


def broken(form: Any, verified: Sequence[Verified]) -> list[Verified]:
    """Those of which a draft cannot follow."""
    import xgrammar

    found = []
    for each in verified:
        matcher = xgrammar.GrammarMatcher(form)
        assert all(matcher.accept_token(token) for token in each.said)
        if not all(matcher.accept_token(token) for token in each.drafts):
            found.append(each)
    return found


def scripts(known: dict[tuple[int, ...], tuple[int, ...]]) -> dict[str, Script]:
    """Good drafts, senseless ones, and good ones with a token in them that is likely to break the form."""

    def good(row: DraftHistory) -> list[int]:
        said = tuple(row.tokens.tolist())
        for question, answer in known.items():
            whole = question + answer
            if whole[: len(said)] == said:
                return [*whole[len(said) :], STOP, STOP][: row.depth]
        return []

    def garbage(row: DraftHistory) -> list[int]:
        chance = random.Random(len(row.tokens))
        return [chance.randrange(VOCABULARY) for _ in range(row.depth)]

    def violating(row: DraftHistory) -> list[int]:
        drafts, wrong = good(row), tokenizer().encode('"]}<').ids
        place = len(row.tokens) % DEPTH
        return [*drafts[:place], wrong[len(row.tokens) % len(wrong)], *drafts[place + 1 :]]

    return {"good": good, "garbage": garbage, "violating": violating}


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def unfiltered_bench() -> AsyncIterator[Bench]:
    """Drafts nothing in strict segments."""
    section = {"layout": "split", "pool": "draft", "depth": DEPTH, "controller": "fixed", "strict": "off"}
    engine = VllmHost("general", vllm_pool(speculation=section), drafts=NAME)
    bench = Bench(engine, decoded)
    await engine.start(bench.sink)
    yield bench
    await engine.stop()


def bound(bench: Bench, kind: str, **settings: Any) -> list[GenerateRequest]:
    return [
        bench.request(question, grammar=GRAMMARS[kind], **{"max_tokens": LENGTH, "ignore_eos": False} | settings)
        for question in ASKED
    ]


def answered(streams: Sequence[Sequence[Chunk]]) -> list[tuple[tuple[int, ...], str | None]]:
    return [(tokens(stream), stream[-1].finish) for stream in streams]


@pytest.mark.parametrize("kind", GRAMMARS)
async def test_bound_by_a_grammar_greedy_answers_are_the_plain_ones_and_no_verified_draft_breaks_it(
    kind: str, thread_bench: Bench, split_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified = watch(monkeypatch)
    plain = answered(await thread_bench.run(*bound(thread_bench, kind)))
    form = compiled(GRAMMARS[kind])
    known = {prompt(question): answer for question, (answer, _) in zip(ASKED, plain, strict=True)}
    for name, script in scripts(known).items():
        verified.clear()
        Scripted.follow(script)
        streams = await split_bench.run(*bound(split_bench, kind))
        assert answered(streams) == plain, name
        assert broken(form, verified) == [], name
        assert len(verified) > 0 or name == "garbage"
        if name == "good":
            drafted = sum(chunk.drafted for stream in streams for chunk in stream)
            assert sum(chunk.accepted for stream in streams for chunk in stream) == drafted > 0


@pytest.mark.parametrize("kind", GRAMMARS)
async def test_sampled_answers_are_as_often_valid_with_drafts_as_without(
    kind: str, thread_bench: Bench, split_bench: Bench
) -> None:
    (likely,) = await thread_bench.run(bound(thread_bench, kind)[0])
    known = {prompt(question): tokens(likely) for question in ASKED}
    by_name = scripts(known)
    Scripted.follow(lambda row: by_name[("good", "garbage", "violating")[len(row.tokens) % 3]](row))
    cut = []
    for bench, first in ((thread_bench, 0), (split_bench, SAMPLES)):
        requests = [
            bench.request(
                ASKED[seed % len(ASKED)],
                grammar=GRAMMARS[kind],
                temperature=0.8,
                seed=seed,
                max_tokens=2 * LENGTH,
                ignore_eos=False,
            )
            for seed in range(first, first + SAMPLES)
        ]
        streams = await bench.run(*requests)
        ended = [stream for stream in streams if stream[-1].finish == "stop"]
        assert [text(stream) for stream in ended if not holds(kind, text(stream))] == []
        cut.append([SAMPLES - len(ended), len(ended)])
    assert fisher_exact(cut).pvalue > 0.001


async def test_switched_off_nothing_bound_by_a_grammar_is_drafted_and_the_rest_is(
    thread_bench: Bench, unfiltered_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified = watch(monkeypatch)
    Scripted.follow(lambda row: [5] * row.depth)
    plain = await thread_bench.run(*bound(thread_bench, "json_schema")[:4])
    free = unfiltered_bench.request(QUESTIONS[4], name="free")
    *strict, _ = await unfiltered_bench.run(*bound(unfiltered_bench, "json_schema")[:4], free)
    assert answered(strict) == answered(plain)
    assert {each.name for each in verified} == {"free"}


def offered() -> Iterator[tuple[int, ...]]:
    """Questions that a tool answers, with the tools that are offered, as the model reads them."""
    codec = FastCodec(model_path("general"))
    for each in held_out_prompts(32, domains=("tools",)):
        if all(message["role"] in ("system", "user") for message in each.messages):
            messages = tuple(Message(role=turn["role"], content=str(turn["content"])) for turn in each.messages)
            tools = tuple(
                Tool(given["name"], given["description"], json.dumps(given["parameters"]))
                for given in (tool["function"] for tool in each.tools)
            )
            yield codec.encode(codec.chat(Conversation(messages, tools)), special=False)


def calling(bench: Bench) -> list[GenerateRequest]:
    return [
        msgspec.structs.replace(bench.request(max_tokens=LENGTH, ignore_eos=False), prompt=question, domain="tools")
        for question in offered()
    ]


def inside(each: Verified) -> bool:
    return decoded(each.said).rpartition(OPEN)[1] != "" and CLOSE not in decoded(each.said).rpartition(OPEN)[2]


async def test_in_a_tool_call_of_a_free_text_drafts_stay_in_its_form_and_answers_are_the_plain_ones(
    thread_bench: Bench, split_bench: Bench, unfiltered_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified = watch(monkeypatch)
    plain = await thread_bench.run(*calling(thread_bench))
    assert sum(OPEN in text(stream) for stream in plain) > 5
    assert any(CLOSE in text(stream) for stream in plain)
    known = {question: tokens(stream) for question, stream in zip(offered(), plain, strict=True)}
    for name, script in scripts(known).items():
        for bench in (split_bench, unfiltered_bench):
            verified.clear()
            Scripted.follow(script)
            assert answered(await bench.run(*calling(bench))) == answered(plain), name
            called = [each for each in verified if inside(each)]
            assert [each for each in called if not follows(each)] == []
            assert any(not inside(each) for each in verified)
            if bench is unfiltered_bench or name == "good":
                assert bool(called) == (bench is split_bench)


def follows(each: Verified) -> bool:
    """Whether JSON can go on as the drafts do, judged by a parser that knows no grammar: it reads on until the text
    ends, and complains of nothing before."""
    body = decoded([*each.said, *each.drafts]).rpartition(OPEN)[2].partition(CLOSE)[0].strip()
    try:
        json.loads(body)
    except json.JSONDecodeError as error:
        unfinished = "Unterminated string" in error.msg or error.pos >= len(body.rstrip()) - 1
        return unfinished or body[error.pos :] in ("t", "tr", "tru", "f", "fa", "fal", "fals", "n", "nu", "nul")
    return True


async def test_without_drafts_nothing_of_this_matters(split_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    verified = watch(monkeypatch)
    Scripted.follow(nothing)
    streams = await split_bench.run(*bound(split_bench, "choice"))
    assert all(text(stream) in CHOICES for stream in streams)
    assert verified == []
