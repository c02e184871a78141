"""When to ask a draft replica and when to decode plainly: a circuit breaker per replica, with time passed in.

Two things open it: answers that do not come or cannot be read, counted; and drafts that are well formed but useless,
for which it asks how surprising their failure is, since where drafts are seldom right their failure says nothing.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

Fault = Literal["late", "garbage", "lost", "wrong"]
"""Why a breaker opens: no answer in time; one that cannot be read or used; nobody connected; useless drafts."""
Change = Fault | Literal["recovered"]

PATIENCE = 3
"""Misses in a row before a replica is left alone."""
DOUBT = 6.9
"""Surprise at which drafts count as wrong: -log of a chance of one in a thousand."""
PROBE_DOUBT = 2.3
"""The same for a replica on probation after wrong drafts: one in ten."""
SURE = 0.9
"""Nobody is believed to be surer than this that a draft is right, or one surprise would be enough."""
BRIEF, CAP = 1 / 8, 16
"""The first and the longest pause, as multiples of ``retry``: most faults are hiccups, and a probe costs little."""
FULL = 32
"""Rows in one ask at which a replica on probation is trusted again."""


@dataclass(frozen=True, slots=True)
class Trust:
    """How far one life of a draft replica is trusted; a new life starts with a new ``Trust``.

    Closed, it is asked about every row. Open (``rows`` is 0), it is left alone until ``until``. Then it is on
    probation: it is asked about one row, and with every good answer about twice as many, until at ``FULL`` the breaker
    closes; a miss opens it again, for twice as long. What counts as good depends on what was wrong: an answer in time,
    or, after useless drafts, one that was accepted. ``cause`` is why it opened last, ``opened`` how often.
    """

    retry: float
    rows: int = FULL
    misses: int = 0
    surprise: float = 0.0
    pause: float = 0.0
    until: float = 0.0
    cause: Fault | None = None
    opened: int = 0

    @property
    def closed(self) -> bool:
        return self.rows >= FULL

    def allows(self, now: float) -> int | None:
        """About how many rows to ask; None: as many as there are."""
        if self.closed:
            return None
        return max(1, self.rows) if now >= self.until else 0

    def answered(self, now: float) -> "Trust":
        """It answered in time, and what it said can be used."""
        if self.closed:
            return replace(self, misses=0) if self.misses and not self.surprise else self
        return self if self.cause == "wrong" or now < self.until else self._grown()

    def missed(self, fault: Fault, now: float) -> "Trust":
        """It did not. What is still missed after it was opened tells nothing new."""
        if not self.closed:
            return self._open(fault, now) if now >= self.until else self
        misses = self.misses + 1
        return replace(self, misses=misses) if misses < PATIENCE else self._open(fault, now)

    def judged(self, surprise: float, *, accepted: bool, now: float) -> "Trust":
        """The verifier's word on its drafts of one step: whether any was ``accepted``, and how surprising it is that
        none was (see ``surprise``)."""
        if accepted:
            redeemed = self.cause == "wrong" and not self.closed and now >= self.until
            grown = self._grown() if redeemed else self
            return replace(grown, surprise=0.0) if grown.surprise else grown
        if not self.closed and (self.cause != "wrong" or now < self.until):
            return self
        whole = self.surprise + surprise
        if whole < (DOUBT if self.closed else PROBE_DOUBT):
            return replace(self, surprise=whole)
        return self._open("wrong", now)

    def change(self, before: "Trust") -> Change | None:
        """What happened since ``before``, if it opened or closed."""
        if self.opened > before.opened:
            return self.cause
        return "recovered" if self.closed and not before.closed else None

    def _grown(self) -> "Trust":
        rows = 2 * max(1, self.rows)
        if rows >= FULL:
            return Trust(self.retry, cause=self.cause, opened=self.opened)
        return replace(self, rows=rows, misses=0)

    def _open(self, fault: Fault, now: float) -> "Trust":
        pause = min(2 * self.pause or BRIEF * self.retry, CAP * self.retry)
        return Trust(self.retry, 0, pause=pause, until=now + pause, cause=fault, opened=self.opened + 1)


def surprise(expected: Iterable[float]) -> float:
    """-log of the chance that all of these drafts fail, which were expected to be right with these probabilities.

    Certainty (1 or more) is no estimate, as it has met no failure: such drafts are left out.
    """
    return -sum(math.log1p(-min(chance, SURE)) for chance in expected if 0 < chance < 1)


def first_chance(gain: float, depth: int) -> float:
    """How likely the first of ``depth`` drafts is right, if ``gain`` of them are expected to be accepted and each is as
    likely as the one before: the root p of p + p^2 + ... + p^depth = gain."""
    if gain >= depth:
        return 1.0
    low, high = max(0.0, gain / depth), 1.0
    for _ in range(20):
        middle = (low + high) / 2
        total = 0.0
        for _ in range(depth):
            total = middle * (1 + total)
        low, high = (middle, high) if total < gain else (low, middle)
    return low
