"""The gateway's side of the router protocol: asks for leases, gives them back, keeps the last directory and the flags.

Without a router the cluster goes on: once it has been gone for ``PATIENCE`` seconds, requests take the better of two
random replicas of the last directory. Such a lease is marked in its route. A router that comes back is asked again. The
flags stay as they were last; whoever has newer ones, gateway or router, tells the other.
"""

import asyncio
import time
import uuid
from collections.abc import Iterator
from random import Random
from typing import Protocol

import msgspec

from cluster.errors import DeadlineExceeded, NoReplica, RouterUnavailable, SwitchyardError, error_from
from cluster.flags import Flag, Flags
from cluster.tallies import Tally
from deployments.dataplane.background import Background
from deployments.dataplane.membership import Resident, Resolve, RouterLine
from router.api import (
    Ask,
    Cancel,
    Change,
    Changed,
    Counted,
    Directory,
    FromRouter,
    Hello,
    Lease,
    Refused,
    Release,
    ReplicaView,
)
from router.policies.choice import Candidate, power_of_two

PATIENCE = 1.0
GREET_INTERVAL = 0.5
CHANGE_TIMEOUT = 2.0
"""How long the router may take to put a flag in force (seconds)."""

ANSWER_MARGIN = 2.0
"""Seconds past a request's queue deadline for the router's own, better worded, refusal to arrive."""


class _Pending(msgspec.Struct):
    ask: Ask
    since: float
    answer: asyncio.Future[Lease]


class Side(Protocol):
    """The gateway that a desk belongs to."""

    def heard(self, directory: Directory) -> None:
        """Called with each directory."""

    def tallies(self) -> tuple[Tally, ...]:
        """All that this gateway has counted for the experiments."""


class RouterDesk(Resident):
    """Implements ``router.router.Desk`` and ``deployments.ingress.view.Rollout`` over the data plane."""

    def __init__(self, resolve: Resolve, side: Side, *, flags: Flags, gateway: str, epoch: int) -> None:
        """``flags`` are in force until a router knows better; ``gateway`` and ``epoch`` name this life of this gateway
        to the router."""
        self._side = side
        self._flags = flags
        self._pending: dict[str, _Pending] = {}
        self._changes: dict[str, asyncio.Future[Flag]] = {}
        self._line = RouterLine(resolve, f"{gateway}/{epoch}", self._hear, on_up=self._return, on_down=self._miss)
        self._down_since = time.monotonic()
        self._task = Background("greetings")
        self._random = Random(epoch)
        self.directory: Directory | None = None

    def start(self) -> None:
        self._line.start()
        self._task.start(self._greet_often())

    @property
    def flags(self) -> Flags:
        """Those in force."""
        return self._flags

    async def change(self, flag: Flag, expected: int | None) -> Flag:
        """Put a flag in force everywhere. Raises what ``router.rollout.Rollout.change`` raises, or RouterUnavailable;
        then it is not known whether the change came through."""
        name = uuid.uuid4().hex
        answer: asyncio.Future[Flag] = asyncio.get_running_loop().create_future()
        self._changes[name] = answer
        try:
            if not self._line.send(Change(name, flag, expected)):
                raise RouterUnavailable("without a router no flag can be changed", retry_after=1.0)
            async with asyncio.timeout(CHANGE_TIMEOUT):
                return await answer
        except TimeoutError as error:
            message = f"the router gave no answer within {CHANGE_TIMEOUT:g} s: look before trying again"
            raise RouterUnavailable(message, retry_after=1.0) from error
        finally:
            del self._changes[name]

    def counted(self) -> Counted:
        """What the gateways have counted for the experiments; without a router, this one alone."""
        if self._line.up and self.directory is not None and self.directory.counted.gateways:
            return self.directory.counted
        return Counted(1, self._side.tallies())

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
        match message:
            case Directory():
                self.directory = message
                self._flags = self._flags.newest(message.flags)
                self._side.heard(message)
            case Changed():
                self._flags = self._flags.newest((message.flag,))
                _settle(self._changes.get(message.id), message.flag)
            case Refused() if message.id in self._changes:
                _settle(self._changes[message.id], error_from(message.failure))
            case Lease() | Refused():
                self._answer(message)

    def _answer(self, message: Lease | Refused) -> None:
        """Of an ask. A lease that nobody waits for any more goes back."""
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
        self._greet()
        now = time.monotonic()
        for pending in self._pending.values():
            left = pending.since + pending.ask.timeout - now
            if not pending.answer.done():
                self._line.send(msgspec.structs.replace(pending.ask, timeout=left))

    def _miss(self) -> None:
        self._down_since = time.monotonic()
        for request in self._pending:
            asyncio.get_running_loop().call_later(PATIENCE, self._decide, request)

    def _greet(self) -> None:
        self._line.send(Hello(self._flags.all, self._side.tallies()))

    async def _greet_often(self) -> None:
        while True:
            await asyncio.sleep(GREET_INTERVAL)
            self._greet()


def _settle(change: asyncio.Future[Flag] | None, answer: Flag | SwitchyardError) -> None:
    if change is None or change.done():
        return
    if isinstance(answer, Flag):
        change.set_result(answer)
    else:
        change.set_exception(answer)


def _views(directory: Directory, pool: str) -> Iterator[ReplicaView]:
    return (view for each in directory.pools if each.pool == pool for view in each.replicas)


def _candidate(view: ReplicaView) -> Candidate:
    there = view.registration
    return Candidate(there.replica, view.reserved, there.limits.max_running, view.state.kv_use)
