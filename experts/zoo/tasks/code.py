"""Short Python functions and classes, repairs, tests, and small programs to trace."""

from random import Random

from experts.zoo.tasks.base import Family, Key, Task, ask

DOMAIN = "code"

LISTS = {
    "items": "item", "values": "value", "numbers": "number", "rows": "row", "words": "word", "records": "record",
    "names": "name", "lines": "line", "scores": "score", "orders": "order",
}  # fmt: skip
PREDICATES = {
    "positive": "{0} > 0", "negative": "{0} < 0", "even": "{0} % 2 == 0", "odd": "{0} % 2 == 1", "empty": "not {0}",
    "missing": "{0} is None", "large": "{0} > 100", "small": "{0} < 10",
}  # fmt: skip
CHANGES = {
    "squared": "{0} * {0}", "doubled": "{0} * 2", "negated": "-{0}", "stripped": "{0}.strip()",
    "lowered": "{0}.lower()",
    "uppered": "{0}.upper()", "rounded": "round({0})", "measured": "len({0})", "halved": "{0} / 2",
}  # fmt: skip
OPERATIONS = {"add": "+", "subtract": "-", "multiply": "*", "modulo": "%"}
CLASSES = ("Point", "Account", "Order", "Worker", "Queue", "Cache", "Router", "Session", "Event", "Job", "Ticket")
FIELDS = ("x", "y", "name", "size", "count", "price", "status", "owner", "limit", "total", "key", "value")
TYPES = ("int", "str", "float", "bool")
VARIABLES = ("a", "b", "x", "y", "n", "left", "right", "first", "second", "total")
ASK = ("Write a Python function", "Write a function", "Implement a Python function")


def _program(key: Key, question: str, source: str) -> Task:
    return ask(DOMAIN, key, (question, f"```python\n{source}\n```"), form="python")


def _filter(rng: Random) -> Task:
    (many, one), (word, test) = rng.choice(list(LISTS.items())), rng.choice(list(PREDICATES.items()))
    source = (
        f'def keep_{word}({many}):\n    """Return the {word} {many}."""\n'
        f"    return [{one} for {one} in {many} if {test.format(one)}]"
    )
    return _program(("filter", many, word), f"{rng.choice(ASK)} that keeps only the {word} {many}.", source)


def _change(rng: Random) -> Task:
    (many, one), (word, change) = rng.choice(list(LISTS.items())), rng.choice(list(CHANGES.items()))
    source = (
        f'def {word}_{many}({many}):\n    """Return the {many} {word}."""\n'
        f"    return [{change.format(one)} for {one} in {many}]"
    )
    return _program(("change", many, word), f"{rng.choice(ASK)} that returns the {many} {word}.", source)


def _count(rng: Random) -> Task:
    (many, one), (word, test) = rng.choice(list(LISTS.items())), rng.choice(list(PREDICATES.items()))
    source = (
        f'def count_{word}({many}):\n    """Count the {word} {many}."""\n    count = 0\n    for {one} in {many}:\n'
        f"        if {test.format(one)}:\n            count += 1\n    return count"
    )
    return _program(("count", many, word), f"{rng.choice(ASK)} that counts the {word} {many}.", source)


def _find(rng: Random) -> Task:
    (many, one), (word, test) = rng.choice(list(LISTS.items())), rng.choice(list(PREDICATES.items()))
    source = (
        f'def first_{word}({many}):\n    """Return the first {word} {one}, or None."""\n    for {one} in {many}:\n'
        f"        if {test.format(one)}:\n            return {one}\n    return None"
    )
    return _program(("find", many, word), f"{rng.choice(ASK)} that finds the first {word} {one} in {many}.", source)


def _operation(rng: Random) -> Task:
    (name, sign), (a, b) = rng.choice(list(OPERATIONS.items())), rng.sample(VARIABLES, 2)
    source = f'def {name}({a}, {b}):\n    """Return {a} {sign} {b}."""\n    return {a} {sign} {b}'
    return _program(("operation", name, a, b), f"{rng.choice(ASK)} {name} of {a} and {b}.", source)


def _class(rng: Random) -> Task:
    name, fields = rng.choice(CLASSES), rng.sample(FIELDS, rng.randrange(1, 4))
    shown = ", ".join(f"{field}={{self.{field}}}" for field in fields)
    source = (
        f"class {name}:\n    def __init__(self, {', '.join(fields)}):\n"
        + "".join(f"        self.{field} = {field}\n" for field in fields)
        + f'\n    def __repr__(self):\n        return f"{name}({shown})"'
    )
    question = rng.choice(("Write a Python class", "Write a class")) + f" {name} with {', '.join(fields)}."
    return _program(("class", name, *fields), question, source)


def _dataclass(rng: Random) -> Task:
    name, fields = rng.choice(CLASSES), rng.sample(FIELDS, rng.randrange(2, 5))
    typed = [f"{field}: {rng.choice(TYPES)}" for field in fields]
    source = "from dataclasses import dataclass\n\n\n@dataclass\n" + "\n    ".join((f"class {name}:", *typed))
    return _program(("dataclass", name, *typed), f"Write a dataclass {name} with {', '.join(typed)}.", source)


