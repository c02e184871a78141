"""What the benchmark and its engine processes say to each other: JSON, one record a line."""

from typing import Any

import msgspec

from experts.api import DraftPeer, SpeculationState


class Prompt(msgspec.Struct, frozen=True, array_like=True):
    """``domain`` as a request carries it."""

    domain: str
    tokens: tuple[int, ...]


class Load(msgspec.Struct, frozen=True, tag=True):
    """The first line: the pool to run and what to ask it. ``synthetic``: acceptance is pretended, see ``Rate``;
    ``vanilla``: nothing of ours is laid over vLLM's worker."""

    name: str
    pool: dict[str, Any]
    prompts: tuple[Prompt, ...]
    max_tokens: int
    ignore_eos: bool = False
    synthetic: bool = False
    vanilla: bool = False


class Use(msgspec.Struct, frozen=True, tag=True):
    """Take drafts from this replica."""

    peer: DraftPeer


class Run(msgspec.Struct, frozen=True, tag=True):
    """Keep ``batch`` of the prompts ``order`` in flight, round and round, for about ``seconds``: the window ends with a
    whole round, so every engine is measured on the same work. ``timed``: take the parts of a step apart. ``slice``: say
    ``Turn`` after about so many seconds, and wait for one (0: never)."""

    batch: int
    order: tuple[int, ...]
    seconds: float
    settle: float
    timed: bool = False
    slice: float = 0.0


class Turn(msgspec.Struct, frozen=True, tag=True):
    """In the middle of a window, from an engine: another may run now; to one: it may go on."""


class Fix(msgspec.Struct, frozen=True, tag=True):
    """From now on so many drafts per step; only for an engine whose depth is fixed."""

    depth: int


class Rate(msgspec.Struct, frozen=True, tag=True):
    """From now on each draft is accepted with this chance, if those before it were; only for a synthetic engine."""

    acceptance: float


class Quit(msgspec.Struct, frozen=True, tag=True):
    pass


class Done(msgspec.Struct, frozen=True, tag=True):
    """Whatever was asked has been done; ``resident`` is the process's memory in bytes, ``cpu`` its seconds so far."""

    resident: int
    cpu: float


class Listening(msgspec.Struct, frozen=True, tag=True):
    """A draft server is ready."""

    peer: DraftPeer


class Measured(msgspec.Struct, frozen=True, tag=True):
    """A window. Counters of all its steps, and again of those without a prefill (``decode_*``), in which ``rows`` is
    the sum of sequences per step; ``cpu`` are processor seconds, ``parts`` seconds per part of a step (timed only)."""

    seconds: float
    tokens: int
    steps: int
    decode_seconds: float
    decode_tokens: int
    decode_steps: int
    rows: int
    drafted: int
    accepted: int
    finished: int
    cpu: float
    parts: dict[str, float] = {}
    speculation: SpeculationState | None = None


class Broken(msgspec.Struct, frozen=True, tag=True):
    """It did not work; the process ends."""

    why: str


Command = Load | Use | Run | Turn | Fix | Rate | Quit
Answer = Done | Listening | Measured | Turn | Broken
