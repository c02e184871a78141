"""The controller on traffic that changes: every engine sees the same phases one after the other, changes included.

The arms take turns in every phase, as a shared host changes its speed within the minutes that a lap takes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import msgspec

from loadtests.speculation.arms import PLAIN, Arm
from loadtests.speculation.messages import Measured, Run
from loadtests.speculation.rig import Rig
from loadtests.speculation.summary import rate_of

FIXED = (0, 2, 4, 6, 8)
"""The depths the controller is held against; 0 is plain vLLM."""
ADAPTIVE = "adaptive"


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


def steady(course: Sequence[Phase]) -> list[Phase]:
    """Those in which nothing can be foreseen, each by itself."""
    return [replace(each, name=f"nothing but {each.name}") for each in course if each.name.startswith("records")]


@dataclass(frozen=True, slots=True)
class Tempo:
    """Seconds of a phase, and of what is not counted before it; ``slice``: those after which the arms take turns within
    it (0: not before its end)."""

    seconds: float
    settle: float = 0.0
    slice: float = 0.0


class Trace:
    """``tunable`` is the arm whose depth is fixed in turn, to each of ``depths``, ``adaptive`` the one with the
    controller. In slices, plain decoding alone can run beside it: ``depths`` are (0,) then, or ValueError is raised."""

    def __init__(self, rig: Rig, adaptive: Arm, tunable: Arm, *, tempo: Tempo, depths: Sequence[int] = FIXED) -> None:
        if tempo.slice and tuple(depths) != (0,):
            raise ValueError(f"in slices nothing but plain decoding runs beside the controller, not depths {depths}")
        self._rig, self._adaptive, self._tunable = rig, adaptive, tunable
        self._tempo, self._depths = tempo, depths
        self._sizes: dict[str, int] = {}

    def calibrate(self, course: Sequence[Phase]) -> None:
        """How many prompts plain decoding needs for a phase of the right length."""
        for phase in course:
            found = self._rig.run(PLAIN, Run(phase.batch, phase.order, self._tempo.seconds / 4, 0.0)).measured
            size = round(self._tempo.seconds * found.finished / found.seconds)
            self._sizes[phase.name] = max(phase.batch, size)

    def measure(self, course: Sequence[Phase], rounds: int) -> Iterator[Pace]:
        """All phases with all arms; every other phase in the opposite order, another one in every round."""
        for place in range(rounds * len(course)):
            turn = place + place // len(course)
            if self._tempo.slice:
                yield from self._beside(course[place % len(course)])
                continue
            for name, arm, depth in self._arms()[:: -1 if turn % 2 else 1]:
                if arm.tunable:
                    self._rig.fix(arm, depth)
                yield self._pace(name, arm, course[place % len(course)])

    def _arms(self) -> list[tuple[str, Arm, int]]:
        fixed = [(f"K={depth}", self._tunable if depth else PLAIN, depth) for depth in self._depths]
        return [(ADAPTIVE, self._adaptive, 0), *fixed]

    def _pace(self, name: str, arm: Arm, phase: Phase) -> Pace:
        return _found(phase, name, self._rig.run(arm, self._run(phase)).measured)

    def _beside(self, phase: Phase) -> Iterator[Pace]:
        """Both arms at once."""
        found = self._rig.run_in_slices((self._adaptive, PLAIN), self._run(phase))
        for name, measured in zip((ADAPTIVE, "K=0"), found, strict=True):
            yield _found(phase, name, measured)

    def _run(self, phase: Phase) -> Run:
        tempo, size = self._tempo, self._sizes[phase.name]
        order = tuple(phase.order[index % len(phase.order)] for index in range(size))
        return Run(phase.batch, order, tempo.seconds, tempo.settle, slice=tempo.slice)


def _found(phase: Phase, name: str, measured: Measured) -> Pace:
    state = measured.speculation
    return Pace(phase.name, name, rate_of(measured), state.depth if state else 0.0)


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
