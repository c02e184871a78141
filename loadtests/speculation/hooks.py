"""Where the benchmark reaches into an engine: to time its parts, to fix its depth, to pretend an acceptance.

Importing this imports vLLM. Nothing here runs in a cluster.
"""

import dataclasses
from typing import Any

from torch import Tensor
from vllm.v1.sample import rejection_sampler

from experts.api import SpeculationState
from experts.engines.vllm_core import Core
from experts.engines.vllm_options import Plan
from experts.engines.vllm_proposer import Proposer
from experts.speculation.depth import FixedDepth
from loadtests.speculation.parts import Place

FIRST_RATE = 0.8
VANILLA = "loadtests.speculation.vanilla.Worker"


def runner_of(core: Core) -> Any:
    """The model runner of vLLM, in this process."""
    return core._engine.engine_core.engine_core.model_executor.driver_worker.worker.model_runner  # noqa: SLF001


def places(core: Core) -> tuple[Place, ...]:
    """The parts of a step; what none of them covers is the engine's own time."""
    engine = core._engine  # noqa: SLF001 - as above
    scheduler = engine.engine_core.engine_core.scheduler
    runner = runner_of(core)
    found = [
        Place(core, "step", "engine"),
        Place(scheduler, "schedule", "schedule"),
        Place(scheduler, "update_from_output", "schedule"),
        Place(engine.output_processor, "process_outputs", "output"),
        Place(runner, "_update_states", "prepare"),
        Place(runner, "_prepare_inputs", "prepare"),
        Place(runner, "_model_forward", "forward"),
        Place(runner.model, "compute_logits", "forward"),
        Place(runner, "_sample", "sample"),
        Place(runner, "_bookkeeping_sync", "sample"),
    ]
    if runner.speculative_config is not None:
        found.append(Place(runner, "propose_draft_token_ids", "propose"))
    return tuple(found)


def pretend(plan: Plan) -> Plan:
    """The plan with vLLM's synthetic acceptance, of the first rate; see ``rate``."""
    settings = plan.arguments.get("speculative_config")
    if settings is None:
        return plan
    rates = [FIRST_RATE ** (position + 1) for position in range(settings["num_speculative_tokens"])]
    synthetic = settings | {"rejection_sample_method": "synthetic", "synthetic_acceptance_rates": rates}
    rejection_sampler._rejection_greedy_sample = SyntheticGreedy()  # noqa: SLF001 - see there
    return dataclasses.replace(plan, arguments=plan.arguments | {"speculative_config": synthetic})


def rate(core: Core, acceptance: float) -> None:
    """From now on each draft is accepted with this chance if those before it were. Plain engines have no drafts."""
    runner = runner_of(core)
    if runner.speculative_config is not None:
        runner.rejection_sampler.synthetic_conditional_rates.fill_(acceptance)


def fix(core: Core, depth: int) -> None:
    """So many drafts per step, for an engine of ours with fixed depth or one that follows vLLM's schedule of depths."""
    drafter = runner_of(core).drafter
    if isinstance(drafter, Proposer):
        drafter.steps._depths = FixedDepth(depth)  # noqa: SLF001 - no engine in service changes it
        return
    schedule = core._scheduler.dynamic_sd_lookup  # noqa: SLF001 - vLLM reads its schedule once, when it starts
    schedule[:] = [depth] * len(schedule)


def vanilla(plan: Plan) -> Plan:
    """The plan with vLLM's own worker instead of ours."""
    return dataclasses.replace(plan, arguments=plan.arguments | {"worker_cls": VANILLA})


class SyntheticGreedy:
    """vLLM's Triton kernel for greedy verdicts with synthetic acceptance, in torch: its kernel for CPUs refuses that
    mode. Accepted drafts are the output; the first rejected one is replaced by the verifier's own token."""

    def register_warmup(self, **_: Any) -> None:
        """Part of vLLM's interface; there is nothing to compile."""

    def __call__(self, output: Tensor, ends: Tensor, drafts: Tensor, own: Tensor, bonus: Tensor, *rest: Any) -> None:
        """``output`` int[batch, depth + 1] is written; ``ends`` are running totals of drafts; ``rest`` holds
        is_greedy, the depth, uniform draws [drafts] and the conditional rates [depth]."""
        _, _, draws, rates = rest
        begin = 0
        for row, end in enumerate(ends.tolist()):
            count = end - begin
            fell = ((draws[begin:end] >= rates[:count]) | (drafts[begin:end] < 0)).nonzero()
            kept = int(fell[0]) if len(fell) else count
            output[row, :kept] = drafts[begin : begin + kept].to(output.dtype)
            output[row, kept] = own[begin + kept] if kept < count else bonus[row, 0]
            begin = end


def speculation(core: Core) -> SpeculationState | None:
    """What speculation has done so far, as of now; None for an engine in which nothing of ours speculates."""
    if core._speculates:  # noqa: SLF001 - the engine asks by itself, but only now and then
        core.meter.speculated(core._engine.collective_rpc("speculation"))  # noqa: SLF001
    return core.meter.reading.speculation
