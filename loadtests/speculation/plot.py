"""The picture of a run: ``python -m loadtests.speculation.plot`` draws the last one again."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loadtests.report import RESULTS
from loadtests.speculation.summary import PARTS, Sample, Summary, budget
from loadtests.speculation.trace import ADAPTIVE, Pace

COLOURS = {
    "plain": "#4d4d4d",
    "co-resident, one core": "#b07aa1",
    "co-resident, 2 cores": "#9c755f",
    "split sync": "#9ecae1",
    "split ahead": "#08519c",
    "split sync, fixed K": "#fdbe85",
    "split ahead, fixed K": "#e6550d",
}
SHARES = dict(zip(PARTS, ("#08519c", "#3182bd", "#e6550d", "#fdae6b", "#fdd0a2", "#74c476", "#a1d99b", "#c7e9c0",
                          "#bdbdbd"), strict=True))  # fmt: skip
OTHER = "#dddddd"
SHOWN = (1, 4, 16)
"""Batches where a line for each would be too many."""


class Figures(msgspec.Struct, frozen=True):
    """The part of a result that is drawn."""

    embedded: tuple[Summary, ...]
    parts: tuple[Sample, ...]
    random: tuple[Summary, ...]
    trace: tuple[Pace, ...]


def draw(figures: Any, path: Path) -> Path:
    """``figures`` has the fields of ``Figures``. Returns ``path``, which is a PNG."""
    figure = Figure(figsize=(15, 10.5), layout="constrained")
    axes = figure.subplots(2, 2)
    _ratios(axes[0][0], figures.embedded)
    _budgets(axes[0][1], figures.parts)
    _synthetic(axes[1][0], figures.random)
    _phases(axes[1][1], figures.trace)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)
    return path


def _ratios(axes: Axes, found: Sequence[Summary]) -> None:
    """Tokens per second over plain's median, per batch."""
    batches = sorted({each.batch for each in found})
    plain = {each.batch: each.speed for each in found if each.arm == "plain"}
    names = list(dict.fromkeys(each.arm for each in found))
    width = 0.85 / len(names)
    for place, name in enumerate(names):
        mine = {each.batch: each for each in found if each.arm == name}
        xs = [index + (place - (len(names) - 1) / 2) * width for index, batch in enumerate(batches) if batch in mine]
        some = [mine[batch] for batch in batches if batch in mine]
        heights = [each.speed / plain[each.batch] for each in some]
        low = [(each.speed - each.spread[0]) / plain[each.batch] for each in some]
        high = [(each.spread[1] - each.speed) / plain[each.batch] for each in some]
        axes.bar(xs, heights, width * 0.92, label=name, color=COLOURS.get(name, OTHER))
        axes.errorbar(xs, heights, yerr=[low, high], fmt="none", ecolor="black", elinewidth=0.8, capsize=1.5)
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.axhline(2.0, color="grey", linewidth=0.8, linestyle="--")
    axes.set_xticks(range(len(batches)), [f"{batch}\n{plain[batch]:.0f} tok/s" for batch in batches])
    axes.set_xlabel("requests in flight, and plain vLLM's speed with them")
    axes.set_ylabel("tokens/s over plain vLLM")
    axes.set_title("Embedded family: generation speed (median and range)")
    axes.set_ylim(top=axes.get_ylim()[1] * 1.25)
    axes.legend(fontsize=8, ncols=3, loc="upper center")


def _budgets(axes: Axes, samples: Sequence[Sample]) -> None:
    """Milliseconds per step, stacked by part, with the tokens that the step brought per sequence."""
    shown = [each for each in samples if each.batch in SHOWN] or list(samples)
    labels = [f"{each.arm}  x{each.batch}" for each in shown]
    left = [0.0] * len(shown)
    budgets = [budget(each.measured) for each in shown]
    for part in PARTS:
        widths = [each.get(part, 0.0) for each in budgets]
        axes.barh(range(len(shown)), widths, left=left, label=part, color=SHARES[part], height=0.8)
        left = [before + more for before, more in zip(left, widths, strict=True)]
    for row, (each, end) in enumerate(zip(shown, left, strict=True)):
        gained = each.measured.decode_tokens / max(1, each.measured.rows)
        axes.text(end, row, f" {gained:.1f} tok", va="center", fontsize=7)
    axes.set_yticks(range(len(shown)), labels, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlim(right=max(left) * 1.3)
    axes.set_xlabel("milliseconds per step (behind it: tokens per sequence and step)")
    axes.set_title("Where a step's time goes")
    axes.legend(fontsize=8, loc="center right")


def _synthetic(axes: Axes, found: Sequence[Summary]) -> None:
    """Speed over plain by acceptance, one line per arm and batch; of many batches those that the budgets show."""
    found = [each for each in found if each.batch in SHOWN] or found
    plain = {(each.batch, each.given): each.speed for each in found if each.arm == "plain"}
    styles = dict(zip(sorted({each.batch for each in found}), ("-", "--", ":"), strict=False))
    for name, batch in dict.fromkeys((each.arm, each.batch) for each in found if each.arm != "plain"):
        some = [each for each in found if (each.arm, each.batch) == (name, batch)]
        xs = [each.given or 0.0 for each in some]
        ys = [each.speed / plain[each.batch, each.given] for each in some]
        axes.plot(xs, ys, styles[batch], marker="o", color=COLOURS.get(name, OTHER), label=f"{name}  x{batch}")
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set_xlim(0.55, 0.95)
    axes.set_ylim(0.0, max(1.0, *axes.get_ylim()) * 1.3)
    axes.set_xticks(sorted({each.given or 0.0 for each in found}))
    axes.set_xlabel("synthetic acceptance of a draft")
    axes.set_ylabel("tokens/s over plain vLLM")
    axes.set_title("71M dense, random weights, synthetic acceptance\n(drafting ahead cannot hit here)")
    axes.legend(fontsize=7, ncols=3, loc="upper center")


def _phases(axes: Axes, paces: Sequence[Pace]) -> None:
    """Each arm's speed in each phase over that of the best fixed depth."""
    names, phases = (list(dict.fromkeys(getattr(each, field) for each in paces)) for field in ("arm", "phase"))
    speed = {(p, n): median(e.speed for e in paces if (e.phase, e.arm) == (p, n)) for p in phases for n in names}
    best = {phase: max(speed[phase, name] for name in names if name != ADAPTIVE) for phase in phases}
    width = 0.85 / max(1, len(names))
    colours = colormaps["Oranges"]
    for place, name in enumerate(names):
        xs = [index + (place - (len(names) - 1) / 2) * width for index in range(len(phases))]
        colour = COLOURS["split ahead"] if name == ADAPTIVE else colours(0.15 + 0.75 * place / len(names))
        axes.bar(xs, [speed[p, name] / best[p] for p in phases], width * 0.92, label=name, color=colour)
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.axhline(0.95, color="grey", linewidth=0.8, linestyle="--")
    axes.set_xticks(range(len(phases)), phases)
    axes.set_xlabel("phase: traffic and requests in flight, one after the other")
    axes.set_ylabel("tokens/s over the best fixed depth's")
    axes.set_title("The controller on changing traffic (bar: 0.95)")
    axes.set_ylim(0.0, max(1.0, *axes.get_ylim()) * 1.15)
    axes.legend(fontsize=8, ncols=6, loc="upper center")


def main() -> None:
    stored = json.loads((RESULTS / "speculation.json").read_text(encoding="utf-8"))
    print(draw(msgspec.convert(stored["detail"], Figures), RESULTS / "speculation.png"))


if __name__ == "__main__":
    main()
