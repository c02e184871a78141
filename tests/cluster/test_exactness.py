"""Drafts cost or save time; they never change an answer. Compared with plain vLLM in a process of its own."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from deployments.ingress.prompts import FastCodec
from deployments.ingress.serving_pb2 import Sampling, Summary
from experts.zoo.catalog import model_path
from experts.zoo.prompts import held_out_prompts
from router.jobs import Conversation, Message
from tests.chance import chi_square
from tests.cluster.conftest import Cluster
from tests.cluster.streams import complete_all

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

PROMPTS = 200
LENGTH = 96
SAMPLES = 5000
SAMPLED = 3
"""Tokens per sample: their joint distribution is compared, so a wrong second or third token shows."""
GREEDY = Sampling(temperature=0, logprobs=0)
FEW = 4
"""Requests at once that leave two slow cores, with all pools and the clients on them, time to draft. Before a crowd
drafts may come too late there, and are rightly done without."""
RESUMES = 60.0
"""Seconds."""


def encoded(count: int, domains: Sequence[str] | None = None) -> list[list[int]]:
    """Held-out prompts as the general model reads them."""
    codec = FastCodec(model_path("general"))
    found = []
    for each in held_out_prompts(count, **({"domains": domains} if domains else {})):
        messages = tuple(Message(role=turn["role"], content=str(turn["content"] or "")) for turn in each.messages)
        found.append(list(codec.encode(codec.chat(Conversation(messages)), special=False)))
    return found


def plain(prompts: Sequence[Sequence[int]], sampling: dict) -> list[list[int]]:
    """What vLLM alone generates, from one fixed seed of the whole engine."""
    asked = {"model": str(model_path("general")), "prompts": prompts, "sampling": sampling}
    script = Path(__file__).with_name("plain.py")
    command = [sys.executable, str(script)]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    return encoded(PROMPTS)


@pytest.fixture(scope="module")
def reference(prompts: list[list[int]]) -> list[list[int]]:
    return plain(prompts, {"temperature": 0, "max_tokens": LENGTH})


def eventually(condition: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"not within {seconds} s"
        time.sleep(0.2)


def total(answers: Sequence[tuple[list[int], Summary]], name: str) -> int:
    return sum(getattr(summary.report, name) for _, summary in answers)


async def greedy(cluster: Cluster, prompts: Sequence[Sequence[int]], **more: int) -> list[tuple[list[int], Summary]]:
    return await complete_all(cluster.grpc, prompts, [GREEDY] * len(prompts), max_tokens=LENGTH, **more)


async def drafted(cluster: Cluster, prompts: Sequence[Sequence[int]], reference: Sequence[list[int]]) -> float:
    """Ask until drafts are accepted; the share of them that were."""
    async with asyncio.timeout(RESUMES):
        while True:
            answers = await greedy(cluster, prompts[:24], at_once=FEW)
            assert [tokens for tokens, _ in answers] == reference[:24]
            if accepted := total(answers, "accepted"):
                return accepted / total(answers, "drafted")


async def test_greedy_tokens_are_those_of_plain_vllm_and_most_were_drafted_elsewhere(cluster, prompts, reference):
    answers = await greedy(cluster, prompts)
    assert [tokens for tokens, _ in answers] == reference
    assert await drafted(cluster, prompts, reference) > 0.25
    assert cluster.metric("switchyard_accepted_tokens_total", pool="general") > 0
    (verifier,), (drafter,) = cluster.replicas("general"), cluster.replicas("draft")
    assert verifier["pid"] != drafter["pid"]


async def test_with_the_draft_pool_killed_the_same_tokens_come_and_drafting_resumes_by_itself(
    cluster, prompts, reference
):
    (before,) = cluster.replicas("draft")
    os.kill(before["pid"], signal.SIGKILL)
    answers = await greedy(cluster, prompts[:40])
    assert [tokens for tokens, _ in answers] == reference[:40]
    eventually(lambda: [each["pid"] for each in cluster.replicas("draft")] not in ([], [before["pid"]]), 60)
    assert await drafted(cluster, prompts, reference) > 0


async def test_sampled_tokens_have_the_distribution_of_plain_vllm(cluster):
    (prompt,) = encoded(1, domains=("records",))
    sampling = [Sampling(temperature=0.8, logprobs=0, seed=seed) for seed in range(SAMPLES)]
    answers = await complete_all(cluster.grpc, [prompt] * SAMPLES, sampling, max_tokens=SAMPLED)
    expected = plain([prompt] * SAMPLES, {"temperature": 0.8, "max_tokens": SAMPLED})
    ours = Counter(tuple(tokens) for tokens, _ in answers)
    theirs = Counter(tuple(tokens) for tokens in expected)
    assert total(answers, "drafted") > 0
    assert chi_square(ours, theirs) > 0.001
