import numpy as np

from experts.speculation.trials import AT_ONCE, HOLD, LONGEST, PAUSE, SHADOWED, Trials

SLOTS = np.arange(10)
ALL = np.ones(10, np.bool_)


def test_a_few_are_tried_at_once_and_each_has_its_turn():
    trials, tried = Trials(10), np.zeros(10, np.bool_)
    for step in range(3):
        chosen = trials.begin(SLOTS, ALL, step, due=True)
        assert chosen.sum() == min(AT_ONCE, 10 - tried.sum())
        assert not (chosen & tried).any()
        tried |= chosen
    assert tried.all()


def test_shadow_drafts_take_turns_and_are_no_tries():
    trials, shadowed = Trials(10), np.zeros(10, np.bool_)
    for step in range(3):
        chosen = trials.shadow(SLOTS, ALL, step)
        assert chosen.sum() == SHADOWED
        shadowed |= chosen
    assert shadowed.all()
    assert not trials.running(SLOTS).any()
    assert trials.begin(SLOTS, ALL, 3, due=True).tolist() == Trials(10).begin(SLOTS, ALL, 3, due=True).tolist()


def test_only_those_that_are_wanted_are_tried():
    wanted = SLOTS >= 8
    assert Trials(10).begin(SLOTS, wanted, 0, due=True).tolist() == wanted.tolist()


def test_a_try_ends_with_the_first_wrong_draft_and_goes_on_with_a_right_one():
    trials = Trials(10)
    trials.begin(SLOTS[:2], ALL[:2], 0, due=True)
    trials.learn(SLOTS[:2], np.array([True, False]))
    assert trials.running(SLOTS[:2]).tolist() == [True, False]


def test_a_try_whose_drafts_never_come_ends_by_itself():
    trials = Trials(10)
    trials.begin(SLOTS[:1], ALL[:1], 0, due=True)
    assert sum(trials.running(SLOTS[:1])[0] for _ in range(3 * HOLD)) == HOLD - 1


def test_the_turns_of_a_request_get_rarer_until_one_of_its_drafts_is_right():
    trials, step, gaps = Trials(10), 0, []
    for _ in range(7):
        began = step
        while not trials.begin(SLOTS[:1], ALL[:1], step, due=True).any():
            step += 1
        gaps.append(step - began)
        trials.learn(SLOTS[:1], np.array([False]))
    assert gaps == [0, PAUSE, 2 * PAUSE, 4 * PAUSE, 8 * PAUSE, LONGEST, LONGEST]
    trials.begin(SLOTS[:1], ALL[:1], step, due=False)
    trials.learn(SLOTS[:1], np.array([True]))
    trials.begin(SLOTS[:1], ALL[:1], step, due=False)
    assert trials.begin(SLOTS[:1], ALL[:1], step + PAUSE, due=True).all()


def test_whoever_takes_the_place_of_a_closed_request_is_due():
    trials = Trials(10)
    trials.begin(SLOTS[:1], ALL[:1], 0, due=True)
    assert not trials.begin(SLOTS[:1], ALL[:1], 1, due=True).any()
    trials.forget(SLOTS[:1])
    assert not trials.running(SLOTS[:1]).any()
    assert trials.begin(SLOTS[:1], ALL[:1], 1, due=True).all()
