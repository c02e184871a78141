import math
from random import Random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from experts.speculation.costs import Costs, Demand, sound
from experts.speculation.depth import Timing
from experts.speculation.forward import Experts
from experts.speculation.surface import CELLS, Surface

DEPTH = 8
BASE, ROW, TOKEN, CHECK = 2e-3, 0.1e-3, 0.05e-3, 0.3e-3


def seconds(rows, drafts):
    return BASE + ROW * rows + TOKEN * (rows + drafts) + (CHECK if drafts else 0.0)


def learn(costs, rows, drafts, *, verify=None, wait=1e-4, demand=None):
    """A step of so many rows and drafts, all of them asked for unless ``demand`` says something else."""
    verify = seconds(rows, drafts) if verify is None else verify
    demand = evenly(rows, drafts) if demand is None else demand
    costs.learn(Timing(rows, rows + drafts, 100 * rows, verify, wait), demand)


def evenly(rows, drafts, missing=0.0):
    """So many drafts asked for, as many for each row."""
    return Demand(rows if drafts else 0, -(-drafts // rows), missing)


def trained(experts=None, *, shapes=((1, 0), (1, 2), (1, 5), (4, 0), (4, 8), (4, 20), (16, 0), (16, 48)), rounds=15):
    costs = Costs(DEPTH, experts)
    luck = Random(3)
    for _ in range(rounds):
        for rows, drafts in shapes:
            learn(costs, rows, drafts, verify=seconds(rows, drafts) * luck.gauss(1.0, 0.03))
    return costs


def test_plain_steps_that_are_not_settled_say_nothing_of_plain_decoding():
    costs = trained()
    before = costs.tariff(4, 400).plain
    for _ in range(50):
        costs.learn(Timing(4, 4, 400, 10 * seconds(4, 0), 1e-4, settled=False), Demand())
    assert costs.tariff(4, 400).plain == pytest.approx(before)


def test_before_anything_is_measured_there_is_a_price():
    tariff = Costs(DEPTH).tariff(3, 100)
    assert tariff.plain > 0
    assert (tariff.verify == tariff.verify[0]).all()


@pytest.mark.parametrize(("rows", "drafts"), [(1, 8), (4, 32), (8, 0), (8, 24), (16, 16), (16, 128)])
def test_shapes_that_were_never_run_are_priced_from_those_that_were(rows, drafts):
    tariff = trained().tariff(rows, 100 * rows)
    assert tariff.verify[drafts] == pytest.approx(seconds(rows, drafts), rel=0.12)


def test_a_shape_that_fits_no_plane_is_priced_as_it_was_measured():
    costs = trained()
    for _ in range(20):
        learn(costs, 4, 20, verify=3 * seconds(4, 20))
    assert costs.tariff(4, 400).verify[20] == pytest.approx(3 * seconds(4, 20), rel=0.25)


def test_experts_that_more_tokens_activate_make_drafts_dearer_at_first():
    experts = Experts(8, 2)
    costs = Costs(DEPTH, experts)
    for _ in range(20):
        for rows, drafts in ((1, 0), (1, 1), (1, 3), (1, 8), (4, 0), (4, 16)):
            learn(costs, rows, drafts, verify=2e-3 + 3e-3 * experts.distinct(float(rows + drafts)))
    verify = costs.tariff(1, 100).verify
    assert verify[1] - verify[0] > 2 * (verify[8] - verify[7])


def test_one_outlier_moves_little_and_a_lasting_change_is_followed():
    costs = trained()
    before = costs.tariff(4, 400).verify[8]
    learn(costs, 4, 8, verify=50 * seconds(4, 8))
    assert costs.tariff(4, 400).verify[8] == pytest.approx(before, rel=0.15)
    for _ in range(20):
        learn(costs, 4, 8, verify=2 * seconds(4, 8))
    assert costs.tariff(4, 400).verify[8] == pytest.approx(2 * before, rel=0.2)


def test_a_shape_whose_first_step_is_an_outlier_is_not_written_off():
    costs = trained()
    learn(costs, 32, 128, verify=20 * seconds(32, 128))
    assert costs.tariff(32, 3200).verify[128] < 2.5 * seconds(32, 128)


def test_waits_are_learnt_by_the_deepest_draft_and_apart_from_steps_without():
    costs = Costs(DEPTH)
    for _ in range(10):
        learn(costs, 4, 8, wait=1e-3)
        learn(costs, 4, 24, wait=3e-3)
        learn(costs, 4, 0, wait=1e-5)
    waits = costs.tariff(4, 400).waits
    assert waits.of(Demand()) == pytest.approx(1e-5, rel=0.5)
    assert waits.of(Demand(4, 4)) == pytest.approx(2e-3, rel=0.2)


def test_where_drafts_fail_they_are_waited_for_the_longer_the_more_rows():
    """Most waits are next to nothing where few fail, and it is the others that count."""
    costs, luck = Costs(DEPTH), Random(5)
    shapes = [(rows, failing) for rows in (4, 16) for failing in (0.1, 0.5, 0.9)]
    for _ in range(600):
        rows, failing = luck.choice(shapes)
        missing = sum(luck.random() < failing for _ in range(rows))
        expected = evenly(rows, 6 * rows, rows * failing)
        learn(costs, rows, 6 * rows, wait=0.05e-3 + 0.5e-3 * missing, demand=expected)
    waits = costs.tariff(20, 2000).waits
    for rows, failing in shapes:
        expected = 0.05e-3 + 0.5e-3 * rows * failing
        assert waits.of(Demand(rows, 6, rows * failing)) == pytest.approx(expected, rel=0.4, abs=0.2e-3)


def test_waits_are_those_of_the_rows_that_are_asked_for_whoever_else_runs():
    costs = Costs(DEPTH)
    for _ in range(40):
        learn(costs, 16, 12, wait=0.5e-3, demand=Demand(2, 6, 0.2))
        learn(costs, 16, 96, wait=4.5e-3, demand=Demand(16, 6, 8.0))
    waits = costs.tariff(16, 1600).waits
    assert waits.of(Demand(2, 6, 0.2)) == pytest.approx(0.5e-3, rel=0.3)
    assert waits.of(Demand(16, 6, 8.0)) == pytest.approx(4.5e-3, rel=0.2)


def test_waits_that_do_not_grow_with_failures_are_not_taken_to():
    costs = Costs(DEPTH)
    for _ in range(50):
        for rows in (4, 16):
            learn(costs, rows, 6 * rows, wait=2e-3, demand=evenly(rows, 6 * rows, 0.1 * rows))
    waits = costs.tariff(16, 1600).waits
    assert waits.of(Demand(16, 6, 12.8)) < 1.5 * waits.of(Demand(16, 6, 1.6))


def test_a_wait_is_no_less_long_for_being_rare():
    """The mean counts: with a spread that collapses after many short ones, the long ones would all be outliers."""
    costs, luck = Costs(DEPTH), Random(7)
    found = []
    for step in range(400):
        learn(costs, 4, 24, wait=4e-3 if luck.random() < 0.3 else 0.05e-3)
        if step >= 100:
            found.append(costs.tariff(4, 400).waits.of(Demand(4, 6)))
    assert sum(found) / len(found) == pytest.approx(0.3 * 4e-3, rel=0.3)


def test_waits_that_end_are_forgotten_sooner_than_times_of_the_model():
    costs = trained()
    for _ in range(20):
        learn(costs, 4, 24, wait=20e-3)
    for _ in range(120):
        learn(costs, 4, 12, wait=0.1e-3)
    assert costs.tariff(4, 400).waits.of(Demand(4, 6)) < 5e-3


def test_how_long_ago_a_batch_was_run_plainly_is_known():
    costs = trained()
    assert costs.age(40) is None
    learn(costs, 4, 0)
    assert costs.age(4) == 0
    for _ in range(7):
        learn(costs, 4, 8)
    assert costs.age(4) == 7


def test_drafts_that_do_not_come_lower_the_supply_and_their_return_restores_it():
    costs = Costs(4)
    for _ in range(6):
        costs.supply((4, 4), ())
    assert costs.tariff(2, 10).supply[0] < 0.05
    costs.supply((2, 2), (2, 2))
    assert costs.tariff(2, 10).supply == pytest.approx([1.0] * 4)


def test_a_position_that_is_not_served_becomes_worth_asking_for_again():
    costs = Costs(4)
    for _ in range(30):
        costs.supply((4,), (2,))
    assert costs.tariff(1, 10).supply == pytest.approx([1.0, 1.0, 0.0, 0.0], abs=0.05)
    for _ in range(30):
        costs.supply((2,), (2,))
    assert costs.tariff(1, 10).supply[3] > 0.5


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0, 0.0, 1e9])
def test_times_that_make_no_sense_are_not_learnt(bad):
    costs = trained()
    before = costs.tariff(4, 400)
    learn(costs, 4, 8, verify=bad)
    if bad:
        learn(costs, 4, 8, wait=bad)
        learn(costs, 4, 8, demand=evenly(4, 8, bad))
    costs.learn(Timing(0, 0, 0, 1e-3, 0.0), Demand())
    costs.learn(Timing(4, 3, 0, 1e-3, 0.0), Demand())
    assert (costs.tariff(4, 400).verify == before.verify).all()
    assert costs.tariff(4, 400).waits == before.waits


