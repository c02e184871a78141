"""All engines of a comparison at once: loaded once, measured in turn, idle while another is measured."""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import psutil

from experts.api import DraftPeer
from loadtests.speculation.arms import DRAFT_CORE, Arm, Pair
from loadtests.speculation.children import START_LIMIT, Child
from loadtests.speculation.messages import Done, Fix, Listening, Load, Measured, Prompt, Rate, Run, Turn, Use

SLOWEST = 60.0
"""Times its seconds that a window may take: it is not cut short before a round of the work has ended."""
AT_ONCE = 2
"""Engines that load together: as many as there are cores."""


@dataclass(frozen=True, slots=True)
class Questions:
    """What is asked of every engine of a rig. ``synthetic``: acceptance is to be pretended."""

    prompts: tuple[Prompt, ...]
    max_tokens: int
    ignore_eos: bool = False
    synthetic: bool = False


@dataclass(frozen=True, slots=True)
class Taken:
    """A window, and the share of a core that the draft server used meanwhile."""

    measured: Measured
    drafter: float


@dataclass(slots=True)
class _Use:
    """The share of a core that somebody used."""

    share: float = 0.0


class Rig:
    """Raises ChildFailed when an engine cannot load or stops answering. ``others`` is the largest share of the machine
    that strangers used during a window, ``idle`` the largest share of a core that all waiting engines did."""

    def __init__(self, pair: Pair, questions: Questions) -> None:
        self._pair, self._questions = pair, questions
        self._engines: dict[str, Child] = {}
        self._drafter: Child | None = None
        self._peer: DraftPeer | None = None
        self._depths: dict[str, int] = {}
        self._linked: set[str] = set()
        self.resident: dict[str, int] = {}
        self.idle = self.others = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children():
            child.stop()

    def load(self, arms: Iterable[Arm]) -> None:
        """Start the engines and, if one of them needs it, the draft server."""
        for some in _batched(list(arms), AT_ONCE):
            for arm in some:
                self._engines[arm.name] = self._start(arm)
            for arm in some:
                self.resident[arm.name] = self._engines[arm.name].take(Done, START_LIMIT).resident
                if arm.remote:
                    self._engines[arm.name].obey(Use(self._drafts()))
                    self._linked.add(arm.name)
                self._calm(arm.name)

    def fix(self, arm: Arm, depth: int) -> None:
        """Set the depth of a tunable arm."""
        if self._depths.get(arm.name) != depth:
            self._engines[arm.name].obey(Fix(depth))
            self._calm(arm.name)
            self._depths[arm.name] = depth

    def rate(self, acceptance: float) -> None:
        """Pretend another acceptance, in all engines."""
        for name, engine in self._engines.items():
            engine.obey(Rate(acceptance))
            self._calm(name)

    def run(self, arm: Arm, command: Run) -> Taken:
        """One window, all other engines waiting."""
        with self._watched([arm]) as drafter:
            measured = self._engines[arm.name].ask(command, Measured, _limit(command))
        self._calm(arm.name)
        return Taken(measured, drafter.share)

    def run_in_slices(self, arms: Sequence[Arm], command: Run) -> list[Measured]:
        """A window of each, side by side: they take turns within it, as a shared machine changes its speed from one
        second to the next. All other engines wait."""
        found: dict[str, Measured] = {}
        waiting = deque[tuple[Arm, Run | Turn]]((arm, command) for arm in arms)
        with self._watched(arms):
            due = time.monotonic() + len(arms) * _limit(command)
            while waiting:
                arm, said = waiting.popleft()
                measured = self._engines[arm.name].slice(said, due - time.monotonic())
                if measured is None:
                    waiting.append((arm, Turn()))
                else:
                    found[arm.name] = measured
        for arm in arms:
            self._calm(arm.name)
        return [found[arm.name] for arm in arms]

    @contextmanager
    def _watched(self, arms: Sequence[Arm]) -> Iterator["_Use"]:
        """Who uses the machine while these are measured; yields what the draft server did, which is known at the
        end."""
        engines = [self._engines[arm.name] for arm in arms]
        drafters = [self._drafter] if self._drafter is not None and any(arm.remote for arm in arms) else []
        waiting = [each for each in self._children() if each not in engines and each not in drafters]
        groups, drafter = (engines, drafters, waiting), _Use()
        before, began = [_busy(), *map(_seconds, groups)], time.monotonic()
        yield drafter
        span = time.monotonic() - began
        machine, own, drafting, idle = (
            after - former for after, former in zip((_busy(), *map(_seconds, groups)), before, strict=True)
        )
        self.idle = max(self.idle, idle / span)
        self.others = max(self.others, (machine - own - drafting - idle) / span / (psutil.cpu_count() or 1))
        drafter.share = drafting / span

    def _calm(self, name: str) -> None:
        """Let an engine wait; those linked to the draft server must answer its heartbeats meanwhile."""
        if name not in self._linked:
            self._engines[name].rest()

    def _children(self) -> list[Child]:
        return [*self._engines.values(), *([self._drafter] if self._drafter is not None else [])]

    def _start(self, arm: Arm) -> Child:
        asked = self._questions
        child = Child("loadtests.speculation.verifier", (arm.name,), preload=arm.preload)
        child.send(
            Load(
                name=arm.name,
                pool=arm.pool(self._pair),
                prompts=asked.prompts,
                max_tokens=asked.max_tokens,
                ignore_eos=asked.ignore_eos,
                synthetic=asked.synthetic,
                vanilla=not arm.remote,
            )
        )
        return child

    def _drafts(self) -> DraftPeer:
        """Where the draft server listens; started when first asked for."""
        if self._drafter is None or self._peer is None:
            self._drafter = Child("loadtests.speculation.drafter", (self._pair.draft, str(DRAFT_CORE)))
            self._peer = self._drafter.take(Listening, START_LIMIT).peer
        return self._peer


def _batched(arms: Sequence[Arm], size: int) -> Iterable[Sequence[Arm]]:
    return (arms[start : start + size] for start in range(0, len(arms), size))


def _limit(command: Run) -> float:
    """Seconds that it may take."""
    return command.settle + SLOWEST * max(1.0, command.seconds)


def _busy() -> float:
    """Processor seconds that the machine has worked, all cores together."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


def _seconds(children: Iterable[Child]) -> float:
    return sum(child.seconds() for child in children)
