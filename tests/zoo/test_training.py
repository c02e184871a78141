"""A few steps lower the loss; the parts of the loop do what they say."""

from random import Random

import pytest
import torch
from torch import nn

from experts.zoo import family, manifest
from experts.zoo.catalog import MODELS, WEIGHTS
from experts.zoo.models import SIZES, build, load, sorted_experts
from experts.zoo.objectives import answer_loss, balance_loss, distillation
from experts.zoo.optim import Muon, orthogonalize
from experts.zoo.stream import MIX, Layout, Stream, batches
from experts.zoo.tasks.catalog import draw
from experts.zoo.tokenizer import load_tokenizer, render
from experts.zoo.train import Bench, Place, Recipe, Stage, fit, schedule

TINY = SIZES["tiny"]
CPU = Place.find("cpu")


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(WEIGHTS / "general")


def _losses(model, objective, tokenizer, steps=20):
    """Train on the spot and return the loss on one fixed batch before and after."""
    batch = next(batches(Stream(tokenizer, Layout(8, 128), seed=99), workers=0))
    recipe = Recipe(60, (Stage(Layout(8, 128), 1.0),), workers=0, steps=steps)
    before = objective(model, batch)[0].item()
    fit(model, objective, recipe=recipe, bench=Bench(tokenizer, CPU, lambda _: None))
    return before, objective(model, batch)[0].item()


@pytest.mark.parametrize("shape", [TINY.verifier, TINY.draft])
def test_twenty_steps_lower_the_loss(tokenizer, shape):
    torch.manual_seed(0)
    before, after = _losses(build(shape), answer_loss, tokenizer)
    assert after < before - 0.1


def test_distillation_brings_a_draft_nearer_to_its_teacher(tokenizer):
    torch.manual_seed(0)
    before, after = _losses(build(TINY.draft), distillation(build(TINY.verifier).eval()), tokenizer)
    assert after < before


def test_the_sorted_path_through_the_experts_equals_the_plain_one():
    torch.manual_seed(0)
    model = build(TINY.verifier)
    ids = torch.randint(3, 100, (2, 30))
    ours = model(input_ids=ids).logits
    model.set_experts_implementation("eager")
    torch.testing.assert_close(ours, model(input_ids=ids).logits, rtol=1e-4, atol=1e-5)
    experts = model.model.layers[0].mlp.experts
    idle = sorted_experts(experts, torch.randn(3, 64), torch.zeros(3, 1, dtype=torch.long), torch.ones(3, 1))
    assert idle.shape == (3, 64)


def test_orthogonalized_matrices_have_singular_values_near_one():
    torch.manual_seed(0)
    for shape in ((3, 32, 64), (3, 64, 32)):
        values = torch.linalg.svdvals(orthogonalize(torch.randn(shape)))
        assert values.min() > 0.5
        assert values.max() < 1.4


def test_muon_leaves_parameters_without_a_gradient_alone():
    used, unused = (nn.Parameter(torch.ones(4, 4)) for _ in range(2))
    used.grad = torch.randn(4, 4)
    Muon([used, unused], lr=0.1).step()
    assert not torch.equal(used, torch.ones(4, 4))
    assert torch.equal(unused, torch.ones(4, 4))


def test_an_even_load_has_balance_loss_one_and_an_uneven_one_more():
    even = torch.eye(4).repeat(8, 1) * 50
    assert balance_loss((even,), 1).item() == pytest.approx(1.0, abs=1e-3)
    uneven = torch.zeros(8, 4)
    uneven[:, 0] = 50
    assert balance_loss((uneven,), 1).item() == pytest.approx(4.0, abs=1e-3)


def test_the_schedule_warms_up_and_decays_in_the_second_half():
    assert schedule(0.0) < 0.1
    assert schedule(0.3) == schedule(0.5) == 1.0
    assert schedule(0.75) == pytest.approx(0.5)
    assert 0 < schedule(1.0) < 0.05


def test_answers_weigh_one_and_prompts_nothing(tokenizer):
    stream = Stream(tokenizer, Layout(2, 64))
    task = draw("tools", Random(1), "train")
    ids, weights = stream.encode(render(tokenizer, task, answered=True))
    answer = tokenizer.encode(task.answer + "<|im_end|>", add_special_tokens=False)
    last = [token for token, weight in zip(ids, weights, strict=True) if weight == 1.0][-len(answer) :]
    assert last == answer
    assert set(weights) == {0.0, 1.0}


def test_a_stream_repeats_for_its_seed_and_holds_no_answer_cut_before_its_prompt(tokenizer):
    def first(seed):
        return next(iter(Stream(tokenizer, Layout(4, 128), seed=seed)))

    assert torch.equal(first(1)[0], first(1)[0])
    assert not torch.equal(first(1)[0], first(2)[0])
    assert first(1)[0].shape == first(1)[1].shape == (4, 129)


def test_worker_processes_make_the_same_batches_every_time(tokenizer):
    stream = Stream(tokenizer, Layout(4, 128), seed=7)
    assert torch.equal(next(batches(stream, workers=1))[0], next(batches(stream, workers=1))[0])


def test_domains_share_the_tokens_as_the_mix_asks(tokenizer):
    spent = dict.fromkeys(MIX, 0)
    rng = Random(0)
    for domain in MIX:
        for _ in range(20):
            spent[domain] += len(tokenizer.encode(render(tokenizer, draw(domain, rng, "train"), answered=True)))
    assert all(count > 0 for count in spent.values())
    assert sum(MIX.values()) == pytest.approx(1.0)


def test_all_phases_leave_a_family_that_loads_and_matches_its_manifest(tmp_path):
    plan = family.Plan(tmp_path, 1.0, TINY, CPU, rows=3, workers=0, steps=1)
    seen = []
    family.run(plan, tuple(family.PHASES), lambda name, status: seen.append((name, status)))
    manifest.verify(tmp_path)
    assert all(load(tmp_path / name).config.vocab_size == 2048 for name in MODELS)
