"""What a step takes: the verifier's time by the step's shape, and the wait for drafts, learnt from measured steps.

Steps of like shape share a cell: a robust, decayed mean. A plane through the cells (least squares, no coefficient below
0) says what other shapes would take, and what the cells near a shape know better than the plane corrects it. So a shape
that was seen long ago is still known, one outlier moves little, and a lasting change is followed in a dozen steps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from experts.speculation.depth import Timing

Floats = NDArray[np.float64]
Tokens = TypeVar("Tokens", float, Floats)
Number = TypeVar("Number", float, Floats)

Key = tuple[int, ...]

CELLS = 64
"""Shapes remembered at once; the one not seen for longest makes room."""
MEMORY = 12
"""Steps over which a cell's mean is taken."""
SHARP = 4.0
"""Residuals beyond so many mean residuals are cut to that."""
CHANGED = 5
"""So many surprises in a row, all above or all below, mean that it has changed for good."""
KNOWN = 3
"""Measurements from which on a cell is one to rely on."""
HALF = 64
"""Steps after which what a cell has seen counts half against the next measurement."""
REFIT = 8
"""Steps between two fits if nothing surprises, or something does only once."""
LONGEST = 3600.0
"""Seconds. No step takes longer; a clock that says so is wrong."""
MANY = 1 << 40
"""Tokens. As above."""
GUESS = 0.01
"""Seconds a step is believed to take before one was measured."""
NOTHING = 1e-9
"""Features smaller than this everywhere, which rounding leaves of a probability, are as good as 0."""
SHADES = 4
"""How finely it is told apart what share of rows is missing (see ``Demand``)."""


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture-of-experts verifier: each token runs ``chosen`` of ``count`` experts."""

    count: int
    chosen: int

    def distinct(self, tokens: Tokens) -> Tokens:
        """Experts that so many tokens are expected to activate together, as a share of all. Verifying more tokens loads
        more experts, which is what makes speculation dear on such models (arXiv:2506.20675)."""
        left: Tokens = (1.0 - min(self.chosen / self.count, 1.0)) ** tokens
        return 1.0 - left


@dataclass(slots=True)
class Cell:
    """A robust, decayed mean of measurements: ``seen`` of them, the last at step ``last``; ``spread`` is their mean
    absolute residual, ``features`` the mean of theirs. ``run`` counts surprises in a row, above or (negative) below.
    With ``least`` it begins as the least of a few, as what disturbs a step only makes it longer, and with no spread;
    else as their mean, and spread by half of the first."""

    key: Key
    least: bool = True
    features: list[float] = field(default_factory=list)
    mean: float = 0.0
    spread: float = 0.0
    seen: int = 0
    last: int = 0
    run: int = 0

    def learn(self, value: float, step: int, *, features: Sequence[float] = (), slope: Sequence[float] = ()) -> None:
        """Take one more measurement in. After some surprises in a row, all is begun anew. ``slope`` [features] is what
        is expected of features other than the mean."""
        if not self.seen or abs(self.run) >= CHANGED:
            self.mean, self.spread, self.seen, self.run = value, 0.5 * value, 0, 0
            self.features = list(features)
        changes = [new - old for old, new in zip(self.features, features, strict=True)]
        shift = sum(map(float.__mul__, slope, changes))
        error, limit = value - self.mean - shift, SHARP * self.spread + 0.02 * self.mean
        surprise = abs(error) > 0.5 * limit
        self.run = (max(self.run, 0) + 1 if error > 0 else min(self.run, 0) - 1) if surprise else 0
        if self.seen > KNOWN:
            self.seen = max(KNOWN, round(min(self.seen, MEMORY) * 0.5 ** min((step - self.last) / HALF, 32.0)))
        weight = max(1.0 / (self.seen + 1), 1.0 / MEMORY)
        unsure = self.least and self.seen < KNOWN
        moved = min(error, 0.0) if unsure else weight * max(-limit, min(error, limit))
        self.mean = max(0.0, self.mean + moved + weight * shift)
        if self.seen or self.least:
            self.spread += weight * (min(abs(error), 2 * limit) - self.spread)
        self.features = [old + weight * change for old, change in zip(self.features, changes, strict=True)]
        self.seen, self.last = self.seen + 1, step

    @property
    def weight(self) -> float:
        """How far the mean is to be relied on; a single measurement, which may be an outlier, hardly."""
        return min(self.seen, MEMORY) if self.seen > 1 else 0.1


class Surface:
    """A measured quantity over a few non-negative features, none of which may make it smaller.

    ``stiff`` [features] are the relative weights of the prior that each feature is worth nothing: where measurements
    cannot tell features apart, the least stiff explains them. A cell that is not seen again for ``age`` measurements
    weighs a third; ``least`` as in ``Cell``. ``version`` changes whenever the answers do.
    """

    def __init__(self, stiff: Sequence[float], *, age: float, least: bool = True) -> None:
        self._stiff = np.diag(stiff)
        self._age, self._least = age, least
        self._cells: dict[Key, Cell] = {}
        self._step = 0
        self.version = 0
        self.coefficients: Floats = np.zeros(len(stiff))

    def learn(self, key: Key, features: Sequence[float], value: float) -> None:
        """One measurement at ``features`` [features], which belongs to the cell ``key``."""
        self._step += 1
        cell = self._cells.get(key)
        if cell is None:
            if len(self._cells) >= CELLS:
                del self._cells[min(self._cells.values(), key=lambda each: each.last).key]
            cell = self._cells[key] = Cell(key, self._least)
            value = self._plausible(features, value)
        cell.learn(value, self._step, features=features, slope=self.coefficients.tolist())
        if abs(cell.run) in (2, CHANGED) or cell.seen in (1, 2, 4) or self._step % REFIT == 0:
            self._fit()

    def cells(self, first: int) -> list[tuple[int, float]]:
        """The known cells whose keys begin with ``first``, in order: (second, their share of what the plane says). Few
        measurements move a share less, a single one not at all."""
        shares = []
        for cell in sorted((cell for cell in self._cells.values() if cell.key[0] == first), key=lambda each: each.key):
            plane = sum(map(float.__mul__, cell.features, self.coefficients.tolist()))
            seen = min(cell.seen, MEMORY)
            share = max(0.5, min(cell.mean / plane, 2.0)) if plane > 0 else 1.0
            shares.append((cell.key[1], 1.0 + (share - 1.0) * (seen - 1.0) / (seen + 1.0)))
        return shares

    def age(self, key: Key) -> int | None:
        """Measurements since the last one in this cell; None if it is hardly known."""
        cell = self._cells.get(key)
        return None if cell is None or cell.seen < KNOWN else self._step - cell.last

    def _plausible(self, features: Sequence[float], value: float) -> float:
        """The first measurement of a shape, cut to twice what the plane says: it may be an outlier and counts alone."""
        plane = sum(map(float.__mul__, features, self.coefficients.tolist()))
        return value if len(self._cells) <= len(features) or plane <= 0 else min(value, 2.0 * plane)

    def _fit(self) -> None:
        """Weighted least squares; coefficients that come out negative are left out, the worst first, and become 0."""
        cells = self._cells.values()
        values = np.array([cell.mean for cell in cells])
        weights = np.array([cell.weight * math.exp((cell.last - self._step) / self._age) for cell in cells])
        points = np.array([cell.features for cell in cells])
        scale, unit = points.max(axis=0), float(values.max())
        if unit <= 0.0:
            return
        scale[scale < NOTHING] = 1.0
        points /= scale
        weighed = points.T * (weights / weights.sum())
        shape, pull = weighed @ points + self._stiff, weighed @ (values / unit)
        free = list(range(len(pull)))
        fit = np.linalg.solve(shape, pull)
        while fit.min(initial=0.0) < 0.0:
            del free[int(fit.argmin())]
            fit = np.linalg.solve(shape[np.ix_(free, free)], pull[free])
        self.coefficients = np.zeros(len(pull))
        self.coefficients[free] = fit * unit / scale[free]
        self.version += 1


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
        self._depth, self._experts = depth, experts
        self._verify = Surface((1e-5, 1e-4, 1e-3, 1e-4 if experts else 1.0, 1e-3, 1e-3), age=400.0)
        self._wait = Surface((1e-4, 1e-4, 1e-3, 1e-3), age=50.0, least=False)
        self._calm, self._look = Cell((0, 0)), Cell((0, 0))
        self._supply = [1.0] * depth
        self.dry = 0
        self._quoted: tuple[tuple[int, ...], Floats] | None = None
        self.steps = 0

    def learn(self, timing: Timing, demand: Demand) -> None:
        """A measured step, and what had been asked of drafters before."""
        if not sound(timing) or not 0.0 <= demand.missing <= demand.rows:
            return
        rows, drafts = timing.rows, timing.tokens - timing.rows
        experts = self._experts.distinct(timing.tokens) if self._experts else 0.0
        features = (1.0, float(rows), float(drafts), experts, float(timing.context), float(drafts > 0))
        if drafts or timing.settled:
            self.steps += 1
            self._verify.learn((_bucket(rows), _bucket(1 + drafts)), features, timing.verify)
        if demand.rows > 0 and demand.deepest > 0:
            key = (_bucket(demand.rows), demand.deepest, round(SHADES * demand.missing / demand.rows))
            self._wait.learn(key, (1.0, float(demand.deepest), float(demand.rows), demand.missing), timing.wait)
        else:
            self._calm.learn(timing.wait, self.steps)

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
        known = (rows, _bucket(context), self._verify.version)
        if self._quoted is None or self._quoted[0] != known:
            self._quoted = (known, self._verified(rows, context))
        waits = self._wait.coefficients.tolist()
        calm = min(self._calm.mean, Waits(0.0, *waits).of(Demand(rows, 1)))
        return Tariff(self._quoted[1], Waits(calm, *waits), np.array(self._supply) * 0.5 ** max(self.dry - 1, 0))

    def age(self, rows: int) -> int | None:
        """Measured steps since so many rows were last run without drafts; None if they hardly ever were."""
        return self._verify.age((_bucket(rows), 0))

    def _reached(self, depths: Sequence[int]) -> list[int]:
        """How many of these [rows] reach each position [depth]."""
        ends = [0] * (self._depth + 1)
        for depth in depths:
            ends[min(depth, self._depth)] += 1
        return [len(depths) - ended for ended in accumulate(ends[:-1])]

    def _verified(self, rows: int, context: int) -> Floats:
        """Seconds by drafts verified, [rows * depth + 1]: never less for more."""
        drafts = np.arange(rows * self._depth + 1, dtype=np.float64)
        if not self.steps:
            return np.full_like(drafts, GUESS)
        base, row, draft, expert, history, verifies = self._verify.coefficients.tolist()
        plane = base + row * rows + history * context + draft * drafts
        plane[1:] += verifies
        if self._experts:
            plane += expert * self._experts.distinct(drafts + rows)
        if shares := self._verify.cells(_bucket(rows)):
            places, values = zip(*shares, strict=True)
            plane *= np.interp(2.0 * np.log2(1.0 + drafts), places, values)
        verify: Floats = np.maximum(np.maximum.accumulate(plane), 1e-9)
        return verify


def sound(timing: Timing) -> bool:
    """Whether it makes sense at all."""
    seconds = (timing.verify, timing.wait)
    if not all(map(math.isfinite, seconds)) or not 0 < timing.verify < LONGEST or not 0 <= timing.wait < LONGEST:
        return False
    return 0 < timing.rows <= timing.tokens < MANY and 0 <= timing.context < MANY


def _bucket(number: int) -> int:
    """Numbers that differ by a fifth or so share a bucket: half powers of two, 0 for one."""
    return round(2 * math.log2(max(number, 1)))
