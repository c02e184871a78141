"""What every replica process does first: quiet libraries, offline hubs, its name, node and the way to the router."""

import logging
import os
from typing import Any

import ray
from ray import serve

from deployments.config import Config
from deployments.dataplane.membership import Resolve

_ENVIRONMENT = {
    # In-process engines: one thread each unless the profile pins more cores.
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "TQDM_DISABLE": "1",
}


def prepare() -> None:
    """Set what libraries read at import. Values the operator set win."""
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    logging.getLogger("httpx").setLevel(logging.WARNING)


def replica_name() -> str:
    """Serve's unique name for this replica, as ``deployment#id``."""
    identity = serve.get_replica_context().replica_id
    return f"{identity.deployment_id.name}#{identity.unique_id}"


def node_id() -> str:
    return str(ray.get_runtime_context().get_node_id())


def listen_host(config: Config) -> str:
    """Where the data plane listens: loopback on one machine, the node's address in a cluster of several."""
    return "127.0.0.1" if config.data_plane == "loopback" else str(ray.util.get_node_ip_address())


def router_resolver(handle: Any) -> Resolve:
    """The living router's endpoint, through Serve: it knows where the actor is now."""

    async def resolve() -> str:
        return str(await handle.endpoint.remote())

    return resolve
