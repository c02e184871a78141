"""From steps to the OpenAI API's answers: server-sent events, or one body. No input or output of its own."""

import time
from abc import ABC, abstractmethod
from itertools import zip_longest
from typing import Protocol

import msgspec
from msgspec import UNSET, UnsetType

from cluster.errors import SwitchyardError
from deployments.ingress import openai_wire as wire
from deployments.ingress.turn import Step, Turn
from experts.api import Speculated, TokenLogprob
from router.jobs import ToolCall
from router.rules import AUTO

DONE = b"data: [DONE]\n\n"

_LEAST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON has no number for."""

_encode = msgspec.json.Encoder().encode


def _framed(message: msgspec.Struct) -> bytes:
    """One server-sent event."""
    return b"data: " + _encode(message) + b"\n\n"


class Format(Protocol):
    """How one request's answer is written. ``add`` and ``body`` are for whole answers, the others for streams."""

    def event(self, step: Step) -> bytes:
        """Empty if the step has nothing to show."""

    def closing(self) -> bytes: ...

    def add(self, step: Step) -> None: ...

    def body(self) -> bytes: ...


class _Base(ABC):
    """What both formats share: the head of every answer, the bill and the report."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._id = turn.plan.id
        self._created = int(time.time())
        self._report = turn.plan.report
        self._usage: UnsetType | None = None if turn.plan.usage else UNSET
        self._steps: list[list[Step]] = [[] for _ in turn.choices]

    def add(self, step: Step) -> None:
        self._steps[step.index].append(step)

    def closing(self) -> bytes:
        """The bill and the report, if somebody asked for them, and the end."""
        if self._usage is UNSET and not self._report:
            return DONE
        return _framed(self._last()) + DONE

    @abstractmethod
    def _last(self) -> msgspec.Struct:
        """The chunk without choices that a stream ends with."""

    def _model(self) -> str:
        place = self._turn.place
        return place.pool if self._turn.plan.model == AUTO and place is not None else self._turn.plan.model

    def _progress(self, step: Step) -> wire.Progress | UnsetType:
        return wire.Progress(step.tokens, step.accepted) if self._report else UNSET

    def _silent(self, step: Step) -> bool:
        """A step whose text is still held back is not worth an event, unless somebody counts tokens."""
        shown = step.text or step.calls or step.logprobs or step.finish or (self._report and step.tokens)
        return not shown


class ChatFormat(_Base):
    """Chat completions."""

    def __init__(self, turn: Turn) -> None:
        super().__init__(turn)
        self._begun: set[int] = set()
        self._calls: dict[int, int] = {}

    def event(self, step: Step) -> bytes:
        if self._silent(step):
            return b""
        chunk = wire.ChatChunk(
            id=self._id,
            created=self._created,
            model=self._model(),
            choices=(wire.DeltaChoice(step.index, self._delta(step), step.finish, _chat_logprobs(step.logprobs)),),
            usage=self._usage,
            switchyard=self._progress(step),
        )
        return _framed(chunk)

    def _last(self) -> wire.ChatChunk:
        return wire.ChatChunk(
            id=self._id,
            created=self._created,
            model=self._model(),
            choices=(),
            usage=usage(self._turn) if self._usage is None else UNSET,
            switchyard=report(self._turn) if self._report else UNSET,
        )

    def body(self) -> bytes:
        completion = wire.ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._model(),
            choices=[_chat_choice(index, steps) for index, steps in enumerate(self._steps)],
            usage=usage(self._turn),
            switchyard=report(self._turn) if self._report else UNSET,
        )
        return _encode(completion)

    def _delta(self, step: Step) -> wire.Delta:
        """The role comes with a choice's first words rather than before them."""
        calls: list[wire.Call] | UnsetType = UNSET
        if step.calls:
            first = self._calls.get(step.index, 0)
            self._calls[step.index] = first + len(step.calls)
            calls = [_call(call, first + offset) for offset, call in enumerate(step.calls)]
        if step.index in self._begun:
            return wire.Delta(content=step.text or UNSET, tool_calls=calls)
        self._begun.add(step.index)
        return wire.Delta(role="assistant", content=step.text, tool_calls=calls)


