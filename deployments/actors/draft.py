"""A replica of a draft pool: the draft engine behind the data plane."""

import os
from typing import Any

from cluster.errors import EngineFailed
from deployments.actors.process import listen_host, node_id, prepare, replica_name, router_resolver
from deployments.config import parse_json
from deployments.dataplane.membership import Member
from deployments.scaling import ONGOING
from experts.config import DraftEngine
from router.api import Directory, Registration, Report


class DraftReplica:
    """The Serve deployment of one draft pool. Verifiers find it in the router's directory and talk to it directly."""

    _up = False
    """Serve calls the destructor of a replica that never got through its constructor, too."""

    async def __init__(self, pool: str, config: str, router: Any) -> None:  # type: ignore[misc]  # Serve awaits it
        prepare()
        from experts.models import fetched_directory
        from experts.speculation.server import DraftServer  # after prepare(): torch reads the environment

        whole = parse_json(config)
        section = whole.pools[pool]
        assert isinstance(section.engine, DraftEngine)
        self._server = DraftServer(section.engine, fetched_directory(section.model))
        endpoint = await self._server.start(listen_host(whole))
        self._registration = Registration(
            pool=pool,
            kind="draft",
            replica=replica_name(),
            epoch=self._server.life,
            endpoint=endpoint,
            limits=self._server.limits,
            node=node_id(),
            pid=os.getpid(),
        )
        pace = (whole.router.idle_interval, whole.router.idle_interval)
        self._member = Member(router_resolver(router), self._registration, self._report, _alone, pace=pace)
        self._member.start()
        self._up = True

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve when the pool scales: the sessions this replica continues."""
        return {ONGOING: self._server.state().running}

    async def check_health(self) -> None:
        """Called by Serve; raising makes it replace this replica."""
        if not self._server.healthy():
            raise EngineFailed("the draft engine can no longer serve")
        self._member.check()

    async def __del__(self) -> None:
        if not self._up:
            return
        self._member.withdraw()
        await self._member.stop()
        await self._server.stop()

    def _report(self, sequence: int, *, complete: bool) -> Report:
        leases = () if complete else None  # a draft session is no lease
        return Report(self._registration.replica, self._registration.epoch, sequence, self._server.state(), leases)


def _alone(directory: Directory) -> None:
    """A drafter needs to know nobody: it answers who asks."""
