"""The router actor's state: who is alive, who waits, what is reserved where. No clock, no network: time comes in,
answers come out.

A request waits in its pool's queue, ordered by latency class, deadline and arrival, and is bound to a replica only when
one has room (late binding). Load is reserved at that moment and released exactly once, however the request ends.
"""

import heapq
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import msgspec

from cluster.errors import (
    DeadlineExceeded,
    NoReplica,
    QueueFull,
    RouterUnavailable,
    SwitchyardError,
    UnknownModel,
)
from experts.api import EngineState
from router.api import (
    LATENCY_RANK,
    Ask,
    Directory,
    Lease,
    PoolKind,
    PoolView,
    Refused,
    Registration,
    ReplicaView,
    Report,
)
from router.config import RouterConfig
from router.policies.choice import Candidate, least_loaded

_FORGET = 10.0
"""A replica silent for so many replica timeouts is forgotten; until then it only gets no new work."""


_NOBODY = ""
"""Owner of a lease that an earlier life of the router gave out."""


class Outcome(msgspec.Struct, frozen=True):
    """An answer and the asker it goes to."""

    owner: str
    answer: Lease | Refused


@dataclass(slots=True)
class _Replica:
    registration: Registration
    seen: float
    state: EngineState = field(default_factory=EngineState)
    sequence: int = -1
    draining: bool = False
    leases: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Pool:
    kind: PoolKind
    queue: list[tuple[int, float, int, str]] = field(default_factory=list)
    waiting: set[str] = field(default_factory=set)
    replicas: dict[str, _Replica] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Waiting:
    ask: Ask
    owner: str
    since: float
    deadline: float


@dataclass(frozen=True, slots=True)
class _Held:
    owner: str
    pool: str
    replica: str


