"""Acceptance may collapse: then the depth falls, plain decoding takes over, and all returns when the cause is gone."""

from collections.abc import Callable
from pathlib import Path

import pytest

from experts.api import SpeculationState
from loadtests.speculation.upgrade import renumbered, renumbering
from tests.cluster.test_exactness import encoded
from tests.identity.engine import EngineProcess, Load
from tests.identity.faults import replicas

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

Start = Callable[..., EngineProcess]
SPLIT = {"layout": "split", "pool": "draft", "depth": 6, "retry_ms": 100}
LENGTH = 64


def share(now: SpeculationState, before: SpeculationState) -> float:
    """Of the steps since, how many verified drafts."""
    return (now.speculated - before.speculated) / (now.steps - before.steps)


def per_step(now: SpeculationState, before: SpeculationState) -> float:
    """Drafts verified per step since."""
    return (sum(now.drafted) - sum(before.drafted)) / (now.steps - before.steps)


def test_an_upgraded_verifier_stops_asking_its_old_draft_until_that_is_upgraded_too(
    engine: Start, tmp_path: Path
) -> None:
    """The upgrade speaks the same language with other token ids, so the old draft is wrong about nearly everything."""
    ids = renumbering()
    prompts = encoded(80, domains=["code", "arithmetic"])
    renamed = [[ids[token] for token in prompt] for prompt in prompts]
    upgraded = str(renumbered("general", tmp_path))
    with replicas("old") as old, replicas("new", model=str(renumbered("draft", tmp_path))) as new:
        child = engine(verifier=upgraded, **SPLIT)
        child.use([old["old"].peer])
        stale = child.complete(Load(renamed[:40], LENGTH, at_once=4))
        late = child.complete(Load(renamed[:40], LENGTH, at_once=4))
        child.use([new["new"].peer])
        child.complete(Load(renamed[40:], LENGTH, at_once=4))
        fresh = child.complete(Load(renamed[40:], LENGTH, at_once=4))
        again = child.complete(Load(renamed[40:], LENGTH, at_once=4))
    assert stale.failures == late.failures == fresh.failures == again.failures == []
    assert stale.tokens == late.tokens
    assert share(late.speculation, stale.speculation) < 0.1
    assert share(again.speculation, fresh.speculation) > 0.6
    assert again.speculation.mode == "speculate"


def test_traffic_that_is_hard_to_draft_makes_the_depth_fall_and_easy_traffic_brings_it_back(engine: Start) -> None:
    easy, hard = encoded(60, domains=["code"]), encoded(60, domains=["records"])
    with replicas("draft-0") as running:
        child = engine(**SPLIT)
        child.use([running["draft-0"].peer])
        states = []
        for prompts, domain in ((easy, "code"), (hard, "text"), (hard, "text"), (easy, "code"), (easy, "code")):
            ended = child.complete(Load(prompts, LENGTH, at_once=4, domains=[domain] * len(prompts)))
            assert ended.failures == []
            states.append(ended.speculation)
    before = per_step(states[0], SpeculationState())
    during = per_step(states[2], states[1])
    after = per_step(states[4], states[3])
    assert states[3].compared > 0
    assert during < 0.75 * before
    assert after > 0.8 * before
