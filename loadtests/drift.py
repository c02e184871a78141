"""A controller against every fixed depth in hindsight, on a trace whose acceptance, batch and draft delay drift.

The engine is a model in virtual time, with noise and outliers, so the figures need no idle machine. Its constants are
those of a small mixture-of-experts verifier on one CPU core.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from statistics import mean

from experts.speculation.controller import AdaptiveDepth, Experts
from experts.speculation.depth import Choice, Depths, FixedDepth, RowView, Timing, Verdict
from experts.speculation.replicas import AnswerTime
from experts.speculation.rest import Rest

DEEPEST = 8
QUICK = 50e-6
"""Seconds to ask, and to find drafts that are there already."""
LOOK = 0.5e-3
"""Seconds that a choice takes with which plain decoding goes on. Others are made while drafts are waited for."""
SEEDS = tuple(range(1, 13))
STEPS = 600
"""Plain steps that a phase lasts; with drafts it has fewer, longer steps."""


EXPERTS = Experts(8, 2)


@dataclass(frozen=True, slots=True)
class Engine:
    """Seconds of a step: ``base``, per row, per token, for loading all experts, and for verifying at all. ``noise`` is
    the standard deviation as a share, ``outliers`` the share of steps that take five times as long, ``stirred`` what a
    plain step takes besides, as a share, until it is settled (see ``Timing``)."""

    base: float = 2.3e-3
    row: float = 20e-6
    token: float = 45e-6
    load: float = 1.2e-3
    verify: float = 0.3e-3
    experts: Experts | None = EXPERTS
    noise: float = 0.05
    outliers: float = 0.005
    stirred: float = 0.2

    def seconds(self, rows: int, tokens: int, prompt: int = 0) -> float:
        """Beside as many tokens of prompts."""
        share = self.experts.distinct(float(tokens + prompt)) if self.experts else 0.0
        checks = self.verify if tokens > rows else 0.0
        return self.base + self.row * rows + self.token * (tokens + prompt) + self.load * share + checks

    def measured(self, rows: int, tokens: int, luck: Random, *, settled: bool = True, prompt: int = 0) -> float:
        factor = max(0.5, luck.gauss(1.0, self.noise)) * (1.0 if settled or tokens > rows else 1.0 + self.stirred)
        return self.seconds(rows, tokens, prompt) * factor * (5.0 if luck.random() < self.outliers else 1.0)


@dataclass(frozen=True, slots=True)
class Pool:
    """A draft pool: an answer takes ``send`` and ``draft`` per depth, in seconds, unless it was made ahead: a share
    ``hits``, and with every row whose last drafts were not all right, or that had none, that share is ``foresight``
    times as large. The verifier waits no longer than ``deadline``, and only as long as the choice says it pays."""

    send: float = 0.2e-3
    draft: float = 0.25e-3
    hits: float = 0.0
    foresight: float = 1.0
    deadline: float = 25e-3

    def wait(self, choice: Choice, usual: AnswerTime, *, now: float, luck: Random, missing: int) -> tuple[float, bool]:
        """The wait, and whether drafts came; ``missing`` rows had none that were all right before. A wait shorter than
        answers take is not begun."""
        if luck.random() < self.hits * self.foresight**missing:
            return QUICK, True
        worth = sum(choice.gains) / choice.pace if choice.pace else self.deadline
        patience = min(worth, self.deadline)
        needed = self.send + self.draft * max(choice.depths)
        if choice.pace and patience < usual.expected(now):
            usual.skipped(now)
            return QUICK, False
        usual.waited(min(needed, patience), vain=needed > patience)
        return min(needed, patience), needed <= patience


@dataclass(frozen=True, slots=True)
class Traffic:
    """What runs: ``batch`` requests at once, the share of each request's drafts that is right, in turn, drawn anew for
    every request. Later positions are a little worse. Answers have the least to the most of ``lengths`` tokens; with a
    ``prompt`` of so many, each request takes a step to read it, else all have been read before."""

    name: str
    batch: int
    acceptance: tuple[float, ...]
    pool: Pool = Pool()
    lengths: tuple[int, int] = (64, 256)
    prompt: int = 0


@dataclass(frozen=True, slots=True)
class Phase:
    """Tokens per second of a controller, and of the fixed depth that was best in hindsight."""

    name: str
    ours: float
    best_depth: int
    best: float

    @property
    def ratio(self) -> float:
        return self.ours / self.best


@dataclass(frozen=True, slots=True)
class Step:
    """One simulated step."""

    choice: Choice
    tokens: int
    seconds: float


@dataclass(slots=True)
class _Request:
    """``luck`` decides for every token in turn whether a draft of it is right, the same under any controller."""

    session: str
    right: float
    left: int
    context: int
    luck: list[float]
    unread: int = 0


@dataclass(slots=True)
class Run:
    """A controller driving the model engine through one phase after the other."""

    depths: Depths
    engine: Engine = Engine()
    luck: Random = field(default_factory=Random)
    births: Random = field(default_factory=Random)
    now: float = 0.0
    _requests: list[_Request] = field(default_factory=list)
    _made: int = 0
    _usual: AnswerTime = field(default_factory=AnswerTime)
    _rest: Rest = field(default_factory=Rest)
    _choice: Choice | None = None
    _shadows: list[tuple[_Request, int, int]] = field(default_factory=list)
    _missing: int = 0
    _before: list[str] = field(default_factory=list)

    def step(self, traffic: Traffic) -> Step:
        self._refill(traffic)
        look = 0.0 if self._choice else LOOK
        choice = self._choice or self._choose()
        look = look if choice.rest else 0.0
        wait, came = look, True
        if any(choice.depths):
            wait, came = traffic.pool.wait(choice, self._usual, now=self.now, luck=self.luck, missing=self._missing)
        if wait > QUICK:
            self.depths.ponder()
        drafted = choice.depths if came and any(choice.depths) else (0,) * len(self._requests)
        accepted = [self._accepted(each, depth) for each, depth in zip(self._requests, drafted, strict=True)]
        self._missing = sum(not depth or right < depth for right, depth in zip(accepted, drafted, strict=True))
        prompt = sum(each.unread for each in self._requests)
        rows = sum(not each.unread for each in self._requests)
        tokens = rows + sum(drafted)
        if self._rest.peeks:
            self._compare()
        rests = self._rest.goes_on(self._requests)
        settled = self._rest.settled if rests else self._rest.ended()
        verify = self.engine.measured(rows, tokens, self.luck, settled=settled, prompt=prompt)
        self.now += wait + verify
        verdicts = [
            Verdict(each.session, depth, right)
            for each, depth, right in zip(self._requests, drafted, accepted, strict=True)
            if depth
        ]
        self._choice = choice if rests else None
        if rests:
            self.depths.rested(1, look)
        else:
            self.depths.judge(verdicts, self.now)
            context = sum(each.context for each in self._requests if not each.unread)
            alone = not traffic.prompt or (not prompt and self._before == self._names())
            timing = Timing(rows, tokens, context, verify, wait, settled=settled, alone=alone, prompt=prompt)
            self.depths.time(timing, self.now)
        self._before = self._names()
        for each, right in zip(self._requests, accepted, strict=True):
            each.left -= right + 1
            each.context += right + 1
            each.unread = 0
        return Step(choice, len(drafted) + sum(accepted), wait + verify)

    def phase(self, traffic: Traffic, steps: int = STEPS) -> list[Step]:
        """As long as so many plain steps take."""
        for each in self._requests:
            each.right = self._right(traffic)
        end = self.now + steps * self.engine.seconds(traffic.batch, traffic.batch)
        made = []
        while self.now < end:
            made.append(self.step(traffic))
        return made

    def _choose(self) -> Choice:
        views = [
            RowView(each.session, 0 if each.unread else min(DEEPEST, each.left - 1), each.context)
            for each in self._requests
        ]
        self._compare()
        choice = self.depths.choose(views, self.now)
        self._rest.begin(choice)
        shadows = zip(self._requests, choice.shadows, strict=False)
        self._shadows = [(each, each.left, depth) for each, depth in shadows if depth]
        return choice

    def _compare(self) -> None:
        """What would have become of the shadow drafts of requests that are still here."""
        ready = [each for each in self._shadows if each[0] in self._requests and each[0].left <= each[1] - each[2]]
        self._shadows = [each for each in self._shadows if each not in ready]
        found = [Verdict(each.session, depth, self._right_of(each, left, depth)) for each, left, depth in ready]
        if found and self.depths.compared(found):
            self._rest.interrupt()

    def _refill(self, traffic: Traffic) -> None:
        kept = [each for each in self._requests if each.left > 0][: traffic.batch]
        for each in self._requests:
            if each not in kept:
                self.depths.close(each.session)
        self._requests = kept
        while len(self._requests) < traffic.batch:
            right = self._right(traffic)
            length = self.births.randint(*traffic.lengths)
            luck = [self.births.random() for _ in range(length)]
            self._requests.append(_Request(f"r{self._made}", right, length, 64, luck, traffic.prompt))

    def _names(self) -> list[str]:
        return [each.session for each in self._requests]

    def _right(self, traffic: Traffic) -> float:
        self._made += 1
        level = traffic.acceptance[self._made % len(traffic.acceptance)]
        return min(max(self.births.gauss(level, 0.04), 0.0), 0.99)

    def _accepted(self, request: _Request, depth: int) -> int:
        return self._right_of(request, request.left, depth)

    def _right_of(self, request: _Request, left: int, depth: int) -> int:
        """How many of its drafts are right with so many tokens to go."""
        for position in range(depth):
            if request.luck[position - left] >= request.right * (1.0 - 0.01 * position):
                return position
        return depth


def speed(steps: Sequence[Step]) -> float:
    """Tokens per second."""
    return sum(step.tokens for step in steps) / sum(step.seconds for step in steps)


SLOW = replace(Pool(), send=20e-3)
AHEAD = replace(Pool(), hits=0.8)
FORESEEN = Pool(send=0.5e-3, draft=0.3e-3, hits=0.8, foresight=0.5)
"""Where drafts fail, those made ahead are in vain and drafts are waited for."""
TRACE = (
    Traffic("acceptance 0.9, batch 1", 1, (0.9,)),
    Traffic("acceptance 0.05, batch 1", 1, (0.05,)),
    Traffic("acceptance 0.6, batch 4", 4, (0.6,)),
    Traffic("acceptance 0.9, batch 32", 32, (0.9,)),
    Traffic("acceptance 0.3, batch 16", 16, (0.3,)),
    Traffic("acceptance 0.9, batch 4", 4, (0.9,)),
    Traffic("acceptance 0.9, batch 4, drafts 20 ms late", 4, (0.9,), SLOW),
    Traffic("acceptance 0.9, batch 4, drafts in time again", 4, (0.9,)),
    Traffic("acceptance 0.05, batch 32", 32, (0.05,)),
    Traffic("acceptance 0.3, batch 1", 1, (0.3,)),
    Traffic("acceptance 0.9 and 0.05, batch 8", 8, (0.9, 0.05)),
    Traffic("acceptance 0.6, batch 16", 16, (0.6,)),
    Traffic("acceptance 0.6, batch 1, drafted ahead", 1, (0.6,), AHEAD),
    Traffic("acceptance 0.05, batch 4, drafted ahead", 4, (0.05,), AHEAD),
    Traffic("acceptance 0.9, batch 16, drafted ahead", 16, (0.9,), AHEAD),
    Traffic("acceptance 0.95, batch 4, foreseen if right", 4, (0.95,), FORESEEN),
    Traffic("acceptance 0.4, batch 4, foreseen if right", 4, (0.4,), FORESEEN),
    Traffic("acceptance 0.9, batch 16, short answers", 16, (0.9,), lengths=(8, 32), prompt=40),
    Traffic("acceptance 0.05, batch 16, short answers", 16, (0.05,), lengths=(8, 32), prompt=40),
    Traffic("acceptance 0.6, batch 32, next to no answers", 32, (0.6,), lengths=(2, 16), prompt=40),
    Traffic("acceptance 0.05, batch 32, next to no answers", 32, (0.05,), lengths=(2, 16), prompt=40),
)


def drift(
    trace: Sequence[Traffic] = TRACE,
    engine: Engine = Engine(),
    seeds: Sequence[int] = SEEDS,
    *,
    shadows: bool = True,
) -> list[Phase]:
    """The adaptive controller, from its first step on, against fixed depths 0..``DEEPEST``: means over ``seeds``."""
    ours = _speeds(partial(AdaptiveDepth, DEEPEST, experts=engine.experts, shadows=shadows), trace, engine, seeds)
    fixed = [_speeds(partial(FixedDepth, depth), trace, engine, seeds) for depth in range(DEEPEST + 1)]
    phases = []
    for index, traffic in enumerate(trace):
        best = max(range(DEEPEST + 1), key=lambda depth: fixed[depth][index])
        phases.append(Phase(traffic.name, ours[index], best, fixed[best][index]))
    return phases


def _speeds(
    make: Callable[[], Depths], trace: Sequence[Traffic], engine: Engine, seeds: Sequence[int]
) -> tuple[float, ...]:
    runs = [Run(make(), engine, Random(seed), Random(seed)) for seed in seeds]
    return tuple(mean(speed(run.phase(traffic)) for run in runs) for traffic in trace)


if __name__ == "__main__":
    print(f"{'':48} shadow drafts  probes alone")
    for with_shadows, alone in zip(drift(), drift(shadows=False), strict=True):
        print(f"{alone.name:48} {with_shadows.ratio:13.3f}  {alone.ratio:12.3f}  of K={alone.best_depth}")
