"""The journey of a request, in front of in-memory doors."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from cluster.errors import BadRequest, QueueFull, TooLong
from cluster.flags import FlagConfig, FlagsConfig, configured
from experts.api import Chunk, GenerateRequest, Grammar, Sampling
from router.api import Ask, Lease
from router.config import RouterConfig, Rule
from router.jobs import Conversation, Job, Message, Prompt
from router.router import Router

CONTEXT = 20


class WordPrompts:
    """One token per word."""

    async def tokens(self, pool: str, prompt: Prompt) -> tuple[int, ...]:
        text = prompt.messages[-1].content if isinstance(prompt, Conversation) else str(prompt)
        return tuple(len(word) for word in text.split())

    def max_context(self, pool: str) -> int:
        return CONTEXT


class OpenDesk:
    """Gives everybody a lease, or refuses; remembers what came back."""

    def __init__(self, refusal: Exception | None = None, *, waited: float = 0.0) -> None:
        self.flags = configured(FlagsConfig())
        self.refusal = refusal
        self.waited = waited
        self.asked: list[Ask] = []
        self.released: list[str] = []

    async def ask(self, ask: Ask) -> Lease:
        self.asked.append(ask)
        if self.refusal is not None:
            raise self.refusal
        return Lease(ask.id, ask.pool, "r1", 1, "tcp://r1", ask.route, self.waited)

    def release(self, lease: Lease, *, lost: bool) -> None:
        self.released.append(lease.id)


class CountingPools:
    """A replica that counts up; it remembers requests, and aborts."""

    def __init__(self) -> None:
        self.requests: list[GenerateRequest] = []
        self.aborted: list[str] = []

    async def generate(self, lease: Lease, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        self.requests.append(request)
        finished = False
        try:
            for token in range(request.sampling.max_tokens):
                await asyncio.sleep(0)
                finished = token + 1 == request.sampling.max_tokens
                yield Chunk(request.id, (token,), f" {token}", finish="length" if finished else None)
        finally:
            if not finished:
                self.aborted.append(request.id)


def wired(desk: OpenDesk, pools: CountingPools) -> Router:
    rules = (Rule(name="code", when=("code",), pool="code"),)
    return Router(RouterConfig(rules=rules), WordPrompts(), desk, pools, frozenset({"general", "code"}))


def job(text: str = "tell me more", **more) -> Job:
    return Job("j1", more.pop("model", "auto"), Conversation((Message("user", text),)), Sampling(), **more)


async def test_the_whole_journey_ends_with_the_lease_given_back():
    desk, pools = OpenDesk(), CountingPools()
    async with wired(desk, pools).serve(job(max_tokens=3)) as answer:
        text = "".join([chunk.text async for chunk in answer.chunks])
    assert text == " 0 1 2"
    assert (answer.lease.pool, answer.lease.route, answer.prompt_tokens) == ("general", "auto:default", 3)
    assert desk.released == ["j1"]
    assert pools.aborted == []


async def test_the_router_is_told_the_shape_of_the_request():
    desk = OpenDesk()
    async with wired(desk, CountingPools()).serve(job("write a python function", max_tokens=3)):
        pass
    (ask,) = desk.asked
    assert (ask.pool, ask.route) == ("code", "auto:code")
    assert (ask.features.prompt_tokens, ask.features.max_tokens, ask.features.code) == (4, 3, True)


async def test_leaving_early_aborts_and_gives_the_lease_back():
    desk, pools = OpenDesk(), CountingPools()
    async with wired(desk, pools).serve(job(max_tokens=10)) as answer:
        async for _ in answer.chunks:
            break
    assert pools.aborted == ["j1"]
    assert desk.released == ["j1"]


async def test_cancellation_aborts_and_gives_the_lease_back():
    desk, pools = OpenDesk(), CountingPools()

    async def read() -> None:
        async with wired(desk, pools).serve(job()) as answer:
            async for _ in answer.chunks:
                await asyncio.sleep(3600)

    task = asyncio.create_task(read())
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert pools.aborted == ["j1"]
    assert desk.released == ["j1"]


async def test_without_a_bound_the_answer_may_fill_the_context():
    pools = CountingPools()
    async with wired(OpenDesk(), pools).serve(job("one two three")) as answer:
        assert len([chunk async for chunk in answer.chunks]) == CONTEXT - 3
    assert pools.requests[0].sampling.max_tokens == CONTEXT - 3


async def test_time_spent_waiting_for_room_is_taken_off_the_deadline():
    pools = CountingPools()
    async with wired(OpenDesk(waited=1.5), pools).serve(job(timeout=10.0, max_tokens=1)) as answer:
        assert [chunk async for chunk in answer.chunks]
    assert pools.requests[0].timeout == 8.5


@pytest.mark.parametrize(("words", "wanted"), [(18, 3), (20, None), (25, 1)])
async def test_what_does_not_fit_is_refused_before_it_queues(words, wanted):
    desk = OpenDesk()
    with pytest.raises(TooLong, match="holds 20 in all"):
        async with wired(desk, CountingPools()).serve(job("w " * words, max_tokens=wanted)):
            pass
    assert desk.asked == []


async def test_an_empty_prompt_is_a_bad_request():
    with pytest.raises(BadRequest, match="empty"):
        async with wired(OpenDesk(), CountingPools()).serve(job("")):
            pass


async def test_a_refusal_reaches_the_caller_as_it_is_and_nothing_is_released():
    desk = OpenDesk(QueueFull("full", retry_after=1.0))
    with pytest.raises(QueueFull):
        async with wired(desk, CountingPools()).serve(job()):
            pass
    assert desk.released == []


@pytest.mark.parametrize(
    ("text", "grammar", "domain"),
    [
        ("tell me more", None, "text"),
        ("write a python function", None, "code"),
        ("tell me more", Grammar("json_object"), "structured"),
        ("write a python function", Grammar("json_object"), "code"),
    ],
)
async def test_the_engine_is_told_what_kind_of_traffic_it_is(text, grammar, domain):
    pools = CountingPools()
    async with wired(OpenDesk(), pools).serve(job(text, max_tokens=1, grammar=grammar)) as answer:
        assert [chunk async for chunk in answer.chunks]
    assert pools.requests[0].domain == domain


@pytest.mark.parametrize(
    ("flag", "more", "decided"),
    [
        (FlagConfig(), {}, (True, "ramp")),
        (FlagConfig(percent=0.0), {}, (False, "ramp")),
        (FlagConfig(enabled=False, tenants={"acme": True}), {"tenant": "acme"}, (False, "disabled")),
        (FlagConfig(tenants={"acme": False}), {"tenant": "acme"}, (False, "tenant")),
        (FlagConfig(routes={"general": False}), {}, (False, "route")),
        (FlagConfig(routes={"general": False, "default": True}), {}, (True, "route")),
        (FlagConfig(routes={"default": False}), {"model": "general"}, (True, "ramp")),
        (FlagConfig(), {"speculate": False}, (True, "ramp")),
    ],
)
async def test_a_request_speculates_if_the_flag_says_so_and_the_client_lets_it(flag, more, decided):
    desk, pools = OpenDesk(), CountingPools()
    desk.flags = configured(FlagsConfig(speculation=flag))
    async with wired(desk, pools).serve(job(max_tokens=1, **more)) as answer:
        assert [chunk async for chunk in answer.chunks]
    assert (answer.decision.on, answer.decision.why) == decided
    assert pools.requests[0].speculate == (decided[0] and more.get("speculate", True))
    assert desk.asked[0].tenant == more.get("tenant", "")


async def test_a_request_that_is_tried_again_is_decided_alike_and_others_are_not():
    desk = OpenDesk()
    desk.flags = configured(FlagsConfig(speculation=FlagConfig(percent=50.0)))

    async def cohort(key: str) -> str:
        async with wired(desk, CountingPools()).serve(job(max_tokens=1, key=key)) as answer:
            return answer.decision.cohort

    first = [await cohort(f"k{number}") for number in range(40)]
    assert first == [await cohort(f"k{number}") for number in range(40)]
    assert set(first) == {"on", "off"}
