"""The router actor's state, driven by hand and by hypothesis. Time is a number here."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from experts.api import EngineLimits, EngineState
from router.api import Ask, Features, Lease, Refused, Registration, Report
from router.config import RouterConfig
from router.dispatch import Dispatcher

CONFIG = RouterConfig(max_queue=4, replica_timeout=3.0)


def dispatcher(config: RouterConfig = CONFIG) -> Dispatcher:
    return Dispatcher(config, {"general": "expert", "code": "expert", "draft": "draft"}, epoch=1)


def replica(name: str = "r1", pool: str = "general", epoch: int = 1, room: int = 2) -> Registration:
    limits = EngineLimits(max_context=1024, max_running=room, vocabulary=100)
    return Registration(pool, "expert", name, epoch, f"tcp://{name}:{epoch}", limits, "node", 1)


def ask(name: str, pool: str = "general", **more) -> Ask:
    return Ask(name, pool, "named", Features(), **{"timeout": 10.0, **more})


def answers(outcomes) -> list[str]:
    return [
        f"{each.answer.id}:{each.answer.failure.reason if isinstance(each.answer, Refused) else each.answer.replica}"
        for each in outcomes
    ]


def test_a_request_is_bound_at_once_when_there_is_room():
    desk = dispatcher()
    desk.register(replica(), 0.0)
    (outcome,) = desk.ask(ask("a"), "gateway", 0.5)
    assert outcome.owner == "gateway"
    assert isinstance(outcome.answer, Lease)
    assert (outcome.answer.replica, outcome.answer.endpoint, outcome.answer.waited) == ("r1", "tcp://r1:1", 0.0)


def test_a_request_waits_for_room_and_is_bound_when_a_lease_comes_back():
    desk = dispatcher()
    desk.register(replica(room=1), 0.0)
    assert answers(desk.ask(ask("a"), "g", 0.0)) == ["a:r1"]
    assert desk.ask(ask("b"), "g", 0.0) == []
    assert answers(desk.release("a", 1.0)) == ["b:r1"]


def test_a_request_waits_for_a_replica_that_is_still_starting():
    desk = dispatcher()
    assert desk.ask(ask("a"), "g", 0.0) == []
    assert answers(desk.register(replica(), 2.0)) == ["a:r1"]


def test_the_queue_is_ordered_by_class_then_deadline_then_arrival():
    desk = dispatcher()
    desk.register(replica(room=1), 0.0)
    desk.ask(ask("running"), "g", 0.0)
    desk.ask(ask("late", timeout=9.0), "g", 0.0)
    desk.ask(ask("soon", timeout=5.0), "g", 0.0)
    desk.ask(ask("fast", timeout=9.5, latency="fast"), "g", 0.0)
    order = []
    holder = "running"
    while found := desk.release(holder, 1.0):
        holder = found[0].answer.id
        order.append(holder)
    assert order == ["fast", "soon", "late"]


def test_a_full_queue_refuses_with_a_time_to_come_back():
    desk = dispatcher()
    for name in "abcd":
        assert desk.ask(ask(name), "g", 0.0) == []
    (outcome,) = desk.ask(ask("e"), "g", 0.0)
    assert outcome.answer.failure.reason == "queue_full"
    assert outcome.answer.failure.retry_after > 0


def test_an_unknown_pool_and_a_draft_pool_are_no_models():
    desk = dispatcher()
    assert answers(desk.ask(ask("a", pool="poetry"), "g", 0.0)) == ["a:unknown_model"]
    assert answers(desk.ask(ask("b", pool="draft"), "g", 0.0)) == ["b:unknown_model"]


def test_an_overdue_request_is_refused_with_the_true_reason():
    desk = dispatcher()
    desk.ask(ask("a", timeout=1.0), "g", 0.0)
    assert answers(desk.tick(1.0)) == ["a:no_replica"]
    desk.register(replica(room=1), 1.0)
    desk.ask(ask("b"), "g", 1.0)
    desk.ask(ask("c", timeout=1.0), "g", 1.0)
    assert answers(desk.tick(2.5)) == ["c:deadline"]


def test_a_cancelled_request_is_never_bound():
    desk = dispatcher()
    desk.ask(ask("a"), "g", 0.0)
    desk.cancel("a", 0.0)
    assert desk.register(replica(), 1.0) == []


def test_a_silent_replica_gets_no_work_and_takes_it_again_when_heard():
    desk = dispatcher()
    desk.register(replica(), 0.0)
    assert desk.ask(ask("a"), "g", 4.0) == []
    assert answers(desk.report(Report("r1", 1, 0, EngineState()), 5.0)) == ["a:r1"]


def test_a_replica_that_was_lost_is_not_taken_for_the_least_loaded():
    desk = dispatcher()
    desk.register(replica("r1"), 0.0)
    desk.register(replica("r2"), 0.0)
    (outcome,) = desk.ask(ask("a"), "g", 0.0)
    dead = outcome.answer.replica
    desk.release("a", 0.1, lost=True)
    taken = [desk.ask(ask(name), "g", 0.2)[0].answer.replica for name in "bc"]
    assert dead not in taken
    assert desk.ask(ask("d"), "g", 0.2) == []
    assert answers(desk.report(Report(dead, 1, 1, EngineState()), 0.3)) == [f"d:{dead}"]


def test_a_request_asked_again_holds_one_place_only():
    desk = dispatcher()
    desk.register(replica("r1", room=1), 0.0)
    desk.register(replica("r2", room=1), 0.0)
    desk.ask(ask("a"), "g", 0.0)
    desk.ask(ask("a"), "g", 0.1)
    desk.release("a", 0.2)
    views = next(each for each in desk.directory(0.2).pools if each.pool == "general").replicas
    assert [view.reserved for view in views] == [0, 0]


def test_a_draining_replica_gets_no_work():
    desk = dispatcher()
    desk.register(replica(), 0.0)
    desk.withdraw("r1", 1)
    assert desk.ask(ask("a"), "g", 0.0) == []
    assert answers(desk.register(replica("r2"), 0.1)) == ["a:r2"]


def test_a_new_life_of_a_replica_starts_with_nothing_reserved_and_an_old_life_is_ignored():
    desk = dispatcher()
    desk.register(replica(room=1), 0.0)
    desk.ask(ask("a"), "g", 0.0)
    desk.ask(ask("b"), "g", 0.0)
    assert answers(desk.register(replica(epoch=2, room=1), 1.0)) == ["b:r1"]
    assert desk.register(replica(epoch=1, room=1), 1.0) == []
    desk.ask(ask("c"), "g", 1.0)
    assert desk.release("a", 1.0) == []


def test_a_router_that_comes_back_counts_what_replicas_hold():
    desk = dispatcher()
    desk.register(replica(room=2), 0.0)
    desk.report(Report("r1", 1, 1, EngineState(running=2), leases=("x", "y")), 0.0)
    assert desk.ask(ask("a"), "g", 0.0) == []
    assert answers(desk.release("x", 0.1)) == ["a:r1"]


def test_what_an_earlier_router_lent_counts_until_the_replica_no_longer_names_it():
    desk = dispatcher()
    desk.register(replica(room=2), 0.0)
    desk.report(Report("r1", 1, 1, EngineState(running=2), leases=("x", "y")), 0.0)
    assert desk.ask(ask("a"), "g", 0.0) == []
    assert desk.report(Report("r1", 1, 2, EngineState(running=2), leases=("x", "y")), 0.5) == []
    assert answers(desk.report(Report("r1", 1, 3, EngineState(running=1), leases=("y",)), 0.5)) == ["a:r1"]


def test_a_gateway_that_is_gone_frees_what_it_held_and_waited_for():
    desk = dispatcher()
    desk.register(replica(room=1), 0.0)
    desk.ask(ask("a"), "dead", 0.0)
    desk.ask(ask("b"), "dead", 0.0)
    desk.ask(ask("c"), "alive", 0.0)
    assert answers(desk.gone("dead", 1.0)) == ["b:router_unavailable", "c:r1"]


def test_the_directory_shows_load_and_queue():
    desk = dispatcher()
    desk.register(replica(room=1), 0.0)
    desk.ask(ask("a"), "g", 0.0)
    desk.ask(ask("b"), "g", 0.0)
    view = next(each for each in desk.directory(1.0).pools if each.pool == "general")
    assert view.queued == 1
    assert [(each.registration.replica, each.reserved, each.age) for each in view.replicas] == [("r1", 1, 1.0)]


class AnyHistory(RuleBasedStateMachine):
    """Whatever happens in whatever order: nothing is bound twice, overbooked, or left without an answer."""

    asked = Bundle("asked")

    def __init__(self) -> None:
        super().__init__()
        self.desk = dispatcher(RouterConfig(max_queue=3, replica_timeout=3.0))
        self.now = 0.0
        self.count = 0
        self.epochs: dict[str, int] = {}
        self.open: dict[str, float] = {}
        self.held: dict[str, tuple[str, int]] = {}

    def take(self, outcomes) -> None:
        for outcome in outcomes:
            request = outcome.answer.id
            assert request in self.open, "answered twice or never asked"
            del self.open[request]
            if isinstance(outcome.answer, Lease):
                self.held[request] = (outcome.answer.replica, outcome.answer.epoch)

    @rule(seconds=st.floats(0.01, 2.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.take(self.desk.tick(self.now))

    @rule(name=st.sampled_from("pqr"), again=st.booleans())
    def a_replica_comes(self, name: str, again: bool) -> None:
        if again or name not in self.epochs:
            self.epochs[name] = self.epochs.get(name, 0) + 1
            self.held = {key: each for key, each in self.held.items() if each[0] != name}
        self.take(self.desk.register(replica(name, epoch=self.epochs[name]), self.now))

    @rule(name=st.sampled_from("pqr"))
    def a_replica_dies(self, name: str) -> None:
        if name in self.epochs:
            self.desk.lost(name, self.epochs[name])
            self.held = {key: each for key, each in self.held.items() if each[0] != name}

    @rule(target=asked, timeout=st.floats(0.1, 5.0), latency=st.sampled_from(["fast", "standard"]))
    def a_request_comes(self, timeout: float, latency: str) -> str:
        self.count += 1
        request = f"request-{self.count}"
        self.open[request] = self.now + timeout
        self.take(self.desk.ask(ask(request, timeout=timeout, latency=latency), "g", self.now))
        return request

    @rule(request=consumes(asked))
    def a_request_ends(self, request: str) -> None:
        self.held.pop(request, None)
        self.open.pop(request, None)
        self.take(self.desk.cancel(request, self.now))

    @rule()
    def the_gateway_goes(self) -> None:
        self.take(self.desk.gone("g", self.now))
        assert not self.open
        self.held.clear()

    @invariant()
    def no_replica_is_overbooked(self) -> None:
        for pool in self.desk.directory(self.now).pools:
            for view in pool.replicas:
                assert view.reserved <= view.registration.limits.max_running

    @invariant()
    def load_is_what_is_held(self) -> None:
        seen = {
            view.registration.replica: view.reserved
            for pool in self.desk.directory(self.now).pools
            for view in pool.replicas
        }
        for name, reserved in seen.items():
            assert reserved == sum(1 for each in self.held.values() if each == (name, self.epochs[name]))

    @invariant()
    def nobody_waits_past_the_deadline(self) -> None:
        self.take(self.desk.tick(self.now))
        assert all(deadline > self.now for deadline in self.open.values())


AnyHistory.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestAnyHistory = AnyHistory.TestCase
