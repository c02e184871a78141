"""The controller on a model engine in virtual time."""

import math
from dataclasses import replace
from random import Random
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experts.speculation.controller import RIPE, AdaptiveDepth, Experts
from experts.speculation.depth import FixedDepth, RowView, Timing, Verdict
from experts.speculation.refresh import UNSEEN
from experts.speculation.stance import DUTY, SPARING
from experts.speculation.standing import STANDS
from loadtests.drift import AHEAD, DEEPEST, SLOW, Engine, Pool, Run, Traffic, speed

ENGINE = Engine()
LONG = 600
PROMPT = Pool()


def run(depths=None, engine=ENGINE, seed=1):
    depths = depths or AdaptiveDepth(DEEPEST, experts=engine.experts)
    return Run(depths, engine, Random(seed), Random(seed))


def traffic(rate, batch=4, pool=PROMPT):
    return Traffic("", batch, (rate,) if isinstance(rate, float) else rate, pool)


def depth(steps):
    return mean(mean(step.choice.depths) for step in steps)


def plain(one, *before, seeds=(1, 2, 3)):
    """Tokens per second without speculation in the same phase."""
    runs = [run(FixedDepth(0), seed=seed) for seed in seeds]
    for each in before:
        for driven in runs:
            driven.phase(each)
    return mean(speed(driven.phase(one)) for driven in runs)


def test_it_measures_plain_steps_first_and_then_speculates():
    steps = run().phase(traffic(0.9), 60)
    assert [step.choice.mode for step in steps[:2]] == ["plain", "plain"]
    assert {step.choice.mode for step in steps[10:]} == {"speculate"}


@pytest.mark.parametrize("batch", [1, 4, 16])
def test_when_acceptance_collapses_depths_fall_and_plain_speed_is_kept(batch):
    good, bad = traffic(0.9, batch), traffic(0.03, batch)
    runs = [run(seed=seed) for seed in (1, 2, 3)]
    for driven in runs:
        assert depth(driven.phase(good)[-50:]) > 2
    phases = [driven.phase(bad, LONG) for driven in runs]
    assert all(depth(steps[30:]) < 0.5 for steps in phases)
    assert mean(map(speed, phases)) >= 0.95 * plain(bad, good)


@pytest.mark.parametrize("batch", [4, 16])
def test_plain_steps_that_are_slow_beside_drafting_do_not_make_drafting_look_worth_it(batch):
    stirred = replace(ENGINE, stirred=1.0)
    runs = [run(engine=stirred, seed=seed) for seed in (1, 2, 3)]
    speeds = []
    for driven in runs:
        driven.phase(traffic(0.9, batch))
        speeds.append(speed(driven.phase(traffic(0.3, batch), 2 * LONG)))
    assert mean(speeds) >= 0.93 * plain(traffic(0.3, batch), traffic(0.9, batch))


def test_another_load_is_worth_another_try_though_the_last_one_was_dear():
    late = []
    for seed in range(1, 5):
        driven = run(seed=seed)
        driven.phase(traffic(0.9, 16))
        driven.phase(traffic(0.1, 16), 150)
        steps = driven.phase(traffic(0.9, 2), 300)
        late.append(next(number for number, step in enumerate(steps) if any(step.choice.depths)))
    assert mean(late) < 40


@pytest.mark.parametrize(("shadows", "means"), [(True, False), (False, True)])
def test_when_drafts_stop_being_right_there_are_means_for_trying_them_only_where_nothing_else_tells(*, shadows, means):
    driven = run(AdaptiveDepth(DEEPEST, experts=ENGINE.experts, shadows=shadows), seed=1)
    driven.phase(traffic(0.9))
    assert driven.depths._books.purse.saved > 2.0
    steps = (driven.step(traffic(0.03)) for _ in range(LONG))
    ended = next(step for step in steps if step.choice.mode == "plain" and step.choice.reason == "acceptance")
    assert not any(ended.choice.depths)
    assert (driven.depths._books.purse.saved > 1.0) is means


@pytest.mark.parametrize(("batch", "pool"), [(1, PROMPT), (4, PROMPT), (4, AHEAD), (16, AHEAD)])
def test_when_acceptance_returns_so_do_drafts_within_two_hundred_steps(batch, pool):
    for seed in range(1, 5):
        driven = run(seed=seed)
        driven.phase(traffic(0.03, batch, pool), LONG)
        steps = driven.phase(traffic(0.9, batch, pool), 500)
        assert depth(steps[200:]) > 2


@pytest.mark.parametrize(
    ("batch", "pool", "fewer"), [(1, PROMPT, 1.0), (4, PROMPT, 0.5), (4, AHEAD, 0.5), (16, AHEAD, 0.5)]
)
def test_shadow_drafts_keep_a_bad_time_cheap_and_end_it_soon(batch, pool, fewer):
    probes, late = {}, {}
    for shadows in (True, False):
        probes[shadows], late[shadows] = [], []
        for seed in range(1, 9):
            driven = run(AdaptiveDepth(DEEPEST, experts=ENGINE.experts, shadows=shadows), seed=seed)
            driven.phase(traffic(0.9, batch, pool), 100)
            bad = driven.phase(traffic(0.03, batch, pool), LONG)
            probes[shadows].append(sum(step.choice.mode == "probe" for step in bad))
            steps = driven.phase(traffic(0.9, batch, pool), 500)
            late[shadows].append(next(number for number, step in enumerate(steps) if any(step.choice.depths)))
    assert sum(probes[True]) < fewer * sum(probes[False])
    assert mean(late[True]) < 80
    assert max(late[True]) < 200


