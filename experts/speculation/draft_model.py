"""A lean, batched forward pass for dense Qwen3 models: few, large torch operations over a static KV cache.

At draft-model sizes the time goes into launching operations, not into arithmetic. So the query, key and value
projections are one matrix, as are gate and up; keys and queries are normalised and rotated together; and a draft round
copies the used prefix of its rows out of the cache once (a ``Window``), runs all its forward passes inside that
copy, where new tokens of all rows share columns, and writes the new columns back once.

Rotary embedding (Su et al., 2021, arXiv:2104.09864) is a complex multiplication here: the weights' rotation pairs,
half a head apart in the checkpoint, are brought side by side when loading. Scores do not change, as queries and keys
are reordered alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from experts.speculation.book import RANKS
from experts.speculation.checkpoint import Shape, Weights, read_shape
from experts.speculation.swift import WIDEST, Swift, View, suits

BLOCKED = -1e30
"""Added to the score of a column that a query may not see. Finite: a padding query that sees nothing stays a number."""


@dataclass(frozen=True, slots=True)
class _Layer:
    """``mixed``: queries, keys, values; ``opened``: gate, up; both, and the outputs, as [inputs, outputs]."""

    entry_norm: Tensor
    mixed: Tensor
    head_norm: Tensor
    output: Tensor
    inner_norm: Tensor
    opened: Tensor
    closed: Tensor


class Cache:
    """Keys and values of all sessions: [layers, 2, slots, kv_heads, context, head_dim].

    Zeroed, not empty: columns beyond a row's length are read and weighted with zero, which needs them to be numbers.
    """

    def __init__(self, shape: Shape, slots: int, context: int, *, like: Tensor) -> None:
        self.context = context
        self.store = like.new_zeros(shape.layers, 2, slots, shape.kv_heads, context, shape.head_dim)

    def copy(self, source: int, slot: int, tokens: int) -> None:
        """Let a slot begin with the first tokens of another."""
        if source != slot:
            self.store[:, :, slot, :, :tokens] = self.store[:, :, source, :, :tokens]


class Window:
    """A batch of sessions outside the cache: a shared prefix of columns, then one column per new token of each row.

    Row r has ``cached[r]`` tokens in the cache and gets ``counts[r]`` in the first forward pass (right-aligned: its
    padding comes first), then one per further pass. Prefix gap and padding form one blocked range per row.
    """

    def __init__(
        self, cache: Cache, slots: Sequence[int], *, cached: Sequence[int], counts: Sequence[int], later: int
    ) -> None:
        self._cache, self._slots = cache, np.asarray(slots)
        self._cached, self._counts = np.asarray(cached), np.asarray(counts)
        self.used = int(self._cached.max())
        self._first = self.used + int(self._counts.max())
        columns = self._first + later
        store = cache.store
        layers, _, _, heads, _, size = store.shape
        self.data = self._opened(columns)
        flat = self.data.view(layers, 2, len(slots) * heads, columns, size)
        self.keys = [flat[layer, 0] for layer in range(layers)]
        self.values = [flat[layer, 1] for layer in range(layers)]
        index = np.arange(columns)
        gap = (index >= self._cached[:, None]) & (index < (self._first - self._counts)[:, None])
        bias = torch.from_numpy(np.where(gap, np.float32(BLOCKED), np.float32(0)))
        self.bias = bias.to(store.device, store.dtype).repeat_interleave(heads, 0)[:, None]
        self._view: View | None = None
        self._sealed = 0

    @property
    def view(self) -> View:
        """Keys, values and bias as numpy sees them, on the CPU."""
        if self._view is None:
            bias = self.bias.view(len(self._slots), -1, 1, self.bias.size(-1)).numpy()
            self._view = View([data[0].numpy() for data in self.data], [data[1].numpy() for data in self.data], bias)
        return self._view

    def _opened(self, columns: int) -> Tensor:
        """A copy of the first columns of the rows: [layers, 2, rows, kv_heads, columns, head_dim]."""
        store = self._cache.store
        held = min(columns, self._cache.context)
        chosen = torch.from_numpy(self._slots).to(store.device)
        data = store[..., :held, :].index_select(2, chosen)
        return functional.pad(data, (0, 0, 0, columns - held)) if held < columns else data

    def positions(self, width: int) -> NDArray[np.int64]:
        """Sequence positions [rows, width] of the next ``width`` columns; those of padding are clamped into range."""
        columns = np.arange(self.used, self.used + width)
        places = columns - (self._first - self._counts - self._cached)[:, None]
        clamped: NDArray[np.int64] = places.clip(0, self._cache.context - 1)
        return clamped

    def commit(self, chosen: Sequence[int] | None = None) -> None:
        """Write the new columns of the chosen rows (None: of all) back into the cache, without padding and what lies
        beyond the context. At most one row per slot may be chosen."""
        taken = range(len(self._slots)) if chosen is None else chosen
        lengths = np.minimum(self._counts + (self.used - self._first), self._cache.context - self._cached)
        columns = self._first - self._counts
        for row in taken:
            slot, place, column, length = self._slots[row], self._cached[row], columns[row], lengths[row]
            new = self.data[:, :, row, :, column - self._sealed : column - self._sealed + length]
            self._cache.store[:, :, slot, :, place : place + length] = new

    def seal(self) -> None:
        """Let go of everything but the new columns, which is all that ``commit`` needs: no further pass can be run."""
        if not self._sealed:
            self._sealed = int((self._first - self._counts).min())
            self.data = self.data[..., self._sealed : self.used, :].clone()
            self.keys, self.values, self._view = [], [], None


class Inside(Window):
    """A window on one session whose columns, none beyond the context, are the cache's own: what is run in it is
    committed at once."""

    def _opened(self, columns: int) -> Tensor:
        slot = int(self._slots[0])
        return self._cache.store[:, :, slot : slot + 1, :, :columns]

    def commit(self, chosen: Sequence[int] | None = None) -> None:
        """Nothing is left to do."""


class DraftModel:
    """Weights and forward pass; what was seen is in a ``Cache``, what is being seen in a ``Window``."""

    def __init__(self, shape: Shape, weights: Weights, *, context: int, swift: bool = True) -> None:
        """``swift``: take short passes in numpy where that is quicker."""
        self.shape = shape
        self.context = min(context, shape.context)
        self._embedding = weights.take("model.embed_tokens.weight", shape.vocabulary, shape.width)
        self._by_hypot = self._embedding.device.type == "cpu" and self._embedding.dtype == torch.float32
        self._floors = {size: torch.tensor((size * shape.epsilon) ** 0.5) for size in (shape.width, shape.head_dim)}
        self._norm = self._norm_weight(weights.take("model.norm.weight", shape.width))
        self._head = self._embedding if shape.tied else weights.take("lm_head.weight", shape.vocabulary, shape.width)
        self._head = self._head.t()
        self._layers = [self._layer(weights, f"model.layers.{index}.") for index in range(shape.layers)]
        frequencies = shape.theta ** -(torch.arange(0, shape.head_dim, 2, dtype=torch.float64) / shape.head_dim)
        angles = torch.outer(torch.arange(self.context, dtype=torch.float64), frequencies)
        self._turns = torch.polar(torch.ones_like(angles), angles).to(self._embedding.device, torch.complex64)

        self._swift: Swift | None = None
        if swift and suits(shape, self._embedding):
            head = self._head * self._norm[:, None]
            self._swift = Swift(shape, self._layers, embedding=self._embedding, head=head, turns=self._turns)

    @classmethod
    def load(cls, directory: Path, *, dtype: torch.dtype, device: str, context: int) -> Self:
        """Sequences end at ``context`` or at the model's own limit. Raises ConfigError or ModelCorrupt."""
        return cls(read_shape(directory), Weights(directory, dtype=dtype, device=device), context=context)

    def cache(self, slots: int) -> Cache:
        return Cache(self.shape, slots, self.context, like=self._embedding)

    @torch.inference_mode()
    def forward(self, window: Window, tokens: Tensor) -> Tensor:
        """Run ``tokens`` [rows, T] in the window's next T columns; returns the last hidden states [rows, T, width]."""
        rows, width = tokens.shape
        turns = self._turns[torch.from_numpy(window.positions(width)).to(tokens.device)].view(rows * width, 1, -1)
        end = window.used + width
        bias = window.bias[:, :, :end]
        if width > 1:
            bias = self._causal(bias, width)
        hidden = self._embedding[tokens.reshape(-1)]
        for index, layer in enumerate(self._layers):
            query, key, value = self._project(layer, hidden, turns)
            keys = window.keys[index][:, :end]
            values = window.values[index][:, :end]
            keys[:, window.used :].copy_(self._by_head(key, rows))
            values[:, window.used :].copy_(self._by_head(value, rows))
            seen = self._attend(self._by_head(query, rows), keys, values, bias)
            hidden = torch.addmm(hidden, self._by_token(seen, rows), layer.output)
            gate, up = torch.mm(self._normed(hidden, layer.inner_norm), layer.opened).chunk(2, -1)
            hidden = torch.addmm(hidden, functional.silu(gate).mul_(up), layer.closed)
        window.used = end
        return hidden.view(rows, width, -1)

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Scores [n, vocabulary] of hidden states [n, width]."""
        return torch.mm(self._normed(hidden, self._norm), self._head)

    def step(self, window: Window, tokens: Tensor) -> Tensor:
        """Run ``tokens`` [rows, T] likewise: scores [rows, vocabulary] of what follows the last of them."""
        width = tokens.size(1)
        if self._swift is None or width > WIDEST:
            return self.logits(self.forward(window, tokens)[:, -1])
        positions = window.positions(width)
        scores = self._swift.scores(window.view, tokens.numpy(), used=window.used, positions=positions)
        window.used += width
        return torch.from_numpy(scores)

    def _layer(self, weights: Weights, prefix: str) -> _Layer:
        shape = self.shape
        size, query, key = shape.head_dim, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim

        def joined(part: str, **outputs: int) -> Tensor:
            return torch.cat(
                [weights.take(f"{prefix}{part}.{name}_proj.weight", n, shape.width) for name, n in outputs.items()]
            )

        def norm(name: str, width: int) -> Tensor:
            return weights.take(f"{prefix}{name}.weight", width)

        mixed = joined("self_attn", q=query, k=key, v=key).view(-1, size, shape.width)
        turned = shape.heads + shape.kv_heads
        pairs = torch.arange(size, device=mixed.device).view(2, -1).t().reshape(-1)
        mixed[:turned] = mixed[:turned, pairs]
        query_norm = norm("self_attn.q_norm", size)[pairs] * size**-0.5
        key_norm = norm("self_attn.k_norm", size)[pairs]
        heads = [query_norm.expand(shape.heads, size), key_norm.expand(shape.kv_heads, size)]
        return _Layer(
            entry_norm=self._norm_weight(norm("input_layernorm", shape.width)),
            mixed=mixed.flatten(0, 1).t(),
            head_norm=self._norm_weight(torch.cat(heads)),
            output=weights.take(f"{prefix}self_attn.o_proj.weight", shape.width, query).t(),
            inner_norm=self._norm_weight(norm("post_attention_layernorm", shape.width)),
            opened=joined("mlp", gate=shape.inner, up=shape.inner).t(),
            closed=weights.take(f"{prefix}mlp.down_proj.weight", shape.width, shape.inner).t(),
        )

    def _project(self, layer: _Layer, hidden: Tensor, turns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys (both normalised per head and rotated, in float32) and values: [tokens, heads, head_dim]."""
        shape = self.shape
        mixed = torch.mm(self._normed(hidden, layer.entry_norm), layer.mixed).view(len(hidden), -1, shape.head_dim)
        both = shape.heads + shape.kv_heads
        turned = self._normed(mixed[:, :both], layer.head_norm).float().view(len(hidden), both, -1, 2)
        turned = torch.view_as_real(torch.view_as_complex(turned) * turns).flatten(-2).to(hidden.dtype)
        return turned[:, : shape.heads], turned[:, shape.heads :], mixed[:, both:]

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """Softmax attention per key head, its query heads side by side; the scale is in the queries' norm."""
        scores = torch.baddbmm(bias, query, keys.transpose(1, 2))
        return torch.bmm(torch.softmax(scores, -1, dtype=torch.float32).to(values.dtype), values)

    def _causal(self, bias: Tensor, width: int) -> Tensor:
        """Bias [rows x kv_heads, queries per key head x width, columns]: a new token sees no later one."""
        later = bias.new_full((width, width), BLOCKED).triu_(1)
        later = functional.pad(later, (bias.size(-1) - width, 0))
        return (bias + later).repeat(1, self.shape.heads // self.shape.kv_heads, 1)

    def _by_head(self, states: Tensor, rows: int) -> Tensor:
        """[rows x T, heads, head_dim] to [rows x kv_heads, heads per key head x T, head_dim]."""
        kv_heads, size = self.shape.kv_heads, self.shape.head_dim
        if len(states) == rows:
            return states.reshape(rows * kv_heads, -1, size)
        apart = states.view(rows, -1, kv_heads, states.size(1) // kv_heads, size)
        return apart.permute(0, 2, 3, 1, 4).reshape(rows * kv_heads, -1, size)

    def _by_token(self, states: Tensor, rows: int) -> Tensor:
        """[rows x kv_heads, heads per key head x T, head_dim] to [rows x T, heads x head_dim]."""
        shape = self.shape
        apart = states.view(rows, shape.kv_heads, shape.heads // shape.kv_heads, -1, shape.head_dim)
        return apart.permute(0, 3, 1, 2, 4).reshape(-1, shape.heads * shape.head_dim)

    def _normed(self, states: Tensor, weight: Tensor) -> Tensor:
        """RMSNorm (Zhang and Sennrich, 2019, arXiv:1910.07467) over the last dimension."""
        if not self._by_hypot:
            return functional.rms_norm(states, states.shape[-1:], None, self.shape.epsilon) * weight
        length: Tensor = torch.linalg.vector_norm(states, dim=-1, keepdim=True)
        return states / length.hypot_(self._floors[states.size(-1)]) * weight

    def _norm_weight(self, weight: Tensor) -> Tensor:
        """On CPU in float32 the norm divides by a length, not by a root mean square (half the operations): the weight
        makes up for the factor between them, and the length's floor for epsilon."""
        return weight * weight.size(-1) ** 0.5 if self._by_hypot else weight


class Round:
    """Greedy drafting in a window, one token of every row per pass, beginning after ``tokens`` [rows, T].

    What else was likely is worked out when it is asked for, for all passes at once: drafts are wanted sooner.
    """

    def __init__(self, model: DraftModel, window: Window, tokens: Tensor) -> None:
        self.window, self.rows = window, len(tokens)
        self._model, self._next = model, tokens
        self._drafts: list[Tensor] = []
        self._scores: list[Tensor] = []
        self._likely = tokens.new_empty(self.rows, 0, RANKS, dtype=torch.int32)
        self._chances = window.bias.new_empty(self.rows, 0, RANKS)

    @property
    def passes(self) -> int:
        return len(self._drafts)

    @torch.inference_mode()
    def advance(self) -> None:
        """Draft one more token. The window must have been opened with room for it."""
        self._scores.append(self._model.step(self.window, self._next))
        self._next = self._scores[-1].argmax(-1, keepdim=True)
        self._drafts.append(self._next)

    def drafts(self) -> NDArray[np.int32]:
        """The likeliest tokens [rows, passes]."""
        found: NDArray[np.int32] = torch.cat(self._drafts, 1).to("cpu", torch.int32).numpy()
        return found

    @torch.inference_mode()
    def rank(self) -> None:
        """Work out what was likely in the passes since the last time, and let go of their scores."""
        if not self._scores:
            return
        scores = torch.stack(self._scores, 1)
        best, tokens = scores.topk(RANKS)
        tokens[:, :, :1] = torch.stack(self._drafts[-len(self._scores) :], 1)
        chances = (best - scores.logsumexp(-1, keepdim=True)).exp_()
        self._likely = torch.cat((self._likely, tokens.to(torch.int32)), 1)
        self._chances = torch.cat((self._chances, chances), 1)
        self._scores = []

    def found(self) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The likeliest tokens [rows, passes, RANKS], the draft first, and their probabilities."""
        self.rank()
        return self._likely.cpu().numpy(), self._chances.to("cpu", torch.float32).numpy()
