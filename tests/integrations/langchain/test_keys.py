"""Whose keys a model uses: the pool given, its own key as a pool of one, the default pool."""

import asyncio
from dataclasses import dataclass
from typing import Any

import langchain_openai
import openai
import pytest
from langchain_core.runnables import ConfigurableField
from pydantic import SecretStr, ValidationError
from tests.integrations.langchain.conftest import MODEL
from tests.transport.odd_server import odd_server

from langchain_quotafleet import ChatOpenAI, OpenAI, OpenAIEmbeddings
from quotafleet import ConfigError, KeyPool
from quotafleet.testing import MockFault, MockProvider, MockServer

ACME, BIRCH = "sk-mock-acme-1", "sk-mock-birch-1"


def admitted(provider: MockProvider) -> dict[str, int]:
    """Return how many requests each key made."""
    return {key.spec.name: key.admitted for key in provider.accounts.keys.values() if key.admitted}


# One key


def test_a_single_key_is_a_pool_of_one(server: MockServer, provider: MockProvider) -> None:
    llm = ChatOpenAI(model=MODEL, api_key=ACME, base_url=server.base_url)
    assert llm.invoke("Is it?").response_metadata["quotafleet"]["key_id"] == "default#1"
    assert len(llm.pool.keys) == 1
    assert admitted(provider) == {"acme-1": 1}


def test_models_with_one_key_share_its_pool(server: MockServer) -> None:
    llm = ChatOpenAI(model=MODEL, api_key=ACME, base_url=server.base_url)
    same = ChatOpenAI(model="gpt-4o", api_key=SecretStr(ACME), base_url=server.base_url)
    other = ChatOpenAI(model=MODEL, api_key=BIRCH, base_url=server.base_url)
    vectors = OpenAIEmbeddings(api_key=SecretStr(ACME), base_url=server.base_url)
    assert llm.pool is same.pool is vectors.pool
    assert llm.pool is not other.pool


def test_a_single_keys_refusal_is_waited_out(server: MockServer, provider: MockProvider) -> None:
    provider.inject(MockFault(action="429_rpm"))
    llm = ChatOpenAI(model=MODEL, api_key=ACME, base_url=server.base_url)
    assert llm.invoke("Is it?").response_metadata["quotafleet"]["attempts"] == 2


def test_a_single_keys_other_headers_go_along_as_stocks_do() -> None:
    """A gateway may want a credential of its own beside the key."""
    mine = {"x-api-key": "gw", "cookie": "a=b", "host": "inner.test"}

    def sent(headers: dict[str, str]) -> dict[str, str]:
        ours = ("x-stainless-", "user-agent", "accept-encoding")  # the SDK's, and what is read
        return {n: value for n, value in headers.items() if not n.startswith(ours)}

    with odd_server() as odd:
        place: Any = {"model": MODEL, "base_url": odd.base_url, "default_headers": mine}
        langchain_openai.ChatOpenAI(api_key=ACME, **place).invoke("Is it?")
        ChatOpenAI(api_key=ACME, **place).invoke("Is it?")
        asyncio.run(ChatOpenAI(api_key=ACME, **place).ainvoke("Is it?"))
        ChatOpenAI(api_key=[ACME, BIRCH], **place).invoke("Is it?")
    stocks, *ours, several = odd.seen
    assert {name: stocks.headers[name] for name in mine} == mine
    assert [sent(seen.headers) for seen in ours] == [sent(stocks.headers)] * 2
    assert not several.headers.keys() & {"x-api-key", "cookie"}


