"""Draft replicas for the tests of the verify side: real ones in a thread or a process, and scripted bad ones."""

import asyncio
import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import zmq

from experts.api import DraftPeer
from experts.config import DraftEngine
from experts.speculation.messages import VERSION, DraftAsk, DraftLead, DraftTell
from experts.speculation.proposer import DraftHistory, RemoteDrafts
from experts.speculation.server import DraftServer

HOST = "127.0.0.1"
SLACK = 0.1  # the machine may be busy; without a bound the waits in tests would be seconds


def history(session: str, tokens: list[int], depth: int = 4, gain: float = 0.0) -> DraftHistory:
    return DraftHistory(session, np.array(tokens, np.int32), depth, gain)


@contextlib.contextmanager
def verifier(*peers: DraftPeer, epoch: int = 1, **settings: float) -> Iterator[RemoteDrafts]:
    """A proposer that knows ``peers`` and is connected to them."""
    drafts = RemoteDrafts(epoch=epoch, **{"deadline": 5.0, "retry": 0.05, "vocabulary": 1000} | settings)
    drafts.use(peers)
    time.sleep(0.05)
    yield drafts
    drafts.use(())


@contextlib.contextmanager
def replica(model: Path, **changes: object) -> Iterator[tuple[DraftServer, DraftPeer]]:
    """A draft server on an event loop in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = DraftServer(DraftEngine(**{"max_sessions": 4, "max_context": 320} | changes), model)

    def call(coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(30)

    try:
        endpoint = call(server.start(HOST))
        yield server, DraftPeer("draft-0", server.life, endpoint)
    finally:
        call(server.stop())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


PROGRAM = """
import asyncio, sys
from pathlib import Path
from experts.config import DraftEngine
from experts.speculation.server import DraftServer

async def main():
    server = DraftServer(DraftEngine(max_context=320), Path(sys.argv[1]))
    endpoint = await server.start("127.0.0.1")
    print(server.life, endpoint, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@contextlib.contextmanager
def process(model: Path) -> Iterator[tuple[subprocess.Popen[str], DraftPeer]]:
    """A draft server in a process of its own, which can be killed."""
    child = subprocess.Popen([sys.executable, "-c", PROGRAM, str(model)], stdout=subprocess.PIPE, text=True)
    try:
        life, endpoint = child.stdout.readline().split()
        yield child, DraftPeer("draft-0", int(life), endpoint)
    finally:
        child.kill()
        child.wait(10)
        child.stdout.close()


Script = Callable[[DraftAsk], list[bytes | float]]
"""What a scripted replica does with an ask: frames to send and seconds to sleep, in order."""


def frame(tell: DraftTell | DraftAsk | DraftLead) -> bytes:
    return bytes([VERSION]) + msgspec.msgpack.encode(tell)


@contextlib.contextmanager
def scripted(script: Script, name: str = "draft-0", epoch: int = 1) -> Iterator[tuple[list[DraftAsk], DraftPeer]]:
    """A replica that does as it is told, with the asks it has seen."""
    socket = zmq.Context.instance().socket(zmq.ROUTER)
    socket.set(zmq.LINGER, 0)
    port = socket.bind_to_random_port(f"tcp://{HOST}")
    seen: list[DraftAsk] = []
    ended = threading.Event()

    def serve() -> None:
        while not ended.is_set():
            if socket.poll(5):
                peer, message = socket.recv_multipart()
                seen.append(msgspec.msgpack.decode(message[1:], type=DraftAsk))
                for act in script(seen[-1]):
                    if isinstance(act, float):
                        ended.wait(act)
                    else:
                        socket.send_multipart([peer, act])

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield seen, DraftPeer(name, epoch, f"tcp://{HOST}:{port}")
    finally:
        ended.set()
        thread.join(10)
        socket.close()


def echo(ask: DraftAsk, **changes):
    """The right answer of a replica whose drafts count up from the number of final tokens."""
    drafts = tuple(
        tuple(range(row.start + len(row.tokens), row.start + len(row.tokens) + row.depth)) for row in ask.rows
    )
    return msgspec.structs.replace(DraftTell(ask.epoch, ask.step, 1, drafts), **changes)


def good(ask):
    return [frame(echo(ask))] if ask.rows else []
