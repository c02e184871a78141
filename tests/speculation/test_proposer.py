import time

import msgspec
import pytest

from experts.api import DraftPeer
from experts.speculation.fallback import PATIENCE
from experts.speculation.messages import DraftAsk, DraftTell
from tests.speculation.peers import frame, history, process, replica, scripted, verifier

SLACK = 0.1  # the machine may be busy; without a bound the waits below would be seconds


def echo(ask: DraftAsk, **changes):
    """The right answer of a replica whose drafts count up from the number of final tokens."""
    drafts = tuple(
        tuple(range(row.start + len(row.tokens), row.start + len(row.tokens) + row.depth)) for row in ask.rows
    )
    return msgspec.structs.replace(DraftTell(ask.epoch, ask.step, 1, drafts), **changes)


def good(ask):
    return [frame(echo(ask))] if ask.rows else []


def test_only_new_tokens_are_sent():
    with scripted(good) as (seen, peer), verifier(peer) as drafts:
        assert drafts.propose([history("a", [5, 6, 7], 2), history("b", [8], 1)]) == [[3, 4], [1]]
        assert drafts.propose([history("b", [8, 9], 3), history("a", [5, 6, 7, 3, 4, 1], 2)]) == [[2, 3, 4], [6, 7]]
        assert [(row.session, row.start, row.tokens) for row in seen[1].rows] == [("b", 1, (9,)), ("a", 3, (3, 4, 1))]
        assert (drafts.stats().asked, drafts.stats().answered, drafts.stats().drafted) == (2, 2, 8)


def test_rows_that_want_nothing_are_not_asked_about():
    with scripted(good) as (seen, peer), verifier(peer) as drafts:
        assert drafts.propose([history("a", [1], 0), history("b", [1], 1), history("c", [], 3)]) == [[], [1], []]
        assert drafts.propose([history("a", [1], 0)]) == [[]]
        assert [[row.session for row in ask.rows] for ask in seen] == [["b"]]


def test_without_replicas_nothing_is_proposed_and_nobody_waits():
    with verifier() as drafts:
        assert drafts.propose([history("a", [1, 2])]) == [[]]
        assert drafts.stats().plain == 1
        assert drafts.stats().wait < SLACK


def test_sessions_are_spread_and_stay_where_they_are():
    with scripted(good, "one") as (first, one), scripted(good, "two") as (second, two), verifier(one, two) as drafts:
        for length in range(1, 4):
            assert drafts.propose([history(name, [0] * length, 1) for name in "abcd"]) == [[length]] * 4
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


def test_a_lost_session_is_sent_again_from_the_start():
    def forgetful(ask):
        lost = tuple(row.session for row in ask.rows if row.start > 0)
        drafts = tuple(() if row.session in lost else (1,) for row in ask.rows)
        return [frame(DraftTell(ask.epoch, ask.step, 1, drafts, lost))]

    with scripted(forgetful) as (seen, peer), verifier(peer) as drafts:
        found = [drafts.propose([history("a", [0] * length, 1)]) for length in range(1, 5)]
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
        assert drafts.propose([history("a", [1, 2], 1)]) == [[2]]
        assert (seen[-1].rows[0].start, seen[-1].rows[0].tokens) == (0, (1, 2))


def test_a_session_that_is_refused_is_not_offered_at_every_step():
    def full(ask):
        return [frame(DraftTell(ask.epoch, ask.step, 1, ((),) * len(ask.rows), tuple(r.session for r in ask.rows)))]

    with scripted(full) as (seen, peer), verifier(peer, retry=30.0) as drafts:
        for length in range(1, 6):
            assert drafts.propose([history("a", [0] * length)]) == [[]]
        assert len(seen) == 1
        assert drafts.stats().plain == 4


