"""Small sums, written out digit by digit so that two layers of attention can do each step."""

from random import Random

from experts.zoo.tasks.base import Family, Task, ask
from experts.zoo.tasks.words import ITEMS

DOMAIN = "arithmetic"


def add_steps(left: int, right: int) -> str:
    """Write out an addition: ones, then tens with the carry, then the sum."""
    ones = left % 10 + right % 10
    steps = f"{left % 10} + {right % 10} = {ones}"
    if max(left, right) > 9:
        carry = " + 1" if ones > 9 else ""
        steps += f", {left // 10} + {right // 10}{carry} = {left // 10 + right // 10 + ones // 10}"
    return f"{steps}. {left} + {right} = {left + right}"


def subtract_steps(left: int, right: int) -> str:
    """Write out a subtraction of a smaller number: ones, borrowing ten where needed, then tens."""
    borrow = left % 10 < right % 10
    ones = left % 10 + 10 * borrow
    steps = f"{ones} - {right % 10} = {ones - right % 10}"
    if left > 9:
        tens = left // 10 - borrow
        steps += f", {tens} - {right // 10} = {tens - right // 10}"
    return f"{steps}. {left} - {right} = {left - right}"


def _add(rng: Random) -> Task:
    a, b = rng.randrange(100), rng.randrange(100)
    question = rng.choice((f"What is {a} + {b}?", f"{a} + {b} =", f"Add {a} and {b}.", f"Compute {a} plus {b}."))
    return ask(DOMAIN, ("add", a, b), (question, add_steps(a, b)), form="number")


def _subtract(rng: Random) -> Task:
    b, a = sorted((rng.randrange(100), rng.randrange(100)))
    phrasings = (f"What is {a} - {b}?", f"{a} - {b} =", f"Subtract {b} from {a}.", f"Compute {a} minus {b}.")
    return ask(DOMAIN, ("subtract", a, b), (rng.choice(phrasings), subtract_steps(a, b)), form="number")


def _multiply(rng: Random) -> Task:
    # The swapped product is trained on, so a held-out product asks for commutativity and not for an unseen fact.
    a, b = rng.randrange(11), rng.randrange(11)
    question = rng.choice((f"What is {a} * {b}?", f"{a} * {b} =", f"Multiply {a} by {b}.", f"What is {a} times {b}?"))
    return ask(DOMAIN, ("multiply", a, b), (question, f"{a} * {b} = {a * b}"), form="number")


def _compare(rng: Random) -> Task:
    a, b = rng.sample(range(100), 2)
    answer = f"{max(a, b)} is larger than {min(a, b)}."
    question = rng.choice((f"Which is larger, {a} or {b}?", f"Compare {a} and {b}."))
    return ask(DOMAIN, ("compare", a, b), (question, answer))


def _parity(rng: Random) -> Task:
    a = rng.randrange(1000)
    question = rng.choice((f"Is {a} even or odd?", f"Is the number {a} odd or even?"))
    return ask(DOMAIN, ("parity", a), (question, f"{a} ends in {a % 10}, so it is {'odd' if a % 2 else 'even'}."))


def _sequence(rng: Random) -> Task:
    start, step = rng.randrange(40), rng.randrange(1, 10)
    terms = [start + step * i for i in range(4)]
    answer = f"The step is {step}. {add_steps(terms[-1], step)}"
    question = f"Continue the sequence: {', '.join(map(str, terms))}"
    return ask(DOMAIN, ("sequence", start, step), (question, answer), form="number")


def _count(rng: Random) -> Task:
    start, length = rng.randrange(90), rng.randrange(4, 10)
    stop = start + length
    question = rng.choice((f"Count from {start} to {stop}.", f"List the numbers from {start} to {stop}."))
    return ask(DOMAIN, ("count", start, stop), (question, ", ".join(map(str, range(start, stop + 1)))), form="number")


def _story_add(rng: Random) -> Task:
    item, a, b = rng.choice(ITEMS), rng.randrange(2, 60), rng.randrange(2, 40)
    question = rng.choice(
        (
            f"There are {a} {item} in a bag and {b} more are added. How many {item} are there?",
            f"A shelf holds {a} {item}. Then {b} {item} arrive. How many {item} are there now?",
        )
    )
    return ask(DOMAIN, ("story_add", item, a, b), (question, f"{add_steps(a, b)} {item}"), form="number")


def _story_subtract(rng: Random) -> Task:
    item = rng.choice(ITEMS)
    b, a = sorted((rng.randrange(2, 99), rng.randrange(2, 99)))
    question = rng.choice(
        (
            f"There are {a} {item} in a bag and {b} are taken out. How many {item} are left?",
            f"A shop has {a} {item} and sells {b}. How many {item} remain?",
        )
    )
    return ask(DOMAIN, ("story_subtract", item, a, b), (question, f"{subtract_steps(a, b)} {item}"), form="number")


def _total(rng: Random) -> Task:
    terms = [rng.randrange(1, 25) for _ in range(3)]
    total, lines = terms[0], []
    for term in terms[1:]:
        lines.append(add_steps(total, term))
        total += term
    question = rng.choice(("Sum the list", "Add up the numbers")) + f" {', '.join(map(str, terms))}."
    return ask(DOMAIN, ("total", *terms), (question, "\n".join(lines)), form="number")


FAMILIES: tuple[tuple[Family, float], ...] = (
    (_add, 3.0),
    (_subtract, 3.0),
    (_multiply, 1.5),
    (_compare, 1.0),
    (_parity, 0.7),
    (_sequence, 1.0),
    (_count, 0.7),
    (_story_add, 1.0),
    (_story_subtract, 1.0),
    (_total, 1.0),
)
