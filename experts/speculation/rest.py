"""Between two choices: for how long none is needed, and which plain steps show what plain decoding takes."""

from collections.abc import Iterable

from experts.speculation.depth import Choice

NAP = 12
"""Steps for which a rest goes on though others have come: with many requests in flight there is always somebody new. If
shadow drafts are under way the rest goes on to its end, as they tell more of the traffic than a look at who is new."""
SETTLED = 3
"""Plain steps in a row from which on they are settled (see ``Timing``)."""


class Rest:
    """What a choice means for the steps after it: ``begin`` with the choice, then ``ended`` for every step."""

    def __init__(self) -> None:
        self._known: frozenset[str] = frozenset()
        self._kinds: frozenset[str] = frozenset()
        self._left = self._passed = self._alone = 0
        self._nap = NAP
        self._drafting = False

    def begin(self, choice: Choice, sessions: frozenset[str]) -> None:
        """A choice for these requests was made."""
        self._known, self._left, self._passed = sessions, choice.rest, 0
        self._kinds = choice.kinds
        self._nap = choice.rest if any(choice.shadows) else NAP
        self._drafting = any(choice.depths)

    def opened(self, kind: str) -> None:
        """Somebody has come: of a kind for which the rest was not meant, it is over."""
        if self._kinds and kind not in self._kinds:
            self._left = 0

    def ended(self) -> bool:
        """A step is over; whether it was a settled one."""
        self._alone = 0 if self._drafting else self._alone + 1
        return self._alone >= SETTLED

    def goes_on(self, sessions: Iterable[str]) -> bool:
        """Whether the next step, of these requests, needs no choice either. Each call counts as a step."""
        if self._left <= 0 or (self._passed >= self._nap and not self._known.issuperset(sessions)):
            return False
        self._left -= 1
        self._passed += 1
        return True
