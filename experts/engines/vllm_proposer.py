"""vLLM's side of split speculation: what to ask the draft pool for, and which of its answers to believe."""

import logging
import pkgutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cluster.transport import epoch
from experts.api import DraftPeer
from experts.engines.vllm_options import SECTION
from experts.speculation.proposer import DraftHistory

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Row:
    """One request after a step. The last ``sampled`` of ``tokens`` are new; ``ended``: one of these is a stop token."""

    session: str
    tokens: NDArray[np.int32]
    sampled: int
    prompt: int
    max_tokens: int
    speculate: bool = True
    ended: bool = False


class Drafts(Protocol):
    """Where drafts come from; ``RemoteDrafts`` is the one in use."""

    def propose(self, rows: Sequence[DraftHistory]) -> list[list[int]]: ...

    def close(self, sessions: Iterable[str]) -> None: ...

    def use(self, peers: Sequence[DraftPeer]) -> None: ...


def wanted(row: Row, *, depth: int, context: int) -> int:
    """How many drafts this row can use: none in a prefill, never past its last token or the model's context.

    A step yields one token more than its accepted drafts, hence the ones.
    """
    if not row.sampled or not row.speculate or row.ended:
        return 0
    length = len(row.tokens)
    left = row.max_tokens - (length - row.prompt)
    return max(0, min(depth, left - 1, context - length - 1))


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
        source = pkgutil.resolve_name(section["drafts"])
        self._drafts: Drafts = source(epoch=epoch(), deadline=section["deadline"], retry=section["retry"])
        self._context = int(vllm_config.model_config.max_model_len)
        self._vocabulary = int(vllm_config.model_config.get_vocab_size())
        self.failures: Counter[str] = Counter()

    def load_model(self, *_: Any, **__: Any) -> None:
        """Part of vLLM's interface; the draft pool holds the model."""

    def propose(self, sampled_token_ids: list[list[int]], *_: Any, **__: Any) -> list[list[int]]:
        """The call vLLM makes by itself. It names no requests: without our worker nothing is drafted."""
        return [[] for _ in sampled_token_ids]

    def draft(self, rows: Sequence[Row], depth: int) -> list[list[int]]:
        """Drafts for each row, in order, ``depth`` at most."""
        depths = [wanted(row, depth=depth, context=self._context) for row in rows]
        asked = [
            DraftHistory(session=row.session, tokens=row.tokens, depth=depth)
            for row, depth in zip(rows, depths, strict=True)
            if depth
        ]
        answers = iter(self._ask(asked) if asked else ())
        return [next(answers) if depth else [] for depth in depths]

    def close(self, sessions: Iterable[str]) -> None:
        """These requests have ended or lost their place."""
        try:
            self._drafts.close(sessions)
        except Exception as error:  # noqa: BLE001 - a draft source may not end the engine
            self._failed(error)

    def use(self, peers: Sequence[DraftPeer]) -> None:
        try:
            self._drafts.use(peers)
        except Exception as error:  # noqa: BLE001 - a draft source may not end the engine
            self._failed(error)

    def _ask(self, rows: Sequence[DraftHistory]) -> list[list[int]]:
        try:
            answers = self._drafts.propose(rows)
            return [
                believable(answer, depth=row.depth, vocabulary=self._vocabulary)
                for row, answer in zip(rows, answers, strict=True)
            ]
        except Exception as error:  # noqa: BLE001 - a draft source may not end the engine
            self._failed(error)
            return [[] for _ in rows]

    def _failed(self, error: Exception) -> None:
        kind = type(error).__name__
        self.failures[kind] += 1
        if self.failures[kind] == 1:
            logger.warning("drafts failed with %s (reported once): %s", kind, error)
