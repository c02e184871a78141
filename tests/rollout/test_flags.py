"""Who gets a feature: the order of what decides, and what the ramp promises."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import NotFound
from cluster.flags import Flag, FlagConfig, Flags, FlagsConfig, configured, decide, point

NAMES = st.sampled_from(["acme", "bolt", "code", "general", ""])
OVERRIDES = st.dictionaries(NAMES, st.booleans())
PERCENTS = st.floats(0, 100)
FLAGS = st.builds(
    Flag,
    name=st.just("speculation"),
    epoch=st.integers(0, 3),
    version=st.integers(0, 3),
    enabled=st.booleans(),
    percent=PERCENTS,
    tenants=OVERRIDES,
    routes=OVERRIDES,
    salt=st.text(max_size=4),
)


def flag(**changes: object) -> Flag:
    return msgspec.structs.replace(configured(FlagsConfig()).get("speculation"), **changes)


@given(FLAGS, st.text(), NAMES, st.lists(NAMES, max_size=2))
def test_off_beats_the_tenant_who_beats_the_route_which_beats_the_ramp(held, key, tenant, routes):
    decision = decide(held, key, tenant=tenant, routes=routes)
    overridden = [route for route in routes if route in held.routes]
    if not held.enabled:
        expected = (False, "disabled")
    elif tenant in held.tenants:
        expected = (held.tenants[tenant], "tenant")
    elif overridden:
        expected = (held.routes[overridden[0]], "route")
    else:
        expected = (point(held.salt, key) * 100 < held.percent, "ramp")
    assert (decision.on, decision.why) == expected
    assert decision.cohort == ("on" if decision.on else "off")


@given(st.text(), st.text(), PERCENTS, PERCENTS)
def test_a_higher_percentage_only_ever_adds_requests(salt, key, one, other):
    low, high = sorted((one, other))
    on = [decide(flag(percent=each, salt=salt), key, tenant="", routes=()).on for each in (low, high)]
    assert on[1] >= on[0]


@given(st.text(), st.text())
def test_nobody_is_on_at_zero_and_everybody_at_a_hundred(salt, key):
    on = [decide(flag(percent=each, salt=salt), key, tenant="", routes=()).on for each in (0.0, 100.0)]
    assert on == [False, True]


@given(st.text(), NAMES, NAMES, PERCENTS)
def test_the_ramp_knows_no_tenant(key, one, other, percent):
    held = flag(percent=percent)
    decided = [decide(held, key, tenant=each, routes=("general",)).on for each in (one, other)]
    assert decided[0] == decided[1]


@pytest.mark.parametrize("percent", [1.0, 20.0, 50.0, 99.0])
@pytest.mark.parametrize("salt", ["speculation", "again"])
def test_the_ramp_takes_its_share_of_all_requests(percent, salt):
    many = 20_000
    held = flag(percent=percent, salt=salt)
    on = sum(decide(held, f"request-{number}", tenant="", routes=()).on for number in range(many))
    share = percent / 100
    assert abs(on - many * share) < 4.5 * math.sqrt(many * share * (1 - share))


def test_another_salt_draws_other_requests():
    keys = [f"request-{number}" for number in range(4000)]
    both = sum(point("one", key) < 0.5 and point("two", key) < 0.5 for key in keys)
    assert 0.2 < both / len(keys) < 0.3, "as two independent draws do"


def test_the_draw_is_the_same_in_every_process():
    assert [round(point("speculation", key), 6) for key in ("a", "request-1")] == [0.914041, 0.082061]


@given(FLAGS, FLAGS)
def test_the_newer_of_two_versions_wins_whoever_tells_whom(one, other):
    there, here = Flags((one,)).newest((other,)), Flags((other,)).newest((one,))
    assert there.all[0].rank == here.all[0].rank == max(one.rank, other.rank)
    if one.rank != other.rank:
        assert there == here


def test_a_flag_that_is_unknown_here_is_ignored_and_one_that_is_asked_for_is_named():
    flags = configured(FlagsConfig())
    assert flags.newest((flag(name="teleport", version=9),)) == flags
    with pytest.raises(NotFound, match="there are speculation"):
        flags.get("teleport")


def test_without_a_word_in_the_configuration_everybody_is_on():
    held = configured(FlagsConfig()).get("speculation")
    assert (held.enabled, held.percent, held.rank, held.salt) == (True, 100.0, (0, 0), "speculation")
    chosen = configured(FlagsConfig(speculation=FlagConfig(percent=5.0, salt="x"))).get("speculation")
    assert (chosen.percent, chosen.salt) == (5.0, "x")
