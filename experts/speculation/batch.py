"""The rows of one choice, what they would cost and bring, and with whom speculation did not pay."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from experts.speculation import trials
from experts.speculation.acceptance import Floats, Slots
from experts.speculation.costs import Demand, Tariff
from experts.speculation.depth import RowView
from experts.speculation.goodput import best_depths
from experts.speculation.rest import another_load
from experts.speculation.stance import Stance
from experts.speculation.watch import Outlook

Ints = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one choice: their ``slots`` [rows], ``room`` [rows], probable ``gains`` [rows, depth], and prices;
    ``kinds`` of traffic."""

    slots: Slots
    room: Ints
    gains: Floats
    tariff: Tariff
    kinds: frozenset[str]

    @property
    def share(self) -> float:
        """Of the rows, how many have room: others are in their prefill, at their end, or may have no drafts."""
        return float(np.count_nonzero(self.room)) / len(self.room)

    def wanted(self, depths: Ints) -> Ints:
        """Drafts at each position [depth]."""
        wanted: Ints = (depths[:, None] > np.arange(len(self.tariff.supply))).sum(axis=0)
        return wanted

    def demand(self, depths: Ints) -> Demand:
        """What drafters are asked for with them. A row is missing unless all its drafts are right."""
        asked = depths > 0
        right = self.gains[asked, depths[asked] - 1]
        return Demand(len(right), int(depths.max(initial=0)), len(right) - float(right.sum()))

    def verify(self, depths: Ints) -> float:
        """Seconds to verify what comes of these drafts."""
        return float(self.tariff.verify[round(float(self.wanted(depths) @ self.tariff.supply))])

    def pace(self, depths: Ints) -> float:
        """Tokens per second, waits and drafts that do not come included; never below those of plain decoding."""
        plain = len(self.room) / self.tariff.plain
        tokens = len(self.room) + float(accepted(self.gains * self.tariff.supply, depths).sum())
        return max(plain, tokens / self._seconds(depths))

    def horizon(self, depths: Ints) -> float:
        """Seconds to the verdict on them, once they are there."""
        return self.verify(depths) + self.tariff.waits.calm

    def ratio(self, depths: Ints) -> float:
        """Their speed against plain."""
        won = float(accepted(self.gains * self.tariff.supply, depths).sum()) / len(depths)
        return (1.0 + won) / (1.0 + self.cost(depths))

    def price(self) -> float:
        """What a probe costs, in plain steps."""
        few = np.zeros_like(self.room)
        few[: trials.AT_ONCE] = min(trials.DEPTH, len(self.tariff.supply))
        return self.cost(few)

    def outlook(self, ratio: float, *, late: bool) -> Outlook:
        """What plain decoding expects. Drafts that were ``late`` are taken to come at once, as they may again."""
        return Outlook(ratio, best_depths(self.gains, self.tariff.timely(wait=not late)).ratio)

    def cost(self, depths: Ints) -> float:
        """Their time beyond a plain step's, in plain steps, before anything is accepted."""
        return self._seconds(depths) / self.tariff.plain - 1.0

    def _seconds(self, depths: Ints) -> float:
        return self.verify(depths) + self.tariff.waits.of(self.demand(depths))


@dataclass(frozen=True, slots=True)
class GivenUp:
    """With so many ``rows`` (0: not at present) speculation was given up, or not begun, and with these ``kinds`` of
    traffic it may not be tried beyond what can be afforded."""

    rows: int = 0
    kinds: frozenset[str] = frozenset()

    def next(self, batch: Batch, stance: Stance, *, changed: bool, debt: bool) -> "GivenUp":
        """After a decision on these rows. While there is ``debt``, no kind is forgotten."""
        if changed:
            kinds = self.kinds if debt else frozenset()
            return GivenUp(0, kinds) if stance.mode != "plain" else GivenUp(len(batch.room), kinds | batch.kinds)
        if stance.mode != "plain" or stance.soon == "speculate":
            return self
        return replace(self, kinds=self.kinds | batch.kinds)

    def foreign(self, batch: Batch) -> bool:
        """Whether there is traffic now of which other things are known, or nothing."""
        return bool(self.rows) and not batch.kinds <= self.kinds

    def another_load(self, rows: int) -> bool:
        """Whether this is a batch size so far from that one that other prices hold."""
        return bool(self.rows) and another_load(rows, self.rows)


def room_of(rows: Sequence[RowView], depth: int) -> Ints:
    """The most drafts each row can have [rows], ``depth`` at most."""
    return np.array([max(0, min(row.room, depth)) for row in rows], np.intp)


def accepted(gains: Floats, depths: Ints) -> Floats:
    """Tokens that are expected to be accepted [rows]."""
    tokens: Floats = (gains * (np.arange(gains.shape[1]) < depths[:, None])).sum(axis=1)
    return tokens
