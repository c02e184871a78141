"""The message bus over real sockets."""

import asyncio

import msgspec
import pytest

from cluster.errors import ProtocolError
from cluster.transport import Link, Service, Wire


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
