"""What the compute thread does next, on a clock and a line of its own."""

from collections import deque
from dataclasses import dataclass, field

import msgspec
import pytest

from experts.speculation.desk import MARGIN, Desk, Line
from experts.speculation.drafter import CHUNK, Drafter
from experts.speculation.messages import DraftAsk, DraftLead, DraftRow, DraftTell
from experts.speculation.share import jain
from tests.speculation.models import VOCABULARY


@dataclass
class Rig:
    """A line whose clock moves ``pace`` seconds each time it is read. ``later`` comes when so many looks were taken."""

    now: float = 0.0
    pace: float = 0.0
    inbox: deque = field(default_factory=deque)
    later: list = field(default_factory=list)
    sent: list = field(default_factory=list)
    looks: int = 0

    def line(self):
        return Line(self.hear, lambda peer, message: self.sent.append((peer, message)) is None, self.clock)

    def clock(self):
        self.now += self.pace
        return self.now

    def hear(self, timeout):
        self.looks += 1
        for look, message in list(self.later):
            if self.looks >= look:
                self.later.remove((look, message))
                self.inbox.append(message)
        return self.inbox.popleft() if self.inbox else None

    def told(self, kind):
        return [(peer, message) for peer, message in self.sent if isinstance(message, kind)]


@pytest.fixture
def rig():
    return Rig()


@pytest.fixture
def desk(model, rig):
    return Desk(Drafter(model, slots=6, life=7), rig.line())


def ask(*rows, epoch=1, step=1, budget=0.1, horizon=0.0, closed=()):
    return DraftAsk(epoch, step, tuple(DraftRow(*row) for row in rows), closed, budget, horizon)


def prompt(length):
    return tuple(token % VOCABULARY for token in range(length))


def test_a_waited_ask_is_told_and_then_drafted_ahead_for(rig, desk, greedy):
    rig.inbox.append((b"v", ask(("a", 0, (1, 2), 3), horizon=1.0)))
    desk.step()
    ((peer, tell),) = rig.told(DraftTell)
    assert (peer, tell.epoch, tell.step, tell.life, tell.drafts) == (b"v", 1, 1, 7, (tuple(greedy([1, 2], 3)),))
    desk.step()
    ((peer, lead),) = rig.told(DraftLead)
    assert (peer, lead.epoch, lead.step, lead.rows[0].start) == (b"v", 1, 1, 2)
    assert all(list(b.drafts) == greedy((1, 2, *b.given), 3) for b in lead.rows[0].branches)


def test_no_lead_is_made_without_a_horizon_or_after_most_of_it(rig, desk):
    rig.inbox.append((b"v", ask(("a", 0, (1, 2), 3))))
    desk.step()
    rig.inbox.append((b"v", ask(("a", 2, (3,), 3), step=2, horizon=1.0)))
    desk.step()
    rig.now += MARGIN
    desk.step()
    assert len(rig.told(DraftTell)) == 2
    assert rig.told(DraftLead) == []


def test_what_is_not_waited_for_gets_a_lead_only(rig, desk):
    rig.inbox.append((b"v", ask(("a", 0, (1, 2), 3), budget=0.0, horizon=1.0)))
    rig.inbox.append((b"w", ask(("b", 0, (1, 2), 3, 2), epoch=2, horizon=1.0)))
    desk.step()
    assert {(peer, type(message)) for peer, message in rig.sent} == {(b"v", DraftLead), (b"w", DraftLead)}


def test_who_expects_no_tell_hears_of_lost_sessions_in_a_lead(rig, desk):
    rig.inbox.append((b"v", ask(("a", 5, (1, 2), 3, 3), horizon=1.0)))
    desk.step()
    ((_, lead),) = rig.sent
    assert (lead.lost, lead.rows) == (("a",), ())


