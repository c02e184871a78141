"""Whether two cohorts of an experiment differ: estimates, intervals and a verdict. Pure functions over tallies.

Means are compared by their ratio on/off, with the delta method on its logarithm; shares by their difference in
points, with Agresti and Caffo's interval (The American Statistician 54, 2000), which holds for few failures too.
Intervals shown cover 95 %. Five measures are looked at, so a verdict takes an interval of 99 %: by chance alone, one
comparison in twenty may still claim a difference. The cohorts share replicas and batches: what one cohort costs the
other is in both and does not show.
"""

import math
from collections.abc import Sequence
from typing import Literal

import msgspec

from cluster.flags import Cohort, Flag
from cluster.tallies import Spread, Tally, of_version

ENOUGH = 50
"""Requests that each cohort needs before a measure is judged."""

_SHOWN = 1.959964
_JUDGED = 2.575829
"""Standard deviations on either side that hold 95 % and 99 % of a normal distribution."""

Verdict = Literal["better", "worse", "no difference shown", "not enough data"]
Effect = Literal["ratio", "points"]


class Estimate(msgspec.Struct, frozen=True, omit_defaults=True):
    """One measure of one cohort over ``n`` requests: a mean in seconds with quantiles, or a share without any."""

    n: int
    mean: float
    p50: float | None = None
    p95: float | None = None


class Measure(msgspec.Struct, frozen=True):
    """One measure of both cohorts; all are better when they are less. ``effect`` is a ratio on/off, or a difference
    on - off in points (hundredths), with its interval of 95 %; None where it cannot be had."""

    name: str
    on: Estimate
    off: Estimate
    kind: Effect
    effect: float | None
    low: float | None
    high: float | None
    verdict: Verdict


class Served(msgspec.Struct, frozen=True):
    """What one cohort was served."""

    requests: int
    errors: int
    cancelled: int
    tokens: int
    valid: int
    invalid: int


class PoolComparison(msgspec.Struct, frozen=True):
    """The cohorts of one pool; ``summary`` is the verdict as a sentence."""

    pool: str
    on: Served
    off: Served
    measures: tuple[Measure, ...]
    verdict: Verdict
    summary: str


class Comparison(msgspec.Struct, frozen=True):
    """An experiment under the present version of its flag, over so many gateways."""

    flag: str
    version: int
    enabled: bool
    percent: float
    gateways: int
    pools: tuple[PoolComparison, ...]


class _Interval(msgspec.Struct, frozen=True):
    """An effect and its standard error, on the scale where no effect is 0."""

    middle: float
    error: float

    def around(self, width: float) -> tuple[float, float]:
        return (self.middle - width * self.error, self.middle + width * self.error)


def compare(flag: Flag, tallies: Sequence[Tally], gateways: int) -> Comparison:
    """Compare what was served under this version of the flag, pool by pool."""
    current = of_version(tallies, flag.name, flag.rank)
    pools = sorted({each.pool for each in current})
    return Comparison(
        flag.name,
        flag.version,
        flag.enabled,
        flag.percent,
        gateways,
        tuple(_pool(flag, pool, [each for each in current if each.pool == pool]) for pool in pools),
    )


def _pool(flag: Flag, pool: str, tallies: Sequence[Tally]) -> PoolComparison:
    on, off = _cohort(flag, pool, tallies, "on"), _cohort(flag, pool, tallies, "off")
    measures = (
        _means("time to first token", on.first_token, off.first_token),
        _means("time per output token", on.per_token, off.per_token),
        _means("duration", on.duration, off.duration),
        _shares("errors", (on.errors, on.requests - on.cancelled), (off.errors, off.requests - off.cancelled)),
        _shares("invalid answers", (on.invalid, on.valid + on.invalid), (off.invalid, off.valid + off.invalid)),
    )
    verdict = _overall([each.verdict for each in measures])
    return PoolComparison(pool, _served(on), _served(off), measures, verdict, _sentence(verdict, measures))


