"""Drafter, lead and a verifier in miniature, in any order of events: both sides stay on the same prefix."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from experts.speculation.ahead import ROUNDS
from experts.speculation.draft_model import DraftModel
from experts.speculation.drafter import Ahead, Drafter
from experts.speculation.lead import Leads
from experts.speculation.messages import DraftAsk, DraftRow
from tests.speculation.conftest import CONTEXT
from tests.speculation.models import VOCABULARY, checkpoint

SLOTS = 3
LENGTHS = [1, 2, 9, 10, 140, CONTEXT - 6, CONTEXT]


@dataclass
class Truth:
    """A request at its verifier. ``sent`` tokens are believed to be at the drafter, which has ``told`` of them, as far
    as anybody can know; ``inflight`` drafts are being verified; ``hint`` is the likely next verdict."""

    history: list[int]
    sent: int = 0
    inflight: tuple[int, ...] = ()
    hint: tuple[int, ...] = ()


class Conversation(RuleBasedStateMachine):
    """Two verifiers and a drafter; asks, tells and leads get lost, leads are cut, sessions are evicted, and any side
    may begin a new life. ``held`` may be fewer than the drafts of a lead, and depths change from step to step."""

    def __init__(self, model, greedy):
        super().__init__()
        self.model, self.computed = model, greedy
        self.known: dict[tuple[tuple[int, ...], int], list[int]] = {}
        self.now = 0.0
        self.step = self.names = 0
        self.truths: dict[tuple[int, str], Truth] = {}
        self.arrived: dict[tuple[int, str], list[int]] = {}
        self.epochs = [1, 2]
        self.leads = {1: Leads(), 2: Leads()}
        self.restart_drafter()

    def greedy(self, history, depth):
        key = (tuple(history), depth)
        if key not in self.known:
            self.known[key] = self.computed(history, depth)
        return self.known[key]

    def restart_drafter(self):
        self.drafter = Drafter(self.model, slots=SLOTS, life=1, keep=0.5, ahead=Ahead(branches=4, rows=6))

    @rule(which=st.sampled_from([None, 0, 1]), really=st.integers(0, 3))
    def restart(self, which, really):
        if really < 3:
            return
        if which is None:
            self.restart_drafter()
            return
        gone = self.epochs[which]
        self.truths = {key: truth for key, truth in self.truths.items() if key[0] != gone}
        self.epochs[which] += 2
        self.leads[self.epochs[which]] = Leads()
        del self.leads[gone]

    @rule(seconds=st.sampled_from([0.1, 1.0]))
    def pass_time(self, seconds):
        self.now += seconds

    @precondition(lambda self: len(self.truths) < 5)
    @rule(
        which=st.integers(0, 1),
        length=st.sampled_from(LENGTHS),
        first=st.sampled_from([0, 0, 0, 7, 31]),
        announced=st.booleans(),
    )
    def open(self, which, length, first, announced):
        self.names += 1
        key = (self.epochs[which], str(self.names))
        truth = self.truths[key] = Truth([(first + 7 * place) % VOCABULARY for place in range(length)])
        if announced:
            self.deliver(DraftAsk(key[0], self.step, (self.row(key, depth=0, held=0),), budget=0.0))
            truth.sent = 0 if truth.sent == 0 else length

    @precondition(lambda self: self.truths)
    @rule(data=st.data(), lost=st.booleans())
    def close(self, data, lost):
        epoch, name = data.draw(st.sampled_from(sorted(self.truths)))
        del self.truths[epoch, name]
        self.leads[epoch].drop(name)
        if not lost:
            self.deliver(DraftAsk(epoch, self.step, (), (name,)))

    @precondition(lambda self: self.truths)
    @rule(data=st.data(), pieces=st.integers(0, 4))
    def read(self, data, pieces):
        for _ in range(pieces):
            self.drafter.read()

    @precondition(lambda self: self.truths)
    @rule(data=st.data(), steps=st.integers(1, 8))
    def verify(self, data, steps):
        epoch = data.draw(st.sampled_from(sorted({epoch for epoch, _ in self.truths})))
        keys = sorted(key for key in self.truths if key[0] == epoch)
        for _ in range(steps):
            self.verify_once(data, data.draw(st.lists(st.sampled_from(keys), min_size=1, unique=True)))

    def verify_once(self, data, keys):
        """One step: verdicts, leads taken, the ask, perhaps its tell, and a lead for the next step."""
        self.step += 1
        rows = [self.continued(data, key) for key in keys]
        budget = data.draw(st.sampled_from([0.0, None, 0.05]))
        ask = DraftAsk(keys[0][0], self.step, tuple(rows), budget=budget, horizon=1.0)
        if data.draw(st.integers(0, 7)) == 7:
            return  # lost: the next ask leaves a gap
        pending = self.deliver(ask, notice=data.draw(st.integers(0, 5)) < 5)
        if ask.waits:
            (tell,) = self.drafter.answer([pending], self.now + data.draw(st.sampled_from([0.0, 0.1])))
            self.told(ask, tell, arrives=data.draw(st.integers(0, 5)) < 5)
        for _ in range(data.draw(st.sampled_from([3, 2, 1, 0]))):
            self.drafter.read()
        passes = data.draw(st.sampled_from([99, 99, 99, 2, 1, 0]))
        looks = iter(range(1000))
        for lead in self.drafter.lead([pending], math.inf, lambda: next(looks) >= passes):
            self.led(lead, arrives=data.draw(st.integers(0, 5)) < 5)
        if data.draw(st.booleans()):
            self.drafter.deepen()

    def continued(self, data, key):
        """The verdict on a row, and what the verifier says of it: a hit is verified at once."""
        truth = self.truths[key]
        if truth.hint and data.draw(st.integers(0, 3)) < 3:
            truth.history += truth.hint
        else:
            truth.history += truth.inflight[: data.draw(st.integers(0, len(truth.inflight)))]
            truth.history += data.draw(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=3))
        depth = data.draw(st.sampled_from([4, 3, 5, 1, 0]))
        found = self.leads[key[0]].take(key[1], np.array(truth.history, np.int32)) if depth else ()
        assert list(found) == self.greedy(truth.history, len(found))
        truth.inflight, truth.hint = found[: data.draw(st.sampled_from([depth, 1]))], ()
        return self.row(key, depth=depth, held=len(truth.inflight))

    def row(self, key, *, depth, held):
        truth = self.truths[key]
        start = min(truth.sent, len(truth.history))
        truth.sent = len(truth.history)
        return DraftRow(key[1], start, tuple(truth.history[start:]), depth, held)

    def deliver(self, ask, notice=True):
        pending = self.drafter.take(ask, self.now)
        for row, session in pending.rows():
            truth = self.truths[ask.epoch, row.session]
            if session is None:
                truth.sent = 0 if notice else truth.sent
                continue
            assert session.final == len(truth.history)
            kept = session.tokens[: session.final].tolist()
            assert kept == truth.history[:CONTEXT]
            assert session.cached < max(1, session.final + session.made)
        return pending

    def told(self, ask, tell, arrives):
        for row, drafts in zip(ask.rows, tell.drafts, strict=True):
            truth = self.truths[ask.epoch, row.session]
            assert list(drafts) == self.greedy(truth.history, len(drafts))
            assert len(drafts) <= row.depth
            assert not (drafts and row.held)
            if arrives and row.lacks:
                truth.inflight = drafts
            if arrives and row.session in tell.lost:
                truth.sent = 0

    def led(self, lead, arrives):
        for row in lead.rows:
            truth = self.truths[lead.epoch, row.session]
            assert row.start == len(truth.history)
            assert len({branch.given for branch in row.branches}) == len(row.branches)
            for branch in row.branches:
                assert list(branch.drafts) == self.greedy((*truth.history, *branch.given), len(branch.drafts))
            if arrives:
                self.leads[lead.epoch].offer(row)
                truth.hint = row.branches[self.step % len(row.branches)].given

    @invariant()
    def nothing_grows_without_bound(self):
        assert self.drafter.sessions <= SLOTS
        assert len(self.drafter._branched._rounds) <= ROUNDS
        assert sum(map(len, self.leads.values())) <= len(self.truths)
        assert len(self.drafter._unread) <= 20


@pytest.fixture(scope="module")
def surer(tmp_path_factory):
    """The tiny model, but so sure of its drafts that verdicts deep inside them are prepared for."""
    directory = tmp_path_factory.mktemp("surer")
    checkpoint(directory, sure=2.5, max_position_embeddings=CONTEXT)
    return DraftModel.load(directory, dtype=torch.float32, device="cpu", context=CONTEXT)


def test_any_conversation_gives_the_greedy_continuation_of_the_true_history(surer, greedy):
    run_state_machine_as_test(
        lambda: Conversation(surer, greedy),
        settings=settings(max_examples=100, stateful_step_count=30, suppress_health_check=list(HealthCheck)),
    )
