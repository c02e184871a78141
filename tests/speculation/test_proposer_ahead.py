"""What a verifier makes of drafts made ahead, and how long it waits for those that were not."""

import contextlib
import math
import time
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from experts.api import DraftPeer
from experts.speculation.fallback import PATIENCE
from experts.speculation.messages import Branch, DraftAsk, DraftLead, DraftRow, LeadRow
from experts.speculation.proposer import LAG, SPAN, Rhythm
from tests.speculation.peers import SLACK, echo, frame, good, history, scripted, verifier


def lead(ask: DraftAsk, *branches: Branch, **changes) -> bytes:
    """A lead with the same branches for every row of the ask."""
    rows = tuple(LeadRow(row.session, row.start + len(row.tokens), branches) for row in ask.rows)
    return frame(msgspec.structs.replace(DraftLead(ask.epoch, ask.step, 1, rows), **changes))


AHEAD = (Branch((3, 9), (10, 11)), Branch((8,), (20, 21)))
"""What is prepared after three tokens: for the draft 3 accepted and 9 after it, or 8 in its place."""


def leading(ask: DraftAsk) -> list[bytes]:
    return [*(good(ask) if ask.waits else ()), lead(ask, *AHEAD)]


@contextlib.contextmanager
def led(script=leading, **settings):
    """A verifier that has been given the drafts after [0, 1, 2], and a lead for what may follow."""
    with scripted(script) as (seen, peer), verifier(peer, **settings) as drafts:
        assert drafts.propose([history("a", [0, 1, 2], 2)]).drafts == [[3, 4]]
        time.sleep(0.05)
        yield seen, drafts


@pytest.mark.parametrize(("given", "drafts"), [([3, 9], [10, 11]), ([8], [20, 21])])
def test_a_lead_that_came_true_is_there_without_waiting(given, drafts):
    with led() as (seen, mine):
        proposal = mine.propose([history("a", [0, 1, 2, *given], 4)])
        assert (proposal.drafts, proposal.hits, proposal.misses) == ([drafts], 1, 0)
        assert proposal.wait < 0.001
        time.sleep(0.05)
        assert (seen[-1].rows[0].tokens, seen[-1].rows[0].held, seen[-1].waits) == (tuple(given), 2, False)


def test_a_lead_gives_no_more_drafts_than_are_wanted_and_says_so():
    with led() as (seen, mine):
        assert mine.propose([history("a", [0, 1, 2, 8], 1)]).drafts == [[20]]
        time.sleep(0.05)
        assert (seen[-1].rows[0].depth, seen[-1].rows[0].held) == (1, 1)


def test_a_lead_for_another_history_is_not_used():
    with led() as (seen, mine):
        proposal = mine.propose([history("a", [0, 1, 2, 3, 4, 5], 2)])
        assert (proposal.drafts, proposal.hits, proposal.misses) == ([[6, 7]], 0, 1)
        assert seen[-1].waits


def test_a_lead_is_used_once():
    with led() as (_seen, mine):
        assert mine.propose([history("a", [0, 1, 2, 8], 2)]).hits == 1
        assert mine.propose([history("a", [0, 1, 2, 8], 2)]).hits == 0


def test_a_stale_lead_does_no_harm():
    """The lead for step 1 comes again in step 3, when the history has moved on."""

    def stale(ask):
        return [*good(ask), lead(msgspec.structs.replace(ask, step=1, rows=FIRST), *AHEAD)]

    with led(stale) as (_seen, mine):
        assert mine.propose([history("a", [0, 1, 2, 3, 9], 1)]).drafts == [[10]]
        assert mine.propose([history("a", [0, 1, 2, 3, 9, 7], 1)]).drafts == [[6]]
        assert mine.stats().garbage == 0


FIRST = (DraftRow("a", 0, (0, 1, 2), 2),)


