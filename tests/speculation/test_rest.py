"""Between two choices: how long a rest lasts, and when plain steps are settled."""

from dataclasses import replace

import pytest

from experts.speculation.depth import Choice
from experts.speculation.rest import NAP, PEEK, SETTLED, Rest


def choice(depth=0, rest=0, shadows=(), kinds=frozenset()):
    gains = (float(depth),)
    return Choice((depth,), gains, 0.0, 0.0, mode="plain", reason="start", rest=rest, kinds=kinds, shadows=shadows)


def test_a_rest_lasts_as_long_as_the_choice_says():
    rest = Rest()
    rest.begin(choice(rest=2))
    assert [rest.goes_on(["a"]) for _ in range(4)] == [True, True, False, False]


def test_another_load_ends_a_rest_after_a_while_and_somebody_new_does_not():
    rest = Rest()
    rest.begin(choice(rest=3 * NAP))
    assert all(rest.goes_on(["c"]) for _ in range(NAP))
    assert not rest.goes_on(["c", "d"])
    assert rest.goes_on(["c"])


def test_shadow_drafts_are_looked_at_in_the_middle_of_a_rest_and_more_and_more_rarely():
    rest = Rest()
    rest.begin(choice(rest=PEEK + 2, shadows=(4,)))
    peeks = []
    while rest.goes_on(["a"]):
        peeks.append(rest.peeks)
    assert peeks == [False] * (PEEK - 1) + [True] + [False] * 2
    rest.begin(choice(rest=5 * PEEK, shadows=(4,)))
    assert [n for n in range(1, 5 * PEEK) if rest.goes_on(["a"]) and rest.peeks] == [PEEK, 2 * PEEK, 4 * PEEK]
    rest.begin(choice(rest=PEEK + 2))
    assert not any(rest.goes_on(["a"]) and rest.peeks for _ in range(PEEK + 2))


def test_what_is_interrupted_is_over():
    rest = Rest()
    rest.begin(choice(rest=9))
    rest.interrupt()
    assert not rest.goes_on(["a"])


@pytest.mark.parametrize(("notice", "quiet"), [(None, False), ((True,), False), ((False,), True)])
def test_newcomers_are_nobody_s_business_while_nobody_is_to_have_drafts(notice, quiet):
    rest = Rest()
    rest.begin(replace(choice(rest=1), notice=notice))
    assert rest.quiet is quiet
    assert rest.goes_on(["a"])
    assert not rest.quiet


def test_a_request_of_another_kind_ends_a_rest_that_was_not_meant_for_it():
    rest = Rest()
    rest.begin(choice(rest=9, shadows=(4,), kinds=frozenset({"records"})))
    rest.opened("records")
    assert rest.goes_on(["a", "b"])
    rest.opened("code")
    assert not rest.goes_on(["a", "b", "c"])
    rest.begin(choice(rest=9))
    rest.opened("code")
    assert rest.goes_on(["a", "c"])


def test_plain_steps_are_settled_some_time_after_the_last_that_was_to_have_drafts():
    rest = Rest()
    rest.begin(choice(depth=4))
    assert not rest.ended()
    rest.begin(choice())
    assert [rest.ended() for _ in range(SETTLED + 1)] == [False] * (SETTLED - 1) + [True, True]


def test_steps_of_a_rest_count_towards_the_settled_ones():
    rest = Rest()
    rest.begin(choice(depth=4))
    rest.ended()
    rest.begin(choice(rest=SETTLED - 1))
    assert [(rest.goes_on(["a"]), rest.settled) for _ in range(SETTLED - 1)] == [(True, False)] * (SETTLED - 1)
    assert rest.ended()
