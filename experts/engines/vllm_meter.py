"""What vLLM's scheduler says of itself, as the latest reading. It comes through vLLM's own hook for statistics."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from vllm.v1.metrics.loggers import StatLoggerBase

from experts.api import EngineState, SpeculationState

SMOOTHING = 0.1  # weight of the newest step in ``step_ms``
SPECULATION_EVERY = 0.25  # seconds between two looks at what speculation has done


class Meter(StatLoggerBase):  # type: ignore[misc]  # vLLM is untyped here
    """A statistics logger with a memory of one. ``reading`` is replaced, never changed: any thread may look at it."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.reading = EngineState()
        self._clock = clock
        self._last: float | None = None
        self._looked = float("-inf")

    def record(self, scheduler_stats: Any | None, iteration_stats: Any | None, *_: Any, **__: Any) -> None:
        """Called by vLLM after every step."""
        if scheduler_stats is None:
            return
        reading = self.reading
        self.reading = msgspec.structs.replace(
            reading,
            running=scheduler_stats.num_running_reqs,
            waiting=scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs,
            kv_use=scheduler_stats.kv_cache_usage,
            step_ms=self._step_ms(busy=scheduler_stats.num_running_reqs > 0),
            steps=reading.steps + 1,
            prompt_tokens=reading.prompt_tokens + (iteration_stats.num_prompt_tokens if iteration_stats else 0),
            preemptions=reading.preemptions + (iteration_stats.num_preempted_reqs if iteration_stats else 0),
        )

    def asks(self, *, busy: bool) -> bool:
        """Whether to ask the workers what speculation has done: not at every step, but after the last one before a
        pause."""
        return not busy or self._clock() - self._looked >= SPECULATION_EVERY

    def speculated(self, packed: Iterable[bytes | None]) -> None:
        """What the workers say of speculation: one of them a packed state, the others nothing."""
        self._looked = self._clock()
        for state in packed:
            if state is not None:
                speculation = msgspec.msgpack.decode(state, type=SpeculationState)
                self.reading = msgspec.structs.replace(self.reading, speculation=speculation)

    def log_engine_initialized(self) -> None:
        """Part of vLLM's interface; there is nothing to say."""

    def _step_ms(self, *, busy: bool) -> float:
        """The average time between the ends of two steps, idle time left out."""
        now, last = self._clock(), self._last
        self._last = now if busy else None
        average = self.reading.step_ms
        if last is None:
            return average
        step = (now - last) * 1000
        return step if not average else average + SMOOTHING * (step - average)
