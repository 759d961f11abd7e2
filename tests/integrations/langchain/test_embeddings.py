"""`OpenAIEmbeddings` over a pool: in order, and no request larger than an owner can serve."""

import asyncio
import json
from itertools import pairwise
from typing import Any

import langchain_openai
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.integrations.langchain.conftest import PoolOf
from tests.transport.odd_server import Seen, Send, odd_server, reply

from langchain_quotafleet import OpenAIEmbeddings
from langchain_quotafleet._embedding_batches import budget, packed, size
from quotafleet import CannotServe, KeyPool, Limits, Organization, PoolClosed
from quotafleet._clock import SystemClock
from quotafleet.testing import MockFleet, MockProvider, MockServer, serve

SMALL = "text-embedding-3-small"


def vectors(pool: KeyPool, **options: Any) -> OpenAIEmbeddings:
    """Return embeddings that send texts; tokenizing needs files that are not there."""
    return OpenAIEmbeddings(model=SMALL, pool=pool, check_embedding_ctx_length=False, **options)


@pytest.mark.parametrize("is_async", [False, True])
def test_documents_keep_their_order(pool: KeyPool, provider: MockProvider, is_async: bool) -> None:
    texts = [f"text number {n}" for n in range(40)]
    embed = vectors(pool)
    run = asyncio.run
    found = run(embed.aembed_documents(texts)) if is_async else embed.embed_documents(texts)
    assert found == [embed.embed_query(text) for text in texts]
    assert provider.completed == 41  # one request for all of them, and each text alone


@pytest.mark.parametrize("is_async", [False, True])
def test_no_request_is_larger_than_an_owner_bears(
    pool_of: PoolOf, server: MockServer, is_async: bool
) -> None:
    pool = pool_of(limits=Limits(rpm=6000, tpm=400))
    embed = vectors(pool)
    texts = [f"{n:03d} " + "word " * 15 for n in range(20)]  # 19 tokens each
    assert budget(pool, SMALL) == 100
    run = asyncio.run
    found = run(embed.aembed_documents(texts)) if is_async else embed.embed_documents(texts)
    assert found == [vectors(pool_of()).embed_query(text) for text in texts]
    keys = pool.status().keys
    assert sum(key.answered for key in keys) == 4  # five texts in each
    assert all(key.refused == 0 for key in keys)


@pytest.mark.parametrize("is_async", [False, True])
def test_limits_that_are_not_known_yet_are_found_out(is_async: bool) -> None:
    fleet = MockFleet.simple({"acme": {"rpm": 6000, "tpm": 6000}})
    with serve(MockProvider(fleet, clock=SystemClock())) as server:
        acme = Organization(name="acme", keys=("sk-mock-acme-1",), base_url=server.base_url)
        embed = vectors(KeyPool([acme]))
        texts = [f"{n:03d} " + "word " * 79 for n in range(61)]  # 99 tokens each, 6039 together
        run = (
            asyncio.run(embed.aembed_documents(texts)) if is_async else embed.embed_documents(texts)
        )
    assert len(run) == 61
    assert len({tuple(vector) for vector in run}) == 61


@pytest.mark.parametrize("is_async", [False, True])
def test_a_closed_pool_says_so(pool: KeyPool, is_async: bool) -> None:
    embed = vectors(pool)
    pool.close()
    with pytest.raises(PoolClosed):
        asyncio.run(embed.aembed_query("x")) if is_async else embed.embed_query("x")


@pytest.mark.parametrize("is_async", [False, True])
def test_a_refusal_tells_which_limit_it_was(pool_of: PoolOf, is_async: bool) -> None:
    embed = vectors(pool_of("acme", limits=Limits(rpm=1)), wait_timeout=0.01)
    embed.embed_query("x")
    with pytest.raises(openai.RateLimitError) as refused:
        asyncio.run(embed.aembed_query("x")) if is_async else embed.embed_query("x")
    error: BaseException = refused.value
    while error.__cause__ is not None:
        error = error.__cause__
    assert isinstance(error, CannotServe)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("telling", ["all", "none", "the first"])
