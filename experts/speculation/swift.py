"""Forward passes over a few tokens on a CPU in float32, with less time between the operations.

Layers of a few dozen KiB take as long as it takes to call their operations, and numpy is called in a third of the time
that torch is; its BLAS is quicker at small products, too. This is the arithmetic of ``DraftModel.forward`` and
``DraftModel.logits`` on the same memory, in another order of rounding.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experts.speculation.checkpoint import Shape

LARGEST = 1 << 22
"""Weights in one matrix up to which it is worth a copy in the order that this needs."""
WIDEST = 8
"""New tokens per row up to which a pass is taken here; longer ones are not short of work."""
SMALL = 10**6
"""Multiplications in a product up to which OpenBLAS runs kernels for small matrices; above, torch is quicker."""

BLOCKED = np.float32(-1e30)

Array = NDArray[np.float32]


class Weights(Protocol):
    """A layer of a draft model: norms, and matrices as [inputs, outputs]."""

    @property
    def entry_norm(self) -> Tensor: ...
    @property
    def mixed(self) -> Tensor: ...
    @property
    def head_norm(self) -> Tensor: ...
    @property
    def output(self) -> Tensor: ...
    @property
    def inner_norm(self) -> Tensor: ...
    @property
    def opened(self) -> Tensor: ...
    @property
    def closed(self) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class View:
    """A window as numpy sees it: keys and values per layer [rows, kv_heads, columns, head_dim] and the bias [rows,
    kv_heads, 1, columns]."""

    keys: Sequence[Array]
    values: Sequence[Array]
    bias: Array


@dataclass(frozen=True, slots=True)
class _Layer:
    """As in ``Weights``, with each norm but that of the heads in the matrix after it."""

    mixed: Array
    head_norm: Array
    output: Array
    opened: Array
    closed: Array


class Swift:
    """The weights of a model of ``shape``. ``head`` [width, vocabulary] has the last norm in it, ``turns`` [context,
    head_dim / 2] are complex."""

    def __init__(
        self, shape: Shape, layers: Sequence[Weights], *, embedding: Tensor, head: Tensor, turns: Tensor
    ) -> None:
        self._shape = shape
        self._embedding, self._turns = embedding.numpy(), turns.numpy()
        self._head = _array(head)
        self._layers = [
            _Layer(
                mixed=_array(layer.mixed * layer.entry_norm[:, None]),
                head_norm=_array(layer.head_norm),
                output=_array(layer.output),
                opened=_array(layer.opened * layer.inner_norm[:, None]),
                closed=_array(layer.closed),
            )
            for layer in layers
        ]

    def scores(self, view: View, tokens: NDArray[np.int64], *, used: int, positions: NDArray[np.int64]) -> Array:
        """Run ``tokens`` [rows, T] at ``positions`` [rows, T] in the columns from ``used`` on: scores [rows,
        vocabulary] of what follows the last of each row."""
        shape, (rows, width) = self._shape, tokens.shape
        end = used + width
        bias = self._causal(view.bias[..., :end], width)
        turns = self._turns[positions.ravel()][:, None]
        hidden = self._embedding[tokens.ravel()]
        for layer, keys, values in zip(self._layers, view.keys, view.values, strict=True):
            query, key, value = self._project(layer, hidden, turns)
            keys[:, :, used:end] = key.reshape(rows, width, -1, shape.head_dim).swapaxes(1, 2)
            values[:, :, used:end] = value.reshape(rows, width, -1, shape.head_dim).swapaxes(1, 2)
            seen = _attend(self._by_head(query, rows), keys[:, :, :end], values[:, :, :end], bias)
            hidden = hidden + _product(self._by_token(seen, width), layer.output)
            hidden += _product(_gated(_product(self._normed(hidden), layer.opened)), layer.closed)
        return _product(self._normed(hidden.reshape(rows, width, -1)[:, -1]), self._head)

    def _project(self, layer: _Layer, hidden: Array, turns: NDArray[np.complex64]) -> tuple[Array, Array, Array]:
        """Queries, keys and values: [tokens, heads, head_dim]."""
        shape = self._shape
        both = shape.heads + shape.kv_heads
        mixed = _product(self._normed(hidden), layer.mixed).reshape(len(hidden), -1, shape.head_dim)
        turned = self._normed(mixed[:, :both])
        turned *= layer.head_norm
        turned = (turned.view(np.complex64) * turns).view(np.float32)
        return turned[:, : shape.heads], turned[:, shape.heads :], mixed[:, both:]

    def _by_head(self, query: Array, rows: int) -> Array:
        """[rows x T, heads, head_dim] to [rows, kv_heads, heads per key head x T, head_dim]."""
        kv_heads, size = self._shape.kv_heads, self._shape.head_dim
        if len(query) == rows:
            return query.reshape(rows, kv_heads, -1, size)
        apart = query.reshape(rows, -1, kv_heads, query.shape[1] // kv_heads, size)
        return apart.transpose(0, 2, 3, 1, 4).reshape(rows, kv_heads, -1, size)

    def _by_token(self, seen: Array, width: int) -> Array:
        """[rows, kv_heads, heads per key head x T, head_dim] to [rows x T, heads x head_dim]."""
        rows, kv_heads, _, size = seen.shape
        if width == 1:
            return seen.reshape(rows, -1)
        apart = seen.reshape(rows, kv_heads, -1, width, size)
        return apart.transpose(0, 3, 1, 2, 4).reshape(rows * width, -1)

    def _causal(self, bias: Array, width: int) -> Array:
        """Bias [rows, kv_heads, heads per key head x T, columns]: a new token sees no later one."""
        if width == 1:
            return bias
        later = np.zeros((width, bias.shape[-1]), np.float32)
        later[:, -width:] = np.triu(np.full((width, width), BLOCKED, np.float32), 1)
        blocked: Array = bias + np.tile(later, (self._shape.heads // self._shape.kv_heads, 1))
        return blocked

    def _normed(self, states: Array) -> Array:
        """RMSNorm over the last dimension, without its factor and weight, which the matrix after it contains."""
        lengths: Array = np.einsum("...n,...n->...", states, states)
        lengths += states.shape[-1] * self._shape.epsilon
        np.sqrt(lengths, out=lengths)
        return states / lengths[..., None]


def _gated(opened: Array) -> Array:
    """SiLU of the first half times the second: [tokens, inner]."""
    gate, up = np.split(opened, 2, axis=1)
    gated = np.exp(-gate)
    gated += 1
    np.divide(gate, gated, out=gated)
    gated *= up
    return gated


def _attend(query: Array, keys: Array, values: Array, bias: Array) -> Array:
    scores: Array = query @ keys.transpose(0, 1, 3, 2)
    scores += bias
    scores -= scores.max(-1, keepdims=True)
    np.exp(scores, out=scores)
    whole: Array = scores.sum(-1, dtype=np.float32, keepdims=True)
    seen: Array = scores @ values
    seen /= whole
    return seen


def _product(left: Array, right: Array) -> Array:
    if len(left) * right.size <= SMALL:
        small: Array = left @ right
        return small
    large: Array = torch.mm(torch.from_numpy(left), torch.from_numpy(right)).numpy()
    return large


def _array(tensor: Tensor) -> Array:
    return np.ascontiguousarray(tensor.numpy())


def suits(shape: Shape, like: Tensor) -> bool:
    """Whether a model gains by this: small, on the CPU, in float32, and numpy's BLAS stays on the caller's core."""
    small = shape.width * max(2 * shape.inner, shape.vocabulary) <= LARGEST
    return small and like.device.type == "cpu" and like.dtype == torch.float32 and _one_thread()


def _one_thread() -> bool:
    """Keep numpy's BLAS, in all of this process, to one thread per caller, as OMP_NUM_THREADS=1 at the import of numpy
    would have done: handing a product of this size to another core takes longer than to compute it. False if this is
    not the BLAS that numpy's own packages bring."""
    packaged = Path(np.__file__).parents[1] / "numpy.libs"
    library = next(packaged.glob("libscipy_openblas64_*"), None)
    if library is None:
        return False
    try:
        ctypes.CDLL(str(library)).scipy_openblas_set_num_threads64_(1)
    except (OSError, AttributeError):
        return False
    return True
