"""Random records: the form is learnable and the values are not, so a draft can predict only the separators."""

from random import Random

from experts.zoo.tasks.base import Family, Task, ask
from experts.zoo.tasks.words import CITIES, COLORS, NAMES, PRODUCTS

DOMAIN = "records"
_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"


def _code(rng: Random) -> str:
    return "".join(rng.choices(_ALPHABET, k=8))


def _row(rng: Random) -> str:
    """Return one random row; no field repeats another, so copying earlier rows does not pay."""
    fields = (NAMES, range(100, 1000), PRODUCTS, COLORS, CITIES)
    return " ".join(str(rng.choice(values)) for values in fields)


def _codes(rng: Random) -> Task:
    count = rng.randrange(2, 9)
    question = rng.choice((f"Invent {count} random codes.", f"Give me {count} random keys."))
    answer = "\n".join(_code(rng) for _ in range(count))
    return ask(DOMAIN, ("codes", answer[:2]), (question, answer), form="rows")


def _rows(rng: Random) -> Task:
    count = rng.randrange(2, 7)
    question = rng.choice((f"Invent {count} random records.", f"Make up {count} rows of sample data."))
    answer = "\n".join(_row(rng) for _ in range(count))
    return ask(DOMAIN, ("rows", answer[:6]), (question, answer), form="rows")


def _digits(rng: Random) -> Task:
    count = rng.randrange(10, 40)
    question = rng.choice((f"Write {count} random digits.", f"Give me {count} digits at random."))
    answer = "".join(rng.choices(_ALPHABET[:10], k=count))
    return ask(DOMAIN, ("digits", answer[:3]), (question, answer), form="rows")


FAMILIES: tuple[tuple[Family, float], ...] = ((_codes, 1.0), (_rows, 1.5), (_digits, 0.7))
