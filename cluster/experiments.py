"""The account of an experiment in one gateway: as metrics, and as tallies that are compared over all gateways.

Only requests that the ramp placed are counted. Those that an override placed differ from the others by more than the
cohort, and comparing them would measure the tenant or the route.
"""

from typing import Literal

import msgspec
from prometheus_client import CollectorRegistry, Counter, Histogram

from cluster.flags import Decision
from cluster.tallies import Outcome, Spread, Tally

_LABELS = ("flag", "cohort", "pool")
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)


class Sample(msgspec.Struct, frozen=True):
    """One request that has ended. Seconds; ``first_token`` and ``per_token`` are None where there was no such token.
    ``valid`` says whether a structured answer is what was asked for, None where nothing could be judged."""

    decision: Decision
    pool: str
    outcome: Outcome
    duration: float
    first_token: float | None
    per_token: float | None
    tokens: int
    valid: bool | None = None


class Experiments:
    """Keeps the account. Tallies begin anew with every version of a flag: its cohorts are comparable, while the share
    of each was the same. Metrics go on."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._tallies: dict[str, dict[tuple[str, str], Tally]] = {}
        self._ranks: dict[str, tuple[int, int]] = {}
        self._define_counts()
        self._define_latency()

    def record(self, sample: Sample) -> None:
        if sample.decision.why != "ramp":
            return
        self._measure(sample)
        flag = sample.decision.flag
        rank = self._ranks.get(flag.name, flag.rank)
        if flag.rank < rank:
            return
        if flag.rank > rank:
            self._tallies.pop(flag.name, None)
        self._ranks[flag.name] = flag.rank
        tallies = self._tallies.setdefault(flag.name, {})
        key = (sample.decision.cohort, sample.pool)
        known = tallies.get(key, Tally(flag.name, flag.rank, sample.decision.cohort, sample.pool))
        tallies[key] = _with(known, sample)

    def tallies(self) -> tuple[Tally, ...]:
        """All there are, of the newest version of each flag that a request has ended under."""
        return tuple(each for tallies in self._tallies.values() for each in tallies.values())

    def _measure(self, sample: Sample) -> None:
        labels = (sample.decision.flag.name, sample.decision.cohort, sample.pool)
        self.requests.labels(*labels, sample.outcome).inc()
        self.tokens.labels(*labels).inc(sample.tokens)
        if sample.valid is not None:
            verdict: Literal["valid", "invalid"] = "valid" if sample.valid else "invalid"
            self.answers.labels(*labels, verdict).inc()
        if sample.outcome != "ok":
            return
        self.duration.labels(*labels).observe(sample.duration)
        if sample.first_token is not None:
            self.first_token.labels(*labels).observe(sample.first_token)
        if sample.per_token is not None:
            self.per_token.labels(*labels).observe(sample.per_token)

    def _define_counts(self) -> None:
        self.requests = Counter(
            "switchyard_experiment_requests_total",
            "Requests that the ramp of a flag placed, by outcome: ok, error or cancelled",
            [*_LABELS, "outcome"],
            registry=self._registry,
        )
        """A larger share of error in cohort on: `switchyard flags set NAME --off`, then compare the two in the logs."""
        self.tokens = Counter("switchyard_experiment_tokens_total", "Tokens written", _LABELS, registry=self._registry)
        """Tokens per request differ between cohorts: the feature changes answers, which speculation must not."""
        self.answers = Counter(
            "switchyard_experiment_structured_answers_total",
            "Structured answers and tool calls, by verdict: valid or invalid",
            [*_LABELS, "verdict"],
            registry=self._registry,
        )
        """A larger share of invalid in cohort on: drafts get past the grammar; turn the flag off for that route."""

    def _define_latency(self) -> None:
        self.first_token = Histogram(
            "switchyard_experiment_time_to_first_token_seconds",
            "From the decoded request to its first token, of requests that ended well",
            _LABELS,
            registry=self._registry,
            buckets=_SECONDS,
        )
        """Higher in cohort on: steps that verify drafts hold up the prefills that share them; lower the draft depth."""
        self.per_token = Histogram(
            "switchyard_experiment_time_per_output_token_seconds",
            "Mean time between the tokens of a request after the first, of requests that ended well",
            _LABELS,
            registry=self._registry,
            buckets=_TOKEN_SECONDS,
        )
        """Not lower in cohort on: the feature does not pay on this pool; lower its percentage or switch it off."""
        self.duration = Histogram(
            "switchyard_experiment_request_duration_seconds",
            "From the decoded request to the end of its answer, of requests that ended well",
            _LABELS,
            registry=self._registry,
            buckets=_SECONDS,
        )
        """Higher in cohort on with lower times per token: its answers are longer; see the tokens."""


def _with(tally: Tally, sample: Sample) -> Tally:
    """With one more request."""
    well = sample.outcome == "ok"
    return msgspec.structs.replace(
        tally,
        requests=tally.requests + 1,
        errors=tally.errors + (sample.outcome == "error"),
        cancelled=tally.cancelled + (sample.outcome == "cancelled"),
        tokens=tally.tokens + sample.tokens,
        valid=tally.valid + (sample.valid is True),
        invalid=tally.invalid + (sample.valid is False),
        first_token=_longer(tally.first_token, sample.first_token if well else None),
        per_token=_longer(tally.per_token, sample.per_token if well else None),
        duration=_longer(tally.duration, sample.duration if well else None),
    )


def _longer(spread: Spread, seconds: float | None) -> Spread:
    return spread if seconds is None else spread.added(seconds)
