"""Drafts inside a tool call stay within its form; outside, and for what a call's text is cut into, nothing changes."""

import json
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers import Tokenizer

from deployments.ingress.tool_calls import CLOSE, OPEN
from experts.speculation import strict
from experts.speculation.strict import LARGEST, Place, Span, Strict, advance
from experts.zoo.catalog import model_path

BYTES = tuple(bytes([byte]) for byte in range(256))
STOP = len(BYTES)
"""A vocabulary of single bytes and a stop token; marks are therefore many tokens."""
PROMPT = [ord("p")] * 3

arguments = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        st.none() | st.booleans() | st.integers(-99, 99) | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)
calls = st.builds(
    lambda name, given, indent, gap: (
        OPEN + gap + json.dumps({"name": name, "arguments": given}, ensure_ascii=False, indent=indent) + gap + CLOSE
    ),
    st.text(max_size=10),
    arguments,
    st.sampled_from([None, 2]),
    st.sampled_from(["", "\n"]),
).filter(lambda text: text.count(CLOSE) == 1)
proses = st.text("ab<tol_>/{}\n", max_size=12).filter(lambda text: OPEN not in text)
texts = st.lists(st.tuples(proses, calls), max_size=3).map(lambda parts: "".join(map("".join, parts)))


@pytest.fixture(scope="module")
def vocabulary() -> tuple[bytes | None, ...]:
    return (*BYTES, None)


def history(text: str) -> NDArray[np.int32]:
    return np.array([*PROMPT, *text.encode()], dtype=np.int32)


def kept(subject: Strict, said: str, drafts: str | Sequence[int]) -> str:
    given = list(drafts.encode()) if isinstance(drafts, str) else drafts
    found = subject.filter("s", history(said), given, prompt=len(PROMPT))
    assert found == given[: len(found)]
    return bytes(found).decode()


def test_the_marks_are_those_that_the_front_door_reads() -> None:
    assert (strict.OPEN.decode(), strict.CLOSE.decode()) == (OPEN, CLOSE)


@given(texts, st.lists(st.integers(1, 9), min_size=1, max_size=40))
def test_where_a_text_arrives_does_not_depend_on_how_it_is_cut(text: str, sizes: list[int]) -> None:
    data = text.encode()
    place, spans, at = Place(), [], 0
    for size in [*sizes, len(data)]:
        place, more = advance(place, data[at : at + size])
        spans += more
        at += size
    whole, expected = advance(Place(), data)
    assert place == whole
    assert joined(spans) == joined(expected)
    assert b"".join(span.text for span in spans) == data


def joined(spans: Sequence[Span]) -> list[tuple[bool, bytes]]:
    """Neighbours on the same side put together."""
    found: list[tuple[bool, bytes]] = []
    start = True
    for span in spans:
        if start or found[-1][0] != span.inside:
            found.append((span.inside, span.text))
        else:
            found[-1] = (span.inside, found[-1][1] + span.text)
        start = span.ends
    return found


@given(texts, st.integers(0, 200), st.integers(1, 16))
def test_drafts_that_are_a_well_formed_continuation_are_all_kept(text: str, at: int, depth: int) -> None:
    subject = Strict((*BYTES, None))
    data = text.encode()
    drafts = list(data[at : at + depth])
    found = subject.filter("s", np.array([*PROMPT, *data[:at]], dtype=np.int32), drafts, prompt=len(PROMPT))
    assert found == drafts


@given(texts, st.lists(st.integers(0, STOP), max_size=8), st.integers(1, 30))
def test_drafts_leave_no_trace_and_steps_of_any_size_lead_to_the_same_place(
    text: str, noise: list[int], step: int
) -> None:
    """Wrong drafts between the steps of one session; another sees the history only once."""
    drafted, fresh = Strict((*BYTES, None)), Strict((*BYTES, None))
    data = text.encode()
    for at in range(0, len(data), step):
        said = np.array([*PROMPT, *data[:at]], dtype=np.int32)
        found = drafted.filter("s", said, noise, prompt=len(PROMPT))
        assert found == drafted.filter("s", said, noise, prompt=len(PROMPT))
        assert found == fresh.filter(str(at), said, noise, prompt=len(PROMPT))
        assert drafted.inside("s", said, prompt=len(PROMPT)) == advance(Place(), data[:at])[0].inside


INSIDE = OPEN + '{"name": "f", "arguments": {"a": 1'


