"""Which replica takes a request."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from router.policies.choice import Candidate, least_loaded, power_of_two

candidates = st.lists(
    st.builds(
        Candidate,
        replica=st.uuids().map(str),
        load=st.integers(0, 9),
        room=st.integers(1, 8),
        kv_use=st.floats(0, 1),
    ),
    max_size=12,
)


@given(candidates)
def test_the_least_loaded_has_room_and_nobody_with_room_has_less_pressure(offered):
    chosen = least_loaded(offered)
    free = [each for each in offered if each.load < each.room]
    assert (chosen is None) == (not free)
    if chosen is not None:
        assert chosen.load < chosen.room
        assert all(chosen.pressure <= each.pressure for each in free)


@given(candidates, st.integers())
def test_power_of_two_takes_somebody_and_never_the_worst_of_three(offered, seed):
    chosen = power_of_two(offered, Random(seed))
    assert (chosen is None) == (not offered)
    if len(offered) >= 3:
        assert chosen is not None
        assert any(chosen.pressure < each.pressure for each in offered)


def test_equal_load_is_spread_by_memory():
    one, two = Candidate("a", 1, 8, 0.9), Candidate("b", 1, 8, 0.1)
    assert least_loaded([one, two]) == two
