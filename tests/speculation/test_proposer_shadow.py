"""Shadow drafts on the verify side: nobody waits for them, and what came of them is known later."""

import time
from dataclasses import replace

import numpy as np
import pytest

from experts.speculation.depth import Verdict
from experts.speculation.proposer import FAR, LEISURE
from tests.speculation.peers import SLACK, echo, frame, good, history, replica, scripted, verifier


def shadowed(session, tokens, shadow=3):
    return replace(history(session, tokens, 0), notice=False, shadow=shadow)


def compared(drafts, *rows, within=5.0):
    """Looked for as often as it takes."""
    found, until = [], time.monotonic() + within
    while not found and time.monotonic() < until:
        found = drafts.compared((session, np.array(tokens, np.int32)) for session, tokens in rows)
        time.sleep(0.005)
    return found


def test_nobody_waits_for_them_and_they_are_compared_with_what_came():
    def slow(ask):
        return [0.2, *good(ask)]

    with scripted(slow) as (seen, peer), verifier(peer) as drafts:
        began = time.monotonic()
        assert drafts.propose([shadowed("a", [5, 6]), shadowed("b", [7])]).drafts == [[], []]
        assert time.monotonic() - began < SLACK
        verdicts = compared(drafts, ("a", [5, 6, 2, 3, 9, 9]), ("b", [7, 1, 2, 3]))
        assert verdicts == [Verdict("a", 3, 2), Verdict("b", 3, 3)]
        assert [(ask.budget, ask.horizon, [row.depth for row in ask.rows]) for ask in seen] == [(LEISURE, 0.0, [3, 3])]
        stats = drafts.stats()
        assert (stats.asked, stats.answered, stats.late, stats.plain, stats.hits, stats.misses) == (0, 0, 0, 0, 0, 0)


def test_those_that_come_after_further_steps_are_compared_too():
    with scripted(lambda ask: [0.1, *good(ask)]) as (_, peer), verifier(peer) as drafts:
        drafts.propose([shadowed("a", [5])])
        assert drafts.compared([("a", np.array([5, 1], np.int32))]) == []
        time.sleep(0.2)
        drafts.propose([history("a", [5, 1, 2], 0)])
        drafts.propose([shadowed("b", [5])])
        assert compared(drafts, ("a", [5, 1, 2, 3]), ("b", [5])) == [Verdict("a", 3, 3)]


def test_they_are_what_the_draft_model_would_have_proposed(tiny, greedy):
    prompt = [1, 2, 3]
    with replica(tiny) as (_, peer), verifier(peer) as drafts:
        drafts.propose([shadowed("a", prompt, 4)])
        made = [*prompt, *greedy(prompt, 4)]
        assert compared(drafts, ("a", made)) == [Verdict("a", 4, 4)]
        assert drafts.propose([history("a", made)]).drafts == [greedy(made, 4)]


def test_a_row_that_wants_drafts_to_verify_leaves_no_room_for_them():
    with scripted(good) as (seen, peer), verifier(peer) as drafts:
        assert drafts.propose([history("a", [5], 2), shadowed("b", [7])]).drafts == [[1, 2], []]
        assert [(row.session, row.depth) for row in seen[0].rows] == [("a", 2)]
        assert drafts.compared([("b", np.array([7, 1, 2, 3], np.int32))]) == []


def test_those_that_come_when_drafts_are_verified_again_are_never_compared():
    with scripted(lambda ask: [0.1, *good(ask)] if ask.shadow else good(ask)) as (_, peer), verifier(peer) as drafts:
        drafts.propose([shadowed("a", [5])])
        drafts.propose([history("a", [5, 1], 0)])
        time.sleep(0.2)
        assert drafts.propose([history("a", [5, 1])]).drafts == [[2, 3, 4, 5]]
        drafts.propose([shadowed("b", [5])])
        assert compared(drafts, ("a", [5, 1, 2, 3]), ("b", [5, 1, 2, 3])) == [Verdict("b", 3, 3)]


def test_a_replica_whose_drafts_were_useless_redeems_itself_with_them():
    with scripted(good) as (_, peer), verifier(peer, retry=0.08) as drafts:
        for length in range(3, 6):
            drafts.propose([history("a", [0] * length, 1, gain=0.9)])
        drafts.propose([history("a", [0] * 6, 1, gain=0.9)])
        assert drafts.stats().changes == {"breaker:wrong": 1}
        time.sleep(0.02)
        tokens = list(range(30))
        for length in (6, 7, 8, 9, 10):
            assert drafts.propose([shadowed("a", tokens[:length], 1)]).drafts == [[]]
            assert compared(drafts, ("a", tokens)) == [Verdict("a", 1, 1)]
        assert drafts.stats().changes == {"breaker:wrong": 1, "breaker:recovered": 1}


