"""Held-out prompts for tests and benchmarks, drawn over all domains. Imports no tensor library."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

from experts.zoo.tasks.base import Message, Task, Tool
from experts.zoo.tasks.catalog import DOMAINS, draw


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation that waits for its answer, with the task that can grade it."""

    domain: str
    messages: Sequence[Message]
    tools: Sequence[Tool]
    task: Task


def held_out_prompts(count: int, *, seed: int = 0, domains: Iterable[str] = tuple(DOMAINS)) -> list[Prompt]:
    """Return ``count`` prompts that no model of the family was trained on, the domains taking turns."""
    names = list(domains)
    rngs = {name: Random(f"{seed}/{name}") for name in names}
    tasks = [draw(name, rngs[name], "test") for name in (names[i % len(names)] for i in range(count))]
    return [Prompt(task.domain, list(task.messages), list(task.tools), task) for task in tasks]
