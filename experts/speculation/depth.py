"""How many drafts to verify: what a choice is made of, and the plain twin that always makes the same one."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol


@dataclass(frozen=True, slots=True)
class RowView:
    """One request before a choice. ``room`` is the most drafts it can use (0: in a prefill, at its end, or it may not
    speculate), ``context`` its length in tokens, ``domain`` the kind of its traffic (a closed set; "" unknown),
    ``strict``: it is inside a segment bound by a grammar or a tool call's form."""

    session: str
    room: int
    context: int
    domain: str = ""
    strict: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one request's drafts in one step: the first ``accepted`` of ``drafted`` were right."""

    session: str
    drafted: int
    accepted: int


def reaching(ends: Sequence[int]) -> tuple[int, ...]:
    """Of so many that end after 0, 1, ... positions: how many reach each position."""
    return tuple(accumulate(ends[:0:-1]))[::-1]


@dataclass(frozen=True, slots=True)
class Timing:
    """One step in which something was decoded, as measured, in seconds.

    ``verify``: from the end of one proposal to the beginning of the next (scheduling, forward pass, sampling, output);
    ``wait``: the proposal, so waiting for drafts included; ``draft``: the part of the wait that drafters computed.
    ``rows`` sequences were decoded with ``tokens`` tokens in all (``rows`` of them if nothing was drafted), over
    ``context`` tokens of history together. Not ``settled``: none of them drafts, but the steps before it had some, or
    were to. Such a step is slower than plain decoding is, as caches hold other things and drafters are still at work
    beside it. Not ``alone``: ``prompt`` tokens of prompts were read beside them, or requests came or went; then
    ``verify`` is the time of the step and of what usually lies between two, whatever lay there this time.
    """

    rows: int
    tokens: int
    context: int
    verify: float
    wait: float
    draft: float = 0.0
    settled: bool = True
    alone: bool = True
    prompt: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """Depth per row, in order, and what each row's drafts are expected to bring in accepted tokens. ``pace`` is how
    many tokens per second are made in the long run, so what a second of waiting costs (0: not known), ``horizon`` the
    seconds until the step's verdict. ``mode`` is what the step does ("plain", "speculate", "probe"), ``reason`` why the
    last change of mode was made. For ``rest`` steps after this one there is nothing to choose (what ends them sooner:
    ``rest.py``): they are plain too, and only counted (see ``Depths.rested``). ``notice``: the rows without drafts
    that may have some soon, so that drafters should know their tokens (None: all). ``kinds``: a request of another kind
    ends the rest when it comes (none: no request does). ``shadows``: how many shadow drafts each row of a plain step is
    to have, to be compared with what it makes (empty: none; see ``shadow.py``)."""

    depths: tuple[int, ...]
    gains: tuple[float, ...]
    pace: float
    horizon: float
    mode: str
    reason: str
    rest: int = 0
    notice: tuple[bool, ...] | None = None
    kinds: frozenset[str] = frozenset()
    shadows: tuple[int, ...] = ()


class Depths(Protocol):
    """Chooses depths from what it is told. Time, in seconds of any monotonic clock, is passed in."""

    def choose(self, rows: Sequence[RowView], now: float) -> Choice: ...

    def rested(self, steps: int, spent: float) -> None:
        """So many ``steps`` have passed that were not asked about. ``spent``: seconds that the choice before them took,
        or 0 if that was told before."""

    def ponder(self) -> None:
        """There is time to spare before the next choice."""

    def judge(self, verdicts: Sequence[Verdict], now: float) -> None: ...

    def compared(self, verdicts: Sequence[Verdict]) -> bool:
        """What would have become of shadow drafts, one at least. Whether that is reason to choose anew at once."""

    def time(self, timing: Timing, now: float) -> None: ...

    def close(self, session: str) -> None: ...


class FixedDepth:
    """The same depth for every row that has room for it. It expects every draft to be accepted and knows no pace, so
    waits are bounded by the deadline alone."""

    def __init__(self, depth: int) -> None:
        self._depth = depth

    def choose(self, rows: Sequence[RowView], now: float) -> Choice:
        del now
        depths = tuple(min(self._depth, row.room) for row in rows)
        gains = tuple(float(depth) for depth in depths)
        return Choice(depths, gains, pace=0.0, horizon=float("inf"), mode="speculate", reason="fixed")

    def rested(self, steps: int, spent: float) -> None:
        """It is all the same."""

    def ponder(self) -> None:
        """There is nothing to ponder."""

    def judge(self, verdicts: Sequence[Verdict], now: float) -> None:
        """Nothing is learned."""

    def compared(self, verdicts: Sequence[Verdict]) -> bool:
        """Nothing is learned."""
        del verdicts
        return False

    def time(self, timing: Timing, now: float) -> None:
        """Nothing is learned."""

    def close(self, session: str) -> None:
        """Nothing is kept."""
