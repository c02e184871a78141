"""What is vLLM's alone: grammars, options, adapters, idleness, and how its processes die."""

import asyncio
import resource

import pytest
from drafts_double import Scripted
from engine_bench import QUESTIONS, Bench, decoded, ended, text, tokens, vllm_pool

from cluster.errors import ConfigError, ModelCorrupt, Unavailable
from experts.api import Grammar
from experts.engines.registry import build_engine
from experts.zoo import catalog

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.engine, pytest.mark.timeout(240)]


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar("json_schema", '{"type": 3}'),
        Grammar("json_schema", "no JSON at all"),
        Grammar("json_schema", '{"a":' * 200 + "1" + "}" * 200),
        Grammar("regex", "(("),
        Grammar("choice", "[]"),
        Grammar("choice", "[1, 2]"),
        Grammar("choice", "not a list"),
    ],
)
async def test_a_grammar_that_makes_no_sense_is_its_requests_error_alone(thread_bench: Bench, grammar: Grammar) -> None:
    bystander = thread_bench.request(QUESTIONS[1], max_tokens=60)
    stream = thread_bench.submit(bystander)
    (chunks,) = await thread_bench.run(thread_bench.request(grammar=grammar))
    assert [chunk.finish for chunk in chunks] == ["error"]
    assert chunks[0].error is not None
    assert chunks[0].error.reason == "invalid_request"
    await thread_bench.until(lambda: ended(stream))
    assert len(tokens(stream)) == 60
    assert thread_bench.engine.healthy()


async def test_sampling_values_that_make_no_sense_are_their_requests_error_alone(thread_bench: Bench) -> None:
    for wrong in (
        {"temperature": -1.0},
        {"top_p": 0.0},
        {"presence_penalty": 9.0},
        {"stop": ("",)},
        {"logprobs": 5000},
    ):
        (chunks,) = await thread_bench.run(thread_bench.request(**wrong))
        assert [chunk.finish for chunk in chunks] == ["error"]
        assert chunks[0].error is not None
        assert chunks[0].error.reason == "invalid_request"
    assert len(await thread_bench.tokens(thread_bench.request())) == 24


async def test_each_kind_of_grammar_is_followed(thread_bench: Bench) -> None:
    cases = {
        Grammar("choice", '["green", "blue"]'): {"green", "blue"},
        Grammar("json_schema", '{"enum": ["x", "y"]}'): {'"x"', '"y"'},
        Grammar("regex", "[ab]{2}"): {"aa", "ab", "ba", "bb"},
    }
    for grammar, allowed in cases.items():
        (chunks,) = await thread_bench.run(
            thread_bench.request(grammar=grammar, temperature=1.0, seed=1, ignore_eos=False)
        )
        assert chunks[-1].finish == "stop"
        assert text(chunks).strip() in allowed


async def test_a_grammar_needs_no_busy_waiting_while_it_compiles(thread_bench: Bench) -> None:
    names = [f"field_{number}" for number in range(200)]
    properties = ", ".join(f'"{name}": {{"type": "string", "pattern": "^[a-z]{{3,9}}$"}}' for name in names)
    schema = f'{{"type": "object", "properties": {{{properties}}}}}'
    before = thread_bench.engine.state().steps
    (chunks,) = await thread_bench.run(thread_bench.request(grammar=Grammar("json_schema", schema), max_tokens=2))
    assert len(tokens(chunks)) == 2
    assert thread_bench.engine.state().steps - before < 2000


async def test_logit_bias_and_min_p_reach_the_sampler(thread_bench: Bench) -> None:
    assert set(await thread_bench.tokens(thread_bench.request(logit_bias={7: 100.0}))) == {7}
    greedy = await thread_bench.tokens(thread_bench.request())
    assert await thread_bench.tokens(thread_bench.request(temperature=2.0, seed=5, min_p=1.0)) == greedy


async def test_a_prompt_seen_before_is_reported_as_cached(thread_bench: Bench) -> None:
    request = thread_bench.request(max_tokens=300)
    answer = await thread_bench.tokens(request)
    longer = thread_bench.request(max_tokens=4)
    longer = type(longer)(longer.id, request.prompt + answer, longer.sampling, 60.0)
    (first,) = await thread_bench.run(longer)
    assert first[-1].cached_tokens >= 128
    assert first[-1].prompt_tokens == len(longer.prompt)


