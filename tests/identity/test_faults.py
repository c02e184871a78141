"""Whatever draft replicas do, every request ends well with plain vLLM's tokens; drafting stops soon, and comes back."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from experts.api import DraftPeer, SpeculationState
from tests.identity.conftest import LENGTH
from tests.identity.engine import EngineProcess, Event, Load
from tests.identity.faults import DraftProcess, babbler, delayed, replicas
from tests.identity.test_layouts import differing

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

Start = Callable[..., EngineProcess]
STEPS = 3
"""Steps after a fault in which a verifier may still wait for drafts."""


class Trouble:
    """The course of a run: each act happens once the given share of the requests has finished."""

    def __init__(self, child: EngineProcess, replicas: Sequence[DraftProcess]) -> None:
        self._child = child
        self._first, self._second, self._spare = replicas
        self._open = contextlib.ExitStack()
        self.done: list[str] = []

    def acts(self) -> Iterator[tuple[float, Callable[[], None]]]:
        yield 0.08, self.freeze_one
        yield 0.20, self.thaw_it
        yield 0.28, self.kill_one
        yield 0.34, self.replace_it
        yield 0.44, self.delay_both
        yield 0.58, self.garbage_only
        yield 0.72, self.all_gone
        yield 0.82, self.all_back

    def freeze_one(self) -> None:
        self._first.freeze()

    def thaw_it(self) -> None:
        self._first.thaw()

    def kill_one(self) -> None:
        self._second.kill()

    def replace_it(self) -> None:
        self._second = self._spare
        self._child.use([self._first.peer, self._second.peer])

    def delay_both(self) -> None:
        slow = [self._open.enter_context(delayed(each.peer, 0.05)) for each in (self._first, self._second)]
        self._child.use(slow)

    def garbage_only(self) -> None:
        peer, self.babbled = self._open.enter_context(babbler("draft-0"))
        self._child.use([peer])

    def all_gone(self) -> None:
        self._child.use([])

    def all_back(self) -> None:
        self._child.use([self._first.peer, self._second.peer])

    def follow(self, events: Iterator[Event], total: int) -> Event:
        """Act as the run goes on; the last event."""
        acts = list(self.acts())
        with self._open:
            for event in events:
                while acts and event.finished >= acts[0][0] * total:
                    act = acts.pop(0)[1]
                    act()
                    self.done.append(act.__name__)
        assert not acts
        return event


def test_draft_replicas_may_fail_in_every_way_in_the_middle_of_a_run(
    engine: Start, prompts: list[list[int]], plain: list[list[int]]
) -> None:
    with replicas("draft-0", "draft-1", "draft-2") as running:
        child = engine(layout="split", pool="draft", depth=6, controller="fixed", retry_ms=50)
        child.use([running["draft-0"].peer, running["draft-1"].peer])
        trouble = Trouble(child, list(running.values()))
        ended = trouble.follow(child.run(Load(prompts, LENGTH, at_once=12, doomed=0.1)), len(prompts))
        assert ended.failures == []
        assert differing(ended, plain) == []
        assert len(trouble.done) == 8
        assert trouble.babbled, "the replica that answers garbage was never asked"
        before = ended.speculation
        child.use([running["draft-0"].peer])
        again = child.complete(Load(prompts[:60], LENGTH, at_once=4))
    assert again.failures == []
    assert differing(again, plain[:60]) == []
    assert again.speculation.hits > before.hits + 60, "drafting ahead did not come back"


@contextlib.contextmanager
def frozen(replica: DraftProcess, child: EngineProcess) -> Iterator[None]:
    replica.freeze()
    yield
    replica.thaw()


@contextlib.contextmanager
def killed(replica: DraftProcess, child: EngineProcess) -> Iterator[None]:
    replica.kill()
    yield


@contextlib.contextmanager
def slowed(replica: DraftProcess, child: EngineProcess) -> Iterator[None]:
    with delayed(replica.peer, 0.05) as peer:
        child.use([peer])
        yield


@contextlib.contextmanager
def babbling(replica: DraftProcess, child: EngineProcess) -> Iterator[None]:
    with babbler("draft-0") as (peer, _):
        child.use([peer])
        yield


@pytest.mark.parametrize("fault", [frozen, killed, slowed, babbling])
def test_a_verifier_waits_for_a_faulty_replica_in_three_steps_at_most(
    fault: Callable, engine: Start, prompts: list[list[int]], plain: list[list[int]]
) -> None:
    """The breaker's pause is made longer than the run, so that no probe is counted with the steps that open it."""
    with replicas("draft-0") as running:
        child = engine(layout="split", pool="draft", depth=4, controller="fixed", retry_ms=300_000)
        child.use([running["draft-0"].peer])
        warm = child.complete(Load(prompts[:12], LENGTH, at_once=4))
        with fault(running["draft-0"], child):
            ended = child.complete(Load(prompts[12:40], LENGTH, at_once=4))
        new = DraftProcess("draft-new")
        try:
            child.use([new.peer])
            back = child.complete(Load(prompts[40:60], LENGTH, at_once=4))
        finally:
            new.kill()
    for event, part in ((warm, slice(0, 12)), (ended, slice(12, 40)), (back, slice(40, 60))):
        assert event.failures == []
        assert differing(event, plain[part]) == []
    assert useless(ended.speculation) - useless(warm.speculation) <= STEPS
    assert ended.speculation.steps - warm.speculation.steps > 10 * STEPS
    assert sum(back.speculation.accepted) > sum(ended.speculation.accepted) + 100


def useless(state: SpeculationState) -> int:
    """Steps that waited in vain or verified what was thrown away whole, until the breaker opened."""
    return state.late + state.garbage


@pytest.mark.parametrize("peers", [[], [DraftPeer("gone", 1, "tcp://127.0.0.1:1")]], ids=["nobody", "unreachable"])
def test_without_a_draft_replica_a_verifier_decodes_plainly(
    peers: list[DraftPeer], engine: Start, prompts: list[list[int]], plain: list[list[int]]
) -> None:
    child = engine(layout="split", pool="draft", depth=4)
    child.use(peers)
    began = time.monotonic()
    ended = child.complete(Load(prompts[:40], LENGTH, at_once=8))
    assert ended.failures == []
    assert differing(ended, plain[:40]) == []
    assert time.monotonic() - began < 60
