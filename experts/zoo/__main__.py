"""Command line of the family: train it, grade it."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from transformers.utils.logging import disable_progress_bar

from experts.zoo import family, grade
from experts.zoo.models import SIZES
from experts.zoo.train import Status

app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_enable=False)
disable_progress_bar()  # the library's own bars for files of a few megabytes would break ours

Out = Annotated[Path, typer.Option(help="directory of the family; phases that are not run are read from it")]
Minutes = Annotated[float, typer.Option(help="time for all four models; a single phase takes its share of it")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda")]
SizeName = Annotated[str | None, typer.Option("--size", help=f"one of {', '.join(SIZES)}; by device if not given")]
Phase = Annotated[
    list[str] | None, typer.Option(help=f"phases to run, of {', '.join(family.PHASES)}; all if not given")
]


@app.command()
def train(  # noqa: PLR0913 - one parameter per option of the command line
    out: Out,
    *,
    minutes: Minutes = 45.0,
    device: Device = "auto",
    size: SizeName = None,
    seed: int = 0,
    phase: Phase = None,
) -> None:
    """Train the family, or some phases of it."""
    unknown = set(phase or ()) - set(family.PHASES)
    if unknown or (size and size not in SIZES):
        raise typer.BadParameter(f"phases are {', '.join(family.PHASES)}; sizes are {', '.join(SIZES)}")
    plan = family.Plan.choose(out, minutes, device=device, size=size, seed=seed)
    columns = (
        TextColumn("{task.description:>9}"),
        BarColumn(),
        TextColumn("{task.fields[shown]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        bars: dict[str, TaskID] = {}

        def report(name: str, status: Status) -> None:
            if name not in bars:
                bars[name] = progress.add_task(name, total=1.0, shown="")
            shown = f"step {status.step}  loss {status.loss:.3f}  {status.speed:,.0f} tokens/s"
            progress.update(bars[name], completed=min(1.0, status.spent), shown=shown)

        family.run(plan, tuple(phase or family.PHASES), report)


@app.command(name="grade")
def grade_command(
    directory: Path,
    *,
    json_file: Annotated[Path | None, typer.Option("--json", help="also write the grades here")] = None,
    samples: Annotated[int, typer.Option(help="held-out tasks per domain")] = 128,
) -> None:
    """Measure a family on held-out tasks and print its grades; failing a bar is no error of the command."""
    grades = grade.grade(directory, samples=samples)
    if json_file:
        json_file.write_text(json.dumps(grade.report(grades), indent=2) + "\n", encoding="utf-8")
    table = Table("bar", "ours", "must", "unit", "holds")
    for row in grades.rows():
        must = "" if row.must is None else f"{'≥' if row.higher_is_better else '≤'} {row.must:,g}"
        table.add_row(row.bar, f"{row.ours:,.4g}", must, row.unit, {None: "", True: "yes", False: "NO"}[row.holds])
    Console().print(table)


if __name__ == "__main__":
    app()
