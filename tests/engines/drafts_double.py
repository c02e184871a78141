"""Drafts as a test wants them: the seam of split speculation with a script behind it."""

from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

from experts.api import DraftPeer
from experts.speculation.proposer import DraftHistory

NAME = f"{__name__}.Scripted"


def nothing(row: DraftHistory) -> list[int]:
    return []


class Scripted:
    """Proposes what ``script`` says, and remembers what it was asked. One engine at a time uses it."""

    script: ClassVar[Callable[[DraftHistory], list[int]]] = staticmethod(nothing)
    asked: ClassVar[list[tuple[str, int, int]]] = []  # session, tokens known, depth
    closed: ClassVar[list[str]] = []
    peers: ClassVar[tuple[DraftPeer, ...]] = ()

    def __init__(self, *, epoch: int, deadline: float, retry: float) -> None:
        self.settings = (epoch, deadline, retry)

    def propose(self, rows: Sequence[DraftHistory]) -> list[list[int]]:
        Scripted.asked += [(row.session, len(row.tokens), row.depth) for row in rows]
        return [Scripted.script(row) for row in rows]

    def close(self, sessions: Iterable[str]) -> None:
        Scripted.closed += sessions

    def use(self, peers: Sequence[DraftPeer]) -> None:
        Scripted.peers = tuple(peers)

    @classmethod
    def follow(cls, script: Callable[[DraftHistory], list[int]]) -> None:
        cls.script = staticmethod(script)
        cls.asked = []
        cls.closed = []
