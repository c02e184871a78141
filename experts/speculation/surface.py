"""What is learnt of a quantity that depends on a step's shape, from measurements that are noisy, few and soon old.

Like shapes share a cell: a robust, decayed mean. A plane through the cells (least squares, no coefficient below 0) says
what other shapes would take, and what the cells near a shape know better than the plane corrects it. So a shape that
was seen long ago is still known, one outlier moves little, and a lasting change is followed in a dozen steps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Key = tuple[int, ...]

CELLS = 64
"""Shapes remembered at once; the one not seen for longest makes room, but those whose key has 0 in second place, with
which all others are compared, only for each other."""
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
TINY = 0.05
"""Share of the largest value below which small ones do not count for more, where errors are relative."""
NOTHING = 1e-9
"""Features smaller than this everywhere, which rounding leaves of a probability, are as good as 0."""


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
    weighs a third; ``least`` as in ``Cell``. ``relative``: a cell counts by the share of its mean that it is
    missed by. ``version`` changes whenever the answers do.
    """

    def __init__(self, stiff: Sequence[float], *, age: float, least: bool = True, relative: bool = False) -> None:
        self._stiff = np.diag(stiff)
        self._age, self._least, self._relative = age, least, relative
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
                del self._cells[min(self._cells.values(), key=lambda each: (each.key[1] == 0, each.last)).key]
            cell = self._cells[key] = Cell(key, self._least)
            value = self._plausible(features, value)
        cell.learn(value, self._step, features=features, slope=self.coefficients.tolist())
        if abs(cell.run) in (2, CHANGED) or cell.seen in (1, 2, 4) or self._step % REFIT == 0:
            self._fit()

    def cells(self, first: int) -> list[tuple[int, float]]:
        """The known cells whose keys begin with ``first``, in order: (second, their share of what the plane says, the
        mean of those that differ in what follows). Few measurements move a share less, a single one not at all."""
        found: dict[int, tuple[float, float]] = {}
        for cell in sorted((cell for cell in self._cells.values() if cell.key[0] == first), key=lambda each: each.key):
            plane = sum(map(float.__mul__, cell.features, self.coefficients.tolist()))
            seen = min(cell.seen, MEMORY)
            share = max(0.5, min(cell.mean / plane, 2.0)) if plane > 0 else 1.0
            others, before = found.get(cell.key[1], (0.0, 0.0))
            found[cell.key[1]] = (others + seen, before + seen * share)
        return [
            (second, 1.0 + (whole / seen - 1.0) * (seen - 1.0) / (seen + 1.0))
            for second, (seen, whole) in found.items()
        ]

    def age(self, *keys: Key) -> int | None:
        """Measurements since the last one in these cells; None if they are hardly known, together."""
        cells = [cell for key in keys if (cell := self._cells.get(key))]
        known = sum(cell.seen for cell in cells) >= KNOWN
        return self._step - max(cell.last for cell in cells) if known else None

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
        if self._relative:
            weights /= np.maximum(values / unit, TINY) ** 2
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
