"""What the command line shows: plain functions from records to rich renderables."""

from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from deployments.cli.client import gateway_url
from deployments.cli.runtime import Progress, Step
from deployments.config import Config
from deployments.ingress.status import PoolStatus, ReplicaStatus, Status
from deployments.ingress.watch import DraftStatus
from experts.config import PoolConfig

_MARKS = {"running": Text("…", "yellow"), "done": Text("✓", "green"), "failed": Text("✗", "red")}


class Stage:
    """Shows a start while it happens: a live table on a terminal, a line per finished step elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=5) if console.is_terminal else None
        self._told: set[str] = set()

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, progress: Progress) -> None:
        if self._live is not None:
            self._live.update(progress_table(progress))
            return
        for step in progress.steps:
            if step.state != "running" and step.name not in self._told:
                self._told.add(step.name)
                self._console.print(step_line(step), soft_wrap=True)


def progress_table(progress: Progress) -> Table:
    """The start, step by step, with seconds."""
    table = Table.grid(padding=(0, 2))
    for step in progress.steps:
        table.add_row(_MARKS[step.state], step.name, Text(f"{step.seconds:5.1f} s", "dim"), Text(step.note, "dim"))
    return table


def step_line(step: Step) -> str:
    """The same as one line, for logs."""
    return f"{_MARKS[step.state].plain} {step.name} {step.seconds:.1f} s {step.note}".rstrip()


def welcome(config: Config, seconds: float) -> RenderableType:
    """Where the cluster is and how to talk to it."""
    url = gateway_url(config.gateway)
    body = '{"model": "auto", "messages": [{"role": "user", "content": "Hello"}]}'
    return Group(
        Text.assemble((config.name, "bold"), " is ", (f"ready in {seconds:.1f} s", "green")),
        Text(f"  HTTP   {url}"),
        Text(f"  gRPC   {config.gateway.host}:{config.gateway.grpc_port}"),
        Text(f"  try    curl {url}/v1/chat/completions -H 'content-type: application/json' -d '{body}'"),
        Text("         switchyard chat"),
    )


def status_view(status: Status) -> RenderableType:
    """Who is there and how busy, and then what the drafts of those pools do that have any."""
    parts: list[RenderableType] = [status_table(status)]
    if any(pool.drafts is not None for pool in status.pools):
        parts += ["", drafts_table(status)]
    return Group(*parts)


def drafts_table(status: Status) -> Table:
    """Pools that speculate: how, in which mode and why, and what the last minute brought."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    for name in ("drafts", "layout", "mode", "reason"):
        table.add_column(name, no_wrap=True)
    for name in ("depth", "accepted", "ahead", "wait p95", "vs plain"):
        table.add_column(name, justify="right", no_wrap=True)
    for pool in status.pools:
        if pool.drafts is not None:
            table.add_row(pool.pool, *_drafts_row(pool.drafts))
    return table


def _drafts_row(drafts: DraftStatus) -> list[str]:
    modes = " ".join(mode if count == 1 else f"{count} {mode}" for mode, count in drafts.modes.items() if mode)
    return [
        drafts.layout,
        modes or "-",
        drafts.reason or "-",
        f"{drafts.depth:.1f}",
        _share(drafts.acceptance),
        _share(drafts.hit_rate),
        "-" if drafts.wait_p95 is None else f"{1000 * drafts.wait_p95:.1f} ms",
        "-" if drafts.speedup is None else f"{drafts.speedup:.2f}x",
    ]


def status_table(status: Status) -> Table:
    """Pools, and under each its replicas."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("pool", no_wrap=True)
    table.add_column("replica", no_wrap=True)
    for name in ("queued", "running", "waiting", "KV", "step", "tokens", "accepted", "age"):
        table.add_column(name, justify="right", no_wrap=True)
    for pool in status.pools:
        table.add_row(*_pool_row(pool), style="bold")
        for replica in pool.replicas:
            table.add_row(*_replica_row(replica))
    return table


def _pool_row(pool: PoolStatus) -> list[str]:
    running = sum(each.running for each in pool.replicas)
    waiting = sum(each.waiting for each in pool.replicas)
    tokens = sum(each.tokens for each in pool.replicas)
    replicas = f"{len(pool.replicas)} {pool.kind}" if pool.replicas else "none"
    return [
        pool.pool,
        replicas,
        str(pool.queued),
        str(running),
        str(waiting),
        "",
        "",
        str(tokens),
        _share(pool.acceptance),
        "",
    ]


def _replica_row(replica: ReplicaStatus) -> list[str]:
    return [
        "",
        replica.replica.partition("#")[2] or replica.replica,
        "",
        str(replica.running),
        str(replica.waiting),
        f"{replica.kv_use:.0%}",
        f"{replica.step_ms:.1f} ms",
        str(replica.tokens),
        _share(replica.accepted / replica.drafted if replica.drafted else None),
        f"{replica.age:.1f} s",
    ]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def config_table(config: Config) -> RenderableType:
    """A validated configuration in short."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("pool", "kind", "model", "engine", "drafts", "replicas", "resources"):
        table.add_column(name)
    for name, pool in config.pools.items():
        table.add_row(name, pool.kind, pool.model, pool.engine.kind, _drafts(pool), _replicas(pool), _resources(pool))
    rules = ", ".join(f"{'+'.join(rule.when)} -> {rule.pool}" for rule in config.router.rules) or "none"
    return Group(
        Text.assemble((config.name, "bold"), f"  {gateway_url(config.gateway)}, data plane on {config.data_plane}"),
        table,
        Text(f"auto: {rules}; otherwise {config.router.default_pool}"),
    )


def _drafts(pool: PoolConfig) -> str:
    speculation = pool.speculation
    if speculation.layout == "off":
        return "-"
    return f"{speculation.layout} {speculation.pool or ''}".strip() + f", {speculation.depth} per step"


def _replicas(pool: PoolConfig) -> str:
    scaling = pool.autoscaling
    return str(pool.replicas) if scaling is None else f"{scaling.min_replicas}-{scaling.max_replicas}"


def _resources(pool: PoolConfig) -> str:
    resources = pool.resources
    parts = [f"{resources.cpus:g} CPU"]
    if resources.gpus:
        parts.append(f"{resources.gpus:g} {resources.accelerator or 'GPU'}")
    parts.extend(f"{key}={value}" for key, value in resources.labels.items())
    return ", ".join(parts)
