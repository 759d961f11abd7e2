"""What LiteLLM's objects tell of an answer: headers, usage, and what a failure meant.

LiteLLM keeps the provider's headers in places of its own (measured on 1.106.2): on a response in
``_hidden_params["additional_headers"]`` with a prefix; on an exception in
``litellm_response_headers``, while ``exception.response.headers`` is empty and synthetic.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Final

from litellm import exceptions as errors

from quotafleet.outcomes import Kind, Outcome
from quotafleet.protocols import Provider
from quotafleet.usage import Usage

_PREFIX: Final = "llm_provider-"
_USAGE_EVENT: Final = b'"message_delta"'
#: Failures before a connection stood, by class name: httpx and aiohttp both occur.
_UNSENT: Final = frozenset(
    {
        "ConnectTimeout",
        "ProxyError",
        "ClientConnectorError",
        "ClientConnectorDNSError",
        "ConnectionRefusedError",
    }
)
_BROKEN: Final = frozenset(
    {
        "ReadError",
        "WriteError",
        "CloseError",
        "RemoteProtocolError",
        "ServerDisconnectedError",
        "ClientPayloadError",
        "ClientOSError",
        "ConnectionResetError",
        "APIConnectionError",
    }
)
#: aiohttp's transport takes a connection that was reset for one that never stood.
_AMBIGUOUS: Final = "ConnectError"
_LATE: Final = frozenset({"ReadTimeout", "WriteTimeout", "APITimeoutError", "Timeout"})


def headers_of(response: object, kwargs: Mapping[str, object] | None = None) -> dict[str, str]:
    """Return the provider's headers of a success, names in lower case; empty = none known."""
    found = _unprefixed(_hidden(response, "additional_headers"))
    if found:
        return found
    for place in (
        getattr(response, "_response_headers", None),
        (kwargs or {}).get("response_headers"),
    ):
        found = _plain(place)
        if found:
            return found
    return {}


def from_cache(response: object, kwargs: Mapping[str, object] | None = None) -> bool:
    """Whether LiteLLM's response cache answered: nothing was sent."""
    told = kwargs or {}
    logged = told.get("standard_logging_object")
    hidden = getattr(response, "_hidden_params", None)
    return (
        _hidden(response, "cache_hit") is True
        # Before 1.106 a text completion of the cache has only the name of its place there.
        or isinstance(getattr(hidden, "cache_key", None), str)
        or told.get("cache_hit") is True
        or (isinstance(logged, Mapping) and logged.get("cache_hit") is True)
    )


def _hidden(response: object, name: str) -> object:
    """Return what LiteLLM notes on a response: in a dict, or for text completions an object."""
    hidden = getattr(response, "_hidden_params", None)
    return hidden.get(name) if isinstance(hidden, Mapping) else getattr(hidden, name, None)


def usage_of(response: object) -> Usage | None:
    """Return what a success used; ``None`` = not told.

    Zero tokens in and out are LiteLLM's way to say that a stream told no usage.
    """
    if isinstance(response, bytes):
        response = _last_event(response)
    if isinstance(response, Mapping):
        told = response.get("usage")
    else:
        told = getattr(response, "usage", None)
        if told is None:  # the event that completes a stream of Responses
            told = getattr(getattr(response, "response", None), "usage", None)
    read = _count(told, "prompt_tokens", "input_tokens")
    written = _count(told, "completion_tokens", "output_tokens")
    if not read and not written:
        return None
    return Usage(input_tokens=read, output_tokens=written)


def _last_event(chunk: bytes) -> object:
    """Return the event of Anthropic's streams that tells the usage; ``None`` = another one."""
    if _USAGE_EVENT not in chunk:
        return None
    try:
        return json.loads(chunk.rpartition(b"data:")[2])
    except ValueError:  # two events, or half a one: then the estimate stands
        return None


def failure_headers(error: BaseException | None) -> dict[str, str]:
    """Return the provider's headers of a failure; empty = no answer came, or it had none."""
    return _plain(getattr(error, "litellm_response_headers", None))


def outcome_of(provider: Provider, error: BaseException) -> Outcome | None:
    """Return what a failed attempt meant; ``None`` = nothing was sent."""
    headers = failure_headers(error)
    if not headers:
        told = _without_answer(error)
        if told is not None:
            return told
        if isinstance(error, errors.BadRequestError):
            return None  # LiteLLM's own check of the parameters
    status = getattr(error, "status_code", None)
    if not isinstance(status, int) or status < 400:
        return Outcome(kind=Kind.CANCELLED, charged=True, code=type(error).__name__)
    return provider.read(status, headers, _body(error))


def _without_answer(error: BaseException) -> Outcome | None:
    """Return what the transport's exception behind an error means; ``None`` = there is none."""
    names = [type(cause).__name__ for cause in _causes(error)]
    unsent = next((name for name in names if name in _UNSENT), None)
    if unsent is None and _AMBIGUOUS in names and "ConnectionResetError" not in names:
        unsent = _AMBIGUOUS
    if unsent is not None:
        return Outcome(kind=Kind.NETWORK, code=unsent)
    if isinstance(error, errors.Timeout) or not _LATE.isdisjoint(names):
        return Outcome(kind=Kind.TIMEOUT, charged=True, code=type(error).__name__)
    if isinstance(error, errors.APIConnectionError) or not _BROKEN.isdisjoint(names):
        return Outcome(kind=Kind.NETWORK, charged=True, code=type(error).__name__)
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and what it came from, the outermost first."""
    found: BaseException | None = error
    for _ in range(12):
        if found is None:
            return
        yield found
        found = found.__cause__ or found.__context__


def _body(error: BaseException) -> bytes:
    """Return an error's body as the provider may have written it: its text, code and type."""
    for cause in _causes(error):
        body = getattr(cause, "body", None)
        if isinstance(body, Mapping):
            inner = body.get("error", body)
            return json.dumps({"error": inner}, default=str).encode()
        text = getattr(cause, "message", None) or str(cause)
        if isinstance(text, str) and text.lstrip().startswith(("{", "[")):
            return text.encode()
    told = {"message": str(getattr(error, "message", error))}
    return json.dumps({"error": told}).encode()


def _count(told: object, *names: str) -> int:
    for name in names:
        value = told.get(name) if isinstance(told, Mapping) else getattr(told, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return 0


def _unprefixed(headers: object) -> dict[str, str]:
    if not isinstance(headers, Mapping):
        return {}
    return {
        str(name)[len(_PREFIX) :].lower(): str(value)
        for name, value in headers.items()
        if str(name).startswith(_PREFIX)
    }


def _plain(headers: object) -> dict[str, str]:
    if not isinstance(headers, Mapping):  # httpx's headers are one too
        return {}
    return {str(name).lower(): str(value) for name, value in headers.items()}
