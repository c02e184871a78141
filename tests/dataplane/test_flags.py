"""Flags and counts on their way between gateways and the router, which comes and goes."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import msgspec
import pytest

from cluster.errors import BadRequest, Conflict, RouterUnavailable
from cluster.flags import Flag
from cluster.tallies import Tally
from deployments.actors.gateway import Gateway
from deployments.config import GatewayConfig
from deployments.dataplane.desk import RouterDesk
from tests.dataplane.rig import Rig, config, rig, until

PORTS = GatewayConfig(http_port=0, grpc_port=0, metrics_port=0)
ASK = {"model": "general", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
REPORT = ASK | {"switchyard": {"report": True}}
CHAT = "/v1/chat/completions"


def speculation(desk: RouterDesk) -> Flag:
    return desk.flags.get("speculation")


def wanted(desk: RouterDesk, **changes: object) -> Flag:
    return msgspec.structs.replace(speculation(desk), **changes)


async def greeted(cluster: Rig, *desks: RouterDesk) -> None:
    await until(lambda: all(desk.directory is not None for desk in desks))


async def second(cluster: Rig) -> RouterDesk:
    desk = cluster.gateway("g2")
    desk.start()
    cluster.start_router()
    await greeted(cluster, cluster.desk, desk)
    return desk


async def test_a_change_at_one_gateway_is_in_force_at_the_other_within_a_second():
    async with rig(config()) as cluster:
        other = await second(cluster)
        started = time.monotonic()
        changed = await cluster.desk.change(wanted(cluster.desk, percent=20.0), 0)
        assert speculation(cluster.desk) == changed
        await until(lambda: speculation(other) == changed, 1.0)
        assert time.monotonic() - started < 1.0
        assert (changed.version, changed.percent) == (1, 20.0)


async def test_of_two_changes_to_one_version_the_second_is_a_conflict():
    async with rig(config()) as cluster:
        other = await second(cluster)
        seen = wanted(other, percent=30.0)
        await cluster.desk.change(wanted(cluster.desk, percent=20.0), 0)
        with pytest.raises(Conflict):
            await other.change(seen, 0)
        with pytest.raises(BadRequest, match="nowhere"):
            await other.change(wanted(other, routes={"nowhere": True}), 1)
        assert speculation(other).percent == 20.0


async def test_a_router_that_has_come_back_hears_the_flags_from_a_gateway_and_tells_the_others():
    async with rig(config()) as cluster:
        cluster.start_router()
        await greeted(cluster, cluster.desk)
        changed = await cluster.desk.change(wanted(cluster.desk, enabled=False), 0)
        await cluster.kill_router()
        assert speculation(cluster.desk) == changed, "the last known stay in force"
        newcomer = cluster.gateway("g2")
        newcomer.start()
        cluster.start_router()
        await until(lambda: speculation(newcomer) == changed)
        again = await newcomer.change(wanted(newcomer, enabled=True), 1)
        assert again.version == 2
        assert again.rank > changed.rank
        await until(lambda: speculation(cluster.desk) == again)


async def test_without_a_router_no_flag_can_be_changed():
    async with rig(config()) as cluster:
        with pytest.raises(RouterUnavailable):
            await cluster.desk.change(wanted(cluster.desk, percent=1.0), 0)
        assert speculation(cluster.desk).version == 0


async def test_a_router_that_does_not_answer_a_change_is_given_up_soon(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("deployments.dataplane.desk.CHANGE_TIMEOUT", 0.2)
    async with rig(config()) as cluster:
        cluster.start_router()
        await greeted(cluster, cluster.desk)
        cluster.router._service._on_message = lambda *_: None
        with pytest.raises(RouterUnavailable, match="look before"):
            await cluster.desk.change(wanted(cluster.desk, percent=1.0), 0)
        assert not cluster.desk._changes


async def test_what_two_gateways_counted_is_added_up_at_either():
    async with rig(config()) as cluster:
        cluster.counts["g1"] = (Tally("speculation", (0, 0), "on", "general", requests=3),)
        cluster.counts["g2"] = (Tally("speculation", (0, 0), "on", "general", requests=4),)
        assert cluster.desk.counted().gateways == 1, "alone, as long as there is no router"
        other = await second(cluster)
        for desk in (cluster.desk, other):
            await until(lambda desk=desk: [each.requests for each in desk.counted().tallies] == [7])
            assert desk.counted().gateways == 2
        await cluster.kill_router()
        await until(lambda: other.counted().gateways == 1)
        assert other.counted().tallies == cluster.counts["g2"]
        cluster.start_router()
        await until(lambda: other.counted().gateways == 2)
        assert [each.requests for each in other.counted().tallies] == [7]


@asynccontextmanager
async def two_gateways(cluster: Rig) -> AsyncIterator[list[httpx.AsyncClient]]:
    """Whole gateways, each with a client of its own."""
    cluster.start_router()
    await cluster.start_replica("r1")
    async with AsyncExitStack() as opened:
        clients = []
        for name in ("one", "two"):
            gateway = Gateway(cluster.config, cluster.resolve, name)
            ports = await gateway.start()
            opened.push_async_callback(gateway.stop, 0.1)
            url = f"http://127.0.0.1:{ports.http}"
            clients.append(await opened.enter_async_context(httpx.AsyncClient(base_url=url, timeout=20)))
        yield clients


async def test_the_whole_way_from_a_put_at_one_gateway_to_a_comparison_at_the_other():
    whole = config().model_copy(update={"gateway": PORTS})
    async with rig(whole) as cluster, two_gateways(cluster) as (one, two):
        assert (await two.post(CHAT, json=REPORT)).json()["switchyard"]["cohort"] == "on"
        body = {"enabled": True, "percent": 50, "tenants": {"acme": False}, "routes": {}, "version": 0}
        assert (await one.put("/admin/flags/speculation", json=body)).json()["version"] == 1
        started = time.monotonic()
        while (await two.get("/admin/flags/speculation")).json()["version"] == 0:
            assert time.monotonic() - started < 1.0
            await asyncio.sleep(0.01)
        report = (await two.post(CHAT, json=REPORT, headers={"x-switchyard-tenant": "acme"})).json()["switchyard"]
        assert (report["cohort"], report["why"]) == ("off", "tenant")
        for client in (one, two):
            await asyncio.gather(*(client.post(CHAT, json=ASK) for _ in range(10)))

        async def counted(client: httpx.AsyncClient) -> tuple[int, int]:
            found = (await client.get("/experiments/speculation")).json()
            return found["gateways"], sum(p["on"]["requests"] + p["off"]["requests"] for p in found["pools"])

        async with asyncio.timeout(5):
            while [await counted(client) for client in (one, two)] != [(3, 20)] * 2:
                await asyncio.sleep(0.05)
        stale = await two.put("/admin/flags/speculation", json=body)
        assert (stale.status_code, stale.json()["error"]["code"]) == (409, "conflict")
