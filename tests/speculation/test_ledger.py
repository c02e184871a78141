"""Pool counters out of replicas' readings, whatever becomes of the replicas and of the readings."""

import math
from itertools import accumulate, pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experts.api import SpeculationState
from experts.speculation.ledger import (
    WINDOW,
    Insight,
    Ledger,
    Reading,
    acceptance,
    added,
    growth_between,
    hit_rate,
    speedup,
    wait_quantile,
)

EMPTY = SpeculationState()
STEP = SpeculationState(
    steps=2,
    speculated=1,
    asked=1,
    answered=1,
    hits=1,
    misses=1,
    drafted=(2, 1),
    accepted=(1,),
    waits=(0, 1),
    wait=0.5,
    verify=0.25,
    plain=0.25,
    changes={"speculate:start": 1},
)


def reading(state: SpeculationState, *, replica: str = "a", epoch: int = 1, pool: str = "p") -> Reading:
    return Reading(pool, replica, epoch, state)


def times(count: int) -> SpeculationState:
    """The counters after so many times ``STEP``; dyadic fractions, so that sums are exact."""
    grown = EMPTY
    for _ in range(count):
        grown = added(grown, STEP)
    return grown


def counted(*frames: tuple[Reading, ...]) -> SpeculationState:
    ledger = Ledger()
    for second, frame in enumerate(frames):
        ledger.absorb(frame, float(second))
    return ledger.total("p")


def test_the_first_sight_of_a_life_counts_nothing_but_shows_its_series() -> None:
    growth = Ledger().absorb([reading(times(1000))], 0.0)
    assert growth["p"].steps == 0
    assert growth["p"].drafted == (0, 0)
    assert growth["p"].changes == {"speculate:start": 0}


def test_growth_is_counted_over_replicas() -> None:
    first = (reading(EMPTY), reading(times(7), replica="b"))
    second = (reading(times(2)), reading(times(10), replica="b"))
    assert counted(first, second) == times(5)


def test_a_restart_is_a_new_life_and_takes_nothing_back() -> None:
    assert counted(
        (reading(EMPTY),), (reading(times(5)),), (reading(EMPTY, epoch=2),), (reading(times(3), epoch=2),)
    ) == times(8)


def test_a_gap_is_made_up_for_when_the_life_is_seen_again() -> None:
    assert counted((reading(EMPTY),), (reading(times(2)),), (), (), (reading(times(9)),)) == times(9)


def test_a_replica_that_disappears_leaves_what_it_did() -> None:
    assert counted((reading(EMPTY),), (reading(times(4)),), ()) == times(4)


def test_a_reading_that_arrives_late_changes_nothing() -> None:
    assert counted((reading(EMPTY),), (reading(times(6)),), (reading(times(3)),), (reading(times(7)),)) == times(7)


def test_pools_are_counted_apart() -> None:
    ledger = Ledger()
    ledger.absorb([reading(EMPTY), reading(EMPTY, pool="q")], 0.0)
    ledger.absorb([reading(times(1)), reading(times(2), pool="q")], 1.0)
    assert (ledger.total("p"), ledger.total("q"), ledger.total("r")) == (times(1), times(2), EMPTY)


@pytest.mark.parametrize("broken", [math.inf, math.nan, -math.inf])
def test_a_number_that_is_none_counts_nothing_now_or_later(broken: float) -> None:
    spoilt = msgspec.structs.replace(times(2), wait=broken)
    assert counted((reading(EMPTY),), (reading(spoilt),), (reading(times(3)),)) == times(3)


