"""The controller on traffic that changes: every engine sees the same phases one after the other, changes included.

All run side by side, in slices of every phase, as a shared host changes its speed from one second to the next.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

import msgspec

from loadtests.speculation.arms import PLAIN, Arm
from loadtests.speculation.messages import Measured, Run
from loadtests.speculation.rig import Rig
from loadtests.speculation.summary import rate_of

ADAPTIVE = "adaptive"
CROWD = 16
"""Requests in flight."""
SLICE = 0.06
"""Seconds for which one engine runs before it is another's turn, and on to the next step that reads a prompt: on a
shared host steps get half as long again within a second, and little within this."""


@dataclass(frozen=True, slots=True)
class Phase:
    """``order``: the prompts of its traffic, ``batch`` of them in flight."""

    name: str
    batch: int
    order: tuple[int, ...]


class Pace(msgspec.Struct, frozen=True):
    """Tokens per second of one arm in one phase of one round; ``depth`` is the last mean depth chosen."""

    phase: str
    arm: str
    speed: float
    depth: float


class Verdict(msgspec.Struct, frozen=True):
    """A phase in hindsight: the controller's rates per round, and those of the best fixed depth."""

    phase: str
    ours: tuple[float, ...]
    best: str
    theirs: tuple[float, ...]


def phases(domains: Sequence[str]) -> list[Phase]:
    """From predictable to made-up and back, from alone to crowded; ``domains`` are those of the prompts, by index."""
    of = {name: tuple(i for i, domain in enumerate(domains) if domain == name) for name in dict.fromkeys(domains)}
    mix = tuple(i for i, domain in enumerate(domains) if domain != "records")
    return [
        Phase("code, 1", 1, of["code"]),
        Phase("code, 16", 16, of["code"]),
        Phase("records, 16", 16, of["records"]),
        Phase("records, 4", 4, of["records"]),
        Phase("mix, 4", 4, mix),
        Phase("mix, 1", 1, mix),
    ]


def switches(course: Sequence[Phase]) -> list[Phase]:
    """To and fro between what drafts foresee best and what they cannot, with as many in flight before as after."""
    of = {kind: next(each.order for each in course if each.name.startswith(kind)) for kind in ("code", "records")}
    return [Phase(f"switched to {kind}, {batch}", batch, order) for batch in (16, 4) for kind, order in of.items()]


def upgraded(course: Sequence[Phase]) -> list[Phase]:
    """Traffic that the draft model knew well, until the verifier was upgraded without it."""
    (order,) = {each.order for each in course if each.name.startswith("code")}
    return [Phase(f"verifier upgraded, draft not: code, {batch}", batch, order) for batch in (4, 16)]


def short(course: Sequence[Phase]) -> list[Phase]:
    """Answers so short that hardly a step passes without somebody's prompt; every kind of traffic, crowded."""
    of = {each.name.split(",")[0]: each.order for each in course}
    return [Phase(f"short answers: {kind}, {CROWD}", CROWD, order) for kind, order in of.items()]


def steady(course: Sequence[Phase]) -> list[Phase]:
    """Those in which nothing can be foreseen, each by itself."""
    return [replace(each, name=f"nothing but {each.name}") for each in course if each.name.startswith("records")]


@dataclass(frozen=True, slots=True)
class Tempo:
    """Seconds of a phase, and of what is not counted before it."""

    seconds: float
    settle: float = 0.0


class Trace:
    """``arms`` by what they are called in its figures: ``ADAPTIVE`` is the one with the controller, the others it is
    held against. Each is there in several processes, as many of one as of another, as some run up to 3 % faster than
    their twins for as long as they live."""

    def __init__(self, rig: Rig, arms: Mapping[str, Sequence[Arm]], *, tempo: Tempo) -> None:
        self._rig, self._arms, self._tempo = rig, arms, tempo
        self._sizes: dict[str, int] = {}

    def calibrate(self, course: Sequence[Phase]) -> None:
        """How many prompts plain decoding, which must be among the rig's engines, needs for a phase of the right
        length."""
        for phase in course:
            found = self._rig.run(PLAIN, Run(phase.batch, phase.order, self._tempo.seconds / 4, 0.0)).measured
            size = round(self._tempo.seconds * found.finished / found.seconds)
            self._sizes[phase.name] = max(phase.batch, size)

    def measure(self, course: Sequence[Phase], rounds: int) -> Iterator[Pace]:
        """All phases with all arms, whose turns come in the opposite order in every other phase."""
        for place in range(rounds * len(course)):
            phase, turn = course[place % len(course)], place + place // len(course)
            order = [arm for arms in zip(*self._arms.values(), strict=True) for arm in arms]
            if turn % 2:
                order.reverse()
            windows = self._rig.run_in_slices(order, self._run(phase))
            found = {arm.name: measured for arm, measured in zip(order, windows, strict=True)}
            for name, arms in self._arms.items():
                yield _pace(phase, name, [found[arm.name] for arm in arms])

    def _run(self, phase: Phase) -> Run:
        size = self._sizes[phase.name]
        order = tuple(phase.order[index % len(phase.order)] for index in range(size))
        return Run(phase.batch, order, self._tempo.seconds, self._tempo.settle, slice=SLICE)


def _pace(phase: Phase, arm: str, found: Sequence[Measured]) -> Pace:
    """Of one arm, the mean of its processes."""
    depths = [each.speculation.depth if each.speculation else 0.0 for each in found]
    return Pace(phase.name, arm, fmean(map(rate_of, found)), fmean(depths))


def verdicts(paces: Sequence[Pace]) -> list[Verdict]:
    """The controller against the best fixed depth of each phase, chosen afterwards by its median."""
    return [_verdict(phase, _by_arm(paces, phase)) for phase in dict.fromkeys(pace.phase for pace in paces)]


def _by_arm(paces: Sequence[Pace], phase: str) -> dict[str, tuple[float, ...]]:
    names = dict.fromkeys(pace.arm for pace in paces if pace.phase == phase)
    return {name: tuple(p.speed for p in paces if (p.phase, p.arm) == (phase, name)) for name in names}


def _verdict(phase: str, speeds: Mapping[str, tuple[float, ...]]) -> Verdict:
    fixed = {name: rates for name, rates in speeds.items() if name != ADAPTIVE}
    best = max(fixed, key=lambda name: median(fixed[name]))
    return Verdict(phase, speeds[ADAPTIVE], best, fixed[best])
