"""Tool calls read from an offered list, reports of their results, and JSON extraction and conversion."""

from random import Random
from typing import Any

from experts.zoo.tasks.base import Family, Task, ask, assistant, dumps, user
from experts.zoo.tasks.toolbox import INTENTS, Offer
from experts.zoo.tasks.words import CITIES, COLORS, CURRENCIES, DAYS, LEVELS, NAMES, PRODUCTS, SERVICES

DOMAIN = "tools"
NO_TOOL = "None of the tools can do that."
NO_CALL = (
    ("Hello!", "Hello! How can I help you?"),
    ("Thank you!", "You are welcome!"),
    ("Goodbye.", "Goodbye!"),
    ("What can you do?", "I can call the tools in the list for you."),
)
_FIELDS: dict[str, tuple[str | int, ...]] = {
    "product": PRODUCTS,
    "color": COLORS,
    "city": CITIES,
    "day": DAYS,
    "name": NAMES,
    "service": SERVICES,
    "level": LEVELS,
    "currency": CURRENCIES,
    "count": tuple(range(1, 60)),
    "price": tuple(range(5, 200)),
    "id": tuple(range(100, 1000)),
    "age": tuple(range(18, 90)),
}


def render_call(name: str, arguments: dict[str, Any]) -> str:
    """Write a call in the form that the usual Hermes parser reads."""
    return f"<tool_call>\n{dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def _offers(rng: Random, count: int) -> list[Offer]:
    """Draw different intents under different tool names."""
    return [Offer.draw(rng, intent) for intent in rng.sample(INTENTS, count)]


def _call(rng: Random) -> Task:
    offers = _offers(rng, rng.choice((1, 2, 2, 3, 3, 4)))
    offer = rng.choice(offers)
    key = ("call", offer.name, *offer.fields, *offer.values)
    answer = render_call(offer.name, offer.arguments)
    return Task(DOMAIN, key, (user(offer.request(rng)),), answer, "call", tuple(each.tool() for each in offers))


def _report(rng: Random) -> Task:
    """Put a tool's result into words: call, result and report are one conversation."""
    offer = Offer.draw(rng, rng.choice([intent for intent in INTENTS if intent.reply]))
    tools = [offer.tool()] + [each.tool() for each in _offers(rng, 2) if each.name != offer.name]
    rng.shuffle(tools)
    result = rng.randrange(2, 40)
    call = {"type": "function", "function": {"name": offer.name, "arguments": offer.arguments}}
    messages = (
        user(offer.request(rng)),
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": dumps({rng.choice(("result", "value", offer.name)): result})},
    )
    answer = (offer.intent.reply or "").format(*offer.values, result)
    return Task(DOMAIN, ("report", offer.name, *offer.values, result), messages, answer, tools=tuple(tools))


def _missing(rng: Random) -> Task:
    wanted, *offers = _offers(rng, rng.choice((2, 3)))
    # Two intents answer the same question about the weather; the one offered would then be right.
    offers = [offer for offer in offers if not {offer.name, wanted.name} <= {*INTENTS[0].names, *INTENTS[1].names}]
    tools = tuple(each.tool() for each in offers)
    if not tools:
        return _missing(rng)
    return Task(DOMAIN, ("missing", wanted.name, *wanted.values), (user(wanted.request(rng)),), NO_TOOL, tools=tools)


def _idle(rng: Random) -> Task:
    question, answer = rng.choice(NO_CALL)
    offers = _offers(rng, rng.choice((1, 2)))
    tools = tuple(each.tool() for each in offers)
    return Task(DOMAIN, ("idle", question, offers[0].name), (user(question),), answer, tools=tools)


def _values(rng: Random, fields: list[str]) -> dict[str, str | int]:
    return {field: rng.choice(_FIELDS[field]) for field in fields}


def _pairs(rng: Random) -> Task:
    row = _values(rng, rng.sample(list(_FIELDS), rng.randrange(1, 5)))
    listed = rng.choice(("; ", ", ")).join(f"{field}={value}" for field, value in row.items())
    question = rng.choice(("Convert to JSON: {0}", "Reply as JSON: {0}", "Turn this into JSON: {0}")).format(listed)
    return ask(DOMAIN, ("pairs", listed), (question, dumps(row)), form="json")


def _csv(rng: Random) -> Task:
    fields = rng.sample(list(_FIELDS), rng.randrange(2, 4))
    rows = [_values(rng, fields) for _ in range(rng.randrange(1, 4))]
    lines = [",".join(fields), *(",".join(map(str, row.values())) for row in rows)]
    question = "Convert this CSV to JSON:\n" + "\n".join(lines)
    return ask(DOMAIN, ("csv", *fields, lines[1]), (question, dumps(rows)), form="json")


_SENTENCES = (
    ("{name} ordered {count} {color} {product}s.", ("name", "count", "color", "product")),
    ("{name} is {age} years old and lives in {city}.", ("name", "age", "city")),
    ("The {color} {product} costs {price} {currency}.", ("color", "product", "price", "currency")),
    ("{level} alert on {service} on {day}, ticket {id}.", ("level", "service", "day", "id")),
    ("{name} travels to {city} on {day}.", ("name", "city", "day")),
    ("Order {id}: {count} {product}s for {name}.", ("id", "count", "product", "name")),
)


def _extract(rng: Random) -> Task:
    """Fill named keys from a sentence, in the order in which the question names them."""
    pattern, fields = rng.choice(_SENTENCES)
    row = _values(rng, list(fields))
    wanted = rng.sample(fields, rng.randrange(2, len(fields) + 1))
    asked = rng.choice(
        ("Reply as JSON with the keys {0}: {1}", "Extract {0} as JSON: {1}", "{1}\nReply as JSON with {0}.")
    )
    question = asked.format(", ".join(wanted), pattern.format(**row))
    answer = dumps({field: row[field] for field in wanted})
    return ask(DOMAIN, ("extract", question), (question, answer), form="json")


def _follow_up(rng: Random) -> Task:
    """Call again after an answered turn, with other values."""
    first, offer = (Offer.draw(rng, rng.choice(INTENTS)) for _ in range(2))
    same = Offer(first.intent, first.name, first.fields, Offer.draw(rng, first.intent).values)
    offer = same if rng.random() < 0.5 or offer.intent is first.intent else offer
    tools = {each.name: each.tool() for each in (first, offer)}
    messages = (
        user(first.request(rng)),
        assistant(render_call(first.name, first.arguments)),
        user(offer.request(rng)),
    )
    key = ("follow_up", offer.name, *offer.values)
    return Task(DOMAIN, key, messages, render_call(offer.name, offer.arguments), "call", tuple(tools.values()))


FAMILIES: tuple[tuple[Family, float], ...] = (
    (_call, 5.0),
    (_report, 1.0),
    (_missing, 0.6),
    (_idle, 0.4),
    (_pairs, 1.5),
    (_csv, 1.0),
    (_extract, 2.0),
    (_follow_up, 1.0),
)
