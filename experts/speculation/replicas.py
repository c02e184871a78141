"""One draft replica as a verifier sees it: its link, how far it is trusted, and what it has been sent."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from cluster.transport import BlockingLink
from experts.api import DraftPeer
from experts.speculation.fallback import Fault, Trust
from experts.speculation.messages import (
    MAX_DEPTH,
    DraftAsk,
    DraftLead,
    DraftRow,
    DraftTell,
    ToDrafter,
    ToVerifier,
)

SMOOTHING = 0.2
"""Weight of the newest answer in the usual time of one."""
MEETING = 0.1
"""Seconds that it takes at most to connect to a replica that was never met; until then it is not lost."""
AMPLE = 1.5
"""Multiple of its usual time that is enough for any answer."""
MOST = 0.9
"""Share of the deadline that counts as all of it: waits are counted in whole milliseconds."""
FADING, RECALL = 0.8, 0.25
"""An answer time that keeps the verifier from waiting counts for so much less each time, and for half after so many
seconds, so that it is measured again."""
LEARNING, GUESS = 0.05, 0.5
"""Weight of the newest verdict in how often a replica's first draft is right, and what it is before there is any."""
ENDED = 8
"""Sessions that have ended of which a replica hears at the latest, if that has time: they keep others from places."""
LONGEST = 6
"""Answers without drafts for a session, in a row, that still double the number of steps it is not waited for."""


@dataclass(slots=True)
class Kept:
    """What a replica has of one session: its ``sent`` leading tokens, last brought up to date in ask ``step``, which
    began at position 0 if ``whole``. After ``empty`` answers without drafts it is not waited for before ``again``."""

    sent: int = 0
    step: int = 0
    whole: bool = False
    empty: int = 0
    again: int = 0


@dataclass(slots=True)
class AnswerTime:
    """How long answers take: ``usual`` is a moving average, vain waits included. ``since`` when it is too long for any
    wait, and for how many there would have been (``skips``)."""

    usual: float = 0.0
    since: float | None = None
    skips: int = 0

    def expected(self, now: float) -> float:
        """Seconds; 0 if nothing is known."""
        passed = 0.0 if self.since is None else now - self.since
        return self.usual * FADING**self.skips * math.exp2(-passed / RECALL)

    def waited(self, seconds: float, *, vain: bool = False) -> None:
        self.usual = _smoothed(self.usual, max(seconds, self.usual) if vain else seconds)
        self.since, self.skips = None, 0

    def skipped(self, now: float) -> None:
        """It was too long to wait at all."""
        self.since = now if self.since is None else self.since
        self.skips += 1


@dataclass(frozen=True, slots=True)
class Question:
    """An ask that a tell is due for: ``places`` are the indices of its rows among those of the step, ``at`` is when it
    was sent."""

    ask: DraftAsk
    places: tuple[int, ...]
    at: float

    def fits(self, tell: DraftTell, vocabulary: int) -> bool:
        """Whether the tell answers exactly this."""
        rows = self.ask.rows
        return (
            tell.step == self.ask.step
            and len(tell.drafts) == len(rows)
            and all(len(drafts) <= row.depth for row, drafts in zip(rows, tell.drafts, strict=True))
            and all(token < vocabulary for drafts in tell.drafts for token in drafts)
            and {row.session for row in rows}.issuperset(tell.lost)
        )


