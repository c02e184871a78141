"""One draft replica under three verifiers at different load: each keeps its tokens, its deadline and its share."""

from collections.abc import Callable, Sequence

import pytest

from experts.speculation.share import Share, jain
from tests.cluster.test_exactness import encoded
from tests.identity.conftest import pool
from tests.identity.engine import EngineProcess, Event, Load
from tests.identity.faults import replicas
from tests.identity.test_layouts import differing

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

DEADLINE = 0.025
OVER = {1: 0.05, 2: 0.02}
"""Share of waits that may end later than so many deadlines: the host itself is shared, and nobody says for how long it
stood still."""
READING = 0.001
"""Seconds that an answer takes to be read which came in time."""
FAIR = 0.75
"""Jain's index is two thirds at most if one of three gets nothing, and one if all get the same."""
LENGTH = 64
SHARED = {"layout": "shared", "pool": "draft", "depth": 6, "deadline_ms": 1000 * DEADLINE}
LOADS = {"general": (120, 12), "code": (60, 4), "tools": (24, 1)}
"""Requests in all, and at once."""


def overdue(waits: Sequence[float], deadlines: int) -> float:
    """Share of the waits that lasted longer than so many deadlines."""
    return sum(wait > deadlines * DEADLINE + READING for wait in waits) / max(1, len(waits))


def together(children: Sequence[EngineProcess], loads: Sequence[Load]) -> list[Event]:
    runs = [child.run(load) for child, load in zip(children, loads, strict=True)]
    ended: dict[int, Event] = {}
    while len(ended) < len(runs):
        for place, run in enumerate(runs):
            if place not in ended and (event := next(run)).tokens is not None:
                ended[place] = event
    return [ended[place] for place in range(len(runs))]


def served(share: Share) -> float:
    """Of the asks it waited for, how many were answered in time."""
    return share.answered / max(1, share.answered + share.expired)


@pytest.fixture(scope="module")
def loads() -> list[Load]:
    return [Load(encoded(count), LENGTH, at_once=at_once) for count, at_once in LOADS.values()]


@pytest.fixture(scope="module")
def alone(loads: list[Load], tmp_path_factory: pytest.TempPathFactory) -> list[list[list[int]]]:
    """What each verifier answers without drafts, and without the others."""
    answers = []
    for name, load in zip(LOADS, loads, strict=True):
        child = EngineProcess(pool(f"zoo:{name}", {}), tmp_path_factory.mktemp(name) / "engine.log")
        try:
            answers.append(child.complete(load).tokens)
        finally:
            child.stop()
    return answers


@pytest.mark.parametrize("controller", ["fixed", "adaptive"])
def test_three_verifiers_share_a_draft_replica_and_none_waits_beyond_its_deadline(
    controller: str,
    engine: Callable[..., EngineProcess],
    loads: list[Load],
    alone: list[list[list[int]]],
    record_property: Callable[[str, object], None],
) -> None:
    """Who always asks must have its share. The adaptive ones ask as long as they think it pays, which on one crowded
    core may be hardly ever, and set their own limits: their shares say little."""
    with replicas("draft-0") as running:
        children = [engine(verifier=f"zoo:{name}", controller=controller, **SHARED) for name in LOADS]
        for child in children:
            child.use([running["draft-0"].peer])
        ended = together(children, loads)
        shares = running["draft-0"].shares()
    fairness = jain([served(share) for share in shares])
    record_property("fairness", fairness)
    record_property("shares", [repr(share) for share in shares])
    assert len(shares) == len(LOADS)
    for event, expected in zip(ended, alone, strict=True):
        assert event.failures == []
        assert differing(event, expected) == []
        for deadlines, share in OVER.items():
            assert overdue(event.waits, deadlines) <= share, sorted(event.waits)[-40:]
    assert any(sum(event.speculation.drafted) for event in ended), ended
    if controller == "fixed":
        assert all(sum(event.speculation.accepted) > LENGTH for event in ended), ended
        assert fairness > FAIR, shares
