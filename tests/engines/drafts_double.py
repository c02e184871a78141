"""Drafts as a test wants them: the seam of split speculation with a script behind it."""

from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from experts.api import DraftPeer
from experts.speculation.depth import Verdict
from experts.speculation.inbox import DraftStats
from experts.speculation.proposer import DraftHistory, Proposal

NAME = f"{__name__}.Scripted"


def nothing(row: DraftHistory) -> list[int]:
    return []


class Scripted:
    """Proposes what ``script`` says, and remembers what it was asked. One engine at a time uses it."""

    script: ClassVar[Callable[[DraftHistory], list[int]]] = staticmethod(nothing)
    asked: ClassVar[list[tuple[str, int, int]]] = []  # session, tokens known, depth
    announced: ClassVar[dict[str, tuple[int, ...]]] = {}
    closed: ClassVar[list[str]] = []
    peers: ClassVar[tuple[DraftPeer, ...]] = ()

    def __init__(self, *, epoch: int, deadline: float, retry: float, vocabulary: int, ahead: bool) -> None:
        self.settings = (epoch, deadline, retry, vocabulary, ahead)
        self._stats = DraftStats()

    def propose(
        self, rows: Sequence[DraftHistory], *, pace: float, horizon: float, rest: int, meanwhile: Callable[[], None]
    ) -> Proposal:
        del pace, horizon
        meanwhile()
        Scripted.asked += [(row.session, len(row.tokens), row.depth) for row in rows if row.depth]
        drafts = [Scripted.script(row) if row.depth else [] for row in rows]
        self._stats.misses += len(rows)
        return Proposal(drafts, misses=len(rows))

    def compared(self, rows: Iterable[tuple[str, NDArray[np.int32]]]) -> list[Verdict]:
        return []

    def announce(self, session: str, tokens: NDArray[np.int32]) -> None:
        Scripted.announced[session] = tuple(tokens.tolist())

    def close(self, sessions: Iterable[str]) -> None:
        Scripted.closed += sessions

    def use(self, peers: Sequence[DraftPeer]) -> None:
        Scripted.peers = tuple(peers)

    def stats(self) -> DraftStats:
        return self._stats

    @classmethod
    def follow(cls, script: Callable[[DraftHistory], list[int]]) -> None:
        cls.script = staticmethod(script)
        cls.asked = []
        cls.announced = {}
        cls.closed = []
