"""Models, status, metrics, liveness and readiness."""

import asyncio
from collections.abc import AsyncIterator

import httpx
from openai import AsyncOpenAI
from prometheus_client.parser import text_string_to_metric_families

from cluster.errors import EngineFailed, NoReplica
from experts.api import Chunk, GenerateRequest
from tests.ingress.rig import Rig, failing, mute, words

CHAT = "/v1/chat/completions"
BODY = {"model": "general", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}


async def test_models_are_listed_and_found_one_by_one(client: AsyncOpenAI) -> None:
    listed = await client.models.list()
    assert [model.id for model in listed.data] == ["auto", "general", "tools"]
    found = await client.models.retrieve("general")
    assert (found.id, found.owned_by, found.model_extra["max_model_len"]) == ("general", "switchyard", 4096)


async def test_status_shows_pools_replicas_and_acceptance(http: httpx.AsyncClient, rig: Rig) -> None:
    status = (await http.get("/status")).json()
    (pool,) = status["pools"]
    (replica,) = pool["replicas"]
    assert (status["epoch"], pool["pool"], pool["queued"], pool["acceptance"]) == (5, "general", 2, 0.8)
    assert (replica["replica"], replica["pid"], replica["node"], replica["epoch"]) == ("general#1", 42, "node-a", 7)
    assert (replica["running"], replica["waiting"], replica["reserved"], replica["kv_use"]) == (3, 1, 4, 0.5)
    rig.view.seen = None
    answer = await http.get("/status")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "router_unavailable")


async def test_metrics_count_what_happened_and_show_the_pools(http: httpx.AsyncClient, rig: Rig) -> None:
    await http.post(CHAT, json=BODY)
    await http.post(CHAT, json=BODY | {"model": "nobody"})
    await http.post(CHAT, json=BODY | {"model": "secret-customer-model"})
    rig.pools.script = failing(EngineFailed("broken"), after=1)
    await http.post(CHAT, json=BODY)
    text = (await httpx.AsyncClient().get(f"http://127.0.0.1:{rig.ports.metrics}/metrics")).text
    assert (await http.get("/metrics")).status_code == 200
    assert "secret" not in text
    assert "nobody" not in text
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    pool, model = ("pool", "general"), ("gen_ai_request_model", "general")
    assert samples["switchyard_requests_total", ("outcome", "ok"), pool] == 1
    assert samples["switchyard_requests_total", ("outcome", "engine_failed"), pool] == 1
    assert samples["switchyard_requests_total", ("outcome", "unknown_model"), ("pool", "none")] == 2
    assert samples["gen_ai_server_time_to_first_token_seconds_count", model] == 2
    assert samples["gen_ai_server_time_per_output_token_seconds_count", model] == 1
    assert samples["gen_ai_server_request_duration_seconds_count", model] == 2
    assert samples["switchyard_queue_seconds_sum", pool] == 0.004
    assert samples["switchyard_tokens_total", ("direction", "output"), pool] == 6
    assert samples["switchyard_tokens_total", ("direction", "input"), pool] == 10
    assert samples["switchyard_draft_tokens_total", pool] == 6
    assert samples["switchyard_accepted_tokens_total", pool] == 2
    assert samples["switchyard_accepted_tokens_per_step_count", pool] == 3
    assert samples["switchyard_request_acceptance_ratio_count", pool] == 1
    assert samples["switchyard_requests_in_flight",] == 0
    assert samples["switchyard_pool_replicas", pool] == 1
    assert samples["switchyard_pool_queued", pool] == 2
    assert samples["switchyard_pool_kv_use_ratio", pool] == 0.5


async def test_live_says_only_that_the_loop_runs(http: httpx.AsyncClient, rig: Rig) -> None:
    rig.desk.refusal = NoReplica("none")
    assert (await http.get("/health/live")).status_code == 200


async def test_ready_decodes_one_token_of_each_required_pool(http: httpx.AsyncClient, rig: Rig) -> None:
    answer = await http.get("/health/ready")
    assert (answer.status_code, answer.json()) == (
        200,
        {"ready": True, "pools": {"general": {"ready": True}}, "reason": ""},
    )
    (canary,) = rig.pools.requests
    assert (canary.sampling.max_tokens, rig.desk.asked[0].latency, rig.desk.asked[0].pool) == (1, "fast", "general")


async def test_probes_that_come_together_share_one_canary(http: httpx.AsyncClient, rig: Rig) -> None:
    async def slow(request: GenerateRequest) -> AsyncIterator[Chunk]:
        await asyncio.sleep(0.2)
        yield Chunk(request.id, tokens=(1,), text="x", finish="length")

    rig.pools.script = slow
    answers = await asyncio.gather(*(http.get("/health/ready") for _ in range(10)))
    assert {answer.status_code for answer in answers} == {200}
    assert len(rig.pools.requests) == 1


async def test_traffic_makes_the_canary_unnecessary(http: httpx.AsyncClient, rig: Rig) -> None:
    await http.post(CHAT, json=BODY)
    assert (await http.get("/health/ready")).status_code == 200
    assert len(rig.pools.requests) == 1


async def test_unready_names_the_pool_and_the_reason_and_recovers(http: httpx.AsyncClient, rig: Rig) -> None:
    rig.desk.refusal = NoReplica("nobody there")
    answer = await http.get("/health/ready")
    assert answer.status_code == 503
    assert answer.json()["pools"] == {"general": {"ready": False, "reason": "no_replica", "message": "nobody there"}}
    rig.desk.refusal = None
    rig.pools.script = mute
    answer = await http.get("/health/ready")
    assert answer.json()["pools"]["general"]["reason"] == "deadline"
    assert len(rig.pools.closed) == 1
    rig.pools.script = words
    assert (await http.get("/health/ready")).status_code == 200
