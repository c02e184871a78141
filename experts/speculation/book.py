"""Which sessions a drafter knows, what it knows of each, and which slot of the cache holds them. No torch, no clock."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from experts.speculation.messages import DraftRow

Key = tuple[int, str]
"""(epoch of the verifier, session)."""

CATCH_UP = 8
"""With more new tokens a history is read apart: in a draft batch all rows are padded to the longest one's."""
RANKS = 4
"""How many of the likeliest tokens at each drafted position are remembered."""


class Prepared(Protocol):
    """Branches of one session that were drafted ahead and wait for the verdict."""

    def adopt(self, session: "Session", verdict: tuple[int, ...]) -> None:
        """Make the branch that ``verdict``, the tokens from ``final`` on, begins with the session's drafts, if there
        is one."""


@dataclass(slots=True, eq=False)
class Session:
    """``tokens`` [context] holds ``final`` decided tokens (as far as they fit), then ``made`` drafts; ``likely`` and
    ``chances`` [context, RANKS] are the likeliest tokens at each drafted position, the draft itself first, and their
    probabilities. Keys and values of the first ``cached`` tokens are in ``slot`` of the cache: of all but the last
    draft, or where nothing is drafted of at most all but the last final token, which has to be run to be continued.

    The verifier wants ``depth`` drafts per step and is verifying the first ``flight`` of those made. ``source`` is the
    slot whose first ``cached`` keys and values a new session begins with: its own, unless they are still to be copied.
    """

    slot: int
    tokens: NDArray[np.int32]
    likely: NDArray[np.int32]
    chances: NDArray[np.float32]
    used: float
    final: int = 0
    made: int = 0
    cached: int = 0
    depth: int = 0
    flight: int = 0
    prepared: Prepared | None = None
    source: int = -1

    @property
    def behind(self) -> int:
        """Tokens to run before the next draft is known."""
        return self.final + self.made - self.cached

    @property
    def room(self) -> int:
        """How many drafts fit into the context."""
        return max(0, self.tokens.size - self.final)

    @property
    def unread(self) -> bool:
        """Whether much is to be read before drafting. A history that fills the context is not continued."""
        return self.behind > CATCH_UP and self.room > 0

    @property
    def lags(self) -> bool:
        """Whether there is anything to read though nothing is drafted now, so that it can be soon."""
        return self.unread or (not self.depth and not self.made and self.behind > 1 and self.room > 0)

    @property
    def drafts(self) -> list[int]:
        drafts: list[int] = self.tokens[self.final : self.final + self.made].tolist()
        return drafts

    def take(self, row: DraftRow) -> None:
        """Make the row's tokens the end of the history; what was drafted or cached for other tokens no longer counts.
        Drafts that the history has grown along stay."""
        if self.prepared is not None and row.start <= self.final:
            self.prepared.adopt(self, row.tokens[self.final - row.start :])
        self.prepared = None
        new = np.asarray(row.tokens, np.int32)[: max(0, self.tokens.size - row.start)]
        held = self.tokens[row.start : row.start + new.size]
        differing = np.flatnonzero(held != new)
        same = row.start + (int(differing[0]) if differing.size else new.size)
        before, end = self.final, self.final + self.made
        held[:] = new
        self.final = row.start + len(row.tokens)
        follows = not differing.size and self.final >= before
        self.made = max(0, end - self.final) if follows else 0
        if not self.made:
            self.cached = max(0, min(self.cached, same, self.final - 1))
        self.depth, self.flight = row.depth, row.held

    def turn(self, accepted: int, token: int) -> None:
        """Let ``token`` follow the first ``accepted`` drafts in place of what was drafted there. It is still to run."""
        self.tokens[self.final + accepted] = token
        self.made = accepted + 1
        self.cached = min(self.cached, self.final + accepted)

    def drafted(self, drafts: NDArray[np.int32]) -> None:
        """Append drafts [n]. All tokens before the last one of them have been run and are cached."""
        start = self.final + self.made
        kept = drafts[: self.tokens.size - start]
        self.tokens[start : start + kept.size] = kept
        self.made += kept.size
        self.cached = self.final + self.made - 1

    def ranked(self, start: int, likely: NDArray[np.int32], chances: NDArray[np.float32]) -> None:
        """What was likely [n, RANKS] at the positions from ``start`` on, where drafts were appended."""
        count = max(0, min(len(likely), self.tokens.size - start))
        self.likely[start : start + count] = likely[:count]
        self.chances[start : start + count] = chances[:count]


