"""The message bus of the data plane: ZMQ sockets carrying versioned msgpack records, driven by the event loop.

A ``Service`` (ZMQ ROUTER) listens; any number of ``Link``s (ZMQ DEALER) connect to it. Both are plain ZMQ sockets whose
file descriptor the event loop watches: unlike ``zmq.asyncio`` a send costs no future, and a burst is read in one go.
Sends never block. Loss shows as a disconnect (ZMTP heartbeats find silent peers), never as a hang.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import msgspec
import zmq
from zmq.utils.monitor import recv_monitor_message

from cluster.errors import ProtocolError

In = TypeVar("In")
Out = TypeVar("Out")

HEARTBEAT_MS = 500
HEARTBEAT_TIMEOUT_MS = 2000
CONNECT_TIMEOUT_MS = 2000
SEND_BOUND = 10_000
"""Messages queued towards one peer before it counts as lost."""


_LOSSES = zmq.EVENT_DISCONNECTED | zmq.EVENT_CONNECT_RETRIED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
"""What ends a link; the second is ZMQ's word for a connect that failed and is about to be tried again."""

log = logging.getLogger(__name__)


class Wire(Generic[Out, In]):
    """Packs what goes out and unpacks what comes in; the first byte is the protocol's version."""

    def __init__(self, version: int, inbound: Any) -> None:
        self._mark = bytes([version])
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[In] = msgspec.msgpack.Decoder(inbound)

    def pack(self, message: Out) -> bytes:
        return self._mark + self._encoder.encode(message)

    def unpack(self, frame: bytes) -> In:
        """Raises ProtocolError for another version or a malformed record."""
        if frame[:1] != self._mark:
            raise ProtocolError(f"peer speaks protocol version {frame[0] if frame else 'none'}, not {self._mark[0]}")
        try:
            return self._decoder.decode(memoryview(frame)[1:])
        except msgspec.MsgspecError as error:
            raise ProtocolError(f"undecodable message: {error}") from error


def epoch() -> int:
    """A number unique to this life of a process and larger than that of any earlier life on this host."""
    return time.time_ns()


