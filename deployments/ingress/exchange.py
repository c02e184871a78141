"""One HTTP request and its answer, on bare ASGI: bounded reading, streaming, and the end when the client hangs up."""

import asyncio
import math
import re
import uuid
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from cluster.errors import BadRequest, Cancelled, DeadlineExceeded, SwitchyardError, TooLarge, Unavailable
from cluster.flags import NAME
from deployments.ingress.bounds import Bounds
from deployments.ingress.openai_stream import error_body, error_event
from router.api import Lease

BODY_SECONDS = 30.0
"""How long a client may take to send its body."""

ABORT = "switchyard.abort"
"""The ASGI extension through which a server gives a connection's ``abort``: end it now and drop what is unsent."""

_CUT_SECONDS = 1.0
_GOODBYE = 1.0
"""What cancelled answers get to tell their clients (seconds)."""
TENANT = b"x-switchyard-tenant"
"""Who asks. It is taken at its word: it chooses a cohort, and opens nothing."""

_SANE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_TENANT = re.compile(NAME.encode())
_JSON = b"application/json"
_EVENTS = b"text/event-stream; charset=utf-8"


def request_id(scope: Scope) -> str:
    """The client's own id if it is harmless in a header and a log, else a new one."""
    return sane_id(header(scope, b"x-request-id")) or uuid.uuid4().hex


def sane_id(given: bytes) -> str:
    """A client's id for its request, or nothing if it cannot be shown in a header and a log."""
    return given.decode() if _SANE_ID.fullmatch(given) else ""


def checked_tenant(given: bytes) -> str:
    """Who asks, empty if the client does not say. Raises BadRequest for what is no name."""
    if given and not _TENANT.fullmatch(given):
        name = TENANT.decode()
        raise BadRequest(f"{name}: 1 to 64 letters, digits and any of . _ : -", param=name)
    return given.decode()


def header(scope: Scope, wanted: bytes) -> bytes:
    """The first header of that name, in small letters; empty if there is none."""
    return next((value for name, value in scope["headers"] if name == wanted), b"")


class Exchange:
    """Reads the body, then writes either one answer or a stream of events. Every write raises Cancelled if the client
    takes nothing for too long; after a write that did not come to its end, the only way on is ``fail``."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, bounds: Bounds) -> None:
        self.id = request_id(scope)
        self._scope = scope
        self._receive = receive
        self._send = send
        self._bounds = bounds
        self._streaming = False
        self._stuck = False

    async def read(self, limit: int) -> bytes:
        """Raises TooLarge as soon as the body is known to exceed ``limit`` bytes, DeadlineExceeded for a dribble."""
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return await self._read(limit)
        except TimeoutError:
            raise DeadlineExceeded(f"the body did not arrive within {BODY_SECONDS:g} s") from None

    async def reply(self, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        await self._start(status, [(b"content-length", b"%d" % len(body)), (b"content-type", _JSON), *headers])
        await self._write({"type": "http.response.body", "body": body})

    async def event(self, event: bytes, place: Lease | None) -> None:
        """Send one event, at once. The head of the response goes out with the first."""
        if not self._streaming:
            self._streaming = True
            await self._start(200, [(b"content-type", _EVENTS), (b"cache-control", b"no-cache"), *place_headers(place)])
        await self._write({"type": "http.response.body", "body": event, "more_body": True})

    async def end(self) -> None:
        await self._write({"type": "http.response.body", "body": b""})

    async def fail(self, error: SwitchyardError) -> None:
        """Tell the client: by status if nothing was sent yet, else inside the stream. One that does not read is cut
        off instead."""
        if not self._stuck:
            with suppress(Cancelled):
                await self._tell(error)
        if self._stuck:
            await self._cut()

    async def _tell(self, error: SwitchyardError) -> None:
        if self._streaming:
            await self._write({"type": "http.response.body", "body": error_event(error)})
        else:
            await self.reply(error.http_status, error_body(error), error_headers(error))

    async def _cut(self) -> None:
        """A server that closes a connection first writes what is left, for ever if nobody reads: abort it."""
        self._scope["extensions"][ABORT]["abort"]()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CUT_SECONDS):
                await _departure(self._receive)

    async def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        headers.append((b"x-request-id", self.id.encode()))
        await self._write({"type": "http.response.start", "status": status, "headers": headers})

    async def _write(self, message: Message) -> None:
        self._stuck = True
        async with self._bounds.message():
            await self._send(message)
        self._stuck = False

    async def _read(self, limit: int) -> bytes:
        declared = next((value for name, value in self._scope["headers"] if name == b"content-length"), b"0")
        parts: list[bytes] = []
        size = 0
        more = True
        while more:
            if max(size, int(declared)) > limit:
                raise TooLarge(f"the body has more than {limit} bytes")
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Cancelled("the client went away")
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            more = message.get("more_body", False)
        if size > limit:
            raise TooLarge(f"the body has more than {limit} bytes")
        return b"".join(parts)


def place_headers(place: Lease | None) -> list[tuple[bytes, bytes]]:
    if place is None:
        return []
    return [(b"x-switchyard-route", f"{place.route}/{place.pool}/{place.replica}".encode())]


def error_headers(error: SwitchyardError) -> list[tuple[bytes, bytes]]:
    """When to come back, in whole seconds as the header has them."""
    if error.retry_after is None:
        return []
    return [(b"retry-after", b"%d" % max(1, math.ceil(error.retry_after)))]


def shutting_down() -> Unavailable:
    """Another gateway, or this one's successor, will take the request."""
    return Unavailable("the gateway is shutting down", retry_after=1.0)


class Inflight:
    """The requests being answered. Work ends early when its client hangs up, or when a drain runs out of time."""

    def __init__(self) -> None:
        self.closing = False
        self.expired = False
        self._tasks: set[asyncio.Task[None]] = set()

    def admit(self) -> None:
        """Raises Unavailable once a drain has begun."""
        if self.closing:
            raise shutting_down()

    async def run(self, work: Coroutine[Any, Any, None], receive: Receive) -> None:
        task = asyncio.create_task(work)
        watch = asyncio.create_task(_hang_up(receive, task))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await task
        except asyncio.CancelledError:
            if not watch.done():
                raise
        finally:
            watch.cancel()

    async def drain(self, grace: float) -> None:
        """Refuse what is new and wait until nothing is under way; after ``grace`` seconds cancel what is left and let
        it say goodbye."""
        self.closing = True
        await self._empty(grace)
        self.expired = True
        for task in self._tasks:
            task.cancel()
        await self._empty(_GOODBYE)

    async def _empty(self, seconds: float) -> None:
        """Wait until nothing is left, also of what came meanwhile: its body may have arrived before the drain began."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._tasks:
                    await asyncio.wait(set(self._tasks))


async def _hang_up(receive: Receive, task: asyncio.Task[None]) -> None:
    """After the body, the only message left is that the client is gone (or that the response is complete)."""
    with suppress(asyncio.CancelledError):
        await _departure(receive)
        task.cancel()


async def _departure(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