def test_who_waits_comes_before_who_reads_and_who_reads_before_leads(rig, desk):
    rig.inbox.append((b"v", ask(("a", 0, prompt(2 * CHUNK), 3), ("b", 0, (1,), 3), horizon=10.0)))
    desk.step()
    assert [type(message) for _, message in rig.sent] == [DraftTell]
    assert desk.served.read == 0
    desk.step()
    assert 0 < desk.served.read < 2 * CHUNK
    rig.inbox.append((b"w", ask(("c", 0, (4,), 3), epoch=2)))
    desk.step()
    assert [type(message) for _, message in rig.sent] == [DraftTell, DraftTell]
    desk.step()
    desk.step()
    assert [type(message) for _, message in rig.sent] == [DraftTell, DraftTell, DraftLead]
    assert {row.session for row in rig.sent[-1][1].rows} == {"a", "b"}


def test_a_newer_ask_replaces_the_one_that_waited(rig, desk, greedy):
    rig.inbox.append((b"v", ask(("a", 0, (1, 2), 4), step=1)))
    rig.inbox.append((b"v", ask(("a", 2, (3,), 4), step=2)))
    desk.step()
    ((_, tell),) = rig.told(DraftTell)
    assert (tell.step, list(tell.drafts[0])) == (2, greedy([1, 2, 3], 4))
    (share,) = desk.shares.all()
    assert (share.asks, share.answered, share.expired) == (2, 1, 1)


def test_an_announced_prompt_replaces_nothing(rig, desk):
    rig.inbox.append((b"v", ask(("a", 0, (1, 2), 4), step=1)))
    rig.inbox.append((b"v", ask(("new", 0, (5, 6), 0), step=1)))
    desk.step()
    assert [tell.step for _, tell in rig.told(DraftTell)] == [1]


def test_an_ask_that_came_too_late_is_answered_empty_and_counted(rig, desk):
    rig.inbox.append((b"v", ask(("a", 0, (1, 2), 4), budget=0.1)))
    rig.pace = 0.2
    desk.step()
    ((_, tell),) = rig.told(DraftTell)
    assert tell.drafts == ((),)
    (share,) = desk.shares.all()
    assert (share.answered, share.expired) == (0, 1)


def test_a_large_verifier_does_not_make_a_small_one_late(rig, desk):
    for _ in range(50):
        for rows in (1, 4):
            desk._drafter.cost.saw(rows, 0.01 * rows)
    rig.inbox.append((b"large", ask(*[(str(row), 0, (row,), 4) for row in range(4)], budget=10.0)))
    rig.inbox.append((b"small", ask(("a", 0, (1, 2), 4), epoch=2, budget=0.1)))
    desk.step()
    assert [peer for peer, _ in rig.told(DraftTell)] == [b"small"]
    desk.step()
    assert [peer for peer, _ in rig.told(DraftTell)] == [b"small", b"large"]


def test_one_who_waits_cuts_a_lead_short_which_is_sent_all_the_same(rig, desk, greedy):
    rig.inbox.append((b"v", ask(("a", 0, (1, 2), 12), budget=0.0, horizon=10.0)))
    rig.later.append((5, (b"w", ask(("b", 0, (4,), 2), epoch=2))))
    desk.step()
    ((_, lead),) = rig.told(DraftLead)
    lengths = {len(branch.drafts) for branch in lead.rows[0].branches}
    assert 0 < max(lengths) < 12
    assert all(list(b.drafts) == greedy((1, 2, *b.given), len(b.drafts)) for b in lead.rows[0].branches)
    desk.step()
    assert [peer for peer, _ in rig.told(DraftTell)] == [b"w"]


def test_a_lead_that_its_verdict_overtakes_is_not_sent(rig, desk):
    rig.inbox.append((b"v", ask(("a", 0, (1, 2), 12), budget=0.0, horizon=10.0)))
    rig.later.append((5, (b"v", ask(("a", 2, (4,), 2, 1), step=2, horizon=0.0))))
    desk.step()
    desk.step()
    assert rig.sent == []


