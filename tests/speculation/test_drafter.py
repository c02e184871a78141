import math

import pytest

from experts.speculation.book import CATCH_UP
from experts.speculation.drafter import CHUNK, Ahead, Drafter
from experts.speculation.messages import DraftAsk, DraftRow
from tests.speculation.conftest import CONTEXT
from tests.speculation.models import VOCABULARY

SLOTS = 3


def ask(*rows, epoch=1, step=1, closed=(), budget=None):
    return DraftAsk(epoch, step, tuple(DraftRow(*row) for row in rows), tuple(closed), budget)


@pytest.fixture
def drafter(model):
    return Drafter(model, slots=SLOTS, life=7)


@pytest.fixture
def counted(model, monkeypatch):
    """How many forward passes there were."""
    passes = []
    run = model.step
    monkeypatch.setattr(model, "step", lambda *given: passes.append(1) or run(*given))
    return lambda: len(passes)


def answer(drafter, *asks, now=0.0, at=None):
    return drafter.answer([drafter.take(one, now if at is None else at) for one in asks], now)


def lead(drafter, *asks, cut=lambda: False):
    """The leads for asks that are not waited for, as {session: {given: drafts}} each."""
    leads = drafter.lead([drafter.take(one, 0.0) for one in asks], math.inf, cut)
    return [
        {row.session: {branch.given: branch.drafts for branch in row.branches} for row in one.rows} for one in leads
    ]


def test_asks_of_several_verifiers_are_answered_as_if_each_were_alone(drafter, greedy):
    first = ask(("a", 0, (1, 2, 3), 4), ("b", 0, tuple(range(40)), 2))
    second = ask(("a", 0, (9,), 3), epoch=2)
    tells = answer(drafter, first, second)
    assert [tell.drafts for tell in tells] == [
        (tuple(greedy([1, 2, 3], 4)), tuple(greedy(range(40), 2))),
        (tuple(greedy([9], 3)),),
    ]
    assert [(tell.epoch, tell.step, tell.life, tell.lost) for tell in tells] == [(1, 1, 7, ()), (2, 1, 7, ())]


def test_accepted_drafts_are_not_computed_again(drafter, greedy):
    prompt = tuple(range(50))
    drafts = answer(drafter, ask(("a", 0, prompt, 12)))[0].drafts[0]
    before = drafter.prefilled
    found = answer(drafter, ask(("a", 50, drafts, 2), step=2))[0].drafts[0]
    assert list(found) == greedy(prompt + drafts, 2)
    assert drafter.prefilled == before


def test_tokens_that_took_another_turn_replace_what_was_drafted(drafter, greedy):
    drafts = answer(drafter, ask(("a", 0, (1, 2, 3), 6)))[0].drafts[0]
    turned = (drafts[0], (drafts[1] + 1) % VOCABULARY, drafts[2], 4, 5)
    found = answer(drafter, ask(("a", 3, turned, 6), step=2))[0].drafts[0]
    assert list(found) == greedy((1, 2, 3, *turned), 6)


def test_a_session_it_does_not_know_is_lost_and_comes_back_whole(drafter, greedy):
    tell = answer(drafter, ask(("a", 5, (1,), 4), ("b", 0, (2,), 1)))[0]
    assert (tell.lost, tell.drafts) == (("a",), ((), tuple(greedy([2], 1))))
    tell = answer(drafter, ask(("a", 0, (3, 4, 5), 4)))[0]
    assert (tell.lost, tell.drafts[0]) == ((), tuple(greedy([3, 4, 5], 4)))


def test_a_gap_loses_the_session(drafter):
    answer(drafter, ask(("a", 0, (1, 2, 3), 4)))
    assert answer(drafter, ask(("a", 4, (1,), 4), step=2))[0].lost == ("a",)
    assert answer(drafter, ask(("a", 3, (1,), 4), step=3))[0].lost == ("a",)


