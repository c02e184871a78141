"""What a verifier tells its draft replicas, and what it makes of their answers."""

import time

import msgspec
import numpy as np
import pytest
from tokenizers import Tokenizer

from experts.speculation.messages import DraftTell
from experts.speculation.proposer import SHORT, SPAN, DraftHistory, RemoteDrafts
from experts.zoo.catalog import model_path
from tests.speculation.peers import SLACK, echo, frame, good, history, process, replica, scripted, verifier


def test_only_new_tokens_are_sent():
    with scripted(good) as (seen, peer), verifier(peer) as drafts:
        assert drafts.propose([history("a", [5, 6, 7], 2), history("b", [8], 1)]).drafts == [[3, 4], [1]]
        assert drafts.propose([history("b", [8, 9], 3), history("a", [5, 6, 7, 3, 4, 1], 2)]).drafts == [
            [2, 3, 4],
            [6, 7],
        ]
        assert [(row.session, row.start, row.tokens) for row in seen[1].rows] == [("b", 1, (9,)), ("a", 3, (3, 4, 1))]
        assert (drafts.stats().asked, drafts.stats().answered, drafts.stats().drafted) == (2, 2, 8)


def test_the_time_of_a_wait_may_be_used_and_other_time_may_not():
    used = []
    with scripted(good) as (_, peer), verifier(peer) as drafts:
        drafts.propose([history("a", [5], 0)], meanwhile=lambda: used.append("nothing to wait for"))
        assert used == []
        drafts.propose([history("a", [5, 6], 2)], meanwhile=lambda: used.append("waiting"))
        assert used == ["waiting"]


def test_what_came_while_the_time_was_used_counts_though_time_is_up_then():
    with scripted(good) as (_, peer), verifier(peer, deadline=0.2) as drafts:
        drafts.propose([history("a", [5], 1)])
        assert drafts.propose([history("a", [5, 6], 2)], meanwhile=lambda: time.sleep(0.3)).drafts == [[2, 3]]
        assert drafts.stats().late == 0


def test_rows_that_want_nothing_and_are_up_to_date_are_not_asked_about():
    with scripted(good) as (seen, peer), verifier(peer) as drafts:
        assert drafts.propose([history("a", [1], 0), history("b", [1], 1), history("c", [], 3)]).drafts == [[], [1], []]
        assert drafts.propose([history("a", [1], 0)]).drafts == [[]]
        assert [[row.session for row in ask.rows] for ask in seen] == [["b"]]


def test_without_replicas_nothing_is_proposed_and_nobody_waits():
    with verifier() as drafts:
        assert drafts.propose([history("a", [1, 2])]).drafts == [[]]
        assert drafts.stats().plain == 1
        assert drafts.stats().wait < SLACK


def test_sessions_are_spread_and_stay_where_they_are():
    with scripted(good, "one") as (first, one), scripted(good, "two") as (second, two), verifier(one, two) as drafts:
        for length in range(1, 4):
            assert drafts.propose([history(name, [0] * length, 1) for name in "abcd"]).drafts == [[length]] * 4
        for seen in (first, second):
            sessions = [[row.session for row in ask.rows] for ask in seen]
            assert len(sessions[0]) == 2
            assert sessions == [sessions[0]] * 3


def test_closed_sessions_are_told_to_their_replica():
    with scripted(good) as (seen, peer), verifier(peer) as drafts:
        drafts.propose([history("a", [1]), history("b", [1])])
        drafts.close(["a", "unknown"])
        drafts.propose([history("a", [1, 2])])
        assert [ask.closed for ask in seen] == [(), ("a",), ()]
        assert seen[2].rows[0].start == 0


def test_while_nobody_is_drafted_for_replicas_hear_of_closed_sessions_with_the_next_ask_or_all_at_once():
    with scripted(good) as (seen, peer), verifier(peer) as drafts:
        names = "abcdefghijkl"
        drafts.propose([history(name, [1]) for name in names])
        drafts.propose([history(name, [1], 0) for name in names], rest=50)
        drafts.close(["a"])
        drafts.close(["b"])
        drafts.propose([history("c", [1, 2])])
        assert [ask.closed for ask in seen] == [(), ("a", "b")]

        drafts.propose([history("c", [1, 2], 0)], rest=50)
        for name in names[2:]:
            drafts.close([name])
        drafts.propose([history("m", [1])])
        assert [ask.closed for ask in seen[2:]] == [tuple("cdefghij"), tuple("kl"), ()]


