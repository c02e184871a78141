"""Drafts may only change the speed: the same tokens, the same distribution, whatever is proposed."""

import random
from collections import Counter
from collections.abc import Callable

import pytest
from drafts_double import Scripted, nothing
from engine_bench import QUESTIONS, Bench, ended, prompt, text, tokens
from scipy.stats import chi2_contingency

from experts.api import DraftPeer, Grammar
from experts.speculation.proposer import DraftHistory

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.engine, pytest.mark.timeout(240)]

LENGTH = 40
OPEN = "Make up 3 rows of sample data."
"""A question to which the model has many likely answers."""

Script = Callable[[DraftHistory], list[int]]


def garbage(row: DraftHistory) -> list[int]:
    chance = random.Random(len(row.tokens))
    return [chance.randrange(2048) for _ in range(row.depth)]


def impossible(row: DraftHistory) -> list[int]:
    return [-1, 2048, 5, 1 << 40][: row.depth]


def too_many(row: DraftHistory) -> list[int]:
    return [5] * 100


def broken(row: DraftHistory) -> list[int]:
    raise RuntimeError("no drafts today")


def oracle(answers: dict[tuple[int, ...], tuple[int, ...]]) -> Script:
    """Knows the answer to each prompt and drafts it, as far as what has been said agrees."""

    def script(row: DraftHistory) -> list[int]:
        said = tuple(int(token) for token in row.tokens)
        for question, answer in answers.items():
            whole = question + answer
            if whole[: len(said)] == said:
                return list(whole[len(said) : len(said) + row.depth])
        return []

    return script


def ragged(script: Script) -> Script:
    """Of some rows a part, of others nothing, and now and then a wrong token in the middle."""

    def uneven(row: DraftHistory) -> list[int]:
        drafts = script(row)[: len(row.tokens) % 5]
        if drafts and len(row.tokens) % 3 == 0:
            drafts[-1] = (drafts[-1] + 1) % 2048
        return drafts

    return uneven


async def plain_answers(bench: Bench) -> dict[tuple[int, ...], tuple[int, ...]]:
    streams = await bench.run(*(bench.request(question, max_tokens=LENGTH) for question in QUESTIONS))
    return {prompt(question): tokens(stream) for question, stream in zip(QUESTIONS, streams, strict=True)}


@pytest.mark.parametrize("kind", ["garbage", "impossible", "too_many", "broken", "oracle", "ragged"])
async def test_greedy_output_is_that_of_the_plain_engine(kind: str, thread_bench: Bench, split_bench: Bench) -> None:
    answers = await plain_answers(thread_bench)
    scripts = {
        "garbage": garbage,
        "impossible": impossible,
        "too_many": too_many,
        "broken": broken,
        "oracle": oracle(answers),
        "ragged": ragged(oracle(answers)),
    }
    Scripted.follow(scripts[kind])
    streams = await split_bench.run(*(split_bench.request(question, max_tokens=LENGTH) for question in QUESTIONS))
    assert [tokens(stream) for stream in streams] == list(answers.values())
    assert Scripted.asked


