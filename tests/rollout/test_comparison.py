"""What tallies add up to, and when two cohorts are said to differ."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from cluster.comparison import ENOUGH, Comparison, compare
from cluster.experiments import Experiments, Sample
from cluster.flags import Decision, Flag, FlagsConfig, configured
from cluster.tallies import Spread, Tally, joined

FLAG = msgspec.structs.replace(configured(FlagsConfig()).get("speculation"), epoch=7, version=3, percent=50.0)
SECONDS = st.lists(st.floats(1e-4, 900), min_size=1, max_size=200)


def spread(values) -> Spread:
    found = Spread()
    for value in values:
        found = found.added(float(value))
    return found


def tally(cohort: str, **more: object) -> Tally:
    return Tally("speculation", FLAG.rank, cohort, "general", **more)


def measured(found: Comparison, name: str):
    return next(each for each in found.pools[0].measures if each.name == name)


def sample(on: bool = True, *, flag: Flag = FLAG, why: str = "ramp", **more: object) -> Sample:
    told = {"outcome": "ok", "duration": 1.0, "first_token": 0.1, "per_token": 0.01, "tokens": 5, "valid": None} | more
    return Sample(Decision(flag, on, why), "general", **told)


@given(SECONDS)
def test_a_spread_knows_its_moments_exactly_and_its_quantiles_to_a_bucket(values):
    found = spread(values)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.variance == pytest.approx(np.var(values, ddof=1) if len(values) > 1 else 0, rel=1e-6, abs=1e-6)
    for share in (0.5, 0.95):
        exact = np.quantile(values, share, method="inverted_cdf")
        assert exact / 1.16 <= found.quantile(share) <= exact * 1.16


@pytest.mark.parametrize("value", [0.0, 1e-9, 5000.0])
def test_values_beyond_the_scale_are_counted_at_its_ends(value):
    found = spread([value])
    assert (found.count, found.total) == (1, value)
    assert found.quantile(0.5) >= 0


@given(SECONDS, SECONDS)
def test_spreads_of_two_gateways_join_to_the_spread_of_all(mine, theirs):
    together, whole = spread(mine).joined(spread(theirs)), spread(mine + theirs)
    assert (together.count, together.buckets) == (whole.count, whole.buckets)
    assert (together.total, together.squares) == (pytest.approx(whole.total), pytest.approx(whole.squares))


def test_tallies_are_joined_by_cohort_pool_and_version():
    old = Tally("speculation", (7, 2), "on", "general", requests=1)
    parts = [tally("on", requests=2, errors=1, valid=1), tally("on", requests=3, tokens=4), tally("off"), old]
    found = joined(parts)
    assert len(found) == 3
    assert found[0] == tally("on", requests=5, errors=1, valid=1, tokens=4)


def test_a_faster_cohort_is_better_and_a_slower_one_worse():
    random = np.random.default_rng(1)
    fast, slow = random.lognormal(-4, 0.4, 400), random.lognormal(-3.6, 0.4, 400)
    for on, off, verdict in ((fast, slow, "better"), (slow, fast, "worse")):
        told = [tally("on", requests=400, per_token=spread(on)), tally("off", requests=400, per_token=spread(off))]
        found = compare(FLAG, told, 2)
        per_token = measured(found, "time per output token")
        assert per_token.effect == pytest.approx(on.mean() / off.mean())
        assert per_token.low < per_token.effect < per_token.high
        assert (per_token.verdict, found.pools[0].verdict, found.gateways) == (verdict, verdict, 2)
        assert f"on is {verdict}: time per output token x {per_token.effect:.2f}" in found.pools[0].summary


def test_cohorts_that_are_alike_are_not_told_apart():
    random = np.random.default_rng(2)
    both = [tally(name, requests=300, duration=spread(random.lognormal(0, 0.5, 300))) for name in ("on", "off")]
    found = compare(FLAG, both, 1)
    assert measured(found, "duration").verdict == "no difference shown"
    assert found.pools[0].summary == "no difference shown"


def test_the_interval_covers_the_true_ratio_about_as_often_as_it_says():
    random = np.random.default_rng(3)
    covered = 0
    for _ in range(300):
        on, off = (spread(random.lognormal(middle, 0.6, 150)) for middle in (-0.3, 0.0))
        found = measured(compare(FLAG, [tally("on", duration=on), tally("off", duration=off)], 1), "duration")
        covered += found.low <= np.exp(-0.3) <= found.high
    assert 0.91 <= covered / 300 <= 0.985


@pytest.mark.parametrize(
    ("on", "off", "verdict"),
    [
        ((0, 500), (0, 500), "no difference shown"),
        ((25, 500), (0, 500), "worse"),
        ((0, 500), (25, 500), "better"),
        ((3, 500), (1, 500), "no difference shown"),
        ((10, ENOUGH - 1), (0, 500), "not enough data"),
        ((0, 0), (0, 500), "not enough data"),
    ],
)
def test_shares_are_compared_by_their_difference(on, off, verdict):
    told = [tally("on", errors=on[0], requests=on[1]), tally("off", errors=off[0], requests=off[1])]
    errors = measured(compare(FLAG, told, 1), "errors")
    assert errors.verdict == verdict
    if on[1]:
        assert errors.effect == pytest.approx(100 * (on[0] / on[1] - off[0] / off[1]))


def test_one_worse_measure_outweighs_a_better_one():
    told = [
        tally("on", requests=500, valid=440, invalid=60, duration=spread([0.5, 0.6] * 250)),
        tally("off", requests=500, valid=500, duration=spread([1.0, 1.1] * 250)),
    ]
    (pool,) = compare(FLAG, told, 1).pools
    assert [each.verdict for each in pool.measures if each.name in ("duration", "invalid answers")] == [
        "better",
        "worse",
    ]
    assert pool.verdict == "worse"
    assert "invalid answers +12.00 points" in pool.summary


def test_one_cohort_alone_is_not_enough_data():
    (pool,) = compare(FLAG, [tally("on", requests=900, duration=spread([1.0, 2.0] * 450))], 1).pools
    assert pool.verdict == "not enough data"
    assert measured(compare(FLAG, [tally("on", requests=900)], 1), "duration").effect is None


def test_what_was_counted_under_another_version_is_left_out():
    assert compare(FLAG, [Tally("speculation", (7, 2), "on", "general", requests=9)], 1).pools == ()


def test_an_experiment_counts_what_the_ramp_placed_and_begins_anew_with_the_flag():
    kept = Experiments(CollectorRegistry())
    newer = msgspec.structs.replace(FLAG, version=4)
    kept.record(sample())
    kept.record(sample(why="tenant"))
    kept.record(sample(on=False, outcome="error", first_token=None))
    assert [(each.cohort, each.requests, each.errors, each.tokens) for each in kept.tallies()] == [
        ("on", 1, 0, 5),
        ("off", 1, 1, 5),
    ]
    kept.record(sample(flag=newer, valid=False))
    kept.record(sample())
    assert [(each.rank, each.requests, each.invalid) for each in kept.tallies()] == [((7, 4), 1, 1)]


def test_metrics_of_an_experiment_go_on_through_its_versions():
    registry = CollectorRegistry()
    kept = Experiments(registry)
    for version in (3, 4):
        kept.record(sample(flag=msgspec.structs.replace(FLAG, version=version), valid=True))
    labels = {"flag": "speculation", "cohort": "on", "pool": "general"}
    prefix = "switchyard_experiment"
    assert registry.get_sample_value(f"{prefix}_requests_total", labels | {"outcome": "ok"}) == 2
    assert registry.get_sample_value(f"{prefix}_structured_answers_total", labels | {"verdict": "valid"}) == 2
    assert registry.get_sample_value(f"{prefix}_tokens_total", labels) == 10
    for name in ("time_to_first_token", "time_per_output_token", "request_duration"):
        assert registry.get_sample_value(f"{prefix}_{name}_seconds_count", labels) == 2


def test_the_latency_of_what_did_not_end_well_is_not_compared():
    kept = Experiments(CollectorRegistry())
    kept.record(sample(outcome="cancelled"))
    (found,) = kept.tallies()
    assert (found.requests, found.cancelled, found.duration.count, found.per_token.count) == (1, 1, 0, 0)
