"""What plain decoding sees of speculation through shadow drafts: whether it would pay now, and when to look again."""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from experts.speculation import shadow
from experts.speculation.stance import GAIN
from experts.speculation.trials import Slots, Trials

RISING = 1.1
"""How much better than before the newest shadow drafts have to look for a closer look, if speculation would pay with
them."""
FIRST = 64
"""Steps without speculation within which the first shadow drafts are expected."""
REST, LONG_REST, LONGEST_REST = 18, 24, 256
"""Plain steps in a row without a look at what is going on, alone and with shadow drafts: in most of them nothing is,
and looking costs time that plain decoding does not have to spare. The longest is for engines whose steps are so short
that looks take a share of the time that matters: of 2.4 ms each, a look takes more than one. Requests of a kind that
was not there before end a rest at once."""
FRESH = LONGEST_REST + 64
"""Steps for which it is known what would become of drafts after shadow drafts were compared: longer than any rest."""
LOOKS = 0.005
"""Share of the time that may go into looks."""
HABIT = 0.2
"""Weight of the newest shadow drafts in how many are usually right."""
ODD, SOME = 1.5, 0.25
"""Multiple of that beyond which, by so many tokens of a row at least, something has changed."""
MUCH = 1.0
"""Tokens of a row that are a lot where nothing is usual yet."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What plain decoding expects of speculation: its speed against plain, estimated, and the same if all drafts came
    when they are asked for (``timely``); whether it is ``rising``, so that a closer look pays."""

    ratio: float
    timely: float
    rising: bool = False

    def followed(self, newest: "Outlook") -> "Outlook":
        """The mean of before and now: a few lucky drafts are no reason to begin."""
        rising = newest.timely > max(RISING * self.timely, GAIN)
        return Outlook((self.ratio + newest.ratio) / 2, (self.timely + newest.timely) / 2, rising)


NEUTRAL = Outlook(1.0, 1.0)


class Watch:
    """``outlook`` is None where no shadow drafts were compared lately, or none are ``wanted``: then nothing is known
    of acceptance but what verified drafts have shown."""

    def __init__(self, trials: Trials, *, wanted: bool) -> None:
        self.outlook: Outlook | None = None
        self.wanted = wanted
        self._trials = trials
        self._compared: int | None = None
        self._news = False
        self._awaited = 0
        self._usual: float | None = None

    def compared(self, step: int, right: float) -> bool:
        """Shadow drafts were, of which so many were right per row. Whether that is reason to look at once."""
        self._compared, self._news = step, True
        usual = self._usual
        self._usual = right if usual is None else usual + HABIT * (right - usual)
        return right > (MUCH if usual is None else ODD * usual + SOME)

    def look(self, newest: Outlook, step: int, *, damped: bool = True) -> None:
        """What there is to be seen now; not ``damped`` if it is others that are seen."""
        news, self._news = self._news, False
        if self._compared is None or step - self._compared >= FRESH:
            self.outlook = None
        elif not damped:
            self.outlook = replace(newest, rising=newest.timely > GAIN)
        elif news:
            self.outlook = (self.outlook or NEUTRAL).followed(newest)
        elif self.outlook:
            self.outlook = replace(self.outlook, rising=False)

    def forget(self, step: int, *, patient: bool) -> int:
        """What was seen before is answered by now, as drafts have been verified. ``patient``: they came in time, so
        shadow drafts will, too. For how many steps it is better to wait for these."""
        self.outlook, self._compared, self._news, self._usual = None, None, False, None
        self._awaited = step + FIRST if patient and self.wanted else 0
        return self.wait(step)

    def wait(self, step: int) -> int:
        """For how many steps it is better to wait for shadow drafts than to try what was just found not to pay."""
        return max(0, self._awaited - step) if self.outlook is None else 0

    @property
    def hopeful(self) -> bool:
        """Whether a probe may succeed, as far as is known."""
        return self.outlook is None or self.outlook.timely > GAIN

    def promises(self, ratio: float) -> bool:
        """Whether speculation is known to be that much faster than plain decoding, if only drafts come."""
        return self.outlook is not None and self.outlook.timely > ratio

    def rest(self, price: float) -> int:
        """Plain steps until the next look, which costs ``price`` plain steps. The next but one of shadow drafts that
        look better needs a few tokens."""
        if self.outlook and self.outlook.rising:
            return shadow.DEPTH + 1
        return max(LONG_REST if self.outlook else REST, math.ceil(min(price / LOOKS, LONGEST_REST)))

    def assign(self, slots: Slots, room: NDArray[np.intp], step: int) -> tuple[int, ...]:
        """Give shadow drafts to a few of the rows, which have ``room`` [rows] for drafts: how many to each; empty: none
        are wanted."""
        if not self.wanted:
            return ()
        chosen = self._trials.shadow(slots, room > 0, step)
        return tuple((np.minimum(room, shadow.DEPTH) * chosen).tolist())
