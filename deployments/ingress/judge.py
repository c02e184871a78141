"""Whether a structured answer is what was asked for: JSON that its schema accepts, or calls of the tools offered.

Schemas come from clients and may be made to cost much, so a verdict costs a bounded number of steps or is not given:
patterns are not run, references are followed inside the schema only, and a long text is not judged at all.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from functools import partial
from typing import Any

import msgspec
from jsonschema import Draft202012Validator
from jsonschema.validators import extend
from referencing import Registry

from cluster.errors import TooLarge
from deployments.ingress.plan import Reading
from deployments.ingress.tool_calls import OPEN
from experts.api import Chunk
from router.jobs import Conversation, Job, ToolCall

LONGEST = 16_384
"""Characters of an answer that are judged."""

STEPS = 100_000
_ERROR_STEPS = 100
"""What a mismatch costs, because the library describes it at length."""

_OBJECT = '{"type": "object"}'
_GRAMMARS = ("json_object", "json_schema")
_DIALECT = "$schema"
_IGNORED = ("pattern", "patternProperties", "unevaluatedProperties", "unevaluatedItems", "format")
"""Keywords that run a pattern, themselves or through others."""

Keyword = Callable[[Any, Any, Any, Any], Iterator[Any] | None]


class Evidence(msgspec.Struct, frozen=True):
    """One answer: each document with its schema, both JSON text. ``broken``: something in it is beyond reading."""

    documents: tuple[tuple[str, str], ...]
    broken: bool = False


class Witness:
    """Collects the evidence of one choice while it streams."""

    def __init__(self, job: Job, reading: Reading) -> None:
        self._job = job
        self._reading = reading
        self._said: list[str] = []
        self._length = 0
        self._calls: list[ToolCall] = []
        self._whole = False
        grammar = job.grammar
        self._wanted = reading != "text" or (grammar is not None and grammar.kind in _GRAMMARS)

    def see(self, chunk: Chunk, text: str, calls: tuple[ToolCall, ...]) -> None:
        """A chunk, and what was read from it. Only an answer that ended by itself is whole: one that was cut, by its
        length or by a stop string, says nothing."""
        if not self._wanted:
            return
        self._length += len(text) + sum(len(call.arguments) for call in calls)
        if self._length <= LONGEST:
            self._said.append(text)
            self._calls.extend(calls)
        self._whole = chunk.finish == "stop" and (self._reading != "text" or not isinstance(chunk.stop, str))

    def evidence(self) -> Evidence | None:
        """None if there is nothing to judge."""
        if not self._whole or self._length > LONGEST:
            return None
        text = "".join(self._said)
        if self._reading == "text":
            assert self._job.grammar is not None
            return Evidence(((text, self._job.grammar.text or _OBJECT),))
        broken = OPEN in text or (self._reading == "call" and not self._calls)
        if not self._calls and not broken:
            return None
        schemas = self._schemas()
        return Evidence(tuple((call.arguments, schemas[call.name]) for call in self._calls), broken)

    def _schemas(self) -> Mapping[str, str]:
        prompt = self._job.prompt
        return {tool.name: tool.parameters for tool in prompt.tools} if isinstance(prompt, Conversation) else {}


def judge(evidence: tuple[Evidence, ...]) -> bool | None:
    """Whether all of it is valid; None without evidence. Raises what the library raises for a schema that it cannot
    follow, and TooLarge for one that costs too much."""
    if not evidence:
        return None
    _left.set([STEPS])
    return all(not each.broken and all(_fits(*document) for document in each.documents) for each in evidence)


def _fits(text: str, schema: str) -> bool:
    try:
        value = json.loads(text, parse_constant=_refuse)
    except ValueError:
        return False
    wanted = json.loads(schema, object_hook=_without_dialect)
    return bool(_Bounded(wanted, registry=Registry()).is_valid(value))


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _without_dialect(schema: dict[str, Any]) -> dict[str, Any]:
    """The library would leave our validator for the one that a part of the schema names."""
    schema.pop(_DIALECT, None)
    return schema


_left: ContextVar[list[int]] = ContextVar("steps left")


def _spend(steps: int) -> None:
    left = _left.get()
    left[0] -= steps
    if left[0] < 0:
        raise TooLarge("the schema takes too many steps")


def _check(name: str, check: Keyword, *situation: Any) -> Iterator[Any]:
    """One keyword, paid for; ``situation`` is what the library calls it with: validator, value, instance, schema.
    Comparing items with each other costs the square of their number."""
    _, value, instance, schema = situation
    many = len(instance) if isinstance(instance, list | dict) else 1
    _spend(many * many if name == "uniqueItems" else many)
    _spend(len(value) if isinstance(value, list | dict) else 0)  # subschemas, each of which is entered
    if name == "additionalProperties" and "patternProperties" in schema:
        return
    for error in check(*situation) or ():
        _spend(_ERROR_STEPS)
        yield error


def _ignore(*_: Any) -> None:
    """A keyword that is taken to hold."""


_KEYWORDS: dict[str, Keyword] = dict(Draft202012Validator.VALIDATORS)
_Bounded: Any = extend(  # type: ignore[no-untyped-call]  # ships incomplete types
    Draft202012Validator,
    {name: _ignore if name in _IGNORED else partial(_check, name, check) for name, check in _KEYWORDS.items()},
)
