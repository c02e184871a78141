"""Prices where hardly a step only decodes."""

from random import Random

import pytest

from experts.speculation.controller import AdaptiveDepth
from experts.speculation.costs import Costs, Demand
from experts.speculation.depth import FixedDepth, Timing
from experts.speculation.forward import Decoded, Forward
from experts.speculation.surface import KNOWN
from loadtests.drift import DEEPEST, EXPERTS, Run, Traffic, speed

DEPTH = 8
BASE, ROW, TOKEN, CHECK = 2e-3, 0.1e-3, 0.05e-3, 0.3e-3
PROMPT, READS = 0.05e-3, 0.5e-3
CROWDED = 3.0
"""How much longer all takes than when it was last measured alone."""


def seconds(rows: int, drafts: int, prompt: int = 0) -> float:
    checks = CHECK if drafts else 0.0
    return BASE + ROW * rows + TOKEN * (rows + drafts) + checks + PROMPT * prompt + READS * (prompt > 0)


def step(rows: int, drafts: int, verify: float, *, prompt: int | None = None, wait: float = 1e-4) -> Timing:
    """One that also read a prompt, unless that is None."""
    return Timing(rows, rows + drafts, 100 * rows, verify, wait, alone=prompt is None, prompt=prompt or 0)


def churning(forward: Forward, steps: int, *, slower: float = CROWDED, seed: int = 1) -> None:
    """Steps of which none only decodes, one in ten without drafts, and one in twenty ten times as long."""
    luck = Random(seed)
    for _ in range(steps):
        rows = luck.choice((8, 10, 12))
        drafts = 0 if luck.random() < 0.1 else luck.randint(1, 4) * rows
        prompt = luck.choice((0, 20, 60, 200))
        noise = luck.gauss(slower, 0.1) * (10.0 if luck.random() < 0.05 else 1.0)
        forward.learn(step(rows, drafts, noise * seconds(rows, drafts, prompt), prompt=prompt))


def known_alone() -> Forward:
    forward = Forward(DEPTH)
    for _ in range(20):
        for rows, drafts in ((1, 0), (1, 4), (4, 0), (4, 16), (12, 0), (12, 48)):
            forward.learn(step(rows, drafts, seconds(rows, drafts)))
    return forward


def test_steps_beside_prompts_are_what_prices_follow_where_there_are_no_others() -> None:
    forward = known_alone()
    churning(forward, 400)
    assert forward.busy
    prices = forward.quote(10, 1000)
    assert prices[0] == pytest.approx(CROWDED * seconds(10, 0), rel=0.2)
    assert prices[40] == pytest.approx(CROWDED * seconds(10, 40), rel=0.2)
    assert prices[40] / prices[0] == pytest.approx(seconds(10, 40) / seconds(10, 0), rel=0.15)


def test_of_a_step_beside_prompts_their_part_is_taken_off() -> None:
    forward = known_alone()
    beside = step(10, 20, CROWDED * seconds(10, 20, 60), prompt=60)
    assert forward.decoded(beside) is None
    churning(forward, 400)
    decoded = forward.decoded(beside)
    assert decoded is not None
    assert decoded.plain is not None
    assert decoded.seconds == pytest.approx(CROWDED * seconds(10, 20), rel=0.2)
    assert decoded.plain == pytest.approx(CROWDED * seconds(10, 0), rel=0.2)


def test_plain_decoding_is_priced_for_the_rows_that_were_decoded() -> None:
    forward = known_alone()
    churning(forward, 400)
    few, many = (forward.decoded(step(rows, 2 * rows, 30e-3, prompt=0)) for rows in (4, 12))
    assert few is not None
    assert many is not None
    assert few.plain is not None
    assert many.plain is not None
    assert many.plain - few.plain == pytest.approx(CROWDED * 8 * (ROW + TOKEN), rel=0.75)


def test_beside_a_long_prompt_nothing_is_to_be_said_of_the_rest() -> None:
    forward = known_alone()
    churning(forward, 400)
    assert forward.decoded(step(10, 20, CROWDED * seconds(10, 20, 4000), prompt=4000)) is None


def test_steps_of_the_other_kind_than_prices_are_of_are_not_compared_with_them() -> None:
    forward = known_alone()
    assert forward.decoded(step(10, 20, 0.5)) == Decoded(0.5)
    churning(forward, 400)
    assert forward.decoded(step(10, 20, 0.5)) is None