class CompletionFormat(_Base):
    """Plain completions, with the legacy shape of logprobs."""

    def __init__(self, turn: Turn) -> None:
        super().__init__(turn)
        self._offsets = [0] * len(turn.choices)

    def event(self, step: Step) -> bytes:
        if self._silent(step):
            return b""
        chunk = wire.TextCompletion(
            id=self._id,
            created=self._created,
            model=self._model(),
            choices=(wire.TextChoice(step.index, step.text, step.finish, self._logprobs(step.index, step.logprobs)),),
            usage=self._usage,
            switchyard=self._progress(step),
        )
        return _framed(chunk)

    def _last(self) -> wire.TextCompletion:
        return self._summary((), show_usage=self._usage is None)

    def body(self) -> bytes:
        choices = [
            wire.TextChoice(
                index, "".join(step.text for step in steps), steps[-1].finish, self._logprobs(index, _joined(steps))
            )
            for index, steps in enumerate(self._steps)
        ]
        return _encode(self._summary(tuple(choices), show_usage=True))

    def _summary(self, choices: tuple[wire.TextChoice, ...], *, show_usage: bool) -> wire.TextCompletion:
        return wire.TextCompletion(
            id=self._id,
            created=self._created,
            model=self._model(),
            choices=choices,
            usage=usage(self._turn) if show_usage else UNSET,
            switchyard=report(self._turn) if self._report else UNSET,
        )

    def _logprobs(self, index: int, given: tuple[TokenLogprob, ...]) -> wire.TextLogprobs | None:
        if not given:
            return None
        offsets = []
        for each in given:
            offsets.append(self._offsets[index])
            self._offsets[index] += len(each.text)
        return wire.TextLogprobs(
            tokens=[each.text for each in given],
            token_logprobs=[_finite(each.logprob) for each in given],
            top_logprobs=[{top.text: _finite(top.logprob) for top in each.top} for each in given],
            text_offset=offsets,
        )


def error_body(error: SwitchyardError) -> bytes:
    """The API's error object; ``code`` is our reason."""
    kind = "server_error" if error.http_status >= 500 else "invalid_request_error"
    if error.http_status == 429:
        kind = "rate_limit_error"
    return _encode(wire.ErrorBody(wire.ErrorDetail(error.message, kind, error.param, error.reason)))


def error_event(error: SwitchyardError) -> bytes:
    """How a stream that has begun ends badly: clients of the API raise on it and stop at the mark."""
    return b"data: " + error_body(error) + b"\n\n" + DONE


def usage(turn: Turn) -> wire.Usage:
    """The bill. A prompt answered several times is counted once, as the API does."""
    prompts = turn.choices[:: turn.plan.samples]
    read = sum(choice.prompt_tokens for choice in prompts)
    cached = sum(choice.cached_tokens for choice in prompts)
    written = sum(choice.tokens for choice in turn.choices)
    return wire.Usage(read, written, read + written, wire.CachedTokens(cached))


def report(turn: Turn) -> wire.Report:
    """Where it ran and how it was drafted; of several choices the first one's place and the longest wait."""
    leases = [choice.lease for choice in turn.choices if choice.lease is not None]
    decision = next(choice.decision for choice in turn.choices if choice.decision is not None)
    return wire.Report(
        pool=leases[0].pool,
        replica=leases[0].replica,
        route=leases[0].route,
        drafted=sum(choice.drafted for choice in turn.choices),
        accepted=sum(choice.accepted for choice in turn.choices),
        queue_ms=round(1000 * max(lease.waited for lease in leases), 3),
        cohort=decision.cohort,
        why=decision.why,
        speculation=_speculation([each.speculated for each in turn.choices if each.speculated is not None]),
    )


def _speculation(told: list[Speculated]) -> wire.Speculation | None:
    if not told:
        return None
    steps = sum(each.steps for each in told)
    histogram = tuple(map(sum, zip_longest(*(each.accepted for each in told), fillvalue=0)))
    accepted = sum(depth * count for depth, count in enumerate(histogram))
    return wire.Speculation(
        steps=steps,
        plain=sum(each.plain for each in told),
        drafted=sum(each.drafted for each in told),
        accepted=histogram,
        mean=round(accepted / steps, 3) if steps else 0.0,
    )


def _chat_choice(index: int, steps: list[Step]) -> wire.ChatChoice:
    text = "".join(step.text for step in steps)
    calls = [_call(call, UNSET) for step in steps for call in step.calls]
    message = wire.ChatMessage(text or None if calls else text, tool_calls=calls or UNSET)
    return wire.ChatChoice(index, message, steps[-1].finish, _chat_logprobs(_joined(steps)))


def _joined(steps: list[Step]) -> tuple[TokenLogprob, ...]:
    return tuple(each for step in steps for each in step.logprobs)


def _call(call: ToolCall, index: int | UnsetType) -> wire.Call:
    return wire.Call(call.id, wire.FunctionCall(call.name, call.arguments), index=index)


def _chat_logprobs(given: tuple[TokenLogprob, ...]) -> wire.ChatLogprobs | None:
    if not given:
        return None
    return wire.ChatLogprobs([_token_info(each) for each in given])


def _token_info(given: TokenLogprob) -> wire.TokenInfo:
    top = [wire.TopToken(each.text, _finite(each.logprob), list(each.text.encode())) for each in given.top]
    return wire.TokenInfo(given.text, _finite(given.logprob), list(given.text.encode()), top)


def _finite(logprob: float) -> float:
    return max(logprob, _LEAST_LOGPROB)
