"""For how many tokens at once a model's matrices are multiplied on CPUs: for few different numbers of them, and first
when the engine loads. A GPU has the like in the sizes that its graphs are captured for.

There vLLM multiplies with oneDNN, which compiles a kernel for every number of tokens that it meets ("primitive", in a
cache that all layers share), in which time a small model makes a whole step. Plain decoding has as many tokens as
requests, so soon all are known; with drafts there may be ``depth`` times as many more, any number of them. Most steps
would then be among the first of their kind for long, and the controller would take what these take for the price of
drafts. Steps without drafts need none of this: where drafts come from elsewhere, they are as in a plain engine.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

EXACT = 16
"""Tokens up to which nothing is rounded."""
STEP = 8
"""Numbers of tokens above are multiples of this at least, and differ by an eighth at most once that is more."""
LARGE = 1 << 20
"""Weights of a matrix beyond which an eighth more tokens cost more than compiling does, some 0.4 ms."""
LIMIT = 2.0
"""Seconds for trying them when the engine loads."""

Multiply = Callable[[Tensor, Tensor | None, Tensor | None], Tensor]
"""Of inputs [tokens, width], the weights and a bias [features], outputs [tokens, features]: vLLM's ``cpu_linear``."""


def sizes(most: int) -> Iterator[int]:
    """The numbers of tokens in use, from 1 to the first that is enough for ``most``."""
    size = 1
    while size < most:
        yield size
        size += 1 if size < EXACT else max(STEP, 1 << (size.bit_length() - 4))
    yield size


@dataclass(frozen=True, slots=True)
class Rounded:
    """Multiplies for a few tokens more than asked, which count for nothing. More than the last of ``known``, all
    numbers that are in use, are taken as they are."""

    multiply: Multiply
    known: tuple[int, ...]

    def __call__(self, inputs: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        tokens = inputs.shape[0]
        if tokens <= EXACT:
            return self.multiply(inputs, weight, bias)
        place = bisect_left(self.known, tokens)
        if inputs.dim() != 2 or place == len(self.known) or self.known[place] == tokens:
            return self.multiply(inputs, weight, bias)
        padded = functional.pad(inputs, (0, 0, 0, self.known[place] - tokens))
        return self.multiply(padded, weight, bias)[:tokens]


class Sizes:
    """The layers whose numbers of tokens are rounded, which they are until somebody says otherwise. ``tried``: for how
    many tokens everything was compiled."""

    def __init__(self, layers: Sequence[Any], tried: int) -> None:
        self.tried = tried
        self._layers = [(layer, layer.cpu_linear.multiply, layer.cpu_linear) for layer in layers]
        self._rounded = True

    def use(self, *, rounded: bool) -> None:
        """From now on, or no longer: what asks for no rounding is to be as fast as without it, and even to look at
        every number of tokens takes time."""
        if rounded != self._rounded:
            self._rounded = rounded
            for layer, plain, few in self._layers:
                layer.cpu_linear = few if rounded else plain


def fix_sizes(
    models: Iterable[nn.Module],
    dtype: torch.dtype,
    *,
    largest: int,
    tried: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Sizes:
    """Round the numbers of tokens for the matrices of the models, up to the ``largest`` of any step, and multiply once
    by one matrix of each shape for each up to ``tried``, the smallest first, until ``LIMIT`` is reached. Those that are
    ``LARGE``, or that vLLM multiplies in other ways, as quantised ones, stay as they are."""
    known = tuple(sizes(largest))
    kinds: dict[tuple[int, int, bool], tuple[Any, int]] = {}
    rounded: list[Any] = []
    layers: Iterator[Any] = (layer for model in models for layer in model.modules())
    for layer in layers:
        multiply, width = getattr(layer, "cpu_linear", None), _width(layer)
        if multiply is None or width is None:
            continue
        features = _product(layer, torch.zeros(1, width, dtype=dtype)).shape[1]
        if width * features > LARGE:
            continue
        if not isinstance(multiply, Rounded):  # else another model shares it
            layer.cpu_linear = Rounded(multiply, known)
            rounded.append(layer)
        kinds.setdefault((width, features, getattr(layer, "bias", None) is None), (layer, width))
    began, done = clock(), 0
    for size in sizes(tried):
        if clock() - began > LIMIT:
            break
        for layer, width in kinds.values():
            _product(layer, torch.zeros(size, width, dtype=dtype))
        done = size
    return Sizes(rounded, done)


def _product(layer: Any, inputs: Tensor) -> Tensor:
    with torch.inference_mode():
        outputs: Tensor = layer.cpu_linear(inputs, getattr(layer, "weight", None), getattr(layer, "bias", None))
    return outputs


def _width(layer: Any) -> int | None:
    """What one token's inputs are wide, by the names that vLLM's layers have for it."""
    for name in ("input_size_per_partition", "input_size", "embedding_dim"):
        if (width := getattr(layer, name, None)) is not None:
            return int(width)
    return None
