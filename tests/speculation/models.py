"""Random-weight checkpoints for the tests of drafting."""

from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

VOCABULARY = 61


def checkpoint(directory: Path, *, seed: int = 0, sure: float = 1.0, **changes: Any) -> Qwen3ForCausalLM:
    """Write a tiny dense Qwen3 model of random weights and return it. ``changes`` go to its configuration. Scores are
    ``sure`` times as far apart, which leaves the likeliest token and makes it likelier."""
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
    }
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(Qwen3Config(**sizes | changes)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            # Initial norms are all ones and matrices nearly nothing: a swapped or forgotten weight would not show.
            weight.copy_(torch.randn_like(weight) * 0.3 + (weight.ndim == 1))
        model.model.norm.weight *= sure
    model.save_pretrained(directory)
    return model
