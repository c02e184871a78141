"""When speculation stops for a few plain steps, to know the time of one again: every price is compared with it."""

from experts.speculation.books import Books
from experts.speculation.costs import Costs
from experts.speculation.rest import SETTLED

STALE = 256
"""Speculating steps after which plain ones are made to know their time again, if speculation seems twice as fast: the
less it seems to win, the sooner, down to a sixteenth, as then it matters more and costs less."""
UNSEEN, PATIENT = 8, 5
"""The same at a batch size that was hardly ever run plainly, whose price is only a guess; it doubles so many times, as
with others coming and going nothing may come of it."""
SETTLE = SETTLED - 1
"""Plain steps after which the next is one whose time can be relied on."""


class Refresh:
    """``age`` is how many measured steps ago so many rows ran plainly (None: hardly ever), ``ratio`` how much faster
    than that speculation seems to be."""

    def __init__(self) -> None:
        self._checked, self._vain = 0, 2

    def changed(self, step: int) -> None:
        """Speculation begins or ends at ``step``."""
        self._checked = step

    def due(self, step: int, age: int | None, ratio: float) -> bool:
        """Whether the time of a plain step is not known well enough."""
        passed = step - self._checked if age is None else min(age, step - self._checked)
        stale = UNSEEN << min(self._vain, PATIENT) if age is None else STALE
        return passed >= min(STALE * max(1 / 16, min(ratio - 1.0, 1.0)), stale)

    def begins(self, step: int, costs: Costs, *, rows: int, ratio: float, books: Books) -> bool:
        """Whether it is made known now for so many rows; it costs what drafts would have won. If that is not known
        either, there need only be no debt."""
        age, blind = costs.age(rows), costs.blind
        self._vain = 0 if blind or age is not None else min(self._vain, PATIENT)
        if not self.due(step, age, ratio):
            return False
        cost = (1.0 + SETTLE) * (1.0 - 1.0 / ratio)
        if afforded := books.purse.saved >= (0.0 if blind else cost):
            books.pay(cost)
            self._checked, self._vain = step, self._vain + 1
        return afforded