def test_the_least_recently_used_session_makes_room(drafter):
    for now, name in enumerate("abc"):
        answer(drafter, ask((name, 0, (1, 2), 1)), now=10.0 * now)
    answer(drafter, ask(("a", 2, (3,), 1)), now=30.0)
    assert answer(drafter, ask(("d", 0, (1,), 1)), now=40.0)[0].lost == ()
    assert answer(drafter, ask(("a", 3, (4,), 1), ("b", 2, (4,), 1)), now=40.5)[0].lost == ("b",)
    assert drafter.sessions == SLOTS


def test_more_sessions_than_slots_do_not_evict_each_other_at_every_step(drafter):
    rows = [(name, 0, (1, 2), 1) for name in "abcd"]
    tell = answer(drafter, ask(*rows))[0]
    assert tell.lost == ("d",)
    assert [len(drafts) for drafts in tell.drafts] == [1, 1, 1, 0]
    assert answer(drafter, ask(("d", 0, (1, 2), 1), step=2), now=0.5)[0].lost == ("d",)
    assert answer(drafter, ask(("d", 0, (1, 2), 1), step=3), now=1.5)[0].lost == ()


def test_closing_frees_the_slot_at_once(drafter):
    answer(drafter, ask(*[(name, 0, (1,), 1) for name in "abc"]))
    tell = answer(drafter, ask(("d", 0, (1,), 1), step=2, closed=["b", "unknown"]))[0]
    assert tell.lost == ()
    assert drafter.sessions == SLOTS


def test_a_session_closed_and_replaced_within_one_batch_spoils_nothing(drafter, greedy):
    for name in "abc":
        answer(drafter, ask((name, 0, (1,), 0)))
    tells = answer(
        drafter, ask(("a", 1, (2,), 3), epoch=1, step=2), ask(("d", 0, (5, 6), 3), epoch=1, step=3, closed="a")
    )
    assert tells[0].drafts == ((),)
    assert tells[1].drafts == (tuple(greedy([5, 6], 3)),)


def test_a_late_ask_updates_the_history_only(drafter, greedy):
    answer(drafter, ask(("a", 0, (1, 2, 3), 4)))
    late = ask(("a", 3, (4,), 4), step=3, budget=0.02)
    assert answer(drafter, late, now=5.03, at=5.0)[0].drafts == ((),)
    timely = ask(("a", 4, (5,), 4), step=4, budget=0.02)
    assert list(answer(drafter, timely, now=6.01, at=6.0)[0].drafts[0]) == greedy([1, 2, 3, 4, 5], 4)


def test_with_little_time_there_are_fewer_drafts_and_the_same_ones(drafter, greedy):
    for _ in range(50):
        drafter.cost.saw(1, 1.0)
    tell = answer(drafter, ask(("a", 0, (1, 2, 3), 8), budget=4.0))[0]
    assert list(tell.drafts[0]) == greedy([1, 2, 3], 3)
    tell = answer(drafter, ask(("a", 3, (*tell.drafts[0][:2],), 8), step=2, budget=0.1))[0]
    assert 0 < len(tell.drafts[0]) < 8


def test_drafts_end_with_the_context(drafter, greedy):
    history = [token % VOCABULARY for token in range(CONTEXT - 3)]
    tell = answer(drafter, ask(("a", 0, tuple(history), 8), ("b", 0, (1, 2), 8)))[0]
    assert list(tell.drafts[0]) == greedy(history, 8)
    assert len(tell.drafts[0]) == 3
    assert list(tell.drafts[1]) == greedy([1, 2], 8)
    tell = answer(drafter, ask(("a", CONTEXT - 3, (1, 2, 3, 4, 5), 8), step=2))[0]
    assert (tell.drafts, tell.lost) == (((),), ())
    tell = answer(drafter, ask(("a", CONTEXT + 2, (1,), 8), ("b", 2, (7,), 3), step=3))[0]
    assert (tell.drafts, tell.lost) == (((), tuple(greedy([1, 2, 7], 3))), ())


def test_ids_outside_the_vocabulary_lose_the_session_and_hurt_no_other(drafter, greedy):
    tell = answer(drafter, ask(("a", 0, (VOCABULARY,), 4), ("b", 0, (1,), 4)))[0]
    assert (tell.lost, tell.drafts) == (("a",), ((), tuple(greedy([1], 4))))


