"""What a controller of speculation is told of vLLM's steps, what it chooses, and the count of both. No vLLM here."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experts.api import SpeculationState
from experts.engines.vllm_options import SECTION
from experts.speculation.controller import AdaptiveDepth
from experts.speculation.depth import Choice, Depths, FixedDepth, RowView, Timing, Verdict, reaching
from experts.speculation.forward import Experts
from experts.speculation.messages import MAX_DEPTH
from experts.speculation.rest import Rest
from experts.speculation.strict import Strict
from experts.speculation.surface import Cell

logger = logging.getLogger(__name__)

TOOLS = "tools"
"""The domain of requests that may call tools: with tools offered, and free to write text."""
SMOOTHING = 0.1
"""Weight of the newest step in moving averages."""


@dataclass(frozen=True, slots=True)
class Row:
    """One request after a step. The last ``sampled`` of ``tokens`` are new; ``ended``: one of these is a stop token.
    ``scheduled`` tokens were run for it, ``drafted`` of them drafts. ``domain`` and ``strict`` as in ``RowView``."""

    session: str
    tokens: NDArray[np.int32]
    sampled: int
    prompt: int
    max_tokens: int
    speculate: bool = True
    ended: bool = False
    scheduled: int = 1
    drafted: int = 0
    domain: str = ""
    strict: bool = False

    @property
    def decoded(self) -> bool:
        """Whether the step did nothing for it but decode."""
        return self.sampled > 0 and self.scheduled == 1 + self.drafted


def wanted(row: Row, *, depth: int, context: int) -> int:
    """How many drafts this row can use: none in a prefill, never past its last token or the model's context.

    A step yields one token more than its accepted drafts, hence the ones.
    """
    if not row.sampled or not row.speculate or row.ended:
        return 0
    length = len(row.tokens)
    left = row.max_tokens - (length - row.prompt)
    return max(0, min(depth, left - 1, context - length - 1))


class Steps:
    """Between two steps of the engine: ``begin`` takes in the one that ended and gives the depths for the next,
    ``end`` is called when its drafts are there, ``runs`` when it begins. Then ``rests`` says if there will be nothing
    to begin at its end; if so, ``rested`` is called there. Nothing raises: what fails is counted in ``failures``,
    logged once for each kind, and means no drafts.

    ``rooms`` are how many drafts each row of the last ``begin`` could use, ``calls`` follows those that may call tools.
    ``depth`` is the most of any row, ``context`` the model's; ``strict``: rows bound by a grammar, or inside a tool
    call, may have drafts.
    """

    def __init__(
        self,
        depths: Depths,
        *,
        depth: int,
        context: int,
        strict: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.failures: Counter[str] = Counter()
        self.rooms: tuple[int, ...] = ()
        self._depths, self._clock = depths, clock
        self._depth, self._context, self._strict = min(depth, MAX_DEPTH), context, strict
        self.calls: Strict | None = None
        self._sessions: tuple[str, ...] = ()
        self._rest = Rest()
        self._passed = 0
        self._began = self._ran = self._ended = self._wait = self._draft = self._looked = 0.0
        self._between = Cell((0, 0))
        self._tally = _Tally(self._depth)

    def begin(self, rows: Sequence[Row], limit: int | None = None) -> Choice:
        """The depths of the rows, in order; ``limit`` is the most vLLM would schedule."""
        self._began = now = self._clock()
        depth = self._depth if limit is None else min(limit, self._depth)
        views = [self._view(row, depth) for row in rows]
        self.rooms = tuple(view.room for view in views)
        self._catch_up()
        try:
            self._learn(rows, now)
            choice = self._depths.choose(views, now)
        except Exception as error:  # noqa: BLE001 - a controller may not end the engine
            self.failed(error)
            zeros = (0,) * len(rows)
            choice = Choice(zeros, zeros, pace=0.0, horizon=0.0, mode="plain", reason="failed")
        self._tally.chosen(choice)
        self._rest.begin(choice)
        return choice

    def ponder(self) -> None:
        """There is time to spare, as drafts are waited for."""
        try:
            self._depths.ponder()
        except Exception as error:  # noqa: BLE001 - a controller may not end the engine
            self.failed(error)

    def runs(self) -> None:
        """The engine has scheduled a step and begins to run it."""
        self._ran = self._clock()

    def opened(self, row: Row) -> None:
        """A request is about to be prefilled."""
        if self.allows(row):
            self._rest.opened(row.domain)

    def rests(self, sessions: Collection[str]) -> bool:
        """Whether the step that is about to run, with these requests, is one of those that there is nothing to say
        about; if so, it is counted. Most steps of plain decoding are, and are as short as vLLM can make them: what is
        done in each is done here and in ``rested``, and is little."""
        if not self._rest.goes_on(sessions):
            return False
        self._looked += self._wait
        self._passed += 1
        self._sessions, self._wait, self._draft = tuple(sessions), 0.0, 0.0
        return True

    def rested(self) -> None:
        """That step has ended."""
        self._ended = self._clock()

    @property
    def peeks(self) -> bool:
        """Whether to compare shadow drafts now, before a step that probably rests."""
        return self._rest.peeks

    @property
    def quiet(self) -> bool:
        """Whether draft replicas need not know of anybody new."""
        return self._rest.quiet

    def compared(self, verdicts: Sequence[Verdict]) -> None:
        """What would have become of shadow drafts. Called before ``begin`` or ``rests``: a rest may be over now."""
        self._catch_up()
        self._tally.compared(len(verdicts))
        if self._depths.compared(verdicts):
            self._rest.interrupt()

    def fitting(self, rows: Sequence[Row], drafts: Sequence[list[int]]) -> list[list[int]]:
        """The drafts of each row, those for a tool call as far as its form allows them."""
        calls = self.calls
        if calls is None:
            return list(drafts)
        try:
            return [
                calls.filter(row.session, row.tokens, found, prompt=row.prompt) if found and _may_call(row) else found
                for row, found in zip(rows, drafts, strict=True)
            ]
        except Exception as error:  # noqa: BLE001 - a filter of drafts may not end the engine
            self.failed(error)
            return [[] for _ in rows]

    def end(self, draft: float = 0.0) -> None:
        """The drafts are there; drafters computed for ``draft`` seconds of the time since ``begin``."""
        self._ended = self._clock()
        self._wait, self._draft = self._ended - self._began, draft

    def close(self, sessions: Iterable[str]) -> None:
        """These requests have ended or lost their place."""
        try:
            for session in sessions:
                self._depths.close(session)
                if self.calls is not None:
                    self.calls.close(session)
        except Exception as error:  # noqa: BLE001 - a controller may not end the engine
            self.failed(error)

    def allows(self, row: Row) -> bool:
        """Whether the row may have drafts at all."""
        return row.speculate and (self._strict or not row.strict)

    def failed(self, error: Exception) -> None:
        kind = type(error).__name__
        self.failures[kind] += 1
        if self.failures[kind] == 1:
            logger.warning("drafts failed with %s (reported once): %s", kind, error)

    def state(self) -> SpeculationState:
        self._catch_up()
        return self._tally.state()

    def _catch_up(self) -> None:
        """Tell of the steps that were only counted."""
        passed, looked = self._passed, self._looked
        if not passed:
            return
        self._passed, self._looked = 0, 0.0
        self._tally.rested(passed)
        try:
            self._depths.rested(passed, looked)
        except Exception as error:  # noqa: BLE001 - a controller may not end the engine
            self.failed(error)

    def _view(self, row: Row, depth: int) -> RowView:
        row = replace(row, strict=True) if self._in_call(row) else row
        room = wanted(row, depth=depth, context=self._context) if self.allows(row) else 0
        return RowView(row.session, room, len(row.tokens), row.domain, row.strict)

    def _in_call(self, row: Row) -> bool:
        """Whether what comes next stands inside a tool call."""
        if self.calls is None or not _may_call(row):
            return False
        try:
            return self.calls.inside(row.session, row.tokens, prompt=row.prompt)
        except Exception as error:  # noqa: BLE001 - a filter of drafts may not end the engine
            self.failed(error)
            return True

    def _learn(self, rows: Sequence[Row], now: float) -> None:
        """Tell the controller of the step that ended."""
        verdicts = [Verdict(row.session, row.drafted, row.sampled - 1) for row in rows if row.drafted and row.sampled]
        sessions, before = tuple(row.session for row in rows), self._sessions
        self._sessions = sessions
        settled = self._rest.ended()
        timing = self._timing(rows, settled=settled, same=set(sessions) == set(before))
        self._tally.step(verdicts, timing if timing and timing.alone else None)
        self._depths.judge(verdicts, now)
        if timing is not None:
            self._depths.time(timing, now)

    def _timing(self, rows: Sequence[Row], *, settled: bool, same: bool) -> Timing | None:
        """None if nothing was decoded. ``same``: the requests are those of the step before. Otherwise the engine may
        have been idle, or have had others to take in, before it ran; what usually lies between two steps is counted,
        and learnt here."""
        decoded = [row for row in rows if row.decoded]
        if not decoded:
            return None
        alone = same and len(decoded) == len(rows)
        between = max(0.0, self._ran - self._ended)
        if self._ended:
            self._between.learn(between, self._tally.steps)
        paused = 0.0 if alone else max(0.0, between - self._between.mean)
        return Timing(
            rows=len(decoded),
            tokens=sum(row.scheduled for row in decoded),
            context=sum(len(row.tokens) for row in decoded),
            verify=self._began - self._ended - paused,
            wait=self._wait,
            draft=self._draft,
            settled=settled,
            alone=alone,
            prompt=sum(row.scheduled for row in rows) - sum(row.scheduled for row in decoded),
        )


def _may_call(row: Row) -> bool:
    return row.domain == TOOLS and not row.strict and row.sampled > 0


def steps_of(vllm_config: Any) -> Steps:
    """With the controller that the pool's settings name; without settings of ours, always vLLM's number of drafts."""
    section = (vllm_config.additional_config or {}).get(SECTION, {})
    model = vllm_config.model_config
    depth = section.get("depth") or vllm_config.speculative_config.num_speculative_tokens
    depths: Depths = FixedDepth(depth)
    if section.get("controller") == "adaptive":
        count, chosen = model.get_num_experts(), model.get_num_experts_per_tok()
        experts = Experts(count, chosen) if count and chosen else None
        depths = AdaptiveDepth(depth, floor=section["floor"], experts=experts, shadows=section.get("shadow", False))
    return Steps(depths, depth=depth, context=model.max_model_len, strict=section.get("strict") != "off")


class _Tally:
    """The counters of ``SpeculationState`` that every layout has."""

    def __init__(self, depth: int) -> None:
        self.mode = ""
        self.steps = self._speculated = self._compared = 0
        self._reach = depth
        self._verdicts: Counter[tuple[int, int]] = Counter()
        self._verify = self._plain = self._depth = 0.0
        self._changes: Counter[str] = Counter()
        self._alone: dict[int, float] = {}

    def step(self, verdicts: Sequence[Verdict], timing: Timing | None) -> None:
        self.steps += 1
        self._speculated += bool(verdicts)
        for verdict in verdicts:
            self._verdicts[verdict.drafted, verdict.accepted] += 1
        if timing is None:
            return
        if not verdicts:
            if not timing.settled:
                return
            before = self._alone.get(timing.rows, timing.verify)
            self._alone[timing.rows] = before + SMOOTHING * (timing.verify - before)
        elif self._alone:
            self._verify += timing.verify
            self._plain += self._alone[min(self._alone, key=lambda rows: abs(rows - timing.rows))]

    def compared(self, count: int) -> None:
        self._compared += count

    def rested(self, steps: int) -> None:
        self.steps += steps
        self._depth *= (1.0 - SMOOTHING) ** steps

    def chosen(self, choice: Choice) -> None:
        """The few plain steps of a refresh are counted, but speculation goes on: its mode stays what it is."""
        refreshes = choice.reason == "refresh"
        if refreshes or choice.mode != self.mode:
            self._changes[f"{choice.mode}:{choice.reason}"] += 1
        if not refreshes:
            self.mode = choice.mode
        if choice.depths:
            self._depth += SMOOTHING * (sum(choice.depths) / len(choice.depths) - self._depth)

    def state(self) -> SpeculationState:
        drafted, accepted = [0] * (self._reach + 1), [0] * (self._reach + 1)
        for (asked, right), count in self._verdicts.items():
            drafted[min(asked, self._reach)] += count
            accepted[min(asked, right, self._reach)] += count
        return SpeculationState(
            steps=self.steps,
            speculated=self._speculated,
            compared=self._compared,
            drafted=reaching(drafted),
            accepted=reaching(accepted),
            verify=self._verify,
            plain=self._plain,
            mode=self.mode,
            depth=self._depth,
            changes=dict(self._changes),
        )