class Replica:
    """``retry`` as in ``Trust``; every opening and closing of the breaker is counted in ``changes``."""

    def __init__(
        self, peer: DraftPeer, link: BlockingLink[ToDrafter, ToVerifier], *, retry: float, changes: Counter[str]
    ) -> None:
        self.peer, self.link, self.life = peer, link, peer.epoch
        self.trust = Trust(retry)
        self.kept: dict[str, Kept] = {}
        self.question: Question | None = None
        self.step = 0
        self.silent: float | None = None
        self._unmet = math.inf
        self.right = GUESS
        self._changes = changes
        self.time = AnswerTime()
        self._answer = 0.0
        self._ended: list[str] = []

    @property
    def patience(self) -> float:
        """Seconds it is to be given whatever that brings: ample time on probation for its answers, else none."""
        if self.trust.closed or self.trust.cause == "wrong":
            return 0.0
        return AMPLE * self.time.usual or math.inf

    def row(self, session: str, tokens: NDArray[np.int32], *, depth: int, held: int, most: int) -> DraftRow:
        """What to tell it of a history: ``most`` new tokens at most. It drafts only once it has them all."""
        sent = self.kept[session].sent
        start = sent if sent <= tokens.size else 0
        new = tuple(tokens[start : start + most].tolist())
        wanted = min(depth, MAX_DEPTH) if start + len(new) == tokens.size else 0
        return DraftRow(session, start, new, wanted, min(held, wanted))

    def ask(self, ask: DraftAsk, now: float, *, answered: bool) -> bool:
        """Send it. ``answered``: something is expected to come back. False, and a miss, if nobody is connected."""
        if self._ended:
            ask = msgspec.structs.replace(ask, closed=tuple(self._ended))
            self._ended.clear()
        if not self.link.send(ask):
            self._unmet = min(self._unmet, now)
            if now - self._unmet >= MEETING:
                self.missed("lost", now)
            return False
        self._unmet = -math.inf
        self.step = ask.step
        if answered and self.silent is None:
            self.silent = now
        for row in ask.rows:
            kept = self.kept[row.session]
            kept.sent, kept.step, kept.whole = row.start + len(row.tokens), ask.step, row.start == 0
        return True

    def ended(self, sessions: Iterable[str], epoch: int, step: int, *, leisure: bool) -> None:
        """These have ended. With ``leisure`` it hears of them with the next ask, or when they are many or all: what a
        message costs the one who sends it, whose core then runs the network too, is a twentieth of a short step."""
        self._ended.extend(sessions)
        if not leisure or len(self._ended) >= ENDED or not self.kept:
            self.link.send(DraftAsk(epoch, step, (), tuple(self._ended), budget=0.0))
            self._ended.clear()

    def answered(self, now: float, took: float | None = None) -> None:
        """Something useful came in time; ``took`` seconds, if it was waited for."""
        if took is not None:
            self._answer = _smoothed(self._answer, took)
            self.time.waited(took)
        self.silent = None
        self.settle(self.trust.answered(now))

    def late(self, now: float, waited: float, deadline: float) -> None:
        """Waited for in vain. That is its fault only if it had ample time, or most of the deadline."""
        if waited >= min(AMPLE * self._answer, MOST * deadline):
            self.missed("late", now)
        self.time.waited(waited, vain=True)

    def missed(self, fault: Fault, now: float) -> None:
        self.silent = None
        self.settle(self.trust.missed(fault, now))

    def proved(self, *, right: bool) -> None:
        """Another first draft of its was right, or wrong."""
        self.right += LEARNING * (right - self.right)

    def settle(self, trust: Trust) -> None:
        """Trust it so from now on."""
        if change := trust.change(self.trust):
            self._changes[f"breaker:{change}"] += 1
        self.trust = trust

    def born(self, life: int, step: int) -> None:
        """A new life answers ask ``step`` at the old address: it knows nothing of what was sent before."""
        self.life = life
        for kept in self.kept.values():
            if kept.step < step:
                kept.sent = 0

    def empty(self, session: str) -> None:
        """It knows the session but has no drafts, as while it reads a long history: let it be for some steps."""
        kept = self.kept[session]
        kept.empty = min(kept.empty + 1, LONGEST)
        kept.again = self.step + 2**kept.empty

    def full(self, session: str) -> None:
        """It has drafts for the session."""
        kept = self.kept[session]
        kept.empty = kept.again = 0


def _smoothed(average: float, newest: float) -> float:
    return average + SMOOTHING * (newest - average) if average else newest


def usable(lead: DraftLead, vocabulary: int) -> bool:
    """Whether all its drafts are tokens of the verifier."""
    return all(token < vocabulary for row in lead.rows for branch in row.branches for token in branch.drafts)
