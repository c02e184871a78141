"""The gateway's side of the router protocol: asks for leases, gives them back, keeps the last directory.

Without a router the cluster goes on: once it has been gone for ``PATIENCE`` seconds, requests take the better of two
random replicas of the last directory. Such a lease is marked in its route. A router that comes back is asked again.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from random import Random

import msgspec

from cluster.errors import DeadlineExceeded, NoReplica, RouterUnavailable, SwitchyardError, error_from
from deployments.dataplane.background import Background
from deployments.dataplane.membership import Resident, Resolve, RouterLine
from router.api import Ask, Cancel, Directory, FromRouter, Hello, Lease, Release, ReplicaView
from router.policies.choice import Candidate, power_of_two

PATIENCE = 1.0
GREET_INTERVAL = 0.5
ANSWER_MARGIN = 2.0
"""Seconds past a request's queue deadline for the router's own, better worded, refusal to arrive."""


class _Pending(msgspec.Struct):
    ask: Ask
    since: float
    answer: asyncio.Future[Lease]


class RouterDesk(Resident):
    """Implements ``router.router.Desk`` over the data plane."""

    def __init__(
        self, resolve: Resolve, *, gateway: str, epoch: int, on_directory: Callable[[], None] | None = None
    ) -> None:
        """``gateway`` and ``epoch`` name this life of this gateway to the router."""
        self._on_directory = on_directory
        self._pending: dict[str, _Pending] = {}
        self._line = RouterLine(resolve, f"{gateway}/{epoch}", self._hear, on_up=self._return, on_down=self._miss)
        self._down_since = time.monotonic()
        self._task = Background("greetings")
        self._random = Random(epoch)
        self.directory: Directory | None = None

    def start(self) -> None:
        self._line.start()
        self._task.start(self._greet_often())

    async def ask(self, ask: Ask) -> Lease:
        loop = asyncio.get_running_loop()
        pending = _Pending(ask, time.monotonic(), loop.create_future())
        self._pending[ask.id] = pending
        try:
            if not self._line.send(ask):
                if self._line.up:
                    raise RouterUnavailable("the router does not keep up with what it is asked")
                loop.call_later(max(0.0, self._down_since + PATIENCE - time.monotonic()), self._decide, ask.id)
            async with asyncio.timeout(ask.timeout + ANSWER_MARGIN):
                return await pending.answer
        except TimeoutError as error:
            self._line.send(Cancel(ask.id))
            raise DeadlineExceeded(f"the router gave no answer within {ask.timeout:.1f} s") from error
        except asyncio.CancelledError:
            self._line.send(Cancel(ask.id))
            raise
        finally:
            del self._pending[ask.id]

    def release(self, lease: Lease, *, lost: bool) -> None:
        self._line.send(Release(lease.id, lost))

    def _decide(self, request: str) -> None:
        """The router stayed away: answer from the last directory."""
        pending = self._pending.get(request)
        if pending is None or pending.answer.done() or self._line.up:
            return
        try:
            pending.answer.set_result(self._fallback(pending))
        except SwitchyardError as error:
            pending.answer.set_exception(error)

    def _fallback(self, pending: _Pending) -> Lease:
        ask = pending.ask
        if self.directory is None:
            raise RouterUnavailable("the router does not answer, and nothing was heard from it before")
        views = {view.registration.replica: view for view in _views(self.directory, ask.pool)}
        chosen = power_of_two([_candidate(view) for view in views.values()], self._random)
        if chosen is None:
            raise NoReplica(f"the router does not answer, and {ask.pool} had no replica when it last did")
        there = views[chosen.replica].registration
        waited = time.monotonic() - pending.since
        return Lease(ask.id, ask.pool, there.replica, there.epoch, there.endpoint, f"{ask.route}:fallback", waited)

    def _hear(self, message: FromRouter) -> None:
        if isinstance(message, Directory):
            self.directory = message
            if self._on_directory is not None:
                self._on_directory()
            return
        pending = self._pending.get(message.id)
        if pending is None or pending.answer.done():
            if isinstance(message, Lease):
                self._line.send(Release(message.id))
        elif isinstance(message, Lease):
            pending.answer.set_result(message)
        else:
            pending.answer.set_exception(error_from(message.failure))

    def _return(self) -> None:
        """A router is there again and knows nothing of us: greet it and repeat what is unanswered."""
        self._line.send(Hello())
        now = time.monotonic()
        for pending in self._pending.values():
            left = pending.since + pending.ask.timeout - now
            if not pending.answer.done():
                self._line.send(msgspec.structs.replace(pending.ask, timeout=left))

    def _miss(self) -> None:
        self._down_since = time.monotonic()
        for request in self._pending:
            asyncio.get_running_loop().call_later(PATIENCE, self._decide, request)

    async def _greet_often(self) -> None:
        while True:
            await asyncio.sleep(GREET_INTERVAL)
            self._line.send(Hello())


def _views(directory: Directory, pool: str) -> Iterator[ReplicaView]:
    return (view for each in directory.pools if each.pool == pool for view in each.replicas)


def _candidate(view: ReplicaView) -> Candidate:
    there = view.registration
    return Candidate(there.replica, view.reserved, there.limits.max_running, view.state.kv_use)
