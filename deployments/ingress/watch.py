"""What a gateway makes of the speculation that replicas report: metrics of pools, and what operators read of them."""

from collections.abc import Mapping

import msgspec
from prometheus_client import CollectorRegistry

from experts.config import Speculation
from experts.speculation.ledger import (
    Ledger,
    Reading,
    acceptance,
    hit_rate,
    speedup,
    wait_quantile,
)
from experts.speculation.metrics import SpeculationMetrics
from router.api import Directory


class DraftStatus(msgspec.Struct, frozen=True):
    """How a pool gets its drafts, and what these did in the last minute, None where there is nothing to tell.

    ``modes`` counts replicas per mode, ``reason`` is why most of them are in theirs, ``depth`` the mean of drafts per
    row and step. ``acceptance`` is the share of drafts accepted, ``hit_rate`` the share of rows whose drafts had been
    made ahead, ``wait_p95`` in seconds. ``speedup``: tokens per second over those of plain decoding, as estimated.
    """

    layout: str
    modes: dict[str, int]
    reason: str
    depth: float
    acceptance: float | None = None
    hit_rate: float | None = None
    wait_p95: float | None = None
    speedup: float | None = None


class Watch:
    """Hears every directory; time, in seconds of a monotonic clock, is passed in."""

    def __init__(self, configured: Mapping[str, Speculation], registry: CollectorRegistry) -> None:
        """``configured``: the pools that speculate, and how."""
        self._configured = configured
        self._ledger = Ledger()
        self._metrics = SpeculationMetrics(registry)
        self._metrics.configure(configured)

    def hear(self, directory: Directory, now: float) -> None:
        """Take in what replicas did since the last time. Hearing the same again adds nothing."""
        readings = _readings(directory)
        for pool, growth in self._ledger.absorb(readings, now).items():
            self._metrics.grow(pool, growth)
        pools = dict.fromkeys(reading.pool for reading in readings)
        self._metrics.show({pool: self._ledger.insight(pool) for pool in pools})

    def drafts(self, pool: str) -> DraftStatus | None:
        """None for a pool that is not configured to speculate."""
        section = self._configured.get(pool)
        if section is None:
            return None
        insight, recent = self._ledger.insight(pool), self._ledger.recent(pool)
        return DraftStatus(
            layout=section.layout,
            modes=dict(insight.modes),
            reason=insight.reason,
            depth=insight.depth,
            acceptance=acceptance(recent),
            hit_rate=hit_rate(recent),
            wait_p95=wait_quantile(recent.waits, 0.95),
            speedup=speedup(recent),
        )


def _readings(directory: Directory) -> list[Reading]:
    return [
        Reading(pool.pool, replica.registration.replica, replica.registration.epoch, replica.state.speculation)
        for pool in directory.pools
        for replica in pool.replicas
        if replica.state.speculation is not None
    ]
