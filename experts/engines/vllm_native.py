"""The layer over vLLM's model runner for vLLM's own proposers: n-grams, and a draft model in the verifier's engine.

The controller's depths are kept by asking vLLM for as many drafts as the deepest row wants and cutting the others.
N-grams cost nothing where nobody wants any. A draft model is another matter: it has a KV cache that shares the
verifier's blocks, and vLLM's own way to draft nothing (a step that schedules no drafts) still runs the draft model once
to keep that cache whole, which costs plain decoding a good part of its speed. Here a step without drafts runs it only
when prompts are read, so that cached prefixes stay whole, and what it has missed is read when drafts are wanted again.
Output never depends on it: a hole would only make drafts worse.
"""

import copy
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from vllm.forward_context import set_forward_context

from experts.engines.vllm_layers import SpeculatingRunner
from experts.engines.vllm_steps import Row

METADATA = 6
"""Place of the attention's metadata among what vLLM passes on to a proposer after the scheduler's output."""
PIECE = 512
"""Tokens of missed history that one step reads, at most; rows that need more wait for their drafts."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Tokens ``start`` to ``end`` of the request in place ``row`` of the batch, which the draft model has not read."""

    row: int
    start: int
    end: int


class Coverage:
    """How much of each session's history the draft model has read."""

    def __init__(self) -> None:
        self._read: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._read)

    def gaps(self, starts: Sequence[tuple[str, int]], most: int = PIECE) -> tuple[list[Gap], set[int]]:
        """What to read before a step whose sessions begin at the given positions, ``most`` tokens in all, and the rows
        that still lack something then. A session not seen before begins where its cached prefix ends."""
        gaps, lacking = [], set()
        for row, (session, start) in enumerate(starts):
            read = self._read.setdefault(session, start)
            if read >= start:
                continue
            end = min(start, read + most)
            if end < start:
                lacking.add(row)
            if end > read:
                gaps.append(Gap(row, read, end))
                most -= end - read
        return gaps, lacking

    def read(self, session: str, end: int) -> None:
        self._read[session] = end

    def close(self, sessions: Iterable[str]) -> None:
        for session in sessions:
            self._read.pop(session, None)


