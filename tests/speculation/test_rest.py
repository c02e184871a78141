"""Between two choices: how long a rest lasts, and when plain steps are settled."""

from experts.speculation.depth import Choice
from experts.speculation.rest import NAP, SETTLED, Rest


def choice(depth=0, rest=0, shadows=(), kinds=frozenset()):
    gains = (float(depth),)
    return Choice((depth,), gains, 0.0, 0.0, mode="plain", reason="start", rest=rest, kinds=kinds, shadows=shadows)


def test_a_rest_lasts_as_long_as_the_choice_says():
    rest = Rest()
    rest.begin(choice(rest=2), frozenset("a"))
    assert [rest.goes_on(["a"]) for _ in range(4)] == [True, True, False, False]


def test_who_comes_ends_a_rest_after_a_while_and_who_goes_does_not():
    rest = Rest()
    rest.begin(choice(rest=3 * NAP), frozenset("ab"))
    assert all(rest.goes_on(["a", "c"]) for _ in range(NAP))
    assert not rest.goes_on(["a", "c"])
    assert rest.goes_on(["a"])


def test_who_comes_waits_for_shadow_drafts_that_are_under_way():
    rest = Rest()
    rest.begin(choice(rest=3 * NAP, shadows=(0, 4)), frozenset("ab"))
    assert all(rest.goes_on(["a", "c"]) for _ in range(3 * NAP))
    assert not rest.goes_on(["a", "c"])


def test_a_request_of_another_kind_ends_a_rest_that_was_not_meant_for_it():
    rest = Rest()
    rest.begin(choice(rest=9, shadows=(4,), kinds=frozenset({"records"})), frozenset("a"))
    rest.opened("records")
    assert rest.goes_on(["a", "b"])
    rest.opened("code")
    assert not rest.goes_on(["a", "b", "c"])
    rest.begin(choice(rest=9), frozenset("a"))
    rest.opened("code")
    assert rest.goes_on(["a", "c"])


def test_plain_steps_are_settled_some_time_after_the_last_that_was_to_have_drafts():
    rest = Rest()
    rest.begin(choice(depth=4), frozenset("a"))
    assert not rest.ended()
    rest.begin(choice(), frozenset("a"))
    assert [rest.ended() for _ in range(SETTLED + 1)] == [False] * (SETTLED - 1) + [True, True]
