"""How likely drafts are accepted: per request and position, from what became of the earlier ones.

The probability that draft i is accepted given that draft i-1 was is one minus a hazard. The hazard's shape over
positions belongs to the kind of traffic, the request scales it (proportional hazards), and what the request itself has
shown at a position outweighs both. Evidence decays, so a long output whose acceptance changes is followed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from experts.speculation.depth import RowView, Verdict

Floats = NDArray[np.float64]
Slots = NDArray[np.intp]

OPTIMISM = 0.7
"""What is expected of traffic nobody has seen: enough to begin."""
BELIEF = 6.0
"""How many first drafts that counts for, and half as many at each further position; forgotten like those seen."""
DECAY = 0.96
"""What a request's evidence keeps at each further verdict."""
FADE = 0.98
"""What evidence keeps besides, per step without drafts, once a new verdict comes in."""
PRIOR = 6.0
"""Weight of the expectation, in drafts, against what a request showed at one position."""
FRAILTY = 4.0
"""Weight, in failed drafts, of the belief that a request is like its domain."""
SHARED = 48.0
"""How many first drafts a domain remembers."""
SPAN = 6.0
"""How many steps' first drafts it remembers at least, when a step has many."""
CERTAIN = 16.0
"""How many first drafts it remembers at least, however long ago."""
DRIFT = 0.15
"""How far a domain may move before what a request showed earlier counts less."""
SHOCK = 1.25
"""Mean surprise, in standard deviations over the last few verdicts, beyond which evidence is kept by half only."""
RECENT = 0.25
"""Weight of the newest verdict in that mean."""
SLACK = 0.1
"""How far off a rate may be without a surprise."""
LIMIT = 2048
"""Requests remembered at once; beyond that the oldest is forgotten, so a request that is never closed leaks nothing."""
KINDS = 64
"""Domains told apart at most; later ones count as unknown traffic."""


@dataclass(slots=True)
class _Domain:
    """Decayed counts per position of a kind of traffic, ``tries`` and ``hits`` [depth]; ``rates`` [depth] is what they
    come to, ``shock`` how surprising the last steps were."""

    tries: list[float]
    hits: list[float]
    rates: list[float]
    last: int = 0
    shock: float = 0.0

    def learn(self, tries: Sequence[float], hits: Sequence[float], step: int, steps: int) -> None:
        """Counts of so many ``steps``, the last of them ``step``."""
        weight = self.tries[0]
        number = sum(tries) / steps
        due = sum(tried * (1.0 - rate) for tried, rate in zip(tries, self.rates, strict=True)) / steps
        spread = due * (1.0 - due / number) + (SLACK * number) ** 2 + 0.05
        newest = 1.0 - (1.0 - RECENT) ** steps
        self.shock += newest * ((number - sum(hits) / steps - due) / spread**0.5 - self.shock)
        fade = max(FADE ** min(max(step - self.last - steps, 0), 1000), min(1.0, CERTAIN / weight))
        keep = fade * min(1.0, max(SHARED, SPAN * tries[0] / steps) / (fade * weight + tries[0]))
        if abs(self.shock) > SHOCK:
            keep *= 0.5
        self.tries = [old * keep + new for old, new in zip(self.tries, tries, strict=True)]
        self.hits = [old * keep + new for old, new in zip(self.hits, hits, strict=True)]
        self.last = step
        rate, rates = OPTIMISM, []
        for tried, hit in zip(self.tries, self.hits, strict=True):
            rate = (hit + 2.0 * rate) / (tried + 2.0)
            rates.append(rate)
        self.rates = rates


