"""The face as a typed program uses it: `test_api.py` runs mypy --strict over this file.

What is right passes. What is wrong carries the error's code, and since mypy warns of an ignore
that nothing needs, an error that no longer shows fails the test too. Nothing here runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from random import Random
from typing import TypeVar, assert_type

import httpx
import httpx2
import openai
from langchain_core.messages import AIMessage
from langchain_openai import ChatOpenAI as StockChatOpenAI
from openai.types.chat import ChatCompletion

from langchain_quotafleet import ChatOpenAI, ChatPool
from langchain_quotafleet.middleware import QuotafleetMiddleware
from quotafleet import (
    Demand,
    KeyPool,
    Lease,
    Limits,
    Organization,
    Priority,
    RetryPolicy,
    Secret,
    Status,
    Usage,
    default_pool,
)
from quotafleet.events import Event, Leased, Throttled
from quotafleet.httpx import async_http_client, http_client, wrap_client
from quotafleet.openai import AsyncOpenAI, OpenAI
from quotafleet.owners import Owners
from quotafleet.protocols import Candidate, Provider, Store, Strategy
from quotafleet.providers import Generic
from quotafleet.stores import MemoryStore, open_store
from quotafleet.strategies import LeastUsed, RoundRobin, strategy

C = TypeVar("C", bound=Candidate)
DEMAND = Demand(model="gpt-4o-mini", input_tokens=1_000, output_tokens=500, spend=Decimal("0.01"))


# Pools


def pools() -> KeyPool:
    owner = Organization(name="acme", keys=("sk-acme",), limits=Limits(), provider=Generic())
    Organization(name="acme", keys=("sk-acme",), limit=Limits())  # type: ignore[call-arg]
    KeyPool(owner)  # type: ignore[arg-type]
    KeyPool([owner], strateg="round-robin")  # type: ignore[call-arg]
    KeyPool([owner], wait_timeout="soon")  # type: ignore[arg-type]
    assert_type(default_pool(), KeyPool)
    assert_type(KeyPool.from_config({"organizations": []}), KeyPool)
    return KeyPool([owner], strategy="round-robin", retry=RetryPolicy(), wait_timeout=30)


def state(pool: KeyPool) -> None:
    assert_type(pool.status(), Status)
    assert_type(pool.eta(DEMAND), float)
    assert_type(pool.revive(), int)
    pool.revive(3)  # type: ignore[arg-type]


# Leases


def lease(pool: KeyPool, priority: Priority, text: str) -> None:
    with pool.lease(DEMAND, timeout=3, priority=priority, tenant="a") as held:
        assert_type(held, Lease)
        assert_type(held.secret, Secret)
        assert_type(held.headers, Mapping[str, str | None])
        held.settle(Usage(input_tokens=900, output_tokens=120))
        held.settle(900)  # type: ignore[arg-type]
    pool.lease("gpt-4o-mini")  # type: ignore[arg-type]
    pool.lease(DEMAND, priority="batch")
    pool.lease(DEMAND, priority="bulk")  # type: ignore[arg-type]
    pool.lease(DEMAND, priority=text)  # type: ignore[arg-type]
    pool.lease(DEMAND, timout=3)  # type: ignore[call-arg]
    Demand(input_token=3)  # type: ignore[call-arg]


async def alease(pool: KeyPool) -> None:
    async with pool.alease(DEMAND, priority="interactive") as held:
        assert_type(held, Lease)
    assert_type(await pool.alease(DEMAND), Lease)
    pool.alease(DEMAND, priority="urgent")  # type: ignore[arg-type]


# Clients of the OpenAI SDK


def client(pool: KeyPool) -> None:
    made = OpenAI(pool=pool, timeout=3, max_retries=2, default_headers={"a": "b"})
    answer = made.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}])
    assert_type(answer, ChatCompletion)
    assert_type(made.with_options(timeout=3, max_retries=1), OpenAI)
    assert_type(made.copy(pool=pool), OpenAI)
    stock: openai.OpenAI = made
    stock.close()
    OpenAI(pool=pool, timout=3)  # type: ignore[call-arg]
    OpenAI(pool=pool, timeout="3")  # type: ignore[arg-type]
    OpenAI(pool="acme")  # type: ignore[arg-type]
    OpenAI(pool=pool, api_key="sk-acme")  # type: ignore[call-arg]
    OpenAI(pool=pool, http_client=openai.DefaultAsyncHttpxClient())  # type: ignore[arg-type]
    made.with_options(timout=3)  # type: ignore[call-arg]
    made.copy(base_url="https://example.com/v1")  # type: ignore[call-arg]


async def aclient(pool: KeyPool) -> None:
    made = AsyncOpenAI(pool=pool, http_client=openai.DefaultAsyncHttpxClient())
    answer = await made.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "Hi"}]
    )
    assert_type(answer, ChatCompletion)
    assert_type(made.with_options(max_retries=1), AsyncOpenAI)
    AsyncOpenAI(pool=pool, timout=3)  # type: ignore[call-arg]
    AsyncOpenAI(pool=pool, http_client=openai.DefaultHttpxClient())  # type: ignore[arg-type]


# httpx and httpx2


def http(pool: KeyPool) -> None:
    assert_type(http_client(pool, "httpx"), httpx.Client)
    assert_type(http_client(pool, "httpx2"), httpx2.Client)
    assert_type(http_client(pool, httpx.Client), httpx.Client)
    assert_type(async_http_client(pool, "httpx"), httpx.AsyncClient)
    assert_type(async_http_client(pool, httpx2.AsyncClient), httpx2.AsyncClient)
    assert_type(wrap_client(httpx.Client(), pool), httpx.Client)
    openai.OpenAI(http_client=http_client(pool, timeout=3.0, http2=True))
    openai.AsyncOpenAI(http_client=async_http_client(pool))
    openai.OpenAI(http_client=async_http_client(pool))  # type: ignore[arg-type]
    http_client(pool, timout=3)  # type: ignore[call-overload]
    http_client("acme")  # type: ignore[call-overload]
    wrap_client(httpx.Client(), pool, attempt=3)  # type: ignore[call-arg]


# Strategies, stores, providers


class Cheapest:
    """A strategy of one's own."""

    def rank(self, candidates: Sequence[C], demand: Demand, now: float) -> Iterable[C]:
        return sorted(candidates, key=lambda candidate: candidate.in_flight)


