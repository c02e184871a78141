"""The quick passes against their plain twin."""

import pytest
import torch

from experts.speculation.checkpoint import Weights, read_shape
from experts.speculation.draft_model import DraftModel, Round, Window
from experts.speculation.swift import WIDEST, suits
from tests.speculation.models import VOCABULARY, checkpoint
from tests.speculation.test_draft_model import SHAPES


def loaded(directory, *, swift, dtype=torch.float32):
    return DraftModel(read_shape(directory), Weights(directory, dtype=dtype, device="cpu"), context=64, swift=swift)


def passes(model, counts, later):
    """Scores [passes, rows, vocabulary] of a round after ``counts`` new tokens, on caches filled alike."""
    torch.manual_seed(3)
    texts = torch.randint(0, VOCABULARY, (len(counts), 40)).tolist()
    cache, slots, cached = model.cache(4), list(range(len(counts))), [20, 5, 11][: len(counts)]
    window = Window(cache, slots, cached=[0] * len(counts), counts=cached, later=0)
    padded = [[0] * (max(cached) - count) + text[:count] for text, count in zip(texts, cached, strict=True)]
    model.forward(window, torch.tensor(padded))
    window.commit()
    window = Window(cache, slots, cached=cached, counts=counts, later=later)
    new = [text[first : first + count] for text, first, count in zip(texts, cached, counts, strict=True)]
    tokens = torch.tensor([[0] * (max(counts) - len(each)) + each for each in new])
    found = [model.step(window, tokens)]
    for _ in range(later):
        found.append(model.step(window, found[-1].argmax(-1, keepdim=True)))
    return torch.stack(found)


@pytest.mark.parametrize("changes", SHAPES)
@pytest.mark.parametrize("counts", [[1], [1, 1, 1], [3, 1, 2], [WIDEST, WIDEST]])
def test_scores_equal_those_of_the_plain_passes(tmp_path, changes, counts):
    checkpoint(tmp_path, **changes)
    quick, plain = loaded(tmp_path, swift=True), loaded(tmp_path, swift=False)
    assert suits(quick.shape, torch.zeros(1))
    with torch.inference_mode():
        assert (passes(quick, counts, 3) - passes(plain, counts, 3)).abs().max() < 1e-4


def test_longer_inputs_go_the_plain_way(tmp_path, monkeypatch):
    checkpoint(tmp_path)
    model = loaded(tmp_path, swift=True)
    widths = []
    run = model.forward
    monkeypatch.setattr(model, "forward", lambda window, tokens: widths.append(tokens.size(1)) or run(window, tokens))
    work = Round(
        model,
        Window(model.cache(1), [0], cached=[0], counts=[WIDEST + 1], later=1),
        torch.ones(1, WIDEST + 1, dtype=torch.long),
    )
    work.advance()
    work.advance()
    assert widths == [WIDEST + 1]


def test_only_small_models_in_float32_on_the_processor_gain(tmp_path):
    checkpoint(tmp_path)
    shape = read_shape(tmp_path)
    assert suits(shape, torch.zeros(1))
    assert not suits(shape, torch.zeros(1, dtype=torch.bfloat16))
    large = tmp_path / "large"
    checkpoint(large, vocab_size=200_000)
    assert not suits(read_shape(large), torch.zeros(1))
