"""What many windows say together. Pure."""

from collections.abc import Iterable, Sequence
from statistics import median

import msgspec

from experts.api import SpeculationState
from loadtests.speculation.messages import Measured

PARTS = ("forward", "sample", "draft", "transport", "proposer", "prepare", "schedule", "output", "engine")
"""The parts of a step, in the order shown. draft: computed drafts that the step waited for; transport: the rest of the
wait; proposer: what our side of the engine adds; engine: what no other part covers."""


FULL = 0.75
"""Share of the drafts wanted that makes a window one of that depth; the last steps of a request want fewer."""


class Sample(msgspec.Struct, frozen=True):
    """One window of one arm. ``depth``: the fixed one, 0 where there is none; ``drafter``: the draft server's share of
    a core; ``acceptance``: the pretended one, None where it is real."""

    arm: str
    batch: int
    depth: int
    measured: Measured
    drafter: float = 0.0
    acceptance: float | None = None


class Summary(msgspec.Struct, frozen=True):
    """Medians over the windows of one arm at one batch. ``spread``: least and most tokens per second; ``decode`` counts
    only steps without a prefill, and so do ``step_ms`` and ``per_row`` (tokens per step and sequence). ``acceptance``
    of drafts; ``hits``: share of rows whose drafts were there ahead; ``wait_ms`` per step; ``cpu`` and ``drafter`` are
    shares of a core."""

    arm: str
    batch: int
    depth: int
    given: float | None
    speed: float
    spread: tuple[float, float]
    decode: float
    step_ms: float
    per_row: float
    acceptance: float
    hits: float
    wait_ms: float
    cpu: float
    drafter: float


class Ceiling(msgspec.Struct, frozen=True):
    """What drafts that cost nothing and are always in time would bring at a batch and acceptance: ``ratio`` to plain
    decoding with the best ``depth``, as the verifier takes ``step_ms`` to verify so many, and ``plain_ms`` without."""

    batch: int
    acceptance: float
    ratio: float
    depth: int
    step_ms: float
    plain_ms: float


def rate_of(measured: Measured) -> float:
    """Generated tokens per second, prefills included."""
    return measured.tokens / measured.seconds


def decode_rate(measured: Measured) -> float:
    """Generated tokens per second of the steps without a prefill."""
    return measured.decode_tokens / measured.decode_seconds if measured.decode_seconds else 0.0


def speeds(samples: Iterable[Sample], arm: str, batch: int, acceptance: float | None = None) -> list[Measured]:
    """The windows of one arm at one batch, in the order taken."""
    key = (arm, batch, acceptance)
    return [each.measured for each in samples if (each.arm, each.batch, each.acceptance) == key]


def summaries(samples: Sequence[Sample]) -> list[Summary]:
    """One per acceptance, arm and batch, in the order of their first windows."""
    keys = dict.fromkeys((each.acceptance, each.batch, each.arm) for each in samples)
    return [_summary([each for each in samples if (each.acceptance, each.batch, each.arm) == key]) for key in keys]


def _summary(samples: Sequence[Sample]) -> Summary:
    taken = [each.measured for each in samples]
    rates = [rate_of(each) for each in taken]
    states = [each.speculation or SpeculationState() for each in taken]
    first = samples[0]
    return Summary(
        arm=first.arm,
        batch=first.batch,
        depth=first.depth,
        given=first.acceptance,
        speed=median(rates),
        spread=(min(rates), max(rates)),
        decode=median(map(decode_rate, taken)),
        step_ms=median(_per(1e3 * each.decode_seconds, each.decode_steps) for each in taken),
        per_row=median(_per(each.decode_tokens, each.rows) for each in taken),
        acceptance=median(_per(each.accepted, each.drafted) for each in taken),
        hits=median(_per(state.hits, state.hits + state.misses) for state in states),
        wait_ms=median(_per(1e3 * state.wait, each.steps) for state, each in zip(states, taken, strict=True)),
        cpu=median(_per(each.cpu, each.seconds) for each in taken),
        drafter=median(each.drafter for each in samples),
    )


def ceilings(samples: Sequence[Sample], acceptances: Sequence[float]) -> list[Ceiling]:
    """Of windows without drafts (``depth`` 0) and with fixed numbers of them. Windows to which too few drafts came in
    time say nothing of the time to verify so many."""
    found = []
    for batch in dict.fromkeys(each.batch for each in samples):
        windows = [each for each in samples if each.batch == batch]
        steps = {each.depth: _verifying(each.measured) for each in windows if _came(each) >= FULL}
        plain = steps.pop(0)
        for share in acceptances:
            ratios = {depth: sum(share**n for n in range(depth + 1)) * plain / step for depth, step in steps.items()}
            best = max(ratios, key=ratios.__getitem__)
            found.append(Ceiling(batch, share, ratios[best], best, 1e3 * steps[best], 1e3 * plain))
    return found


def _came(sample: Sample) -> float:
    """The share of the drafts of its depth that came; 1 where none were wanted."""
    wanted = sample.depth * sample.measured.rows
    return _per(sample.measured.drafted, wanted) if wanted else 1.0


def _verifying(measured: Measured) -> float:
    """Seconds of a step without a prefill, but for waiting."""
    wait = measured.speculation.wait if measured.speculation else 0.0
    return _per(measured.decode_seconds, measured.decode_steps) - _per(wait, measured.steps)


def budget(measured: Measured) -> dict[str, float]:
    """Milliseconds per step and part, of a timed window.

    What a remote drafter computed while the engine waited is known from its tells; a draft model inside the engine is
    all draft.
    """
    parts = {name: 1e3 * seconds / measured.steps for name, seconds in measured.parts.items()}
    propose = parts.pop("propose", 0.0)
    state = measured.speculation
    if state is None or not state.asked:
        return parts | ({"draft": propose} if propose else {})
    wait = 1e3 * state.wait / measured.steps
    draft = min(wait, 1e3 * state.draft / measured.steps)
    return parts | {"draft": draft, "transport": wait - draft, "proposer": max(0.0, propose - wait)}


def _per(amount: float, count: float) -> float:
    return amount / count if count else 0.0
