"""What every engine promises, whichever runtime stands behind it."""

import asyncio
import time
from collections.abc import Sequence

import msgspec
import pytest
from engine_bench import QUESTIONS, Bench, ended, text, tokens

from cluster.errors import BadRequest, EngineFailed, TooLong, UnknownModel
from experts.api import Chunk, Engine
from experts.engines.vllm_engine import VllmHost

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_only_the_last_chunk_has_a_finish_and_the_bill(any_bench: Bench) -> None:
    request = any_bench.request()
    (chunks,) = await any_bench.run(request)
    assert [chunk.finish for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].finish == "length"
    assert [chunk.prompt_tokens for chunk in chunks] == [0] * (len(chunks) - 1) + [len(request.prompt)]


async def test_the_deltas_make_up_the_whole_text(any_bench: Bench) -> None:
    for question in QUESTIONS[:3]:
        (chunks,) = await any_bench.run(any_bench.request(question))
        assert text(chunks) == any_bench.decode(tokens(chunks))


async def test_exactly_max_tokens_come_when_nothing_else_ends_it(any_bench: Bench) -> None:
    for count in (1, 2, 17):
        (chunks,) = await any_bench.run(any_bench.request(max_tokens=count))
        assert len(tokens(chunks)) == count


async def test_a_request_may_fill_the_context_to_the_last_token(bench: Bench) -> None:
    request = bench.request()
    room = bench.engine.limits.max_context - len(request.prompt)
    full = msgspec.structs.replace(request, sampling=msgspec.structs.replace(request.sampling, max_tokens=room))
    assert len(await bench.tokens(full)) == room


async def test_the_text_ends_before_a_stop_string_which_is_reported(any_bench: Bench) -> None:
    (whole,) = await any_bench.run(any_bench.request(QUESTIONS[1]))
    stop = text(whole)[20:26]
    (chunks,) = await any_bench.run(any_bench.request(QUESTIONS[1], stop=(stop,)))
    assert text(chunks) == text(whole)[: text(whole).index(stop)]
    assert (chunks[-1].finish, chunks[-1].stop) == ("stop", stop)
    assert len(tokens(chunks)) < len(tokens(whole))


async def test_a_stop_string_that_never_comes_holds_nothing_back_in_the_end(any_bench: Bench) -> None:
    (plain,) = await any_bench.run(any_bench.request(QUESTIONS[4]))
    (chunks,) = await any_bench.run(any_bench.request(QUESTIONS[4], stop=("no such words in any answer",)))
    assert text(chunks) == text(plain)


async def test_a_stop_token_ends_it_and_is_reported(any_bench: Bench) -> None:
    made = await any_bench.tokens(any_bench.request())
    stop = made[6]
    (chunks,) = await any_bench.run(any_bench.request(stop_token_ids=(stop,)))
    assert tokens(chunks) == made[: made.index(stop) + 1]
    assert (chunks[-1].finish, chunks[-1].stop) == ("stop", stop)


async def test_the_same_seed_draws_the_same_tokens_and_another_draws_others(bench: Bench) -> None:
    def request(seed: int):
        return bench.request(QUESTIONS[4], temperature=1.5, seed=seed)

    first, again, other = [await bench.tokens(request(seed)) for seed in (7, 7, 8)]
    assert first == again
    assert first != other


async def test_a_seed_holds_when_prompts_are_read_in_pieces(any_bench: Bench) -> None:
    """Together these prompts exceed what one step reads, so some are in the middle of theirs while others sample."""

    def request(seed: int):
        long = " ".join(QUESTIONS) * 2
        return any_bench.request(long, temperature=1.5, seed=seed, max_tokens=6)

    alone = [await any_bench.tokens(request(seed)) for seed in range(6)]
    together = await any_bench.run(*(request(seed) for seed in range(6)))
    assert [tokens(chunks) for chunks in together] == alone
    assert any_bench.engine.healthy()


async def test_logprobs_name_each_token_and_the_likeliest_in_order(any_bench: Bench) -> None:
    (chunks,) = await any_bench.run(any_bench.request(logprobs=3, temperature=1.0, seed=3))
    rows = [row for chunk in chunks for row in chunk.logprobs or ()]
    assert tuple(row.token for row in rows) == tokens(chunks)
    for row in rows:
        likelihoods = [top.logprob for top in row.top]
        assert len(row.top) == 3
        assert likelihoods == sorted(likelihoods, reverse=True)
        assert row.logprob <= likelihoods[0] <= 0


