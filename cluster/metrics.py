"""Every metric, declared once, and under each what to do when it looks wrong.

Names follow OpenTelemetry's GenAI conventions where these have one. Labels are closed sets: pools from the
configuration and outcomes from the error tree; never a tenant, a user, a prompt or a name that a client chose.

Each gateway exports its own. What it counts of its requests is summed over gateways; what is named
``switchyard_pool_*`` is a fact about a pool that all of them see alike, and of that the maximum is taken. What replicas
report of speculation is declared beside its meaning, in ``experts/speculation/metrics.py``.
"""

from collections.abc import Sequence
from functools import cache

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

MODEL = "gen_ai_request_model"
NO_POOL = "none"
"""The pool label of a request that was refused before it had a pool."""

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
_DEPTHS = tuple(float(depth) for depth in range(17))
_SHARES = tuple(tenth / 10 for tenth in range(11))


class PoolLoad(msgspec.Struct, frozen=True):
    """One pool's load as the router reports it. ``kv_use`` is the fullest replica's share, 0..1."""

    pool: str
    replicas: int
    queued: int
    running: int
    waiting: int
    kv_use: float


class Bill(msgspec.Struct, frozen=True):
    """What one finished sequence took. Times in seconds; ``decoding`` runs from the first token to the last."""

    tokens: int
    prompt_tokens: int
    drafted: int
    accepted: int
    decoding: float


class GatewayMetrics:
    """The metrics of one gateway, kept in the registry it is given."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._define_latency()
        self._define_requests()
        self._define_speculation()
        self._define_pools()
        self.pool = cache(lambda name: PoolMetrics(self, name))

    def refused(self, reason: str) -> None:
        """Count a request that was refused before it had a pool."""
        self.requests.labels(NO_POOL, reason).inc()

    def show_pools(self, loads: Sequence[PoolLoad]) -> None:
        """Set the pool gauges; pools that are gone disappear."""
        for gauge in (self.replicas, self.queued, self.running, self.waiting, self.kv_use):
            gauge.clear()
        for load in loads:
            self.replicas.labels(load.pool).set(load.replicas)
            self.queued.labels(load.pool).set(load.queued)
            self.running.labels(load.pool).set(load.running)
            self.waiting.labels(load.pool).set(load.waiting)
            self.kv_use.labels(load.pool).set(load.kv_use)

    def _define_latency(self) -> None:
        registry = self.registry
        self.first_token = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "From the decoded request to its first token, queueing included",
            [MODEL],
            registry=registry,
            buckets=_SECONDS,
        )
        """High: look at switchyard_queue_seconds; if that is low too, prompts are long or the engine is saturated."""
        self.per_token = Histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Mean time between the tokens of one sequence after its first",
            [MODEL],
            registry=registry,
            buckets=_TOKEN_SECONDS,
        )
        """High: too many sequences per step or poor acceptance; add replicas, or lower the pool's draft depth."""
        self.duration = Histogram(
            "gen_ai_server_request_duration_seconds",
            "From the decoded request to the end of its answer, however it ended",
            [MODEL],
            registry=registry,
            buckets=_SECONDS,
        )
        """High with normal latencies per token: answers are long; compare switchyard_tokens_total."""
        self.queue = Histogram(
            "switchyard_queue_seconds",
            "Wait at the router for room on a replica",
            ["pool"],
            registry=registry,
            buckets=_SECONDS,
        )
        """High: the pool is full; raise its replicas or its autoscaling target, or lower router.max_queue to shed."""

    def _define_requests(self) -> None:
        registry = self.registry
        self.requests = Counter(
            "switchyard_requests_total",
            "Requests by outcome: ok, or the reason of the error",
            ["pool", "outcome"],
            registry=registry,
        )
        """replica_lost, engine_failed, internal: look at that pool's replicas. queue_full, deadline: add capacity."""
        self.in_flight = Gauge("switchyard_requests_in_flight", "Requests being served", registry=registry)
        """Grows without end: streams are not finishing; look at step times and at clients that stopped reading."""
        self.tokens = Counter(
            "switchyard_tokens_total", "Tokens read and written", ["pool", "direction"], registry=registry
        )
        """Falls to zero under load: the pool is stalled; its readiness says why."""

    def _define_speculation(self) -> None:
        registry = self.registry
        self.drafted = Counter("switchyard_draft_tokens_total", "Drafts verified", ["pool"], registry=registry)
        """Zero on a pool that speculates: the draft pool is unreachable or always late."""
        self.accepted = Counter("switchyard_accepted_tokens_total", "Drafts accepted", ["pool"], registry=registry)
        """Far below the drafts: the draft model no longer mirrors the verifier; distil it again."""
        self.per_step = Histogram(
            "switchyard_accepted_tokens_per_step",
            "Drafts accepted in one verify step",
            ["pool"],
            registry=registry,
            buckets=_DEPTHS,
        )
        """Mass at 0: lower the depth. Mass at the configured depth: raise it."""
        self.acceptance = Histogram(
            "switchyard_request_acceptance_ratio",
            "Share of a sequence's drafts that were accepted",
            ["pool"],
            registry=registry,
            buckets=_SHARES,
        )
        """Two humps: one kind of traffic is drafted badly; give it its own draft, or turn speculation off for it."""

    def _define_pools(self) -> None:
        registry = self.registry
        self.replicas = Gauge("switchyard_pool_replicas", "Live replicas", ["pool"], registry=registry)
        """Below the configured number: a replica is starting, or keeps failing; read its log."""
        self.queued = Gauge("switchyard_pool_queued", "Requests waiting at the router", ["pool"], registry=registry)
        """Above zero for long: the pool is full."""
        self.running = Gauge(
            "switchyard_pool_running", "Sequences in the engines' batches", ["pool"], registry=registry
        )
        """At the engines' limit: as busy as it gets; more replicas is the only way up."""
        self.waiting = Gauge("switchyard_pool_waiting", "Sequences waiting inside engines", ["pool"], registry=registry)
        """Above zero: router.overcommit is too high, or the KV cache is the bottleneck."""
        self.kv_use = Gauge("switchyard_pool_kv_use_ratio", "Fullest KV cache", ["pool"], registry=registry)
        """Near 1: sequences will be preempted; give the engines more KV memory, or fewer sequences."""


class PoolMetrics:
    """The metrics of one pool with their labels already bound: these are written once per step."""

    def __init__(self, metrics: GatewayMetrics, pool: str) -> None:
        self.first_token = metrics.first_token.labels(pool)
        self.duration = metrics.duration.labels(pool)
        self.queue = metrics.queue.labels(pool)
        self.accepted_in_step = metrics.per_step.labels(pool)
        self._per_token = metrics.per_token.labels(pool)
        self._tokens_in = metrics.tokens.labels(pool, "input")
        self._tokens_out = metrics.tokens.labels(pool, "output")
        self._drafted = metrics.drafted.labels(pool)
        self._accepted = metrics.accepted.labels(pool)
        self._acceptance = metrics.acceptance.labels(pool)

    def charge(self, bill: Bill) -> None:
        """Record a sequence that ended, well or not."""
        self._tokens_in.inc(bill.prompt_tokens)
        self._tokens_out.inc(bill.tokens)
        if bill.tokens > 1:
            self._per_token.observe(bill.decoding / (bill.tokens - 1))
        if bill.drafted:
            self._drafted.inc(bill.drafted)
            self._accepted.inc(bill.accepted)
            self._acceptance.observe(bill.accepted / bill.drafted)
