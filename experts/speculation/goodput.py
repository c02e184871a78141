"""Which drafts to verify, as pure functions over what is known: the choice with the most tokens per second.

Goodput as the objective, batch and acceptance together, is TurboSpec's (arXiv:2406.14066).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experts.speculation.costs import Tariff
from experts.speculation.surface import Floats

LEAST = 0.01
"""Tokens. A draft that is expected to bring less is not worth a place in a step."""
FLAT = 0.002
"""Share of a plain step's time that is no reason to draft less deeply."""


@dataclass(frozen=True, slots=True)
class Plan:
    """``depths`` [rows] and what they are expected to come to: ``accepted`` tokens beyond one per row in ``seconds``,
    of which ``verify`` without waiting. ``ratio`` is its speed against a plain step's."""

    depths: NDArray[np.intp]
    accepted: float
    verify: float
    seconds: float
    ratio: float


def best_depths(gains: Floats, tariff: Tariff) -> Plan:
    """The depths with the highest goodput, of those that are not all 0. ``gains`` [rows, depth] are the probabilities
    that a row's draft, and all before it, are accepted: they never rise along a row; 0 where a row has no room.

    For every limit on the deepest draft the drafts are added in the order of their gains, best first.
    """
    rows, depth = gains.shape
    flat = gains.ravel()
    order = (-flat).argsort(kind="stable")[: np.count_nonzero(flat > LEAST)]
    if not order.size:
        return Plan(np.zeros(rows, np.intp), 0.0, float(tariff.verify[0]), tariff.plain, 0.0)
    position = order % depth
    levels = _levels(tariff)
    within = position < levels[:, None]
    supply = tariff.supply[position]
    accepted = (within * (flat[order] * supply)).cumsum(axis=1)
    drafts = (within * supply).cumsum(axis=1)
    verify = tariff.verify[(drafts + 0.5).astype(np.intp)]
    asked = (position == 0).cumsum(dtype=np.float64)
    missing = (within * -np.diff(gains, prepend=1.0).ravel()[order]).cumsum(axis=1)
    seconds = verify + tariff.waits.seconds(asked, levels[:, None].astype(np.float64), missing)
    goodput = (rows + accepted) / seconds
    limit, last = divmod(int(goodput.argmax()), order.size)
    chosen = order[: last + 1][within[limit, : last + 1]]
    depths = np.bincount(chosen // depth, minlength=rows)
    ratio = float(goodput[limit, last]) * tariff.plain / rows
    return Plan(depths, float(accepted[limit, last]), float(verify[limit, last]), float(seconds[limit, last]), ratio)


def _levels(tariff: Tariff) -> NDArray[np.intp]:
    """Limits on the deepest draft that are worth looking at: only the last if depth costs no wait."""
    depth = len(tariff.supply)
    free = tariff.waits.level * (depth - 1) < FLAT * tariff.plain
    return np.arange(depth if free else 1, depth + 1)


def ceiling(rows: int, tariff: Tariff, *, free: bool) -> float:
    """The best ratio to plain decoding if every draft were accepted; ``free``: and all came without a wait."""
    levels = np.arange(1, len(tariff.supply) + 1)
    supply = np.ones_like(tariff.supply) if free else tariff.supply
    none, all_rows = np.zeros(len(levels)), np.full(len(levels), float(rows))
    wait = tariff.waits.calm if free else tariff.waits.seconds(all_rows, levels.astype(np.float64), none)
    tokens = np.concatenate([[0.0], np.cumsum(supply)])[levels]
    verify = tariff.verify[(rows * tokens).round().astype(np.intp)]
    return float(((1.0 + tokens) / (verify + wait)).max() * tariff.plain)
