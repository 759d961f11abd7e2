"""`OpenAI` and `AzureOpenAI`, the completion models, over a pool of keys."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, ClassVar

import langchain_openai
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.outputs import GenerationChunk, LLMResult

from ._answer_metadata import NAME, AnswerLog, atell, tell
from ._azure import OnAzure
from ._drop_in import PooledModel


class PooledCompletion(PooledModel):
    """What the completion models add to stock's: hints to each request, facts to each answer."""

    _resource: ClassVar[str] = "completions"

    @property
    def _invocation_params(self) -> dict[str, Any]:
        return self._with_hints(dict(super()._invocation_params))  # type: ignore[misc] # of stock's

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        heard = AnswerLog()
        try:
            with heard:
                result = super()._generate(prompts, stop, run_manager, **kwargs)  # type: ignore[misc] # of stock's
        finally:
            tell(run_manager, heard)
        return _marked(result, heard)

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        heard = AnswerLog()
        try:
            with heard:
                result = await super()._agenerate(prompts, stop, run_manager, **kwargs)  # type: ignore[misc] # of stock's
        finally:
            await atell(run_manager, heard)
        return _marked(result, heard)

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        chunks: Any = super()._stream(prompt, stop, run_manager, **kwargs)  # type: ignore[misc] # of stock's
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
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        chunks: Any = super()._astream(prompt, stop, run_manager, **kwargs)  # type: ignore[misc] # of stock's
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


class OpenAI(PooledCompletion, langchain_openai.OpenAI):
    """`langchain_openai.OpenAI` over a pool of keys.

    A call may make several requests, one for each `batch_size` prompts, so
    ``llm_output["quotafleet"]`` is a list with one entry for each request.

    Args:
        pool: as for `ChatOpenAI`.
        priority: as for `ChatOpenAI`.
        wait_timeout: as for `ChatOpenAI`.
    """


class AzureOpenAI(OnAzure, PooledCompletion, langchain_openai.AzureOpenAI):
    """`langchain_openai.AzureOpenAI` over a pool of keys; resources as for `AzureChatOpenAI`.

    Args:
        pool: as for `AzureChatOpenAI`.
        priority: as for `ChatOpenAI`.
        wait_timeout: as for `ChatOpenAI`.
    """


def _marked(result: LLMResult, heard: AnswerLog) -> LLMResult:
    if heard.facts:
        result.llm_output = {**(result.llm_output or {}), NAME: heard.facts}
    return result


def _marked_chunk(chunk: GenerationChunk, heard: AnswerLog) -> GenerationChunk:
    if heard.facts:
        chunk.generation_info = {**(chunk.generation_info or {}), NAME: heard.facts[-1]}
    return chunk
