"""The router actor: a ``Dispatcher`` and a ``Rollout`` on the data plane. All it adds is the clock, the socket and who
is connected."""

import asyncio
import time

import msgspec

from cluster.errors import SwitchyardError
from cluster.flags import configured
from cluster.transport import Service, Wire, epoch
from deployments.actors.process import listen_host, prepare
from deployments.config import Config, parse_json
from deployments.dataplane.background import Background
from experts.config import PoolConfig
from router.api import (
    VERSION,
    Ask,
    Cancel,
    Change,
    Changed,
    Directory,
    FromRouter,
    Hello,
    Lease,
    PoolKind,
    Refused,
    Registration,
    Release,
    Report,
    ToRouter,
    Withdraw,
)
from router.dispatch import Dispatcher, Outcome
from router.rollout import Rollout

TICK = 0.05
GATEWAY_TIMEOUT = 5.0
"""A gateway that has not greeted for so long is gone: what it asked for and held is freed (seconds)."""


class RouterActor:
    """The Serve deployment. Its only method on the control plane tells where the data plane listens."""

    _up = False
    """Serve calls the destructor of a replica that never got through its constructor, too."""

    async def __init__(self, config: str) -> None:  # type: ignore[misc]  # Serve awaits it
        prepare()
        whole = parse_json(config)
        self._desk = RouterService(whole)
        self._endpoint = self._desk.start(listen_host(whole))
        self._up = True

    async def endpoint(self) -> str:
        return self._endpoint

    async def check_health(self) -> None:
        """Called by Serve; raising makes it replace this replica."""
        self._desk.check()

    async def __del__(self) -> None:
        if self._up:
            await self._desk.stop()


class RouterService:
    """The dispatcher with a socket in front and time passing. Peers keep their identity when they connect again."""

    def __init__(self, config: Config) -> None:
        kinds: dict[str, PoolKind] = {name: _kind(pool) for name, pool in config.pools.items()}
        life = epoch()
        self._dispatcher = Dispatcher(config.router, kinds, epoch=life)
        self._rollout = Rollout(configured(config.flags), config.routes, epoch=life)
        wire: Wire[FromRouter, ToRouter] = Wire(VERSION, ToRouter)
        self._service: Service[FromRouter, ToRouter] = Service(wire, self._hear)
        self._gateways: dict[bytes, float] = {}
        self._members: dict[bytes, tuple[str, int]] = {}
        self._announced: frozenset[tuple[str, int]] = frozenset()
        self._task = Background("router clock")

    def start(self, host: str) -> str:
        endpoint = self._service.bind(host)
        self._task.start(self._tick())
        return endpoint

    def check(self) -> None:
        """Raises EngineFailed once the clock has stopped: without it no deadline would be kept."""
        self._task.check()

    async def stop(self) -> None:
        await self._task.stop()
        self._service.close()

    def _hear(self, peer: bytes, message: ToRouter) -> None:
        now = time.monotonic()
        match message:
            case Ask():
                self._gateways.setdefault(peer, now)
                self._send(self._dispatcher.ask(message, peer.hex(), now))
            case Release():
                self._send(self._dispatcher.release(message.id, now, lost=message.lost))
            case Cancel():
                self._send(self._dispatcher.cancel(message.id, now))
            case Report():
                self._send(self._dispatcher.report(message, now))
            case Hello():
                self._greet(peer, message, now)
            case Change():
                self._change(peer, message, now)
            case Registration():
                self._members[peer] = (message.replica, message.epoch)
                self._send(self._dispatcher.register(message, now))
                self._announce(now)
                self._tell_drafters(peer, message, now)
            case Withdraw():
                self._dispatcher.withdraw(message.replica, message.epoch)
                self._announce(now)

    def _greet(self, peer: bytes, hello: Hello, now: float) -> None:
        """Flags that are news here are so to others, too: an earlier life of the router may have told few."""
        self._gateways[peer] = now
        self._rollout.hear(peer.hex(), hello.tallies)
        if self._rollout.adopt(hello.flags):
            self._tell_gateways(now)
        else:
            self._service.send(peer, self._directory(now))

    def _change(self, peer: bytes, change: Change, now: float) -> None:
        """Everyone hears of it before the one who asked: a client that has its answer finds it in force."""
        try:
            flag = self._rollout.change(change)
        except SwitchyardError as error:
            self._service.send(peer, Refused(change.id, error.failure()))
            return
        self._tell_gateways(now)
        self._service.send(peer, Changed(change.id, flag))

    def _directory(self, now: float) -> Directory:
        """As gateways get it."""
        alive = self._dispatcher.directory(now)
        flags, counted = self._rollout.flags.all, self._rollout.counted(now)
        return msgspec.structs.replace(alive, flags=flags, counted=counted)

    def _tell_gateways(self, now: float) -> None:
        directory = self._directory(now)
        for peer in self._gateways:
            self._service.send(peer, directory)

    def _announce(self, now: float) -> None:
        """If other replicas live than those everyone was told of, tell everyone; who cannot be reached has left."""
        alive = self._dispatcher.alive(now)
        while alive != self._announced:
            self._announced = alive
            directory = self._dispatcher.directory(now)
            for peer in [each for each in self._members if not self._service.send(each, directory)]:
                self._dispatcher.lost(*self._members.pop(peer))
            self._tell_gateways(now)
            alive = self._dispatcher.alive(now)

    def _tell_drafters(self, peer: bytes, member: Registration, now: float) -> None:
        """How full draft replicas are changes between two announcements: a verifier hears it when it registers, which
        it does once a second."""
        if member.kind == "expert":
            whole = self._dispatcher.directory(now)
            drafting = tuple(pool for pool in whole.pools if pool.kind == "draft")
            if drafting:
                self._service.send(peer, msgspec.structs.replace(whole, pools=drafting))

    def _send(self, outcomes: list[Outcome]) -> None:
        """A lease that cannot be delivered is free again; its asker, if it comes back, asks again."""
        for outcome in outcomes:
            delivered = self._service.send(bytes.fromhex(outcome.owner), outcome.answer)
            if not delivered and isinstance(outcome.answer, Lease):
                self._send(self._dispatcher.release(outcome.answer.id, time.monotonic()))

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            now = time.monotonic()
            self._send(self._dispatcher.tick(now))
            for peer in [each for each, seen in self._gateways.items() if now - seen > GATEWAY_TIMEOUT]:
                del self._gateways[peer]
                self._rollout.forget(peer.hex())
                self._send(self._dispatcher.gone(peer.hex(), now))
            self._announce(now)


def _kind(pool: PoolConfig) -> PoolKind:
    return pool.kind
