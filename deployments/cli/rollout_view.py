"""What the commands around flags show: plain functions from records to rich renderables."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cluster.comparison import Comparison, Estimate, Measure, PoolComparison, Served
from cluster.flags import Flag

_COLOURS = {"better": "green", "worse": "red", "no difference shown": "", "not enough data": "dim"}
_BAR = 10
WIDTH = 120
"""Columns a comparison needs. A narrower terminal wraps its lines; cut off, they would lose the verdict."""


def flags_table(flags: Sequence[Flag]) -> Table:
    """One line per flag."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("flag", "version", "state", "requests", "tenants", "routes"):
        table.add_column(name, no_wrap=name != "tenants")
    for flag in flags:
        state = Text("on", "green") if flag.enabled else Text("off for everybody", "red")
        share = Text.assemble((_bar(flag.percent), "green" if flag.enabled else "dim"), f" {flag.percent:g} %")
        table.add_row(
            Text(flag.name, "bold"),
            str(flag.version),
            state,
            share,
            _overrides(flag.tenants),
            _overrides(flag.routes),
        )
    return table


def experiment_table(found: Comparison) -> RenderableType:
    """Per pool both cohorts, how they compare, and the verdict."""
    gateways = "1 gateway" if found.gateways == 1 else f"{found.gateways} gateways"
    ramp = f"{found.percent:g} % on" if found.enabled else "off for everybody"
    parts: list[RenderableType] = [
        Text.assemble((found.flag, "bold"), f"  version {found.version}, {ramp}, counted by {gateways}")
    ]
    if not found.pools:
        parts.append(Text("nothing was counted since the flag was last changed", "dim"))
    for pool in found.pools:
        parts += [Text(""), _pool_table(pool), Text(pool.summary, _COLOURS[pool.verdict] or "none")]
    return Group(*parts)


def _pool_table(pool: PoolComparison) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(Text(pool.pool, "bold not dim"), no_wrap=True)
    for name in ("on", "p50", "p95", "off", "p50", "p95", "on/off", "95 %"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_row("requests", str(pool.on.requests), "", "", str(pool.off.requests))
    table.add_row("tokens per request", _tokens(pool.on), "", "", _tokens(pool.off))
    for measure in pool.measures:
        effect, interval = _effect(measure)
        verdict = Text(measure.verdict, _COLOURS[measure.verdict])
        table.add_row(measure.name, *_cells(measure.on), *_cells(measure.off), effect, interval, verdict)
    return table


def _cells(estimate: Estimate) -> tuple[str, str, str]:
    """Mean or share, and quantiles where there are any."""
    if not estimate.n:
        return ("-", "", "")
    if estimate.p50 is None or estimate.p95 is None:
        return (f"{estimate.mean:.2%}", "", "")
    return (seconds(estimate.mean), seconds(estimate.p50), seconds(estimate.p95))


def seconds(value: float) -> str:
    """With a unit in which it reads well."""
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.3g} ms"


def _effect(measure: Measure) -> tuple[str, str]:
    if measure.effect is None:
        return ("-", "-")
    if measure.kind == "ratio":
        return (f"x {measure.effect:.2f}", f"{measure.low:.2f} to {measure.high:.2f}")
    return (f"{measure.effect:+.2f} pt", f"{measure.low:+.2f} to {measure.high:+.2f}")


def _tokens(served: Served) -> str:
    return f"{served.tokens / served.requests:.1f}" if served.requests else "-"


def _overrides(states: dict[str, bool]) -> Text:
    if not states:
        return Text("-", "dim")
    named = [Text(f"{name}={'on' if on else 'off'}", "green" if on else "red") for name, on in sorted(states.items())]
    return Text(" ").join(named)


def _bar(percent: float) -> str:
    full = round(percent / 100 * _BAR)
    return "█" * full + "░" * (_BAR - full)
