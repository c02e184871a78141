"""Our requests in vLLM's words, and vLLM's outputs in ours. No state but what one request's stream needs."""

import json
import logging
from collections.abc import Callable
from typing import Any

from vllm.exceptions import VLLMClientError
from vllm.inputs import TokensInput, tokens_input
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams
from vllm.v1.engine.detokenizer import IncrementalDetokenizer

from cluster.errors import BadRequest, EngineFailed, Failure, SwitchyardError
from experts.api import Chunk, FinishReason, GenerateRequest, Grammar, Speculated, TokenLogprob, TopLogprob

log = logging.getLogger(__name__)

FINISHES: dict[str, FinishReason] = {"stop": "stop", "length": "length", "abort": "abort", "error": "error"}
MESSAGE_BOUND = 500  # characters of vLLM's own words that reach a client


class Undrafted(SamplingParams):  # type: ignore[misc]  # vLLM is untyped here
    """Parameters vLLM refuses in an engine that drafts. A request that takes no drafts may have them: its tokens all
    come from the plain sampler, for which our worker loads every logits processor."""

    def _validate_spec_decode(self, speculative_config: Any) -> None:
        """The check this class is there to pass."""


def prompt_of(request: GenerateRequest) -> TokensInput:
    return tokens_input(list(request.prompt))


def params_of(request: GenerateRequest, *, speculates: bool) -> SamplingParams:
    """Raises BadRequest for values vLLM does not accept. ``speculates``: the engine drafts."""
    sampling = request.sampling
    plain_only = sampling.min_p > 0 or bool(sampling.logit_bias)
    kind = Undrafted if speculates and plain_only else SamplingParams
    try:
        return kind(
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            repetition_penalty=sampling.repetition_penalty,
            seed=sampling.seed,
            stop=list(sampling.stop),
            stop_token_ids=list(sampling.stop_token_ids),
            min_tokens=sampling.min_tokens,
            ignore_eos=sampling.ignore_eos,
            logprobs=sampling.logprobs,
            logit_bias=dict(sampling.logit_bias) or None,
            structured_outputs=_structure(request.grammar) if request.grammar else None,
            output_kind=RequestOutputKind.DELTA,
            skip_clone=True,
            extra_args=_speculation(request, plain_only=plain_only) if speculates else None,
        )
    except (VLLMClientError, ValueError, TypeError) as error:
        raise BadRequest(str(error)[:MESSAGE_BOUND]) from error


def _speculation(request: GenerateRequest, *, plain_only: bool) -> dict[str, Any]:
    """What our worker needs to know of the request."""
    return {
        "speculate": request.speculate and not plain_only,
        "domain": request.domain,
        "strict": request.grammar is not None,
    }


def adapters_of(adapters: dict[str, str]) -> dict[str, LoRARequest]:
    """Each LoRA adapter as vLLM wants it named."""
    return {
        name: LoRARequest(lora_name=name, lora_int_id=number, lora_path=path)
        for number, (name, path) in enumerate(adapters.items(), start=1)
    }


def failure_of(error: Exception) -> Failure:
    """What to tell the one request that vLLM would not take."""
    if isinstance(error, SwitchyardError):
        return error.failure()
    if isinstance(error, VLLMClientError | ValueError):
        return BadRequest(str(error)[:MESSAGE_BOUND]).failure()
    return EngineFailed(f"the engine could not take the request: {type(error).__name__}").failure()


def error_chunk(request: GenerateRequest, failure: Failure) -> Chunk:
    return Chunk(id=request.id, finish="error", error=failure, prompt_tokens=len(request.prompt))


class Stopped(IncrementalDetokenizer):  # type: ignore[misc]  # vLLM is untyped here
    """In the place of a request's detokenizer: vLLM ends a request, in its scheduler too, at the step in which the
    detokenizer says that a stop string was found."""

    def update(self, new_token_ids: list[int], stop_terminated: bool) -> str:  # noqa: FBT001  vLLM's signature
        del new_token_ids, stop_terminated
        return "stopped"


