"""Constraints on the output, bounded before any engine sees them: some small grammars compile for minutes."""

import math
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from cluster.errors import BadRequest, TooLarge
from deployments.config import HttpLimits
from deployments.ingress.openai_types import FunctionTool, Options, ResponseFormat, SchemaFormat, StructuredOutputs
from experts.api import Grammar

REGEX_LENGTH = 1024
REGEX_ALTERNATIVES = 64
REGEX_REPEATS = 10_000
"""Bound on the product of a pattern's counted repetitions: nested ones multiply in the automaton."""
CHOICES = 256

_REPEAT = re.compile(r"\{(\d{1,9})?,?(\d{1,9})?\}")


def grammar_of(body: Options, limits: HttpLimits) -> Grammar | None:
    """The constraint that ``response_format`` or ``structured_outputs`` asks for."""
    if body.structured_outputs is not None and body.response_format is not None:
        raise BadRequest("structured_outputs: not together with response_format", param="structured_outputs")
    if body.structured_outputs is not None:
        return _structured(body.structured_outputs, limits)
    if body.response_format is not None:
        return _formatted(body.response_format, limits)
    return None


def call_grammar(tools: Sequence[FunctionTool], limits: HttpLimits) -> Grammar:
    """One call of any of these tools, as a JSON object."""
    forms = [
        {
            "type": "object",
            "properties": {"name": {"const": tool.function.name}, "arguments": parameters_of(tool)},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for tool in tools
    ]
    return Grammar("json_schema", schema_text(forms[0] if len(forms) == 1 else {"anyOf": forms}, "tools", limits))


def parameters_of(tool: FunctionTool) -> dict[str, Any]:
    """A tool's schema; without one it takes an empty object."""
    return tool.function.parameters or {"type": "object", "properties": {}}


def schema_text(schema: dict[str, Any], param: str, limits: HttpLimits) -> str:
    """A JSON schema as compact text. Raises TooLarge beyond the limits on size and depth."""
    if too_deep(schema, limits.schema_depth):
        raise TooLarge(f"{param}: nested deeper than {limits.schema_depth}", param=param)
    text = msgspec.json.encode(schema)
    if len(text) > limits.schema_bytes:
        raise TooLarge(
            f"{param}: the schema has {len(text)} bytes, at most {limits.schema_bytes} are taken", param=param
        )
    return text.decode()


def too_deep(value: Any, depth: int) -> bool:
    """Whether JSON containers nest more than ``depth`` levels. Walks level by level, so depth costs no stack."""
    level = [value]
    for _ in range(depth + 1):
        level = [child for each in level for child in _children(each)]
        if not level:
            return False
    return True


def _children(value: Any) -> Sequence[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else ()


def _formatted(wanted: ResponseFormat, limits: HttpLimits) -> Grammar | None:
    if isinstance(wanted, SchemaFormat):
        return Grammar("json_schema", schema_text(wanted.json_schema.schema_, "response_format", limits))
    return Grammar("json_object") if wanted.type == "json_object" else None


def _structured(wanted: StructuredOutputs, limits: HttpLimits) -> Grammar:
    given = [each for each in (wanted.json_, wanted.json_object, wanted.regex, wanted.choice) if each is not None]
    if len(given) != 1:
        raise BadRequest(
            "structured_outputs: give exactly one of json, json_object, regex, choice", param="structured_outputs"
        )
    if wanted.regex is not None:
        return Grammar("regex", _bounded_regex(wanted.regex))
    if wanted.choice is not None:
        return Grammar("choice", _bounded_choices(wanted.choice, limits))
    if wanted.json_ is not None:
        return Grammar("json_schema", schema_text(_schema(wanted.json_), "structured_outputs.json", limits))
    return Grammar("json_object")


def _schema(wanted: dict[str, Any] | str) -> dict[str, Any]:
    if isinstance(wanted, dict):
        return wanted
    try:
        return msgspec.json.decode(wanted, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadRequest("structured_outputs.json: no JSON object", param="structured_outputs.json") from error


def _bounded_regex(pattern: str) -> str:
    param = "structured_outputs.regex"
    if len(pattern) > REGEX_LENGTH:
        raise TooLarge(f"{param}: longer than {REGEX_LENGTH} characters", param=param)
    if pattern.count("|") > REGEX_ALTERNATIVES:
        raise TooLarge(f"{param}: more than {REGEX_ALTERNATIVES} alternatives; use choice", param=param)
    counts = [max(int(bound or 1) for bound in found) for found in _REPEAT.findall(pattern)]
    if math.prod(max(1, count) for count in counts) > REGEX_REPEATS:
        raise TooLarge(f"{param}: repetitions multiply to more than {REGEX_REPEATS}", param=param)
    return pattern


def _bounded_choices(choices: list[str], limits: HttpLimits) -> str:
    param = "structured_outputs.choice"
    if any(not choice for choice in choices):
        raise BadRequest(f"{param}: an empty choice", param=param)
    text = msgspec.json.encode(choices)
    if len(choices) > CHOICES or len(text) > limits.schema_bytes:
        raise TooLarge(f"{param}: at most {CHOICES} choices in {limits.schema_bytes} bytes", param=param)
    return text.decode()
