"""Prompts into tokens, compared with what transformers does with the same files."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from cluster.errors import BadRequest, ConfigError, TooLong
from deployments.ingress.prompts import FastCodec, HubCodec, PoolPrompts
from deployments.ingress.templates import ChatTemplate
from experts.config import DraftEngine, PoolConfig, SimulatedEngine, VllmEngine
from experts.zoo.tokenizer import train_tokenizer
from router.jobs import Conversation, Message, Prompt, Tool, ToolCall

PARAMETERS = '{"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}'
CONVERSATIONS = [
    Conversation((Message("user", "What is 12 + 30?"),)),
    Conversation((Message("system", "Be brief."), Message("user", "Grüße <b>&amp;</b> 你好 🙂"))),
    Conversation(
        (
            Message("user", "weather?"),
            Message("assistant", "", (ToolCall("call_1", "weather", '{"city": "Åbo", "days": 2}'),)),
            Message("tool", "rain", tool_call_id="call_1"),
            Message("user", "thanks"),
        ),
        (Tool("weather", "the <weather>", PARAMETERS), Tool("clock")),
    ),
]


def read(prompts: PoolPrompts, name: str, prompt: Prompt) -> tuple[int, ...]:
    return asyncio.run(prompts.tokens(name, prompt))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a checkpoint that a tokenizer needs."""
    made = tmp_path_factory.mktemp("model")
    train_tokenizer(0, rounds=20).save_pretrained(made)
    (made / "config.json").write_text(json.dumps({"max_position_embeddings": 64}))
    return made


def pool(**changes: object) -> PoolConfig:
    return PoolConfig.model_validate({"model": "here", "engine": VllmEngine()} | changes)


def as_openai(conversation: Conversation) -> tuple[list[dict], list[dict] | None]:
    messages = []
    for message in conversation.messages:
        calls = [
            {
                "id": each.id,
                "type": "function",
                "function": {"name": each.name, "arguments": json.loads(each.arguments)},
            }
            for each in message.tool_calls
        ]
        messages.append({"role": message.role, "content": message.content} | ({"tool_calls": calls} if calls else {}))
    tools = [
        {
            "type": "function",
            "function": {"name": each.name, "description": each.description, "parameters": json.loads(each.parameters)},
        }
        for each in conversation.tools
    ]
    return messages, tools or None


@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_a_conversation_becomes_the_tokens_transformers_makes_of_it(
    directory: Path, conversation: Conversation
) -> None:
    messages, tools = as_openai(conversation)
    reference = AutoTokenizer.from_pretrained(directory)
    text = reference.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=True)
    for codec in (FastCodec(directory), HubCodec(str(directory))):
        assert codec.chat(conversation) == text
        assert list(codec.encode(text, special=False)) == reference.encode(text, add_special_tokens=False)
    prompts = PoolPrompts({"p": pool(engine=SimulatedEngine())}, lambda _: directory)
    assert list(read(prompts, "p", conversation)) == reference.encode(text, add_special_tokens=False)


