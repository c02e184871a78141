"""The message bus over real sockets."""

import asyncio
import threading
import time

import msgspec
import pytest
import zmq

from cluster.errors import ProtocolError
from cluster.transport import BlockingLink, BlockingService, Link, Service, Wire, wait


class Say(msgspec.Struct, frozen=True, tag=True):
    text: str


class Echo(msgspec.Struct, frozen=True, tag=True):
    text: str


async def until(condition, seconds: float = 5.0) -> None:
    """Wait for a condition, at most so long."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


def service(port: int = 0, garbage: list | None = None) -> Service:
    def answer(peer: bytes, message: Say) -> None:
        bus.send(peer, Echo(message.text.upper()))

    heard = (lambda peer, error: garbage.append(error)) if garbage is not None else None
    bus: Service = Service(Wire(1, Say), answer, on_garbage=heard)
    bus.bind("127.0.0.1", port)
    return bus


async def test_messages_go_there_and_back_in_order():
    bus, heard = service(), []
    link: Link = Link(Wire(1, Echo), bus.endpoint, heard.append)
    for number in range(1000):
        assert link.send(Say(f"n{number}"))
    await until(lambda: len(heard) == 1000)
    assert [each.text for each in heard] == [f"N{number}" for number in range(1000)]
    link.close()
    bus.close()


async def test_a_peer_of_another_version_is_noticed_and_not_answered():
    garbage: list = []
    bus, heard = service(garbage=garbage), []
    link: Link = Link(Wire(2, Echo), bus.endpoint, heard.append)
    link.send(Say("hello"))
    await until(lambda: bool(garbage))
    assert "version 2, not 1" in str(garbage[0])
    assert heard == []
    link.close()
    bus.close()


@pytest.mark.parametrize("frame", [b"", b"\x01", b"\x01garbage", b"\x01\x93\x01\x02\x03"])
def test_malformed_frames_raise_protocol_errors(frame):
    with pytest.raises(ProtocolError):
        Wire(1, Say).unpack(frame)


async def test_a_lost_service_is_told_once_and_the_link_is_closed():
    bus, lost = service(), []
    link: Link = Link(Wire(1, Echo), bus.endpoint, lambda message: None, on_lost=lambda: lost.append(1))
    link.send(Say("hello"))
    await asyncio.sleep(0.1)
    bus.close()
    await until(lambda: bool(lost))
    await asyncio.sleep(0.1)
    assert lost == [1]
    assert link.closed
    assert not link.send(Say("anyone?"))


async def test_a_service_knows_that_a_peer_is_gone():
    peers: list[bytes] = []
    bus: Service = Service(Wire(1, Say), lambda peer, message: peers.append(peer))
    bus.bind("127.0.0.1")
    link: Link = Link(Wire(1, Echo), bus.endpoint, lambda message: None)
    link.send(Say("hello"))
    await until(lambda: bool(peers))
    assert bus.send(peers[0], Echo("hi"))
    link.close()
    await until(lambda: not bus.send(peers[0], Echo("still there?")))
    bus.close()


@pytest.fixture
def pair():
    """A service and a link for threads without an event loop, connected."""
    bus: BlockingService = BlockingService(Wire(1, Say), "127.0.0.1")
    link: BlockingLink = BlockingLink(Wire(1, Echo), bus.endpoint)
    for _ in range(500):
        if link.send(Say("first")):
            break
        time.sleep(0.01)
    assert bus.receive(5.0) is not None
    yield bus, link
    link.close()
    bus.close()


def test_a_thread_receives_works_and_answers_without_an_event_loop(pair):
    bus, link = pair
    for number in range(100):
        assert link.send(Say(f"n{number}"))
    for number in range(100):
        peer, message = bus.receive(5.0)
        assert message == Say(f"n{number}")
        assert bus.send(peer, Echo(message.text.upper()))
    assert wait([link], 5.0) == [link]
    assert link.receive() == Echo("N0")


def test_receiving_ends_with_the_time_or_at_once(pair):
    bus, _ = pair
    began = time.monotonic()
    assert bus.receive() is None
    assert time.monotonic() - began < 0.05
    assert bus.receive(0.1) is None
    assert 0.05 < time.monotonic() - began < 2.0


def test_garbage_is_counted_and_what_follows_is_read(pair):
    bus, link = pair
    for junk in ([b""], [b"\x09version"], [b"\x01\xc1"], [b"two", b"frames"]):
        link.socket.send_multipart(junk)
    link.send(Say("sense"))
    assert [bus.receive(5.0) for _ in range(4)] == [None] * 4
    assert bus.garbage == 4
    assert bus.receive(5.0)[1] == Say("sense")


def test_a_waiting_thread_is_woken_from_another(pair):
    bus, _ = pair
    ended = []
    thread = threading.Thread(target=lambda: ended.append(bus.receive(None)))
    thread.start()
    time.sleep(0.05)
    assert ended == []
    bus.wake()
    thread.join(5.0)
    assert ended == [None]
    bus.wake()
    assert bus.receive(None) is None


def test_a_peer_that_is_gone_is_noticed_when_sent_to(pair):
    bus, link = pair
    link.send(Say("hello"))
    peer, _ = bus.receive(5.0)
    assert bus.send(peer, Echo("hi"))
    link.close()
    until = time.monotonic() + 5.0
    while bus.send(peer, Echo("anyone?")) and time.monotonic() < until:
        time.sleep(0.01)
    assert not bus.send(peer, Echo("anyone?"))


def test_closing_twice_and_waking_what_is_closed_do_no_harm():
    bus: BlockingService = BlockingService(Wire(1, Say), "127.0.0.1")
    bus.close()
    bus.close()
    bus.wake()
    with pytest.raises(zmq.ZMQError):
        bus.receive()
