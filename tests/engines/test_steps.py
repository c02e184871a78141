"""What a controller is told of the engine's steps, with a clock moved by hand and no engine."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from experts.engines.vllm_options import SECTION
from experts.engines.vllm_steps import Row, Steps, steps_of
from experts.speculation.controller import AdaptiveDepth
from experts.speculation.depth import Choice, FixedDepth, Verdict


class Recording(FixedDepth):
    """Always the same depth, until told otherwise, and a memory of what it was told."""

    def __init__(self, depth: int) -> None:
        super().__init__(depth)
        self.depth = depth
        self.verdicts, self.timings, self.closed, self.views = [], [], [], []
        self.leisure = 0
        self.passed = []
        self.odd = False
        self.kinds = frozenset()

    def choose(self, rows, now):
        self.views = list(rows)
        return replace(FixedDepth(self.depth).choose(rows, now), rest=self.leisure, kinds=self.kinds)

    def rested(self, steps, spent):
        self.passed.append((steps, spent))

    def ponder(self):
        raise ValueError("nothing to think of")

    def judge(self, verdicts, now):
        self.verdicts = list(verdicts)

    def compared(self, verdicts):
        return self.odd

    def time(self, timing, now):
        self.timings.append(timing)

    def close(self, session):
        self.closed.append(session)


class Bench:
    """Steps with their controller and their clock."""

    def __init__(self, **settings) -> None:
        self.now = 100.0
        self.depths = Recording(4)
        self.steps = Steps(self.depths, **{"depth": 4, "context": 512} | settings, clock=lambda: self.now)

    def step(
        self, *rows: Row, verify: float = 0.004, wait: float = 0.001, draft: float = 0.0, runs: float = 0.0
    ) -> Choice:
        """It begins to run after ``runs`` of its seconds."""
        self.now += runs
        self.steps.runs()
        self.now += verify - runs
        choice = self.steps.begin(rows)
        self.now += wait
        self.steps.end(draft)
        return choice


def row(session: str = "a", length: int = 20, **fields) -> Row:
    tokens = np.zeros(length, np.int32)
    return Row(**{"session": session, "tokens": tokens, "sampled": 1, "prompt": 5, "max_tokens": 100} | fields)


def drafted(session: str = "a", accepted: int = 2, **fields) -> Row:
    """After a step that verified three drafts."""
    return row(session, sampled=accepted + 1, drafted=3, scheduled=4, **fields)


def test_verdicts_are_about_the_drafts_that_were_really_scheduled() -> None:
    bench = Bench()
    bench.step(drafted("a", 2), row("b"), drafted("c", 0))
    assert bench.depths.verdicts == [Verdict("a", 3, 2), Verdict("c", 3, 0)]


def test_a_decode_step_is_timed_with_the_wait_that_brought_its_drafts() -> None:
    bench = Bench()
    bench.step(row("a"), row("b"), wait=0.002, draft=0.0015)
    bench.step(drafted("a"), row("b", 30), verify=0.005, wait=0.9)
    timing = bench.depths.timings[-1]
    assert (timing.rows, timing.tokens, timing.context) == (2, 5, 50)
    assert (timing.verify, timing.wait, timing.draft) == pytest.approx((0.005, 0.002, 0.0015))


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param((row("a"), row("b", sampled=0, scheduled=64)), id="a prefill in pieces"),
        pytest.param((row("a"), row("b", scheduled=15)), id="the end of a prefill"),
        pytest.param((row("a"),), id="a request has ended"),
        pytest.param((row("c"),), id="another request"),
    ],
)
def test_steps_that_were_no_mere_decoding_of_the_same_requests_are_told_apart(rows: tuple[Row, ...]) -> None:
    """The time before they ran is none of theirs, but for what it usually is."""
    bench = Bench()
    for between in (0.0012, 0.0008, 0.5, 0.001, 0.001):
        bench.step(row("a"), row("b"), verify=between + 0.004, runs=between)
    bench.step(*rows, verify=30.004, runs=30.0)
    (timing,) = bench.depths.timings[-1:]
    others = [each for each in rows if each.session == "b"]
    assert not timing.alone
    assert timing.rows == len(rows) - len(others)
    assert timing.prompt == sum(each.scheduled for each in others)
    assert timing.verify == pytest.approx(0.005, rel=0.2)


def test_a_step_in_which_nothing_was_decoded_is_not_timed() -> None:
    bench = Bench()
    bench.step(row("a", scheduled=15))
    bench.step(row("b", sampled=0, scheduled=64))
    assert bench.depths.timings == []


def test_the_order_of_the_requests_does_not_matter() -> None:
    bench = Bench()
    bench.step(row("a"), row("b"))
    bench.step(row("b"), row("a"))
    assert [timing.alone for timing in bench.depths.timings] == [False, True]


def test_rows_are_described_and_have_room_for_what_they_can_use() -> None:
    bench = Bench()
    bench.step(row("a", 30, domain="code"), row("b", strict=True), row("c", max_tokens=17), row("d", speculate=False))
    assert [(view.session, view.room, view.context, view.domain, view.strict) for view in bench.depths.views] == [
        ("a", 4, 30, "code", False),
        ("b", 4, 20, "", True),
        ("c", 1, 20, "", False),
        ("d", 0, 20, "", False),
    ]
    assert bench.steps.rooms == (4, 4, 1, 0)


def test_where_strict_segments_take_no_drafts_they_have_no_room() -> None:
    bench = Bench(strict=False)
    assert bench.step(row("a", strict=True), row("b")).depths == (0, 4)


def test_no_more_than_vllm_would_schedule_is_chosen() -> None:
    bench = Bench()
    assert bench.steps.begin([row()], 2).depths == (2,)


def test_steps_that_there_is_nothing_to_say_about_are_passed_over_and_counted() -> None:
    bench = Bench()
    bench.depths.leisure = 2
    assert not bench.steps.rests(["a"])
    bench.step(row())
    assert [bench.steps.rests(["a"]) for _ in range(4)] == [True, True, False, False]
    assert bench.steps.state().steps == 3
    assert bench.depths.passed == [(2, pytest.approx(0.001))], "the choice's own time, once"
    bench.depths.leisure = 3
    bench.step(row())
    assert bench.steps.rests(["a"])
    bench.steps.compared([Verdict("a", 4, 0)])
    assert bench.steps.rests(["a"])
    bench.step(row())
    assert [steps for steps, _ in bench.depths.passed[1:]] == [1, 1], "told before anything else is"
    assert bench.depths.passed[2][1] == 0.0


@pytest.mark.parametrize("odd", [False, True])
def test_a_rest_is_over_when_shadow_drafts_show_something_new(odd: bool) -> None:
    bench = Bench()
    bench.depths.leisure, bench.depths.odd = 9, odd
    bench.step(row())
    bench.steps.compared([Verdict("a", 4, 4)])
    assert bench.steps.rests(["a"]) is not odd


def test_a_controller_that_fails_while_drafts_are_waited_for_ends_nothing() -> None:
    bench = Bench()
    bench.steps.ponder()
    assert bench.steps.failures == {"ValueError": 1}


@pytest.mark.parametrize(("came", "goes_on"), [({}, False), ({"speculate": False}, True), ({"domain": "bad"}, True)])
def test_who_comes_with_better_prospects_is_not_left_waiting_for_the_end_of_a_rest(
    came: dict[str, object], goes_on: bool
) -> None:
    bench = Bench()
    bench.depths.leisure, bench.depths.kinds = 9, frozenset({"bad"})
    bench.step(row(domain="bad"))
    bench.steps.opened(row("b", **{"domain": "good"} | came))
    assert bench.steps.rests(["a", "b"]) == goes_on


@pytest.mark.parametrize(("others", "alone"), [([], True), (["b"], False)])
def test_the_first_step_after_a_rest_is_timed_by_itself(others: list[str], alone: bool) -> None:
    bench = Bench()
    bench.depths.leisure = 1
    bench.step(row())
    assert bench.steps.rests(["a", *others])
    bench.now += 0.5
    bench.steps.rested()
    bench.step(row(), verify=0.003)
    assert bench.depths.timings[-1].verify == pytest.approx(0.003)
    assert bench.depths.timings[-1].alone is alone


def test_everything_is_counted() -> None:
    bench = Bench()
    bench.depths.depth = 0
    bench.step(row("a"), row("b"))
    bench.step(row("a"), row("b"), verify=0.009)
    bench.depths.depth = 4
    bench.step(row("a"), row("b"), verify=0.004)
    bench.step(drafted("a", 2), drafted("b", 0), verify=0.006)
    state = bench.steps.state()
    assert (state.steps, state.speculated) == (4, 1)
    assert (state.drafted, state.accepted) == ((2, 2, 2, 0), (1, 1, 0, 0))
    assert (state.verify, state.plain) == pytest.approx((0.006, 0.004))
    assert (state.mode, state.changes) == ("speculate", {"speculate:fixed": 1})
    assert 0 < state.depth < 4


def test_deeper_drafts_than_are_counted_count_where_they_can() -> None:
    bench = Bench(depth=2)
    bench.step(row("a"))
    bench.step(drafted("a", 3))
    state = bench.steps.state()
    assert (state.drafted, state.accepted) == ((1, 1), (1, 1))


def test_a_refresh_is_counted_and_leaves_the_mode_as_it_is() -> None:
    bench = Bench()
    choose, refresh = bench.depths.choose, {"depths": (0,), "mode": "plain", "reason": "refresh"}
    bench.step(row("a"))
    for _ in range(2):
        bench.depths.choose = lambda rows, now: replace(choose(rows, now), **refresh)
        bench.step(row("a"))
        assert bench.steps.state().mode == "speculate"
        bench.depths.choose = choose
        bench.step(row("a"))
    bench.depths.choose = lambda rows, now: replace(choose(rows, now), **refresh | {"reason": "load"})
    bench.step(row("a"))
    state = bench.steps.state()
    assert (state.mode, state.changes) == ("plain", {"speculate:fixed": 1, "plain:refresh": 2, "plain:load": 1})


def test_a_controller_that_fails_means_no_drafts_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()

    def fail(*_: object) -> Choice:
        raise ZeroDivisionError("no rows")

    bench.depths.choose = bench.depths.close = fail
    assert bench.step(row("a"), row("b")).depths == (0, 0)
    bench.step(row("a"), row("b"))
    bench.steps.close(["a"])
    assert bench.steps.failures == {"ZeroDivisionError": 3}
    assert len(caplog.records) == 1


def test_sessions_are_closed_at_the_controller() -> None:
    bench = Bench()
    bench.steps.close(["a", "b"])
    assert bench.depths.closed == ["a", "b"]


def configured(section: dict[str, object] | None, experts: int = 0) -> SimpleNamespace:
    model = SimpleNamespace(
        max_model_len=512, get_num_experts=lambda: experts, get_num_experts_per_tok=lambda: min(2, experts)
    )
    return SimpleNamespace(
        additional_config={} if section is None else {SECTION: section},
        model_config=model,
        speculative_config=SimpleNamespace(num_speculative_tokens=3),
    )


@pytest.mark.parametrize("experts", [0, 8])
def test_the_controller_is_the_one_that_is_configured(experts: int) -> None:
    section = {"controller": "adaptive", "floor": 0.9, "depth": 4, "strict": "filter"}
    assert isinstance(steps_of(configured(section, experts))._depths, AdaptiveDepth)
    assert isinstance(steps_of(configured(section | {"controller": "fixed"}))._depths, FixedDepth)


def test_without_settings_of_ours_all_drafts_that_vllm_is_set_to_are_wanted() -> None:
    assert steps_of(configured(None)).begin([row()]).depths == (3,)