class _Table:
    """Per slot: decayed ``counts`` [2, depth] of drafts verified and accepted, its ``domain``, the rate of that when
    the evidence was gathered (``level``), the recent ``shock``, the step of the last verdict (``last``), and the latest
    ``rates`` [depth] and ``trust``."""

    def __init__(self, depth: int) -> None:
        slots = 2 * LIMIT
        self.counts = np.zeros((slots, 2, depth))
        self.domain = np.zeros(slots, np.intp)
        self.level, self.shock, self.trust = np.zeros(slots), np.zeros(slots), np.ones(slots)
        self.last = np.zeros(slots, np.int64)
        self.rates = np.full((slots, depth), OPTIMISM)

    def clear(self, slot: int, domain: int, rates: Floats, step: int) -> None:
        """Somebody new."""
        self.counts[slot] = self.shock[slot] = 0.0
        self.domain[slot], self.level[slot], self.trust[slot], self.last[slot] = domain, rates[0], 1.0, step
        self.rates[slot] = rates


@dataclass(slots=True)
class _Sessions:
    """Which slot a request has; ``strict`` segments have their own. ``current`` is the one it was last seen in."""

    free: dict[str, int] = field(default_factory=dict)
    strict: dict[str, int] = field(default_factory=dict)
    current: dict[str, int] = field(default_factory=dict)

    def pop(self, session: str) -> list[int]:
        self.current.pop(session, None)
        return [names.pop(session) for names in (self.free, self.strict) if session in names]


