"""vLLM in this process, stepped by one thread. The thread owns the engine; the event loop only leaves it notes.

No other arrangement is as light without a GPU: one process, one import, no message between the engine and us.
"""

import asyncio
import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from cluster.errors import EngineFailed, SwitchyardError
from experts.api import DraftPeer, EngineLimits, EngineState, GenerateRequest
from experts.engines.vllm_load import LOAD_LIMIT, loading, prepare
from experts.engines.vllm_options import Plan
from experts.engines.vllm_runner import Events

if TYPE_CHECKING:
    from experts.engines.vllm_core import Core

logger = logging.getLogger(__name__)

GRAMMAR_WAIT = 0.001  # seconds between looks while nothing can run, as when a grammar compiles
STOP_WAIT = 30.0  # seconds a stopping engine has to finish its step


@dataclass(frozen=True, slots=True)
class _Add:
    request: GenerateRequest


@dataclass(frozen=True, slots=True)
class _Abort:
    id: str


@dataclass(frozen=True, slots=True)
class _Peers:
    packed: bytes


@dataclass(frozen=True, slots=True)
class _Stop:
    pass


_Note = _Add | _Abort | _Peers | _Stop


class ThreadRunner:
    """Runs a ``Core`` (see ``vllm_core``) on a thread of its own."""

    def __init__(self, plan: Plan, events: Events) -> None:
        self._plan = plan
        self._events = events
        self._inbox: queue.SimpleQueue[_Note] = queue.SimpleQueue()
        self._reading = EngineState()
        self._thread = threading.Thread(target=self._main, name="engine", daemon=True)

    async def start(self) -> EngineLimits:
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[EngineLimits] = self._loop.create_future()
        self._thread.start()
        try:
            async with asyncio.timeout(LOAD_LIMIT):
                return await self._ready
        except TimeoutError:
            raise EngineFailed(f"the model did not load within {LOAD_LIMIT:g} s") from None

    def submit(self, request: GenerateRequest) -> None:
        self._inbox.put(_Add(request))

    def abort(self, request_id: str) -> None:
        self._inbox.put(_Abort(request_id))

    def use_drafts(self, peers: Sequence[DraftPeer]) -> None:
        self._inbox.put(_Peers(msgspec.msgpack.encode(peers)))

    def reading(self) -> EngineState:
        return self._reading

    def alive(self) -> bool:
        return self._thread.is_alive()

    async def stop(self) -> None:
        self._inbox.put(_Stop())
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, STOP_WAIT)

    def _main(self) -> None:
        """The thread. Whatever ends it is told to the event loop."""
        try:
            with loading():
                prepare(self._plan)
                from experts.engines.vllm_core import Core

                core = Core(self._plan)
        except SwitchyardError as error:
            self._post(self._failed, error)
            return
        self._post(self._loaded, core.limits)
        try:
            while self._read(core):
                self._turn(core)
        except Exception as error:
            logger.exception("the engine died")
            self._post(self._events.died, EngineFailed(f"the engine died: {type(error).__name__}").failure())
        finally:
            core.close()

    def _turn(self, core: "Core") -> None:
        """One step if there is anything to do, and its results to the event loop in one call."""
        if core.busy:
            core.step()
            self._reading = core.meter.reading
        chunks = core.take()
        if chunks:
            self._post(self._events.chunks, chunks)

    def _read(self, core: "Core") -> bool:
        """Act on the notes that have come; wait for one if there is nothing else to do. False: stop."""
        timeout = GRAMMAR_WAIT if core.busy else None
        try:
            note = self._inbox.get(block=core.stuck or not core.busy, timeout=timeout)
            while not isinstance(note, _Stop):
                self._act(core, note)
                note = self._inbox.get_nowait()
        except queue.Empty:
            return True
        return False

    def _act(self, core: "Core", note: _Add | _Abort | _Peers) -> None:
        match note:
            case _Add(request):
                core.add(request)
            case _Abort(id):
                core.abort(id)
            case _Peers(packed):
                core.use_drafts(packed)

    def _loaded(self, limits: EngineLimits) -> None:
        if not self._ready.done():
            self._ready.set_result(limits)

    def _failed(self, error: Exception) -> None:
        if not self._ready.done():
            self._ready.set_exception(error)

    def _post(self, call: Callable[..., None], *args: object) -> None:
        """Have the event loop make the call. A loop that has closed has nobody left to tell."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *args)
