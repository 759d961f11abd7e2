"""One request and its answer, and the tables by which a provider's API reads and writes them.

A `Dialect` is a table of routes, a writer of headers and a writer of errors; limits, faults and the
clock beneath are the same for all. The package `openai` has OpenAI's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from .accounts import AccountStates, KeyState, LimitChain
from .call import Endpoint, MockCall, MockRequest
from .cost import PROFILES, CostProfile
from .errors import MockError
from .faults import MockFault
from .scripts import MockAnswer
from .settings import MockSettings

Drop: TypeAlias = Literal["reset", "timeout", "truncate"]
Headers: TypeAlias = list[tuple[str, str]]
Levels: TypeAlias = tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """A body and its media type."""

    media_type: str
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEvent:
    """A piece of a streamed body, and the tokens of the answer that it carries."""

    data: bytes
    tokens: int = 0


class ExchangeHost(Protocol):
    """What an exchange needs of its provider."""

    seed: int
    settings: MockSettings
    dialect: Dialect
    accounts: AccountStates

    def settle(self, exchange: Exchange, output_tokens: int, *, aborted: bool) -> None:
        """Complete an admitted call."""
        ...


class Exchange:
    """What became of a request: refused, or admitted with a plan of the answer.

    The caller lets `latency_s` pass in its own time and then calls `finish`, or `abort` when the
    client went away. Headers and bodies are written only when asked for, so that a simulation
    which looks at neither does not pay for them.

    Attributes:
        status: HTTP status; 0 if no answer will come (`drop` says how the connection ends).
        problem: the error that was answered, or None.
        drop: how the connection breaks, or None; `hold_s` seconds pass before a "timeout" does.
        ttft_s, latency_s: seconds from admission to the first and to the last token.
        output_tokens: length of the answer.
        cost: tokens charged at admission.
        admitted_at: the instant at which it was decided.
        number: this is the how-many-th request of the provider, from 1.
    """

    __slots__ = (
        "_aborted",
        "_levels",
        "_produced",
        "_provider",
        "_result",
        "admitted_at",
        "answers",
        "call",
        "chain",
        "cost",
        "done",
        "drop",
        "fault",
        "final_levels",
        "hold_s",
        "key",
        "latency_s",
        "number",
        "output_tokens",
        "problem",
        "profile",
        "route",
        "status",
        "ttft_s",
    )

    def __init__(self, provider: ExchangeHost, call: MockCall, number: int, now: float) -> None:
        self._provider = provider
        self.call = call
        self.number = number
        self.admitted_at = now
        self.status = 200
        self.route: MockRoute | None = None
        self.key: KeyState | None = None
        self.chain: LimitChain | None = None
        self.profile: CostProfile = PROFILES["requests_only"]
        self.problem: MockError | None = None
        self.fault: MockFault | None = None
        self.drop: Drop | None = None
        self.hold_s = 0.0
        self.ttft_s = 0.0
        self.latency_s = 0.0
        self.output_tokens = 0
        self.cost = 0
        self.answers: tuple[MockAnswer, ...] = ()
        self.done = False
        self._levels: Levels = ()
        self.final_levels: Levels = ()
        self._produced = 0
        self._result: Payload | None = None

    def refuse(self, problem: MockError, levels: Levels = ()) -> None:
        """Make this an error answer."""
        self.problem = problem
        self.status = problem.status
        self._levels = levels
        self.done = True

    def admit(self, cost: int, levels: Levels) -> None:
        """Make this an admitted request; `levels` are those of the lane's shown buckets."""
        self.cost = cost
        self._levels = levels

    def resolve(self, result: Payload) -> None:
        """Fix the body of an answer that is not generated, such as the list of models."""
        self._result = result

    @property
    def ok(self) -> bool:
        """Whether an answer comes, and it is not an error."""
        return self.problem is None and self.drop != "reset"

    @property
    def streamed(self) -> bool:
        """Whether the answer is a stream of events."""
        return self.call.stream and self.ok and self.drop != "timeout"

    @property
    def levels(self) -> Levels:
        """The levels that headers show now: at completion or at admission, as the route does."""
        route = self.route
        late = route is not None and route.headers_at_completion and not self.call.stream
        return self.final_levels if late and self.final_levels else self._levels

    @property
    def provider(self) -> ExchangeHost:
        """The provider that this belongs to."""
        return self._provider

    @property
    def seed(self) -> str:
        """What the ids of this answer are drawn from."""
        return f"{self._provider.seed}:{self.number}"

    def headers(self) -> Headers:
        """Write the response headers: those at admission, until `finish` recomputed them."""
        return self._provider.dialect.headers(self)

    def body(self) -> Payload:
        """Write the whole body of an answer that is not streamed."""
        dialect = self._provider.dialect
        if self.problem is not None:
            return dialect.error_body(self.problem)
        if self._result is None:
            assert self.route is not None
            self._result = self.route.write(self)
        return self._result

    def events(self) -> Iterator[StreamEvent]:
        """Write the streamed body piece by piece, and break it where a fault says so."""
        route, fault = self.route, self.fault
        assert route is not None
        assert route.stream is not None
        pieces = 0
        for sequence, event in enumerate(route.stream.events(self)):
            if fault is not None and fault.breaks_stream and pieces >= fault.after_chunks:
                if fault.action == "stream_error":
                    yield from route.stream.failure(self, fault.code or "server_error", sequence)
                return
            yield event
            pieces += event.tokens > 0

    def produced(self, tokens: int) -> None:
        """Note that `tokens` more of the answer were generated."""
        self._produced += tokens

    def finish(self) -> Exchange:
        """Complete the call: settle what it really cost. Doing so twice counts once."""
        if not self.done:
            self.done = True
            self._provider.settle(self, self.output_tokens, aborted=False)
        return self

    def abort(self, produced: int | None = None) -> None:
        """End the call because the client left; what was generated until then is charged."""
        if not self.done:
            self.done = True
            self.output_tokens = self._produced if produced is None else produced
            self._provider.settle(self, self.output_tokens, aborted=True)


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
