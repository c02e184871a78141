"""Shadow drafts: asked for beside plain decoding and never verified, but compared with what it makes of the sequences.

While nothing is verified, nothing is learnt of acceptance, and to verify a few drafts now and then, only to see, costs
time that plain decoding does not have to spare. The draft pool has time then. A draft that equals the token which plain
decoding then makes, drawn or not, is one that the verifier would have accepted, and just as often.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experts.speculation.depth import Verdict

DEPTH = 4
"""Shadow drafts of one sequence: what is further away follows from these."""


@dataclass(frozen=True, slots=True)
class _Shadow:
    """``drafts`` of the tokens from position ``start`` on."""

    start: int
    drafts: tuple[int, ...]


class Shadows:
    """The newest shadow drafts of each session."""

    def __init__(self) -> None:
        self._found: dict[str, _Shadow] = {}

    def __len__(self) -> int:
        return len(self._found)

    def offer(self, session: str, start: int, drafts: Sequence[int]) -> None:
        """Keep them in place of the session's earlier ones."""
        self._found[session] = _Shadow(start, tuple(drafts))

    def compare(self, rows: Iterable[tuple[str, NDArray[np.int32]]]) -> list[Verdict]:
        """What became of those of sessions whose tokens [n] are these. They are used up once it is known how many of
        them are right; until then they wait for more tokens."""
        verdicts = []
        for session, tokens in rows:
            shadow = self._found.get(session)
            if shadow is None:
                continue
            drafts = shadow.drafts
            made = tuple(tokens[shadow.start : shadow.start + len(drafts)].tolist())
            right = next((n for n in range(len(made)) if made[n] != drafts[n]), len(made))
            if right < len(made) or len(made) == len(drafts):
                del self._found[session]
                verdicts.append(Verdict(session, len(drafts), right))
        return verdicts

    def clear(self) -> None:
        """Forget all: their sessions are not decoded plainly any more."""
        self._found.clear()

    def drop(self, session: str) -> None:
        """Forget a session; unknown ones are ignored."""
        self._found.pop(session, None)
