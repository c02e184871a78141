"""The prompts of the benchmarks: the domains in turn, always the same, and ended by the template."""

from loadtests.bench import BENCHES
from loadtests.prompts import ANSWERABLE, RECORDS, encoded


def test_prompts_take_turns_over_the_domains_and_never_change():
    found = encoded(10, ANSWERABLE)
    assert [each.domain for each in found] == list(ANSWERABLE) * 2
    assert found == encoded(10, ANSWERABLE)
    assert all(len(each.tokens) > 5 for each in found)


def test_made_up_data_is_asked_for_only_by_name():
    assert RECORDS not in ANSWERABLE
    assert {each.domain for each in encoded(2, (RECORDS,))} == {RECORDS}


def test_every_benchmark_has_a_name():
    assert {"startup", "speculation"} <= BENCHES.keys()
