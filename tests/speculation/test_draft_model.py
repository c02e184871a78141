import json

import pytest
import torch

from cluster.errors import ConfigError, ModelCorrupt
from experts.speculation.book import RANKS
from experts.speculation.draft_model import DraftModel, Round, Window
from tests.speculation.models import VOCABULARY, checkpoint

SHAPES = [
    pytest.param({}, id="grouped-tied"),
    pytest.param({"tie_word_embeddings": False, "num_key_value_heads": 4}, id="ungrouped-untied"),
    pytest.param(
        {"num_key_value_heads": 1, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, id="one-head"
    ),
]


def lean(directory, dtype=torch.float32, context=64):
    return DraftModel.load(directory, dtype=dtype, device="cpu", context=context)


def run(model, cache, slots, *, cached, new):
    """Logits [rows, T, vocabulary] of right-aligned new tokens, which then are in the cache."""
    counts = [len(tokens) for tokens in new]
    window = Window(cache, slots, cached=cached, counts=counts, later=0)
    padded = torch.tensor([[0] * (max(counts) - len(tokens)) + tokens for tokens in new])
    hidden = model.forward(window, padded)
    window.commit()
    return model.logits(hidden.flatten(0, 1)).view(*padded.shape, -1)


@pytest.mark.parametrize("changes", SHAPES)
def test_logits_equal_those_of_transformers(tmp_path, changes):
    reference = checkpoint(tmp_path, **changes)
    model = lean(tmp_path)
    tokens = torch.randint(0, VOCABULARY, (3, 17))
    with torch.inference_mode():
        expected = reference(tokens).logits
        found = run(model, model.cache(4), [2, 0, 3], cached=[0, 0, 0], new=tokens.tolist())
    assert (found - expected).abs().max() < 1e-4


@pytest.mark.parametrize("changes", SHAPES)
def test_rows_of_different_lengths_continue_where_they_were(tmp_path, changes):
    reference = checkpoint(tmp_path, **changes)
    model = lean(tmp_path)
    cache = model.cache(4)
    texts = torch.randint(0, VOCABULARY, (3, 40)).tolist()
    first, second = [5, 20, 1], [6, 29, 33]
    with torch.inference_mode():
        run(model, cache, [3, 1, 0], cached=[0, 0, 0], new=[t[:n] for t, n in zip(texts, first, strict=True)])
        found = run(model, cache, [0, 3, 1], cached=[1, 5, 20], new=[texts[2][1:33], texts[0][5:6], texts[1][20:29]])
        for row, (text, length) in zip((1, 2, 0), zip(texts, second, strict=True), strict=True):
            expected = reference(torch.tensor([text[:length]])).logits[0, -1]
            assert (found[row, -1] - expected).abs().max() < 1e-4


def drafting(model, prompt, passes):
    window = Window(model.cache(1), [0], cached=[0], counts=[len(prompt)], later=passes - 1)
    work = Round(model, window, torch.tensor([prompt]))
    for _ in range(passes):
        work.advance()
    return work


def test_drafts_are_the_greedy_continuation(tmp_path):
    reference = checkpoint(tmp_path)
    prompt = [3, 14, 15, 9, 26]
    drafts = drafting(lean(tmp_path), prompt, 6).drafts()[0].tolist()
    assert len(drafts) == 6
    with torch.inference_mode():
        for draft in drafts:
            assert draft == reference(torch.tensor([prompt])).logits[0, -1].argmax()
            prompt.append(draft)


def test_what_else_was_likely_is_known_with_its_probability(tmp_path):
    reference = checkpoint(tmp_path)
    prompt = [3, 14, 15]
    work = drafting(lean(tmp_path), prompt, 2)
    (likely,), (chances,) = work.found()
    assert likely[:, 0].tolist() == work.drafts()[0].tolist()
    with torch.inference_mode():
        for tokens, found in zip(likely, chances, strict=True):
            expected = torch.softmax(reference(torch.tensor([prompt])).logits[0, -1], -1)
            assert tokens.tolist() == expected.topk(RANKS).indices.tolist()
            assert (torch.from_numpy(found) - expected.topk(RANKS).values).abs().max() < 1e-5
            prompt.append(int(tokens[0]))


def test_only_the_chosen_row_of_a_window_is_written_back(tmp_path):
    checkpoint(tmp_path)
    model = lean(tmp_path)
    with torch.inference_mode():
        cache = model.cache(2)
        run(model, cache, [1], cached=[0], new=[[1, 2, 3]])
        window = Window(cache, [1, 1], cached=[3, 3], counts=[1, 1], later=0)
        model.forward(window, torch.tensor([[4], [5]]))
        window.commit([1])
        found = run(model, cache, [1], cached=[4], new=[[6]])
        expected = run(model, model.cache(1), [0], cached=[0], new=[[1, 2, 3, 5, 6]])
    assert (found[0, -1] - expected[0, -1]).abs().max() < 1e-4


def test_bfloat16_stays_near_float32(tmp_path):
    checkpoint(tmp_path)
    tokens = torch.randint(0, VOCABULARY, (2, 9)).tolist()
    with torch.inference_mode():
        exact, rough = (
            run(model, model.cache(2), [0, 1], cached=[0, 0], new=tokens)
            for model in (lean(tmp_path), lean(tmp_path, torch.bfloat16))
        )
    assert torch.nn.functional.cosine_similarity(exact, rough.float(), dim=-1).min() > 0.98


def test_context_is_the_smaller_of_what_is_asked_and_what_the_model_knows(tmp_path):
    checkpoint(tmp_path)
    assert (lean(tmp_path, context=32).context, lean(tmp_path, context=4096).context) == (32, 64)


def edit(directory, **changes):
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    "change",
    [
        {"architectures": ["LlamaForCausalLM"]},
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}},
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"attention_bias": True},
        {"use_sliding_window": True},
        {"hidden_act": "gelu"},
    ],
)
def test_a_model_this_engine_would_run_wrongly_is_refused(tmp_path, change):
    checkpoint(tmp_path)
    edit(tmp_path, **change)
    with pytest.raises(ConfigError, match=next(iter(change)) if "rope" not in str(change) else "rope_type"):
        lean(tmp_path)


def test_older_files_keep_theta_beside_the_parameters(tmp_path):
    checkpoint(tmp_path, rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    tokens = torch.randint(0, VOCABULARY, (1, 30)).tolist()
    with torch.inference_mode():
        model = lean(tmp_path)
        new = run(model, model.cache(1), [0], cached=[0], new=tokens)
        edit(tmp_path, rope_parameters=None, rope_theta=5e5)
        model = lean(tmp_path)
        assert torch.equal(run(model, model.cache(1), [0], cached=[0], new=tokens), new)


def test_damaged_weights_are_not_loaded(tmp_path):
    checkpoint(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelCorrupt, match="cannot be read"):
        lean(tmp_path)
    weights.unlink()
    with pytest.raises(ConfigError, match="no safetensors"):
        lean(tmp_path)


def test_weights_that_do_not_fit_the_configuration_are_not_loaded(tmp_path):
    checkpoint(tmp_path)
    edit(tmp_path, intermediate_size=40)
    with pytest.raises(ModelCorrupt, match="gate_proj"):
        lean(tmp_path)
    edit(tmp_path, intermediate_size=48, num_hidden_layers=3)
    with pytest.raises(ModelCorrupt, match=r"layers\.2\..* is missing"):
        lean(tmp_path)


def test_a_configuration_that_is_no_json_is_reported(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.json"):
        lean(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelCorrupt, match=r"config\.json"):
        lean(tmp_path)
