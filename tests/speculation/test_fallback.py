from hypothesis import given
from hypothesis import strategies as st

from experts.speculation.fallback import CAP, PATIENCE, Trust

RETRY = 0.5
EVENTS = st.lists(st.tuples(st.booleans(), st.floats(0, 3)), max_size=60)


def test_single_misses_are_forgiven():
    trust = Trust(RETRY)
    for now in range(20):
        for _ in range(PATIENCE - 1):
            trust = trust.missed(now)
        assert trust.asks(now)
        trust = trust.answered()


def test_misses_in_a_row_pause_it_and_one_answer_to_the_probe_restores_it():
    trust = Trust(RETRY)
    for _ in range(PATIENCE):
        trust = trust.missed(10.0)
    assert not trust.asks(10.0 + RETRY - 0.01)
    assert trust.asks(10.0 + RETRY)
    assert trust.answered() == Trust(RETRY)


def test_every_failed_probe_doubles_the_pause_up_to_the_cap():
    trust, now, pauses = Trust(RETRY), 0.0, []
    for _ in range(PATIENCE - 1):
        trust = trust.missed(now)
    for _ in range(8):
        trust = trust.missed(now)
        pauses.append(trust.until - now)
        now = trust.until
    assert pauses == [RETRY * factor for factor in (1, 2, 4, 8, 16, 16, 16, 16)]


@given(EVENTS)
def test_a_pause_always_ends_and_never_exceeds_the_cap(events):
    trust, now = Trust(RETRY), 0.0
    for answered, passed in events:
        now += passed
        if trust.asks(now):
            trust = trust.answered() if answered else trust.missed(now)
        assert trust.until - now <= CAP * RETRY
        assert trust.asks(now + CAP * RETRY)


@given(EVENTS)
def test_a_dead_replica_costs_few_asks_and_a_live_one_is_always_asked(events):
    dead, live, now, asked = Trust(RETRY), Trust(RETRY), 0.0, 0
    for _, passed in events:
        now += passed
        assert live.asks(now)
        live = live.answered()
        if dead.asks(now):
            asked += 1
            dead = dead.missed(now)
    assert asked <= PATIENCE + now / RETRY
