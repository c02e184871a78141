"""From a pool's configuration to vLLM's engine arguments. Pure; imports no runtime."""

from dataclasses import dataclass, field
from typing import Any, Literal

from cluster.errors import ConfigError, UnknownModel
from experts.config import PoolConfig, Speculation, VllmEngine
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
    """How one engine is to be run. ``arguments`` are vLLM's; ``split``: a draft pool proposes, alone or shared."""

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
        split=pool.speculation.remote,
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
    if plan.speculates:
        # The layers over vLLM's model runner (see ``vllm_layers``) are made for this generation of it.
        variables["VLLM_USE_V2_MODEL_RUNNER"] = "0"
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
    assert isinstance(engine, VllmEngine)
    arguments = SPECULATING | {
        "speculative_config": _method(pool) | {"num_speculative_tokens": speculation.depth},
        "additional_config": engine.options.get("additional_config", {}) | {SECTION: _section(speculation, drafts)},
    }
    # What is drafted next depends on how this step ends, so the next step cannot be scheduled before.
    return arguments | {"async_scheduling": False} if speculation.layout == "co_resident" else arguments


def _method(pool: PoolConfig) -> dict[str, Any]:
    """Where vLLM finds what proposes."""
    speculation, engine = pool.speculation, pool.engine
    assert isinstance(engine, VllmEngine)
    if speculation.layout == "ngram":
        return {"method": "ngram", "prompt_lookup_min": NGRAM_MIN, "prompt_lookup_max": NGRAM_MAX}
    if speculation.model is None:
        return {"method": "custom_class", "model": PROPOSER}
    if engine.options.get("data_parallel_size", 1) > 1:
        # Each rank would decide by its own clock whether the draft model runs, and they wait for each other.
        raise ConfigError("layout co_resident does not go with data_parallel_size: give the pool replicas instead")
    return {
        "method": "draft_model",
        "model": _locate(speculation.model),
        # vLLM wants a draft split over as many GPUs as its verifier.
        "draft_tensor_parallel_size": engine.options.get("tensor_parallel_size", 1),
    }


def _section(speculation: Speculation, drafts: str) -> dict[str, Any]:
    """What our part of the worker reads. Times are in seconds."""
    chosen = {
        "depth": speculation.depth,
        "controller": speculation.controller,
        "floor": speculation.floor,
        "strict": speculation.strict,
        "sizes": speculation.sizes,
    }
    if not speculation.remote:
        return chosen
    return chosen | {
        "drafts": drafts,
        "deadline": speculation.deadline_ms / 1000,
        "retry": speculation.retry_ms / 1000,
        "ahead": speculation.ahead,
        "shadow": speculation.shadow,
    }
