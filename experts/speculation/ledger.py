"""What speculation has done per pool, summed over replicas that come, go and restart. Pure: time is passed in.

A replica's counters begin again with each of its lives, its readings may be missed or arrive out of order, and a router
that comes back may show a life that was long out of sight. So a ledger counts growth: each reading adds what is new in
it beyond the most that this life was ever seen to have. The first sight of a life only marks where counting begins,
because the past of a replica is not what happened while somebody watched.
"""

import math
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, zip_longest
from typing import Any

import msgspec

from experts.api import WAIT_BUCKETS, SpeculationState

WINDOW = 60.0
"""Seconds that ``Ledger.recent`` looks back."""
ENOUGH = 50
"""Steps that verified something before their speed is compared with that of plain decoding."""
_MARK = 5.0
"""Seconds between the totals that are kept for looking back."""
_LIVES = 256
"""How many lives that are out of sight are remembered, should they return."""
_NOTHING = SpeculationState()


class Reading(msgspec.Struct, frozen=True):
    """What one life of one replica says of itself."""

    pool: str
    replica: str
    epoch: int
    state: SpeculationState


@dataclass(frozen=True, slots=True)
class Insight:
    """One pool now. ``modes`` counts replicas per mode; ``reason`` is that of the last change into the mode of most of
    them, "" if it was made before anybody watched; ``depth`` is the replicas' mean."""

    modes: Mapping[str, int] = field(default_factory=dict)
    reason: str = ""
    depth: float = 0.0


@dataclass(slots=True)
class _Account:
    """One pool's totals, those of the last ``WINDOW`` seconds in steps of ``_MARK``, and the reason of each mode."""

    total: SpeculationState = _NOTHING
    marks: deque[tuple[float, SpeculationState]] = field(default_factory=deque)
    reasons: dict[str, str] = field(default_factory=dict)
    insight: Insight = field(default_factory=Insight)


class Ledger:
    """Adds readings up. ``absorb`` takes everything that is in sight at one moment."""

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[str, str, int], SpeculationState] = OrderedDict()
        self._accounts: dict[str, _Account] = {}

    def absorb(self, readings: Sequence[Reading], now: float) -> dict[str, SpeculationState]:
        """The growth of every pool in sight since the last call; nothing but zeros at first sight."""
        growth: dict[str, SpeculationState] = {}
        for reading in readings:
            grown = self._grown(reading)
            growth[reading.pool] = added(growth.get(reading.pool, _NOTHING), grown)
            account = self._accounts.setdefault(reading.pool, _Account(marks=deque([(now, _NOTHING)])))
            account.reasons.update(key.partition(":")[::2] for key, count in grown.changes.items() if count)
        for pool, grown in growth.items():
            self._accounts[pool].total = added(self._accounts[pool].total, grown)
        for pool, account in self._accounts.items():
            _remember(account, now)
            account.insight = _insight([each.state for each in readings if each.pool == pool], account.reasons)
        while len(self._seen) > _LIVES + len(readings):
            self._seen.popitem(last=False)
        return growth

    def total(self, pool: str) -> SpeculationState:
        """All that was counted; never falls."""
        account = self._accounts.get(pool)
        return _NOTHING if account is None else account.total

    def recent(self, pool: str) -> SpeculationState:
        """What the last ``WINDOW`` seconds brought, or less if the ledger is younger."""
        account = self._accounts.get(pool)
        return _NOTHING if account is None else growth_between(account.marks[0][1], account.total)

    def insight(self, pool: str) -> Insight:
        account = self._accounts.get(pool)
        return Insight() if account is None else account.insight

    def _grown(self, reading: Reading) -> SpeculationState:
        key = (reading.pool, reading.replica, reading.epoch)
        before = self._seen.pop(key, None)
        if before is None:
            before = reading.state
        elif before == reading.state:
            self._seen[key] = before
            return _NOTHING
        self._seen[key] = _joined(before, reading.state, _most)
        return growth_between(before, reading.state)


