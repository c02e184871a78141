"""The Ray that one cluster on this machine has to itself: private, quiet, on ports of its own, off the network."""

import math
import os
from typing import Any

from deployments.cli.processes import MARK
from deployments.cli.runtime import Runtime
from deployments.config import Config
from experts.config import PoolConfig

_ROUTER_CPUS = 1.0
"""Room for the router actor and Serve's own actors."""

FOREIGN = ("RAY_ADDRESS", "RAY_NAMESPACE", "RAY_TMPDIR", "RAY_AUTH_TOKEN", "RAY_JOB_CONFIG_JSON_ENV_VAR")
"""Variables that would lead to, or mix us up with, another Ray on this host."""

QUIET = {
    # Nothing is sent home, and no cloud metadata service is asked at the start.
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray's own metrics pipeline: every process exports over OpenTelemetry to an agent nobody scrapes. Ours are apart.
    "RAY_enable_metrics_collection": "0",
    # Serve writes its cached metrics ten times a second in every replica otherwise.
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "5000",
    # Serve's reconciliation, ten times a second by default. It carries no requests, so half a second hurts nobody.
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
}
"""Settings an operator may override by setting them before ``up``."""


def environment(runtime: Runtime) -> dict[str, str]:
    """The supervisor's environment; Ray passes it on to everything it starts."""
    own = {key: value for key, value in os.environ.items() if key not in FOREIGN}
    for key, value in QUIET.items():
        own.setdefault(key, value)
    return own | {
        MARK: str(runtime.directory),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(runtime.token),
    }


def init_options(config: Config, runtime: Runtime) -> dict[str, Any]:
    """Arguments of ``ray.init``. Every port is left to Ray, which takes free ones."""
    options: dict[str, Any] = {
        "address": "local",
        "include_dashboard": False,
        "num_cpus": config.ray.cpus if config.ray.cpus is not None else _cpus(config),
        "object_store_memory": config.ray.object_store_bytes,
        "log_to_driver": False,
        "configure_logging": False,
        "_temp_dir": str(runtime.ray),
    }
    if config.data_plane == "loopback":
        options["_node_ip_address"] = "127.0.0.1"
    return options


def serve_options(config: Config) -> dict[str, Any]:
    """Arguments of ``serve.start``: no proxies unless a probe needs one, since requests never pass through them."""
    if config.ray.proxy_port is None:
        return {"proxy_location": "Disabled"}
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": config.gateway.host, "port": config.ray.proxy_port},
    }


def _cpus(config: Config) -> int:
    """Ray's CPUs are bookkeeping: as many as this machine has, and never too few for what the configuration places."""
    pools = sum(_most(pool) * pool.resources.cpus for pool in config.pools.values())
    gateways = config.gateway.replicas * config.gateway.cpus
    return max(os.cpu_count() or 1, math.ceil(pools + gateways + _ROUTER_CPUS))


def _most(pool: PoolConfig) -> int:
    return pool.replicas if pool.autoscaling is None else pool.autoscaling.max_replicas
