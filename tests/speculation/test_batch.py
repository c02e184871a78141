import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experts.speculation.batch import Batch
from experts.speculation.costs import Demand, Tariff, Waits
from experts.speculation.goodput import best_depths

DEPTH = 8


NONE = Waits()


def batch(*rates, waits=NONE):
    gains = np.cumprod([[rate] * DEPTH for rate in rates], axis=1)
    rows = len(rates)
    tariff = Tariff(1.0 + 0.05 * np.arange(rows * DEPTH + 1.0), waits, np.ones(DEPTH))
    return Batch(np.arange(rows), np.full(rows, DEPTH), gains, tariff, frozenset())


def test_nobody_asked_demands_nothing():
    assert batch(0.9, 0.5).demand(np.array([0, 0])) == Demand(0, 0, 0.0)


def test_a_row_is_missing_unless_all_its_drafts_are_right():
    assert batch(0.9, 0.5, 0.1).demand(np.array([4, 1, 0])) == Demand(2, 4, pytest.approx(2 - 0.9**4 - 0.5))


def test_hopeless_rows_that_are_not_asked_for_make_nobody_wait():
    waits = Waits(miss=0.3)
    alone, among = batch(0.95, waits=waits), batch(0.95, *[0.01] * 9, waits=waits)
    few = np.array([4, *[0] * 9])
    assert among.demand(few) == alone.demand(few[:1])
    assert best_depths(among.gains, among.tariff).depths[0] >= 2


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=12), st.floats(0.0, 0.5), st.floats(0.0, 0.2))
def test_a_plan_expects_what_its_demand_would_take(rates, miss, level):
    made = batch(*rates, waits=Waits(0.01, 0.1, level, 0.02, miss))
    plan = best_depths(made.gains, made.tariff)
    if plan.depths.any():
        demand = made.demand(plan.depths)
        wait = made.tariff.waits.of(demand)
        assert plan.verify + wait <= plan.seconds + 1e-9, "its limit may be deeper than its deepest draft"
        assert plan.seconds <= plan.verify + wait + level * (DEPTH - demand.deepest) + 1e-9
