"""Exact tokens out of a cluster: gRPC calls with generated stubs, bounded in number at a time."""

import asyncio
from collections.abc import Sequence

import grpc

from deployments.ingress import serving_pb2, serving_pb2_grpc

AT_ONCE = 32
CALL_SECONDS = 60.0


async def complete(
    stub: serving_pb2_grpc.ServingStub, prompt: Sequence[int], sampling: serving_pb2.Sampling, **more: object
) -> tuple[list[int], serving_pb2.Summary]:
    """The token ids of one completion and its summary."""
    request = serving_pb2.CompleteRequest(
        tokens=serving_pb2.TokenIds(values=prompt),
        sampling=sampling,
        options=serving_pb2.Options(report=True),
        **({"model": "general"} | more),
    )
    tokens: list[int] = []
    summary = serving_pb2.Summary()
    async for response in stub.Complete(request, timeout=CALL_SECONDS):
        if response.HasField("summary"):
            summary = response.summary
        tokens += [each.token for each in response.delta.logprobs]
    return tokens, summary


async def complete_all(
    address: str,
    prompts: Sequence[Sequence[int]],
    samplings: Sequence[serving_pb2.Sampling],
    at_once: int = AT_ONCE,
    **more: object,
) -> list[tuple[list[int], serving_pb2.Summary]]:
    """Many completions, a few at a time, in the order asked."""
    gate = asyncio.Semaphore(at_once)

    async with grpc.aio.insecure_channel(address) as channel:
        stub = serving_pb2_grpc.ServingStub(channel)

        async def one(prompt: Sequence[int], sampling: serving_pb2.Sampling):
            async with gate:
                return await complete(stub, prompt, sampling, **more)

        return await asyncio.gather(*(one(*each) for each in zip(prompts, samplings, strict=True)))
