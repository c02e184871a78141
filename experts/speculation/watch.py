"""What plain decoding sees of speculation through shadow drafts: whether it would pay now, and when to look again."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experts.speculation import shadow
from experts.speculation.stance import CLEAR, LEAST
from experts.speculation.trials import Slots, Trials

FRESH = 96
"""Steps for which it is known what would become of drafts after shadow drafts were compared."""
RISING = 1.1
"""How much better than before the newest shadow drafts have to look for a closer look."""
REST, LONG_REST = 18, 24
"""Plain steps in a row without a look at what is going on, alone and with shadow drafts: in most of them nothing is,
and looking costs time that plain decoding does not have to spare."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What plain decoding expects of speculation: its speed against plain, estimated, and the same if all drafts came
    when they are asked for (``prompt``); whether it is ``rising``, so that a closer look pays."""

    ratio: float
    prompt: float
    rising: bool = False

    def followed(self, newest: "Outlook") -> "Outlook":
        """The mean of before and now: a few lucky drafts are no reason to begin."""
        rising = newest.prompt > max(RISING * self.prompt, LEAST)
        return Outlook((self.ratio + newest.ratio) / 2, (self.prompt + newest.prompt) / 2, rising)


class Watch:
    """``outlook`` is None where no shadow drafts were compared lately, or none are ``wanted``: then nothing is known
    of acceptance but what verified drafts have shown."""

    def __init__(self, trials: Trials, *, wanted: bool) -> None:
        self.outlook: Outlook | None = None
        self._trials, self._wanted = trials, wanted
        self._compared: int | None = None

    def compared(self, step: int) -> None:
        """Shadow drafts were."""
        self._compared = step

    def look(self, newest: Outlook, step: int) -> None:
        """What there is to be seen now."""
        if self._compared is None or step - self._compared >= FRESH:
            self.outlook = None
        else:
            self.outlook = self.outlook.followed(newest) if self.outlook else newest

    @property
    def likely(self) -> bool:
        """Whether speculation is known to pay clearly, if only drafts come."""
        return self.outlook is not None and self.outlook.prompt > CLEAR

    @property
    def rest(self) -> int:
        """Plain steps until the next look. The next but one of shadow drafts that look better needs a few tokens."""
        if self.outlook is None:
            return REST
        return shadow.DEPTH + 1 if self.outlook.rising else LONG_REST

    def shadows(self, slots: Slots, room: NDArray[np.intp], step: int) -> tuple[int, ...]:
        """Shadow drafts for each of the rows, which have ``room`` [rows] for drafts; empty: none are wanted."""
        if not self._wanted:
            return ()
        chosen = self._trials.shadow(slots, room > 0, step)
        return tuple((np.minimum(room, shadow.DEPTH) * chosen).tolist())
