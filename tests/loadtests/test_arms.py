"""Every arm is a pool that the configuration accepts and that vLLM's options can be made from."""

import json

import pytest

from experts.config import PoolConfig
from experts.engines.vllm_options import plan
from loadtests.speculation.arms import DEPTH, DEPTHS, OPTIONS, PLAIN, Arm, co_resident, fixed, split
from loadtests.speculation.pair import embedded

PAIR = embedded()
SPLITS = [split(ahead=ahead, adaptive=adaptive) for ahead in (False, True) for adaptive in (False, True)]
ARMS = [PLAIN, co_resident(PAIR, (0,)), co_resident(PAIR, (0, 1)), *SPLITS]


def planned(arm: Arm):
    return plan(arm.name, PoolConfig.model_validate_json(json.dumps(arm.pool(PAIR))))


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
def test_all_arms_run_the_same_verifier_with_the_same_options(arm):
    made = planned(arm)
    assert made.arguments["model"] == PAIR.verifier
    assert {name: made.arguments[name] for name in OPTIONS} == OPTIONS
    assert made.runner == "in_process"


def test_only_split_arms_take_drafts_from_the_server():
    assert [arm.remote for arm in ARMS] == [planned(arm).split for arm in ARMS] == [False] * 3 + [True] * 4


def test_plain_does_not_speculate_and_the_others_may_draft_equally_deep():
    assert not planned(PLAIN).speculates
    depths = {planned(arm).arguments["speculative_config"]["num_speculative_tokens"] for arm in ARMS[1:]}
    assert depths == {DEPTH} == {max(DEPTHS)}


def test_the_rival_is_tuned_by_schedule_and_ours_fixed_only_where_it_says_so():
    assert [arm.tunable for arm in ARMS] == [False, True, True, True, False, True, False]
    assert len({arm.name for arm in ARMS}) == len(ARMS)


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_fixed_depth_is_the_one_its_engine_is_configured_with(depth):
    arm = fixed(depth)
    made = planned(arm)
    assert made.split
    assert made.arguments["speculative_config"]["num_speculative_tokens"] == depth
    assert not arm.tunable
    assert arm.name == f"K={depth}"
