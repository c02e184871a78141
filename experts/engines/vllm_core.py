"""vLLM's synchronous engine and its requests, as the thread that owns them sees it. Importing this imports vLLM."""

from vllm.engine.arg_utils import EngineArgs
from vllm.v1.engine.llm_engine import LLMEngine

from experts.api import Chunk, GenerateRequest
from experts.engines.vllm_load import engine_arguments, limits_of, loading
from experts.engines.vllm_meter import Meter
from experts.engines.vllm_options import Plan
from experts.engines.vllm_requests import Stream, adapters_of, error_chunk, failure_of, params_of, prompt_of


class Core:
    """Takes requests, steps, and gives chunks. Raises ConfigError or EngineFailed when it cannot load."""

    def __init__(self, plan: Plan) -> None:
        self.meter = Meter()
        self._speculates = plan.speculates
        self._adapters = adapters_of(plan.adapters)
        self._internal: dict[str, str] = {}
        self._chunks: list[Chunk] = []
        arguments = engine_arguments(EngineArgs, plan)
        with loading():
            self._engine = LLMEngine.from_engine_args(arguments, stat_loggers=[lambda *_: self.meter])
            for adapter in self._adapters.values():
                self._engine.add_lora(adapter)
        self._scheduler = self._engine.engine_core.engine_core.scheduler
        self.limits = limits_of(self._engine.vllm_config)

    @property
    def busy(self) -> bool:
        """Whether a step would do something, if only tell the worker which requests have gone."""
        return bool(self._scheduler.has_requests())

    @property
    def stuck(self) -> bool:
        """Whether the last step had nothing to run, though requests wait."""
        return self.meter.reading.running == 0

    def add(self, request: GenerateRequest) -> None:
        """Take the request, or say in its only chunk why not. The engine survives either way."""
        try:
            self._internal[request.id] = self._enter(request)
        except Exception as error:  # noqa: BLE001 - whatever a request provokes becomes that request's answer
            self._engine.abort_request([request.id])
            self._chunks.append(error_chunk(request, failure_of(error)))

    def abort(self, request_id: str) -> None:
        """End it now; its last chunk comes with the next ``take``. Unknown ids are ignored."""
        internal = self._internal.pop(request_id, None)
        if internal is not None:
            self._engine.abort_request([internal], internal=True)

    def use_drafts(self, packed: bytes) -> None:
        self._engine.collective_rpc("use_drafts", args=(packed,))

    def step(self) -> None:
        self._engine.step()
        # What ran in this step is known; only if nothing did is it worth asking whether something is left.
        if self._speculates and self.meter.asks(busy=not self.stuck or self.busy):
            self.meter.speculated(self._engine.collective_rpc("speculation"))

    def take(self) -> list[Chunk]:
        """What has been produced since last asked."""
        chunks, self._chunks = self._chunks, []
        for chunk in chunks:
            if chunk.finish:
                self._internal.pop(chunk.id, None)
        return chunks

    def close(self) -> None:
        self._engine.engine_core.shutdown()

    def _enter(self, request: GenerateRequest) -> str:
        internal: str = self._engine.add_request(
            request.id,
            prompt_of(request),
            params_of(request, speculates=self._speculates),
            lora_request=self._adapters[request.adapter] if request.adapter else None,
            priority=request.priority,
        )
        state = self._engine.output_processor.request_states[internal]
        state.queue = Stream(request, self._append, state=state)
        return internal

    def _append(self, chunk: Chunk) -> None:
        self._chunks.append(chunk)
