"""`OpenAIEmbeddings` and `AzureOpenAIEmbeddings` over a pool of keys."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, ClassVar, Final, Self, cast

import langchain_openai
import openai
from openai.resources import AsyncEmbeddings, Embeddings
from openai.types import CreateEmbeddingResponse
from openai.types.create_embedding_response import Usage
from pydantic import model_validator

from quotafleet import ConfigError, KeyPool, TooLarge

from ._answer_metadata import AnswerLog
from ._azure import OnAzure
from ._drop_in import PooledModel
from ._embedding_batches import budget, halves, packed

#: Pieces of one `create` that are under way at a time: the pool says when each may go.
_AT_ONCE: Final = 64


class PooledVectors(PooledModel):
    """What the embedding models add to stock's: hints to each request, packing of the texts."""

    _resource: ClassVar[str] = "embeddings"

    @property
    def _invocation_params(self) -> dict[str, Any]:
        return self._with_hints(super()._invocation_params)  # type: ignore[misc] # of stock's

    @model_validator(mode="after")
    def _pack_quotafleet(self) -> Self:
        """Let the clients split what is too much for an owner."""
        pool, llm = self.pool, cast(Any, self)
        if pool is not None:
            deployment = llm.deployment if isinstance(self, OnAzure) else None
            if isinstance(llm.client, Embeddings):
                llm.client = PackedEmbeddings(llm.client._client, pool, deployment)
            if isinstance(llm.async_client, AsyncEmbeddings):
                llm.async_client = AsyncPackedEmbeddings(llm.async_client._client, pool, deployment)
        return self


class OpenAIEmbeddings(PooledVectors, langchain_openai.OpenAIEmbeddings):
    """`langchain_openai.OpenAIEmbeddings` over a pool of keys.

    `chunk_size` texts go into one request as before, but no more than the smallest owner's token
    limit bears: the rest goes into further ones, which `aembed_documents` sends side by side.

    Args:
        pool: as for `ChatOpenAI`.
        priority: as for `ChatOpenAI`.
        wait_timeout: as for `ChatOpenAI`.
    """


class AzureOpenAIEmbeddings(OnAzure, PooledVectors, langchain_openai.AzureOpenAIEmbeddings):
    """`langchain_openai.AzureOpenAIEmbeddings` over a pool of keys.

    Resources are as for `AzureChatOpenAI`, requests as for `OpenAIEmbeddings`.

    Args:
        pool: as for `AzureChatOpenAI`.
        priority: as for `ChatOpenAI`.
        wait_timeout: as for `ChatOpenAI`.
    """


class PackedEmbeddings(Embeddings):
    """The SDK's resource, with a `create` that makes several requests of what is too large."""

    def __init__(self, client: openai.OpenAI, pool: KeyPool, deployment: str | None = None) -> None:
        super().__init__(client)
        self._pool = pool
        #: What stands for the model in the pool's limits, where that is not the model's name.
        self._deployment = deployment

    def create(self, *, input: Any, model: Any, **options: Any) -> CreateEmbeddingResponse:
        """Create embeddings, in the order of `input`."""
        pieces = _pieces(input, self._pool, self._deployment or model)
        return _joined([self._one(piece, model, options) for piece in pieces])

    def _one(self, piece: Any, model: Any, options: dict[str, Any]) -> CreateEmbeddingResponse:
        try:
            with AnswerLog():
                return super().create(input=piece, model=model, **options)
        except openai.RateLimitError as error:
            if not _can_be_halved(piece, error):
                raise
        return _joined([self._one(half, model, options) for half in halves(piece)])


class AsyncPackedEmbeddings(AsyncEmbeddings):
    """The SDK's resource, with a `create` that makes several requests of what is too large."""

    def __init__(
        self, client: openai.AsyncOpenAI, pool: KeyPool, deployment: str | None = None
    ) -> None:
        super().__init__(client)
        self._pool = pool
        #: What stands for the model in the pool's limits, where that is not the model's name.
        self._deployment = deployment

    async def create(self, *, input: Any, model: Any, **options: Any) -> CreateEmbeddingResponse:
        """Create embeddings, in the order of `input`, with several requests side by side."""
        pieces = _pieces(input, self._pool, self._deployment or model)
        turn = asyncio.Semaphore(_AT_ONCE)

        async def one(piece: Any) -> CreateEmbeddingResponse:
            async with turn:
                return await self._one(piece, model, options)

        return _joined(await _all([one(piece) for piece in pieces]))

    async def _one(
        self, piece: Any, model: Any, options: dict[str, Any]
    ) -> CreateEmbeddingResponse:
        try:
            with AnswerLog():
                return await super().create(input=piece, model=model, **options)
        except openai.RateLimitError as error:
            if not _can_be_halved(piece, error):
                raise
        return _joined([await self._one(half, model, options) for half in halves(piece)])


async def _all(
    work: list[Coroutine[Any, Any, CreateEmbeddingResponse]],
) -> list[CreateEmbeddingResponse]:
    """Await all; the first that fails ends the others, and its own error is raised."""
    if len(work) == 1:
        return [await work[0]]
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _can_be_halved(piece: Any, error: openai.RateLimitError) -> bool:
    """Whether a piece was larger than any owner's whole limit, and holds several texts.

    It happens only while limits aren't known: OpenAI says so with the same code as for a rate
    limit, so the pool's own refusal is what is looked at, and the provider's text.
    """
    told = error.code == TooLarge.code or "Request too large" in str(error)
    return told and isinstance(piece, list) and len(piece) > 1 and _has_texts(piece)


def _pieces(texts: Any, pool: KeyPool, model: str) -> Sequence[Any]:
    if not isinstance(texts, list) or len(texts) < 2 or not _has_texts(texts):
        return [texts]
    try:
        return list(packed(texts, budget(pool, model)))
    except ConfigError:  # no key may be used for the model: the transport answers that
        return [texts]


def _has_texts(texts: list[Any]) -> bool:
    """Whether a list is one of texts; a list of ints is one text, as token ids."""
    return isinstance(texts[0], (str, list))


def _joined(answers: list[CreateEmbeddingResponse]) -> CreateEmbeddingResponse:
    """Return several answers as one: embeddings in order, usage added up."""
    first = answers[0]
    if len(answers) > 1:
        for answer in answers[1:]:
            first.data.extend(answer.data)
            _add_usage(first, answer)
        for place, embedding in enumerate(first.data):
            embedding.index = place
    return first


def _add_usage(first: CreateEmbeddingResponse, other: CreateEmbeddingResponse) -> None:
    """Add up what two answers used; compatible servers may not tell it."""
    total, used = _usage(first), _usage(other)
    if total is not None and used is not None:
        total.prompt_tokens += used.prompt_tokens
        total.total_tokens += used.total_tokens


def _usage(answer: CreateEmbeddingResponse) -> Usage | None:
    return getattr(answer, "usage", None)