def test_a_session_that_comes_back_before_its_replica_heard_of_its_end_begins_anew():
    with scripted(good) as (seen, peer), verifier(peer) as drafts:
        drafts.propose([history("a", [1, 2]), history("b", [1])])
        drafts.propose([history("a", [1, 2], 0)], rest=50)
        drafts.close(["a"])
        drafts.propose([history("a", [1])])
        assert [(ask.closed, [(row.session, row.start, row.tokens) for row in ask.rows]) for ask in seen[1:]] == [
            (("a",), [("a", 0, (1,))])
        ]


def test_a_lost_session_is_sent_again_from_the_start():
    def forgetful(ask):
        lost = tuple(row.session for row in ask.rows if row.start > 0)
        drafts = tuple(() if row.session in lost else (1,) for row in ask.rows)
        return [frame(DraftTell(ask.epoch, ask.step, 1, drafts, lost))]

    with scripted(forgetful) as (seen, peer), verifier(peer) as drafts:
        found = [drafts.propose([history("a", [0] * length, 1)]).drafts for length in range(1, 5)]
        assert found == [[[1]], [[]], [[1]], [[]]]
        assert [row.start for ask in seen for row in ask.rows] == [0, 1, 0, 3]
        assert drafts.stats().lost == 2


def test_a_new_life_behind_the_same_address_is_told_everything_again():
    def reborn(ask):
        return [frame(echo(ask, life=1 if ask.step < 3 else 2))]

    with scripted(reborn) as (seen, peer), verifier(peer) as drafts:
        drafts.propose([history("a", [0] * 5)])
        drafts.propose([history("b", [0] * 5)])
        drafts.propose([history("b", [0] * 6)])
        drafts.propose([history("a", [0] * 7), history("b", [0] * 7)])
        assert [(row.session, row.start) for row in seen[-1].rows] == [("a", 0), ("b", 6)]


def test_a_history_that_became_shorter_is_sent_from_the_start():
    with scripted(good) as (seen, peer), verifier(peer) as drafts:
        drafts.propose([history("a", [0] * 5)])
        assert drafts.propose([history("a", [1, 2], 1)]).drafts == [[2]]
        assert (seen[-1].rows[0].start, seen[-1].rows[0].tokens) == (0, (1, 2))


def test_a_session_that_is_refused_is_not_offered_at_every_step():
    def full(ask):
        return [frame(DraftTell(ask.epoch, ask.step, 1, ((),) * len(ask.rows), tuple(r.session for r in ask.rows)))]

    with scripted(full) as (seen, peer), verifier(peer, retry=30.0) as drafts:
        for length in range(1, 6):
            assert drafts.propose([history("a", [0] * length)]).drafts == [[]]
        assert len(seen) == 1
        assert drafts.stats().plain == 4


@pytest.mark.parametrize("known", [0, 1])
def test_a_session_named_lost_more_than_once_is_lost_once(known):
    def babbling(ask):
        if ask.step <= known:
            return good(ask)
        lost = tuple(row.session for row in ask.rows for _ in range(3))
        return [frame(echo(ask, drafts=((),) * len(ask.rows), lost=lost))]

    with scripted(babbling) as (seen, peer), verifier(peer, retry=30.0) as drafts:
        for length in range(1, known + 2):
            drafts.propose([history("a", [0] * length), history("b", [0] * length)])
        assert (drafts.stats().answered, drafts.stats().lost) == (known + 1, 2)
        assert drafts.propose([history("a", [0] * 9)]).drafts == [[]]
        assert len(seen) == 1 + 2 * known  # not asked again about what it refused from the start
        drafts.close(["a", "b"])


def test_a_late_answer_costs_one_deadline_and_is_never_taken_for_a_newer_one():
    def slow_at_first(ask):
        return [0.2, *good(ask)] if ask.step == 1 else good(ask)

    with scripted(slow_at_first) as (seen, peer), verifier(peer, deadline=0.05) as drafts:
        began = time.monotonic()
        assert drafts.propose([history("a", [0] * 10)]).drafts == [[]]
        assert time.monotonic() - began < 0.05 + SLACK
        time.sleep(0.3)
        assert drafts.propose([history("a", [0] * 12)]).drafts == [[12, 13, 14, 15]]
        assert [row.start for ask in seen for row in ask.rows] == [0, 10]
        assert (drafts.stats().late, drafts.stats().answered) == (1, 1)


def test_sessions_that_move_take_turns_so_that_no_step_sends_all_their_histories():
    with scripted(good, "gone") as (_, one), scripted(good, "next") as (seen, two), verifier(one) as drafts:
        rows = [history(f"s{n}", [0] * 900, 1) for n in range(10)]
        given = [sum(map(bool, drafts.propose(rows).drafts)) for _ in range(3)]
        drafts.use([two])
        time.sleep(0.05)
        assert [sum(map(bool, drafts.propose(rows).drafts)) for _ in range(3)] == given
        assert given == [4, 9, 10]
        assert all(sum(len(row.tokens) for row in ask.rows) <= SPAN + 10 * SHORT for ask in seen)


