"""The draft side of split speculation, without its transport: asks of any number of verifiers in, tells out.

All asks that wait together become one batch, whoever sent them. Drafting is greedy, so an answer depends on nothing but
the history of its session: what is cached, evicted, rolled back or batched with it changes the time, not the tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
import torch

from experts.api import EngineLimits
from experts.speculation.book import Key, Session, SessionBook
from experts.speculation.draft_model import DraftModel, Window
from experts.speculation.messages import DraftAsk, DraftTell

CATCH_UP = 8
"""Rows with more new tokens are prefilled apart: in the draft batch all rows are padded to the longest one's."""
CHUNK = 128
PREFILL_ROWS = 8
"""A prefill pass takes CHUNK tokens of up to so many rows, which bounds the memory its scores need."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """An ask and when it came (seconds, on the clock of ``now``)."""

    ask: DraftAsk
    at: float

    def timely(self, now: float) -> bool:
        """Whether its verifier still waits."""
        return self.ask.budget is None or now - self.at <= self.ask.budget


class Drafter:
    """``keep``: seconds for which a used session is safe from eviction. Not thread-safe."""

    def __init__(self, model: DraftModel, *, slots: int, life: int, keep: float = 1.0) -> None:
        self.life = life
        self.prefilled = 0
        self.limits = EngineLimits(model.context, slots, model.shape.vocabulary)
        self._model = model
        self._cache = model.cache(slots)
        self._book = SessionBook(slots, model.context, vocabulary=model.shape.vocabulary, keep=keep)

    @property
    def sessions(self) -> int:
        return len(self._book)

    def answer(self, asks: Sequence[Arrived], now: float) -> list[DraftTell]:
        """One tell per ask, in order. An ask that its verifier has stopped waiting for, because a newer one came or
        its budget is over, brings its sessions up to date but gets no drafts."""
        newest = {arrived.ask.epoch: arrived.ask.step for arrived in asks if arrived.ask.rows}
        applied = [self._apply(arrived.ask, now) for arrived in asks]
        timely = [arrived.timely(now) and arrived.ask.step == newest.get(arrived.ask.epoch) for arrived in asks]
        wanted: dict[Key, int] = {}
        for arrived in compress(asks, timely):
            for row in arrived.ask.rows:
                key = (arrived.ask.epoch, row.session)
                wanted[key] = max(row.depth, wanted.get(key, 0))
        drafts = self._round(wanted)
        return [
            self._tell(arrived.ask, known, drafts if answered else {})
            for arrived, known, answered in zip(asks, applied, timely, strict=True)
        ]

    def _apply(self, ask: DraftAsk, now: float) -> list[Session | None]:
        for session in ask.closed:
            self._book.close((ask.epoch, session))
        return [self._book.apply((ask.epoch, row.session), row, now=now) for row in ask.rows]

    def _tell(self, ask: DraftAsk, known: list[Session | None], drafts: dict[Session, list[int]]) -> DraftTell:
        rows = list(zip(ask.rows, known, strict=True))
        found = [tuple(drafts.get(session, ())[: row.depth]) if session else () for row, session in rows]
        lost = tuple(row.session for row, session in rows if session is None)
        return DraftTell(ask.epoch, ask.step, self.life, tuple(found), lost)

    @torch.inference_mode()
    def _round(self, wanted: dict[Key, int]) -> dict[Session, list[int]]:
        """Drafts of every wanted session that is still known and has something to continue and room to do so."""
        sessions = {self._book.get(key): depth for key, depth in wanted.items()}
        rows = {s: min(depth, s.room) for s, depth in sessions.items() if s and s.final and min(depth, s.room)}
        if not rows:
            return {}
        batch = list(rows)
        self._prefill(batch)
        depth = max(rows.values())
        window = self._window(batch, [session.behind for session in batch], later=depth - 1)
        drafts = self._model.draft(window, self._inputs(batch, [session.behind for session in batch]), depth)
        window.commit()
        found = drafts.to("cpu", torch.int32).numpy()
        for session, row in zip(batch, found, strict=True):
            session.drafted(row)
        return {session: row[: rows[session]].tolist() for session, row in zip(batch, found, strict=True)}

    def _prefill(self, batch: list[Session]) -> None:
        """Run long new histories through the model, up to the few tokens that the draft batch takes along."""
        while behind := [session for session in batch if session.behind > CATCH_UP][:PREFILL_ROWS]:
            counts = [min(CHUNK, session.behind - 1) for session in behind]
            window = self._window(behind, counts, later=0)
            self._model.forward(window, self._inputs(behind, counts))
            window.commit()
            for session, count in zip(behind, counts, strict=True):
                session.cached += count
            self.prefilled += sum(counts)

    def _window(self, batch: list[Session], counts: list[int], *, later: int) -> Window:
        slots, cached = [session.slot for session in batch], [session.cached for session in batch]
        return Window(self._cache, slots, cached=cached, counts=counts, later=later)

    def _inputs(self, batch: list[Session], counts: list[int]) -> torch.Tensor:
        """The next ``counts`` tokens of each session, right-aligned: [rows, max(counts)]."""
        tokens = np.zeros((len(batch), max(counts)), np.int64)
        for row, session, count in zip(tokens, batch, counts, strict=True):
            row[-count:] = session.tokens[session.cached : session.cached + count]
        return torch.from_numpy(tokens).to(self._cache.store.device)
