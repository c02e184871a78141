"""What a step takes: the verifier's time by the step's shape, and the wait for drafts, learnt from measured steps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from experts.speculation.depth import Timing, reaching
from experts.speculation.forward import Decoded, Experts, Forward, bucket
from experts.speculation.surface import Cell, Floats, Surface

Number = TypeVar("Number", float, Floats)

LONGEST = 3600.0
"""Seconds. No step takes longer; a clock that says so is wrong."""
MANY = 1 << 40
"""Tokens. As above."""
SHADES = 4
"""How finely it is told apart what share of rows is missing (see ``Demand``)."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What drafters are asked for in a step: drafts for ``rows``, up to the ``deepest``. ``missing`` is how many of
    these rows are expected to have a draft that fails: then what was made ahead for the row is in vain."""

    rows: int = 0
    deepest: int = 0
    missing: float = 0.0


@dataclass(frozen=True, slots=True)
class Waits:
    """Seconds waited in a step: ``calm`` if nobody asks, else ``base`` and what each level of depth, each row and each
    missing row takes (see ``Demand``)."""

    calm: float = 0.0
    base: float = 0.0
    level: float = 0.0
    row: float = 0.0
    miss: float = 0.0

    def seconds(self, rows: Number, deepest: Number, missing: Number) -> Number:
        """Of one demand, or of many."""
        seconds: Number = self.base + self.level * deepest + self.row * rows + self.miss * missing
        return seconds

    def of(self, demand: Demand) -> float:
        return self.seconds(demand.rows, demand.deepest, demand.missing) if demand.rows else self.calm


@dataclass(frozen=True, slots=True)
class Tariff:
    """What a step of so many rows costs, in seconds: ``verify`` [rows * depth + 1] by the drafts verified in all, which
    never falls, and ``waits``. ``supply`` [depth] is the share of drafts at each position that come when asked for."""

    verify: Floats
    waits: Waits
    supply: Floats

    @property
    def plain(self) -> float:
        """A step without drafts."""
        return float(self.verify[0]) + self.waits.calm

    def timely(self, *, wait: bool) -> "Tariff":
        """The same if all drafts came, after the usual wait or at once."""
        waits = self.waits if wait else Waits(self.waits.calm, self.waits.calm)
        return Tariff(self.verify, waits, np.ones_like(self.supply))


class Costs:
    """Learns from ``Timing`` and quotes a ``Tariff``. Nonsense (negative, infinite, absurd) is not learnt from."""

    def __init__(self, depth: int, experts: Experts | None = None) -> None:
        self._depth = depth
        self._forward = Forward(depth, experts)
        self._wait = Surface((1e-4, 1e-4, 1e-3, 1e-3), age=50.0, least=False)
        self._calm, self._look = Cell((0, 0)), Cell((0, 0))
        self._supply = [1.0] * depth
        self.dry = 0
        self._quoted: tuple[tuple[object, ...], Floats] | None = None
        self.steps = 0

    def learn(self, timing: Timing, demand: Demand) -> None:
        """A measured step, and what had been asked of drafters before."""
        if not sound(timing) or not 0.0 <= demand.missing <= demand.rows:
            return
        if self._forward.learn(timing):
            self.steps += 1
        elif not timing.alone:
            return
        if demand.rows > 0 and demand.deepest > 0:
            key = (bucket(demand.rows), demand.deepest, round(SHADES * demand.missing / demand.rows))
            self._wait.learn(key, (1.0, float(demand.deepest), float(demand.rows), demand.missing), timing.wait)
        else:
            self._calm.learn(timing.wait, self.steps)

    def decoded(self, timing: Timing) -> Decoded | None:
        """What decoding took in a step, waits included; None if that cannot be told."""
        found = self._forward.decoded(timing)
        if found is None:
            return None
        plain = None if found.plain is None else found.plain + self._calm.mean
        return Decoded(found.seconds + timing.wait, plain)

    @property
    def scarce(self) -> bool:
        """Whether hardly a step is one that only decodes."""
        return self._forward.scarce

    @property
    def blind(self) -> bool:
        """Whether it is not known either what the others take."""
        return self._forward.scarce and not self._forward.busy

    def looked(self, seconds: float) -> None:
        """A choice with which plain decoding went on took so long."""
        if 0.0 < seconds < LONGEST:
            self._look.learn(seconds, self.steps)

    @property
    def look(self) -> float:
        """Seconds that such a choice costs: those that it takes, and about as many by which the steps after it are
        longer, as caches hold other things."""
        return 2.0 * self._look.mean

    def supply(self, wanted: Sequence[int], came: Sequence[int]) -> None:
        """Drafts ``wanted`` for each row in one step, and those that ``came``, in any order. A position nobody asked
        for is slowly believed to be as good as the one before it; when drafts come again after a drought, all are."""
        if any(came):
            if self.dry > 1:
                self._supply = [1.0] * self._depth
            self.dry = 0
        else:
            self.dry += 1
        if self._supply[-1] > 0.999 and sum(wanted) == sum(came):
            return
        nearest, supply = 1.0, []
        for share, asked, got in zip(self._supply, self._reached(wanted), self._reached(came), strict=True):
            change = (min(got / asked, 1.0) - share) / 6 if asked else (nearest - share) / 10
            nearest = min(share + change, nearest)
            supply.append(nearest)
        self._supply = supply

    def tariff(self, rows: int, context: int) -> Tariff:
        """Prices for so many rows with so many tokens of history together."""
        known = (rows, bucket(context), self._forward.version)
        if self._quoted is None or self._quoted[0] != known:
            self._quoted = (known, self._forward.quote(rows, context))
        waits = self._wait.coefficients.tolist()
        calm = min(self._calm.mean, Waits(0.0, *waits).of(Demand(rows, 1)))
        return Tariff(self._quoted[1], Waits(calm, *waits), np.array(self._supply) * 0.5 ** max(self.dry - 1, 0))

    def age(self, rows: int) -> int | None:
        """Measured steps since so many rows were last run without drafts; None if they hardly ever were."""
        return self._forward.age(rows)

    def _reached(self, depths: Sequence[int]) -> tuple[int, ...]:
        """How many of these [rows] reach each position [depth]."""
        ends = [0] * (self._depth + 1)
        for depth in depths:
            ends[min(depth, self._depth)] += 1
        return reaching(ends)


def sound(timing: Timing) -> bool:
    """Whether it makes sense at all."""
    seconds, read = (timing.verify, timing.wait), (timing.context, timing.prompt)
    if not all(map(math.isfinite, seconds)) or not 0 < timing.verify < LONGEST or not 0 <= timing.wait < LONGEST:
        return False
    return 0 < timing.rows <= timing.tokens < MANY and min(read) >= 0 and max(read) < MANY
