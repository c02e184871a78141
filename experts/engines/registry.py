"""Which engine stands behind a pool: one line per kind. A kind's runtime is imported only when a pool asks for it."""

from collections.abc import Callable

from cluster.errors import ConfigError
from experts.api import Engine
from experts.config import PoolConfig


def _vllm(name: str, pool: PoolConfig) -> Engine:
    from experts.engines.vllm_engine import VllmHost

    return VllmHost(name, pool)


def _simulated(name: str, pool: PoolConfig) -> Engine:
    from experts.engines.simulated import Simulated

    return Simulated(name, pool)


ENGINES: dict[str, Callable[[str, PoolConfig], Engine]] = {
    "vllm": _vllm,
    "simulated": _simulated,
}


def build_engine(name: str, pool: PoolConfig) -> Engine:
    """The engine of the pool called ``name``, not yet started. Raises ConfigError for a kind without one."""
    build = ENGINES.get(pool.engine.kind)
    if build is None:
        raise ConfigError(
            f"pool {name}: no engine of kind {pool.engine.kind!r} generates; there are {', '.join(ENGINES)}"
        )
    return build(name, pool)
