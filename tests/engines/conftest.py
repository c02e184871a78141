"""One engine per configuration for the whole session: loading one takes seconds."""

from collections.abc import AsyncIterator
from pathlib import Path

import drafts_double
import pytest
import pytest_asyncio
from engine_bench import Bench, decoded, simulated_pool, vllm_pool, words

from experts.api import Engine
from experts.engines.clock import VirtualClock
from experts.engines.registry import build_engine
from experts.engines.simulated import Simulated
from experts.engines.vllm_engine import VllmHost

SPLIT = {"layout": "split", "pool": "draft", "depth": 4, "controller": "fixed"}
BLOCK_BYTES = 128 * 4 * 2 * 2 * 32 * 4  # tokens, layers, keys and values, heads, head size, float32


LATE = ("adapted_bench", "mortal_bench", "ngram_bench")
"""In one process vLLM's engines share their parallel state: a dense model that comes first leaves out what experts
need, the first to close takes it from the others; and once its n-gram drafts have loaded numba, no further engine loads
there. Engines of a process of their own meet none of this."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = [place for place, item in enumerate(items) if item.path.parent == Path(__file__).parent]
    mine = sorted(
        (items[place] for place in places), key=lambda item: [late in item.fixturenames for late in LATE][::-1]
    )
    for place, item in zip(places, mine, strict=True):
        items[place] = item


async def _bench(engine: Engine) -> AsyncIterator[Bench]:
    bench = Bench(engine, decoded)
    await engine.start(bench.sink)
    yield bench
    await engine.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def thread_bench() -> AsyncIterator[Bench]:
    async for bench in _bench(build_engine("general", vllm_pool())):
        yield bench


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def async_bench() -> AsyncIterator[Bench]:
    async for bench in _bench(build_engine("general", vllm_pool(runner="async"))):
        yield bench


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def split_bench() -> AsyncIterator[Bench]:
    """Drafts come from ``drafts_double.Scripted``, which each test tells what to propose."""
    engine = VllmHost("general", vllm_pool(speculation=SPLIT), drafts=drafts_double.NAME)
    async for bench in _bench(engine):
        yield bench


@pytest_asyncio.fixture(loop_scope="session")
async def simulated_bench() -> AsyncIterator[Bench]:
    clock = VirtualClock()
    engine = Simulated("general", simulated_pool(), clock=clock)
    bench = Bench(engine, words, clock)
    await engine.start(bench.sink)
    yield bench
    await engine.stop()


@pytest.fixture(params=["simulated", pytest.param("thread", marks=pytest.mark.engine)])
def bench(request: pytest.FixtureRequest) -> Bench:
    return request.getfixturevalue(f"{request.param}_bench")


@pytest.fixture(
    params=[
        "simulated",
        pytest.param("thread", marks=pytest.mark.engine),
        pytest.param("async", marks=pytest.mark.engine),
        pytest.param("split", marks=pytest.mark.engine),
    ]
)
def any_bench(request: pytest.FixtureRequest) -> Bench:
    """For the part of the contract that every way of running is put through."""
    return request.getfixturevalue(f"{request.param}_bench")


@pytest_asyncio.fixture(params=["simulated", pytest.param("thread", marks=pytest.mark.engine)], loop_scope="session")
async def mortal_bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """An engine of the test's own, to be stopped or killed."""
    if request.param == "thread":
        async for bench in _bench(build_engine("general", vllm_pool())):
            yield bench
        return
    clock = VirtualClock()
    engine = Simulated("general", simulated_pool(fail_after=40), clock=clock)
    bench = Bench(engine, words, clock)
    await engine.start(bench.sink)
    yield bench
    await engine.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def ngram_bench() -> AsyncIterator[Bench]:
    engine = build_engine("general", vllm_pool(speculation={"layout": "ngram", "depth": 3, "controller": "fixed"}))
    async for bench in _bench(engine):
        yield bench


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def cramped_bench() -> AsyncIterator[Bench]:
    """Split speculation with a KV cache too small for what its tests ask of it."""
    engine = VllmHost(
        "general",
        vllm_pool(speculation=SPLIT, options={"kv_cache_memory_bytes": 10 * BLOCK_BYTES}),
        drafts=drafts_double.NAME,
    )
    async for bench in _bench(engine):
        yield bench


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def adaptive_bench() -> AsyncIterator[Bench]:
    """The controller chooses depths; prompts are prefilled in pieces and memory is short."""
    engine = VllmHost(
        "general",
        vllm_pool(
            speculation=SPLIT | {"controller": "adaptive"},
            options={"kv_cache_memory_bytes": 10 * BLOCK_BYTES, "max_num_batched_tokens": 16},
        ),
        drafts=drafts_double.NAME,
    )
    async for bench in _bench(engine):
        yield bench


@pytest_asyncio.fixture(loop_scope="session")
async def async_bench_to_kill() -> AsyncIterator[Bench]:
    async for bench in _bench(build_engine("general", vllm_pool(runner="async"))):
        yield bench
