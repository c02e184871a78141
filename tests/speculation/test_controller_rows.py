"""Which rows the controller gives drafts, and for how long a choice stands, on rows that are made by hand."""

from dataclasses import replace

import pytest

from experts.speculation.controller import AdaptiveDepth
from experts.speculation.depth import RowView, Timing, Verdict
from experts.speculation.lessons import LEFT
from experts.speculation.stance import OWED, Purse
from experts.speculation.standing import STANDS
from loadtests.drift import DEEPEST


def step(depths, rows, right=1.0, *, verify=0.011):
    """One step of a model engine: so many of the drafts of each row are right."""
    choice = depths.choose(rows, 0.0)
    drafted = [(row.session, count) for row, count in zip(rows, choice.depths, strict=True) if count]
    depths.judge([Verdict(session, count, round(right * count)) for session, count in drafted], 0.0)
    tokens = len(rows) + sum(choice.depths)
    depths.time(Timing(len(rows), tokens, 100, verify if drafted else 0.01, 0.0), 0.0)
    return choice


def speculating(rows):
    depths = AdaptiveDepth(DEEPEST)
    assert {step(depths, rows).mode for _ in range(12)} == {"plain", "speculate"}
    return depths


def test_while_most_rows_are_at_their_end_the_others_have_no_drafts_and_none_are_given_up():
    """To verify takes the time of a plain step, which the drafts of one row are not worth."""
    rows = [RowView(f"r{n}", DEEPEST, 50) for n in range(16)]
    ending = [rows[0], *(replace(row, room=0) for row in rows[1:])]
    depths = AdaptiveDepth(DEEPEST)
    assert sum(any(step(depths, rows, verify=0.02).depths) for _ in range(3 * STANDS)) > STANDS
    choices = [step(depths, ending, verify=0.02) for _ in range(4)]
    assert {choice.mode for choice in choices if choice.reason != "refresh"} == {"speculate"}
    assert not any(any(choice.depths) for choice in choices[2:])
    assert any(step(depths, rows, verify=0.02).depths)


def test_traffic_of_which_better_things_are_known_has_drafts_at_once_though_all_time_for_trying_is_spent():
    good, bad = ([RowView(f"{kind} {n}", DEEPEST, 50, kind) for n in range(4)] for kind in ("good", "bad"))
    depths = speculating(good)
    while (choice := step(depths, bad, right=0.0)).mode != "plain" or choice.reason == "refresh":
        pass
    depths._books.purse = Purse(-OWED)
    assert not any(any(step(depths, bad, right=0.0).depths) for _ in range(20))
    choice = step(depths, bad, right=0.0)
    assert choice.kinds == {"bad"}
    choices = [step(depths, [*bad[:3], good[0]], right=1.0) for _ in range(3)]
    assert [any(each.depths) for each in choices] == [False, True, True]
    assert choices[0].notice == (True,) * 4


def test_newcomers_get_drafts_and_are_known_though_a_choice_stands():
    rows = [RowView(name, DEEPEST, 50) for name in "abcd"]
    depths = speculating(rows)
    for number in range(2 * STANDS):
        rows[number % 4] = RowView(f"new {number}", DEEPEST, 50)
        assert min(step(depths, rows).depths) > 0
        assert len(depths._acceptance) == 5 + number


def test_a_choice_outlives_steps_in_which_nobody_has_room(monkeypatch):
    depths = speculating([RowView("a", DEEPEST, 50)])
    while depths._kept is None or depths._kept.standing.step < depths._step:
        step(depths, [RowView("a", DEEPEST, 50)])
    monkeypatch.setattr(depths, "_batch", lambda rows: pytest.fail("chosen anew"))
    assert step(depths, [RowView("a", 0, 50), RowView("b", 0, 10)]).depths == (0, 0)
    assert step(depths, [RowView("b", DEEPEST, 50)]).depths[0] > 0


def test_requests_that_end_while_nothing_is_chosen_are_forgotten_all_the_same():
    depths = speculating([RowView("a", DEEPEST, 50)])
    for number in range(2 * LEFT):
        depths._acceptance.slots([RowView(str(number), DEEPEST, 50)], 0)
        depths.close(str(number))
    assert len(depths._acceptance) <= LEFT + 1


def test_rows_without_room_change_nothing():
    controller = AdaptiveDepth(4)
    for step in range(20):
        controller.choose([RowView("a", 4, 10)], step)
        controller.judge([Verdict("a", 4, 4)], step)
        controller.time(Timing(1, 5, 10, 1e-3, 0.0), step)
    before = controller.choose([RowView("a", 4, 10)], 20)
    none = controller.choose([RowView("a", 0, 10), RowView("b", 0, 10)], 21)
    assert none.depths == (0, 0)
    assert none.mode == before.mode == "speculate"
    assert controller.choose([RowView("a", 4, 10)], 22).depths == before.depths


def test_a_row_that_gets_room_need_not_wait_for_the_next_choice():
    controller = AdaptiveDepth(4)
    controller.time(Timing(1, 1, 10, 1e-3, 0.0), 0)
    controller.time(Timing(1, 1, 10, 1e-3, 0.0), 0)
    assert controller.choose([RowView("a", 0, 10)], 1).depths == (0,)
    assert controller.choose([RowView("a", 4, 10)], 2).depths[0] > 0