def test_pools_of_one_hub_model_load_its_tokenizer_once(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []

    class Counted(HubCodec):
        def __init__(self, model: str) -> None:
            built.append(model)
            super().__init__(str(directory))

    monkeypatch.setattr("deployments.ingress.prompts.HubCodec", Counted)
    pools = {name: pool(engine=SimulatedEngine()) for name in "abc"}
    prompts = PoolPrompts(pools, lambda _: None)
    assert len(built) == 1
    assert read(prompts, "a", "hello") == read(prompts, "c", "hello")


def test_every_text_survives_the_round_trip(directory: Path) -> None:
    reference = AutoTokenizer.from_pretrained(directory)
    prompts = PoolPrompts({"p": pool(engine=SimulatedEngine())}, lambda _: directory)
    for text in ("a", "  spaces\n\n", "12345", "ünï¢ødé 🙂"):
        assert reference.decode(read(prompts, "p", text)) == text


def test_token_ids_pass_as_they_are_unless_the_vocabulary_has_them_not(directory: Path) -> None:
    prompts = PoolPrompts({"p": pool()}, lambda _: directory)
    assert read(prompts, "p", (1, 2, 3)) == (1, 2, 3)
    with pytest.raises(BadRequest, match="tokens"):
        read(prompts, "p", (1, 1_000_000))


def test_what_cannot_fit_is_refused_before_it_is_tokenised(directory: Path) -> None:
    prompts = PoolPrompts({"p": pool()}, lambda _: directory)
    with pytest.raises(TooLong, match="64 tokens"):
        read(prompts, "p", "x" * 1_000_000)


def test_text_that_might_fit_is_never_refused_by_its_size(directory: Path) -> None:
    codec = FastCodec(directory)
    vocabulary = AutoTokenizer.from_pretrained(directory)
    longest = max((vocabulary.decode([token]) for token in range(codec.vocabulary)), key=len)
    text = longest * 63
    assert len(codec.encode(text, special=False)) <= 64
    assert read(PoolPrompts({"p": pool()}, lambda _: directory), "p", text)


def test_pools_with_the_same_files_share_one_tokenizer(directory: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    prompts = PoolPrompts(
        {"a": pool(model="a"), "b": pool(model="b")}, lambda model: directory if model == "a" else copy
    )
    assert prompts._codecs["a"] is prompts._codecs["b"]


def test_the_context_is_the_configured_one_or_the_models(directory: Path) -> None:
    pools = {
        "model": pool(),
        "set": pool(engine=VllmEngine(options={"max_model_len": 32})),
        "simulated": pool(engine=SimulatedEngine(max_context=128)),
        "draft": PoolConfig(kind="draft", model="here", engine=DraftEngine()),
    }
    prompts = PoolPrompts(pools, lambda _: directory)
    assert [prompts.max_context(name) for name in ("model", "set", "simulated")] == [64, 32, 128]


def test_a_model_that_does_not_say_its_context_needs_it_configured(directory: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    (copy / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"pools\.p\.engine\.options\.max_model_len"):
        PoolPrompts({"p": pool()}, lambda _: copy)


def test_a_model_without_a_template_takes_no_conversations(directory: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    (copy / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (copy / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(BadRequest, match="chat template"):
        FastCodec(copy).chat(CONVERSATIONS[0])


def test_what_a_template_objects_to_is_the_clients_error() -> None:
    strict = ChatTemplate("{{ raise_exception('roles must alternate') }}", {})
    with pytest.raises(BadRequest, match="roles must alternate") as caught:
        strict.render(CONVERSATIONS[0])
    assert caught.value.param == "messages"
    with pytest.raises(BadRequest, match="unexpected shape"):
        ChatTemplate("{{ messages[0].content + 1 }}", {}).render(CONVERSATIONS[0])
    with pytest.raises(ConfigError, match="line 2"):
        ChatTemplate("\n{% if %}", {})


def test_templates_cannot_reach_the_interpreter() -> None:
    with pytest.raises(BadRequest, match="chat template"):
        ChatTemplate("{{ messages.__class__.__base__.__subclasses__() }}", {}).render(CONVERSATIONS[0])


def test_developer_is_system_for_templates_that_do_not_know_the_role() -> None:
    asked = Conversation((Message("developer", "x"),))
    assert ChatTemplate("{{ messages[0].role }}", {}).render(asked) == "system"
    assert ChatTemplate("{# developer #}{{ messages[0].role }}", {}).render(asked) == "developer"


def test_templates_have_the_usual_helpers_and_tokens() -> None:
    source = (
        "{{ bos_token }}{% generation %}{{ messages[0].content | tojson }}{% endgeneration %}"
        "{{ strftime_now('%Y') | length }}"
    )
    asked = Conversation((Message("user", "<é>"),))
    assert ChatTemplate(source, {"bos_token": "<s>"}).render(asked) == '<s>"<é>"4'


def test_a_long_text_is_read_beside_the_event_loop(directory: Path) -> None:
    prompts = PoolPrompts({"p": pool(engine=VllmEngine(options={"max_model_len": 100_000}))}, lambda _: directory)
    text = "some words to read " * 2000
    whole = FastCodec(directory).encode(text, special=True)
    assert read(prompts, "p", text) == whole
