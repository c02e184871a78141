"""Connections that break while both ends live on, and endpoints where nobody is."""

import asyncio
import socket
import time

import pytest

from cluster.errors import ReplicaLost
from cluster.transport import Link, Wire
from deployments.dataplane.membership import RouterLine
from experts.api import Chunk
from router.api import Lease
from tests.dataplane.rig import Rig, ask, config, request, rig, until


def dead_endpoint() -> str:
    """An address where nobody listens any more."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


def cut(line: RouterLine) -> None:
    """The connection breaks; neither end does."""
    assert line._link is not None
    line._link._lose()


async def known(cluster: Rig, *names: str) -> None:
    await until(lambda: cluster.alive() == set(names))


async def test_a_replica_whose_line_to_the_router_broke_is_known_again_and_stays_known():
    async with rig(config()) as cluster:
        cluster.start_router()
        await cluster.start_replica("r1")
        await known(cluster, "r1")
        for _ in range(3):
            cut(cluster.hosts["r1"][1]._line)
            await asyncio.sleep(0.3)
        await asyncio.sleep(1.5)
        assert cluster.alive() == {"r1"}
        assert await cluster.text("a")


async def test_a_replica_the_router_has_forgotten_is_known_again_by_itself():
    async with rig(config()) as cluster:
        cluster.start_router()
        host = await cluster.start_replica("r1")
        await known(cluster, "r1")
        cluster.router._dispatcher.lost("r1", host.epoch)
        await known(cluster)
        await known(cluster, "r1")
        assert await cluster.text("a")


async def test_a_draining_replica_stays_withdrawn_whatever_happens_to_its_line_or_the_router():
    async with rig(config()) as cluster:
        cluster.start_router()
        await cluster.start_replica("r1")
        await known(cluster, "r1")
        member = cluster.hosts["r1"][1]
        member.withdraw()
        await known(cluster)
        cut(member._line)
        await cluster.kill_router()
        cluster.start_router()
        await asyncio.sleep(1.5)
        assert cluster.alive() == set()


async def test_a_gateway_whose_line_broke_keeps_its_leases():
    async with rig(config(max_running=1)) as cluster:
        cluster.start_router()
        await cluster.start_replica("r1")
        lease = await cluster.desk.ask(ask("a"))
        cut(cluster.desk._line)
        await asyncio.sleep(6.0)
        waiting = asyncio.create_task(cluster.desk.ask(ask("b")))
        await asyncio.sleep(0.3)
        assert not waiting.done(), "the only place is still taken"
        cluster.desk.release(lease, lost=False)
        await asyncio.wait_for(waiting, 2)


async def test_a_request_queued_while_the_line_broke_is_answered_once():
    async with rig(config(max_running=1)) as cluster:
        cluster.start_router()
        await cluster.start_replica("r1")
        first = await cluster.desk.ask(ask("a"))
        waiting = asyncio.create_task(cluster.desk.ask(ask("b")))
        await asyncio.sleep(0.1)
        cut(cluster.desk._line)
        await asyncio.sleep(0.5)
        cluster.desk.release(first, lost=False)
        second = await asyncio.wait_for(waiting, 2)
        cluster.desk.release(second, lost=False)
        await until(lambda: all(view.reserved == 0 for pool in cluster.desk.directory.pools for view in pool.replicas))
        assert second.replica == "r1"


async def test_a_lease_for_an_address_where_nobody_is_ends_at_once():
    async with rig(config()) as cluster:
        lease = Lease("a", "general", "gone", 1, dead_endpoint(), "named", 0.0)
        started = time.monotonic()
        with pytest.raises(ReplicaLost):
            async for _ in cluster.pools.generate(lease, request("a")):
                pass
        assert time.monotonic() - started < cluster.pools._stall


async def test_a_line_does_not_stick_to_an_address_where_nobody_is():
    async with rig(config()) as cluster:
        living = cluster.resolve
        answers = [dead_endpoint()]

        async def resolve() -> str:
            return answers.pop() if answers else await living()

        cluster.resolve = resolve
        cluster.start_router()
        await cluster.start_replica("r1")
        await known(cluster, "r1")
        assert answers == []


async def test_a_peer_that_sends_what_cannot_be_read_loses_the_link_and_not_the_loop():
    async with rig(config()) as cluster:
        host = await cluster.start_replica("r1")
        lost: list[int] = []
        link: Link = Link(Wire(1, Chunk), host._service.endpoint, lambda _: None, on_lost=lambda: lost.append(1))
        link.send(b"hello")
        await asyncio.sleep(0.1)
        peers: list[bytes] = []
        host._service._on_message = lambda peer, _: peers.append(peer)
        host._service._wire._decoder = Wire(1, bytes)._decoder
        link.send(b"hello")
        await until(lambda: bool(peers))
        host._service._watched.socket.send_multipart([peers[0], b"\x01garbage"])
        await until(lambda: lost == [1])
        assert link.closed
