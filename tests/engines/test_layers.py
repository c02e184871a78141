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
        self.drafted = 0

    def compare(self, rows) -> None:
        self.seen += [(session, tokens.tolist()) for session, tokens in rows]
        self.steps.compared(self.verdicts)

    def draft(self, rows, limit) -> list[list[int]]:
        self.drafted += 1
        return [[] for _ in rows]


class Excited(FixedDepth):
    def compared(self, verdicts) -> bool:
        return bool(verdicts)


@pytest.mark.parametrize(("verdicts", "drafted"), [([], 0), ([Verdict("b", 4, 4)], 1)])
def test_in_the_middle_of_a_rest_shadow_drafts_are_compared_with_what_was_made(
    verdicts: list[Verdict], drafted: int
) -> None:
    from experts.engines.vllm_layers import DraftingRunner

    steps = Steps(Excited(0), depth=4, context=64)
    steps._rest.begin(Choice((0, 0), (0.0, 0.0), 0.0, 0.0, "plain", "acceptance", rest=PEEK + 3, shadows=(0, 4)))
    runner = DraftingRunner()
    runner._leads, runner.drafter = True, Curious(steps, verdicts)
    runner.steps = steps
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
    plan = SimpleNamespace(
        num_spec_tokens_to_schedule=None,
        num_invalid_spec_tokens=None,
        scheduled_spec_decode_tokens={},
        num_scheduled_tokens={"a": 1, "b": 1},
    )
    for _ in range(PEEK):
        assert runner.propose_draft_token_ids(plan, [[2], [13]]) == [[], []]
        assert runner.drafter.seen == []
    assert runner.propose_draft_token_ids(plan, [[2], [13]]) == [[], []]
    assert runner.drafter.seen == [("a", [0, 1, 2]), ("b", [10, 11, 12, 13])]
    assert runner.drafter.drafted == drafted
