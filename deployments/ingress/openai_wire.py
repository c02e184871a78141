"""The answers of the OpenAI API, as records. UNSET fields are left out; None is written as null."""

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from deployments.ingress.plan import Finish


class CachedTokens(msgspec.Struct, frozen=True):
    cached_tokens: int


class Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class Progress(msgspec.Struct, frozen=True):
    """In a chunk: how many tokens it carries, and how many of them, from the first, were accepted drafts."""

    tokens: int
    accepted: int


class Speculation(msgspec.Struct, frozen=True):
    """What speculation did for a request: ``steps`` verified ``drafted`` drafts, ``accepted[n]`` counts those in which
    n were accepted, ``mean`` is how many were on average; ``plain`` steps had no drafts."""

    steps: int
    plain: int
    drafted: int
    accepted: tuple[int, ...]
    mean: float


class Report(msgspec.Struct, frozen=True):
    """At the end: where the request ran and what speculation did, summed over its choices. ``cohort`` is on or off as
    the flag decided for it, and ``why`` which part of the flag did: disabled, tenant, route or ramp. Without
    ``speculation`` the engine does not tell."""

    pool: str
    replica: str
    route: str
    drafted: int
    accepted: int
    queue_ms: float
    cohort: str
    why: str
    speculation: Speculation | None = None


class FunctionCall(msgspec.Struct, frozen=True):
    name: str
    arguments: str


class Call(msgspec.Struct, frozen=True):
    id: str
    function: FunctionCall
    type: Literal["function"] = "function"
    index: int | UnsetType = UNSET


class TopToken(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int]


class TokenInfo(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopToken]


class ChatLogprobs(msgspec.Struct, frozen=True):
    content: list[TokenInfo]


class Delta(msgspec.Struct, frozen=True):
    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    tool_calls: list[Call] | UnsetType = UNSET


class DeltaChoice(msgspec.Struct, frozen=True):
    index: int
    delta: Delta
    finish_reason: Finish | None
    logprobs: ChatLogprobs | None = None


class ChatChunk(msgspec.Struct, frozen=True):
    id: str
    created: int
    model: str
    choices: tuple[DeltaChoice, ...]
    object: str = "chat.completion.chunk"
    usage: Usage | UnsetType | None = UNSET
    switchyard: Progress | Report | UnsetType = UNSET


class ChatMessage(msgspec.Struct, frozen=True):
    content: str | None
    role: Literal["assistant"] = "assistant"
    tool_calls: list[Call] | UnsetType = UNSET


class ChatChoice(msgspec.Struct, frozen=True):
    index: int
    message: ChatMessage
    finish_reason: Finish | None
    logprobs: ChatLogprobs | None = None


class ChatCompletion(msgspec.Struct, frozen=True):
    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    object: str = "chat.completion"
    switchyard: Report | UnsetType = UNSET


class TextLogprobs(msgspec.Struct, frozen=True):
    """The legacy shape: parallel lists, offsets in characters from the beginning of the choice's text."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(msgspec.Struct, frozen=True):
    index: int
    text: str
    finish_reason: Finish | None
    logprobs: TextLogprobs | None = None


class TextCompletion(msgspec.Struct, frozen=True):
    """Both the whole answer and one chunk of a stream."""

    id: str
    created: int
    model: str
    choices: tuple[TextChoice, ...]
    object: str = "text_completion"
    usage: Usage | UnsetType | None = UNSET
    switchyard: Progress | Report | UnsetType = UNSET


class Model(msgspec.Struct, frozen=True):
    id: str
    created: int
    description: str
    max_model_len: int | None
    object: str = "model"
    owned_by: str = "switchyard"


class ModelList(msgspec.Struct, frozen=True):
    data: list[Model]
    object: str = "list"


class ErrorDetail(msgspec.Struct, frozen=True):
    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(msgspec.Struct, frozen=True):
    error: ErrorDetail
