"""Agents: the drop-in inside `create_agent` and LangGraph, the middleware, `install`."""

import asyncio
from collections.abc import Iterator
from typing import Any

import langchain_openai
import openai
import pytest
from langchain.agents import create_agent
from langchain.chat_models import init_chat_model
from langchain.embeddings import init_embeddings
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.tools import tool
from tests.integrations.langchain.conftest import MODEL, NAMES, PoolOf

import langchain_quotafleet
from langchain_quotafleet import ChatOpenAI, ChatPool, QuotafleetMiddleware
from quotafleet import ConfigError, Demand, KeyPool, Limits
from quotafleet.testing import FakeClock, MockProvider, MockServer, ToolCall


@tool
def weather(place: str) -> str:
    """Tell the weather."""
    return f"fine in {place}"


ASKED = {"messages": [("user", "How is it in Oslo?")]}


@pytest.mark.parametrize("is_async", [False, True])
def test_an_agent_over_a_pool(pool: KeyPool, provider: MockProvider, is_async: bool) -> None:
    provider.script(tool_calls=[ToolCall(name="weather", arguments={"place": "Oslo"})])
    provider.script("It is fine.")
    agent = create_agent(
        ChatOpenAI(model=MODEL, pool=pool),
        [weather],
        middleware=[QuotafleetMiddleware(priority="interactive", deadline_after=60)],
    )
    result = asyncio.run(agent.ainvoke(ASKED)) if is_async else agent.invoke(ASKED)
    assert [message.type for message in result["messages"]] == ["human", "ai", "tool", "ai"]
    assert result["messages"][-1].content == "It is fine."
    assert result["messages"][-1].response_metadata["quotafleet"]["owner"] in NAMES
    assert "quotafleet_began_at" not in result


class Request:
    """What the middleware looks at of a `ModelRequest`."""

    def __init__(self, model: Any, state: dict[str, Any]) -> None:
        self.model = model
        self.state = state

    def override(self, *, model: Any) -> "Request":
        return Request(model, self.state)


def test_what_the_middleware_says_of_each_call(pool: KeyPool) -> None:
    clock = FakeClock()
    told = QuotafleetMiddleware(priority="batch", wait_timeout=5, deadline_after=60, clock=clock)
    state: Any = told.before_agent({"messages": []}, None)
    clock.advance(25)
    for model in (
        ChatOpenAI(model=MODEL, pool=pool),
        ChatPool(models={"a": FakeListChatModel(responses=["x"])}),
    ):
        seen = told._told(Request(model, state)).model  # type: ignore[arg-type] # looks like one
        assert (seen.priority, seen.wait_timeout, seen.deadline_after) == ("batch", 5, 35)  # type: ignore[attr-defined]
        assert model.priority is None
    clock.advance(100)
    late = told._told(Request(ChatOpenAI(model=MODEL, pool=pool), state))  # type: ignore[arg-type]
    assert late.model.deadline_after == 0  # type: ignore[attr-defined]


def test_a_tenant_is_a_name_or_what_a_function_says_of_the_request(pool: KeyPool) -> None:
    llm = ChatOpenAI(model=MODEL, pool=pool, tenant="of the model")
    for tenant, seen in (
        ("acme", "acme"),
        (None, "of the model"),
        (lambda request: request.state["customer"], "birch"),
        (lambda request: None, "of the model"),
    ):
        told = QuotafleetMiddleware(tenant=tenant)  # type: ignore[arg-type] # of several types
        request: Any = Request(llm, {"customer": "birch"})
        assert told._told(request).model.tenant == seen  # type: ignore[attr-defined]
    request = Request(llm, {"customer": " "})
    with pytest.raises(ConfigError, match="tenant = ' '"):
        QuotafleetMiddleware(tenant=lambda request: request.state["customer"])._told(request)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["agent", "chat pool"])
async def test_an_agent_does_not_wait_behind_another_tenants_flood(
    pool_of: PoolOf, kind: str
) -> None:
    pool = pool_of("acme", limits=Limits(concurrent=1))
    llm: Any = ChatOpenAI(model=MODEL, pool=pool)
    if kind == "chat pool":
        llm = ChatPool(models={"acme": FakeListChatModel(responses=["x"])}, pool=pool)
    ended: list[str] = []

    async def flood() -> None:
        await llm.model_copy(update={"tenant": "flood"}).ainvoke("x")
        ended.append("flood")

    async def agent() -> None:
        made = create_agent(llm, [], middleware=[QuotafleetMiddleware(tenant="calm")])
        await made.ainvoke(ASKED)  # type: ignore[arg-type] # a dict is what it takes
        ended.append("calm")

    held = await pool.alease(Demand(model=MODEL if kind == "agent" else ""))
    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(flood())
        while pool.status().waiting < 20:  # noqa: ASYNC110 - for a few turns
            await asyncio.sleep(0)
        group.create_task(agent())
        while pool.status().waiting < 21:  # noqa: ASYNC110 - for a few turns
            await asyncio.sleep(0)
        await held.asettle()
    assert ended.index("calm") <= 10  # 20, were it first come, first served


def test_other_models_are_left_as_they_are() -> None:
    request: Any = Request(FakeListChatModel(responses=["x"]), {})
    assert QuotafleetMiddleware(priority="batch")._told(request) is request


def test_an_agent_past_its_deadline_is_refused_at_once(pool_of: PoolOf) -> None:
    pool = pool_of("acme", limits=Limits(rpm=1))
    llm = ChatOpenAI(model=MODEL, pool=pool)
    llm.invoke("x")
    agent = create_agent(llm, [], middleware=[QuotafleetMiddleware(deadline_after=1)])
    with pytest.raises(openai.RateLimitError, match="in time"):
        agent.invoke(ASKED)


@pytest.mark.parametrize(
    "arguments",
    [
        {"priority": "urgent"},
        {"wait_timeout": -1},
        {"deadline_after": -1},
        {"tenant": ""},
        {"tenant": "ä"},
    ],
    ids=str,
)
def test_senseless_arguments_are_refused(arguments: Any) -> None:
    with pytest.raises(ConfigError):
        QuotafleetMiddleware(**arguments)


@pytest.fixture
def installed() -> Iterator[None]:
    langchain_quotafleet.install()
    langchain_quotafleet.install()
    yield
    langchain_quotafleet.uninstall()


def test_names_in_strings_mean_the_drop_ins(
    server: MockServer, provider: MockProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quotafleet._default._pool", None)
    monkeypatch.setenv("OPENAI_API_KEYS", "sk-mock-acme-1,sk-mock-birch-1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-x")
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    stock = init_chat_model(f"openai:{MODEL}")  # remembered by LangChain
    assert not isinstance(stock, ChatOpenAI)
    langchain_quotafleet.install()
    try:
        llm = init_chat_model(f"openai:{MODEL}")
        assert isinstance(llm, ChatOpenAI)
        assert llm.invoke("x").response_metadata["quotafleet"]["owner"] in ("key-1", "key-2")
        embed = init_embeddings("openai:text-embedding-3-small")
        assert isinstance(embed, langchain_quotafleet.OpenAIEmbeddings)
        assert langchain_openai.ChatOpenAI is ChatOpenAI
    finally:
        langchain_quotafleet.uninstall()
    assert not isinstance(init_chat_model(f"openai:{MODEL}"), ChatOpenAI)
    assert langchain_openai.ChatOpenAI is not ChatOpenAI


def test_installing_twice_is_the_same_as_once(installed: None) -> None:
    assert langchain_openai.ChatOpenAI is ChatOpenAI
