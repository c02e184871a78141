"""Prompts into tokens: each pool's tokenizer, chat template and context length.

A directory with a ``tokenizer.json`` is read with the tokenizers library and the template rendered here: importing
transformers for the same purpose costs every gateway ten seconds and 600 MB. Other models go through transformers.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from tokenizers import Tokenizer, decoders

from cluster.errors import BadRequest, ConfigError, TooLong
from deployments.ingress.templates import ChatTemplate
from experts.config import PoolConfig, SimulatedEngine, VllmEngine
from experts.models import local_directory
from router.jobs import Conversation, Prompt

Json = dict[str, Any]

LONG = 16 * 1024
"""Characters from which a text is tokenised on a thread (the library lets go of the interpreter lock meanwhile)."""


class Codec(Protocol):
    """One model's tokenizer and template."""

    @property
    def vocabulary(self) -> int: ...

    @property
    def widest(self) -> int | None:
        """Bytes of the longest token, where no text can take fewer tokens than its bytes divided by this."""

    def chat(self, conversation: Conversation) -> str:
        """Raises BadRequest for what the template refuses."""

    def encode(self, text: str, *, special: bool) -> tuple[int, ...]:
        """``special``: add the tokens a plain text begins or ends with; rendered chats bring their own."""


class FastCodec:
    """A ``tokenizer.json`` with its template, without transformers."""

    def __init__(self, directory: Path) -> None:
        self._tokenizer: Tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        settings = _read_json(directory / "tokenizer_config.json")
        source = _template_source(directory, settings)
        self._template = None if source is None else ChatTemplate(source, _special_tokens(settings))
        self.vocabulary: int = self._tokenizer.get_vocab_size(with_added_tokens=True)
        self.widest = _widest(self._tokenizer)

    def chat(self, conversation: Conversation) -> str:
        if self._template is None:
            raise BadRequest("this model has no chat template; use plain completions", param="messages")
        return self._template.render(conversation)

    def encode(self, text: str, *, special: bool) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=special).ids)


class HubCodec:
    """Whatever transformers can load; only the tokenizer is its, the template is rendered as everywhere here."""

    def __init__(self, model: str) -> None:
        from transformers import AutoTokenizer  # heavy: only for models that need it

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(model)
        except (OSError, ValueError) as error:
            raise ConfigError(f"no tokenizer for model {model!r}: {error}") from error
        source = self._tokenizer.chat_template
        tokens = {name: str(value) for name, value in self._tokenizer.special_tokens_map.items()}
        self._template = ChatTemplate(source, tokens) if isinstance(source, str) else None
        self.vocabulary = len(self._tokenizer)
        self.widest = None

    def chat(self, conversation: Conversation) -> str:
        if self._template is None:
            raise BadRequest("this model has no chat template; use plain completions", param="messages")
        return self._template.render(conversation)

    def encode(self, text: str, *, special: bool) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=special))


