"""vLLM's side of split speculation: what to ask the draft pool for, and which of its answers to believe."""

import pkgutil
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from cluster.transport import epoch
from experts.api import DraftPeer, SpeculationState
from experts.engines.vllm_options import SECTION
from experts.engines.vllm_steps import Row, steps_of
from experts.speculation.depth import Verdict
from experts.speculation.inbox import DraftStats
from experts.speculation.proposer import SPAN, DraftHistory, Proposal

LONG = 256
"""Tokens of a prompt that a draft replica can read in passing, if those of all rows fit into one ask."""


class Drafts(Protocol):
    """Where drafts come from; ``RemoteDrafts`` is the one in use."""

    def propose(
        self,
        rows: Sequence[DraftHistory],
        *,
        pace: float,
        horizon: float,
        rest: int,
        meanwhile: Callable[[], None],
    ) -> Proposal: ...

    def compared(self, rows: Iterable[tuple[str, NDArray[np.int32]]]) -> list[Verdict]: ...

    def announce(self, session: str, tokens: NDArray[np.int32]) -> None: ...

    def close(self, sessions: Iterable[str]) -> None: ...

    def use(self, peers: Sequence[DraftPeer]) -> None: ...

    def stats(self) -> DraftStats: ...


def believable(drafts: Sequence[int], *, depth: int, vocabulary: int) -> list[int]:
    """The drafts up to the first that no model of this vocabulary can have made, ``depth`` at most."""
    kept = []
    for token in drafts[:depth]:
        if not 0 <= token < vocabulary:
            break
        kept.append(int(token))
    return kept


class Proposer:
    """The class vLLM makes for ``custom_class``. Nothing raised here may reach vLLM: it would end the engine."""

    def __init__(self, vllm_config: Any) -> None:
        section = vllm_config.additional_config[SECTION]
        self.steps = steps_of(vllm_config)
        self._vocabulary = int(vllm_config.model_config.get_vocab_size())
        source = pkgutil.resolve_name(section["drafts"])
        self._drafts: Drafts = source(
            epoch=epoch(),
            deadline=section["deadline"],
            retry=section["retry"],
            vocabulary=self._vocabulary,
            ahead=section["ahead"],
        )

    def load_model(self, *_: Any, **__: Any) -> None:
        """Part of vLLM's interface; the draft pool holds the model."""

    def propose(self, sampled_token_ids: list[list[int]], *_: Any, **__: Any) -> list[list[int]]:
        """The call vLLM makes by itself. It names no requests: without our worker nothing is drafted."""
        return [[] for _ in sampled_token_ids]

    def draft(self, rows: Sequence[Row], limit: int | None = None) -> list[list[int]]:
        """Drafts for each row, in order, ``limit`` at most, as many as the controller chooses."""
        self.compare((row.session, row.tokens) for row in rows)
        choice = self.steps.begin(rows, limit)
        notice = choice.notice or (True,) * len(rows)
        shadows = choice.shadows or (0,) * len(rows)
        chosen = zip(rows, choice.depths, choice.gains, notice, shadows, self.steps.rooms, strict=True)
        asked = [
            DraftHistory(row.session, row.tokens, min(depth, room), gain, soon, shadow)
            for row, depth, gain, soon, shadow, room in chosen
            if room
        ]
        found: list[list[int]] = [[] for _ in asked]
        draft = 0.0
        try:
            if asked:
                proposal = self._drafts.propose(
                    asked, pace=choice.pace, horizon=choice.horizon, rest=choice.rest, meanwhile=self.steps.ponder
                )
                found, draft = self._believed(asked, proposal), proposal.draft
        except Exception as error:  # noqa: BLE001 - a draft source may not end the engine
            self.steps.failed(error)
        answers = iter(found)
        drafts = self.steps.fitting(rows, [next(answers) if room else [] for room in self.steps.rooms])
        self.steps.end(draft)
        return drafts

    def announce(self, row: Row) -> None:
        """A request is about to be prefilled. While none are drafted for, only long prompts are worth a word, as they
        take long to read."""
        self.steps.opened(row)
        if self.steps.quiet and row.tokens.size <= min(LONG, SPAN // max(1, len(self.steps.rooms))):
            return
        if row.max_tokens > 1 and self.steps.allows(row):
            try:
                self._drafts.announce(row.session, row.tokens)
            except Exception as error:  # noqa: BLE001 - a draft source may not end the engine
                self.steps.failed(error)

    def close(self, sessions: Sequence[str]) -> None:
        """These requests have ended or lost their place."""
        self.steps.close(sessions)
        try:
            self._drafts.close(sessions)
        except Exception as error:  # noqa: BLE001 - a draft source may not end the engine
            self.steps.failed(error)

    def use(self, peers: Sequence[DraftPeer]) -> None:
        try:
            self._drafts.use(peers)
        except Exception as error:  # noqa: BLE001 - a draft source may not end the engine
            self.steps.failed(error)

    def state(self) -> SpeculationState:
        """What the steps brought and what became of the asks."""
        own, state = self._drafts.stats(), self.steps.state()
        return msgspec.structs.replace(
            state,
            asked=own.asked,
            answered=own.answered,
            late=own.late,
            garbage=own.garbage,
            lost=own.lost,
            hits=own.hits,
            misses=own.misses,
            waits=tuple(own.waits),
            wait=own.wait,
            draft=own.draft,
            changes={**state.changes, **own.changes},
        )

    def compare(self, rows: Iterable[tuple[str, NDArray[np.int32]]]) -> None:
        """What has become of shadow drafts, of sessions with these tokens [n]."""
        try:
            if verdicts := self._drafts.compared(rows):
                self.steps.compared(verdicts)
        except Exception as error:  # noqa: BLE001 - a draft source may not end the engine
            self.steps.failed(error)

    def _believed(self, rows: Sequence[DraftHistory], proposal: Proposal) -> list[list[int]]:
        return [
            believable(drafts, depth=row.depth, vocabulary=self._vocabulary)
            for row, drafts in zip(rows, proposal.drafts, strict=True)
        ]
