"""Tasks grade themselves, keep the two splits apart and repeat for a seed."""

import json
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experts.zoo.prompts import held_out_prompts
from experts.zoo.tasks.arithmetic import add_steps, subtract_steps
from experts.zoo.tasks.base import Task, assistant, held_out, last_number, user
from experts.zoo.tasks.catalog import DOMAINS, draw
from experts.zoo.tasks.tools import render_call

seeds = st.integers(0, 2**32)
domains = st.sampled_from(list(DOMAINS))


@settings(max_examples=200, deadline=None)
@given(domain=domains, seed=seeds, split=st.sampled_from(("train", "test")))
def test_every_reference_passes_its_own_grade(domain, seed, split):
    task = draw(domain, Random(seed), split)
    grade = task.grade(task.answer)
    assert grade.exact
    assert grade.parses
    assert grade.numeric in (None, True)


@settings(max_examples=100, deadline=None)
@given(domain=domains, seed=seeds)
def test_a_seed_always_draws_the_same_task(domain, seed):
    assert draw(domain, Random(seed), "train") == draw(domain, Random(seed), "train")


@settings(max_examples=100, deadline=None)
@given(domain=domains, seed=seeds)
def test_a_task_lies_on_the_side_of_the_split_that_was_asked_for(domain, seed):
    assert not held_out(draw(domain, Random(seed), "train").key)
    assert held_out(draw(domain, Random(seed), "test").key)


@pytest.mark.parametrize("domain", [name for name in DOMAINS if name != "records"])
def test_no_held_out_question_is_ever_trained_on(domain):
    def questions(split, count):
        tasks = (draw(domain, Random(f"{domain}{split}{i}"), split) for i in range(count))
        return {json.dumps([task.messages, task.tools, task.answer]) for task in tasks}

    assert not questions("train", 3000) & questions("test", 300)


@given(left=st.integers(0, 99), right=st.integers(0, 99))
def test_written_out_sums_end_in_the_right_number(left, right):
    assert last_number(add_steps(left, right)) == left + right
    larger, smaller = max(left, right), min(left, right)
    assert subtract_steps(larger, smaller).endswith(f"{larger} - {smaller} = {larger - smaller}")


def test_grades_tell_wrong_from_malformed():
    call = Task("tools", ("k",), (user("?"),), render_call("f", {"x": 1}), "call")
    assert call.grade(call.answer.replace(": 1", ":1")).exact
    assert call.grade(render_call("f", {"x": 2})).parses
    assert not call.grade(render_call("f", {"x": 2})).exact
    assert not call.grade('<tool_call>\n{"name": "f"').parses
    code = Task("code", ("k",), (user("?"),), "```python\nx = 1\n```", "python")
    assert code.grade("x  =  1").exact
    assert not code.grade("x = = 1").parses
    assert not code.grade("").parses
    total = Task("arithmetic", ("k",), (user("?"),), "1 + 1 = 2", "number")
    assert total.grade("2").numeric
    assert not total.grade("2").exact


def test_conversations_vary_in_system_prompt_and_earlier_turns():
    tasks = [draw("code", Random(i), "train") for i in range(200)]
    roles = {tuple(message["role"] for message in task.messages) for task in tasks}
    assert {("user",), ("system", "user"), ("user", "assistant", "user")} <= roles


def test_held_out_prompts_cover_the_domains_in_turn_and_repeat_for_a_seed():
    prompts = held_out_prompts(12, seed=4)
    assert [prompt.domain for prompt in prompts] == [*DOMAINS] * 2
    assert prompts == held_out_prompts(12, seed=4)
    assert prompts != held_out_prompts(12, seed=5)
    assert prompts[0].messages[-1] != assistant(prompts[0].task.answer)
