import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experts.speculation.costs import Demand, Tariff, Waits
from experts.speculation.goodput import best_depths, ceiling

DEPTH = 6


NONE = Waits()


def tariff(rows, *, draft=0.05, check=0.0, waits=NONE, supply=1.0):
    """A plain step takes 1; each draft ``draft`` more, all together ``check``."""
    verify = 1.0 + draft * np.arange(rows * DEPTH + 1)
    verify[1:] += check
    return Tariff(verify, waits, np.full(DEPTH, supply))


def gains(*rates):
    return np.cumprod(np.array(rates, dtype=float), axis=1)


def even(rate, rows=1):
    return gains(*[[rate] * DEPTH] * rows)


def exhaustive(gains, tariff):
    """The best ratio of any depths at all, for two rows."""
    best = 0.0
    for first in range(DEPTH + 1):
        for second in range(DEPTH + 1):
            if first + second:
                tokens = 2 + gains[0, :first].sum() + gains[1, :second].sum()
                right = [row[count - 1] for row, count in zip(gains, (first, second), strict=True) if count]
                demand = Demand(len(right), max(first, second), len(right) - sum(right))
                seconds = tariff.verify[first + second] + tariff.waits.of(demand)
                best = max(best, tokens / seconds * tariff.plain / 2)
    return best


def test_certain_drafts_that_cost_nothing_are_all_taken():
    assert best_depths(even(0.999, 3), tariff(3, draft=0.0)).depths.tolist() == [DEPTH] * 3


def test_drafts_that_are_never_right_cannot_reach_plain_speed():
    assert best_depths(even(0.0, 2), tariff(2)).depths.tolist() == [0, 0]
    assert best_depths(even(0.03, 2), tariff(2, check=0.2)).ratio < 1.0


def test_only_rows_whose_drafts_are_right_get_any():
    plan = best_depths(gains([0.9] * DEPTH, [0.05] * DEPTH), tariff(2, draft=0.1))
    assert plan.depths[0] >= 3
    assert plan.depths[1] == 0


def test_dearer_tokens_make_drafts_shorter():
    depths = [int(best_depths(even(0.8), tariff(1, draft=draft)).depths[0]) for draft in (0.02, 0.15, 0.3, 0.6)]
    assert depths == sorted(depths, reverse=True)
    assert depths[0] > depths[-1]


def test_a_wait_for_each_deeper_draft_makes_them_shorter():
    near = best_depths(even(0.8, 2), tariff(2)).depths
    far = best_depths(even(0.8, 2), tariff(2, waits=Waits(level=0.4))).depths
    assert max(far) < max(near)


def test_drafts_that_seldom_come_promise_less():
    assert best_depths(even(0.9), tariff(1, supply=0.3)).ratio < best_depths(even(0.9), tariff(1)).ratio


def test_the_ceiling_is_what_certain_drafts_would_reach():
    prices = tariff(4, draft=0.1, waits=Waits(base=0.5, level=0.05), supply=0.5)
    assert ceiling(4, prices, free=True) > ceiling(4, prices, free=False)
    sure = best_depths(even(1.0, 4), tariff(4, draft=0.1))
    assert ceiling(4, tariff(4, draft=0.1), free=True) == pytest.approx(sure.ratio)


RATES = st.lists(st.floats(0.05, 0.99), min_size=DEPTH, max_size=DEPTH)
PRICES = st.builds(
    dict,
    draft=st.floats(0.0, 1.0),
    check=st.floats(0.0, 1.0),
    waits=st.builds(Waits, base=st.floats(0.0, 1.0), level=st.floats(0.0, 0.5)),
)


@given(RATES, RATES, PRICES)
@settings(max_examples=80)
def test_no_other_depths_would_be_notably_faster(first, second, prices):
    table, price = gains(first, second), tariff(2, **prices)
    assert best_depths(table, price).ratio >= 0.97 * exhaustive(table, price)


@given(RATES, PRICES, st.integers(0, DEPTH - 1), st.floats(0, 1))
def test_a_higher_acceptance_never_shortens_the_drafts_of_a_request(rates, prices, position, up):
    better = list(rates)
    better[position] += (0.995 - better[position]) * up
    before = best_depths(gains(rates), tariff(1, **prices)).depths
    after = best_depths(gains(better), tariff(1, **prices)).depths
    assert after[0] >= before[0]


@given(st.lists(RATES, min_size=1, max_size=6), st.lists(st.integers(0, DEPTH), min_size=6, max_size=6), PRICES)
def test_no_depth_exceeds_the_room_of_its_row(rates, rooms, prices):
    table = gains(*rates)
    for row, room in enumerate(rooms[: len(rates)]):
        table[row, room:] = 0.0
    plan = best_depths(table, tariff(len(rates), **prices))
    assert all(depth <= room for depth, room in zip(plan.depths, rooms, strict=False))
    assert np.isfinite([plan.accepted, plan.verify, plan.seconds, plan.ratio]).all()
