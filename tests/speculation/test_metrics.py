"""Pool metrics of speculation as a scrape reads them."""

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from experts.api import SpeculationState
from experts.config import Speculation
from experts.speculation.ledger import Insight
from experts.speculation.metrics import SpeculationMetrics

GROWTH = SpeculationState(
    steps=10,
    speculated=7,
    asked=9,
    answered=6,
    late=2,
    garbage=1,
    lost=3,
    hits=4,
    misses=5,
    compared=9,
    drafted=(7, 6),
    accepted=(5, 2),
    waits=(1, 0, 2),
    wait=0.5,
    draft=0.25,
    verify=2.0,
    plain=1.5,
    changes={"plain:late": 2, "breaker:lost": 1},
)
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scraped(registry: CollectorRegistry) -> Samples:
    text = generate_latest(registry).decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[f"switchyard_pool_{name}", frozenset({"pool": "p", **labels}.items())]


def test_growth_adds_up_under_every_name() -> None:
    registry = CollectorRegistry()
    metrics = SpeculationMetrics(registry)
    metrics.grow("p", GROWTH)
    metrics.grow("p", GROWTH)
    seen = scraped(registry)
    assert value(seen, "decode_steps_total", kind="speculated") == 14
    assert value(seen, "decode_steps_total", kind="plain") == 6
    assert [value(seen, "position_drafted_total", position=str(at)) for at in range(2)] == [14, 12]
    assert [value(seen, "position_accepted_total", position=str(at)) for at in range(2)] == [10, 4]
    assert value(seen, "draft_asks_total") == 18
    assert [value(seen, "draft_answers_total", outcome=each) for each in ("answered", "late", "garbage")] == [12, 4, 2]
    assert value(seen, "draft_sessions_lost_total") == 6
    assert [value(seen, "drafts_ahead_total", result=each) for each in ("hit", "miss")] == [8, 10]
    assert [value(seen, "speculation_seconds_total", part=each) for each in ("wait", "draft", "verify", "plain")] == [
        1.0,
        0.5,
        4.0,
        3.0,
    ]
    assert value(seen, "shadow_drafts_compared_total") == 18
    assert value(seen, "mode_changes_total", mode="plain", reason="late") == 4
    assert value(seen, "mode_changes_total", mode="breaker", reason="lost") == 2


def test_waits_are_a_histogram_with_cumulative_buckets() -> None:
    registry = CollectorRegistry()
    SpeculationMetrics(registry).grow("p", GROWTH)
    seen = scraped(registry)
    buckets = [value(seen, "draft_wait_seconds_bucket", le=le) for le in ("0.0001", "0.0005", "0.001", "0.05", "+Inf")]
    assert buckets == [1, 1, 3, 3, 3]
    assert value(seen, "draft_wait_seconds_count") == 3
    assert value(seen, "draft_wait_seconds_sum") == 0.5


def test_gauges_show_what_is_and_forget_what_is_gone() -> None:
    registry = CollectorRegistry()
    metrics = SpeculationMetrics(registry)
    metrics.configure({"p": Speculation(layout="split", pool="draft")})
    metrics.show({"p": Insight({"plain": 2, "probe": 1}, "late", 1.5), "q": Insight({"": 1})})
    seen = scraped(registry)
    assert value(seen, "speculation_layout", layout="split", drafts="draft") == 1
    assert [value(seen, "speculation_mode", mode=mode) for mode in ("plain", "probe")] == [2, 1]
    assert value(seen, "speculation_depth") == 1.5
    metrics.show({"p": Insight({"speculate": 3})})
    seen = scraped(registry)
    modes = [dict(labels) for name, labels in seen if name == "switchyard_pool_speculation_mode"]
    assert modes == [{"pool": "p", "mode": "speculate"}]


def test_labels_stay_a_bounded_set_whatever_a_replica_says() -> None:
    registry = CollectorRegistry()
    metrics = SpeculationMetrics(registry)
    changes = {f"mode{number}:reason": 1 for number in range(1000)}
    metrics.grow("p", SpeculationState(changes=changes, drafted=(1,) * 1000, waits=(1,) * 1000))
    seen = scraped(registry)
    assert len(seen) < 200
    assert value(seen, "mode_changes_total", mode="other", reason="other") == 1000 - 32