class SessionBook:
    """At most ``slots`` sessions of at most ``context`` tokens.

    A newcomer takes the slot of the least recently used session, unless even that was in use within ``keep`` seconds:
    then the newcomer is turned away, as otherwise more sessions than slots would evict each other at every step.

    A newcomer whose history begins like one that is in a slot, whether its session is over or not, goes on from there:
    system prompts and earlier turns of a conversation are read once. Slots that nobody has are given away in the order
    in which they were left, but for one that holds hardly more than the newcomer begins with.
    """

    def __init__(self, slots: int, context: int, *, vocabulary: int, keep: float) -> None:
        self._vocabulary, self._keep = vocabulary, keep
        self._histories = np.zeros((slots, context), np.int32)
        self._likely = np.zeros((slots, context, RANKS), np.int32)
        self._chances = np.zeros((slots, context, RANKS), np.float32)
        self._vacant: OrderedDict[int, int] = OrderedDict((slot, 0) for slot in range(slots))
        self._sessions: OrderedDict[Key, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[tuple[Key, Session]]:
        return iter(self._sessions.items())

    def get(self, key: Key) -> Session | None:
        return self._sessions.get(key)

    def apply(self, key: Key, row: DraftRow, *, now: float) -> Session | None:
        """Bring a session up to date. None if it is lost: unknown, with a gap, without room or with foreign ids."""
        session = self._sessions.get(key)
        foreign = max(row.tokens, default=0) >= self._vocabulary
        if session is None and row.start == 0 and not foreign:
            session = self._admit(key, np.asarray(row.tokens, np.int32), now)
        if session is None:
            return None
        if foreign or row.start > session.final:
            self.close(key)
            return None
        session.take(row)
        session.used = now
        self._sessions.move_to_end(key)
        return session

    def close(self, key: Key) -> None:
        """Forget a session; unknown ones are ignored, as they may have been evicted."""
        if session := self._sessions.pop(key, None):
            self._vacant[session.slot] = session.cached

    def _admit(self, key: Key, tokens: NDArray[np.int32], now: float) -> Session | None:
        if not self._vacant:
            oldest, session = next(iter(self._sessions.items()))
            if now - session.used <= self._keep:
                return None
            self.close(oldest)
        slot = next(iter(self._vacant))
        source, same = self._alike(tokens) or (slot, 0)
        if source in self._vacant and self._vacant[source] <= same + CATCH_UP:
            slot = source
        cached = self._vacant.pop(slot)
        if slot != source:
            self._histories[slot, :same] = self._histories[source, :same]
            cached = same
        histories = self._histories[slot], self._likely[slot], self._chances[slot]
        self._sessions[key] = Session(slot, *histories, now, cached=cached, source=source)
        return self._sessions[key]

    def _alike(self, tokens: NDArray[np.int32]) -> tuple[int, int] | None:
        """The slot that holds most of how this history begins, and how many tokens of it; None if no slot holds enough
        to be worth it. Of slots alike, one that nobody has and that holds least besides."""
        held = self._vacant | {session.slot: session.cached for session in self._sessions.values()}
        head = tokens[: CATCH_UP + 1]
        if head.size <= CATCH_UP:
            return None
        likely = np.flatnonzero((self._histories[:, : head.size] == head).all(axis=1))
        differ = self._histories[likely, : tokens.size] != tokens[: self._histories.shape[1]]
        same = np.where(differ.any(axis=1), differ.argmax(axis=1), differ.shape[1])
        alike = [(slot, min(held[slot], size)) for slot, size in zip(likely.tolist(), same.tolist(), strict=True)]
        best = max(alike, default=(0, 0), key=lambda each: (each[1], each[0] in self._vacant, -held[each[0]]))
        return best if best[1] > CATCH_UP else None
