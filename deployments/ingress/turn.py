"""One client request under way: its choices run through the router and their steps come out merged.

Every wire format is served from here. Read ``serving``: entering starts nothing, the first step does; leaving ends
every choice on its replica, whoever left and why.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from cluster.errors import Cancelled, EngineFailed, SwitchyardError, error_from
from cluster.experiments import Sample
from cluster.flags import Decision
from cluster.metrics import NO_POOL, Bill, GatewayMetrics, PoolMetrics
from cluster.tallies import Outcome
from deployments.config import HttpLimits
from deployments.ingress.bounds import Bounds
from deployments.ingress.judge import Evidence, Witness
from deployments.ingress.plan import Finish, Plan
from deployments.ingress.tool_calls import Calls, ForcedReader, HermesReader, Reader
from deployments.ingress.trial import Trial
from deployments.ingress.view import ClusterView
from deployments.ingress.watch import Watch
from experts.api import Chunk, Speculated, TokenLogprob
from router.api import Lease
from router.jobs import Job, ToolCall
from router.router import Router


@dataclass(slots=True)
class Pulse:
    """When each pool last produced a token for this gateway (monotonic seconds)."""

    beats: dict[str, float] = field(default_factory=dict)

    def age(self, pool: str, now: float) -> float:
        """Seconds since its last token; infinite if there was none."""
        return now - self.beats.get(pool, float("-inf"))


@dataclass(frozen=True, slots=True)
class Stage:
    """What every request of one gateway shares."""

    router: Router
    view: ClusterView
    limits: HttpLimits
    metrics: GatewayMetrics
    bounds: Bounds
    watch: Watch
    trial: Trial
    pulse: Pulse = field(default_factory=Pulse)


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one engine step added to one choice, read: content, whole tool calls, and how it was decoded."""

    index: int
    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    tokens: int = 0
    accepted: int = 0
    finish: Finish | None = None


class Choice:
    """One sequence of a request, and the account of what it took."""

    def __init__(self, index: int, job: Job, plan: Plan) -> None:
        self.index = index
        self.job = job
        self.lease: Lease | None = None
        self.decision: Decision | None = None
        self.speculated: Speculated | None = None
        self.witness = Witness(job, plan.reading)
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.tokens = 0
        self.drafted = 0
        self.accepted = 0
        self.first_token: float | None = None
        self.last_token = 0.0
        self.called = False
        self._reader = _reader(plan)

    def take(self, chunk: Chunk, metrics: PoolMetrics, now: float) -> Step:
        """Raises what the chunk failed with."""
        if chunk.finish == "error":
            raise error_from(chunk.error) if chunk.error else EngineFailed("the engine gave up on this request")
        if chunk.finish == "abort":
            raise Cancelled("the request was aborted")
        self._account(chunk, metrics, now)
        text, calls = self._read(chunk)
        self.witness.see(chunk, text, calls)
        return Step(
            index=self.index,
            text=text,
            calls=calls,
            logprobs=chunk.logprobs or (),
            tokens=len(chunk.tokens),
            accepted=chunk.accepted,
            finish="tool_calls" if self.called and chunk.finish == "stop" else chunk.finish,
        )

    def bill(self) -> Bill:
        decoding = self.last_token - (self.first_token or self.last_token)
        return Bill(self.tokens, self.prompt_tokens, self.drafted, self.accepted, decoding)

    def _account(self, chunk: Chunk, metrics: PoolMetrics, now: float) -> None:
        self.tokens += len(chunk.tokens)
        self.speculated = chunk.speculated or self.speculated
        self.cached_tokens = max(self.cached_tokens, chunk.cached_tokens)
        if chunk.tokens:
            self.first_token = self.first_token or now
            self.last_token = now
        if chunk.drafted:
            self.drafted += chunk.drafted
            self.accepted += chunk.accepted
            metrics.accepted_in_step.observe(chunk.accepted)

    def _read(self, chunk: Chunk) -> tuple[str, tuple[ToolCall, ...]]:
        if self._reader is None:
            return chunk.text, ()
        parsed = self._reader.feed(chunk.text)
        text, calls = parsed.text, parsed.calls
        if chunk.finish is not None:
            tail = self._reader.finish()
            text, calls = text + tail.text, calls + tail.calls
        self.called = self.called or bool(calls)
        return text, calls


