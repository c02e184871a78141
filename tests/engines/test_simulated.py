"""The simulated engine's own promises: timing to the millisecond, faults on cue, text that can be foretold."""

import asyncio
import time

import msgspec
import pytest
from engine_bench import Bench, ended, simulated_pool, text, tokens, words
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ConfigError, UnsupportedOption
from experts.api import Chunk, GenerateRequest, Grammar, Sampling
from experts.engines.clock import VirtualClock, WallClock
from experts.engines.simulated import Simulated
from experts.engines.simulated_text import Speech, Voice


async def started(**settings: object) -> Bench:
    clock = VirtualClock()
    bench = Bench(Simulated("sim", simulated_pool(**settings), clock=clock), words, clock)
    await bench.engine.start(bench.sink)
    return bench


async def arrivals(bench: Bench, stream: list[Chunk], *, until: float) -> list[float]:
    """When each chunk came, to the millisecond."""
    assert bench.clock is not None
    times = []
    while not ended(stream) and bench.clock.now() < until:
        await bench.clock.advance(0.001)
        times += [round(bench.clock.now(), 3)] * (len(stream) - len(times))
    return times


async def test_the_first_token_comes_after_ttft_and_each_further_after_tpot() -> None:
    bench = await started(ttft_ms=20, tpot_ms=5)
    stream = bench.submit(bench.request(max_tokens=4))
    assert await arrivals(bench, stream, until=1) == [0.02, 0.025, 0.03, 0.035]


async def test_a_later_request_joins_the_steps_of_the_first() -> None:
    bench = await started(ttft_ms=20, tpot_ms=5)
    first = bench.submit(bench.request(max_tokens=20))
    assert bench.clock is not None
    await bench.clock.advance(0.033)
    second = bench.submit(bench.request(max_tokens=3))
    assert await arrivals(bench, second, until=1) == [0.055, 0.06, 0.065]
    assert {chunk.id for chunk in bench.calls[-1]} == {first[0].id, second[0].id}


async def test_what_does_not_fit_waits_for_the_first_to_end() -> None:
    bench = await started(max_running=1, ttft_ms=20, tpot_ms=5)
    first = bench.submit(bench.request(max_tokens=2))
    second = bench.submit(bench.request(max_tokens=1))
    assert (bench.engine.state().running, bench.engine.state().waiting) == (1, 1)
    assert await arrivals(bench, second, until=1) == [0.045]
    assert ended(first)


async def test_a_stalled_engine_says_nothing_more_yet_looks_well_until_it_is_stopped() -> None:
    bench = await started(stall_after=3)
    request = bench.request()
    stream = bench.submit(request)
    assert bench.clock is not None
    await bench.clock.advance(10)
    assert len(stream) == 3
    bench.engine.abort(request.id)
    await bench.clock.advance(10)
    assert not ended(stream)
    assert bench.engine.healthy()
    await bench.engine.stop()
    assert not bench.engine.healthy()


async def test_the_step_before_the_failure_is_the_last_good_one() -> None:
    bench = await started(fail_after=2)
    stream = bench.submit(bench.request())
    assert bench.clock is not None
    await bench.clock.advance(1)
    assert [len(chunk.tokens) for chunk in stream] == [1, 1, 0]
    assert stream[-1].finish == "error"


async def test_prompt_and_emitted_tokens_continue_as_the_first_run_would_have() -> None:
    bench = await started()
    request = bench.request(max_tokens=30, seed=9)
    (whole,) = await bench.run(request)
    emitted = tokens(whole)[:11]
    rest = msgspec.structs.replace(bench.request(max_tokens=19, seed=9), prompt=request.prompt + emitted)
    assert await bench.tokens(rest) == tokens(whole)[11:]


