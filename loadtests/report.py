"""The form of a result: rows of a bar, ours against theirs, printed as a table and written as JSON."""

import json
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import msgspec
import psutil
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"


class Bar(msgspec.Struct, frozen=True):
    """What is measured. ``must`` bounds the ratio ours/theirs, or ours itself where there is no rival: from above, or
    from below where higher is better; None where no bar is set. ``engine`` says whether tokens came from a real one."""

    name: str
    unit: str
    must: float | None = None
    engine: str = "real"
    higher_is_better: bool = False


class Row(msgspec.Struct, frozen=True):
    """One bar, measured: medians, and the spread of the pairwise ratios or of the values."""

    bar: str
    ours: float
    theirs: float | None
    unit: str
    ratio: float | None
    spread: tuple[float, float]
    must: float | None
    higher_is_better: bool
    holds: bool | None
    engine: str


class Outcome(msgspec.Struct, frozen=True):
    """The rows of a benchmark, and what else is worth keeping of it (anything msgspec can turn into JSON)."""

    rows: tuple[Row, ...]
    detail: object = None


def compared(bar: Bar, ours: Sequence[float], theirs: Sequence[float]) -> Row:
    """Ours against theirs, measured in turn: the ratio is the median of those of each turn, as the speed of a shared
    host changes in between."""
    pairs = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    return _row(bar, median(ours), median(theirs), median(pairs), (pairs[0], pairs[-1]))


def bounded(bar: Bar, values: Sequence[float]) -> Row:
    """A figure of ours against a fixed bound."""
    return _row(bar, median(values), None, None, (min(values), max(values)))


def _row(bar: Bar, ours: float, theirs: float | None, ratio: float | None, spread: tuple[float, float]) -> Row:
    figure = ours if ratio is None else ratio
    holds = None
    if bar.must is not None:
        holds = figure >= bar.must if bar.higher_is_better else figure <= bar.must
    return Row(bar.name, ours, theirs, bar.unit, ratio, spread, bar.must, bar.higher_is_better, holds, bar.engine)


def publish(name: str, outcome: Outcome) -> Path:
    """Print the table, write ``results/<name>.json`` and return its path."""
    table = Table(title=name)
    for column in ("bar", "ours", "theirs", "ratio", "spread", "must", "holds"):
        table.add_column(column, justify="left" if column == "bar" else "right")
    for row in outcome.rows:
        table.add_row(*_cells(row))
    Console(width=140).print(table)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    document = {"machine": machine(), "commit": commit(), "rows": msgspec.to_builtins(outcome.rows)}
    if outcome.detail is not None:
        document["detail"] = msgspec.to_builtins(outcome.detail)
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return path


def machine() -> dict[str, object]:
    """What the figures depend on."""
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    return {
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "processor": platform.machine(),
        "avx512_bf16": "avx512_bf16" in flags,
        "load": psutil.getloadavg()[0],
    }


def commit() -> str:
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)  # noqa: S607
    return found.stdout.strip() or "unknown"


def _cells(row: Row) -> tuple[str, ...]:
    def show(value: float | None) -> str:
        return "" if value is None else f"{value:.3g}"

    theirs = "" if row.theirs is None else f"{show(row.theirs)} {row.unit}"
    spread = f"{show(row.spread[0])}..{show(row.spread[1])}"
    bound = "" if row.must is None else f"{'>=' if row.higher_is_better else '<='} {show(row.must)}"
    holds = {True: "yes", False: "no", None: ""}[row.holds]
    return row.bar, f"{show(row.ours)} {row.unit}", theirs, show(row.ratio), spread, bound, holds
