"""A draft replica: one compute thread owns the socket and the model; the event loop starts, stops and reads it."""

import asyncio
import math
import os
import threading
from concurrent.futures import Future
from pathlib import Path

import torch

from cluster.errors import ConfigError, EngineFailed, SwitchyardError
from cluster.transport import BlockingService, Wire, epoch
from experts.api import EngineLimits, EngineState
from experts.config import DraftEngine
from experts.speculation.desk import Desk, Line, Served
from experts.speculation.draft_model import DraftModel
from experts.speculation.drafter import CHUNK, Ahead, Drafter
from experts.speculation.messages import MAX_DEPTH, VERSION, DraftAsk, DraftRow, ToDrafter, ToVerifier
from experts.speculation.share import Share

STOP_WAIT = 10.0
"""Seconds for the batch in hand to end; the thread is a daemon and dies with the process otherwise."""

Socket = BlockingService[ToVerifier, ToDrafter]


class DraftServer:
    """The engine of one draft replica. ``life`` is what its tells carry and what it must be announced with."""

    def __init__(self, config: DraftEngine, model: Path) -> None:
        self.life = epoch()
        self._config, self._path = config, model
        self._socket: Socket | None = None
        self._thread: threading.Thread | None = None
        self._limits: EngineLimits | None = None
        self._desk: Desk | None = None
        self._stopped = False

    @property
    def limits(self) -> EngineLimits:
        """Known once started. The context is the configured one or, if smaller, the model's own."""
        if self._limits is None:
            raise EngineFailed("the draft engine has not started")
        return self._limits

    @property
    def garbage(self) -> int:
        """How many messages could not be read."""
        return self._socket.garbage if self._socket else 0

    async def start(self, host: str) -> str:
        """Listen on a free port, load and warm up the model and return the endpoint. Raises ConfigError, ModelCorrupt
        or EngineFailed."""
        started: Future[str] = Future()
        self._thread = threading.Thread(target=self._compute, args=(host, started), name="draft", daemon=True)
        self._thread.start()
        return await asyncio.wrap_future(started)

    def state(self) -> EngineState:
        """Load as of the last piece of work; ``running`` counts live sessions, ``tokens`` drafted ones, those ahead
        included, ``steps`` answered batches."""
        served = self._desk.served if self._desk else Served()
        return EngineState(
            running=served.sessions,
            waiting=served.waiting,
            kv_use=served.sessions / self._config.max_sessions,
            step_ms=1e3 * served.seconds,
            steps=served.answers,
            tokens=served.drafted,
            prompt_tokens=served.read,
        )

    def shares(self) -> tuple[Share, ...]:
        """What each verifier has had so far."""
        return self._desk.shares.all() if self._desk else ()

    def healthy(self) -> bool:
        """False before the model is loaded and once the compute thread has ended, for whatever reason."""
        return self._limits is not None and self._thread is not None and self._thread.is_alive()

    async def stop(self) -> None:
        self._stopped = True
        if self._socket is not None:
            self._socket.wake()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, STOP_WAIT)

    def _compute(self, host: str, started: "Future[str]") -> None:
        """The compute thread, from listening to the end. What breaks it shows in ``start``, or in ``healthy``."""
        started.set_running_or_notify_cancel()
        try:
            self._socket = Socket(Wire(VERSION, ToDrafter), host)
            drafter = self._load()
        except SwitchyardError as error:
            started.set_exception(error)
        except Exception as error:  # noqa: BLE001 - the thread's boundary: whoever awaits the start gets the failure
            started.set_exception(EngineFailed(f"the draft engine cannot start: {type(error).__name__}: {error}"))
        else:
            self._limits = drafter.limits
            self._desk = Desk(drafter, Line(self._socket.receive, self._socket.send))
            started.set_result(self._socket.endpoint)
            while not self._stopped:
                self._desk.step()
        finally:
            if self._socket is not None:
                self._socket.close()

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
        ahead = Ahead(config.branches, config.lead_rows)
        rehearsed = Drafter(model, slots=min(4, config.max_sessions), life=self.life, ahead=ahead)
        warm_up(rehearsed)
        return Drafter(model, slots=config.max_sessions, life=self.life, ahead=ahead)


def warm_up(drafter: Drafter) -> None:
    """Run prefills, draft batches and leads of several sizes: the first call of a torch operation takes many times
    longer."""
    prompt = (0,) * min(drafter.limits.max_context // 2, 2 * CHUNK)
    for step, rows in enumerate((1, 2, 4)):
        asked = tuple(DraftRow(f"{step}-{row}", 0, prompt[row:], MAX_DEPTH) for row in range(rows))
        again = tuple(DraftRow(row.session, len(row.tokens), (0, 0), MAX_DEPTH) for row in asked)
        for rehearsal in (DraftAsk(step, step, asked), DraftAsk(step, step + 1, again)):
            pending = drafter.take(rehearsal, 0.0)
            drafter.answer([pending], 0.0)
            drafter.lead([pending], math.inf, lambda: False)
            drafter.deepen()
        drafter.take(DraftAsk(step, step + 2, (), tuple(row.session for row in asked)), 0.0)
