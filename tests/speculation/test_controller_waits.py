"""The controller where waiting for drafts depends on what became of those before, in virtual time."""

from random import Random
from statistics import mean

import pytest

from experts.speculation.controller import AdaptiveDepth
from experts.speculation.depth import FixedDepth
from loadtests.drift import DEEPEST, EXPERTS, FORESEEN, STEPS, Engine, Run, Traffic, speed


def run(depths, seed):
    return Run(depths, Engine(), Random(seed), Random(seed))


def adaptive(seed):
    return run(AdaptiveDepth(DEEPEST, experts=EXPERTS, shadows=True), seed)


def traffic(rate, batch):
    return Traffic("", batch, (rate,), FORESEEN)


def test_where_drafts_fail_the_waits_for_the_next_are_expected():
    """Drafts made ahead come at once while all are right; that must not be expected of those that fail."""
    good, poor = traffic(0.97, 4), traffic(0.4, 4)
    speeds, plain = [], []
    for seed in range(1, 9):
        for driven, found in ((adaptive(seed), speeds), (run(FixedDepth(0), seed), plain)):
            driven.phase(good, 300)
            found.append(speed(driven.phase(poor)))
    assert mean(speeds) >= 0.97 * mean(plain)


@pytest.mark.parametrize("batch", [1, 4, 16])
def test_where_waits_were_long_because_drafts_failed_those_that_do_not_are_soon_taken_again(batch):
    good, poor = traffic(0.95, batch), traffic(0.1, batch)
    for seed in range(1, 5):
        driven = adaptive(seed)
        driven.phase(good)
        driven.phase(poor, 2 * STEPS)
        steps = driven.phase(good)
        assert next(number for number, step in enumerate(steps) if any(step.choice.depths)) < 150
        assert mean(mean(step.choice.depths) for step in steps[150:]) > 2