@pytest.mark.parametrize(
    ("said", "drafts", "wanted"),
    [
        ("nothing special {", "]]]", "]]]"),
        ("", OPEN + '{"name', OPEN + '{"name'),
        ("", OPEN + "hello", OPEN),
        (OPEN, '{"n": 1', '{"n'),
        (INSIDE, "}}" + CLOSE + " and [", "}}" + CLOSE + " and ["),
        (INSIDE, "}" + CLOSE, "}"),
        (INSIDE, ']"', ""),
        (INSIDE, "2}]", "2}"),
        (INSIDE, "}}" + CLOSE + OPEN + "[", "}}" + CLOSE + OPEN),
        (INSIDE + ', "b": "', "x" + CLOSE, "x" + CLOSE[:-1]),
        (OPEN + "no call at all", "and {", ""),
        (OPEN + "no call at all" + CLOSE, "and {", "and {"),
        (INSIDE + "}}" + CLOSE, "text {", "text {"),
        (OPEN[:-1], '>{"x', '>{"'),
    ],
)
def test_a_draft_is_kept_as_far_as_a_call_can_go_on(
    vocabulary: tuple[bytes | None, ...], said: str, drafts: str, wanted: str
) -> None:
    assert kept(Strict(vocabulary), said, drafts) == wanted


def test_tokens_that_are_no_text_end_the_drafts_inside_a_call_only(vocabulary: tuple[bytes | None, ...]) -> None:
    subject = Strict(vocabulary)
    for drafts in ([STOP], [STOP + 1], [-1]):
        assert subject.filter("in", history(INSIDE), drafts, prompt=len(PROMPT)) == []
        assert subject.filter("out", history("a"), drafts, prompt=len(PROMPT)) == drafts


def test_a_prompt_that_speaks_of_calls_opens_none(vocabulary: tuple[bytes | None, ...]) -> None:
    tokens = np.array([*OPEN.encode(), *b"said"], dtype=np.int32)
    assert Strict(vocabulary).filter("s", tokens, list(b"[]"), prompt=len(OPEN)) == list(b"[]")
    assert not Strict(vocabulary).inside("s", tokens, prompt=len(OPEN))


def test_switched_off_nothing_is_drafted_inside_a_call_and_everything_outside(
    vocabulary: tuple[bytes | None, ...],
) -> None:
    subject = Strict(vocabulary, "off")
    assert kept(subject, "", "a" + OPEN + "{") == "a" + OPEN
    assert kept(Strict(vocabulary, "off"), INSIDE, "}") == ""
    assert kept(Strict(vocabulary, "off"), INSIDE + "}}" + CLOSE, "[") == "["


def test_a_call_beyond_the_bound_goes_on_without_drafts_to_its_end(vocabulary: tuple[bytes | None, ...]) -> None:
    long = OPEN + '{"name": "' + "x" * LARGEST
    assert kept(Strict(vocabulary), long[:-20], "xx") == "xx"
    assert kept(Strict(vocabulary), long, "xx") == ""
    assert kept(Strict(vocabulary), long + CLOSE, "xx") == "xx"


def test_closed_sessions_are_forgotten_and_one_that_comes_back_is_read_anew(
    vocabulary: tuple[bytes | None, ...],
) -> None:
    subject = Strict(vocabulary)
    before = kept(subject, INSIDE, "}}]")
    assert len(subject) == 1
    subject.close("s")
    subject.close("unknown")
    assert len(subject) == 0
    assert kept(subject, INSIDE, "}}]") == before == "}}"


@pytest.mark.engine
def test_with_the_embedded_tokenizer_a_real_call_is_followed_whatever_its_tokens() -> None:
    from transformers import AutoTokenizer

    directory = model_path("general")
    plain = Tokenizer.from_file(str(directory / "tokenizer.json"))
    subject = Strict(strict.pieces_of(AutoTokenizer.from_pretrained(directory), plain.get_vocab_size()))
    call = plain.encode('Sure.<tool_call>\n{"name": "weather", "arguments": {"city": "Bonn"}}\n</tool_call> Done.').ids
    inside, refused = [], []
    for at in range(len(call)):
        said = np.array(call[:at], dtype=np.int32)
        assert subject.filter("s", said, call[at : at + 8], prompt=0) == call[at : at + 8]
        inside.append(subject.inside("s", said, prompt=0))
        if not subject.filter("s", said, plain.encode("]]").ids, prompt=0):
            refused.append(plain.decode(call[:at]))
    assert True in inside
    assert not inside[-1]
    assert all("<tool_call>" in text and "</tool_call>" not in text for text in refused)
    assert any(text.endswith("}}") for text in refused)
