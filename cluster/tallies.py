"""What the cohorts of an experiment were served, as records that add up: over requests, and over gateways."""

import math
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Literal

import msgspec

from cluster.flags import Cohort

Outcome = Literal["ok", "error", "cancelled"]

_LEAST = 1e-4
_PER_DECADE = 16
_BUCKETS = 7 * _PER_DECADE + 2
"""From 0.1 ms to 1000 s in steps of 15 %, and one bucket on either side."""


class Spread(msgspec.Struct, frozen=True, omit_defaults=True):
    """A distribution of seconds: its exact moments, and counts per bucket (trailing empty ones are left out)."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    buckets: tuple[int, ...] = ()

    def added(self, seconds: float) -> "Spread":
        """With one more value."""
        counts = list(self.buckets)
        at = _bucket(seconds)
        counts.extend([0] * (at + 1 - len(counts)))
        counts[at] += 1
        return Spread(self.count + 1, self.total + seconds, self.squares + seconds * seconds, tuple(counts))

    def joined(self, other: "Spread") -> "Spread":
        """Both together."""
        counts = tuple(mine + theirs for mine, theirs in zip_longest(self.buckets, other.buckets, fillvalue=0))
        return Spread(self.count + other.count, self.total + other.total, self.squares + other.squares, counts)

    @property
    def mean(self) -> float:
        """0 of nothing."""
        return self.total / self.count if self.count else 0.0

    @property
    def variance(self) -> float:
        """Of the values, without bias; 0 of fewer than two."""
        if self.count < 2:
            return 0.0
        return max(0.0, self.squares - self.total * self.mean) / (self.count - 1)

    def quantile(self, share: float) -> float:
        """The value below which ``share`` of all lie, to within a bucket; 0 of nothing."""
        left = share * self.count
        for at, count in enumerate(self.buckets):
            if count and left <= count:
                return _bound(at + left / count)
            left -= count
        return 0.0


class Tally(msgspec.Struct, frozen=True, omit_defaults=True):
    """One cohort of one pool under one version of a flag (``rank``). ``errors`` and ``cancelled`` of the ``requests``
    did not end well; of the structured answers so many were ``valid`` and ``invalid``. The spreads are of requests
    that ended well."""

    flag: str
    rank: tuple[int, int]
    cohort: Cohort
    pool: str
    requests: int = 0
    errors: int = 0
    cancelled: int = 0
    tokens: int = 0
    valid: int = 0
    invalid: int = 0
    first_token: Spread = Spread()
    per_token: Spread = Spread()
    duration: Spread = Spread()

    @property
    def key(self) -> tuple[str, tuple[int, int], Cohort, str]:
        """Tallies with the same key may be joined."""
        return (self.flag, self.rank, self.cohort, self.pool)

    def joined(self, other: "Tally") -> "Tally":
        """Both together; they have the same key."""
        return Tally(
            *self.key,
            requests=self.requests + other.requests,
            errors=self.errors + other.errors,
            cancelled=self.cancelled + other.cancelled,
            tokens=self.tokens + other.tokens,
            valid=self.valid + other.valid,
            invalid=self.invalid + other.invalid,
            first_token=self.first_token.joined(other.first_token),
            per_token=self.per_token.joined(other.per_token),
            duration=self.duration.joined(other.duration),
        )


def joined(tallies: Iterable[Tally]) -> tuple[Tally, ...]:
    """One tally per key."""
    found: dict[tuple[str, tuple[int, int], Cohort, str], Tally] = {}
    for each in tallies:
        known = found.get(each.key)
        found[each.key] = each if known is None else known.joined(each)
    return tuple(found.values())


def of_version(tallies: Sequence[Tally], flag: str, rank: tuple[int, int]) -> tuple[Tally, ...]:
    """Those of one version of one flag."""
    return tuple(each for each in tallies if each.flag == flag and each.rank == rank)


def _bucket(seconds: float) -> int:
    if seconds < _LEAST:
        return 0
    return min(_BUCKETS - 1, 1 + math.floor(math.log10(seconds / _LEAST) * _PER_DECADE))


def _bound(at: float) -> float:
    """Seconds at a place on the scale of buckets; whole numbers are their lower bounds."""
    return float(_LEAST * 10 ** ((at - 1) / _PER_DECADE))
