"""The draft side of split speculation, without its transport: asks of any number of verifiers in, drafts out.

Asks that are answered together become one batch, whoever sent them, and so do the branches that are drafted ahead.
Drafting is greedy, so drafts depend on nothing but the history they continue: what is cached, evicted, rolled back,
drafted ahead or batched with it changes the time, not the tokens (where two tokens are equally likely up to rounding,
the size of the batch can decide between them).
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch

from experts.api import EngineLimits
from experts.speculation.ahead import Branched, branches
from experts.speculation.book import Key, Session, SessionBook
from experts.speculation.draft_model import DraftModel, Inside, Round, Window
from experts.speculation.lead import Bet, bets, spread
from experts.speculation.messages import DraftAsk, DraftLead, DraftRow, Drafts, DraftTell, LeadRow
from experts.speculation.share import PassCost, Pending, extent, within

CHUNK = 128
"""The most tokens read at a time, as whoever asks meanwhile has to wait for it."""

Cut = Callable[[], bool]
"""Whether to stop drafting ahead; asked between passes."""


COLUMNS = 16_384
"""The most tokens of history that are copied out of the cache to draft ahead on, all rows as long as the longest."""


@dataclass(frozen=True, slots=True)
class Ahead:
    """How far a drafter goes ahead: for ``branches`` verdicts per session at most (0: not at all), ``rows`` in all."""

    branches: int = 4
    rows: int = 32


class Drafter:
    """``keep``: seconds for which a used session is safe from eviction. Not thread-safe."""

    def __init__(
        self, model: DraftModel, *, slots: int, life: int, keep: float = 1.0, ahead: Ahead | None = None
    ) -> None:
        self.life = life
        self.prefilled = 0
        self.limits = EngineLimits(model.context, slots, model.shape.vocabulary)
        self.cost = PassCost()
        self._model = model
        self._cache = model.cache(slots)
        self._book = SessionBook(slots, model.context, vocabulary=model.shape.vocabulary, keep=keep)
        self._unread: OrderedDict[Key, Session] = OrderedDict()
        self._ahead = ahead or Ahead()
        self._branched = Branched(model, self._cache)
        self._unranked: tuple[Round, list[tuple[Session, int]]] | None = None

    @property
    def sessions(self) -> int:
        return len(self._book)

    @torch.inference_mode()
    def take(self, ask: DraftAsk, at: float) -> Pending:
        """Bring the ask's sessions up to date. ``at``: when it came, seconds."""
        self.rank()
        for name in ask.closed:
            self._book.close((ask.epoch, name))
        keys = [(ask.epoch, row.session) for row in ask.rows]
        known = tuple(self._apply(key, row, at) for key, row in zip(keys, ask.rows, strict=True))
        for key, session in zip(keys, known, strict=True):
            if session is not None and session.lags:
                self._unread[key] = session
        return Pending(ask, at, known)

    @torch.inference_mode()
    def answer(self, waiting: Sequence[Pending], now: float) -> list[DraftTell]:
        """One tell per ask, in order. Rows whose history is still to be read get no drafts, and neither does an ask
        that is not waited for any more at ``now``; drafts are as many as there is time for. An ask without a budget is
        answered in full: unread histories of its rows are read first."""
        timely = [pending for pending in waiting if now <= pending.due]
        for pending in timely:
            if pending.due == math.inf:
                self._read_through(pending)
        wanted: dict[Session, int] = {}
        for pending in timely:
            for row, session in self._live(pending):
                if row.lacks:
                    wanted[session] = max(min(row.depth, session.room), wanted.get(session, 0))
        lacking = [session for session, depth in wanted.items() if session.made < depth]
        passes = max((wanted[session] - session.made for session in lacking), default=0)
        left = min((pending.due for pending in timely), default=math.inf) - now
        self._extend(lacking, within(passes, self.cost(len(lacking)), left))
        return [self._tell(pending, wanted if pending in timely else {}) for pending in waiting]

    @torch.inference_mode()
    def read(self) -> Key | None:
        """Read a piece of a history that lags: whose it was; None if all are read. They take turns."""
        while self._unread:
            key, session = self._unread.popitem(last=False)
            if self._book.get(key) is session and session.lags:
                self._read_piece(session)
                if session.lags:
                    self._unread[key] = session
                return key
        return None

    @torch.inference_mode()
    def lead(self, served: Sequence[Pending], time: float, cut: Cut) -> list[DraftLead]:
        """Draft ahead for the sessions of ``served``, to be done in ``time`` seconds: a lead for each verifier that
        anything was drafted for. Cut short, leads have shorter drafts."""
        wanting = (session for pending in served for _, session in self._live(pending) if self._goes_ahead(session))
        sessions = list(dict.fromkeys(wanting))
        lacking = [session for session in sessions if session.made <= session.flight]
        passes = max((session.flight + 1 - session.made for session in lacking), default=0)
        depth = max((session.depth for session in sessions), default=0)
        left = time - passes * self.cost(len(lacking))
        longest = max((session.final for session in sessions), default=0) + 1
        most = min(self._ahead.rows, max(1, COLUMNS // longest))
        rows, depth = extent(len(sessions), depth, most, cost=self.cost, time=left)
        if not rows or not self._extend(lacking, passes, cut):
            return []
        self.rank()
        offers = spread([self._bets(session) for session in sessions], rows)
        if not any(offers):
            return []
        work = self._branched.open(sessions, offers, depth)
        while work.passes < depth and not cut():
            self._advance(work)
        return self._leads(served, dict(zip(sessions, offers, strict=True)), work) if work.passes else []

    @torch.inference_mode()
    def deepen(self) -> bool:
        """Give the last lead a pass more, from which the next one profits; False if there is nothing to do."""
        return self._branched.deepen(self._advance)

    def _apply(self, key: Key, row: DraftRow, at: float) -> Session | None:
        """A newcomer's share of another's cache is copied before anything else can change that."""
        session = self._book.apply(key, row, now=at)
        if session is not None and session.source != session.slot:
            self._cache.copy(session.source, session.slot, session.cached)
            session.source = session.slot
        return session

    def _goes_ahead(self, session: Session) -> bool:
        """Whether drafts are wanted after the next verdict, and will fit."""
        return bool(self._ahead.branches and session.depth) and session.room > session.flight + 1

    @torch.inference_mode()
    def rank(self) -> None:
        """Work out what else was likely where drafts were last made, which only drafting ahead needs to know: when it
        is needed, or earlier where there is time."""
        if self._unranked and self._ahead.branches:
            work, places = self._unranked
            for (session, start), likely, chances in zip(places, *work.found(), strict=True):
                session.ranked(start, likely, chances)
        self._unranked = None

    def _live(self, pending: Pending) -> Iterator[tuple[DraftRow, Session]]:
        """The rows whose sessions are still there and need no reading first."""
        for row, session in pending.rows():
            if session is None or self._book.get((pending.ask.epoch, row.session)) is not session:
                continue
            if session.final and session.room and not session.unread:
                yield row, session

    def _bets(self, session: Session) -> list[Bet]:
        span = slice(session.final, session.final + session.flight + 1)
        return bets(session.likely[span], session.chances[span], most=self._ahead.branches)

    def _tell(self, pending: Pending, wanted: dict[Session, int]) -> DraftTell:
        drafts: dict[Session, Drafts] = {}
        for row, session in self._live(pending):
            if row.lacks and session in wanted and session.final == row.start + len(row.tokens):
                drafts[session] = tuple(session.drafts[: row.depth])
                session.flight = len(drafts[session])
        found = tuple(drafts.get(s, ())[: row.depth] if s and row.lacks else () for row, s in pending.rows())
        return DraftTell(pending.ask.epoch, pending.ask.step, self.life, found, pending.lost)

    def _leads(self, served: Sequence[Pending], offers: dict[Session, list[Bet]], work: Round) -> list[DraftLead]:
        drafts = iter(work.drafts().tolist())
        made = {session: branches(session, [(bet, next(drafts)) for bet in offer]) for session, offer in offers.items()}
        leads = []
        for pending in served:
            live = {session: row for row, session in self._live(pending) if made.get(session)}
            rows = tuple(LeadRow(row.session, session.final, made[session]) for session, row in live.items())
            if rows:
                leads.append(DraftLead(pending.ask.epoch, pending.ask.step, self.life, rows))
        return leads

    def _extend(self, batch: Sequence[Session], passes: int, cut: Cut | None = None) -> bool:
        """Draft so many more tokens of each session; False if it was cut short."""
        if not batch or not passes:
            return True
        self.rank()
        counts = [session.behind for session in batch]
        window = self._window(batch, counts, later=passes - 1)
        work = Round(self._model, window, self._inputs(batch, counts))
        while work.passes < passes and not (cut and cut()):
            self._advance(work)
        if work.passes:
            window.commit()
            self._unranked = (work, [(session, session.final + session.made) for session in batch])
            for session, drafts in zip(batch, work.drafts(), strict=True):
                session.drafted(drafts)
        return work.passes == passes

    def _advance(self, work: Round) -> None:
        """One pass; the first of a round may take several tokens per row, so it tells nothing of the others."""
        began = perf_counter()
        work.advance()
        if work.passes > 1:
            self.cost.saw(work.rows, perf_counter() - began)

    def _read_through(self, pending: Pending) -> None:
        for row, session in pending.rows():
            while session is not None and row.lacks and session.unread:
                self._read_piece(session)

    def _read_piece(self, session: Session) -> None:
        counts = [min(CHUNK, session.behind - 1)]
        window = self._window([session], counts, later=0)
        self._model.forward(window, self._inputs([session], counts))
        window.commit()
        session.cached += counts[0]
        self.prefilled += counts[0]

    def _window(self, batch: Sequence[Session], counts: Sequence[int], *, later: int) -> Window:
        slots, cached = [session.slot for session in batch], [session.cached for session in batch]
        alone = len(batch) == 1 and cached[0] + counts[0] + later <= self._cache.context
        return (Inside if alone else Window)(self._cache, slots, cached=cached, counts=counts, later=later)

    def _inputs(self, batch: Sequence[Session], counts: Sequence[int]) -> torch.Tensor:
        """The next ``counts`` tokens of each session, right-aligned: [rows, max(counts)]."""
        tokens = np.zeros((len(batch), max(counts)), np.int64)
        for row, session, count in zip(tokens, batch, counts, strict=True):
            row[-count:] = session.tokens[session.cached : session.cached + count]
        return torch.from_numpy(tokens).to(self._cache.store.device)
