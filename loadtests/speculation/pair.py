"""A larger pair of random weights, made on the fly: ``python -m loadtests.speculation.pair DIRECTORY``.

What it says is noise, so acceptance is vLLM's synthetic one; what it costs is that of a model of its size.
"""

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from experts.zoo.catalog import DRAFT, GENERAL, model_path
from loadtests.speculation.arms import Pair

LIMIT = 120.0
VERIFIER_SHAPE = {"width": 768, "layers": 8, "key_heads": 8, "inner": 3072}  # 71M parameters
DRAFT_SHAPE = {"width": 320, "layers": 4, "key_heads": 2, "inner": 1024}  # 5.6M
SEED = 7


def embedded() -> Pair:
    """The family that ships with the repository."""
    return Pair("embedded family", str(model_path(GENERAL)), str(model_path(DRAFT)))


@contextlib.contextmanager
def made(module: str) -> Iterator[Path]:
    """The directory of models that ``module`` makes, in a process of its own as it needs torch; kept for as long as the
    context. Raises CalledProcessError, or TimeoutExpired."""
    with tempfile.TemporaryDirectory(prefix="switchyard-pair-") as scratch:
        subprocess.run([sys.executable, "-m", module, scratch], check=True, timeout=LIMIT, capture_output=True)
        yield Path(scratch)


@contextlib.contextmanager
def random_pair() -> Iterator[Pair]:
    """Raises what ``made`` does."""
    with made(__name__) as models:
        yield Pair("71M dense, random weights", str(models / "verifier"), str(models / "draft"))


def main(words: Sequence[str]) -> None:
    import torch  # not in the process that measures

    from experts.zoo.models import Shape, build, save
    from experts.zoo.tokenizer import load_tokenizer

    torch.manual_seed(SEED)
    tokenizer = load_tokenizer(model_path(GENERAL))
    for name, shape in (("verifier", VERIFIER_SHAPE), ("draft", DRAFT_SHAPE)):
        save(build(Shape(**shape)), tokenizer, Path(words[0]) / name)


if __name__ == "__main__":
    main(sys.argv[1:])
