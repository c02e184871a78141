"""The router protocol: what gateways and replicas say to the router actor, and what it answers (ZMQ, msgpack).

Replicas register and report; gateways ask for leases and give them back. The router answers a question with exactly
one ``Lease``, ``Changed`` or ``Refused``, and tells everyone who is alive, and the flags in force, in a ``Directory``.
"""

from typing import Literal

import msgspec

from cluster.errors import Failure
from cluster.flags import Flag
from cluster.tallies import Tally
from experts.api import EngineLimits, EngineState

VERSION = 2

LatencyClass = Literal["fast", "standard", "escalation"]
PoolKind = Literal["expert", "draft"]

LATENCY_RANK: dict[LatencyClass, int] = {"fast": 0, "standard": 1, "escalation": 2}
"""Who goes first, at the router and inside an engine that schedules by priority: the smaller."""


class Registration(msgspec.Struct, frozen=True, tag=True):
    """A replica offers itself. ``epoch`` is unique to this life of it; a larger epoch replaces a smaller one."""

    pool: str
    kind: PoolKind
    replica: str
    epoch: int
    endpoint: str
    limits: EngineLimits
    node: str
    pid: int


class Report(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """What a replica is doing now. ``sequence`` grows; an older report is ignored. In a complete report ``leases`` are
    the requests it holds, so that a router that has just come back can count them; otherwise None."""

    replica: str
    epoch: int
    sequence: int
    state: EngineState
    leases: tuple[str, ...] | None = None


class Withdraw(msgspec.Struct, frozen=True, tag=True):
    """A replica is draining: it finishes what it has and takes nothing new."""

    replica: str
    epoch: int


class Features(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the router may know of a request: shape, never content. Token counts are 0 until it has been rendered."""

    prompt_tokens: int = 0
    max_tokens: int = 0
    tools: bool = False
    code: bool = False
    structured: bool = False
    language: str | None = None


class Ask(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """Room for one request in ``pool``, please. ``route`` names the rule that chose the pool; ``timeout`` is what is
    left of the request's deadline, in seconds."""

    id: str
    pool: str
    route: str
    features: Features
    timeout: float
    latency: LatencyClass = "standard"
    tenant: str = ""


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """The asker no longer wants an answer."""

    id: str


class Release(msgspec.Struct, frozen=True, tag=True):
    """A lease is given back: its load is gone. Idempotent. ``lost``: the replica was, too, as far as the gateway can
    tell, and should get nothing more until it is heard again."""

    id: str
    lost: bool = False


class Lease(msgspec.Struct, frozen=True, tag=True):
    """Room has been reserved on this replica. ``route`` says which rule chose the pool, for audit and header."""

    id: str
    pool: str
    replica: str
    epoch: int
    endpoint: str
    route: str
    waited: float


class Refused(msgspec.Struct, frozen=True, tag=True):
    """No. ``failure.reason`` says why."""

    id: str
    failure: Failure


class Change(msgspec.Struct, frozen=True, tag=True):
    """Put this flag in the place of the one of its name, if that still has version ``expected`` (None: whatever it
    has). The router gives it its epoch and version."""

    id: str
    flag: Flag
    expected: int | None


class Changed(msgspec.Struct, frozen=True, tag=True):
    """The flag is in force as it stands here, and everyone has been told."""

    id: str
    flag: Flag


class Hello(msgspec.Struct, frozen=True, tag=True):
    """A gateway lives; it is answered with a ``Directory``, now and whenever it says so again. It brings the flags it
    knows, for a router that has just come back, and what it has counted for the experiments so far."""

    flags: tuple[Flag, ...]
    tallies: tuple[Tally, ...]


class ReplicaView(msgspec.Struct, frozen=True):
    """One replica as the router sees it. ``reserved`` counts the leases out on it."""

    registration: Registration
    state: EngineState
    reserved: int
    age: float


class PoolView(msgspec.Struct, frozen=True):
    """One pool: its replicas and how many requests wait for it."""

    pool: str
    kind: PoolKind
    queued: int
    replicas: tuple[ReplicaView, ...]


class Counted(msgspec.Struct, frozen=True):
    """What so many living gateways have counted for the experiments, added up."""

    gateways: int = 0
    tallies: tuple[Tally, ...] = ()


class Directory(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """Everything alive, as of now, and the flags in force. Draft replicas reach verifiers, and the whole reaches
    gateways, this way; ``counted`` is for gateways only."""

    epoch: int
    pools: tuple[PoolView, ...]
    flags: tuple[Flag, ...] = ()
    counted: Counted = Counted()


ToRouter = Registration | Report | Withdraw | Ask | Cancel | Release | Change | Hello
FromRouter = Lease | Refused | Changed | Directory
