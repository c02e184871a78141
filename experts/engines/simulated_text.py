"""What the simulated engine says: tokens from a running hash, words for tokens, stop strings, made-up drafts."""

from dataclasses import dataclass

from experts.api import Chunk, FinishReason, GenerateRequest, TokenLogprob, TopLogprob

WORD = 2**64 - 1
FULL = float(2**64)


def mix(value: int) -> int:
    """Scatter 64 bits (the finaliser of SplitMix64, Steele et al., OOPSLA 2014)."""
    value = (value + 0x9E3779B97F4A7C15) & WORD
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & WORD
    return value ^ (value >> 31)


def after(context: int, token: int) -> int:
    """The hash of a sequence with one token more."""
    return mix(context ^ (token + 1))


def word(token: int) -> str:
    """The text of a token."""
    return f" {token}"


@dataclass(frozen=True, slots=True)
class Voice:
    """How an engine speaks: its vocabulary, and how many drafts of which acceptance it pretends to verify."""

    vocabulary: int
    depth: int = 0
    acceptance: float = 0.0

    def token(self, context: int) -> int:
        return mix(context) % self.vocabulary

    def accepted(self, context: int, drafted: int) -> int:
        """How many drafts hold before the first that fails; each has the same chance."""
        for position in range(drafted):
            if mix(context + position + 1) / FULL >= self.acceptance:
                return position
        return drafted

    def logprob(self, context: int, count: int) -> TokenLogprob:
        """The next token's, and the ``count`` likeliest: itself first, each next one nat below."""
        best = -mix(context ^ WORD) / FULL
        chosen = self.token(context)
        top = []
        for rank in range(min(count, self.vocabulary)):
            token = (chosen + rank) % self.vocabulary
            top.append(TopLogprob(token, word(token), best - rank))
        return TokenLogprob(chosen, word(chosen), best, tuple(top))


@dataclass(slots=True)
class Speech:
    """One request under way. ``due``: when its first token comes, in the clock's seconds."""

    request: GenerateRequest
    voice: Voice
    due: float = 0.0
    made: int = 0
    _context: int = 0
    _text: str = ""
    _sent: int = 0

    def __post_init__(self) -> None:
        self._context = mix(self.request.sampling.seed or 0)
        for token in self.request.prompt:
            self._context = after(self._context, token)

    def step(self) -> Chunk:
        """One engine step of it."""
        drafted = self._drafts()
        accepted = self.voice.accepted(self._context, drafted)
        tokens: list[int] = []
        logprobs: list[TokenLogprob] = []
        finish: FinishReason | None = None
        stop: str | int | None = None
        while finish is None and len(tokens) <= accepted:
            token = self._next(logprobs)
            tokens.append(token)
            finish, stop = self._finish(token)
        return Chunk(
            id=self.request.id,
            tokens=tuple(tokens),
            text=self._delta(finish, stop),
            drafted=drafted,
            accepted=min(accepted, len(tokens)),
            logprobs=tuple(logprobs) or None,
            finish=finish,
            stop=stop,
            prompt_tokens=len(self.request.prompt) if finish else 0,
        )

    def end(self) -> Chunk:
        """Its last chunk if it is aborted now: what was held back for a stop string is let go."""
        text = self._delta("abort", None)
        return Chunk(id=self.request.id, text=text, finish="abort", prompt_tokens=len(self.request.prompt))

    @property
    def length(self) -> int:
        return len(self.request.prompt) + self.made

    def _drafts(self) -> int:
        """None before the first token, and none that could not be used."""
        if not self.made or not self.request.speculate:
            return 0
        return min(self.voice.depth, self.request.sampling.max_tokens - self.made - 1)

    def _next(self, logprobs: list[TokenLogprob]) -> int:
        token = self.voice.token(self._context)
        if self.request.sampling.logprobs is not None:
            logprobs.append(self.voice.logprob(self._context, self.request.sampling.logprobs))
        self._context = after(self._context, token)
        self.made += 1
        return token

    def _finish(self, token: int) -> tuple[FinishReason | None, str | int | None]:
        sampling = self.request.sampling
        if token in sampling.stop_token_ids and self.made > sampling.min_tokens:
            return "stop", token
        known = len(self._text)
        self._text += word(token)
        if self.made > sampling.min_tokens:
            for stop in sampling.stop:
                if self._text.find(stop, max(0, known - len(stop) + 1)) >= 0:
                    return "stop", stop
        return ("length", None) if self.made >= sampling.max_tokens else (None, None)

    def _delta(self, finish: FinishReason | None, stop: str | int | None) -> str:
        """The text not yet sent: all of it at the end, less what may be the beginning of a stop string before."""
        stops = self.request.sampling.stop
        if isinstance(stop, str):
            end = self._text.find(stop, max(0, self._sent))
        else:
            held = 0 if finish or not stops else max(map(len, stops)) - 1
            end = len(self._text) - held
        delta = self._text[self._sent : end] if end > self._sent else ""
        self._sent += len(delta)
        return delta
