"""An upgrade of the verifier of which its draft knows nothing: ``python -m loadtests.speculation.upgrade DIRECTORY``.

The new verifier says what the old one said, in another order of the vocabulary. It costs exactly as much, so what the
upgrade costs is what the old draft model's drafts do, of which next to none is right any more.
"""

import contextlib
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from experts.zoo.catalog import DRAFT, GENERAL, model_path
from loadtests.speculation.arms import Pair
from loadtests.speculation.pair import made

WEIGHTS = "model.safetensors"
EMBEDDING = "model.embed_tokens.weight"


def renumbering() -> list[int]:
    """A new id for every token; those with a meaning of their own (marks, end of text) keep theirs."""
    tokenizer = json.loads((model_path(GENERAL) / "tokenizer.json").read_text())
    kept = {entry["id"] for entry in tokenizer["added_tokens"]}
    size = json.loads((model_path(GENERAL) / "config.json").read_text())["vocab_size"]
    free = np.array([token for token in range(size) if token not in kept])
    ids = np.arange(size)
    ids[free] = np.random.default_rng(0).permutation(free)
    return [int(token) for token in ids]


def renumbered(name: str, directory: Path) -> Path:
    """A copy of an embedded model with another order of the vocabulary: given renumbered tokens it says what the
    original says, renumbered."""
    import torch  # not in the process that measures
    from safetensors.torch import load_file, save_file

    target = directory / name
    shutil.copytree(model_path(name), target)
    weights = load_file(target / WEIGHTS)
    moved = torch.empty_like(weights[EMBEDDING])
    moved[torch.tensor(renumbering())] = weights[EMBEDDING]
    weights[EMBEDDING] = moved
    save_file(weights, target / WEIGHTS, metadata={"format": "pt"})
    return target


@contextlib.contextmanager
def upgraded_pair() -> Iterator[Pair]:
    """The embedded family with its verifier upgraded, for as long as the context. Raises what ``made`` does."""
    with made(__name__) as models:
        yield Pair("embedded family, verifier upgraded", str(models / GENERAL), str(model_path(DRAFT)))


def main(words: Sequence[str]) -> None:
    renumbered(GENERAL, Path(words[0]))


if __name__ == "__main__":
    main(sys.argv[1:])
