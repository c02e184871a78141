"""Numbers of tokens that matrices are multiplied for: few, enough, known before the first request, and no product
changes."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

pytestmark = pytest.mark.engine  # importing the module imports the runtime

ROOT = Path(__file__).parents[2]
MOST = 8 * (1 + 4)
"""Tokens of a step of so many requests with so many drafts each."""
SPECULATING = """
import asyncio
import sys
from engine_bench import QUESTIONS, Bench, vllm_pool
from experts.engines.registry import build_engine

async def main():
    speculation = {"layout": "co_resident", "model": "zoo:draft", "depth": 4, "controller": "fixed"}
    speculation["sizes"] = sys.argv[1]
    bench = Bench(build_engine("general", vllm_pool(speculation=speculation)), str)
    await bench.engine.start(bench.sink)
    print("loaded", flush=True)
    for count in (1, 2, 3, 5, 8):
        requests = [bench.request(question, max_tokens=count + 20) for question in QUESTIONS[:count]]
        streams = await bench.run(*requests)
        print("drafted", sum(chunk.drafted for stream in streams for chunk in stream), flush=True)
    await bench.engine.stop()

asyncio.run(main())
"""


def layer(width, features, *, bias=None):
    """A matrix as vLLM multiplies it on this machine."""
    import torch
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

    found = torch.nn.Module()
    found.weight = torch.nn.Parameter(torch.randn(features, width).bfloat16(), requires_grad=False)
    found.bias = bias
    found.input_size = width
    dispatch_cpu_unquantized_gemm(found, remove_weight=False)
    return found


def test_sizes_are_few_and_hardly_more_than_what_is_asked() -> None:
    from experts.engines.vllm_sizes import EXACT, STEP, sizes

    for most in (1, 2, EXACT, EXACT + 1, 100, 288, 2048, 8192):
        found = list(sizes(most))
        assert found[0] == 1
        assert found[-2:-1] < [most] <= found[-1:]
        assert all(0 < after - before <= max(STEP, before / 8) for before, after in pairwise(found) if after > EXACT)
    assert list(sizes(EXACT)) == list(range(1, EXACT + 1))
    assert len(list(sizes(2048))) < 70


@pytest.mark.parametrize("bias", [False, True])
def test_products_are_those_of_the_layer_as_it_was(bias: bool) -> None:
    import torch

    from experts.engines.vllm_sizes import fix_sizes

    torch.manual_seed(1)
    plain = layer(128, 96, bias=torch.randn(96).bfloat16() if bias else None)
    multiply = plain.cpu_linear
    assert fix_sizes([plain], torch.bfloat16, largest=300, tried=40).tried == 40
    for tokens in (1, 7, 16, 17, 23, 24, 65, 129, 299, 300, 320, 321, 500):
        inputs = torch.randn(tokens, 128).bfloat16()
        found = plain.cpu_linear(inputs, plain.weight, plain.bias)
        assert found.shape == (tokens, 96)
        torch.testing.assert_close(found, multiply(inputs, plain.weight, plain.bias))


def test_one_matrix_of_each_shape_is_tried_until_the_time_is_up() -> None:
    import torch

    from experts.engines.vllm_sizes import LARGE, LIMIT, fix_sizes, sizes

    now, seen = [0.0], []

    def counting(inputs, weight, bias):
        seen.append((inputs.shape[0], inputs.shape[1]))
        return inputs[:, :3]

    layers = torch.nn.ModuleList(torch.nn.Module() for _ in range(4))
    for each, width in zip(layers, (8, 8, 32, 16), strict=True):
        each.cpu_linear, each.input_size_per_partition = counting, width
    layers.append(torch.nn.Linear(4, 4))  # is multiplied in another way
    layers.append(large := torch.nn.Module())
    large.input_size, large.cpu_linear = 2, lambda inputs, weight, bias: torch.zeros(len(inputs), LARGE)

    shared = torch.nn.ModuleList([layers[0]])
    fixed = fix_sizes([layers, shared], torch.float32, largest=100, tried=20, clock=lambda: now[0])
    assert fixed.tried == 24
    assert seen[5:] == [(size, width) for size in sizes(20) for width in (8, 32, 16)]

    assert layers[0].cpu_linear.multiply is counting
    assert not hasattr(large.cpu_linear, "multiply")

    def clock():
        now[0] += 0.3 * LIMIT
        return now[0]

    assert fix_sizes([layers], torch.float32, largest=100, tried=20, clock=clock).tried == 3


def test_numbers_are_rounded_only_while_that_is_asked_for() -> None:
    import torch

    from experts.engines.vllm_sizes import fix_sizes

    seen = []

    def counting(inputs, weight, bias):
        seen.append(inputs.shape[0])
        return inputs

    layers = torch.nn.ModuleList(torch.nn.Module() for _ in range(2))
    for each in layers:
        each.cpu_linear, each.input_size = counting, 8
    fixed = fix_sizes([layers], torch.float32, largest=100, tried=1)
    found = []
    for rounded in (None, False, False, True):
        if rounded is not None:
            fixed.use(rounded=rounded)
        seen.clear()
        for each in layers:
            assert each.cpu_linear(torch.zeros(19, 8), None, None).shape == (19, 8)
        found.append(tuple(seen))
    assert found == [(24, 24), (19, 19), (19, 19), (24, 24)]


@pytest.mark.parametrize("setting", ["few", "any"])
def test_steps_of_a_loaded_engine_compile_nothing_unless_asked(setting: str) -> None:
    """Seen by oneDNN itself, which tells what it compiles: a product of matrices only for prompts, where these make
    more tokens than requests with drafts do."""
    run = subprocess.run(
        [sys.executable, "-c", SPECULATING, setting],
        capture_output=True,
        text=True,
        timeout=200,
        cwd=ROOT,
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": f"{ROOT}:{Path(__file__).parent}",
            "HF_HUB_OFFLINE": "1",
            "HOME": str(Path.home()),
            "ONEDNN_VERBOSE": "profile_create",
        },
        check=False,
    )
    _, loaded, after = run.stdout.partition("loaded\n")
    assert loaded, run.stderr[-2000:]
    compiled = [line for line in after.splitlines() if "create:cache_miss" in line and ",matmul," in line]
    assert ",matmul," in run.stdout, "oneDNN multiplies nothing, or says nothing of it"
    counts = [int(line.split(",")[-2].partition("x")[0]) for line in compiled]
    assert any(count <= MOST for count in counts) == (setting == "any"), compiled
    assert all(int(line.split()[1]) > 0 for line in after.splitlines() if line.startswith("drafted"))