def test_nothing_to_continue_gives_no_drafts(drafter):
    assert answer(drafter, ask(("a", 0, (), 4)))[0].drafts == ((),)
    assert answer(drafter) == []


def test_a_long_new_history_gets_no_drafts_until_it_is_read(drafter, greedy):
    prompt = tuple(token % VOCABULARY for token in range(CHUNK + 40))
    waited = ask(("a", 0, prompt, 4), ("b", 0, (3,), 2), budget=0.1)
    tell = answer(drafter, waited)[0]
    assert (tell.drafts, tell.lost) == (((), tuple(greedy([3], 2))), ())
    assert [drafter.read(), drafter.read(), drafter.read()] == [(1, "a"), (1, "a"), None]
    tell = answer(drafter, ask(("a", len(prompt), (7,), 4), step=2, budget=0.1))[0]
    assert list(tell.drafts[0]) == greedy((*prompt, 7), 4)
    assert drafter.prefilled == len(prompt) - 1


def test_an_announced_prompt_is_read_before_drafts_are_wanted(drafter, greedy):
    prompt = tuple(range(CATCH_UP + 20))
    drafter.take(ask(("a", 0, prompt, 0), budget=0.0), 0.0)
    assert (drafter.read(), drafter.read()) == ((1, "a"), None)
    tell = answer(drafter, ask(("a", len(prompt), (5,), 3), step=2, budget=0.1))[0]
    assert list(tell.drafts[0]) == greedy((*prompt, 5), 3)


