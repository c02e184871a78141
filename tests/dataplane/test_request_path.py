"""Gateway's client, router and replicas over real sockets, with every part killed and brought back."""

import asyncio

import pytest

from cluster.errors import DeadlineExceeded, NoReplica, QueueFull, ReplicaLost, RouterUnavailable, TooLong
from experts.api import GenerateRequest, Sampling
from tests.dataplane.rig import ask, config, request, rig, until


async def test_a_request_finds_a_replica_streams_and_gives_its_lease_back():
    async with rig(config()) as cluster:
        cluster.start_router()
        host = await cluster.start_replica("r1")
        assert await cluster.text("a")
        await until(lambda: not host.leases())
        assert host.engine.state().running == 0


async def test_sixty_four_streams_at_once_all_complete_and_are_spread():
    async with rig(config()) as cluster:
        cluster.start_router()
        hosts = [await cluster.start_replica("r1"), await cluster.start_replica("r2")]
        await until(lambda: cluster.alive() == {"r1", "r2"})
        texts = await asyncio.gather(*(cluster.text(f"q{number}", 16) for number in range(64)))
        assert len(set(texts)) == 1, "same prompt, same tokens"
        assert all(host.engine.state().tokens >= 16 * 16 for host in hosts)


async def test_a_request_waits_for_the_first_replica():
    async with rig(config()) as cluster:
        cluster.start_router()
        waiting = asyncio.create_task(cluster.text("a"))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        await cluster.start_replica("r1")
        assert await asyncio.wait_for(waiting, 5)


async def test_without_any_replica_the_refusal_says_so_at_the_deadline():
    async with rig(config()) as cluster:
        cluster.start_router()
        with pytest.raises(NoReplica):
            await cluster.desk.ask(ask("a", timeout=0.3))


async def test_leaving_a_stream_aborts_it_on_the_replica():
    async with rig(config()) as cluster:
        cluster.start_router()
        host = await cluster.start_replica("r1")
        lease = await cluster.desk.ask(ask("a"))
        chunks = cluster.pools.generate(lease, request("a", tokens=2000))
        await anext(chunks)
        assert host.leases() == ("a",)
        await chunks.aclose()
        await until(lambda: not host.leases() and host.engine.state().running == 0, 1.0)


async def test_a_replica_that_dies_ends_its_streams_with_a_typed_error_and_is_forgotten():
    async with rig(config()) as cluster:
        cluster.start_router()
        await cluster.start_replica("r1")
        lease = await cluster.desk.ask(ask("a"))
        chunks = cluster.pools.generate(lease, request("a", tokens=2000))
        await anext(chunks)
        await cluster.kill_replica("r1")
        with pytest.raises(ReplicaLost):
            async for _ in chunks:
                pass
        await cluster.start_replica("r2")
        await until(lambda: cluster.alive() == {"r2"})
        assert await cluster.text("b")


async def test_a_replica_that_goes_silent_ends_its_streams_within_the_stall_timeout():
    async with rig(config(stall_after=3)) as cluster:
        cluster.start_router()
        await cluster.start_replica("r1")
        lease = await cluster.desk.ask(ask("a"))
        async with asyncio.timeout(3):
            with pytest.raises(ReplicaLost, match="sent nothing"):
                async for _ in cluster.pools.generate(lease, request("a", tokens=2000)):
                    pass


async def test_a_deadline_passes_while_generating():
    async with rig(config()) as cluster:
        cluster.start_router()
        host = await cluster.start_replica("r1")
        lease = await cluster.desk.ask(ask("a"))
        with pytest.raises(DeadlineExceeded):
            async for _ in cluster.pools.generate(lease, request("a", tokens=4000, timeout=0.5)):
                pass
        await until(lambda: not host.leases())


async def test_what_the_engine_refuses_reaches_the_caller_typed():
    async with rig(config()) as cluster:
        cluster.start_router()
        await cluster.start_replica("r1")
        lease = await cluster.desk.ask(ask("a"))
        huge = GenerateRequest("a", tuple(range(1, 5000)), Sampling(max_tokens=1), 5.0)
        with pytest.raises(TooLong):
            async for _ in cluster.pools.generate(lease, huge):
                pass


async def test_a_lease_for_an_earlier_life_is_refused_by_the_next():
    async with rig(config()) as cluster:
        cluster.start_router()
        host = await cluster.start_replica("r1")
        lease = await cluster.desk.ask(ask("a"))
        host.epoch += 1
        with pytest.raises(ReplicaLost, match="earlier life"):
            async for _ in cluster.pools.generate(lease, request("a")):
                pass


async def test_without_a_router_requests_go_on_and_the_route_says_so():
    async with rig(config()) as cluster:
        cluster.start_router()
        await cluster.start_replica("r1")
        await until(lambda: cluster.alive() == {"r1"})
        await cluster.kill_router()
        lease = await cluster.desk.ask(ask("a"))
        assert lease.route == "named:fallback"
        assert [chunk async for chunk in cluster.pools.generate(lease, request("a"))]


async def test_a_router_that_never_was_is_a_typed_error_within_its_patience():
    async with rig(config()) as cluster, asyncio.timeout(3):
        with pytest.raises(RouterUnavailable):
            await cluster.desk.ask(ask("a"))


async def test_a_router_that_comes_back_counts_what_runs_and_answers_who_still_waits():
    async with rig(config(max_running=1)) as cluster:
        cluster.start_router()
        await cluster.start_replica("r1")
        lease = await cluster.desk.ask(ask("long"))
        running = cluster.pools.generate(lease, request("long", tokens=300))
        await anext(running)
        waiting = asyncio.create_task(cluster.text("next"))
        await asyncio.sleep(0.1)
        await cluster.kill_router()
        cluster.start_router()
        await asyncio.sleep(0.3)
        assert not waiting.done(), "the only slot is still taken"
        async for _ in running:
            pass
        cluster.desk.release(lease, lost=False)
        assert await asyncio.wait_for(waiting, 5)


async def test_a_full_queue_refuses_at_once():
    small = config(max_running=1)
    small = small.model_copy(update={"router": small.router.model_copy(update={"max_queue": 1})})
    async with rig(small) as cluster:
        cluster.start_router()
        await cluster.start_replica("r1")
        await cluster.desk.ask(ask("a"))
        queued = asyncio.create_task(cluster.desk.ask(ask("b")))
        await asyncio.sleep(0.05)
        with pytest.raises(QueueFull) as refused:
            await cluster.desk.ask(ask("c"))
        assert refused.value.retry_after
        queued.cancel()


async def test_a_drained_replica_finishes_what_it_has():
    async with rig(config()) as cluster:
        cluster.start_router()
        host = await cluster.start_replica("r1")
        lease = await cluster.desk.ask(ask("a"))
        chunks = cluster.pools.generate(lease, request("a", tokens=50))
        await anext(chunks)
        cluster.hosts["r1"][1].withdraw()
        drained = asyncio.create_task(host.drain(5.0))
        with pytest.raises(NoReplica):
            await cluster.desk.ask(ask("b", timeout=0.05))
        assert [chunk async for chunk in chunks][-1].finish == "length"
        await asyncio.wait_for(drained, 1.0)
