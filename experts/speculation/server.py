"""A draft replica: asks arrive on the event loop, one compute thread answers all that wait as one batch."""

import asyncio
import logging
import os
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from cluster.errors import ConfigError, EngineFailed, ProtocolError, SwitchyardError
from cluster.transport import Service, Wire, epoch
from experts.api import EngineLimits, EngineState
from experts.config import DraftEngine
from experts.speculation.draft_model import DraftModel
from experts.speculation.drafter import CHUNK, Arrived, Drafter
from experts.speculation.messages import MAX_DEPTH, VERSION, DraftAsk, DraftRow, DraftTell, ToDrafter, ToVerifier

log = logging.getLogger(__name__)

STOP_WAIT = 10.0
"""Seconds for the batch in hand to end; the thread is a daemon and dies with the process otherwise."""
SMOOTHING = 0.1


@dataclass(frozen=True, slots=True)
class _Asked:
    """An ask and the connection its answer goes to."""

    peer: bytes
    arrived: Arrived


class DraftServer:
    """The engine of one draft replica. ``life`` is what its tells carry and what it must be announced with."""

    def __init__(self, config: DraftEngine, model: Path) -> None:
        self.life = epoch()
        self.garbage = 0
        self._config, self._path = config, model
        self._asks: queue.SimpleQueue[_Asked | None] = queue.SimpleQueue()
        self._service: Service[ToVerifier, ToDrafter] = Service(
            Wire(VERSION, ToDrafter), self._on_ask, on_garbage=self._on_garbage
        )
        self._thread: threading.Thread | None = None
        self._limits: EngineLimits | None = None
        self._state = EngineState()

    @property
    def limits(self) -> EngineLimits:
        """Known once started. The context is the configured one or, if smaller, the model's own."""
        if self._limits is None:
            raise EngineFailed("the draft engine has not started")
        return self._limits

    async def start(self, host: str) -> str:
        """Load and warm up the model, listen on a free port and return the endpoint. Raises ConfigError,
        ModelCorrupt or EngineFailed."""
        loop = asyncio.get_running_loop()
        loaded: asyncio.Future[EngineLimits] = loop.create_future()
        self._thread = threading.Thread(target=self._compute, args=(loop, loaded), name="draft", daemon=True)
        self._thread.start()
        self._limits = await loaded
        return self._service.bind(host)

    def state(self) -> EngineState:
        """Load as of the last batch; ``running`` counts live sessions, ``tokens`` drafted ones, ``steps`` batches."""
        return msgspec.structs.replace(self._state, waiting=self._asks.qsize())

    def healthy(self) -> bool:
        """False before the model is loaded and once the compute thread has ended, for whatever reason."""
        return self._limits is not None and self._thread is not None and self._thread.is_alive()

    async def stop(self) -> None:
        self._service.close()
        if self._thread is not None:
            self._asks.put(None)
            await asyncio.to_thread(self._thread.join, STOP_WAIT)

    def _on_ask(self, peer: bytes, ask: DraftAsk) -> None:
        self._asks.put(_Asked(peer, Arrived(ask, time.monotonic())))

    def _on_garbage(self, peer: bytes, error: ProtocolError) -> None:
        self.garbage += 1
        log.warning("verifier %s: %s", peer.hex(), error)

    def _deliver(self, asked: Sequence[_Asked], tells: Sequence[DraftTell]) -> None:
        """On the event loop. A verifier that is gone needs no answer; one without rows asked for none."""
        for question, tell in zip(asked, tells, strict=True):
            if question.arrived.ask.rows:
                self._service.send(question.peer, tell)

    def _compute(self, loop: asyncio.AbstractEventLoop, loaded: "asyncio.Future[EngineLimits]") -> None:
        """The compute thread, from loading to the end. What breaks it shows in ``healthy``, or in ``start``."""
        try:
            drafter = self._load()
        except SwitchyardError as error:
            loop.call_soon_threadsafe(loaded.set_exception, error)
            return
        except Exception as error:  # noqa: BLE001 - the thread's boundary: whoever awaits the start gets the failure
            failure = EngineFailed(f"the draft engine cannot start: {type(error).__name__}: {error}")
            loop.call_soon_threadsafe(loaded.set_exception, failure)
            return
        loop.call_soon_threadsafe(loaded.set_result, drafter.limits)
        while asked := self._gather():
            began = time.monotonic()
            tells = drafter.answer([question.arrived for question in asked], began)
            took = time.monotonic() - began
            self._note(drafter, tells, took)
            tells = [msgspec.structs.replace(tell, compute=took) for tell in tells]
            loop.call_soon_threadsafe(self._deliver, asked, tells)

    def _gather(self) -> list[_Asked]:
        """Wait for an ask and take all that are there; none means stop."""
        found = [self._asks.get()]
        while not self._asks.empty():
            found.append(self._asks.get())
        asked = [question for question in found if question is not None]
        return asked if len(asked) == len(found) else []

    def _load(self) -> Drafter:
        config = self._config
        if config.cores:
            available = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(0, {available[core % len(available)] for core in config.cores})
        if config.device == "cpu":
            torch.set_num_threads(1)
        elif not torch.cuda.is_available():
            raise ConfigError("the draft engine is configured for cuda, but there is no such device")
        dtype = getattr(torch, config.dtype)
        model = DraftModel.load(self._path, dtype=dtype, device=config.device, context=config.max_context)
        warm_up(Drafter(model, slots=min(4, config.max_sessions), life=self.life))
        return Drafter(model, slots=config.max_sessions, life=self.life)

    def _note(self, drafter: Drafter, tells: Sequence[DraftTell], took: float) -> None:
        before = self._state
        drafted = sum(len(drafts) for tell in tells for drafts in tell.drafts)
        slower = 1e3 * took - before.step_ms
        self._state = EngineState(
            running=drafter.sessions,
            kv_use=drafter.sessions / self._config.max_sessions,
            step_ms=before.step_ms + (SMOOTHING if before.steps else 1.0) * slower if drafted else before.step_ms,
            steps=before.steps + bool(drafted),
            tokens=before.tokens + drafted,
            prompt_tokens=drafter.prefilled,
        )


def warm_up(drafter: Drafter) -> None:
    """Run prefills and draft batches of several sizes: the first call of a torch operation takes many times longer."""
    prompt = (0,) * min(drafter.limits.max_context // 2, 2 * CHUNK)
    for step, rows in enumerate((1, 2, 4)):
        asked = tuple(DraftRow(f"{step}-{row}", 0, prompt[row:], MAX_DEPTH) for row in range(rows))
        drafter.answer([Arrived(DraftAsk(step, step, asked), 0.0)], 0.0)
        again = tuple(DraftRow(row.session, len(row.tokens), (0, 0), MAX_DEPTH) for row in asked)
        closed = DraftAsk(step, step + 2, (), tuple(row.session for row in asked))
        drafter.answer([Arrived(DraftAsk(step, step + 1, again), 0.0)], 0.0)
        drafter.answer([Arrived(closed, 0.0)], 0.0)
