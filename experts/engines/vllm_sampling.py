"""Faults of vLLM's sampling on CPU: found by trying, corrected only where they are. GPUs have none of them.

Without the first correction temperature, top-k and top-p of drafted rows are read from uninitialised memory; without
the second a step that has top-k but no drafts ends the engine. The third, generators that cannot be wound back, ends it
when a seeded request's prompt is read in pieces; the worker works around it.
"""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from vllm.v1.sample import rejection_sampler


def correct() -> tuple[str, ...]:
    """Correct what is wrong in this process; the names of the functions that were replaced."""
    replaced = []
    if not expands(rejection_sampler.expand_batch_to_tokens):
        rejection_sampler.expand_batch_to_tokens = expand
        replaced.append("expand_batch_to_tokens")
    if not constrains_nothing(rejection_sampler.apply_sampling_constraints):
        rejection_sampler.apply_sampling_constraints = skipping_empty(rejection_sampler.apply_sampling_constraints)
        replaced.append("apply_sampling_constraints")
    return tuple(replaced)


def rewinds() -> bool:
    """Whether a generator of this device's kind can be wound back."""
    try:
        torch.Generator("cpu").get_offset()
    except RuntimeError:
        return False
    return True


def expands(function: Any) -> bool:
    """Whether it repeats each request's value once per draft. Two inputs: leftover memory cannot match both."""
    ends = torch.tensor([2, 2, 5], dtype=torch.int32)
    try:
        return all(
            function(torch.tensor(values), ends, 5, replace_from=0, replace_to=1).tolist()
            == [values[0]] * 2 + [values[2] or 1.0] * 3
            for values in ([0.5, 7.0, 0.0], [0.25, 9.0, 3.0])
        )
    except (RuntimeError, TypeError):
        return False


def constrains_nothing(function: Any) -> bool:
    """Whether it takes a step without a single draft."""
    settings = SimpleNamespace(
        all_greedy=False, temperature=torch.ones(1), top_k=torch.ones(1, dtype=torch.int32), top_p=None
    )
    try:
        return bool(function(torch.empty(0, 4), torch.zeros(1, dtype=torch.int32), settings).shape == (0, 4))
    except RuntimeError:
        return False


def expand(x: Tensor, cu_num_tokens: Tensor, num_tokens: int, replace_from: int = 0, replace_to: int = 0) -> Tensor:
    """Repeat ``x[i]`` for each draft of request i; ``cu_num_tokens`` are the running totals, int[batch]."""
    counts = torch.diff(cu_num_tokens.long(), prepend=torch.zeros(1, dtype=torch.long))
    replaced = torch.where(x == replace_from, torch.full_like(x, replace_to), x)
    return replaced.repeat_interleave(counts, output_size=num_tokens)


def skipping_empty(function: Any) -> Any:
    """``function``, which is not asked when there are no rows."""

    def constrain(logits: Tensor, cu_num_draft_tokens: Tensor, sampling_metadata: Any) -> Tensor:
        if logits.shape[0] == 0:
            return logits
        constrained: Tensor = function(logits, cu_num_draft_tokens, sampling_metadata)
        return constrained

    return constrain
