"""How long an answer may take to reach its client, whatever the client does."""

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from cluster.errors import Cancelled, DeadlineExceeded
from router.jobs import Job


@dataclass(frozen=True, slots=True)
class Bounds:
    """All in seconds. ``send``: one message to a client that does not read; ``request``: the deadline of a request that
    brings none; ``margin``: what the data plane's own, better worded, deadline error gets to arrive first."""

    send: float
    request: float = math.inf
    margin: float = 2.0

    @asynccontextmanager
    async def answer(self, jobs: Sequence[Job]) -> AsyncIterator[None]:
        """Around one whole answer. Raises DeadlineExceeded, also in the middle of a send that is blocked."""
        longest = max(job.timeout or self.request for job in jobs)
        try:
            async with asyncio.timeout(None if math.isinf(longest) else longest + self.margin) as timer:
                yield
        except TimeoutError:
            if not timer.expired():
                raise
            raise DeadlineExceeded("the request's deadline passed before its answer was taken") from None

    @asynccontextmanager
    async def message(self) -> AsyncIterator[None]:
        """Around one send. Raises Cancelled for a client that takes nothing for so long."""
        try:
            async with asyncio.timeout(self.send) as timer:
                yield
        except TimeoutError:
            if not timer.expired():
                raise
            raise Cancelled("the client stopped reading") from None
