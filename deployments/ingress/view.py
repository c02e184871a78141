"""What the front door needs to know of the cluster: the models it offers and who is alive."""

from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from cluster.flags import Flag, Flags
from cluster.metrics import PoolLoad
from experts.config import PoolConfig, Speculation
from router.api import Counted, Directory, PoolView
from router.rules import AUTO


class ModelCard(msgspec.Struct, frozen=True):
    """A model that clients may name. ``max_context`` counts prompt plus output tokens, None where it depends on where
    the request goes. Without a ``required`` one the gateway is not ready."""

    name: str
    description: str = ""
    max_context: int | None = None
    required: bool = False


class Rollout(Protocol):
    """The flags in force and what their experiments have counted."""

    @property
    def flags(self) -> Flags: ...

    async def change(self, flag: Flag, expected: int | None) -> Flag:
        """Put a flag in force if it still has version ``expected``. Raises NotFound, Conflict, BadRequest or
        RouterUnavailable."""

    def counted(self) -> Counted: ...


class ClusterView(Protocol):
    """The door through which the front door sees the cluster."""

    def models(self) -> tuple[ModelCard, ...]: ...

    def directory(self) -> Directory | None:
        """The router's latest word; None until it has spoken."""

    @property
    def rollout(self) -> Rollout: ...

    def speculation(self) -> Mapping[str, Speculation]:
        """How each pool that is configured to speculate does it."""


class ConfiguredView:
    """The view of a gateway: models from the configuration, life from the directory that its link last received."""

    def __init__(
        self,
        pools: Mapping[str, PoolConfig],
        max_context: Callable[[str], int],
        directory: Callable[[], Directory | None],
        rollout: Rollout,
    ) -> None:
        experts = {name: pool for name, pool in pools.items() if pool.kind == "expert"}
        self._models = [ModelCard(AUTO, "The pool that the router's rules choose")]
        for name, pool in experts.items():
            context = max_context(name)
            self._models.append(ModelCard(name, pool.description, context, required=pool.required))
            for adapter in getattr(pool.engine, "adapters", ()):
                self._models.append(ModelCard(f"{name}/{adapter}", f"{adapter} on {name}", context))
        self._speculation = {
            name: pool.speculation for name, pool in experts.items() if pool.speculation.layout != "off"
        }
        self._directory = directory
        self._rollout = rollout

    def models(self) -> tuple[ModelCard, ...]:
        return tuple(self._models)

    def directory(self) -> Directory | None:
        return self._directory()

    @property
    def rollout(self) -> Rollout:
        return self._rollout

    def speculation(self) -> Mapping[str, Speculation]:
        return self._speculation


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