def test_a_lead_about_a_session_that_is_not_kept_there_is_ignored():
    with scripted(lambda ask: [*good(ask), lead(ask, *AHEAD)], "one") as (_, one), verifier(one) as drafts:
        drafts.propose([history("a", [0, 1, 2], 2)])
        time.sleep(0.05)
        drafts.close(["a"])
        with scripted(good, "two") as (_, two):
            drafts.use([two])
            time.sleep(0.05)
            assert drafts.propose([history("a", [0, 1, 2, 8], 2)]).hits == 0


def test_a_lead_of_a_new_life_tells_that_the_old_one_is_over():
    def reborn(ask):
        return good(ask) if ask.step < 2 else [lead(ask, *AHEAD, life=2)]

    with scripted(reborn) as (seen, peer), verifier(peer, deadline=0.05) as drafts:
        drafts.propose([history("a", [0] * 5), history("b", [0] * 5)])
        drafts.propose([history("b", [0] * 6)])
        time.sleep(0.05)
        drafts.propose([history("a", [0] * 7), history("b", [0] * 7)])
        assert [(row.session, row.start) for row in seen[-1].rows] == [("a", 0), ("b", 6)]


def test_a_lead_of_impossible_tokens_is_garbage():
    bad = Branch((8,), (1000,))
    with scripted(lambda ask: [lead(ask, bad)]) as (_, peer), verifier(peer, retry=80.0) as drafts:
        for length in range(1, PATIENCE + 3):
            assert drafts.propose([history("a", [8] * length, 1)]).drafts == [[]]
        assert drafts.stats().garbage == PATIENCE
        assert drafts.stats().changes == {"breaker:garbage": 1}


def test_sessions_lost_in_a_lead_are_sent_again():
    def forgetful(ask):
        lost = tuple(row.session for row in ask.rows if row.start)
        return good(ask) if ask.waits and not lost else [frame(DraftLead(ask.epoch, ask.step, 1, (), lost))]

    with scripted(forgetful) as (seen, peer), verifier(peer, deadline=0.05) as drafts:
        for length in (3, 4, 5):
            drafts.propose([history("a", [0] * length)])
            time.sleep(0.05)
        assert [row.start for ask in seen for row in ask.rows] == [0, 3, 0]


def test_an_answer_that_came_too_late_serves_the_next_step_if_its_first_draft_came_true():
    with scripted(lambda ask: [0.1, *good(ask)]) as (_, peer), verifier(peer, deadline=0.02) as drafts:
        assert drafts.propose([history("a", [0, 1, 2], 3)]).drafts == [[]]
        time.sleep(0.2)
        proposal = drafts.propose([history("a", [0, 1, 2, 3], 3)])
        assert (proposal.drafts, proposal.hits) == ([[4, 5]], 1)


def test_the_twin_asks_for_no_leads_and_waits_each_time():
    with scripted(good) as (seen, peer), verifier(peer, ahead=False) as drafts:
        for length in range(1, 5):
            assert drafts.propose([history("a", [0] * length, 1)], horizon=0.01).drafts == [[length]]
        assert all(ask.horizon == 0 and ask.waits for ask in seen)


def test_what_is_expected_to_take_time_is_told():
    with scripted(good) as (seen, peer), verifier(peer) as drafts:
        drafts.propose([history("a", [0])], horizon=0.004)
        drafts.propose([history("a", [0, 1])])
        assert [ask.horizon for ask in seen] == [0.004, math.inf]


