import pytest
from hypothesis import given
from hypothesis import strategies as st

from experts.speculation.stance import DUTY, LONGEST, PAUSE, RARE, SAVED, Purse, Stance, Tally, View

GOOD = {"ratio": 1.5, "right": 1.5, "free": 1.5}
BAD = {"ratio": 0.7, "right": 1.4, "free": 1.5}


def view(step, rows=4, **other):
    return View(step, rows, **{**GOOD, **other})


def speculating(since=0):
    return Stance("speculate", "start", since=since)


def stopped(stance, step, **other):
    """Until the same view, step by step, has ended it."""
    for later in range(step, step + 100):
        stance = stance.next(view(later, **{**BAD, **other}))
        if stance.mode == "plain":
            return stance
    raise AssertionError("it never stopped")


def test_speculation_begins_where_it_is_clearly_faster_and_not_before():
    assert Stance().next(view(1, ratio=1.02)).mode == "plain"
    assert Stance().next(view(1, ratio=1.05)).mode == "speculate"


def test_between_the_two_bounds_nothing_changes():
    assert speculating().next(view(5, ratio=1.01)) == speculating()
    assert Stance().next(view(5, ratio=1.01)) == Stance()


def test_a_single_doubt_of_a_single_request_is_forgiven_and_lasting_doubts_are_not():
    doubtful = speculating().next(view(5, rows=1, ratio=0.9))
    assert doubtful.mode == "speculate"
    assert doubtful.next(view(6, rows=1)).doubt == 0.0
    assert stopped(doubtful, 6, rows=1).mode == "plain"


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
        assert stance.next(view(step, affordable=True)) == stance
    assert stance.next(view(stance.due, affordable=True)).mode == "probe"


@pytest.mark.parametrize(
    ("seen", "begins"),
    [
        ({"ratio": 1.1}, False),
        ({"ratio": 1.1, "affordable": True}, True),
        ({"ratio": 1.1, "credit": True}, False),
        ({"ratio": 1.3}, False),
        ({"ratio": 1.3, "credit": True}, True),
        ({"ratio": 1.0, "affordable": True, "credit": True}, False),
    ],
)
def test_without_means_for_a_try_speculation_begins_again_only_where_it_clearly_pays(seen, begins):
    stance = stopped(speculating(), 0)
    again = stance.next(view(stance.since + 1, **seen))
    assert (again.mode == "speculate") == begins


def test_after_a_measured_loss_only_a_clear_sign_brings_it_back_and_not_at_once():
    stance = stopped(speculating(), 100, slow=True, **GOOD)
    assert stance.next(view(stance.due - 1, affordable=True, credit=True)) == stance
    assert stance.next(view(stance.due, ratio=1.1, affordable=True, credit=True)).mode == "probe"
    again = stance.next(view(stance.due, credit=True))
    assert (again.mode, again.reason) == ("speculate", "acceptance")


def test_where_shadow_drafts_see_no_hope_probes_are_rare():
    stance = stopped(speculating(), 0)
    seen = BAD | {"hopeful": False, "affordable": True}
    assert stance.next(view(stance.since + RARE - 1, **seen)) == stance
    assert stance.next(view(stance.since + RARE, **seen)).mode == "probe"


def test_a_probe_waits_for_its_time_and_for_the_means():
    stance = stopped(speculating(), 0)
    assert stance.next(view(stance.due - 1, **BAD, affordable=True)).mode == "plain"
    assert stance.next(view(stance.due, **BAD)).mode == "plain"
    assert stance.next(view(stance.due, **BAD, affordable=True)).mode == "probe"


def test_where_even_perfect_drafts_would_not_pay_probes_are_rare():
    stance = stopped(speculating(), 0, free=0.9)
    hopeless = {"ratio": 0.5, "free": 1.0, "affordable": True}
    assert stance.next(view(stance.since + RARE - 1, **hopeless)) == stance
    assert stance.next(view(stance.since + RARE, **hopeless)).mode == "probe"


def test_a_probe_that_succeeds_becomes_speculation():
    probe = Stance("probe", "probe")
    assert probe.next(view(5, **BAD, trying=True)) == probe
    assert probe.next(view(5, ratio=1.01, trying=True)) == Stance("speculate", "probe", since=5)


def test_pauses_double_while_probes_fail_and_are_short_again_after_proven_speculation():
    stance, pauses = stopped(speculating(since=0), 1), []
    for _ in range(5):
        pauses.append(stance.due - stance.since)
        probe = stance.next(view(stance.due, **BAD, affordable=True))
        stance = probe.next(view(stance.due + 1, **BAD))
    assert pauses == [PAUSE, 2 * PAUSE, 4 * PAUSE, LONGEST, LONGEST]
    again = stance.next(view(2000, credit=True))
    stance = stopped(again, 2500)
    assert stance.due - stance.since == PAUSE


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
