"""`ChatOpenAI` and `AzureChatOpenAI` over a pool of keys."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, ClassVar, Final

import langchain_openai
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from ._answer_metadata import NAME, AnswerLog, atell, tell
from ._azure import OnAzure
from ._batch import PacedBatch
from ._drop_in import PooledModel
from ._stream_callbacks import AnnotatedStreams

#: Providers whose streams tell what they used, if asked.
_TELL_USAGE: Final = frozenset({"openai", "azure"})


class PooledChat(PacedBatch, AnnotatedStreams, PooledModel):
    """What the chat models add to stock's: hints to each request, facts to each answer."""

    _resource: ClassVar[str] = "chat.completions"

    @classmethod
    def _prepared(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        arguments = super()._prepared(arguments)
        pool = arguments.get("pool")
        if pool is not None and any(key.provider not in _TELL_USAGE for key in pool.keys):
            # Not every endpoint knows `stream_options`: stock leaves it out with a base URL too.
            arguments.setdefault("stream_usage", False)
        return arguments

    def _get_request_payload(
        self, input_: LanguageModelInput, *, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        payload = super()._get_request_payload(input_, stop=stop, **kwargs)  # type: ignore[misc] # of stock's
        return self._with_hints(payload)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        heard = AnswerLog()
        try:
            with heard:
                result = super()._generate(messages, stop, run_manager, **kwargs)  # type: ignore[misc] # of stock's
        finally:
            tell(run_manager, heard)
        return _marked(result, heard)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        heard = AnswerLog()
        try:
            with heard:
                result = await super()._agenerate(messages, stop, run_manager, **kwargs)  # type: ignore[misc] # of stock's
        finally:
            await atell(run_manager, heard)
        return _marked(result, heard)

    def _stream(
        self,
        *args: Any,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        chunks = super()._stream(*args, run_manager=run_manager, **kwargs)  # type: ignore[misc] # of stock's
        heard = AnswerLog()
        try:
            with heard:
                first = next(chunks, None)
        finally:
            tell(run_manager, heard)
        try:
            if first is not None:
                yield _marked_chunk(first, heard)
                yield from chunks
        finally:
            chunks.close()

    async def _astream(
        self,
        *args: Any,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        chunks = super()._astream(*args, run_manager=run_manager, **kwargs)  # type: ignore[misc] # of stock's
        heard = AnswerLog()
        try:
            with heard:
                first = await anext(chunks, None)
        finally:
            await atell(run_manager, heard)
        try:
            if first is not None:
                yield _marked_chunk(first, heard)
                async for chunk in chunks:
                    yield chunk
        finally:
            await chunks.aclose()


def _marked(result: ChatResult, heard: AnswerLog) -> ChatResult:
    if heard.facts:
        for generation in result.generations:
            _mark(generation, heard)
    return result


def _marked_chunk(chunk: ChatGenerationChunk, heard: AnswerLog) -> ChatGenerationChunk:
    if heard.facts:
        _mark(chunk, heard)
    return chunk


def _mark(generation: ChatGeneration, heard: AnswerLog) -> None:
    generation.message.response_metadata[NAME] = dict(heard.facts[-1])


class ChatOpenAI(PooledChat, langchain_openai.ChatOpenAI):
    """`langchain_openai.ChatOpenAI` over a pool of keys; all of it works as before.

    Args:
        pool: whose keys are used. Without it: the pool of `api_key` (one key, a list of keys, or
            a function that returns one), else the default pool (`QUOTAFLEET_CONFIG`,
            ``quotafleet.toml``, `OPENAI_API_KEYS`), else that of `OPENAI_API_KEY`.
        priority: ``"interactive"``, ``"normal"`` or ``"batch"``.
        wait_timeout: seconds that an attempt may wait for headroom; ``None`` = as the pool says.
        deadline_after: seconds after which a call as a whole is of no use.
        tenant: on whose behalf calls are made; tenants that wait get equal shares of a model.

    `max_retries` bounds the pool's attempts, `timeout` each of them. Answers tell in
    ``response_metadata["quotafleet"]`` which key answered and what it took.

    Raises:
        ConfigError: there is no key, or a pool and another argument contradict each other.
    """


class AzureChatOpenAI(OnAzure, PooledChat, langchain_openai.AzureChatOpenAI):
    """`langchain_openai.AzureChatOpenAI` over a pool of keys.

    Each resource is an organization with ``provider="azure"`` and its own `base_url`
    (``https://NAME.openai.azure.com/openai``); a deployment has the same name in all of them.

    Args:
        pool: whose keys are used; ``None`` = the pool of `api_key`.
        priority: as for `ChatOpenAI`.
        wait_timeout: as for `ChatOpenAI`.
    """
