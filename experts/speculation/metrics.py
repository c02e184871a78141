"""What gateways export about speculation, by pool, and under each metric what to do when it looks wrong.

A name that begins with ``switchyard_pool_`` is a fact about the pool, and every gateway exports the same one, as each
watches all replicas. Over gateways take its maximum (``max by (pool) (rate(...))``); a sum would count the pool once
per gateway. All other metrics count what one gateway did, and are summed. Labels are closed sets, as everywhere.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from experts.api import WAIT_BUCKETS, SpeculationState
from experts.config import Speculation
from experts.speculation.ledger import Insight, added

POSITIONS = 16
"""Drafts per step, at most: so many values has the label ``position``."""
_CHANGES = 32
"""Kinds of change per pool, at most; what comes beyond counts as ``other``."""


class SpeculationMetrics:
    """The pool metrics of speculation, kept in the registry it is given."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._define_drafts(registry)
        self._define_asks(registry)
        self._define_time(registry)
        self._define_modes(registry)
        self._kinds: dict[str, set[str]] = {}

    def configure(self, sections: Mapping[str, Speculation]) -> None:
        """Say how each pool is configured to get its drafts; once."""
        for pool, section in sections.items():
            self.layout.labels(pool, section.layout, section.pool or "").set(1)

    def grow(self, pool: str, growth: SpeculationState) -> None:
        """Add what a pool did. Zeros count too: a series that begins at 0 shows its first increase."""
        self._grow_drafts(pool, growth)
        self._grow_asks(pool, growth)
        parts = {"draft": growth.draft, "wait": growth.wait, "verify": growth.verify, "plain": growth.plain}
        for part, seconds in parts.items():
            self.seconds.labels(pool, part).inc(seconds)
        for change, count in growth.changes.items():
            mode, _, reason = self._kind(pool, change).partition(":")
            self.changes.labels(pool, mode, reason).inc(count)

    def show(self, insights: Mapping[str, Insight]) -> None:
        """Set mode and depth; pools that are gone disappear."""
        self.mode.clear()
        self.depth.clear()
        for pool, insight in insights.items():
            self.depth.labels(pool).set(insight.depth)
            for mode, replicas in insight.modes.items():
                self.mode.labels(pool, mode or "none").set(replicas)

    def _grow_drafts(self, pool: str, growth: SpeculationState) -> None:
        self.steps.labels(pool, "speculated").inc(growth.speculated)
        self.steps.labels(pool, "plain").inc(max(0, growth.steps - growth.speculated))
        for counter, counts in ((self.drafted, growth.drafted), (self.accepted, growth.accepted)):
            for position, count in enumerate(counts[:POSITIONS]):
                counter.labels(pool, str(position)).inc(count)

    def _grow_asks(self, pool: str, growth: SpeculationState) -> None:
        self.asks.labels(pool).inc(growth.asked)
        outcomes = {"answered": growth.answered, "late": growth.late, "garbage": growth.garbage}
        for outcome, count in outcomes.items():
            self.answers.labels(pool, outcome).inc(count)
        self.lost.labels(pool).inc(growth.lost)
        self.compared.labels(pool).inc(growth.compared)
        self.ahead.labels(pool, "hit").inc(growth.hits)
        self.ahead.labels(pool, "miss").inc(growth.misses)
        self.waits.grow(pool, growth)

    def _kind(self, pool: str, change: str) -> str:
        kinds = self._kinds.setdefault(pool, set())
        if change not in kinds and len(kinds) >= _CHANGES:
            return "other:other"
        kinds.add(change)
        return change

    def _define_drafts(self, registry: CollectorRegistry) -> None:
        self.steps = Counter(
            "switchyard_pool_decode_steps_total",
            "Steps that decoded, by whether they verified drafts (kind: speculated, plain)",
            ["pool", "kind"],
            registry=registry,
        )
        """All plain on a pool that should speculate: switchyard_pool_mode_changes_total says since when and why."""
        self.drafted = Counter(
            "switchyard_pool_position_drafted_total",
            "Drafts verified, by their position in the step (0 is the first)",
            ["pool", "position"],
            registry=registry,
        )
        """Only position 0 is busy: the controller expects little; compare the acceptance of the positions."""
        self.accepted = Counter(
            "switchyard_pool_position_accepted_total",
            "Drafts accepted, by their position in the step (0 is the first)",
            ["pool", "position"],
            registry=registry,
        )
        """Low at position 0 already: the draft does not know this traffic, or is not this verifier's; distil it again.
        Falls steeply with the position: the depth is too large."""

    def _define_asks(self, registry: CollectorRegistry) -> None:
        self.asks = Counter(
            "switchyard_pool_draft_asks_total", "Questions to draft replicas", ["pool"], registry=registry
        )
        """Zero while rows want drafts: no draft replica is known or trusted; look at the draft pool."""
        self.answers = Counter(
            "switchyard_pool_draft_answers_total",
            "Questions to draft replicas by what came of them (outcome: answered, late, garbage)",
            ["pool", "outcome"],
            registry=registry,
        )
        """late: the draft pool is full, frozen or far away. garbage: versions or vocabularies differ."""
        self.lost = Counter(
            "switchyard_pool_draft_sessions_lost_total",
            "Sessions that a draft replica did not know",
            ["pool"],
            registry=registry,
        )
        """Steady: the draft pool's max_sessions is too small, or its replicas keep restarting."""
        self.compared = Counter(
            "switchyard_pool_shadow_drafts_compared_total",
            "Requests, each time that unverified drafts were held against what plain decoding made",
            ["pool"],
            registry=registry,
        )
        """Still while a pool decodes plainly for lack of acceptance: only probes can bring speculation back. Is the
        draft pool known and trusted, and the setting shadow on?"""
        self.ahead = Counter(
            "switchyard_pool_drafts_ahead_total",
            "Rows that wanted drafts, by whether those had been made ahead (result: hit, miss)",
            ["pool", "result"],
            registry=registry,
        )
        """Few hits with good acceptance: the draft pool has no time left for it; give it replicas or branches."""
        self.waits = WaitHistogram(registry)
        """High: the draft pool is full or far away; compare the seconds of part draft. Near 0: hits do their work."""

    def _define_time(self, registry: CollectorRegistry) -> None:
        self.seconds = Counter(
            "switchyard_pool_speculation_seconds_total",
            "Time by part: verify (steps that verified and read no prompt), plain (the same steps without drafts, as "
            "estimated), wait (for drafts), draft (the share of wait that drafters computed)",
            ["pool", "part"],
            registry=registry,
        )
        """wait far above draft: transport or queueing. verify far above plain: too deep for this batch."""

    def _define_modes(self, registry: CollectorRegistry) -> None:
        self.layout = Gauge(
            "switchyard_pool_speculation_layout",
            "1 for the layout that the pool is configured with (drafts: its draft pool, if it has one)",
            ["pool", "layout", "drafts"],
            registry=registry,
        )
        """Not what you configured: this gateway runs with an older configuration; restart it."""
        self.mode = Gauge(
            "switchyard_pool_speculation_mode",
            "Replicas that are in this mode",
            ["pool", "mode"],
            registry=registry,
        )
        """plain on a pool that should speculate: the reason of its last change says why."""
        self.depth = Gauge(
            "switchyard_pool_speculation_depth",
            "Drafts per row and step, lately, on average",
            ["pool"],
            registry=registry,
        )
        """At the configured depth with high acceptance: raise speculation.depth."""
        self.changes = Counter(
            "switchyard_pool_mode_changes_total",
            "Changes of mode by the mode entered and why, and refreshes",
            ["pool", "mode", "reason"],
            registry=registry,
        )
        """Many a minute, refreshes aside: the pool is where speculation just pays. That is cheap; see the reasons."""


class WaitHistogram(Collector):
    """Waits as replicas counted them. A histogram of the client library only takes single observations."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._pools: dict[str, SpeculationState] = {}
        registry.register(self)

    def grow(self, pool: str, growth: SpeculationState) -> None:
        self._pools[pool] = added(self._pools.get(pool, SpeculationState()), growth)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        family = HistogramMetricFamily(
            "switchyard_pool_draft_wait_seconds", "Time that a step waited for drafts", labels=["pool"]
        )
        for pool, state in self._pools.items():
            family.add_metric([pool], _buckets(state.waits), state.wait)
        yield family


def _buckets(waits: Sequence[int]) -> list[tuple[str, float]]:
    """Cumulative, with the bounds as the exposition format writes them."""
    bounds = [*map(str, WAIT_BUCKETS), "+Inf"]
    counts = [*waits, *[0] * len(bounds)][: len(bounds)]
    return list(zip(bounds, accumulate(counts), strict=True))
