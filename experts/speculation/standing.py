"""A choice of depths that stands for a few steps, in which requests come and go: choosing takes time, too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from experts.speculation.depth import Choice, RowView

STANDS = 8
"""Steps for which a choice may stand."""
FEW, CHURN = 2, 4
"""The number of rows that may have drafts may change by ``FEW``, that of all rows by one less, and both by one in
``CHURN``; beyond that other prices hold."""


Kind = tuple[str, bool]
"""Domain, and whether inside a strict segment."""


@dataclass(frozen=True, slots=True)
class Part:
    """One row's part of a choice: its ``depth`` and the ``gain`` expected of it, within ``room``."""

    strict: bool
    room: int
    depth: int
    gain: float

    def within(self, room: int) -> "Part":
        """The same for a row with less room."""
        depth = min(self.depth, room)
        return self if depth == self.depth else Part(self.strict, self.room, depth, min(self.gain, float(depth)))


@dataclass(frozen=True, slots=True)
class Standing:
    """A choice made at ``step``: the ``parts`` of the sessions, of which so many (``live``) had room, and, as newcomers
    have shown nothing of their own yet, the part of the last row of each kind."""

    step: int
    parts: dict[str, Part]
    live: int
    kinds: Mapping[Kind, Part]

    @staticmethod
    def of(
        step: int,
        rows: Sequence[RowView],
        *,
        choice: Choice,
        before: "Standing | None" = None,
    ) -> "Standing":
        """Of kinds that are not among the rows, it says what the one ``before`` said."""
        parts: dict[str, Part] = {}
        kinds: dict[Kind, Part] = dict(before.kinds) if before else {}
        for row, depth, gain in zip(rows, choice.depths, choice.gains, strict=True):
            part = parts[row.session] = Part(row.strict, row.room, depth, gain)
            if row.room > 0:
                kinds[row.domain, row.strict] = part
        return Standing(step, parts, sum(part.room > 0 for part in parts.values()), kinds)

    def holds(self, step: int, rows: Sequence[RowView]) -> list[Part] | None:
        """The rows' parts at ``step``, if the choice still stands: not for long, and not if anybody could do with more
        than was known."""
        live, size = sum(row.room > 0 for row in rows), len(self.parts)
        if step - self.step >= STANDS or abs(len(rows) - size) > max(FEW - 1, size // CHURN):
            return None
        if abs(live - self.live) > max(FEW, self.live // CHURN):
            return None
        found = []
        for row in rows:
            part = self.parts.get(row.session)
            if part is None or part.room <= 0:
                part = self.kinds.get((row.domain, row.strict)) if row.room > 0 else _NONE
            elif part.strict != row.strict:
                return None
            if part is None or row.room > part.room:
                return None
            found.append(part.within(max(row.room, 0)))
        return found

    def newcomers(self, rows: Sequence[RowView]) -> list[RowView]:
        """Those who have nothing of their own in it."""
        return [row for row in rows if (part := self.parts.get(row.session)) is None or part.room <= 0]


_NONE = Part(strict=False, room=0, depth=0, gain=0.0)
