"""From a request of the OpenAI API to a plan. Pure; every limit is checked here, before anything is tokenised."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from cluster.errors import BadRequest, TooLarge, UnsupportedOption
from deployments.config import HttpLimits
from deployments.ingress.grammars import call_grammar, grammar_of, parameters_of, schema_text
from deployments.ingress.openai_types import (
    AssistantMessage,
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    Extension,
    FunctionTool,
    NamedTool,
    Options,
    Text,
    ToolMessage,
)
from deployments.ingress.plan import Plan, Reading
from deployments.ingress.tool_calls import CLOSE
from experts.api import Grammar, Sampling
from router.jobs import Conversation, Job, Message, Prompt, Tool, ToolCall

COMPLETION_TOKENS = 16
"""The API's own default for plain completions."""

_SEEDS = 2**63
_LARGEST_TOKEN = 2**31 - 1
_NO_EXTENSION = Extension()


@dataclass(frozen=True, slots=True)
class _Tooling:
    """What the tool options of a chat come down to."""

    tools: tuple[Tool, ...] = ()
    reading: Reading = "text"
    names: frozenset[str] = frozenset()
    grammar: Grammar | None = None
    stop: tuple[str, ...] = ()


def chat_plan(body: ChatRequest, limits: HttpLimits, request_id: str) -> Plan:
    """Raises BadRequest, TooLarge or UnsupportedOption naming the field."""
    _check_shape(body, limits)
    _at_most(len(body.messages), limits.messages, "messages")
    tooling = _tooling(body, limits)
    if tooling.reading != "text" and body.response_format is not None and body.response_format.type != "text":
        raise UnsupportedOption("response_format: not together with tools that may be called", param="response_format")
    if tooling.reading != "text" and body.structured_outputs is not None:
        raise UnsupportedOption("structured_outputs: not together with tools", param="structured_outputs")
    prompt = Conversation(tuple(_message(each) for each in body.messages), tooling.tools)
    sampling = _sampling(body, logprobs=_chat_logprobs(body, limits), stop=tooling.stop)
    grammar = tooling.grammar or grammar_of(body, limits)
    jobs = _jobs(request_id, body, (prompt,), _one(sampling, _max_tokens(body), grammar))
    return _plan(request_id, body, jobs, tooling)


def completion_plan(body: CompletionRequest, limits: HttpLimits, request_id: str) -> Plan:
    """One job per prompt and choice, in the order of the API's indices. Raises as ``chat_plan``."""
    _check_shape(body, limits)
    prompts = _prompts(body.prompt, limits)
    _at_most(len(prompts) * (body.n or 1), limits.choices, "prompt")
    if body.logprobs is not None:
        _at_most(body.logprobs, limits.logprobs, "logprobs")
    sampling = _sampling(body, logprobs=body.logprobs, stop=())
    template = _one(sampling, body.max_tokens or COMPLETION_TOKENS, grammar_of(body, limits))
    return _plan(request_id, body, _jobs(request_id, body, prompts, template), _Tooling())


@dataclass(frozen=True, slots=True)
class _Template:
    sampling: Sampling
    max_tokens: int | None
    grammar: Grammar | None


def _one(sampling: Sampling, max_tokens: int | None, grammar: Grammar | None) -> _Template:
    if max_tokens is not None and sampling.min_tokens > max_tokens:
        raise BadRequest(f"min_tokens: {sampling.min_tokens} is more than max_tokens", param="min_tokens")
    return _Template(sampling, max_tokens, grammar)


def _jobs(request_id: str, body: Options, prompts: Sequence[Prompt], template: _Template) -> tuple[Job, ...]:
    extension = body.switchyard or _NO_EXTENSION
    count = body.n or 1
    return tuple(
        Job(
            id=f"{request_id}-{position * count + choice}",
            model=body.model,
            prompt=prompt,
            sampling=_seeded(template.sampling, choice),
            max_tokens=template.max_tokens,
            grammar=template.grammar,
            latency=extension.latency,
            timeout=extension.timeout,
            speculate=extension.speculate,
        )
        for position, prompt in enumerate(prompts)
        for choice in range(count)
    )


def _plan(request_id: str, body: Options, jobs: tuple[Job, ...], tooling: _Tooling) -> Plan:
    return Plan(
        id=request_id,
        model=body.model,
        jobs=jobs,
        samples=body.n or 1,
        reading=tooling.reading,
        tools=tooling.names,
        stream=bool(body.stream),
        usage=bool(body.stream_options and body.stream_options.include_usage),
        report=(body.switchyard or _NO_EXTENSION).report,
    )


def _check_shape(body: Options, limits: HttpLimits) -> None:
    _at_most(body.n or 1, limits.choices, "n")
    _at_most(len(body.logit_bias or ()), limits.logit_bias, "logit_bias")
    if isinstance(body.stop, list):
        _at_most(len(body.stop), limits.stop_strings, "stop")
    _at_most(len(body.stop_token_ids or ()), limits.stop_strings, "stop_token_ids")
    if body.stream_options is not None and not body.stream:
        raise BadRequest("stream_options: only together with stream", param="stream_options")


def _at_most(count: int, bound: int, param: str) -> None:
    if count > bound:
        raise TooLarge(f"{param}: {count} is more than the {bound} that are taken", param=param)