def test_the_usual_variable_still_works(
    server: MockServer, provider: MockProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", BIRCH)
    monkeypatch.setenv("OPENAI_API_BASE", server.base_url)
    ChatOpenAI(model=MODEL).invoke("Is it?")
    assert admitted(provider) == {"birch-1": 1}


def test_a_keys_organization_and_project_go_with_it(
    server: MockServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj_acme")
    llm = ChatOpenAI(model=MODEL, api_key=ACME, base_url=server.base_url, organization="org-acme")
    [key] = llm.pool.keys
    assert (key.organization_id, key.project_id) == ("org-acme", "proj_acme")


def test_several_keys_are_owners_of_their_own(server: MockServer, provider: MockProvider) -> None:
    llm = ChatOpenAI(model=MODEL, api_key=[ACME, SecretStr(BIRCH)], base_url=server.base_url)
    for number in range(20):
        llm.invoke(f"{number}?")
    assert set(admitted(provider)) == {"acme-1", "birch-1"}


@pytest.mark.parametrize("variable", ["OPENAI_API_BASE", "OPENAI_BASE_URL"])
def test_several_keys_go_where_the_environment_says(
    server: MockServer, provider: MockProvider, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, server.base_url)
    llm = ChatOpenAI(model=MODEL, api_key=[ACME, BIRCH])
    assert {key.base_url.rstrip("/") for key in llm.pool.keys} == {server.base_url}
    for number in range(20):
        llm.invoke(f"{number}?")
    asyncio.run(llm.ainvoke("Is it?"))
    assert set(admitted(provider)) == {"acme-1", "birch-1"}
    vectors = OpenAIEmbeddings(api_key=[ACME, BIRCH], check_embedding_ctx_length=False)
    assert {key.base_url.rstrip("/") for key in vectors.pool.keys} == {server.base_url}
    assert vectors.embed_query("x") == asyncio.run(vectors.aembed_query("x"))
    text = OpenAI(model="gpt-3.5-turbo-instruct", api_key=[ACME, BIRCH])
    assert {key.base_url.rstrip("/") for key in text.pool.keys} == {server.base_url}


def test_several_keys_without_a_place_go_where_stock_sends_them() -> None:
    llm = ChatOpenAI(model=MODEL, api_key=[ACME, BIRCH])
    assert {key.base_url for key in llm.pool.keys} == {"https://api.openai.com/v1/"}


def test_several_keys_of_an_organization_and_project(
    server: MockServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj_x")
    llm = ChatOpenAI(
        model=MODEL, api_key=[ACME, BIRCH], base_url=server.base_url, organization="org-x"
    )
    assert {(key.organization_id, key.project_id) for key in llm.pool.keys} == {("org-x", "proj_x")}


def test_several_keys_go_to_no_other_place_than_each_clients_own(server: MockServer) -> None:
    own = openai.OpenAI(api_key="x", base_url="http://127.0.0.1:1/v1", max_retries=0)
    llm = ChatOpenAI(
        model=MODEL, api_key=[ACME, BIRCH], base_url=server.base_url, client=own.chat.completions
    )
    for client, place in (
        (llm.client._client, "http://127.0.0.1:1/v1"),
        (llm.root_async_client, server.base_url),
    ):
        pool = client._client._transport._gate.pool
        assert {key.base_url.rstrip("/") for key in pool.keys} == {place}


def test_models_with_the_same_several_keys_share_their_pool(server: MockServer) -> None:
    place = {"model": MODEL, "base_url": server.base_url}
    llm, same = (ChatOpenAI(api_key=[ACME, BIRCH], **place) for _ in range(2))
    assert llm.pool is same.pool
    assert ChatOpenAI(api_key=[BIRCH], **place).pool is not llm.pool


def test_several_keys_come_back_with_their_pool(server: MockServer, provider: MockProvider) -> None:
    llm = ChatOpenAI(model=MODEL, api_key=[ACME, BIRCH], base_url=server.base_url)
    chosen = llm.configurable_fields(temperature=ConfigurableField(id="temperature"))
    prepared, _ = chosen.prepare({"configurable": {"temperature": 0.1}})  # type: ignore[attr-defined]
    assert prepared.pool is llm.pool
    prepared.invoke("Is it?")
    assert sum(admitted(provider).values()) == 1


def test_an_empty_list_of_keys_is_refused() -> None:
    with pytest.raises(ValidationError, match="api_key is an empty list"):
        ChatOpenAI(model=MODEL, api_key=[])


def test_a_password_in_the_base_url_is_refused_in_clear_words() -> None:
    for key in (ACME, [ACME, BIRCH]):
        with pytest.raises(ValidationError, match="base_url holds a user name or password") as said:
            ChatOpenAI(model=MODEL, api_key=key, base_url="http://me:geheim@127.0.0.1:1/v1")
        assert "geheim" not in str(said.value)


# A function


@pytest.mark.parametrize("is_async", [False, True])
def test_a_function_is_asked_before_each_request(
    server: MockServer, provider: MockProvider, is_async: bool
) -> None:
    keys = [ACME, BIRCH, BIRCH]
    llm = ChatOpenAI(model=MODEL, api_key=lambda: keys.pop(0), base_url=server.base_url)
    for _ in range(3):
        answer = asyncio.run(llm.ainvoke("Is it?")) if is_async else llm.invoke("Is it?")
        assert answer.response_metadata["quotafleet"]["owner"] == "default"
    assert admitted(provider) == {"acme-1": 1, "birch-1": 2}
    assert keys == []


def test_an_async_function(server: MockServer, provider: MockProvider) -> None:
    async def key() -> str:
        await asyncio.sleep(0)
        return BIRCH

    llm = ChatOpenAI(model=MODEL, api_key=key, base_url=server.base_url)
    asyncio.run(llm.ainvoke("Is it?"))
    assert admitted(provider) == {"birch-1": 1}
    with pytest.raises(ValueError, match="Sync client is not available"):
        llm.invoke("Is it?")


def test_a_function_whose_key_was_refused_is_asked_again(
    server: MockServer, provider: MockProvider
) -> None:
    keys = ["sk-mock-nobody-1", ACME]
    llm = ChatOpenAI(model=MODEL, api_key=lambda: keys.pop(0), base_url=server.base_url)
    with pytest.raises(openai.AuthenticationError):
        llm.invoke("Is it?")
    llm.invoke("Is it?")
    assert admitted(provider) == {"acme-1": 1}


def test_concurrent_calls_use_what_the_function_returned_for_each(
    server: MockServer, provider: MockProvider
) -> None:
    keys = [ACME, BIRCH] * 50
    llm = ChatOpenAI(model=MODEL, api_key=keys.pop, base_url=server.base_url)
    llm.batch([f"{n}?" for n in range(100)])
    assert admitted(provider) == {"acme-1": 50, "birch-1": 50}


class TokenExpired(Exception):
    """What a user's own function raises."""


def call(model: Any, is_async: bool) -> Any:
    """Ask a model of any kind."""
    if isinstance(model, OpenAIEmbeddings):
        return asyncio.run(model.aembed_query("x")) if is_async else model.embed_query("x")
    return asyncio.run(model.ainvoke("x")) if is_async else model.invoke("x")


def of_function(make: Any, key: Any, server: MockServer) -> Any:
    """Make a model of a function."""
    more = {"check_embedding_ctx_length": False} if make is OpenAIEmbeddings else {}
    return make(model="m", api_key=key, base_url=server.base_url, **more)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("make", [ChatOpenAI, OpenAI, OpenAIEmbeddings])
def test_what_a_function_raises_is_seen_as_it_is(
    server: MockServer, make: Any, is_async: bool
) -> None:
    cause, expired = OSError("no network"), TokenExpired("ask again tomorrow")

    def key() -> str:
        raise expired from cause

    with pytest.raises(TokenExpired) as raised:
        call(of_function(make, key, server), is_async)
    assert raised.value is expired
    assert expired.__cause__ is cause
    assert expired.__context__ is None


async def test_what_a_function_raises_is_seen_in_streams(server: MockServer) -> None:
    def key() -> str:
        raise TokenExpired

    llm = of_function(ChatOpenAI, key, server)
    with pytest.raises(TokenExpired):
        list(llm.stream("x"))
    with pytest.raises(TokenExpired):
        [chunk async for chunk in llm.astream("x")]


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("make", [ChatOpenAI, OpenAIEmbeddings])
def test_a_function_that_returns_no_key_is_told_so(
    server: MockServer, make: Any, is_async: bool
) -> None:
    with pytest.raises(ConfigError, match="returned a NoneType"):
        call(of_function(make, lambda: None, server), is_async)


@dataclass
class Token:
    """An object that can be called, and can't be hashed."""

    value: str

    def __call__(self) -> str:
        return self.value


def test_a_function_that_cannot_be_hashed(server: MockServer, provider: MockProvider) -> None:
    key, equal = Token(ACME), Token(ACME)
    llm, same, other = (
        ChatOpenAI(model=MODEL, api_key=one, base_url=server.base_url) for one in (key, key, equal)
    )
    assert llm.pool is same.pool
    assert llm.pool is not other.pool  # only their values are equal, and may change
    equal.value = BIRCH
    llm.invoke("Is it?")
    other.invoke("Is it?")
    assert admitted(provider) == {"acme-1": 1, "birch-1": 1}


def test_a_bound_method_is_one_function_however_often_it_is_looked_up(server: MockServer) -> None:
    token, keys = Token(ACME), [ACME]
    for look in (lambda: token.__call__, lambda: keys.copy):
        one, two = (
            ChatOpenAI(model=MODEL, api_key=look(), base_url=server.base_url) for _ in range(2)
        )
        assert one.pool is two.pool


# The default pool


def test_the_default_pool_serves_models_that_name_none(
    server: MockServer, provider: MockProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quotafleet._default._pool", None)
    monkeypatch.setenv("OPENAI_API_KEYS", f"{ACME},{BIRCH}")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-mock-cedar-1")
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    llm, other = ChatOpenAI(model=MODEL), ChatOpenAI(model=MODEL)
    assert llm.pool is other.pool
    for number in range(20):
        llm.invoke(f"{number}?")
    assert set(admitted(provider)) == {"acme-1", "birch-1"}


# Contradictions


@pytest.mark.parametrize(
    "arguments",
    [
        {"api_key": "sk-secret-0123456789"},
        {"openai_api_key": "sk-secret-0123456789"},
        pytest.param({"api_key": lambda: "sk-secret-0123456789"}, id="a function"),
        {"base_url": "http://127.0.0.1:1/v1"},
        {"organization": "org-acme"},
        {"api_key": ["sk-secret-0123456789"]},
    ],
    ids=str,
)
def test_a_pool_and_what_it_decides_contradict(pool: KeyPool, arguments: Any) -> None:
    with pytest.raises(ValidationError, match="contradict each other") as refused:
        ChatOpenAI(model=MODEL, pool=pool, **arguments)
    assert "sk-secret" not in str(refused.value)


def test_what_is_no_pool_is_refused() -> None:
    with pytest.raises(ValidationError, match="pool is a str"):
        ChatOpenAI(model=MODEL, pool="acme")


@pytest.mark.parametrize("make", [ChatOpenAI, OpenAIEmbeddings])
def test_no_key_anywhere_says_what_to_do(make: Any) -> None:
    with pytest.raises(ValidationError, match=r"there is no key\. .*OPENAI_API_KEYS"):
        make(model=MODEL)


def test_a_key_that_is_none_is_not_shown() -> None:
    with pytest.raises(ValidationError, match="white space") as refused:
        ChatOpenAI(model=MODEL, api_key=["sk-secret-0123 456789"])
    assert "sk-secret" not in str(refused.value)


@pytest.mark.parametrize(
    "arguments",
    [
        {"tenant": "Müller"},
        {"tenant": "  "},
        {"tenant": "a\nb"},
        {"priority": "urgent"},
        {"wait_timeout": -1},
        {"wait_timeout": float("inf")},
        {"deadline_after": float("nan")},
        {"deadline_after": -0.5},
    ],
    ids=str,
)
@pytest.mark.parametrize("make", [ChatOpenAI, OpenAIEmbeddings])
def test_what_each_call_would_be_refused_for_is_refused_at_once(
    pool: KeyPool, make: Any, arguments: Any
) -> None:
    [name] = arguments
    with pytest.raises(ValidationError, match=name):
        make(model=MODEL, pool=pool, **arguments)


def test_what_may_be_said_of_calls(pool: KeyPool) -> None:
    said = {"priority": "batch", "wait_timeout": 0, "deadline_after": 60, "tenant": "A & B"}
    ChatOpenAI(model=MODEL, pool=pool, **said).invoke("Is it?")
    ChatOpenAI(model=MODEL, pool=pool, priority=None, wait_timeout=None).invoke("Is it?")


# Made again of another's fields


def test_configurable_fields_keep_the_pool(pool: KeyPool) -> None:
    llm = ChatOpenAI(model=MODEL, pool=pool).configurable_fields(
        temperature=ConfigurableField(id="temperature")
    )
    answer = llm.with_config(configurable={"temperature": 0.1}).invoke("Is it?")
    assert answer.response_metadata["quotafleet"]
    prepared, _ = llm.prepare({"configurable": {"temperature": 0.1}})  # type: ignore[attr-defined]
    assert prepared.pool is pool
    assert prepared.temperature == 0.1


def test_a_key_may_be_configured_at_run_time(server: MockServer, provider: MockProvider) -> None:
    # Stock silently goes on with the old key (langchain#16567).
    llm = ChatOpenAI(model=MODEL, api_key=ACME, base_url=server.base_url)
    chosen = llm.configurable_fields(openai_api_key=ConfigurableField(id="key"))
    for _ in range(2):
        chosen.invoke("Is it?", config={"configurable": {"key": SecretStr(BIRCH)}})
    chosen.invoke("Is it?")
    assert admitted(provider) == {"acme-1": 1, "birch-1": 2}


def test_a_model_made_of_anothers_fields_is_the_same(pool: KeyPool) -> None:
    llm = ChatOpenAI(model=MODEL, pool=pool, max_retries=1)
    fields = {name: getattr(llm, name) for name in type(llm).model_fields}
    again = ChatOpenAI(**{name: value for name, value in fields.items() if value is not None})
    assert again.pool is pool
    assert again.root_client._client is llm.root_client._client


def test_stock_made_in_the_same_process_is_left_alone(
    server: MockServer, provider: MockProvider
) -> None:
    place = {"base_url": server.base_url, "model": MODEL}
    ours = ChatOpenAI(api_key=SecretStr(ACME), **place)
    stock = langchain_openai.ChatOpenAI(api_key=SecretStr(BIRCH), **place)
    assert "quotafleet" not in stock.invoke("Is it?").response_metadata
    ours.invoke("Is it?")
    assert admitted(provider) == {"acme-1": 1, "birch-1": 1}