@given(
    lives=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), min_size=1, max_size=4),
    data=st.data(),
)
def test_any_order_repetition_and_loss_of_readings_gives_the_same_total(
    lives: list[list[int]], data: st.DataObject
) -> None:
    grown = [list(accumulate(life)) for life in lives]
    frames = [reading(times(count), epoch=epoch) for epoch, life in enumerate(grown) for count in life]
    order = data.draw(st.permutations(frames + data.draw(st.lists(st.sampled_from(frames)))))
    ledger = Ledger()
    ledger.absorb([reading(EMPTY, epoch=epoch) for epoch in range(len(lives))], 0.0)
    totals = []
    for second, each in enumerate(order, 1):
        ledger.absorb([each], float(second))
        totals.append(ledger.total("p"))
    assert ledger.total("p") == times(sum(life[-1] for life in grown))
    assert all(growth_between(later, earlier) == growth_between(later, later) for earlier, later in pairwise(totals))


def test_a_ledger_remembers_a_bounded_number_of_lives() -> None:
    ledger = Ledger()
    for epoch in range(2000):
        ledger.absorb([reading(times(1), epoch=epoch)], float(epoch))
    assert len(ledger._seen) < 300
    ledger.absorb([reading(times(9), epoch=0)], 2001.0)
    assert ledger.total("p").steps == 0, "a life forgotten is at first sight again: never counted twice"


def test_recent_looks_back_one_window() -> None:
    ledger = Ledger()
    ledger.absorb([reading(EMPTY)], 0.0)
    for second in range(1, 200):
        ledger.absorb([reading(times(second))], float(second))
    assert WINDOW <= ledger.recent("p").speculated <= WINDOW + 5
    for second in range(200, 300):
        ledger.absorb([reading(times(199))], float(second))
    assert ledger.recent("p").speculated == 0


def test_insight_names_the_modes_and_the_reason_of_the_last_change() -> None:
    ledger = Ledger()
    before = SpeculationState(mode="plain", depth=0.0, changes={"plain:late": 3, "plain:acceptance": 5})
    ledger.absorb([reading(before)], 0.0)
    assert ledger.insight("p") == Insight({"plain": 1}, "", 0.0), "which of two it was, nobody saw"
    after = SpeculationState(mode="plain", depth=1.0, changes={"plain:late": 4, "plain:acceptance": 5})
    other = SpeculationState(mode="probe", depth=3.0)
    ledger.absorb([reading(after), reading(after, replica="b"), reading(other, replica="c")], 1.0)
    assert ledger.insight("p") == Insight({"plain": 2, "probe": 1}, "late", 5 / 3)
    ledger.absorb([], 2.0)
    assert ledger.insight("p") == Insight()


def test_a_reason_without_alternatives_is_known_at_first_sight() -> None:
    ledger = Ledger()
    ledger.absorb([reading(SpeculationState(mode="speculate", changes={"speculate:start": 1}))], 0.0)
    assert ledger.insight("p").reason == "start"


def test_ratios_are_those_of_the_counters_and_none_where_nothing_happened() -> None:
    state = SpeculationState(
        steps=500, speculated=50, hits=3, misses=1, drafted=(10, 8), accepted=(8, 1), verify=1.0, wait=0.5, plain=1.0
    )
    assert acceptance(state) == 0.5
    assert hit_rate(state) == 0.75
    assert speedup(state) == pytest.approx(1.9 / 1.5)
    assert (acceptance(EMPTY), hit_rate(EMPTY), speedup(EMPTY)) == (None, None, None)
    assert speedup(msgspec.structs.replace(state, steps=550)) is None, "one step in eleven is a probe"
    assert speedup(msgspec.structs.replace(state, steps=60, speculated=49)) is None, "too few to say"


@pytest.mark.parametrize(
    ("waits", "share", "wanted"),
    [
        ((), 0.95, None),
        ((0, 0), 0.95, None),
        ((10,), 0.5, 0.00005),
        ((0, 0, 10), 1.0, 0.001),
        ((90, 0, 10), 0.95, 0.00075),
        ((0,) * 9 + (1,), 0.95, 0.05),
    ],
)
def test_the_quantile_of_waits_lies_inside_its_bucket(
    waits: tuple[int, ...], share: float, wanted: float | None
) -> None:
    assert wait_quantile(waits, share) == (None if wanted is None else pytest.approx(wanted))
