"""The bars that speculation is held to, and the tables that show what is behind them."""

from collections.abc import Callable, Sequence
from statistics import median

from rich.table import Table

from loadtests.drift import Phase
from loadtests.report import Bar, Row, compared
from loadtests.speculation.messages import Measured
from loadtests.speculation.summary import PARTS, Ceiling, Sample, Summary, budget, decode_rate, rate_of, speeds
from loadtests.speculation.trace import Verdict

FLOOR = 0.95
SMALL = 4
"""Up to this batch speculation must pay; beyond it must not cost."""
RIVALS = {"plain": 2.0, "co-resident, one core": 1.3, "co-resident, 2 cores": 1.0}
"""The least ratio of ours to each at a small batch."""


def pair_rows(samples: Sequence[Sample], ours: str, *, pair: str, engine: str) -> list[Row]:
    """Ours against every rival at every batch, with prefills and without."""
    rows = []
    for acceptance, batch in dict.fromkeys((each.acceptance, each.batch) for each in samples):
        assumed = "" if acceptance is None else f", acceptance {acceptance:g}"
        for rival, least in RIVALS.items():
            mine, other = (speeds(samples, name, batch, acceptance) for name in (ours, rival))
            must = least if batch <= SMALL else FLOOR if rival == "plain" else None
            if not mine or not other or must is None:
                continue
            name = f"{pair}{assumed}: {ours} vs {rival}, batch {batch}"
            for words, rate in (("", rate_of), (", decode only", decode_rate)):
                bar = Bar(name + words, "tokens/s", must, engine, higher_is_better=True)
                rows.append(_compared(bar, mine, other, rate))
    return rows


def trace_rows(found: Sequence[Verdict]) -> list[Row]:
    return [
        compared(_controller(f"{each.phase} in flight", f"fixed {each.best}", "real"), each.ours, each.theirs)
        for each in found
    ]


def virtual_rows(found: Sequence[Phase]) -> list[Row]:
    """The same question on a model of an engine, in virtual time: no noise but its own, and far more phases."""
    return [
        compared(_controller(each.name, f"fixed K={each.best_depth}", "virtual"), [each.ours], [each.best])
        for each in found
    ]


def _controller(phase: str, rival: str, engine: str) -> Bar:
    return Bar(f"controller, {phase}, vs {rival}", "tokens/s", FLOOR, engine, higher_is_better=True)


def _compared(bar: Bar, ours: Sequence[Measured], theirs: Sequence[Measured], rate: Callable[[Measured], float]) -> Row:
    return compared(bar, [rate(each) for each in ours], [rate(each) for each in theirs])


def summary_table(title: str, found: Sequence[Summary]) -> Table:
    """One line per arm and batch."""
    table = Table(title=title)
    heads = ("batch", "arm", "K", "tokens/s", "spread", "decode only", "ms/step", "tokens/step/row", "acceptance",
             "hits", "wait ms", "cpu", "draft cpu")  # fmt: skip
    for head in heads:
        table.add_column(head, justify="left" if head == "arm" else "right")
    last = None
    for each in found:
        if last is not None and (each.given, each.batch) != last:
            table.add_section()
        last = (each.given, each.batch)
        table.add_row(*_cells(each))
    return table


def _cells(each: Summary) -> tuple[str, ...]:
    batch = str(each.batch) if each.given is None else f"{each.batch} @ {each.given:g}"
    return (
        batch,
        each.arm,
        str(each.depth or ""),
        f"{each.speed:.0f}",
        f"{each.spread[0]:.0f}..{each.spread[1]:.0f}",
        f"{each.decode:.0f}",
        f"{each.step_ms:.2f}",
        f"{each.per_row:.2f}",
        f"{each.acceptance:.2f}" if each.acceptance else "",
        f"{each.hits:.2f}" if each.hits else "",
        f"{each.wait_ms:.2f}" if each.wait_ms else "",
        f"{each.cpu:.2f}",
        f"{each.drafter:.2f}",
    )


def ceiling_table(title: str, found: Sequence[Ceiling], samples: Sequence[Sample], ours: str) -> Table:
    """What is possible at each batch and acceptance, and what was made of it without prefills."""
    table = Table(title=title)
    for head in ("batch", "acceptance", "plain ms", "K", "verify ms", "drafts for nothing", "measured"):
        table.add_column(head, justify="right")
    for each in found:
        mine, plain = (
            median(map(decode_rate, speeds(samples, name, each.batch, each.acceptance))) for name in (ours, "plain")
        )
        table.add_row(
            str(each.batch),
            f"{each.acceptance:g}",
            f"{each.plain_ms:.1f}",
            str(each.depth),
            f"{each.step_ms:.1f}",
            f"{each.ratio:.2f}x",
            f"{mine / plain:.2f}x",
        )
    return table


def budget_table(title: str, samples: Sequence[Sample]) -> Table:
    """Milliseconds per step and part, of timed windows."""
    table = Table(title=title)
    for head in ("batch", "arm", *PARTS, "sum"):
        table.add_column(head, justify="left" if head == "arm" else "right")
    for each in samples:
        parts = budget(each.measured)
        shown = [f"{parts[name]:.2f}" if name in parts else "" for name in PARTS]
        table.add_row(str(each.batch), each.arm, *shown, f"{sum(parts.values()):.2f}")
    return table
