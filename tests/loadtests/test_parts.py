"""Timed functions: each part has its own time only, and the engine is as it was afterwards."""

import pytest

from loadtests.speculation.parts import Parts, Place


class Stepping:
    """Calls inside calls, on a clock of its own."""

    def __init__(self) -> None:
        self.now = 0.0

    def step(self) -> str:
        self.now += 1.0
        self.forward()
        self.forward()
        self.now += 0.5
        return "done"

    def forward(self) -> None:
        self.now += 2.0

    def fail(self) -> None:
        self.now += 3.0
        raise ValueError("broken")


def timed(engine: Stepping) -> Parts:
    places = [Place(engine, name, part) for name, part in (("step", "rest"), ("forward", "model"), ("fail", "lost"))]
    return Parts(places, clock=lambda: engine.now)


def test_time_counts_for_the_innermost_part_only():
    engine = Stepping()
    with timed(engine) as parts:
        assert engine.step() == "done"
        engine.now += 10.0
        engine.forward()
    assert parts.seconds() == {"rest": 1.5, "model": 6.0}


def test_a_call_that_raises_is_counted_too():
    engine = Stepping()
    parts = timed(engine)
    with parts, pytest.raises(ValueError, match="broken"):
        engine.fail()
    assert parts.seconds() == {"lost": 3.0}


def test_afterwards_nothing_is_timed():
    engine = Stepping()
    with timed(engine) as parts:
        pass
    engine.step()
    assert parts.seconds() == {}
    assert vars(engine).keys() == {"now"}
