"""vLLM's scheduler, which here also tells with every step what became of each request's drafts."""

from typing import Any

from vllm.v1.core.sched.scheduler import Scheduler


class CountingScheduler(Scheduler):  # type: ignore[misc]  # vLLM is untyped here
    """vLLM counts drafts per request but reports them only when it ends; the bill and the controller want each step.

    The counts ride on the step's own output, so they arrive with the tokens they belong to, whichever process the
    engine runs in.
    """

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        groups = super().update_from_output(scheduler_output, model_runner_output)
        for group in groups.values():
            for output in group.outputs:
                request = self.requests.get(output.request_id)
                if request is not None:
                    output.spec_decode_metrics = request.spec_decode_metrics
        return groups
