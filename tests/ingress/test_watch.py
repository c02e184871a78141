"""What a gateway shows of speculation, fed with directories as the router would send them."""

import httpx
from prometheus_client.parser import text_string_to_metric_families

from deployments.config import load
from deployments.ingress.prompts import PoolPrompts
from deployments.ingress.view import ConfiguredView
from experts.api import EngineLimits, EngineState, SpeculationState
from router.api import Directory, PoolView, Registration, ReplicaView
from tests.ingress.rig import LocalRollout, Rig

LIMITS = EngineLimits(64, 8, 256)
IDLE = SpeculationState(mode="speculate", depth=3.0, changes={"speculate:start": 1})
BUSY = SpeculationState(
    steps=100,
    speculated=80,
    asked=90,
    answered=85,
    late=5,
    hits=60,
    misses=20,
    drafted=(80, 70),
    accepted=(70, 50),
    waits=(50, 0, 0, 50),
    wait=0.1,
    draft=0.04,
    verify=0.3,
    plain=0.25,
    mode="speculate",
    depth=2.5,
    changes={"speculate:start": 1},
)


def cluster(*states: SpeculationState, epoch: int = 1) -> Directory:
    """Pool ``general`` with one replica per state."""
    replicas = tuple(
        ReplicaView(
            Registration("general", "expert", f"general#{number}", epoch, "tcp://nowhere", LIMITS, "node", 1),
            EngineState(speculation=state),
            reserved=0,
            age=0.1,
        )
        for number, state in enumerate(states)
    )
    return Directory(5, (PoolView("general", "expert", 0, replicas), PoolView("tools", "expert", 0, ())))


async def samples(http: httpx.AsyncClient) -> dict[tuple[str, ...], float]:
    """By name and label values, without the pool's."""
    text = (await http.get("/metrics")).text
    return {
        (sample.name, *(value for label, value in sorted(sample.labels.items()) if label != "pool")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels.get("pool") == "general"
    }


async def test_a_scrape_shows_what_replicas_did_since_the_gateway_watches(http: httpx.AsyncClient, rig: Rig) -> None:
    rig.view.seen = cluster(IDLE, BUSY)
    before = await samples(http)
    assert before["switchyard_pool_draft_asks_total",] == 0
    assert before["switchyard_pool_speculation_layout", "draft", "split"] == 1
    assert before["switchyard_pool_speculation_mode", "speculate"] == 2
    rig.view.seen = cluster(BUSY, BUSY)
    after = await samples(http)
    assert after["switchyard_pool_draft_asks_total",] == 90
    assert after["switchyard_pool_position_accepted_total", "1"] == 50
    assert after["switchyard_pool_draft_wait_seconds_bucket", "0.002"] == 100
    assert after["switchyard_pool_speculation_depth",] == 2.5


async def test_a_scrape_after_a_restart_shows_no_counter_that_fell(http: httpx.AsyncClient, rig: Rig) -> None:
    seen = []
    for directory in (cluster(IDLE), cluster(BUSY), cluster(), cluster(IDLE, epoch=2), cluster(BUSY, epoch=2)):
        rig.view.seen = directory
        seen.append(await samples(http))
    asked = [each.get(("switchyard_pool_draft_asks_total",)) for each in seen]
    assert asked == [0, 90, 90, 90, 180]
    assert ("switchyard_pool_speculation_mode", "speculate") not in seen[2]


async def test_what_is_heard_between_two_scrapes_counts(http: httpx.AsyncClient, rig: Rig) -> None:
    rig.door.hear(cluster(IDLE))
    rig.door.hear(cluster(BUSY))
    rig.view.seen = cluster()
    assert (await samples(http))["switchyard_pool_draft_asks_total",] == 90


async def test_status_tells_how_drafts_do(http: httpx.AsyncClient, rig: Rig) -> None:
    rig.door.hear(cluster(IDLE))
    rig.view.seen = cluster(BUSY)
    general, tools = (await http.get("/status")).json()["pools"]
    drafts = general["drafts"]
    assert (drafts["layout"], drafts["modes"], drafts["reason"]) == ("split", {"speculate": 1}, "start")
    assert (drafts["depth"], drafts["acceptance"], drafts["hit_rate"]) == (2.5, 0.8, 0.75)
    assert 0.001 < drafts["wait_p95"] < 0.002
    assert drafts["speedup"] == (1 + 120 / 80) * 0.25 / 0.4
    assert tools["drafts"] is None


async def test_status_of_a_pool_that_did_nothing_yet_has_no_ratios(http: httpx.AsyncClient, rig: Rig) -> None:
    rig.view.seen = cluster(BUSY)
    general, _ = (await http.get("/status")).json()["pools"]
    assert general["drafts"] == {
        "layout": "split",
        "modes": {"speculate": 1},
        "reason": "start",
        "depth": 2.5,
        "acceptance": None,
        "hit_rate": None,
        "wait_p95": None,
        "speedup": None,
    }


def test_the_view_knows_the_configured_pools_that_speculate() -> None:
    pools = load("local").pools
    view = ConfiguredView(pools, PoolPrompts(pools).max_context, lambda: None, LocalRollout())
    speculating = {name: pool.speculation for name, pool in pools.items() if pool.speculation.layout != "off"}
    assert view.speculation() == speculating
    assert speculating["general"].pool == "draft"
