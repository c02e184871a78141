"""The whole configuration: one strict schema, validated once at the edge; each part receives only its section."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from cluster.config import Section
from cluster.errors import ConfigError
from cluster.flags import FlagsConfig
from experts.config import PoolConfig
from router.config import RouterConfig
from router.rules import DEFAULT

PROFILES = Path(__file__).parent / "profiles"
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class HttpLimits(Section):
    """Checked before tokenisation; over the limit is a typed error, never a cut."""

    body_bytes: int = 4 * 1024 * 1024
    messages: int = 1024
    choices: int = 8
    logprobs: int = 20
    stop_strings: int = 16
    logit_bias: int = 300
    tools: int = 128
    schema_bytes: int = 16 * 1024
    schema_depth: int = 32


class GatewayConfig(Section):
    """The front door. Ports of 0 are chosen by the system; ``replicas`` on one node share the ports."""

    host: str = "127.0.0.1"
    http_port: Annotated[int, Field(ge=0, le=65535)] = 8000
    grpc_port: Annotated[int, Field(ge=0, le=65535)] = 9000
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 9464
    replicas: Annotated[int, Field(ge=1)] = 1
    cpus: Annotated[float, Field(ge=0)] = 0.5
    drain_s: Annotated[float, Field(gt=0)] = 120.0
    stall_timeout: Annotated[float, Field(gt=0)] = Field(
        default=30.0, description="a stream whose replica sends nothing for so long ends with replica_lost (seconds)"
    )
    send_timeout: Annotated[float, Field(gt=0)] = Field(
        default=30.0, description="a client that takes nothing of its answer for so long is cut off (seconds)"
    )
    ready_timeout: Annotated[float, Field(gt=0)] = Field(default=5.0, description="bound of one readiness canary")
    limits: HttpLimits = HttpLimits()

    @model_validator(mode="after")
    def _open_only_on_loopback(self) -> "GatewayConfig":
        if not self.loopback:
            raise ValueError(f"host {self.host!r}: requests are not authenticated, so listeners stay on loopback")
        return self

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches the listeners."""
        return self.host in LOOPBACK


class RayConfig(Section):
    """The Ray that ``switchyard up`` starts. ``proxy_port`` None leaves Serve's idle proxies off."""

    cpus: float | None = None
    object_store_bytes: int = 100 * 1024 * 1024
    proxy_port: int | None = None


class Config(Section):
    """A cluster."""

    name: str = "switchyard"
    data_plane: Literal["loopback", "node"] = Field(
        default="loopback",
        description="where replicas and the router listen: loopback for one machine, node for the node's own address "
        "(then keep other hosts out by network policy: peers are not authenticated)",
    )
    gateway: GatewayConfig = GatewayConfig()
    router: RouterConfig = RouterConfig()
    ray: RayConfig = RayConfig()
    flags: FlagsConfig = FlagsConfig()
    pools: dict[str, PoolConfig]

    @model_validator(mode="after")
    def _names_exist(self) -> "Config":
        experts = {name for name, pool in self.pools.items() if pool.kind == "expert"}
        drafts = set(self.pools) - experts
        if self.router.default_pool not in experts:
            raise ValueError(
                f"router.default_pool {self.router.default_pool!r} is no expert pool; there are {sorted(experts)}"
            )
        for rule in self.router.rules:
            if rule.pool not in experts:
                raise ValueError(f"rule {rule.name!r} sends to {rule.pool!r}; the expert pools are {sorted(experts)}")
        for name, pool in self.pools.items():
            if pool.speculation.pool is not None and pool.speculation.pool not in drafts:
                raise ValueError(
                    f"pool {name!r} drafts with {pool.speculation.pool!r}; the draft pools are {sorted(drafts)}"
                )
        return self

    @model_validator(mode="after")
    def _draft_pools_are_shared(self) -> "Config":
        served: dict[str, list[str]] = {}
        for name, pool in self.pools.items():
            if pool.speculation.pool is not None:
                served.setdefault(pool.speculation.pool, []).append(name)
        for draft, names in served.items():
            alone = [name for name in names if self.pools[name].speculation.layout == "split"]
            if len(names) > 1 and alone:
                raise ValueError(
                    f"draft pool {draft!r} serves {names}, so each of them needs layout 'shared'; {alone} have 'split'"
                )
        return self

    @model_validator(mode="after")
    def _flags_name_routes(self) -> "Config":
        strange = sorted(self.flags.speculation.routes.keys() - self.routes)
        if strange:
            raise ValueError(f"flags.speculation.routes: {strange[0]!r} is no route; there are {sorted(self.routes)}")
        return self

    @property
    def routes(self) -> frozenset[str]:
        """The names of routes: the rules, the default, and the expert pools."""
        rules = {rule.name for rule in self.router.rules}
        experts = {name for name, pool in self.pools.items() if pool.kind == "expert"}
        return frozenset(rules | experts | {DEFAULT})


def profiles() -> list[str]:
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def load(source: str) -> Config:
    """The configuration of a profile (by name) or a YAML file (by path).

    Raises ConfigError, which names every offending key.
    """
    path = PROFILES / f"{source}.yaml" if source in profiles() else Path(source)
    if not path.is_file():
        raise ConfigError(f"no profile and no file {source!r}; profiles: {', '.join(profiles())}")
    try:
        return parse(yaml.safe_load(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not YAML: {error}") from error


def parse(document: Any) -> Config:
    """Validate what a YAML or JSON file held. Lists become tuples as in JSON, nothing else is converted."""
    try:
        return Config.model_validate_json(json.dumps(document))
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, item['loc'])) or 'config'}: {item['msg']}" for item in error.errors()]
        raise ConfigError("invalid configuration\n" + "\n".join("  " + line for line in lines)) from error


def parse_json(text: str) -> Config:
    """A configuration as it travels to the actors."""
    return Config.model_validate_json(text)
