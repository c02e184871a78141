"""What windows say together: medians, the parts of a step, the bars, the trace in hindsight, and the picture."""

import msgspec
import pytest

from experts.api import SpeculationState
from loadtests.speculation.bars import RIVALS, budget_table, pair_rows, summary_table, trace_rows
from loadtests.speculation.messages import Measured
from loadtests.speculation.plot import Figures, draw
from loadtests.speculation.summary import PARTS, Sample, budget, ceilings, summaries
from loadtests.speculation.trace import Pace, phases, switches, upgraded, verdicts
from loadtests.speculation.verifier import grown

STATE = SpeculationState(steps=100, asked=80, hits=60, misses=20, wait=0.1, draft=0.04, mode="speculate", depth=3.5)


def window(rate: float, *, state: SpeculationState | None = None, parts: dict[str, float] | None = None) -> Measured:
    """Ten seconds at ``rate`` tokens per second in 100 steps, all of two rows; half of the time in prefills."""
    return Measured(
        seconds=10.0,
        tokens=round(10 * rate),
        steps=100,
        decode_seconds=5.0,
        decode_tokens=round(7.5 * rate),
        decode_steps=50,
        rows=100,
        drafted=200,
        accepted=150,
        finished=10,
        cpu=9.0,
        parts=parts or {},
        speculation=state,
    )


def samples(**rates: float) -> list[Sample]:
    return [Sample(arm.replace("_", " "), 1, 0, window(rate, state=STATE), 0.3) for arm, rate in rates.items()]


def test_a_ceiling_is_what_drafts_would_bring_if_they_came_for_nothing():
    def steps(depth, seconds):
        made = msgspec.structs.replace(window(1.0, state=STATE if depth else None), decode_seconds=50 * seconds)
        return Sample("fixed" if depth else "plain", 4, depth, made)

    wait = STATE.wait / 100
    found = ceilings([steps(0, 0.1), steps(2, 0.15 + wait), steps(8, 0.5 + wait)], (0.5, 0.99))
    assert [(each.batch, each.acceptance, each.depth) for each in found] == [(4, 0.5, 2), (4, 0.99, 2)]
    assert found[0].ratio == pytest.approx(1.75 * 0.1 / 0.15)
    assert (found[0].step_ms, found[0].plain_ms) == pytest.approx((150.0, 100.0))


def test_a_summary_has_the_medians_of_its_windows():
    taken = [Sample("split ahead", 4, 0, window(rate, state=STATE), 0.3) for rate in (90.0, 110.0, 100.0)]
    (found,) = summaries(taken)
    assert (found.arm, found.batch, found.speed, found.spread) == ("split ahead", 4, 100.0, (90.0, 110.0))
    assert (found.decode, found.step_ms, found.per_row) == (150.0, 100.0, 7.5)
    assert (found.acceptance, found.hits, found.wait_ms) == (0.75, 0.75, 1.0)
    assert (found.cpu, found.drafter) == (0.9, 0.3)


def test_arms_batches_and_acceptances_are_kept_apart():
    taken = [Sample("plain", batch, 0, window(50.0), acceptance=given) for batch in (1, 4) for given in (0.6, 0.9)]
    assert [(each.batch, each.given) for each in summaries(taken + taken)] == [(1, 0.6), (1, 0.9), (4, 0.6), (4, 0.9)]


def test_the_wait_for_a_draft_server_is_split_into_drafting_and_transport():
    parts = budget(window(100.0, state=STATE, parts={"forward": 0.5, "propose": 0.12}))
    expected = {"forward": 5.0, "draft": 0.4, "transport": 0.6, "proposer": 0.2}
    assert parts == pytest.approx(expected)


def test_a_draft_model_inside_the_engine_is_all_draft():
    assert budget(window(100.0, parts={"forward": 0.5, "propose": 0.3})) == {"forward": 5.0, "draft": 3.0}
    assert budget(window(100.0, parts={"forward": 0.5})) == {"forward": 5.0}


