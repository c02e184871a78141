import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experts.speculation.stance import (
    AGAIN,
    CLEAR,
    CLEARER,
    DUTY,
    LONGEST,
    NOTICE,
    PAUSE,
    RARE,
    SAVED,
    SURE,
    Purse,
    Stance,
    Tally,
    View,
)

GOOD = {"ratio": 1.5, "right": 1.5, "free": 1.5}
BAD = {"ratio": 0.7, "right": 1.4, "free": 1.5}
MEANS = {"wait": 0}
CREDIT = {"clear": CLEAR}


def view(step, rows=4, **other):
    return View(step, rows, **{**GOOD, "wait": 999, **other})


def speculating(since=0):
    return Stance("speculate", "start", since=since)


def announced(stance, seen):
    """What a stance becomes, and from what it is announced, if anything is."""
    soon = stance.next(seen)
    return soon.next(seen) if soon.soon != "plain" else soon


def stopped(stance, step, **other):
    """Until the same view, step by step, has ended it."""
    for later in range(step, step + 100):
        stance = stance.next(view(later, **{**BAD, **other}))
        if stance.mode == "plain":
            return stance
    raise AssertionError("it never stopped")


def test_speculation_begins_where_it_is_clearly_faster_and_not_before():
    assert Stance().next(view(1, ratio=1.04)).mode == "plain"
    assert Stance().next(view(1, ratio=1.06)).mode == "speculate"


def test_between_the_two_bounds_nothing_changes():
    assert speculating().next(view(5, ratio=1.01)) == speculating()
    assert Stance().next(view(5, ratio=1.01)) == Stance()


def test_a_single_doubt_of_a_single_request_is_forgiven_and_lasting_doubts_are_not():
    doubtful = speculating().next(view(5, rows=1, ratio=0.9))
    assert doubtful.mode == "speculate"
    assert doubtful.next(view(6, rows=1)).doubt == 0.0
    assert stopped(doubtful, 6, rows=1).mode == "plain"


def test_that_most_rows_have_no_room_for_drafts_is_no_reason_to_give_them_up():
    doubts = [speculating().next(view(5, rows=1, ratio=0.9, share=share)).doubt for share in (0.1, 1.0)]
    assert doubts[0] == pytest.approx(0.1 * doubts[1])
    assert speculating().next(view(5, rows=16, ratio=0.68, share=0.06)).mode == "speculate"
    assert speculating().next(view(5, rows=16, ratio=0.68)).mode == "plain"


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        ({"ratio": 0.5, "right": 1.4, "free": 1.6}, "acceptance"),
        ({"ratio": 0.5, "right": 0.9, "free": 1.6}, "late"),
        ({"ratio": 0.5, "right": 0.9, "free": 0.95}, "load"),
        ({"ratio": 1.5, "right": 1.5, "free": 1.5, "slow": True}, "slow"),
    ],
)
def test_every_stop_has_its_reason(seen, reason):
    assert stopped(speculating(), 100, **seen).reason == reason


def test_after_a_measured_loss_estimates_alone_do_not_bring_it_back():
    stance = stopped(speculating(), 100, slow=True, **GOOD)
    for step in range(101, stance.due):
        stance = stance.next(view(step, **MEANS))
        assert (stance.mode, stance.soon) == ("plain", "probe" if stance.due - step <= NOTICE else "plain")
    assert stance.next(view(stance.due, **MEANS)).mode == "probe"


@pytest.mark.parametrize(
    ("seen", "begins"),
    [
        ({"ratio": 1.1}, False),
        ({"ratio": 1.1, **MEANS}, True),
        ({"ratio": 1.1, **CREDIT}, False),
        ({"ratio": 1.3}, False),
        ({"ratio": 1.3, **CREDIT}, True),
        ({"ratio": 1.0, **MEANS, **CREDIT}, False),
    ],
)
def test_without_means_for_a_try_speculation_begins_again_only_where_it_clearly_pays(seen, begins):
    stance = stopped(speculating(), 0)
    again = announced(stance, view(stance.since + 1, **seen))
    assert (again.mode == "speculate") == begins


def test_in_deep_debt_speculation_begins_only_after_a_while_and_on_more_than_a_clear_sign():
    stance = stopped(speculating(), 0)
    at_last = stance.since + AGAIN
    assert stance.enough(at_last, credit=False, shadowed=True) == SURE
    assert stance.enough(at_last - 1, credit=False, shadowed=True) == math.inf
    assert stance.enough(at_last, credit=False, shadowed=False) == math.inf


