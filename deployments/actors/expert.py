"""A replica of an expert pool: an engine behind the data plane.

The gateways submit to it directly; Serve only places it, watches it and drains it. Each engine step becomes one frame
per gateway.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Sequence
from typing import Any

from cluster.errors import EngineFailed, ReplicaLost, SwitchyardError
from cluster.transport import Service, Wire, epoch
from deployments.actors.process import listen_host, node_id, prepare, replica_name, router_resolver
from deployments.config import parse_json
from deployments.dataplane.membership import Member
from deployments.scaling import ONGOING
from experts.api import Chunk, DraftPeer, Engine
from experts.messages import VERSION, Abort, Frame, Submit, ToGateway, ToReplica
from router.api import Directory, Registration, ReplicaView, Report
from router.dispatch import peers

log = logging.getLogger(__name__)


class ExpertReplica:
    """The Serve deployment of one expert pool."""

    _up = False
    """Serve calls the destructor of a replica that never got through its constructor, too."""

    async def __init__(self, pool: str, config: str, router: Any) -> None:  # type: ignore[misc]  # Serve awaits it
        prepare()
        from experts.engines.registry import build_engine  # after prepare(): the runtime reads the environment

        whole = parse_json(config)
        self._config = whole.pools[pool]
        self._host = EngineHost(build_engine(pool, self._config), epoch())
        endpoint = await self._host.start(listen_host(whole))
        self._registration = Registration(
            pool=pool,
            kind="expert",
            replica=replica_name(),
            epoch=self._host.epoch,
            endpoint=endpoint,
            limits=self._host.engine.limits,
            node=node_id(),
            pid=os.getpid(),
        )
        pace = (whole.router.report_interval, whole.router.idle_interval)
        self._member = Member(router_resolver(router), self._registration, self._report, self._meet, pace=pace)
        self._host.on_change = self._change
        self._member.start()
        self._up = True

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve when the pool scales."""
        state = self._host.engine.state()
        return {ONGOING: state.running + state.waiting}

    async def check_health(self) -> None:
        """Called by Serve; raising makes it replace this replica."""
        if not self._host.engine.healthy():
            raise EngineFailed("the engine can no longer serve")
        self._member.check()

    async def __del__(self) -> None:
        """Serve stops this replica: take nothing new, finish the streams, then end the engine."""
        if not self._up:
            return
        self._member.withdraw()
        await self._host.drain(self._config.drain_s)
        await self._member.stop()
        await self._host.stop()

    def _change(self) -> None:
        """A replica whose engine has died would look idle, and so attract all work until Serve replaces it."""
        if not self._host.engine.healthy():
            self._member.withdraw()
        self._member.changed()

    def _report(self, sequence: int, *, complete: bool) -> Report:
        leases = self._host.leases() if complete else None
        return Report(self._registration.replica, self._host.epoch, sequence, self._host.engine.state(), leases)

    def _meet(self, directory: Directory) -> None:
        pool = self._config.speculation.pool
        if pool is not None:
            self._host.engine.use_drafts([_peer(view) for view in peers(directory, pool)])


def _peer(view: ReplicaView) -> DraftPeer:
    """A draft replica as verifiers know it: it is as full as its cache of sessions."""
    who = view.registration
    return DraftPeer(who.replica, who.epoch, who.endpoint, load=view.state.kv_use)


class EngineHost:
    """Connects one engine with the gateways that use it."""

    def __init__(self, engine: Engine, life: int) -> None:
        self.engine = engine
        self.epoch = life
        self.on_change = _nothing
        self._owners: dict[str, bytes] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        wire: Wire[ToGateway, ToReplica] = Wire(VERSION, ToReplica)
        self._service: Service[ToGateway, ToReplica] = Service(wire, self._hear)

    async def start(self, host: str) -> str:
        await self.engine.start(self._step)
        return self._service.bind(host)

    async def drain(self, limit: float) -> None:
        """Wait until nothing runs, at most ``limit`` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await self._idle.wait()

    async def stop(self) -> None:
        for request in list(self._owners):
            self.engine.abort(request)
        await self.engine.stop()
        self._service.close()

    def leases(self) -> tuple[str, ...]:
        return tuple(self._owners)

    def _hear(self, peer: bytes, message: ToReplica) -> None:
        if isinstance(message, Abort):
            self.engine.abort(message.id)
            return
        try:
            self._submit(peer, message)
        except SwitchyardError as error:
            refused = Chunk(message.request.id, finish="error", error=error.failure())
            self._service.send(peer, Frame(self.epoch, (refused,)))

    def _submit(self, peer: bytes, message: Submit) -> None:
        if message.epoch != self.epoch:
            raise ReplicaLost("the request was meant for an earlier life of this replica")
        self.engine.submit(message.request)
        self._owners[message.request.id] = peer
        self._idle.clear()
        self.on_change()

    def _step(self, chunks: Sequence[Chunk]) -> None:
        """One engine step: one frame for each gateway that has a request in it."""
        frames: dict[bytes, list[Chunk]] = {}
        for chunk in chunks:
            owner = self._owners.get(chunk.id)
            if owner is None:
                continue
            frames.setdefault(owner, []).append(chunk)
            if chunk.finish is not None:
                del self._owners[chunk.id]
        if not self._owners:
            self._idle.set()
        for owner, mine in frames.items():
            if not self._service.send(owner, Frame(self.epoch, tuple(mine))):
                self._forsake(owner)
        self.on_change()

    def _forsake(self, owner: bytes) -> None:
        """A gateway is gone or does not read: nobody wants its requests any more."""
        abandoned = [request for request, each in self._owners.items() if each == owner]
        log.warning("a gateway is gone; aborting its %d requests", len(abandoned))
        for request in abandoned:
            self.engine.abort(request)


def _nothing() -> None:
    """What an engine host tells before anyone listens."""
