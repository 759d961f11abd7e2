"""What makes one provider differ from another, as one object.

A `Dialect` is a table of routes, a writer of headers and a writer of errors; the buckets, faults
and clock beneath are the same for all. OpenAI's is in the package `openai`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from .call import Endpoint, MockCall, MockRequest
from .errors import MockError

if TYPE_CHECKING:
    from .accounts import AccountStates
    from .exchange import Exchange, Headers, Payload, StreamEvent


class StreamWriter(Protocol):
    """Writes an answer as a stream of events."""

    def events(self, exchange: Exchange) -> Iterator[StreamEvent]:
        """Write the whole stream."""
        ...

    def failure(self, exchange: Exchange, code: str, sequence: int) -> Iterator[StreamEvent]:
        """Write the error that ends a stream after `sequence` events."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class MockRoute:
    """An endpoint: how its request is read, charged and answered.

    Attributes:
        read: makes a call of a request; the second argument is the rest of the path.
        write: writes the body of an answer.
        perform: answers at admission instead, for what is neither generated nor metered.
        stream: writes streams; None = the endpoint has none.
        profile: the usual cost profile.
        rate_headers: rate-limit headers go with the answer.
        flaw_headers: they go with a 400 about parameters too.
        headers_at_completion: headers of an answer that is not streamed show the state after it.
        generates: the answer is made of tokens, which take time.
    """

    endpoint: Endpoint
    read: Callable[[MockRequest, str], MockCall | MockError]
    write: Callable[[Exchange], Payload]
    perform: Callable[[AccountStates, MockCall], Payload | MockError] | None = None
    stream: StreamWriter | None = None
    profile: str = "requests_only"
    rate_headers: bool = True
    flaw_headers: bool = True
    headers_at_completion: bool = False
    generates: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One provider's manner of speaking."""

    name: str
    routes: Mapping[Endpoint, MockRoute]
    find: Callable[[str, str], tuple[MockRoute, str] | None]
    headers: Callable[[Exchange], Headers]
    error_body: Callable[[MockError], Payload]
    no_route: Callable[[str, str], MockError]
    no_key: Callable[[], MockError]
