"""A seed draws the same tokens with drafts as without, however many drafts there are at any step.

vLLM's rejection sampling takes other random numbers than plain sampling does, and how many depends on the number of
drafts: the same seed then gives other tokens whenever a draft is late. Here the token at each drafted position of a
seeded request is drawn as plain decoding would draw it, with the same random numbers; a draft is accepted if it is that
token. For drafts without probabilities that is as exact as rejection sampling, and accepts as many: a draft d passes
with probability p(d) either way (the maximal coupling with a distribution of one point).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor
from vllm.platforms import current_platform
from vllm.v1.sample import rejection_sampler
from vllm.v1.sample.rejection_sampler import RejectionSampler

REJECTED = rejection_sampler.PLACEHOLDER_TOKEN_ID


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A seeded request in place ``row`` of the batch with ``drafts`` drafts from place ``first`` on; its generator as
    it was before the step."""

    row: int
    first: int
    drafts: int
    generator: Generator
    before: Tensor


class _Generators(dict[int, Generator]):
    """The generators of a step, with those that ``_rejecting`` is to use as plain sampling does."""

    def __init__(self, generators: dict[int, Generator], drawn: tuple[_Drawn, ...], sampler: Any) -> None:
        super().__init__(generators)
        self.drawn, self.sampler = drawn, sampler


class SeededRejection(RejectionSampler):  # type: ignore[misc]  # vLLM is untyped here
    """Laid over vLLM's rejection sampler. Steps without seeded requests that have drafts are left to vLLM."""

    def forward(self, metadata: Any, draft_probs: Any, logits: Tensor, sampling_metadata: Any) -> Any:
        drawn = tuple(_drawn(sampling_metadata.generators, metadata.num_draft_tokens))
        if not drawn or self.synthetic_mode:
            return super().forward(metadata, draft_probs, logits, sampling_metadata)
        # vLLM draws the token after the last draft first.
        for each in drawn:
            _skip(each.generator, each.drafts, logits.shape[-1])
        generators = _Generators(sampling_metadata.generators, drawn, self.sampler.topk_topp_sampler)
        return super().forward(metadata, draft_probs, logits, replace(sampling_metadata, generators=generators))


def lay_over(sampler: RejectionSampler) -> None:
    """Teach this rejection sampler, unless plain sampling takes its random numbers in a way not known here. Whether a
    draft is accepted is decided in a function of vLLM's module."""
    plain = sampler.sampler.topk_topp_sampler
    if sampler.use_fp64_gumbel or (current_platform.is_cpu() and plain.forward != plain.forward_cpu):
        return
    sampler.__class__ = SeededRejection
    if not hasattr(rejection_sampler.rejection_sample, "plain"):
        rejection_sampler.rejection_sample = _rejecting(rejection_sampler.rejection_sample)


def _rejecting(function: Any) -> Any:
    """The decision of vLLM, but for the rows whose seeds decide."""

    def reject(draft_token_ids: Tensor, num_draft_tokens: list[int], *given: Any, **named: Any) -> Tensor:
        *limits, target_logits, bonus_token_ids, sampling = given
        generators = sampling.generators
        if not isinstance(generators, _Generators):
            plainly: Tensor = function(draft_token_ids, num_draft_tokens, *given, **named)
            return plainly
        drawn = generators.drawn
        rows = {each.row for each in drawn}
        others = {row: generator for row, generator in generators.items() if row not in rows}
        chosen = _plainly(drawn, target_logits, generators.sampler)
        given = (*limits, target_logits, bonus_token_ids, replace(sampling, generators=others))
        tokens: Tensor = function(draft_token_ids, num_draft_tokens, *given, **named)
        drafts, bonus = draft_token_ids.tolist(), bonus_token_ids.flatten().tolist()
        rejected = [REJECTED] * tokens.shape[1]
        found = []
        for each, plain in zip(drawn, chosen, strict=True):
            kept = _verdict(drafts[each.first : each.first + each.drafts], plain, bonus[each.row])
            found.append((kept + rejected)[: len(rejected)])
            each.generator.set_state(each.before)
            _skip(each.generator, len(kept), target_logits.shape[-1])
        tokens[[each.row for each in drawn]] = torch.tensor(found, dtype=tokens.dtype, device=tokens.device)
        return tokens

    reject.plain = function  # type: ignore[attr-defined]  # a mark that it is ours
    return reject


def _drawn(generators: dict[int, Generator], drafts: list[int]) -> Iterator[_Drawn]:
    first = 0
    for row, count in enumerate(drafts):
        if count and (generator := generators.get(row)) is not None:
            yield _Drawn(row, first, count, generator, generator.get_state())
        first += count


def _plainly(drawn: tuple[_Drawn, ...], logits: Tensor, sampler: Any) -> list[list[int]]:
    """What plain decoding draws from ``logits`` [drafts of the batch, vocabulary] at the drafted positions, if it gets
    there. vLLM's sampler asks the generators of its rows in turn, and so for consecutive numbers of each."""
    places: list[int] = []
    generators: dict[int, Generator] = {}
    for each in drawn:
        each.generator.set_state(each.before)
        for place in range(each.first, each.first + each.drafts):
            generators[len(places)] = each.generator
            places.append(place)
    tokens, _ = sampler(logits[places], generators, None, None)
    found = iter(tokens.tolist())
    return [[next(found) for _ in range(each.drafts)] for each in drawn]


def _verdict(drafts: list[int], plain: list[int], bonus: int) -> list[int]:
    """What is kept of a row: the tokens of plain decoding, to the first that was not drafted."""
    for place, (draft, token) in enumerate(zip(drafts, plain, strict=True)):
        if draft != token:
            return plain[: place + 1]
    return [*plain, bonus]


def _skip(generator: Generator, tokens: int, width: int) -> None:
    """Take as many random numbers as plain sampling takes for ``tokens`` tokens of a vocabulary of ``width``."""
    for _ in range(tokens):
        if generator.device.type == "cpu":
            torch.randint(0, 2**31, (1,), generator=generator)
        else:
            torch.empty(width, device=generator.device).exponential_(generator=generator)