async def test_logprobs_may_be_of_the_chosen_tokens_alone_or_absent(bench: Bench) -> None:
    (alone,) = await bench.run(bench.request(logprobs=0))
    assert all(row.top == () for chunk in alone for row in chunk.logprobs or ())
    assert sum(len(chunk.logprobs or ()) for chunk in alone) == 24
    (absent,) = await bench.run(bench.request())
    assert all(chunk.logprobs is None for chunk in absent)


async def test_requests_side_by_side_share_steps_and_answer_as_if_alone(any_bench: Bench) -> None:
    """They are long, as an engine of another process may have begun the first well before it hears of the last."""

    def requests():
        return [any_bench.request(question, max_tokens=200) for question in QUESTIONS[:4]]

    alone = [await any_bench.tokens(request) for request in requests()]
    seen = len(any_bench.calls)
    together = await any_bench.run(*requests())
    assert [tokens(chunks) for chunks in together] == alone
    assert max(len(call) for call in any_bench.calls[seen:]) == 4
    assert all(map(of_one_step, any_bench.calls[seen:]))


async def test_steps_that_were_made_while_the_loop_was_held_up_come_one_by_one(any_bench: Bench) -> None:
    seen = len(any_bench.calls)
    streams = [any_bench.submit(any_bench.request(question, max_tokens=100)) for question in QUESTIONS[:2]]
    await any_bench.until(lambda: all(streams))
    time.sleep(0.1)  # noqa: ASYNC251 - the loop itself is to stand still
    await any_bench.until(lambda: all(map(ended, streams)))
    assert all(map(of_one_step, any_bench.calls[seen:]))


def of_one_step(call: Sequence[Chunk]) -> bool:
    return len({chunk.id for chunk in call}) == len(call)


async def test_more_requests_than_fit_wait_their_turn_and_all_end(bench: Bench) -> None:
    streams = [bench.submit(bench.request(QUESTIONS[n % 8])) for n in range(20)]
    waiting = []

    def done() -> bool:
        waiting.append((bench.engine.state().running, bench.engine.state().waiting))
        return all(ended(stream) for stream in streams)

    await bench.until(done)
    assert max(running for running, _ in waiting) == bench.engine.limits.max_running
    assert max(queued for _, queued in waiting) >= 12
    assert all(len(tokens(stream)) == 24 for stream in streams)


async def test_an_aborted_request_ends_as_such_and_frees_its_room(any_bench: Bench) -> None:
    request = any_bench.request(max_tokens=400)
    stream = any_bench.submit(request)
    await any_bench.until(lambda: len(stream) > 2)
    any_bench.engine.abort(request.id)
    await any_bench.until(lambda: ended(stream))
    assert stream[-1].finish == "abort"
    assert stream[-1].prompt_tokens == len(request.prompt)
    assert len(tokens(stream)) < 400
    await any_bench.until(lambda: any_bench.engine.state().kv_use == 0)
    assert (any_bench.engine.state().running, any_bench.engine.state().waiting) == (0, 0)


async def test_a_request_may_be_aborted_before_it_ran(any_bench: Bench) -> None:
    request = any_bench.request(max_tokens=400)
    stream = any_bench.submit(request)
    any_bench.engine.abort(request.id)
    await any_bench.until(lambda: ended(stream))
    assert stream[-1].finish == "abort"


async def test_aborting_what_is_unknown_or_over_does_nothing(bench: Bench) -> None:
    request = bench.request()
    await bench.run(request)
    bench.engine.abort(request.id)
    bench.engine.abort("never heard of")
    assert len(await bench.tokens(bench.request())) == 24


async def test_an_id_is_free_again_once_its_request_has_ended(any_bench: Bench) -> None:
    first = await any_bench.tokens(any_bench.request(name="again"))
    assert await any_bench.tokens(any_bench.request(name="again")) == first


