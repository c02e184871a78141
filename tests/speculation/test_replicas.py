"""How long a replica's answers take, as its verifier remembers it."""

import pytest

from experts.speculation.replicas import FADING, RECALL, AnswerTime


def test_vain_waits_count_like_long_ones_and_never_shorten_what_is_usual():
    time = AnswerTime()
    time.waited(4.0)
    time.waited(1.0, vain=True)
    assert time.expected(0.0) == 4.0
    time.waited(1.0)
    assert 1.0 < time.expected(0.0) < 4.0


def test_what_keeps_the_verifier_from_waiting_is_tried_again_by_count_or_by_time():
    time = AnswerTime()
    time.waited(1.0)
    time.skipped(10.0)
    assert time.expected(10.0) == pytest.approx(FADING)
    time.skipped(10.0)
    assert time.expected(10.0 + RECALL) == pytest.approx(FADING**2 / 2)
    time.waited(1.0)
    assert time.expected(99.0) == pytest.approx(1.0)