@pytest.mark.parametrize("fault", ["late", "garbage"])
def test_a_replica_that_does_not_answer_as_it_should_does_not(fault):
    def script(ask):
        return [] if fault == "late" else [b"?"] * (not ask.shadow)

    with scripted(script) as (seen, peer), verifier(peer, deadline=0.02, retry=0.08) as drafts:
        for _ in range(3):
            drafts.propose([history("a", [5, 6])])
        assert drafts.stats().changes == {f"breaker:{fault}": 1}
        time.sleep(0.02)
        drafts.propose([shadowed("a", [5, 6])])
        assert not any(ask.shadow for ask in seen)


def test_a_session_that_is_far_behind_has_none():
    with scripted(good) as (seen, peer), verifier(peer) as drafts:
        drafts.propose([shadowed("a", [0] * (FAR + 1))])
        drafts.propose([shadowed("b", [0] * FAR)])
        time.sleep(0.05)
        assert [(row.session, row.depth) for ask in seen for row in ask.rows] == [("b", 3)]


@pytest.mark.parametrize("drafts", [(1, 5000, 2), (1, 2, 3, 4)], ids=["foreign", "more"])
def test_those_that_cannot_be_used_are_garbage(drafts):
    with scripted(lambda ask: [frame(echo(ask, drafts=(drafts,)))]) as (_, peer), verifier(peer) as remote:
        remote.propose([shadowed("a", [5])])
        assert compared(remote, ("a", [5, *drafts]), within=0.3) == []
        assert remote.stats().garbage == 1


def test_a_replica_that_has_no_time_for_them_is_not_blamed():
    with scripted(lambda ask: []) as (_, peer), verifier(peer, deadline=0.01) as drafts:
        for _ in range(8):
            drafts.propose([shadowed("a", [5])])
            time.sleep(0.1)
        assert drafts.stats().changes == {}


def test_they_are_forgotten_when_drafts_are_verified_again():
    with scripted(good) as (_, peer), verifier(peer) as drafts:
        drafts.propose([shadowed("a", [5])])
        time.sleep(0.1)
        assert drafts.compared([("a", np.array([5], np.int32))]) == []
        drafts.propose([history("a", [5, 1], 2)])
        drafts.propose([shadowed("b", [5])])
        assert compared(drafts, ("a", [5, 1, 2, 3]), ("b", [5, 1, 2, 3])) == [Verdict("b", 3, 3)]


def test_of_many_long_requests_all_have_their_turns(tiny, greedy):
    """A request may be a hundred tokens further by its next turn."""
    with replica(tiny, max_sessions=32) as (_, peer), verifier(peer) as drafts:
        prompts = {f"s{n}": [1, 2, n + 3] for n in range(3)}
        for name, prompt in prompts.items():
            drafts.propose([shadowed(name, prompt)])
        later = {name: [*prompt, *[7] * 100] for name, prompt in prompts.items()}
        drafts.propose([shadowed(name, tokens, 4) for name, tokens in later.items()])
        made = [(name, [*tokens, *greedy(tokens, 4)]) for name, tokens in later.items()]
        assert sorted(each.accepted for each in compared(drafts, *made)) == [4, 4, 4]


def test_those_of_a_session_that_ended_are_forgotten():
    with scripted(good) as (_, peer), verifier(peer) as drafts:
        drafts.propose([shadowed("a", [5])])
        time.sleep(0.1)
        assert drafts.compared([("b", np.array([1], np.int32))]) == []
        drafts.close(["a"])
        assert compared(drafts, ("a", [5, 1, 2, 3]), within=0.1) == []


def test_once_all_were_compared_nobody_is_listened_to_until_others_were_asked_for(monkeypatch):
    with scripted(good) as (_, peer), verifier(peer) as drafts:
        listened = []
        drain = drafts._inbox.drain
        monkeypatch.setattr(drafts._inbox, "drain", lambda now: (listened.append(now), drain(now)))
        drafts.propose([shadowed("a", [5]), shadowed("b", [5])])
        assert compared(drafts, ("a", [5, 1, 2, 3])) == [Verdict("a", 3, 3)]
        assert compared(drafts, ("b", [5, 1, 2, 3])) == [Verdict("b", 3, 3)]
        before = len(listened)
        assert drafts.compared([("a", np.array([5, 1, 2, 3], np.int32))]) == []
        assert len(listened) == before
        drafts.propose([shadowed("a", [5, 1, 2, 3])])
        assert compared(drafts, ("a", [5, 1, 2, 3, 4, 5, 6])) == [Verdict("a", 3, 3)]