TIMES = st.one_of(st.floats(-1e-3, 1e5), st.floats())
SHARES = st.one_of(st.floats(0.0, 1.0), st.floats())
COUNTS = st.integers(-1, 1 << 50)
TIMINGS = st.lists(
    st.tuples(st.integers(-1, 300), st.integers(-1, 5000), COUNTS, TIMES, TIMES, SHARES, st.none() | COUNTS),
    max_size=60,
)


@given(TIMINGS)
@example([(1, 1, 0, 1.0, 1.0, 2.2e-311, None)])
@example([(4, 4 + 4 * (place % 2), 10, 1e-9 * 10.0**place, 1.0, 0.5, 1 << place) for place in range(12)] * 4)
@settings(max_examples=60)
def test_any_measurements_leave_prices_that_are_finite_and_never_fall(timings):
    costs = Costs(DEPTH, Experts(64, 4))
    for rows, tokens, context, verify, wait, failing, prompt in timings:
        demand = Demand(max(rows, 0), min(DEPTH, max(tokens, 0)), failing * rows)
        timing = Timing(rows, tokens, context, verify, wait, alone=prompt is None, prompt=prompt or 0)
        costs.learn(timing, demand)
        if sound(timing) and (decoded := costs.decoded(timing)):
            assert 0.0 <= decoded.seconds <= timing.verify + timing.wait
            assert decoded.plain is None or decoded.plain > 0.0
    for rows in (1, 7, 64):
        tariff = costs.tariff(rows, 50 * rows)
        waits = [0.0, tariff.waits.calm, *(tariff.waits.of(Demand(rows, depth, 0.5 * rows)) for depth in range(1, 9))]
        for prices in (tariff.verify, np.array(waits)):
            assert np.isfinite(prices).all()
            assert (np.diff(prices) >= 0).all()
        assert (tariff.verify > 0).all()


@given(st.lists(st.tuples(st.integers(0, 400), st.floats(0, 10)), min_size=1, max_size=200))
@settings(max_examples=30)
def test_a_surface_keeps_few_cells_and_no_negative_coefficient(points):
    surface = Surface((1e-4, 1e-3), age=50.0)
    for key, value in points:
        surface.learn((key, 0), (1.0, float(key)), value)
    assert sum(len(surface.cells(key)) for key in range(401)) <= CELLS
    assert (surface.coefficients >= 0).all()
