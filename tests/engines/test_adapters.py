"""What a dense model with adapters and a scheduler of priorities does. The adapters are made here."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import torch
from engine_bench import QUESTIONS, Bench, decoded, ended, pool, tokens
from safetensors.torch import save_file

from cluster.errors import UnknownModel
from experts.engines.registry import build_engine
from experts.zoo.catalog import model_path

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.engine, pytest.mark.timeout(240)]

RANK = 4
OPTIONS = {
    "dtype": "float32",
    "max_model_len": 512,
    "max_num_seqs": 1,
    "kv_cache_memory_bytes": 16 * 1024 * 1024,
    "enforce_eager": True,
    "enable_lora": True,
    "max_lora_rank": 8,
    "scheduling_policy": "priority",
}


def make_adapter(folder: Path, strength: float) -> Path:
    """An adapter on every attention output of the draft model; strength 0 changes nothing."""
    shape = json.loads((model_path("draft") / "config.json").read_text(encoding="utf-8"))
    inner = shape["num_attention_heads"] * shape["head_dim"]
    torch.manual_seed(1)
    tensors = {}
    for layer in range(shape["num_hidden_layers"]):
        name = f"base_model.model.model.layers.{layer}.self_attn.o_proj"
        tensors[f"{name}.lora_A.weight"] = torch.randn(RANK, inner)
        tensors[f"{name}.lora_B.weight"] = strength * torch.randn(shape["hidden_size"], RANK)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": RANK, "bias": "none"}
    document = settings | {"target_modules": ["o_proj"], "base_model_name_or_path": "draft"}
    (folder / "adapter_config.json").write_text(json.dumps(document), encoding="utf-8")
    return folder


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def adapted_bench(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    folder = tmp_path_factory.mktemp("adapters")
    adapters = {name: str(make_adapter(folder / name, value)) for name, value in (("mute", 0.0), ("loud", 3.0))}
    section = {"kind": "vllm", "runner": "in_process", "options": OPTIONS, "adapters": adapters}
    engine = build_engine("dense", pool(section, model="zoo:draft"))
    bench = Bench(engine, decoded)
    await engine.start(bench.sink)
    yield bench
    await engine.stop()


async def test_an_adapter_changes_the_answer_and_an_empty_one_does_not(adapted_bench: Bench) -> None:
    plain, mute, loud = [
        await adapted_bench.tokens(adapted_bench.request(adapter=name)) for name in (None, "mute", "loud")
    ]
    assert mute == plain
    assert loud != plain


async def test_an_unknown_adapter_is_refused_with_those_that_exist(adapted_bench: Bench) -> None:
    with pytest.raises(UnknownModel, match="mute, loud"):
        adapted_bench.submit(adapted_bench.request(adapter="polite"))


async def test_the_more_urgent_request_goes_first(adapted_bench: Bench) -> None:
    finished: list[str] = []
    names = {"running": 0, "later": 2, "sooner": 1}
    streams = {
        name: adapted_bench.submit(adapted_bench.request(QUESTIONS[2], name=name, priority=rank, max_tokens=40))
        for name, rank in names.items()
    }

    def note() -> bool:
        finished.extend(name for name, stream in streams.items() if ended(stream) and name not in finished)
        return len(finished) == len(streams)

    await adapted_bench.until(note)
    assert finished == ["running", "sooner", "later"]
    assert all(len(tokens(stream)) == 40 for stream in streams.values())