def _configured(context: zmq.Context[zmq.Socket[bytes]], kind: int) -> zmq.Socket[bytes]:
    socket = context.socket(kind)
    socket.set(zmq.LINGER, 0)
    socket.set(zmq.SNDHWM, SEND_BOUND)
    socket.set(zmq.RCVHWM, SEND_BOUND)
    socket.set(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    socket.set(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
    return socket


def _number(socket: zmq.Socket[bytes], option: int) -> int:
    """An integer socket option (pyzmq types all options as int or bytes)."""
    value = socket.get(option)
    assert isinstance(value, int)
    return value


def _listening(host: str, port: int) -> tuple[zmq.Socket[bytes], str]:
    """A bound ROUTER and its endpoint. A peer that is gone shows when sent to, and one that connects again with the
    same identity takes the place of its former connection."""
    socket = _configured(zmq.Context.instance(), zmq.ROUTER)
    socket.set(zmq.ROUTER_MANDATORY, 1)
    socket.set(zmq.ROUTER_HANDOVER, 1)
    if ":" in host:
        socket.set(zmq.IPV6, 1)
        host = f"[{host}]"
    try:
        socket.bind(f"tcp://{host}:{port or '*'}")
    except zmq.ZMQError:
        socket.close()
        raise
    return socket, socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")


class _Watched:
    """A ZMQ socket on an event loop. ZMQ's descriptor is edge-triggered: every send may swallow the edge that a
    message arrived on, so after each send the socket is looked at once more."""

    def __init__(self, socket: zmq.Socket[bytes], ready: Callable[[], None]) -> None:
        self.socket = socket
        self._ready = ready
        self._loop = asyncio.get_running_loop()
        self._descriptor = _number(socket, zmq.FD)
        self._again = False
        self._loop.add_reader(self._descriptor, ready)
        self.look_again()

    def look_again(self) -> None:
        if not self._again:
            self._again = True
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        self._again = False
        if not self.socket.closed and _number(self.socket, zmq.EVENTS) & zmq.POLLIN:
            self._ready()

    def send(self, *frames: bytes) -> bool:
        """False if the socket is closed, the peer is gone or the queue towards it is full."""
        if self.socket.closed:
            return False
        try:
            self.socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.ZMQError:
            return False
        finally:
            self.look_again()
        return True

    def close(self) -> None:
        if not self.socket.closed:
            self._loop.remove_reader(self._descriptor)
            self.socket.close()


class Service(Generic[Out, In]):
    """The listening side. ``on_message(peer, message)`` runs on the event loop; ``peer`` addresses the answer."""

    def __init__(
        self,
        wire: Wire[Out, In],
        on_message: Callable[[bytes, In], None],
        *,
        on_garbage: Callable[[bytes, ProtocolError], None] | None = None,
    ) -> None:
        self._wire = wire
        self._on_message = on_message
        self._on_garbage = on_garbage
        self._watched: _Watched | None = None
        self.endpoint = ""

    def bind(self, host: str, port: int = 0) -> str:
        """Listen and return the endpoint peers connect to. Port 0: any free one."""
        socket, self.endpoint = _listening(host, port)
        self._watched = _Watched(socket, self._drain)
        return self.endpoint

    def send(self, peer: bytes, message: Out) -> bool:
        """Queue a message. False if the peer is gone or its queue is full."""
        return self._watched is not None and self._watched.send(peer, self._wire.pack(message))

    def close(self) -> None:
        if self._watched is not None:
            self._watched.close()

    def _drain(self) -> None:
        assert self._watched is not None
        try:
            while not self._watched.socket.closed:
                try:
                    peer, frame = self._watched.socket.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    return
                except ValueError:
                    continue
                self._deliver(peer, frame)
        finally:
            self._watched.look_again()

    def _deliver(self, peer: bytes, frame: bytes) -> None:
        try:
            message = self._wire.unpack(frame)
        except ProtocolError as error:
            if self._on_garbage is None:
                log.warning("a peer sent what cannot be read: %s", error.message)
            else:
                self._on_garbage(peer, error)
            return
        self._on_message(peer, message)


class Link(Generic[Out, In]):
    """The connecting side. ``on_lost`` runs once: when the connection goes down, cannot be made, or brings what cannot
    be read. ``identity`` lets the service recognise a peer that connects again; None: a new one each time."""

    def __init__(
        self,
        wire: Wire[Out, In],
        endpoint: str,
        on_message: Callable[[In], None],
        *,
        on_lost: Callable[[], None] | None = None,
        identity: bytes | None = None,
    ) -> None:
        self.endpoint = endpoint
        self._wire = wire
        self._on_message = on_message
        self._on_lost = on_lost
        socket = _configured(zmq.Context.instance(), zmq.DEALER)
        socket.set(zmq.CONNECT_TIMEOUT, CONNECT_TIMEOUT_MS)
        if identity is not None:
            socket.set(zmq.ROUTING_ID, identity)
        if "[" in endpoint:
            socket.set(zmq.IPV6, 1)
        monitor = socket.get_monitor_socket(_LOSSES)
        self._monitor = _Watched(monitor, self._on_event)
        socket.connect(endpoint)
        self._watched = _Watched(socket, self._drain)

    def send(self, message: Out) -> bool:
        """Queue a message. False once closed or if the queue towards the peer is full."""
        return self._watched.send(self._wire.pack(message))

    def close(self) -> None:
        if not self._watched.socket.closed:
            # In this order: the monitor says goodbye to whoever reads it, and waits for ever if nobody does any more.
            self._watched.socket.disable_monitor()
            self._monitor.close()
            self._watched.close()

    @property
    def closed(self) -> bool:
        return self._watched.socket.closed

    def _drain(self) -> None:
        try:
            while not self._watched.socket.closed:
                frame = self._watched.socket.recv(zmq.NOBLOCK)
                self._on_message(self._wire.unpack(frame))
        except zmq.Again:
            pass
        except ProtocolError as error:
            log.warning("%s sent what cannot be used: %s", self.endpoint, error.message)
            self._lose()
        finally:
            self._watched.look_again()

    def _on_event(self) -> None:
        """ZMQ would go on connecting, but a new life of the peer is a new link."""
        while not self._monitor.socket.closed and _number(self._monitor.socket, zmq.EVENTS) & zmq.POLLIN:
            recv_monitor_message(self._monitor.socket)
            self._lose()

    def _lose(self) -> None:
        if self._watched.socket.closed:
            return
        self.close()
        if self._on_lost is not None:
            self._on_lost()


class BlockingService(Generic[Out, In]):
    """The listening side for a thread that has no event loop: it receives, works and answers by itself. All methods
    belong to one thread, or to another after that one has ended, except ``wake``. What cannot be read is counted in
    ``garbage`` and logged."""

    def __init__(self, wire: Wire[Out, In], host: str, port: int = 0) -> None:
        """Listens at once. Port 0: any free one."""
        self._wire = wire
        self._socket, self.endpoint = _listening(host, port)
        self._closing = threading.Lock()
        self._woken = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._woken, zmq.POLLIN)
        self.garbage = 0

    def receive(self, timeout: float | None = 0.0) -> tuple[bytes, In] | None:
        """The next message and the peer to answer, after at most ``timeout`` seconds (None: however long it takes).
        None if time is up, after a ``wake``, or if what arrived first was garbage."""
        try:
            frames = self._socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            if timeout == 0.0 or not self._await(timeout):
                return None
            frames = self._socket.recv_multipart(zmq.NOBLOCK)
        if len(frames) != 2:
            self._refuse(frames[0], f"a message of {len(frames) - 1} frames")
            return None
        try:
            return frames[0], self._wire.unpack(frames[1])
        except ProtocolError as error:
            self._refuse(frames[0], error.message)
            return None

    def send(self, peer: bytes, message: Out) -> bool:
        """Queue a message. False if the peer is gone or its queue is full."""
        try:
            self._socket.send_multipart((peer, self._wire.pack(message)), zmq.NOBLOCK)
        except zmq.ZMQError:
            return False
        return True

    def wake(self) -> None:
        """End the ``receive`` that is waiting, or else the next that would. From any thread, at any time."""
        with self._closing:
            if not self._socket.closed:
                os.eventfd_write(self._woken, 1)

    def close(self) -> None:
        with self._closing:
            if not self._socket.closed:
                self._socket.close()
                os.close(self._woken)

    def _await(self, timeout: float | None) -> bool:
        """Whether a message came, and not a wake or the end of the time."""
        ready = dict(self._poller.poll(None if timeout is None else int(max(0.0, timeout) * 1000)))
        if self._woken in ready:
            os.eventfd_read(self._woken)
            return False
        return self._socket in ready

    def _refuse(self, peer: bytes, reason: str) -> None:
        self.garbage += 1
        log.warning("peer %s sent what cannot be read: %s", peer.hex(), reason)


class BlockingLink(Generic[Out, In]):
    """The connecting side for code that has no event loop and may wait, but never long (see ``wait``).

    Nothing is queued for a peer that is not connected: ``send`` says so at once. ZMQ reconnects by itself. A message
    longer than ``largest`` bytes drops the connection. Not thread-safe.
    """

    def __init__(self, wire: Wire[Out, In], endpoint: str, *, largest: int = -1) -> None:
        self._wire = wire
        self.socket = _configured(zmq.Context.instance(), zmq.DEALER)
        self.socket.set(zmq.IMMEDIATE, 1)
        self.socket.set(zmq.MAXMSGSIZE, largest)
        if "[" in endpoint:
            self.socket.set(zmq.IPV6, 1)
        self.socket.connect(endpoint)

    def send(self, message: Out) -> bool:
        """False if the peer is not connected or its queue is full."""
        try:
            self.socket.send(self._wire.pack(message), zmq.NOBLOCK)
        except zmq.ZMQError:
            return False
        return True

    def receive(self) -> In | None:
        """The next message that is already here, or None. Raises ProtocolError for one that cannot be read."""
        try:
            frames = self.socket.recv_multipart(zmq.NOBLOCK)
        except zmq.ZMQError:
            return None
        if len(frames) != 1:
            raise ProtocolError(f"a message of {len(frames)} frames")
        return self._wire.unpack(frames[0])

    def close(self) -> None:
        self.socket.close()


AnyLink = TypeVar("AnyLink", bound=BlockingLink[Any, Any])


def wait(links: Sequence[AnyLink], timeout: float) -> list[AnyLink]:
    """The links with something to read, after at most ``timeout`` seconds; none if time is up. ZMQ counts in whole
    milliseconds, so the last one is spent looking again and again."""
    poller = zmq.Poller()
    for link in links:
        poller.register(link.socket, zmq.POLLIN)
    due = time.monotonic() + timeout
    readable: dict[Any, int] = {}
    left = timeout
    while not readable:
        readable = dict(poller.poll(int(max(0.0, left) * 1000)))
        left = due - time.monotonic()
        if left <= 0:
            break
    return [link for link in links if link.socket in readable]
