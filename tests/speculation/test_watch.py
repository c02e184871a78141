"""What shadow drafts show while decoding is plain."""

import numpy as np
import pytest

from experts.speculation import shadow
from experts.speculation.stance import CLEAR, CLEARER
from experts.speculation.trials import SHADOWED, Trials
from experts.speculation.watch import FIRST, FRESH, LONG_REST, LONGEST_REST, LOOKS, REST, Outlook, Watch


def test_a_few_lucky_drafts_move_the_outlook_by_half_and_ask_for_a_closer_look():
    outlook = Outlook(0.8, 0.9).followed(Outlook(1.4, 1.5))
    assert (outlook.ratio, outlook.timely) == pytest.approx((1.1, 1.2))
    assert outlook.rising
    assert not outlook.followed(Outlook(1.1, 1.25)).rising
    assert not Outlook(0.5, 0.5).followed(Outlook(0.8, 0.8)).rising


def test_what_shadow_drafts_showed_is_known_for_a_while():
    watch = Watch(Trials(4), wanted=True)
    watch.look(Outlook(2.0, 2.0), 5)
    assert (watch.outlook, watch.promises(CLEAR), watch.rest(0.0)) == (None, False, REST)
    watch.compared(10, 1.0)
    watch.look(Outlook(2.0, 2.0), 10)
    assert (watch.outlook, watch.promises(CLEAR)) == (Outlook(1.5, 1.5, rising=True), True)
    assert watch.rest(0.0) == shadow.DEPTH + 1
    watch.look(Outlook(2.0, 2.0), 10 + FRESH - 1)
    assert (watch.outlook, watch.rest(0.0)) == (Outlook(1.5, 1.5), LONG_REST)
    watch.look(Outlook(2.0, 2.0), 10 + FRESH)
    assert (watch.outlook, watch.promises(CLEAR), watch.hopeful) == (None, False, True)


def test_what_rests_on_more_than_shadow_drafts_is_believed_at_once():
    watch = Watch(Trials(4), wanted=True)
    watch.look(Outlook(2.0, 2.0), 5, damped=False)
    assert watch.outlook is None, "there is nothing that it would differ from"
    watch.compared(10, 1.0)
    watch.look(Outlook(0.5, 0.5), 10)
    watch.look(Outlook(2.0, 2.0), 11, damped=False)
    assert watch.outlook == Outlook(2.0, 2.0, rising=True)


def test_after_drafts_were_verified_what_was_seen_before_is_forgotten():
    watch = Watch(Trials(4), wanted=True)
    watch.compared(10, 1.0)
    watch.look(Outlook(2.0, 2.0), 10)
    watch.forget(10, patient=True)
    assert (watch.outlook, watch.hopeful, watch.rest(0.0)) == (None, True, REST)
    watch.compared(12, 1.0)
    watch.look(Outlook(0.5, 0.5), 12)
    assert watch.outlook == Outlook(0.75, 0.75)


def test_what_was_just_found_not_to_pay_is_not_tried_before_shadow_drafts_have_been_seen():
    watch = Watch(Trials(4), wanted=True)
    assert watch.wait(1) == 0
    watch.forget(10, patient=True)
    assert (watch.wait(10), watch.wait(11), watch.wait(10 + FIRST)) == (FIRST, FIRST - 1, 0)
    watch.compared(12, 1.0)
    watch.look(Outlook(0.5, 0.5), 12)
    assert watch.wait(13) == 0


def test_drafts_that_were_late_are_not_waited_for_nor_those_that_nobody_wants():
    watch, blind = Watch(Trials(4), wanted=True), Watch(Trials(4), wanted=False)
    watch.forget(10, patient=False)
    blind.forget(10, patient=True)
    assert watch.wait(11) == blind.wait(11) == 0


def test_there_is_hope_where_timely_drafts_would_pay_and_a_clear_sign_is_more():
    for timely, hopeful, clear, clearer in (
        (1.0, False, False, False),
        (1.2, True, False, False),
        (1.6, True, True, False),
        (1.8, True, True, True),
    ):
        watch = Watch(Trials(4), wanted=True)
        watch.compared(1, 1.0)
        watch.look(Outlook(0.5, timely), 1)
        assert (watch.hopeful, watch.promises(CLEAR), watch.promises(CLEARER)) == (hopeful, clear, clearer)


def test_a_few_rows_have_shadow_drafts_as_far_as_there_is_room():
    room = np.array([0, 1, 9, 9, 9, 9])
    watch = Watch(Trials(6), wanted=True)
    assert watch.assign(np.arange(6), room, 1) == (0, 1, 4, 4, 4, 0)
    assert sum(map(bool, watch.assign(np.arange(6), room, 2))) == SHADOWED
    assert Watch(Trials(6), wanted=False).assign(np.arange(6), room, 1) == ()


def test_where_looks_are_dear_they_are_few():
    watch = Watch(Trials(4), wanted=True)
    assert watch.rest(REST * LOOKS / 2) == REST
    assert watch.rest(40 * LOOKS) == 40
    assert watch.rest(2 * LONGEST_REST * LOOKS) == LONGEST_REST


def test_more_right_shadow_drafts_than_usual_are_a_reason_to_look_and_luck_is_none():
    watch = Watch(Trials(4), wanted=True)
    assert not watch.compared(1, 0.3)
    assert not any(watch.compared(step, 0.3) for step in range(2, 9))
    assert not watch.compared(9, 0.5)
    assert watch.compared(10, 1.5)
    watch.forget(10, patient=True)
    assert watch.compared(11, 1.5), "a lot, and nothing is usual any more"
