"""Which pool a request belongs to."""

import pytest

from cluster.errors import UnknownModel
from experts.api import Grammar, Sampling
from router.config import RouterConfig, Rule
from router.jobs import Conversation, Job, Message, Tool
from router.rules import choose, describe

POOLS = frozenset({"general", "code", "tools"})
CONFIG = RouterConfig(
    rules=(Rule(name="tools", when=("tools",), pool="tools"), Rule(name="code", when=("code",), pool="code"))
)


def job(text: str, *, tools: bool = False, grammar: Grammar | None = None) -> Job:
    offered = (Tool("get_weather"),) if tools else ()
    return Job("1", "auto", Conversation((Message("user", text),), offered), Sampling(), grammar=grammar)


@pytest.mark.parametrize(
    "text",
    [
        "Write a Python function that reverses a list.",
        "Fix this:\n```\nx = 1\n```",
        "def add(a, b): what does it do?",
        "Implement a class named Stack",
        "debug this loop",
    ],
)
def test_code_shapes_are_seen(text):
    assert describe(job(text)).code


@pytest.mark.parametrize("text", ["Hello!", "What is the capital of France?", "What is 3 + 4?", "Tell me a story."])
def test_prose_is_not_taken_for_code(text):
    assert not describe(job(text)).code


def test_only_the_last_question_counts():
    history = (Message("user", "Write a python function"), Message("assistant", "..."), Message("user", "Thanks!"))
    assert not describe(Job("1", "auto", Conversation(history), Sampling())).code


def test_the_first_rule_that_holds_wins():
    both = job("Write a python function", tools=True)
    assert choose("auto", describe(both), CONFIG, POOLS).pool == "tools"


def test_without_a_rule_the_default_pool_is_taken_and_the_route_says_so():
    choice = choose("auto", describe(job("Hello!")), CONFIG, POOLS)
    assert (choice.pool, choice.rule) == ("general", "auto:default")


def test_a_named_pool_is_obeyed_whatever_the_shape():
    choice = choose("code", describe(job("Hello!")), CONFIG, POOLS)
    assert (choice.pool, choice.rule) == ("code", "named")


def test_an_adapter_is_named_behind_its_pool():
    choice = choose("general/polite", describe(job("Hello!")), CONFIG, POOLS)
    assert (choice.pool, choice.adapter) == ("general", "polite")


def test_an_unknown_model_answers_with_those_that_exist():
    with pytest.raises(UnknownModel, match="auto, code, general, tools"):
        choose("gpt", describe(job("Hello!")), CONFIG, POOLS)


def test_a_rule_with_an_unknown_feature_is_refused():
    with pytest.raises(ValueError, match="unknown features"):
        Rule(name="x", when=("poems",), pool="general")
