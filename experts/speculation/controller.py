"""The adaptive choice of depth: estimators that learn between two steps, and pure decisions over what they say.

One ``choose`` reads top to bottom: settle what the last step cost, price this one, plan, decide whether to speculate at
all, try what nothing is known about.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from experts.speculation import trials
from experts.speculation.acceptance import LIMIT, Acceptance, Floats, Slots
from experts.speculation.costs import MANY, Costs, Experts, Tariff
from experts.speculation.depth import Choice, RowView, Timing, Verdict
from experts.speculation.goodput import Plan, best_depths, ceiling
from experts.speculation.rest import SETTLED
from experts.speculation.stance import GAIN, OUTLIER, SAVED, Purse, Stance, Tally, View
from experts.speculation.standing import Standing
from experts.speculation.trials import Mask, Trials
from experts.speculation.watch import Outlook, Watch

__all__ = ["AdaptiveDepth", "Experts"]

Ints = NDArray[np.intp]

WARM = 2
"""Plain steps measured before anything is drafted."""
PATIENCE = 8
"""Steps after which drafting begins even if nothing was measured."""
STALE = 256
"""Speculating steps after which plain ones are made to know their time again, if speculation seems twice as fast: the
less it seems to win, the sooner, down to a sixteenth, as then it matters more and costs less."""
UNSEEN = 32
"""The same at a batch size that was hardly ever run plainly."""
SETTLE = SETTLED - 1
"""Plain steps after which the next is one whose time can be relied on."""
AFTERMATH = 0.4
"""What those cost beyond their usual time, in plain steps."""
LIKE, CREDIT = 2.0, -5.0
"""How many times as many rows, or as few, are another load, and the debt up to which that, or a clear sign that
speculation pays, is reason enough to try it."""
LEFT = 64
"""Requests that have ended and are still to be forgotten, at most."""
NOTICE = 6
"""Steps before a probe in which drafters may read what they have not been sent meanwhile."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """The rows of one choice: their ``slots`` [rows], ``room`` [rows], probable ``gains`` [rows, depth], and prices."""

    slots: Slots
    room: Ints
    gains: Floats
    tariff: Tariff

    def wanted(self, depths: Ints) -> Ints:
        """Drafts at each position [depth]."""
        wanted: Ints = (depths[:, None] > np.arange(len(self.tariff.supply))).sum(axis=0)
        return wanted

    def verify(self, depths: Ints) -> float:
        """Seconds to verify what comes of these drafts."""
        return float(self.tariff.verify[round(float(self.wanted(depths) @ self.tariff.supply))])

    def pace(self, depths: Ints) -> float:
        """Tokens per second, waits and drafts that do not come included; never below those of plain decoding."""
        plain, deepest = len(self.room) / self.tariff.plain, int(depths.max(initial=0))
        tokens = len(self.room) + float(_accepted(self.gains * self.tariff.supply, depths).sum())
        return max(plain, tokens / float(self.verify(depths) + self.tariff.wait[deepest]))

    def ratio(self, depths: Ints) -> float:
        """Their speed against plain."""
        won = float(_accepted(self.gains * self.tariff.supply, depths).sum()) / len(depths)
        return (1.0 + won) / (1.0 + self.cost(depths))

    def price(self) -> float:
        """What a probe costs, in plain steps."""
        few = np.zeros_like(self.room)
        few[: trials.AT_ONCE] = min(trials.DEPTH, len(self.tariff.supply))
        return self.cost(few)

    def outlook(self, ratio: float, *, late: bool) -> Outlook:
        """What plain decoding expects. Drafts that were ``late`` are taken to come at once, as they may again."""
        return Outlook(ratio, best_depths(self.gains, self.tariff.timely(wait=not late)).ratio)

    def cost(self, depths: Ints) -> float:
        """Their time beyond a plain step's, in plain steps, before anything is accepted."""
        seconds = self.verify(depths) + self.tariff.wait[int(depths.max(initial=0))]
        return float(seconds) / self.tariff.plain - 1.0


@dataclass(slots=True)
class _Asked:
    """The last choice and what became of it. In seconds: ``plain`` and ``verify`` as expected, and what was ``spent``
    (None: not measured) and waited (``wait``) in fact; how many drafts ``came`` for each row, tokens ``accepted``."""

    depths: Ints
    plain: float
    verify: float
    mode: str
    came: tuple[int, ...] = ()
    accepted: int = 0
    spent: float | None = None
    wait: float = 0.0
    judged: bool = False


