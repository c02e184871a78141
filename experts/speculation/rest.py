"""Between two choices: for how long none is needed, and which plain steps show what plain decoding takes."""

from collections.abc import Sized

from experts.speculation import shadow
from experts.speculation.depth import Choice

NAP = 12
"""Steps for which a rest goes on though far more requests run than when it began, or far fewer."""
LIKE = 2.0
"""How many times as many requests, or as few, are another load."""
PEEK = shadow.DEPTH + 2
"""Steps after which shadow drafts have probably come and can be compared; if not, twice as many later."""
SETTLED = 3
"""Plain steps in a row from which on they are settled (see ``Timing``)."""


class Rest:
    """What a choice means for the steps after it: ``begin`` with the choice, then for every step either ``goes_on``, if
    that is so, or ``ended``."""

    def __init__(self) -> None:
        self._kinds: frozenset[str] = frozenset()
        self._rows = self._left = self._passed = self._alone = 0
        self._peek = PEEK
        self._drafting = self._shadowing = self._heeded = False

    def begin(self, choice: Choice) -> None:
        """A choice was made."""
        self._rows, self._left, self._passed = len(choice.depths), choice.rest, 0
        self._kinds = choice.kinds
        self._drafting, self._shadowing = any(choice.depths), any(choice.shadows)
        self._peek = PEEK
        self._heeded = choice.notice is None or any(choice.notice)

    @property
    def peeks(self) -> bool:
        """Whether to compare shadow drafts though there is nothing to choose."""
        return self._shadowing and self._left > 0 and self._passed == self._peek

    @property
    def quiet(self) -> bool:
        """Whether drafters need not know of anybody new: none will have drafts soon."""
        return self._left > 0 and not self._heeded

    def interrupt(self) -> None:
        """It ends before its time."""
        self._left = 0

    def opened(self, kind: str) -> None:
        """Somebody has come: of a kind for which the rest was not meant, it is over."""
        if self._kinds and kind not in self._kinds:
            self.interrupt()

    def ended(self) -> bool:
        """A step is over; whether it was a settled one."""
        self._alone = 0 if self._drafting else self._alone + 1
        return self.settled

    @property
    def settled(self) -> bool:
        """Whether the last step that was counted is a settled one."""
        return self._alone >= SETTLED

    def goes_on(self, sessions: Sized) -> bool:
        """Whether the step that begins now, of these requests, needs no choice at its end. If so, it is counted."""
        if self._left <= 0 or (self._passed >= NAP and another_load(len(sessions), self._rows)):
            return False
        if self._passed == self._peek:
            self._peek *= 2
        self._left -= 1
        self._passed += 1
        self._alone += 1
        return True


def another_load(rows: int, before: int) -> bool:
    """Whether this is a batch size so far from the one before that other prices hold."""
    return not before / LIKE < rows < before * LIKE
