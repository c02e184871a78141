"""Reads a dense Qwen3 checkpoint (``config.json`` and safetensors, as Hugging Face transformers writes them)."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cluster.errors import ConfigError, ModelCorrupt

ARCHITECTURE = "Qwen3ForCausalLM"


class _RopeParameters(msgspec.Struct, frozen=True):
    rope_theta: float | None = None
    rope_type: str = "default"


class _File(msgspec.Struct, frozen=True):
    """The part of ``config.json`` that the forward pass depends on; defaults are transformers'."""

    architectures: list[str]
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int
    max_position_embeddings: int
    head_dim: int = 128
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    rope_theta: float | None = None
    rope_parameters: _RopeParameters | None = None
    rope_scaling: _RopeParameters | None = None
    attention_bias: bool = False
    use_sliding_window: bool = False
    hidden_act: str = "silu"

    @property
    def theta(self) -> float:
        """The base of the rotary frequencies: inside ``rope_parameters`` since transformers 5, beside it before."""
        inner = self.rope_parameters.rope_theta if self.rope_parameters else None
        return inner or self.rope_theta or 10_000.0

    def unsupported(self) -> Iterator[str]:
        """What the file asks for and the lean forward pass does not do."""
        if self.architectures != [ARCHITECTURE]:
            yield f"architectures {self.architectures} (only {ARCHITECTURE})"
        for rope in (self.rope_parameters, self.rope_scaling):
            if rope is not None and rope.rope_type != "default":
                yield f"rope_type {rope.rope_type!r}"
        if self.attention_bias:
            yield "attention_bias"
        if self.use_sliding_window:
            yield "use_sliding_window"
        if self.hidden_act != "silu":
            yield f"hidden_act {self.hidden_act!r}"


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a dense Qwen3 model; ``context`` is the longest sequence it was made for."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    context: int
    epsilon: float
    theta: float
    tied: bool


def read_shape(directory: Path) -> Shape:
    """Raises ConfigError for a checkpoint this engine cannot run, ModelCorrupt for one that cannot be read."""
    try:
        file = msgspec.json.decode((directory / "config.json").read_bytes(), type=_File)
    except OSError as error:
        raise ConfigError(f"draft model {directory.name!r} has no readable config.json") from error
    except msgspec.MsgspecError as error:
        raise ModelCorrupt(f"config.json of draft model {directory.name!r}: {error}") from error
    if problems := list(file.unsupported()):
        raise ConfigError(f"draft model {directory.name!r} is not supported: {', '.join(problems)}")
    return Shape(
        vocabulary=file.vocab_size,
        width=file.hidden_size,
        layers=file.num_hidden_layers,
        heads=file.num_attention_heads,
        kv_heads=file.num_key_value_heads,
        head_dim=file.head_dim,
        inner=file.intermediate_size,
        context=file.max_position_embeddings,
        epsilon=file.rms_norm_eps,
        theta=file.theta,
        tied=file.tie_word_embeddings,
    )


class Weights:
    """The tensors of a checkpoint, possibly spread over several files, each checked against the shape it must have."""

    def __init__(self, directory: Path, *, dtype: torch.dtype, device: str) -> None:
        self._name = directory.name
        self._dtype, self._device = dtype, device
        files = sorted(directory.glob("*.safetensors"))
        if not files:
            raise ConfigError(f"draft model {self._name!r} has no safetensors files")
        self._tensors: dict[str, Tensor] = {}
        try:
            for path in files:
                with safe_open(path, framework="pt") as file:
                    self._tensors.update((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118 (no mapping)
        except (OSError, SafetensorError) as error:
            raise ModelCorrupt(f"weights of draft model {self._name!r} cannot be read") from error

    def take(self, name: str, *shape: int) -> Tensor:
        """The tensor in the engine's dtype, on its device. Raises ModelCorrupt if it is missing or misshapen."""
        tensor = self._tensors.get(name)
        if tensor is None or tensor.shape != shape:
            found = "missing" if tensor is None else f"of shape {tuple(tensor.shape)}"
            raise ModelCorrupt(f"weights of draft model {self._name!r}: {name} is {found}, not {shape}")
        return tensor.to(self._device, self._dtype)
