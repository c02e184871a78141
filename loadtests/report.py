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
    """What is measured. ``must`` bounds the ratio ours/theirs, or ours itself where there is no rival; lower is better.
    ``engine`` says whether tokens came from a real engine."""

    name: str
    unit: str
    must: float
    engine: str = "real"


class Row(msgspec.Struct, frozen=True):
    """One bar, measured: medians, and the spread of the pairwise ratios or of the values."""

    bar: str
    ours: float
    theirs: float | None
    unit: str
    ratio: float | None
    spread: tuple[float, float]
    must: float
    higher_is_better: bool
    holds: bool
    engine: str


def compared(bar: Bar, ours: Sequence[float], theirs: Sequence[float]) -> Row:
    """Ours against theirs, measured in turn."""
    ratio = median(ours) / median(theirs)
    pairs = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    spread = (pairs[0], pairs[-1])
    return _row(bar, median(ours), median(theirs), ratio, spread)


def bounded(bar: Bar, values: Sequence[float]) -> Row:
    """A figure of ours against a fixed bound."""
    return _row(bar, median(values), None, None, (min(values), max(values)))


def _row(bar: Bar, ours: float, theirs: float | None, ratio: float | None, spread: tuple[float, float]) -> Row:
    holds = (ours if ratio is None else ratio) <= bar.must
    return Row(bar.name, ours, theirs, bar.unit, ratio, spread, bar.must, False, holds, bar.engine)


def publish(name: str, rows: Sequence[Row]) -> Path:
    """Print the table, write ``results/<name>.json`` and return its path."""
    table = Table(title=name)
    for column in ("bar", "ours", "theirs", "ratio", "spread", "must", "holds"):
        table.add_column(column, justify="left" if column == "bar" else "right")
    for row in rows:
        table.add_row(*_cells(row))
    Console(width=140).print(table)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    document = {"machine": machine(), "commit": commit(), "rows": msgspec.to_builtins(rows)}
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
    holds = "yes" if row.holds else "no"
    return row.bar, f"{show(row.ours)} {row.unit}", theirs, show(row.ratio), spread, show(row.must), holds
