"""A pool's engine in a process of its own, driven by JSON lines: one configuration, then commands; events come back.

A process each, because vLLM's engines share state inside one process and because an engine that fails must not end the
test run. ``python -m tests.identity.engine`` is the child; ``EngineProcess`` is the parent's handle.
"""

import asyncio
import json
import queue
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from experts.api import Chunk, DraftPeer, Engine, GenerateRequest, Sampling, SpeculationState
from experts.config import PoolConfig
from tests.identity.watched import WATCHED, Watched

ROOT = Path(__file__).parents[2]
START = 180.0
RUN = 240.0


class Load(msgspec.Struct, frozen=True):
    """What to generate: ``at_once`` requests in flight, and among them a share ``doomed`` that are copies, aborted
    after a few chunks, whose tokens nobody wants."""

    prompts: list[list[int]]
    length: int
    at_once: int = 16
    doomed: float = 0.0
    domains: list[str] = []


class Command(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line to the child: use these draft replicas, and/or run this load."""

    peers: list[DraftPeer] | None = None
    load: Load | None = None


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line from the child: requests finished so far and the engine's speculation; at the end of a load its tokens,
    per prompt, every end that was no regular one, and how long each step waited for drafts, in seconds, less the time
    for which others had its core."""

    finished: int
    preemptions: int = 0
    speculation: SpeculationState | None = None
    tokens: list[list[int]] | None = None
    failures: list[str] = []
    seconds: float = 0.0
    waits: list[float] = []


class EngineProcess:
    """The child, with a deadline on everything that is awaited of it."""

    def __init__(self, pool: dict[str, Any], log: Path) -> None:
        self._log = log
        with log.open("wb") as errors:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "tests.identity.engine", json.dumps(pool)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
            )
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()
        self.last = self.next(START)

    def send(self, command: Command) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(msgspec.json.encode(command) + b"\n")
        self._child.stdin.flush()

    def use(self, peers: list[DraftPeer]) -> None:
        self.send(Command(peers=peers))

    def next(self, timeout: float) -> Event:
        event = self._events.get(timeout=timeout)
        assert event is not None, self._log.read_text(errors="replace")[-4000:]
        self.last = event
        return event

    def run(self, load: Load, timeout: float = RUN) -> Iterator[Event]:
        """Events while the load runs; the last one has its tokens."""
        self.send(Command(load=load))
        due = time.monotonic() + timeout
        while True:
            event = self.next(due - time.monotonic())
            yield event
            if event.tokens is not None:
                return

    def complete(self, load: Load) -> Event:
        return list(self.run(load))[-1]

    def stop(self) -> None:
        self._child.kill()
        self._child.wait(10)

    def _listen(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            if line.startswith(b"{"):
                self._events.put(msgspec.json.decode(line, type=Event))
        self._events.put(None)


class _Host:
    """The child's side: the engine, and the load that runs on it."""

    def __init__(self, engine: Engine, emit: Callable[[Event], None]) -> None:
        self._engine = engine
        self._emit = emit
        self._chunks: dict[str, asyncio.Queue[Chunk]] = {}
        self._finished = 0
        self._random = random.Random(0)

    def step(self, chunks: Sequence[Chunk]) -> None:
        for chunk in chunks:
            if waiting := self._chunks.get(chunk.id):
                waiting.put_nowait(chunk)

    async def run(self, load: Load) -> None:
        began = time.monotonic()
        room = asyncio.Semaphore(load.at_once)
        failures: list[str] = []

        async def one(place: int, prompt: list[int]) -> list[int]:
            async with room:
                if self._random.random() < load.doomed:
                    await self._generate(f"d{place}", prompt, load, place, leave=self._random.randint(0, 6))
                tokens, finish = await self._generate(f"r{place}", prompt, load, place)
            if finish not in ("stop", "length"):
                failures.append(f"{place}: {finish}")
            self._finished += 1
            return tokens

        beat = asyncio.create_task(self._beat())
        tokens = await asyncio.gather(*(one(place, prompt) for place, prompt in enumerate(load.prompts)))
        beat.cancel()
        await asyncio.sleep(0.6)  # the engine's own report of itself is up to that old
        took = time.monotonic() - began
        self._emit(self.event(tokens=tokens, failures=failures, seconds=took, waits=list(Watched.waits)))

    def event(self, **more: Any) -> Event:
        state = self._engine.state()
        return Event(self._finished, state.preemptions, state.speculation, **more)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(0.1)
            self._emit(self.event())

    async def _generate(
        self, name: str, prompt: list[int], load: Load, place: int, *, leave: int | None = None
    ) -> tuple[list[int], str]:
        """All tokens of one request; ``leave`` chunks into it, it is aborted."""
        chunks = self._chunks[name] = asyncio.Queue()
        domain = load.domains[place] if load.domains else ""
        sampling = Sampling(max_tokens=load.length, temperature=0.0)
        self._engine.submit(GenerateRequest(name, tuple(prompt), sampling, timeout=RUN, domain=domain))
        tokens: list[int] = []
        while True:
            if leave is not None and leave == 0:
                self._engine.abort(name)
            leave = None if leave is None else leave - 1
            chunk = await chunks.get()
            tokens += chunk.tokens
            if chunk.finish is not None:
                del self._chunks[name]
                return tokens, chunk.finish


def _tell(event: Event) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(event) + b"\n")
    sys.stdout.buffer.flush()


async def _serve(pool: PoolConfig) -> None:
    from experts.engines.vllm_engine import VllmHost

    engine = VllmHost("general", pool, drafts=WATCHED)
    host = _Host(engine, _tell)
    await engine.start(host.step)
    _tell(host.event())
    loads: set[asyncio.Task[None]] = set()
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = msgspec.json.decode(line, type=Command)
        if command.peers is not None:
            engine.use_drafts(command.peers)
        if command.load is not None:
            loads.add(asyncio.create_task(host.run(command.load)))


if __name__ == "__main__":
    asyncio.run(_serve(PoolConfig.model_validate_json(sys.argv[1])))
