import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experts.speculation.share import VERIFIERS, PassCost, Share, Shares, Work, extent, fitting, jain, within


def line(base, slope):
    return lambda rows: base + slope * rows


def test_the_cost_of_passes_is_learned_as_a_line():
    cost = PassCost()
    assert cost(4) == 0.0
    for _ in range(40):
        for rows in (1, 4, 8):
            cost.saw(rows, 0.2 + 0.05 * rows)
    assert [cost(rows) for rows in (1, 4, 16)] == pytest.approx([0.25, 0.4, 1.0], rel=1e-3)


def test_an_interrupted_pass_moves_the_cost_little_and_a_lasting_change_is_followed():
    cost = PassCost()
    for _ in range(100):
        cost.saw(2, 1.0)
    cost.saw(2, 1000.0)
    assert cost(2) < 1.1
    for _ in range(300):
        cost.saw(2, 10.0)
    assert cost(2) == pytest.approx(10.0, rel=0.05)


@given(st.lists(st.tuples(st.integers(1, 64), st.floats(1e-6, 1.0)), min_size=1, max_size=60), st.integers(1, 128))
def test_a_cost_is_never_negative_and_never_falls_with_rows(seen, rows):
    cost = PassCost()
    for each, seconds in seen:
        cost.saw(each, seconds)
    assert 0.0 <= cost(rows) <= cost(rows + 1) + 1e-9


def test_asks_join_a_batch_only_while_its_tightest_deadline_is_kept():
    cost = line(1.0, 1.0)
    small, large = Work(due=10.0, rows=1, passes=2), Work(due=50.0, rows=16, passes=2)
    assert fitting([small, large], cost, now=0.0) == 1
    assert fitting([small, Work(50.0, 2, 2), large], cost, now=0.0) == 2
    assert fitting([Work(math.inf, 1, 4), Work(math.inf, 100, 4)], cost, now=0.0) == 2
    assert fitting([], cost, now=0.0) == 0


def test_a_deadline_that_cannot_be_kept_is_tried_alone():
    works = [Work(due=1.0, rows=4, passes=4), Work(due=2.0, rows=1, passes=1)]
    assert fitting(works, line(1.0, 1.0), now=0.0) == 1


@given(
    st.lists(st.builds(Work, st.floats(0, 100), st.integers(0, 20), st.integers(0, 8)), max_size=8),
    st.floats(0, 2),
    st.floats(0, 2),
)
def test_a_batch_of_more_than_one_is_done_by_all_its_deadlines(works, base, slope):
    count = fitting(works, line(base, slope), now=5.0)
    assert (count > 0) == bool(works)
    if count > 1:
        chosen = works[:count]
        rows, passes = sum(work.rows for work in chosen), max(work.passes for work in chosen)
        assert 5.0 + passes * (base + slope * rows) <= min(work.due for work in chosen)


def test_time_is_first_used_for_a_row_each_at_full_depth_then_for_more_rows():
    cost = line(1.0, 0.5)
    assert extent(2, 4, 32, cost=cost, time=math.inf) == (32, 4)
    assert extent(2, 4, 32, cost=cost, time=10.0) == (2, 4)
    assert extent(2, 4, 32, cost=cost, time=15.1) == (4, 4)
    assert extent(2, 4, 32, cost=cost, time=8.0) == (2, 3)
    assert extent(4, 4, 32, cost=cost, time=4.0) == (2, 1)
    assert extent(2, 4, 32, cost=cost, time=1.0) == (0, 0)
    assert extent(50, 4, 32, cost=cost, time=math.inf) == (32, 4)
    assert extent(0, 4, 32, cost=cost, time=math.inf) == (0, 0)


def test_an_answer_takes_as_many_passes_as_there_is_time_for_and_enough_to_learn_from():
    assert within(8, 1.0, 10.0) == 8
    assert within(8, 1.0, 5.0) == 4
    assert within(8, 1.0, 0.5) == 2
    assert within(1, 1.0, 0.5) == 1
    assert within(8, 0.0, 0.5) == within(8, 1.0, math.inf) == 8
    assert within(0, 1.0, 0.0) == 0


def test_whoever_used_less_is_served_first():
    shares = Shares()
    for _ in range(30):
        first = shares.turns([1, 2])[0]
        shares.used(first, 3.0 if first == 1 else 1.0)
    used = {share.epoch: share.compute for share in shares.all()}
    assert jain(list(used.values())) > 0.99


def test_one_that_was_away_saves_nothing_up():
    shares = Shares()
    for _ in range(100):
        shares.used(shares.turns([1])[0], 1.0)
    turns = []
    for _ in range(10):
        turns.append(shares.turns([1, 2])[0])
        shares.used(turns[-1], 1.0)
    assert 4 <= turns.count(1) <= 6


def test_every_verifier_has_its_account():
    shares = Shares()
    for _ in range(3):
        shares.asked(7)
    shares.answered(7, 0.5)
    shares.expired(7, 0.25)
    shares.used(7, 2.0)
    assert shares.all() == (Share(7, asks=3, answered=1, expired=1, waited=0.75, compute=2.0),)


def test_the_accounts_are_bounded():
    shares = Shares()
    for epoch in range(2 * VERIFIERS):
        shares.asked(epoch)
        shares.used(epoch, 1.0)
    assert [share.epoch for share in shares.all()] == list(range(VERIFIERS, 2 * VERIFIERS))
    assert len(shares._finish) <= VERIFIERS


def test_the_index_of_fairness_is_one_for_equals_and_falls_to_one_nth():
    assert jain([2.0, 2.0, 2.0]) == pytest.approx(1.0)
    assert jain([1.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)
    assert jain([]) == jain([0.0, 0.0]) == 1.0
