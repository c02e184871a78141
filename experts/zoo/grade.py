"""The grades of a family: what each bar asks, what was measured, and whether it holds."""

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from transformers import PreTrainedModel

from experts.zoo import manifest, measure
from experts.zoo.catalog import CODE, DRAFT, GENERAL, TOOLS
from experts.zoo.measure import Answer, Score
from experts.zoo.models import load
from experts.zoo.tasks import code, grounded, records, tools
from experts.zoo.tasks.base import Task
from experts.zoo.tasks.catalog import DOMAINS, draw
from experts.zoo.tokenizer import load_tokenizer

AHEAD = (4, 8)
SEED = 20_000
LARGEST = 16_000_000  # bytes of the whole family
ANSWERABLE = tuple(domain for domain in DOMAINS if domain != records.DOMAIN)
MUST_EXACT = {code.DOMAIN: 0.8, tools.DOMAIN: 0.6, grounded.DOMAIN: 0.6}
FORMS = {code.DOMAIN: "parses", tools.DOMAIN: "valid JSON", records.DOMAIN: "even rows"}
MUST_PARSE = {code.DOMAIN: 0.98, tools.DOMAIN: 0.97}
MUST_STEP = 3.5  # tokens per verify step with four proposals, on at least four domains
BETTER = 0.001  # least difference that counts as one


@dataclass(frozen=True, slots=True)
class Row:
    """One measured figure; ``must`` is None where the figure is only reported."""

    bar: str
    ours: float
    must: float | None
    unit: str
    higher_is_better: bool = True

    @property
    def holds(self) -> bool | None:
        """Say whether the bar is met."""
        if self.must is None:
            return None
        return self.ours >= self.must if self.higher_is_better else self.ours <= self.must


Scores = Mapping[str, Score]  # by domain


@dataclass(frozen=True, slots=True)
class Grades:
    """The scores of each full-size model by domain, tokens per step by domain and depth, and load by layer."""

    scores: Mapping[str, Scores]
    steps: Mapping[str, Mapping[int, float]]
    load: Sequence[float]
    size: int

    def rows(self) -> list[Row]:
        """Return all figures, the ones with a bar marked so."""
        return [*self._answer_rows(), *self._draft_rows(), *self._specialist_rows(), *self._other_rows()]

    def _answer_rows(self) -> Iterator[Row]:
        for domain, score in self.scores[GENERAL].items():
            if domain != records.DOMAIN:
                yield Row(f"{domain} exact", score.exact, MUST_EXACT.get(domain), "share")
            if score.parses is not None:
                yield Row(f"{domain} {FORMS[domain]}", score.parses, MUST_PARSE.get(domain), "share")
            if score.numeric is not None:
                yield Row(f"{domain} right number", score.numeric, None, "share")
            yield Row(f"{domain} loss", score.loss, None, "nats/token", higher_is_better=False)

    def _draft_rows(self) -> Iterator[Row]:
        for domain, by_depth in self.steps.items():
            for ahead, tokens in by_depth.items():
                yield Row(f"draft on {domain}, K={ahead}", tokens, None, "tokens/step")
        shallow = {domain: by_depth[AHEAD[0]] for domain, by_depth in self.steps.items()}
        fourth = sorted((shallow[domain] for domain in ANSWERABLE), reverse=True)[3]
        yield Row(f"draft on its fourth-best domain, K={AHEAD[0]}", fourth, MUST_STEP, "tokens/step")
        yield Row(
            "draft on records over fourth-best", shallow[records.DOMAIN] / fourth, 0.8, "ratio", higher_is_better=False
        )

    def _specialist_rows(self) -> Iterator[Row]:
        general = self.scores[GENERAL]
        for name in (CODE, TOOLS):
            own = self.scores[name]
            gain = own[name].exact - general[name].exact
            saved = general[name].loss - own[name].loss
            others = [domain for domain in ANSWERABLE if domain != name]
            lost = sum(general[domain].exact - own[domain].exact for domain in others) / len(others)
            worse = sum(own[domain].loss - general[domain].loss for domain in others) / len(others)
            yield Row(f"{name} specialist: exact gained on {name}", gain, BETTER, "share")
            yield Row(f"{name} specialist: loss saved on {name}", saved, BETTER, "nats/token")
            yield Row(f"{name} specialist: exact lost elsewhere", lost, BETTER, "share")
            yield Row(f"{name} specialist: loss added elsewhere", worse, BETTER, "nats/token")

    def _other_rows(self) -> Iterator[Row]:
        for layer, ratio in enumerate(self.load):
            yield Row(f"expert load, layer {layer}", ratio, None, "max/mean", higher_is_better=False)
        yield Row("size of the family", float(self.size), float(LARGEST), "bytes", higher_is_better=False)


def grade(root: Path, *, samples: int) -> Grades:
    """Measure the family in a directory on ``samples`` held-out tasks per domain, always the same ones."""
    manifest.verify(root)
    tasks = {domain: [draw(domain, rng, "test") for _ in range(samples)]
             for domain, rng in ((domain, Random(f"{SEED}/{domain}")) for domain in DOMAINS)}  # fmt: skip
    general, draft = load(root / GENERAL).eval(), load(root / DRAFT).eval()
    answers, scores = _examine(root, general, tasks)
    agreed = {domain: measure.agreement(draft, each) for domain, each in answers.items()}
    elsewhere = {domain: tasks[domain] for domain in ANSWERABLE}
    specialists = {name: _examine(root, load(root / name).eval(), elsewhere)[1] for name in (CODE, TOOLS)}
    return Grades(
        scores={GENERAL: scores, **specialists},
        steps={
            domain: {ahead: measure.tokens_per_step(rows, ahead) for ahead in AHEAD} for domain, rows in agreed.items()
        },
        load=measure.expert_load(general, [each for domain in ANSWERABLE for each in answers[domain]]),
        size=manifest.size(root),
    )


def _examine(
    root: Path, model: PreTrainedModel, tasks: Mapping[str, Sequence[Task]]
) -> tuple[dict[str, list[Answer]], dict[str, Score]]:
    tokenizer = load_tokenizer(root / GENERAL)
    answers = {domain: measure.answer(model, tokenizer, some) for domain, some in tasks.items()}
    return answers, {domain: measure.score(model, tokenizer, some) for domain, some in answers.items()}


def report(grades: Grades) -> dict[str, Any]:
    """Return the grades in the form that all of the project's measurements are written in."""
    machine = {
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    rows = [{**asdict(row), "holds": row.holds, "engine": "real"} for row in grades.rows()]
    return {"machine": machine, "commit": _commit(), "rows": rows}


def _commit() -> str:
    git = shutil.which("git")
    if git is None:
        return "unknown"
    asked = [git, "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    found = subprocess.run(asked, capture_output=True, text=True, check=False)  # noqa: S603 - constant words
    return found.stdout.strip() if found.returncode == 0 else "unknown"
