"""What a step is made of: functions of an engine timed in place, each without those it calls."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Place:
    """A method of one object, and the part of the step that its time belongs to."""

    owner: Any
    method: str
    part: str


class Parts:
    """While entered, sums up the seconds of each part. Nested calls count for the inner part only."""

    def __init__(self, places: Iterable[Place], *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._places = tuple(places)
        self._clock = clock
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._stack: list[str] = []
        self._since = 0.0

    def __enter__(self) -> Self:
        for place in self._places:
            vars(place.owner)[place.method] = self._timed(getattr(place.owner, place.method), place.part)
        return self

    def __exit__(self, *_: object) -> None:
        for place in self._places:
            del vars(place.owner)[place.method]

    def seconds(self) -> dict[str, float]:
        return dict(self._seconds)

    def _timed(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._turn()
            self._stack.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self._turn()
                self._stack.pop()

        return timed

    def _turn(self) -> None:
        """Credit the time since the last turn to whoever was running."""
        now = self._clock()
        if self._stack:
            self._seconds[self._stack[-1]] += now - self._since
        self._since = now
