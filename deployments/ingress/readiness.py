"""Ready means: every required pool really decodes. Proven by traffic, or else by one token through the whole path."""

import asyncio
import logging
import time
import uuid

import msgspec

from cluster.errors import DeadlineExceeded, SwitchyardError, Unavailable
from deployments.ingress.turn import Stage
from experts.api import Sampling
from router.jobs import Job

log = logging.getLogger(__name__)

FRESH = 2.0
"""A pool that produced a token this recently (seconds) needs no canary."""

_CANARY = "ready?"


class PoolReady(msgspec.Struct, frozen=True, omit_defaults=True):
    """One pool's proof, or the reason why there is none."""

    ready: bool
    reason: str = ""
    message: str = ""


class Verdict(msgspec.Struct, frozen=True):
    """``reason`` is empty, or why the gateway as a whole takes no requests."""

    ready: bool
    pools: dict[str, PoolReady]
    reason: str = ""


class Readiness:
    """Answers probes. Probes that come together share one look, so they cost one token per pool at most."""

    def __init__(self, stage: Stage, timeout: float) -> None:
        self._stage = stage
        self._timeout = timeout
        self._look: asyncio.Task[Verdict] | None = None
        self._closing = False

    def close(self) -> None:
        """The gateway is draining: from now on it is not ready, whatever the pools can do."""
        self._closing = True

    async def check(self) -> Verdict:
        if self._closing:
            return Verdict(ready=False, pools={}, reason="draining")
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._examine())
        return await asyncio.shield(self._look)

    async def _examine(self) -> Verdict:
        names = [card.name for card in self._stage.view.models() if card.required]
        answers = await asyncio.gather(*(self._pool(name) for name in names))
        return Verdict(all(answer.ready for answer in answers), dict(zip(names, answers, strict=True)))

    async def _pool(self, name: str) -> PoolReady:
        if self._stage.pulse.age(name, time.perf_counter()) < FRESH:
            return PoolReady(ready=True)
        try:
            async with asyncio.timeout(self._timeout):
                await self._canary(name)
        except SwitchyardError as error:
            return PoolReady(ready=False, reason=error.reason, message=error.message)
        except TimeoutError:
            message = f"no token within {self._timeout:g} s"
            return PoolReady(ready=False, reason=DeadlineExceeded.reason, message=message)
        except Exception:  # a probe must be answered, whatever broke
            log.exception("the canary of pool %s failed", name)
            return PoolReady(ready=False, reason=SwitchyardError.reason, message="internal error")
        self._stage.pulse.beats[name] = time.perf_counter()
        return PoolReady(ready=True)

    async def _canary(self, name: str) -> None:
        job = Job(
            id=f"canary-{uuid.uuid4().hex}",
            model=name,
            prompt=_CANARY,
            sampling=Sampling(temperature=0.0),
            max_tokens=1,
            latency="fast",
            timeout=self._timeout,
        )
        async with self._stage.router.serve(job) as answer:
            async for chunk in answer.chunks:
                if chunk.tokens or chunk.finish in ("stop", "length"):
                    return
        raise Unavailable("the pool ended a canary without a token")
