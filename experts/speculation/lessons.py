"""What the controller is told between two choices: gathered at every step, learnt from when a choice is made anew, as
learning takes time."""

from collections.abc import Sequence

import numpy as np

from experts.speculation.acceptance import Acceptance
from experts.speculation.costs import Costs, Demand
from experts.speculation.depth import Timing, Verdict
from experts.speculation.trials import Trials

LEFT, UNTOLD = 64, 64
"""Requests that have ended and are still to be forgotten, at most, and steps whose time is still to be learnt from."""


class Lessons:
    """For estimators that the controller shares. ``left`` are requests that have ended and are not yet forgotten."""

    def __init__(self, acceptance: Acceptance, costs: Costs, trials: Trials) -> None:
        self._acceptance, self._costs, self._trials = acceptance, costs, trials
        self._verdicts: list[Verdict] = []
        self._slots: list[int] = []
        self._timings: list[tuple[Timing, Demand]] = []
        self.left: list[str] = []

    def relieve(self, step: int) -> None:
        """Learn them if they are many."""
        if len(self.left) > LEFT or len(self._timings) > UNTOLD:
            self.learn(step)

    def judged(self, verdicts: Sequence[Verdict]) -> list[Verdict]:
        """Take these; those that tell of drafts of known requests."""
        slots, known = self._acceptance.judged(verdicts)
        self._slots.extend(slots)
        self._verdicts.extend(known)
        return known

    def timed(self, timing: Timing, demand: Demand) -> None:
        """A step took so long after drafters had been asked for this."""
        self._timings.append((timing, demand))

    def learn(self, step: int) -> None:
        """All of them, at ``step``."""
        slots, self._slots = self._slots, []
        verdicts, self._verdicts = self._verdicts, []
        if verdicts:
            self._acceptance.learn(slots, verdicts, step)
            self._trials.learn(np.array(slots, np.intp), np.array([verdict.accepted > 0 for verdict in verdicts]))
        timings, self._timings = self._timings, []
        for timing, demand in timings:
            self._costs.learn(timing, demand)
        left, self.left = self.left, []
        for session in left:
            self._trials.forget(self._acceptance.close(session))
