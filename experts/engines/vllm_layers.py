"""What is laid over vLLM's model runner so that drafts know whose they are. See ``vllm_worker`` for who uses what."""

import logging
from collections.abc import Sequence
from typing import Any

from vllm.tokenizers.registry import cached_tokenizer_from_config
from vllm.utils.torch_utils import PIN_MEMORY
from vllm.v1.sample.logits_processor import BUILTIN_LOGITS_PROCESSORS, LogitsProcessors

from experts.api import DraftPeer, SpeculationState
from experts.engines import vllm_seeds
from experts.engines.vllm_options import SECTION
from experts.engines.vllm_proposer import Proposer
from experts.engines.vllm_sizes import Sizes
from experts.engines.vllm_steps import Row, Steps, steps_of
from experts.speculation.strict import Strict, pieces_of

logger = logging.getLogger(__name__)


class SeededRunner:
    """Laid over vLLM's model runner where generators cannot be wound back, as on CPU.

    A request that is in the middle of its prompt samples a token that is thrown away, and vLLM then winds its seeded
    generator back; on CPU that raises and ends the engine. Here such generators are set aside before sampling, so the
    draw is somebody else's, the seed's sequence is untouched and there is nothing to wind back.
    """

    input_batch: Any
    discard_request_mask: Any
    _aside: dict[int, Any]

    def _sample(self, *args: Any, **kwargs: Any) -> Any:
        generators, self._aside = self.input_batch.generators, {}
        if not generators:
            return super()._sample(*args, **kwargs)  # type: ignore[misc]  # vLLM's runner is the other base
        unfinished = self.discard_request_mask.np[: self.input_batch.num_reqs].nonzero()[0].tolist()
        self._aside = {index: generators.pop(index) for index in unfinished if index in generators}
        return super()._sample(*args, **kwargs)  # type: ignore[misc]  # as above

    def _bookkeeping_sync(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super()._bookkeeping_sync(*args, **kwargs)  # type: ignore[misc]  # as above
        finally:
            self.input_batch.generators.update(self._aside)


class SpeculatingRunner:
    """Laid over vLLM's model runner in every layout that speculates: keeps request identity next to the drafts and the
    controller that chooses how many there are.

    Requests with ``speculate: False`` in their ``extra_args`` get no drafts from any proposer. Because such requests
    may then use what vLLM refuses together with drafts (min_p, logit_bias), all logits processors are loaded.
    """

    drafter: Any
    input_batch: Any
    requests: dict[str, Any]
    vllm_config: Any
    model_config: Any
    device: Any
    rejection_sampler: Any
    steps: Steps
    sizes: Sizes | None = None

    def prepare(self, *, leads: bool) -> None:
        """``leads``: this worker's drafts are the ones the scheduler reads; the others need none."""
        self._leads = leads
        self.steps = self._steps()
        self.steps.calls = calls_of(self.vllm_config) if leads else None
        vllm_seeds.lay_over(self.rejection_sampler)
        if not self.model_config.is_hybrid:
            # vLLM counts accepted drafts for hybrid models only; for others it would copy ones at every step.
            self.num_accepted_tokens_event = None
        self.input_batch.logitsprocs = LogitsProcessors(
            kind(self.vllm_config, self.device, PIN_MEMORY) for kind in BUILTIN_LOGITS_PROCESSORS
        )

    def use_drafts(self, peers: tuple[DraftPeer, ...]) -> None:
        """Only a draft pool has replicas to know."""

    def speculation(self) -> SpeculationState | None:
        """What speculation has done so far; None where another worker's drafts are the ones in use."""
        return self.steps.state() if self._leads else None

    def _update_states(self, scheduler_output: Any) -> Any:
        self.steps.runs()
        ended, preempted = scheduler_output.finished_req_ids, scheduler_output.preempted_req_ids
        if (ended or preempted) and self._leads:
            self._closed(sorted({*ended, *(preempted or ())}))
        after = super()._update_states(scheduler_output)  # type: ignore[misc]  # vLLM's runner is the other base
        if self._leads:
            for new in scheduler_output.scheduled_new_reqs:
                self._opened(new.req_id)
            for session in scheduler_output.scheduled_cached_reqs.resumed_req_ids:
                self._opened(session)
        return after

    def _sample(self, logits: Any, metadata: Any) -> Any:
        """A step without drafts is sampled as in an engine that never has any: rejecting nothing takes time too."""
        drafts = metadata is not None and any(metadata.num_draft_tokens)
        return super()._sample(logits, metadata if drafts else None)  # type: ignore[misc]  # as above

    def _steps(self) -> Steps:
        return steps_of(self.vllm_config)

    def _opened(self, session: str) -> None:
        """A request is about to be prefilled."""
        self.steps.opened(self._row(self.input_batch.req_id_to_index[session]))

    def _closed(self, sessions: Sequence[str]) -> None:
        """These requests have ended or lost their place."""
        self.steps.close(sessions)

    def _rows(self, scheduler_output: Any, sampled: Sequence[Sequence[int]]) -> list[Row]:
        """All requests of the step that ended, in the order of ``sampled``: the tokens it gave each of them."""
        return [self._row(index, tokens, scheduler_output) for index, tokens in enumerate(sampled)]

    def _row(self, index: int, tokens: Sequence[int] = (), scheduler_output: Any = None) -> Row:
        """One request; without a scheduler's output before any step."""
        batch = self.input_batch
        session = batch.req_ids[index]
        request = self.requests[session]
        params = request.sampling_params
        extra = params.extra_args or {}
        scheduled, drafted = (0, 0) if scheduler_output is None else _shape(scheduler_output, session)
        return Row(
            session=session,
            tokens=self._tokens(index),
            sampled=len(tokens),
            prompt=request.num_prompt_tokens,
            max_tokens=params.max_tokens,
            speculate=bool(extra.get("speculate", True)),
            ended=any(token == params.eos_token_id or token in params.stop_token_ids for token in tokens),
            scheduled=scheduled,
            drafted=drafted,
            domain=extra.get("domain", ""),
            strict=extra.get("strict", False),
        )

    def _tokens(self, index: int) -> Any:
        """All of a request, int32[n]: a view."""
        return self.input_batch.token_ids_cpu[index, : self.input_batch.num_tokens_no_spec[index]]

    def _speculates(self, session: str) -> bool:
        return bool((self.requests[session].sampling_params.extra_args or {}).get("speculate", True))


class DraftingRunner(SpeculatingRunner):
    """For drafts from a draft pool, whose proposer is told who is who and chooses the depths itself."""

    drafter: Proposer
    speculative_config: Any
    _draft_token_ids: Any

    def prepare(self, *, leads: bool) -> None:
        super().prepare(leads=leads)
        self._rests, self._configured = False, self.speculative_config

    def use_drafts(self, peers: tuple[DraftPeer, ...]) -> None:
        if self._leads:
            self.drafter.use(peers)

    def speculation(self) -> SpeculationState | None:
        return self.drafter.state() if self._leads else None

    def _steps(self) -> Steps:
        return self.drafter.steps

    def _opened(self, session: str) -> None:
        """The draft pool may read the prompt while it is prefilled here."""
        index = self.input_batch.req_id_to_index[session]
        self.drafter.announce(self._row(index))

    def _closed(self, sessions: Sequence[str]) -> None:
        self.drafter.close(sessions)

    def _input_fits_in_drafter(self, metadata: Any) -> bool:
        """Drafting would stop for all when one request nears the context's end; our proposer caps each by itself."""
        del metadata
        return True

    def _update_states(self, scheduler_output: Any) -> Any:
        """A step without drafts runs as if speculation were not configured: what vLLM does for it counts where steps
        are short. Not for models with recurrent layers, whose states are kept by drafts."""
        after = super()._update_states(scheduler_output)
        self._ran = scheduler_output
        plain = scheduler_output.total_num_scheduled_tokens and not scheduler_output.scheduled_spec_decode_tokens
        self.speculative_config = None if plain and not self.model_config.is_hybrid else self._configured
        if self.sizes is not None:  # the worker's, see ``vllm_sizes``
            self.sizes.use(rounded=not plain)
        self._rests = bool(plain) and self._leads and self._resting()
        return after

    def _resting(self) -> bool:
        """Whether the step that begins is only to be counted, which it is thereby."""
        if self.steps.peeks:
            self.drafter.compare(
                (session, self._tokens(index)) for index, session in enumerate(self.input_batch.req_ids)
            )
        return self.steps.rests(self.input_batch.req_ids)

    def sample_tokens(self, grammar_output: Any) -> Any:
        """After a step that vLLM took for a plain one it asks for no drafts, so they are asked for here."""
        output = super().sample_tokens(grammar_output)  # type: ignore[misc]  # vLLM's runner is the other base
        if self.speculative_config is None:
            self.speculative_config = self._configured
            if self._leads and not self._rests:
                self._draft_token_ids = self.propose_draft_token_ids(self._ran, output.sampled_token_ids)
                self._copy_draft_token_ids_to_cpu(self._ran)  # type: ignore[attr-defined]  # as above
        if self._rests:
            self.steps.rested()
        return output

    def take_draft_token_ids(self) -> Any:
        """No drafts are no news: the scheduler has none either, as it forgets them when it schedules."""
        return super().take_draft_token_ids() if any(self._draft_token_ids or ()) else None  # type: ignore[misc]

    def propose_draft_token_ids(self, scheduler_output: Any, sampled: Any, *args: Any, **kwargs: Any) -> Any:
        del args, kwargs
        if not self._leads or self._rests:
            return [[] for _ in sampled]
        rows = self._rows(scheduler_output, sampled)
        return self.drafter.draft(rows, scheduler_output.num_spec_tokens_to_schedule)


def _shape(scheduler_output: Any, session: str) -> tuple[int, int]:
    """How many tokens were run for a request, and how many of them were drafts. Drafts that the grammar refused after
    scheduling ran as padding: they count as neither."""
    drafts = len(scheduler_output.scheduled_spec_decode_tokens.get(session, ()))
    refused = (scheduler_output.num_invalid_spec_tokens or {}).get(session, 0)
    return scheduler_output.num_scheduled_tokens[session] - refused, drafts - refused


def calls_of(vllm_config: Any) -> Strict | None:
    """What follows tool calls, where the pool's settings say how; they are read in the tokens of the model."""
    mode = (vllm_config.additional_config or {}).get(SECTION, {}).get("strict")
    model = vllm_config.model_config
    if mode is None or model.skip_tokenizer_init:
        return None
    try:
        return Strict(pieces_of(cached_tokenizer_from_config(model), model.get_vocab_size()), mode)
    except ValueError as error:
        logger.warning("tool calls are not followed, and drafts inside them not filtered: %s", error)
        return None