class NativeRunner(SpeculatingRunner):
    """Lets the controller choose how many of the drafts of vLLM's proposer are used. Requests that ask for none get
    none, and a request near the end of its context does not end the drafting of the others."""

    discard_request_mask: Any
    speculative_config: Any
    use_async_scheduling: bool

    def prepare(self, *, leads: bool) -> None:
        super().prepare(leads=leads)
        self._coverage = Coverage()
        # Workers that run one draft model together must all run it equally often, but each has a clock of its own.
        self._together = self.vllm_config.parallel_config.tensor_parallel_size > 1

    def _closed(self, sessions: Sequence[str]) -> None:
        super()._closed(sessions)
        self._coverage.close(sessions)

    def _input_fits_in_drafter(self, metadata: Any) -> bool:
        """Without this all requests would verify zeros for the sake of one that does not fit."""
        return metadata is not None

    def propose_draft_token_ids(self, scheduler_output: Any, sampled: Any, *rest: Any) -> Any:
        """The drafts of each row, cut to its depth. Where steps overlap, as only options can have it, drafts are
        scheduled before they are made: nothing can be chosen."""
        if self.use_async_scheduling:
            return self._propose(scheduler_output, sampled, *rest)
        early = isinstance(sampled, torch.Tensor)
        rows = self._known(scheduler_output, self._listed(sampled)) if early else self._rows(scheduler_output, sampled)
        limit = scheduler_output.num_spec_tokens_to_schedule
        depths = self.steps.begin(rows, limit).depths
        began = time.perf_counter()
        given = copy.copy(scheduler_output)
        given.num_spec_tokens_to_schedule = limit if early and self._together else max(depths, default=0)
        if self.speculative_config.uses_draft_model():
            drafts = self._with_model(rows, given, sampled, *rest)
        elif early:
            drafts = self._propose(given, sampled, *rest).tolist()
        else:
            drafts = self._with_text(depths, given, sampled, *rest)
        drafts = self.steps.fitting(rows, [row[:depth] for row, depth in zip(drafts, depths, strict=True)])
        self.steps.end(time.perf_counter() - began)
        return drafts

    def _propose(self, *given: Any) -> Any:
        return super().propose_draft_token_ids(*given)  # type: ignore[misc]  # vLLM's runner is the other base

    def _with_text(self, depths: Sequence[int], scheduler_output: Any, sampled: Any, *rest: Any) -> list[list[int]]:
        """Drafts from a proposer that needs no model; it passes over rows for which nothing was sampled."""
        if not self._leads or not any(depths):
            return [[] for _ in depths]
        wanted = [tokens if depth else [] for tokens, depth in zip(sampled, depths, strict=True)]
        drafts: list[list[int]] = self._propose(scheduler_output, wanted, *rest)
        return drafts

    def _with_model(self, rows: Sequence[Row], scheduler_output: Any, *rest: Any) -> list[list[int]]:
        """Drafts from the draft model, which first reads what it has missed."""
        metadata = rest[METADATA]
        # One position more than the verifier's, for the token just sampled; later ones vLLM clamps.
        fits = metadata.max_seq_len < self.drafter.max_model_len
        if not fits or not (scheduler_output.num_spec_tokens_to_schedule or any(not row.decoded for row in rows)):
            return [[] for _ in rows]
        begins = self.input_batch.num_computed_tokens_cpu[: len(rows)].tolist()
        starts = [(row.session, begin) for row, begin in zip(rows, begins, strict=True)]
        gaps, lacking = self._coverage.gaps(starts, min(PIECE, self.drafter.max_num_tokens))
        if gaps:
            self._read(gaps, rows, metadata)
        drafts = self._propose(scheduler_output, *rest).tolist()
        for gap in gaps:
            self._coverage.read(rows[gap.row].session, gap.end)
        for place, (row, begin) in enumerate(zip(rows, begins, strict=True)):
            if place not in lacking:
                self._coverage.read(row.session, begin + row.scheduled - _rejected(row))
        return [[] if place in lacking else row for place, row in enumerate(drafts)]

    def _read(self, gaps: Sequence[Gap], rows: Sequence[Row], metadata: Any) -> None:
        """Run the draft model over tokens it has missed, for its KV cache alone."""
        drafter = self.drafter
        sizes = [gap.end - gap.start for gap in gaps]
        count = sum(sizes)
        tokens = np.concatenate([rows[gap.row].tokens[gap.start : gap.end] for gap in gaps])
        positions = torch.from_numpy(np.concatenate([np.arange(gap.start, gap.end) for gap in gaps])).to(self.device)
        places = torch.tensor([gap.row for gap in gaps], device=self.device)
        tables = metadata.block_table_tensor[places]
        owner = torch.repeat_interleave(torch.arange(len(gaps)), torch.tensor(sizes)).to(self.device)
        blocks = tables[owner, positions // drafter.block_size].to(torch.int64)
        begins = torch.tensor([0, *np.cumsum(sizes)], dtype=torch.int32)
        ends = torch.tensor([gap.end for gap in gaps], dtype=torch.int32)
        reading = replace(
            metadata,
            query_start_loc=begins.to(self.device),
            query_start_loc_cpu=begins,
            seq_lens=ends.to(self.device),
            num_reqs=len(gaps),
            num_actual_tokens=count,
            max_query_len=max(sizes),
            max_seq_len=int(ends.max()),
            block_table_tensor=tables,
            slot_mapping=blocks * drafter.block_size + positions % drafter.block_size,
            seq_lens_cpu_upper_bound=ends,
            is_prefilling=None,
            positions=None,
        )
        _, layers = drafter.build_per_group_and_layer_attn_metadata(reading)
        drafter.input_ids[:count] = torch.from_numpy(tokens).to(self.device)
        drafter.positions[:count] = positions
        slots = drafter._get_slot_mapping(count, reading.slot_mapping)  # noqa: SLF001  vLLM has no other way
        with set_forward_context(layers, drafter.vllm_config, num_tokens=count, slot_mapping=slots):
            drafter.model(input_ids=drafter.input_ids[:count], positions=drafter.positions[:count], inputs_embeds=None)

    def _listed(self, sampled: torch.Tensor) -> list[list[int]]:
        """The tokens [batch, most] that a step gave, without what was rejected or sampled in the middle of a prompt."""
        unfinished = self.discard_request_mask.np[: len(sampled)]
        return [
            [] if early else [token for token in row if token >= 0]
            for row, early in zip(sampled.tolist(), unfinished, strict=True)
        ]

    def _known(self, scheduler_output: Any, sampled: Sequence[Sequence[int]]) -> list[Row]:
        """The rows of a step whose tokens the batch does not hold yet. They are written where vLLM is about to."""
        batch = self.input_batch
        ends = batch.num_tokens_no_spec[: len(sampled)]
        before = ends.copy()
        for row, (tokens, end) in enumerate(zip(sampled, before.tolist(), strict=True)):
            batch.token_ids_cpu[row, end : end + len(tokens)] = tokens
            ends[row] = end + len(tokens)
        try:
            return self._rows(scheduler_output, sampled)
        finally:
            ends[:] = before


def _rejected(row: Row) -> int:
    """How many tokens at the end of the row's step are not part of its history."""
    return row.drafted + 1 - row.sampled if row.sampled else 0
