"""The gateway's side of the pool protocol: one multiplexed link per replica, one stream per request.

A stream ends with its last chunk, with a typed error (replica lost, deadline, engine refusal), or because its reader
left, which aborts it on the replica. One sweep, not a timer per chunk, watches deadlines and stalls.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator

from cluster.errors import Cancelled, DeadlineExceeded, ReplicaLost, SwitchyardError, error_from
from cluster.transport import Link, Wire
from deployments.dataplane.background import Background
from experts.api import Chunk, GenerateRequest
from experts.messages import VERSION, Abort, Frame, Submit, ToGateway, ToReplica
from router.api import Directory, Lease

SWEEP_INTERVAL = 0.25

_Line = Link[ToReplica, ToGateway]


class _Stream:
    """The chunks of one request on their way from the link to their reader."""

    def __init__(self, deadline: float, now: float) -> None:
        self.deadline = deadline
        self.since = now
        self._chunks: deque[Chunk] = deque()
        self._error: SwitchyardError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def push(self, chunk: Chunk) -> None:
        self._chunks.append(chunk)
        self._wake()

    def fail(self, error: SwitchyardError) -> None:
        """What arrived before is still read; then the error is raised."""
        self._error = self._error or error
        self._wake()

    async def next(self) -> Chunk:
        while not self._chunks:
            if self._error is not None:
                raise self._error
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._chunks.popleft()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class _Replica:
    """One life of one replica: its link and the streams on it."""

    def __init__(self, lease: Lease) -> None:
        self.name = lease.replica
        self.heard = float("-inf")
        self.streams: dict[str, _Stream] = {}
        wire: Wire[ToReplica, ToGateway] = Wire(VERSION, ToGateway)
        self.link: _Line = Link(wire, lease.endpoint, self._hear, on_lost=self.lost)

    def lost(self) -> None:
        self.link.close()
        for stream in self.streams.values():
            stream.fail(ReplicaLost(f"replica {self.name} went away while it worked on the request"))

    def _hear(self, frame: Frame) -> None:
        self.heard = time.monotonic()
        for chunk in frame.chunks:
            stream = self.streams.get(chunk.id)
            if stream is not None:
                stream.push(chunk)


class ReplicaPools:
    """Implements ``router.router.Pools``. ``stall`` seconds in which a replica that has work says nothing at all mean
    that it is lost; one stream may well wait longer, for memory or a grammar."""

    def __init__(self, *, stall: float) -> None:
        self._stall = stall
        self._replicas: dict[tuple[str, int], _Replica] = {}
        self._task = Background("deadlines of streams")

    def start(self) -> None:
        self._task.start(self._sweep_often())

    def check(self) -> None:
        """Raises EngineFailed if deadlines are no longer watched."""
        self._task.check()

    async def stop(self) -> None:
        await self._task.stop()
        for replica in self._replicas.values():
            replica.lost()
        self._replicas.clear()

    async def generate(self, lease: Lease, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        replica = self._replica(lease)
        now = time.monotonic()
        stream = replica.streams[request.id] = _Stream(now + request.timeout, now)
        finished = False
        try:
            if not replica.link.send(Submit(request, lease.epoch)):
                raise ReplicaLost(f"replica {lease.replica} cannot be reached")
            while not finished:
                chunk = await stream.next()
                finished = chunk.finish is not None
                yield _checked(chunk)
        finally:
            del replica.streams[request.id]
            if not finished:
                replica.link.send(Abort(request.id))

    def prune(self, directory: Directory) -> None:
        """Close links to lives of replicas that are gone and have no stream left."""
        alive = {
            (view.registration.replica, view.registration.epoch) for pool in directory.pools for view in pool.replicas
        }
        for key in [key for key, each in self._replicas.items() if key not in alive and not each.streams]:
            self._replicas.pop(key).link.close()

    def _replica(self, lease: Lease) -> _Replica:
        key = (lease.replica, lease.epoch)
        known = self._replicas.get(key)
        if known is None or known.link.closed:
            known = self._replicas[key] = _Replica(lease)
        return known

    async def _sweep_often(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_INTERVAL)
            self._sweep(time.monotonic())

    def _sweep(self, now: float) -> None:
        for replica in self._replicas.values():
            for stream in replica.streams.values():
                if now >= stream.deadline:
                    stream.fail(DeadlineExceeded("the request's deadline passed while it was generated"))
                elif now - max(stream.since, replica.heard) > self._stall:
                    stream.fail(ReplicaLost(f"replica {replica.name} sent nothing for {self._stall:.0f} s"))


def _checked(chunk: Chunk) -> Chunk:
    if chunk.error is not None:
        raise error_from(chunk.error)
    if chunk.finish == "abort":
        raise Cancelled("the request was aborted on its replica")
    return chunk
