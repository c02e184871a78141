"""Chat templates: a conversation as the text its model was trained on, by the conventions of Hugging Face templates."""

import datetime as dt
import json
from collections.abc import Mapping
from typing import Any

import jinja2
import jinja2.ext
import msgspec
from jinja2.sandbox import ImmutableSandboxedEnvironment

from cluster.errors import BadRequest, ConfigError
from router.jobs import Conversation, Message, Tool, ToolCall

Json = dict[str, Any]


class _Generation(jinja2.ext.Extension):
    """``{% generation %}`` marks what training learns from; for rendering it is transparent."""

    tags = {"generation"}  # noqa: RUF012  jinja2 declares it as a plain set

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


class ChatTemplate:
    """One template and the special tokens it may name."""

    def __init__(self, source: str, tokens: Mapping[str, str]) -> None:
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(f"chat template, line {error.lineno}: {error.message}") from error
        self._tokens = tokens
        self._knows_developer = "developer" in source

    def render(self, conversation: Conversation) -> str:
        """Text up to where the assistant speaks. Raises BadRequest with what the template objects to."""
        try:
            return self._template.render(
                messages=[self._message(each) for each in conversation.messages],
                tools=[_tool(each) for each in conversation.tools] or None,
                documents=None,
                add_generation_prompt=True,
                **self._tokens,
            )
        except (jinja2.TemplateError, TypeError) as error:
            # Templates fail with TypeError where a conversation has a shape they were not written for.
            reason = error.message if isinstance(error, jinja2.TemplateError) else "unexpected shape"
            raise BadRequest(
                f"the model's chat template refuses this conversation: {reason}", param="messages"
            ) from error

    def _message(self, message: Message) -> Json:
        role = "system" if message.role == "developer" and not self._knows_developer else message.role
        body: Json = {"role": role, "content": message.content}
        if message.tool_calls:
            body["tool_calls"] = [_call(each) for each in message.tool_calls]
        if message.tool_call_id is not None:
            body["tool_call_id"] = message.tool_call_id
        if message.name is not None:
            body["name"] = message.name
        return body


def _environment() -> ImmutableSandboxedEnvironment:
    extensions = [_Generation, jinja2.ext.loopcontrols]
    # The output is text for a tokenizer; escaping it as HTML would change what the model reads.
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = _now
    return environment


def _tojson(value: Any, **options: Any) -> str:
    """Unlike jinja2's own it escapes no HTML: models were trained on plain JSON."""
    return json.dumps(value, **({"ensure_ascii": False} | options))


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _now(form: str) -> str:
    return dt.datetime.now().astimezone().strftime(form)


def _tool(tool: Tool) -> Json:
    function = {"name": tool.name, "description": tool.description, "parameters": msgspec.json.decode(tool.parameters)}
    return {"type": "function", "function": function}


def _call(call: ToolCall) -> Json:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": _arguments(call.arguments)}}


def _arguments(text: str) -> Any:
    """As a value if they are a JSON object, so that a template writes them its own way; else as they are."""
    try:
        return msgspec.json.decode(text, type=Json)
    except (msgspec.MsgspecError, RecursionError):
        return text
