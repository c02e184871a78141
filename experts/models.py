"""Where a model's files are. Imports no tensor library: gateways ask too."""

from pathlib import Path

from cluster.errors import ConfigError
from experts.zoo.catalog import model_path

ZOO = "zoo:"


def local_directory(model: str) -> Path | None:
    """The directory of a model that is on this machine: ``zoo:NAME`` (checked against its manifest) or a path; None
    for a name on a hub.

    Raises UnknownModel for a name the zoo does not have, ModelCorrupt if a file is not what it should be.
    """
    if model.startswith(ZOO):
        return model_path(model.removeprefix(ZOO))
    path = Path(model)
    return path if path.is_dir() else None


def fetched_directory(model: str) -> Path:
    """The same, fetching a hub model through its cache. Raises ConfigError if it is not to be had."""
    known = local_directory(model)
    if known is not None:
        return known
    from huggingface_hub import snapshot_download  # heavy: only for models that are not here
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.txt"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise ConfigError(f"model {model!r} is neither a directory nor on the hub: {error}") from error
