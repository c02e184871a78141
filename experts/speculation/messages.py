"""The draft protocol: what a verifier and a draft replica say to each other (ZMQ DEALER to ROUTER, msgpack).

A session is one request of one life of a verifier: (epoch, request id). The verifier says what it knows is final,
the drafter continues it. Rolling back is free: the drafter keeps the longest common prefix and overwrites the rest.

One ask per verify step carries the verdict of that step. A ``DraftTell`` answers it where the verifier waits; a
``DraftLead`` follows while the verifier works, with the next drafts for the verdicts that are likeliest. A lead names
the tokens it assumes, so it can only be used where exactly these came true, whatever was lost or restarted between.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

VERSION = 2
MAX_DEPTH = 16
MAX_BRANCHES = 16

Count = Annotated[int, Meta(ge=0)]
Depth = Annotated[int, Meta(ge=0, le=MAX_DEPTH)]
Token = Annotated[int, Meta(ge=0, lt=2**31)]
Drafts = Annotated[tuple[Token, ...], Meta(max_length=MAX_DEPTH)]


class DraftRow(msgspec.Struct, frozen=True, array_like=True):
    """One session's verdict: its final tokens from position ``start`` on are ``tokens``.

    ``depth`` drafts are wanted per step (0: none now, only keep up). ``held`` of them the verifier took from a lead and
    is verifying already, so it does not wait for this row; 0 with a depth: it has none.
    """

    session: str
    start: Count
    tokens: tuple[Token, ...]
    depth: Depth
    held: Depth = 0

    @property
    def lacks(self) -> bool:
        """Whether drafts are wanted and none are there."""
        return self.depth > 0 and not self.held


class DraftAsk(msgspec.Struct, frozen=True, tag=True):
    """The verdicts of one verify step. ``closed`` sessions have ended.

    ``budget`` is within how many seconds the tell for rows that lack drafts is to be there, though the verifier may
    wait longer: 0 for no wait (no tell is sent, a lead serves it later), None for as long as it takes. ``horizon`` is
    when, in seconds, it expects its next verdict, so the time in which a lead is useful; 0 asks for none. An ask in
    which nothing lacks, or which is not waited for, is not answered by a tell. ``shadow``: nobody waits, but a tell is
    wanted within the budget for comparison, if there is nothing better to do.
    """

    epoch: int
    step: int
    rows: tuple[DraftRow, ...]
    closed: tuple[str, ...] = ()
    budget: float | None = None
    horizon: float = 0.0
    shadow: bool = False

    @property
    def waits(self) -> bool:
        """Whether a tell is waited for."""
        return self.budget != 0 and not self.shadow and any(row.lacks for row in self.rows)


class DraftTell(msgspec.Struct, frozen=True, tag=True):
    """The answer: drafts per row, in the order asked; none for rows that held theirs; fewer than ``depth``, or none,
    where the context ends, the history is still being read or the ask came too late. ``lost`` rows are unknown here (a
    new life, evicted, no room, or ids outside the vocabulary): the verifier resends them from position 0. ``epoch`` and
    ``step`` echo the question, ``life`` is the drafter's own; ``compute`` is the time in seconds that the batch took.
    """

    epoch: int
    step: int
    life: int
    drafts: tuple[Drafts, ...]
    lost: tuple[str, ...] = ()
    compute: float = 0.0


class Branch(msgspec.Struct, frozen=True, array_like=True):
    """If the next verdict is ``given`` (accepted drafts and the token after them), the next drafts are ``drafts``."""

    given: Annotated[tuple[Token, ...], Meta(min_length=1, max_length=MAX_DEPTH + 1)]
    drafts: Annotated[tuple[Token, ...], Meta(min_length=1, max_length=MAX_DEPTH)]


class LeadRow(msgspec.Struct, frozen=True, array_like=True):
    """What a session may continue with. ``start`` is the position at which every ``given`` begins: the length of the
    history that the drafter knows as final."""

    session: str
    start: Count
    branches: Annotated[tuple[Branch, ...], Meta(max_length=MAX_BRANCHES)]


class DraftLead(msgspec.Struct, frozen=True, tag=True):
    """Drafts made ahead, pushed after the ask of ``step``; each row replaces the earlier lead of its session. ``lost``
    as in a tell: an ask that expects no tell hears of lost sessions here. ``compute`` as in a tell."""

    epoch: int
    step: int
    life: int
    rows: tuple[LeadRow, ...]
    lost: tuple[str, ...] = ()
    compute: float = 0.0


ToDrafter = DraftAsk
ToVerifier = DraftTell | DraftLead