@pytest.mark.parametrize("known", [0, 1])
def test_a_session_named_lost_more_than_once_is_lost_once(known):
    def babbling(ask):
        lost = tuple(row.session for row in ask.rows for _ in range(3)) if ask.step > known else ()
        return [frame(echo(ask, drafts=((),) * len(ask.rows), lost=lost))]

    with scripted(babbling) as (seen, peer), verifier(peer, retry=30.0) as drafts:
        for length in range(1, known + 2):
            assert drafts.propose([history("a", [0] * length), history("b", [0] * length)]) == [[], []]
        assert (drafts.stats().answered, drafts.stats().lost) == (known + 1, 2)
        assert drafts.propose([history("a", [0] * 9)]) == [[]]
        assert len(seen) == 1 + 2 * known  # not asked again about what it refused from the start
        drafts.close(["a", "b"])


def test_a_late_answer_costs_one_deadline_and_is_never_taken_for_a_newer_one():
    def slow_at_first(ask):
        return [0.2, *good(ask)] if ask.step == 1 else good(ask)

    with scripted(slow_at_first) as (seen, peer), verifier(peer, deadline=0.05) as drafts:
        began = time.monotonic()
        assert drafts.propose([history("a", [0] * 10)]) == [[]]
        assert time.monotonic() - began < 0.05 + SLACK
        time.sleep(0.3)
        assert drafts.propose([history("a", [0] * 12)]) == [[12, 13, 14, 15]]
        assert [row.start for ask in seen for row in ask.rows] == [0, 10]
        assert (drafts.stats().late, drafts.stats().answered) == (1, 1)


def test_a_silent_replica_is_left_alone_and_probed_now_and_then():
    with scripted(lambda _: []) as (seen, peer), verifier(peer, deadline=0.02, retry=0.2) as drafts:
        until = time.monotonic() + 0.7
        steps = 0
        while time.monotonic() < until:
            began = time.monotonic()
            assert drafts.propose([history("a", [0] * (steps + 1))]) == [[]]
            assert time.monotonic() - began < 0.02 + SLACK
            steps += 1
            time.sleep(0.002)
        assert PATIENCE < len(seen) <= PATIENCE + 3
        assert steps > 5 * len(seen)


def test_sessions_of_a_silent_replica_move_to_one_that_answers():
    with (
        scripted(lambda _: [], "mute") as (mute, one),
        scripted(good, "well") as (well, two),
        verifier(one, two, deadline=0.03, retry=30.0) as drafts,
    ):
        for length in range(1, PATIENCE + 1):
            drafts.propose([history("a", [0] * length), history("b", [0] * length)])
        assert drafts.propose([history("a", [0] * 9, 1), history("b", [0] * 9, 1)]) == [[9], [9]]
        assert len(mute) == PATIENCE
        assert sorted(row.start for row in well[-1].rows) == [0, PATIENCE]


def test_a_new_life_of_a_paused_replica_is_asked_at_once():
    with scripted(lambda _: []) as (_, dead), verifier(dead, deadline=0.02, retry=60.0) as drafts:
        for length in range(1, PATIENCE + 3):
            drafts.propose([history("a", [0] * length)])
        with scripted(good, epoch=2) as (seen, alive):
            drafts.use([alive])
            time.sleep(0.05)
            assert drafts.propose([history("a", [0] * 7, 1)]) == [[7]]
            assert seen[0].rows[0].start == 0