async def test_accepted_drafts_shorten_the_answer_by_as_many_steps() -> None:
    bench = await started(acceptance=1.0, depth=4)
    (chunks,) = await bench.run(bench.request(max_tokens=21))
    assert [(len(chunk.tokens), chunk.drafted, chunk.accepted) for chunk in chunks] == [(1, 0, 0)] + [(5, 4, 4)] * 4
    (plain,) = await bench.run(bench.request(max_tokens=21, speculate=False))
    assert len(plain) == 21
    assert tokens(plain) == tokens(chunks)


async def test_the_share_of_accepted_drafts_is_the_configured_one() -> None:
    bench = await started(acceptance=0.7, depth=1, tpot_ms=1)
    (chunks,) = await bench.run(bench.request(max_tokens=450))
    drafted = sum(chunk.drafted for chunk in chunks)
    assert sum(chunk.accepted for chunk in chunks) / drafted == pytest.approx(0.7, abs=0.08)


async def test_a_grammar_is_refused_and_not_ignored() -> None:
    bench = await started()
    with pytest.raises(UnsupportedOption):
        bench.submit(bench.request(grammar=Grammar("json_object")))


async def test_it_starts_once() -> None:
    bench = await started()
    with pytest.raises(ConfigError):
        await bench.engine.start(bench.sink)


async def test_many_streams_cost_one_call_of_the_sink_per_step_and_little_time() -> None:
    """32 streams: what a core must do in a second of 5 ms steps takes far less than that second."""
    bench = await started(max_running=32, max_context=4096, ttft_ms=5, tpot_ms=5)
    streams = [bench.submit(bench.request(max_tokens=200)) for _ in range(32)]
    assert bench.clock is not None
    began = time.process_time()
    await bench.clock.advance(1.1)
    spent = time.process_time() - began
    assert all(len(tokens(stream)) == 200 for stream in streams)
    assert len(bench.calls) == 200
    assert spent < 1.0


async def test_the_wall_clock_keeps_its_appointments() -> None:
    clock = WallClock()
    due = clock.now() + 0.02
    await clock.sleep_until(due)
    assert clock.now() >= due
    await clock.sleep_until(due)


async def test_virtual_time_stands_still_unless_it_is_moved() -> None:
    clock = VirtualClock()
    woken: list[float] = []

    async def sleeper(when: float) -> None:
        await clock.sleep_until(when)
        woken.append(clock.now())

    tasks = [asyncio.create_task(sleeper(when)) for when in (3.0, 1.0, 2.0)]
    await asyncio.sleep(0.01)
    assert woken == []
    await clock.advance(2.5)
    assert woken == [1.0, 2.0]
    await clock.advance(1)
    assert woken == [1.0, 2.0, 3.0]
    await asyncio.gather(*tasks)


@given(
    st.lists(st.text(alphabet="0123456789 ", min_size=1, max_size=4), max_size=3),
    st.integers(0, 3),
    st.integers(0, 12),
    st.integers(0, 50),
)
def test_whatever_stops_it_the_text_is_cut_at_the_first_stop_string(
    stops: list[str], depth: int, minimum: int, seed: int
) -> None:
    sampling = Sampling(max_tokens=30, stop=tuple(stops), min_tokens=minimum, seed=seed)
    whole = _said(msgspec.structs.replace(sampling, stop=()), depth)
    chunks = _said(sampling, depth)
    said = tokens(chunks)
    assert said == tokens(whole)[: len(said)]
    assert text(whole).startswith(text(chunks))
    assert [chunk.finish is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    if chunks[-1].finish == "stop":
        stop = chunks[-1].stop
        assert isinstance(stop, str)
        assert words(said).startswith(text(chunks) + stop)
        assert len(said) > minimum
    else:
        assert len(said) == 30
        assert text(chunks) == words(said)


def _said(sampling: Sampling, depth: int) -> list[Chunk]:
    speech = Speech(GenerateRequest("x", (1, 2, 3), sampling, 1.0), Voice(200, depth, 0.6))
    chunks: list[Chunk] = []
    while not ended(chunks):
        chunks.append(speech.step())
    return chunks