def test_ours_is_held_against_every_rival_with_prefills_and_without():
    taken = samples(split_ahead=250.0, plain=100.0)
    taken += [Sample(name, 1, 4, window(150.0)) for name in RIVALS if name != "plain"]
    rows = pair_rows(taken, "split ahead", pair="embedded", engine="real")
    assert [row.must for row in rows] == [must for must in RIVALS.values() for _ in range(2)]
    assert [row.holds for row in rows] == [True] * 6
    assert all(row.bar.endswith(", decode only") for row in rows[1::2])
    slow = pair_rows(samples(split_ahead=190.0, plain=100.0), "split ahead", pair="embedded", engine="real")
    assert [row.holds for row in slow] == [False, False]


def test_a_large_batch_must_only_not_lose_against_plain():
    taken = [Sample(name, 16, 0, window(rate)) for name, rate in (("split ahead", 96.0), ("plain", 100.0))]
    rows = pair_rows(taken, "split ahead", pair="embedded", engine="real")
    assert [(row.must, row.holds) for row in rows] == [(0.95, True)] * 2


def test_the_best_fixed_depth_is_found_for_each_phase_by_itself():
    speeds = {"adaptive": (98.0, 50.0), "K=0": (60.0, 55.0), "K=4": (100.0, 30.0)}
    paces = [
        Pace(phase, arm, speed, 0.0)
        for arm, both in speeds.items()
        for phase, speed in zip(("code", "records"), both, strict=True)
    ]
    found = verdicts(paces)
    assert [(each.phase, each.best) for each in found] == [("code", "K=4"), ("records", "K=0")]
    assert [row.holds for row in trace_rows(found)] == [True, False]


def test_phases_ask_only_prompts_of_their_domain():
    domains = ["code", "chat", "records", "code", "records"]
    course = {phase.name: phase for phase in phases(domains)}
    assert course["code, 16"].order == (0, 3)
    assert course["records, 4"].order == (2, 4)
    assert course["mix, 1"].order == (0, 1, 3)
    switched = [(phase.batch, phase.order) for phase in switches(list(course.values()))]
    assert switched == [(16, (0, 3)), (16, (2, 4)), (4, (0, 3)), (4, (2, 4))]
    assert [(phase.batch, phase.order) for phase in upgraded(list(course.values()))] == [(4, (0, 3)), (16, (0, 3))]


def test_counters_of_a_window_are_what_they_gained_in_it():
    before = SpeculationState(steps=5, drafted=(4, 2), changes={"plain:start": 1}, depth=8.0, wait=0.5)
    after = SpeculationState(
        steps=9, drafted=(6, 3, 1), changes={"plain:start": 1, "probe:probe": 2}, depth=2.0, wait=0.75, mode="probe"
    )
    gained = grown(before, after)
    assert gained == SpeculationState(
        steps=4, drafted=(2, 1, 1), changes={"probe:probe": 2}, depth=2.0, wait=0.25, mode="probe"
    )
    assert grown(None, after) == after


def test_tables_and_picture_show_every_arm(tmp_path):
    parts = dict.fromkeys(("forward", "sample", "prepare", "propose"), 0.1)
    names = ("plain", *RIVALS, "split sync", "split ahead")
    taken = [
        Sample(name, batch, 0, window(100.0 + batch, state=STATE, parts=parts)) for name in names for batch in (1, 4)
    ]
    pretended = [msgspec.structs.replace(each, acceptance=given) for each in taken for given in (0.6, 0.8)]
    paces = [
        Pace(name, arm, 100.0, 0.0)
        for name in ("code", "mix")
        for arm in ("adaptive", *map("K={}".format, (0, 2, 4, 6, 8)))
    ]
    figures = Figures(tuple(summaries(taken)), tuple(taken), tuple(summaries(pretended)), tuple(paces))
    path = draw(figures, tmp_path / "results" / "speculation.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert summary_table("all", figures.embedded).row_count == len(figures.embedded)
    assert [column.header for column in budget_table("parts", taken).columns][2:-1] == list(PARTS)
