"""Shadow drafts: what would have become of them, whatever comes between."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from experts.speculation.depth import Verdict
from experts.speculation.shadow import Shadows


def tokens(*ids):
    return np.array(ids, np.int32)


def test_drafts_are_held_against_the_tokens_that_came_in_their_place():
    shadows = Shadows()
    shadows.offer("a", 2, (5, 6, 7))
    shadows.offer("b", 1, (5, 6, 7))
    shadows.offer("c", 1, (5, 6, 7))
    rows = [("a", tokens(1, 2, 5, 6, 7, 8)), ("b", tokens(1, 5, 9, 7, 7)), ("c", tokens(1, 4)), ("d", tokens(1, 2))]
    assert shadows.compare(rows) == [Verdict("a", 3, 3), Verdict("b", 3, 1), Verdict("c", 3, 0)]
    assert shadows.compare(rows) == []


def test_drafts_that_are_right_so_far_wait_for_more_tokens():
    shadows = Shadows()
    shadows.offer("a", 2, (5, 6))
    for known in (tokens(1), tokens(1, 2), tokens(1, 2, 5)):
        assert shadows.compare([("a", known)]) == []
    assert shadows.compare([("a", tokens(1, 2, 5, 6, 9))]) == [Verdict("a", 2, 2)]


def test_those_of_requests_that_end_are_forgotten():
    shadows = Shadows()
    shadows.offer("a", 0, (5,))
    shadows.drop("a")
    shadows.drop("a")
    assert len(shadows) == 0
    assert shadows.compare([("a", tokens(5, 6))]) == []


@given(
    made=st.lists(st.integers(0, 3), min_size=1, max_size=12),
    drafts=st.lists(st.integers(0, 3), min_size=1, max_size=4),
    start=st.integers(0, 14),
    looks=st.lists(st.integers(0, 12), max_size=6),
)
def test_there_is_one_verdict_and_it_is_that_of_verifying_them(made, drafts, start, looks):
    shadows = Shadows()
    shadows.offer("a", start, drafts)
    found = [shadows.compare([("a", np.array(made[:look], np.int32))]) for look in sorted(looks)]
    verdicts = [verdict for each in found for verdict in each]
    seen = made[start : max(looks, default=0)][: len(drafts)]
    right = next((n for n, token in enumerate(seen) if token != drafts[n]), len(seen))
    known = right < len(seen) or len(seen) == len(drafts)
    assert verdicts == ([Verdict("a", len(drafts), right)] if known else [])