@dataclass(frozen=True, slots=True)
class _Kept:
    """A choice that may stand, and what it was made of."""

    standing: Standing
    asked: _Asked
    choice: Choice


class AdaptiveDepth:
    """Depths that maximise tokens per second, 0 included, and never stay below ``floor`` of plain decoding's speed.

    ``depth`` is the most per row; ``experts`` describes a mixture-of-experts verifier. With ``shadows`` shadow drafts
    show when acceptance is good enough again; without them, or if none come, probes do. Used from one thread, between
    two steps: ``judge``, ``compared`` and ``time`` tell of the step that ended, ``choose`` is for the next. Nothing
    raises.
    """

    def __init__(
        self, depth: int, *, floor: float = 0.95, experts: Experts | None = None, shadows: bool = False
    ) -> None:
        self._levels = np.arange(depth)
        self._floor = floor
        self._acceptance = Acceptance(depth)
        self._costs = Costs(depth, experts)
        self._trials = Trials(2 * LIMIT)
        self._watch = Watch(self._trials, wanted=shadows)
        self._stance = Stance()
        self._tally, self._purse = Tally(), Purse()
        self._asked: _Asked | None = None
        self._kept: _Kept | None = None
        self._unlearnt: list[Verdict] = []
        self._whose: list[int] = []
        self._left: list[str] = []
        self._lost = 0.0
        self._price = 0.0
        self._given_up: int | None = None
        self._step = 0
        self._checked = 0

    def choose(self, rows: Sequence[RowView], now: float) -> Choice:
        """A choice stands for a few steps if nothing is amiss. If no row has room the mode stays as it is: there was
        nothing to choose."""
        del now
        self._step += 1
        self._settle()
        if not rows:
            return Choice((), (), 0.0, 0.0, self._stance.mode, self._stance.reason)
        if (again := self._again(rows)) is not None:
            return again
        self._learn()
        batch = self._batch(rows)
        tried = self._trials.running(batch.slots) & (batch.room > 0)
        depths, mode, reason = np.zeros_like(batch.room), self._stance.mode, self._stance.reason
        if batch.room.any() and (self._costs.steps >= WARM or self._step > PATIENCE):
            depths, tried = self._decide(batch, tried)
            mode, reason = self._stance.mode, self._stance.reason
            if mode == "speculate" and self._stale(batch, depths):
                depths, mode, reason = np.zeros_like(depths), "plain", "refresh"
        gains = np.where(tried, depths, _accepted(batch.gains, depths))
        verify = batch.verify(depths)
        rest, notice = self._leisure(batch, mode, reason)
        aimed = _aimed(mode, reason) and not any(notice or ())
        choice = Choice(
            tuple(depths.tolist()),
            tuple(gains.tolist()),
            pace=batch.pace(depths if mode == "speculate" else np.zeros_like(depths)),
            horizon=verify + float(batch.tariff.wait[0]),
            mode=mode,
            reason=reason,
            rest=rest,
            notice=notice,
            shadows=self._watch.assign(batch.slots, batch.room, self._step) if aimed else (),
        )
        self._asked = _Asked(depths, batch.tariff.plain, verify, mode)
        if mode == "speculate" and depths.any() and not tried.any() and not self._stance.doubt:
            standing = Standing.of(self._step, rows, choice.depths, choice.gains)
            self._kept = _Kept(standing, self._asked, choice)
        return choice

    def rest(self) -> None:
        """A plain step that was not asked about."""
        self._step += 1
        self._purse = self._purse.earn(1.0)

    def judge(self, verdicts: Sequence[Verdict], now: float) -> None:
        """Verdicts of the step that ended. A row that wanted drafts and is not judged got none. What they teach is
        taken in with the next choice that is made anew."""
        del now
        slots, known = self._acceptance.judged(verdicts)
        if asked := self._asked:
            asked.judged = True
            asked.came = tuple(min(verdict.drafted, len(self._levels)) for verdict in known)
            accepted = (verdict.accepted for verdict in known)
            asked.accepted = sum(max(0, min(pair)) for pair in zip(accepted, asked.came, strict=True))
        self._whose.extend(slots)
        self._unlearnt.extend(known)

    def compared(self, verdicts: Sequence[Verdict]) -> None:
        """Verdicts that shadow drafts would have had. They teach like others, but cost nothing that is to be booked."""
        slots, known = self._acceptance.judged(verdicts)
        self._whose.extend(slots)
        self._unlearnt.extend(known)
        if known:
            self._watch.compared(self._step)

    def time(self, timing: Timing, now: float) -> None:
        """How long the step that ended took."""
        del now
        asked = self._asked
        wanted = 0 if asked is None else int(np.count_nonzero(asked.depths))
        deepest = 0 if asked is None else int(asked.depths.max(initial=0))
        if self._costs.learn(timing, asked=wanted, deepest=deepest) and asked:
            asked.spent, asked.wait = timing.verify + timing.wait, timing.wait

    def close(self, session: str) -> None:
        """Forget a request; what it taught about its domain stays."""
        self._left.append(session)
        if len(self._left) > LEFT:
            self._learn()

    def _learn(self) -> None:
        """Take in what has been told since the last choice."""
        slots, self._whose = self._whose, []
        known, self._unlearnt = self._unlearnt, []
        if known:
            self._acceptance.learn(slots, known, self._step)
            self._trials.learn(np.array(slots, np.intp), np.array([verdict.accepted > 0 for verdict in known]))
        left, self._left = self._left, []
        for session in left:
            self._trials.forget(self._acceptance.close(session))

    def _settle(self) -> None:
        """Book what the last choice has cost and brought."""
        asked, self._asked = self._asked, None
        if asked is None:
            return
        if asked.depths.any() and (asked.judged or asked.spent is not None):
            self._costs.supply(asked.depths.tolist(), asked.came)
        if asked.spent is None:
            return
        tokens = 1.0 + asked.accepted / len(asked.depths)
        spent = asked.spent / asked.plain
        self._purse = self._purse.earn(spent)
        if asked.mode == "probe":
            waited = asked.wait / asked.plain
            self._purse = self._purse.pay(min(spent - waited, OUTLIER) + waited - tokens)
        elif asked.mode == "speculate" and asked.depths.any():
            self._tally = self._tally.add(spent, tokens, floor=self._floor)
            self._lost += min(spent, OUTLIER) - tokens

    def _again(self, rows: Sequence[RowView]) -> Choice | None:
        """The last choice, as far as rows have room for it, if it can stand. If none has, it is kept for the steps
        after: a request that is alone has none in its prefill and at its end, so every few steps."""
        kept, self._kept = self._kept, None
        if kept is None or self._tally.lost > 1.0 or self._costs.dry:
            return None
        if all(row.room <= 0 for row in rows):
            self._kept = kept
            return replace(kept.choice, depths=(0,) * len(rows), gains=(0.0,) * len(rows))
        parts = kept.standing.holds(self._step, rows)
        if parts is None or (self._left and any(row.session in self._left for row in rows)):
            return None
        self._kept = kept
        if newcomers := kept.standing.newcomers(rows):
            self._acceptance.slots(newcomers, self._step)
        depths = tuple([part.depth for part in parts])
        self._asked = _Asked(np.array(depths, np.intp), kept.asked.plain, kept.asked.verify, kept.asked.mode)
        return replace(kept.choice, depths=depths, gains=tuple([part.gain for part in parts]))

    def _leisure(self, batch: _Batch, mode: str, reason: str) -> tuple[int, tuple[bool, ...] | None]:
        """For how many plain steps there is nothing to choose: until one can be measured, if that is their purpose,
        else until drafters should prepare for the next probe, and then until that. Then also ``Choice.notice``, who
        will be tried."""
        if mode != "plain":
            return 0, None
        if reason in ("start", "refresh"):
            return SETTLE, None
        left = max(self._stance.due - self._step, self._purse.until(self._price)) - 1
        if 0 <= left <= NOTICE:
            return left, tuple(self._trials.next(batch.slots, batch.room > 0).tolist())
        most = self._watch.rest
        return min(left - NOTICE if left > NOTICE else most, most), (False,) * len(batch.room)

    def _batch(self, rows: Sequence[RowView]) -> _Batch:
        depth = len(self._levels)
        room = _room(rows, depth)
        slots = self._acceptance.slots(rows, self._step)
        gains = np.multiply.accumulate(self._acceptance.rates(slots), axis=1) * (self._levels < room[:, None])
        context = max(0, min(sum(row.context for row in rows), MANY))
        return _Batch(slots, room, gains, self._costs.tariff(len(rows), context))

    def _decide(self, batch: _Batch, tried: Mask) -> tuple[Ints, Mask]:
        """Depths [rows], and which rows are only tried [rows]."""
        plan = best_depths(batch.gains, batch.tariff)
        stance = self._stance.next(self._view(batch, plan, trying=bool(tried.any()) and self._purse.saved >= 0.0))
        if stance.mode != self._stance.mode:
            # Speculation that was begun in vain is paid for like a probe, or luck would begin it again and again.
            self._purse = self._purse.pay(max(0.0, self._lost) + AFTERMATH * (stance.mode == "plain"))
            self._tally, self._lost, self._checked = Tally(), 0.0, self._step
            self._given_up = len(batch.room) if stance.mode == "plain" else None
        began = stance.mode == "probe" != self._stance.mode
        self._stance = stance
        trial = np.minimum(batch.room, trials.DEPTH)
        if stance.mode == "plain":
            return np.zeros_like(batch.room), tried & False
        if stance.mode == "probe":
            if began:
                tried = self._trials.begin(batch.slots, batch.room > 0, self._step, due=False)
            return np.where(tried, trial, 0), tried
        depths = plan.depths
        tried &= depths < trial
        if self._purse.saved > 0:
            left = (depths == 0) & (batch.room > 0) & ~tried
            if left.any():
                tried |= self._trials.begin(batch.slots, left, self._step, due=True)
        if tried.any():
            deeper = np.where(tried, trial, depths)
            self._purse = self._purse.pay((batch.verify(deeper) - batch.verify(depths)) / batch.tariff.plain)
            depths = deeper
        return depths, tried

    def _view(self, batch: _Batch, plan: Plan, *, trying: bool) -> View:
        rows, slow = len(batch.room), self._tally.slow(len(batch.room))
        begun, credit = self._stance.mode != "plain", self._purse.saved > CREDIT
        if plan.ratio > GAIN and begun and not slow and self._stance.reason != "slow":
            return View(self._step, rows, plan.ratio, plan.ratio, plan.ratio, trying=trying)
        late = self._stance.reason == "late"
        self._price = min(batch.price(), SAVED)
        self._watch.look(batch.outlook(plan.ratio, late=late), self._step)
        outlook, likely = self._watch.outlook, self._watch.likely
        lent = credit and ((likely and not late) or _another_load(self._given_up, rows))
        return View(
            self._step,
            rows,
            plan.ratio if begun or not outlook else outlook.ratio,
            right=ceiling(rows, batch.tariff, free=False),
            free=ceiling(rows, batch.tariff, free=True),
            slow=slow,
            trying=trying,
            hopeful=self._watch.hopeful,
            affordable=lent or self._purse.saved >= self._price,
            credit=credit,
        )

    def _stale(self, batch: _Batch, depths: Ints) -> bool:
        """Whether to make a few plain steps, to know the time of one; they cost what drafts would have won."""
        age = self._costs.age(len(depths))
        passed = self._step - self._checked if age is None else min(age, self._step - self._checked)
        ratio = batch.ratio(depths)
        if passed < min(STALE * max(1 / 16, min(ratio - 1.0, 1.0)), UNSEEN if age is None else STALE):
            return False
        cost = (1.0 + SETTLE) * (1.0 - 1.0 / ratio)
        if self._purse.saved < cost:
            return False
        self._purse = self._purse.pay(cost)
        self._checked = self._step
        return True


def _aimed(mode: str, reason: str) -> bool:
    """Whether a step is plain for a reason that more, or more timely, drafts could change."""
    return mode == "plain" and reason not in ("start", "refresh", "load")


def _another_load(before: int | None, rows: int) -> bool:
    """Whether speculation was given up at a batch size ``before`` so far from this that other prices hold."""
    return before is not None and not before / LIKE < rows < before * LIKE


def _room(rows: Sequence[RowView], depth: int) -> Ints:
    return np.array([max(0, min(row.room, depth)) for row in rows], np.intp)


def _accepted(gains: Floats, depths: Ints) -> Floats:
    """Tokens that are expected to be accepted [rows]."""
    accepted: Floats = (gains * (np.arange(gains.shape[1]) < depths[:, None])).sum(axis=1)
    return accepted
