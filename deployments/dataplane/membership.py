"""How a process of the cluster finds the router and stays in touch with it.

The router's address is a matter of the control plane (Serve may move the actor at any time), so it is asked for through
an injected ``Resolve``; everything after that is on the data plane.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from cluster.errors import ProtocolError
from cluster.transport import Link, Wire
from deployments.dataplane.background import Background
from router.api import VERSION, Directory, FromRouter, Registration, Report, ToRouter, Withdraw

log = logging.getLogger(__name__)

Resolve = Callable[[], Awaitable[str]]
"""The endpoint of the living router. May fail or be slow: it is called with a deadline and again."""


class Reading(Protocol):
    """Makes the report of this moment; a ``complete`` one names the requests held, for a router that is new."""

    def __call__(self, sequence: int, *, complete: bool) -> Report: ...


RESOLVE_TIMEOUT = 5.0
RETRY_PAUSE = 0.2
REGISTER_INTERVAL = 1.0
"""Seconds between two registrations of a living replica: a router that forgot it, for whatever reason, has it again."""


class RouterLine:
    """A link to the router that is renewed for as long as the process lives. ``identity`` stays the same when it is, so
    to the router it is the same process."""

    def __init__(
        self,
        resolve: Resolve,
        identity: str,
        on_message: Callable[[FromRouter], None],
        *,
        on_up: Callable[[], None],
        on_down: Callable[[], None] | None = None,
    ) -> None:
        self._resolve = resolve
        self._identity = identity.encode()
        self._on_message = on_message
        self._on_up = on_up
        self._on_down = on_down
        self._link: Link[ToRouter, FromRouter] | None = None
        self._lost = asyncio.Event()
        self._task = Background("router line")

    def start(self) -> None:
        self._task.start(self._keep())

    @property
    def up(self) -> bool:
        return self._link is not None and not self._link.closed

    def send(self, message: ToRouter) -> bool:
        """False if there is no router to talk to at present."""
        return self._link is not None and self._link.send(message)

    def check(self) -> None:
        self._task.check()

    async def stop(self) -> None:
        await self._task.stop()
        if self._link is not None:
            self._link.close()

    async def _keep(self) -> None:
        while True:
            endpoint = await self._find()
            self._lost.clear()
            wire: Wire[ToRouter, FromRouter] = Wire(VERSION, FromRouter)
            self._link = Link(wire, endpoint, self._on_message, on_lost=self._lost.set, identity=self._identity)
            self._on_up()
            await self._lost.wait()
            log.warning("router at %s is gone, looking for it", endpoint)
            if self._on_down is not None:
                self._on_down()
            await asyncio.sleep(RETRY_PAUSE)

    async def _find(self) -> str:
        while True:
            try:
                async with asyncio.timeout(RESOLVE_TIMEOUT):
                    return await self._resolve()
            except Exception as error:  # noqa: BLE001  # the control plane fails in many ways; all mean: ask again
                log.debug("router not found yet: %r", error)
                await asyncio.sleep(RETRY_PAUSE)


class Resident:
    """What lives on a line to the router and has one task of its own on it."""

    _line: RouterLine
    _task: Background

    def check(self) -> None:
        """Raises EngineFailed if either has ended by itself."""
        self._line.check()
        self._task.check()

    async def stop(self) -> None:
        await self._task.stop()
        await self._line.stop()


class Member(Resident):
    """A replica's membership: registers, reports its state, and hears who else lives.

    A report is sent at most every ``busy`` seconds after ``changed()``, and every ``idle`` seconds regardless, so that
    silence means loss. ``pace`` is (busy, idle).
    """

    def __init__(
        self,
        resolve: Resolve,
        registration: Registration,
        reading: Reading,
        on_directory: Callable[[Directory], None],
        *,
        pace: tuple[float, float],
    ) -> None:
        self._registration = registration
        self._reading = reading
        self._on_directory = on_directory
        self._busy, self._idle = pace
        self._sequence = 0
        self._registered = float("-inf")
        self._withdrawn = False
        self._changed = asyncio.Event()
        identity = f"{registration.replica}/{registration.epoch}"
        self._line = RouterLine(resolve, identity, self._hear, on_up=self._register)
        self._task = Background("state reports")

    def start(self) -> None:
        self._line.start()
        self._task.start(self._report())

    def changed(self) -> None:
        """The state is not what it was; report soon."""
        self._changed.set()

    def withdraw(self) -> None:
        """Take no new work, from this router or a later one; what is here is finished."""
        if not self._withdrawn:
            self._withdrawn = True
            self._register()

    def _register(self) -> None:
        there = self._registration
        self._registered = time.monotonic()
        self._line.send(Withdraw(there.replica, there.epoch) if self._withdrawn else there)
        self._tell(complete=True)

    def _hear(self, message: FromRouter) -> None:
        if not isinstance(message, Directory):
            raise ProtocolError(f"a replica was sent {type(message).__name__}")
        self._on_directory(message)

    def _tell(self, *, complete: bool) -> None:
        self._sequence += 1
        self._line.send(self._reading(self._sequence, complete=complete))

    async def _report(self) -> None:
        while True:
            if time.monotonic() - self._registered >= REGISTER_INTERVAL:
                self._register()
            else:
                self._tell(complete=False)
            await asyncio.sleep(self._busy)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._idle):
                    await self._changed.wait()
            self._changed.clear()
