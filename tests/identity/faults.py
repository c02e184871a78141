"""Draft replicas that can be killed, frozen and slowed down, and one that answers garbage."""

import contextlib
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import zmq

from experts.api import DraftPeer
from experts.speculation.messages import VERSION, Branch, DraftAsk, DraftLead, DraftTell, LeadRow
from experts.speculation.share import Share

ROOT = Path(__file__).parents[2]
HOST = "127.0.0.1"
VOCABULARY = 2048

PROGRAM = """
import asyncio, sys
import msgspec
from experts.config import DraftEngine
from experts.models import fetched_directory
from experts.speculation.server import DraftServer

async def main():
    server = DraftServer(DraftEngine(cores=(1,), max_sessions=64), fetched_directory(sys.argv[1]))
    endpoint = await server.start("127.0.0.1")
    print(server.life, endpoint, flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        print(msgspec.json.encode(server.shares()).decode(), flush=True)

asyncio.run(main())
"""


class DraftProcess:
    """A real draft replica in a process of its own."""

    def __init__(self, name: str, model: str = "zoo:draft") -> None:
        command = [sys.executable, "-c", PROGRAM, model]
        pipe = subprocess.PIPE
        self._child = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT)
        assert self._child.stdout is not None
        life, endpoint = self._child.stdout.readline().split()
        self.peer = DraftPeer(name, int(life), endpoint)

    def shares(self) -> list[Share]:
        """What each verifier has had of it."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write("\n")
        self._child.stdin.flush()
        return msgspec.json.decode(self._child.stdout.readline(), type=list[Share])

    def freeze(self) -> None:
        self._child.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._child.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self._child.kill()
        self._child.wait(10)


@contextlib.contextmanager
def replicas(*names: str, model: str = "zoo:draft") -> Iterator[dict[str, DraftProcess]]:
    started = {name: DraftProcess(name, model) for name in names}
    try:
        yield started
    finally:
        for each in started.values():
            each.kill()


@contextlib.contextmanager
def delayed(peer: DraftPeer, seconds: float) -> Iterator[DraftPeer]:
    """The same replica behind a proxy that holds every byte back for ``seconds``, in both directions."""
    host, port = peer.endpoint.removeprefix("tcp://").split(":")
    listener = socket.create_server((HOST, 0))
    ended = threading.Event()
    pipes: list[socket.socket] = [listener]

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if ended.wait(seconds):
                    return
                sink.sendall(data)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while not ended.is_set():
                near = listener.accept()[0]
                far = socket.create_connection((host, int(port)), timeout=5)
                far.settimeout(None)
                pipes.extend((near, far))
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=pump, args=ends, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield DraftPeer(f"{peer.replica}-slow", peer.epoch, f"tcp://{HOST}:{listener.getsockname()[1]}")
    finally:
        ended.set()
        for pipe in pipes:
            with contextlib.suppress(OSError):
                pipe.shutdown(socket.SHUT_RDWR)
            pipe.close()


@contextlib.contextmanager
def babbler(name: str) -> Iterator[tuple[DraftPeer, list[int]]]:
    """A replica whose answers are well-formed and random, or a foreign vocabulary's, or no messages at all. Beside the
    peer comes the list of how many rows each of its answers had."""
    service = zmq.Context.instance().socket(zmq.ROUTER)
    service.set(zmq.LINGER, 0)
    port = service.bind_to_random_port(f"tcp://{HOST}")
    ended = threading.Event()
    answered: list[int] = []
    life = time.time_ns() & (2**62 - 1)
    dice = random.Random(1)

    def babble(depth: int) -> tuple[int, ...]:
        ceiling = VOCABULARY if dice.random() < 0.8 else 2**31 - 1
        return tuple(dice.randrange(ceiling) for _ in range(depth))

    def answers(ask: DraftAsk) -> Iterator[bytes]:
        answered.append(len(ask.rows))
        if dice.random() < 0.1:
            yield bytes(dice.randrange(256) for _ in range(40))
        if ask.waits:
            drafts = tuple(babble(row.depth) if row.lacks else () for row in ask.rows)
            yield _framed(DraftTell(ask.epoch, ask.step, life, drafts))
        rows = tuple(
            LeadRow(row.session, row.start + len(row.tokens), (Branch(babble(1), babble(4)),))
            for row in ask.rows
            if row.depth
        )
        yield _framed(DraftLead(ask.epoch, ask.step, life, rows))

    def serve() -> None:
        while not ended.is_set():
            if service.poll(20):
                identity, message = service.recv_multipart()
                for answer in answers(msgspec.msgpack.decode(message[1:], type=DraftAsk)):
                    service.send_multipart([identity, answer])
        service.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield DraftPeer(name, life, f"tcp://{HOST}:{port}"), answered
    finally:
        ended.set()
        thread.join(10)


def _framed(message: DraftTell | DraftLead) -> bytes:
    return bytes([VERSION]) + msgspec.msgpack.encode(message)
