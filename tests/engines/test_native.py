"""vLLM's own proposers under our controller: depths are kept, pauses cost nothing and leave no trace in the drafts."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from engine_bench import QUESTIONS, Bench, prompt, tokens, vllm_pool
from watch import Verified, watch

from experts.api import Chunk
from experts.engines.registry import build_engine
from experts.speculation.depth import Choice, FixedDepth, RowView

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.engine, pytest.mark.timeout(240)]

LENGTH = 48
DEPTH = 4


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def co_resident_bench() -> AsyncIterator[Bench]:
    speculation = {"layout": "co_resident", "model": "zoo:draft", "depth": DEPTH, "controller": "fixed"}
    engine = build_engine("general", vllm_pool(speculation=speculation))
    bench = Bench(engine, str)
    await engine.start(bench.sink)
    yield bench
    await engine.stop()


@dataclass
class Watched:
    """What an engine does inside: the drafts it verified, and how often its proposer ran. Steps are given the depths
    that ``script`` chooses for each row, by the step's number."""

    verified: list[Verified]
    script: Callable[[int, RowView], int] = lambda _, row: row.room
    step: int = 0
    proposals: int = 0

    def follow(self, script: Callable[[int, RowView], int]) -> None:
        self.script, self.step, self.proposals = script, 0, 0
        self.verified.clear()

    @property
    def drafts(self) -> dict[tuple[int, ...], tuple[int, ...]]:
        """By the history they continue."""
        return {each.history: each.drafts for each in self.verified}

    def choose(self, rows: Sequence[RowView]) -> Choice:
        self.step += 1
        depths = tuple(min(row.room, self.script(self.step, row)) for row in rows)
        return Choice(depths, depths, pace=0.0, horizon=0.0, mode="speculate", reason="fixed")

    def counted(self, propose: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: Any, **kwargs: Any) -> Any:
            self.proposals += 1
            return propose(*args, **kwargs)

        return counting


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    from vllm.v1.spec_decode.draft_model import DraftModelProposer

    seen = Watched(watch(monkeypatch))
    monkeypatch.setattr(FixedDepth, "choose", lambda _, rows, now: seen.choose(rows))
    monkeypatch.setattr(DraftModelProposer, "propose", seen.counted(DraftModelProposer.propose))
    return seen


async def answers(bench: Bench, **settings: Any) -> list[list[Chunk]]:
    return await bench.run(*(bench.request(question, max_tokens=LENGTH, **settings) for question in QUESTIONS))


def drafted(streams: Sequence[Sequence[Chunk]]) -> int:
    return sum(chunk.drafted for stream in streams for chunk in stream)


def accepted(streams: Sequence[Sequence[Chunk]]) -> int:
    return sum(chunk.accepted for stream in streams for chunk in stream)


async def test_a_draft_model_in_the_engine_changes_the_speed_and_no_token(
    thread_bench: Bench, co_resident_bench: Bench
) -> None:
    plain = await answers(thread_bench)
    ours = await answers(co_resident_bench)
    assert list(map(tokens, ours)) == list(map(tokens, plain))
    assert accepted(ours) > drafted(ours) / 3 > 0