def test_drafters_have_notice_of_what_begins_and_it_does_not_if_things_look_different_then():
    stance = stopped(speculating(), 0)
    soon = stance.next(view(stance.since + 1, **CREDIT))
    assert (soon.mode, soon.soon) == ("plain", "speculate")
    assert soon.next(view(stance.since + NOTICE, **CREDIT)).mode == "speculate"
    assert soon.next(view(stance.since + 1, **BAD)) == stance
    assert Stance().next(view(1)).mode == "speculate", "nothing was kept from drafters at the start"


def test_after_a_measured_loss_only_a_clear_sign_brings_it_back_and_not_at_once():
    stance = stopped(speculating(), 100, slow=True, **GOOD)
    assert announced(stance, view(stance.due - 1, **MEANS, **CREDIT)).mode == "plain"
    assert announced(stance, view(stance.due, ratio=1.1, **MEANS, **CREDIT)).mode == "probe"
    again = announced(stance, view(stance.due, **CREDIT))
    assert (again.mode, again.reason) == ("speculate", "acceptance")


def test_where_shadow_drafts_see_no_hope_probes_are_rare():
    stance = stopped(speculating(), 0)
    seen = BAD | {"hopeful": False, **MEANS}
    assert stance.next(view(stance.since + RARE - 1, **seen)) == stance
    assert announced(stance, view(stance.since + RARE, **seen)).mode == "probe"


def test_a_probe_waits_for_its_time_and_for_the_means():
    stance = stopped(speculating(), 0)
    assert announced(stance, view(stance.due - 1, **BAD, **MEANS)).mode == "plain"
    assert announced(stance, view(stance.due, **BAD, wait=1)).mode == "plain"
    assert announced(stance, view(stance.due, **BAD, **MEANS)).mode == "probe"


def test_where_even_perfect_drafts_would_not_pay_probes_are_rare():
    stance = stopped(speculating(), 0, free=0.9)
    hopeless = {"ratio": 0.5, "free": 1.0, **MEANS}
    assert stance.next(view(stance.since + RARE - 1, **hopeless)) == stance
    assert announced(stance, view(stance.since + RARE, **hopeless)).mode == "probe"


def test_a_probe_that_succeeds_becomes_speculation():
    probe = Stance("probe", "probe")
    assert probe.next(view(5, **BAD, trying=True)) == probe
    assert probe.next(view(5, ratio=1.01, trying=True)) == Stance("speculate", "probe", since=5)


def test_pauses_double_while_probes_fail_and_are_short_again_after_proven_speculation():
    stance, pauses, promised = stopped(speculating(since=0), 1), [], []
    assert stance.enough(0, credit=True, shadowed=True) == CLEAR
    for _ in range(5):
        pauses.append(stance.due - stance.since)
        probe = announced(stance, view(stance.due, **BAD, **MEANS))
        stance = probe.next(view(stance.due + 1, **BAD))
        promised.append(stance.enough(0, credit=True, shadowed=True))
    assert pauses == [PAUSE, 2 * PAUSE, 4 * PAUSE, LONGEST, LONGEST]
    assert promised == [CLEARER] * 5, "what failed has to promise more"
    again = announced(stance, view(2000, **CREDIT))
    assert not again.proven(2000)
    stance = stopped(again, 2500)
    assert (stance.due - stance.since, stance.enough(0, credit=True, shadowed=True)) == (PAUSE, CLEAR)


def test_lasting_losses_trip_the_tally_and_one_long_step_does_not():
    tally = Tally().add(100.0, 1.0, floor=0.95)
    assert not tally.slow(4)
    for _ in range(3):
        tally = tally.add(3.0, 1.0, floor=0.95)
    assert tally.slow(4)


def test_time_won_cannot_be_gambled_away_later():
    tally = Tally()
    for _ in range(500):
        tally = tally.add(1.5, 4.0, floor=0.95)
    steps = 0
    while not tally.slow(4):
        tally, steps = tally.add(2.0, 1.0, floor=0.95), steps + 1
    assert steps <= 8


@given(st.lists(st.floats(0, 5), max_size=300))
def test_decoding_at_plain_speed_never_trips_the_tally(times):
    tally = Tally()
    for spent in times:
        tally = tally.add(spent, spent, floor=0.95)
    assert not tally.slow(1)


@given(st.lists(st.tuples(st.floats(0, 20), st.floats(-20, 20)), max_size=200))
def test_probes_take_a_small_share_of_the_time_at_most(events):
    purse, passed, paid = Purse(), 0.0, 0.0
    for spent, cost in events:
        purse, passed = purse.earn(spent), passed + spent
        if purse.saved > 0:
            purse, paid = purse.pay(max(cost, 0.0)), paid + min(max(cost, 0.0), 16.0)
        assert purse.saved <= SAVED
    assert paid <= 1.0 + DUTY * passed + 16.0