class Acceptance:
    """Acceptance of drafts at positions 0..``depth``-1. ``step`` counts choices; it only grows."""

    def __init__(self, depth: int) -> None:
        self._positions = np.arange(depth)
        self._table = _Table(depth)
        self._vacant = list(range(2 * LIMIT - 1, -1, -1))
        self._sessions = _Sessions()
        self._kinds: dict[tuple[str, bool], int] = {}
        self._domains: list[_Domain] = []
        self._rates: Floats = np.zeros((0, depth))
        self._kind("", strict=False)

    def __len__(self) -> int:
        return len(self._sessions.current)

    def slots(self, rows: Sequence[RowView], step: int) -> Slots:
        """The places of these requests [rows], new ones made as needed."""
        names = (self._sessions.free, self._sessions.strict)
        current = self._sessions.current
        found = []
        for row in rows:
            slot = names[row.strict].get(row.session)
            if slot is None:
                slot = self._make(row, step)
            current[row.session] = slot
            found.append(slot)
        return np.array(found, np.intp)

    def rates(self, slots: Slots) -> Floats:
        """Conditional probabilities [rows, depth], each strictly between 0 and 1."""
        table = self._table
        domain = self._rates[table.domain[slots]]
        moved = np.abs(domain[:, 0] - table.level[slots])
        trust = np.clip(1.0 - 4.0 * (moved - DRIFT), 0.0, 1.0)
        counts = table.counts[slots] * trust[:, None, None]
        tries, hits = counts[:, 0], counts[:, 1]
        hazard = 1.0 - domain
        sums = counts.sum(axis=2)
        due = (tries * hazard).sum(axis=1)
        frailty = (sums[:, 0] - sums[:, 1] + FRAILTY) / (due + FRAILTY)
        expected = 1.0 - np.minimum(hazard * frailty[:, None], 0.99)
        rates: Floats = (hits + PRIOR * expected) / (tries + PRIOR)
        table.rates[slots], table.trust[slots] = rates, trust
        return rates

    def judged(self, verdicts: Sequence[Verdict]) -> tuple[list[int], list[Verdict]]:
        """The verdicts that teach something, and whose they are: drafts were verified of a request that is known."""
        current = self._sessions.current
        known = [verdict for verdict in verdicts if verdict.drafted > 0 and verdict.session in current]
        return [current[verdict.session] for verdict in known], known

    def learn(self, found: Sequence[int], known: Sequence[Verdict], step: int) -> None:
        """What ``judged`` found, at least one; of a few steps, if it is many of one request."""
        depth, table = len(self._positions), self._table
        drafted = [min(verdict.drafted, depth) for verdict in known]
        accepted = [max(0, min(verdict.accepted, limit)) for verdict, limit in zip(known, drafted, strict=True)]
        tried = [min(right + 1, limit) for right, limit in zip(accepted, drafted, strict=True)]
        ends = np.array([tried, accepted])
        counts = (self._positions < ends.T[:, :, None]).astype(np.float64)
        slots, counts, ends, times = _together(np.array(found, np.intp), counts, ends)
        idle = np.clip(step - times - table.last[slots], 0, 1000)
        keep = (DECAY**times * FADE**idle * table.trust[slots]) * self._steady(slots, counts[:, 0], ends, times)
        learnt = table.counts[slots] * keep[:, None, None] + counts
        table.counts[slots], table.last[slots] = learnt, step
        domains = table.domain[slots]
        kinds = set(domains.tolist())
        for kind in kinds:
            own = slice(None) if len(kinds) == 1 else domains == kind
            tries, hits = counts[own].sum(axis=0).tolist()
            self._domains[kind].learn(tries, hits, step, int(times[own].max()))
            self._rates[kind] = self._domains[kind].rates
        level = table.level[slots]
        table.level[slots] = level + (self._rates[domains, 0] - level) * counts[:, 0, 0] / learnt[:, 0, 0]

    def close(self, session: str) -> Slots:
        """Forget a request; the slots that are vacant now. Its domain remembers what it taught."""
        slots = self._sessions.pop(session)
        self._vacant.extend(slots)
        return np.array(slots, np.intp)

    def _steady(self, slots: Slots, tries: Floats, ends: Slots, times: Slots) -> Floats:
        """What is kept of a request's evidence [rows]: all, or half of it while its verdicts surprise: many standard
        deviations more (or fewer) drafts failed than was due. Rates a little off are no surprise. ``ends`` [2, rows]
        are the drafts verified and accepted in so many verdicts (``times`` [rows]), ``tries`` [rows, depth] the former
        by position."""
        table = self._table
        number, failed = ends[0] / times, (ends[0] - ends[1]) / times
        due = ((1.0 - table.rates[slots]) * tries).sum(axis=1) / times
        spread = due * (1.0 - due / number) + (SLACK * number) ** 2 + 0.05
        newest = 1.0 - (1.0 - RECENT) ** times
        shock = table.shock[slots] * (1.0 - newest) + newest * (failed - due) / np.sqrt(spread)
        table.shock[slots] = shock
        return np.where(np.abs(shock) > SHOCK, 0.5, 1.0)

    def _make(self, row: RowView, step: int) -> int:
        if len(self._sessions.current) >= LIMIT and row.session not in self._sessions.current:
            self.close(next(iter(self._sessions.current)))
        slot = self._vacant.pop()
        kind = self._kind(row.domain, strict=row.strict)
        self._table.clear(slot, kind, self._rates[kind], step)
        (self._sessions.strict if row.strict else self._sessions.free)[row.session] = slot
        return slot

    def _kind(self, domain: str, *, strict: bool) -> int:
        kind = self._kinds.get((domain, strict))
        if kind is None:
            if len(self._kinds) >= KINDS:
                return 0
            kind = self._kinds[domain, strict] = len(self._domains)
            depth = len(self._positions)
            tries = [BELIEF * 0.5**position for position in range(depth)]
            self._domains.append(_Domain(tries, [OPTIMISM * each for each in tries], [OPTIMISM] * depth))
            self._rates = np.array([each.rates for each in self._domains])
        return kind


def _together(slots: Slots, counts: Floats, ends: Slots) -> tuple[Slots, Floats, Slots, Slots]:
    """Each slot once, with the sums of its ``counts`` [rows, 2, depth] and ``ends`` [2, rows], and of how many."""
    if len(set(slots.tolist())) == len(slots):
        return slots, counts, ends, np.ones_like(slots)
    found, places, times = np.unique(slots, return_inverse=True, return_counts=True)
    summed, last = np.zeros((len(found), *counts.shape[1:])), np.zeros((2, len(found)), ends.dtype)
    np.add.at(summed, places, counts)
    np.add.at(last.T, places, ends.T)
    return found, summed, last, times
