"""Whatever a client sends, it is either a plan or a refusal with a reason; never a crash, and nothing is ignored."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import BadRequest, TooLarge
from deployments.config import HttpLimits
from deployments.ingress.openai_jobs import chat_plan, completion_plan
from deployments.ingress.openai_types import ChatRequest, CompletionRequest
from deployments.ingress.parsing import parse

LIMITS = HttpLimits()
CHAT = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
PLAIN = {"model": "m", "prompt": "x"}

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


def fields(kind: type[ChatRequest] | type[CompletionRequest]) -> st.SearchStrategy[dict[str, Any]]:
    names = st.sampled_from(sorted(kind.model_fields)) | st.text(max_size=6)
    near = st.sampled_from(
        [0, 1, -1, 0.5, "", "auto", [], {}, ["a"], [1], [[1]], {"type": "text"}, {"1": 1}, True, False, 10**30]
    )
    return st.dictionaries(names, values | near, max_size=6)


def plan_or_reason(kind: Any, data: bytes) -> None:
    """Any other exception than a refusal fails the test by itself."""
    with contextlib.suppress(BadRequest):
        request = parse(kind, data)
        plan = (chat_plan if kind is ChatRequest else completion_plan)(request, LIMITS, "id")
        assert 1 <= len(plan.jobs) <= LIMITS.choices
        assert len({job.id for job in plan.jobs}) == len(plan.jobs)


@settings(max_examples=400)
@given(fields(ChatRequest))
def test_any_fields_of_a_chat_are_planned_or_refused(change: dict[str, Any]) -> None:
    plan_or_reason(ChatRequest, json.dumps(CHAT | change).encode())


@settings(max_examples=400)
@given(fields(CompletionRequest))
def test_any_fields_of_a_completion_are_planned_or_refused(change: dict[str, Any]) -> None:
    plan_or_reason(CompletionRequest, json.dumps(PLAIN | change).encode())


@given(st.binary(max_size=200) | values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_planned_or_refused(data: bytes) -> None:
    plan_or_reason(ChatRequest, data)
    plan_or_reason(CompletionRequest, data)


message = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool", "function"])},
    optional={
        "content": st.none() | st.text(max_size=5) | st.lists(st.just({"type": "text", "text": "a"}), max_size=2),
        "tool_call_id": st.text(max_size=3),
        "tool_calls": st.lists(
            st.just({"id": "1", "type": "function", "function": {"name": "f", "arguments": "{"}}), max_size=2
        ),
        "name": st.text(max_size=3),
        "refusal": st.none(),
    },
)


@given(st.lists(message, max_size=4))
def test_any_messages_are_planned_or_refused(messages: list[Any]) -> None:
    plan_or_reason(ChatRequest, json.dumps({"model": "m", "messages": messages}).encode())


@given(st.dictionaries(st.text(min_size=1, max_size=6), values, max_size=3), st.integers(0, 40))
def test_any_schema_is_taken_or_refused(schema: dict[str, Any], depth: int) -> None:
    for _ in range(depth):
        schema = {"items": schema}
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    plan_or_reason(ChatRequest, json.dumps(CHAT | {"response_format": form}).encode())


@pytest.mark.parametrize(
    "change",
    [
        {f"k{at}\\\\": 1 for at in range(60_000)},
        {"logit_bias": {f"{at}": "a" for at in range(60_000)}},
        {"messages": [{"role": "user", "content": ""}] * 60_000},
        {"messages": [{"role": "user", "content": ""}] * 20_000},
    ],
)
def test_a_body_of_very_many_parts_is_refused_as_such(change: dict[str, Any]) -> None:
    with pytest.raises(TooLarge):
        parse(ChatRequest, json.dumps(CHAT | change).encode())


def test_a_long_text_full_of_json_is_no_body_of_many_parts() -> None:
    text = json.dumps({f"key {at}": at for at in range(100_000)})
    request = parse(CompletionRequest, json.dumps(PLAIN | {"prompt": text}).encode())
    assert request.prompt == text


@pytest.mark.parametrize("prompt", [[1, "a"] * 200_000, [[1]] * 200_000, ["a"] * 200_000, [{}]])
def test_a_wide_prompt_of_the_wrong_kind_is_refused_shortly(prompt: list[Any]) -> None:
    request = parse(CompletionRequest, json.dumps(PLAIN | {"prompt": prompt}).encode())
    with pytest.raises(BadRequest) as caught:
        completion_plan(request, LIMITS, "id")
    assert len(caught.value.message) < 100
