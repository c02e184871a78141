"""Through the front door: a draft replica that is frozen under load costs no client an error or a token."""

import asyncio
import os
import signal
from collections.abc import Sequence

import pytest

from deployments.ingress.serving_pb2 import Sampling
from tests.cluster.conftest import Cluster
from tests.cluster.streams import complete_all
from tests.cluster.test_exactness import drafted, encoded, eventually, plain

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

LENGTH = 64
GREEDY = Sampling(temperature=0, logprobs=0)


async def tokens(cluster: Cluster, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    answers = await complete_all(cluster.grpc, prompts, [GREEDY] * len(prompts), max_tokens=LENGTH)
    return [found for found, _ in answers]


def drafters(cluster: Cluster) -> list[int]:
    return [replica["pid"] for replica in cluster.replicas("draft")]


async def test_a_frozen_draft_replica_costs_no_client_anything_and_drafting_resumes(cluster: Cluster) -> None:
    prompts = encoded(120)
    reference = plain(prompts, {"temperature": 0, "max_tokens": LENGTH})
    served = cluster.metric("switchyard_requests_total", outcome="ok")
    running = asyncio.create_task(tokens(cluster, prompts))
    (pid,) = drafters(cluster)
    await asyncio.sleep(0.5)
    os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(1.0)
        begun = asyncio.create_task(tokens(cluster, prompts[:24]))
        await asyncio.sleep(1.0)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert await running == reference
    assert await begun == reference[:24]
    assert cluster.metric("switchyard_requests_total", outcome="ok") == served + len(prompts) + 24
    eventually(lambda: drafters(cluster) == [pid], 30)
    assert await drafted(cluster, prompts, reference) > 0
