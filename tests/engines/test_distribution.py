"""Sampled tokens have plain vLLM's distribution, whatever is drafted: good, second-best and senseless drafts, one at a
time and together, at every temperature, with top_p and top_k, alone and in mixed batches.

Drafts are tokens without probabilities, so the verifier accepts one with the probability that it gives it itself, and
draws from what is left otherwise (arXiv:2211.17192, section 2.3, with a draft distribution of one point).
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
from drafts_double import Scripted
from engine_bench import Bench, prompt, tokens

from experts.api import Chunk, GenerateRequest
from experts.speculation.proposer import DraftHistory
from tests.chance import chi_square

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.engine, pytest.mark.timeout(240)]

OPEN = "Why is the sky blue?"
"""A question beyond the model: at each of the first tokens it hesitates between a few."""
LENGTH = 5
"""Tokens per request: the first comes without drafts, the next step has three."""
COMPARED = 3
"""Tokens whose joint distribution is compared."""
SAMPLES = 800
AT_ONCE = 40
KINDS: dict[str, dict[str, Any]] = {
    f"{temperature} {name}".strip(): {"temperature": temperature} | limit
    for temperature in (0.3, 0.8, 1.2)
    for name, limit in (("", {}), ("top_p", {"top_p": 0.9}), ("top_k", {"top_k": 20}))
}
MIXED: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "seedless": {"temperature": 0.8},
    "seeded": {"temperature": 1.2, "top_p": 0.9, "seed": 0},
    "top_k": {"temperature": 0.8, "top_k": 20},
}
LIKELY = 0.001 / (len(KINDS) + len(MIXED) - 1)
"""Bonferroni: the chance that any of all comparisons fails though nothing is wrong is one in a thousand."""

Outcomes = Counter[tuple[int, ...]]


def sampled(bench: Bench, kind: str, numbers: Iterable[int], **settings: Any) -> list[GenerateRequest]:
    """Requests of one kind; those with a seed have one each."""
    return [
        bench.request(
            OPEN,
            name=f"{kind}-{number}",
            max_tokens=LENGTH,
            **settings | ({"seed": number} if "seed" in settings else {}),
        )
        for number in numbers
    ]


async def drawn(bench: Bench, requests: Sequence[GenerateRequest]) -> dict[str, Outcomes]:
    """What came of them, by kind."""
    outcomes: dict[str, Outcomes] = defaultdict(Counter)
    for start in range(0, len(requests), AT_ONCE):
        batch = requests[start : start + AT_ONCE]
        for request, stream in zip(batch, await bench.run(*batch), strict=True):
            outcomes[request.id.rsplit("-", 1)[0]][tokens(stream)[:COMPARED]] += 1
    return outcomes


def informed(outcomes: Outcomes) -> Callable[[DraftHistory], list[int]]:
    """Knows how often what followed what. By turns it drafts the likeliest tokens, such with the second-likeliest at
    one place, and now and then nonsense."""
    follows: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for outcome, count in outcomes.items():
        for at in range(COMPARED):
            follows[outcome[:at]][outcome[at]] += count
    asked = len(prompt(OPEN))

    def script(row: DraftHistory) -> list[int]:
        turn = int(row.session.rsplit("-", 2)[1])
        if turn % 16 == 0:
            return [5, 6][: row.depth]
        said = tuple(row.tokens[asked:].tolist())
        drafts: list[int] = []
        while len(drafts) < row.depth and (known := follows.get((*said, *drafts))):
            ranked = [token for token, _ in known.most_common(2)]
            drafts.append(ranked[-1] if len(drafts) == turn % 4 else ranked[0])
        return drafts

    return script


@pytest.mark.parametrize("kind", KINDS)
async def test_a_sample_with_drafts_is_one_of_plain_decoding(
    kind: str, thread_bench: Bench, split_bench: Bench
) -> None:
    settings = KINDS[kind]
    plain = (await drawn(thread_bench, sampled(thread_bench, kind, range(SAMPLES), **settings, seed=0)))[kind]
    Scripted.follow(informed(plain))
    # Seeded requests and others are sampled in two ways.
    half = SAMPLES + SAMPLES // 2
    requests = [
        *sampled(split_bench, kind, range(SAMPLES, half), **settings, seed=0),
        *sampled(split_bench, kind, range(half, 2 * SAMPLES), **settings),
    ]
    ours = (await drawn(split_bench, requests))[kind]
    assert len(Scripted.asked) >= SAMPLES
    assert chi_square(plain, ours) > LIKELY


async def test_rows_of_every_kind_in_one_batch_keep_each_its_distribution(
    thread_bench: Bench, split_bench: Bench
) -> None:
    def requests(bench: Bench, first: int) -> list[GenerateRequest]:
        numbers = range(first, first + SAMPLES // 2)
        kinds = [sampled(bench, kind, numbers, **given) for kind, given in MIXED.items()]
        return [request for row in zip(*kinds, strict=True) for request in row]

    plain = await drawn(thread_bench, requests(thread_bench, 0))
    Scripted.follow(informed(sum(plain.values(), Counter())))
    ours = await drawn(split_bench, requests(split_bench, SAMPLES))
    assert ours["greedy"] == plain["greedy"]
    assert len(ours["greedy"]) == 1
    assert min(chi_square(plain[kind], ours[kind]) for kind in MIXED if kind != "greedy") > LIKELY


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.5},
        {"temperature": 1.2, "top_p": 0.9},
        {"temperature": 0.8, "top_k": 20, "presence_penalty": 1.0},
    ],
    ids=" ".join,
)
async def test_a_seed_draws_what_it_draws_without_drafts_whatever_is_drafted_and_runs_beside_it(
    settings: dict[str, Any], thread_bench: Bench, split_bench: Bench
) -> None:
    seeded = settings | {"seed": 0, "logprobs": 0}
    plain = await thread_bench.run(*sampled(thread_bench, "plain", range(48), **seeded))
    outcomes = Counter(tokens(stream)[:COMPARED] for stream in plain)
    assert len(outcomes) > 3
    Scripted.follow(informed(outcomes))
    noise = sampled(split_bench, "noise", range(48), temperature=1.0)
    ours = (await split_bench.run(*sampled(split_bench, "ours", range(48), **seeded), *noise))[:48]
    assert sum(chunk.accepted for stream in ours for chunk in stream) > 48
    assert [tokens(stream) for stream in ours] == [tokens(stream) for stream in plain]
    assert logprobs(ours) == pytest.approx(logprobs(plain), abs=1e-4)


def logprobs(streams: Iterable[Sequence[Chunk]]) -> list[float]:
    return [row.logprob for stream in streams for chunk in stream for row in chunk.logprobs or ()]
