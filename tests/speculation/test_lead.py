import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experts.speculation.lead import LEAST_CHANCE, Bet, Leads, bets, spread
from experts.speculation.messages import Branch, LeadRow


def guesses(*positions):
    """Tokens and chances from [(token, chance), ...] per position."""
    likely = np.array([[token for token, _ in position] for position in positions], np.int32)
    chances = np.array([[chance for _, chance in position] for position in positions], np.float32)
    return likely, chances


def outline(found):
    return [(bet.accepted, bet.token, pytest.approx(bet.chance)) for bet in found]


def test_sure_drafts_make_the_next_token_after_all_of_them_the_best_bet():
    found = bets(*guesses([(1, 0.9), (2, 0.1)], [(3, 0.9), (4, 0.1)], [(5, 0.8), (6, 0.2)]), most=3)
    assert outline(found) == [(2, 5, 0.648), (2, 6, 0.162), (0, 2, 0.1)]


def test_a_weak_position_is_where_a_rejection_is_expected():
    found = bets(*guesses([(1, 0.95), (2, 0.05)], [(3, 0.5), (4, 0.45)], [(5, 0.6), (6, 0.4)]), most=1)
    assert outline(found) == [(1, 4, 0.4275)]


def test_with_nothing_in_flight_the_likeliest_next_tokens_are_the_bets():
    found = bets(*guesses([(7, 0.5), (8, 0.3), (9, 0.19), (1, 0.005)]), most=4)
    assert outline(found) == [(0, 7, 0.5), (0, 8, 0.3), (0, 9, 0.19)]
    assert bets(*guesses([(7, 0.5), (8, 0.3)]), most=0) == []


odds = st.lists(st.floats(0.0, 1.0, width=32), min_size=4, max_size=4).map(lambda four: sorted(four, reverse=True))


@given(st.lists(odds, min_size=1, max_size=6), st.integers(1, 8))
def test_bets_are_distinct_verdicts_by_falling_chance_and_never_a_draft_rejected_for_itself(rows, most):
    chances = np.array([[chance / max(1.0, sum(row)) for chance in row] for row in rows], np.float32)
    likely = np.arange(chances.size, dtype=np.int32).reshape(chances.shape)
    found = bets(likely, chances, most=most)
    assert len(found) <= most
    assert len({(bet.accepted, bet.token) for bet in found}) == len(found)
    assert [bet.chance for bet in found] == sorted((bet.chance for bet in found), reverse=True)
    assert all(bet.chance >= LEAST_CHANCE for bet in found)
    assert all(bet.accepted == len(rows) - 1 or bet.token != likely[bet.accepted, 0] for bet in found)
    assert sum(bet.chance for bet in found) <= 1.0 + 1e-5


def test_rows_go_to_everyones_best_first_and_then_to_the_likelier():
    offers = [[Bet(0, 1, 0.2), Bet(0, 2, 0.1)], [], [Bet(1, 3, 0.9), Bet(1, 4, 0.05)], [Bet(0, 5, 0.3)]]
    assert [len(offer) for offer in spread(offers, 4)] == [2, 0, 1, 1]
    assert [len(offer) for offer in spread(offers, 2)] == [0, 0, 1, 1]
    assert spread(offers, 100) == offers


def tokens(*history):
    return np.array(history, np.int32)


def test_a_lead_is_taken_by_exactly_the_history_it_assumed_and_once():
    leads = Leads()
    row = LeadRow("a", 2, (Branch((5,), (6, 7)), Branch((8, 9), (1,))))
    leads.offer(row)
    assert leads.take("a", tokens(3, 4, 8, 9)) == (1,)
    assert leads.take("a", tokens(3, 4, 8, 9)) == ()
    leads.offer(row)
    assert leads.take("a", tokens(3, 4, 8)) == ()
    leads.offer(row)
    assert leads.take("b", tokens(3, 4, 5)) == ()
    leads.drop("a")
    leads.drop("a")
    assert len(leads) == 0
