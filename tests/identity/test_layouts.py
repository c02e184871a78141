"""Greedy output is plain vLLM's, token for token, in every layout, whatever happens to the requests beside it."""

from collections.abc import Callable

import pytest

from tests.identity.conftest import LENGTH
from tests.identity.engine import EngineProcess, Event, Load
from tests.identity.faults import replicas

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

Start = Callable[..., EngineProcess]


def differing(event: Event, plain: list[list[int]]) -> list[int]:
    assert event.tokens is not None
    return [place for place, tokens in enumerate(event.tokens) if tokens != plain[place]]


def stressed(prompts: list[list[int]]) -> Load:
    return Load(prompts, LENGTH, at_once=24, doomed=0.2)


@pytest.mark.parametrize(
    "section",
    [
        {"layout": "off"},
        {"layout": "ngram", "depth": 6},
        {"layout": "co_resident", "model": "zoo:draft", "depth": 4},
    ],
    ids=lambda section: section["layout"],
)
def test_a_layout_without_a_draft_pool_answers_as_plain_decoding(
    section: dict, engine: Start, prompts: list[list[int]], plain: list[list[int]]
) -> None:
    ended = engine(**section).complete(stressed(prompts))
    assert ended.failures == []
    assert differing(ended, plain) == []
    assert ended.preemptions > 0


POOLED = {"pool": "draft", "depth": 6}


@pytest.mark.parametrize(
    "section",
    [
        {"layout": "split", "ahead": True, "controller": "adaptive"},
        {"layout": "split", "ahead": True, "controller": "fixed"},
        {"layout": "split", "ahead": False, "controller": "adaptive"},
        {"layout": "split", "ahead": False, "controller": "fixed"},
        {"layout": "shared", "ahead": True, "controller": "adaptive"},
    ],
    ids=lambda section: "-".join(map(str, section.values())),
)
def test_a_layout_with_a_draft_pool_answers_as_plain_decoding(
    section: dict, engine: Start, prompts: list[list[int]], plain: list[list[int]]
) -> None:
    with replicas("draft-0") as running:
        child = engine(**POOLED, **section)
        child.use([running["draft-0"].peer])
        ended = child.complete(stressed(prompts))
    assert ended.failures == []
    assert differing(ended, plain) == []
    assert ended.preemptions > 0
    assert ended.speculation is not None
    assert sum(ended.speculation.accepted) > LENGTH
    assert (ended.speculation.hits > 0) == section["ahead"]
