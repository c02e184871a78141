"""The hook into Serve's autoscaler. Serve counts requests that pass through its handles; ours do not, so replicas say
what they hold and the rule is ours. It runs in the controller's loop: it must be quick and must not raise."""

from typing import Any

from ray.serve.config import AutoscalingContext

from cluster.autoscaling.ongoing import replicas_for

ONGOING = "ongoing"
"""The figure that replicas report with ``record_autoscaling_stats``."""


def by_ongoing(context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
    """Serve applies bounds and delays to what this returns. Without a report yet, nothing changes."""
    reported = (context.aggregated_metrics or {}).get(ONGOING, {})
    if not reported:
        return context.target_num_replicas, {}
    return replicas_for(sum(reported.values()), context.config.target_ongoing_requests), {}
