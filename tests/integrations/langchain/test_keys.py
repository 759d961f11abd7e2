"""Whose keys a model uses: the pool given, its own key as a pool of one, the default pool."""

import asyncio
from typing import Any

import langchain_openai
import openai
import pytest
from langchain_core.runnables import ConfigurableField
from pydantic import SecretStr, ValidationError
from tests.integrations.langchain.conftest import MODEL

from keyfleet import KeyPool
from keyfleet.testing import Fault, MockProvider, Server
from langchain_keyfleet import ChatOpenAI, OpenAIEmbeddings

ACME, BIRCH = "sk-mock-acme-1", "sk-mock-birch-1"


def admitted(provider: MockProvider) -> dict[str, int]:
    """Return how many requests each key made."""
    return {key.spec.name: key.admitted for key in provider.world.keys.values() if key.admitted}


# One key


def test_a_single_key_is_a_pool_of_one(server: Server, provider: MockProvider) -> None:
    llm = ChatOpenAI(model=MODEL, api_key=ACME, base_url=server.base_url)
    assert llm.invoke("Is it?").response_metadata["keyfleet"]["key_id"] == "default#1"
    assert len(llm.pool.keys) == 1
    assert admitted(provider) == {"acme-1": 1}


def test_models_with_one_key_share_its_pool(server: Server) -> None:
    llm = ChatOpenAI(model=MODEL, api_key=ACME, base_url=server.base_url)
    same = ChatOpenAI(model="gpt-4o", api_key=SecretStr(ACME), base_url=server.base_url)
    other = ChatOpenAI(model=MODEL, api_key=BIRCH, base_url=server.base_url)
    vectors = OpenAIEmbeddings(api_key=SecretStr(ACME), base_url=server.base_url)
    assert llm.pool is same.pool is vectors.pool
    assert llm.pool is not other.pool


def test_a_single_keys_refusal_is_waited_out(server: Server, provider: MockProvider) -> None:
    provider.inject(Fault(action="429_rpm"))
    llm = ChatOpenAI(model=MODEL, api_key=ACME, base_url=server.base_url)
    assert llm.invoke("Is it?").response_metadata["keyfleet"]["attempts"] == 2


def test_the_usual_variable_still_works(
    server: Server, provider: MockProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", BIRCH)
    monkeypatch.setenv("OPENAI_API_BASE", server.base_url)
    ChatOpenAI(model=MODEL).invoke("Is it?")
    assert admitted(provider) == {"birch-1": 1}


def test_a_keys_organization_and_project_go_with_it(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj_acme")
    llm = ChatOpenAI(model=MODEL, api_key=ACME, base_url=server.base_url, organization="org-acme")
    [key] = llm.pool.keys
    assert (key.organization_id, key.project_id) == ("org-acme", "proj_acme")


def test_several_keys_are_owners_of_their_own(server: Server, provider: MockProvider) -> None:
    llm = ChatOpenAI(model=MODEL, api_key=[ACME, SecretStr(BIRCH)], base_url=server.base_url)
    for number in range(20):
        llm.invoke(f"{number}?")
    assert set(admitted(provider)) == {"acme-1", "birch-1"}


# A function


@pytest.mark.parametrize("is_async", [False, True])
def test_a_function_is_asked_before_each_request(
    server: Server, provider: MockProvider, is_async: bool
) -> None:
    keys = [ACME, BIRCH, BIRCH]
    llm = ChatOpenAI(model=MODEL, api_key=lambda: keys.pop(0), base_url=server.base_url)
    for _ in range(3):
        answer = asyncio.run(llm.ainvoke("Is it?")) if is_async else llm.invoke("Is it?")
        assert answer.response_metadata["keyfleet"]["owner"] == "default"
    assert admitted(provider) == {"acme-1": 1, "birch-1": 2}
    assert keys == []


def test_an_async_function(server: Server, provider: MockProvider) -> None:
    async def key() -> str:
        await asyncio.sleep(0)
        return BIRCH

    llm = ChatOpenAI(model=MODEL, api_key=key, base_url=server.base_url)
    asyncio.run(llm.ainvoke("Is it?"))
    assert admitted(provider) == {"birch-1": 1}
    with pytest.raises(ValueError, match="Sync client is not available"):
        llm.invoke("Is it?")


def test_a_function_whose_key_was_refused_is_asked_again(
    server: Server, provider: MockProvider
) -> None:
    keys = ["sk-mock-nobody-1", ACME]
    llm = ChatOpenAI(model=MODEL, api_key=lambda: keys.pop(0), base_url=server.base_url)
    with pytest.raises(openai.AuthenticationError):
        llm.invoke("Is it?")
    llm.invoke("Is it?")
    assert admitted(provider) == {"acme-1": 1}


def test_concurrent_calls_use_what_the_function_returned_for_each(
    server: Server, provider: MockProvider
) -> None:
    keys = [ACME, BIRCH] * 50
    llm = ChatOpenAI(model=MODEL, api_key=keys.pop, base_url=server.base_url)
    llm.batch([f"{n}?" for n in range(100)])
    assert admitted(provider) == {"acme-1": 50, "birch-1": 50}


# The default pool


def test_the_default_pool_serves_models_that_name_none(
    server: Server, provider: MockProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keyfleet._default._pool", None)
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


# Made again of another's fields


def test_configurable_fields_keep_the_pool(pool: KeyPool) -> None:
    llm = ChatOpenAI(model=MODEL, pool=pool).configurable_fields(
        temperature=ConfigurableField(id="temperature")
    )
    answer = llm.with_config(configurable={"temperature": 0.1}).invoke("Is it?")
    assert answer.response_metadata["keyfleet"]
    prepared, _ = llm.prepare({"configurable": {"temperature": 0.1}})  # type: ignore[attr-defined]
    assert prepared.pool is pool
    assert prepared.temperature == 0.1


def test_a_key_may_be_configured_at_run_time(server: Server, provider: MockProvider) -> None:
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
    server: Server, provider: MockProvider
) -> None:
    place = {"base_url": server.base_url, "model": MODEL}
    ours = ChatOpenAI(api_key=SecretStr(ACME), **place)
    stock = langchain_openai.ChatOpenAI(api_key=SecretStr(BIRCH), **place)
    assert "keyfleet" not in stock.invoke("Is it?").response_metadata
    ours.invoke("Is it?")
    assert admitted(provider) == {"acme-1": 1, "birch-1": 1}
