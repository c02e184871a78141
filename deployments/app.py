"""The Serve application: every box of the architecture as a deployment, wired here and nowhere else.

``switchyard up``, ``serve run deployments.app:build profile=local`` and KubeRay's ``import_path`` all build this.
"""

from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from cluster.errors import ConfigError
from deployments.actors.draft import DraftReplica
from deployments.actors.expert import ExpertReplica
from deployments.actors.gateway import GatewayReplica
from deployments.actors.router import RouterActor
from deployments.config import Config, load
from deployments.scaling import by_ongoing
from experts.config import PoolConfig, Resources
from experts.models import local_directory

HEALTH = {"health_check_period_s": 10.0, "health_check_timeout_s": 30.0}
"""Loose on purpose: Serve replaces what is dead, the data plane notices what is slow, and much sooner."""
STOP_MARGIN = 5.0


def build(args: dict[str, str]) -> serve.Application:
    """The application of a profile (``{"profile": name}``) or of a configuration file (``{"config": path}``).

    Raises ConfigError before anything is placed.
    """
    unknown = set(args) - {"profile", "config"}
    if unknown or len(args) != 1:
        raise ConfigError(f"give either profile=NAME or config=PATH, not {sorted(args)}")
    return assemble(load(next(iter(args.values()))))


def assemble(config: Config) -> serve.Application:
    """Bind all deployments of a validated configuration.

    Raises UnknownModel or ModelCorrupt for embedded models here: Serve would start a failing replica three times first.
    """
    for pool in config.pools.values():
        local_directory(pool.model)
    text = config.model_dump_json()
    router = _router().bind(text)
    pools = [_pool(name, pool).bind(name, text, router) for name, pool in config.pools.items()]
    return _gateway(config).bind(text, router, pools)


def _router() -> Any:
    return serve.deployment(RouterActor).options(
        name="router", num_replicas=1, ray_actor_options={"num_cpus": 0.1}, **_stopping(1.0), **HEALTH
    )


def _pool(name: str, pool: PoolConfig) -> Any:
    kind = DraftReplica if pool.kind == "draft" else ExpertReplica
    options: dict[str, Any] = {"num_replicas": pool.replicas}
    if pool.autoscaling is not None:
        policy = AutoscalingPolicy(policy_function=by_ongoing)
        options = {"autoscaling_config": AutoscalingConfig(policy=policy, **pool.autoscaling.model_dump())}
    return serve.deployment(kind).options(
        name=name, ray_actor_options=_actor_options(pool.resources), **options, **_stopping(pool.drain_s), **HEALTH
    )


def _gateway(config: Config) -> Any:
    return serve.deployment(GatewayReplica).options(
        name="gateway",
        num_replicas=config.gateway.replicas,
        ray_actor_options={"num_cpus": config.gateway.cpus},
        **_stopping(config.gateway.drain_s),
        **HEALTH,
    )


def _actor_options(resources: Resources) -> dict[str, Any]:
    options: dict[str, Any] = {"num_cpus": resources.cpus, "num_gpus": resources.gpus}
    if resources.memory_bytes is not None:
        options["memory"] = resources.memory_bytes
    if resources.accelerator is not None:
        options["accelerator_type"] = resources.accelerator
    if resources.labels:
        options["label_selector"] = dict(resources.labels)
    return options


def _stopping(drain: float) -> dict[str, float]:
    """Serve waits for its own requests first (there are none), then for our drain inside the destructor."""
    return {"graceful_shutdown_wait_loop_s": 0.1, "graceful_shutdown_timeout_s": drain + STOP_MARGIN}
