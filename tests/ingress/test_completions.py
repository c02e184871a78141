"""Plain completions through the official client."""

from collections.abc import AsyncIterator

from openai import AsyncOpenAI

from experts.api import Chunk, GenerateRequest, TokenLogprob, TopLogprob
from tests.ingress.rig import Rig


async def test_a_prompt_is_continued_for_16_tokens_unless_said_otherwise(client: AsyncOpenAI, rig: Rig) -> None:
    answer = await client.completions.create(model="general", prompt="abc")
    assert answer.choices[0].text.startswith("w0 w1 ")
    assert (answer.object, answer.choices[0].finish_reason) == ("text_completion", "length")
    assert rig.pools.requests[0].sampling.max_tokens == 16
    assert rig.pools.requests[0].prompt == tuple(b"abc")


async def test_a_stream_says_the_same_and_ends_with_the_bill(client: AsyncOpenAI) -> None:
    stream = await client.completions.create(
        model="general", prompt="abc", max_tokens=3, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == "w0 w1 w2 "
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage is not None
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (3, 3)


async def test_prompts_may_be_text_or_tokens_one_or_several(client: AsyncOpenAI, rig: Rig) -> None:
    for prompt in ("a", ["a", "bc"], [1, 2], [[1], [2, 3]]):
        await client.completions.create(model="general", prompt=prompt, max_tokens=1)
    assert sorted(request.prompt for request in rig.pools.requests) == sorted(
        [(97,), (97,), (98, 99), (1, 2), (1,), (2, 3)]
    )


async def test_choices_of_several_prompts_are_numbered_prompt_by_prompt(client: AsyncOpenAI, rig: Rig) -> None:
    async def script(request: GenerateRequest) -> AsyncIterator[Chunk]:
        text = f"{bytes(request.prompt).decode()}/{request.sampling.seed}"
        yield Chunk(request.id, tokens=(1,), text=text, finish="stop")

    rig.pools.script = script
    answer = await client.completions.create(model="general", prompt=["a", "bb"], n=2, seed=0)
    assert [(choice.index, choice.text) for choice in answer.choices] == [
        (0, "a/0"),
        (1, "a/1"),
        (2, "bb/0"),
        (3, "bb/1"),
    ]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 3


async def test_logprobs_have_the_legacy_shape_with_running_offsets(client: AsyncOpenAI, rig: Rig) -> None:
    async def script(request: GenerateRequest) -> AsyncIterator[Chunk]:
        for text in ("one", " two"):
            info = TokenLogprob(1, text, -0.25, (TopLogprob(1, text, -0.25), TopLogprob(2, "x", -3.0)))
            yield Chunk(request.id, tokens=(1,), text=text, logprobs=(info,), finish="stop" if text == " two" else None)

    rig.pools.script = script
    whole = await client.completions.create(model="general", prompt="a", logprobs=2)
    assert whole.choices[0].logprobs is not None
    assert whole.choices[0].logprobs.model_dump() == {
        "tokens": ["one", " two"],
        "token_logprobs": [-0.25, -0.25],
        "top_logprobs": [{"one": -0.25, "x": -3.0}, {" two": -0.25, "x": -3.0}],
        "text_offset": [0, 3],
    }
    stream = await client.completions.create(model="general", prompt="a", logprobs=2, stream=True)
    logprobs = [chunk.choices[0].logprobs async for chunk in stream]
    assert [each.text_offset for each in logprobs if each is not None] == [[0], [3]]
