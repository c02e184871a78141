"""The rows of one choice, what they would cost and bring, and with whom speculation did not pay."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from experts.speculation import trials
from experts.speculation.acceptance import Floats, Slots
from experts.speculation.costs import Tariff
from experts.speculation.depth import RowView
from experts.speculation.goodput import best_depths
from experts.speculation.rest import another_load
from experts.speculation.stance import Stance
from experts.speculation.watch import Outlook

Ints = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one choice: their ``slots`` [rows], ``room`` [rows], probable ``gains`` [rows, depth], the share of
    drafts that is ``failing`` if so, and prices; ``kinds`` of traffic."""

    slots: Slots
    room: Ints
    gains: Floats
    failing: float
    tariff: Tariff
    kinds: frozenset[str]

    def wanted(self, depths: Ints) -> Ints:
        """Drafts at each position [depth]."""
        wanted: Ints = (depths[:, None] > np.arange(len(self.tariff.supply))).sum(axis=0)
        return wanted

    def verify(self, depths: Ints) -> float:
        """Seconds to verify what comes of these drafts."""
        return float(self.tariff.verify[round(float(self.wanted(depths) @ self.tariff.supply))])

    def pace(self, depths: Ints) -> float:
        """Tokens per second, waits and drafts that do not come included; never below those of plain decoding."""
        plain, deepest = len(self.room) / self.tariff.plain, int(depths.max(initial=0))
        tokens = len(self.room) + float(accepted(self.gains * self.tariff.supply, depths).sum())
        return max(plain, tokens / float(self.verify(depths) + self.tariff.wait[deepest]))

    def horizon(self, depths: Ints) -> float:
        """Seconds to the verdict on them, once they are there."""
        return self.verify(depths) + float(self.tariff.wait[0])

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
        seconds = self.verify(depths) + self.tariff.wait[int(depths.max(initial=0))]
        return float(seconds) / self.tariff.plain - 1.0


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


def failing(gains: Floats) -> float:
    """The share of drafts that is expected to be wrong, where ``gains`` [rows, depth] are the chances that they and all
    before them are right. It is a mean over drafts weighed with just these chances, 1 - sum(g^2) / sum(g), as drafts
    are made where they are likely to be right: what is hopeless does not count. 1 if nobody has room."""
    hoped = float(gains.sum())
    return 1.0 - float((gains * gains).sum()) / hoped if hoped > 0.0 else 1.0


def accepted(gains: Floats, depths: Ints) -> Floats:
    """Tokens that are expected to be accepted [rows]."""
    tokens: Floats = (gains * (np.arange(gains.shape[1]) < depths[:, None])).sum(axis=1)
    return tokens
