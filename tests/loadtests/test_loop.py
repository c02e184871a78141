"""The closed loop keeps its batch full, counts what it should, and ends its windows with whole rounds."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from cluster.errors import EngineFailed
from experts.api import Chunk, GenerateRequest, Sampling
from loadtests.speculation.loop import ClosedLoop, Slices, Window, Work
from loadtests.speculation.messages import Prompt

LENGTHS = (3, 5, 2, 4)


@dataclass
class Clock:
    """Moves only when the engine steps."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Engine:
    """One token per request and step; a request's first token tells how many it will have. A step takes ``pace``."""

    clock: Clock
    pace: float = 0.01
    broken: str = ""
    seen: list[int] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    _left: dict[str, int] = field(default_factory=dict)
    _chunks: list[Chunk] = field(default_factory=list)

    @property
    def busy(self) -> bool:
        return bool(self._left)

    def add(self, request: GenerateRequest) -> None:
        self._left[request.id] = request.prompt[0]

    def abort(self, request_id: str) -> None:
        self.aborted.append(request_id)
        self._left.pop(request_id, None)

    def step(self) -> None:
        self.clock.now += self.pace
        self.seen.append(len(self._left))
        for name in list(self._left):
            self._left[name] -= 1
            finish = None if self._left[name] else "stop"
            if name == self.broken:
                failure = EngineFailed("broken").failure()
                self._chunks.append(Chunk(name, finish="error", error=failure))
            else:
                self._chunks.append(Chunk(name, tokens=(7,), drafted=2, accepted=1, finish=finish))
            if finish:
                del self._left[name]

    def take(self) -> list[Chunk]:
        taken, self._chunks = self._chunks, []
        return taken


def loop(batch: int, lengths: Sequence[int] = LENGTHS, **settings) -> tuple[ClosedLoop, Engine]:
    clock = Clock()
    engine = Engine(clock, **settings)
    work = Work("w", [Prompt("code", (length,)) for length in lengths], Sampling())
    return ClosedLoop(engine, work, batch, clock=clock), engine


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_exactly_the_batch_is_in_flight_at_every_step(batch):
    closed, engine = loop(batch)
    closed.window(0.5)
    assert set(engine.seen) == {batch}


def test_a_window_of_no_length_is_one_round():
    closed, _ = loop(1)
    window = closed.window(0.0)
    assert window.finished == len(LENGTHS)
    assert window.decode.tokens + window.prefill.tokens == sum(LENGTHS)


def test_a_window_ends_with_a_round_once_most_of_its_time_is_over():
    closed, _ = loop(1)
    window = closed.window(0.4)
    assert window.finished % len(LENGTHS) == 0
    assert 0.3 <= window.seconds < 0.6


def test_a_window_without_an_end_of_a_round_in_sight_is_cut():
    closed, _ = loop(1, lengths=(10_000,))
    assert closed.window(0.2).seconds == pytest.approx(0.6, abs=0.02)


def test_steps_that_read_a_prompt_are_kept_apart():
    closed, _ = loop(1)
    window = closed.window(0.0)
    assert window.prefill.steps == len(LENGTHS)
    assert window.decode.steps == sum(LENGTHS) - len(LENGTHS)
    assert window.decode.rows == window.decode.tokens == window.decode.steps
    assert window.decode.seconds == pytest.approx(0.01 * window.decode.steps)
    assert (window.decode.drafted, window.decode.accepted) == (2 * window.decode.steps, window.decode.steps)


def test_pauses_come_after_a_slice_before_a_prompt_is_read_and_do_not_count():
    pace, pauses = 2.0**-6, []

    def pause() -> None:
        engine.clock.now += 5.0
        pauses.append(len(engine.seen))

    alone, _ = loop(1, pace=pace)
    _, engine = loop(1, pace=pace)
    work = Work("w", [Prompt("code", (length,)) for length in LENGTHS], Sampling())
    sliced = ClosedLoop(engine, work, 1, slices=Slices(6 * pace, pause), clock=engine.clock)
    assert sliced.window(0.0) == alone.window(0.0)
    assert pauses == [3 + 5], "the first prompt whose turn comes after six steps"


def test_nothing_is_left_in_the_engine_after_a_drain():
    closed, engine = loop(3)
    closed.settle(0.05)
    closed.drain()
    assert set(engine.aborted) == {"w-3", "w-4"}
    assert not engine.busy


def test_a_failed_request_fails_the_measurement():
    closed, _ = loop(2, broken="w-1")
    with pytest.raises(RuntimeError, match="w-1 failed"):
        closed.window(1.0)


def test_an_empty_window_has_counted_nothing():
    assert Window().decode.steps == Window().prefill.tokens == 0
