"""What any LangChain model does, and what its answers and errors mean to a pool."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Final

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableParallel, RunnableSequence

from quotafleet import Usage
from quotafleet.outcomes import NOTHING, Kind, Observation, Outcome
from quotafleet.protocols import Provider


def outcome_of(error: Exception, provider: Provider) -> tuple[Outcome, Observation] | None:
    """Return what a model's error means; ``None`` = nothing that another attempt could mend.

    SDKs keep the answer in `response`, or its parts in `status_code` (`code` at Google) and
    `body`; some wrap the error that has them.
    """
    for one in _chain(error):
        status = _status(one)
        if status is not None:
            headers = _headers(getattr(one, "response", None))
            outcome = provider.read(status, headers, _body(one))
            return (outcome, provider.observe(status, headers)) if not outcome.ok else None
    for one in _chain(error):
        name = type(one).__name__
        if isinstance(one, TimeoutError) or "Timeout" in name:
            return Outcome(kind=Kind.TIMEOUT, charged=True, code=name), NOTHING
        if isinstance(one, ConnectionError) or "ConnectionError" in name or "ConnectError" in name:
            return Outcome(kind=Kind.NETWORK, charged=True, code=name), NOTHING
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    for holder, name in ((error, "status_code"), (response, "status_code"), (error, "code")):
        status = getattr(holder, name, None)
        if isinstance(status, int) and 400 <= status < 600:
            return status
    return None


def _headers(response: object) -> dict[str, str]:
    headers = getattr(response, "headers", None)
    if not isinstance(headers, Mapping):
        return {}
    return {str(name).lower(): str(value) for name, value in headers.items()}


def _body(error: BaseException) -> bytes:
    body = getattr(error, "body", None)
    if isinstance(body, Mapping):
        # OpenAI's SDK keeps what is below "error", Anthropic's the whole.
        return json.dumps(body if "error" in body else {"error": body}, default=str).encode()
    content = getattr(getattr(error, "response", None), "content", b"")
    return content if isinstance(content, bytes) else b""


def usage_of(messages: Sequence[BaseMessage]) -> Usage | None:
    """Return what an answer, or the pieces of one, used; ``None`` = it doesn't say."""
    told = [m.usage_metadata for m in messages if isinstance(m, AIMessage) and m.usage_metadata]
    if not told:
        return None
    return Usage(input_tokens=_sum(told, "input_tokens"), output_tokens=_sum(told, "output_tokens"))


def _sum(told: list[UsageMetadata], name: str) -> int:
    return sum(max(0, one.get(name) or 0) for one in told)  # type: ignore[call-overload] # a name of two


def observation_of(answer: ChatGeneration | None, provider: Provider) -> Observation:
    """Return what the headers of an answer say, where the model keeps them."""
    if answer is None:
        return NOTHING
    for holder in (answer.generation_info, answer.message.response_metadata):
        headers = (holder or {}).get("headers")
        if isinstance(headers, Mapping):
            return provider.observe(200, {str(n).lower(): str(v) for n, v in headers.items()})
    return NOTHING


def messages_of(result: ChatResult) -> list[BaseMessage]:
    """Return the answers of a result."""
    return [generation.message for generation in result.generations]


def input_tokens(messages: Sequence[BaseMessage]) -> int:
    """Estimate a prompt: a token for 4 bytes of text, and 4 around each message."""
    return sum(4 + len(str(message.text).encode()) // 4 for message in messages)


# Streams, also of models that have none


def chunks_of(
    model: BaseChatModel, messages: list[BaseMessage], stop: list[str] | None, **kwargs: Any
) -> Iterator[ChatGenerationChunk]:
    """Return a model's stream; its whole answer as one chunk where it has none or wants none."""
    if model._should_stream(async_api=False, **{**kwargs, "stream": True}):
        return iter(model._stream(messages, stop, **kwargs))
    return _whole(model._generate(messages, stop, **kwargs))


def achunks_of(
    model: BaseChatModel, messages: list[BaseMessage], stop: list[str] | None, **kwargs: Any
) -> AsyncIterator[ChatGenerationChunk]:
    """Do as `chunks_of`."""
    if model._should_stream(async_api=True, **{**kwargs, "stream": True}):
        return aiter(model._astream(messages, stop, **kwargs))

    async def whole() -> AsyncIterator[ChatGenerationChunk]:
        for chunk in _whole(await model._agenerate(messages, stop, **kwargs)):
            yield chunk

    return whole()


def _whole(result: ChatResult) -> Iterator[ChatGenerationChunk]:
    """Yield the first answer of a result, which is the one that stock returns."""
    for generation in result.generations[:1]:
        fields = generation.message.model_dump(exclude={"type"})
        fields["response_metadata"] = {
            **(result.llm_output or {}),
            **generation.message.response_metadata,
        }
        message = AIMessageChunk(**fields, chunk_position="last")
        yield ChatGenerationChunk(message=message, generation_info=generation.generation_info)


def close(chunks: object) -> None:
    """Close a stream, if it can be: a plain iterator can't."""
    if hasattr(chunks, "close"):
        chunks.close()


async def aclose(chunks: object) -> None:
    """Do as `close`."""
    if hasattr(chunks, "aclose"):
        await chunks.aclose()


# Bindings

#: What is bound for tracers only: stock takes it out of a call before a model sees it.
_TOLD: Final = ("ls_structured_output_format", "structured_output_format")


def told_apart(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Take out of `kwargs` what is for tracers only, and return it."""
    return {name: kwargs.pop(name) for name in _TOLD if name in kwargs}


def rebound(model: Any, made: Any) -> Any:
    """Return what was made of a chat model, over what was bound to it before."""
    chat, bound = bound_to(made)
    told_apart(bound)
    return chat.bind(**{**bound_to(model)[1], **bound})


def leaf_of(chain: Any) -> Any:
    """Return the model that begins a chain of `with_structured_output`."""
    if isinstance(chain, RunnableSequence):
        return leaf_of(chain.first)
    if isinstance(chain, RunnableParallel) and "raw" in chain.steps__:
        return leaf_of(chain.steps__["raw"])
    return chain


def with_leaf(chain: Any, leaf: Any) -> Any:
    """Return such a chain with another model at its beginning."""
    if isinstance(chain, RunnableSequence):
        return RunnableSequence(with_leaf(chain.first, leaf), *chain.steps[1:])
    if isinstance(chain, RunnableParallel) and "raw" in chain.steps__:
        steps = chain.steps__
        return RunnableParallel({**steps, "raw": with_leaf(steps["raw"], leaf)})
    return leaf


def bound_to(model: Any) -> tuple[Any, dict[str, Any]]:
    """Return the chat model under a binding (`bind_tools`), and what is bound to it."""
    bound: dict[str, Any] = {}
    while hasattr(model, "bound") and hasattr(model, "kwargs"):
        bound = {**model.kwargs, **bound}
        model = model.bound
    return model, bound
