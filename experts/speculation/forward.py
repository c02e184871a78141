"""The verifier's time by the step's shape.

Best known from steps that do nothing but decode, of the same requests as the step before. Where requests come and go
all the time hardly a step is one; then it is learnt from the others, less the time of the prompts that they read.
"""

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from experts.speculation.depth import Timing
from experts.speculation.surface import KNOWN, Floats, Surface

Tokens = TypeVar("Tokens", float, Floats)

GUESS = 0.01
"""Seconds a step is believed to take before one was measured."""
STIFF = (1e-5, 1e-4, 1e-3, 1e-3, 1e-3)
"""How hard it is to explain a step's time by the step itself (the easiest), its rows, their drafts, their history, and
that there are drafts at all."""
STIFF_PROMPT = (1e-4, 1e-4)
"""The same of tokens of prompts, and of there being some. Where all steps read about as many, what these take is taken
for the step's own: it comes on top of every step, with drafts or without."""
AGE = 400.0
"""Measured steps until a shape that did not occur again weighs a third."""
RATE = 1 / 128
"""Weight of the newest step in the share of those that only decode."""
FEW, ENOUGH, PLENTY = 0.01, 0.02, 0.05
"""The share below which they are too few to follow what steps take, above which they suffice again, and from which on
more of them say nothing more: that they become few shall show soon."""
COARSE = 2
"""How many times as wide the buckets are beside prompts, where measurements spread over more shapes."""
SPANS = 8
"""Kinds of steps by how much of prompts they read: nothing, one or two tokens, and each four times as many."""
MOSTLY = 0.5
"""Share of a step that reading prompts took, from which on nothing is to be said of the rest."""


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture-of-experts verifier: each token runs ``chosen`` of ``count`` experts."""

    count: int
    chosen: int

    def distinct(self, tokens: Tokens) -> Tokens:
        """Experts that so many tokens are expected to activate together, as a share of all. Verifying more tokens loads
        more experts, which is what makes speculation dear on such models (arXiv:2506.20675)."""
        left: Tokens = (1.0 - min(self.chosen / self.count, 1.0)) ** tokens
        return 1.0 - left


@dataclass(frozen=True, slots=True)
class Decoded:
    """Of a step, in seconds: what decoding took, and would have taken without drafts (None: what was quoted)."""

    seconds: float
    plain: float | None = None


class Forward:
    """Learns from ``Timing`` and quotes seconds.

    ``scarce``: hardly a step only decodes, or none has so far. ``busy``: nor need it, as what the others take is known
    well enough. Their prices are a plane of their own: beside prompts a step takes longer in ways that no subtraction
    undoes, and what is compared, plain and with drafts, is to come from steps of one kind.
    """

    def __init__(self, depth: int, experts: Experts | None = None) -> None:
        self._depth, self._experts = depth, experts
        stiff = (*STIFF, 1e-4 if experts else 1.0)
        self._alone = Surface(stiff, age=AGE)
        self._beside = Surface((*stiff, *STIFF_PROMPT), age=AGE, least=False, relative=True)
        self._share = ENOUGH
        self._known = False
        self._plain = self._drafted = 0
        self._few = False

    @property
    def scarce(self) -> bool:
        return self._few or not self._known

    @property
    def busy(self) -> bool:
        """Before any step only decoded, one of the others is better than none."""
        if not self._known:
            return self._plain > 0
        return self._few and min(self._plain, self._drafted) >= KNOWN

    @property
    def version(self) -> tuple[bool, int]:
        """Changes whenever the prices do."""
        return self.busy, (self._beside if self.busy else self._alone).version

    def learn(self, timing: Timing) -> bool:
        """Take in a measured step; whether it was of use. Plain steps that are not settled are not."""
        drafts = timing.tokens - timing.rows
        if not (drafts or timing.settled):
            return False
        self._share = min(self._share + RATE * (timing.alone - self._share), PLENTY)
        self._few = self._share < (ENOUGH if self._few else FEW)
        if not (timing.alone or self.scarce):
            return False
        rows, sort, features = bucket(timing.rows), bucket(1 + drafts), self._features(timing)
        if timing.alone:
            self._known = True
            self._alone.learn((rows, sort), features, timing.verify)
        else:
            key = (rows // COARSE, -(-sort // COARSE), _span(timing.prompt))
            self._beside.learn(key, (*features, float(timing.prompt), float(timing.prompt > 0)), timing.verify)
            self._plain, self._drafted = self._plain + (drafts == 0), self._drafted + (drafts > 0)
        return True

    def decoded(self, timing: Timing) -> Decoded | None:
        """What of a step was spent decoding; None if that cannot be told, or is not to be compared with what is
        quoted."""
        if timing.alone != self.busy:
            return Decoded(timing.verify) if timing.alone else self._beside_prompts(timing)
        return None

    def quote(self, rows: int, context: int) -> Floats:
        """Seconds by drafts verified, [rows * depth + 1]: never less for more."""
        drafts = np.arange(rows * self._depth + 1, dtype=np.float64)
        busy = self.busy
        if not busy and not self._known:
            return np.full_like(drafts, GUESS)
        surface = self._beside if busy else self._alone
        base, row, draft, history, verifies, expert = surface.coefficients.tolist()[: len(STIFF) + 1]
        plane = base + row * rows + history * context + draft * drafts
        plane[1:] += verifies
        if self._experts:
            plane += expert * self._experts.distinct(drafts + rows)
        width = COARSE if busy else 1
        if shares := surface.cells(bucket(rows) // width):
            places, values = zip(*shares, strict=True)
            plane *= np.interp(2.0 * np.log2(1.0 + drafts), [width * place for place in places], values)
        seconds: Floats = np.maximum(np.maximum.accumulate(plane), 1e-9)
        return seconds

    def age(self, rows: int) -> int | None:
        """Measured steps since so many rows were last run without drafts; None if they hardly ever were."""
        if not self.scarce:
            return self._alone.age((bucket(rows), 0))
        return self._beside.age(*((bucket(rows) // COARSE, 0, span) for span in range(SPANS)))

    def _beside_prompts(self, timing: Timing) -> Decoded | None:
        """For as many rows as were decoded: others that a choice was made for may have ended, or were still read."""
        base, row, _, history, _, expert, token, reads = self._beside.coefficients.tolist()
        prompts = token * timing.prompt + reads * (timing.prompt > 0)
        plain = base + row * timing.rows + history * timing.context
        if self._experts:
            plain += expert * self._experts.distinct(float(timing.rows))
        if prompts > MOSTLY * timing.verify or plain <= 0.0:
            return None
        return Decoded(timing.verify - prompts, plain)

    def _features(self, timing: Timing) -> tuple[float, ...]:
        drafts, tokens = timing.tokens - timing.rows, timing.tokens + timing.prompt
        experts = self._experts.distinct(float(tokens)) if self._experts else 0.0
        return 1.0, float(timing.rows), float(drafts), float(timing.context), float(drafts > 0), experts


def bucket(number: int) -> int:
    """Numbers that differ by a fifth or so share a bucket: half powers of two, 0 for one."""
    return round(2 * math.log2(max(number, 1)))


def _span(prompt: int) -> int:
    """Where so many tokens of prompts belong."""
    return min(1 + bucket(prompt) // 4, SPANS - 1) if prompt else 0
