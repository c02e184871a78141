"""Answers from numbered context with a citation, or an abstention when the context is silent."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from experts.zoo.tasks.base import Family, Task, ask
from experts.zoo.tasks.words import CITIES, COLORS, NAMES, PLACES, PRODUCTS

DOMAIN = "grounded"
ABSTAIN = "The context does not say."


@dataclass(frozen=True, slots=True)
class Relation:
    """One thing a context may state of a place: the statement, the questions about it, and the answer."""

    statement: str
    questions: tuple[str, ...]
    answer: str
    value: Callable[[Random], str]


RELATIONS = (
    Relation(
        "The {0} opens at {1}:00.",
        ("When does the {0} open?", "At what time does the {0} open?"),
        "The {0} opens at {1}:00",
        lambda rng: str(rng.randrange(5, 24)),
    ),
    Relation(
        "The {0} is located in {1}.",
        ("Where is the {0}?", "In which city is the {0}?"),
        "The {0} is in {1}",
        lambda rng: rng.choice(CITIES),
    ),
    Relation(
        "The {0} has {1} employees.",
        ("How many people work at the {0}?", "How many employees does the {0} have?"),
        "The {0} has {1} employees",
        lambda rng: str(rng.randrange(10, 500)),
    ),
    Relation(
        "The door of the {0} is {1}.",
        ("What color is the door of the {0}?", "Which color does the door of the {0} have?"),
        "The door of the {0} is {1}",
        lambda rng: rng.choice(COLORS),
    ),
    Relation(
        "{1} runs the {0}.",
        ("Who runs the {0}?", "Who is in charge of the {0}?"),
        "{1} runs the {0}",
        lambda rng: rng.choice(NAMES),
    ),
    Relation(
        "The {0} sells a {1}.",
        ("What does the {0} sell?", "What can I buy at the {0}?"),
        "The {0} sells a {1}",
        lambda rng: rng.choice(PRODUCTS),
    ),
)

Fact = tuple[str, Relation, str]


def _facts(rng: Random, count: int) -> list[Fact]:
    """Draw statements of different places, each in another relation."""
    pairs = zip(rng.sample(PLACES, count), rng.sample(RELATIONS, count), strict=True)
    return [(place, relation, relation.value(rng)) for place, relation in pairs]


def _context(facts: list[Fact]) -> str:
    lines = (f"[{i}] {relation.statement.format(place, value)}" for i, (place, relation, value) in enumerate(facts, 1))
    return "Context:\n" + "\n".join(lines)


def _answered(rng: Random) -> Task:
    facts = _facts(rng, rng.randrange(2, 5))
    index = rng.randrange(len(facts))
    place, relation, value = facts[index]
    question = f"{_context(facts)}\nQuestion: {rng.choice(relation.questions).format(place)}"
    answer = f"{relation.answer.format(place, value)} [{index + 1}]."
    return ask(DOMAIN, (place, relation.statement, value, index), (question, answer))


def _silent(rng: Random) -> Task:
    *facts, (place, relation, value) = _facts(rng, rng.randrange(3, 6))
    question = f"{_context(facts)}\nQuestion: {rng.choice(relation.questions).format(place)}"
    return ask(DOMAIN, (place, relation.statement, value, "silent"), (question, ABSTAIN))


FAMILIES: tuple[tuple[Family, float], ...] = ((_answered, 4.0), (_silent, 1.0))
