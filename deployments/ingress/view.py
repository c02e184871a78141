"""What the front door needs to know of the cluster: the models it offers and who is alive."""

from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from cluster.metrics import PoolLoad
from experts.config import PoolConfig
from router.api import Directory, PoolView
from router.rules import AUTO


class ModelCard(msgspec.Struct, frozen=True):
    """A model that clients may name. ``max_context`` counts prompt plus output tokens, None where it depends on where
    the request goes. Without a ``required`` one the gateway is not ready."""

    name: str
    description: str = ""
    max_context: int | None = None
    required: bool = False


class ClusterView(Protocol):
    """The door through which the front door sees the cluster."""

    def models(self) -> tuple[ModelCard, ...]: ...

    def directory(self) -> Directory | None:
        """The router's latest word; None until it has spoken."""


class ConfiguredView:
    """The view of a gateway: models from the configuration, life from the directory that its link last received."""

    def __init__(
        self,
        pools: Mapping[str, PoolConfig],
        max_context: Callable[[str], int],
        directory: Callable[[], Directory | None],
    ) -> None:
        experts = {name: pool for name, pool in pools.items() if pool.kind == "expert"}
        self._models = [ModelCard(AUTO, "The pool that the router's rules choose")]
        for name, pool in experts.items():
            context = max_context(name)
            self._models.append(ModelCard(name, pool.description, context, required=pool.required))
            for adapter in getattr(pool.engine, "adapters", ()):
                self._models.append(ModelCard(f"{name}/{adapter}", f"{adapter} on {name}", context))
        self._directory = directory

    def models(self) -> tuple[ModelCard, ...]:
        return tuple(self._models)

    def directory(self) -> Directory | None:
        return self._directory()


def load_of(pool: PoolView) -> PoolLoad:
    """The sums that dashboards show of a pool."""
    states = [replica.state for replica in pool.replicas]
    return PoolLoad(
        pool=pool.pool,
        replicas=len(states),
        queued=pool.queued,
        running=sum(state.running for state in states),
        waiting=sum(state.waiting for state in states),
        kv_use=max((state.kv_use for state in states), default=0.0),
    )
