"""Drafting ahead, as pure state: which verdicts to prepare for, and which preparation a verdict selects.

While the verifier works on K drafts, the drafter continues from the verdicts it finds likeliest. Whatever is lost,
late or restarted, both sides stay on the same prefix, because a branch is selected by the tokens it assumed and by
nothing else. The idea is that of speculative speculative decoding (arXiv:2603.03251) and PEARL (arXiv:2408.11850).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experts.speculation.messages import LeadRow

LEAST_CHANCE = 0.01
"""Rarer verdicts are not prepared for: their row would slow the batch more often than it would be of use."""


class Leads:
    """The verifier's half: the newest lead of each session."""

    def __init__(self) -> None:
        self._rows: dict[str, LeadRow] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def offer(self, row: LeadRow) -> None:
        """Keep a lead in place of the session's earlier one."""
        self._rows[row.session] = row

    def take(self, session: str, tokens: NDArray[np.int32]) -> tuple[int, ...]:
        """The drafts prepared for exactly this history [n]; none if it is not among the prepared ones. Either way the
        lead is used up: the verdict it waited for is here."""
        row = self._rows.pop(session, None)
        if row is None:
            return ()
        given = tuple(tokens[row.start :].tolist())
        return next((branch.drafts for branch in row.branches if branch.given == given), ())

    def drop(self, session: str) -> None:
        """Forget a session; unknown ones are ignored."""
        self._rows.pop(session, None)


@dataclass(frozen=True, slots=True)
class Bet:
    """A verdict worth preparing for: the first ``accepted`` drafts in flight are right and ``token`` follows them."""

    accepted: int
    token: int
    chance: float


def bets(likely: NDArray[np.int32], chances: NDArray[np.float32], *, most: int) -> list[Bet]:
    """The drafter's half: the ``most`` likeliest verdicts, likeliest first.

    ``likely`` and ``chances`` [drafts in flight + 1, ranks] are the likeliest tokens at each position and their
    probabilities, the draft itself first. The verifier is taken to agree with the draft model: the chance of a verdict
    is that of its drafts times that of the token, which is another one than the draft where a draft is rejected.
    """
    if not most:
        return []
    inflight = len(likely) - 1
    reached = np.cumprod(np.concatenate((np.ones(1, np.float32), chances[:inflight, 0])))
    odds = reached[:, None] * chances
    odds[:inflight, 0] = 0.0
    best = np.argsort(-odds, axis=None, kind="stable")[:most]
    places = [divmod(int(place), odds.shape[1]) for place in best]
    found = [Bet(i, int(likely[i, rank]), float(odds[i, rank])) for i, rank in places]
    return [bet for bet in found if bet.chance >= LEAST_CHANCE]


def spread(offers: Sequence[Sequence[Bet]], rows: int) -> list[list[Bet]]:
    """Which bets of each session to run in a batch of ``rows``: everyone's best before anyone's second, and among
    equals in rank the likelier."""
    taken: list[list[Bet]] = [[] for _ in offers]
    ranked = [(rank, -bet.chance, place) for place, offer in enumerate(offers) for rank, bet in enumerate(offer)]
    for rank, _, place in sorted(ranked)[:rows]:
        taken[place].append(offers[place][rank])
    return taken
