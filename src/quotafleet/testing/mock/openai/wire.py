"""How bodies travel: JSON, server-sent events, error objects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from .._json import JsonObject, dump
from ..errors import FIXED, MockError
from ..exchange import Payload, StreamEvent

JSON: Final = "application/json"
DONE: Final = StreamEvent(data=b"data: [DONE]\n\n")


def sse(data: JsonObject, tokens: int = 0, *, event: str | None = None) -> StreamEvent:
    """Write a server-sent event."""
    name = f"event: {event}\n".encode() if event is not None else b""
    return StreamEvent(data=b"%bdata: %b\n\n" % (name, dump(data)), tokens=tokens)


def error_object(problem: MockError) -> JsonObject:
    """Write the four fields of an error."""
    return {
        "message": problem.message,
        "type": problem.type,
        "param": problem.param,
        "code": problem.code,
    }


def error_body(problem: MockError) -> Payload:
    """Write an error answer."""
    return Payload(media_type=JSON, data=dump(problem.body or {"error": error_object(problem)}))


def late_problem(code: str) -> MockError:
    """Return the error that a stream breaks off with."""
    if code in FIXED:
        return FIXED[code]()
    return MockError(
        status=200,
        type="tokens" if code == "rate_limit_exceeded" else "server_error",
        code=code,
        message=f"The stream was broken off: {code}.",
        reason=code,
    )


def stream_failure(code: str) -> Iterator[StreamEvent]:
    """Write the error event of Chat Completions; nothing follows it, not even `[DONE]`."""
    yield sse({"error": error_object(late_problem(code))})
