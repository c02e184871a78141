"""What a client wants, apart from how it said so: HTTP and gRPC both become a ``Job``."""

from typing import Literal

import msgspec

from experts.api import Grammar, Sampling
from router.api import LatencyClass

Role = Literal["system", "developer", "user", "assistant", "tool"]


class ToolCall(msgspec.Struct, frozen=True):
    """A call the model made. ``arguments`` is JSON text, as the model wrote it."""

    id: str
    name: str
    arguments: str


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    role: Role
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None


class Tool(msgspec.Struct, frozen=True):
    """A function the model may call. ``parameters`` is a JSON schema as JSON text."""

    name: str
    description: str = ""
    parameters: str = "{}"


class Conversation(msgspec.Struct, frozen=True):
    """A chat to continue; the pool's own template turns it into tokens."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()


Prompt = Conversation | str | tuple[int, ...]


class Job(msgspec.Struct, frozen=True, omit_defaults=True):
    """One sequence to generate for one client. ``max_tokens`` None means up to the model's context; ``model`` is a
    pool, ``pool/adapter`` or ``auto``; ``timeout`` in seconds, None for the configured default.
    ``tenant`` is who asks, as far as they say; ``key`` is what a client's request keeps when it is tried again, empty
    for the job's id."""

    id: str
    model: str
    prompt: Prompt
    sampling: Sampling
    max_tokens: int | None = None
    grammar: Grammar | None = None
    latency: LatencyClass = "standard"
    timeout: float | None = None
    speculate: bool = True
    tenant: str = ""
    key: str = ""
