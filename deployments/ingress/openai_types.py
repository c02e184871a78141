"""The requests of the OpenAI API that Switchyard takes, and its own extensions. Strict: what is not here is refused.

``user`` and ``metadata`` are accepted as labels without any effect here (nothing is stored); ``store: true`` is
refused. Vendor extensions carry vLLM's names; ``switchyard`` holds our own.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from router.api import LatencyClass

Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
MOST = 16_384
"""Elements of any list of objects or texts: a bound for the parser, beyond every configured limit."""

Stops = Annotated[list[Annotated[str, Field(min_length=1)]], Field(fail_fast=True)]

NOT_OFFERED = frozenset(
    {
        *("audio", "best_of", "echo", "function_call", "functions", "modalities", "moderation", "prediction"),
        *("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "reasoning_effort"),
        *("safety_identifier", "service_tier", "store", "suffix", "verbosity", "web_search_options"),
    }
)
"""Options of the API itself that this cluster does not have. Those declared below take their neutral value."""


class Body(BaseModel):
    """A JSON object of the API: strict types (an integer is a fine float), no unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=())


class StreamOptions(Body):
    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class JsonSchema(Body):
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class TextFormat(Body):
    type: Literal["text", "json_object"]


class SchemaFormat(Body):
    type: Literal["json_schema"]
    json_schema: JsonSchema


def _format_kind(value: Any) -> str:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return "schema" if kind == "json_schema" else "plain"


ResponseFormat = Annotated[
    Annotated[TextFormat, Tag("plain")] | Annotated[SchemaFormat, Tag("schema")], Discriminator(_format_kind)
]


class StructuredOutputs(Body):
    """vLLM's constraint object; exactly one of its fields."""

    json_: Annotated[dict[str, Any] | str | None, Field(alias="json")] = None
    json_object: Literal[True] | None = None
    regex: Annotated[str, Field(min_length=1)] | None = None
    choice: Annotated[list[str], Field(min_length=1, fail_fast=True)] | None = None


class Extension(Body):
    """Switchyard's own options. ``timeout`` in seconds; ``report`` shows routing and speculation in the answer."""

    speculate: bool = True
    latency: LatencyClass = "standard"
    timeout: Annotated[float, Field(gt=0, le=86_400)] | None = None
    report: bool = False


class Options(Body):
    """What chat and plain completions share."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Seed | None = None
    stop: Annotated[str, Field(min_length=1)] | Stops | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    response_format: ResponseFormat | None = None
    user: Annotated[str, Field(max_length=512)] | None = None
    metadata: Annotated[dict[str, Annotated[str, Field(max_length=512)]], Field(max_length=16)] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    ignore_eos: bool | None = None
    stop_token_ids: Annotated[list[TokenId], Field(fail_fast=True)] | None = None
    structured_outputs: StructuredOutputs | None = None
    switchyard: Extension | None = None


class TextPart(Body):
    type: Literal["text"]
    text: str


Text = str | Annotated[list[TextPart], Field(fail_fast=True)]


class SystemMessage(Body):
    role: Literal["system", "developer"]
    content: Text
    name: str | None = None


class UserMessage(Body):
    role: Literal["user"]
    content: Text
    name: str | None = None


class Called(Body):
    name: str
    arguments: str


class PastCall(Body):
    id: str
    type: Literal["function"]
    function: Called
    index: int | None = None


class AssistantMessage(Body):
    """``refusal``, ``annotations``, ``audio`` and ``function_call`` may come back empty from a client that echoes."""

    role: Literal["assistant"]
    content: Text | None = None
    name: str | None = None
    tool_calls: Annotated[list[PastCall], Field(fail_fast=True)] | None = None
    refusal: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    audio: None = None
    function_call: None = None


class ToolMessage(Body):
    role: Literal["tool"]
    content: Text
    tool_call_id: str


ChatMessage = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


class Function(Body):
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionTool(Body):
    type: Literal["function"]
    function: Function


class FunctionName(Body):
    name: str


class NamedTool(Body):
    type: Literal["function"]
    function: FunctionName


class ChatRequest(Options):
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST, fail_fast=True)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0)] | None = None
    tools: Annotated[list[FunctionTool], Field(fail_fast=True)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    modalities: tuple[Literal["text"]] | None = None


class CompletionRequest(Options):
    """The elements of ``prompt`` are checked with the other limits: trying one list type after the other would let a
    few megabytes of tiny lists hold up the event loop for seconds."""

    prompt: str | Annotated[list[Any], Field(min_length=1)]
    logprobs: Annotated[int, Field(ge=0)] | None = None
    best_of: Literal[1] | None = None
    echo: Literal[False] | None = None
    suffix: None = None
