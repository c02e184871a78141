"""What an expert is, seen from outside: the requests it takes, the chunks it gives, the state it reports.

Everything here may cross a process, so everything is a frozen msgspec record. ``Engine`` is the one narrow door to a
model runtime; vLLM, the draft engine's host and the simulated engine stand behind it and pass one contract suite.
"""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import msgspec

from cluster.errors import Failure

FinishReason = Literal["stop", "length", "abort", "error"]
GrammarKind = Literal["json_object", "json_schema", "regex", "choice"]


class Sampling(msgspec.Struct, frozen=True, omit_defaults=True):
    """How to choose tokens. Defaults are OpenAI's; ``top_k`` 0 means no limit, ``logprobs`` None means none."""

    max_tokens: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    min_tokens: int = 0
    ignore_eos: bool = False
    logprobs: int | None = None
    logit_bias: dict[int, float] = {}


class Grammar(msgspec.Struct, frozen=True):
    """A constraint on the output. ``text`` is a JSON schema, a regular expression or a JSON list of choices."""

    kind: GrammarKind
    text: str = ""


class GenerateRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """One sequence to generate. ``timeout`` is what is left of its deadline in seconds when it is sent; ``domain`` is
    the kind of traffic it belongs to ("code", "tools", "structured", "text"), a prior for what drafts are worth."""

    id: str
    prompt: tuple[int, ...]
    sampling: Sampling
    timeout: float
    grammar: Grammar | None = None
    adapter: str | None = None
    priority: int = 0
    speculate: bool = True
    domain: str = ""


class TopLogprob(msgspec.Struct, frozen=True, array_like=True):
    token: int
    text: str
    logprob: float


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """The chosen token, its natural-log probability, and the ``Sampling.logprobs`` likeliest at its position."""

    token: int
    text: str
    logprob: float
    top: tuple[TopLogprob, ...] = ()


class Speculated(msgspec.Struct, frozen=True, omit_defaults=True):
    """What speculation did for one request. ``steps`` verified ``drafted`` drafts; ``accepted[n]`` counts those steps
    in which n were accepted; ``plain`` steps had no drafts."""

    steps: int = 0
    plain: int = 0
    drafted: int = 0
    accepted: tuple[int, ...] = ()


class Chunk(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one engine step added to one request.

    ``text`` is the detokenised delta (it may lag the tokens inside a character or a possible stop string).
    ``drafted`` drafts were verified in this step and the first ``accepted`` of ``tokens`` came from them.
    The last chunk, and only the last, has ``finish``; it repeats the prompt's size for the bill and sums up what
    speculation did (None from an engine that does not speculate).
    """

    id: str
    tokens: tuple[int, ...] = ()
    text: str = ""
    drafted: int = 0
    accepted: int = 0
    logprobs: tuple[TokenLogprob, ...] | None = None
    finish: FinishReason | None = None
    stop: str | int | None = None
    error: Failure | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    speculated: Speculated | None = None


class EngineLimits(msgspec.Struct, frozen=True):
    """Known once the model is loaded. ``max_running`` sequences share a step, ``max_context`` is prompt + output."""

    max_context: int
    max_running: int
    vocabulary: int


WAIT_BUCKETS = (0.0001, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05)
"""Upper bounds in seconds of the buckets that waits for drafts are counted in; one more bucket is above them all."""


class SpeculationState(msgspec.Struct, frozen=True, omit_defaults=True):
    """What speculation has done in one life of an engine. All but ``mode`` and ``depth`` are counters that only grow.

    ``steps`` decoded something, ``speculated`` of them verified drafts; ``compared`` counts requests, each time that
    shadow drafts were held against what plain decoding made. Of ``asked`` questions to the draft pool each was
    ``answered``, ``late`` or ``garbage``, which also counts unasked messages that were of no use; ``lost`` counts
    sessions a drafter did not know. Of the rows that wanted drafts ``hits`` found theirs made ahead and ``misses`` did
    not. ``drafted[i]`` and ``accepted[i]`` count drafts at position i; ``waits`` counts waits per bucket of
    ``WAIT_BUCKETS``. Seconds: ``wait`` for drafts, ``draft`` of it computed by drafters, ``verify`` spent in steps that
    verified and read no prompt, ``plain`` what the same steps would have taken without drafts, as estimated. ``mode``
    is the last choice's, but plain steps of a refresh leave it as it is; ``depth`` is the lately chosen mean;
    ``changes`` counts changes of mode, and refreshes, per "mode:reason".
    """

    steps: int = 0
    speculated: int = 0
    compared: int = 0
    asked: int = 0
    answered: int = 0
    late: int = 0
    garbage: int = 0
    lost: int = 0
    hits: int = 0
    misses: int = 0
    drafted: tuple[int, ...] = ()
    accepted: tuple[int, ...] = ()
    waits: tuple[int, ...] = ()
    wait: float = 0.0
    draft: float = 0.0
    verify: float = 0.0
    plain: float = 0.0
    mode: str = ""
    depth: float = 0.0
    changes: dict[str, int] = {}


class EngineState(msgspec.Struct, frozen=True):
    """A reading of an engine's load. Counters only grow within one epoch; ``step_ms`` is a moving average."""

    running: int = 0
    waiting: int = 0
    kv_use: float = 0.0
    step_ms: float = 0.0
    steps: int = 0
    tokens: int = 0
    prompt_tokens: int = 0
    drafted: int = 0
    accepted: int = 0
    preemptions: int = 0
    speculation: SpeculationState | None = None


class DraftPeer(msgspec.Struct, frozen=True):
    """A live draft replica: where it listens, which life of it this is, and how full it is (0..1, as last reported)."""

    replica: str
    epoch: int
    endpoint: str
    load: float = 0.0


StepSink = Callable[[Sequence[Chunk]], None]
"""Called on the event loop once per engine step with the chunks of all requests that step touched."""


class Engine(Protocol):
    """One model on its hardware. All methods are called on one event loop; none blocks it.

    Every submitted request ends in exactly one chunk with ``finish`` (also after ``abort`` and after the engine died:
    then ``finish="error"`` with a failure). ``submit`` raises a typed error for what can be known at once
    (``TooLong``, ``BadRequest``); a request id may be reused once it has finished.
    """

    @property
    def limits(self) -> EngineLimits: ...

    async def start(self, sink: StepSink) -> None:
        """Load the model. Raises ConfigError, ModelCorrupt or EngineFailed."""

    def submit(self, request: GenerateRequest) -> None: ...

    def abort(self, request_id: str) -> None:
        """End it within one step. Unknown ids are ignored: an abort may cross the finish on the wire."""

    def state(self) -> EngineState: ...

    def use_drafts(self, peers: Sequence[DraftPeer]) -> None:
        """Replace the known draft replicas. Engines without split speculation ignore it."""

    def healthy(self) -> bool:
        """False once the engine can no longer serve; the replica then reports itself unhealthy."""

    async def stop(self) -> None: ...
