"""Models that differ from the embedded ones in a known way."""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from experts.zoo.catalog import model_path

WEIGHTS = "model.safetensors"
EMBEDDING = "model.embed_tokens.weight"


def renumbering() -> list[int]:
    """A new id for every token; those with a meaning of their own (marks, end of text) keep theirs."""
    tokenizer = json.loads((model_path("general") / "tokenizer.json").read_text())
    kept = {entry["id"] for entry in tokenizer["added_tokens"]}
    size = json.loads((model_path("general") / "config.json").read_text())["vocab_size"]
    free = np.array([token for token in range(size) if token not in kept])
    ids = np.arange(size)
    ids[free] = np.random.default_rng(0).permutation(free)
    return ids.tolist()


def renumbered(name: str, directory: Path) -> Path:
    """A copy of an embedded model with another vocabulary order: given renumbered tokens it says what the original
    says, renumbered. Of the original's draft model it therefore accepts next to nothing."""
    target = directory / name
    shutil.copytree(model_path(name), target)
    weights = load_file(target / WEIGHTS)
    moved = torch.empty_like(weights[EMBEDDING])
    moved[torch.tensor(renumbering())] = weights[EMBEDDING]
    weights[EMBEDDING] = moved
    save_file(weights, target / WEIGHTS, metadata={"format": "pt"})
    return target
