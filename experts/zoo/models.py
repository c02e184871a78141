"""Shapes of the family, a fast way through the experts on CPU, and plain Hugging Face checkpoints."""

import copy
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from experts.zoo.tokenizer import CONTEXT, VOCABULARY

PAD_ID, END_ID = 0, 2
HEAD = 32  # size of one attention head
TOKEN_SCALE = 15.0  # the library draws embeddings at 0.02
ATTENTION_GAIN = 1.8  # of normalised queries and keys each
ROPE = {"rope_type": "default", "rope_theta": 10_000.0}


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of one model; ``experts`` is 0 for a dense one, whose feed-forward is ``inner`` wide."""

    width: int
    layers: int
    key_heads: int
    inner: int
    experts: int = 0


@dataclass(frozen=True, slots=True)
class Size:
    """The two shapes of a family."""

    verifier: Shape
    draft: Shape


SIZES = {
    "tiny": Size(Shape(64, 2, 1, 32, experts=4), Shape(32, 1, 1, 64)),
    "small": Size(Shape(128, 4, 2, 128, experts=8), Shape(96, 2, 1, 256)),
    "large": Size(Shape(192, 6, 2, 128, experts=8), Shape(128, 2, 2, 320)),
}


def build(shape: Shape) -> PreTrainedModel:
    """Return a model of random float32 weights."""
    common = {
        "vocab_size": VOCABULARY,
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.width // HEAD,
        "num_key_value_heads": shape.key_heads,
        "head_dim": HEAD,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": True,
        "rope_parameters": dict(ROPE),
        "pad_token_id": PAD_ID,
        "eos_token_id": END_ID,
        "bos_token_id": None,
    }
    if shape.experts:
        sparse = {"num_experts": shape.experts, "num_experts_per_tok": 2, "norm_topk_prob": True}
        inner = {"moe_intermediate_size": shape.inner, "intermediate_size": 2 * shape.inner}
        return sharpen(route_sorted(Qwen3MoeForCausalLM(Qwen3MoeConfig(**common, **sparse, **inner))))
    return sharpen(Qwen3ForCausalLM(Qwen3Config(**common, intermediate_size=shape.inner)))


@torch.no_grad()
def sharpen(model: PreTrainedModel) -> PreTrainedModel:
    """Change the library's first weights so that a small model can copy.

    Each token's own direction must outweigh what the layers add to it, or the words of one class look alike by the time
    attention knows which to copy; and attention must be able to single out one token from the start.
    """
    model.model.embed_tokens.weight.mul_(TOKEN_SCALE)
    model.model.norm.weight.div_(TOKEN_SCALE)
    for name, parameter in model.named_parameters():
        if name.endswith(("q_norm.weight", "k_norm.weight")):
            parameter.fill_(ATTENTION_GAIN)
    return model


def load(directory: Path) -> PreTrainedModel:
    """Load a checkpoint in float32, whatever it is stored in."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    return route_sorted(model)


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """Write a bfloat16 checkpoint with its tokenizer; each file appears whole, under its name, or not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(pad_token_id=PAD_ID, eos_token_id=END_ID, do_sample=False)
    stored = copy.deepcopy(model).to("cpu", torch.bfloat16)
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        stored.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        for file in Path(scratch).iterdir():
            file.chmod(0o644)
            file.replace(directory / file.name)


def route_sorted(model: PreTrainedModel) -> PreTrainedModel:
    """Send a mixture's tokens through `sorted_experts` on CPU; leave dense models and other devices alone."""
    if hasattr(model.config, "num_experts") and not torch.cuda.is_available():
        model.set_experts_implementation("sorted")
    return model


def sorted_experts(experts: nn.Module, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """Run tokens [n, width] through their ``chosen`` experts [n, k]: one gather, a slice per expert, one scatter.

    The library's own CPU paths gather and scatter per expert and take several times as long at this size.
    """
    picks = chosen.size(-1)
    inward, outward = experts.get_parameter("gate_up_proj"), experts.get_parameter("down_proj")
    order = chosen.reshape(-1).argsort(stable=True)
    counts = torch.bincount(chosen.reshape(-1), minlength=len(inward)).tolist()
    outputs = []
    for expert, rows in enumerate(torch.split(hidden[order // picks], counts)):
        gate, up = functional.linear(rows, inward[expert]).chunk(2, -1)
        outputs.append(functional.linear(functional.silu(gate) * up, outward[expert]))
    mixed = torch.cat(outputs) * weights.reshape(-1)[order, None].to(hidden.dtype)
    back = torch.empty_like(order)
    back[order] = torch.arange(order.numel(), device=order.device)
    return mixed[back].view(*chosen.shape, -1).sum(1).to(hidden.dtype)


ALL_EXPERTS_FUNCTIONS.register("sorted", sorted_experts)
