"""Plain vLLM in a process of its own: the reference that the cluster's tokens are compared with.

Reads JSON from standard input: ``{"model", "prompts": [[token]], "sampling": {...}}``; writes ``[[token]]`` to standard
output. No speculation, no Switchyard code between the prompt and the engine. Requests have no seeds of their own: plain
vLLM does not survive those on CPU when a prompt is read in pieces.
"""

import json
import os
import sys

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "OMP_NUM_THREADS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "HF_HUB_OFFLINE": "1",
}

from vllm import LLM, SamplingParams


def main() -> None:
    asked = json.load(sys.stdin)
    engine = LLM(
        model=asked["model"],
        dtype="float32",
        max_model_len=2048,
        max_num_seqs=32,
        kv_cache_memory_bytes=128 * 1024 * 1024,
        enforce_eager=True,
        disable_log_stats=True,
        seed=0,
    )
    sampling = SamplingParams(**asked["sampling"])
    prompts = [{"prompt_token_ids": prompt} for prompt in asked["prompts"]]
    outputs = engine.generate(prompts, sampling, use_tqdm=False)
    json.dump([list(output.outputs[0].token_ids) for output in outputs], sys.__stdout__)


if __name__ == "__main__":
    main()
