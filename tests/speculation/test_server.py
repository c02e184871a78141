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
    with replica(tiny, max_context=4096) as (server, peer), verifier(peer) as drafts:
        limits = server.limits
        assert (limits.max_context, limits.max_running, limits.vocabulary) == (CONTEXT, 4, VOCABULARY)
        assert (server.state().running, server.state().steps, server.state().prompt_tokens) == (0, 0, 0)
        drafts.propose([history("a", [1] * 50, 4), history("b", [1], 2)])
        state = server.state()
        assert (state.running, state.kv_use, state.steps, state.tokens) == (2, 0.5, 1, 6)
        assert state.step_ms > 0
        assert state.prompt_tokens == 49
        drafts.close(["a"])
        assert eventually(lambda: server.state().running == 1)
        assert server.healthy()
    assert not server.healthy()


def test_garbage_is_counted_and_harms_nobody(tiny, greedy):
    with replica(tiny) as (server, peer), verifier(peer) as drafts:
        socket = zmq.Context.instance().socket(zmq.DEALER)
        socket.set(zmq.LINGER, 0)
        socket.connect(peer.endpoint)
        for junk in (b"", b"\xff", b"\x01\xc1", b"\x01" + bytes(1000), b"\x09hello"):
            socket.send(junk)
        assert eventually(lambda: server.garbage == 5)
        socket.close()
        assert drafts.propose([history("a", [3, 4])]) == [greedy([3, 4], 4)]


def test_ids_it_does_not_know_are_refused_without_harm(tiny, greedy):
    with replica(tiny) as (server, peer), verifier(peer) as drafts:
        assert drafts.propose([history("a", [VOCABULARY]), history("b", [2])]) == [[], greedy([2], 4)]
        assert server.healthy()


def test_more_sessions_than_slots_are_served_as_far_as_slots_go(tiny):
    with replica(tiny, max_sessions=2) as (server, peer), verifier(peer, retry=0.0) as drafts:
        for length in range(1, 4):
            found = drafts.propose([history(name, [1] * length) for name in "abc"])
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
