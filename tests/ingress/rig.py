"""A gateway's surroundings, small and scripted: bytes for tokens, leases at once, replicas that say what they must."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec
from prometheus_client import CollectorRegistry

from cluster.errors import SwitchyardError
from cluster.flags import Flag, Flags, FlagsConfig, configured
from deployments.config import GatewayConfig
from deployments.ingress.server import FrontDoor, Ports
from deployments.ingress.view import ModelCard
from experts.api import Chunk, EngineLimits, EngineState, GenerateRequest
from experts.config import Speculation
from router.api import Ask, Change, Counted, Directory, Lease, PoolView, Registration, ReplicaView
from router.config import RouterConfig, Rule
from router.jobs import Conversation, Prompt
from router.rollout import Rollout
from router.router import Router

CONTEXT = 4096
POOLS = ("general", "tools")
Script = Callable[[GenerateRequest], AsyncIterator[Chunk]]


class ByteTokens:
    """One token per byte; a conversation is its messages' contents, one per line."""

    async def tokens(self, pool: str, prompt: Prompt) -> tuple[int, ...]:
        if isinstance(prompt, tuple):
            return prompt
        text = "\n".join(each.content for each in prompt.messages) if isinstance(prompt, Conversation) else prompt
        return tuple(text.encode())

    def max_context(self, pool: str) -> int:
        return CONTEXT


class LocalRollout:
    """The router's own keeping of flags, without the way there. Counts come from ``door``."""

    def __init__(self) -> None:
        routes = frozenset({*POOLS, "default"})
        self.router = Rollout(configured(FlagsConfig()), routes, epoch=1)
        self.door: FrontDoor | None = None

    @property
    def flags(self) -> Flags:
        return self.router.flags

    async def change(self, flag: Flag, expected: int | None) -> Flag:
        return self.router.change(Change("c", flag, expected))

    def counted(self) -> Counted:
        assert self.door is not None
        return Counted(1, self.door.tallies())

    def set(self, **changes: object) -> Flag:
        """Put the flag in force with these changes."""
        flag = msgspec.structs.replace(self.flags.get("speculation"), **changes)
        return self.router.change(Change("c", flag, None))


class OpenDesk:
    """Gives a lease to everyone, unless it is told what to refuse with."""

    def __init__(self, rollout: LocalRollout) -> None:
        self._rollout = rollout
        self.asked: list[Ask] = []
        self.released: list[str] = []
        self.refusal: SwitchyardError | None = None

    @property
    def flags(self) -> Flags:
        return self._rollout.flags

    async def ask(self, ask: Ask) -> Lease:
        self.asked.append(ask)
        if self.refusal is not None:
            raise self.refusal
        return Lease(ask.id, ask.pool, f"{ask.pool}#1", 1, "tcp://nowhere", ask.route, 0.002)

    def release(self, lease: Lease, *, lost: bool) -> None:
        self.released.append(lease.id)


class ScriptedPools:
    """Runs the script for each request and remembers what was asked and when each stream was closed."""

    def __init__(self) -> None:
        self.script: Script = words
        self.requests: list[GenerateRequest] = []
        self.closed: dict[str, float] = {}

    async def generate(self, lease: Lease, request: GenerateRequest) -> AsyncIterator[Chunk]:
        self.requests.append(request)
        try:
            async for chunk in self.script(request):
                yield chunk
        finally:
            self.closed[request.id] = time.perf_counter()


async def words(request: GenerateRequest) -> AsyncIterator[Chunk]:
    """``w0 w1 w2 ...``, two tokens a step of which one was drafted, to the length that was asked for (at most 64)."""
    wanted = min(request.sampling.max_tokens, 64)
    for at in range(0, wanted, 2):
        size = min(2, wanted - at)
        last = at + size >= wanted
        text = "".join(f"w{index} " for index in range(at, at + size))
        yield Chunk(
            request.id,
            tokens=tuple(range(at, at + size)),
            text=text,
            drafted=2,
            accepted=size - 1,
            finish="length" if last else None,
        )
        await asyncio.sleep(0)


def saying(text: str, *, size: int = 3) -> Script:
    """A model that writes ``text``, ``size`` characters a step, and stops."""

    async def script(request: GenerateRequest) -> AsyncIterator[Chunk]:
        for at in range(0, len(text), size):
            yield Chunk(request.id, tokens=(at,), text=text[at : at + size])
            await asyncio.sleep(0)
        yield Chunk(request.id, tokens=(0,), finish="stop")

    return script


async def endless(request: GenerateRequest) -> AsyncIterator[Chunk]:
    """One token every two milliseconds, for ever."""
    while True:
        yield Chunk(request.id, tokens=(1,), text="x")
        await asyncio.sleep(0.002)


async def mute(request: GenerateRequest) -> AsyncIterator[Chunk]:
    """A replica that never says anything."""
    await asyncio.Event().wait()
    yield Chunk(request.id)


async def flood(request: GenerateRequest) -> AsyncIterator[Chunk]:
    """More than any buffer on the way to the client holds, for ever."""
    while True:
        yield Chunk(request.id, tokens=(1,), text="x" * 65536)
        await asyncio.sleep(0)


def failing(error: SwitchyardError, *, after: int = 0) -> Script:
    """A model that fails after so many tokens."""

    async def script(request: GenerateRequest) -> AsyncIterator[Chunk]:
        for _ in range(after):
            yield Chunk(request.id, tokens=(1,), text="x")
        raise error

    return script


class FixedView:
    """Two expert pools, of which one is required, and one replica."""

    def __init__(self, rollout: LocalRollout) -> None:
        self.seen: Directory | None = directory()
        self.rollout = rollout

    def models(self) -> tuple[ModelCard, ...]:
        return (
            ModelCard("auto", "by rule"),
            ModelCard("general", "talks", CONTEXT, required=True),
            ModelCard("tools", "calls", CONTEXT),
        )

    def directory(self) -> Directory | None:
        return self.seen

    def speculation(self) -> dict[str, Speculation]:
        return {"general": Speculation(layout="split", pool="draft")}


def directory() -> Directory:
    limits = EngineLimits(CONTEXT, 8, 256)
    registration = Registration("general", "expert", "general#1", 7, "tcp://nowhere", limits, "node-a", 42)
    state = EngineState(running=3, waiting=1, kv_use=0.5, step_ms=2.5, drafted=100, accepted=80)
    return Directory(5, (PoolView("general", "expert", 2, (ReplicaView(registration, state, 4, 0.1),)),))


@dataclass
class Rig:
    """A front door with everything behind it in reach of the test."""

    ports: Ports
    door: FrontDoor
    registry: CollectorRegistry
    desk: OpenDesk
    pools: ScriptedPools
    view: FixedView
    rollout: LocalRollout

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports.http}"


@asynccontextmanager
async def front_door(config: GatewayConfig, *, request_timeout: float = 600.0) -> AsyncIterator[Rig]:
    rollout = LocalRollout()
    desk, pools, view, registry = OpenDesk(rollout), ScriptedPools(), FixedView(rollout), CollectorRegistry()
    rules = (Rule(name="tools", when=("tools",), pool="tools"),)
    settings = RouterConfig(rules=rules, request_timeout=request_timeout)
    router = Router(settings, ByteTokens(), desk, pools, frozenset(POOLS))
    door = FrontDoor(config, router, view, registry=registry, request_timeout=request_timeout)
    rollout.door = door
    ports = await door.start()
    try:
        yield Rig(ports, door, registry, desk, pools, view, rollout)
    finally:
        await door.stop(0.0)