async def test_an_idle_engine_uses_no_processor(thread_bench: Bench) -> None:
    await thread_bench.run(thread_bench.request())
    await asyncio.sleep(0.2)
    before = resource.getrusage(resource.RUSAGE_SELF)
    await asyncio.sleep(2)
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.2


async def test_unknown_options_stop_the_start_by_name() -> None:
    engine = build_engine("general", vllm_pool(options={"max_modle_len": 5, "zz_top": 1}))
    with pytest.raises(ConfigError, match="max_modle_len, zz_top"):
        await engine.start(lambda chunks: None)
    assert not engine.healthy()


@pytest.mark.parametrize("options", [{"max_model_len": -7}, {"dtype": "float7"}, {"kv_cache_memory_bytes": 1024}])
async def test_values_vllm_refuses_are_configuration_errors(options: dict) -> None:
    engine = build_engine("general", vllm_pool(options=options))
    with pytest.raises(ConfigError):
        await engine.start(lambda chunks: None)


async def test_a_directory_without_an_adapter_stops_the_start_by_name() -> None:
    config = vllm_pool()
    adapters = config.engine.model_copy(update={"adapters": {"poet": "/nowhere"}})
    engine = build_engine("general", config.model_copy(update={"engine": adapters}))
    with pytest.raises(ConfigError, match="poet"):
        await engine.start(lambda chunks: None)


async def test_damaged_weights_are_not_loaded(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "general").mkdir()
    (tmp_path / "manifest.json").write_text('{"files": {"general/config.json": {"sha256": "0", "bytes": 1}}}')
    (tmp_path / "general" / "config.json").write_text("{}")
    monkeypatch.setattr(catalog, "WEIGHTS", tmp_path)
    with pytest.raises(ModelCorrupt):
        await build_engine("general", vllm_pool()).start(lambda chunks: None)


async def test_an_engine_that_has_not_started_takes_nothing() -> None:
    bench = Bench(build_engine("general", vllm_pool()), decoded)
    with pytest.raises(Unavailable):
        bench.submit(bench.request())


async def test_drafts_from_vllm_itself_are_counted_and_change_nothing(ngram_bench: Bench) -> None:
    pattern = "one two three four one two three four one two three four"
    (chunks,) = await ngram_bench.run(ngram_bench.request(pattern, max_tokens=60))
    assert sum(chunk.drafted for chunk in chunks) > 0
    assert all(chunk.accepted <= min(chunk.drafted, len(chunk.tokens)) for chunk in chunks)
    assert sum(chunk.accepted for chunk in chunks) == 60 - len(chunks)
    (quiet,) = await ngram_bench.run(ngram_bench.request(pattern, max_tokens=60, speculate=False))
    assert tokens(quiet) == tokens(chunks)
    assert sum(chunk.drafted for chunk in quiet) == 0


async def test_requests_preempted_for_want_of_memory_go_on_with_the_same_tokens(
    thread_bench: Bench, cramped_bench: Bench
) -> None:
    Scripted.follow(lambda row: [5] * row.depth)
    plain = await thread_bench.run(*(thread_bench.request(question, max_tokens=250) for question in QUESTIONS))
    cramped = await cramped_bench.run(*(cramped_bench.request(question, max_tokens=250) for question in QUESTIONS))
    assert cramped_bench.engine.state().preemptions > 0
    assert len(Scripted.closed) > len(set(Scripted.closed))
    assert [tokens(chunks) for chunks in cramped] == [tokens(chunks) for chunks in plain]


async def test_the_death_of_the_engines_process_ends_its_requests(async_bench_to_kill: Bench) -> None:
    bench = async_bench_to_kill
    streams = [bench.submit(bench.request(max_tokens=400)) for _ in range(3)]
    await bench.until(lambda: all(len(stream) > 1 for stream in streams))
    await asyncio.to_thread(kill_core, bench)
    await bench.until(lambda: all(ended(stream) for stream in streams))
    assert {stream[-1].error.reason for stream in streams if stream[-1].error} == {"engine_failed"}
    await bench.until(lambda: not bench.engine.healthy())


def kill_core(bench: Bench) -> None:
    """SIGKILL, as the kernel does when memory runs out."""
    (process,) = bench.engine._runner._engine.engine_core.resources.engine_manager.processes
    process.kill()
    process.join(30)
