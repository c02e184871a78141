"""A cluster in one process: the real router service, real engine hosts and real gateways' clients, over real sockets.

Only Ray is absent: the router's endpoint is found through a variable instead of Serve.
"""

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager

from cluster.flags import configured
from cluster.tallies import Tally
from cluster.transport import epoch
from deployments.actors.expert import EngineHost
from deployments.actors.router import RouterService
from deployments.config import Config, parse
from deployments.dataplane.desk import RouterDesk
from deployments.dataplane.membership import Member
from deployments.dataplane.pools import ReplicaPools
from experts.api import GenerateRequest, Sampling
from experts.engines.registry import build_engine
from router.api import Ask, Directory, Features, Registration, Report

LOOPBACK = "127.0.0.1"


def config(**engine: object) -> Config:
    section = {"kind": "simulated", "ttft_ms": 5, "tpot_ms": 2, "max_running": 4, **engine}
    return parse({"pools": {"general": {"model": "zoo:general", "engine": section}}})


def ask(name: str, pool: str = "general", timeout: float = 5.0) -> Ask:
    return Ask(name, pool, "named", Features(), timeout)


def request(name: str, tokens: int = 8, timeout: float = 10.0) -> GenerateRequest:
    return GenerateRequest(name, (1, 2, 3), Sampling(max_tokens=tokens), timeout)


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait for a condition, at most so long."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


class Rig:
    """Parts come and go as a test says; what is left is stopped at the end."""

    def __init__(self, whole: Config) -> None:
        self.config = whole
        self.router: RouterService | None = None
        self.endpoint: str | None = None
        self.hosts: dict[str, tuple[EngineHost, Member]] = {}
        self.counts: dict[str, tuple[Tally, ...]] = {}
        self.desks: dict[str, RouterDesk] = {}
        self.desk = self.gateway("g1")
        self.pools = ReplicaPools(stall=1.0)

    def gateway(self, name: str) -> RouterDesk:
        """The desk of one more gateway, which tells what stands in ``counts`` under its name."""
        flags = configured(self.config.flags)
        self.desks[name] = RouterDesk(self.resolve, Counting(self, name), flags=flags, gateway=name, epoch=epoch())
        return self.desks[name]

    async def resolve(self) -> str:
        if self.endpoint is None:
            raise ConnectionError("no router")
        return self.endpoint

    def start_router(self) -> None:
        self.router = RouterService(self.config)
        self.endpoint = self.router.start(LOOPBACK)

    async def kill_router(self) -> None:
        assert self.router is not None
        self.endpoint = None
        await self.router.stop()
        self.router = None

    async def start_replica(self, name: str) -> EngineHost:
        host = EngineHost(build_engine("general", self.config.pools["general"]), epoch())
        endpoint = await host.start(LOOPBACK)
        limits = host.engine.limits
        there = Registration("general", "expert", name, host.epoch, endpoint, limits, "node", 1)

        def reading(sequence: int, *, complete: bool) -> Report:
            leases = host.leases() if complete else None
            return Report(name, host.epoch, sequence, host.engine.state(), leases)

        member = Member(self.resolve, there, reading, lambda directory: None, pace=(0.02, 0.2))
        host.on_change = member.changed
        member.start()
        self.hosts[name] = (host, member)
        return host

    async def kill_replica(self, name: str) -> None:
        host, member = self.hosts.pop(name)
        await member.stop()
        host._service.close()

    def alive(self) -> set[str]:
        directory = self.desk.directory
        pools = directory.pools if directory is not None else ()
        return {view.registration.replica for pool in pools for view in pool.replicas}

    async def text(self, name: str, tokens: int = 8) -> str:
        lease = await self.desk.ask(ask(name))
        try:
            return "".join([chunk.text async for chunk in self.pools.generate(lease, request(name, tokens))])
        finally:
            self.desk.release(lease, lost=False)


class Counting:
    """A gateway whose counts a test makes up."""

    def __init__(self, rig: Rig, name: str) -> None:
        self._rig = rig
        self._name = name

    def heard(self, directory: Directory) -> None:
        """Nothing of it concerns the desk's tests."""

    def tallies(self) -> tuple[Tally, ...]:
        return self._rig.counts.get(self._name, ())


@asynccontextmanager
async def rig(whole: Config):
    made = Rig(whole)
    made.desk.start()
    made.pools.start()
    try:
        yield made
    finally:
        for host, member in made.hosts.values():
            await member.stop()
            await host.stop()
        await made.pools.stop()
        for desk in made.desks.values():
            await desk.stop()
        if made.router is not None:
            await made.router.stop()
