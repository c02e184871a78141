from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from experts.speculation.drafter import Arrived, Drafter
from experts.speculation.messages import DraftAsk, DraftRow
from tests.speculation.conftest import CONTEXT
from tests.speculation.models import VOCABULARY

SLOTS = 3


def ask(*rows, epoch=1, step=1, closed=(), budget=None):
    return DraftAsk(epoch, step, tuple(DraftRow(*row) for row in rows), tuple(closed), budget)


@pytest.fixture
def drafter(model):
    return Drafter(model, slots=SLOTS, life=7)


def answer(drafter, *asks, now=0.0, at=None):
    return drafter.answer([Arrived(one, now if at is None else at) for one in asks], now)


def test_asks_of_several_verifiers_are_answered_as_if_each_were_alone(drafter, greedy):
    first = ask(("a", 0, (1, 2, 3), 4), ("b", 0, tuple(range(40)), 2))
    second = ask(("a", 0, (9,), 3), epoch=2)
    tells = answer(drafter, first, second)
    assert [tell.drafts for tell in tells] == [
        (tuple(greedy([1, 2, 3], 4)), tuple(greedy(range(40), 2))),
        (tuple(greedy([9], 3)),),
    ]
    assert [(tell.epoch, tell.step, tell.life, tell.lost) for tell in tells] == [(1, 1, 7, ()), (2, 1, 7, ())]


def test_accepted_drafts_are_not_computed_again(drafter, greedy):
    prompt = tuple(range(50))
    drafts = answer(drafter, ask(("a", 0, prompt, 12)))[0].drafts[0]
    before = drafter.prefilled
    found = answer(drafter, ask(("a", 50, drafts, 2), step=2))[0].drafts[0]
    assert list(found) == greedy(prompt + drafts, 2)
    assert drafter.prefilled == before


def test_tokens_that_took_another_turn_replace_what_was_drafted(drafter, greedy):
    drafts = answer(drafter, ask(("a", 0, (1, 2, 3), 6)))[0].drafts[0]
    turned = (drafts[0], (drafts[1] + 1) % VOCABULARY, drafts[2], 4, 5)
    found = answer(drafter, ask(("a", 3, turned, 6), step=2))[0].drafts[0]
    assert list(found) == greedy((1, 2, 3, *turned), 6)


def test_a_session_it_does_not_know_is_lost_and_comes_back_whole(drafter, greedy):
    tell = answer(drafter, ask(("a", 5, (1,), 4), ("b", 0, (2,), 1)))[0]
    assert (tell.lost, tell.drafts) == (("a",), ((), tuple(greedy([2], 1))))
    tell = answer(drafter, ask(("a", 0, (3, 4, 5), 4)))[0]
    assert (tell.lost, tell.drafts[0]) == ((), tuple(greedy([3, 4, 5], 4)))


def test_a_gap_loses_the_session(drafter):
    answer(drafter, ask(("a", 0, (1, 2, 3), 4)))
    assert answer(drafter, ask(("a", 4, (1,), 4), step=2))[0].lost == ("a",)
    assert answer(drafter, ask(("a", 3, (1,), 4), step=3))[0].lost == ("a",)


def test_the_least_recently_used_session_makes_room(drafter):
    for now, name in enumerate("abc"):
        answer(drafter, ask((name, 0, (1, 2), 1)), now=10.0 * now)
    answer(drafter, ask(("a", 2, (3,), 1)), now=30.0)
    assert answer(drafter, ask(("d", 0, (1,), 1)), now=40.0)[0].lost == ()
    assert answer(drafter, ask(("a", 3, (4,), 1), ("b", 2, (4,), 1)), now=40.5)[0].lost == ("b",)
    assert drafter.sessions == SLOTS


