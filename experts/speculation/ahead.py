"""Branches drafted ahead: one batch over many sessions, of which each verdict then selects at most one row.

A row goes on from a bet: some drafts of its session, which are in the cache, and the token that may follow them. What
was computed for the row that came true is moved into the cache, so nothing is computed twice.
"""

import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from experts.speculation.book import Session
from experts.speculation.draft_model import Cache, DraftModel, Round, Window
from experts.speculation.lead import Bet
from experts.speculation.messages import Branch

ROUNDS = 8
"""Batches that are kept for their verdicts. Older ones are dropped: their verdicts come late, or never."""


@dataclass(frozen=True, slots=True)
class _Branches:
    """The rows of one session in a round: which row of the window each bet is."""

    round: "weakref.ref[Round]"
    rows: tuple[tuple[int, Bet], ...]

    def adopt(self, session: Session, verdict: tuple[int, ...]) -> None:
        work = self.round()
        if work is None or not work.passes:
            return
        for row, bet in self.rows:
            if verdict[: bet.accepted + 1] == (*session.drafts[: bet.accepted], bet.token):
                work.window.commit([row])
                session.turn(bet.accepted, bet.token)
                drafts, start = work.drafts()[row], session.final + session.made
                session.drafted(drafts)
                likely, chances = work.found()
                session.ranked(start, likely[row], chances[row])
                return


class Branched:
    """The rounds that were drafted ahead. Not thread-safe."""

    def __init__(self, model: DraftModel, cache: Cache) -> None:
        self._model, self._cache = model, cache
        self._rounds: deque[Round] = deque(maxlen=ROUNDS)
        self._wanted = 0

    def open(self, sessions: Sequence[Session], offers: Sequence[Sequence[Bet]], depth: int) -> Round:
        """A round with one row per bet, rows of a session side by side, which is good for ``depth`` passes and one."""
        if self._rounds:
            self._rounds[-1].rank()
            self._rounds[-1].window.seal()
        rows = [(session, bet) for session, offer in zip(sessions, offers, strict=True) for bet in offer]
        slots = [session.slot for session, _ in rows]
        cached = [session.final + bet.accepted for session, bet in rows]
        window = Window(self._cache, slots, cached=cached, counts=[1] * len(rows), later=depth)
        tokens = np.array([[bet.token] for _, bet in rows], np.int64)
        work = Round(self._model, window, torch.from_numpy(tokens).to(self._cache.store.device))
        first = 0
        for session, offer in zip(sessions, offers, strict=True):
            session.prepared = _Branches(weakref.ref(work), tuple(enumerate(offer, first)))
            first += len(offer)
        self._rounds.append(work)
        self._wanted = depth + 1
        return work

    def deepen(self, advance: Callable[[Round], None]) -> bool:
        """Give the newest round, if it was finished, the pass after its last: then every branch knows what is likely
        to follow if all its drafts are accepted. False if there is nothing to do."""
        if not self._rounds or self._rounds[-1].passes + 1 != self._wanted:
            return False
        advance(self._rounds[-1])
        self._rounds[-1].rank()
        return True


def branches(session: Session, drafted: Sequence[tuple[Bet, Sequence[int]]]) -> tuple[Branch, ...]:
    """What a lead says of a session whose bets were ``drafted`` so. Drafts beyond what is wanted, or beyond the
    context, are kept back."""
    made = session.drafts
    found = []
    for bet, drafts in drafted:
        most = min(session.depth, session.room - bet.accepted - 1)
        found.append(Branch((*made[: bet.accepted], bet.token), tuple(drafts[:most])))
    return tuple(found)
