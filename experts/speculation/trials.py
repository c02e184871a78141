"""Short drafts for requests that get none, to see whether they would be right now."""

import numpy as np
from numpy.typing import NDArray

DEPTH = 2
"""Drafts of a try."""
HOLD = 3
"""Steps for which a try waits for drafts that come; each success allows as many again."""
PAUSE = 16
"""Steps to the next try of the same request; doubles while tries fail."""
LONGEST = 256
AT_ONCE = 4
"""Requests tried in one step."""

SHADOWED = 4
"""Requests that have shadow drafts at a time."""

Slots = NDArray[np.intp]
Mask = NDArray[np.bool_]


class Trials:
    """Which requests are being tried, by slot: steps ``left``, the step from which a try is ``due``, the next pause;
    and when each was last given shadow drafts."""

    def __init__(self, slots: int) -> None:
        self._left = np.zeros(slots, np.int64)
        self._due = np.zeros(slots, np.int64)
        self._pause = np.full(slots, PAUSE, np.int64)
        self._shadowed = np.full(slots, -1, np.int64)
        self._idle = True

    def running(self, slots: Slots) -> Mask:
        """Which of these [rows] are being tried. Their time runs."""
        left = self._left[slots]
        self._idle = not left.any()
        self._left[slots] = np.maximum(left - 1, 0)
        return left > 0

    def next(self, slots: Slots, wanted: Mask) -> Mask:
        """Which of the ``wanted`` [rows] would be tried."""
        return _first(wanted, self._due[slots], AT_ONCE)

    def begin(self, slots: Slots, wanted: Mask, step: int, *, due: bool) -> Mask:
        """Try a few of the ``wanted`` [rows], those first whose turn is overdue; with ``due`` only these."""
        tried = self.next(slots, wanted & (self._due[slots] <= step) if due else wanted)
        chosen = slots[tried]
        self._idle = False
        self._left[chosen] = HOLD - 1
        self._due[chosen] = step + self._pause[chosen]
        self._pause[chosen] = np.minimum(2 * self._pause[chosen], LONGEST)
        return tried

    def shadow(self, slots: Slots, wanted: Mask, step: int) -> Mask:
        """Which of the ``wanted`` [rows] have shadow drafts in their place: those whose last are longest ago."""
        shadowed = _first(wanted, self._shadowed[slots], SHADOWED)
        self._shadowed[slots[shadowed]] = step
        return shadowed

    def learn(self, slots: Slots, right: Mask) -> None:
        """These were verified [n]; the first draft was right, or it was not. It matters only for those being tried."""
        if self._idle:
            return
        self._left[slots] = np.where(right & (self._left[slots] > 0), HOLD, 0)
        self._pause[slots[right]] = PAUSE

    def forget(self, slots: Slots) -> None:
        """These belong to nobody now; whoever gets one is due."""
        self._left[slots], self._due[slots], self._pause[slots], self._shadowed[slots] = 0, 0, PAUSE, -1


def _first(wanted: Mask, since: NDArray[np.int64], most: int) -> Mask:
    """Of the ``wanted`` [rows] so many at most, those with the least ``since`` [rows]."""
    places = np.flatnonzero(wanted)
    chosen = np.zeros(len(wanted), np.bool_)
    chosen[places[np.argsort(since[places], kind="stable")][:most]] = True
    return chosen