def test_servers_that_do_not_tell_what_was_used(is_async: bool, telling: str) -> None:
    async def answer(seen: Seen, send: Send) -> None:
        texts = json.loads(seen.body)["input"]
        data = [
            {"object": "embedding", "index": n, "embedding": [float(len(one))]}
            for n, one in enumerate(texts)
        ]
        body: dict[str, Any] = {"object": "list", "data": data, "model": "m"}
        if telling == "all" or (telling == "the first" and len(texts[0]) == 60):
            body["usage"] = {"prompt_tokens": 15, "total_tokens": 15}
        await reply(send, json.dumps(body).encode())

    with odd_server() as odd:
        odd.answer = answer
        acme = Organization(
            name="acme", keys=("sk-mock-acme-1",), base_url=odd.base_url, limits=Limits(tpm=100)
        )
        embed = vectors(KeyPool([acme]))
        texts = ["a" * (60 + n) for n in range(3)]
        run = asyncio.run
        found = run(embed.aembed_documents(texts)) if is_async else embed.embed_documents(texts)
        assert found == [[60.0], [61.0], [62.0]]
        assert len(odd.seen) == 3
        joined = embed.client.create(input=texts, model=SMALL)
        if telling == "none":
            assert getattr(joined, "usage", None) is None
        else:
            assert joined.usage.total_tokens == (45 if telling == "all" else 15)


def test_what_was_split_is_numbered_as_one(pool_of: PoolOf) -> None:
    embed = vectors(pool_of(limits=Limits(rpm=6000, tpm=400)))
    answer = embed.client.create(input=["word " * 40] * 4, model=SMALL)
    assert [one.index for one in answer.data] == [0, 1, 2, 3]
    assert (
        answer.usage.total_tokens
        == 4 * embed.client.create(input="word " * 40, model=SMALL).usage.total_tokens
    )


def test_where_requests_are_scarce_each_takes_more(pool_of: PoolOf) -> None:
    pool = pool_of(limits=Limits(rpm=2, tpm=1000))
    assert budget(pool, SMALL) == 500
    assert budget(pool_of(limits=Limits(rpm=1000, tpm=1000)), SMALL) == 250
    assert budget(pool_of(limits=Limits(rpm=1000)), SMALL) == float("inf")


@given(
    st.lists(st.one_of(st.text(max_size=30), st.lists(st.integers(0, 9), max_size=9)), max_size=30),
    st.floats(1, 40),
)
def test_packing_keeps_every_text_once_and_the_bound(texts: list[Any], most: float) -> None:
    pieces = list(packed(texts, most))
    assert [text for piece in pieces for text in piece] == texts
    for piece in pieces:
        assert piece
        assert len(piece) == 1 or sum(map(size, piece)) <= most
    for piece, after in pairwise(pieces):
        assert sum(map(size, [*piece, after[0]])) > most


async def test_one_failure_ends_the_others_and_is_raised(
    pool_of: PoolOf, provider: MockProvider
) -> None:
    from quotafleet.testing import MockFault

    pool = pool_of(limits=Limits(rpm=6000, tpm=400))
    provider.inject(MockFault(action="500", times=None))
    with pytest.raises(openai.InternalServerError):
        await vectors(pool, max_retries=0).aembed_documents(["word " * 60 for _ in range(4)])
    assert pool.status().in_flight == 0
    assert pool.status().waiting == 0


def test_it_is_what_it_replaces(pool: KeyPool) -> None:
    embed = vectors(pool)
    assert isinstance(embed, langchain_openai.OpenAIEmbeddings)
    assert type(embed).__name__ == "OpenAIEmbeddings"


def test_one_text_as_token_ids_stays_whole(pool_of: PoolOf) -> None:
    pool = pool_of(limits=Limits(rpm=6000, tpm=40))
    answer = vectors(pool).client.create(input=list(range(1, 21)), model=SMALL)
    assert len(answer.data) == 1
