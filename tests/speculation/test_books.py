"""The account of time won and lost by choices."""

import pytest

from experts.speculation.books import AFTERMATH, Asked, Books
from experts.speculation.depth import Timing
from experts.speculation.forward import Decoded
from experts.speculation.stance import Purse


def asked(mode="speculate", accepted=0, rows=1):
    return Asked((4,) * rows, plain=0.01, mode=mode, accepted=accepted)


def test_a_step_is_booked_in_plain_steps():
    books = Books(0.95)
    assert books.book(asked(accepted=2, rows=2), 0.03) == pytest.approx(3.0)
    assert books.lost == pytest.approx(3.0 - 2.0)
    assert books.tally.lost == pytest.approx(0.95 * 3.0 - 2.0)


def test_of_a_step_in_which_some_rows_were_not_decoded_the_others_are_booked():
    books, four = Books(0.95), asked(accepted=6, rows=4)
    four.took(Timing(2, 10, 100, 0.05, 0.01), Decoded(0.04, 0.02))
    assert books.book(four, four.spent) == pytest.approx(2.0)
    assert books.lost == pytest.approx(2.0 - 4.0)


def test_a_step_of_which_nothing_can_be_told_is_as_if_it_had_not_been_measured():
    one = asked()
    one.took(Timing(1, 5, 100, 0.05, 0.01), None)
    assert (one.spent, one.plain) == (None, 0.01)


def test_speculation_that_was_begun_in_vain_is_paid_for():
    books = Books(0.95, purse=Purse(1.0))
    for _ in range(3):
        books.book(asked(), 0.02)
    before = books.purse.saved
    books.close(ended=True)
    assert before - books.purse.saved == pytest.approx(3.0 + AFTERMATH, rel=0.1)
    assert (books.lost, books.tally.lost) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("saved", "ended", "left"),
    [
        (2.0, {}, 0.0),
        (2.0, {"warned": False}, 2.0),
        (2.0, {"proven": False}, 2.0),
        (2.0, {"reason": "late"}, 2.0),
        (-1.0, {}, -1.0),
    ],
)
def test_what_drafts_earned_is_not_lost_on_trying_them_where_it_will_be_seen_when_they_are_right_again(
    saved, ended, left
):
    books = Books(0.95, purse=Purse(saved))
    books.forgo(**{"warned": True, "proven": True, "reason": "acceptance"} | ended)
    assert books.purse.saved == left


def test_what_was_lost_long_ago_within_the_floor_is_no_debt():
    books = Books(0.95)
    for _ in range(1000):
        books.book(asked(), 0.0102)
    assert books.lost < 1.0
    assert books.tally.lost == 0.0


def test_a_probe_is_paid_for_at_once_with_all_its_wait():
    books = Books(0.95, purse=Purse(0.0))
    probe = asked("probe")
    probe.wait = 0.05
    books.book(probe, 0.07)
    assert books.purse.saved == pytest.approx(Purse(0.0).earn(7.0).saved - (2.0 + 5.0 - 1.0))
