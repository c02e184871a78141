"""Configuration of pools: one section per pool, each with its model, engine, speculation, resources and scaling."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cluster.config import Section

Layout = Literal["off", "ngram", "co_resident", "split", "shared"]


class VllmEngine(Section):
    """vLLM. ``options`` go to vLLM's engine arguments as they are; an unknown one stops the start with its name."""

    kind: Literal["vllm"] = "vllm"
    runner: Literal["auto", "in_process", "async"] = Field(
        default="auto",
        description="in_process: LLMEngine on a thread of the replica; async: AsyncLLM with its own engine process; "
        "auto: in_process without a GPU, async with one",
    )
    options: dict[str, Any] = Field(default_factory=dict)
    cores: tuple[int, ...] = Field(
        default=(), description="CPU cores to pin to (modulo those available); empty: not pinned"
    )
    adapters: dict[str, str] = Field(default_factory=dict, description="LoRA adapters: name to directory")


class SimulatedEngine(Section):
    """A deterministic stand-in with settable timing and faults, for routers, gateways, load and virtual time."""

    kind: Literal["simulated"] = "simulated"
    ttft_ms: Annotated[float, Field(ge=0)] = 20.0
    tpot_ms: Annotated[float, Field(ge=0)] = 5.0
    max_running: Annotated[int, Field(ge=1)] = 64
    max_context: Annotated[int, Field(ge=16)] = 4096
    vocabulary: Annotated[int, Field(ge=16)] = 2048
    acceptance: Annotated[float, Field(ge=0, le=1)] = 0.0
    depth: Annotated[int, Field(ge=0, le=16)] = 0
    fail_after: int | None = Field(default=None, description="engine dies after so many steps")
    stall_after: int | None = Field(default=None, description="engine stops stepping, silently, after so many steps")


class DraftEngine(Section):
    """The lean batched torch engine of a draft pool: static KV cache, sessions, greedy."""

    kind: Literal["draft"] = "draft"
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: Literal["cpu", "cuda"] = "cpu"
    max_sessions: Annotated[int, Field(ge=1)] = 64
    max_context: Annotated[int, Field(ge=16)] = 2048
    branches: Annotated[int, Field(ge=0, le=16)] = Field(
        default=4, description="verdicts per session to draft ahead for, at most; 0: never drafts ahead"
    )
    lead_rows: Annotated[int, Field(ge=1)] = Field(
        default=32, description="branches of all sessions together in one batch drafted ahead, at most"
    )
    cores: tuple[int, ...] = ()


EngineConfig = Annotated[VllmEngine | SimulatedEngine | DraftEngine, Field(discriminator="kind")]


class Speculation(Section):
    """How a pool's verifier gets its drafts. ``depth`` is the most drafts per step; ``deadline_ms`` bounds every wait
    for them."""

    layout: Layout = Field(
        default="off",
        description="off; ngram: from the text itself; co_resident: a draft model inside the verifier's engine; "
        "split: a draft pool of its own; shared: one draft pool for several verifier pools",
    )
    pool: str | None = Field(default=None, description="the draft pool, for layouts split and shared")
    model: str | None = Field(default=None, description="the draft model, for layout co_resident")
    depth: Annotated[int, Field(ge=1, le=16)] = 4
    controller: Literal["adaptive", "fixed"] = Field(
        default="adaptive", description="adaptive: per request and step, 0 included; fixed: always depth"
    )
    floor: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.95, description="share of plain decoding's speed below which the controller stops speculating"
    )
    ahead: bool = Field(default=True, description="draft for the likeliest verdicts while the verifier works")
    shadow: bool = Field(
        default=True,
        description="while decoding plainly, compare drafts with what it makes, to know when to speculate again; "
        "else a few are verified now and then. For layouts split and shared with the adaptive controller",
    )
    strict: Literal["filter", "off"] = Field(
        default="filter",
        description="inside a segment bound by a grammar or a tool call: filter drafts by it, or draft nothing",
    )
    sizes: Literal["few", "any"] = Field(
        default="few",
        description="on CPUs, of small matrices: multiply for few numbers of tokens, all compiled when the engine "
        "loads, or for any, each compiled when it first comes",
    )
    deadline_ms: Annotated[float, Field(gt=0)] = 25.0
    retry_ms: Annotated[float, Field(gt=0)] = Field(
        default=500.0,
        description="measure of the pauses after faults of a draft replica: an eighth of it, doubling to 16 times",
    )

    @property
    def remote(self) -> bool:
        """Whether drafts come from a draft pool."""
        return self.layout in ("split", "shared")

    @model_validator(mode="after")
    def _layout_names_its_source(self) -> "Speculation":
        if self.remote != (self.pool is not None):
            raise ValueError("layouts 'split' and 'shared' need 'pool', and only they take one")
        if (self.layout == "co_resident") != (self.model is not None):
            raise ValueError("layout 'co_resident' needs 'model', and only it takes one")
        return self


class Resources(Section):
    """What one replica asks Ray for. ``labels`` pin it to nodes; ``accelerator`` is Ray's accelerator type."""

    cpus: Annotated[float, Field(ge=0)] = 1.0
    gpus: Annotated[float, Field(ge=0)] = 0.0
    memory_bytes: int | None = None
    accelerator: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)


class Autoscaling(Section):
    """Bounds and targets of Ray Serve's autoscaler for one pool."""

    min_replicas: Annotated[int, Field(ge=1)] = 1
    max_replicas: Annotated[int, Field(ge=1)] = 1
    target_ongoing_requests: Annotated[float, Field(gt=0)] = Field(
        default=8.0, description="requests per replica; below what one replica can run at once, or it never scales up"
    )
    upscale_delay_s: Annotated[float, Field(ge=0)] = 10.0
    downscale_delay_s: Annotated[float, Field(ge=0)] = 300.0

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> "Autoscaling":
        if self.min_replicas > self.max_replicas:
            raise ValueError("min_replicas is above max_replicas")
        return self


class PoolConfig(Section):
    """One pool. ``model`` is a Hugging Face name, a directory, or ``zoo:NAME`` for one that ships with Switchyard."""

    kind: Literal["expert", "draft"] = "expert"
    model: str
    description: str = ""
    engine: EngineConfig
    speculation: Speculation = Speculation()
    resources: Resources = Resources()
    replicas: Annotated[int, Field(ge=1)] = 1
    autoscaling: Autoscaling | None = Field(default=None, description="replaces the fixed number of replicas")
    drain_s: Annotated[float, Field(gt=0)] = Field(
        default=120.0, description="how long a stopping replica may finish its streams"
    )
    languages: tuple[str, ...] = ()
    modality: Literal["text", "image"] = "text"
    cost: Annotated[float, Field(ge=0)] = Field(default=1.0, description="relative cost of a token")
    required: bool = Field(default=True, description="without it the cluster is not ready")

    @model_validator(mode="after")
    def _kind_fits_engine(self) -> "PoolConfig":
        if (self.kind == "draft") != (self.engine.kind == "draft"):
            raise ValueError("a draft pool has the draft engine, and only a draft pool has it")
        if self.kind == "draft" and self.speculation.layout != "off":
            raise ValueError("a draft pool does not speculate")
        return self
