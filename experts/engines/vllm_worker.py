"""vLLM's worker, taught who is who: drafts need request identities, which vLLM does not hand to a proposer. On CPU it
also keeps seeded requests alive (see ``SeededRunner``)."""

import logging
from typing import Any

import msgspec
from vllm.platforms import current_platform

from cluster.errors import ConfigError
from experts.api import DraftPeer
from experts.engines import vllm_sampling, vllm_sizes
from experts.engines.vllm_layers import DraftingRunner, SeededRunner
from experts.engines.vllm_native import NativeRunner
from experts.engines.vllm_options import SECTION
from experts.engines.vllm_proposer import Proposer

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
        if speculates and self.vllm_config.use_v2_model_runner:
            raise ConfigError("speculation needs vLLM's model runner V1: leave VLLM_USE_V2_MODEL_RUNNER unset")
        runner = self.model_runner
        layers: list[type] = []
        if speculates:
            layers.append(DraftingRunner if isinstance(getattr(runner, "drafter", None), Proposer) else NativeRunner)
        if current_platform.is_cpu() and not vllm_sampling.rewinds():
            layers.append(SeededRunner)
        runner.__class__ = type("LayeredRunner", (*layers, type(runner)), {})
        if speculates:
            self._correct()
            runner.prepare(leads=self.is_driver_worker)

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        super().load_model(*args, **kwargs)
        section = (self.vllm_config.additional_config or {}).get(SECTION, {})
        # What is compiled as a whole has its sizes compiled in, or none.
        eager = self.vllm_config.model_config.enforce_eager
        if section.get("sizes") == "few" and eager and current_platform.is_cpu():
            self._fix_sizes()

    def _fix_sizes(self) -> None:
        """See ``vllm_sizes``. An engine runs without, too."""
        config = self.vllm_config.scheduler_config
        largest, depth = config.max_num_batched_tokens, self.vllm_config.speculative_config.num_speculative_tokens
        draft_model = getattr(getattr(self.model_runner, "drafter", None), "model", None)
        try:
            found = vllm_sizes.fix_sizes(
                [model for model in (self.model_runner.model, draft_model) if model is not None],
                self.vllm_config.model_config.dtype,
                largest=largest,
                tried=min(largest, config.max_num_seqs * (1 + depth)),
            )
            self.model_runner.sizes = found
            logger.info("matrices are multiplied for few numbers of tokens, those up to %d are compiled", found.tried)
        except Exception as error:  # noqa: BLE001 - whatever vLLM's layers are like, it is only about time
            kind = type(error).__name__
            logger.warning("numbers of tokens stay as they are, first steps may be slow: %s: %s", kind, error)

    def _correct(self) -> None:
        if current_platform.is_cpu():
            for name in vllm_sampling.correct():
                logger.info("corrected vLLM's %s", name)

    def use_drafts(self, peers: bytes) -> None:
        """Called in every worker of the engine; ``peers`` are packed DraftPeers (what crosses is plain bytes)."""
        self.model_runner.use_drafts(msgspec.msgpack.decode(peers, type=tuple[DraftPeer, ...]))

    def speculation(self) -> bytes | None:
        """The state of speculation, packed; None in workers whose drafts are not the ones in use."""
        state = self.model_runner.speculation()
        return None if state is None else msgspec.msgpack.encode(state)