@pytest.mark.parametrize(
    "script",
    [
        lambda step, row: 3 * (step // 6 % 2),
        lambda step, row: 4 if step > 20 else 0,
        lambda step, row: (step + row.context) % 5,
        lambda step, row: 4 if row.session.startswith("r1") == (step // 4 % 2 == 0) else 0,
    ],
    ids=["pauses", "late", "every_row_its_own", "taking_turns"],
)
async def test_after_a_pause_the_drafts_are_those_of_an_engine_that_never_paused(
    script: Callable[[int, RowView], int], thread_bench: Bench, co_resident_bench: Bench, watched: Watched
) -> None:
    plain = await answers(thread_bench)
    await answers(co_resident_bench)
    unbroken = watched.drafts
    watched.follow(script)
    ours = await answers(co_resident_bench)
    assert list(map(tokens, ours)) == list(map(tokens, plain))
    common = watched.drafts.keys() & unbroken.keys()
    assert len(common) > 10
    for known in common:
        assert watched.drafts[known] == unbroken[known][: len(watched.drafts[known])]


async def test_while_no_drafts_are_wanted_the_draft_model_reads_prompts_and_nothing_else(
    co_resident_bench: Bench, watched: Watched
) -> None:
    watched.follow(lambda step, row: 0)
    streams = await co_resident_bench.run(co_resident_bench.request(max_tokens=LENGTH))
    assert len(streams[0]) == LENGTH
    assert watched.proposals == 1
    assert drafted(streams) == 0


async def test_a_request_at_the_end_of_its_context_leaves_the_others_their_drafts(
    co_resident_bench: Bench, watched: Watched
) -> None:
    limit = co_resident_bench.engine.limits.max_context
    room = limit - len(prompt(QUESTIONS[0]))
    long = co_resident_bench.submit(co_resident_bench.request(max_tokens=room))
    await co_resident_bench.until(lambda: len(tokens(long)) > room - 24)
    (short,) = await co_resident_bench.run(co_resident_bench.request(QUESTIONS[1], max_tokens=LENGTH))
    await co_resident_bench.until(lambda: long[-1].finish is not None)
    assert len(tokens(long)) == room
    at_the_end = [drafts for known, drafts in watched.drafts.items() if len(known) > limit - DEPTH - 1]
    assert all(len(known) + len(drafts) < limit for known, drafts in watched.drafts.items())
    assert all(set(drafts) != {0} for drafts in at_the_end)
    assert accepted([short]) > 0


async def test_a_request_that_asks_for_no_drafts_gets_none_beside_one_that_does(
    thread_bench: Bench, co_resident_bench: Bench
) -> None:
    wanted = await thread_bench.tokens(thread_bench.request(QUESTIONS[1]))
    alone, beside = await co_resident_bench.run(
        co_resident_bench.request(QUESTIONS[1], speculate=False), co_resident_bench.request(QUESTIONS[1])
    )
    assert (drafted([alone]), drafted([beside]) > 0) == (0, True)
    assert tokens(alone) == tokens(beside) == wanted


async def test_a_long_history_that_was_missed_is_read_in_pieces(
    co_resident_bench: Bench, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    from experts.engines import vllm_native

    await answers(co_resident_bench)
    unbroken = watched.drafts
    monkeypatch.setattr(vllm_native, "PIECE", 7)
    watched.follow(lambda step, row: 4 if step > 12 else 0)
    streams = await answers(co_resident_bench)
    common = watched.drafts.keys() & unbroken.keys()
    assert common
    assert all(watched.drafts[known] == unbroken[known][: len(watched.drafts[known])] for known in common)
    assert accepted(streams) > 0


async def test_n_grams_are_looked_up_for_rows_that_want_them_and_cut_to_their_depth(
    thread_bench: Bench, ngram_bench: Bench, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.v1.spec_decode.ngram_proposer import NgramProposer  # numba, beside which no engine loads

    monkeypatch.setattr(NgramProposer, "propose", watched.counted(NgramProposer.propose))
    plain = await answers(thread_bench)
    watched.follow(lambda step, row: 2 if row.context % 2 else 0)
    ours = await answers(ngram_bench)
    assert list(map(tokens, ours)) == list(map(tokens, plain))
    assert accepted(ours) > 0
    assert all(len(known) % 2 and len(drafts) <= 2 for known, drafts in watched.drafts.items())
    watched.follow(lambda step, row: 0)
    assert drafted(await answers(ngram_bench)) == watched.proposals == 0


def test_what_was_missed_is_read_once_in_order_and_never_more_than_allowed() -> None:
    from experts.engines.vllm_native import Coverage, Gap

    coverage = Coverage()
    assert coverage.gaps([("a", 10), ("b", 0)]) == ([], set())
    coverage.read("a", 12)
    coverage.read("b", 5)
    gaps, lacking = coverage.gaps([("a", 30), ("b", 9), ("new", 3)], 20)
    assert gaps == [Gap(0, 12, 30), Gap(1, 5, 7)]
    assert lacking == {1}
    assert coverage.gaps([("a", 30), ("b", 9)], 0) == ([], {0, 1})
    coverage.close(["a", "unknown"])
    assert len(coverage) == 2
