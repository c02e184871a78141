"""How many replicas a load asks for."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.autoscaling.ongoing import replicas_for
from deployments.scaling import ONGOING, by_ongoing


@given(st.floats(0, 1e6), st.floats(0.1, 1e3))
def test_no_replica_holds_more_than_its_target_and_none_is_spare(ongoing, target):
    count = replicas_for(ongoing, target)
    assert ongoing <= count * target * (1 + 1e-9)
    assert count == 1 or ongoing > (count - 1) * target * (1 - 1e-9)


@pytest.mark.parametrize(
    ("reported", "wanted"),
    [({"a": 16.0, "b": 9.0}, 4), ({"a": 0.0}, 1), (None, 2)],
    ids=["load is summed over replicas", "an idle pool keeps one", "without a report nothing changes"],
)
def test_the_hook_reads_what_replicas_report(reported, wanted):
    metrics = {} if reported is None else {ONGOING: reported}
    context = SimpleNamespace(
        aggregated_metrics=metrics, target_num_replicas=2, config=SimpleNamespace(target_ongoing_requests=8.0)
    )
    assert by_ongoing(context)[0] == wanted