def _cohort(flag: Flag, pool: str, tallies: Sequence[Tally], cohort: Cohort) -> Tally:
    found = [each for each in tallies if each.cohort == cohort]
    total = Tally(flag.name, flag.rank, cohort, pool)
    for each in found:
        total = total.joined(each)
    return total


def _served(tally: Tally) -> Served:
    return Served(tally.requests, tally.errors, tally.cancelled, tally.tokens, tally.valid, tally.invalid)


def _means(name: str, on: Spread, off: Spread) -> Measure:
    interval = _log_ratio(on, off)
    low, high = interval.around(_SHOWN) if interval else (None, None)
    return Measure(
        name=name,
        on=_estimate(on),
        off=_estimate(off),
        kind="ratio",
        effect=math.exp(interval.middle) if interval else None,
        low=None if low is None else math.exp(low),
        high=None if high is None else math.exp(high),
        verdict=_judged(interval, min(on.count, off.count)),
    )


def _shares(name: str, on: tuple[int, int], off: tuple[int, int]) -> Measure:
    """Each cohort is (failures, requests)."""
    interval = _difference(on, off)
    low, high = interval.around(_SHOWN) if interval else (None, None)
    return Measure(
        name=name,
        on=Estimate(on[1], on[0] / max(1, on[1])),
        off=Estimate(off[1], off[0] / max(1, off[1])),
        kind="points",
        effect=100 * (on[0] / on[1] - off[0] / off[1]) if interval else None,
        low=None if low is None else 100 * low,
        high=None if high is None else 100 * high,
        verdict=_judged(interval, min(on[1], off[1])),
    )


def _estimate(spread: Spread) -> Estimate:
    if not spread.count:
        return Estimate(0, 0.0)
    return Estimate(spread.count, spread.mean, spread.quantile(0.5), spread.quantile(0.95))


def _log_ratio(on: Spread, off: Spread) -> _Interval | None:
    """None where either mean is unknown or 0."""
    if min(on.count, off.count) < 2 or min(on.mean, off.mean) <= 0:
        return None
    relative = [each.variance / (each.count * each.mean**2) for each in (on, off)]
    return _Interval(math.log(on.mean / off.mean), math.sqrt(sum(relative)))


def _difference(on: tuple[int, int], off: tuple[int, int]) -> _Interval | None:
    """One failure and one success are added to each side; None where either has no request."""
    if not on[1] or not off[1]:
        return None
    shares = [((failed + 1) / (asked + 2), asked + 2) for failed, asked in (on, off)]
    error = math.sqrt(sum(share * (1 - share) / asked for share, asked in shares))
    return _Interval(shares[0][0] - shares[1][0], error)


def _judged(interval: _Interval | None, requests: int) -> Verdict:
    if interval is None or requests < ENOUGH:
        return "not enough data"
    low, high = interval.around(_JUDGED)
    if high < 0:
        return "better"
    return "worse" if low > 0 else "no difference shown"


def _overall(verdicts: Sequence[Verdict]) -> Verdict:
    """One measure that is worse outweighs any that are better."""
    order: tuple[Verdict, ...] = ("worse", "better", "no difference shown")
    return next((each for each in order if each in verdicts), "not enough data")


def _sentence(verdict: Verdict, measures: Sequence[Measure]) -> str:
    if verdict == "not enough data":
        return f"not enough data: each cohort needs {ENOUGH} requests"
    if verdict == "no difference shown":
        return "no difference shown"
    shown = [_shown(each) for each in measures if each.verdict == verdict]
    return f"on is {verdict}: {', '.join(shown)}"


def _shown(measure: Measure) -> str:
    if measure.kind == "ratio":
        return f"{measure.name} x {measure.effect:.2f} ({measure.low:.2f} to {measure.high:.2f})"
    return f"{measure.name} {measure.effect:+.2f} points ({measure.low:+.2f} to {measure.high:+.2f})"
