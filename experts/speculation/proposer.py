"""The verify side of split speculation: what a verifier's engine thread calls between two of its steps.

One ask per step and replica carries only the tokens that are new since the last one. Rows whose drafts were made ahead
have them already; for the others the engine thread waits, but never longer than ``deadline`` nor than twice what the
drafts are worth. Every failure (a late, lost, dead, replaced or babbling replica) means fewer drafts and nothing else:
the verifier then decodes those rows plainly. A late answer is not wasted, as its drafts may still come true.
"""

import math
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cluster.errors import ProtocolError
from cluster.transport import BlockingLink, Wire, wait
from experts.api import WAIT_BUCKETS, DraftPeer
from experts.speculation.depth import Verdict
from experts.speculation.fallback import first_chance, surprise
from experts.speculation.inbox import DraftStats, Inbox
from experts.speculation.messages import VERSION, DraftAsk, DraftRow, ToDrafter, ToVerifier
from experts.speculation.placement import Placement
from experts.speculation.replicas import Question, Replica

LARGEST_TELL = 1 << 20
"""Bytes. A tell of 256 rows is a few dozen KiB; decoding must not become the wait that the deadline bounds."""
LAG = 8
"""New tokens after which a session that has no drafts at present is brought up to date: a drafter takes so many along
with drafting, and has to read more before it can."""
FOLLOW, STRETCH = 0.05, 4.0
"""Step by which ``Rhythm`` follows what happens, and the most it believes."""
GRACE = 2.0
"""Waits last at most so many budgets: an answer that is overdue is probably about to come, and what was waited is lost
either way."""
LEISURE = 0.5
"""Seconds in which shadow drafts are of use: by then decoding has looked again, or will soon."""
FAR = 512
"""Tokens that a replica may lack of a session's history and still be asked for shadow drafts; it is not worth more."""
SPAN, SHORT = 4096, 64
"""Tokens of long histories sent in one step, and how many are not counted as long: sessions that move, or come back,
take turns."""


@dataclass(frozen=True, slots=True)
class DraftHistory:
    """A sequence to draft for. ``session`` is unique per submission; ``tokens`` [n] are all its final tokens, prompt
    and output (a view: it is read before ``propose`` returns); ``depth`` is how many drafts are wanted, 0 for none,
    and ``gain`` how many of them are expected to be accepted. ``notice``: if none now, some may be wanted soon.
    ``shadow`` drafts are wanted only to be compared (see ``RemoteDrafts.compared``), if no row wants others."""

    session: str
    tokens: NDArray[np.int32]
    depth: int
    gain: float = 0.0
    notice: bool = True
    shadow: int = 0


@dataclass(frozen=True, slots=True)
class Proposal:
    """Drafts for each row, possibly none. Of the rows that wanted some, ``hits`` had theirs made ahead and ``misses``
    had not. ``wait`` is the time spent waiting and ``draft`` how much of it drafters computed, in seconds."""

    drafts: list[list[int]]
    hits: int = 0
    misses: int = 0
    wait: float = 0.0
    draft: float = 0.0


@dataclass(slots=True)
class _Batch:
    """What one replica is asked in a step: drafts to verify, waited for or not, or ``shadow`` drafts. ``gain`` is what
    waiting for it is expected to bring, in tokens."""

    rows: list[DraftRow] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    waits: bool = False
    shadow: bool = False
    gain: float = 0.0


@dataclass(frozen=True, slots=True)
class _Offer:
    """What was proposed after ``length`` tokens of a session, for the next verdict on who made it."""

    replica: Replica
    length: int
    first: int
    gain: float
    depth: int