def growth_between(before: SpeculationState, after: SpeculationState) -> SpeculationState:
    """What is new in ``after``, counter by counter; where ``after`` has less it is the older one, and nothing is."""
    return _joined(before, after, _new)


def added(one: SpeculationState, other: SpeculationState) -> SpeculationState:
    """Counter by counter; mode and depth are no counters and stay out."""
    return _joined(one, other, lambda left, right: left + right)


def acceptance(state: SpeculationState) -> float | None:
    """The share of drafts that were accepted; None without drafts."""
    drafted = sum(state.drafted)
    return sum(state.accepted) / drafted if drafted else None


def hit_rate(state: SpeculationState) -> float | None:
    """The share of rows that found their drafts made ahead; None if none wanted any."""
    wanted = state.hits + state.misses
    return state.hits / wanted if wanted else None


def speedup(state: SpeculationState) -> float | None:
    """Tokens per second of the steps that verified, over the same without drafts; None where so few did that it says
    nothing, or fewer than a tenth, as those are probes, whose loss is meant.

    A row that drafted brought one token and its accepted drafts, in the time of ``verify`` and ``wait``; without drafts
    one token, in ``plain``. Rows without drafts in such a step are not counted, so that batches in which few rows
    draft look better than they are.
    """
    spent = state.verify + state.wait
    if not (state.drafted and state.drafted[0] and spent and 10 * state.speculated >= state.steps):
        return None
    if state.speculated < ENOUGH:
        return None
    return (1 + sum(state.accepted) / state.drafted[0]) * state.plain / spent


def wait_quantile(waits: Sequence[int], share: float) -> float | None:
    """The wait in seconds that ``share`` of all waits do not exceed, linear inside its bucket, and the last bound if it
    lies above that; None without waits."""
    wanted = share * sum(waits)
    below = 0.0
    for count, (low, high) in zip(waits, pairwise((0.0, *WAIT_BUCKETS, WAIT_BUCKETS[-1])), strict=False):
        if count and below + count >= wanted:
            return low + (high - low) * (wanted - below) / count
        below += count
    return None


def _new(before: float, after: float) -> float:
    grown = after - before
    return grown if 0 < grown < math.inf else 0


def _most(before: float, after: float) -> float:
    return after if before < after < math.inf else before


def _joined(left: SpeculationState, right: SpeculationState, join: Callable[[float, float], float]) -> SpeculationState:
    fields = [name for name in SpeculationState.__struct_fields__ if name not in ("mode", "depth")]
    return SpeculationState(**{name: _both(getattr(left, name), getattr(right, name), join) for name in fields})


def _both(left: Any, right: Any, join: Callable[[float, float], float]) -> Any:
    if isinstance(left, tuple):
        return tuple(join(one, other) for one, other in zip_longest(left, right, fillvalue=0))
    if isinstance(left, dict):
        return {key: join(left.get(key, 0), right.get(key, 0)) for key in {**left, **right}}
    return join(left, right)


def _remember(account: _Account, now: float) -> None:
    """Keep a mark every ``_MARK`` seconds, and as the first the youngest that is ``WINDOW`` old."""
    marks = account.marks
    if now - marks[-1][0] >= _MARK:
        marks.append((now, account.total))
    while len(marks) > 1 and now - marks[1][0] >= WINDOW:
        marks.popleft()


def _insight(states: Sequence[SpeculationState], reasons: Mapping[str, str]) -> Insight:
    if not states:
        return Insight()
    modes = Counter(state.mode for state in states)
    ((mode, _),) = modes.most_common(1)
    past = {key.partition(":")[2] for state in states for key in state.changes if key.partition(":")[0] == mode}
    reason = reasons.get(mode) or (past.pop() if len(past) == 1 else "")
    return Insight(modes, reason, sum(state.depth for state in states) / len(states))
