"""Held-out prompts as an embedded model reads them: through its own chat template and tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass

from deployments.ingress.prompts import FastCodec
from experts.zoo.catalog import GENERAL, model_path
from experts.zoo.prompts import held_out_prompts
from experts.zoo.tasks.catalog import DOMAINS
from router.jobs import Conversation, Message

RECORDS = "records"
ANSWERABLE = tuple(domain for domain in DOMAINS if domain != RECORDS)
"""All domains but the one of made-up data, which nobody can foresee."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A prompt in tokens, and the domain it was drawn from."""

    domain: str
    tokens: tuple[int, ...]


def encoded(count: int, domains: Sequence[str] = tuple(DOMAINS), *, model: str = GENERAL) -> list[Encoded]:
    """``count`` held-out prompts, the domains taking turns; always the same ones."""
    codec = FastCodec(model_path(model))
    found = []
    for each in held_out_prompts(count, domains=domains):
        messages = tuple(Message(role=turn["role"], content=str(turn["content"] or "")) for turn in each.messages)
        text = codec.chat(Conversation(messages))
        found.append(Encoded(each.domain, tuple(codec.encode(text, special=False))))
    return found
