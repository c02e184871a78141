"""A pool that scales: real Serve, its own Ray, simulated engines."""

import asyncio
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from tests.cluster.conftest import DOWN_SECONDS, SWITCHYARD, UP_SECONDS, Cluster, configured

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

NAME = "switchyard-scaling"
SCALING = {
    "min_replicas": 1,
    "max_replicas": 2,
    "target_ongoing_requests": 4,
    "upscale_delay_s": 1,
    "downscale_delay_s": 600,
}
QUICK = {"RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1"}
REQUESTS = 8
LIMIT = 60


@pytest.fixture
def scaling(tmp_path: Path) -> Iterator[Cluster]:
    path, ports = configured(tmp_path, "simulated", NAME)
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    document["pools"] = {"general": document["pools"]["general"] | {"autoscaling": SCALING}}
    document["router"]["rules"] = []
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    try:
        up = [SWITCHYARD, "up", "--config", path, "--detach"]
        subprocess.run(up, env=os.environ | QUICK, timeout=UP_SECONDS, check=True)
        yield Cluster(f"http://127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}")
    finally:
        subprocess.run([SWITCHYARD, "down", "--name", NAME], timeout=DOWN_SECONDS, check=True)


async def test_a_pool_grows_with_what_its_replicas_hold_and_no_request_notices(scaling):
    body = {"model": "general", "prompt": "x", "max_tokens": 3000, "ignore_eos": True}
    async with httpx.AsyncClient(base_url=scaling.url, timeout=LIMIT) as client:

        async def one() -> httpx.Response:
            return await client.post("/v1/completions", json=body)

        running = [asyncio.create_task(one()) for _ in range(REQUESTS)]
        until = time.monotonic() + LIMIT
        while len(scaling.replicas("general")) < 2:
            assert time.monotonic() < until, "it did not grow"
            await asyncio.sleep(0.5)
        answers = await asyncio.gather(*running, *(one() for _ in range(REQUESTS)))
    assert {answer.status_code for answer in answers} == {200}
    assert all(replica["tokens"] for replica in scaling.replicas("general")), "the new replica shares the work"
