"""What a task is: a conversation, one reference answer and the grade that an answer to it receives."""

import ast
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from random import Random
from typing import Any, Literal, TypeVar

Split = Literal["train", "test"]
Form = Literal["text", "number", "python", "json", "call", "rows"]
STRUCTURED: tuple[Form, ...] = ("python", "json", "call", "rows")  # forms that an answer can fail to have
Message = Mapping[str, Any]
Tool = Mapping[str, Any]
Key = tuple[str | int, ...]
T = TypeVar("T")

HELD_OUT = 16  # one combination in sixteen is never trained on
FIXED = "fixed"  # first part of the key of an exchange without values: there is no combination to hold out

_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
_FENCE = re.compile(r"```python\n(.*?)\n```", re.DOTALL)
_NUMBER = re.compile(r"-?\d+")


@dataclass(frozen=True, slots=True)
class Grade:
    """How one answer did: equal in content, well-formed for its form, and right as a number (where it is one)."""

    exact: bool
    parses: bool
    numeric: bool | None


@dataclass(frozen=True, slots=True)
class Task:
    """One question with its reference answer.

    ``key`` names the combination that the question tests; the split hangs on it and on nothing else, so two phrasings
    of one combination are never on different sides.
    """

    domain: str
    key: Key
    messages: tuple[Message, ...]
    answer: str
    form: Form = "text"
    tools: tuple[Tool, ...] = ()

    def grade(self, answer: str) -> Grade:
        """Compare an answer with the reference, by content and not by spelling where the form allows it."""
        given, wanted = payload(answer, self.form), payload(self.answer, self.form)
        numeric = last_number(answer) == last_number(self.answer) if self.form == "number" else None
        return Grade(exact=given is not None and given == wanted, parses=given is not None, numeric=numeric)


Family = Callable[[Random], Task]


def held_out(key: Key) -> bool:
    """Say whether a combination belongs to the test split; stable across processes, unlike ``hash``."""
    if key[0] == FIXED:
        return False
    digest = blake2b(repr(key).encode(), digest_size=4).digest()
    return int.from_bytes(digest) % HELD_OUT == 0


def user(text: str) -> Message:
    """Return a user turn."""
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    """Return an assistant turn."""
    return {"role": "assistant", "content": text}


def ask(domain: str, key: Key, pair: tuple[str, str], *, form: Form = "text") -> Task:
    """Return a task of one question and one answer."""
    return Task(domain, key, (user(pair[0]),), pair[1], form)


def last_number(text: str) -> int | None:
    """Return the last whole number in a text."""
    found = _NUMBER.findall(text)
    return int(found[-1]) if found else None


def dumps(value: Any) -> str:
    """Write JSON on one line, letters of every language unescaped."""
    return json.dumps(value, ensure_ascii=False)


def payload(answer: str, form: Form) -> Any:
    """Return what an answer means, comparable with ``==``, or None when it is malformed for its form."""
    text = answer.strip()
    match form:
        case "json":
            return _json(text)
        case "call":
            calls = [_json(body) for body in _CALL.findall(text)]
            return calls if calls and all(_is_call(call) for call in calls) else None
        case "python":
            return _python(text)
        case "rows":
            lines = text.splitlines()
            return lines if len({len(line.split()) for line in lines}) == 1 else None
        case _:
            return text or None


def pick(rng: Random, weighted: Sequence[tuple[T, float]]) -> T:
    """Draw one item by weight."""
    return rng.choices([item for item, _ in weighted], [weight for _, weight in weighted])[0]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _is_call(call: Any) -> bool:
    return isinstance(call, dict) and isinstance(call.get("name"), str) and isinstance(call.get("arguments"), dict)


def _python(text: str) -> str | None:
    fenced = _FENCE.search(text)
    source = fenced.group(1) if fenced else text
    try:
        return ast.unparse(ast.parse(source)) or None
    except (SyntaxError, ValueError):
        return None
