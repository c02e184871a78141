"""Endless fresh training batches: conversations packed into rows, with a loss weight for every token."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import PreTrainedTokenizerFast

from experts.zoo.tasks.catalog import draw
from experts.zoo.tokenizer import END, START, render

Batch = tuple[Tensor, Tensor]  # token ids and loss weights, both [rows, length + 1]
Encoded = tuple[list[int], list[float]]

# Shares of the tokens. Random records teach nothing but their own form, so they come late and get few.
EARLY_MIX: Mapping[str, float] = {
    "code": 0.18,
    "tools": 0.31,
    "arithmetic": 0.13,
    "chat": 0.15,
    "grounded": 0.22,
    "records": 0.01,
}
MIX: Mapping[str, float] = {**EARLY_MIX, "code": 0.17, "tools": 0.28, "chat": 0.14, "grounded": 0.21, "records": 0.07}


@dataclass(frozen=True, slots=True)
class Layout:
    """Form of the batches: ``rows`` of ``length`` tokens."""

    rows: int
    length: int


class Stream(IterableDataset[Batch]):
    """Batches of one layout, domains balanced by tokens; a worker's sequence hangs on the seed and its number only."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, layout: Layout, *, mix: Mapping[str, float] = MIX, seed: int = 0
    ) -> None:
        self._tokenizer = tokenizer
        self._layout = layout
        self._mix = mix
        self._seed = seed
        self._start, self._end = tokenizer.convert_tokens_to_ids([START, END])
        self._role = tokenizer.encode("assistant", add_special_tokens=False)

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        rng = Random(f"{self._seed}/{worker.id if worker else 0}")
        rows = self._rows(rng)
        while True:
            drawn = [next(rows) for _ in range(self._layout.rows)]
            yield torch.tensor([ids for ids, _ in drawn]), torch.tensor([weights for _, weights in drawn])

    def _rows(self, rng: Random) -> Iterator[Encoded]:
        """Fill each row with whole conversations; the one cut off at the end opens the next row in full."""
        size = self._layout.length + 1
        spent = dict.fromkeys(self._mix, 0)
        held: Encoded = ([], [])
        while True:
            ids, weights = [*held[0]], [*held[1]]
            while len(ids) < size:
                total = sum(spent.values())
                domain = max(self._mix, key=lambda name: self._mix[name] * total - spent[name])
                held = self.encode(render(self._tokenizer, draw(domain, rng, "train"), answered=True))
                spent[domain] += len(held[0])
                ids += held[0]
                weights += held[1]
            yield ids[:size], weights[:size]
            held = held if len(ids) > size and len(held[0]) < size else ([], [])

    def encode(self, text: str) -> Encoded:
        """Tokenise a conversation; assistants' turns weigh one, their end marks included, and the rest nothing.

        Values in prompts are drawn at random: their loss cannot fall, and its gradient is noise that Muon amplifies.
        """
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        opening = [self._start, *self._role]
        weights, answering = [0.0], False
        for i in range(1, len(ids)):
            # The newline after the role belongs to the prompt, so an answer starts one token later.
            if ids[i - 1 - len(opening) : i - 1] == opening and i > len(opening):
                answering = True
            weights.append(float(answering))
            answering = answering and ids[i] != self._end
        return [*ids, 0], [*weights, 0.0]


def batches(stream: Stream, *, workers: int) -> Iterator[Batch]:
    """Iterate over a stream, made ahead of time by worker processes (or in place with none)."""
    if not workers:
        return iter(stream)
    loader = DataLoader(stream, batch_size=None, num_workers=workers, prefetch_factor=8, worker_init_fn=_step_aside)
    return iter(loader)


def _step_aside(_: int) -> None:
    """Leave the trainer's cores to the trainer: run at low priority, on other cores where there are any."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.nice(10)
    others = set(range(os.cpu_count() or 1)) - os.sched_getaffinity(0)
    if others:
        os.sched_setaffinity(0, others)
