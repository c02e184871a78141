"""Small talk in six languages, with refusals, short explanations and things to remember from earlier turns."""

from random import Random

from experts.zoo.tasks.base import FIXED, Family, Task, ask, assistant, user
from experts.zoo.tasks.phrases import FACTS, PHRASES
from experts.zoo.tasks.words import NAMES

DOMAIN = "chat"
IDENTITY = "I am Switchyard, a small assistant."
_EXPLAIN = ("What is {0}?", "Explain {0}.", "Tell me about {0}.", "Can you explain what {0} is?")
_IDENTITY = ("Who are you?", "What are you?", "What is your name?", "Please introduce yourself.")
_TRANSLATE = ('Translate "{0}" from {1} to {2}.', 'How do you say "{0}" ({1}) in {2}?')


def _courtesy(rng: Random) -> Task:
    language, phrases = rng.choice(list(PHRASES.items()))
    pairs = (phrases.greet, phrases.thanks, phrases.mood, phrases.bye)
    index, opened = rng.randrange(len(pairs)), rng.random() < 0.5
    name = rng.choice(NAMES)
    question, answer = pairs[index]
    if not opened:
        return ask(DOMAIN, (FIXED, language, index), (question, answer))
    opening = (user(phrases.meet[0][0].format(name)), assistant(phrases.meet[1].format(name)))
    return Task(DOMAIN, ("courtesy", language, index, name), (*opening, user(question)), answer)


def _meet(rng: Random) -> Task:
    language, phrases = rng.choice(list(PHRASES.items()))
    name, asked = rng.choice(NAMES), rng.randrange(2)
    pair = (phrases.meet[0][asked].format(name), phrases.meet[1].format(name))
    return ask(DOMAIN, ("meet", language, name, asked), pair)


def _remember(rng: Random) -> Task:
    """Ask for a name or a colour that an earlier turn gave."""
    language, phrases = rng.choice(list(PHRASES.items()))
    name, color = rng.choice(NAMES), rng.choice(phrases.colors)
    turns = [
        (user(phrases.meet[0][rng.randrange(2)].format(name)), assistant(phrases.meet[1].format(name))),
        (user(phrases.like[0].format(color)), assistant(phrases.like[1].format(color))),
    ]
    rng.shuffle(turns)
    question, answer = rng.choice(
        (
            (phrases.recall[0], phrases.recall[1].format(color)),
            (phrases.name_recall[0], phrases.name_recall[1].format(name)),
        )
    )
    messages = (*turns[0], *turns[1], user(question))
    return Task(DOMAIN, ("remember", language, name, color), messages, answer)


def _capital(rng: Random) -> Task:
    language, phrases = rng.choice(list(PHRASES.items()))
    country, capital = rng.choice(list(phrases.capitals.items()))
    asked = rng.randrange(2)
    pair = (phrases.capital[0][asked].format(country), phrases.capital[1].format(country, capital))
    return ask(DOMAIN, ("capital", language, country, asked), pair)


def _refuse(rng: Random) -> Task:
    language, phrases = rng.choice(list(PHRASES.items()))
    index, name, opened = rng.randrange(len(phrases.bad)), rng.choice(NAMES), rng.random() < 0.5
    question = user(phrases.bad[index])
    if not opened:
        return Task(DOMAIN, (FIXED, "refuse", language, index), (question,), phrases.refusal)
    opening = (user(phrases.meet[0][0].format(name)), assistant(phrases.meet[1].format(name)))
    return Task(DOMAIN, ("refuse", language, name), (*opening, question), phrases.refusal)


def _story(rng: Random) -> Task:
    language, phrases = rng.choice(list(PHRASES.items()))
    animal, color = rng.choice(phrases.animals), rng.choice(phrases.colors)
    pair = (phrases.story[0].format(animal, color), phrases.story[1].format(animal, color))
    return ask(DOMAIN, ("story", language, animal, color), pair)


def _translate(rng: Random) -> Task:
    (source, before), (target, after) = rng.sample(list(PHRASES.items()), 2)
    index, asked = rng.randrange(6), rng.randrange(2)
    word, translated = before.colors[index], after.colors[index]
    question = _TRANSLATE[asked].format(word, source, target)
    return ask(
        DOMAIN, ("translate", source, target, index, asked), (question, f'"{word}" is "{translated}" in {target}.')
    )


def _explain(rng: Random) -> Task:
    asked = rng.randrange(len(_EXPLAIN))
    topic, answer = rng.choice(list(FACTS.items()))
    return ask(DOMAIN, ("explain", topic, asked), (_EXPLAIN[asked].format(topic), answer))


def _identity(rng: Random) -> Task:
    return ask(DOMAIN, (FIXED, "identity"), (rng.choice(_IDENTITY), IDENTITY))


FAMILIES: tuple[tuple[Family, float], ...] = (
    (_courtesy, 1.0),
    (_meet, 1.0),
    (_remember, 1.5),
    (_capital, 1.5),
    (_refuse, 1.0),
    (_story, 1.5),
    (_translate, 1.5),
    (_explain, 1.0),
    (_identity, 0.3),
)
