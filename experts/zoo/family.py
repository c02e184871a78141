"""The family from nothing: tokenizer, verifier, two specialists, a draft taught by the verifier, and the manifest."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from experts.zoo import manifest
from experts.zoo.catalog import CODE, DRAFT, GENERAL, TOOLS
from experts.zoo.models import SIZES, Size, build, load, save
from experts.zoo.objectives import answer_loss, distillation
from experts.zoo.stream import EARLY_MIX, Layout
from experts.zoo.tokenizer import load_tokenizer, train_tokenizer
from experts.zoo.train import Bench, Place, Recipe, Report, Stage, Status, fit

TOKENIZER, MANIFEST = "tokenizer", "manifest"
BUDGET: Mapping[str, float] = {GENERAL: 0.47, CODE: 0.08, TOOLS: 0.15, DRAFT: 0.30}  # shares of the whole time
ALONE = 0.35  # share of its time that a draft learns answers without a teacher, at three times the speed
SPECIALIST_LR = 0.3  # a specialist keeps what the verifier knows of its domain: smaller steps

PhaseReport = Callable[[str, Status], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """One run of training: where to, for how long, how large and on what."""

    out: Path
    minutes: float
    size: Size
    place: Place
    rows: int = 14  # of 256 tokens in a batch
    workers: int = 1
    seed: int = 0
    steps: int | None = None  # per phase, instead of the time

    @classmethod
    def choose(cls, out: Path, minutes: float, *, device: str, size: str | None, seed: int) -> "Plan":
        """Fill in what the machine suggests: a GPU takes larger batches, more makers of them and the larger family."""
        place = Place.find(device)
        if place.device.type == "cuda":
            return cls(out, minutes, SIZES[size or "large"], place, rows=192, workers=8, seed=seed)
        return cls(out, minutes, SIZES[size or "small"], place, seed=seed)

    def recipe(self, phase: str, stages: tuple[Stage, ...]) -> Recipe:
        """Return the recipe of a phase, with its share of the time."""
        return Recipe(
            60 * self.minutes * BUDGET[phase],
            stages,
            seed=self.seed + list(BUDGET).index(phase),
            workers=self.workers,
            steps=self.steps,
        )


def run(plan: Plan, phases: tuple[str, ...], report: PhaseReport) -> None:
    """Run phases in order; each leaves a complete checkpoint, so any may be run again alone."""
    for phase in phases:
        torch.manual_seed(plan.seed)
        PHASES[phase](plan, partial(report, phase))


def _tokenizer(plan: Plan, _: Report) -> None:
    train_tokenizer(plan.seed).save_pretrained(plan.out / GENERAL)


def _general(plan: Plan, report: Report) -> None:
    """Train the verifier, at last with random records and with longer rows for prompts with many tools."""
    stages = (
        Stage(Layout(plan.rows, 256), 0.87, EARLY_MIX),
        Stage(Layout(max(1, plan.rows // 3), 768), 1.0),
    )
    bench = _bench(plan, report)
    model = fit(build(plan.size.verifier), answer_loss, recipe=plan.recipe(GENERAL, stages), bench=bench)
    save(model, bench.tokenizer, plan.out / GENERAL)


def _specialist(plan: Plan, report: Report, *, domain: str) -> None:
    """Tune the verifier on one domain only; it forgets the others, which is what makes routing matter."""
    recipe = plan.recipe(domain, (Stage(Layout(plan.rows, 256), 1.0, {domain: 1.0}),))
    recipe = replace(recipe, lr=SPECIALIST_LR * recipe.lr, adam_lr=SPECIALIST_LR * recipe.adam_lr)
    bench = _bench(plan, report)
    model = fit(load(plan.out / GENERAL), answer_loss, recipe=recipe, bench=bench)
    save(model, bench.tokenizer, plan.out / domain)


def _draft(plan: Plan, report: Report) -> None:
    """Teach the draft answers, then what this very verifier says: to be repeated whenever the verifier changes."""
    bench = _bench(plan, report)
    recipe = plan.recipe(DRAFT, (Stage(Layout(plan.rows, 256), 1.0),))
    first = replace(recipe, seconds=ALONE * recipe.seconds)
    second = replace(recipe, seconds=(1 - ALONE) * recipe.seconds, seed=recipe.seed + len(BUDGET))
    draft = fit(build(plan.size.draft), answer_loss, recipe=first, bench=bench)
    teacher = load(plan.out / GENERAL).to(plan.place.device).eval()
    draft = fit(draft, distillation(teacher), recipe=second, bench=bench)
    save(draft, bench.tokenizer, plan.out / DRAFT)


def _bench(plan: Plan, report: Report) -> Bench:
    return Bench(load_tokenizer(plan.out / GENERAL), plan.place, report)


PHASES: Mapping[str, Callable[[Plan, Report], None]] = {
    TOKENIZER: _tokenizer,
    GENERAL: _general,
    CODE: lambda plan, report: _specialist(plan, report, domain=CODE),
    TOOLS: lambda plan, report: _specialist(plan, report, domain=TOOLS),
    DRAFT: _draft,
    MANIFEST: lambda plan, _: manifest.write(plan.out),
}
