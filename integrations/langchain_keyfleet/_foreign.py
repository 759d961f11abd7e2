"""What the answers and errors of any LangChain model mean to a pool."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult

from keyfleet import Usage
from keyfleet._outcome import NOTHING, Kind, Observation, Outcome
from keyfleet._protocols import Provider


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


def observation_of(answer: ChatGeneration, provider: Provider) -> Observation:
    """Return what the headers of an answer say, where the model keeps them."""
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


def bound_to(model: Any) -> tuple[Any, dict[str, Any]]:
    """Return the chat model under a binding (`bind_tools`), and what is bound to it."""
    bound: dict[str, Any] = {}
    while hasattr(model, "bound") and hasattr(model, "kwargs"):
        bound = {**model.kwargs, **bound}
        model = model.bound
    return model, bound
