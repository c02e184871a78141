import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experts.speculation.batch import failing

DEPTH = 8


def gains(*rates, room=DEPTH):
    return np.cumprod([[rate] * DEPTH for rate in rates], axis=1) * (np.arange(DEPTH) < room)


def test_certain_drafts_do_not_fail_and_hopeless_ones_all_do():
    assert failing(gains(1.0, 1.0)) == pytest.approx(0.0)
    assert failing(gains(0.001)) > 0.99


def test_the_worse_the_more_fail():
    shares = [failing(gains(rate)) for rate in (0.99, 0.9, 0.6, 0.3, 0.1)]
    assert shares == sorted(shares)


def test_rows_that_will_hardly_be_drafted_for_hardly_count():
    assert failing(gains(0.95, 0.05, 0.05, 0.05)) < failing(gains(0.95)) + 0.05


def test_where_nobody_has_room_nothing_is_promised():
    assert failing(gains(0.9, room=0)) == 1.0
    assert failing(np.zeros((0, DEPTH))) == 1.0


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=20), st.integers(0, DEPTH))
def test_it_is_a_share(rates, room):
    assert 0.0 <= failing(gains(*rates, room=room)) <= 1.0