class Turn:
    """The choices of one request, and the stream of their steps in order of arrival."""

    def __init__(self, plan: Plan, stage: Stage) -> None:
        self.plan = plan
        self.choices = tuple(Choice(index, job, plan) for index, job in enumerate(plan.jobs))
        self.started = time.perf_counter()
        self._stage = stage
        followed = [self._follow(choice) for choice in self.choices]
        self.steps = followed[0] if len(followed) == 1 else merged(followed)

    @property
    def place(self) -> Lease | None:
        """Where the first choice that got room runs."""
        return next((choice.lease for choice in self.choices if choice.lease is not None), None)

    def sample(self, outcome: str, seconds: float) -> Sample | None:
        """Its part in the experiments; None if it has none: its choices were placed differently, or nowhere, or the
        client wanted no speculation."""
        decision = self.choices[0].decision
        alike = all(choice.decision == decision and choice.job.speculate for choice in self.choices)
        if decision is None or self.place is None or not alike:
            return None
        begun = [choice.first_token for choice in self.choices if choice.first_token is not None]
        bills = [choice.bill() for choice in self.choices]
        gaps = sum(max(0, bill.tokens - 1) for bill in bills)
        return Sample(
            decision=decision,
            pool=self.place.pool,
            outcome=_outcome(outcome),
            duration=seconds,
            first_token=min(begun) - self.started if begun else None,
            per_token=sum(bill.decoding for bill in bills) / gaps if gaps else None,
            tokens=sum(bill.tokens for bill in bills),
        )

    def evidence(self) -> tuple[Evidence, ...]:
        """What of its answer can be judged."""
        found = (choice.witness.evidence() for choice in self.choices)
        return tuple(each for each in found if each is not None)

    async def _follow(self, choice: Choice) -> AsyncGenerator[Step, None]:
        """Steps of one choice. Raises the typed errors of ``Router.serve`` and of the chunks."""
        async with self._stage.router.serve(choice.job) as answer:
            choice.lease, choice.prompt_tokens = answer.lease, answer.prompt_tokens
            choice.decision = answer.decision
            pool = answer.lease.pool
            metrics: PoolMetrics = self._stage.metrics.pool(pool)
            metrics.queue.observe(answer.lease.waited)
            beats = self._stage.pulse.beats
            try:
                async for chunk in answer.chunks:
                    now = time.perf_counter()
                    fresh = choice.first_token is None
                    step = choice.take(chunk, metrics, now)
                    if chunk.tokens:
                        beats[pool] = now
                    if fresh and choice.first_token is not None:
                        metrics.first_token.observe(now - self.started)
                    yield step
                    if step.finish is not None:
                        return
                raise EngineFailed("the stream ended before the answer did")
            finally:
                metrics.charge(choice.bill())


@asynccontextmanager
async def serving(plan: Plan, stage: Stage) -> AsyncIterator[Turn]:
    """Serve a plan. Catch errors outside: what passes through here is the request's outcome in the metrics."""
    turn = Turn(plan, stage)
    metrics = stage.metrics
    outcome = "internal"
    metrics.in_flight.inc()
    try:
        async with aclosing(turn.steps):
            yield turn
        outcome = "ok"
    except SwitchyardError as error:
        outcome = error.reason
        raise
    except (asyncio.CancelledError, GeneratorExit):
        outcome = Cancelled.reason
        raise
    finally:
        metrics.in_flight.dec()
        pool = NO_POOL if turn.place is None else turn.place.pool
        metrics.requests.labels(pool, outcome).inc()
        seconds = time.perf_counter() - turn.started
        metrics.duration.labels(pool).observe(seconds)
        sample = turn.sample(outcome, seconds)
        if sample is not None:
            stage.trial.end(sample, turn.evidence() if sample.decision.why == "ramp" else ())


async def merged(streams: Sequence[AsyncGenerator[Step, None]]) -> AsyncGenerator[Step, None]:
    """The steps of all streams as they come. The first failure ends all of them and is raised.

    The queue is unbounded on purpose: it holds at most what the request may generate, and a bound would let one choice
    that nobody reads stall its siblings.
    """
    queue: asyncio.Queue[Step | asyncio.Task[None]] = asyncio.Queue()
    pumps = [asyncio.create_task(_pump(stream, queue)) for stream in streams]
    for pump in pumps:
        pump.add_done_callback(queue.put_nowait)
    try:
        running = len(pumps)
        while running:
            item = await queue.get()
            if isinstance(item, asyncio.Task):
                item.result()
                running -= 1
            else:
                yield item
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


class _Sink(Protocol):
    def put_nowait(self, item: Step, /) -> None: ...


async def _pump(stream: AsyncGenerator[Step, None], queue: _Sink) -> None:
    async with aclosing(stream):
        async for step in stream:
            queue.put_nowait(step)


def _outcome(reason: str) -> Outcome:
    if reason == "ok":
        return "ok"
    return "cancelled" if reason == Cancelled.reason else "error"


def _reader(plan: Plan) -> Reader | None:
    if plan.reading == "text":
        return None
    calls = Calls(plan.tools)
    return HermesReader(calls) if plan.reading == "calls" else ForcedReader(calls)
