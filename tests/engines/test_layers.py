"""What is laid over vLLM's model runner, without an engine under it."""

from types import SimpleNamespace

import numpy as np
import pytest

from experts.engines.vllm_steps import Steps
from experts.speculation.depth import Choice, FixedDepth, Verdict
from experts.speculation.rest import PEEK

pytestmark = pytest.mark.engine  # importing the runner imports the runtime


class Curious:
    """Compares when asked to, and remembers with what."""

    def __init__(self, steps: Steps, verdicts: list[Verdict]) -> None:
        self.steps, self.verdicts = steps, verdicts
        self.seen: list[tuple[str, list[int]]] = []
        self.drafted = self.found = 0

    def compare(self, rows) -> None:
        self.seen += [(session, tokens.tolist()) for session, tokens in rows]
        self.steps.compared(self.verdicts)

    def draft(self, rows, limit) -> list[list[int]]:
        self.drafted += 1
        return [[7] * self.found for _ in rows]


class Excited(FixedDepth):
    def compared(self, verdicts) -> bool:
        return bool(verdicts)


class Vllm:
    """As much of vLLM's runner as is laid over: with speculation configured it asks for drafts."""

    speculative_config: object = "configured"

    def _update_states(self, scheduler_output) -> None:
        self.plan = scheduler_output

    def sample_tokens(self, grammar_output) -> SimpleNamespace:
        del grammar_output
        sampled = [[2], [13]]
        self.configured = self.speculative_config
        self._draft_token_ids = self._draft_token_req_ids = None
        if self.speculative_config:
            self._draft_token_ids = self.propose_draft_token_ids(self.plan, sampled)
            self._copy_draft_token_ids_to_cpu(self.plan)
        return SimpleNamespace(sampled_token_ids=sampled)

    def _copy_draft_token_ids_to_cpu(self, scheduler_output) -> None:
        assert scheduler_output is self.plan
        self._draft_token_req_ids = self.input_batch.req_ids.copy()

    def take_draft_token_ids(self) -> tuple[list[str], list[list[int]]]:
        return self._draft_token_req_ids, self._draft_token_ids


def runner_with(steps: Steps, verdicts: list[Verdict], *, hybrid: bool = False):
    from experts.engines.vllm_layers import DraftingRunner

    runner = type("Runner", (DraftingRunner, Vllm), {})()
    runner._leads, runner._rests, runner._configured = True, False, runner.speculative_config
    runner.drafter, runner.steps = Curious(steps, verdicts), steps
    runner.model_config = SimpleNamespace(is_hybrid=hybrid)
    runner.requests = {
        name: SimpleNamespace(
            num_prompt_tokens=2,
            sampling_params=SimpleNamespace(extra_args=None, max_tokens=9, eos_token_id=0, stop_token_ids=[]),
        )
        for name in "ab"
    }
    runner.input_batch = SimpleNamespace(
        req_ids=["a", "b"], token_ids_cpu=np.arange(20).reshape(2, 10), num_tokens_no_spec=np.array([3, 4])
    )
    return runner


def scheduled(**changes):
    """The scheduler's output for one decode step of both requests."""
    usual = {
        "num_spec_tokens_to_schedule": None,
        "num_invalid_spec_tokens": None,
        "scheduled_spec_decode_tokens": {},
        "num_scheduled_tokens": {"a": 1, "b": 1},
        "total_num_scheduled_tokens": 2,
        "finished_req_ids": set(),
        "preempted_req_ids": None,
        "scheduled_new_reqs": [],
        "scheduled_cached_reqs": SimpleNamespace(resumed_req_ids=set()),
    }
    return SimpleNamespace(**usual | changes)


def step(runner, **changes) -> None:
    runner._update_states(scheduled(**changes))
    runner.sample_tokens(None)


def resting(steps: int, shadows: tuple[int, ...] = ()) -> Choice:
    return Choice((0, 0), (0.0, 0.0), 0.0, 0.0, "plain", "acceptance", rest=steps, shadows=shadows)


@pytest.mark.parametrize(("verdicts", "drafted"), [([], 0), ([Verdict("b", 4, 4)], 1)])
def test_in_the_middle_of_a_rest_shadow_drafts_are_compared_with_what_was_made(
    verdicts: list[Verdict], drafted: int
) -> None:
    steps = Steps(Excited(0), depth=4, context=64)
    steps._rest.begin(resting(PEEK + 3, (0, 4)))
    runner = runner_with(steps, verdicts)
    for _ in range(PEEK):
        step(runner)
        assert runner.drafter.seen == []
    step(runner)
    assert runner.drafter.seen == [("a", [0, 1, 2]), ("b", [10, 11, 12, 13])]
    assert runner.drafter.drafted == drafted


@pytest.mark.parametrize("hybrid", [False, True])
def test_a_step_without_drafts_runs_as_if_speculation_were_not_configured_but_for_recurrent_models(
    hybrid: bool,
) -> None:
    steps = Steps(FixedDepth(0), depth=4, context=64)
    runner = runner_with(steps, [], hybrid=hybrid)
    steps._rest.begin(resting(1))
    for drafted in (0, 1):
        step(runner)
        assert runner.configured == ("configured" if hybrid else None)
        assert (runner.speculative_config, runner.drafter.drafted) == ("configured", drafted)
        assert runner.take_draft_token_ids() is None
    runner.drafter.found = 2
    step(runner)
    assert runner.take_draft_token_ids() == (["a", "b"], [[7, 7], [7, 7]])
    step(runner, scheduled_spec_decode_tokens={"a": [7, 7], "b": [7, 7]})
    assert runner.configured == "configured"


@pytest.mark.parametrize("changes", [{"scheduled_spec_decode_tokens": {"a": [1]}}, {"total_num_scheduled_tokens": 0}])
def test_a_step_with_drafts_or_without_tokens_is_no_rest(changes: dict[str, object]) -> None:
    steps = Steps(FixedDepth(0), depth=4, context=64)
    runner = runner_with(steps, [])
    steps._rest.begin(resting(1))
    runner._update_states(scheduled(**changes))
    assert runner.speculative_config == "configured"
    step(runner)
    assert runner.drafter.drafted == 0, "the rest was still to come"
    runner._update_states(scheduled())
    runner._update_states(scheduled(total_num_scheduled_tokens=0))
    assert runner.speculative_config == "configured", "though nothing was sampled in between"


def test_only_steps_with_drafts_multiply_for_few_numbers_of_tokens() -> None:
    from experts.engines.vllm_sizes import Sizes

    def plain(inputs, weight, bias) -> None: ...

    def few(inputs, weight, bias) -> None: ...

    few.multiply = plain
    layer = SimpleNamespace(cpu_linear=few)
    runner = runner_with(Steps(FixedDepth(0), depth=4, context=64), [])
    runner.sizes = Sizes([layer], tried=1)
    found = []
    for drafts in ({}, {"a": [7]}, {"a": [7]}, {}):
        runner._update_states(scheduled(scheduled_spec_decode_tokens=drafts))
        found.append(layer.cpu_linear)
    assert found == [plain, few, few, plain]


def test_workers_that_do_not_lead_run_steps_without_drafts_as_short_and_draft_nothing() -> None:
    runner = runner_with(Steps(FixedDepth(4), depth=4, context=64), [])
    runner._leads = False
    step(runner)
    assert (runner.configured, runner.drafter.drafted, runner._draft_token_ids) == (None, 0, None)
