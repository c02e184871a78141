"""The embedded models by name. Imports no tensor library: light processes ask where a model is, engines load it."""

from pathlib import Path

from cluster.errors import UnknownModel
from experts.zoo import manifest

GENERAL, DRAFT, CODE, TOOLS = "general", "draft", "code", "tools"
MODELS = (GENERAL, DRAFT, CODE, TOOLS)
WEIGHTS = Path(__file__).parent / "weights"


def model_path(name: str) -> Path:
    """Return the checkpoint directory of a model after checking its files against the manifest."""
    if name not in MODELS:
        raise UnknownModel(f"no embedded model {name!r}; there are {', '.join(MODELS)}")
    manifest.verify(WEIGHTS, model=name)
    return WEIGHTS / name
