"""vLLM's asynchronous engine, whose model runs in processes of its own: the way to run it on a GPU."""

import asyncio
import logging
import threading
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from cluster.errors import EngineFailed, SwitchyardError
from experts.api import Chunk, DraftPeer, EngineLimits, EngineState, GenerateRequest
from experts.engines.vllm_load import LOAD_LIMIT, engine_arguments, limits_of, loading, prepare
from experts.engines.vllm_options import Plan
from experts.engines.vllm_runner import Events

if TYPE_CHECKING:
    from experts.engines.vllm_meter import Meter

logger = logging.getLogger(__name__)

STOP_WAIT = 30.0  # seconds the engine's processes have to go
RPC_WAIT = 10.0  # seconds an engine has to answer what it is asked between steps


class AsyncRunner:
    """Feeds ``AsyncLLM`` and gathers what one of its steps gave all requests into one call."""

    def __init__(self, plan: Plan, events: Events) -> None:
        self._plan = plan
        self._events = events
        self._engine: Any = None
        self._meter: Meter | None = None
        self._adapters: dict[str, Any] = {}
        self._internal: dict[str, str] = {}
        self._entering: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._chunks: dict[str, Chunk] = {}  # of one step, by request

    async def start(self) -> EngineLimits:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[EngineLimits] = loop.create_future()
        threading.Thread(target=self._load, args=(loop, ready), name="engine-load", daemon=True).start()
        try:
            async with asyncio.timeout(LOAD_LIMIT):
                limits = await ready
        except TimeoutError:
            raise EngineFailed(f"the model did not load within {LOAD_LIMIT:g} s") from None
        with loading():
            await self._engine.get_supported_tasks()  # the first call that starts vLLM's reader on this loop
            for adapter in self._adapters.values():
                await self._engine.add_lora(adapter)
        if self._plan.speculates:
            self._spawn(self._watch())
        return limits

    def submit(self, request: GenerateRequest) -> None:
        task = self._spawn(self._enter(request))
        self._entering[request.id] = task
        task.add_done_callback(lambda _: self._entered(request.id, task))

    def abort(self, request_id: str) -> None:
        self._spawn(self._abort(request_id, self._entering.get(request_id)))

    def use_drafts(self, peers: Sequence[DraftPeer]) -> None:
        self._spawn(self._engine.collective_rpc("use_drafts", args=(msgspec.msgpack.encode(peers),)))

    def reading(self) -> EngineState:
        return EngineState() if self._meter is None else self._meter.reading

    def alive(self) -> bool:
        return self._engine is not None and not self._engine.errored

    async def stop(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        if self._engine is None:
            return
        if self._engine.output_handler is not None:
            self._engine.output_handler.cancel()  # or it would report the end of its process as a failure
        await asyncio.to_thread(self._engine.shutdown, STOP_WAIT)

    def _load(self, loop: asyncio.AbstractEventLoop, ready: asyncio.Future[EngineLimits]) -> None:
        """On a thread of its own: it blocks, and what it pins is handed down to the processes it starts."""
        try:
            with loading():
                self._engine = self._loaded()
        except SwitchyardError as error:
            loop.call_soon_threadsafe(_settle, ready, error)
        else:
            loop.call_soon_threadsafe(_settle, ready, limits_of(self._engine.vllm_config))

    def _loaded(self) -> Any:
        prepare(self._plan)
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        from experts.engines.vllm_meter import Meter
        from experts.engines.vllm_requests import adapters_of

        meter = self._meter = Meter()
        self._adapters = adapters_of(self._plan.adapters)
        arguments = engine_arguments(AsyncEngineArgs, self._plan)
        return AsyncLLM.from_engine_args(arguments, stat_loggers=[lambda *_: meter])

    async def _watch(self) -> None:
        """Ask the workers what speculation has done, now and then, but not while nothing happens."""
        from experts.engines.vllm_meter import SPECULATION_EVERY

        assert self._meter is not None
        steps = 0
        while self.alive():
            await asyncio.sleep(SPECULATION_EVERY)
            if self._meter.reading.steps == steps:
                continue
            steps = self._meter.reading.steps
            try:
                async with asyncio.timeout(RPC_WAIT):
                    self._meter.speculated(await self._engine.collective_rpc("speculation"))
            except Exception as error:  # noqa: BLE001 - figures may be missed; that an engine is dead shows elsewhere
                logger.warning("no word on speculation: %s", type(error).__name__)

    async def _enter(self, request: GenerateRequest) -> None:
        """Hand the request to vLLM and take the place of its output queue, with what it may hold already."""
        from vllm.v1.engine.exceptions import EngineDeadError

        from experts.engines import vllm_requests as words

        try:
            waiting = await self._engine.add_request(
                request.id,
                words.prompt_of(request),
                words.params_of(request, speculates=self._plan.speculates),
                lora_request=self._adapters[request.adapter] if request.adapter else None,
                priority=request.priority,
            )
        except EngineDeadError as error:
            self._died(error)
        except Exception as error:  # noqa: BLE001 - whatever a request provokes becomes that request's answer
            self._emit(words.error_chunk(request, words.failure_of(error)))
        else:
            state = self._engine.output_processor.request_states.get(waiting.request_id)
            stream = words.Stream(request, self._emit, state=state, died=self._died)
            if state is not None:
                self._internal[request.id] = waiting.request_id
                state.queue = stream
            if waiting.output is not None:
                stream.put(waiting.output)

    async def _abort(self, request_id: str, entering: asyncio.Task[None] | None) -> None:
        if entering is not None:
            await asyncio.wait([entering])
        internal = self._internal.pop(request_id, None)
        if internal is not None:
            await self._engine.abort(internal, internal=True)

    def _entered(self, request_id: str, task: asyncio.Task[None]) -> None:
        if self._entering.get(request_id) is task:
            del self._entering[request_id]

    def _emit(self, chunk: Chunk) -> None:
        """Collect; vLLM's reader gives a whole step to the streams before the loop turns, or several if it is late."""
        if chunk.id in self._chunks:
            self._flush()
        if not self._chunks:
            asyncio.get_running_loop().call_soon(self._flush)
        if chunk.finish:
            self._internal.pop(chunk.id, None)
        self._chunks[chunk.id] = chunk

    def _flush(self) -> None:
        chunks, self._chunks = self._chunks, {}
        if chunks:
            self._events.chunks(list(chunks.values()))

    def _died(self, error: Exception) -> None:
        self._flush()
        self._events.died(EngineFailed(f"the engine died: {type(error).__name__}").failure())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _settle(ready: asyncio.Future[EngineLimits], outcome: EngineLimits | Exception) -> None:
    if ready.done():
        return
    if isinstance(outcome, Exception):
        ready.set_exception(outcome)
    else:
        ready.set_result(outcome)
