"""Who is served next: the time of one draft replica, divided among the verifiers that use it. Time is passed in.

Verifiers that wait come first, the tightest deadline before the others. The rest of the time is divided by start-time
fair queueing (Goyal, Vin and Cheng, 1996) over the seconds that each verifier has used: one that uses much gets
its drafts made ahead after one that uses little.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from experts.speculation.book import Session
from experts.speculation.messages import DraftAsk, DraftRow

VERIFIERS = 256
"""So many verifiers are remembered; the one unseen for longest is forgotten for a new one."""
DECAY = 0.98
PROMPT = 0.8
"""Share of the time until an answer is due in which it is to be made."""
OUTLIER = 4.0
"""A pass that takes more than so many times what was expected was interrupted, so it counts only as this much."""

Cost = Callable[[int], float]
"""Seconds of one pass over so many rows."""


@dataclass(frozen=True, slots=True)
class Pending:
    """An ask whose verdicts have been taken in: when it came and the session of each row (None: lost)."""

    ask: DraftAsk
    at: float
    known: tuple[Session | None, ...]

    @property
    def due(self) -> float:
        """When its answer is to be there; its verifier may wait a little longer."""
        return math.inf if self.ask.budget is None else self.at + self.ask.budget

    @property
    def lost(self) -> tuple[str, ...]:
        return tuple(row.session for row, session in self.rows() if session is None)

    def rows(self) -> Iterator[tuple[DraftRow, Session | None]]:
        return zip(self.ask.rows, self.known, strict=True)


@dataclass(frozen=True, slots=True)
class Work:
    """One verifier's part of a batch: its rows, its passes and when they must be done."""

    due: float
    rows: int
    passes: int


class PassCost:
    """Seconds of one pass as a + b x rows: least squares with exponentially decaying weights."""

    def __init__(self) -> None:
        self._weight = self._rows = self._seconds = self._squares = self._products = 0.0

    def saw(self, rows: int, seconds: float) -> None:
        if self._weight > 1.0 / OUTLIER:
            seconds = min(seconds, OUTLIER * self(rows))
        self._weight = DECAY * self._weight + 1.0
        self._rows = DECAY * self._rows + rows
        self._seconds = DECAY * self._seconds + seconds
        self._squares = DECAY * self._squares + rows * rows
        self._products = DECAY * self._products + rows * seconds

    def __call__(self, rows: int) -> float:
        """0 before any pass was seen."""
        if not self._weight:
            return 0.0
        mean_rows, mean = self._rows / self._weight, self._seconds / self._weight
        spread = self._squares / self._weight - mean_rows**2
        slope = (self._products / self._weight - mean_rows * mean) / spread if spread > 0.01 else 0.0
        return mean + max(0.0, min(slope, mean / mean_rows)) * (rows - mean_rows)


def fitting(works: Sequence[Work], cost: Cost, now: float) -> int:
    """How many of ``works``, in order, go into one batch: others join the first as long as the batch is still done by
    the tightest of their deadlines."""
    rows = passes = 0
    due = math.inf
    for count, work in enumerate(works):
        rows, passes, due = rows + work.rows, max(passes, work.passes), min(due, work.due)
        if count and passes * cost(rows) > PROMPT * (due - now):
            return count
    return len(works)


def within(passes: int, cost: float, time: float) -> int:
    """Of so many passes those that are done in ``time`` seconds, as the answer has to travel, too. Two at least: what a
    pass takes is learnt from the second on."""
    return passes if passes * cost <= PROMPT * time else min(passes, max(2, int(PROMPT * time / cost)))


def extent(sessions: int, depth: int, most: int, *, cost: Cost, time: float) -> tuple[int, int]:
    """Rows and passes of a batch that drafts ahead for ``sessions`` within ``time`` seconds: one row for each session
    at full ``depth`` if that fits, else fewer passes, else fewer sessions (0, 0 if not even one); then further rows, up
    to ``most``, as long as they fit. Opening and sending are taken to cost as much as one more pass."""
    rows = min(sessions, most)
    while depth > 1 and (depth + 1) * cost(rows) > time:
        depth -= 1
    while rows and (depth + 1) * cost(rows) > time:
        rows -= 1
    while 0 < rows < most and (depth + 1) * cost(rows + 1) <= time:
        rows += 1
    return (rows, depth) if rows else (0, 0)


@dataclass(frozen=True, slots=True)
class Share:
    """What one verifier has had. Of its ``asks`` those it waited for were ``answered`` in time, or ``expired`` before
    they were reached; it has waited ``waited`` seconds here for the answers and used ``compute`` seconds."""

    epoch: int
    asks: int = 0
    answered: int = 0
    expired: int = 0
    waited: float = 0.0
    compute: float = 0.0


class Shares:
    """The account of every verifier, and whose turn it is. Reading ``all`` is safe from any thread."""

    def __init__(self) -> None:
        self._shares: OrderedDict[int, Share] = OrderedDict()
        self._finish: dict[int, float] = {}
        self._virtual = 0.0

    def all(self) -> tuple[Share, ...]:
        return tuple(self._shares.copy().values())

    def asked(self, epoch: int) -> None:
        share = self._of(epoch)
        self._put(replace(share, asks=share.asks + 1))
        self._shares.move_to_end(epoch)

    def answered(self, epoch: int, waited: float) -> None:
        share = self._of(epoch)
        self._put(replace(share, answered=share.answered + 1, waited=share.waited + waited))

    def expired(self, epoch: int, waited: float) -> None:
        share = self._of(epoch)
        self._put(replace(share, expired=share.expired + 1, waited=share.waited + waited))

    def used(self, epoch: int, seconds: float) -> None:
        share = self._of(epoch)
        self._put(replace(share, compute=share.compute + seconds))
        self._finish[epoch] = self._start(epoch) + seconds

    def turns(self, epochs: Iterable[int]) -> list[int]:
        """The verifiers in the order in which they are served; the first one's turn begins. One that was away for a
        while saves nothing up."""
        order = sorted(epochs, key=self._start)
        if order:
            self._virtual = max(self._virtual, self._start(order[0]))
        return order

    def _start(self, epoch: int) -> float:
        return max(self._virtual, self._finish.get(epoch, 0.0))

    def _of(self, epoch: int) -> Share:
        return self._shares.get(epoch) or Share(epoch)

    def _put(self, share: Share) -> None:
        self._shares[share.epoch] = share
        if len(self._shares) > VERIFIERS:
            oldest, _ = self._shares.popitem(last=False)
            self._finish.pop(oldest, None)


def jain(amounts: Sequence[float]) -> float:
    """Jain's index of fairness (1984): 1 if all have the same, 1/n if one has everything; 1 if there is nothing."""
    squares = sum(amount * amount for amount in amounts)
    return sum(amounts) ** 2 / (len(amounts) * squares) if squares else 1.0
