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


class Row(msgspec.Struct, frozen=True):
    """One bar. ``ratio`` is ours/theirs; ``must`` bounds the ratio, or ours itself where there is no rival."""

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


def compared(bar: str, ours: Sequence[float], theirs: Sequence[float], *, unit: str, must: float, engine: str) -> Row:
    """Ours against theirs, lower being better: the ratio of the medians, and the spread of the pairwise ratios."""
    ratio = median(ours) / median(theirs)
    pairs = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    spread = (pairs[0], pairs[-1])
    return Row(bar, median(ours), median(theirs), unit, ratio, spread, must, False, ratio <= must, engine)


def bounded(bar: str, values: Sequence[float], *, unit: str, must: float, engine: str) -> Row:
    """A figure of ours against a fixed bound, lower being better."""
    ours = median(values)
    return Row(bar, ours, None, unit, None, (min(values), max(values)), must, False, ours <= must, engine)


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
