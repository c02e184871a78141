"""Which sessions a drafter knows, what it knows of each, and which slot of the cache holds them. No torch, no clock."""

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experts.speculation.messages import DraftRow

Key = tuple[int, str]
"""(epoch of the verifier, session)."""


@dataclass(slots=True, eq=False)
class Session:
    """``tokens`` [context] holds ``final`` decided tokens (as far as they fit), then drafts; keys and values of the
    first ``cached`` of them are in ``slot`` of the cache. ``cached`` stays below ``final`` once tokens are taken, as
    the last one has to be run again to be continued."""

    slot: int
    tokens: NDArray[np.int32]
    used: float
    final: int = 0
    cached: int = 0

    @property
    def behind(self) -> int:
        return self.final - self.cached

    @property
    def room(self) -> int:
        """How many drafts fit into the context."""
        return max(0, self.tokens.size - self.final)

    def take(self, row: DraftRow) -> None:
        """Make the row's tokens the end of the history; what was cached for other tokens no longer counts."""
        new = np.asarray(row.tokens, np.int32)[: max(0, self.tokens.size - row.start)]
        held = self.tokens[row.start : row.start + new.size]
        differing = np.flatnonzero(held != new)
        same = row.start + (int(differing[0]) if differing.size else new.size)
        held[:] = new
        self.final = row.start + len(row.tokens)
        self.cached = max(0, min(self.cached, same, self.final - 1))

    def drafted(self, drafts: NDArray[np.int32]) -> None:
        """Remember drafts after the final tokens; all but the last one have been run, so they are cached too."""
        kept = drafts[: self.room]
        self.tokens[self.final : self.final + kept.size] = kept
        self.cached = min(self.final + drafts.size - 1, self.tokens.size)


class SessionBook:
    """At most ``slots`` sessions of at most ``context`` tokens.

    A newcomer takes the slot of the least recently used session, unless even that was in use within ``keep`` seconds:
    then the newcomer is turned away, as otherwise more sessions than slots would evict each other at every step.
    """

    def __init__(self, slots: int, context: int, *, vocabulary: int, keep: float) -> None:
        self._vocabulary, self._keep = vocabulary, keep
        self._histories = np.zeros((slots, context), np.int32)
        self._free = list(range(slots))[::-1]
        self._sessions: OrderedDict[Key, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def get(self, key: Key) -> Session | None:
        return self._sessions.get(key)

    def apply(self, key: Key, row: DraftRow, *, now: float) -> Session | None:
        """Bring a session up to date. None if it is lost: unknown, with a gap, without room or with foreign ids."""
        session = self._sessions.get(key)
        if session is None and row.start == 0:
            session = self._admit(key, now)
        if session is None:
            return None
        if row.start > session.final or max(row.tokens, default=0) >= self._vocabulary:
            self.close(key)
            return None
        session.take(row)
        session.used = now
        self._sessions.move_to_end(key)
        return session

    def close(self, key: Key) -> None:
        """Forget a session; unknown ones are ignored, as they may have been evicted."""
        if session := self._sessions.pop(key, None):
            self._free.append(session.slot)

    def _admit(self, key: Key, now: float) -> Session | None:
        if not self._free:
            oldest, session = next(iter(self._sessions.items()))
            if now - session.used <= self._keep:
                return None
            self.close(oldest)
        slot = self._free.pop()
        self._sessions[key] = Session(slot, self._histories[slot], now)
        return self._sessions[key]
