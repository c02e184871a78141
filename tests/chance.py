"""Whether two samples come from one distribution."""

from collections import Counter
from collections.abc import Hashable, Mapping

from scipy.stats import chi2_contingency

ENOUGH = 10
"""Occurrences in both samples together from which on an outcome counts by itself: five are then expected in each of
two samples of one size."""


def chi_square(one: Mapping[Hashable, int], other: Mapping[Hashable, int]) -> float:
    """Probability of two samples at least this different if both come from one distribution; rare outcomes count
    together."""
    both = Counter(one) + Counter(other)
    common = [key for key, count in both.items() if count >= ENOUGH]
    table = [[each.get(key, 0) for key in common] for each in (one, other)]
    rest = [sum(each.values()) - sum(row) for each, row in zip((one, other), table, strict=True)]
    if sum(rest) >= ENOUGH:
        table = [[*row, left] for row, left in zip(table, rest, strict=True)]
    assert len(table[0]) > 1, "every sample is the same: nothing is being tested"
    return float(chi2_contingency(table).pvalue)
