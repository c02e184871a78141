"""vLLM's worker, taught who is who: drafts need request identities, which vLLM does not hand to a proposer. On CPU it
also keeps seeded requests alive (see ``SeededRunner``)."""

import logging
from typing import Any

import msgspec
from vllm.platforms import current_platform
from vllm.utils.torch_utils import PIN_MEMORY
from vllm.v1.sample.logits_processor import BUILTIN_LOGITS_PROCESSORS, LogitsProcessors

from experts.api import DraftPeer
from experts.engines import vllm_sampling
from experts.engines.vllm_proposer import Proposer, Row

logger = logging.getLogger(__name__)


def _worker_base() -> Any:
    if current_platform.is_cpu():
        from vllm.v1.worker.cpu_worker import CPUWorker

        return CPUWorker
    from vllm.v1.worker.gpu_worker import Worker

    return Worker


class Worker(_worker_base()):  # type: ignore[misc]  # vLLM is untyped here
    """The platform's own worker, with what is needed laid over its model runner."""

    def init_device(self) -> None:
        super().init_device()
        speculates = self.vllm_config.speculative_config is not None
        layers: list[type] = [SpeculatingRunner] if speculates else []
        if current_platform.is_cpu() and not vllm_sampling.rewinds():
            layers.append(SeededRunner)
        runner = self.model_runner
        runner.__class__ = type("LayeredRunner", (*layers, type(runner)), {})
        if speculates:
            self._correct()
            runner.prepare(leads=self.is_driver_worker)

    def _correct(self) -> None:
        if current_platform.is_cpu():
            for name in vllm_sampling.correct():
                logger.info("corrected vLLM's %s", name)

    def use_drafts(self, peers: bytes) -> None:
        """Called in every worker of the engine; ``peers`` are packed DraftPeers (what crosses is plain bytes)."""
        self.model_runner.use_drafts(msgspec.msgpack.decode(peers, type=tuple[DraftPeer, ...]))


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
        generators = self.input_batch.generators
        unfinished = self.discard_request_mask.np[: self.input_batch.num_reqs].nonzero()[0].tolist()
        self._aside = {index: generators.pop(index) for index in unfinished if index in generators}
        return super()._sample(*args, **kwargs)  # type: ignore[misc]  # vLLM's runner is the other base

    def _bookkeeping_sync(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super()._bookkeeping_sync(*args, **kwargs)  # type: ignore[misc]  # as above
        finally:
            self.input_batch.generators.update(self._aside)


class SpeculatingRunner:
    """Laid over vLLM's model runner: keeps request identity next to the drafts.

    Requests with ``speculate: False`` in their ``extra_args`` get no drafts from any proposer. Because such requests
    may then use what vLLM refuses together with drafts (min_p, logit_bias), all logits processors are loaded.
    """

    drafter: Any
    input_batch: Any
    requests: dict[str, Any]
    vllm_config: Any
    device: Any

    def prepare(self, *, leads: bool) -> None:
        """``leads``: this worker's drafts are the ones the scheduler reads; the others need none."""
        self._leads = leads
        self.input_batch.logitsprocs = LogitsProcessors(
            kind(self.vllm_config, self.device, PIN_MEMORY) for kind in BUILTIN_LOGITS_PROCESSORS
        )

    def use_drafts(self, peers: tuple[DraftPeer, ...]) -> None:
        if self._leads and isinstance(self.drafter, Proposer):
            self.drafter.use(peers)

    def _update_states(self, scheduler_output: Any) -> Any:
        gone = {*scheduler_output.finished_req_ids, *(scheduler_output.preempted_req_ids or ())}
        if gone and self._leads and isinstance(self.drafter, Proposer):
            self.drafter.close(sorted(gone))
        return super()._update_states(scheduler_output)  # type: ignore[misc]  # vLLM's runner is the other base

    def _input_fits_in_drafter(self, metadata: Any) -> bool:
        """Drafting would stop for all when one request nears the context's end; our proposer caps each by itself."""
        if isinstance(self.drafter, Proposer):
            return True
        fits: bool = super()._input_fits_in_drafter(metadata)  # type: ignore[misc]  # as above
        return fits

    def propose_draft_token_ids(self, scheduler_output: Any, sampled: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self.drafter, Proposer):
            if not self._leads:
                return [[] for _ in sampled]
            rows = [self._row(index, len(tokens), tokens) for index, tokens in enumerate(sampled)]
            return self.drafter.draft(rows, scheduler_output.num_spec_tokens_to_schedule)
        drafts = super().propose_draft_token_ids(  # type: ignore[misc]  # as above
            scheduler_output, sampled, *args, **kwargs
        )
        if not isinstance(drafts, list):
            return drafts
        names = self.input_batch.req_ids
        return [row if self._speculates(names[index]) else [] for index, row in enumerate(drafts)]

    def _row(self, index: int, sampled: int, tokens: list[int]) -> Row:
        batch = self.input_batch
        session = batch.req_ids[index]
        request = self.requests[session]
        params = request.sampling_params
        return Row(
            session=session,
            tokens=batch.token_ids_cpu[index, : batch.num_tokens_no_spec[index]],
            sampled=sampled,
            prompt=request.num_prompt_tokens,
            max_tokens=params.max_tokens,
            speculate=self._speculates(session),
            ended=any(token == params.eos_token_id or token in params.stop_token_ids for token in tokens),
        )

    def _speculates(self, session: str) -> bool:
        return bool((self.requests[session].sampling_params.extra_args or {}).get("speculate", True))