class Rhythm:
    """How much longer than expected it takes from one call to the next: a median, followed. What was expected knows
    nothing of prefills, say. Between calls that have no session in common there may have been nothing to do."""

    def __init__(self) -> None:
        self._stretch = 1.0
        self._due = 0.0
        self._sessions: frozenset[str] = frozenset()

    def began(self, now: float, sessions: frozenset[str]) -> None:
        """The next call is here."""
        if self._due and not sessions.isdisjoint(self._sessions):
            self._stretch *= 1.0 + FOLLOW if now > self._due else 1.0 - FOLLOW
            self._stretch = max(1.0 / STRETCH, min(self._stretch, STRETCH))
        self._sessions = sessions

    def ended(self, now: float, horizon: float, *, rest: int) -> None:
        """A call ends; the next was expected in ``horizon`` seconds, or nobody knows when (infinity, or ``rest``)."""
        self._due = now + self.stretched(horizon) if math.isfinite(horizon) and not rest else 0.0

    def stretched(self, horizon: float) -> float:
        """In how many seconds it really is to be expected."""
        return self._stretch * horizon


class RemoteDrafts:
    """Drafts from other processes. All methods are called on one thread; ``propose`` never raises.

    ``epoch`` is the life of this verifier, ``deadline`` the longest wait per step and ``retry`` the measure of pauses
    after faults (see ``Trust``), both in seconds; drafts at or above ``vocabulary`` are refused. Without ``ahead``
    nothing is drafted ahead: the plain twin, which waits for every draft.
    """

    def __init__(
        self, *, epoch: int, deadline: float, retry: float, vocabulary: int = 2**31, ahead: bool = True
    ) -> None:
        self._epoch, self._deadline, self._ahead = epoch, deadline, ahead
        wire: Wire[ToDrafter, ToVerifier] = Wire(VERSION, ToVerifier)
        self._stats = DraftStats()
        self._placement = Placement(
            lambda endpoint: BlockingLink(wire, endpoint, largest=LARGEST_TELL),
            retry=retry,
            changes=self._stats.changes,
        )
        self._inbox = Inbox(self._placement, self._stats, epoch=epoch, vocabulary=vocabulary, patience=deadline)
        self._offers: dict[str, _Offer] = {}
        self._rhythm = Rhythm()
        self._step = 0
        self._shadowing = self._resting = False

    def propose(
        self,
        rows: Sequence[DraftHistory],
        *,
        pace: float = 0.0,
        horizon: float = math.inf,
        rest: int = 0,
        meanwhile: Callable[[], None] | None = None,
    ) -> Proposal:
        """Drafts for each row. ``pace`` is what a second of waiting costs, in tokens (0: not known); ``horizon`` is in
        how many seconds the next verdict is expected, ``rest`` how many steps will pass without a call. ``meanwhile``,
        short and never raising, is called if answers are waited for; its time is part of the wait."""
        began = time.monotonic()
        self._step += 1
        self._inbox.step, self._resting = self._step, rest > 0
        self._rhythm.began(began, frozenset(row.session for row in rows))
        self._inbox.drain(began)
        self._judge(rows, began)
        self._shadowing = self._shadowing and not any(row.depth for row in rows)
        drafts: list[list[int]] = [[] for _ in rows]
        batches = self._plan(rows, drafts, began, max(LAG - rest, 1))
        hits = sum(map(bool, drafts)) if self._ahead else 0
        budget = self._worth(batches, pace, began)
        waiting = self._send(batches, budget, self._rhythm.stretched(horizon) if self._ahead else 0.0)
        asked = time.monotonic()
        due = asked + min(GRACE * budget, self._deadline)
        if waiting and meanwhile:
            meanwhile()
        draft = self._await(waiting, drafts, due)
        answered = time.monotonic()
        wait = answered - asked
        self._rhythm.ended(answered, horizon, rest=rest)
        self._remember(rows, drafts)
        proposal = Proposal(drafts, hits, sum(row.depth > 0 for row in rows) - hits, wait, min(draft, wait))
        self._count(proposal)
        return proposal

    def compared(self, rows: Iterable[tuple[str, NDArray[np.int32]]]) -> list[Verdict]:
        """What would have become of the shadow drafts that have come, of sessions with these tokens [n]. A replica
        whose drafts were useless can redeem itself with them."""
        if not self._shadowing:
            return []
        now = time.monotonic()
        self._inbox.drain(now)
        verdicts = self._inbox.shadows.compare(rows)
        self._shadowing = self._inbox.shadowing
        found: dict[Replica, bool] = {}
        for verdict in verdicts:
            if home := self._placement.kept_by(verdict.session):
                found[home] = found.get(home, False) or verdict.accepted > 0
        for replica, right in found.items():
            if not replica.trust.closed:
                replica.settle(replica.trust.judged(surprise([replica.right]), accepted=right, now=now))
        return verdicts

    def announce(self, session: str, tokens: NDArray[np.int32]) -> None:
        """A prompt [n] that is about to be prefilled here: its replica may read it meanwhile."""
        now = time.monotonic()
        home = self._placement.home(session, now, {})
        if home is not None and tokens.size:
            row = home.row(session, tokens, depth=0, held=0, most=SPAN)
            home.ask(DraftAsk(self._epoch, self._step, (row,), budget=0.0), now, answered=False)

    def close(self, sessions: Iterable[str]) -> None:
        """Forget sessions that have ended, here and at their replicas."""
        closed: dict[Replica, list[str]] = {}
        for session in sessions:
            self._offers.pop(session, None)
            self._inbox.drop(session)
            if replica := self._placement.close(session):
                closed.setdefault(replica, []).append(session)
        for replica, names in closed.items():
            replica.ended(names, self._epoch, self._step, leisure=self._resting)

    def use(self, peers: Sequence[DraftPeer]) -> None:
        """Replace the known draft replicas. Sessions of one that is gone, or has a new life, start anew elsewhere."""
        self._placement.use(peers)

    def stats(self) -> DraftStats:
        """The live counters: to be read, not kept."""
        return self._stats

    def _plan(
        self, rows: Sequence[DraftHistory], drafts: list[list[int]], now: float, lag: int
    ) -> dict[Replica, _Batch]:
        """Fill in the drafts that are here already; who is asked about what. Sessions that may have drafts soon are
        brought up to date after ``lag`` new tokens, so that they can have some at once."""
        batches: dict[Replica, _Batch] = {}
        asked: Counter[Replica] = Counter()
        span = SPAN
        shadowing = not any(row.depth for row in rows)
        for place, row in enumerate(rows):
            behind = self._behind(row)
            shadow = row.shadow if shadowing and behind <= FAR else 0
            depth = row.depth or shadow
            if not row.tokens.size or not (depth or (row.notice and behind >= lag)):
                continue
            home = self._placement.home(row.session, now, asked)
            if home is None or not (row.depth or home.trust.closed or (shadow and home.trust.cause == "wrong")):
                self._stats.plain += row.depth > 0
                continue
            if row.depth:
                drafts[place] = list(self._inbox.ready(row.session, row.tokens)[: row.depth])
            new = home.row(row.session, row.tokens, depth=depth, held=len(drafts[place]), most=max(span, SHORT))
            span -= len(new.tokens) if len(new.tokens) > SHORT else 0
            asked[home] += 1
            batch = batches.setdefault(home, _Batch())
            batch.rows.append(new)
            batch.places.append(place)
            batch.shadow |= shadow > 0
            if row.depth and new.lacks and home.kept[row.session].again <= self._step:
                batch.waits = True
                batch.gain += row.gain
        return batches

    def _behind(self, row: DraftHistory) -> int:
        """Tokens that the session's replica has not been sent."""
        home = self._placement.kept_by(row.session)
        return row.tokens.size - (home.kept[row.session].sent if home else 0)

    def _worth(self, batches: dict[Replica, _Batch], pace: float, now: float) -> float:
        """The longest wait that pays from the start, in seconds; who usually takes longer is not waited for. A replica
        on probation is asked about so few rows that no wait would pay: it has its time, as its breaker sees to it that
        this is rare."""
        hoped = {replica: batch for replica, batch in batches.items() if batch.waits}
        while hoped:
            budget = self._deadline
            if pace > 0:
                budget = min(budget, sum(batch.gain for batch in hoped.values()) / pace)
            slow = [each for each in hoped if not each.patience and _too_slow(each, budget, pace, now)]
            if not slow:
                return max([budget, *(min(each.patience, self._deadline) for each in hoped)])
            for replica in slow:
                replica.time.skipped(now)
                hoped.pop(replica).waits = False
        return 0.0

    def _send(self, batches: dict[Replica, _Batch], budget: float, horizon: float) -> dict[Replica, Question]:
        """Ask every replica about its sessions; the questions that are under way."""
        waiting = {}
        if not self._shadowing and any(batch.shadow for batch in batches.values()):
            self._inbox.shadows.clear()
            self._shadowing = True
        for replica, batch in batches.items():
            if batch.shadow:
                ask = DraftAsk(self._epoch, self._step, tuple(batch.rows), budget=LEISURE, shadow=True)
            else:
                limit = budget if batch.waits else 0.0
                ask = DraftAsk(self._epoch, self._step, tuple(batch.rows), budget=limit, horizon=horizon)
            now = time.monotonic()
            question = Question(ask, tuple(batch.places), now)
            if not replica.ask(ask, now, answered=batch.waits):
                self._stats.plain += len(batch.rows) * (not batch.shadow)
            elif batch.shadow:
                replica.question = question
            elif batch.waits:
                replica.question = waiting[replica] = question
        self._stats.asked += len(waiting)
        return waiting

    def _await(self, waiting: dict[Replica, Question], drafts: list[list[int]], due: float) -> float:
        """Read until every question is answered or time is up; what is here by then counts. How long the slowest
        drafter computed."""
        draft, left = 0.0, due - time.monotonic()
        while waiting and (ready := wait([replica.link for replica in waiting], max(left, 0.0))):
            for replica in [replica for replica in waiting if replica.link in ready]:
                try:
                    tell = self._inbox.answer(replica, due)
                except ProtocolError:
                    del waiting[replica]
                    self._stats.garbage += 1
                    replica.missed("garbage", time.monotonic())
                    continue
                if tell is not None:
                    self._inbox.accept(replica, waiting.pop(replica), tell, drafts)
                    draft = max(draft, tell.compute)
            if (left := due - time.monotonic()) <= 0:
                break
        now = time.monotonic()
        for replica, question in waiting.items():
            replica.late(now, now - question.at, self._deadline)
        self._stats.late += len(waiting)
        return draft

    def _judge(self, rows: Sequence[DraftHistory], now: float) -> None:
        """Hold the replicas to what they drafted last: were these drafts any good? Where the choice of depths expects
        nothing of a row (it is certain), the replica's own record says what could be expected."""
        right: set[Replica] = set()
        failed: dict[Replica, list[float]] = {}
        for row in rows:
            offer = self._offers.pop(row.session, None)
            if offer is None or row.tokens.size <= offer.length:
                continue
            replica = offer.replica
            chance = first_chance(offer.gain, offer.depth) if offer.gain < offer.depth else replica.right
            good = bool(row.tokens[offer.length] == offer.first)
            replica.proved(right=good)
            if good:
                right.add(replica)
            else:
                failed.setdefault(replica, []).append(chance)
        for replica in right | failed.keys():
            doubt = surprise(failed.get(replica, ()))
            replica.settle(replica.trust.judged(doubt, accepted=replica in right, now=now))

    def _remember(self, rows: Sequence[DraftHistory], drafts: list[list[int]]) -> None:
        for row, found in zip(rows, drafts, strict=True):
            home = self._placement.kept_by(row.session)
            if found and home is not None:
                self._offers[row.session] = _Offer(home, row.tokens.size, found[0], row.gain, row.depth)

    def _count(self, proposal: Proposal) -> None:
        stats = self._stats
        stats.hits += proposal.hits
        stats.misses += proposal.misses
        stats.drafted += sum(map(len, proposal.drafts))
        stats.wait += proposal.wait
        stats.draft += proposal.draft
        if proposal.hits or proposal.misses:
            stats.waits[bisect_left(WAIT_BUCKETS, proposal.wait)] += 1


def _too_slow(replica: Replica, budget: float, pace: float, now: float) -> bool:
    """Whether its answers usually take longer than waiting pays."""
    return budget <= 0 or (pace > 0 and replica.time.expected(now) > budget)