def test_more_sessions_than_slots_do_not_evict_each_other_at_every_step(drafter):
    rows = [(name, 0, (1, 2), 1) for name in "abcd"]
    tell = answer(drafter, ask(*rows))[0]
    assert tell.lost == ("d",)
    assert [len(drafts) for drafts in tell.drafts] == [1, 1, 1, 0]
    assert answer(drafter, ask(("d", 0, (1, 2), 1), step=2), now=0.5)[0].lost == ("d",)
    assert answer(drafter, ask(("d", 0, (1, 2), 1), step=3), now=1.5)[0].lost == ()


def test_closing_frees_the_slot_at_once(drafter):
    answer(drafter, ask(*[(name, 0, (1,), 1) for name in "abc"]))
    tell = answer(drafter, ask(("d", 0, (1,), 1), step=2, closed=["b", "unknown"]))[0]
    assert tell.lost == ()
    assert drafter.sessions == SLOTS


def test_a_session_closed_and_replaced_within_one_batch_spoils_nothing(drafter, greedy):
    for name in "abc":
        answer(drafter, ask((name, 0, (1,), 0)))
    tells = answer(
        drafter, ask(("a", 1, (2,), 3), epoch=1, step=2), ask(("d", 0, (5, 6), 3), epoch=1, step=3, closed="a")
    )
    assert tells[0].drafts == ((),)
    assert tells[1].drafts == (tuple(greedy([5, 6], 3)),)


def test_a_superseded_ask_and_a_late_one_update_the_history_only(drafter, greedy):
    old, new = ask(("a", 0, (1, 2), 4), step=1), ask(("a", 2, (3,), 4), step=2)
    assert [tell.drafts[0] for tell in answer(drafter, old, new)] == [(), tuple(greedy([1, 2, 3], 4))]
    late = ask(("a", 3, (4,), 4), step=3, budget=0.02)
    assert answer(drafter, late, now=5.03, at=5.0)[0].drafts == ((),)
    timely = ask(("a", 4, (5,), 4), step=4, budget=0.02)
    assert list(answer(drafter, timely, now=6.01, at=6.0)[0].drafts[0]) == greedy([1, 2, 3, 4, 5], 4)


def test_drafts_end_with_the_context(drafter, greedy):
    history = [token % VOCABULARY for token in range(CONTEXT - 3)]
    tell = answer(drafter, ask(("a", 0, tuple(history), 8), ("b", 0, (1, 2), 8)))[0]
    assert list(tell.drafts[0]) == greedy(history, 8)
    assert len(tell.drafts[0]) == 3
    assert list(tell.drafts[1]) == greedy([1, 2], 8)
    tell = answer(drafter, ask(("a", CONTEXT - 3, (1, 2, 3, 4, 5), 8), step=2))[0]
    assert (tell.drafts, tell.lost) == (((),), ())
    tell = answer(drafter, ask(("a", CONTEXT + 2, (1,), 8), ("b", 2, (7,), 3), step=3))[0]
    assert (tell.drafts, tell.lost) == (((), tuple(greedy([1, 2, 7], 3))), ())


def test_ids_outside_the_vocabulary_lose_the_session_and_hurt_no_other(drafter, greedy):
    tell = answer(drafter, ask(("a", 0, (VOCABULARY,), 4), ("b", 0, (1,), 4)))[0]
    assert (tell.lost, tell.drafts) == (("a",), ((), tuple(greedy([1], 4))))


def test_nothing_to_continue_gives_no_drafts(drafter):
    assert answer(drafter, ask(("a", 0, (), 4)))[0].drafts == ((),)
    assert answer(drafter) == []


@dataclass
class Truth:
    """What a verifier knows of one of its requests. ``sent`` is what it believes the drafter to hold."""

    history: list[int]
    sent: int = 0
    drafts: list[int] = field(default_factory=list)