class Stream:
    """Stands where vLLM expects a request's output queue, in either of its engines, and turns outputs into chunks.

    ``state`` is vLLM's own state of the request: it holds the counts of drafts up to this step. ``died`` is called
    with the exception that ended the engine, should vLLM put one. ``put`` runs in the step of all requests, so what it
    cannot read becomes the end of this request alone.
    """

    def __init__(
        self,
        request: GenerateRequest,
        emit: Callable[[Chunk], None],
        *,
        state: Any,
        died: Callable[[Exception], None] | None = None,
    ) -> None:
        self._request = request
        self._state = state
        self._emit = emit
        self._died = died
        self._drafted = 0
        self._accepted = 0
        self._plain = 0
        self._tokens = 0
        self._broken = False

    def put(self, output: Any) -> None:
        if isinstance(output, Exception):
            if self._died is not None:
                self._died(output)
        elif not self._broken:
            self._emit(self._read(output))

    def close(self) -> None:
        """Part of vLLM's interface of a queue; there is nothing to let go of."""

    def _read(self, output: Any) -> Chunk:
        try:
            return self._chunk(output)
        except Exception as error:
            log.exception("request %s: its output cannot be read", self._request.id)
            self._broken = True
            if self._state is not None:
                self._state.detokenizer = Stopped()
            failure = EngineFailed(f"the engine's output could not be read: {type(error).__name__}").failure()
            return error_chunk(self._request, failure)

    def _chunk(self, output: Any) -> Chunk:
        step = output.outputs[0]
        tokens = tuple(step.token_ids)
        metrics = step.spec_decode_metrics or getattr(self._state, "spec_decode_metrics", None)
        drafted, accepted = self._drafts(metrics)
        self._tokens += len(tokens)
        self._plain += bool(tokens) and not drafted
        finish = FINISHES.get(step.finish_reason, "stop") if step.finish_reason else None
        return Chunk(
            id=self._request.id,
            tokens=tokens,
            text=step.text,
            drafted=drafted,
            accepted=min(accepted, len(tokens)),
            logprobs=_logprobs(self._request, tokens, step.logprobs) if step.logprobs else None,
            finish=finish,
            stop=step.stop_reason,
            error=self._failure() if finish == "error" else None,
            prompt_tokens=len(self._request.prompt) if finish else 0,
            cached_tokens=output.num_cached_tokens or 0 if finish else 0,
            speculated=self._summary(metrics) if finish else None,
        )

    def _drafts(self, metrics: Any) -> tuple[int, int]:
        """What this step adds to the request's totals."""
        if metrics is None or metrics.num_draft_tokens == self._drafted:
            return 0, 0
        before = self._drafted, self._accepted
        self._drafted = metrics.num_draft_tokens
        self._accepted = sum(length * steps for length, steps in enumerate(metrics.histogram))
        return self._drafted - before[0], self._accepted - before[1]

    def _summary(self, metrics: Any) -> Speculated | None:
        """Of the whole request; the step of its first token, a prefill, counts among the plain ones."""
        if metrics is None:
            return None
        accepted = tuple(metrics.histogram)
        return Speculated(steps=sum(accepted), plain=self._plain, drafted=self._drafted, accepted=accepted)

    def _failure(self) -> Failure:
        """The engine gives no reason; before the first token of a constrained request it is the constraint."""
        if self._request.grammar is not None and not self._tokens:
            return BadRequest("the grammar could not be compiled", param="response_format").failure()
        return EngineFailed("the engine gave up on the request").failure()


def _structure(grammar: Grammar) -> StructuredOutputsParams:
    if grammar.kind == "json_object":
        return StructuredOutputsParams(json_object=True)
    if grammar.kind == "json_schema":
        return StructuredOutputsParams(json=grammar.text)
    if grammar.kind == "regex":
        return StructuredOutputsParams(regex=grammar.text)
    choices = json.loads(grammar.text)
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise BadRequest("choices must be a list of strings", param="choice")
    return StructuredOutputsParams(choice=choices)


def _logprobs(request: GenerateRequest, tokens: tuple[int, ...], positions: Any) -> tuple[TokenLogprob, ...]:
    return tuple(
        _logprob(token, candidates, request.sampling.logprobs or 0)
        for token, candidates in zip(tokens, positions, strict=True)
    )


def _logprob(token: int, candidates: Any, count: int) -> TokenLogprob:
    """``candidates`` are the ``count`` likeliest and, if it is not among them, the chosen one."""
    likeliest = sorted((entry.rank, other, entry) for other, entry in candidates.items() if entry.rank <= count)
    top = tuple(TopLogprob(other, entry.decoded_token or "", entry.logprob) for _, other, entry in likeliest)
    chosen = candidates[token]
    return TokenLogprob(token, chosen.decoded_token or "", chosen.logprob, top)
