"""The draft protocol: what a verifier and a draft replica say to each other (ZMQ DEALER to ROUTER, msgpack).

A session is one request of one life of a verifier: (epoch, request id). The verifier says what it knows is final,
the drafter continues it. Rolling back is free: the drafter keeps the longest common prefix and overwrites the rest.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

VERSION = 1
MAX_DEPTH = 16

Count = Annotated[int, Meta(ge=0)]
Token = Annotated[int, Meta(ge=0, lt=2**31)]
Drafts = Annotated[tuple[Token, ...], Meta(max_length=MAX_DEPTH)]


class DraftRow(msgspec.Struct, frozen=True, array_like=True):
    """Continue one session: its final tokens from position ``start`` on are ``tokens``; give ``depth`` drafts."""

    session: str
    start: Count
    tokens: tuple[Token, ...]
    depth: Annotated[int, Meta(ge=0, le=MAX_DEPTH)]


class DraftAsk(msgspec.Struct, frozen=True, tag=True):
    """One verify step's question. ``closed`` sessions have ended; ``budget`` is the wait in seconds it is worth (None:
    any). An ask without rows only closes; it is not answered."""

    epoch: int
    step: int
    rows: tuple[DraftRow, ...]
    closed: tuple[str, ...] = ()
    budget: float | None = None


class DraftTell(msgspec.Struct, frozen=True, tag=True):
    """The answer: drafts per row, in the order asked; fewer than ``depth``, or none, where the context ends or the ask
    came too late. ``lost`` rows are unknown here (a new life, evicted, no room, or ids outside the vocabulary): the
    verifier resends them from position 0. ``epoch`` and ``step`` echo the question, ``life`` is the drafter's own;
    ``compute`` is the time in seconds that the whole batch took."""

    epoch: int
    step: int
    life: int
    drafts: tuple[Drafts, ...]
    lost: tuple[str, ...] = ()
    compute: float = 0.0


ToDrafter = DraftAsk
ToVerifier = DraftTell