def _extreme(rng: Random) -> Task:
    (many, one), field = rng.choice(list(LISTS.items())), rng.choice(FIELDS)
    word, call = rng.choice((("largest", "max"), ("smallest", "min")))
    source = (
        f'def {word}_by_{field}({many}):\n    """Return the {one} with the {word} {field}."""\n'
        f"    return {call}({many}, key=lambda {one}: {one}.{field})"
    )
    question = f"{rng.choice(ASK)} that returns the {one} with the {word} {field} from {many}."
    return _program(("extreme", many, field, word), question, source)


def _sort(rng: Random) -> Task:
    (many, one), field, falling = rng.choice(list(LISTS.items())), rng.choice(FIELDS), rng.random() < 0.5
    order, option = (" in falling order", ", reverse=True") if falling else ("", "")
    source = (
        f'def sort_by_{field}({many}):\n    """Sort the {many} by {field}{order}."""\n'
        f"    return sorted({many}, key=lambda {one}: {one}.{field}{option})"
    )
    question = f"{rng.choice(ASK)} that sorts {many} by {field}{order}."
    return _program(("sort", many, field, option), question, source)


def _group(rng: Random) -> Task:
    (many, one), field = rng.choice(list(LISTS.items())), rng.choice(FIELDS)
    source = (
        f'def group_by_{field}({many}):\n    """Group the {many} by {field}."""\n    groups = {{}}\n'
        f"    for {one} in {many}:\n        groups.setdefault({one}.{field}, []).append({one})\n    return groups"
    )
    return _program(("group", many, field), f"{rng.choice(ASK)} that groups {many} by {field}.", source)


def _repair(rng: Random) -> Task:
    """Show a function with one mistake and ask for the right one."""
    (name, sign), (a, b) = rng.choice(list(OPERATIONS.items())), rng.sample(VARIABLES, 2)
    right = f"def {name}({a}, {b}):\n    return {a} {sign} {b}"
    wrong_sign = rng.choice([other for other in OPERATIONS.values() if other != sign])
    wrong = rng.choice(
        (
            right.replace("):", ")"),
            right.replace("return ", ""),
            f"def {name}({a}, {b}):\n    return {a} {wrong_sign} {b}",
            f"def {name}({a}):\n    return {a} {sign} {b}",
        )
    )
    return _program(("repair", wrong), f"{rng.choice(('Fix this function', 'Repair this code'))}:\n{wrong}", right)


def _test(rng: Random) -> Task:
    name, (a, b) = rng.choice(list(OPERATIONS)), (rng.randrange(10), rng.randrange(1, 10))
    result = {"add": a + b, "subtract": a - b, "multiply": a * b, "modulo": a % b}[name]
    source = f"def test_{name}():\n    assert {name}({a}, {b}) == {result}"
    return _program(("test", name, a, b), f"Write a test that calls {name} with {a} and {b}.", source)


def _rename(rng: Random) -> Task:
    (name, sign), (a, b, new) = rng.choice(list(OPERATIONS.items())), rng.sample(VARIABLES, 3)
    pattern = "def {name}({a}, {b}):\n    result = {a} {sign} {b}\n    return result"
    before, after = (pattern.format(name=name, a=first, b=b, sign=sign) for first in (a, new))
    return _program(("rename", name, a, b, new), f"Rename {a} to {new}:\n{before}", after)


def _trace_loop(rng: Random) -> Task:
    """Ask what a loop prints; the answer lists the variable after each round."""
    variable = rng.choice(VARIABLES)
    start, step, rounds = rng.randrange(20), rng.randrange(1, 10), rng.randrange(2, 6)
    source = f"{variable} = {start}\nfor i in range({rounds}):\n    {variable} += {step}\nprint({variable})"
    states = " ".join(str(start + step * i) for i in range(rounds + 1))
    answer = f"{states}. It prints {start + step * rounds}"
    key = ("trace_loop", start, step, rounds)
    return ask(DOMAIN, key, (f"What does this print?\n{source}", answer), form="number")


def _trace_list(rng: Random) -> Task:
    """Ask for an element, an end or the length of a list of digits."""
    values = [rng.randrange(100) for _ in range(rng.randrange(3, 7))]
    index = rng.randrange(len(values))
    expression, result = rng.choice(
        (
            (f"values[{index}]", values[index]),
            ("values[-1]", values[-1]),
            ("len(values)", len(values)),
            ("max(values)", max(values)),
            ("min(values)", min(values)),
        )
    )
    question = f"What does this print?\nvalues = {values}\nprint({expression})"
    return ask(DOMAIN, ("trace_list", question), (question, f"It prints {result}"), form="number")


FAMILIES: tuple[tuple[Family, float], ...] = (
    (_filter, 1.0),
    (_change, 1.0),
    (_count, 1.0),
    (_find, 1.0),
    (_operation, 1.0),
    (_class, 1.5),
    (_dataclass, 1.5),
    (_extreme, 1.0),
    (_sort, 1.0),
    (_group, 1.0),
    (_repair, 1.0),
    (_test, 0.7),
    (_rename, 0.7),
    (_trace_loop, 1.0),
    (_trace_list, 1.0),
)
