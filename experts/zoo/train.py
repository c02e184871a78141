"""The training loop: stages of batches within a time budget, one schedule over all of them."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from experts.zoo.objectives import Objective
from experts.zoo.optim import optimizers
from experts.zoo.stream import MIX, Batch, Layout, Stream, batches

WARMUP = 0.02  # share of the budget
FLOOR = 0.02  # smallest multiple of the learning rates
REPORT_EVERY = 20  # steps


@dataclass(frozen=True, slots=True)
class Stage:
    """A layout and a mix of batches that are used until ``until`` of the budget is spent."""

    layout: Layout
    until: float
    mix: Mapping[str, float] = field(default_factory=lambda: dict(MIX))


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything about one training run but the model and the objective."""

    seconds: float
    stages: tuple[Stage, ...]
    lr: float = 0.02
    adam_lr: float = 5e-3
    seed: int = 0
    workers: int = 1
    steps: int | None = None  # a fixed number of steps instead of the time: repeatable to the bit


@dataclass(frozen=True, slots=True)
class Status:
    """Where a run stands: share of the budget spent, mean loss since the last status, and tokens per second so far."""

    spent: float
    step: int
    loss: float
    tokens: int
    speed: float


Report = Callable[[Status], None]


@dataclass(frozen=True, slots=True)
class Place:
    """Where and in which precision a model runs."""

    device: torch.device
    half: bool

    @classmethod
    def find(cls, device: str) -> "Place":
        """Choose the device and the faster precision: on CPU bfloat16 autocast was never faster at this size."""
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(torch.device(device), half=device == "cuda")

    def autocast(self) -> torch.autocast:
        """Return the context in which the forward pass runs."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.half)


def schedule(spent: float) -> float:
    """Return the multiple of the learning rates: a short warm-up, level to the half, then linear decay."""
    warm = min(1.0, spent / WARMUP + FLOOR)
    return warm * min(1.0, max(FLOOR, 2 * (1 - spent)))


@dataclass(frozen=True, slots=True)
class Bench:
    """What a run works with, besides its recipe."""

    tokenizer: PreTrainedTokenizerFast
    place: Place
    report: Report


def fit(model: PreTrainedModel, objective: Objective, *, recipe: Recipe, bench: Bench) -> PreTrainedModel:
    """Train a model in place and return it."""
    place = bench.place
    model.to(place.device).train()
    steppers = optimizers(model, lr=recipe.lr, adam_lr=recipe.adam_lr)
    rates = [stepper.param_groups[0]["lr"] for stepper in steppers]
    meter = _Meter(bench.report, time.monotonic())
    for spent, (ids, weights) in _timed(recipe, bench.tokenizer, meter.start):
        for stepper, rate in zip(steppers, rates, strict=True):
            stepper.param_groups[0]["lr"] = rate * schedule(spent)
        batch = ids.to(place.device), weights.to(place.device)
        with place.autocast():
            loss, shown = objective(model, batch)
        torch.autograd.backward(loss)
        for stepper in steppers:
            stepper.step()
            stepper.zero_grad(set_to_none=True)
        meter.count(spent, shown.item(), ids.numel())
    return model.eval()


def _timed(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, start: float) -> Iterator[tuple[float, Batch]]:
    """Yield batches stage after stage, each with the share of the budget spent, until all of it is."""
    step = 0
    for number, stage in enumerate(recipe.stages):
        stream = Stream(tokenizer, stage.layout, mix=stage.mix, seed=1000 * recipe.seed + number)
        for batch in batches(stream, workers=recipe.workers):
            spent = step / recipe.steps if recipe.steps else (time.monotonic() - start) / recipe.seconds
            if spent >= stage.until:
                break
            yield spent, batch
            step += 1


@dataclass(slots=True)
class _Meter:
    """Counts steps and tokens and reports every few steps."""

    report: Report
    start: float
    step: int = 0
    tokens: int = 0
    losses: list[float] = field(default_factory=list)

    def count(self, spent: float, loss: float, tokens: int) -> None:
        self.step += 1
        self.tokens += tokens
        self.losses.append(loss)
        if self.step % REPORT_EVERY == 0:
            speed = self.tokens / (time.monotonic() - self.start)
            mean = sum(self.losses) / len(self.losses)
            self.report(Status(spent, self.step, mean, self.tokens, speed))
            self.losses.clear()
