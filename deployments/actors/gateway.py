"""A gateway replica: the front door, the one pipeline behind it, and the data plane to router and replicas."""

from typing import Any

from cluster.flags import configured
from cluster.tallies import Tally
from cluster.transport import epoch
from deployments.actors.process import prepare, replica_name, router_resolver
from deployments.config import Config, parse_json
from deployments.dataplane.desk import RouterDesk
from deployments.dataplane.membership import Resolve
from deployments.dataplane.pools import ReplicaPools
from deployments.ingress.prompts import PoolPrompts
from deployments.ingress.server import FrontDoor, Ports
from deployments.ingress.view import ConfiguredView
from router.api import Directory
from router.router import Router


class GatewayReplica:
    """The Serve deployment. Serve places and drains it; requests come in through ports of its own."""

    _up = False
    """Serve calls the destructor of a replica that never got through its constructor, too."""

    async def __init__(self, config: str, router: Any, pools: list[Any]) -> None:  # type: ignore[misc]  # Serve awaits it
        """``pools`` are the handles that tie the pools to this application; requests never go through them."""
        prepare()
        self._pools = pools
        self._config = parse_json(config)
        self._gateway = Gateway(self._config, router_resolver(router), replica_name())
        self._ports = await self._gateway.start()
        self._up = True

    async def ports(self) -> Ports:
        """Where it listens, for whoever asked for any free port."""
        return self._ports

    async def check_health(self) -> None:
        """Called by Serve; raising makes it replace this replica."""
        self._gateway.check()

    async def __del__(self) -> None:
        if self._up:
            await self._gateway.stop(self._config.gateway.drain_s)


class Gateway:
    """Everything a gateway is, without Ray."""

    def __init__(self, config: Config, resolve: Resolve, name: str) -> None:
        self._desk = RouterDesk(resolve, self, flags=configured(config.flags), gateway=name, epoch=epoch())
        self._replicas = ReplicaPools(stall=config.gateway.stall_timeout)
        prompts = PoolPrompts(config.pools)
        experts = frozenset(pool for pool, section in config.pools.items() if section.kind == "expert")
        router = Router(config.router, prompts, self._desk, self._replicas, experts)
        view = ConfiguredView(config.pools, prompts.max_context, lambda: self._desk.directory, self._desk)
        self._door = FrontDoor(config.gateway, router, view, request_timeout=config.router.request_timeout)

    async def start(self) -> Ports:
        self._desk.start()
        self._replicas.start()
        return await self._door.start()

    def check(self) -> None:
        """Raises EngineFailed if a part that must always run has ended."""
        self._desk.check()
        self._replicas.check()

    async def stop(self, grace: float) -> None:
        """Drain the front door, then leave the data plane."""
        await self._door.stop(grace)
        await self._replicas.stop()
        await self._desk.stop()

    def heard(self, directory: Directory) -> None:
        """The desk's word of who is alive."""
        self._replicas.prune(directory)
        self._door.hear(directory)

    def tallies(self) -> tuple[Tally, ...]:
        """What this gateway has counted for the experiments."""
        return self._door.tallies()