async def test_an_id_in_use_is_refused_and_its_request_goes_on(bench: Bench) -> None:
    request = bench.request(max_tokens=40)
    stream = bench.submit(request)
    with pytest.raises(BadRequest):
        bench.submit(request)
    bench.chunks[request.id] = stream
    await bench.until(lambda: ended(stream))
    assert len(tokens(stream)) == 40


async def test_what_cannot_be_served_is_refused_at_once_with_its_kind(bench: Bench) -> None:
    good = bench.request()
    context, vocabulary = bench.engine.limits.max_context, bench.engine.limits.vocabulary
    bad = {
        TooLong: [
            {"prompt": (5,) * context},
            {"sampling": msgspec.structs.replace(good.sampling, max_tokens=context)},
        ],
        UnknownModel: [{"adapter": "none such"}],
        BadRequest: [
            {"prompt": ()},
            {"prompt": (vocabulary,)},
            {"prompt": (-1,)},
            *(
                {"sampling": msgspec.structs.replace(good.sampling, **wrong)}
                for wrong in (
                    {"max_tokens": 0},
                    {"seed": 1 << 70},
                    {"logit_bias": {vocabulary: 1.0}},
                    {"logit_bias": {1: float("nan")}},
                    {"min_tokens": 25},
                )
            ),
        ],
    }
    for kind, requests in bad.items():
        for wrong in requests:
            with pytest.raises(kind) as caught:
                bench.submit(msgspec.structs.replace(good, **wrong))
            assert type(caught.value) is kind
    assert len(await bench.tokens(good)) == 24


async def test_the_counters_add_up_to_what_was_said(any_bench: Bench) -> None:
    before = any_bench.engine.state()
    streams = await any_bench.run(*(any_bench.request(question) for question in QUESTIONS[:3]))
    chunks = [chunk for stream in streams for chunk in stream]
    after = any_bench.engine.state()
    assert after.tokens - before.tokens == 72
    assert after.drafted - before.drafted == sum(chunk.drafted for chunk in chunks)
    assert after.accepted - before.accepted == sum(chunk.accepted for chunk in chunks)
    assert after.steps > before.steps
    assert after.prompt_tokens - before.prompt_tokens == sum(chunk.prompt_tokens for chunk in chunks)


async def test_submitting_does_not_block_the_event_loop(any_bench: Bench) -> None:
    stream = any_bench.submit(any_bench.request(max_tokens=200))
    ticks = 0
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not ended(stream) and ticks < 5000:
        if any_bench.clock is not None:
            await any_bench.clock.advance(0.005)
        await asyncio.sleep(0)
        ticks += 1
    assert ticks > 200 or loop.time() - began < 0.2
    await any_bench.until(lambda: ended(stream))


async def test_stopping_ends_what_is_running_and_refuses_the_rest(mortal_bench: Bench) -> None:
    stream = mortal_bench.submit(mortal_bench.request(max_tokens=400))
    await mortal_bench.until(lambda: len(stream) > 1)
    assert mortal_bench.engine.healthy()
    await mortal_bench.engine.stop()
    assert stream[-1].finish == "error"
    assert stream[-1].error is not None
    assert stream[-1].error.reason == "unavailable"
    assert not mortal_bench.engine.healthy()
    with pytest.raises(EngineFailed):
        mortal_bench.submit(mortal_bench.request())
    await mortal_bench.engine.stop()


async def test_the_death_of_the_engine_ends_every_request_with_a_failure(mortal_bench: Bench) -> None:
    streams = [mortal_bench.submit(mortal_bench.request(max_tokens=400)) for _ in range(12)]
    await mortal_bench.until(lambda: len(streams[0]) > 1)
    kill(mortal_bench.engine)
    await mortal_bench.until(lambda: all(ended(stream) for stream in streams))
    for stream in streams:
        assert [chunk.finish for chunk in stream if chunk.finish] == ["error"]
        assert stream[-1].error is not None
        assert stream[-1].error.reason == "engine_failed"
    assert not mortal_bench.engine.healthy()
    with pytest.raises(EngineFailed):
        mortal_bench.submit(mortal_bench.request())


def kill(engine: Engine) -> None:
    """The simulated one is set to die; vLLM dies of a call that its plain worker does not know."""
    if isinstance(engine, VllmHost):
        assert engine._runner is not None
        engine._runner.use_drafts(())