class Conversation(RuleBasedStateMachine):
    """Verifiers that accept, reject, close, resend, restart and lose messages, against a drafter that evicts."""

    def __init__(self, model, greedy):
        super().__init__()
        self.model, self.greedy = model, greedy
        self.now = 0.0
        self.step = 0
        self.names = 0
        self.truths: dict[tuple[int, str], Truth] = {}
        self.epochs = [1, 2]
        self.restart_drafter()

    def restart_drafter(self):
        self.drafter = Drafter(self.model, slots=SLOTS, life=1, keep=0.5)

    @rule(which=st.sampled_from([None, 0, 1]))
    def restart(self, which):
        """The drafter, or a verifier, begins a new life."""
        if which is None:
            self.restart_drafter()
        else:
            self.truths = {key: truth for key, truth in self.truths.items() if key[0] != self.epochs[which]}
            self.epochs[which] += 2

    @rule(seconds=st.sampled_from([0.1, 1.0]))
    def pass_time(self, seconds):
        self.now += seconds

    @precondition(lambda self: len(self.truths) < 5)
    @rule(
        which=st.integers(0, 1),
        length=st.sampled_from([1, 2, 9, 10, 140, CONTEXT - 6, CONTEXT]),
        first=st.integers(0, 60),
    )
    def open(self, which, length, first):
        self.names += 1
        history = [(first + 7 * place) % VOCABULARY for place in range(length)]
        self.truths[self.epochs[which], str(self.names)] = Truth(history)

    @precondition(lambda self: self.truths)
    @rule(data=st.data(), lost=st.booleans())
    def close(self, data, lost):
        key = data.draw(st.sampled_from(sorted(self.truths)))
        del self.truths[key]
        if not lost:
            self.exchange([ask(epoch=key[0], closed=[key[1]])])

    @precondition(lambda self: self.truths)
    @rule(data=st.data(), steps=st.integers(1, 3))
    def verify(self, data, steps):
        for _ in range(steps):
            self.verify_once(data)

    def verify_once(self, data):
        """Some sequences of each verifier take a step: a prefix of the drafts is right, then comes a token, or several
        if the verifier went on without asking for a while."""
        chosen = data.draw(st.sets(st.sampled_from(sorted(self.truths)), min_size=1))
        rows: dict[int, list[DraftRow]] = {}
        for key in sorted(chosen):
            truth = self.truths[key]
            accepted = data.draw(st.integers(0, len(truth.drafts)))
            truth.history += truth.drafts[:accepted]
            truth.history += data.draw(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=5))
            truth.drafts = []
            start = data.draw(st.sampled_from([truth.sent, truth.sent, truth.sent // 2, 0]))
            depth = data.draw(st.sampled_from([5, 4, 3, 1, 0]))
            rows.setdefault(key[0], []).append(DraftRow(key[1], start, tuple(truth.history[start:]), depth))
            truth.sent = len(truth.history)
        asks = [DraftAsk(epoch, self.step, tuple(row)) for epoch, row in rows.items()]
        if not data.draw(st.integers(0, 5)):
            return  # the message is lost: the next one leaves a gap
        self.exchange(asks)

    @precondition(lambda self: self.truths)
    @rule(data=st.data())
    def repeat(self, data):
        key = data.draw(st.sampled_from(sorted(self.truths)))
        history = tuple(self.truths[key].history)
        self.truths[key].sent = len(history)
        self.exchange([ask((key[1], 0, history, 3), epoch=key[0])] * 2)

    def exchange(self, asks):
        self.step += 1
        asks = [DraftAsk(one.epoch, self.step, one.rows, one.closed) for one in asks]
        for question, tell in zip(asks, answer(self.drafter, *asks, now=self.now), strict=True):
            for row, drafts in zip(question.rows, tell.drafts, strict=True):
                truth = self.truths[question.epoch, row.session]
                if row.session in tell.lost:
                    truth.sent, truth.drafts = 0, []
                    assert drafts == ()
                else:
                    truth.drafts = list(drafts)
                    assert truth.drafts == self.greedy(truth.history, row.depth)

    @invariant()
    def slots_are_never_exceeded(self):
        assert self.drafter.sessions <= SLOTS


def test_any_conversation_gives_the_greedy_continuation_of_the_true_history(model, greedy):
    run_state_machine_as_test(
        lambda: Conversation(model, greedy),
        settings=settings(
            max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
