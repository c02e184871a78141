"""Arms measured in turn on the same work: round after round, batch after batch, A B C D A B C D."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from loadtests.speculation.arms import DEPTHS, PLAIN, Arm
from loadtests.speculation.messages import Run
from loadtests.speculation.rig import Rig
from loadtests.speculation.summary import Sample, rate_of


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured: ``rounds`` windows of about ``seconds`` per arm and batch, after ``settle`` seconds each.
    ``pool`` prompts are there, of ``mix`` domains in turn. ``dissected``: batches whose steps are taken apart."""

    batches: tuple[int, ...]
    rounds: int
    seconds: float
    settle: float
    pool: int
    mix: int
    dissected: tuple[int, ...] = ()

    def command(self, batch: int, size: int, turn: int) -> Run:
        """The window of one turn: ``size`` prompts, other ones each turn."""
        order = tuple((turn * size + index) % self.pool for index in range(size))
        return Run(batch, order, self.seconds, self.settle)


class Comparison:
    """One rig's arms under one acceptance (None: the real one). ``sizes``: prompts per window and batch, from how long
    plain decoding takes for them."""

    def __init__(self, rig: Rig, arms: Sequence[Arm], effort: Effort) -> None:
        self._rig, self._arms, self._effort = rig, arms, effort
        self._sizes: dict[int, int] = {}
        self._depths: dict[tuple[str, int], int] = {}

    def warm(self, prompts: int) -> None:
        """Each of so many prompts once, in the largest batch: prefix caches, controllers and engines start warm."""
        for arm in self._arms:
            self._rig.run(arm, Run(max(self._effort.batches), tuple(range(prompts)), 0.0, 0.0))

    def calibrate(self) -> None:
        """Sizes by plain's speed, and the best depth of every tunable arm at every batch, each tried once. A window has
        two generations of requests at least: outputs of one length run in step, and one generation may be over before
        the prompts of the next are read."""
        effort = self._effort
        for batch in effort.batches:
            found = self._rig.run(PLAIN, effort.command(batch, effort.mix, 0)).measured
            rounds = max(effort.seconds * found.finished / found.seconds, 2.0 * batch) / effort.mix
            self._sizes[batch] = effort.mix * min(max(1, round(rounds)), effort.pool // effort.mix)
        for arm in self._arms:
            if arm.tunable:
                self._depths |= {(arm.name, batch): self._best(arm, batch) for batch in effort.batches}

    def measure(self, acceptance: float | None = None) -> Iterator[Sample]:
        """All windows, as they are taken."""
        for turn in range(self._effort.rounds):
            for batch in self._effort.batches:
                command = self._effort.command(batch, self._sizes[batch], turn)
                for arm in self._arms:
                    yield self._sample(arm, command, acceptance)

    def dissect(self, acceptance: float | None = None) -> Iterator[Sample]:
        """One more window of each at some batches, with the parts of a step timed."""
        for batch in self._effort.dissected:
            command = self._effort.command(batch, self._sizes[batch], 0)
            for arm in self._arms:
                yield self._sample(arm, Run(batch, command.order, command.seconds, command.settle, True), acceptance)

    def verifying(self, arm: Arm) -> Iterator[Sample]:
        """A window of plain decoding and one of each depth, at every batch."""
        for batch in self._effort.batches:
            command = self._effort.command(batch, self._sizes[batch], 0)
            yield self._sample(PLAIN, command, None)
            for depth in DEPTHS:
                self._rig.fix(arm, depth)
                taken = self._rig.run(arm, command)
                yield Sample(arm.name, batch, depth, taken.measured, taken.drafter)

    def _sample(self, arm: Arm, command: Run, acceptance: float | None) -> Sample:
        depth = self._depths.get((arm.name, command.batch), 0)
        if arm.tunable:
            self._rig.fix(arm, depth)
        taken = self._rig.run(arm, command)
        return Sample(arm.name, command.batch, depth, taken.measured, taken.drafter, acceptance)

    def _best(self, arm: Arm, batch: int) -> int:
        effort = self._effort
        half = self._sizes[batch] // effort.mix // 2
        order = effort.command(batch, effort.mix * max(1, half), 0).order
        speeds = {}
        for depth in DEPTHS:
            self._rig.fix(arm, depth)
            short = Run(batch, order, effort.seconds / 2, effort.settle / 2)
            speeds[depth] = rate_of(self._rig.run(arm, short).measured)
        return max(speeds, key=speeds.__getitem__)
