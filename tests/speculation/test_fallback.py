import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experts.speculation.fallback import BRIEF, CAP, FULL, PATIENCE, Trust, first_chance, surprise

RETRY = 0.5
FAULTS = st.sampled_from(["late", "garbage", "lost"])
EVENTS = st.lists(
    st.tuples(
        st.one_of(
            st.just("answered"),
            FAULTS,
            st.tuples(st.booleans(), st.floats(0, 20)),  # a judgement: whether any was accepted, the surprise if not
        ),
        st.floats(0, 3),
    ),
    max_size=60,
)


def after(trust: Trust, event, now: float) -> Trust:
    if event == "answered":
        return trust.answered(now)
    if isinstance(event, str):
        return trust.missed(event, now)
    accepted, doubt = event
    return trust.judged(doubt, accepted=accepted, now=now)


def opened(fault: str = "late", now: float = 0.0) -> Trust:
    trust = Trust(RETRY)
    for _ in range(PATIENCE):
        trust = trust.missed(fault, now)
    return trust


def test_single_misses_are_forgiven():
    trust = Trust(RETRY)
    for now in range(20):
        for _ in range(PATIENCE - 1):
            trust = trust.missed("late", now)
        assert trust.closed
        trust = trust.answered(now)


@pytest.mark.parametrize("fault", ["late", "garbage", "lost"])
def test_misses_in_a_row_open_it_for_a_while_and_say_why(fault):
    trust = opened(fault, 10.0)
    assert (trust.cause, trust.allows(10.0), trust.change(Trust(RETRY))) == (fault, 0, fault)
    assert trust.allows(10.0 + BRIEF * RETRY - 0.001) == 0
    assert trust.allows(10.0 + BRIEF * RETRY) == 1


def test_recovery_is_gradual_and_complete():
    trust, allowed = opened(), []
    now = trust.until
    while not trust.closed:
        allowed.append(trust.allows(now))
        before, trust = trust, trust.answered(now)
    assert allowed == [1, 2, 4, 8, 16]
    assert trust.allows(now) is None
    assert trust.change(before) == "recovered"
    assert trust.pause == 0


def test_every_failed_probe_doubles_the_pause_up_to_the_cap():
    trust, pauses = opened(), []
    for _ in range(10):
        pauses.append(trust.pause / RETRY)
        trust = trust.missed("late", trust.until)
    assert pauses == [1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16, 16, 16]


def test_a_miss_on_probation_opens_it_again():
    trust = opened()
    now = trust.until
    trust = trust.answered(now).answered(now)
    again = trust.missed("garbage", now)
    assert again.allows(now) == 0
    assert again.change(trust) == "garbage"


def test_what_is_missed_while_it_is_open_changes_nothing():
    trust = opened()
    assert trust.missed("late", trust.until - 0.001) == trust
    assert trust.answered(trust.until - 0.001) == trust


def test_four_rows_whose_drafts_were_likely_right_open_it_at_once():
    trust = Trust(RETRY).judged(surprise([0.9] * 4), accepted=False, now=0.0)
    assert (trust.cause, trust.allows(0.0)) == ("wrong", 0)


def test_one_row_whose_drafts_were_likely_right_opens_it_in_three_steps():
    trust = Trust(RETRY)
    for step in range(3):
        assert trust.closed, step
        trust = trust.judged(surprise([0.9]), accepted=False, now=0.0)
    assert trust.cause == "wrong"


def test_one_accepted_draft_clears_all_doubt():
    trust = Trust(RETRY).judged(6.0, accepted=False, now=0.0).judged(0.0, accepted=True, now=0.0)
    assert trust.judged(6.0, accepted=False, now=0.0).closed


def test_failures_of_drafts_that_were_not_expected_to_be_right_take_long_to_convince():
    trust, steps = Trust(RETRY), 0
    while trust.closed:
        trust = trust.judged(surprise([0.05] * 4), accepted=False, now=0.0)
        steps += 1
    assert steps > 30


def test_certainty_is_no_expectation():
    assert surprise([1.0, 1.0, 0.0]) == 0
    assert surprise([0.999999]) == pytest.approx(-math.log(0.1))


def test_after_wrong_drafts_answers_do_not_redeem_but_accepted_drafts_do():
    trust = Trust(RETRY).judged(10.0, accepted=False, now=0.0)
    now = trust.until
    assert trust.answered(now).allows(now) == 1
    assert trust.judged(0.0, accepted=True, now=now).allows(now) == 2


def test_after_wrong_drafts_a_probe_is_convicted_on_less():
    trust = Trust(RETRY).judged(10.0, accepted=False, now=0.0)
    assert trust.judged(2.4, accepted=False, now=trust.until).pause == 2 * trust.pause


@given(st.floats(0.01, 0.99), st.integers(1, 16))
def test_the_chance_of_the_first_draft_follows_from_what_all_are_expected_to_bring(chance, depth):
    gain = sum(chance**n for n in range(1, depth + 1))
    assert first_chance(gain, depth) == pytest.approx(chance, abs=1e-4)


@given(st.floats(-1e9, 1e9), st.integers(1, 16))
def test_a_chance_is_a_chance_whatever_is_expected(gain, depth):
    assert 0 <= first_chance(gain, depth) <= 1


@given(EVENTS)
def test_a_pause_always_ends_and_never_exceeds_the_cap(events):
    trust, now = Trust(RETRY), 0.0
    for event, passed in events:
        now += passed
        trust = after(trust, event, now)
        longest = CAP * RETRY + 1e-9
        assert trust.until - now <= longest
        allowed = trust.allows(now + longest)
        assert allowed is None or allowed >= 1


@given(EVENTS)
def test_it_opens_and_closes_in_turn_and_says_why_each_time(events):
    trust, now = Trust(RETRY), 0.0
    for event, passed in events:
        now += passed
        before, trust = trust, after(trust, event, now)
        change = trust.change(before)
        assert (change == "recovered") == (trust.closed and not before.closed)
        if change not in (None, "recovered"):
            assert trust.allows(now) == 0
            assert change == trust.cause
        if before.closed and not trust.closed:
            assert change is not None
        assert 0 <= trust.rows <= FULL


@given(EVENTS)
def test_a_dead_replica_costs_few_asks_and_a_live_one_is_always_asked(events):
    dead, live, now, asked = Trust(RETRY), Trust(RETRY), 0.0, 0
    for _, passed in events:
        now += passed
        assert live.allows(now) is None
        live = live.answered(now)
        if dead.allows(now) != 0:
            asked += 1
            dead = dead.missed("late", now)
    assert asked <= PATIENCE + math.log2(CAP / BRIEF) + now / RETRY
