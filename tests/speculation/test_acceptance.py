from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experts.speculation.acceptance import LIMIT, OPTIMISM, Acceptance
from experts.speculation.depth import RowView, Verdict

DEPTH = 6


def row(session="a", *, domain="text", strict=False):
    return RowView(session, DEPTH, 10, domain, strict)


def accepted(luck, rates):
    for position, rate in enumerate(rates):
        if luck.random() >= rate:
            return position
    return len(rates)


def teach(acceptance, verdicts, step):
    slots, known = acceptance.judged(verdicts)
    if known:
        acceptance.learn(slots, known, step)


def trained(acceptance, rates, *, steps=200, sessions=("a",), start=0, domain="text"):
    """Verdicts of requests whose drafts are right at these rates, given that those before were."""
    luck = Random(1)
    rows = [row(session, domain=domain) for session in sessions]
    for step in range(start, start + steps):
        acceptance.rates(acceptance.slots(rows, step))
        teach(acceptance, [Verdict(session, len(rates), accepted(luck, rates)) for session in sessions], step)
    return start + steps


def rates(acceptance, one, step=0):
    return acceptance.rates(acceptance.slots([one], step))[0]


def test_a_request_nobody_has_seen_is_expected_to_accept():
    assert rates(Acceptance(DEPTH), row()) == pytest.approx([OPTIMISM] * DEPTH)


def test_the_rate_of_each_position_is_learnt():
    acceptance = Acceptance(3)
    step = trained(acceptance, (0.9, 0.4, 0.8), sessions=[f"s{n}" for n in range(8)])
    assert rates(acceptance, row("s0"), step) == pytest.approx([0.9, 0.4, 0.8], abs=0.15)


def test_positions_never_reached_are_taken_to_be_like_the_nearest():
    acceptance = Acceptance(DEPTH)
    step = trained(acceptance, (0.3, 0.3))
    found = rates(acceptance, row(), step)
    assert found[2:] == pytest.approx([found[1]] * 4, abs=0.1)


def test_a_new_request_starts_from_what_its_domain_taught():
    acceptance = Acceptance(DEPTH)
    step = trained(acceptance, (0.1,) * DEPTH, domain="code")
    assert rates(acceptance, row("new", domain="code"), step)[0] < 0.25
    assert rates(acceptance, row("other", domain="tools"), step)[0] == pytest.approx(OPTIMISM)


def test_a_strict_segment_of_a_request_is_learnt_apart():
    acceptance = Acceptance(DEPTH)
    step = trained(acceptance, (0.05,) * DEPTH)
    assert rates(acceptance, row(strict=True), step)[0] == pytest.approx(OPTIMISM)
    assert rates(acceptance, row(), step)[0] < 0.25


def test_a_request_that_differs_from_its_domain_is_told_apart():
    acceptance, luck = Acceptance(4), Random(2)
    rows = [row("good"), row("bad")]
    for step in range(100):
        acceptance.rates(acceptance.slots(rows, step))
        good, bad = accepted(luck, (0.9,) * 4), accepted(luck, (0.1,) * 4)
        teach(acceptance, [Verdict("good", 4, good), Verdict("bad", 4, bad)], step)
    found = acceptance.rates(acceptance.slots(rows, 100))
    assert found[0, 0] > 0.75
    assert found[1, 0] < 0.3


@pytest.mark.parametrize(("before", "after"), [(0.95, 0.05), (0.05, 0.95)])
def test_a_lasting_change_within_a_request_is_followed_in_a_dozen_verdicts(before, after):
    acceptance = Acceptance(4)
    step = trained(acceptance, (before,) * 4)
    step = trained(acceptance, (after,) * 4, steps=12, start=step)
    assert abs(rates(acceptance, row(), step)[0] - after) < 0.3


def test_what_idle_requests_showed_counts_less_once_their_domain_has_changed():
    acceptance = Acceptance(4)
    step = trained(acceptance, (0.05,) * 4, sessions=("a", "idle"))
    before = rates(acceptance, row("idle"), step)[0]
    step = trained(acceptance, (0.95,) * 4, steps=30, start=step)
    assert rates(acceptance, row("idle"), step)[0] > before + 0.4


@pytest.mark.parametrize("rate", [0.2, 0.8])
def test_verdicts_of_a_few_steps_taken_in_together_teach_as_much(rate):
    singly, together, luck = Acceptance(DEPTH), Acceptance(DEPTH), Random(2)
    names = ["a", "b", "c"]
    rows = [row(session) for session in names]
    gathered = []
    for step in range(240):
        each = [Verdict(session, DEPTH, accepted(luck, (rate,) * DEPTH)) for session in names]
        for acceptance in (singly, together):
            acceptance.slots(rows, step)
        singly.rates(singly.slots(rows, step))
        teach(singly, each, step)
        gathered += each
        if step % 4 == 3:
            teach(together, gathered, step)
            gathered = []
            together.rates(together.slots(rows, step))
    for one in rows:
        assert rates(together, one, 240) == pytest.approx(rates(singly, one, 240), abs=0.1)


def test_a_closed_request_is_forgotten_and_its_domain_is_not():
    acceptance = Acceptance(DEPTH)
    step = trained(acceptance, (0.1,) * DEPTH, sessions=("a", "b"))
    assert len(acceptance) == 2
    acceptance.close("a")
    acceptance.close("unknown")
    assert len(acceptance) == 1
    fresh, newcomer = rates(acceptance, row("a"), step), rates(acceptance, row("c"), step)
    assert fresh == pytest.approx(newcomer)
    assert fresh[0] < OPTIMISM


def test_requests_that_are_never_closed_do_not_pile_up():
    acceptance = Acceptance(2)
    for number in range(LIMIT + 300):
        acceptance.slots([row(f"s{number}", strict=bool(number % 2))], number)
    assert len(acceptance) == LIMIT


def test_domains_beyond_the_known_number_count_as_unknown_traffic():
    acceptance = Acceptance(2)
    for number in range(500):
        acceptance.slots([row(f"s{number}", domain=f"d{number}")], number)
    assert rates(acceptance, row("last", domain="d-last"), 500) == pytest.approx([OPTIMISM] * 2)


COUNTS = st.integers(-5, 50)
EVENTS = st.lists(st.tuples(st.sampled_from("abcd"), COUNTS, COUNTS, st.integers(0, 3000)), max_size=40)


@given(EVENTS)
@settings(max_examples=60)
def test_any_verdicts_leave_probabilities(events):
    acceptance, step = Acceptance(DEPTH), 0
    rows = [row(name, domain=name) for name in "abc"]
    for session, drafted, right, passed in events:
        step += passed
        found = acceptance.rates(acceptance.slots(rows, step))
        assert np.isfinite(found).all()
        assert (found > 0.0).all()
        assert (found < 1.0).all()
        teach(acceptance, [Verdict(session, drafted, right)], step)
