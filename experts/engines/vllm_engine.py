"""The Engine protocol over vLLM. Knows the requests and keeps the promise that each of them ends, once.

How vLLM itself is run is behind ``Runner``: on a thread here (``vllm_thread``) or in its own processes
(``vllm_async``). Importing this module imports neither vLLM nor torch.
"""

from collections.abc import Sequence

import msgspec

from cluster.errors import BadRequest, ConfigError, EngineFailed, Failure, Unavailable, UnknownModel
from experts.api import Chunk, DraftPeer, EngineLimits, EngineState, GenerateRequest, StepSink
from experts.config import PoolConfig
from experts.engines.checks import check
from experts.engines.vllm_async import AsyncRunner
from experts.engines.vllm_options import DRAFTS, Plan, plan
from experts.engines.vllm_runner import Events, Runner
from experts.engines.vllm_thread import ThreadRunner


class VllmHost:
    """One vLLM engine. ``drafts`` names the class that brings drafts to a pool with split speculation."""

    def __init__(self, name: str, pool: PoolConfig, *, drafts: str = DRAFTS) -> None:
        self._name = name
        self._pool = pool
        self._drafts = drafts
        self._plan: Plan | None = None
        self._runner: Runner | None = None
        self._limits: EngineLimits | None = None
        self._failure: Failure | None = None
        self._live: dict[str, GenerateRequest] = {}
        self._tokens = 0
        self._drafted = 0
        self._accepted = 0

    @property
    def limits(self) -> EngineLimits:
        """Raises Unavailable before ``start`` has returned."""
        if self._limits is None:
            raise Unavailable(f"{self._name}: the engine has not started")
        return self._limits

    async def start(self, sink: StepSink) -> None:
        if self._runner is not None:
            raise ConfigError(f"{self._name}: the engine was started before")
        self._sink = sink
        self._plan = plan(self._name, self._pool, drafts=self._drafts)
        kind = AsyncRunner if self._plan.runner == "async" else ThreadRunner
        self._runner = kind(self._plan, Events(chunks=self._deliver, died=self._die))
        self._limits = await self._runner.start()

    def submit(self, request: GenerateRequest) -> None:
        runner = self._running()
        if request.id in self._live:
            raise BadRequest(f"request {request.id!r} is being served", param="id")
        check(request, self.limits)
        if request.adapter is not None and request.adapter not in self._adapters:
            raise UnknownModel(f"no adapter {request.adapter!r}; there are {', '.join(self._adapters) or 'none'}")
        self._live[request.id] = request
        runner.submit(request)

    def abort(self, request_id: str) -> None:
        if self._runner is not None and request_id in self._live:
            self._runner.abort(request_id)

    def state(self) -> EngineState:
        if self._runner is None:
            return EngineState()
        reading = self._runner.reading()
        running = min(reading.running, len(self._live))
        return msgspec.structs.replace(
            reading,
            running=running,
            waiting=len(self._live) - running,
            tokens=self._tokens,
            drafted=self._drafted,
            accepted=self._accepted,
        )

    def use_drafts(self, peers: Sequence[DraftPeer]) -> None:
        if self._plan is not None and self._plan.split and self.healthy():
            self._running().use_drafts(peers)

    def healthy(self) -> bool:
        return self._limits is not None and self._failure is None and self._runner is not None and self._runner.alive()

    async def stop(self) -> None:
        """Ends what still runs with ``unavailable``. May be called more than once, and on an engine that died."""
        if self._failure is None:
            self._die(Unavailable(f"{self._name}: the engine is stopping").failure())
        if self._runner is not None:
            await self._runner.stop()

    @property
    def _adapters(self) -> dict[str, str]:
        return {} if self._plan is None else self._plan.adapters

    def _running(self) -> Runner:
        if self._failure is not None:
            raise EngineFailed(f"{self._name}: {self._failure.message}")
        if self._runner is None or self._limits is None:
            raise Unavailable(f"{self._name}: the engine has not started")
        return self._runner

    def _deliver(self, chunks: Sequence[Chunk]) -> None:
        """One step's chunks, less those of requests that have had their end already."""
        fresh = [chunk for chunk in chunks if chunk.id in self._live]
        for chunk in fresh:
            self._tokens += len(chunk.tokens)
            self._drafted += chunk.drafted
            self._accepted += chunk.accepted
            if chunk.finish is not None:
                del self._live[chunk.id]
        if fresh:
            self._sink(fresh)

    def _die(self, failure: Failure) -> None:
        """The end of the engine is the end of all its requests."""
        if self._failure is not None:
            return
        self._failure = failure
        live, self._live = self._live, {}
        if live:
            self._sink(
                [
                    Chunk(id=request.id, finish="error", error=failure, prompt_tokens=len(request.prompt))
                    for request in live.values()
                ]
            )
