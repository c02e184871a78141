"""What the draft pool is asked for and which answers are believed, without an engine."""

from types import SimpleNamespace

import numpy as np
import pytest
from drafts_double import NAME, Scripted
from hypothesis import given
from hypothesis import strategies as st

from experts.engines.vllm_options import SECTION
from experts.engines.vllm_proposer import LONG, Proposer, believable
from experts.engines.vllm_steps import Row, wanted
from experts.speculation.depth import Choice
from experts.speculation.proposer import SPAN, Proposal

CONTEXT, VOCABULARY = 50, 100


def row(length: int, *, sampled: int = 1, prompt: int = 5, max_tokens: int = 20, **fields):
    tokens = np.arange(length, dtype=np.int32)
    return Row(session="s", tokens=tokens, sampled=sampled, prompt=prompt, max_tokens=max_tokens, **fields)


def proposer(**changes: object) -> Proposer:
    model = SimpleNamespace(max_model_len=CONTEXT, get_vocab_size=lambda: VOCABULARY)
    section = {"drafts": NAME, "deadline": 0.01, "retry": 0.1, "ahead": True, "depth": 4, "controller": "fixed"}
    return Proposer(SimpleNamespace(additional_config={SECTION: section | changes}, model_config=model))


@given(
    length=st.integers(5, 50),
    sampled=st.integers(0, 5),
    max_tokens=st.integers(1, 45),
    depth=st.integers(0, 16),
    speculate=st.booleans(),
    ended=st.booleans(),
)
def test_drafts_never_reach_past_the_answer_or_the_context(
    *, length: int, sampled: int, max_tokens: int, depth: int, speculate: bool, ended: bool
) -> None:
    asked = row(length, sampled=sampled, max_tokens=max_tokens, speculate=speculate, ended=ended)
    count = wanted(asked, depth=depth, context=CONTEXT)
    assert 0 <= count <= depth
    if count:
        assert speculate
        assert sampled
        assert not ended
        assert length + count + 1 <= CONTEXT
        assert length - 5 + count + 1 <= max_tokens
    elif speculate and sampled and not ended and depth:
        assert length + 2 > CONTEXT or length - 5 + 2 > max_tokens


@given(st.lists(st.integers(-3, VOCABULARY + 3), max_size=20), st.integers(0, 16))
def test_only_the_part_before_the_first_impossible_draft_is_believed(drafts: list[int], depth: int) -> None:
    kept = believable(drafts, depth=depth, vocabulary=VOCABULARY)
    assert kept == drafts[: len(kept)]
    assert len(kept) <= depth
    assert all(0 <= token < VOCABULARY for token in kept)
    assert len(kept) == min(depth, len(drafts)) or not 0 <= drafts[len(kept)] < VOCABULARY


def test_answers_come_back_to_the_rows_they_were_asked_for() -> None:
    Scripted.follow(lambda history: [history.depth] * history.depth)
    rows = [row(10), row(10, sampled=0), row(23), row(24), row(10, speculate=False)]
    assert proposer().draft(rows) == [[4] * 4, [], [1], [], []]


@pytest.mark.parametrize(
    ("rest", "notice", "length", "said"),
    [
        (9, (False,), 10, False),
        (9, (True,), 10, True),
        (0, (False,), 10, True),
        (9, (False,), LONG + 1, True),
    ],
)
def test_while_nobody_is_to_have_drafts_only_long_prompts_are_announced(
    *, rest: int, notice: tuple[bool], length: int, said: bool
) -> None:
    Scripted.follow(lambda history: [])
    verifier = proposer()
    verifier.steps.begin([row(10)])
    verifier.steps._rest.begin(Choice((0,), (0.0,), 0.0, 0.0, "plain", "acceptance", rest=rest, notice=notice))
    verifier.announce(row(length, sampled=0))
    assert ("s" in Scripted.announced) is said


def test_where_many_run_even_short_prompts_are_more_than_can_be_told_at_once() -> None:
    Scripted.follow(lambda history: [])
    verifier = proposer()
    verifier.steps.begin([row(10)] * (SPAN // 20))
    zeros = (0,) * (SPAN // 20)
    verifier.steps._rest.begin(Choice(zeros, zeros, 0.0, 0.0, "plain", "acceptance", rest=9, notice=(False,)))
    for length in (20, 21):
        verifier.announce(row(length, sampled=0))
        assert len(Scripted.announced.get("s", ())) == (21 if length == 21 else 0)


def test_when_nobody_wants_drafts_nobody_is_asked() -> None:
    Scripted.follow(lambda history: [1])
    assert proposer().draft([row(10, sampled=0), row(25)]) == [[], []]
    assert Scripted.asked == []


@pytest.mark.parametrize("answers", [[], [[1]], [[1], [2], [3]], None, [None, None]])
def test_a_source_that_answers_nonsense_means_no_drafts_and_is_counted(answers) -> None:
    mine = proposer()
    mine._drafts.propose = lambda rows, **_: answers if answers is None else Proposal(answers)
    assert mine.draft([row(10), row(11)]) == [[], []]
    assert mine.draft([row(10), row(11)]) == [[], []]
    assert sum(mine.steps.failures.values()) == 2


def test_failures_are_logged_once_for_each_kind(caplog: pytest.LogCaptureFixture) -> None:
    mine = proposer()

    def fail(*_: object, **__: object) -> Proposal:
        raise OSError("gone")

    mine._drafts.propose = mine._drafts.close = mine._drafts.use = fail
    for _ in range(3):
        assert mine.draft([row(10)]) == [[]]
        mine.close(["s"])
        mine.use(())
    assert mine.steps.failures == {"OSError": 9}
    assert [record.message for record in caplog.records].count("drafts failed with OSError (reported once): gone") == 1


def test_without_names_for_the_rows_nothing_is_drafted() -> None:
    assert proposer().propose([[1], [2, 3]]) == [[], []]
