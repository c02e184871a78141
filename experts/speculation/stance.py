"""Whether to speculate at all: plain, speculate or probe, decided from what is estimated and what was measured."""

import math
from dataclasses import dataclass, replace
from typing import Literal

Mode = Literal["plain", "speculate", "probe"]
Reason = Literal["start", "acceptance", "late", "load", "slow", "probe", "refresh"]
"""Why a mode began.

``start``: the verifier's plain speed is measured first. ``acceptance``: too few drafts are right, or enough are again.
``late``: drafts take too long or do not come, or are in time again. ``load``: at this batch even right drafts would not
pay, or now they do. ``slow``: measured below the floor, whatever was estimated. ``probe``: a try whether it pays, and
its success. ``refresh``: one plain step, to know its time again."""

GAIN, LEAST = 1.05, 1.01
"""How much faster than plain decoding speculation is estimated to be when it begins, and when it ends."""
CLEAR, CLEARER, SURE = 1.2, 1.35, 1.5
"""The same when it begins though there is no time to be lost on trying; where one try after the other has failed; and
though far too much time has been lost."""
AGAIN = 64
"""Plain steps after which it may begin though far too much time has been lost."""
DOUBT = 1.0
"""Expected loss, in plain steps, for which one request's drafts are given the benefit of the doubt; less for more."""
PAUSE = 8
"""Steps without speculation before the first probe."""
LONGEST = 32
"""Steps to which a pause grows while probes fail."""
RARE, SELDOM = 256, 2048
"""Steps after which a probe is made though even perfect drafts would not pay: the prices may be wrong, or old. And if
it is shadow drafts that say so: they are asked for again and again."""
PROVEN = 64
"""Steps of speculation after which the next pause is short again."""
OUTLIER = 4.0
"""Plain steps' time that one step is believed to have taken at most."""
NOISE = 6.0
"""How far luck may take the tally of one request, in plain steps, before it is believed."""
NOTICE = 6
"""Steps for which drafters may read what they have not been sent meanwhile, before a probe or a beginning."""
DUTY, SPARING = 0.015, 0.005
"""Share of the time that may go into probes, and where shadow drafts tell as much for less."""
SAVED, OWED = 3.0, 8.0
"""How many plain steps' time can be saved up for them, and owed."""


@dataclass(frozen=True, slots=True)
class View:
    """What a decision is made of. ``ratio``: the best choice's speed against plain, estimated; ``free`` and ``right``:
    the same if drafts came at once and all were right, or only were right. ``share`` of the rows have room
    for drafts: the fewer, the less does the ratio say. ``slow``: the tally is below the floor.
    ``trying``: a probe is under way and not yet lost; ``hopeful``: as far as is known, one may succeed; in ``wait``
    steps there is time for one, after ``rare`` steps one is made whatever is known, and what promises more than
    ``clear`` is begun at once."""

    step: int
    rows: int
    ratio: float
    right: float
    free: float
    share: float = 1.0
    slow: bool = False
    trying: bool = False
    hopeful: bool = True
    wait: int = 0
    rare: int = RARE
    clear: float = math.inf


