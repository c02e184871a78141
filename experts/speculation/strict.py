"""Drafts for tool calls in free text: only what the form of a call allows.

A constrained request needs nothing of this: its grammar binds every token, and vLLM takes away the drafts that break
it. A call that a model writes of its own accord is bound by its form alone: between two marks stands a JSON object with
a name and arguments. Drafts in there are kept as far as they stay within that form. What the verifier says is not
touched: a call that it has itself broken, or made too long, goes on without drafts to its end.

Text is followed in bytes, as marks may be one token or several and tokens may reach across them.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import xgrammar
from numpy.typing import NDArray

OPEN = b"<tool_call>"
CLOSE = b"</tool_call>"
LARGEST = 16 * 1024
"""Bytes of a call that are followed; a call read again as a whole, after a preemption, costs 0.5 us per byte."""

_CALL = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "arguments": {"type": "object"}},
    "required": ["name", "arguments"],
    "additionalProperties": False,
}

Piece = bytes | None
"""What a token adds to the text; None for those that end or structure it and are no text."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a text has arrived. ``tail`` are its last bytes, which may be the beginning of the next mark."""

    inside: bool = False
    tail: bytes = b""


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of text inside a call or outside; ``ends``: its end is that of the mark which closes or opens one."""

    inside: bool
    text: bytes
    ends: bool = False


def advance(place: Place, text: bytes) -> tuple[Place, list[Span]]:
    """Read on. Cutting the text elsewhere never changes where it arrives."""
    spans = []
    while True:
        mark = CLOSE if place.inside else OPEN
        known = place.tail + text
        at = known.find(mark)
        if at < 0:
            if text:
                spans.append(Span(place.inside, text))
            return Place(place.inside, known[1 - len(mark) :]), spans
        end = at + len(mark) - len(place.tail)
        spans.append(Span(place.inside, text[:end], ends=True))
        place, text = Place(not place.inside), text[end:]


def pieces_of(tokenizer: Any, vocabulary: int) -> tuple[Piece, ...]:
    """The piece of each of ``vocabulary`` token ids of a Hugging Face tokenizer."""
    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=vocabulary)
    silent = {*info.special_token_ids, *info.stop_token_ids, *tokenizer.all_special_ids}
    return tuple(None if token in silent else piece for token, piece in enumerate(info.decoded_vocab))


def call_form() -> xgrammar.CompiledGrammar:
    """The inside of a call with the mark that closes it. Compiled without a vocabulary, as it is asked for bytes."""
    grammar = xgrammar.Grammar.concat(
        xgrammar.Grammar.from_ebnf(r"root ::= [ \n\t\r]*"),
        xgrammar.Grammar.from_json_schema(json.dumps(_CALL), any_whitespace=True),
        xgrammar.Grammar.from_ebnf(rf'root ::= [ \n\t\r]* "{CLOSE.decode()}"'),
    )
    return xgrammar.GrammarCompiler(xgrammar.TokenizerInfo([b"\0"])).compile_grammar(grammar)


class _Call:
    """One call being written. Without a form nothing may stand in it."""

    def __init__(self, form: xgrammar.CompiledGrammar | None) -> None:
        self._matcher = xgrammar.GrammarMatcher(form, terminate_without_stop_token=True) if form else None
        self._sizes: list[int] = [0]

    def take(self, span: Span) -> bool:
        """Go on with the span, if the form allows it; a closing mark must also end the form."""
        size = self._sizes[-1] + len(span.text)
        if self._matcher is None or size > LARGEST or not self._matcher.accept_string(span.text):
            return False
        self._sizes.append(size)
        return self._matcher.is_terminated() == span.ends

    def follow(self, span: Span) -> None:
        """Go on with what has been said; beyond the form, nothing more is allowed."""
        if not self.take(span):
            self._matcher = None

    @property
    def spans(self) -> int:
        """How many have been taken."""
        return len(self._sizes) - 1

    def back(self, spans: int) -> None:
        """Return to where so many had been taken."""
        more = self.spans - spans
        if more and self._matcher is not None:
            self._matcher.rollback(more)
            del self._sizes[-more:]


@dataclass(slots=True)
class _Session:
    """``seen`` tokens have been followed."""

    seen: int
    place: Place = field(default_factory=Place)
    call: _Call | None = None


class Strict:
    """Follows sessions and filters their drafts. ``pieces`` are the vocabulary's (see ``pieces_of``); with mode "off"
    nothing is drafted inside a call."""

    def __init__(self, pieces: Sequence[Piece], mode: Literal["filter", "off"] = "filter") -> None:
        self._pieces = pieces
        self._form = call_form() if mode == "filter" else None
        self._sessions: dict[str, _Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def inside(self, session: str, tokens: NDArray[np.int32], *, prompt: int) -> bool:
        """Whether the next token of this history [n], of which the first ``prompt`` are not the model's, stands inside
        a call."""
        return self._follow(session, tokens, prompt).place.inside

    def filter(self, session: str, tokens: NDArray[np.int32], drafts: Sequence[int], *, prompt: int) -> list[int]:
        """The drafts up to the first that no call can go on with."""
        state = self._follow(session, tokens, prompt)
        before = state.call.spans if state.call else 0
        place, call = state.place, state.call
        kept = []
        for token in drafts:
            piece = self._piece(token)
            if piece is None and place.inside:
                break
            place, spans = advance(place, piece or b"")
            call, fits = self._try(call, spans)
            if not fits:
                break
            kept.append(token)
        if state.call:
            state.call.back(before)
        return kept

    def close(self, session: str) -> None:
        """Forget a session; unknown ones are ignored."""
        self._sessions.pop(session, None)

    def _follow(self, session: str, tokens: NDArray[np.int32], prompt: int) -> _Session:
        state = self._sessions.get(session)
        if state is None or state.seen > tokens.size:
            state = self._sessions[session] = _Session(prompt)
        new = tokens[state.seen :].tolist()
        if new:
            state.seen = tokens.size
            state.place, spans = advance(state.place, b"".join(self._piece(token) or b"" for token in new))
            for span in spans:
                if state.call is not None:
                    state.call.follow(span)
                if span.ends:
                    state.call = None if span.inside else _Call(self._form)
        return state

    def _try(self, call: _Call | None, spans: Sequence[Span]) -> tuple[_Call | None, bool]:
        """The call that is open after these spans, and whether they fit."""
        for span in spans:
            if span.inside and (call is None or not call.take(span)):
                return call, False
            if span.ends:
                call = None if span.inside else _Call(self._form)
        return call, True

    def _piece(self, token: int) -> Piece:
        return self._pieces[token] if 0 <= token < len(self._pieces) else None
