"""The journey of a request. Read ``Router.serve`` first: every step is one named call.

It runs in the gateway, in front of three narrow doors: ``Prompts`` (a pool's tokenizer and limits), ``Desk`` (the
router actor, which owns the queue and the load) and ``Pools`` (the data plane to the replicas).
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Protocol

import msgspec

from cluster.errors import BadRequest, ReplicaLost, TooLong
from cluster.flags import SPECULATION, Decision, Flags, decide
from experts.api import Chunk, GenerateRequest
from router.api import LATENCY_RANK, Ask, Features, Lease
from router.config import RouterConfig
from router.jobs import Job, Prompt
from router.rules import Choice, choose, describe, domain


class Prompts(Protocol):
    """Turns prompts into the tokens of a pool's model."""

    async def tokens(self, pool: str, prompt: Prompt) -> tuple[int, ...]:
        """Raises BadRequest for a conversation the pool's template refuses."""

    def max_context(self, pool: str) -> int:
        """Prompt plus output, in tokens."""


class Desk(Protocol):
    """Where leases are given out and handed back, and where the flags in force are known."""

    @property
    def flags(self) -> Flags: ...

    async def ask(self, ask: Ask) -> Lease:
        """Wait for room. Raises QueueFull, DeadlineExceeded, NoReplica, UnknownModel or RouterUnavailable."""

    def release(self, lease: Lease, *, lost: bool) -> None:
        """Idempotent. ``lost``: the replica did not answer any more."""


class Pools(Protocol):
    """The replicas, reached directly."""

    def generate(self, lease: Lease, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        """Chunks up to the one with ``finish``. Closing the iterator early aborts the request on its replica.
        Raises ReplicaLost, DeadlineExceeded or what the engine refused with."""


class Answer(msgspec.Struct, frozen=True):
    """A request under way: where it runs, whether it speculates, how long its prompt is, and what comes out."""

    lease: Lease
    decision: Decision
    prompt_tokens: int
    chunks: AsyncIterator[Chunk]


class Router:
    """Serves jobs: the one pipeline behind every wire format."""

    def __init__(
        self, config: RouterConfig, prompts: Prompts, desk: Desk, pools: Pools, models: frozenset[str]
    ) -> None:
        self._config = config
        self._prompts = prompts
        self._desk = desk
        self._pools = pools
        self._models = models

    @asynccontextmanager
    async def serve(self, job: Job) -> AsyncIterator[Answer]:
        """From a client's wish to its stream of chunks; leaving the context ends it on the replica too."""
        features = describe(job)
        choice = choose(job.model, features, self._config, self._models)
        decision = self._decide(job, choice)
        plain = await self._render(job, choice)
        request = _drafted(plain, features, speculate=job.speculate and decision.on)
        lease = await self._desk.ask(self._ask(job, choice, features, request))
        chunks = self._generate(lease, _later(request, lease.waited))
        try:
            yield Answer(lease, decision, len(request.prompt), chunks)
        finally:
            await chunks.aclose()
            self._desk.release(lease, lost=False)

    async def _generate(self, lease: Lease, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        """The replica's chunks. If it is lost the router hears of it at once, before it lends it to others."""
        async with aclosing(self._pools.generate(lease, request)) as chunks:
            try:
                async for chunk in chunks:
                    yield chunk
            except ReplicaLost:
                self._desk.release(lease, lost=True)
                raise

    def _decide(self, job: Job, choice: Choice) -> Decision:
        """Whether the cluster speculates for this request; a client that does not want it is asked elsewhere."""
        flag = self._desk.flags.get(SPECULATION)
        return decide(flag, job.key or job.id, tenant=job.tenant, routes=choice.routes)

    async def _render(self, job: Job, choice: Choice) -> GenerateRequest:
        prompt = await self._prompts.tokens(choice.pool, job.prompt)
        if not prompt:
            raise BadRequest("the prompt is empty", param="prompt")
        context = self._prompts.max_context(choice.pool)
        room = context - len(prompt)
        wanted = room if job.max_tokens is None else job.max_tokens
        if room < 1 or wanted > room:
            raise TooLong(
                f"the prompt has {len(prompt)} tokens and {wanted if job.max_tokens is not None else 'some'} are to be "
                f"generated, but {choice.pool} holds {context} in all",
                param="messages" if room < 1 else "max_tokens",
            )
        return GenerateRequest(
            id=job.id,
            prompt=prompt,
            sampling=msgspec.structs.replace(job.sampling, max_tokens=wanted),
            timeout=job.timeout or self._config.request_timeout,
            grammar=job.grammar,
            adapter=choice.adapter,
            priority=LATENCY_RANK[job.latency],
        )

    def _ask(self, job: Job, choice: Choice, features: Features, request: GenerateRequest) -> Ask:
        sized = msgspec.structs.replace(
            features, prompt_tokens=len(request.prompt), max_tokens=request.sampling.max_tokens
        )
        timeout = min(request.timeout, self._config.queue_timeout)
        return Ask(job.id, choice.pool, choice.rule, sized, timeout, latency=job.latency, tenant=job.tenant)


def _drafted(request: GenerateRequest, features: Features, *, speculate: bool) -> GenerateRequest:
    """The same request, with what drafting has to know of it."""
    return msgspec.structs.replace(request, speculate=speculate, domain=domain(features))


def _later(request: GenerateRequest, waited: float) -> GenerateRequest:
    """The same request with less time left."""
    return msgspec.structs.replace(request, timeout=request.timeout - waited)
