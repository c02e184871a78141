"""What counts as a valid answer, and what a verdict may cost."""

import json
import time
from collections.abc import Sequence

import pytest

from cluster.errors import TooLarge
from deployments.ingress.judge import LONGEST, Evidence, Witness, judge
from experts.api import Chunk, Grammar, Sampling
from router.jobs import Conversation, Job, Message, Tool, ToolCall

CITY = '{"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}'
PEOPLE = json.dumps(
    {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$defs": {"person": {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}},
        "type": "array",
        "items": {"$ref": "#/$defs/person"},
    }
)


def document(text: str, schema: str = "{}") -> tuple[Evidence, ...]:
    return (Evidence(((text, schema),)),)


def witness(grammar: Grammar | None = None, reading: str = "text", tools: Sequence[Tool] = ()) -> Witness:
    prompt = Conversation((Message("user", "hello"),), tuple(tools))
    return Witness(Job("j", "general", prompt, Sampling(), grammar=grammar), reading)


@pytest.mark.parametrize(
    ("text", "schema", "valid"),
    [
        ('{"city": "Oslo"}', CITY, True),
        ('{"city": 1}', CITY, False),
        ("{}", CITY, False),
        ('{"city": "Os', CITY, False),
        ("NaN", "{}", False),
        ("[]", '{"type": "object"}', False),
        ('[{"age": 3}]', PEOPLE, True),
        ('[{"age": 3}, {"age": "old"}]', PEOPLE, False),
        ('{"a": 1}', '{"additionalProperties": false}', False),
        ('{"a": 1}', '{"additionalProperties": false, "patternProperties": {"^b$": {}}}', True),
        ('"abc"', '{"pattern": "^x+$"}', True),
        ("[1, 1]", '{"uniqueItems": true}', False),
    ],
)
def test_an_answer_is_valid_if_its_schema_accepts_it_patterns_aside(text, schema, valid):
    assert judge(document(text, schema)) is valid


def test_without_evidence_there_is_no_verdict_and_with_several_all_must_hold():
    good, bad = Evidence((("{}", "{}"),)), Evidence((("{", "{}"),))
    assert judge(()) is None
    assert judge((good, good)) is True
    assert judge((good, bad)) is False
    assert judge((Evidence((), broken=True),)) is False


EXPLODING = {"$defs": {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 8} for n in range(12)}}
EXPLODING["$defs"]["d12"] = {"type": "string"}
EXPLODING["$ref"] = "#/$defs/d0"


@pytest.mark.parametrize(
    ("text", "schema"),
    [
        ("1", json.dumps(EXPLODING)),
        (json.dumps([{"a": number} for number in range(1500)]), '{"uniqueItems": true}'),
        (json.dumps([0] * 8000), json.dumps({"allOf": [{"items": {}}] * 500})),
        (json.dumps([0] * 8000), json.dumps({"items": {"allOf": [{}] * 4500}})),
    ],
)
def test_a_schema_that_costs_too_much_gets_no_verdict_and_soon(text, schema):
    started = time.process_time()
    with pytest.raises(TooLarge):
        judge(document(text, schema))
    assert time.process_time() - started < 5


@pytest.mark.parametrize("inside", [{}, {"$schema": "http://json-schema.org/draft-07/schema#"}])
def test_a_pattern_that_takes_for_ever_is_never_run_wherever_it_stands(inside):
    evil = inside | {"pattern": "^(a+)+$", "patternProperties": {"^(a+)+$": {}}, "additionalProperties": False}
    schema = json.dumps({"properties": {"x": evil, "y": evil}})
    text = json.dumps({"x": "a" * 60 + "!", "y": {"a" * 60 + "!": 1}})
    started = time.process_time()
    assert judge(document(text, schema)) is True
    assert time.process_time() - started < 2


@pytest.mark.parametrize("where", ["http://127.0.0.1:9/schema.json", "file:///etc/hostname", "#/$defs/nowhere"])
def test_a_reference_out_of_the_schema_is_not_followed(where):
    with pytest.raises(Exception, match=r"Unresolvable|NoSuchResource|PointerToNowhere"):
        judge(document("{}", json.dumps({"$ref": where})))


def test_only_an_answer_that_ended_by_itself_is_evidence():
    for last, found in (
        (Chunk("j", finish="stop"), True),
        (Chunk("j", finish="stop", stop=7), True),
        (Chunk("j", finish="stop", stop="}"), False),
        (Chunk("j", finish="length"), False),
        (Chunk("j"), False),
    ):
        seen = witness(Grammar("json_schema", CITY))
        seen.see(Chunk("j"), '{"city": ', ())
        seen.see(last, '"Oslo"}', ())
        expected = Evidence((('{"city": "Oslo"}', CITY),)) if found else None
        assert seen.evidence() == expected


@pytest.mark.parametrize("grammar", [None, Grammar("regex", "a+"), Grammar("choice", '["a"]')])
def test_free_text_is_not_judged(grammar):
    seen = witness(grammar)
    seen.see(Chunk("j", finish="stop"), "aaa", ())
    assert seen.evidence() is None


def test_a_long_answer_is_neither_kept_nor_judged():
    seen = witness(Grammar("json_object"))
    for _ in range(3):
        seen.see(Chunk("j", finish="stop"), "x" * (LONGEST // 2), ())
    assert seen.evidence() is None
    assert sum(map(len, seen._said)) <= LONGEST


def test_calls_are_judged_by_the_schemas_of_their_tools():
    tools = [Tool("weather", parameters=CITY)]
    for said, calls, evidence in (
        ("Hello.", (), None),
        ("", (ToolCall("1", "weather", '{"city": 1}'),), Evidence((('{"city": 1}', CITY),))),
        ("<tool_call>{oops}</tool_call>", (), Evidence((), broken=True)),
    ):
        seen = witness(None, "calls", tools)
        seen.see(Chunk("j", finish="stop"), said, calls)
        assert seen.evidence() == evidence
    forced = witness(Grammar("json_schema", "{}"), "call", tools)
    forced.see(Chunk("j", finish="stop"), "no call at all", ())
    assert forced.evidence() == Evidence((), broken=True)
