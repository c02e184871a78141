"""What a model does on held-out tasks: greedy answers, loss, tokens per verify step, and the load of its experts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from experts.zoo.tasks.base import STRUCTURED, Task
from experts.zoo.tokenizer import END, render

T = TypeVar("T")

LONGEST = 120  # tokens of an answer; the longest reference has about 80
AT_ONCE = 64  # conversations in one batch


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said to one task, as token ids with the end mark, and as text."""

    task: Task
    prompt: list[int]
    output: list[int]
    text: str


@dataclass(frozen=True, slots=True)
class Score:
    """Means over the tasks of one domain.

    ``parses`` counts only tasks that ask for a form, ``numeric`` only those that ask for a number; both are None where
    none does. ``loss`` is in nats per token of the reference answers.
    """

    exact: float
    parses: float | None
    numeric: float | None
    loss: float


@torch.inference_mode()
def answer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tasks: Sequence[Task]) -> list[Answer]:
    """Answer tasks greedily, in batches padded on the left."""
    answers = []
    for some in _chunks(tasks):
        prompts = [tokenizer.encode(render(tokenizer, task), add_special_tokens=False) for task in some]
        ids, mask = _pad(prompts, left=True)
        written = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=LONGEST, do_sample=False)
        for task, prompt, row in zip(some, prompts, written[:, ids.size(1) :].tolist(), strict=True):
            end = row.index(model.config.eos_token_id) + 1 if model.config.eos_token_id in row else len(row)
            answers.append(Answer(task, prompt, row[:end], tokenizer.decode(row[:end], skip_special_tokens=True)))
    return answers


@torch.inference_mode()
def loss(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tasks: Sequence[Task]) -> float:
    """Return the mean loss of the reference answers' tokens, end marks included."""
    total, count = 0.0, 0
    for some in _chunks(tasks):
        prompts = [tokenizer.encode(render(tokenizer, task), add_special_tokens=False) for task in some]
        references = [tokenizer.encode(task.answer + END, add_special_tokens=False) for task in some]
        ids, mask = _pad([prompt + reference for prompt, reference in zip(prompts, references, strict=True)])
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        for row, prompt, reference in zip(logits, prompts, references, strict=True):
            predicted = row[len(prompt) - 1 : len(prompt) - 1 + len(reference)]
            total += functional.cross_entropy(predicted, torch.tensor(reference), reduction="sum").item()
            count += len(reference)
    return total / count


def score(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, answers: Sequence[Answer]) -> Score:
    """Grade answers and add the loss on their tasks."""
    grades = [each.task.grade(each.text) for each in answers]
    formed = [grade.parses for grade, each in zip(grades, answers, strict=True) if each.task.form in STRUCTURED]
    numeric = [grade.numeric for grade in grades if grade.numeric is not None]
    return Score(
        exact=_mean([grade.exact for grade in grades]),
        parses=_mean(formed) if formed else None,
        numeric=_mean(numeric) if numeric else None,
        loss=loss(model, tokenizer, [each.task for each in answers]),
    )


@torch.inference_mode()
def agreement(draft: PreTrainedModel, answers: Sequence[Answer]) -> list[list[bool]]:
    """Say for each token of each answer whether the draft, having read all before it, would have proposed it."""
    agreed = []
    for some in _chunks(answers):
        ids, mask = _pad([each.prompt + each.output for each in some])
        proposed = draft(input_ids=ids, attention_mask=mask, use_cache=False).logits.argmax(-1)
        for row, each in zip(proposed.tolist(), some, strict=True):
            guesses = row[len(each.prompt) - 1 : len(each.prompt) - 1 + len(each.output)]
            agreed.append([guess == token for guess, token in zip(guesses, each.output, strict=True)])
    return agreed


def tokens_per_step(agreed: Sequence[Sequence[bool]], ahead: int) -> float:
    """Return the mean tokens that one verify step yields with ``ahead`` greedy proposals.

    A step yields the proposals up to the first wrong one and the verifier's own next token. The first token of an
    answer comes from reading the prompt, and the last step of an answer may yield less: both as in an engine.
    """
    tokens = steps = 0
    for row in agreed:
        at = 1
        while at < len(row):
            window = row[at : at + ahead]
            at += (window.index(False) if False in window else len(window)) + 1
            steps += 1
        tokens += len(row) - 1
    return tokens / steps


@torch.inference_mode()
def expert_load(model: PreTrainedModel, answers: Sequence[Answer]) -> list[float]:
    """Return the largest expert's load over the mean load, per layer, over the tokens of conversations."""
    config = model.config
    counts = torch.zeros(config.num_hidden_layers, config.num_experts)
    for some in _chunks(answers):
        ids, mask = _pad([each.prompt + each.output for each in some])
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False, output_router_logits=True).router_logits
        for layer, scores in enumerate(logits):
            chosen = scores.topk(config.num_experts_per_tok, -1).indices[mask.reshape(-1).bool()]
            counts[layer] += torch.bincount(chosen.reshape(-1), minlength=config.num_experts)
    return (counts.max(-1).values / counts.mean(-1)).tolist()


def _pad(rows: Sequence[list[int]], *, left: bool = False) -> tuple[Tensor, Tensor]:
    """Return ids and attention mask [rows, longest]."""
    longest = max(map(len, rows))
    gaps = [[0] * (longest - len(row)) for row in rows]
    ids = [gap + row if left else row + gap for row, gap in zip(rows, gaps, strict=True)]
    mask = [gap + [1] * len(row) if left else [1] * len(row) + gap for row, gap in zip(rows, gaps, strict=True)]
    return torch.tensor(ids), torch.tensor(mask)


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), AT_ONCE):
        yield items[start : start + AT_ONCE]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