def test_it_waits_only_when_there_is_nothing_to_do(rig, model):
    waits = []
    line = Line(lambda timeout: waits.append(timeout) or rig.hear(timeout), lambda *sent: True, rig.clock)
    desk = Desk(Drafter(model, slots=6, life=7), line)
    rig.inbox.append((b"v", ask(("a", 0, (1, 2), 2), horizon=1.0)))
    for _ in range(3):
        desk.step()
    assert None not in waits
    for _ in range(3):
        desk.step()
    assert waits[-2:] == [None, None]


def test_the_time_ahead_is_divided_evenly_between_a_large_and_a_small_verifier(model):
    rig = Rig(pace=0.001)
    desk = Desk(Drafter(model, slots=6, life=7), rig.line())
    lengths = {1: 1, 2: 1}
    for step in range(40):
        for rows in (1, 4) * 50:
            desk._drafter.cost.saw(rows, 0.01 * rows)
        for epoch, rows in ((1, 4), (2, 1)):
            chosen = [(str(row), 0, prompt(lengths[epoch]), 2) for row in range(rows)]
            rig.inbox.append((b"v", ask(*chosen, epoch=epoch, step=step, budget=0.0, horizon=0.14 / MARGIN)))
            lengths[epoch] += step % 2
        desk.step()
    leads = [lead.epoch for _, lead in rig.told(DraftLead)]
    assert len(leads) == 40
    assert 16 <= leads.count(1) <= 24
    assert jain([share.compute for share in desk.shares.all()]) > 0.95


def test_shadow_drafts_come_after_everything_else_and_are_made_in_idle_time(rig, desk, greedy):
    shadow = msgspec.structs.replace(ask(("s", 0, prompt(CHUNK + 9), 3), budget=5.0), shadow=True)
    rig.inbox.append((b"s", shadow))
    rig.inbox.append((b"w", ask(("a", 0, (1, 2), 3), epoch=2, horizon=1.0)))
    kinds = []
    for _ in range(8):
        desk.step()
        kinds = [(peer, type(message)) for peer, message in rig.sent]
    assert kinds == [(b"w", DraftTell), (b"w", DraftLead), (b"s", DraftTell)]
    assert rig.sent[-1][1].drafts == (tuple(greedy(prompt(CHUNK + 9), 3)),)
    assert desk.served.waiting == 0
    assert {share.epoch: (share.asks, share.answered) for share in desk.shares.all()} == {1: (0, 0), 2: (1, 1)}


def test_shadow_drafts_are_not_made_for_a_history_that_has_moved_on_nor_too_late(rig, desk):
    shadow = msgspec.structs.replace(ask(("s", 0, (1, 2), 3), budget=5.0), shadow=True)
    rig.inbox.append((b"s", shadow))
    rig.inbox.append((b"s", ask(("s", 2, (3,), 0), step=2, budget=0.0)))
    for _ in range(3):
        desk.step()
    assert [tell.drafts for _, tell in rig.told(DraftTell)] == [((),)]
    rig.inbox.append((b"s", msgspec.structs.replace(shadow, step=3, rows=(DraftRow("s", 3, (4,), 3),))))
    rig.pace = 10.0
    for _ in range(3):
        desk.step()
    assert len(rig.told(DraftTell)) == 1


def test_shadow_drafts_do_not_cut_a_lead_short(rig, desk):
    rig.inbox.append((b"v", ask(("a", 0, (1, 2), 3), horizon=1.0)))
    desk.step()
    shadow = msgspec.structs.replace(ask(("s", 0, (1, 2), 3), epoch=2, budget=5.0), shadow=True)
    rig.later.append((rig.looks + 2, (b"s", shadow)))
    desk.step()
    ((_, lead),) = rig.told(DraftLead)
    assert {len(branch.drafts) for branch in lead.rows[0].branches} == {3}