class PoolPrompts:
    """The router's ``Prompts`` for the configured expert pools. Pools with the same tokenizer files share one."""

    def __init__(self, pools: Mapping[str, PoolConfig], locate: Callable[[str], Path | None] = local_directory) -> None:
        """``locate`` gives a model's directory, None for one that is not on this machine.

        Raises ConfigError, UnknownModel or ModelCorrupt.
        """
        shared: dict[str, Codec] = {}
        self._codecs: dict[str, Codec] = {}
        self._contexts: dict[str, int] = {}
        for name, pool in pools.items():
            if pool.kind == "expert":
                directory = locate(pool.model)
                self._codecs[name] = _load(pool.model, directory, shared)
                self._contexts[name] = _context(name, pool, directory)
        self._last: tuple[str, Prompt, tuple[int, ...]] | None = None

    def max_context(self, pool: str) -> int:
        return self._contexts[pool]

    async def tokens(self, pool: str, prompt: Prompt) -> tuple[int, ...]:
        """Raises BadRequest for what the model cannot read, TooLong for what surely does not fit.

        The choices of one request ask for the same prompt one after the other, so the last answer is kept.
        """
        if self._last is not None and self._last[0] == pool and self._last[1] is prompt:
            return self._last[2]
        tokens = await self._encoded(pool, prompt)
        self._last = (pool, prompt, tokens)
        return tokens

    async def _encoded(self, pool: str, prompt: Prompt) -> tuple[int, ...]:
        codec = self._codecs[pool]
        if isinstance(prompt, tuple):
            if any(token >= codec.vocabulary for token in prompt):
                raise BadRequest(f"prompt: {pool} has {codec.vocabulary} tokens", param="prompt")
            return prompt
        text = codec.chat(prompt) if isinstance(prompt, Conversation) else prompt
        self._check_size(pool, text, "messages" if isinstance(prompt, Conversation) else "prompt")
        special = isinstance(prompt, str)
        if len(text) < LONG:
            return codec.encode(text, special=special)
        return await asyncio.to_thread(codec.encode, text, special=special)

    def _check_size(self, pool: str, text: str, param: str) -> None:
        """Tokenising megabytes would hold up every stream of this gateway, so what cannot fit is refused first."""
        widest, context = self._codecs[pool].widest, self._contexts[pool]
        if widest is not None and len(text) > widest * context:
            raise TooLong(f"{param}: {len(text)} characters cannot fit the {context} tokens of {pool}", param=param)


def _load(model: str, directory: Path | None, shared: dict[str, Codec]) -> Codec:
    if directory is None or not (directory / "tokenizer.json").is_file():
        if model not in shared:
            shared[model] = HubCodec(model if directory is None else str(directory))
        return shared[model]
    key = _fingerprint(directory)
    if key not in shared:
        shared[key] = FastCodec(directory)
    return shared[key]


def _fingerprint(directory: Path) -> str:
    digest = hashlib.sha256()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        path = directory / name
        digest.update(path.read_bytes() if path.is_file() else b"-")
    return digest.hexdigest()


def _context(name: str, pool: PoolConfig, directory: Path | None) -> int:
    """The configured length, or the one the model was made for."""
    if isinstance(pool.engine, SimulatedEngine):
        return pool.engine.max_context
    wanted = pool.engine.options.get("max_model_len") if isinstance(pool.engine, VllmEngine) else None
    if wanted is None and directory is not None:
        wanted = _read_json(directory / "config.json").get("max_position_embeddings")
    if not isinstance(wanted, int):
        raise ConfigError(
            f"pools.{name}.engine.options.max_model_len: needed, the model does not say its context length"
        )
    return wanted


def _template_source(directory: Path, settings: Json) -> str | None:
    """``chat_template.jinja`` where it exists, else the tokenizer's settings; of several, the default one."""
    file = directory / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    found = settings.get("chat_template")
    if isinstance(found, list):
        found = {each["name"]: each["template"] for each in found}.get("default")
    return found if isinstance(found, str) else None


def _special_tokens(settings: Json) -> dict[str, str]:
    """``bos_token`` and its like, as templates name them; some files wrap them in an object."""
    tokens = {}
    for name, value in settings.items():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            tokens[name] = text
    return tokens


def _read_json(path: Path) -> Json:
    if not path.is_file():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ConfigError(f"{path.name}: not a JSON object")
    return found


def _widest(tokenizer: Tokenizer) -> int | None:
    """Byte-level vocabularies write one character per byte. A normalizer, or a token that swallows the white space
    around it, may shorten the text: then nothing is sure."""
    greedy = any(token.lstrip or token.rstrip for token in tokenizer.get_added_tokens_decoder().values())
    if greedy or tokenizer.normalizer is not None or not isinstance(tokenizer.decoder, decoders.ByteLevel):
        return None
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    return max(len(token) for token in vocabulary)
