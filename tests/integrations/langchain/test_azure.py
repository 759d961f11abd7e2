"""`AzureChatOpenAI` over a pool: a key's resource, its header, the deployment in the path."""

import asyncio
from collections.abc import Iterator
from typing import Any

import langchain_openai
import pytest
from pydantic import SecretStr, ValidationError
from tests.transport.odd_server import OddServer, odd_server

from keyfleet import KeyPool, Organization
from langchain_keyfleet import AzureChatOpenAI

VERSION = "2024-10-21"


@pytest.fixture
def odd() -> Iterator[OddServer]:
    with odd_server() as server:
        yield server


@pytest.fixture
def azure_pool(odd: OddServer) -> KeyPool:
    resources = [
        Organization(
            name=name,
            keys=(f"{name}0123456789abcdef",),
            base_url=f"{odd.url}/{name}/openai",
            provider="azure",
        )
        for name in ("west", "north")
    ]
    return KeyPool(resources, strategy="round-robin")


@pytest.mark.parametrize("arguments", [{"azure_deployment": "mini"}, {"model": "mini"}], ids=str)
def test_requests_go_to_each_keys_own_resource(
    odd: OddServer, azure_pool: KeyPool, arguments: Any
) -> None:
    llm = AzureChatOpenAI(pool=azure_pool, api_version=VERSION, **arguments)
    assert isinstance(llm, langchain_openai.AzureChatOpenAI)
    owners = [llm.invoke("Is it?").response_metadata["keyfleet"]["owner"] for _ in range(10)]
    owners.append(asyncio.run(llm.ainvoke("Is it?")).response_metadata["keyfleet"]["owner"])
    assert set(owners) == {"west", "north"}
    for owner, seen in zip(owners, odd.seen, strict=True):
        path = f"/{owner}/openai/deployments/mini/chat/completions?api-version={VERSION}"
        assert seen.path == path
        assert seen.headers["api-key"] == f"{owner}0123456789abcdef"
        assert "authorization" not in seen.headers
    assert {scope.family for scope in azure_pool.status().scopes} == {"mini"}


def test_one_key_is_a_pool_of_one(odd: OddServer) -> None:
    llm = AzureChatOpenAI(
        azure_endpoint=odd.url,
        azure_deployment="mini",
        api_version=VERSION,
        api_key=SecretStr("west0123456789abcdef"),
    )
    assert llm.invoke("Is it?").response_metadata["keyfleet"]["owner"] == "default"
    assert odd.seen[0].path.startswith("/openai/deployments/mini/chat/completions?")
    assert odd.seen[0].headers["api-key"] == "west0123456789abcdef"


def test_entra_tokens_are_left_to_the_sdk(odd: OddServer) -> None:
    llm = AzureChatOpenAI(
        azure_endpoint=odd.url,
        azure_deployment="mini",
        api_version=VERSION,
        azure_ad_token=SecretStr("token"),
    )
    assert "keyfleet" not in llm.invoke("Is it?").response_metadata
    assert odd.seen[0].headers["authorization"] == "Bearer token"


def test_a_pool_and_an_endpoint_contradict(azure_pool: KeyPool) -> None:
    with pytest.raises(ValidationError, match="azure_endpoint and pool contradict"):
        AzureChatOpenAI(
            pool=azure_pool, azure_endpoint="https://x.example", model="m", api_version=VERSION
        )
