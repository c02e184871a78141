"""An engine that only pretends: exact tokens, settable timing and faults, no model.

Each token is a pure function of the seed and all tokens before it, so a continuation from prompt plus emitted tokens
goes on exactly as the first run would have. Steps lie on a grid of ``tpot_ms``; all running requests share a step and
its one call of the sink. All time comes from a ``Clock``.
"""

import asyncio
from collections import deque
from collections.abc import Sequence

from cluster.errors import BadRequest, ConfigError, EngineFailed, Failure, Unavailable, UnknownModel, UnsupportedOption
from experts.api import Chunk, DraftPeer, EngineLimits, EngineState, GenerateRequest, StepSink
from experts.config import PoolConfig, SimulatedEngine
from experts.engines.checks import check
from experts.engines.clock import Clock, WallClock
from experts.engines.simulated_text import Speech, Voice

EPSILON = 1e-9  # seconds; what floats may be short of a step's moment


class Simulated:
    """The Engine protocol without an engine."""

    def __init__(self, name: str, pool: PoolConfig, *, clock: Clock | None = None) -> None:
        if not isinstance(pool.engine, SimulatedEngine):
            raise ConfigError(f"pool {name}: engine kind {pool.engine.kind!r} is not simulated")
        config = pool.engine
        self._name = name
        self._config = config
        self._clock = clock or WallClock()
        self._voice = Voice(config.vocabulary, config.depth, config.acceptance)
        self._limits = EngineLimits(config.max_context, config.max_running, config.vocabulary)
        self._sink: StepSink | None = None
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._waiting: deque[Speech] = deque()
        self._running: dict[str, Speech] = {}
        self._aborted: list[Chunk] = []
        self._failure: Failure | None = None
        self._stalled = False
        self._tick = 0.0
        self._steps = self._tokens = self._prompt_tokens = self._drafted = self._accepted = 0

    @property
    def limits(self) -> EngineLimits:
        return self._limits

    async def start(self, sink: StepSink) -> None:
        if self._task is not None:
            raise ConfigError(f"{self._name}: the engine was started before")
        self._sink = sink
        self._task = asyncio.get_running_loop().create_task(self._run())

    def submit(self, request: GenerateRequest) -> None:
        if self._failure is not None:
            raise EngineFailed(f"{self._name}: {self._failure.message}")
        if self._sink is None:
            raise Unavailable(f"{self._name}: the engine has not started")
        if request.id in self._running or any(speech.request.id == request.id for speech in self._waiting):
            raise BadRequest(f"request {request.id!r} is being served", param="id")
        check(request, self._limits)
        if request.grammar is not None:
            raise UnsupportedOption("a simulated engine cannot follow a grammar", param="response_format")
        if request.adapter is not None:
            raise UnknownModel(f"no adapter {request.adapter!r}; there are none")
        self._waiting.append(Speech(request, self._voice))
        self._admit()

    def abort(self, request_id: str) -> None:
        speech = self._running.pop(request_id, None)
        if speech is None:
            speech = next((speech for speech in self._waiting if speech.request.id == request_id), None)
            if speech is None:
                return
            self._waiting.remove(speech)
        if not self._aborted:
            asyncio.get_running_loop().call_soon(self._end_aborted)
        self._aborted.append(speech.end())
        self._admit()

    def state(self) -> EngineState:
        held = sum(speech.length for speech in self._running.values())
        return EngineState(
            running=len(self._running),
            waiting=len(self._waiting),
            kv_use=held / (self._limits.max_running * self._limits.max_context),
            step_ms=self._config.tpot_ms if self._steps else 0.0,
            steps=self._steps,
            tokens=self._tokens,
            prompt_tokens=self._prompt_tokens,
            drafted=self._drafted,
            accepted=self._accepted,
        )

    def use_drafts(self, peers: Sequence[DraftPeer]) -> None:
        """Its drafts are made up; it asks nobody."""

    def healthy(self) -> bool:
        return self._sink is not None and self._failure is None

    async def stop(self) -> None:
        self._end(Unavailable(f"{self._name}: the engine is stopping").failure())
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while self._failure is None:
            due = self._due()
            if due is None or self._stalled:
                self._wake.clear()
                await self._wake.wait()
            else:
                await self._clock.sleep_until(due)
                self._step(self._clock.now())

    def _due(self) -> float | None:
        """When the next step ends. While nobody has spoken yet the grid begins with the first token of the first."""
        if not self._running:
            return None
        if any(speech.made for speech in self._running.values()):
            return self._tick
        return min(speech.due for speech in self._running.values())

    def _step(self, now: float) -> None:
        if not self._running:
            return
        if self._config.stall_after is not None and self._steps >= self._config.stall_after:
            self._stalled = True
            return
        if self._config.fail_after is not None and self._steps >= self._config.fail_after:
            self._end(EngineFailed(f"{self._name}: simulated failure").failure())
            return
        chunks = [speech.step() for speech in self._running.values() if speech.due <= now + EPSILON]
        self._steps += 1
        self._tick = now + self._config.tpot_ms / 1000
        for chunk in chunks:
            self._count(chunk)
        self._admit()
        self._tell(chunks)

    def _count(self, chunk: Chunk) -> None:
        self._tokens += len(chunk.tokens)
        self._drafted += chunk.drafted
        self._accepted += chunk.accepted
        if chunk.finish is not None:
            del self._running[chunk.id]

    def _admit(self) -> None:
        """First come, first served, while there is room."""
        while self._waiting and len(self._running) < self._limits.max_running:
            speech = self._waiting.popleft()
            speech.due = self._clock.now() + self._config.ttft_ms / 1000
            self._running[speech.request.id] = speech
            self._prompt_tokens += len(speech.request.prompt)
        self._wake.set()

    def _end_aborted(self) -> None:
        chunks, self._aborted = self._aborted, []
        if self._failure is None and not self._stalled:
            self._tell(chunks)

    def _end(self, failure: Failure) -> None:
        """The end of the engine is the end of all its requests."""
        if self._failure is not None:
            return
        live = [speech.request for speech in (*self._running.values(), *self._waiting)]
        aborted, self._aborted = self._aborted, []
        self._failure = failure
        self._running.clear()
        self._waiting.clear()
        self._wake.set()
        self._tell(
            [
                *aborted,
                *(
                    Chunk(id=request.id, finish="error", error=failure, prompt_tokens=len(request.prompt))
                    for request in live
                ),
            ]
        )

    def _tell(self, chunks: Sequence[Chunk]) -> None:
        if chunks and self._sink is not None:
            self._sink(chunks)