def test_shadow_drafts_are_only_asked_for_in_plain_steps_and_only_if_they_are_wanted():
    for shadows in (True, False):
        driven = run(AdaptiveDepth(DEEPEST, experts=ENGINE.experts, shadows=shadows))
        steps = driven.phase(traffic(0.9), 200) + driven.phase(traffic(0.03), LONG)
        assert any(any(step.choice.shadows) for step in steps) == shadows
        assert not any(any(step.choice.shadows) for step in steps if step.choice.mode != "plain")


def test_a_long_request_gets_fewer_drafts_for_a_bad_segment_and_more_after_it():
    controller, luck, seen = AdaptiveDepth(DEEPEST), Random(1), []
    for step in range(900):
        right = 0.05 if 300 <= step < 600 else 0.9
        choice = controller.choose([RowView("long", DEEPEST, step)], step)
        drafted = choice.depths[0]
        accepted = next((n for n in range(drafted) if luck.random() >= right), drafted)
        controller.judge([Verdict("long", drafted, accepted)] if drafted else [], step)
        verify = 3e-3 + 0.5e-3 * drafted
        controller.time(Timing(1, 1 + drafted, step, verify, 1e-4), step)
        seen.append(drafted)
    assert mean(seen[200:300]) > 2
    assert mean(seen[330:600]) < 1
    assert mean(seen[700:]) > 2


def test_when_the_batch_grows_drafts_get_shorter():
    engine = replace(ENGINE, token=150e-6)
    driven = run(engine=engine)
    alone = depth(driven.phase(traffic(0.8, 1))[-100:])
    crowd = depth(driven.phase(traffic(0.8, 32))[-100:])
    assert crowd < 0.6 * alone


def test_drafts_that_come_too_late_are_done_without_and_taken_again_when_in_time():
    driven = run()
    driven.phase(traffic(0.9))
    late = driven.phase(traffic(0.9, 4, SLOW), LONG)
    assert depth(late[40:]) < 1.0
    assert speed(late) >= 0.95 * plain(traffic(0.9), traffic(0.9))
    assert {step.choice.reason for step in late[100:] if step.choice.mode == "plain"} <= {"late", "slow"}
    again = driven.phase(traffic(0.9), LONG)
    assert depth(again[100:]) > 2


def test_waits_that_are_suffered_whatever_was_expected_end_speculation_as_measured():
    """The tally's case: nothing but the measured time says that it does not pay."""
    controller, spent = AdaptiveDepth(4), []
    for step in range(400):
        choice = controller.choose([RowView("a", 4, 100)], step)
        drafted = choice.depths[0]
        controller.judge([Verdict("a", drafted, drafted)] if drafted else [], step)
        controller.time(Timing(1, 1 + drafted, 100, 3e-3, 30e-3 if drafted else 0.0), step)
        spent.append((3e-3 + (30e-3 if drafted else 0.0), 1 + drafted))
    seconds, tokens = map(sum, zip(*spent, strict=True))
    assert tokens / seconds >= 0.9 / 3e-3


def test_of_good_and_bad_requests_only_the_good_get_drafts():
    driven, mixed = run(), traffic((0.95, 0.03), 8)
    driven.phase(mixed, 100)
    steps, good, bad = [], [], []
    for _ in range(300):
        steps.append(driven.step(mixed))
        for request, chosen in zip(driven._requests, steps[-1].choice.depths, strict=True):
            (good if request.right > 0.5 else bad).append(chosen)
    assert mean(good) > 3
    assert mean(bad) < 1
    assert speed(steps) > 1.05 * plain(mixed)


def test_a_verifier_whose_experts_fill_up_gets_shorter_drafts_at_the_same_acceptance():
    dense = replace(ENGINE, experts=None, load=0.0, base=3.0e-3)
    sparse = replace(ENGINE, experts=Experts(128, 2), load=60e-3, base=2.0e-3)
    few = depth(run(engine=sparse).phase(traffic(0.8, 4))[100:])
    many = depth(run(engine=dense).phase(traffic(0.8, 4))[100:])
    assert few < many - 1


@pytest.mark.parametrize("batch", [1, 8])
def test_probing_in_vain_costs_less_than_two_in_a_hundred(batch):
    bad = traffic(0.0, batch)
    driven = run(engine=replace(ENGINE, outliers=0.0))
    driven.phase(bad)
    steps = driven.phase(bad, 3 * LONG)
    alone = ENGINE.seconds(batch, batch)
    lost = sum(step.seconds for step in steps) - len(steps) * alone
    assert any(step.choice.mode == "probe" for step in steps)
    assert lost <= 0.025 * len(steps) * alone


