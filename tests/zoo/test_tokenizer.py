"""The tokenizer loses nothing, and its template renders what chat clients send."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experts.zoo.catalog import WEIGHTS
from experts.zoo.tokenizer import VOCABULARY, load_tokenizer, train_tokenizer

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
    },
}


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(WEIGHTS / "general")


@settings(max_examples=200, deadline=None)
@given(text=st.text())
def test_any_text_survives_encoding(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_special_tokens_have_fixed_ids_and_digits_stand_alone(tokenizer):
    assert tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]) == [0, 1, 2]
    assert tokenizer.eos_token_id == 2
    assert tokenizer.pad_token_id == 0
    assert len(tokenizer) == VOCABULARY
    assert tokenizer.tokenize("1234") == ["1", "2", "3", "4"]


def test_call_marks_are_one_token_each_and_survive_skipping_special_tokens(tokenizer):
    ids = tokenizer.encode("<tool_call>{}</tool_call><|im_end|>", add_special_tokens=False)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<tool_call>{}</tool_call>"
    assert len(tokenizer.encode("<tool_call>", add_special_tokens=False)) == 1


def test_the_template_renders_tools_in_one_line_each(tokenizer):
    messages = [{"role": "system", "content": "Be precise."}, {"role": "user", "content": "Hi"}]
    text = tokenizer.apply_chat_template(messages, tools=[TOOL], tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nBe precise.\nTools:\n"
        "get_weather(city:string,days:integer) - Current weather in a city<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_template_takes_a_tool_without_parameters_and_no_system_prompt(tokenizer):
    tool = {"type": "function", "function": {"name": "ping"}}
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tools=[tool], tokenize=False)
    assert text.startswith("<|im_start|>system\nTools:\nping() - <|im_end|>\n<|im_start|>user\nHi<|im_end|>\n")


@pytest.mark.parametrize("arguments", [{"city": "París"}, '{"city": "París"}'])
def test_calls_and_results_are_rendered_as_the_model_writes_them(tokenizer, arguments):
    call = {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "17", "tool_call_id": "1"},
    ]
    text = tokenizer.apply_chat_template(messages, tools=[TOOL], tokenize=False, add_generation_prompt=True)
    written = re.search(r"<\|im_start\|>assistant\n\s*<tool_call>\n(.*)\n</tool_call><\|im_end\|>", text)
    assert written
    assert json.loads(written.group(1)) == {"name": "get_weather", "arguments": {"city": "París"}}
    assert text.endswith("<|im_start|>tool\n17<|im_end|>\n<|im_start|>assistant\n")


def test_training_twice_gives_the_same_vocabulary():
    first, second = (train_tokenizer(3, rounds=30).get_vocab() for _ in range(2))
    assert first == second