def _sampling(body: Options, *, logprobs: int | None, stop: tuple[str, ...]) -> Sampling:
    """The API's null means its default, and so does a field that is not there."""
    stops = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    return Sampling(
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=max(0, body.top_k or 0),
        min_p=body.min_p or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        repetition_penalty=1.0 if body.repetition_penalty is None else body.repetition_penalty,
        seed=body.seed,
        stop=stops + stop,
        stop_token_ids=tuple(body.stop_token_ids or ()),
        min_tokens=body.min_tokens or 0,
        ignore_eos=bool(body.ignore_eos),
        logprobs=logprobs,
        logit_bias=_bias(body.logit_bias or {}),
    )


def _bias(given: dict[str, float]) -> dict[int, float]:
    for key in given:
        if not (key.isascii() and key.isdecimal() and len(key) <= 10):
            raise BadRequest("logit_bias: the keys are token ids", param="logit_bias")
    return {int(key): value for key, value in given.items()}


def _seeded(sampling: Sampling, choice: int) -> Sampling:
    if sampling.seed is None or choice == 0:
        return sampling
    return msgspec.structs.replace(sampling, seed=(sampling.seed + choice + _SEEDS) % (2 * _SEEDS) - _SEEDS)


def _max_tokens(body: ChatRequest) -> int | None:
    old, new = body.max_tokens, body.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise BadRequest("max_tokens: contradicts max_completion_tokens", param="max_tokens")
    return new if old is None else old


def _chat_logprobs(body: ChatRequest, limits: HttpLimits) -> int | None:
    if not body.logprobs:
        if body.top_logprobs:
            raise BadRequest("top_logprobs: only together with logprobs", param="top_logprobs")
        return None
    _at_most(body.top_logprobs or 0, limits.logprobs, "top_logprobs")
    return body.top_logprobs or 0


def _prompts(given: str | list[Any], limits: HttpLimits) -> tuple[Prompt, ...]:
    """A text, the ids of one, or a list of either."""
    if isinstance(given, str):
        return (given,)
    if type(given[0]) is int:
        return (_token_ids(given, "prompt"),)
    _at_most(len(given), limits.choices, "prompt")
    return tuple(
        each if isinstance(each, str) else _token_ids(each, f"prompt[{position}]")
        for position, each in enumerate(given)
    )


def _token_ids(given: Any, param: str) -> tuple[int, ...]:
    if not isinstance(given, list) or not given:
        raise BadRequest(f"{param}: a text or a list of token ids, not empty", param=param)
    for position, each in enumerate(given):
        if type(each) is not int or not 0 <= each <= _LARGEST_TOKEN:
            raise BadRequest(f"{param}[{position}]: not a token id", param=f"{param}[{position}]")
    return tuple(given)


def _message(given: ChatMessage) -> Message:
    text = _text(given.content)
    if isinstance(given, ToolMessage):
        return Message("tool", text, tool_call_id=given.tool_call_id)
    if isinstance(given, AssistantMessage):
        calls = [ToolCall(call.id, call.function.name, call.function.arguments) for call in given.tool_calls or ()]
        return Message("assistant", text, tool_calls=tuple(calls), name=given.name)
    return Message(given.role, text, name=given.name)


def _text(content: Text | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.text for part in content)


def _tooling(body: ChatRequest, limits: HttpLimits) -> _Tooling:
    """How calls are offered and read. With choice ``none`` the model is not shown the tools at all."""
    tools = body.tools or []
    _at_most(len(tools), limits.tools, "tools")
    if body.parallel_tool_calls is not None and not tools:
        raise BadRequest("parallel_tool_calls: only together with tools", param="parallel_tool_calls")
    choice = body.tool_choice or ("auto" if tools else "none")
    if choice == "none":
        return _Tooling()
    if not tools:
        raise BadRequest("tool_choice: only together with tools", param="tool_choice")
    names = [tool.function.name for tool in tools]
    if len(set(names)) < len(names):
        raise BadRequest("tools: two have the same name", param="tools")
    shown = tuple(_tool(each, limits) for each in tools)
    if choice == "auto":
        return _may_call(tools, shown, parallel=body.parallel_tool_calls is not False)
    allowed = _allowed(tools, choice)
    chosen = frozenset(tool.function.name for tool in allowed)
    return _Tooling(shown, "call", chosen, call_grammar(allowed, limits))


def _may_call(tools: Sequence[FunctionTool], shown: tuple[Tool, ...], *, parallel: bool) -> _Tooling:
    """Free text with calls in it. A single call is enforced by ending the text where the first one ends."""
    if any(tool.function.strict for tool in tools):
        raise UnsupportedOption(
            "tools: strict is offered with tool_choice required or a named function, not with auto", param="tools"
        )
    stop = () if parallel else (CLOSE,)
    return _Tooling(shown, "calls", frozenset(tool.name for tool in shown), stop=stop)


def _allowed(tools: Sequence[FunctionTool], choice: Literal["required"] | NamedTool) -> Sequence[FunctionTool]:
    if not isinstance(choice, NamedTool):
        return tools
    found = [tool for tool in tools if tool.function.name == choice.function.name]
    if not found:
        raise BadRequest("tool_choice: names no tool of this request", param="tool_choice")
    return found


def _tool(given: FunctionTool, limits: HttpLimits) -> Tool:
    return Tool(
        given.function.name, given.function.description or "", schema_text(parameters_of(given), "tools", limits)
    )
