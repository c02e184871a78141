"""Tool calls in a model's text, read while it is written.

The Hermes form puts each call between marks: ``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``. A call is
handed on when it is complete. What looks like a call but is none stays content, and so does a call to a tool that was
not offered. White space inside and next to a call belongs to the form, not to the content.
"""

import uuid
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from router.jobs import ToolCall

OPEN = "<tool_call>"
CLOSE = "</tool_call>"


class Parsed(msgspec.Struct, frozen=True):
    """What a piece of text turned out to hold."""

    text: str = ""
    calls: tuple[ToolCall, ...] = ()


class Reader(Protocol):
    """Reads one sequence. Cutting the text elsewhere never changes what is read from it as a whole."""

    def feed(self, text: str) -> Parsed: ...

    def finish(self) -> Parsed:
        """What was held back, now that nothing follows."""


class _Form(msgspec.Struct):
    name: str
    arguments: msgspec.Raw = msgspec.Raw(b"{}")


_FORM = msgspec.json.Decoder(_Form)
_OBJECT = msgspec.json.Decoder(dict[str, Any])


def new_call_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"


class Calls:
    """Recognises the calls of one request. ``new_id`` names them."""

    def __init__(self, tools: frozenset[str], new_id: Callable[[], str] = new_call_id) -> None:
        self._tools = tools
        self._new_id = new_id

    def read(self, text: str) -> ToolCall | None:
        """The call that ``text`` is as a whole, its arguments as the model wrote them, or None."""
        try:
            form = _FORM.decode(text)
            _OBJECT.decode(form.arguments)
        except (msgspec.MsgspecError, RecursionError):
            return None
        if form.name not in self._tools:
            return None
        return ToolCall(self._new_id(), form.name, bytes(form.arguments).decode())


class HermesReader:
    """Separates content from calls between marks."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._pending = ""
        self._searched = 0
        self._inside = False
        self._gap = ""
        self._after_call = False

    def feed(self, text: str) -> Parsed:
        self._pending += text
        said: list[str] = []
        calls: list[ToolCall] = []
        while (piece := self._next_piece()) is not None:
            if self._inside:
                said.append(self._say(piece))
            elif (call := self._call(piece)) is not None:
                calls.append(call)
            else:
                said.append(self._say(f"{OPEN}{piece}{CLOSE}"))
        if not self._inside:
            clear = len(self._pending) - _held_back(self._pending)
            said.append(self._say(self._pending[:clear]))
            self._pending, self._searched = self._pending[clear:], 0
        return Parsed("".join(said), tuple(calls))

    def finish(self) -> Parsed:
        rest, self._pending = self._pending, ""
        if self._inside:
            call = self._call(rest)
            if call is not None:
                return Parsed(calls=(call,))
            rest = OPEN + rest
        return Parsed(self._say(rest) + self._gap)

    def _next_piece(self) -> str | None:
        """Cut off what stands before the next mark and change sides; None if no mark has arrived."""
        mark = CLOSE if self._inside else OPEN
        at = self._pending.find(mark, max(0, self._searched - len(mark)))
        if at < 0:
            self._searched = len(self._pending)
            return None
        piece = self._pending[:at]
        self._pending, self._searched = self._pending[at + len(mark) :], 0
        self._inside = not self._inside
        return piece

    def _call(self, body: str) -> ToolCall | None:
        call = self._calls.read(body.strip())
        if call is not None:
            self._gap, self._after_call = "", True
        return call

    def _say(self, text: str) -> str:
        """Content, with its trailing white space kept back: a call may follow and swallow it."""
        text = self._gap + text
        if self._after_call:
            text = text.lstrip()
        clear = text.rstrip()
        self._gap = text[len(clear) :]
        if clear:
            self._after_call = False
        return clear


class ForcedReader:
    """The output is one call as JSON, because a grammar allowed nothing else. Cut short, it is content."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._parts: list[str] = []

    def feed(self, text: str) -> Parsed:
        self._parts.append(text)
        return Parsed()

    def finish(self) -> Parsed:
        text = "".join(self._parts)
        call = self._calls.read(text.strip())
        return Parsed(text) if call is None else Parsed(calls=(call,))


def _held_back(text: str) -> int:
    """How many characters at the end of ``text`` may be the beginning of a mark."""
    for size in range(min(len(OPEN) - 1, len(text)), 0, -1):
        if text.endswith(OPEN[:size]):
            return size
    return 0
