"""Keeps the account of a start: which step is under way, how long each took, what went wrong."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from cluster.errors import Failure
from deployments.cli.runtime import Phase, Progress, Step, StepState


class Journal:
    """Steps in the order they began; every change is handed to ``publish``."""

    def __init__(self, publish: Callable[[Progress], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._publish = publish
        self._clock = clock
        self._began = clock()
        self._starts: dict[str, float] = {}
        self._steps: dict[str, Step] = {}
        self._phase: Phase = "starting"
        self._failure: Failure | None = None

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._began

    def running(self) -> list[str]:
        """The steps under way."""
        return [name for name, step in self._steps.items() if step.state == "running"]

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """A step that lasts as long as the block; it has failed if the block raises."""
        self.note(name, "running")
        try:
            yield
        except BaseException:
            self.note(name, "failed")
            raise
        self.note(name, "done")

    def note(self, name: str, state: StepState, note: str = "") -> None:
        """A step is now in ``state``. Saying the same again changes nothing."""
        known = self._steps.get(name)
        if known is not None and (known.state, known.note) == (state, note):
            return
        began = self._starts.setdefault(name, self._clock())
        seconds = self._clock() - began
        self._steps[name] = Step(name, state, seconds, note)
        self._tell()

    def turn(self, phase: Phase, failure: Failure | None = None) -> None:
        """The whole has entered another phase; a failure says why."""
        self._phase = phase
        self._failure = failure
        self._tell()

    def beat(self) -> None:
        """Nothing new, but time has passed."""
        self._tell()

    def _tell(self) -> None:
        steps = tuple(
            msgspec.structs.replace(step, seconds=self._clock() - self._starts[name])
            if step.state == "running"
            else step
            for name, step in self._steps.items()
        )
        self._publish(Progress(self._phase, self.elapsed, steps, self._failure))
