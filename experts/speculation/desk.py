"""What a draft replica's compute thread does next, one piece of work at a time.

Verdicts are taken in as they come. Then whoever waits is answered; when nobody waits, new histories are read, a piece
at a time; then the time until the verifiers' next verdicts is used to draft ahead for them; and what is left, for
shadow drafts.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import msgspec

from experts.speculation.drafter import Drafter
from experts.speculation.messages import DraftAsk, DraftLead, DraftTell, ToVerifier
from experts.speculation.share import Pending, Shares, Work, fitting

MARGIN = 0.8
"""Share of the time until the next verdict after which a lead must be out, as it still has to travel."""
BURST = 256
"""So many messages are taken in at most before the work goes on."""
SMOOTHING = 0.1

Hear = Callable[[float | None], tuple[bytes, DraftAsk] | None]
Send = Callable[[bytes, ToVerifier], bool]


@dataclass(frozen=True, slots=True)
class Line:
    """The way to the verifiers: ``hear`` waits so many seconds (None: for ever) for an ask, ``send`` never waits."""

    hear: Hear
    send: Send
    clock: Callable[[], float] = time.monotonic


@dataclass(frozen=True, slots=True)
class Served:
    """What was done since the start. ``drafted`` counts drafts in tells and leads; ``seconds`` is a moving average of
    the time that the batch of an answer takes; ``waiting`` asks are not answered yet."""

    sessions: int = 0
    read: int = 0
    answers: int = 0
    leads: int = 0
    drafted: int = 0
    seconds: float = 0.0
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class _Order:
    """An ask to be answered, or to be drafted ahead for until ``due``."""

    peer: bytes
    pending: Pending
    due: float

    @property
    def epoch(self) -> int:
        return self.pending.ask.epoch

    def work(self, *, ahead: bool) -> Work:
        rows = [row.depth for row in self.pending.ask.rows if row.depth and (ahead or row.lacks)]
        return Work(self.due, len(rows), max(rows, default=0) + ahead)


class Desk:
    """One verifier has at most one ask waiting and one lead to be made: what it asks next replaces both. Belongs to the
    compute thread but for the readings ``served`` and ``shares``."""

    def __init__(self, drafter: Drafter, line: Line) -> None:
        self.shares = Shares()
        self.served = Served()
        self._drafter, self._line = drafter, line
        self._heard: deque[tuple[bytes, DraftAsk, float]] = deque()
        self._waiting: dict[int, _Order] = {}
        self._ahead: dict[int, _Order] = {}
        self._shadows: dict[int, _Order] = {}
        self._idle = False

    def step(self) -> None:
        """Do the most urgent piece of work. When there is none, wait for a message or to be woken."""
        self._listen(None if self._idle else 0.0)
        while self._heard:
            self._take(*self._heard.popleft())
        self._idle = not (self._answer() or self._read() or self._lead() or self._shadow() or self._drafter.deepen())

    def _listen(self, timeout: float | None) -> None:
        """A message counts as come when it is heard, which is between two passes at the latest."""
        heard = self._line.hear(timeout)
        while heard is not None:
            self._heard.append((*heard, self._line.clock()))
            heard = self._line.hear(0.0) if len(self._heard) < BURST else None

    def _take(self, peer: bytes, ask: DraftAsk, at: float) -> None:
        pending = self._drafter.take(ask, at)
        if pending.lost and not ask.waits:
            self._line.send(peer, DraftLead(ask.epoch, ask.step, self._drafter.life, (), pending.lost))
        if ask.shadow:
            self._ahead.pop(ask.epoch, None)
            self._shadows[ask.epoch] = _Order(peer, pending, pending.due)
        elif _wants(ask):
            self._replace(ask.epoch, at)
            if ask.waits:
                self._waiting[ask.epoch] = _Order(peer, pending, pending.due)
            else:
                self._prepare(peer, pending, at)
        self._note()

    def _replace(self, epoch: int, now: float) -> None:
        self.shares.asked(epoch)
        self._ahead.pop(epoch, None)
        self._shadows.pop(epoch, None)
        if old := self._waiting.pop(epoch, None):
            self.shares.expired(epoch, now - old.pending.at)

    def _prepare(self, peer: bytes, pending: Pending, now: float) -> None:
        if pending.ask.horizon > 0:
            self._ahead[pending.ask.epoch] = _Order(peer, pending, now + MARGIN * pending.ask.horizon)

    def _answer(self) -> bool:
        """Answer those who wait, as far as they fit into one batch."""
        now = self._line.clock()
        orders = sorted(self._waiting.values(), key=lambda order: (order.due, order.pending.at))
        late = [order for order in orders if order.due < now]
        orders = orders[len(late) :]
        fit = fitting([order.work(ahead=False) for order in orders], self._drafter.cost, now)
        chosen = late + orders[:fit]
        if not chosen:
            return False
        tells = self._drafter.answer([order.pending for order in chosen], now)
        done = self._line.clock()
        for order, tell in zip(chosen, tells, strict=True):
            del self._waiting[order.epoch]
            self._line.send(order.peer, msgspec.structs.replace(tell, compute=done - now))
            self._prepare(order.peer, order.pending, done)
            (self.shares.answered if done <= order.due else self.shares.expired)(order.epoch, done - order.pending.at)
        self._drafter.rank()
        self._charge(chosen, [sum(map(len, tell.drafts)) for tell in tells], self._line.clock() - now)
        self._count(tells, done - now)
        return True

    def _read(self) -> bool:
        began = self._line.clock()
        key = self._drafter.read()
        if key is not None:
            self.shares.used(key[0], self._line.clock() - began)
            self._note()
        return key is not None

    def _lead(self) -> bool:
        """Draft ahead for the verifiers whose turn it is, as far as they fit into one batch."""
        now = self._line.clock()
        self._ahead = {epoch: order for epoch, order in self._ahead.items() if order.due > now}
        orders = [self._ahead[epoch] for epoch in self.shares.turns(self._ahead)]
        orders = orders[: fitting([order.work(ahead=True) for order in orders], self._drafter.cost, now)]
        if not orders:
            return False
        due = min(order.due for order in orders)
        served = {self._ahead.pop(order.epoch).epoch for order in orders}
        leads = self._drafter.lead([order.pending for order in orders], due - now, lambda: self._cut(served, due))
        took = self._line.clock() - now
        stale = {ask.epoch for _, ask, _ in self._heard if _wants(ask)}
        peers = {order.epoch: order.peer for order in orders}
        for lead in leads:
            if lead.epoch not in stale:
                self._line.send(peers[lead.epoch], msgspec.structs.replace(lead, compute=took))
        rows = {lead.epoch: sum(len(row.branches) for row in lead.rows) for lead in leads}
        self._charge(orders, [rows.get(order.epoch, 0) for order in orders], took)
        drafted = sum(len(branch.drafts) for lead in leads for row in lead.rows for branch in row.branches)
        self.served = replace(self.served, leads=self.served.leads + len(leads), drafted=self.served.drafted + drafted)
        return True

    def _shadow(self) -> bool:
        """Make one verifier's shadow drafts, if it still wants them."""
        now = self._line.clock()
        self._shadows = {epoch: order for epoch, order in self._shadows.items() if order.due > now}
        turns = self.shares.turns(self._shadows)
        if not turns:
            return False
        order = self._shadows.pop(turns[0])
        (tell,) = self._drafter.answer([order.pending], now)
        took = self._line.clock() - now
        self._line.send(order.peer, msgspec.structs.replace(tell, compute=took))
        self.shares.used(order.epoch, took)
        return True

    def _cut(self, served: set[int], due: float) -> bool:
        """Whether drafting ahead ends here: time is up, somebody waits, or all it is for have had their verdicts."""
        self._listen(0.0)
        if self._line.clock() >= due or any(ask.waits for _, ask, _ in self._heard):
            return True
        return served <= {ask.epoch for _, ask, _ in self._heard if _wants(ask)}

    def _charge(self, orders: Sequence[_Order], parts: Sequence[int], seconds: float) -> None:
        """Divide the time of a batch among its verifiers in proportion to ``parts``."""
        whole = sum(parts)
        for order, part in zip(orders, parts, strict=True):
            self.shares.used(order.epoch, seconds * part / whole if whole else seconds / len(orders))

    def _count(self, tells: Sequence[DraftTell], took: float) -> None:
        drafted = sum(len(drafts) for tell in tells for drafts in tell.drafts)
        if drafted:
            served = self.served
            seconds = served.seconds + (SMOOTHING if served.answers else 1.0) * (took - served.seconds)
            self.served = replace(served, answers=served.answers + 1, drafted=served.drafted + drafted, seconds=seconds)
        self._note()

    def _note(self) -> None:
        drafter, waiting = self._drafter, len(self._waiting)
        self.served = replace(self.served, sessions=drafter.sessions, read=drafter.prefilled, waiting=waiting)


def _wants(ask: DraftAsk) -> bool:
    """Whether drafts are wanted; an ask that does not only keeps the drafter up to date."""
    return any(row.depth for row in ask.rows)
