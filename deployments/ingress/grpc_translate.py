"""Between the gRPC messages and what the HTTP API means by the same words.

A request becomes the HTTP API's body and goes through the same validation, so that both have the same limits and the
same refusals; steps become messages directly.
"""

from typing import Any, TypeVar

import msgspec
from google.protobuf.message import Message

from cluster.errors import BadRequest
from deployments.config import HttpLimits
from deployments.ingress import serving_pb2 as pb
from deployments.ingress.openai_jobs import chat_plan, completion_plan
from deployments.ingress.openai_stream import report, usage
from deployments.ingress.openai_types import Body, ChatRequest, CompletionRequest
from deployments.ingress.parsing import parse
from deployments.ingress.plan import Plan
from deployments.ingress.turn import Step, Turn
from deployments.ingress.view import ModelCard
from experts.api import TokenLogprob
from router.jobs import ToolCall

Json = dict[str, Any]
Request = TypeVar("Request", bound=Body)


def plan_chat(request: pb.ChatRequest, limits: HttpLimits, request_id: str) -> Plan:
    """Raises what the HTTP API refuses with."""
    body = _shared(request) | {"messages": [_message(each) for each in request.messages]}
    if request.tools:
        body["tools"] = [_tool(each) for each in request.tools]
    if request.HasField("tool_choice"):
        body["tool_choice"] = _tool_choice(request.tool_choice)
    body |= _given(request, "parallel_tool_calls")
    if request.sampling.HasField("logprobs"):
        body |= {"logprobs": True, "top_logprobs": request.sampling.logprobs}
    return chat_plan(_parsed(ChatRequest, body), limits, request_id)


def plan_completion(request: pb.CompleteRequest, limits: HttpLimits, request_id: str) -> Plan:
    """Raises what the HTTP API refuses with."""
    body = _shared(request) | _given(request.sampling, "logprobs")
    prompt = request.WhichOneof("prompt")
    if prompt is None:
        raise BadRequest("prompt: give text or tokens", param="prompt")
    body["prompt"] = request.text if prompt == "text" else list(request.tokens.values)
    return completion_plan(_parsed(CompletionRequest, body), limits, request_id)


def delta_message(turn: Turn, step: Step) -> pb.GenerateResponse:
    delta = pb.Delta(
        index=step.index,
        text=step.text,
        tool_calls=[_call_message(each) for each in step.calls],
        logprobs=[_logprob_message(each) for each in step.logprobs],
        tokens=step.tokens,
        accepted=step.accepted,
        finish_reason=step.finish or "",
    )
    return pb.GenerateResponse(id=turn.plan.id, model=_model(turn), delta=delta)


def summary_message(turn: Turn) -> pb.GenerateResponse:
    bill = usage(turn)
    summary = pb.Summary(
        usage=pb.Usage(
            prompt_tokens=bill.prompt_tokens,
            completion_tokens=bill.completion_tokens,
            cached_tokens=bill.prompt_tokens_details.cached_tokens,
        ),
        report=pb.Report(**msgspec.to_builtins(report(turn))) if turn.plan.report else None,
    )
    return pb.GenerateResponse(id=turn.plan.id, model=_model(turn), summary=summary)


def models_message(cards: tuple[ModelCard, ...]) -> pb.ListModelsResponse:
    models = [pb.Model(name=each.name, description=each.description, max_context=each.max_context) for each in cards]
    return pb.ListModelsResponse(models=models)


def _shared(request: pb.ChatRequest | pb.CompleteRequest) -> Json:
    sampling = request.sampling
    body: Json = {"model": request.model, "stream": True} | _given(request, "max_tokens", "n")
    body |= _given(sampling, "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty")
    body |= _given(sampling, "repetition_penalty", "seed", "min_tokens", "ignore_eos")
    body |= {"stop": list(sampling.stop), "stop_token_ids": list(sampling.stop_token_ids)}
    body["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias.items()}
    body["switchyard"] = _given(request.options, "speculate", "latency", "timeout") | {"report": request.options.report}
    kind = request.structured_output.WhichOneof("kind")
    if kind is not None:
        body["structured_outputs"] = _structured(request.structured_output, kind)
    return body


def _given(message: Message, *names: str) -> Json:
    """The fields that the client set: absent ones keep the API's defaults."""
    return {name: getattr(message, name) for name in names if message.HasField(name)}


def _structured(given: pb.StructuredOutput, kind: str) -> Json:
    if kind == "json_schema":
        return {"json": given.json_schema}
    if kind == "choice":
        return {"choice": list(given.choice.values)}
    return {kind: getattr(given, kind)}


def _message(given: pb.Message) -> Json:
    body: Json = {"role": given.role, "content": given.content}
    if given.name:
        body["name"] = given.name
    if given.tool_call_id or given.role == "tool":
        body["tool_call_id"] = given.tool_call_id
    if given.tool_calls:
        body["tool_calls"] = [
            {"id": each.id, "type": "function", "function": {"name": each.name, "arguments": each.arguments}}
            for each in given.tool_calls
        ]
    return body


def _tool(given: pb.Tool) -> Json:
    function: Json = {"name": given.name, "description": given.description} | _given(given, "strict")
    if given.parameters:
        function["parameters"] = _decoded(given.parameters, "tools")
    return {"type": "function", "function": function}


def _decoded(text: str, param: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadRequest(f"{param}: not JSON", param=param) from error


def _tool_choice(given: pb.ToolChoice) -> Any:
    if given.WhichOneof("kind") == "name":
        return {"type": "function", "function": {"name": given.name}}
    return given.mode


def _parsed(kind: type[Request], body: Json) -> Request:
    try:
        data = msgspec.json.encode(body)
    except RecursionError as error:
        raise BadRequest("the request is nested too deeply") from error
    return parse(kind, data)


def _model(turn: Turn) -> str:
    return turn.place.pool if turn.place is not None else turn.plan.model


def _call_message(call: ToolCall) -> pb.ToolCall:
    return pb.ToolCall(id=call.id, name=call.name, arguments=call.arguments)


def _logprob_message(given: TokenLogprob) -> pb.TokenLogprob:
    top = [pb.TopLogprob(token=each.token, text=each.text, logprob=each.logprob) for each in given.top]
    return pb.TokenLogprob(token=given.token, text=given.text, logprob=given.logprob, top=top)
