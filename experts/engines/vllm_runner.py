"""The seam between the host, which knows requests, and the two ways of running vLLM, which know the engine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cluster.errors import Failure
from experts.api import Chunk, DraftPeer, EngineLimits, EngineState, GenerateRequest


@dataclass(frozen=True, slots=True)
class Events:
    """What a runner tells its host, on the event loop. After ``died`` it tells nothing more."""

    chunks: Callable[[Sequence[Chunk]], None]
    died: Callable[[Failure], None]


class Runner(Protocol):
    """One loaded engine. Methods are called on the event loop and do not block it."""

    async def start(self) -> EngineLimits:
        """Load. Raises ConfigError or EngineFailed."""

    def submit(self, request: GenerateRequest) -> None: ...

    def abort(self, request_id: str) -> None: ...

    def use_drafts(self, peers: Sequence[DraftPeer]) -> None: ...

    def reading(self) -> EngineState:
        """The latest figures of vLLM's scheduler; tokens and drafts are the host's to count."""

    def alive(self) -> bool: ...

    async def stop(self) -> None: ...