def test_new_sessions_go_where_there_is_least_to_do():
    with (
        scripted(good, "busy") as (busy, one),
        scripted(good, "idle") as (idle, two),
        verifier(msgspec.structs.replace(one, load=0.5), two) as drafts,
    ):
        drafts.propose([history(str(n), [0], 1) for n in range(20)])
        assert [len(ask.rows) for ask in busy + idle] == [20]
        drafts.use([one, two])
        drafts.propose([history(str(n), [0], 1) for n in range(20, 40)])
        assert [[len(ask.rows) for ask in seen] for seen in (busy, idle)] == [[20], [20]]


def until_drafted(drafts: RemoteDrafts, rows: list[DraftHistory]) -> list[list[int]]:
    """What is proposed once the replica has read the histories."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        if all(found := drafts.propose(rows).drafts):
            return found
        time.sleep(0.005)
    raise TimeoutError("no drafts")


@pytest.mark.parametrize("ahead", [True, False])
def test_drafts_of_a_real_replica_are_the_greedy_continuation(ahead, tiny, greedy):
    first, second, foreign = [7, 8, 9] * 30, [5, 1], [3] * 10
    with (
        replica(tiny) as (_, peer),
        verifier(peer, ahead=ahead) as drafts,
        verifier(peer, epoch=2, ahead=ahead) as other,
    ):
        for accepted in (0, 2, 4, 1, 4):
            found = until_drafted(drafts, [history("a", first), history("b", second)])
            assert found == [greedy(first, 4)[: len(found[0])], greedy(second, 4)[: len(found[1])]]
            assert until_drafted(other, [history("a", foreign)]) == [greedy(foreign, 4)[: len(found[0])]]
            first = [*first, *found[0][:accepted], 11]
            second = [*second, *found[1][:accepted], 12]
            foreign = [*foreign, 13]
        assert drafts.stats().lost == other.stats().lost == 0


def test_a_real_replica_drafts_ahead_for_what_is_likeliest():
    """Every step of this verifier accepts all drafts and adds what the drafter itself thinks comes next."""
    tokens = Tokenizer.from_file(str(model_path("draft") / "tokenizer.json")).encode(QUESTION).ids
    with (
        replica(model_path("draft")) as (_, peer),
        verifier(peer, vocabulary=10000) as drafts,
        verifier(peer, vocabulary=10000, epoch=2, ahead=False) as plain,
    ):
        until_drafted(drafts, [history("a", tokens)])
        hits = 0
        for _ in range(8):
            (found,) = until_drafted(plain, [history("a", tokens, 5)])
            tokens = [*tokens, *found]
            proposal = drafts.propose([history("a", tokens)])
            time.sleep(0.1)  # who waits comes first: the other verifier's question would cut the lead short
            hits += proposal.hits
            assert proposal.drafts[0] == until_drafted(plain, [history("a", tokens, 5)])[0][: len(proposal.drafts[0])]
        assert hits >= 6


QUESTION = "<|im_start|>user\nWrite a function that filters even numbers.<|im_end|>\n<|im_start|>assistant\n"


def test_an_announced_prompt_has_been_read_when_its_first_drafts_are_wanted(tiny, greedy):
    prompt = list(range(60)) * 5
    with replica(tiny) as (server, peer), verifier(peer) as drafts:
        drafts.announce("a", np.array(prompt, np.int32))
        until = time.monotonic() + 10
        while server.state().prompt_tokens < 256 and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.2)
        assert drafts.propose([history("a", [*prompt, 1])]).drafts == [greedy([*prompt, 1], 4)]


def test_a_killed_replica_is_left_and_its_successor_taken_up(tiny, greedy):
    prompt = [1, 2, 3]
    with process(tiny) as (child, peer), verifier(peer, deadline=1.0) as drafts:
        assert drafts.propose([history("a", prompt)]).drafts == [greedy(prompt, 4)]
        child.kill()
        child.wait(10)
        began = time.monotonic()
        for length in range(4, 20):
            assert drafts.propose([history("a", [*prompt, *[4] * (length - 3)])]).drafts == [[]]
        assert time.monotonic() - began < 1.0 + 16 * SLACK
        with replica(tiny) as (_, successor):
            drafts.use([successor])
            time.sleep(0.05)
            assert drafts.propose([history("a", [*prompt, 9])]).drafts == [greedy([*prompt, 9], 4)]
