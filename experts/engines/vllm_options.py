"""From a pool's configuration to vLLM's engine arguments. Pure; imports no runtime."""

from dataclasses import dataclass, field
from typing import Any, Literal

from cluster.errors import ConfigError, UnknownModel
from experts.config import PoolConfig, VllmEngine
from experts.zoo.catalog import model_path

ZOO = "zoo:"
DRAFTS = "experts.speculation.proposer.RemoteDrafts"
SECTION = "switchyard"
"""Our part of vLLM's ``additional_config``; it travels to the process in which the proposer runs."""

PROPOSER = "experts.engines.vllm_proposer.Proposer"
WORKER = "experts.engines.vllm_worker.Worker"
SPECULATING = {
    "scheduler_cls": "experts.engines.vllm_scheduler.CountingScheduler",
    "per_request_spec_decode_metrics": "summary",
}
NGRAM_MIN, NGRAM_MAX = 2, 4


@dataclass(frozen=True, slots=True)
class Plan:
    """How one engine is to be run. ``arguments`` are vLLM's; ``split``: a draft pool proposes."""

    runner: Literal["in_process", "async"]
    arguments: dict[str, Any]
    cores: tuple[int, ...] = ()
    adapters: dict[str, str] = field(default_factory=dict)
    split: bool = False
    gpu: bool = False

    @property
    def speculates(self) -> bool:
        return self.arguments.get("speculative_config") is not None


def plan(name: str, pool: PoolConfig, *, drafts: str = DRAFTS) -> Plan:
    """Raises ConfigError where options contradict the pool, ModelCorrupt for damaged embedded weights."""
    engine = pool.engine
    if not isinstance(engine, VllmEngine):
        raise ConfigError(f"pool {name}: vLLM cannot run an engine of kind {engine.kind!r}")
    gpu = pool.resources.gpus > 0
    runner = engine.runner
    if runner == "auto":
        runner = "async" if gpu else "in_process"
    owned: dict[str, Any] = {
        "worker_cls": WORKER,
        "model": _locate(pool.model),
        "disable_log_stats": False,  # the state of the engine is read from them
        **_speculation(pool, drafts),
    }
    clash = sorted(owned.keys() & engine.options.keys() - {"additional_config"})
    if clash:
        raise ConfigError(f"pool {name}: engine.options may not set {', '.join(clash)}: the pool's own settings do")
    return Plan(
        runner=runner,
        arguments=_defaults(engine) | engine.options | owned,
        cores=engine.cores,
        adapters=engine.adapters,
        split=pool.speculation.layout == "split",
        gpu=gpu,
    )


def environment(plan: Plan) -> dict[str, str]:
    """Variables that vLLM and torch read when they are imported. What the operator has set wins."""
    variables = {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1"}
    if not plan.gpu:
        variables["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    if not plan.gpu and plan.arguments.get("enforce_eager"):
        # Without it the first request for logprobs compiles a helper of vLLM's and holds up all others for seconds.
        variables["TORCHDYNAMO_DISABLE"] = "1"
    if plan.cores:
        variables["OMP_NUM_THREADS"] = str(len(plan.cores))
    return variables


def _locate(model: str) -> str:
    if not model.startswith(ZOO):
        return model
    try:
        return str(model_path(model.removeprefix(ZOO)))
    except UnknownModel as error:
        raise ConfigError(error.message) from error


def _defaults(engine: VllmEngine) -> dict[str, Any]:
    """Unlike owned settings these give way to ``options``."""
    defaults: dict[str, Any] = {"use_tqdm_on_load": False}
    if engine.adapters:
        defaults["enable_lora"] = True
    if engine.options.get("speculative_config") is not None:
        defaults |= SPECULATING
    return defaults


def _speculation(pool: PoolConfig, drafts: str) -> dict[str, Any]:
    speculation, engine = pool.speculation, pool.engine
    if speculation.layout == "off":
        return {}
    if speculation.layout == "ngram":
        method = {"method": "ngram", "prompt_lookup_min": NGRAM_MIN, "prompt_lookup_max": NGRAM_MAX}
        return SPECULATING | {"speculative_config": method | {"num_speculative_tokens": speculation.depth}}
    assert isinstance(engine, VllmEngine)
    section = {
        "drafts": drafts,
        "deadline": speculation.deadline_ms / 1000,
        "retry": speculation.retry_ms / 1000,
    }
    return SPECULATING | {
        "speculative_config": {
            "method": "custom_class",
            "model": PROPOSER,
            "num_speculative_tokens": speculation.depth,
        },
        "additional_config": engine.options.get("additional_config", {}) | {SECTION: section},
    }
