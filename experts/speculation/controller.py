"""The adaptive choice of depth: estimators that learn between two steps, and pure decisions over what they say.

One ``choose`` reads top to bottom: settle what the last step cost, price this one, plan, decide whether to speculate at
all, try what nothing is known about.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from experts.speculation import trials
from experts.speculation.acceptance import LIMIT, Acceptance
from experts.speculation.batch import Batch, GivenUp, Ints, accepted, room_of
from experts.speculation.books import Asked, Books
from experts.speculation.costs import MANY, Costs, Demand, sound
from experts.speculation.depth import Choice, RowView, Timing, Verdict
from experts.speculation.forward import Experts
from experts.speculation.goodput import Plan, best_depths, ceiling
from experts.speculation.lessons import Lessons
from experts.speculation.refresh import SETTLE, Refresh
from experts.speculation.stance import (
    DUTY,
    GAIN,
    NOTICE,
    OUTLIER,
    RARE,
    SAVED,
    SELDOM,
    SPARING,
    Stance,
    View,
)
from experts.speculation.standing import Standing
from experts.speculation.trials import Mask, Trials
from experts.speculation.watch import Watch

__all__ = ["AdaptiveDepth", "Experts"]

WARM = 2
"""Plain steps measured before anything is drafted."""
PATIENCE = 8
"""Steps after which drafting begins even if nothing was measured."""
CREDIT = -5.0
"""The debt up to which another load, or a clear sign that speculation pays, is reason enough to try it."""
MOST = 0.5
"""Share of rows from which on those that have room show whether drafts pay for all."""
RIPE = 2
"""Steps after which a choice that stands is renewed if there is time to spare."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """A choice that may stand, the seconds of a plain step when it was made, and the demand it makes on drafters."""

    standing: Standing
    plain: float
    demand: Demand
    choice: Choice


class AdaptiveDepth:
    """Depths that maximise tokens per second, 0 included, and never stay below ``floor`` of plain decoding's speed.

    ``depth`` is the most per row; ``experts`` describes a mixture-of-experts verifier. With ``shadows`` shadow drafts
    show when acceptance is good enough again; without them, or if none come, probes do. Used from one thread, between
    two steps: ``judge``, ``compared`` and ``time`` tell of the step that ended, ``choose`` is for the next, and
    ``ponder`` uses the time while its drafts are waited for.
    """

    def __init__(
        self, depth: int, *, floor: float = 0.95, experts: Experts | None = None, shadows: bool = False
    ) -> None:
        self._levels = np.arange(depth)
        self._acceptance = Acceptance(depth)
        self._costs = Costs(depth, experts)
        self._trials = Trials(2 * LIMIT)
        self._watch = Watch(self._trials, wanted=shadows)
        self._stance = Stance()
        self._books = Books(floor)
        self._asked: Asked | None = None
        self._kept: _Kept | None = None
        self._last: Standing | None = None
        self._rows: Sequence[RowView] = ()
        self._lessons = Lessons(self._acceptance, self._costs, self._trials)
        self._wait = 0
        self._given_up = GivenUp()
        self._step = 0
        self._refresh = Refresh()

    def choose(self, rows: Sequence[RowView], now: float) -> Choice:
        """A choice stands for a few steps if nothing is amiss. If no row has room the mode stays as it is: there was
        nothing to choose."""
        del now
        self._step += 1
        self._settle()
        self._rows = rows
        if not rows:
            return Choice((), (), 0.0, 0.0, self._stance.mode, self._stance.reason)
        if again := self._again(rows):
            return again
        self._lessons.learn(self._step)
        batch = self._batch(rows)
        tried = self._trials.running(batch.slots) & (batch.room > 0)
        depths, mode, reason = np.zeros_like(batch.room), self._stance.mode, self._stance.reason
        if batch.room.any() and (self._costs.steps >= WARM or self._step > PATIENCE):
            depths, tried = self._decide(batch, tried)
            mode, reason = self._stance.mode, self._stance.reason
            if mode == "speculate" and self._refresh.begins(
                self._step, self._costs, rows=len(batch.room), ratio=batch.ratio(depths), books=self._books
            ):
                depths, mode, reason = np.zeros_like(depths), "plain", "refresh"
        gains = np.where(tried, depths, accepted(batch.gains, depths))
        rest, notice = self._leisure(batch, mode, reason)
        aimed = _aimed(mode, reason) and not any(notice or ())
        choice = Choice(
            tuple(depths.tolist()),
            tuple(gains.tolist()),
            pace=batch.pace(depths if mode == "speculate" else np.zeros_like(depths)),
            horizon=batch.horizon(depths),
            mode=mode,
            reason=reason,
            rest=rest,
            notice=notice,
            kinds=self._given_up.kinds,
            shadows=self._watch.assign(batch.slots, batch.room, self._step) if aimed else (),
        )
        self._asked = asked = Asked(choice.depths, batch.tariff.plain, mode, batch.demand(depths))
        if mode == "speculate" and depths.any() and not tried.any() and not self._stance.doubt:
            self._keep(choice, asked)
        return choice

    def ponder(self) -> None:
        """While drafts are waited for: take in what was told, and renew the choice that stands if there is nothing to
        decide, so that the next step need not take the time."""
        kept = self._kept
        if kept is None or self._step - kept.standing.step < RIPE:
            return
        self._lessons.learn(self._step)
        batch = self._batch(self._rows)
        plan = best_depths(batch.gains, batch.tariff)
        due = self._refresh.due(self._step, self._costs.age(len(batch.room)), plan.ratio)
        left_out = ((plan.depths == 0) & (batch.room > 0)).any()
        if plan.ratio > GAIN and not due and not left_out:
            choice = replace(
                kept.choice,
                depths=tuple(plan.depths.tolist()),
                gains=tuple(accepted(batch.gains, plan.depths).tolist()),
                pace=batch.pace(plan.depths),
                horizon=batch.horizon(plan.depths),
            )
            self._keep(choice, Asked(choice.depths, batch.tariff.plain, choice.mode, batch.demand(plan.depths)))

    def rested(self, steps: int, spent: float) -> None:
        """Plain steps that were not asked about."""
        self._step += steps
        self._books.earn(float(steps))
        if spent:
            self._costs.looked(spent)

    def judge(self, verdicts: Sequence[Verdict], now: float) -> None:
        """Verdicts of the step that ended. A row that wanted drafts and is not judged got none. What they teach is
        taken in with the next choice that is made anew."""
        del now
        known = self._lessons.judged(verdicts)
        if asked := self._asked:
            asked.judged = True
            asked.came = tuple(min(verdict.drafted, len(self._levels)) for verdict in known)
            accepted = (verdict.accepted for verdict in known)
            asked.accepted = sum(max(0, min(pair)) for pair in zip(accepted, asked.came, strict=True))

    def compared(self, verdicts: Sequence[Verdict]) -> bool:
        """Verdicts that shadow drafts would have had. They teach like others, but cost nothing that is to be booked."""
        known = self._lessons.judged(verdicts)
        right = sum(verdict.accepted for verdict in known)
        return bool(known) and self._watch.compared(self._step, right / len(known))

    def time(self, timing: Timing, now: float) -> None:
        """How long the step that ended took. Prices follow with the next choice that is made anew."""
        del now
        if not sound(timing):
            return
        self._lessons.timed(timing, self._asked.demand if self._asked else Demand())
        if self._asked:
            self._asked.took(timing, self._costs.decoded(timing))
        self._lessons.relieve(self._step)

    def close(self, session: str) -> None:
        """Forget a request; what it taught about its domain stays."""
        self._lessons.left.append(session)
        self._lessons.relieve(self._step)

    def _keep(self, choice: Choice, asked: Asked) -> None:
        """A choice that may stand for a while."""
        self._last = Standing.of(self._step, self._rows, choice=choice, before=self._last)
        self._kept = _Kept(self._last, asked.plain, asked.demand, choice)

    def _settle(self) -> None:
        """Book what the last choice has cost and brought."""
        asked, self._asked = self._asked, None
        if asked is None:
            return
        if any(asked.depths) and (asked.judged or asked.spent is not None):
            self._costs.supply(asked.depths, asked.came)
        if self._books.settle(asked, scarce=self._costs.scarce) > OUTLIER:
            self._kept = None

    def _again(self, rows: Sequence[RowView]) -> Choice | None:
        """The last choice, as far as rows have room for it, if it can stand. If none has, it is kept for the steps
        after: a request that is alone has none in its prefill and at its end, so every few steps."""
        kept, self._kept = self._kept, None
        if kept is None or self._books.tally.lost > 1.0 or self._costs.dry:
            return None
        if all(row.room <= 0 for row in rows):
            self._kept = kept
            return replace(kept.choice, depths=(0,) * len(rows), gains=(0.0,) * len(rows))
        parts = kept.standing.holds(self._step, rows)
        left = self._lessons.left
        if parts is None or (left and any(row.session in left for row in rows)):
            return None
        self._kept = kept
        if newcomers := kept.standing.newcomers(rows):
            self._acceptance.slots(newcomers, self._step)
        depths = tuple([part.depth for part in parts])
        self._asked = Asked(depths, kept.plain, kept.choice.mode, kept.demand)
        return replace(kept.choice, depths=depths, gains=tuple([part.gain for part in parts]))

    def _leisure(self, batch: Batch, mode: str, reason: str) -> tuple[int, tuple[bool, ...] | None]:
        """For how many plain steps there is nothing to choose: until one can be measured, if that is their purpose,
        else until drafters should prepare for the next probe, and then until that. Then also ``Choice.notice``, who
        will be tried."""
        if mode != "plain":
            return 0, None
        if reason in ("start", "refresh"):
            return SETTLE, None
        left, wanted = max(self._stance.due - self._step, self._wait) - 1, batch.room > 0
        if self._stance.soon == "speculate":
            return NOTICE - 1, tuple(wanted.tolist())
        if self._stance.soon == "probe":
            return left if left > 0 else NOTICE - 1, tuple(self._trials.next(batch.slots, wanted).tolist())
        most = self._watch.rest(self._costs.look / batch.tariff.plain)
        return min(left - NOTICE if left > NOTICE else most, most), (False,) * len(batch.room)

    def _batch(self, rows: Sequence[RowView]) -> Batch:
        room = room_of(rows, len(self._levels))
        slots = self._acceptance.slots(rows, self._step)
        gains = np.multiply.accumulate(self._acceptance.rates(slots), axis=1) * (self._levels < room[:, None])
        context = max(0, min(sum(row.context for row in rows), MANY))
        kinds = frozenset([row.domain for row in rows if row.room > 0])
        return Batch(slots, room, gains, self._costs.tariff(len(rows), context), kinds)

    def _decide(self, batch: Batch, tried: Mask) -> tuple[Ints, Mask]:
        """Depths [rows], and which rows are only tried [rows]."""
        plan = best_depths(batch.gains, batch.tariff)
        stance = self._stance.next(self._view(batch, plan, trying=bool(tried.any()) and self._books.purse.saved >= 0.0))
        if changed := stance.mode != self._stance.mode:
            self._books.close(ended=stance.mode == "plain")
            self._refresh.changed(self._step)
            self._last = None
            self._books.spare(DUTY)
            if self._stance.mode == "speculate":
                self._wait = self._watch.forget(self._step, patient=stance.reason != "late")
                self._books.forgo(warned=self._wait > 0, proven=self._stance.proven(self._step), reason=stance.reason)
        self._given_up = self._given_up.next(batch, stance, changed=changed, debt=self._books.purse.saved < 0.0)
        began = stance.mode == "probe" != self._stance.mode
        self._stance = stance
        trial = np.minimum(batch.room, trials.DEPTH)
        if stance.mode == "plain":
            return np.zeros_like(batch.room), tried & False
        if stance.mode == "probe":
            tried = self._trials.begin(batch.slots, batch.room > 0, self._step, due=False) if began else tried
            return np.where(tried, trial, 0), tried
        depths = plan.depths if plan.ratio > 1.0 or batch.share >= MOST else np.zeros_like(batch.room)
        tried &= depths < trial
        if self._books.purse.saved > 0 and batch.share >= MOST:
            left = (depths == 0) & (batch.room > 0) & ~tried
            if left.any():
                tried |= self._trials.begin(batch.slots, left, self._step, due=True)
        if tried.any():
            deeper = np.where(tried, trial, depths)
            self._books.pay((batch.verify(deeper) - batch.verify(depths)) / batch.tariff.plain)
            depths = deeper
        return depths, tried

    def _view(self, batch: Batch, plan: Plan, *, trying: bool) -> View:
        rows, slow, begun = len(batch.room), self._books.tally.slow(len(batch.room)), self._stance.mode != "plain"
        if plan.ratio > GAIN and begun and not slow and self._stance.reason != "slow":
            return View(self._step, rows, plan.ratio, plan.ratio, plan.ratio, trying=trying)
        late, foreign = self._stance.reason == "late", self._given_up.foreign(batch)
        self._watch.look(batch.outlook(plan.ratio, late=late), self._step, damped=not foreign)
        outlook = self._watch.outlook
        self._books.spare(SPARING if outlook and not late else DUTY)
        credit = foreign or self._books.purse.saved > CREDIT
        enough = self._stance.enough(self._step, credit=credit, shadowed=outlook is not None)
        lent = credit and ((self._watch.promises(enough) and not late) or self._given_up.another_load(rows))
        saving = self._books.purse.until(min(batch.price(), SAVED))
        self._wait = 0 if lent else max(self._watch.wait(self._step), saving)
        return View(
            self._step,
            rows,
            plan.ratio if begun or not outlook else outlook.ratio,
            right=ceiling(rows, batch.tariff, free=False),
            free=ceiling(rows, batch.tariff, free=True),
            share=batch.share,
            slow=slow,
            trying=trying,
            hopeful=self._watch.hopeful,
            wait=self._wait,
            rare=SELDOM if outlook else RARE,
            clear=enough,
        )


def _aimed(mode: str, reason: str) -> bool:
    """Whether a step is plain for a reason that more, or more timely, drafts could change."""
    return mode == "plain" and reason not in ("start", "refresh", "load")