def test_as_long_as_some_steps_only_decode_the_others_change_nothing() -> None:
    forward = known_alone()
    before = forward.quote(10, 1000)
    luck = Random(2)
    for _ in range(600):
        churning(forward, 1, slower=CROWDED, seed=luck.randrange(1 << 30))
        if luck.random() < 0.25:
            forward.learn(step(12, 48, seconds(12, 48)))
        assert not forward.scarce
    assert forward.quote(10, 1000) == pytest.approx(before, rel=0.1)


def test_when_requests_stay_again_prices_are_those_of_steps_that_only_decode() -> None:
    forward = known_alone()
    churning(forward, 400)
    for _ in range(20):
        forward.learn(step(12, 0, seconds(12, 0)))
    assert not forward.busy
    assert forward.quote(12, 1200)[0] == pytest.approx(seconds(12, 0), rel=0.1)


def test_from_the_start_there_need_be_no_step_that_only_decodes() -> None:
    forward = Forward(DEPTH)
    forward.learn(step(10, 0, seconds(10, 0), prompt=0))
    assert forward.quote(10, 1000)[0] == pytest.approx(seconds(10, 0), rel=0.2)
    churning(forward, 200, slower=1.0)
    assert forward.quote(10, 1000)[0] == pytest.approx(seconds(10, 0), rel=0.2)


def test_if_every_step_reads_as_much_that_is_part_of_its_price() -> None:
    """Nobody can tell what it would take without, and with drafts it comes on top as well."""
    forward = Forward(DEPTH)
    for drafts in (0, 10, 20, 40) * 30:
        forward.learn(step(10, drafts, seconds(10, drafts, 100), prompt=100))
    assert forward.quote(10, 1000)[0] > 0.7 * seconds(10, 0, 100)


def test_plain_steps_are_remembered_whatever_shapes_come_after_them() -> None:
    forward, luck = Forward(DEPTH), Random(4)
    for _ in range(KNOWN):
        forward.learn(step(10, 0, seconds(10, 0), prompt=0))
    for _ in range(2000):
        rows, prompt = luck.randint(1, 200), luck.choice((0, 1, 10, 100, 1000, 10_000))
        drafts = rows * luck.randint(1, DEPTH)
        forward.learn(step(rows, drafts, luck.gauss(1.0, 0.05) * seconds(rows, drafts, prompt), prompt=prompt))
    assert forward.age(10) == 2000


def test_how_long_ago_a_batch_was_run_plainly_is_known_beside_prompts_too() -> None:
    forward = known_alone()
    churning(forward, 400)
    for prompt in (0, 60, 200):
        forward.learn(step(10, 0, seconds(10, 0, prompt), prompt=prompt))
    assert forward.age(10) == 0
    for _ in range(5):
        forward.learn(step(10, 20, seconds(10, 20), prompt=0))
    assert forward.age(10) == 5
    assert forward.age(64) is None


def test_waits_beside_prompts_are_learnt_where_there_are_no_others() -> None:
    costs = Costs(DEPTH)
    for _ in range(100):
        costs.learn(step(10, 20, seconds(10, 20), prompt=20, wait=5e-3), Demand(10, 2))
    assert costs.tariff(10, 1000).waits.of(Demand(10, 2)) == pytest.approx(5e-3, rel=0.1)


def driven(traffic: Traffic, seed: int = 1) -> tuple[Run, float]:
    """The controller through this traffic alone, and its speed against plain decoding's."""
    ours = Run(AdaptiveDepth(DEEPEST, experts=EXPERTS, shadows=True), luck=Random(seed), births=Random(seed))
    plain = Run(FixedDepth(0), luck=Random(seed), births=Random(seed))
    return ours, speed(ours.phase(traffic, 1500)) / speed(plain.phase(traffic, 1500))


def short(acceptance: float) -> Traffic:
    """Not one step in a hundred that verifies drafts only decodes."""
    return Traffic("", 32, (acceptance,), lengths=(2, 16), prompt=40)


def test_drafts_that_pay_are_used_though_no_step_only_decodes() -> None:
    _, ratio = driven(short(0.9))
    assert ratio > 1.1


def test_drafts_that_do_not_pay_are_given_up_though_no_step_only_decodes() -> None:
    run, ratio = driven(short(0.05))
    assert ratio > 0.95
    assert run.depths._stance.mode == "plain"


def test_what_plain_decoding_takes_is_found_out_though_no_step_only_decodes() -> None:
    run, _ = driven(short(0.9))
    assert not run.depths._costs.blind
