"""The router's keeping of flags and counts. Time is a number here."""

import msgspec
import pytest

from cluster.errors import BadRequest, Conflict, NotFound
from cluster.flags import Flag, FlagsConfig, configured
from cluster.tallies import Tally
from router.api import Change
from router.rollout import PACE, Rollout

FLAGS = configured(FlagsConfig())
ROUTES = frozenset({"code", "general"})


def rollout(epoch: int = 5) -> Rollout:
    return Rollout(FLAGS, ROUTES, epoch=epoch)


def change(expected: int | None = 0, **changes: object) -> Change:
    return Change("c1", msgspec.structs.replace(FLAGS.get("speculation"), **changes), expected)


def tally(kept: Rollout, requests: int, cohort: str = "on") -> Tally:
    return Tally("speculation", kept.flags.get("speculation").rank, cohort, "general", requests=requests)


def test_a_change_is_in_force_as_the_next_version_of_this_life():
    kept = rollout()
    flag = kept.change(change(percent=20.0, tenants={"acme": False}))
    assert (flag.rank, flag.percent, flag.tenants) == ((5, 1), 20.0, {"acme": False})
    assert kept.flags.get("speculation") == flag
    assert kept.change(change(expected=1)).version == 2


@pytest.mark.parametrize(
    ("wanted", "error", "says"),
    [
        (change(name="teleport"), NotFound, "there are speculation"),
        (change(expected=3), Conflict, "has version 0"),
        (change(routes={"nowhere": True}), BadRequest, "there are code, general"),
    ],
)
def test_a_change_that_cannot_be_says_why_and_changes_nothing(wanted, error, says):
    kept = rollout()
    with pytest.raises(error, match=says):
        kept.change(wanted)
    assert kept.flags == FLAGS


def test_any_version_may_be_replaced_by_who_says_so():
    kept = rollout()
    kept.change(change())
    assert kept.change(change(expected=None)).version == 2


def test_a_router_that_has_come_back_takes_over_what_gateways_know():
    earlier = rollout()
    changed = earlier.change(change(percent=20.0))
    later = rollout(epoch=6)
    assert later.adopt((changed,))
    assert later.flags.get("speculation") == changed
    assert not later.adopt(FLAGS.all), "older news are none"
    assert not later.adopt((changed,))
    assert later.change(change(expected=1)).rank == (6, 2)


def test_a_change_counts_even_if_the_clock_of_an_earlier_life_was_ahead():
    kept = rollout(epoch=5)
    kept.adopt((msgspec.structs.replace(FLAGS.get("speculation"), epoch=9, version=4),))
    flag: Flag = kept.change(change(expected=4, enabled=False))
    assert flag.rank == (9, 5)
    assert not kept.flags.get("speculation").enabled


def test_counts_of_living_gateways_are_added_up_and_replaced_when_told_again():
    kept = rollout()
    kept.hear("g1", (tally(kept, 1),))
    kept.hear("g2", (tally(kept, 10), tally(kept, 100, "off")))
    kept.hear("g1", (tally(kept, 2),))
    found = kept.counted(0.0)
    assert (found.gateways, [(each.cohort, each.requests) for each in found.tallies]) == (2, [("on", 12), ("off", 100)])
    kept.forget("g2")
    assert kept.counted(PACE / 2) == found, "sums are made at a pace"
    found = kept.counted(PACE)
    assert (found.gateways, [each.requests for each in found.tallies]) == (1, [2])


def test_counts_under_an_older_version_are_left_out():
    kept = rollout()
    kept.hear("g1", (tally(kept, 7),))
    kept.change(change())
    assert kept.counted(0.0).tallies == ()
