"""An engine on a bench: its sink, its clock if it has one, and the pools that tests run."""

import asyncio
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenizers import Tokenizer

from experts.api import Chunk, Engine, GenerateRequest, Sampling
from experts.config import PoolConfig
from experts.engines.clock import VirtualClock
from experts.engines.simulated_text import word
from experts.zoo.catalog import model_path

PATIENCE = 60.0
QUESTIONS = (
    "What is the capital of France?",
    "Write a function that filters even numbers.",
    "Compute 12 + 7.",
    "Translate good morning to German.",
    "Tell me a short story about a fox.",
    "Thanks a lot!",
    "Recommend a book.",
    "Who are you?",
)

_tokenizer: list[Tokenizer] = []


def tokenizer() -> Tokenizer:
    if not _tokenizer:
        _tokenizer.append(Tokenizer.from_file(str(model_path("general") / "tokenizer.json")))
    return _tokenizer[0]


def prompt(question: str) -> tuple[int, ...]:
    text = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    return tuple(tokenizer().encode(text).ids)


def pool(engine: dict[str, Any], *, model: str = "zoo:general", **settings: Any) -> PoolConfig:
    return PoolConfig.model_validate_json(json.dumps({"model": model, "engine": engine, **settings}))


def vllm_pool(*, runner: str = "in_process", options: dict[str, Any] | None = None, **settings: Any) -> PoolConfig:
    standard = {
        "dtype": "float32",
        "max_model_len": 512,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 512,
        "kv_cache_memory_bytes": 32 * 1024 * 1024,
        "enforce_eager": True,
    }
    engine = {"kind": "vllm", "runner": runner, "cores": [0], "options": standard | (options or {})}
    return pool(engine, **settings)


def simulated_pool(**settings: Any) -> PoolConfig:
    return pool({"kind": "simulated", "max_running": 8, "max_context": 512, "vocabulary": 2048} | settings)


@dataclass
class Bench:
    """A started engine and everything it has said, by request."""

    engine: Engine
    decode: Callable[[Sequence[int]], str]
    clock: VirtualClock | None = None
    chunks: dict[str, list[Chunk]] = field(default_factory=dict)
    calls: list[Sequence[Chunk]] = field(default_factory=list)
    _ids: itertools.count = field(default_factory=itertools.count)

    def sink(self, chunks: Sequence[Chunk]) -> None:
        self.calls.append(chunks)
        for chunk in chunks:
            self.chunks[chunk.id].append(chunk)

    def request(self, question: str = QUESTIONS[0], *, name: str | None = None, **settings: Any) -> GenerateRequest:
        fields = {key: settings.pop(key) for key in ("grammar", "adapter", "speculate", "priority") if key in settings}
        sampling = Sampling(**({"max_tokens": 24, "temperature": 0.0, "ignore_eos": True} | settings))
        return GenerateRequest(name or f"r{next(self._ids)}", prompt(question), sampling, 60.0, **fields)

    def submit(self, request: GenerateRequest) -> list[Chunk]:
        """The list its chunks will come to."""
        before = self.chunks.get(request.id)
        mine = self.chunks[request.id] = []
        try:
            self.engine.submit(request)
        except Exception:
            self.chunks[request.id] = before if before is not None else mine
            raise
        return mine

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not done():
                if self.clock is not None:
                    await self.clock.advance(0.001)
                else:
                    await asyncio.sleep(0.002)

    async def run(self, *requests: GenerateRequest) -> list[list[Chunk]]:
        """All of them at once, to their ends."""
        streams = [self.submit(request) for request in requests]
        await self.until(lambda: all(ended(stream) for stream in streams))
        return streams

    async def tokens(self, request: GenerateRequest) -> tuple[int, ...]:
        return tokens((await self.run(request))[0])


def ended(chunks: Sequence[Chunk]) -> bool:
    return bool(chunks) and chunks[-1].finish is not None


def tokens(chunks: Sequence[Chunk]) -> tuple[int, ...]:
    return tuple(token for chunk in chunks for token in chunk.tokens)


def text(chunks: Sequence[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def words(ids: Sequence[int]) -> str:
    return "".join(map(word, ids))


def decoded(ids: Sequence[int]) -> str:
    return str(tokenizer().decode(list(ids)))
