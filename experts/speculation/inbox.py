"""What draft replicas say to a verifier, read without ever waiting, and what is kept of it for the next step."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cluster.errors import ProtocolError
from experts.api import WAIT_BUCKETS
from experts.speculation.lead import Leads
from experts.speculation.messages import Branch, DraftLead, DraftTell, LeadRow, ToVerifier
from experts.speculation.placement import Placement
from experts.speculation.replicas import Question, Replica, usable
from experts.speculation.shadow import Shadows

FLOOD = 64
"""Messages read from one replica without waiting; more are left for the next step."""
SILENCE = 0.25
"""Seconds (and at least eight deadlines) without any useful message from a replica that should send some."""


@dataclass(slots=True)
class DraftStats:
    """Counters since the start, as in ``SpeculationState``. ``plain`` counts rows nobody was asked about, ``drafted``
    tokens. Only asks that were waited for count as ``asked``; ``garbage`` also counts what came unasked."""

    asked: int = 0
    answered: int = 0
    late: int = 0
    garbage: int = 0
    lost: int = 0
    plain: int = 0
    hits: int = 0
    misses: int = 0
    drafted: int = 0
    wait: float = 0.0
    draft: float = 0.0
    waits: list[int] = field(default_factory=lambda: [0] * (len(WAIT_BUCKETS) + 1))
    changes: Counter[str] = field(default_factory=Counter)


class Inbox:
    """One verifier's messages. ``step`` is that of the newest ask; messages for other epochs or later steps, and tokens
    at or above ``vocabulary``, are garbage. ``patience`` is the verifier's deadline in seconds. ``shadows`` are the
    shadow drafts that have come."""

    def __init__(
        self, placement: Placement, stats: DraftStats, *, epoch: int, vocabulary: int, patience: float
    ) -> None:
        self.step = 0
        self._placement, self._stats = placement, stats
        self._epoch, self._vocabulary, self._patience = epoch, vocabulary, patience
        self._leads = Leads()
        self.shadows = Shadows()

    def ready(self, session: str, tokens: NDArray[np.int32]) -> tuple[int, ...]:
        """The drafts that were made ahead for exactly this history [n]; it is asked for once."""
        return self._leads.take(session, tokens)

    @property
    def shadowing(self) -> bool:
        """Whether shadow drafts are still to come, or to be compared."""
        questions = (each.question for each in self._placement.replicas)
        return len(self.shadows) > 0 or any(each is not None and each.ask.shadow for each in questions)

    def drop(self, session: str) -> None:
        self._leads.drop(session)
        self.shadows.drop(session)

    def drain(self, now: float) -> None:
        """Take what has come since the last step, without waiting."""
        for replica in self._placement.replicas:
            try:
                for _ in range(FLOOD):
                    if self._read(replica) is None:
                        break
            except ProtocolError:
                self._stats.garbage += 1
                replica.missed("garbage", now)
            if replica.silent is not None and now - replica.silent > max(SILENCE, 8 * self._patience):
                replica.missed("late", now)

    def answer(self, replica: Replica, due: float) -> DraftTell | None:
        """The answer to this step's question, if it is here; at least one message is read. Raises ProtocolError for
        garbage."""
        while (message := self._read(replica)) is not None:
            if isinstance(message, DraftTell) and message.step == self.step:
                return message
            if time.monotonic() >= due:
                break
        return None

    def accept(self, replica: Replica, question: Question, tell: DraftTell, drafts: Sequence[list[int]]) -> None:
        """The answer to a question of this step, in time."""
        now = time.monotonic()
        replica.answered(now, now - question.at)
        self._stats.answered += 1
        lost = set(tell.lost)
        for place, row, found in zip(question.places, question.ask.rows, tell.drafts, strict=True):
            if row.lacks and found:
                drafts[place].extend(found)
                replica.full(row.session)
            elif row.lacks and row.session not in lost:
                replica.empty(row.session)
        self._lost(replica, lost, tell.step)

    def _read(self, replica: Replica) -> ToVerifier | None:
        """The next message that is here, acted on unless it answers this step's question. Raises ProtocolError for
        one that cannot be read or be meant for us."""
        message = replica.link.receive()
        if message is None:
            return None
        if message.epoch != self._epoch or message.step > self.step:
            raise ProtocolError("a message for somebody else")
        if message.life != replica.life:
            replica.born(message.life, message.step)
        question = replica.question
        if isinstance(message, DraftLead):
            if not usable(message, self._vocabulary):
                raise ProtocolError("tokens that the verifier does not have")
            self._lead(replica, message)
        elif question is not None and message.step == question.ask.step:
            if not question.fits(message, self._vocabulary):
                raise ProtocolError("an answer to another question")
            if question.ask.shadow:
                self._compare(replica, question, message)
            elif message.step < self.step:
                self._overtaken(replica, question, message)
        return message

    def _compare(self, replica: Replica, question: Question, tell: DraftTell) -> None:
        """Shadow drafts have come."""
        replica.question = None
        for row, found in zip(question.ask.rows, tell.drafts, strict=True):
            if found and self._placement.kept_by(row.session) is replica:
                self.shadows.offer(row.session, row.start + len(row.tokens), found)
        self._lost(replica, set(tell.lost), tell.step)

    def _overtaken(self, replica: Replica, question: Question, tell: DraftTell) -> None:
        """An answer that was not waited for: if its first draft comes true, the others are the next drafts."""
        for row, found in zip(question.ask.rows, tell.drafts, strict=True):
            if len(found) > 1 and self._placement.kept_by(row.session) is replica:
                branch = Branch(found[:1], found[1:])
                self._leads.offer(LeadRow(row.session, row.start + len(row.tokens), (branch,)))
        self._lost(replica, set(tell.lost), tell.step)

    def _lead(self, replica: Replica, lead: DraftLead) -> None:
        for row in lead.rows:
            if self._placement.kept_by(row.session) is replica:
                self._leads.offer(row)
                replica.full(row.session)
        self._lost(replica, set(lead.lost), lead.step)
        if lead.rows and lead.step == replica.step:
            replica.answered(time.monotonic())

    def _lost(self, replica: Replica, lost: set[str], step: int) -> None:
        """Sessions the replica did not know in ask ``step``; later asks bring news of their own."""
        for session in lost:
            kept = replica.kept.get(session)
            if kept is None or kept.step > step:
                continue
            self._stats.lost += 1
            if kept.whole:
                self._placement.refuse(session, time.monotonic())
            else:
                kept.sent = 0
