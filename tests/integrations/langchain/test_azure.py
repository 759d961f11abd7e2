"""Azure's models over a pool: a key's resource, its header, the deployment in the path."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import langchain_openai
import pytest
from pydantic import SecretStr, ValidationError
from tests.transport.odd_server import OddServer, Seen, Send, odd_server, reply

from langchain_quotafleet import AzureChatOpenAI, AzureOpenAI, AzureOpenAIEmbeddings
from quotafleet import KeyPool, Limits, ModelLimits, Organization

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
    owners = [llm.invoke("Is it?").response_metadata["quotafleet"]["owner"] for _ in range(10)]
    owners.append(asyncio.run(llm.ainvoke("Is it?")).response_metadata["quotafleet"]["owner"])
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
    assert llm.invoke("Is it?").response_metadata["quotafleet"]["owner"] == "default"
    assert odd.seen[0].path.startswith("/openai/deployments/mini/chat/completions?")
    assert odd.seen[0].headers["api-key"] == "west0123456789abcdef"


@pytest.mark.parametrize("from_environment", [False, True])
def test_several_keys_go_to_the_endpoint_given(
    odd: OddServer, monkeypatch: pytest.MonkeyPatch, from_environment: bool
) -> None:
    keys: Any = ["west0123456789abcdef", "north0123456789abcdef"]
    place: Any = {"azure_endpoint": odd.url}
    if from_environment:
        monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", odd.url)
        place = {}
    llm = AzureChatOpenAI(azure_deployment="mini", api_version=VERSION, api_key=keys, **place)
    for _ in range(10):
        llm.invoke("Is it?")
    asyncio.run(llm.ainvoke("Is it?"))
    assert {seen.headers["api-key"] for seen in odd.seen} == set(keys)
    assert all(
        seen.path == f"/openai/deployments/mini/chat/completions?api-version={VERSION}"
        for seen in odd.seen
    )
    odd.answer = vectors
    embeddings = AzureOpenAIEmbeddings(
        model="emb", api_version=VERSION, api_key=keys, check_embedding_ctx_length=False, **place
    )
    assert embeddings.embed_documents(["abc"]) == [[3.0]]


def test_several_keys_need_an_endpoint() -> None:
    keys: Any = ["west0123456789abcdef", "north0123456789abcdef"]
    with pytest.raises(Exception, match="azure_endpoint"):
        AzureChatOpenAI(azure_deployment="mini", api_version=VERSION, api_key=keys)


def test_entra_tokens_are_left_to_the_sdk(odd: OddServer) -> None:
    llm = AzureChatOpenAI(
        azure_endpoint=odd.url,
        azure_deployment="mini",
        api_version=VERSION,
        azure_ad_token=SecretStr("token"),
    )
    assert "quotafleet" not in llm.invoke("Is it?").response_metadata
    assert odd.seen[0].headers["authorization"] == "Bearer token"


def test_a_pool_and_an_endpoint_contradict(azure_pool: KeyPool) -> None:
    with pytest.raises(ValidationError, match="azure_endpoint and pool contradict"):
        AzureChatOpenAI(
            pool=azure_pool, azure_endpoint="https://x.example", model="m", api_version=VERSION
        )


async def text(seen: Seen, send: Send) -> None:
    """Answer a completion."""
    answer = {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 1,
        "model": "davinci",
        "choices": [{"index": 0, "finish_reason": "stop", "text": "yes", "logprobs": None}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
    }
    await reply(send, json.dumps(answer).encode())


async def vectors(seen: Seen, send: Send) -> None:
    """Answer an embedding of each text: its length."""
    texts = json.loads(seen.body)["input"]
    data = [
        {"object": "embedding", "index": n, "embedding": [float(len(one))]}
        for n, one in enumerate(texts)
    ]
    usage = {"prompt_tokens": 3, "total_tokens": 3}
    answer = {"object": "list", "data": data, "model": "ada", "usage": usage}
    await reply(send, json.dumps(answer).encode())


def test_completions_go_to_each_keys_own_resource(odd: OddServer, azure_pool: KeyPool) -> None:
    odd.answer = text
    llm = AzureOpenAI(pool=azure_pool, azure_deployment="davinci", api_version=VERSION)
    assert isinstance(llm, langchain_openai.AzureOpenAI)
    told = [llm.generate(["Is it?"]).llm_output for _ in range(4)]
    told.append(asyncio.run(llm.agenerate(["Is it?"])).llm_output)
    owners = [(one or {})["quotafleet"][0]["owner"] for one in told]
    assert set(owners) == {"west", "north"}
    for owner, seen in zip(owners, odd.seen, strict=True):
        path = f"/{owner}/openai/deployments/davinci/completions?api-version={VERSION}"
        assert seen.path == path
        assert seen.headers["api-key"] == f"{owner}0123456789abcdef"


def test_embeddings_are_packed_by_the_deployments_limit(odd: OddServer) -> None:
    odd.answer = vectors
    pool = KeyPool(
        Organization(
            name=name,
            keys=(f"{name}0123456789abcdef",),
            base_url=f"{odd.url}/{name}/openai",
            provider="azure",
            limits=Limits(tpm=1_000_000),
            models={"emb": ModelLimits(limits=Limits(tpm=100))},
        )
        for name in ("west", "north")
    )
    embeddings = AzureOpenAIEmbeddings(
        pool=pool,
        azure_deployment="emb",
        api_version=VERSION,
        check_embedding_ctx_length=False,
    )
    assert isinstance(embeddings, langchain_openai.AzureOpenAIEmbeddings)
    texts = ["a" * (60 + n) for n in range(4)]  # 15 tokens each; a quarter of 100 is one of them
    for found in (
        embeddings.embed_documents(texts),
        asyncio.run(embeddings.aembed_documents(texts)),
    ):
        assert found == [[60.0], [61.0], [62.0], [63.0]]
    assert len(odd.seen) == 8
    assert all(
        f"/openai/deployments/emb/embeddings?api-version={VERSION}" in s.path for s in odd.seen
    )


def test_a_model_without_pool_or_key_is_stocks_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEYS", "sk-one-0123456789abcdef,sk-two-0123456789abcdef")
    for made in (AzureChatOpenAI, AzureOpenAI, AzureOpenAIEmbeddings):
        with pytest.raises(Exception, match=r"Missing credentials|api_key"):
            made(azure_endpoint="https://x.example", model="m", api_version=VERSION)