@dataclass(frozen=True, slots=True)
class Stance:
    """What is done, why, since which step, and the step before which no probe is made after a pause of ``pause``;
    ``soon``: what follows plain decoding at the next choice, if things look the same then; drafters prepare for it."""

    mode: Mode = "plain"
    reason: Reason = "start"
    since: int = 0
    due: int = 0
    pause: int = PAUSE
    doubt: float = 0.0
    soon: Mode = "plain"

    def enough(self, step: int, *, credit: bool, shadowed: bool) -> float:
        """How much has to be promised for a beginning where there is no time to be lost, or without ``credit``. More
        once failures have made pauses as long as they get: of many looks that are off by luck, the one acted upon
        promises too much. ``shadowed``: shadow drafts are being compared."""
        if credit:
            return CLEAR if self.pause < LONGEST else CLEARER
        return SURE if shadowed and step - self.since >= AGAIN else math.inf

    def proven(self, step: int) -> bool:
        """Whether there has been speculation for long by ``step``; it ends soon where it does not pay."""
        return self.mode == "speculate" and step - self.since >= PROVEN

    def next(self, view: View) -> "Stance":
        if self.mode == "speculate":
            return self._speculating(view)
        if self.mode == "probe":
            if view.ratio > 1.0:
                return replace(self, mode="speculate", since=view.step)
            return self if view.trying else self._rest(view, _blame(view))
        return self._plain(view)

    def _plain(self, view: View) -> "Stance":
        hopeful = (view.free > GAIN and view.hopeful) or view.step - self.since >= view.rare
        left = max(self.due - view.step, view.wait)
        if self._begins(view):
            if self.soon != "speculate" and self.reason != "start":
                return replace(self, soon="speculate")
            reason = "acceptance" if self.reason == "slow" else self.reason
            return replace(self, mode="speculate", reason=reason, since=view.step, soon="plain")
        if hopeful and left <= 0 and self.soon == "probe":
            return replace(self, mode="probe", reason="probe", since=view.step, soon="plain")
        soon: Mode = "probe" if hopeful and left <= NOTICE else "plain"
        return self if soon == self.soon else replace(self, soon=soon)

    def _begins(self, view: View) -> bool:
        """Whether what is estimated is reason enough to speculate without a probe."""
        if self.reason == "start":
            return view.ratio > GAIN
        if self.reason == "slow" and view.step < self.due:
            return False
        if view.ratio > view.clear:
            return True
        return view.ratio > GAIN and view.wait <= 0 and self.reason != "slow"

    def _speculating(self, view: View) -> "Stance":
        if view.slow:
            return self._rest(view, "slow")
        doubt = self.doubt + view.share * (LEAST - view.ratio) if view.ratio < LEAST else 0.0
        if doubt > DOUBT / math.sqrt(max(view.rows, 1)):
            return self._rest(view, _blame(view))
        return self if doubt == self.doubt else replace(self, doubt=doubt)

    def _rest(self, view: View, reason: Reason) -> "Stance":
        """Asking in vain costs next to nothing, so the pause grows only while drafts come and are no good."""
        pause = PAUSE if self.proven(view.step) else self.pause
        after = pause if reason == "late" else min(2 * pause, LONGEST)
        return Stance("plain", reason, view.step, view.step + pause, after)


def _blame(view: View) -> Reason:
    if view.free <= GAIN:
        return "load"
    return "late" if view.right <= GAIN else "acceptance"


@dataclass(frozen=True, slots=True)
class Tally:
    """Time lost against ``floor`` of plain decoding's speed, in plain steps, as a one-sided cumulative sum (Page,
    1954): time won is not saved up, so a change for the worse shows at once."""

    lost: float = 0.0

    def add(self, spent: float, tokens: float, *, floor: float) -> "Tally":
        """A step that took as long as ``spent`` plain steps and made ``tokens`` per row."""
        return Tally(max(0.0, self.lost + floor * min(spent, OUTLIER) - tokens))

    def slow(self, rows: int) -> bool:
        """Whether more was lost than luck explains; the more rows, the less luck."""
        return self.lost > 2.0 + NOISE / math.sqrt(max(rows, 1))


@dataclass(frozen=True, slots=True)
class Purse:
    """Time that trying may cost, in plain steps: a ``share`` of what passes. Debt is possible and is waited out."""

    saved: float = 1.0
    share: float = DUTY

    def earn(self, spent: float) -> "Purse":
        return Purse(min(self.saved + self.share * spent, SAVED), self.share)

    def until(self, price: float) -> int:
        """In how many plain steps there will be enough."""
        return math.ceil(max(0.0, price - self.saved) / self.share)

    def emptied(self) -> "Purse":
        """Without what is saved; debt remains."""
        return Purse(min(self.saved, 0.0), self.share)

    def pay(self, cost: float) -> "Purse":
        return Purse(max(-OWED, min(self.saved - cost, SAVED)), self.share)
