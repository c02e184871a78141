"""From the bytes of a body to a request, or to an error that names the offending field."""

import re
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails, from_json

from cluster.errors import BadRequest, TooLarge, UnsupportedOption
from deployments.ingress.openai_types import NOT_OFFERED, Body

Request = TypeVar("Request", bound=Body)

KEYS = 50_000
"""Names of object fields in one body. Far above any request that the other limits let through, and what keeps the
validation of a body of a few megabytes from holding up the event loop for a second."""

_KEY = re.compile(rb'(?<!\\)(?:\\\\)*"\s*:')
_LONGEST_MESSAGE = 300
_EXTRA = "extra_forbidden"
_MISSING = "missing"
_TOO_LONG = "too_long"


def parse(kind: type[Request], data: bytes) -> Request:
    """Raises BadRequest, UnsupportedOption or TooLarge. The parser itself bounds the nesting."""
    if data.count(b":") > KEYS and sum(1 for _ in _KEY.finditer(data)) > KEYS:
        raise TooLarge(f"the body has more than {KEYS} fields")
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
    raise _explained(problems, data)


def _explained(problems: list[ErrorDetails], data: bytes) -> BadRequest:
    """A list that is too long, else the deepest problem, says most: others are branches of a union that did not fit."""
    problem = max(problems, key=lambda each: (each["type"] == _TOO_LONG, len(each["loc"])))
    if problem["type"] == "json_invalid":
        return BadRequest(f"the body is not valid JSON: {_short(problem['msg'])}")
    document = from_json(data)
    if not isinstance(document, dict):
        return BadRequest("the body must be a JSON object")
    param = _path(problem, document)
    top = problem["loc"][0] if problem["loc"] else None
    if top in NOT_OFFERED or problem["type"] == "literal_error":
        return UnsupportedOption(f"{param or top}: not offered here: {_short(problem['msg'])}", param=param)
    if problem["type"] == _TOO_LONG:
        return TooLarge(f"{param}: {_short(problem['msg'])}", param=param)
    if problem["type"] == _EXTRA:
        return BadRequest(f"{param}: unknown field", param=param)
    return BadRequest(f"{param or 'body'}: {_short(problem['msg'])}", param=param)


def _path(problem: ErrorDetails, document: Any) -> str | None:
    """The location as the client wrote it: ``messages[0].content``. Steps that exist only in our types are left out."""
    path = ""
    for step in problem["loc"]:
        if isinstance(step, int) and isinstance(document, list) and step < len(document):
            path += f"[{step}]"
            document = document[step]
        elif isinstance(step, str) and isinstance(document, dict) and step in document:
            path += f".{_short(step)}"
            document = document[step]
        elif problem["type"] == _MISSING and step == problem["loc"][-1]:
            path += f".{step}"
    return path.removeprefix(".") or None


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_MESSAGE else text[:_LONGEST_MESSAGE] + "..."