def test_the_next_verdict_is_expected_as_late_as_it_usually_comes():
    rhythm, now = Rhythm(), 1.0
    for step in range(100):
        rhythm.began(now, frozenset({str(step // 2), str((step + 1) // 2)}))
        rhythm.ended(now, 0.01, rest=0)
        now += 0.015 if step % 4 else 0.09
    assert rhythm.stretched(0.01) == pytest.approx(0.0155, abs=0.001)


@pytest.mark.parametrize(("horizon", "rest", "sessions"), [(math.inf, 0, 1), (0.01, 5, 1), (0.01, 0, 50)])
def test_pauses_say_nothing_of_when_the_next_verdict_comes(horizon, rest, sessions):
    rhythm = Rhythm()
    for step in range(50):
        rhythm.began(float(step), frozenset({str(step % sessions)}))
        rhythm.ended(float(step), horizon, rest=rest)
    assert rhythm.stretched(1.0) == 1.0


def test_drafters_are_told_when_the_next_verdict_really_is_to_be_expected():
    with scripted(good) as (seen, peer), verifier(peer) as drafts:
        for length in range(1, 12):
            drafts.propose([history("a", [0] * length, 1)], horizon=0.001)
            time.sleep(0.003)
    told = [ask.horizon for ask in seen if any(row.depth for row in ask.rows)]
    assert told == sorted(told)
    assert told[0] == 0.001
    assert told[-1] > 0.0014


def test_it_waits_no_longer_than_the_drafts_are_worth_and_as_long_again():
    """Two drafts at a pace of 50 tokens a second are worth 40 ms."""
    with scripted(lambda _: []) as (seen, peer), verifier(peer, deadline=5.0) as drafts:
        proposal = drafts.propose([history("a", [0], gain=2.0)], pace=50.0)
        assert 0.07 < proposal.wait < 0.08 + SLACK
        assert seen[0].budget == pytest.approx(0.04)
        assert drafts.propose([history("a", [0, 1], gain=0.0)], pace=50.0).wait < 0.01


def test_an_answer_that_is_overdue_is_still_waited_for_within_the_deadline():
    with scripted(lambda ask: [0.06, *good(ask)]) as (_seen, peer), verifier(peer, deadline=5.0) as drafts:
        assert drafts.propose([history("a", [0], 1, gain=2.0)], pace=50.0).drafts == [[1]]
        assert drafts.stats().late == 0
    with scripted(lambda ask: [0.5, *good(ask)]) as (_seen, peer), verifier(peer, deadline=0.05) as drafts:
        assert 0.04 < drafts.propose([history("a", [0], 1, gain=2.0)], pace=50.0).wait < 0.05 + SLACK


def test_it_does_not_wait_for_a_replica_that_is_known_to_take_longer_than_is_worth_it():
    with scripted(lambda ask: [0.05, *good(ask)] if ask.waits else []) as (seen, peer), verifier(peer) as drafts:
        assert drafts.propose([history("a", [0], 1, gain=1.0)]).drafts == [[1]]
        proposal = drafts.propose([history("a", [0, 1], 1, gain=0.5)], pace=50.0)
        assert (proposal.drafts, proposal.misses) == ([[]], 1)
        assert proposal.wait < 0.01
        time.sleep(0.05)
        assert [ask.budget for ask in seen] == [5.0, 0.0]
        assert drafts.propose([history("a", [0, 1, 2], 1, gain=5.0)], pace=50.0).drafts == [[3]]


def test_a_replica_that_was_too_slow_is_tried_again_in_time():
    with (
        scripted(lambda ask: good(ask) if ask.step > 1 else [0.05, *good(ask)]) as (_seen, peer),
        verifier(peer) as mine,
    ):
        mine.propose([history("a", [0], 1)])
        length = 1
        while not mine.propose([history("a", [0] * length, 1, gain=1.5)], pace=50.0).drafts[0]:
            length += 1
            assert length < 100


def test_a_replica_on_probation_has_its_time_though_one_row_is_not_worth_it():
    """Or a pool that has failed once would never be waited for again."""

    def recovering(ask):
        return [] if ask.step < 4 else [0.02, *good(ask)] if ask.waits else []

    with scripted(recovering) as (_seen, peer), verifier(peer, deadline=0.05, retry=0.4) as drafts:
        for length in range(1, 4):
            assert drafts.propose([history("a", [0] * length, 1)]).drafts == [[]]
        assert drafts.stats().changes == {"breaker:late": 1}
        time.sleep(0.06)
        assert drafts.propose([history("a", [0] * 4, 1, gain=0.1)], pace=50.0).drafts == [[4]]


def test_rows_that_have_their_drafts_are_not_held_up_by_much_by_one_that_has_none():
    def halting(ask):
        return leading(ask) if ask.step == 1 else []

    with led(halting, deadline=5.0) as (seen, mine):
        proposal = mine.propose([history("a", [0, 1, 2, 8], 2, gain=1.8), history("b", [0], 2, gain=1.5)], pace=100.0)
        assert proposal.drafts == [[20, 21], []]
        assert proposal.wait < 0.03 + SLACK
        assert seen[-1].budget == pytest.approx(0.015)


def test_a_replica_that_knows_a_session_but_has_no_drafts_for_it_is_waited_for_less_and_less():
    def empty(ask):
        return [frame(echo(ask, drafts=((),) * len(ask.rows)))] if ask.waits else []

    with scripted(empty) as (seen, peer), verifier(peer) as drafts:
        for length in range(1, 41):
            drafts.propose([history("a", [0] * length)])
        time.sleep(0.05)
        assert [ask.step for ask in seen if ask.waits] == [1, 3, 7, 15, 31]


def test_a_prompt_is_announced_and_not_sent_again():
    with scripted(good) as (seen, peer), verifier(peer) as drafts:
        drafts.announce("a", np.array([5, 6, 7], np.int32))
        assert drafts.propose([history("a", [5, 6, 7, 8], 1)]).drafts == [[4]]
        assert [[(row.start, row.tokens, row.depth) for row in ask.rows] for ask in seen] == [
            [(0, (5, 6, 7), 0)],
            [(3, (8,), 1)],
        ]
        assert not seen[0].waits


def test_a_prompt_that_is_too_long_for_one_message_follows_in_pieces():
    with scripted(good) as (seen, peer), verifier(peer, vocabulary=10000) as drafts:
        drafts.announce("a", np.zeros(2 * SPAN + 5, np.int32))
        found = [drafts.propose([history("a", [0] * (2 * SPAN + 6), 1)]).drafts for _ in range(2)]
        assert found == [[[]], [[2 * SPAN + 6]]]
        assert [row.start for ask in seen for row in ask.rows] == [0, SPAN, 2 * SPAN]


def test_nothing_is_announced_where_nobody_listens():
    with verifier(DraftPeer("gone", 1, "tcp://127.0.0.1:9")) as drafts:
        drafts.announce("a", np.zeros(3, np.int32))
        assert drafts.propose([history("a", [0] * 4)]).drafts == [[]]


def test_a_session_is_brought_up_to_date_before_the_verifier_rests():
    with scripted(lambda _: []) as (seen, peer), verifier(peer) as drafts:
        drafts.propose([history("a", [0] * 10, 1)], pace=1e9)
        drafts.propose([history("a", [0] * 12, 0)], rest=5)
        drafts.propose([history("a", [0] * 15, 0)], rest=5)
        time.sleep(0.05)
        assert [len(row.tokens) for ask in seen for row in ask.rows] == [10, 5]


def test_sessions_that_will_have_no_drafts_soon_are_not_brought_up_to_date():
    with scripted(lambda _: []) as (seen, peer), verifier(peer) as drafts:
        drafts.propose([history("a", [0] * 10, 1), history("b", [0] * 10, 1)], pace=1e9)
        later = [replace(history(name, [0] * 40, 0), notice=name == "b") for name in "ab"]
        drafts.propose(later, rest=5)
        time.sleep(0.05)
        assert [[row.session for row in ask.rows] for ask in seen] == [["a", "b"], ["b"]]


def test_a_session_without_drafts_is_kept_nearly_up_to_date():
    with scripted(good) as (seen, peer), verifier(peer) as drafts:
        drafts.propose([history("a", [0] * 3, 1)])
        for length in range(4, 4 + 2 * LAG):
            assert drafts.propose([history("a", [0] * length, 0)]).misses == 0
        time.sleep(0.05)
        assert [(row.start, len(row.tokens), row.depth) for ask in seen for row in ask.rows] == [
            (0, 3, 1),
            (3, LAG, 0),
            (3 + LAG, LAG, 0),
        ]
