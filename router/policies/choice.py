"""Which replica of a pool takes a request: pure functions over candidates, one per policy."""

from collections.abc import Sequence
from random import Random

import msgspec


class Candidate(msgspec.Struct, frozen=True):
    """A live replica at the moment of the choice. ``load`` requests are reserved of the ``room`` it has in all."""

    replica: str
    load: int
    room: int
    kv_use: float

    @property
    def pressure(self) -> tuple[float, float, str]:
        """Orders candidates: share of the room taken, then memory taken, then name so that ties are stable."""
        return (self.load / self.room, self.kv_use, self.replica)


def least_loaded(candidates: Sequence[Candidate]) -> Candidate | None:
    """The candidate with the largest share of its room free; None if all are full."""
    free = [each for each in candidates if each.load < each.room]
    return min(free, key=lambda each: each.pressure, default=None)


def power_of_two(candidates: Sequence[Candidate], random: Random) -> Candidate | None:
    """The less loaded of two drawn at random (Mitzenmacher 2001): good enough on a stale snapshot, where always
    taking the least loaded would send everybody to the same replica."""
    if not candidates:
        return None
    drawn = random.sample(list(candidates), k=min(2, len(candidates)))
    return min(drawn, key=lambda each: each.pressure)