def test_what_a_session_without_drafts_is_sent_is_read_however_little_it_is(drafter, greedy):
    answer(drafter, ask(("a", 0, (1, 2, 3), 2)))
    text = (1, 2, 3)
    for step in range(2, 6):
        new = tuple(range(10 * step, 10 * step + CATCH_UP // 2))
        drafter.take(ask(("a", len(text), new, 0), step=step, budget=0.0), 0.0)
        assert (drafter.read(), drafter.read()) == ((1, "a"), None)
        text += new
    assert list(answer(drafter, ask(("a", len(text), (7,), 3), step=9))[0].drafts[0]) == greedy((*text, 7), 3)


def test_unread_histories_take_turns(drafter):
    for name, length in (("a", 3 * CHUNK // 2), ("b", CHUNK // 2)):
        drafter.take(ask((name, 0, tuple(token % VOCABULARY for token in range(length)), 4), budget=0.0), 0.0)
    assert [drafter.read() for _ in range(4)] == [(1, "a"), (1, "b"), (1, "a"), None]


def test_what_was_closed_is_not_read(drafter):
    drafter.take(ask(("a", 0, tuple(range(60)), 4), budget=0.0), 0.0)
    drafter.take(ask(closed=("a",)), 0.0)
    assert drafter.read() is None
    assert drafter.prefilled == 0


def test_a_lead_continues_every_verdict_that_it_names(drafter, greedy):
    drafts = answer(drafter, ask(("a", 0, (1, 2, 3), 4)))[0].drafts[0]
    (found,) = lead(drafter, ask(("a", 3, drafts[:1], 4, 3), budget=0.0, step=2))
    history, inflight = (1, 2, 3, drafts[0]), drafts[1:]
    assert 0 < len(found["a"]) <= 4
    for given, more in found["a"].items():
        assert given[:-1] == inflight[: len(given) - 1]
        assert given != inflight[: len(given)]
        assert list(more) == greedy(history + given, 4)


def test_a_history_that_begins_like_one_that_is_over_is_read_from_there(drafter, greedy):
    prompt = tuple(n % 50 for n in range(90))
    answer(drafter, ask(("a", 0, prompt, 4)))
    before = drafter.prefilled
    longer = (*prompt[:60], *range(30, 50))
    found = answer(drafter, ask(("b", 0, longer, 4), step=2, closed=["a"]))[0].drafts[0]
    assert list(found) == greedy(longer, 4)
    assert drafter.prefilled - before < 20


def test_a_history_that_begins_like_a_living_one_is_read_from_there_and_both_go_on_alone(drafter, greedy):
    prompt = tuple(n % 50 for n in range(90))
    drafts = answer(drafter, ask(("a", 0, prompt, 4)))[0].drafts[0]
    before = drafter.prefilled
    one, other = (*prompt[:70], 3, 1, 4), (*prompt[:40], 1, 5, 9)
    first, second, third = answer(
        drafter, ask(("a", 90, drafts, 4), ("b", 0, one, 4), step=2), ask(("b", 0, other, 4), epoch=2), ask(epoch=3)
    )
    assert list(first.drafts[0]) == greedy(prompt + drafts, 4)
    assert list(first.drafts[1]) == greedy(one, 4)
    assert list(second.drafts[0]) == greedy(other, 4)
    assert third.drafts == ()
    assert drafter.prefilled == before


def test_a_newcomer_that_shares_a_little_does_not_take_the_place_of_a_conversation(drafter, greedy):
    head, conversation = tuple(range(12)), tuple(n % 50 for n in range(90))
    answer(drafter, ask(("a", 0, conversation, 4)))
    answer(drafter, ask(("b", 0, (*head, 40, 41), 4), step=2, closed=["a"]))
    before = drafter.prefilled
    found = answer(drafter, ask(("a again", 0, (*conversation, 3), 4), step=3))[0].drafts[0]
    assert list(found) == greedy((*conversation, 3), 4)
    assert drafter.prefilled == before


def test_a_newcomer_with_foreign_tokens_leaves_nothing_behind(drafter, greedy):
    prompt = tuple(n % 50 for n in range(60))
    answer(drafter, ask(("a", 0, prompt, 4)))
    assert answer(drafter, ask(("b", 0, (*prompt, VOCABULARY), 4), step=2))[0].lost == ("b",)
    found = answer(drafter, ask(("c", 0, prompt, 4), ("d", 0, prompt, 4), step=3))[0].drafts
    assert found == (tuple(greedy(prompt, 4)),) * 2


def test_a_newcomer_begins_with_what_a_session_was_before_its_verdict_in_the_same_ask(drafter, greedy):
    prompt = tuple(n % 50 for n in range(60))
    flying = answer(drafter, ask(("a", 0, prompt, 4)))[0].drafts[0]
    (led,) = lead(drafter, ask(("a", 60, (), 4, 4), budget=0.0, step=2))
    given = min(led["a"], key=len)
    sibling = (*prompt, *flying, 1)
    tell = answer(drafter, ask(("b", 0, sibling, 4), ("a", 60, given, 4), step=3))[0]
    assert tell.drafts == (tuple(greedy(sibling, 4)), tuple(greedy((*prompt, *given), 4)))


def test_the_slot_left_longest_ago_is_given_away_first(drafter):
    prompts = {name: tuple(range(start, start + 40)) for start, name in enumerate("abc")}
    for step, (name, prompt) in enumerate(prompts.items()):
        answer(drafter, ask((name, 0, prompt, 1), step=step))
    drafter.take(ask(closed=["b", "a", "c"], step=4), 0.0)
    answer(drafter, ask(("d", 0, tuple(range(20, 50)), 1), step=5))
    before = drafter.prefilled
    answer(drafter, ask(("a again", 0, prompts["a"], 1), ("c again", 0, prompts["c"], 1), step=6))
    assert drafter.prefilled == before


def test_with_nothing_in_flight_the_likeliest_next_tokens_are_prepared(drafter, greedy):
    (found,) = lead(drafter, ask(("a", 0, (1, 2, 3), 2), budget=0.0))
    assert (greedy([1, 2, 3], 1)[0],) in found["a"]
    assert {len(given) for given in found["a"]} == {1}
    assert all(list(more) == greedy((1, 2, 3, *given), 2) for given, more in found["a"].items())


def test_a_verdict_that_was_prepared_is_not_drafted_again(drafter, greedy, counted):
    (found,) = lead(drafter, ask(("a", 0, (1, 2, 3), 4), budget=0.0))
    given, drafts = next(iter(found["a"].items()))
    before = counted()
    assert answer(drafter, ask(("a", 3, given, 4), step=2))[0].drafts == (drafts,)
    assert counted() == before


def test_a_long_run_of_prepared_verdicts_stays_on_the_greedy_continuation(drafter, greedy):
    history, start, held = [1, 2, 3], 0, 0
    for step in range(40):
        row = ("a", start, tuple(history[start:]), 3, held)
        (found,) = lead(drafter, ask(row, budget=0.0, step=step))
        assert all(list(more) == greedy((*history, *given), 3) for given, more in found["a"].items())
        given = sorted(found["a"])[step % len(found["a"])]
        start, held = len(history), step % 4
        history += given
        if step % 3:
            drafter.deepen()
    assert drafter.prefilled == 0


def test_after_a_finished_lead_the_next_one_knows_what_follows_its_drafts(drafter, counted):
    (found,) = lead(drafter, ask(("a", 0, (1, 2, 3), 3), budget=0.0))
    assert drafter.deepen()
    assert not drafter.deepen()
    given, drafts = next(iter(found["a"].items()))
    before = counted()
    (found,) = lead(drafter, ask(("a", 3, given, 3, len(drafts)), budget=0.0, step=2))
    assert all(given[:-1] == drafts[: len(given) - 1] for given in found["a"])
    assert counted() - before == 3


def test_a_lead_cut_short_has_shorter_drafts(drafter, greedy):
    calls = iter([False, False, False, True])
    (found,) = lead(drafter, ask(("a", 0, (1, 2, 3), 8), budget=0.0), cut=lambda: next(calls))
    assert {len(more) for more in found["a"].values()} == {2}
    assert all(list(more) == greedy((1, 2, 3, *given), 2) for given, more in found["a"].items())
    assert lead(drafter, ask(("b", 0, (4,), 8), budget=0.0), cut=lambda: True) == []


def test_every_session_gets_its_best_branch_before_any_gets_its_second(model):
    drafter = Drafter(model, slots=SLOTS, life=7, ahead=Ahead(branches=4, rows=4))
    (found,) = lead(drafter, ask(*[(name, 0, (place, 5), 2) for place, name in enumerate("abc")], budget=0.0))
    assert sorted(map(len, found.values())) == [1, 1, 2]


def test_leads_of_several_verifiers_are_made_together_and_kept_apart(drafter):
    first, second = ask(("a", 0, (1, 2), 2), budget=0.0), ask(("a", 0, (9,), 3), budget=0.0, epoch=2)
    leads = drafter.lead([drafter.take(one, 0.0) for one in (first, second)], math.inf, lambda: False)
    assert [(one.epoch, [(row.session, row.start) for row in one.rows]) for one in leads] == [
        (1, [("a", 2)]),
        (2, [("a", 1)]),
    ]
    assert [{len(b.drafts) for row in one.rows for b in row.branches} for one in leads] == [{2}, {3}]


def test_it_drafts_ahead_only_where_drafts_are_wanted_and_fit(model, drafter):
    long = tuple(token % VOCABULARY for token in range(CONTEXT - 1))
    assert lead(drafter, ask(("a", 0, (1, 2), 0), ("b", 0, long[:60], 4), budget=0.0)) == []
    answer(drafter, ask(("c", 0, long, 4)))
    assert lead(drafter, ask(("c", len(long), (), 4), budget=0.0)) == []
    never = Drafter(model, slots=SLOTS, life=7, ahead=Ahead(branches=0))
    assert lead(never, ask(("a", 0, (1, 2), 4), budget=0.0)) == []


def test_without_time_there_is_no_lead(drafter):
    answer(drafter, ask(("a", 0, (1, 2, 3), 4)))
    assert drafter.cost(1) > 0
    pending = drafter.take(ask(("a", 3, (4,), 4), step=2, budget=0.0), 0.0)
    assert drafter.lead([pending], drafter.cost(1), lambda: False) == []
