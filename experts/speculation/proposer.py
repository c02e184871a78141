"""The verify side of split speculation: what a verifier's engine thread calls between two of its steps.

One ask per step and replica carries only the tokens that are new since the last one; then the engine thread waits for
the tells, at most ``deadline`` seconds. Every failure (a late, lost, dead, replaced or babbling replica) means fewer
drafts and nothing else: the verifier then decodes those rows plainly. A late answer is not wasted, as the drafter has
cached what it computed and continues there when asked again.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from cluster.errors import ProtocolError
from cluster.transport import BlockingLink, Wire, wait
from experts.api import DraftPeer
from experts.speculation.fallback import Trust
from experts.speculation.messages import MAX_DEPTH, VERSION, DraftAsk, DraftRow, DraftTell, ToDrafter, ToVerifier

LARGEST_TELL = 1 << 20
"""Bytes. A tell of 256 rows is a few dozen KiB; decoding must not become the wait that the deadline bounds."""


@dataclass(frozen=True, slots=True)
class DraftHistory:
    """A sequence to draft for. ``session`` is unique per submission; ``tokens`` [n] are all its final tokens, prompt
    and output (a view: it is read before ``propose`` returns); ``depth`` is how many drafts are wanted, 0 for none."""

    session: str
    tokens: NDArray[np.int32]
    depth: int


@dataclass(frozen=True, slots=True)
class DraftStats:
    """Counters since the start. Of ``asked`` asks each was ``answered``, ``late`` or ``garbage``. ``lost`` counts rows
    that a replica did not know, ``plain`` rows nobody was asked about, ``drafted`` tokens, ``wait`` seconds."""

    asked: int = 0
    answered: int = 0
    late: int = 0
    garbage: int = 0
    lost: int = 0
    plain: int = 0
    drafted: int = 0
    wait: float = 0.0


@dataclass(slots=True, eq=False)
class _Replica:
    """``sent``: for each session kept there, how many of its leading tokens the replica has been sent."""

    peer: DraftPeer
    link: BlockingLink[ToDrafter, ToVerifier]
    trust: Trust
    life: int
    sent: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Question:
    """An ask on its way: ``places`` are the indices of its rows among those of the step."""

    ask: DraftAsk
    places: tuple[int, ...]

    def fits(self, tell: DraftTell, vocabulary: int) -> bool:
        """Whether the tell answers exactly this."""
        rows = self.ask.rows
        return (
            (tell.epoch, tell.step) == (self.ask.epoch, self.ask.step)
            and len(tell.drafts) == len(rows)
            and all(len(drafts) <= row.depth for row, drafts in zip(rows, tell.drafts, strict=True))
            and all(token < vocabulary for drafts in tell.drafts for token in drafts)
            and {row.session for row in rows}.issuperset(tell.lost)
        )


class RemoteDrafts:
    """Drafts from other processes. All methods are called on one thread; ``propose`` never raises.

    ``epoch`` is the life of this verifier, ``deadline`` the longest wait per step and ``retry`` the first pause after
    misses, both in seconds; drafts at or above ``vocabulary`` are refused.
    """

    def __init__(self, *, epoch: int, deadline: float, retry: float, vocabulary: int = 2**31) -> None:
        self._epoch, self._deadline, self._retry, self._vocabulary = epoch, deadline, retry, vocabulary
        self._wire: Wire[ToDrafter, ToVerifier] = Wire(VERSION, ToVerifier)
        self._replicas: dict[str, _Replica] = {}
        self._homes: dict[str, _Replica] = {}
        self._refused: dict[str, float] = {}
        self._step = 0
        self._stats = DraftStats()

    def propose(self, rows: Sequence[DraftHistory]) -> list[list[int]]:
        """Drafts for each row, possibly none, within ``deadline`` seconds."""
        began = time.monotonic()
        due = began + self._deadline
        self._step += 1
        drafts: list[list[int]] = [[] for _ in rows]
        waiting = self._send(rows, began)
        while waiting and time.monotonic() < due:
            ready = wait([replica.link for replica in waiting], due - time.monotonic())
            if not ready:
                break
            for replica in [replica for replica in waiting if replica.link in ready]:
                self._read(replica, waiting, drafts, due)
        now = time.monotonic()
        for replica in waiting:
            replica.trust = replica.trust.missed(now)
        self._count(late=len(waiting), drafted=sum(map(len, drafts)))
        self._stats = replace(self._stats, wait=self._stats.wait + now - began)
        return drafts

    def close(self, sessions: Iterable[str]) -> None:
        """Forget sessions that have ended, here and at their replicas."""
        closed: dict[_Replica, list[str]] = {}
        for session in sessions:
            self._refused.pop(session, None)
            if replica := self._homes.pop(session, None):
                del replica.sent[session]
                closed.setdefault(replica, []).append(session)
        for replica, names in closed.items():
            replica.link.send(DraftAsk(self._epoch, self._step, (), tuple(names)))

    def use(self, peers: Sequence[DraftPeer]) -> None:
        """Replace the known draft replicas. Sessions of one that is gone, or has a new life, start anew elsewhere."""
        wanted = {peer.replica: peer for peer in peers}
        for name, replica in list(self._replicas.items()):
            if wanted.get(name) != replica.peer:
                replica.link.close()
                del self._replicas[name]
                for session in replica.sent:
                    del self._homes[session]
        for name, peer in wanted.items():
            if name not in self._replicas:
                link = BlockingLink(self._wire, peer.endpoint, largest=LARGEST_TELL)
                self._replicas[name] = _Replica(peer, link, Trust(self._retry), peer.epoch)

    def stats(self) -> DraftStats:
        return self._stats

    def _send(self, rows: Sequence[DraftHistory], now: float) -> dict[_Replica, _Question]:
        """Ask every replica about its sessions; the questions that are under way."""
        places: dict[_Replica, list[int]] = {}
        for place, row in enumerate(rows):
            if row.depth > 0 and row.tokens.size:
                if replica := self._home(row.session, now):
                    places.setdefault(replica, []).append(place)
                else:
                    self._count(plain=1)
        waiting = {}
        for replica, chosen in places.items():
            asked = tuple(self._row(replica, rows[place]) for place in chosen)
            ask = DraftAsk(self._epoch, self._step, asked, budget=self._deadline)
            if replica.link.send(ask):
                replica.sent.update((rows[place].session, rows[place].tokens.size) for place in chosen)
                waiting[replica] = _Question(ask, tuple(chosen))
            else:
                replica.trust = replica.trust.missed(now)
                self._count(plain=len(chosen))
        self._count(asked=len(waiting))
        return waiting

    def _row(self, replica: _Replica, row: DraftHistory) -> DraftRow:
        sent = replica.sent[row.session]
        start = sent if sent <= row.tokens.size else 0
        return DraftRow(row.session, start, tuple(row.tokens[start:].tolist()), min(row.depth, MAX_DEPTH))

    def _home(self, session: str, now: float) -> _Replica | None:
        """The replica that keeps the session, or else the trusted one with the fewest; None if none is trusted."""
        home = self._homes.get(session)
        if home is not None and home.trust.asks(now):
            return home
        if self._refused.get(session, now) > now:
            return None
        trusted = [replica for replica in self._replicas.values() if replica.trust.asks(now)]
        if not trusted:
            return None
        if home is not None:
            del home.sent[session]
        home = min(trusted, key=lambda replica: len(replica.sent))
        home.sent[session] = 0
        self._homes[session] = home
        return home

    def _read(self, replica: _Replica, waiting: dict[_Replica, _Question], drafts: list[list[int]], due: float) -> None:
        """Take what a replica has sent, until its answer to this step's question, or garbage, is found."""
        while time.monotonic() < due:
            try:
                tell = replica.link.receive()
            except ProtocolError:
                tell = None
            else:
                if tell is None:
                    return
                if tell.epoch == self._epoch and tell.step < self._step:
                    continue
            question = waiting.pop(replica)
            if tell is None or not question.fits(tell, self._vocabulary):
                replica.trust = replica.trust.missed(time.monotonic())
                self._count(garbage=1)
                return
            self._accept(replica, question, tell)
            for place, found in zip(question.places, tell.drafts, strict=True):
                drafts[place] = list(found)
            return

    def _accept(self, replica: _Replica, question: _Question, tell: DraftTell) -> None:
        replica.trust = replica.trust.answered()
        lost = set(tell.lost)
        self._count(answered=1, lost=len(lost))
        if tell.life != replica.life:
            replica.life = tell.life
            asked = {row.session for row in question.ask.rows}
            replica.sent.update((session, 0) for session in replica.sent if session not in asked)
        starts = {row.session: row.start for row in question.ask.rows}
        for session in lost:
            replica.sent[session] = 0
            if starts[session] == 0:
                self._refuse(session, replica)

    def _refuse(self, session: str, replica: _Replica) -> None:
        """A replica that was sent everything and still does not keep it has no room: leave it in peace for a while."""
        del replica.sent[session]
        del self._homes[session]
        self._refused[session] = time.monotonic() + self._retry

    def _count(self, **more: int) -> None:
        self._stats = replace(self._stats, **{name: getattr(self._stats, name) + n for name, n in more.items()})
