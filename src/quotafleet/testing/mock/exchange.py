"""One request and its answer, from admission to the last byte."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from .cost import PROFILES, CostProfile
from .errors import MockError
from .faults import MockFault
from .scripts import MockAnswer

if TYPE_CHECKING:
    from .accounts import KeyState, LimitChain
    from .call import MockCall
    from .dialect import MockRoute
    from .provider import MockProvider

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

    def __init__(self, provider: MockProvider, call: MockCall, number: int, now: float) -> None:
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
    def provider(self) -> MockProvider:
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
