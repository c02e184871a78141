"""The two corrections of vLLM's sampling on CPU: what is wrong is found, what replaces it is right."""

from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.engine  # importing the corrections imports the runtime


def settings(**values):
    import torch

    standard = {"all_greedy": False, "temperature": torch.ones(1), "top_k": None, "top_p": None}
    return SimpleNamespace(**standard | values)


def test_an_expansion_that_leaves_its_memory_as_it_was_is_found() -> None:
    import torch

    from experts.engines.vllm_sampling import expand, expands

    def forgetful(x, ends, count, replace_from=0, replace_to=0):
        return torch.full((count,), 0.5)

    def stale(x, ends, count, replace_from=0, replace_to=0):
        return expand(torch.tensor([0.5, 7.0, 0.0]), ends, count, replace_from, replace_to)

    assert expands(expand)
    assert not expands(forgetful)
    assert not expands(stale)


def test_the_expansion_repeats_each_value_for_its_drafts_and_keeps_the_type() -> None:
    import torch

    from experts.engines.vllm_sampling import expand

    for dtype in (torch.float32, torch.int32):
        values = torch.tensor([4, 0, 9, 2], dtype=dtype)
        out = expand(values, torch.tensor([1, 3, 3, 6], dtype=torch.int32), 6, replace_from=0, replace_to=1)
        assert out.dtype == dtype
        assert out.tolist() == [4, 1, 1, 2, 2, 2]
    assert expand(torch.ones(2), torch.zeros(2, dtype=torch.int32), 0).tolist() == []


def test_a_constraint_that_fails_on_no_rows_is_found_and_then_passes_over_them() -> None:
    import torch

    from experts.engines.vllm_sampling import constrains_nothing, skipping_empty

    def fails(logits, ends, given):
        return logits - logits.max()

    assert not constrains_nothing(fails)
    corrected = skipping_empty(fails)
    assert constrains_nothing(corrected)
    assert corrected(torch.tensor([[1.0, 3.0]]), None, settings()).tolist() == [[-2.0, 0.0]]


def test_after_correction_vllm_itself_is_right_and_a_second_look_changes_nothing() -> None:
    import torch
    from vllm.v1.sample import rejection_sampler

    from experts.engines.vllm_sampling import constrains_nothing, correct, expands

    correct()
    assert expands(rejection_sampler.expand_batch_to_tokens)
    assert constrains_nothing(rejection_sampler.apply_sampling_constraints)
    assert correct() == ()
    logits = torch.tensor([[2.0, 4.0], [3.0, 9.0]])
    given = settings(temperature=torch.tensor([2.0, 3.0]))
    out = rejection_sampler.apply_sampling_constraints(logits, torch.tensor([1, 2], dtype=torch.int32), given)
    assert out.tolist() == [[1.0, 2.0], [1.0, 3.0]]
