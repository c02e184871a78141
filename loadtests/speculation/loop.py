"""A closed loop over an engine: a number of requests in flight, each replaced the moment it ends."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from experts.api import Chunk, GenerateRequest, Sampling
from loadtests.speculation.messages import Prompt

TIMEOUT = 600.0
ENOUGH = 0.75
"""Share of the asked seconds from which the end of a round ends a window: faster engines run more rounds."""
TOO_LONG = 3.0
"""Times the asked seconds after which a window ends in the middle of a round."""


class Engine(Protocol):
    """What the loop needs of ``Core``."""

    @property
    def busy(self) -> bool: ...

    def add(self, request: GenerateRequest) -> None: ...

    def abort(self, request_id: str) -> None: ...

    def step(self) -> None: ...

    def take(self) -> list[Chunk]: ...


@dataclass(frozen=True, slots=True)
class Work:
    """The requests of one loop, without end: ``prompts`` in turn, named after ``name``."""

    name: str
    prompts: Sequence[Prompt]
    sampling: Sampling

    @property
    def round(self) -> int:
        return len(self.prompts)

    def request(self, number: int) -> GenerateRequest:
        prompt = self.prompts[number % self.round]
        return GenerateRequest(f"{self.name}-{number}", prompt.tokens, self.sampling, TIMEOUT, domain=prompt.domain)


@dataclass(frozen=True, slots=True)
class Slices:
    """For engines that are measured side by side: after about ``seconds``, ``pause`` lets others run, and returns when
    it is this one's turn again. It is called before steps that read a prompt: of those, engines learn nothing, or only
    the time from when they run."""

    seconds: float
    pause: Callable[[], None]


@dataclass(slots=True)
class Tally:
    """Sums over steps; ``rows`` sequences ran in them."""

    seconds: float = 0.0
    tokens: int = 0
    steps: int = 0
    rows: int = 0
    drafted: int = 0
    accepted: int = 0

    def add(self, seconds: float, rows: int, chunks: Sequence[Chunk]) -> None:
        self.seconds += seconds
        self.steps += 1
        self.rows += rows
        for chunk in chunks:
            self.tokens += len(chunk.tokens)
            self.drafted += chunk.drafted
            self.accepted += chunk.accepted


@dataclass(slots=True)
class Window:
    """``decode``: the steps in which nobody's prompt was read; ``prefill``: all others. ``seconds`` includes the time
    between steps."""

    seconds: float = 0.0
    decode: Tally = field(default_factory=Tally)
    prefill: Tally = field(default_factory=Tally)
    finished: int = 0


class ClosedLoop:
    """``clock`` in seconds; the time of pauses does not count. Raises RuntimeError when a request fails: such a figure
    would be worthless."""

    def __init__(
        self,
        engine: Engine,
        work: Work,
        batch: int,
        *,
        slices: Slices | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._engine, self._work, self._batch, self._clock = engine, work, batch, clock
        self._slices, self._resumed, self._paused = slices, clock(), 0.0
        self._live: set[str] = set()
        self._unread: set[str] = set()
        self._admitted = 0

    def settle(self, seconds: float) -> None:
        """Run until the first requests are spread over their lengths, uncounted."""
        due = self._now() + seconds
        idle = Window()
        while self._now() < due:
            self._step(idle)

    def window(self, seconds: float) -> Window:
        """Whole rounds of the work, for about ``seconds``; exactly one for 0."""
        window = Window()
        began, rounds = self._now(), 0
        while not seconds or window.seconds < TOO_LONG * seconds:
            self._step(window)
            window.seconds = self._now() - began
            ended = window.finished // self._work.round > rounds
            rounds += ended
            if ended and window.seconds >= ENOUGH * seconds:
                break
        return window

    def drain(self) -> None:
        """Abort what is in flight and let the engine clean up."""
        for name in self._live:
            self._engine.abort(name)
        self._live.clear()
        self._unread.clear()
        while self._engine.busy:
            self._engine.step()
        self._engine.take()

    def _step(self, window: Window) -> None:
        while len(self._live) < self._batch:
            request = self._work.request(self._admitted)
            self._admitted += 1
            self._live.add(request.id)
            self._unread.add(request.id)
            self._engine.add(request)
        if self._unread:
            self._pause()
        rows, tally = len(self._live), window.prefill if self._unread else window.decode
        began = self._clock()
        self._engine.step()
        chunks = self._engine.take()
        tally.add(self._clock() - began, rows, chunks)
        for chunk in chunks:
            if chunk.finish == "error":
                raise RuntimeError(f"request {chunk.id} failed: {chunk.error}")
            if chunk.tokens:
                self._unread.discard(chunk.id)
            if chunk.finish:
                self._live.discard(chunk.id)
                self._unread.discard(chunk.id)
                window.finished += 1

    def _pause(self) -> None:
        """If this slice is over."""
        left = self._clock()
        if self._slices and left - self._resumed >= self._slices.seconds:
            self._slices.pause()
            self._resumed = self._clock()
            self._paused += self._resumed - left

    def _now(self) -> float:
        return self._clock() - self._paused
