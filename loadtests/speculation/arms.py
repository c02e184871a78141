"""The engines that are compared: what each is, and the pool configuration that makes it."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

DEPTH = 8
DEPTHS = (2, 4, 6, 8)
"""What is tried where a depth is fixed."""
DEADLINE_MS = 50.0
VERIFIER_CORE, DRAFT_CORE = 0, 1
OPENMP = Path(sys.prefix) / "lib" / "libiomp5.so"
"""Comes with vLLM's build for CPUs."""
OPTIONS: dict[str, Any] = {
    "dtype": "float32",
    "max_model_len": 2048,
    "max_num_seqs": 32,
    "max_num_batched_tokens": 2048,
    "kv_cache_memory_bytes": 128 * 2**20,
    "enforce_eager": True,
}


@dataclass(frozen=True, slots=True)
class Pair:
    """A verifier and its draft, as directories."""

    name: str
    verifier: str
    draft: str


@dataclass(frozen=True, slots=True)
class Arm:
    """One engine under test. ``tunable``: its depth is fixed and can be set between windows; ``preload``: libraries
    that its process loads before all others."""

    name: str
    speculation: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    cores: tuple[int, ...] = (VERIFIER_CORE,)
    tunable: bool = False
    preload: tuple[str, ...] = ()

    @property
    def remote(self) -> bool:
        """Whether it takes drafts from the draft server."""
        return self.speculation.get("layout") == "split"

    def pool(self, pair: Pair) -> dict[str, Any]:
        engine = {"kind": "vllm", "runner": "in_process", "cores": self.cores, "options": OPTIONS | self.options}
        return {"model": pair.verifier, "engine": engine, "speculation": self.speculation}


def twins(arms: Mapping[str, Arm], count: int) -> dict[str, tuple[Arm, ...]]:
    """Each of them in so many processes, the first under its own name."""
    others = range(2, count + 1)
    return {
        key: (arm, *(replace(arm, name=f"{arm.name}, process {number}") for number in others))
        for key, arm in arms.items()
    }


PLAIN = Arm("plain")
"""vLLM without speculation: ``Core`` with layout ``off`` is its ``LLMEngine``."""


def co_resident(pair: Pair, cores: tuple[int, ...]) -> Arm:
    """The ``draft_model`` of vLLM as it is, through vLLM's own options and without a controller of ours.

    Its settings are the best found: the depth is set with vLLM's schedule of depths by batch size (which costs no more
    than a fixed one), so each batch has its best; asynchronous scheduling, which gains nothing inside one process and
    costs a tenth of a step, is off; on several cores the OpenMP that vLLM recommends is loaded first (on one it is no
    faster).
    """
    settings = {
        "method": "draft_model",
        "model": pair.draft,
        "num_speculative_tokens": DEPTH,
        "num_speculative_tokens_per_batch_size": [(1, OPTIONS["max_num_seqs"], DEPTHS[1])],
    }
    options = {"speculative_config": settings, "async_scheduling": False}
    if len(cores) == 1:
        return Arm("co-resident, one core", options=options, cores=cores, tunable=True)
    found = (str(OPENMP),) if OPENMP.is_file() else ()
    return Arm(f"co-resident, {len(cores)} cores", options=options, cores=cores, tunable=True, preload=found)


def split(*, ahead: bool, adaptive: bool) -> Arm:
    """Drafts from the draft server on the other core."""
    name = f"split {'ahead' if ahead else 'sync'}"
    settings = _split(DEPTH, ahead=ahead, controller="adaptive" if adaptive else "fixed")
    return Arm(name if adaptive else f"{name}, fixed K", settings, tunable=not adaptive)


def fixed(depth: int) -> Arm:
    """Drafted ahead like the controller's, but so many in every step, as the pool's configuration says."""
    return Arm(f"K={depth}", _split(depth, ahead=True, controller="fixed"))


def _split(depth: int, *, ahead: bool, controller: str) -> dict[str, Any]:
    return {
        "layout": "split",
        "pool": "draft",
        "depth": depth,
        "deadline_ms": DEADLINE_MS,
        "ahead": ahead,
        "controller": controller,
    }
