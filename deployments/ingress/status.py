"""The directory as operators read it: pools, replicas, queues, acceptance."""

from collections.abc import Callable

import msgspec

from deployments.ingress.watch import DraftStatus
from router.api import Directory, PoolKind, PoolView, ReplicaView


class ReplicaStatus(msgspec.Struct, frozen=True):
    """One replica. ``age`` is the seconds since its last report; counters belong to this ``epoch``."""

    replica: str
    node: str
    pid: int
    epoch: int
    running: int
    waiting: int
    reserved: int
    kv_use: float
    step_ms: float
    tokens: int
    drafted: int
    accepted: int
    age: float


class PoolStatus(msgspec.Struct, frozen=True):
    """One pool. ``acceptance`` is the share of drafts accepted in the lives of its replicas, None where nothing was
    drafted; ``drafts`` tells of the last minute, None where none are configured."""

    pool: str
    kind: PoolKind
    queued: int
    acceptance: float | None
    replicas: tuple[ReplicaStatus, ...]
    drafts: DraftStatus | None = None


class Status(msgspec.Struct, frozen=True):
    """``epoch`` is the router's life."""

    epoch: int
    pools: tuple[PoolStatus, ...]


def status_of(directory: Directory, drafts: Callable[[str], DraftStatus | None]) -> Status:
    """``drafts`` tells how a pool's drafts do."""
    return Status(directory.epoch, tuple(_pool(each, drafts(each.pool)) for each in directory.pools))


def _pool(view: PoolView, drafts: DraftStatus | None) -> PoolStatus:
    drafted = sum(each.state.drafted for each in view.replicas)
    accepted = sum(each.state.accepted for each in view.replicas)
    return PoolStatus(
        pool=view.pool,
        kind=view.kind,
        queued=view.queued,
        acceptance=accepted / drafted if drafted else None,
        replicas=tuple(_replica(each) for each in view.replicas),
        drafts=drafts,
    )


def _replica(view: ReplicaView) -> ReplicaStatus:
    registration, state = view.registration, view.state
    return ReplicaStatus(
        replica=registration.replica,
        node=registration.node,
        pid=registration.pid,
        epoch=registration.epoch,
        running=state.running,
        waiting=state.waiting,
        reserved=view.reserved,
        kv_use=state.kv_use,
        step_ms=state.step_ms,
        tokens=state.tokens,
        drafted=state.drafted,
        accepted=state.accepted,
        age=view.age,
    )
