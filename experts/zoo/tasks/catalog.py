"""The domains and how a task is drawn from one: by weight, from one side of the split, in a varied conversation."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random

from experts.zoo.tasks import arithmetic, chat, code, grounded, records, tools
from experts.zoo.tasks.base import Family, Message, Split, Task, assistant, held_out, pick

DOMAINS: Mapping[str, Sequence[tuple[Family, float]]] = {
    module.DOMAIN: module.FAMILIES for module in (code, tools, arithmetic, chat, grounded, records)
}

SYSTEM = ("You are a helpful assistant.", "You are Switchyard.", "Answer briefly.", "Be precise.")
EARLIER = 0.15  # share of conversations with an answered turn before the question
INSTRUCTED = 0.35  # share of conversations with a system prompt


def draw(domain: str, rng: Random, split: Split) -> Task:
    """Draw one task of a domain from one side of the split, dressed with a system prompt or an earlier exchange."""
    task = _bare(domain, rng, split)
    messages: tuple[Message, ...] = task.messages
    if rng.random() < EARLIER and len(messages) == 1:
        before = _bare(domain if rng.random() < 0.5 else chat.DOMAIN, rng, split)
        if not before.tools and len(before.messages) == 1:
            messages = (*before.messages, assistant(before.answer), *messages)
    if rng.random() < INSTRUCTED:
        messages = ({"role": "system", "content": rng.choice(SYSTEM)}, *messages)
    return replace(task, messages=messages)


def _bare(domain: str, rng: Random, split: Split) -> Task:
    while True:
        task = pick(rng, DOMAINS[domain])(rng)
        if held_out(task.key) == (split == "test"):
            return task
