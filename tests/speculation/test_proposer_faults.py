"""What a verifier does about draft replicas that fail it: late, silent, babbling, useless, gone."""

import math
import threading
import time

import pytest

from experts.api import DraftPeer
from experts.speculation.fallback import PATIENCE
from tests.speculation.peers import SLACK, echo, frame, good, history, scripted, verifier


def test_a_silent_replica_is_left_alone_within_three_steps():
    with scripted(lambda _: []) as (seen, peer), verifier(peer, deadline=0.02, retry=800.0) as drafts:
        for length in range(1, 10):
            began = time.monotonic()
            assert drafts.propose([history("a", [0] * length)]).drafts == [[]]
            assert time.monotonic() - began < 0.02 + SLACK
        assert drafts.stats().changes == {"breaker:late": 1}
        assert drafts.stats().late == PATIENCE == len(seen)


def test_a_silent_replica_is_probed_now_and_then_and_less_and_less():
    with scripted(lambda _: []) as (seen, peer), verifier(peer, deadline=0.02, retry=0.8) as drafts:
        began, steps = time.monotonic(), 0
        while time.monotonic() - began < 1.0:
            steps += 1
            drafts.propose([history("a", [0] * steps)])
            time.sleep(0.002)
        assert PATIENCE < len(seen) <= PATIENCE + 1 + math.log2(1.0 / (0.8 / 8))
        assert steps > 5 * len(seen)


def test_recovery_lets_more_and_more_rows_through():
    frozen = threading.Event()
    frozen.set()
    with (
        scripted(lambda ask: [] if frozen.is_set() else good(ask)) as (_seen, peer),
        verifier(peer, deadline=0.5, retry=0.8) as drafts,
    ):
        rows = [history(f"s{n}", [0] * 5, 1) for n in range(40)]
        for _ in range(PATIENCE):
            drafts.propose(rows)
        assert drafts.propose(rows).drafts == [[]] * 40
        frozen.clear()
        time.sleep(0.12)
        given = [sum(map(bool, drafts.propose(rows).drafts)) for _ in range(7)]
        assert given == [1, 2, 4, 8, 16, 40, 40]
        assert drafts.stats().changes == {"breaker:late": 1, "breaker:recovered": 1}


def test_drafts_that_are_well_formed_but_useless_open_the_breaker_at_once_for_four_rows():
    with scripted(good) as (seen, peer), verifier(peer, retry=80.0) as drafts:
        assert all(drafts.propose([history(name, [0] * 3, 1, gain=0.9) for name in "abcd"]).drafts)
        assert drafts.propose([history(name, [0] * 4, 1, gain=0.9) for name in "abcd"]).drafts == [[]] * 4
        assert drafts.stats().changes == {"breaker:wrong": 1}
        assert len(seen) == 1


def test_useless_drafts_of_which_little_was_expected_open_nothing():
    with scripted(good) as (_seen, peer), verifier(peer, retry=80.0) as drafts:
        for length in range(3, 20):
            assert all(drafts.propose([history(name, [0] * length, 1, gain=0.05) for name in "abcd"]).drafts)
        assert drafts.stats().changes == {}


def test_after_useless_drafts_it_takes_accepted_ones_to_recover():
    """The drafts say 3 after three tokens and so on; a history of zeros rejects them, one that counts accepts them."""
    with scripted(good) as (_seen, peer), verifier(peer, retry=0.08) as drafts:
        for length in range(3, 6):
            drafts.propose([history("a", [0] * length, 1, gain=0.9)])
        assert drafts.propose([history("a", [0] * 6, 1, gain=0.9)]).drafts == [[]]
        time.sleep(0.02)
        for length in range(7, 14):
            assert drafts.propose([history("a", list(range(length)), 1, gain=0.9)]).drafts == [[length]]
        assert drafts.stats().changes == {"breaker:wrong": 1, "breaker:recovered": 1}


def test_sessions_of_a_silent_replica_move_to_one_that_answers():
    with (
        scripted(lambda _: [], "mute") as (mute, one),
        scripted(good, "well") as (well, two),
        verifier(one, two, deadline=0.03, retry=300.0) as drafts,
    ):
        for length in range(1, PATIENCE + 1):
            drafts.propose([history("a", [0] * length), history("b", [0] * length)])
        assert drafts.propose([history("a", [0] * 9, 1), history("b", [0] * 9, 1)]).drafts == [[9], [9]]
        assert len(mute) == PATIENCE
        assert sorted(row.start for row in well[-1].rows) == [0, PATIENCE]


def test_a_new_life_of_a_paused_replica_is_asked_at_once():
    with scripted(lambda _: []) as (_, dead), verifier(dead, deadline=0.02, retry=60.0) as drafts:
        for length in range(1, PATIENCE + 3):
            drafts.propose([history("a", [0] * length)])
        with scripted(good, epoch=2) as (seen, alive):
            drafts.use([alive])
            time.sleep(0.05)
            assert drafts.propose([history("a", [0] * 7, 1)]).drafts == [[7]]
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
            assert drafts.propose([history("a", [0] * length)]).drafts == [[]]
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
            assert drafts.propose([history("a", [0] * length)]).drafts == [[]]
            assert time.monotonic() - began < 0.05 + SLACK


def test_an_address_where_nobody_listens_costs_no_wait():
    with verifier(DraftPeer("gone", 1, "tcp://127.0.0.1:9")) as drafts:
        began = time.monotonic()
        for length in range(1, 50):
            assert drafts.propose([history("a", [0] * length)]).drafts == [[]]
        assert time.monotonic() - began < SLACK
        assert drafts.stats().plain == 49
