"""How bodies travel: JSON, server-sent events, error objects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from .._json import JsonObject, dump
from ..errors import FIXED, Problem
from ..exchange import Event, Payload

JSON: Final = "application/json"
DONE: Final = Event(data=b"data: [DONE]\n\n")


def sse(data: JsonObject, tokens: int = 0, *, event: str | None = None) -> Event:
    """Write a server-sent event."""
    name = f"event: {event}\n".encode() if event is not None else b""
    return Event(data=b"%bdata: %b\n\n" % (name, dump(data)), tokens=tokens)


def error_object(problem: Problem) -> JsonObject:
    """Write the four fields of an error."""
    return {
        "message": problem.message,
        "type": problem.type,
        "param": problem.param,
        "code": problem.code,
    }


def error_body(problem: Problem) -> Payload:
    """Write an error answer."""
    return Payload(media_type=JSON, data=dump({"error": error_object(problem)}))


def late_problem(code: str) -> Problem:
    """Return the error that a stream breaks off with."""
    if code in FIXED:
        return FIXED[code]()
    return Problem(
        status=200,
        type="tokens" if code == "rate_limit_exceeded" else "server_error",
        code=code,
        message=f"The stream was broken off: {code}.",
        reason=code,
    )


def stream_failure(code: str) -> Iterator[Event]:
    """Write the error event of Chat Completions; nothing follows it, not even `[DONE]`."""
    yield sse({"error": error_object(late_problem(code))})