@pytest.mark.parametrize("batch", [1, 16])
def test_the_plain_time_of_a_batch_that_was_never_run_plainly_is_measured_soon(batch):
    driven = run()
    driven.phase(traffic(0.9, 4), 300)
    steps = driven.phase(traffic(0.9, batch), 300)
    assert next(n for n, step in enumerate(steps) if step.choice.reason == "refresh") <= UNSEEN + STANDS


def test_while_there_is_nothing_to_choose_it_need_not_be_asked():
    driven = run()
    driven.phase(traffic(0.9), 60)
    steps = driven.phase(traffic(0.03), LONG)
    rests = [
        step.choice.rest for step in steps[100:] if step.choice.mode == "plain" and step.choice.reason != "refresh"
    ]
    assert mean(rests) > 4
    assert all(not step.choice.rest for step in steps if step.choice.mode != "plain")


def test_while_it_speculates_the_plain_time_is_checked_now_and_then():
    steps = run().phase(traffic(0.9), 1500)
    checks = [step for step in steps if step.choice.reason == "refresh"]
    assert checks
    assert all(not any(step.choice.depths) for step in checks)
    assert len(checks) <= len(steps) / 60


def test_pace_and_horizon_are_those_of_the_step():
    driven = run(engine=replace(ENGINE, noise=0.0, outliers=0.0))
    steps = driven.phase(traffic(0.9), 300)
    step = next(each for each in reversed(steps) if len(set(each.choice.depths)) == 1 and any(each.choice.depths))
    expected = ENGINE.seconds(4, 4 + sum(step.choice.depths))
    assert step.choice.horizon == pytest.approx(expected, rel=0.15)
    most = (4 + sum(step.choice.gains)) / expected
    assert 4 / ENGINE.seconds(4, 4) < step.choice.pace < most
    wait = PROMPT.send + PROMPT.draft * max(step.choice.depths)
    assert step.choice.pace == pytest.approx(most * expected / (expected + wait), rel=0.15)
    assert all(0 <= gain <= depth for gain, depth in zip(step.choice.gains, step.choice.depths, strict=True))


def test_a_choice_that_stands_is_renewed_while_drafts_are_waited_for():
    driven = run(seed=3)
    driven.phase(traffic(0.9), 200)
    kept = []
    for _ in range(4 * STANDS):
        driven.step(traffic(0.9))
        if driven.depths._kept:
            kept.append(driven.depths._step - driven.depths._kept.standing.step)
    assert len(kept) > 2 * STANDS
    assert max(kept) <= RIPE


@pytest.mark.parametrize(("shadows", "sparing"), [(True, True), (False, False)])
def test_probes_are_rare_where_shadow_drafts_tell_and_only_there(*, shadows, sparing):
    driven = run(AdaptiveDepth(DEEPEST, experts=ENGINE.experts, shadows=shadows))
    driven.phase(traffic(0.9))
    assert driven.depths._books.purse.share == DUTY
    driven.phase(traffic(0.03), 100)
    shares = [(driven.step(traffic(0.03)).choice.mode, driven.depths._books.purse.share) for _ in range(LONG)]
    assert all(share == DUTY for mode, share in shares if mode != "plain")
    assert (mean(share == SPARING for _, share in shares) > 0.5) is sparing


def test_no_rows_are_no_choice():
    assert AdaptiveDepth(4).choose([], 0.0).depths == ()


NUMBERS = st.one_of(st.integers(-3, 40), st.just(1 << 70))
SECONDS = st.one_of(st.floats(), st.floats(0, 0.05))
ROWS = st.lists(
    st.builds(
        RowView,
        st.sampled_from("abcdef"),
        room=NUMBERS,
        context=NUMBERS,
        domain=st.sampled_from(["", "code"]),
        strict=st.booleans(),
    ),
    max_size=6,
)
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("choose"), ROWS),
        st.tuples(
            st.just("judge"), st.lists(st.builds(Verdict, st.sampled_from("abcdefg"), NUMBERS, NUMBERS), max_size=6)
        ),
        st.tuples(st.just("time"), st.builds(Timing, NUMBERS, NUMBERS, NUMBERS, SECONDS, SECONDS, SECONDS)),
        st.tuples(st.just("close"), st.sampled_from("abcdefg")),
    ),
    max_size=80,
)


@given(EVENTS, st.integers(1, 16), st.floats(allow_nan=False))
@settings(max_examples=150)
def test_whatever_it_is_told_choices_fit_and_are_finite(events, most, now):
    controller = AdaptiveDepth(most, experts=Experts(8, 2))
    for kind, told in events:
        if kind != "choose":
            controller.close(told) if kind == "close" else getattr(controller, kind)(told, now)
            continue
        choice = controller.choose(told, now)
        assert len(choice.depths) == len(choice.gains) == len(told)
        for row, chosen, gain in zip(told, choice.depths, choice.gains, strict=True):
            assert 0 <= chosen <= max(0, min(row.room, most))
            assert 0 <= gain <= chosen
        assert math.isfinite(choice.pace)
        assert math.isfinite(choice.horizon)
        assert choice.horizon >= 0