async def test_an_oracle_saves_the_steps_it_should_and_is_counted_right(split_bench: Bench) -> None:
    Scripted.follow(nothing)
    answers = await plain_answers(split_bench)
    Scripted.follow(oracle(answers))
    (chunks,) = await split_bench.run(split_bench.request(max_tokens=LENGTH))
    drafted = [chunk for chunk in chunks if chunk.drafted]
    assert len(chunks) == 1 + -(-(LENGTH - 1) // 5)
    assert all(chunk.accepted == chunk.drafted == len(chunk.tokens) - 1 for chunk in drafted)
    assert sum(chunk.accepted for chunk in chunks) == LENGTH - len(chunks)


async def test_rejected_drafts_are_counted_as_drafted_and_not_accepted(split_bench: Bench) -> None:
    Scripted.follow(lambda row: [5] * min(row.depth, 3))
    (chunks,) = await split_bench.run(split_bench.request(max_tokens=10))
    assert [chunk.drafted for chunk in chunks[1:]] == [3] * 6 + [2, 1, 0]
    assert sum(chunk.accepted for chunk in chunks) == 0


async def test_a_stop_string_inside_accepted_drafts_cuts_them_there(thread_bench: Bench, split_bench: Bench) -> None:
    Scripted.follow(nothing)
    (whole,) = await split_bench.run(split_bench.request(QUESTIONS[1], max_tokens=LENGTH))
    stop = text(whole)[24:30]
    (wanted,) = await thread_bench.run(thread_bench.request(QUESTIONS[1], max_tokens=LENGTH, stop=(stop,)))
    Scripted.follow(oracle({prompt(QUESTIONS[1]): tokens(whole)}))
    (chunks,) = await split_bench.run(split_bench.request(QUESTIONS[1], max_tokens=LENGTH, stop=(stop,)))
    assert (text(chunks), tokens(chunks), chunks[-1].stop) == (text(wanted), tokens(wanted), stop)
    assert all(chunk.accepted <= len(chunk.tokens) for chunk in chunks)


async def test_no_more_drafts_are_asked_for_than_can_be_used(split_bench: Bench) -> None:
    Scripted.follow(nothing)
    request = split_bench.request(max_tokens=6)
    await split_bench.run(request)
    length = len(request.prompt)
    assert [(known - length, depth) for _, known, depth in Scripted.asked] == [(1, 4), (2, 3), (3, 2), (4, 1)]


async def test_near_the_end_of_the_context_only_the_rows_that_are_there_stop_drafting(split_bench: Bench) -> None:
    Scripted.follow(nothing)
    room = split_bench.engine.limits.max_context - len(prompt(QUESTIONS[0]))
    long, short = await split_bench.run(
        split_bench.request(max_tokens=room), split_bench.request(QUESTIONS[1], max_tokens=room - 60)
    )
    assert (len(tokens(long)), len(tokens(short))) == (room, room - 60)
    assert all(chunk.drafted == 0 for chunk in long + short)
    limit = split_bench.engine.limits.max_context
    assert all(known + depth < limit for _, known, depth in Scripted.asked)


async def test_the_controller_changes_depths_but_no_tokens_while_requests_are_preempted_and_aborted(
    thread_bench: Bench, adaptive_bench: Bench
) -> None:
    """Good and useless drafts in turn make it change its mind, down to none at all."""
    plain = await thread_bench.run(*(thread_bench.request(question, max_tokens=250) for question in QUESTIONS))
    whole = {prompt(question): tokens(chunks) for question, chunks in zip(QUESTIONS, plain, strict=True)}
    good = oracle(whole)
    Scripted.follow(lambda row: good(row) if len(row.tokens) % 100 < 50 else garbage(row))
    streams = [adaptive_bench.submit(adaptive_bench.request(question, max_tokens=250)) for question in QUESTIONS]
    for _ in range(3):
        aborted = adaptive_bench.request(QUESTIONS[5], max_tokens=250)
        stream = adaptive_bench.submit(aborted)
        await adaptive_bench.until(lambda stream=stream: len(tokens(stream)) > 5)
        adaptive_bench.engine.abort(aborted.id)
    await adaptive_bench.until(lambda: all(ended(stream) for stream in streams))
    assert [tokens(stream) for stream in streams] == [tokens(chunks) for chunks in plain]
    state = adaptive_bench.engine.state()
    assert state.preemptions > 0
    assert state.speculation is not None
    assert state.speculation.speculated < state.speculation.steps
    assert len({depth for _, _, depth in Scripted.asked}) > 2
    assert any(chunk.drafted == 0 and chunk.tokens for stream in streams for chunk in stream[1:])


async def test_the_last_chunk_sums_up_what_speculation_did(split_bench: Bench, thread_bench: Bench) -> None:
    Scripted.follow(lambda row: [5] * min(row.depth, 3) if len(row.tokens) % 2 else [])
    (chunks,) = await split_bench.run(split_bench.request(max_tokens=20))
    speculated = chunks[-1].speculated
    assert speculated is not None
    assert all(chunk.speculated is None for chunk in chunks[:-1])
    assert speculated.steps == sum(chunk.drafted > 0 for chunk in chunks)
    assert speculated.drafted == sum(chunk.drafted for chunk in chunks)
    assert speculated.plain == sum(chunk.drafted == 0 for chunk in chunks)
    given = sum((length + 1) * steps for length, steps in enumerate(speculated.accepted))
    assert speculated.plain + given == 20
    (chunks,) = await thread_bench.run(thread_bench.request(max_tokens=5))
    assert chunks[-1].speculated is None


async def test_the_state_tells_what_speculation_did(split_bench: Bench) -> None:
    def drafted() -> int:
        state = split_bench.engine.state().speculation
        return sum(state.drafted) if state else 0

    before = drafted()
    Scripted.follow(lambda row: [5] * row.depth)
    (chunks,) = await split_bench.run(split_bench.request(max_tokens=20))
    drafts = sum(chunk.drafted for chunk in chunks)
    assert drafts > 0
    # The state is told now and then, so the last steps come to it late.
    await split_bench.until(lambda: drafted() - before >= drafts)
    assert drafted() - before == drafts
    state = split_bench.engine.state().speculation
    assert state is not None
    assert state.mode == "speculate"
    assert state.misses > 0


async def test_prompts_are_announced_before_they_are_prefilled(split_bench: Bench) -> None:
    Scripted.follow(nothing)
    await split_bench.run(split_bench.request(), split_bench.request(QUESTIONS[1], speculate=False))
    assert list(Scripted.announced.values()) == [prompt(QUESTIONS[0])]


async def test_requests_that_ask_for_no_drafts_get_none(split_bench: Bench) -> None:
    Scripted.follow(garbage)
    (chunks,) = await split_bench.run(split_bench.request(speculate=False))
    assert Scripted.asked == []
    assert sum(chunk.drafted for chunk in chunks) == 0


async def test_sessions_are_closed_when_requests_end_or_are_aborted(split_bench: Bench) -> None:
    Scripted.follow(nothing)
    done, aborted = split_bench.request(), split_bench.request(max_tokens=400)
    stream = split_bench.submit(aborted)
    await split_bench.run(done)
    split_bench.engine.abort(aborted.id)
    await split_bench.until(lambda: ended(stream) and {done.id, aborted.id} <= names(Scripted.closed))
    assert {session for session, _, _ in Scripted.asked} <= set(Scripted.closed)


def names(sessions: list[str]) -> set[str]:
    """The ids behind vLLM's own, which end in a dash and eight characters."""
    return {session.rsplit("-", 1)[0] for session in sessions}


async def test_a_submission_with_a_used_id_is_a_new_session(split_bench: Bench) -> None:
    Scripted.follow(nothing)
    for _ in range(2):
        await split_bench.run(split_bench.request(name="same"))
    assert len({session for session, _, _ in Scripted.asked}) == 2


async def test_the_draft_replicas_reach_the_source_of_drafts(split_bench: Bench) -> None:
    peers = (DraftPeer("draft-0", 7, "tcp://127.0.0.1:1"), DraftPeer("draft-1", 8, "tcp://127.0.0.1:2"))
    split_bench.engine.use_drafts(peers)
    await split_bench.until(lambda: Scripted.peers == peers)


@pytest.mark.parametrize("options", [{"min_p": 0.2}, {"logit_bias": {5: 100.0}}, {"presence_penalty": 1.5}])
async def test_sampling_options_work_in_an_engine_that_drafts(
    options: dict, thread_bench: Bench, split_bench: Bench
) -> None:
    Scripted.follow(garbage)
    drawn = [
        await bench.tokens(bench.request(QUESTIONS[4], temperature=0.0, **options))
        for bench in (thread_bench, split_bench)
    ]
    assert drawn[0] == drawn[1]
    if "logit_bias" in options:
        assert set(drawn[1]) == {5}


async def test_min_p_of_one_leaves_only_the_likeliest_token(split_bench: Bench) -> None:
    Scripted.follow(nothing)
    greedy = await split_bench.tokens(split_bench.request(QUESTIONS[4]))
    Scripted.follow(garbage)
    assert await split_bench.tokens(split_bench.request(QUESTIONS[4], temperature=2.0, seed=1, min_p=1.0)) == greedy


async def test_drafts_do_not_change_the_distribution(thread_bench: Bench, split_bench: Bench) -> None:
    """At temperature 0.8, drafts sometimes right and sometimes wrong; three tokens each of many fixed seeds."""
    Scripted.follow(nothing)
    common = await split_bench.tokens(split_bench.request(OPEN, max_tokens=3))
    likely = oracle({prompt(OPEN): common})
    Scripted.follow(lambda row: likely(row) or garbage(row))
    plain = await drawn(thread_bench, range(800))
    drafted = await drawn(split_bench, range(800, 1600))
    frequent = [outcome for outcome, count in (plain + drafted).items() if count >= 10]
    table = [
        [*(sample[outcome] for outcome in frequent), sum(sample.values()) - sum(sample[o] for o in frequent)]
        for sample in (plain, drafted)
    ]
    assert len(frequent) > 3
    assert chi2_contingency(table).pvalue > 0.01


async def drawn(bench: Bench, seeds: range) -> Counter[tuple[int, ...]]:
    outcomes: Counter[tuple[int, ...]] = Counter()
    for start in range(0, len(seeds), 40):
        batch = seeds[start : start + 40]
        streams = await bench.run(*(bench.request(OPEN, max_tokens=3, temperature=0.8, seed=seed) for seed in batch))
        outcomes.update(map(tokens, streams))
    return outcomes


@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_structured_output_stays_valid_and_greedily_the_same(
    temperature: float, thread_bench: Bench, split_bench: Bench
) -> None:
    Scripted.follow(garbage)
    grammar = Grammar("regex", "(yes|no), [0-9]{2,4}!")
    streams = []
    for bench in (thread_bench, split_bench):
        (chunks,) = await bench.run(
            bench.request(grammar=grammar, temperature=temperature, seed=4, max_tokens=30, ignore_eos=False)
        )
        streams.append(chunks)
    for chunks in streams:
        assert chunks[-1].finish == "stop"
        answer, number = text(chunks).split(", ")
        assert answer in ("yes", "no")
        assert 2 <= len(number.removesuffix("!")) <= 4
        assert number.removesuffix("!").isdigit()
    if temperature == 0:
        assert text(streams[0]) == text(streams[1])


async def test_a_mixed_batch_of_greedy_and_random_rows_keeps_the_greedy_ones(
    thread_bench: Bench, split_bench: Bench
) -> None:
    answers = await plain_answers(thread_bench)
    Scripted.follow(ragged(oracle(answers)))
    requests = [split_bench.request(question, max_tokens=LENGTH) for question in QUESTIONS]
    noise = [split_bench.request(temperature=1.0, top_k=5, top_p=0.9, seed=n, max_tokens=LENGTH) for n in range(4)]
    streams = await split_bench.run(*requests, *noise)
    assert [tokens(stream) for stream in streams[: len(requests)]] == list(answers.values())
