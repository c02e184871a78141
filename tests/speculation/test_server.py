import asyncio
import os
import time

import pytest
import zmq

from cluster.errors import ConfigError, EngineFailed, ModelCorrupt
from experts.config import DraftEngine
from experts.speculation.server import DraftServer
from tests.speculation.conftest import CONTEXT
from tests.speculation.models import VOCABULARY, checkpoint
from tests.speculation.peers import HOST, history, replica, verifier


def eventually(condition, seconds=5.0):
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
    return condition()


def test_it_tells_its_limits_and_its_load(tiny):
    with replica(tiny, max_context=4096, branches=0) as (server, peer), verifier(peer) as drafts:
        limits = server.limits
        assert (limits.max_context, limits.max_running, limits.vocabulary) == (CONTEXT, 4, VOCABULARY)
        assert (server.state().running, server.state().steps, server.state().prompt_tokens) == (0, 0, 0)
        found = drafts.propose([history("a", [1] * 50, 4), history("b", [1], 2)]).drafts
        assert [len(row) for row in found] == [0, 2]
        assert eventually(lambda: server.state().prompt_tokens == 49)
        state = server.state()
        assert (state.running, state.waiting, state.kv_use, state.steps, state.tokens) == (2, 0, 0.5, 1, 2)
        assert state.step_ms > 0
        drafts.close(["a"])
        assert eventually(lambda: server.state().running == 1)
        assert server.healthy()
    assert not server.healthy()


def test_drafts_made_ahead_are_taken_and_are_what_asking_would_have_brought(tmp_path, greedy):
    checkpoint(tmp_path, sure=3.0, max_position_embeddings=CONTEXT)
    with replica(tmp_path) as (server, peer), verifier(peer) as drafts:
        text, hits = [1, 2, 3], 0
        for _ in range(20):
            before = server.state().tokens
            proposal = drafts.propose([history("a", text)])
            assert proposal.drafts == [greedy(text, len(proposal.drafts[0]))]
            told = before + 4 * proposal.misses
            assert eventually(lambda told=told: server.state().tokens > told)
            hits += proposal.hits
            text += greedy(text, len(proposal.drafts[0]) + 1)
        assert hits > 5


def test_it_accounts_for_every_verifier(tiny):
    with (
        replica(tiny, branches=0) as (server, peer),
        verifier(peer, epoch=1) as first,
        verifier(peer, epoch=2) as second,
    ):
        assert server.shares() == ()
        for length in range(1, 5):
            first.propose([history("a", [1] * length)])
        second.propose([history("a", [1])])
        assert eventually(lambda: [share.answered for share in server.shares()] == [4, 1])
        shares = {share.epoch: share for share in server.shares()}
        assert [shares[epoch].asks for epoch in (1, 2)] == [4, 1]
        assert eventually(lambda: all(share.compute > 0 for share in server.shares()))


def test_garbage_is_counted_and_harms_nobody(tiny, greedy):
    with replica(tiny) as (server, peer), verifier(peer) as drafts:
        socket = zmq.Context.instance().socket(zmq.DEALER)
        socket.set(zmq.LINGER, 0)
        socket.connect(peer.endpoint)
        for junk in (b"", b"\xff", b"\x01\xc1", b"\x01" + bytes(1000), b"\x09hello"):
            socket.send(junk)
        assert eventually(lambda: server.garbage == 5)
        socket.close()
        assert drafts.propose([history("a", [3, 4])]).drafts == [greedy([3, 4], 4)]


def test_ids_it_does_not_know_are_refused_without_harm(tiny, greedy):
    with replica(tiny) as (server, peer), verifier(peer) as drafts:
        assert drafts.propose([history("a", [VOCABULARY]), history("b", [2])]).drafts == [[], greedy([2], 4)]
        assert server.healthy()


def test_more_sessions_than_slots_are_served_as_far_as_slots_go(tiny):
    with replica(tiny, max_sessions=2) as (server, peer), verifier(peer, retry=0.0) as drafts:
        for length in range(1, 4):
            found = drafts.propose([history(name, [1] * length) for name in "abc"]).drafts
            assert [len(row) for row in found] == [4, 4, 0]
        assert server.state().kv_use == 1.0


def test_the_first_ask_is_not_slower_than_the_rest(tiny):
    with replica(tiny) as (_, peer), verifier(peer) as drafts:
        waits = []
        for step in range(20):
            before = drafts.stats().wait
            drafts.propose([history("a", [1] * (step + 1))])
            waits.append(drafts.stats().wait - before)
        assert waits[0] < 20 * sorted(waits)[10]


def test_it_sleeps_when_nobody_asks(tiny):
    with replica(tiny):
        before = time.process_time()
        time.sleep(1.0)
        assert time.process_time() - before < 0.1


def test_only_its_compute_thread_is_pinned(tiny):
    available = os.sched_getaffinity(0)
    with replica(tiny, cores=(1000,)) as (server, _):
        assert server._thread is not None
        pinned = os.sched_getaffinity(server._thread.native_id)
        assert pinned == {sorted(available)[1000 % len(available)]}
        assert os.sched_getaffinity(0) == available


async def test_where_it_cannot_listen_it_does_not_start(tiny):
    server = DraftServer(DraftEngine(), tiny)
    with pytest.raises(EngineFailed, match="cannot start"):
        await server.start("no.such.host.invalid")
    assert not server.healthy()
    await server.stop()


async def test_a_stop_does_not_wait_for_a_message(tiny):
    server = DraftServer(DraftEngine(max_context=320), tiny)
    await server.start(HOST)
    await asyncio.wait_for(server.stop(), 5.0)
    assert not server.healthy()
    await server.stop()


async def test_what_cannot_be_loaded_is_reported_by_start(tmp_path):
    server = DraftServer(DraftEngine(), tmp_path)
    with pytest.raises(EngineFailed, match="not started"):
        _ = server.limits
    with pytest.raises(ConfigError, match=r"config\.json"):
        await server.start(HOST)
    assert not server.healthy()
    await server.stop()
    checkpoint(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ModelCorrupt):
        await DraftServer(DraftEngine(), tmp_path).start(HOST)
