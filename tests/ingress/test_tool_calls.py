"""Reading tool calls out of text, however it is cut."""

import itertools
import json

from hypothesis import given
from hypothesis import strategies as st

from deployments.ingress.tool_calls import Calls, ForcedReader, HermesReader, Parsed
from router.jobs import ToolCall

TOOLS = frozenset({"f", "g"})


def call(name: str, arguments: str = "{}") -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def read(*pieces: str) -> Parsed:
    numbers = itertools.count()
    reader = HermesReader(Calls(TOOLS, lambda: f"call_{next(numbers)}"))
    parts = [*(reader.feed(piece) for piece in pieces), reader.finish()]
    return Parsed("".join(part.text for part in parts), tuple(each for part in parts for each in part.calls))


def test_text_without_calls_is_untouched() -> None:
    assert read("a < b, <tool> and <tool_cal, \n") == Parsed("a < b, <tool> and <tool_cal, \n")


def test_a_call_is_taken_out_with_the_space_around_it() -> None:
    text = "Look: \n" + call("f", '{"a": [1,  2]}') + "\n\n" + call("g") + " done"
    assert read(text) == Parsed("Look:done", (ToolCall("call_0", "f", '{"a": [1,  2]}'), ToolCall("call_1", "g", "{}")))


def test_a_call_without_arguments_has_an_empty_object() -> None:
    assert read('<tool_call>{"name": "f"}</tool_call>').calls == (ToolCall("call_0", "f", "{}"),)


def test_what_is_no_call_stays_content() -> None:
    for body in (
        "",
        "{",
        '{"name": 5}',
        '{"name": "f", "arguments": [1]}',
        '{"name": "unknown"}',
        "[1]",
        "[" * 100_000,
    ):
        text = f"a <tool_call>{body}</tool_call> b"
        assert read(text) == Parsed(text)


def test_a_call_whose_end_was_cut_off_counts_if_it_is_whole() -> None:
    assert read(call("f").removesuffix("</tool_call>")).calls == (ToolCall("call_0", "f", "{}"),)
    assert read('x <tool_call>{"name": "f"') == Parsed('x <tool_call>{"name": "f"')


def test_content_is_handed_on_as_soon_as_it_is_certain() -> None:
    reader = HermesReader(Calls(TOOLS))
    assert [reader.feed(piece).text for piece in ("Hello", " wor", "ld", " <to", "ol> x", "!")] == [
        "Hello",
        " wor",
        "ld",
        "",
        " <tool> x",
        "!",
    ]


def test_a_forced_call_is_read_and_a_cut_one_is_content() -> None:
    reader = ForcedReader(Calls(TOOLS))
    pieces = [reader.feed(piece) for piece in ('{"name": "f", "argu', 'ments": {"a": 1}} ')]
    assert pieces == [Parsed(), Parsed()]
    (found,) = reader.finish().calls
    assert (found.name, found.arguments) == ("f", '{"a": 1}')
    short = ForcedReader(Calls(TOOLS))
    short.feed('{"name": "f", "arg')
    assert short.finish() == Parsed('{"name": "f", "arg')


arguments = st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=8), max_size=3).map(json.dumps)
pieces_of_text = st.one_of(
    st.text(max_size=10),
    st.sampled_from(["<tool_call>", "</tool_call>", "<tool_call", ">", "<", " ", "\n", "{", '{"name": "f"}']),
    st.builds(call, st.sampled_from(["f", "g", "unknown"]), arguments),
)


@given(st.lists(pieces_of_text, max_size=8).map("".join), st.data())
def test_cutting_the_text_elsewhere_changes_nothing(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    pieces = [text[start:end] for start, end in itertools.pairwise([0, *cuts, len(text)])]
    assert read(*pieces) == read(text) == read(*text)


@given(st.lists(st.tuples(st.sampled_from(["f", "g"]), arguments), max_size=5), st.text(alphabet="ab \n<>", max_size=5))
def test_every_call_that_was_written_is_read_back(calls: list[tuple[str, str]], between: str) -> None:
    wanted = [each for each in calls if "</tool_call>" not in each[1]]
    found = read(between.join(call(*each) for each in wanted))
    assert [(each.name, json.loads(each.arguments)) for each in found.calls] == [
        (name, json.loads(text)) for name, text in wanted
    ]