GARBAGE = {
    "noise": lambda _: b"\xff\x00noise",
    "nothing": lambda _: b"",
    "another version": lambda ask: b"\x09" + frame(echo(ask))[1:],
    "another record": frame,
    "another verifier's epoch": lambda ask: frame(echo(ask, epoch=ask.epoch + 1)),
    "a step to come": lambda ask: frame(echo(ask, step=ask.step + 1)),
    "too few rows": lambda ask: frame(echo(ask, drafts=())),
    "more drafts than asked for": lambda ask: frame(echo(ask, drafts=((1,) * 5,))),
    "a negative id": lambda ask: frame(echo(ask, drafts=((-1,),))),
    "an id beyond the vocabulary": lambda ask: frame(echo(ask, drafts=((1000,),))),
    "an id beyond 32 bits": lambda ask: frame(echo(ask, drafts=((2**40,),))),
    "a foreign session lost": lambda ask: frame(echo(ask, lost=("z",))),
    "two megabytes": lambda _: b"\x01" * (2 << 20),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_counts_as_a_miss_and_never_raises(garbage):
    with scripted(lambda ask: [garbage(ask)]) as (_, peer), verifier(peer, deadline=0.1, retry=30.0) as drafts:
        for length in range(1, PATIENCE + 3):
            began = time.monotonic()
            assert drafts.propose([history("a", [0] * length)]) == [[]]
            assert time.monotonic() - began < 0.1 + SLACK
        stats = drafts.stats()
        assert stats.garbage + stats.late > 0
        assert stats.answered == stats.drafted == 0
        assert stats.plain >= 2


def test_a_flood_of_old_answers_does_not_hold_the_engine_up():
    def flood(ask):
        return [frame(echo(ask, step=0))] * 5000

    with scripted(flood) as (_, peer), verifier(peer, deadline=0.05) as drafts:
        for length in range(1, 4):
            began = time.monotonic()
            assert drafts.propose([history("a", [0] * length)]) == [[]]
            assert time.monotonic() - began < 0.05 + SLACK


def test_an_address_where_nobody_listens_costs_no_wait():
    with verifier(DraftPeer("gone", 1, "tcp://127.0.0.1:9")) as drafts:
        began = time.monotonic()
        for length in range(1, 50):
            assert drafts.propose([history("a", [0] * length)]) == [[]]
        assert time.monotonic() - began < SLACK
        assert drafts.stats().plain == 49


def test_drafts_of_a_real_replica_are_the_greedy_continuation(tiny, greedy):
    first, second, foreign = [7, 8, 9] * 30, [5, 1], [3] * 10
    with replica(tiny) as (_, peer), verifier(peer) as drafts, verifier(peer, epoch=2) as other:
        for accepted in (0, 2, 4, 1, 4):
            found = drafts.propose([history("a", first), history("b", second)])
            assert found == [greedy(first, 4), greedy(second, 4)]
            assert other.propose([history("a", foreign)]) == [greedy(foreign, 4)]
            first = [*first, *found[0][:accepted], 11]
            second = [*second, *found[1][:accepted], 12]
            foreign = [*foreign, 13]
        assert drafts.stats().lost == other.stats().lost == 0


def test_a_late_real_answer_has_warmed_the_cache(tiny, greedy):
    prompt = list(range(60)) * 5
    with replica(tiny) as (server, peer), verifier(peer, deadline=0.0) as hasty:
        assert hasty.propose([history("a", prompt)]) == [[]]
        until = time.monotonic() + 5
        while not server.state().running and time.monotonic() < until:
            time.sleep(0.01)
        assert server.state().running == 1
        assert hasty.propose([history("a", [*prompt, 1])]) == [[]]
        assert hasty.stats().late == 2


def test_a_killed_replica_is_left_and_its_successor_taken_up(tiny, greedy):
    prompt = [1, 2, 3]
    with process(tiny) as (child, peer), verifier(peer, deadline=1.0) as drafts:
        assert drafts.propose([history("a", prompt)]) == [greedy(prompt, 4)]
        child.kill()
        child.wait(10)
        began = time.monotonic()
        for length in range(4, 20):
            assert drafts.propose([history("a", [*prompt, *[4] * (length - 3)])]) == [[]]
        assert time.monotonic() - began < 1.0 + 16 * SLACK
        with replica(tiny) as (_, successor):
            drafts.use([successor])
            time.sleep(0.05)
            assert drafts.propose([history("a", [*prompt, 9])]) == [greedy([*prompt, 9], 4)]
