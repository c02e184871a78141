"""What a choice was expected to take, what became of it, and the account of time won and lost by choices."""

from dataclasses import dataclass, field, replace

from experts.speculation.costs import Demand
from experts.speculation.depth import Timing
from experts.speculation.forward import Decoded
from experts.speculation.stance import OUTLIER, Purse, Reason, Tally

AFTERMATH = 0.4
"""What the first plain steps after drafts cost beyond their usual time, in plain steps."""
LONG = 16.0
"""Plain steps' time for which one step earns at most."""
NOBODY = Demand()
FADING = 0.97
"""What a loss still counts at the next step: who has speculated for long has not begun in vain."""


@dataclass(slots=True)
class Asked:
    """The last choice, the ``demand`` it made on drafters, and what became of it. In seconds: ``plain``, which a step
    without drafts would have taken, and what was ``spent`` (None: not measured), of which ``wait`` in waiting; how many
    drafts ``came`` for each row, tokens ``accepted``. ``rows`` were decoded (0: all)."""

    depths: tuple[int, ...]
    plain: float
    mode: str
    demand: Demand = NOBODY
    came: tuple[int, ...] = ()
    accepted: int = 0
    spent: float | None = None
    wait: float = 0.0
    judged: bool = False
    rows: int = 0

    def took(self, timing: Timing, decoded: Decoded | None) -> None:
        """The step was measured; ``decoded`` is what decoding took of it, with its wait."""
        self.wait = timing.wait
        if decoded is not None:
            self.spent, self.rows, self.plain = decoded.seconds, timing.rows, decoded.plain or self.plain


@dataclass(slots=True)
class Books:
    """Time in plain steps: the ``tally`` of losses against ``floor``, the ``purse`` that pays for tries, and what
    speculation has ``lost`` of late."""

    floor: float
    tally: Tally = field(default_factory=Tally)
    purse: Purse = field(default_factory=Purse)
    lost: float = 0.0

    def settle(self, asked: Asked, *, scarce: bool) -> float:
        """The step that was asked for is over; what it took in plain steps, as far as was measured. Where measurements
        are ``scarce``, steps without one earn, too."""
        if asked.spent is not None:
            return self.book(asked, asked.spent)
        self.earn(float(scarce))
        return 0.0

    def book(self, asked: Asked, seconds: float) -> float:
        """A step that took so long; in plain steps."""
        tokens = 1.0 + asked.accepted / (asked.rows or len(asked.depths))
        spent = seconds / asked.plain
        self.earn(min(spent, LONG))
        if asked.mode == "probe":
            waited = asked.wait / asked.plain
            self.pay(min(spent - waited, OUTLIER) + waited - tokens)
        elif asked.mode == "speculate" and any(asked.depths):
            self.tally = self.tally.add(spent, tokens, floor=self.floor)
            self.lost = FADING * self.lost + min(spent, OUTLIER) - tokens
        return spent

    def close(self, *, ended: bool) -> None:
        """What is done changes; ``ended``: to plain decoding. Speculation that was begun in vain is paid for like a
        probe, or luck would begin it again and again."""
        self.pay(max(0.0, self.lost) + AFTERMATH * ended)
        self.tally, self.lost = Tally(), 0.0

    def forgo(self, *, warned: bool, proven: bool, reason: Reason) -> None:
        """Speculation has ended for that ``reason``, after long, if it was ``proven``. What was saved meanwhile is not
        to be lost on trying drafts that are no good now, where shadow drafts are expected, which tell when they are
        again (``warned``)."""
        if warned and proven and reason == "acceptance":
            self.purse = self.purse.emptied()

    def spare(self, share: float) -> None:
        """From now on tries may cost this share of the time."""
        self.purse = replace(self.purse, share=share)

    def earn(self, spent: float) -> None:
        self.purse = self.purse.earn(spent)

    def pay(self, cost: float) -> None:
        self.purse = self.purse.pay(cost)
