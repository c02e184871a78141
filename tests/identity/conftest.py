"""The prompts, and what plain vLLM makes of them, once for all layouts."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experts.zoo.catalog import model_path
from tests.cluster.test_exactness import encoded
from tests.identity.engine import EngineProcess

PROMPTS = 500
LENGTH = 64
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def prompts() -> list[list[int]]:
    """Every fourth is made long enough to be read in pieces."""
    found = encoded(PROMPTS)
    return [found[place - 1][1:] + prompt if place % 4 == 3 else prompt for place, prompt in enumerate(found)]


@pytest.fixture(scope="session")
def plain(prompts: list[list[int]]) -> list[list[int]]:
    """The reference: vLLM alone, in a process of its own."""
    asked = {
        "model": str(model_path("general")),
        "prompts": prompts,
        "sampling": {"temperature": 0, "max_tokens": LENGTH},
    }
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/cluster/plain.py")],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def pool(model: str, speculation: dict[str, Any]) -> dict[str, Any]:
    """An engine that is short of everything: 16 sequences whose prompts are read in pieces of 96 tokens, in a cache of
    14 blocks of 128 tokens, so that sequences are preempted."""
    return {
        "model": model,
        "engine": {
            "kind": "vllm",
            "cores": [0],
            "options": {
                "dtype": "float32",
                "max_model_len": 1024,
                "max_num_seqs": 16,
                "max_num_batched_tokens": 160,
                "num_gpu_blocks_override": 14,
                "kv_cache_memory_bytes": 67108864,
                "enforce_eager": True,
                "enable_prefix_caching": False,
            },
        },
        "speculation": speculation,
    }


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Any]:
    """Starts engines by their speculation section; they end with the test."""
    started: list[EngineProcess] = []

    def start(verifier: str = "zoo:general", **speculation: Any) -> EngineProcess:
        started.append(EngineProcess(pool(verifier, speculation), tmp_path / "engine.log"))
        return started[-1]

    yield start
    for each in started:
        each.stop()
