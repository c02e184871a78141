"""A pool's configuration as vLLM's arguments: nothing lost, nothing made up, contradictions refused."""

import subprocess
import sys

import pytest
from engine_bench import pool, simulated_pool, vllm_pool

from cluster.errors import ConfigError
from experts.engines.registry import build_engine
from experts.engines.vllm_load import fitting
from experts.engines.vllm_options import SECTION, environment, plan

SPLIT = {"layout": "split", "pool": "draft", "depth": 3, "deadline_ms": 12.0, "retry_ms": 250.0}
CO_RESIDENT = {"layout": "co_resident", "model": "zoo:draft", "depth": 5}


def test_options_pass_through_as_they_are() -> None:
    options = {"block_size": 64, "swap_space": 1, "hf_overrides": {"a": [1, 2]}}
    arguments = plan("p", vllm_pool(options=options)).arguments
    assert options.items() <= arguments.items()


def test_an_embedded_model_becomes_its_directory_and_any_other_name_stays() -> None:
    assert plan("p", vllm_pool()).arguments["model"].endswith("general")
    assert plan("p", vllm_pool(model="org/some-model")).arguments["model"] == "org/some-model"


def test_an_unknown_embedded_model_is_a_configuration_error_that_lists_the_known() -> None:
    with pytest.raises(ConfigError, match="general"):
        plan("p", vllm_pool(model="zoo:nothing"))


def test_without_speculation_vllm_is_left_as_it_is() -> None:
    settings = plan("p", vllm_pool())
    assert not settings.speculates
    assert not {"scheduler_cls", "speculative_config", "additional_config"} & settings.arguments.keys()


def test_split_speculation_reaches_the_proposer_with_its_bounds_in_seconds() -> None:
    settings = plan("p", vllm_pool(speculation=SPLIT, options={"additional_config": {"mine": 1}}))
    assert settings.split
    assert settings.arguments["speculative_config"]["num_speculative_tokens"] == 3
    section = settings.arguments["additional_config"][SECTION]
    assert (section["deadline"], section["retry"]) == (0.012, 0.25)
    assert settings.arguments["additional_config"]["mine"] == 1


def test_a_shared_draft_pool_is_one_to_the_engine_like_any_other() -> None:
    settings = plan("p", vllm_pool(speculation=SPLIT | {"layout": "shared"}))
    assert settings.split
    assert settings.arguments == plan("p", vllm_pool(speculation=SPLIT)).arguments


@pytest.mark.parametrize("speculation", [SPLIT, CO_RESIDENT, {"layout": "ngram"}], ids=lambda given: given["layout"])
def test_every_layout_tells_the_worker_how_to_choose_depths(speculation: dict) -> None:
    chosen = {"depth": 6, "controller": "fixed", "floor": 0.5, "strict": "off"}
    section = plan("p", vllm_pool(speculation=speculation | chosen)).arguments["additional_config"][SECTION]
    assert chosen.items() <= section.items()
    assert ("drafts" in section) == (speculation is SPLIT)


def test_drafts_are_made_ahead_unless_switched_off() -> None:
    for ahead in (True, False):
        arguments = plan("p", vllm_pool(speculation=SPLIT | {"ahead": ahead})).arguments
        assert arguments["additional_config"][SECTION]["ahead"] is ahead


def test_a_draft_model_in_the_engine_is_found_like_any_model_and_split_like_its_verifier() -> None:
    settings = plan("p", vllm_pool(speculation=CO_RESIDENT, options={"tensor_parallel_size": 2}))
    method = settings.arguments["speculative_config"]
    assert method["model"].endswith("draft")
    assert (method["method"], method["num_speculative_tokens"], method["draft_tensor_parallel_size"]) == (
        "draft_model",
        5,
        2,
    )
    assert not settings.split
    with pytest.raises(ConfigError, match="draft"):
        plan("p", vllm_pool(speculation=CO_RESIDENT | {"model": "zoo:nothing"}))


def test_speculation_by_option_is_counted_and_corrected_too() -> None:
    settings = plan("p", vllm_pool(options={"speculative_config": {"method": "draft_model", "model": "x"}}))
    assert settings.speculates
    assert settings.arguments["worker_cls"].endswith("vllm_worker.Worker")


@pytest.mark.parametrize(
    "options", [{"model": "other"}, {"speculative_config": {}}, {"worker_cls": "x.Y"}, {"disable_log_stats": True}]
)
def test_what_the_pool_itself_sets_may_not_be_an_option(options: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        plan("p", vllm_pool(options=options, speculation=SPLIT))


@pytest.mark.parametrize(
    ("runner", "gpus", "expected"),
    [("auto", 0, "in_process"), ("auto", 1, "async"), ("async", 0, "async"), ("in_process", 1, "in_process")],
)
def test_the_runner_follows_the_hardware_unless_it_is_named(runner: str, gpus: int, expected: str) -> None:
    assert plan("p", vllm_pool(runner=runner, resources={"gpus": gpus})).runner == expected


def test_a_pinned_engine_uses_as_many_threads_as_cores_and_cores_wrap_round() -> None:
    assert environment(plan("p", vllm_pool()))["OMP_NUM_THREADS"] == "1"
    assert fitting((0, 3), {4, 6}) == {4, 6}
    assert fitting((5,), {2}) == {2}


@pytest.mark.parametrize("speculation", [SPLIT, CO_RESIDENT, {"layout": "ngram"}], ids=lambda given: given["layout"])
def test_an_engine_that_speculates_runs_on_the_model_runner_our_layers_fit(speculation: dict) -> None:
    assert environment(plan("p", vllm_pool(speculation=speculation)))["VLLM_USE_V2_MODEL_RUNNER"] == "0"
    assert "VLLM_USE_V2_MODEL_RUNNER" not in environment(plan("p", vllm_pool()))


def test_a_co_resident_draft_and_ranks_that_decide_by_themselves_contradict_each_other() -> None:
    with pytest.raises(ConfigError, match="data_parallel_size"):
        plan("p", vllm_pool(speculation=CO_RESIDENT, options={"data_parallel_size": 2}))


def test_only_kinds_that_generate_have_an_engine() -> None:
    draft = pool({"kind": "draft"}, model="zoo:draft", kind="draft")
    with pytest.raises(ConfigError, match="simulated"):
        build_engine("draft", draft)


def test_an_engine_refuses_the_pool_of_another_kind() -> None:
    with pytest.raises(ConfigError):
        plan("p", simulated_pool())


def test_a_light_process_builds_an_engine_without_importing_its_runtime() -> None:
    program = """
import sys
from deployments.config import load
from experts.engines.registry import build_engine
build_engine("general", load("local").pools["general"])
heavy = {"vllm", "torch", "transformers"} & sys.modules.keys()
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