class Dispatcher:
    """Admits, queues, binds and releases. Methods that can free room or bring requests return the outcomes to send."""

    def __init__(self, config: RouterConfig, pools: dict[str, PoolKind], *, epoch: int) -> None:
        self._config = config
        self._epoch = epoch
        self._pools = {name: _Pool(kind) for name, kind in pools.items()}
        self._waiting: dict[str, _Waiting] = {}
        self._held: dict[str, _Held] = {}
        self._arrival = itertools.count()

    # --- who is alive

    def register(self, registration: Registration, now: float) -> list[Outcome]:
        """Take a replica in. A new life of a known replica replaces the old one and drops what that had reserved."""
        pool = self._pools.get(registration.pool)
        if pool is None:
            return []
        known = pool.replicas.get(registration.replica)
        if known is not None and known.registration.epoch > registration.epoch:
            return []
        if known is not None and known.registration.epoch == registration.epoch:
            known.seen = now
            return self._bind(registration.pool, now)
        if known is not None:
            self._drop(pool, registration.replica)
        pool.replicas[registration.replica] = _Replica(registration, now)
        return self._bind(registration.pool, now)

    def report(self, report: Report, now: float) -> list[Outcome]:
        """Refresh a replica."""
        name, replica = self._find(report.replica, report.epoch)
        if replica is None or report.sequence <= replica.sequence:
            return []
        before = self._room(replica, now)
        replica.seen, replica.sequence, replica.state = now, report.sequence, report.state
        if report.leases is not None:
            self._adopt(name, replica, report.leases)
        return self._bind(name, now) if self._room(replica, now) > before else []

    def withdraw(self, replica_name: str, epoch: int) -> None:
        """A replica drains: no new work; what it holds stays reserved until released."""
        _, replica = self._find(replica_name, epoch)
        if replica is not None:
            replica.draining = True

    def lost(self, replica_name: str, epoch: int) -> None:
        """A replica's connection broke: it is forgotten at once; if it lives, it registers again."""
        name, replica = self._find(replica_name, epoch)
        if replica is not None:
            self._drop(self._pools[name], replica_name)

    # --- requests

    def ask(self, ask: Ask, owner: str, now: float) -> list[Outcome]:
        """Admit a request: refused at once, bound at once, or queued. One that is asked again, because its answer was
        lost on the way, starts anew."""
        outcomes = self.cancel(ask.id, now)
        refusal = self._refusal(ask, now)
        if refusal is not None:
            return [*outcomes, Outcome(owner, Refused(ask.id, refusal.failure()))]
        deadline = now + ask.timeout
        pool = self._pools[ask.pool]
        self._waiting[ask.id] = _Waiting(ask, owner, now, deadline)
        pool.waiting.add(ask.id)
        heapq.heappush(pool.queue, (LATENCY_RANK[ask.latency], deadline, next(self._arrival), ask.id))
        return outcomes + self._bind(ask.pool, now)

    def cancel(self, request: str, now: float) -> list[Outcome]:
        """The asker gave up, before or after it was bound."""
        self._unqueue(request)
        return self.release(request, now)

    def release(self, request: str, now: float, *, lost: bool = False) -> list[Outcome]:
        """Give a lease back. Unknown leases are ignored: release is idempotent. A replica that was ``lost`` counts as
        silent, so that it is not taken for the least loaded of all."""
        held = self._held.pop(request, None)
        if held is None:
            return []
        replica = self._pools[held.pool].replicas.get(held.replica)
        if replica is not None:
            replica.leases.discard(request)
            if lost:
                replica.seen = min(replica.seen, now - 2 * self._config.replica_timeout)
        return self._bind(held.pool, now)

    def gone(self, owner: str, now: float) -> list[Outcome]:
        """A gateway is gone: its requests no longer wait, its leases are free. If it was only slow, it hears that they
        were refused."""
        outcomes: list[Outcome] = []
        refusal = RouterUnavailable("the router had not heard from this gateway for too long", retry_after=1.0)
        for request in [key for key, each in self._waiting.items() if each.owner == owner]:
            self._unqueue(request)
            outcomes.append(Outcome(owner, Refused(request, refusal.failure())))
        for request in [key for key, each in self._held.items() if each.owner == owner]:
            outcomes += self.release(request, now)
        return outcomes

    def tick(self, now: float) -> list[Outcome]:
        """What time alone brings: refuse the overdue, forget the long silent."""
        outcomes = []
        for request, each in list(self._waiting.items()):
            if now >= each.deadline:
                self._unqueue(request)
                refusal = self._overdue(each.ask, now)
                outcomes.append(Outcome(each.owner, Refused(request, refusal.failure())))
        for pool in self._pools.values():
            for name, replica in list(pool.replicas.items()):
                if now - replica.seen > _FORGET * self._config.replica_timeout:
                    self._drop(pool, name)
        return outcomes

    def alive(self, now: float) -> frozenset[tuple[str, int]]:
        """The lives of replicas that take work now."""
        return frozenset(
            (each.registration.replica, each.registration.epoch)
            for pool in self._pools.values()
            for each in pool.replicas.values()
            if self._alive(each, now)
        )

    def directory(self, now: float) -> Directory:
        """Everything alive, for gateways and verifiers."""
        views = tuple(
            PoolView(name, pool.kind, len(pool.waiting), tuple(self._views(pool, now)))
            for name, pool in self._pools.items()
        )
        return Directory(self._epoch, views)

    # --- inside

    def _refusal(self, ask: Ask, now: float) -> SwitchyardError | None:
        pool = self._pools.get(ask.pool)
        if pool is None or pool.kind != "expert":
            return UnknownModel(f"no expert pool {ask.pool!r}", param="model")
        if ask.timeout <= 0:
            return DeadlineExceeded("the deadline had passed before the request was queued")
        if len(pool.waiting) >= self._config.max_queue and self._choose(ask.pool, now) is None:
            return QueueFull(f"{self._config.max_queue} requests wait for {ask.pool} already", retry_after=1.0)
        return None

    def _overdue(self, ask: Ask, now: float) -> SwitchyardError:
        if not any(self._alive(each, now) for each in self._pools[ask.pool].replicas.values()):
            return NoReplica(f"no replica of {ask.pool} came up within {ask.timeout:.1f} s", retry_after=5.0)
        return DeadlineExceeded(f"waited {ask.timeout:.1f} s for room on {ask.pool}")

    def _bind(self, name: str, now: float) -> list[Outcome]:
        """Late binding: as long as a replica has room, the first in the queue gets it."""
        pool = self._pools[name]
        outcomes = []
        while pool.queue:
            waiting = self._waiting.get(pool.queue[0][3])
            if waiting is None:
                heapq.heappop(pool.queue)
                continue
            chosen = self._choose(name, now)
            if chosen is None:
                break
            heapq.heappop(pool.queue)
            outcomes.append(self._lend(waiting, chosen, now))
        return outcomes

    def _lend(self, waiting: _Waiting, chosen: Candidate, now: float) -> Outcome:
        ask = waiting.ask
        self._unqueue(ask.id)
        replica = self._pools[ask.pool].replicas[chosen.replica]
        replica.leases.add(ask.id)
        self._held[ask.id] = _Held(waiting.owner, ask.pool, chosen.replica)
        there = replica.registration
        lease = Lease(ask.id, ask.pool, there.replica, there.epoch, there.endpoint, ask.route, now - waiting.since)
        return Outcome(waiting.owner, lease)

    def _choose(self, name: str, now: float) -> Candidate | None:
        replicas = self._pools[name].replicas.values()
        return least_loaded([self._candidate(each) for each in replicas if self._alive(each, now)])

    def _unqueue(self, request: str) -> None:
        """Its entry in the heap stays behind and is skipped when it comes up."""
        waiting = self._waiting.pop(request, None)
        if waiting is not None:
            self._pools[waiting.ask.pool].waiting.discard(request)

    def _candidate(self, replica: _Replica) -> Candidate:
        room = replica.registration.limits.max_running + self._config.overcommit
        return Candidate(replica.registration.replica, len(replica.leases), room, replica.state.kv_use)

    def _room(self, replica: _Replica, now: float) -> int:
        """How many more requests it would be lent now."""
        candidate = self._candidate(replica)
        return candidate.room - candidate.load if self._alive(replica, now) else 0

    def _alive(self, replica: _Replica, now: float) -> bool:
        return not replica.draining and now - replica.seen <= self._config.replica_timeout

    def _find(self, replica_name: str, epoch: int) -> tuple[str, _Replica | None]:
        for name, pool in self._pools.items():
            replica = pool.replicas.get(replica_name)
            if replica is not None and replica.registration.epoch == epoch:
                return name, replica
        return "", None

    def _adopt(self, pool: str, replica: _Replica, leases: tuple[str, ...]) -> None:
        """Requests a replica holds that are unknown here were lent by an earlier life of the router. They count until
        the replica no longer names them or their gateway gives them back."""
        mine = {each for each in replica.leases if self._held[each].owner == _NOBODY}
        for lease in mine.difference(leases):
            del self._held[lease]
            replica.leases.discard(lease)
        for lease in leases:
            if lease not in self._held:
                self._held[lease] = _Held(_NOBODY, pool, replica.registration.replica)
                replica.leases.add(lease)

    def _drop(self, pool: _Pool, name: str) -> None:
        for lease in pool.replicas.pop(name).leases:
            self._held.pop(lease, None)

    def _views(self, pool: _Pool, now: float) -> Iterator[ReplicaView]:
        for each in pool.replicas.values():
            if self._alive(each, now):
                yield ReplicaView(each.registration, each.state, len(each.leases), now - each.seen)


def peers(directory: Directory, pool: str) -> Iterable[ReplicaView]:
    """The live replicas of one pool."""
    return (view for each in directory.pools if each.pool == pool for view in each.replicas)