class Upside:
    """No strategy: its method takes something else."""

    def rank(self, candidates: int) -> int:
        return candidates


def plugins(owners: Sequence[Organization]) -> None:
    mine: Strategy = Cheapest()
    KeyPool(owners, strategy=mine)
    KeyPool(owners, strategy=RoundRobin())
    KeyPool(owners, strategy=LeastUsed(Random(1)))
    KeyPool(owners, strategy=Upside())  # type: ignore[arg-type]
    assert_type(strategy("round-robin", Random(1)), Strategy)
    store: Store = MemoryStore(Owners(owners).limits_for)
    MemoryStore("memory")  # type: ignore[arg-type]
    KeyPool(owners, store=store)
    KeyPool(owners, store=3)  # type: ignore[arg-type]
    assert_type(open_store("memory"), Store | None)
    provider: Provider = Generic()
    KeyPool(owners, providers={"generic": provider})
    KeyPool(owners, providers={"generic": "openai"})  # type: ignore[dict-item]


# Events


def listener(event: Event) -> None:
    match event:
        case Leased():
            assert_type(event.waited_for, float)
        case Throttled():
            event.waited  # type: ignore[attr-defined]  # noqa: B018
        case _:
            pass


def wrong(event: str) -> None: ...


def events(owners: Sequence[Organization]) -> None:
    KeyPool(owners, listeners=[listener])
    KeyPool(owners, listeners=[wrong])  # type: ignore[list-item]


# LangChain


def chains(pool: KeyPool) -> None:
    llm = ChatOpenAI(model="gpt-4o-mini", pool=pool, priority="batch", wait_timeout=3)
    assert_type(llm.invoke("Hi"), AIMessage)
    stock: StockChatOpenAI = llm
    ChatPool(models={"sk-acme": stock}, priority="batch")
    ChatPool(models={"sk-acme": stock}, priority="urgent")  # type: ignore[arg-type]
    QuotafleetMiddleware(priority="interactive", deadline_after=30)
    QuotafleetMiddleware(priority="urgent")  # type: ignore[arg-type]
    QuotafleetMiddleware(priorty="batch")  # type: ignore[call-arg]
    ChatOpenAI(model="gpt-4o-mini", priority="urgent")  # type: ignore[arg-type]
