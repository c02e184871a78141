from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from experts.speculation.draft_model import DraftModel, Window
from tests.speculation.models import checkpoint

CONTEXT = 320

Greedy = Callable[[Sequence[int], int], list[int]]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of random weights whose context is ``CONTEXT``."""
    directory = tmp_path_factory.mktemp("draft")
    checkpoint(directory, max_position_embeddings=CONTEXT)
    return directory


@pytest.fixture(scope="session")
def model(tiny: Path) -> DraftModel:
    torch.set_num_threads(1)
    return DraftModel.load(tiny, dtype=torch.float32, device="cpu", context=CONTEXT)


@pytest.fixture(scope="session")
def greedy(model: DraftModel) -> Greedy:
    """The continuation of a history computed from nothing, one sequence alone, one pass per token."""

    def continuation(history: Sequence[int], depth: int) -> list[int]:
        tokens = list(history)
        for _ in range(min(depth, CONTEXT - len(history))):
            window = Window(model.cache(1), [0], cached=[0], counts=[len(tokens)], later=0)
            hidden = model.forward(window, torch.tensor([tokens]))
            tokens.append(int(model.logits(hidden[:, -1]).argmax()))
        return tokens[len(history) :]

    return continuation
